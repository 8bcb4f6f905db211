/* SPDX-License-Identifier: Apache-2.0 */
/*
 * become.c - from a process in its namespaces to the user's program. The order is what the kernel's rules leave:
 *
 * 1. The bounding set, and a filter when no_new_privs is off, need privileges, which 2 gives up.
 * 2. Groups, group, user; then the other capability sets, which a change of user would clear.
 * 3. no_new_privs after that, for it makes nothing of it fail; then a filter needs no privileges, and comes as late as it can, so that
 *    it need not allow what the runtime does.
 * 4. The program is looked for, so that its absence is an error of `create`, and the runtime is told.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/caps.h"
#include "container/child.h"
#include "container/hooks.h"
#include "container/idmap.h"
#include "container/init.h"
#include "container/log.h"

/* ---- the program ---- */

static const char *get(const char *const *env, const char *name)
{
	size_t size = strlen(name);

	for (; *env; env++)
		if (!strncmp(*env, name, size) && (*env)[size] == '=')
			return *env + size + 1;
	return NULL;
}

/* 0 for a file that this process may execute. */
static int check_program(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EACCES;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) ? -errno : 0;
}

int child_find_program(const char *name, const char *const *env, char **path)
{
	const char *list = get(env, "PATH");
	int rc = -ENOENT;

	*path = NULL;
	if (strchr(name, '/')) {
		rc = check_program(name);
		if (!rc)
			*path = strdup(name);
		return rc ? rc : *path ? 0 : -ENOMEM;
	}
	if (!list)
		list = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	for (const char *at = list; name[0];) {
		size_t size = strcspn(at, ":");
		char *candidate = malloc(size + strlen(name) + 3);

		if (!candidate)
			return -ENOMEM;
		sprintf(candidate, "%.*s%s%s", (int)size, at, size ? "/" : "./", name);
		int one = check_program(candidate);

		if (!one) {
			*path = candidate;
			return 0;
		}
		free(candidate);
		/* As a shell has it: a file that may not be run is worth more than none. */
		if (one == -EACCES)
			rc = one;
		if (!at[size])
			break;
		at += size + 1;
	}
	return rc;
}

/* ---- environment ---- */

/* HOME from the container's own /etc/passwd. */
static char *find_home(uid_t uid)
{
	FILE *file = fopen("/etc/passwd", "re");
	char line[1024], *home = NULL;

	while (file && !home && fgets(line, sizeof(line), file)) {
		char *fields[7] = { line }, *at = line;
		unsigned count = 1;

		line[strcspn(line, "\n")] = 0;
		while (count < 7 && (at = strchr(at, ':'))) {
			*at++ = 0;
			fields[count++] = at;
		}
		if (count >= 6 && fields[2][0] && strtoul(fields[2], NULL, 10) == uid)
			home = strdup(fields[5]);
	}
	if (file)
		fclose(file);
	return home;
}

/* The environment, with HOME where it lacks one, and LISTEN_PID where descriptors are handed on (sd_listen_fds(3)). */
static const char *const *make_environment(const struct child *c)
{
	const char *const *env = c->process->env;
	size_t count = 0;

	while (env[count])
		count++;
	const char **all = calloc(count + 3, sizeof(*all));

	if (!all)
		return env;
	for (size_t i = 0, at = 0; i < count; i++)
		if (strncmp(env[i], "LISTEN_PID=", 11) != 0 || !get(env, "LISTEN_FDS"))
			all[at++] = env[i];
	count = 0;
	while (all[count])
		count++;
	if (!get(env, "HOME")) {
		char *home = find_home(c->process->user.uid), *text = NULL;

		if (asprintf(&text, "HOME=%s", home && home[0] ? home : "/") > 0)
			all[count++] = text;
		free(home);
	}
	if (get(env, "LISTEN_FDS")) {
		char *text = NULL;

		if (asprintf(&text, "LISTEN_PID=%d", getpid()) > 0)
			all[count++] = text;
	}
	return all;
}

/* ---- identity ---- */

static int set_user(const struct child *c, struct error *err)
{
	const struct oci_user *user = &c->process->user;

	/* Where setgroups(2) was given up for the right to map a group, there are no groups to drop. */
	if (setgroups(user->group_count, user->groups) && (user->group_count || errno != EPERM))
		return error_errno(err, -errno, "process.user.additionalGids: can't set them");
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
		return error_errno(err, -errno, "prctl");
	if (setresgid(user->gid, user->gid, user->gid))
		return error_errno(err, -errno, "process.user.gid: can't become group %u", user->gid);
	if (setresuid(user->uid, user->uid, user->uid))
		return error_errno(err, -errno, "process.user.uid: can't become user %u", user->uid);
	prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
	/* Changing users makes a process nobody's to look at only when it lost something; this one holds host descriptors. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	umask(user->umask.set ? (mode_t)user->umask.value : 0022);
	return 0;
}

/* Twice: while there are privileges, to raise what must be raised; at the end, for a limit of 3 descriptors is none to work with. */
static int set_limits(const struct child *c, bool last, struct error *err)
{
	for (size_t i = 0; i < c->process->rlimit_count; i++) {
		const struct oci_rlimit *wanted = &c->process->rlimits[i];
		struct rlimit limit;

		if (getrlimit((enum __rlimit_resource)wanted->resource, &limit) ||
		    (!last && limit.rlim_max >= wanted->hard))
			continue;
		limit.rlim_max = wanted->hard;
		if (last)
			limit.rlim_cur = wanted->soft;
		if (setrlimit((enum __rlimit_resource)wanted->resource, &limit))
			return error_errno(err, -errno, "process.rlimits[%zu]: can't set %s to %llu:%llu", i,
					   wanted->name, (unsigned long long)wanted->soft,
					   (unsigned long long)wanted->hard);
	}
	return 0;
}

/* A folder that is none of the container's: a descriptor that leaked would make one reachable (CVE-2024-21626). */
static int enter_folder(const char *cwd, struct error *err)
{
	char path[PATH_MAX];

	if (chdir(cwd))
		return error_errno(err, -errno, "process.cwd: can't enter %s", cwd);
	if (!getcwd(path, sizeof(path)) || path[0] != '/')
		return error_set(err, -EPERM, "process.cwd: %s is outside of the container's root", cwd);
	return 0;
}

/* Security modules apply a label at the next execve. */
static int set_labels(const struct child *c, struct error *err)
{
	char text[512];
	const char *profile = c->process->apparmor_profile, *label = c->process->selinux_label;

	if ((!profile || !profile[0]) && (!label || !label[0]))
		return 0;
	int size = profile && profile[0] ? snprintf(text, sizeof(text), "exec %s", profile)
					 : snprintf(text, sizeof(text), "%s", label);
	const char *field = profile && profile[0] ? "apparmorProfile" : "selinuxLabel";

	if (c->attr < 0 || size >= (int)sizeof(text) || write(c->attr, text, (size_t)size) < 0)
		return error_set(err, -ENOTSUP,
				 "process.%s: the kernel does not take \"%.60s\" (is the security module on?)", field,
				 profile && profile[0] ? profile : label);
	return 0;
}

/* A session keyring of its own, so that the container does not see its maker's keys. */
static void new_keyring(const struct child *c)
{
	char name[300];

	if (!c->new_keyring)
		return;
	snprintf(name, sizeof(name), "_ses.%s", c->id);
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) < 0)
		log_debug("no session keyring: %s", strerror(errno));
}

/* ---- filter ---- */

/* The listener's descriptor can't be sent once the filter stands, for the filter may stop just that. So the runtime is told
 * which number it will have, the lowest that is free, and takes it from here itself. */
static int install_filter(struct child *c, struct error *err)
{
	bool listener = c->config->seccomp.listener_path != NULL;

	if (!c->filter.code)
		return 0;
	if (listener) {
		int next = dup(c->sync);

		if (next < 0)
			return error_errno(err, -errno, "dup");
		close(next);
		int rc = sync_send(c->sync, SYNC_LISTENER, next, NULL, 0);

		if (rc)
			return error_errno(err, rc, "linux.seccomp.listenerPath");
	}
	int fd = oci_filter_install(&c->filter, c->config->seccomp.flags, listener, err);

	if (fd < 0 || !listener)
		return fd < 0 ? fd : 0;
	int rc = sync_expect(c->sync, SYNC_TAKEN, c->message, err);

	close(fd);
	return rc;
}

/* ---- the end ---- */

static int find_program(const struct child *c, const char *const *env, char **path, struct error *err)
{
	const char *name = c->process->args[0];
	int rc = child_find_program(name, env, path);

	if (rc == -ENOENT && !strchr(name, '/'))
		return error_set(err, rc,
				 "process.args: executable file `%.200s` not found in $PATH: No such file or directory",
				 name);
	return rc ? error_errno(err, rc, "process.args: can't execute `%.200s`", name) : 0;
}

static int wait_for_start(const struct child *c, struct error *err)
{
	char byte;
	ssize_t got;

	if (c->start < 0)
		return 0;
	while ((got = read(c->start, &byte, 1)) < 0 && errno == EINTR)
		;
	return got == 1 ? 0 : error_errno(err, got < 0 ? -errno : -EPIPE, "can't wait for start");
}

/* The filter is the container's: it may refuse every call that the program does not need, and more often those that are newer
 * than its list. So it comes last, and what follows are capset, write and read on the socket and the FIFO, and execve. */
static int confine(struct child *c, const struct caps_last *caps, struct error *err)
{
	/* From here on the runtime may leave. Should it be killed instead, the end of its socket is what ends this process. Where it
	 * stays, the container ends with it; a change of user has undone what was asked for before. */
	prctl(PR_SET_PDEATHSIG, c->box ? SIGKILL : 0);
	/* Whoever made the FIFO opened it for both directions, so that reading waits even while nobody writes. */
	if (c->start >= 0 && fcntl(c->start, F_SETFL, 0))
		return error_errno(err, -errno, "can't wait for start");
	if (c->process->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return error_errno(err, -errno, "process.noNewPrivileges");
	int rc = install_filter(c, err);

	return rc ? rc : caps_finish(caps, err);
}

/* Tells the runtime that all is well, and goes on when that is on record. */
static int report(struct child *c, struct error *err)
{
	if (sync_tell(c->sync, SYNC_READY) || sync_hear(c->sync) != SYNC_GO)
		_exit(1);
	return wait_for_start(c, err);
}

/* Closes what is not needed any more, ours as well as what the caller left open: a folder of the host's that is reachable as
 * /proc/PID/fd/N would be a way out. */
static void close_others(const struct child *c)
{
	const int keep[] = { c->sync, c->start, c->attr };
	unsigned from = 3 + c->preserve;

	for (;;) {
		unsigned next = ~0u;

		for (unsigned i = 0; i < sizeof(keep) / sizeof(*keep); i++)
			if (keep[i] >= (int)from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next > from)
			syscall(SYS_close_range, from, next == ~0u ? next : next - 1, 0);
		if (next == ~0u)
			return;
		from = next + 1;
	}
}

int child_become(struct child *c, struct error *err)
{
	const struct oci_process *p = c->process;
	struct caps_last caps;
	char *path = NULL;
	int rc = 0;

	if (p->terminal && c->init >= 0) {
		int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

		rc = root < 0 ? error_errno(err, -errno, "can't open the root") : terminal_open(c, root, err);
		if (root >= 0)
			close(root);
	}
	close_others(c);
	new_keyring(c);
	if (!rc)
		rc = set_limits(c, false, err);
	if (!rc)
		rc = set_labels(c, err);
	if (!rc)
		rc = caps_bound(&p->caps, err);
	if (!rc)
		rc = set_user(c, err);
	/* Who gains no privileges by execve needs none to install a filter. */
	if (!rc)
		rc = caps_apply(&p->caps, c->filter.code && !p->no_new_privileges, &caps, err);
	if (!rc)
		rc = enter_folder(p->cwd, err);
	const char *const *env = rc ? NULL : make_environment(c);

	if (!rc)
		rc = find_program(c, env, &path, err);
	if (!rc)
		rc = set_limits(c, true, err);
	if (!rc)
		rc = confine(c, &caps, err);
	if (!rc)
		rc = report(c, err);
	if (!rc && c->init < 0)
		rc = hooks_run(c->config->hooks, HOOK_START_CONTAINER, c->state ? c->state : "", err);
	if (!rc && c->box && c->box->init)
		rc = init_split(c->sync, p->terminal, err);
	if (!rc && path) {
		execve(path, (char *const *)(uintptr_t)p->args, (char *const *)(uintptr_t)env);
		rc = error_errno(err, -errno, "process.args: can't execute `%.200s`", p->args[0]);
	}
	free(path);
	if (env && env != p->env)
		free((void *)(uintptr_t)env);
	return rc;
}
