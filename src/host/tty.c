/* SPDX-License-Identifier: Apache-2.0 */
#include "host/tty.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* The terminal that is raw and how it was. Written before `active` becomes true, constant while it is; handlers need
 * it, and a handler gets no argument. */
static struct {
	atomic_bool active;
	int fd;
	struct termios before;
	bool registered;
} raw_tty;

static const int tty_signals[] = {
	SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGXCPU
};

void tty_restore(void)
{
	if (!atomic_exchange(&raw_tty.active, false))
		return;
	int saved = errno;
	/* A process in the background would be stopped by SIGTTOU here: the terminal is then not ours to change. */
	if (tcgetpgrp(raw_tty.fd) == getpgrp())
		tcsetattr(raw_tty.fd, TCSANOW, &raw_tty.before);
	errno = saved;
}

static void tty_on_signal(int number)
{
	tty_restore();
	/* SA_RESETHAND has put the default action back: end as we would have without a terminal. */
	raise(number);
}

/* Catches the signals that nobody else catches. The soft engine and the event loop have their own handlers for some,
 * which stay; they end by exit(3) or by the default action of a signal that comes back to us through tty_restore. */
static void tty_catch_signals(void)
{
	for (unsigned i = 0; i < sizeof(tty_signals) / sizeof(tty_signals[0]); i++) {
		struct sigaction old, catch = { .sa_handler = tty_on_signal, .sa_flags = (int)SA_RESETHAND };
		sigemptyset(&catch.sa_mask);
		if (sigaction(tty_signals[i], NULL, &old) == 0 && !(old.sa_flags & SA_SIGINFO) &&
		    old.sa_handler == SIG_DFL)
			sigaction(tty_signals[i], &catch, NULL);
	}
}

int tty_raw(int fd, struct error *err)
{
	if (atomic_load(&raw_tty.active))
		return error_set(err, -EBUSY, "a terminal is in raw mode already");
	if (tcgetattr(fd, &raw_tty.before) < 0)
		return error_errno(err, -errno, "can't read the terminal's settings");
	struct termios raw = raw_tty.before;
	cfmakeraw(&raw);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	raw_tty.fd = fd;
	if (!raw_tty.registered) {
		raw_tty.registered = true;
		atexit(tty_restore);
	}
	tty_catch_signals();
	atomic_store(&raw_tty.active, true);
	if (tcsetattr(fd, TCSANOW, &raw) < 0) {
		int rc = -errno;
		atomic_store(&raw_tty.active, false);
		return error_errno(err, rc, "can't put the terminal into raw mode");
	}
	return 0;
}

bool tty_size(int fd, unsigned *columns, unsigned *rows)
{
	struct winsize size;
	if (ioctl(fd, TIOCGWINSZ, &size) < 0 || !size.ws_col || !size.ws_row)
		return false;
	*columns = size.ws_col;
	*rows = size.ws_row;
	return true;
}
