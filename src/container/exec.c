/* SPDX-License-Identifier: Apache-2.0 */
/* exec.c - one more process in a container that runs. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "container/caps.h"
#include "container/dbus.h"
#include "container/launch.h"

/* ---- the process ---- */

/* "UID[:GID]" */
static int parse_user(const char *text, struct oci_user *user, struct error *err)
{
	char *end;
	unsigned long uid = strtoul(text, &end, 10), gid = user->gid;

	if (end != text && *end == ':')
		gid = strtoul(end + 1, &end, 10);
	if (end == text || *end || uid >= UINT32_MAX || gid >= UINT32_MAX || text[0] == '-')
		return error_set(err, -EINVAL, "--user: \"%.60s\" is no UID[:GID]", text);
	user->uid = (uint32_t)uid;
	user->gid = (uint32_t)gid;
	return 0;
}

static int add_caps(const char *const *names, struct oci_caps *caps, struct error *err)
{
	for (; names && *names; names++) {
		int number = caps_number(*names);

		if (number < 0)
			return error_set(err, -EINVAL, "--cap: \"%.60s\" is no capability", *names);
		caps->given = true;
		caps->bounding |= 1ull << number;
		caps->permitted |= 1ull << number;
		caps->effective |= 1ull << number;
	}
	return 0;
}

static int parse_groups(const char *const *texts, struct arena *arena, struct oci_user *user, struct error *err)
{
	size_t count = 0;

	while (texts && texts[count])
		count++;
	gid_t *groups = arena_alloc(arena, count + 1, sizeof(*groups));

	if (!groups)
		return error_errno(err, -ENOMEM, "--additional-gids");
	for (size_t i = 0; i < count; i++) {
		char *end;
		unsigned long gid = strtoul(texts[i], &end, 10);

		if (end == texts[i] || *end || gid >= UINT32_MAX)
			return error_set(err, -EINVAL, "--additional-gids: \"%.60s\" is no group's number", texts[i]);
		groups[i] = (gid_t)gid;
	}
	if (count) {
		user->groups = groups;
		user->group_count = count;
	}
	return 0;
}

/* Later entries win, so the new ones go behind. */
static const char *const *join_env(struct arena *arena, const char *const *a, const char *const *b)
{
	size_t n = 0, m = 0;

	while (a[n])
		n++;
	while (b && b[m])
		m++;
	const char **all = arena_alloc(arena, n + m + 1, sizeof(*all));

	if (all) {
		memcpy(all, a, n * sizeof(*all));
		memcpy(all + n, b, m * sizeof(*all));
	}
	return all;
}

/* The container's own process with what the command line says instead. */
static int make_process(const struct container_launch *o, struct oci_process *p, struct oci_config *config,
			struct error *err)
{
	*p = config->process;
	p->args = o->args;
	p->terminal = o->terminal;
	p->no_new_privileges |= o->no_new_privileges;
	/* Limits are of processes as they start; the first one's order of life is its own. */
	p->oom_score_adj.set = false;
	if (!o->args || !o->args[0])
		return error_set(err, -EINVAL, "exec needs a command, or --process");
	if (o->cwd)
		p->cwd = o->cwd;
	if (o->apparmor)
		p->apparmor_profile = o->apparmor;
	if (o->selinux)
		p->selinux_label = o->selinux;
	if (o->env)
		p->env = join_env(&config->arena, p->env, o->env);
	int rc = o->user ? parse_user(o->user, &p->user, err) : 0;

	if (!rc && !p->env)
		rc = error_errno(err, -ENOMEM, "--env");
	if (!rc)
		rc = parse_groups(o->groups, &config->arena, &p->user, err);
	return rc ? rc : add_caps(o->caps, &p->caps, err);
}

static int load_process(struct launch *l, struct oci_process *p, struct error *err)
{
	const struct container_launch *o = l->options;
	char *text;
	size_t size;

	if (!o->process_file)
		return make_process(o, p, &l->config, err);
	int rc = oci_file_read(AT_FDCWD, o->process_file, &text, &size, err);

	if (rc)
		return error_prefix(err, rc, "--process");
	rc = oci_process_parse(p, &l->config.arena, text, size, err);
	free(text);
	return rc ? error_prefix(err, rc, "--process: %s", o->process_file) : 0;
}

/* ---- the container ---- */

static int load(struct launch *l, struct error *err)
{
	int rc = state_load(&l->state, l->options->root, l->options->id, NULL, err);

	if (rc)
		return rc;
	enum state_status status = state_status(&l->state);

	if (status != STATE_RUNNING && status != STATE_CREATED)
		return error_set(err, status == STATE_STOPPED ? -ESRCH : -EBUSY, "cannot exec in a %s container",
				 state_status_name(status));
	l->child.init = state_open_process(&l->state);
	if (l->child.init < 0)
		return error_set(err, -ESRCH, "cannot exec in a stopped container");
	rc = oci_file_read(l->state.dir, "config.json", &l->text, &l->size, err);
	return rc ? rc : oci_config_parse(&l->config, l->text, l->size, err);
}

/* A PID namespace is for children; and an unprivileged user must first be in the user namespace that owns it. The caller is not
 * needed for anything outside after this. */
static int join_for_children(struct launch *l, struct error *err)
{
	const struct oci_namespace *namespaces = l->config.namespaces;

	for (int type = 0; type < NS_COUNT; type++)
		if (namespaces[type].given && type != NS_PID)
			l->child.join |= oci_namespace_flag((enum oci_namespace_type)type);
	if (geteuid() && namespaces[NS_USER].given) {
		if (setns(l->child.init, CLONE_NEWUSER))
			return error_errno(err, -errno, "can't join the container's user namespace");
		l->child.join &= ~CLONE_NEWUSER;
	}
	if (namespaces[NS_PID].given && setns(l->child.init, CLONE_NEWPID))
		return error_errno(err, -errno, "can't join the container's PID namespace");
	return 0;
}

static int make(struct launch *l, struct error *err)
{
	int fds[CGROUP_PLACES];
	int count = cgroup_open_tasks(&l->state.cgroup, fds, err), rc = count < 0 ? count : 0;
	struct dbus *bus = NULL;

	if (!rc && l->state.cgroup.scope[0] && geteuid()) {
		rc = dbus_open(&bus, err) ? error_prefix(err, -EIO, "--systemd-cgroup") : 0;
	} else if (!rc) {
		l->v2 = cgroup_open_v2_of(&l->state.cgroup, l->state.pid, err);
		rc = l->v2 < -1 ? l->v2 : 0;
	}
	if (!rc)
		rc = join_for_children(l, err);
	if (!rc)
		rc = launch_spawn(l, 0, err);
	if (!rc && bus)
		rc = cgroup_systemd_attach(bus, &l->state.cgroup, l->pid, err);
	dbus_close(bus);
	if (!rc)
		rc = sync_send_fds(l->sync, SYNC_CGROUP, fds, (unsigned)count);
	while (count > 0)
		close(fds[--count]);
	if (!rc)
		rc = launch_wait_ready(l, err);
	if (!rc && l->options->pid_file)
		rc = launch_pid_file(l->options->pid_file, l->pid, err);
	return rc ? rc : launch_go(l, true, err);
}

static int run(struct launch *l, struct oci_process *process, int *status, struct error *err)
{
	int rc = load(l, err);

	if (!rc)
		rc = load_process(l, process, err);
	l->child.process = process;
	if (!rc)
		rc = launch_console(l, !l->options->detach, err);
	/* The filter is made here, where there is no second process to do other things meanwhile. */
	if (!rc && l->config.seccomp.given)
		rc = oci_filter_compile(&l->config.seccomp, &l->child.filter, err);
	if (rc)
		return rc;
	/* From now on this process shares namespaces with the container, whose root could otherwise trace it. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	rc = make(l, err);
	if (rc) {
		launch_abort(l);
		return rc;
	}
	return l->options->detach ? 0 : launch_wait(l, status, err);
}

int container_exec(const struct container_launch *options, int *status, struct error *err)
{
	struct launch l;
	struct oci_process process = { 0 };
	sigset_t all, old;

	launch_init(&l, options);
	*status = 0;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	int rc = run(&l, &process, status, err);

	oci_filter_fini(&l.child.filter);
	launch_fini(&l);
	sigprocmask(SIG_SETMASK, &old, NULL);
	return rc;
}
