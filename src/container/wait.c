/* SPDX-License-Identifier: Apache-2.0 */
/* wait.c - a call that stays with its process: `run` and `exec` in the foreground. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/launch.h"
#include "host/tty.h"

/* What came from one side and has not gone to the other yet. */
struct flow {
	int from, to;
	size_t size, at;
	char data[4096];
};

static void fill_flow(struct flow *f)
{
	ssize_t got = read(f->from, f->data, sizeof(f->data));

	if (got > 0) {
		f->size = (size_t)got;
		f->at = 0;
	} else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
		f->from = -1;
	}
}

static void drain_flow(struct flow *f)
{
	ssize_t put = write(f->to, f->data + f->at, f->size - f->at);

	if (put > 0)
		f->at += (size_t)put;
	else if (errno != EINTR && errno != EAGAIN)
		f->at = f->size; /* nobody reads it any more */
	if (f->at == f->size)
		f->size = 0;
}

static void copy_size(int from, int to)
{
	struct winsize size;

	if (!ioctl(from, TIOCGWINSZ, &size))
		ioctl(to, TIOCSWINSZ, &size);
}

/* Takes the master that the process sent. */
static int take_master(int socket)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	char name[32];
	struct iovec part = { name, sizeof(name) };
	struct msghdr msg = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	int fd = -1;

	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) > 0 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* Hands on what is ready in either direction; true as long as the terminal may have more. */
static bool copy(struct flow *in, struct flow *out, const struct pollfd *ready)
{
	if (ready[0].revents)
		fill_flow(in);
	if (ready[1].revents & POLLOUT)
		drain_flow(in);
	if (ready[2].revents)
		fill_flow(out);
	if (ready[3].revents)
		drain_flow(out);
	return out->from >= 0 || out->size;
}

/* True when the process has ended. */
static bool take_signal(struct launch *l, int signals, int master, int *wait_status)
{
	struct signalfd_siginfo info;

	if (read(signals, &info, sizeof(info)) != sizeof(info))
		return false;
	if (info.ssi_signo == SIGCHLD)
		return waitpid(l->pid, wait_status, WNOHANG | __WALL) == l->pid;
	if (info.ssi_signo == SIGWINCH && master >= 0)
		copy_size(STDIN_FILENO, master);
	else
		syscall(SYS_pidfd_send_signal, l->pidfd, info.ssi_signo, NULL, 0);
	return false;
}

static void with_terminal(struct launch *l, int signals, int master, int *wait_status)
{
	struct flow in = { .from = STDIN_FILENO, .to = master }, out = { .from = master, .to = STDOUT_FILENO };
	bool ended = false, more = true;

	while (!ended || more) {
		struct pollfd fds[] = {
			{ .fd = in.size ? -1 : in.from, .events = POLLIN },
			{ .fd = in.size ? in.to : -1, .events = POLLOUT },
			{ .fd = out.size ? -1 : out.from, .events = POLLIN },
			{ .fd = out.size ? out.to : -1, .events = POLLOUT },
			{ .fd = ended ? -1 : signals, .events = POLLIN },
		};

		/* What was written before the end is still there; another process that holds the terminal is not waited for. */
		if (poll(fds, 5, ended ? 20 : -1) == 0)
			break;
		more = copy(&in, &out, fds);
		if (fds[4].revents)
			ended = take_signal(l, signals, master, wait_status);
	}
}

int launch_wait(struct launch *l, int *status, struct error *err)
{
	int wait_status = 0, master = -1;
	bool raw = false;
	sigset_t all;

	sigfillset(&all);
	if (l->console < 0) {
		siginfo_t info;

		/* SIGCHLD ends the wait; everything else is for the program. */
		while (waitpid(l->pid, &wait_status, WNOHANG | __WALL) != l->pid)
			if (sigwaitinfo(&all, &info) > 0 && info.si_signo != SIGCHLD)
				syscall(SYS_pidfd_send_signal, l->pidfd, info.si_signo, NULL, 0);
	} else {
		int signals = signalfd(-1, &all, SFD_CLOEXEC);

		master = take_master(l->console);
		if (signals < 0 || master < 0)
			return error_set(err, -EIO, "no terminal came from the container");
		copy_size(STDIN_FILENO, master);
		raw = !tty_raw(STDIN_FILENO, NULL);
		with_terminal(l, signals, master, &wait_status);
		if (raw)
			tty_restore();
		close(signals);
		close(master);
	}
	*status = WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
	l->pid = 0;
	return 0;
}
