/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/vsock_conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/memory.h"

enum { GREETING_MAX = 32, IOV_AT_ONCE = 64 };

/* What nobody takes any more counts as taken: the guest is told in another way. */
static void drop(struct vsock_conn *conn)
{
	conn->start = conn->used = 0;
	conn->forwarded = conn->received;
}

int vsock_conn_open(struct vsock_conn *conn, struct event_loop *loop, int fd,
		    void (*on_ready)(void *conn, uint32_t ready), struct error *err)
{
	conn->fd = fd;
	conn->readable = conn->writable = true;
	int rc = event_add(loop, &conn->source, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, on_ready, conn, err);
	if (rc)
		vsock_conn_close(conn);
	return rc;
}

void vsock_conn_close(struct vsock_conn *conn)
{
	event_remove(conn->source);
	conn->source = NULL;
	if (conn->fd >= 0)
		close(conn->fd);
	conn->fd = -1;
	conn->readable = conn->writable = false;
	free(conn->buffer);
	conn->buffer = NULL;
	drop(conn);
}

void vsock_conn_note(struct vsock_conn *conn, uint32_t ready)
{
	if (ready & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		conn->writable = true;
	if (ready & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->readable = true;
	if (ready & EPOLLHUP)
		conn->hung_up = true;
}

/* ---- the greeting ---- */

static bool parse_greeting(const char *line, uint32_t *port)
{
	static const char word[] = "CONNECT ";
	uint64_t value = 0;

	if (strncmp(line, word, sizeof(word) - 1) != 0)
		return false;
	line += sizeof(word) - 1;
	if (!*line)
		return false;
	for (; *line; line++) {
		if (*line < '0' || *line > '9')
			return false;
		value = value * 10 + (unsigned)(*line - '0');
		if (value >= UINT32_MAX)
			return false;
	}
	*port = (uint32_t)value;
	return true;
}

/* What follows the line is the guest's and stays in the socket. */
int vsock_conn_greeting(struct vsock_conn *conn, uint32_t *port)
{
	char line[GREETING_MAX];
	ssize_t n = recv(conn->fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	char *end = memchr(line, '\n', (size_t)n);
	if (!end)
		return !n || n == sizeof(line) || conn->hung_up ? -1 : 0;
	if (recv(conn->fd, line, (size_t)(end - line) + 1, MSG_DONTWAIT) != end - line + 1)
		return -1;
	*end = '\0';
	return parse_greeting(line, port) ? 1 : -1;
}

bool vsock_conn_say(struct vsock_conn *conn, const char *line)
{
	return send(conn->fd, line, strlen(line), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)strlen(line);
}

/* ---- to the guest ---- */

uint32_t vsock_conn_credit(const struct vsock_conn *conn)
{
	uint32_t under_way = conn->sent - conn->guest_forwarded;

	if (conn->state != VSOCK_OPEN || !conn->readable || conn->guest_shutdown & VSOCK_NO_RECEIVE)
		return 0;
	return under_way < conn->guest_buffer ? conn->guest_buffer - under_way : 0;
}

size_t vsock_conn_read(struct vsock_conn *conn, const struct iovec *iov, unsigned n)
{
	ssize_t r = readv(conn->fd, iov, (int)n);

	if (r > 0) {
		conn->sent += (uint32_t)r;
		return (size_t)r;
	}
	if (r < 0 && errno == EINTR)
		return 0;
	conn->readable = false;
	if (!r || errno != EAGAIN)
		conn->ended = true;
	return 0;
}

/* ---- to the client ---- */

/* Puts iov from `skip` on into the buffer, where it fits. */
static void keep(struct vsock_conn *conn, const struct iovec *iov, unsigned n, size_t skip)
{
	if (!conn->buffer)
		conn->buffer = memory_zalloc(VSOCK_BUFFER);
	for (unsigned i = 0; i < n; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		const uint8_t *from = (const uint8_t *)iov[i].iov_base + skip;
		size_t left = iov[i].iov_len - skip;
		skip = 0;
		while (left) {
			size_t at = (conn->start + conn->used) % VSOCK_BUFFER;
			size_t part = left < VSOCK_BUFFER - at ? left : VSOCK_BUFFER - at;
			memcpy(conn->buffer + at, from, part);
			conn->used += part;
			from += part;
			left -= part;
		}
	}
}

/* What the client takes at once. */
static size_t send_now(struct vsock_conn *conn, const struct iovec *iov, unsigned n)
{
	const struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n };

	if (!conn->writable || conn->fd < 0)
		return 0;
	ssize_t r = sendmsg(conn->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r >= 0)
		return (size_t)r;
	if (errno == EAGAIN)
		conn->writable = false;
	else if (errno != EINTR)
		conn->hung_up = true;
	return 0;
}

bool vsock_conn_write(struct vsock_conn *conn, const struct iovec *iov, unsigned n)
{
	size_t size = 0;

	for (unsigned i = 0; i < n; i++)
		size += iov[i].iov_len;
	if (size > VSOCK_BUFFER - conn->used)
		return false;
	conn->received += (uint32_t)size;
	size_t done = conn->used ? 0 : send_now(conn, iov, n < IOV_AT_ONCE ? n : IOV_AT_ONCE);
	conn->forwarded += (uint32_t)done;
	if (conn->fd < 0 || conn->hung_up)
		drop(conn);
	else if (done < size)
		keep(conn, iov, n, done);
	return true;
}

void vsock_conn_flush(struct vsock_conn *conn)
{
	while (conn->used && conn->writable && !conn->hung_up) {
		size_t part = VSOCK_BUFFER - conn->start;
		struct iovec iov = { conn->buffer + conn->start, conn->used < part ? conn->used : part };
		size_t done = send_now(conn, &iov, 1);
		conn->start = (conn->start + done) % VSOCK_BUFFER;
		conn->used -= done;
		conn->forwarded += (uint32_t)done;
	}
	if (conn->hung_up)
		drop(conn);
}
