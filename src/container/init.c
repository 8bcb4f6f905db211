/* SPDX-License-Identifier: Apache-2.0 */
#include "container/init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The words of the command line and of the environment are the host's, and /proc/1 shows them to the container. */
static void forget_words(void)
{
	char text[1024];
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (size <= 0)
		return;
	text[size] = 0;
	/* proc(5): fields 48 to 51 are where they begin and end; counting starts behind the name, which is 2. */
	const char *at = strrchr(text, ')');
	unsigned long bounds[4] = { 0 };

	for (unsigned field = 3; at && field <= 51; field++) {
		at = strchr(at + 1, ' ');
		if (at && field >= 48)
			bounds[field - 48] = strtoul(at + 1, NULL, 10);
	}
	for (unsigned i = 0; i < 4; i += 2)
		if (bounds[i] && bounds[i + 1] > bounds[i])
			memset((void *)bounds[i], 0, bounds[i + 1] - bounds[i]); // NOLINT(performance-no-int-to-ptr)
	if (bounds[0] && bounds[1] - bounds[0] >= 5)
		memcpy((void *)bounds[0], "init", 5); // NOLINT(performance-no-int-to-ptr)
	prctl(PR_SET_NAME, "init");
}

static int status_of(int wait_status)
{
	return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

static _Noreturn void be_init(pid_t program, const sigset_t *all)
{
	int wait_status;
	pid_t ended;

	forget_words();
	/* Whoever reads what the program writes shall see its end. */
	syscall(SYS_close_range, 0u, ~0u, 0u);
	/* An unprivileged user joins the container by this process, and may not as long as it is not to be looked at. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	for (;;) {
		int number = sigwaitinfo(all, NULL);

		if (number > 0 && number != SIGCHLD)
			kill(program, number);
		while ((ended = waitpid(-1, &wait_status, WNOHANG | __WALL)) > 0)
			if (ended == program)
				_exit(status_of(wait_status));
	}
}

/* A terminal controls one session, and can be given away only by the one that has it: who loses it gets signals, which nobody wants. */
static void give_up_terminal(void)
{
	const struct sigaction ignore = { .sa_handler = SIG_IGN }, usual = { .sa_handler = SIG_DFL };

	ioctl(STDIN_FILENO, TIOCNOTTY);
	sigaction(SIGHUP, &ignore, NULL);
	sigaction(SIGCONT, &ignore, NULL);
	sigaction(SIGHUP, &usual, NULL);
	sigaction(SIGCONT, &usual, NULL);
}

int init_split(int sync, bool terminal, struct error *err)
{
	sigset_t all, old;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	if (terminal)
		give_up_terminal();
	pid_t program = fork();

	if (program < 0)
		return error_errno(err, -errno, "can't make the program's process");
	if (program) {
		close(sync);
		be_init(program, &all);
	}
	setsid();
	if (terminal && ioctl(STDIN_FILENO, TIOCSCTTY, 0))
		return error_errno(err, -errno, "can't make it the controlling terminal");
	sigprocmask(SIG_SETMASK, &old, NULL);
	return 0;
}
