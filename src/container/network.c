/* SPDX-License-Identifier: Apache-2.0 */
#include "container/network.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAIT_MS = 20000 };

void network_init(struct network *n)
{
	*n = (struct network){ .ready = -1, .words = -1 };
}

/* ---- the program ---- */

static bool is_installed(const char *name)
{
	static const char *const folders[] = { "/usr/bin", "/usr/local/bin", "/usr/sbin", "/bin" };
	char path[64];

	for (unsigned i = 0; i < sizeof(folders) / sizeof(*folders); i++) {
		snprintf(path, sizeof(path), "%s/%s", folders[i], name);
		if (!access(path, X_OK))
			return true;
	}
	return false;
}

const char *network_program(struct error *err)
{
	if (is_installed("pasta"))
		return "pasta";
	if (is_installed("slirp4netns"))
		return "slirp4netns";
	error_set(err, -ENOENT, "--net user: neither pasta (package passt) nor slirp4netns is installed");
	return NULL;
}

/* Both look for namespaces below /proc/PID/ns once they are in the user namespace, where only a process of that namespace may be
 * looked at, and the container's own never may. So there is one that is in both namespaces, and nothing else, for as long. */
static _Noreturn void be_holder(int user, int net, int done)
{
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if ((user >= 0 && setns(user, CLONE_NEWUSER)) || setns(net, CLONE_NEWNET))
		_exit(1);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of credentials undid it */
	sigemptyset(&none);
	if (write(done, "", 1) != 1)
		_exit(1);
	syscall(SYS_close_range, 0u, ~0u, 0u);
	for (;;)
		sigsuspend(&none);
}

static int start_holder(struct network *n, const int namespaces[2], bool user, struct error *err)
{
	int done[2];
	char byte;

	if (pipe2(done, O_CLOEXEC))
		return error_errno(err, -errno, "pipe");
	n->holder = fork();
	if (!n->holder)
		be_holder(user ? namespaces[1] : -1, namespaces[0], done[1]);
	close(done[1]);
	int rc = n->holder > 0 && read(done[0], &byte, 1) == 1 ? 0 : -EPERM;

	close(done[0]);
	return rc ? error_set(err, rc, "--net user: can't enter the container's network namespace") : 0;
}

static void end_holder(struct network *n)
{
	if (n->holder > 0) {
		kill(n->holder, SIGKILL);
		waitpid(n->holder, NULL, 0);
	}
	n->holder = 0;
}

static void be_pasta(pid_t holder, bool user, const char *fifo)
{
	char net[48], in[48];
	const char *argv[40];
	unsigned count = 0;
	static const char *const fixed[] = { "pasta",       "--foreground", "--quiet",       "--config-net",
					     "--address",   "10.0.2.15",    "--netmask",     "24",
					     "--gateway",   "10.0.2.2",     "--dns-forward", "10.0.2.3",
					     "--no-map-gw", "--tcp-ports",  "none",          "--udp-ports",
					     "none",        "--tcp-ns",     "none",          "--udp-ns",
					     "none",        "--ns-ifname",  "eth0" };

	for (; count < sizeof(fixed) / sizeof(*fixed); count++)
		argv[count] = fixed[count];
	snprintf(net, sizeof(net), "/proc/%d/ns/net", holder);
	snprintf(in, sizeof(in), "/proc/%d/ns/user", holder);
	argv[count++] = "--pid";
	argv[count++] = fifo;
	/* It would become nobody, who owns no namespace of root's; it leaves its capabilities and its root folder behind all the same. */
	if (!geteuid()) {
		argv[count++] = "--runas";
		argv[count++] = "0:0";
	}
	if (user) {
		argv[count++] = "--userns";
		argv[count++] = in;
	} else {
		argv[count++] = "--netns-only";
	}
	argv[count++] = "--netns";
	argv[count++] = net;
	argv[count] = NULL;
	execvp(argv[0], (char *const *)(uintptr_t)argv);
}

static void be_slirp(pid_t holder, bool user, int ready)
{
	char in[64], net[48], fd[32];
	const char *argv[] = { "slirp4netns",
			       "--configure",
			       "--mtu=65520",
			       "--disable-host-loopback",
			       "--enable-sandbox",
			       fd,
			       "--netns-type=path",
			       user ? in : net,
			       user ? net : "tap0",
			       user ? "tap0" : NULL,
			       NULL };

	snprintf(in, sizeof(in), "--userns-path=/proc/%d/ns/user", holder);
	snprintf(net, sizeof(net), "/proc/%d/ns/net", holder);
	snprintf(fd, sizeof(fd), "--ready-fd=%d", ready);
	fcntl(ready, F_SETFD, 0);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
}

struct start {
	pid_t holder;
	bool user;
	const char *program, *fifo;
	int ready, words, go;
};

static _Noreturn void be_program(const struct start *s)
{
	sigset_t none;
	char byte;

	/* Until it is on record it must not outlive its maker, who holds the other end. */
	if (read(s->go, &byte, 1) != 1)
		_exit(1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL); /* pasta takes one that is ignored already for an error */
	setsid();
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(s->words, 2) < 0 || chdir("/"))
		_exit(127);
	if (!strcmp(s->program, "pasta"))
		be_pasta(s->holder, s->user, s->fifo);
	else
		be_slirp(s->holder, s->user, s->ready);
	_exit(127);
}

/* "PID START", as the container's own. */
static int record(const struct state *state, pid_t pid, struct error *err)
{
	unsigned long long start = 0;
	char text[48];
	bool alive;

	state_process(pid, &start, &alive);
	int size = snprintf(text, sizeof(text), "%d %llu\n", pid, start);
	int fd = openat(state->dir, "network", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int rc = fd < 0 || write(fd, text, (size_t)size) != size ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc ? error_errno(err, rc, "can't write network of the container's state") : 0;
}

static int spawn(struct network *n, const struct start *start, const struct state *state, struct error *err)
{
	struct start s = *start;
	int go[2];

	if (pipe2(go, O_CLOEXEC))
		return error_errno(err, -errno, "pipe");
	s.go = go[0];
	n->pid = fork();
	if (!n->pid) {
		close(go[1]);
		be_program(&s);
	}
	close(go[0]);
	int rc = n->pid < 0 ? error_errno(err, -errno, "fork") : record(state, n->pid, err);

	if (n->pid < 0)
		n->pid = 0;
	if (!rc && write(go[1], "", 1) != 1)
		rc = error_errno(err, -errno, "can't start %s", s.program);
	close(go[1]);
	return rc;
}

int network_start(struct network *n, const char *root, const struct state *state, const int namespaces[2],
		  struct error *err)
{
	struct stat own, its;
	char fifo[PATH_MAX];
	bool user = stat("/proc/self/ns/user", &own) || fstat(namespaces[1], &its) || own.st_ino != its.st_ino;
	int rc = start_holder(n, namespaces, user, err);

	if (rc)
		return rc;
	n->program = network_program(err);
	if (!n->program)
		return -ENOENT;
	if (snprintf(fifo, sizeof(fifo), "%s/%s/network.ready", root, state->id) >= (int)sizeof(fifo))
		return error_errno(err, -ENAMETOOLONG, "--root");
	n->words = memfd_create("network", MFD_CLOEXEC);
	if (mkfifoat(state->dir, "network.ready", 0600) ||
	    (n->ready = openat(state->dir, "network.ready", O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0 || n->words < 0)
		return error_errno(err, -errno, "can't make the FIFO of the container's network");
	const struct start start = { .holder = n->holder,
				     .user = user,
				     .program = n->program,
				     .fifo = fifo,
				     .ready = n->ready,
				     .words = n->words };

	return spawn(n, &start, state, err);
}

/* The last line that says something. */
static int failed(struct network *n, int rc, struct error *err)
{
	char text[2048] = "", *line, *rest = NULL, *last = NULL;

	if (pread(n->words, text, sizeof(text) - 1, 0) < 0)
		text[0] = 0;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (!strstr(line, "syslog") && !strstr(line, "WARNING"))
			last = line;
	return error_set(err, rc, "--net user: %s %s: %.200s", n->program,
			 rc == -ETIMEDOUT ? "does not get ready" : "ended", last ? last : "it said nothing");
}

int network_wait(struct network *n, struct error *err)
{
	if (!n->pid)
		return 0;
	int pidfd = (int)syscall(SYS_pidfd_open, n->pid, 0);
	struct pollfd fds[] = { { .fd = n->ready, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };
	int got = pidfd < 0 ? -1 : poll(fds, 2, WAIT_MS), rc = 0;

	if (got == 0)
		rc = failed(n, -ETIMEDOUT, err);
	else if (got < 0 || !(fds[0].revents & POLLIN))
		rc = failed(n, -EIO, err);
	if (pidfd >= 0)
		close(pidfd);
	end_holder(n);
	return rc;
}

void network_fini(struct network *n)
{
	end_holder(n);
	if (n->ready >= 0)
		close(n->ready);
	if (n->words >= 0)
		close(n->words);
	n->ready = n->words = -1;
}

void network_stop(const struct state *state)
{
	struct state process = { .pid = 0 };
	char text[48] = "";
	int file = state->dir < 0 ? -1 : openat(state->dir, "network", O_RDONLY | O_CLOEXEC);

	if (file < 0)
		return;
	if (read(file, text, sizeof(text) - 1) <= 0 || sscanf(text, "%d %llu", &process.pid, &process.start) != 2)
		process.pid = 0;
	close(file);
	int fd = state_open_process(&process);

	if (fd >= 0) {
		struct pollfd wait = { .fd = fd, .events = POLLIN };

		syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		poll(&wait, 1, 10000);
		close(fd);
	}
	if (process.pid > 0)
		waitpid(process.pid, NULL, WNOHANG); /* if it is this process's child */
}
