/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/console_port.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/memory.h"
#include "host/event.h"
#include "host/unix.h"

enum { IOV_AT_ONCE = 64 };

struct console_port {
	struct event_loop *loop;
	const struct console_port_events *events;
	void *ctx;
	char *path;           /* of the socket's file, once it is ours */
	int listener, client; /* or -1 */
	struct event_source *listening, *source;
	bool want_read, want_write, open;
};

/* ---- the client ---- */

static void on_client(void *arg, uint32_t ready);
static void on_knock(void *arg, uint32_t ready);

/* While there is a client, the next one waits. */
static void listen_again(struct console_port *port)
{
	struct error err;

	if (!port->listening && port->client < 0)
		event_add(port->loop, &port->listening, port->listener, EPOLLIN, on_knock, port, &err);
}

static void hang_up(struct console_port *port)
{
	if (port->client < 0)
		return;
	event_remove(port->source);
	port->source = NULL;
	close(port->client);
	port->client = -1;
	port->want_read = port->want_write = false;
	listen_again(port);
	port->events->connected(port->ctx, false);
}

static void watch(struct console_port *port)
{
	uint32_t events = (port->want_read ? EPOLLIN : 0) | (port->want_write ? EPOLLOUT : 0);

	struct error err;

	if (port->client < 0)
		return;
	if (port->source)
		event_set(port->source, events | EPOLLRDHUP);
	else if (events)
		event_add(port->loop, &port->source, port->client, events | EPOLLRDHUP, on_client, port, &err);
}

static void on_client(void *arg, uint32_t ready)
{
	struct console_port *port = arg;
	int client = port->client;

	if (ready & EPOLLOUT && port->want_write) {
		port->want_write = false;
		watch(port);
		port->events->writable(port->ctx);
	}
	if (port->client != client)
		return;
	if (port->want_read && ready & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		port->events->readable(port->ctx);
	else if (!(ready & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		return;
	else if (!port->open)
		hang_up(port);
	else { /* it has said its last, which the guest has not read yet; we would be told for ever */
		event_remove(port->source);
		port->source = NULL;
	}
}

static void on_knock(void *arg, uint32_t ready)
{
	struct console_port *port = arg;
	struct error err;
	int client = accept4(port->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)ready;
	if (client < 0)
		return;
	if (event_add(port->loop, &port->source, client, EPOLLRDHUP, on_client, port, &err)) {
		close(client);
		return;
	}
	port->client = client;
	event_remove(port->listening);
	port->listening = NULL;
	port->events->connected(port->ctx, true);
}

bool console_port_connected(const struct console_port *port)
{
	return port->client >= 0;
}

void console_port_set_open(struct console_port *port, bool open)
{
	port->open = open;
	if (!open && port->client >= 0 && !port->source)
		hang_up(port);
}

void console_port_want_read(struct console_port *port, bool want)
{
	if (port->client < 0 || (port->want_read == want && port->source))
		return;
	port->want_read = want;
	watch(port);
}

size_t console_port_read(struct console_port *port, const struct iovec *iov, unsigned n)
{
	if (port->client < 0)
		return 0;
	ssize_t r = readv(port->client, iov, (int)(n < IOV_AT_ONCE ? n : IOV_AT_ONCE));
	if (r > 0)
		return (size_t)r;
	if (r == 0 || (errno != EAGAIN && errno != EINTR))
		hang_up(port);
	return 0;
}

size_t console_port_write(struct console_port *port, const struct iovec *iov, unsigned n)
{
	const struct msghdr message = {
		.msg_iov = (struct iovec *)(uintptr_t)iov,
		.msg_iovlen = n < IOV_AT_ONCE ? n : IOV_AT_ONCE,
	};

	if (port->client < 0)
		return 0;
	ssize_t r = sendmsg(port->client, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r < 0 && errno != EAGAIN && errno != EINTR) {
		hang_up(port);
		return 0;
	}
	port->want_write = true; /* for a writer who has more; one who has not won't mind */
	watch(port);
	return r > 0 ? (size_t)r : 0;
}

/* ---- making ---- */

static int open_listener(struct console_port *port, const char *path, struct error *err)
{
	port->listener = unix_listen(path, err);
	if (port->listener < 0)
		return port->listener;
	port->path = memory_strdup(path);
	return event_add(port->loop, &port->listening, port->listener, EPOLLIN, on_knock, port, err);
}

int console_port_create(struct console_port **out, struct event_loop *loop, const char *path,
			const struct console_port_events *events, void *ctx, struct error *err)
{
	struct console_port *port = memory_zalloc(sizeof(*port));

	port->loop = loop;
	port->events = events;
	port->ctx = ctx;
	port->listener = port->client = -1;
	int rc = open_listener(port, path, err);
	if (rc) {
		console_port_destroy(port);
		port = NULL;
	}
	*out = port;
	return rc;
}

void console_port_destroy(struct console_port *port)
{
	if (!port)
		return;
	event_remove(port->source);
	event_remove(port->listening);
	if (port->client >= 0)
		close(port->client);
	if (port->listener >= 0)
		close(port->listener);
	if (port->path)
		unlink(port->path);
	free(port->path);
	free(port);
}
