/* SPDX-License-Identifier: Apache-2.0 */
#include "container/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "container/hooks.h"
#include "container/idmap.h"
#include "container/log.h"

void launch_init(struct launch *l, const struct container_launch *options)
{
	l->options = options;
	memset(&l->child, 0, sizeof(l->child));
	memset(&l->state, 0, sizeof(l->state));
	memset(&l->config, 0, sizeof(l->config));
	l->text = NULL;
	l->size = 0;
	l->pid = 0;
	l->sync = l->pidfd = l->console = l->v2 = l->state.dir = -1;
	l->child.root = l->child.sync = l->child.start = l->child.console = l->child.init = l->child.attr = -1;
	l->child.config = &l->config;
	l->child.process = &l->config.process;
	l->child.cgroup = &l->state.cgroup;
	l->child.id = options->id;
	l->child.rootfs = l->state.rootfs;
	l->child.systemd = options->systemd;
	l->child.no_pivot = options->no_pivot;
	l->child.new_keyring = !options->no_new_keyring;
	l->child.preserve = options->preserve;
	l->child.box = options->box;
	l->child.upper = -1;
	network_init(&l->network);
}

static void drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void launch_fini(struct launch *l)
{
	drop(&l->sync);
	drop(&l->pidfd);
	drop(&l->console);
	drop(&l->v2);
	drop(&l->child.root);
	drop(&l->child.upper);
	network_fini(&l->network);
	drop(&l->child.sync);
	drop(&l->child.start);
	drop(&l->child.console);
	drop(&l->child.init);
	free(l->text);
	l->text = NULL;
	oci_config_fini(&l->config);
	state_fini(&l->state);
}

/* ---- console ---- */

/* A Unix socket by a path of any length: through the folder that it is in. */
static int connect_to(const char *path, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *slash = strrchr(path, '/');
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), folder = -1, rc = 0;

	if (fd < 0)
		return error_errno(err, -errno, "socket");
	if (strlen(path) < sizeof(address.sun_path)) {
		strcpy(address.sun_path, path);
	} else {
		char *up = strndup(path, slash ? (size_t)(slash - path) : 0);

		folder = up ? open(up, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
		free(up);
		if (folder < 0 || snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d%s", folder,
					   slash) >= (int)sizeof(address.sun_path))
			rc = folder < 0 ? -errno : -ENAMETOOLONG;
	}
	if (!rc && connect(fd, (struct sockaddr *)&address, sizeof(address)))
		rc = -errno;
	if (folder >= 0)
		close(folder);
	if (rc)
		close(fd);
	return rc ? error_errno(err, rc, "can't connect to %s", path) : fd;
}

int launch_console(struct launch *l, bool foreground, struct error *err)
{
	bool terminal = l->child.process->terminal;
	const char *path = l->options->console_socket;
	int pair[2];

	if (!terminal && path)
		return error_set(err, -EINVAL, "--console-socket: process.terminal is not set");
	if (!terminal)
		return 0;
	if (path) {
		l->child.console = connect_to(path, err);
		return l->child.console < 0 ? error_prefix(err, l->child.console, "--console-socket") : 0;
	}
	if (!foreground)
		return error_set(err, -EINVAL, "process.terminal: needs --console-socket to send the terminal to");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return error_errno(err, -errno, "socketpair");
	l->console = pair[0];
	l->child.console = pair[1];
	return 0;
}

/* ---- the process ---- */

static int make(const struct launch *l, uint64_t flags, int *pidfd)
{
	struct clone_args args = { .flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD };

	if (pidfd) {
		args.flags |= CLONE_PIDFD;
		args.pidfd = (uintptr_t)pidfd;
	}
	if (l->v2 >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)l->v2;
	}
	return (int)syscall(SYS_clone3, &args, sizeof(args));
}

static _Noreturn void become_child(struct launch *l)
{
	close(l->sync);
	if (l->child.init >= 0)
		child_join(&l->child);
	child_init(&l->child);
}

/* A user namespace that exists must be joined before a PID namespace is made that it shall own. A process between does that,
 * and makes the container's process as its own sibling. */
static _Noreturn void be_between(struct launch *l, int user, uint64_t flags)
{
	struct error err = { "" };

	if (setns(user, CLONE_NEWUSER)) {
		error_errno(&err, -errno, "linux.namespaces: can't join the user namespace");
		sync_send(l->child.sync, SYNC_FAILED, -errno, err.text, strlen(err.text));
		_exit(1);
	}
	int pid = make(l, flags | CLONE_PARENT, NULL);

	if (!pid)
		become_child(l);
	if (pid < 0) {
		error_errno(&err, -errno, "can't make the container's process");
		sync_send(l->child.sync, SYNC_FAILED, -errno, err.text, strlen(err.text));
	} else {
		sync_send(l->child.sync, SYNC_PROCESS, pid, NULL, 0);
	}
	_exit(0);
}

static int spawn_between(struct launch *l, int user, uint64_t flags, struct error *err)
{
	pid_t between = fork();

	if (!between)
		be_between(l, user, flags);
	if (between < 0)
		return error_errno(err, -errno, "fork");
	waitpid(between, NULL, 0);
	drop(&l->child.sync);
	int rc = sync_expect(l->sync, SYNC_PROCESS, &l->message, err);

	if (rc)
		return rc;
	l->pid = l->message.value;
	l->pidfd = (int)syscall(SYS_pidfd_open, l->pid, 0);
	return l->pidfd < 0 ? error_errno(err, -errno, "pidfd_open") : 0;
}

int launch_spawn(struct launch *l, uint64_t flags, struct error *err)
{
	int user = l->config.namespaces[NS_USER].fd;
	int rc = sync_open(&l->sync, &l->child.sync, err);

	if (rc)
		return rc;
	if (user >= 0 && l->child.init < 0)
		return spawn_between(l, user, flags, err);
	pid_t pid = make(l, flags, &l->pidfd);

	if (!pid)
		become_child(l);
	if (pid < 0)
		return error_errno(err, -errno, "can't make the container's process");
	l->pid = pid;
	drop(&l->child.sync);
	return 0;
}

void launch_abort(struct launch *l)
{
	if (!l->pid)
		return;
	kill(l->pid, SIGKILL);
	waitpid(l->pid, NULL, __WALL);
	l->pid = 0;
}

int launch_filter(struct launch *l, struct error *err)
{
	struct oci_filter filter;

	if (!l->config.seccomp.given)
		return 0;
	int rc = oci_filter_compile(&l->config.seccomp, &filter, err);

	if (rc)
		return rc;
	if (filter.size > SYNC_DATA)
		rc = error_set(err, -E2BIG, "linux.seccomp: the filter is longer than the kernel takes");
	else
		rc = sync_send(l->sync, SYNC_FILTER, 0, filter.code, filter.size);
	oci_filter_fini(&filter);
	/* When the child is gone, it said why. */
	return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
}

/* ---- what it asks for ---- */

static int run_hooks(struct launch *l, struct error *err)
{
	const struct oci_hooks *hooks = l->config.hooks;

	l->state.pid = l->pid;
	char *creating = state_json(&l->state, "creating", l->config.annotations, err);
	char *created = state_json(&l->state, "created", l->config.annotations, err), *both = NULL;
	int rc = creating && created ? hooks_run(hooks, HOOK_PRESTART, creating, err) : -ENOMEM;

	if (!rc)
		rc = hooks_run(hooks, HOOK_CREATE_RUNTIME, creating, err);
	/* The child gets the state as it is now and as it will be. */
	if (!rc) {
		size_t first = strlen(creating) + 1, second = strlen(created);

		both = first + second > SYNC_DATA ? NULL : malloc(first + second);
		if (both) {
			memcpy(both, creating, first);
			memcpy(both + first, created, second);
			rc = sync_send(l->sync, SYNC_HOOKED, 0, both, first + second);
			if (rc)
				error_errno(err, rc, "hooks");
		} else {
			rc = error_set(err, -E2BIG, "annotations: are too long for hooks");
		}
	}
	l->state.pid = 0;
	free(creating);
	free(created);
	free(both);
	return rc;
}

/* The container process state that goes with a listener (config-linux.md, "The Container Process State"). */
static char *listener_json(struct launch *l, struct error *err)
{
	l->state.pid = l->pid;
	char *state = state_json(&l->state, "creating", l->config.annotations, err);
	json_t *inner = state ? json_loads(state, 0, NULL) : NULL;
	const char *metadata = l->config.seccomp.listener_metadata;
	json_t *root = json_pack("{s:s, s:[s], s:i, s:s, s:o}", "ociVersion", OCI_VERSION, "fds", "seccompFd", "pid",
				 l->pid, "metadata", metadata ? metadata : "", "state", inner);
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;

	json_decref(root);
	free(state);
	l->state.pid = 0;
	return text;
}

/* Takes descriptor `number` out of the process as soon as it is there. */
static int take_listener(const struct launch *l, int number)
{
	for (unsigned try = 0; try < 20000; try++) {
		int fd = (int)syscall(SYS_pidfd_getfd, l->pidfd, number, 0);

		if (fd >= 0 || errno != EBADF)
			return fd < 0 ? -errno : fd;
		nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
	}
	return -ETIMEDOUT;
}

static int pass_listener(struct launch *l, int number, struct error *err)
{
	int socket = connect_to(l->config.seccomp.listener_path, err);

	if (socket < 0)
		return error_prefix(err, socket, "linux.seccomp.listenerPath");
	int fd = take_listener(l, number),
	    rc = fd < 0 ? error_errno(err, fd, "linux.seccomp: can't take the listener") : 0;
	char *json = rc ? NULL : listener_json(l, err);

	if (!rc) {
		rc = json ? sync_pass(socket, fd, json, strlen(json)) : -ENOMEM;
		if (rc)
			error_errno(err, rc, "linux.seccomp.listenerPath: can't send the listener");
	}
	if (!rc && sync_send(l->sync, SYNC_TAKEN, 0, NULL, 0))
		rc = error_set(err, -EPIPE, "the container's process ended early");
	free(json);
	if (fd >= 0)
		close(fd);
	close(socket);
	return rc;
}

/* ---- limits, from outside ---- */

/* sched_setattr(2), of which glibc has no declaration; the kernel's header clashes with glibc's. */
struct scheduler {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static int set_scheduler(const struct launch *l, const struct oci_scheduler *s, struct error *err)
{
	struct scheduler attr = { .size = sizeof(attr),
				  .policy = s->policy,
				  .flags = s->flags,
				  .nice = s->nice,
				  .priority = s->priority,
				  .runtime = s->runtime,
				  .deadline = s->deadline,
				  .period = s->period };

	if (s->given && syscall(SYS_sched_setattr, l->pid, &attr, 0))
		return error_errno(err, -errno, "process.scheduler");
	return 0;
}

static int set_oom_score(const struct launch *l, const struct reader_number *value, struct error *err)
{
	char path[48], text[16], old[16] = "";

	if (!value->set)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", l->pid);
	int size = snprintf(text, sizeof(text), "%d\n", (int)value->value);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	int rc = fd < 0 ? -errno : 0;

	/* Writing what is there already may be forbidden and is not needed. */
	if (!rc && (read(fd, old, sizeof(old) - 1) < 0 || strcmp(old, text) != 0))
		rc = pwrite(fd, text, (size_t)size, 0) < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if ((rc == -EACCES || rc == -EPERM) && idmap_rootless()) {
		log_debug("process.oomScoreAdj: this user may not set %d", (int)value->value);
		return 0;
	}
	return rc ? error_errno(err, rc, "process.oomScoreAdj: can't set %d", (int)value->value) : 0;
}

static int set_limits(const struct launch *l, struct error *err)
{
	const struct oci_process *p = l->child.process;

	int rc = set_oom_score(l, &p->oom_score_adj, err);

	if (!rc)
		rc = set_scheduler(l, &p->scheduler, err);
	/* IOPRIO_WHO_PROCESS is 1; the class is in the upper bits. */
	if (!rc && p->io_class.set &&
	    syscall(SYS_ioprio_set, 1, l->pid,
		    (int)(p->io_class.value << 13 | (p->io_priority.set ? p->io_priority.value : 0))))
		rc = error_errno(err, -errno, "process.ioPriority");
	return rc;
}

static int start_network(struct launch *l, struct error *err)
{
	if (l->message.fd_count != 2)
		return error_set(err, -EPROTO, "no network namespace came from the container's process");
	int rc = network_start(&l->network, l->options->root, &l->state, l->message.fds, err);

	close(l->message.fds[0]);
	close(l->message.fds[1]);
	return rc;
}

int launch_wait_ready(struct launch *l, struct error *err)
{
	for (;;) {
		int rc = sync_receive(l->sync, &l->message);

		if (rc)
			return error_errno(err, rc, "the socket to the container's process");
		switch (l->message.kind) {
		case SYNC_NETWORK:
			rc = start_network(l, err);
			break;
		case SYNC_HOOKS:
			rc = run_hooks(l, err);
			break;
		case SYNC_LISTENER:
			rc = pass_listener(l, l->message.value, err);
			break;
		case SYNC_READY:
			return set_limits(l, err);
		case SYNC_FAILED:
			l->message.data[sizeof(l->message.data) - 1] = 0;
			return error_set(err, l->message.value < 0 ? l->message.value : -EIO, "%.480s",
					 l->message.data);
		default:
			return error_set(err, -EPIPE, "the container's process ended before it was ready");
		}
		if (rc)
			return rc;
	}
}

int launch_pid_file(const char *path, pid_t pid, struct error *err)
{
	char text[16], *partial = NULL;
	int size = snprintf(text, sizeof(text), "%d", pid), rc = 0;

	if (asprintf(&partial, "%s.%d", path, getpid()) < 0)
		return error_errno(err, -ENOMEM, "--pid-file");
	int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, text, (size_t)size) != size || rename(partial, path))
		rc = error_errno(err, -errno, "--pid-file: can't write %s", path);
	if (fd >= 0)
		close(fd);
	free(partial);
	return rc;
}

int launch_go(struct launch *l, bool wait, struct error *err)
{
	int rc = sync_send(l->sync, SYNC_GO, 0, NULL, 0);

	if (rc)
		return error_errno(err, rc, "can't tell the container's process to go on");
	if (!wait)
		return 0;
	rc = sync_receive(l->sync, &l->message);
	if (rc)
		return error_errno(err, rc, "the socket to the container's process");
	if (l->message.kind != SYNC_FAILED)
		return 0;
	l->message.data[sizeof(l->message.data) - 1] = 0;
	return error_set(err, l->message.value < 0 ? l->message.value : -EIO, "%.480s", l->message.data);
}
