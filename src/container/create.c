/* SPDX-License-Identifier: Apache-2.0 */
/*
 * create.c - a container comes to be, on the runtime's side.
 *
 * Everything that can be found wrong without changing the host comes first. Then, in an order in which a SIGKILL at any point
 * leaves nothing that the state does not name: the ID is taken, what will be made is written down, the process is made, and
 * while it makes its namespaces and mounts, its cgroups are made here. Its number is on record before it may go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/hooks.h"
#include "container/idmap.h"
#include "container/launch.h"
#include "container/log.h"
#include "container/mount.h"

/* ---- before anything changes ---- */

static int load(struct launch *l, struct error *err)
{
	const char *bundle = l->options->bundle ? l->options->bundle : ".";
	const struct container_box *box = l->options->box;
	char path[PATH_MAX];

	if (!realpath(bundle, l->state.bundle))
		return error_errno(err, -errno, "--bundle: can't open %s", bundle);
	if (snprintf(path, sizeof(path), "%s/config.json", l->state.bundle) >= (int)sizeof(path))
		return error_errno(err, -ENAMETOOLONG, "--bundle");
	int rc = 0;

	if (box) {
		l->text = strdup(box->config);
		l->size = strlen(box->config);
		rc = l->text ? 0 : error_errno(err, -ENOMEM, "the configuration");
	} else {
		rc = oci_file_read(AT_FDCWD, path, &l->text, &l->size, err);
	}
	if (rc)
		return rc;
	/* The text is launch_fini's to free. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
	rc = oci_config_parse(&l->config, l->text, l->size, err);
	if (rc)
		return box ? rc : error_prefix(err, rc, "%s", path);
	const char *root = l->config.root_path;

	if (snprintf(path, sizeof(path), "%s%s%s", root[0] == '/' ? "" : l->state.bundle, root[0] == '/' ? "" : "/",
		     root) >= (int)sizeof(path) ||
	    !realpath(path, l->state.rootfs))
		return error_errno(err, -errno, "root.path: can't open %s", path);
	return 0;
}

static int open_namespaces(struct launch *l, struct error *err)
{
	for (int type = 0; type < NS_COUNT; type++) {
		struct oci_namespace *ns = &l->config.namespaces[type];

		if (!ns->path)
			continue;
		ns->fd = open(ns->path, O_RDONLY | O_CLOEXEC);
		if (ns->fd < 0)
			return error_errno(err, -errno, "linux.namespaces: can't open %s", ns->path);
	}
	return 0;
}

/* The root as a mount that the child will attach: it may lose the right to reach the path. */
static int open_root(struct launch *l, struct error *err)
{
	l->child.root = open_tree(AT_FDCWD, l->state.rootfs, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (l->child.root < 0 && errno != EPERM)
		return error_errno(err, -errno, "root.path: can't open %s", l->state.rootfs);
	if (l->options->box && l->options->box->upper) {
		l->child.upper = open_tree(AT_FDCWD, l->options->box->upper, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
		if (l->child.upper < 0 && errno != EPERM)
			return error_errno(err, -errno, "can't open %s", l->options->box->upper);
	}
	return mount_open_sources(&l->config, l->state.bundle, err);
}

/* ---- making ---- */

static int record(struct launch *l, struct error *err)
{
	struct state *s = &l->state;
	int rc = cgroup_find(&s->cgroup, err);

	if (!rc && !l->options->systemd)
		rc = cgroup_plan(&s->cgroup, l->config.cgroups_path, l->options->id, err);
	return rc ? rc : state_write(s, l->text, l->size, err);
}

static int make_start(struct launch *l, struct error *err)
{
	if (mkfifoat(l->state.dir, "start", 0600))
		return error_errno(err, -errno, "can't make the FIFO of the container's state");
	l->child.start = openat(l->state.dir, "start", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return l->child.start < 0 ? error_errno(err, -errno, "can't open the FIFO of the container's state") : 0;
}

/* What is made by clone itself; the rest is made by the child, at the same time as the cgroups. */
static uint64_t clone_flags(const struct oci_config *config)
{
	uint64_t flags = 0;

	if (config->namespaces[NS_PID].given && !config->namespaces[NS_PID].path)
		flags |= CLONE_NEWPID;
	if (config->namespaces[NS_USER].given && !config->namespaces[NS_USER].path)
		flags |= CLONE_NEWUSER;
	return flags;
}

/* A PID namespace is joined by the parent of who shall be in it; hooks must not be, so it is left again. */
static int spawn(struct launch *l, struct error *err)
{
	int pid_ns = l->config.namespaces[NS_PID].fd, own = -1;

	if (pid_ns >= 0) {
		own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
		if (own < 0 || setns(pid_ns, CLONE_NEWPID)) {
			error_errno(err, -errno, "linux.namespaces: can't join %s", l->config.namespaces[NS_PID].path);
			if (own >= 0)
				close(own);
			return -EPERM;
		}
	}
	int rc = launch_spawn(l, clone_flags(&l->config), err);

	if (own >= 0) {
		if (setns(own, CLONE_NEWPID) && !rc)
			rc = error_errno(err, -errno, "can't leave the PID namespace");
		close(own);
	}
	return rc;
}

/* Whoever sees the cgroup at the top of a namespace, and may write there, gets the rights to organize what is below
 * (runtime-spec, config-linux.md, "Cgroup ownership"). */
static int delegate(const struct launch *l, struct error *err)
{
	const struct oci_config *c = &l->config;
	const struct oci_namespace *ns = &c->namespaces[NS_CGROUP];
	bool writable = false;

	for (size_t i = 0; i < c->mount_count; i++) {
		const struct oci_mount *m = &c->mounts[i];

		writable |= m->type && (!strcmp(m->type, "cgroup") || !strcmp(m->type, "cgroup2")) &&
			    !(m->attributes.set & MOUNT_ATTR_RDONLY);
	}
	if (!ns->given || ns->path || !writable || c->namespaces[NS_USER].path)
		return 0;
	uint32_t uid = c->process.user.uid, gid = c->process.user.gid;

	return cgroup_delegate(&l->state.cgroup, idmap_host(&c->uids, uid), idmap_host(&c->gids, gid), err);
}

static int make_cgroups(struct launch *l, struct error *err)
{
	struct cgroup *cgroup = &l->state.cgroup;
	int fds[CGROUP_PLACES], rc;

	if (l->options->systemd)
		rc = cgroup_systemd_start(cgroup, l->config.cgroups_path, l->options->id, l->pid, &l->config.resources,
					  err);
	else
		rc = cgroup_create(cgroup, false, err);
	if (!rc && l->options->systemd)
		rc = state_write(&l->state, l->text, l->size, err);
	if (!rc)
		rc = cgroup_limit(cgroup, &l->config.resources, false, err);
	if (!rc)
		rc = delegate(l, err);
	if (rc)
		return rc;
	int count = cgroup_open_tasks(cgroup, fds, err);

	if (count < 0)
		return count;
	rc = sync_send_fds(l->sync, SYNC_CGROUP, fds, (unsigned)count);
	while (count)
		close(fds[--count]);
	/* When the child is gone, it said why, which is for launch_wait_ready to find. */
	return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
}

/* A hard limit can be raised only by the host's root, which the child is no more. It sets the limits themselves. */
static void raise_limits(const struct launch *l)
{
	for (size_t i = 0; i < l->config.process.rlimit_count; i++) {
		const struct oci_rlimit *wanted = &l->config.process.rlimits[i];
		struct rlimit limit;

		if (prlimit(l->pid, (enum __rlimit_resource)wanted->resource, NULL, &limit) ||
		    limit.rlim_max >= wanted->hard)
			continue;
		limit.rlim_max = wanted->hard;
		/* If this fails, the child's own try will say so. */
		prlimit(l->pid, (enum __rlimit_resource)wanted->resource, &limit, NULL);
	}
}

/* The files of the root, and of where its changes go, are the host's users'; inside they shall be those of the same numbers. */
static int map_root(struct launch *l, struct error *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/user", l->pid);
	int user = open(path, O_RDONLY | O_CLOEXEC);

	if (user < 0)
		return error_errno(err, -errno, "can't open %s", path);
	int rc = idmap_set(l->child.root, false, user, err);

	if (rc)
		error_prefix(err, rc, "%s", l->state.rootfs);
	if (!rc && l->child.upper >= 0) {
		rc = idmap_set(l->child.upper, false, user, err);
		if (rc)
			error_prefix(err, rc, "%s", l->options->box->upper);
	}
	close(user);
	return rc;
}

static int map_user(struct launch *l, struct error *err)
{
	if (!l->child.mapped)
		return 0;
	raise_limits(l);
	int rc = idmap_write(l->pid, &l->config.uids, &l->config.gids, err);

	if (!rc)
		rc = mount_idmap(&l->config, l->pid, err);
	if (!rc && l->options->box && l->options->box->idmap)
		rc = map_root(l, err);
	if (!rc && sync_send(l->sync, SYNC_MAPPED, 0, NULL, 0))
		rc = error_set(err, -EPIPE, "the container's process ended early");
	return rc;
}

static int make(struct launch *l, bool wait_for_start, struct error *err)
{
	int rc = record(l, err);

	if (!rc && wait_for_start)
		rc = make_start(l, err);
	if (!rc && !l->options->systemd)
		rc = cgroup_create(&l->state.cgroup, true, err);
	if (!rc && !l->options->systemd) {
		l->v2 = cgroup_open_v2(&l->state.cgroup, err);
		rc = l->v2 < -1 ? l->v2 : 0;
	}
	if (!rc)
		rc = spawn(l, err);
	if (!rc)
		rc = map_user(l, err);
	if (!rc)
		rc = make_cgroups(l, err);
	if (!rc)
		rc = launch_filter(l, err);
	if (!rc)
		rc = launch_wait_ready(l, err);
	if (!rc)
		rc = state_set_process(&l->state, l->pid, err);
	if (!rc && l->options->pid_file)
		rc = launch_pid_file(l->options->pid_file, l->pid, err);
	return rc;
}

/* Everything that was made goes again; what can't be removed is on record for `delete --force`. */
static void unmake(struct launch *l)
{
	struct error ignored;

	launch_abort(l);
	network_stop(&l->state);
	cgroup_kill(&l->state.cgroup, SIGKILL, &ignored);
	int rc = l->state.cgroup.scope[0] ? cgroup_systemd_stop(&l->state.cgroup, &ignored) : 0;

	if (!rc)
		rc = cgroup_remove(&l->state.cgroup, &ignored);
	if (!rc)
		rc = state_remove(&l->state, l->options->root, &ignored);
	if (rc)
		log_warn("%s", ignored.text);
}

static int prepare(struct launch *l, bool foreground, struct error *err)
{
	int rc = state_check_id(l->options->id, err);

	if (!rc)
		rc = load(l, err);
	if (!rc)
		rc = launch_console(l, foreground, err);
	if (!rc)
		rc = open_namespaces(l, err);
	if (!rc)
		rc = open_root(l, err);
	/* Nobody may look into this process, or its child, from a PID namespace that both are in. An unprivileged user's own
	 * rights to write the child's maps depend on the opposite. */
	if (!rc && !geteuid())
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	l->child.mapped = !rc && l->config.namespaces[NS_USER].given && !l->config.namespaces[NS_USER].path;
	if (!rc)
		rc = state_claim(&l->state, l->options->root, l->options->id, err);
	if (!rc && l->options->box) {
		rc = l->options->box->claimed(l->options->box->arg, l->state.dir, err);
		if (rc)
			state_remove(&l->state, l->options->root, NULL);
	}
	return rc;
}

static int start_hooks(struct launch *l, enum oci_hook_kind kind, const char *status, struct error *err)
{
	if (!l->config.hooks[kind].count)
		return 0;
	char *json = state_json(&l->state, status, l->config.annotations, err);
	int rc = json ? hooks_run(l->config.hooks, kind, json, err) : -ENOMEM;

	free(json);
	return rc;
}

int container_create(const struct container_launch *options, struct error *err)
{
	struct launch l;

	launch_init(&l, options);
	int rc = prepare(&l, false, err);

	if (!rc) {
		rc = make(&l, true, err);
		if (!rc)
			rc = launch_go(&l, false, err);
		if (rc)
			unmake(&l);
	}
	launch_fini(&l);
	return rc;
}

/* After the program has ended. */
static int finish(struct launch *l, struct error *err)
{
	network_stop(&l->state);
	int rc = cgroup_kill(&l->state.cgroup, SIGKILL, err);

	if (!rc && l->state.cgroup.scope[0])
		rc = cgroup_systemd_stop(&l->state.cgroup, err);
	if (!rc)
		rc = cgroup_remove(&l->state.cgroup, err);
	if (rc)
		return rc;
	struct error hook = { "" };

	/* "If any poststop hook fails, the runtime MUST log a warning, but the remaining [...] continues". */
	if (start_hooks(l, HOOK_POSTSTOP, "stopped", &hook))
		log_warn("%s", hook.text);
	return l->options->keep ? 0 : state_remove(&l->state, l->options->root, err);
}

static int run(struct launch *l, int *status, struct error *err)
{
	struct error hook = { "" };
	int rc = make(l, false, err);

	if (!rc)
		rc = network_wait(&l->network, err);
	if (!rc)
		rc = launch_go(l, true, err);
	if (rc) {
		unmake(l);
		return rc;
	}
	if (start_hooks(l, HOOK_POSTSTART, "running", &hook))
		log_warn("%s", hook.text);
	if (l->options->box)
		l->options->box->started(l->options->box->arg);
	if (l->options->detach)
		return 0;
	rc = launch_wait(l, status, err);
	return rc ? rc : finish(l, err);
}

int container_run(const struct container_launch *options, int *status, struct error *err)
{
	struct launch l;
	sigset_t all, old;

	launch_init(&l, options);
	*status = 0;
	/* The process must not end unseen, nor a signal meant for it end this call. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	int rc = prepare(&l, !options->detach, err);

	if (!rc)
		rc = run(&l, status, err);
	launch_fini(&l);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return rc;
}

int container_exit_status(int rc)
{
	return rc == -ENOENT ? 127 : rc == -EACCES || rc == -ENOEXEC || rc == -EPERM ? 126 : 1;
}
