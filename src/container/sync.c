/* SPDX-License-Identifier: Apache-2.0 */
#include "container/sync.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct header {
	int32_t kind, value;
};

int sync_open(int *ours, int *theirs, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return error_errno(err, -errno, "socketpair");
	*ours = pair[0];
	*theirs = pair[1];
	return 0;
}

/* Sends parts of one packet, with descriptors. */
static int put(int fd, struct iovec *parts, size_t part_count, const int *fds, unsigned count)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = { 0 };
	struct msghdr msg = { .msg_iov = parts, .msg_iovlen = part_count };

	if (count) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	}
	while (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int sync_send(int fd, enum sync_kind kind, int value, const void *data, size_t size)
{
	struct header header = { (int32_t)kind, value };
	struct iovec parts[] = { { &header, sizeof(header) }, { (void *)(uintptr_t)data, size } };

	return put(fd, parts, 2, NULL, 0);
}

int sync_send_fds(int fd, enum sync_kind kind, const int *fds, unsigned count)
{
	struct header header = { (int32_t)kind, 0 };
	struct iovec part = { &header, sizeof(header) };

	return put(fd, &part, 1, fds, count);
}

int sync_tell(int fd, enum sync_kind kind)
{
	const struct header header = { (int32_t)kind, 0 };
	ssize_t put;

	do
		put = write(fd, &header, sizeof(header));
	while (put < 0 && errno == EINTR);
	return put < 0 ? -errno : 0;
}

int sync_hear(int fd)
{
	struct header header = { 0, 0 };
	ssize_t got;

	do
		got = read(fd, &header, sizeof(header));
	while (got < 0 && errno == EINTR);
	return got == sizeof(header) ? header.kind : 0;
}

int sync_pass(int socket, int fd, const void *data, size_t size)
{
	struct iovec part = { (void *)(uintptr_t)data, size };

	return put(socket, &part, 1, &fd, 1);
}

int sync_receive(int fd, struct sync_message *message)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))];
	struct header header = { 0, 0 };
	struct iovec parts[] = { { &header, sizeof(header) }, { message->data, sizeof(message->data) } };
	struct msghdr msg = {
		.msg_iov = parts, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)
	};
	ssize_t size;

	do
		size = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (size < 0 && (errno == EINTR || errno == ECONNRESET));
	/* ECONNRESET, once: it went away with messages unread. What it said before comes after that. */
	if (size < 0)
		return -errno;
	message->kind = size < (ssize_t)sizeof(header) ? 0 : header.kind;
	message->value = header.value;
	message->size = size < (ssize_t)sizeof(header) ? 0 : (size_t)size - sizeof(header);
	message->fd_count = 0;
	if (message->size < sizeof(message->data))
		message->data[message->size] = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c && size > 0; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		message->fd_count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(message->fds, CMSG_DATA(c), message->fd_count * sizeof(int));
	}
	return 0;
}

int sync_expect(int fd, enum sync_kind kind, struct sync_message *message, struct error *err)
{
	int rc = sync_receive(fd, message);

	if (rc)
		return error_errno(err, rc, "the socket between the runtime and the container's process");
	if (message->kind == (int)kind)
		return 0;
	if (message->kind == SYNC_FAILED) {
		message->data[sizeof(message->data) - 1] = 0;
		return error_set(err, message->value < 0 ? message->value : -EIO, "%.480s", message->data);
	}
	return error_set(err, -EPIPE, "the container's process ended before it was ready");
}
