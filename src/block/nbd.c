/* SPDX-License-Identifier: Apache-2.0 */
/* nbd.c - disks on NBD servers, through libnbd: nbd://HOST[:PORT][/EXPORT] and nbd+unix:///EXPORT?socket=PATH. Below remote.h. */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include "block/remote.h"
#include "host/timer.h"

#define CONNECT_NS UINT64_C(10000000000)

enum { MOST_DATA = 32 << 20 }; /* what every server takes, if it doesn't say otherwise */

/* ---- connecting ---- */

static int nbd_failed(struct error *err, const char *doing)
{
	int code = nbd_get_errno();
	const char *why = nbd_get_error();
	/* libnbd's messages begin with the name of its function. */
	const char *colon = why ? strstr(why, ": ") : NULL;
	return error_set(err, code ? -code : -EIO, "%s: %s", doing, colon ? colon + 2 : why ? why : "unknown");
}

/* Turns a handle until it has connected and negotiated. */
static int turn_until_ready(struct nbd_handle *nbd, int cancel, struct error *err)
{
	uint64_t deadline = host_now() + CONNECT_NS;
	while (!nbd_aio_is_ready(nbd)) {
		unsigned direction = nbd_aio_get_direction(nbd);
		if (nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
			return error_set(err, -ECONNREFUSED, "the server ended the connection");
		short events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				       (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
		int ready = remote_wait(nbd_aio_get_fd(nbd), events, cancel, deadline);
		if (ready < 0)
			return error_set(err, ready, "the server does not answer");
		int rc = 0;
		if (ready & (POLLIN | POLLHUP) && direction & LIBNBD_AIO_DIRECTION_READ)
			rc = nbd_aio_notify_read(nbd);
		else if (ready & (POLLOUT | POLLHUP | POLLERR))
			rc = nbd_aio_notify_write(nbd);
		if (rc < 0)
			return nbd_failed(err, "can't connect");
	}
	return 0;
}

static int look(struct nbd_handle *nbd, struct remote_disk *disk, struct error *err)
{
	int64_t size = nbd_get_size(nbd), least = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM);
	int64_t most = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);
	if (size < 0)
		return nbd_failed(err, "can't tell its size");
	if (least > 4096)
		return error_set(err, -ENOTSUP,
				 "the server wants requests in units of %lld bytes; at most 4096 are supported",
				 (long long)least);
	disk->size = (uint64_t)size;
	disk->alignment = least > 512 ? 4096 : 512;
	disk->readonly = nbd_is_read_only(nbd) > 0;
	disk->flushes = nbd_can_flush(nbd) > 0;
	disk->discards = nbd_can_trim(nbd) > 0;
	disk->zeroes = nbd_can_zero(nbd) > 0;
	disk->most_data = most > 0 && most < MOST_DATA ? (uint64_t)most & ~(uint64_t)4095 : MOST_DATA;
	/* Lengths have 32 bits on the wire. */
	disk->most_zeroes = 1u << 30;
	return disk->most_data ? 0 : error_set(err, -ENOTSUP, "the server takes %lld bytes at a time", (long long)most);
}

static int nbd_open(struct nbd_handle *nbd, const char *where, int cancel, struct remote_disk *disk, struct error *err)
{
	/* Names come from a user or an image; what they may lead to is a server, not a program or a key file. */
	nbd_set_uri_allow_local_file(nbd, false);
	nbd_set_uri_allow_tls(nbd, LIBNBD_TLS_DISABLE);
	nbd_set_pread_initialize(nbd, false);
	if (nbd_aio_connect_uri(nbd, where) < 0)
		return nbd_failed(err, "can't connect");
	int rc = turn_until_ready(nbd, cancel, err);
	return rc ? rc : look(nbd, disk, err);
}

static int nbd_connect_disk(const char *where, bool readonly, int cancel, void **handle, struct remote_disk *disk,
			    struct error *err)
{
	struct nbd_handle *nbd = nbd_create();
	(void)readonly;
	if (!nbd)
		return nbd_failed(err, "NBD");
	int rc = nbd_open(nbd, where, cancel, disk, err);
	if (rc)
		nbd_close(nbd);
	else
		*handle = nbd;
	return rc;
}

/* ---- connected ---- */

static void nbd_disconnect_disk(void *handle)
{
	struct nbd_handle *nbd = handle;
	/* Politely, if it can be said at once; nobody waits for the answer. */
	if (nbd_aio_is_ready(nbd))
		nbd_aio_disconnect(nbd, 0);
	nbd_close(nbd);
}

static int nbd_fd(void *handle)
{
	return nbd_aio_get_fd(handle);
}

static uint32_t nbd_events(void *handle)
{
	unsigned direction = nbd_aio_get_direction(handle);
	return (direction & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0u) |
	       (direction & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0u);
}

static bool nbd_alive(void *handle)
{
	return !nbd_aio_is_dead(handle) && !nbd_aio_is_closed(handle);
}

/* A failure is the end of the connection, which nbd_alive tells. */
static void nbd_service(void *handle, uint32_t ready)
{
	struct nbd_handle *nbd = handle;
	if (ready & (EPOLLIN | EPOLLHUP | EPOLLERR) && nbd_aio_get_direction(nbd) & LIBNBD_AIO_DIRECTION_READ)
		nbd_aio_notify_read(nbd);
	if (ready & EPOLLOUT && nbd_alive(nbd) && nbd_aio_get_direction(nbd) & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(nbd);
}

/* Within a call of libnbd, whose handle is locked: nothing more may be asked of it here. */
static int nbd_completed(void *io, int *error)
{
	remote_done(io, *error ? -*error : 0);
	return 1; /* and forget it */
}

static int nbd_start(void *handle, struct remote_io *io)
{
	struct nbd_handle *nbd = handle;
	nbd_completion_callback done = { .callback = nbd_completed, .user_data = io };
	const struct block_request *r = io->request;
	int64_t cookie = -1;
	switch (r->op) {
	case BLOCK_READ:
		cookie = nbd_aio_pread(nbd, io->bytes, io->size, io->offset, done, 0);
		break;
	case BLOCK_WRITE:
		cookie = nbd_aio_pwrite(nbd, io->bytes, io->size, io->offset, done, 0);
		break;
	case BLOCK_FLUSH:
		cookie = nbd_aio_flush(nbd, done, 0);
		break;
	case BLOCK_DISCARD:
		cookie = nbd_aio_trim(nbd, io->size, io->offset, done, 0);
		break;
	case BLOCK_WRITE_ZEROES:
		cookie = nbd_aio_zero(nbd, io->size, io->offset, done, r->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
		break;
	}
	return cookie >= 0 ? 0 : nbd_get_errno() ? -nbd_get_errno() : -EIO;
}

static const struct remote_ops nbd_ops = {
	.block = REMOTE_BLOCK_OPS("nbd"),
	.connect = nbd_connect_disk,
	.disconnect = nbd_disconnect_disk,
	.fd = nbd_fd,
	.events = nbd_events,
	.service = nbd_service,
	.alive = nbd_alive,
	.start = nbd_start,
};

int block_nbd_open(struct block **block, const struct block_options *options, struct event_loop *loop,
		   struct error *err)
{
	return remote_open(block, &nbd_ops, options, loop, err);
}
