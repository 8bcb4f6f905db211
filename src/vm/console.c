/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console.c - the far end of the first serial port: two descriptors of the process.
 *
 * Out: written by whoever sends. A reader that takes nothing holds up the vCPU, which is the back-pressure that a pipe
 * should have, but not the event thread; console_give_up ends the wait when the machine is to end.
 *
 * In: what the UART has no room for waits in `buffer`. A pipe is not read meanwhile, so its writer waits too. With the
 * escape key it is read always, since someone may want to leave a guest that does not listen; what is too much is lost.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/memory.h"
#include "chip/i8250.h"
#include "vm/machine.h"

enum { ESCAPE = 0x1d /* Ctrl-] */, OUT_CHUNK = 256 };

struct console {
	struct vm *vm;
	int in, out;
	int give_up; /* an eventfd that becomes readable for good */
	atomic_bool discard;
	struct event_work pump;
	/* The event thread's. */
	struct event_source *source;
	bool always_ready; /* a file, which can't be waited for */
	bool ended;        /* nothing more will be read */
	size_t start, end; /* in buffer: waiting for the guest */
	char buffer[4096];
};

/* ---- out ---- */

static void out_failed(struct console *console, int error)
{
	char reason[128];

	if (atomic_exchange(&console->discard, true))
		return;
	snprintf(reason, sizeof(reason), "can't write to the console (standard output): %s", strerror(error));
	vm_request_end(console->vm, VM_ERROR, 0, reason);
}

size_t console_write(void *ctx, const void *bytes, size_t size, bool wait)
{
	struct console *console = ctx;
	size_t done = 0;

	while (done < size) {
		if (console->out < 0 || atomic_load(&console->discard))
			return size;
		struct pollfd fds[2] = { { console->out, POLLOUT, 0 }, { console->give_up, POLLIN, 0 } };
		if (poll(fds, 2, wait ? -1 : 0) < 0 && errno != EINTR) {
			out_failed(console, errno);
			continue;
		}
		if (!wait && !fds[0].revents)
			return done;
		if (fds[1].revents || !fds[0].revents)
			continue; /* `discard` has been set, or a signal */
		size_t left = size - done;
		ssize_t n = write(console->out, (const char *)bytes + done, left < OUT_CHUNK ? left : OUT_CHUNK);
		if (n >= 0)
			done += (size_t)n;
		else if (errno == EAGAIN && !wait)
			return done;
		else if (errno != EINTR && errno != EAGAIN)
			out_failed(console, errno);
	}
	return done;
}

void console_give_up(struct console *console)
{
	static const uint64_t one = 1;

	atomic_store(&console->discard, true);
	if (write(console->give_up, &one, sizeof(one)) < 0)
		return; /* it is readable already */
}

/* ---- in ---- */

static void on_input(void *ctx, uint32_t ready);

/* Waits for input if there is room for it and none is expected already. */
static void listen(struct console *console)
{
	struct error err;

	if (console->ended || console->source)
		return;
	if (console->always_ready) {
		event_queue(console->vm->loop, &console->pump);
		return;
	}
	int rc = event_add(console->vm->loop, &console->source, console->in, EPOLLIN, on_input, console, &err);
	if (rc == -EPERM) {
		console->always_ready = true;
		event_queue(console->vm->loop, &console->pump);
	} else if (rc) {
		console->ended = true;
	}
}

static void stop_listening(struct console *console)
{
	event_remove(console->source);
	console->source = NULL;
}

/* Gives the UART what it takes. */
static void feed(struct console *console)
{
	if (console->start < console->end)
		console->start +=
		    i8250_receive(console->vm->uart, console->buffer + console->start, console->end - console->start);
	if (console->start == console->end) {
		console->start = console->end = 0;
		listen(console);
	} else if (!console->vm->config.console_escape) {
		stop_listening(console);
	}
}

static void take_input(struct console *console)
{
	char *at = console->buffer + console->end;
	size_t room = sizeof(console->buffer) - console->end;
	char surplus[256];

	if (!room) {
		at = surplus;
		room = sizeof(surplus);
	}
	ssize_t n = read(console->in, at, room);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) { /* the end of a pipe or file is not the end of the machine */
		console->ended = true;
		stop_listening(console);
		return;
	}
	if (console->vm->config.console_escape && memchr(at, ESCAPE, (size_t)n)) {
		console_give_up(console); /* a vCPU may be waiting for a reader */
		vm_request_end(console->vm, VM_LEFT, 0, "left with Ctrl-]");
		return;
	}
	if (at != surplus)
		console->end += (size_t)n;
	feed(console);
}

static void on_input(void *ctx, uint32_t ready)
{
	(void)ready;
	take_input(ctx);
}

/* The UART has room again, or the loop has just begun, or a file has more. */
static void on_pump(void *ctx)
{
	struct console *console = ctx;

	if (console->start < console->end)
		feed(console);
	else if (console->always_ready && !console->ended)
		take_input(console);
	else
		listen(console);
}

void console_room(void *ctx)
{
	struct console *console = ctx;

	event_queue(console->vm->loop, &console->pump);
}

/* ---- making ---- */

int console_create(struct console **result, struct vm *vm, struct error *err)
{
	struct console *console = memory_zalloc(sizeof(*console));

	console->vm = vm;
	console->in = vm->config.console_in;
	console->out = vm->config.console_out;
	console->ended = console->in < 0;
	console->pump = (struct event_work){ .fn = on_pump, .arg = console };
	console->give_up = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (console->give_up < 0) {
		int rc = error_errno(err, -errno, "can't make the console");
		free(console);
		return rc;
	}
	event_queue(vm->loop, &console->pump);
	*result = console;
	return 0;
}

void console_destroy(struct console *console)
{
	if (!console)
		return;
	event_remove(console->source);
	close(console->give_up);
	free(console);
}
