/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "host/tty.h"

/* A child whose controlling terminal is the other side of *master makes it raw, says so by a byte and ends in a way. */
static int run_raw_child(int *master, int end_signal)
{
	int ready[2], status;
	*master = posix_openpt(O_RDWR | O_NOCTTY);
	if (*master < 0)
		skip(); /* no /dev/ptmx here */
	assert_int_equal(grantpt(*master), 0);
	assert_int_equal(unlockpt(*master), 0);
	assert_int_equal(pipe(ready), 0);
	const char *name = ptsname(*master);
	pid_t child = fork();
	if (child == 0) {
		struct termios now;
		setsid();
		int tty = open(name, O_RDWR);
		if (tty < 0 || tty_raw(tty, NULL) < 0 || tty_raw(tty, NULL) != -EBUSY || tcgetattr(tty, &now) < 0 ||
		    (now.c_lflag & (ICANON | ECHO | ISIG)) || write(ready[1], "r", 1) != 1)
			_exit(99);
		if (end_signal)
			raise(end_signal);
		exit(7);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(ready[0]);
	close(ready[1]);
	return status;
}

static void assert_cooked(int master)
{
	struct termios now;
	assert_int_equal(tcgetattr(master, &now), 0);
	assert_true((now.c_lflag & (ICANON | ECHO | ISIG)) == (ICANON | ECHO | ISIG));
	close(master);
}

static void exit_restores(void **state)
{
	(void)state;
	int master, status = run_raw_child(&master, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
	assert_cooked(master);
}

static void signals_restore_and_still_kill(void **state)
{
	(void)state;
	static const int signals[] = { SIGTERM, SIGHUP, SIGABRT };
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		int master, status = run_raw_child(&master, signals[i]);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), signals[i]);
		assert_cooked(master);
	}
}

static void a_pipe_is_no_terminal(void **state)
{
	(void)state;
	int fd[2];
	unsigned columns, rows;
	struct error err = { "" };
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(tty_raw(fd[0], &err), -ENOTTY);
	assert_true(err.text[0]);
	assert_false(tty_size(fd[0], &columns, &rows));
	tty_restore();
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exit_restores),
		cmocka_unit_test(signals_restore_and_still_kill),
		cmocka_unit_test(a_pipe_is_no_terminal),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
