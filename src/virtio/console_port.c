/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/console_port.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/memory.h"
#include "host/event.h"

enum { IOV_AT_ONCE = 64 };

struct console_port {
	struct event_loop *loop;
	const struct console_port_events *events;
	void *ctx;
	struct sockaddr_un address;
	bool bound;           /* the socket's file is ours */
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

/* Removes a socket that a process which is gone has left. */
static int clear_path(const struct sockaddr_un *address, struct error *err)
{
	const char *path = address->sun_path;
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : error_errno(err, -errno, "can't listen at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EEXIST, "can't listen at %s: there is a file that is no socket", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(err, -errno, "can't make a socket");
	bool alive = !connect(fd, (const struct sockaddr *)address, sizeof(*address)) || errno != ECONNREFUSED;
	close(fd);
	if (alive)
		return error_set(err, -EADDRINUSE, "can't listen at %s: another process does", path);
	if (unlink(path))
		return error_errno(err, -errno, "can't replace %s", path);
	return 0;
}

static int open_listener(struct console_port *port, const char *path, struct error *err)
{
	if (strlen(path) >= sizeof(port->address.sun_path))
		return error_set(err, -ENAMETOOLONG, "%s is too long for a socket: at most %zu bytes", path,
				 sizeof(port->address.sun_path) - 1);
	port->address.sun_family = AF_UNIX;
	strcpy(port->address.sun_path, path);
	int rc = clear_path(&port->address, err);
	if (rc)
		return rc;
	port->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (port->listener < 0)
		return error_errno(err, -errno, "can't make a socket");
	if (bind(port->listener, (const struct sockaddr *)&port->address, sizeof(port->address)))
		return error_errno(err, -errno, "can't listen at %s", path);
	port->bound = true;
	/* Nobody can connect before listen: so nobody but the user ever can. */
	if (chmod(path, 0600) || listen(port->listener, 4))
		return error_errno(err, -errno, "can't listen at %s", path);
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
	if (port->bound)
		unlink(port->address.sun_path);
	free(port);
}
