/* SPDX-License-Identifier: Apache-2.0 */
/* nbd.c - disks on NBD servers, through libnbd: nbd://HOST[:PORT][/EXPORT] and nbd+unix:///EXPORT?socket=PATH. Below remote.h. */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/memory.h"
#include "block/remote.h"
#include "host/library.h"
#include "host/timer.h"

#define CONNECT_NS UINT64_C(10000000000)

enum { MOST_DATA = 32 << 20 }; /* what every server takes, if it doesn't say otherwise */

/* What is used of libnbd, which is loaded by the first such disk. */
/* clang-format off */
#define NBD(F) \
	F(nbd_aio_connect_uri) F(nbd_aio_disconnect) F(nbd_aio_flush) F(nbd_aio_get_direction) \
	F(nbd_aio_get_fd) F(nbd_aio_is_closed) F(nbd_aio_is_dead) F(nbd_aio_is_ready) \
	F(nbd_aio_notify_read) F(nbd_aio_notify_write) F(nbd_aio_pread) F(nbd_aio_pwrite) F(nbd_aio_trim) \
	F(nbd_aio_zero) F(nbd_can_flush) F(nbd_can_trim) F(nbd_can_zero) F(nbd_close) F(nbd_create) \
	F(nbd_get_block_size) F(nbd_get_errno) F(nbd_get_error) F(nbd_get_size) F(nbd_is_read_only) \
	F(nbd_set_pread_initialize) F(nbd_set_uri_allow_local_file) F(nbd_set_uri_allow_tls)
/* clang-format on */
struct nbd_library {
	NBD(LIBRARY_POINTER)
};
static const char *const nbd_names[] = { NBD(LIBRARY_NAME) };

struct connection {
	struct nbd_library lib;
	struct nbd_handle *nbd;
};

/* ---- connecting ---- */

static int nbd_failed(const struct connection *c, struct error *err, const char *doing)
{
	int code = c->lib.nbd_get_errno();
	const char *why = c->lib.nbd_get_error();
	/* libnbd's messages begin with the name of its function. */
	const char *colon = why ? strstr(why, ": ") : NULL;
	return error_set(err, code ? -code : -EIO, "%s: %s", doing, colon ? colon + 2 : why ? why : "unknown");
}

/* Turns a handle until it has connected and negotiated. */
static int turn_until_ready(const struct connection *c, int cancel, struct error *err)
{
	uint64_t deadline = host_now() + CONNECT_NS;
	while (!c->lib.nbd_aio_is_ready(c->nbd)) {
		unsigned direction = c->lib.nbd_aio_get_direction(c->nbd);
		if (c->lib.nbd_aio_is_dead(c->nbd) || c->lib.nbd_aio_is_closed(c->nbd))
			return error_set(err, -ECONNREFUSED, "the server ended the connection");
		short events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				       (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
		int ready = remote_wait(c->lib.nbd_aio_get_fd(c->nbd), events, cancel, deadline);
		if (ready < 0)
			return error_set(err, ready, "the server does not answer");
		int rc = 0;
		if (ready & (POLLIN | POLLHUP) && direction & LIBNBD_AIO_DIRECTION_READ)
			rc = c->lib.nbd_aio_notify_read(c->nbd);
		else if (ready & (POLLOUT | POLLHUP | POLLERR))
			rc = c->lib.nbd_aio_notify_write(c->nbd);
		if (rc < 0)
			return nbd_failed(c, err, "can't connect");
	}
	return 0;
}

static int look(const struct connection *c, struct remote_disk *disk, struct error *err)
{
	int64_t size = c->lib.nbd_get_size(c->nbd), least = c->lib.nbd_get_block_size(c->nbd, LIBNBD_SIZE_MINIMUM);
	int64_t most = c->lib.nbd_get_block_size(c->nbd, LIBNBD_SIZE_MAXIMUM);
	if (size < 0)
		return nbd_failed(c, err, "can't tell its size");
	if (least > 4096)
		return error_set(err, -ENOTSUP,
				 "the server wants requests in units of %lld bytes; at most 4096 are supported",
				 (long long)least);
	disk->size = (uint64_t)size;
	disk->alignment = least > 512 ? 4096 : 512;
	disk->readonly = c->lib.nbd_is_read_only(c->nbd) > 0;
	disk->flushes = c->lib.nbd_can_flush(c->nbd) > 0;
	disk->discards = c->lib.nbd_can_trim(c->nbd) > 0;
	disk->zeroes = c->lib.nbd_can_zero(c->nbd) > 0;
	disk->most_data = most > 0 && most < MOST_DATA ? (uint64_t)most & ~(uint64_t)4095 : MOST_DATA;
	/* Lengths have 32 bits on the wire. */
	disk->most_zeroes = 1u << 30;
	return disk->most_data ? 0 : error_set(err, -ENOTSUP, "the server takes %lld bytes at a time", (long long)most);
}

static int nbd_open(const struct connection *c, const char *where, int cancel, struct remote_disk *disk,
		    struct error *err)
{
	/* Names come from a user or an image; what they may lead to is a server, not a program or a key file. */
	c->lib.nbd_set_uri_allow_local_file(c->nbd, false);
	c->lib.nbd_set_uri_allow_tls(c->nbd, LIBNBD_TLS_DISABLE);
	c->lib.nbd_set_pread_initialize(c->nbd, false);
	if (c->lib.nbd_aio_connect_uri(c->nbd, where) < 0)
		return nbd_failed(c, err, "can't connect");
	int rc = turn_until_ready(c, cancel, err);
	return rc ? rc : look(c, disk, err);
}

static int connection_open(struct connection *c, const char *where, int cancel, struct remote_disk *disk,
			   struct error *err)
{
	int rc = library_load(LIBRARY_NBD, nbd_names, LIBRARY_COUNT(nbd_names), &c->lib, err);
	if (rc)
		return rc;
	c->nbd = c->lib.nbd_create();
	return c->nbd ? nbd_open(c, where, cancel, disk, err) : nbd_failed(c, err, "NBD");
}

static void connection_destroy(struct connection *c)
{
	if (c->nbd)
		c->lib.nbd_close(c->nbd);
	free(c);
}

static int nbd_connect_disk(const char *where, bool readonly, int cancel, void **handle, struct remote_disk *disk,
			    struct error *err)
{
	struct connection *c = memory_zalloc(sizeof(*c));
	(void)readonly;
	int rc = connection_open(c, where, cancel, disk, err);
	if (rc)
		connection_destroy(c);
	else
		*handle = c;
	return rc;
}

/* ---- connected ---- */

static void nbd_disconnect_disk(void *handle)
{
	struct connection *c = handle;
	/* Politely, if it can be said at once; nobody waits for the answer. */
	if (c->lib.nbd_aio_is_ready(c->nbd))
		c->lib.nbd_aio_disconnect(c->nbd, 0);
	connection_destroy(c);
}

static int nbd_fd(void *handle)
{
	const struct connection *c = handle;
	return c->lib.nbd_aio_get_fd(c->nbd);
}

static uint32_t nbd_events(void *handle)
{
	const struct connection *c = handle;
	unsigned direction = c->lib.nbd_aio_get_direction(c->nbd);
	return (direction & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0u) |
	       (direction & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0u);
}

static bool nbd_alive(void *handle)
{
	const struct connection *c = handle;
	return !c->lib.nbd_aio_is_dead(c->nbd) && !c->lib.nbd_aio_is_closed(c->nbd);
}

/* A failure is the end of the connection, which nbd_alive tells. */
static void nbd_service(void *handle, uint32_t ready)
{
	const struct connection *c = handle;
	if (ready & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->lib.nbd_aio_get_direction(c->nbd) & LIBNBD_AIO_DIRECTION_READ)
		c->lib.nbd_aio_notify_read(c->nbd);
	if (ready & EPOLLOUT && nbd_alive(handle) && c->lib.nbd_aio_get_direction(c->nbd) & LIBNBD_AIO_DIRECTION_WRITE)
		c->lib.nbd_aio_notify_write(c->nbd);
}

/* Within a call of libnbd, whose handle is locked: nothing more may be asked of it here. */
static int nbd_completed(void *io, int *error)
{
	remote_done(io, *error ? -*error : 0);
	return 1; /* and forget it */
}

static int nbd_start(void *handle, struct remote_io *io)
{
	const struct connection *c = handle;
	nbd_completion_callback done = { .callback = nbd_completed, .user_data = io };
	const struct block_request *r = io->request;
	int64_t cookie = -1;
	switch (r->op) {
	case BLOCK_READ:
		cookie = c->lib.nbd_aio_pread(c->nbd, io->bytes, io->size, io->offset, done, 0);
		break;
	case BLOCK_WRITE:
		cookie = c->lib.nbd_aio_pwrite(c->nbd, io->bytes, io->size, io->offset, done, 0);
		break;
	case BLOCK_FLUSH:
		cookie = c->lib.nbd_aio_flush(c->nbd, done, 0);
		break;
	case BLOCK_DISCARD:
		cookie = c->lib.nbd_aio_trim(c->nbd, io->size, io->offset, done, 0);
		break;
	case BLOCK_WRITE_ZEROES:
		cookie =
		    c->lib.nbd_aio_zero(c->nbd, io->size, io->offset, done, r->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
		break;
	}
	return cookie >= 0 ? 0 : c->lib.nbd_get_errno() ? -c->lib.nbd_get_errno() : -EIO;
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
