/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remote.h - what disks on servers have in common, whatever the server speaks (nbd.c, iscsi.c): requests in parts that the server takes, and
 * a connection that may break.
 *
 * When it breaks, or a server says nothing for REMOTE_SILENCE while it owes answers, the user is told, requests wait, and a thread tries to connect
 * again, at first soon and then every few seconds. A server that is back gets all that it had not answered once more, which is the same
 * for reads and writes of what nobody else writes. Who has waited for REMOTE_PATIENCE gets -EIO, and so does everything
 * from then on until the server is back: a guest never hangs for ever. The user is told once of each.
 */
#ifndef PLURES_BLOCK_REMOTE_H
#define PLURES_BLOCK_REMOTE_H

#include <sys/queue.h>

#include "block/driver.h"

enum { REMOTE_SILENCE = 20, REMOTE_PATIENCE = 30 }; /* seconds */

struct remote;

/* What a connection found at the server. */
struct remote_disk {
	uint64_t size; /* in bytes, of any number */
	unsigned alignment;
	bool readonly, flushes, discards, zeroes;
	uint64_t most_data, most_zeroes; /* bytes a request */
};

/* A request's part at the server: `size` bytes at `offset`. */
struct remote_io {
	struct block_request *request;
	uint64_t offset, size;
	uint8_t *bytes; /* READ, WRITE */

	/* remote.c's. */
	struct remote *remote;
	uint8_t *bounce;
	uint64_t done; /* bytes of the request, before this part */
	int result;
	TAILQ_ENTRY(remote_io) link;
};

TAILQ_HEAD(remote_ios, remote_io);

/* `handle` is the driver's connection. All but connect are called on the loop's thread. */
struct remote_ops {
	struct block_ops block; /* with .name; the rest is remote.c's */
	/* Connects to `where` and looks. Blocks, in a thread; gives up with -ECANCELED when `cancel`, if it is not -1, becomes readable, and after some time. */
	int (*connect)(const char *where, bool readonly, int cancel, void **handle, struct remote_disk *disk,
		       struct error *err);
	void (*disconnect)(void *handle);
	int (*fd)(void *handle);
	uint32_t (*events)(void *handle); /* EPOLLIN, EPOLLOUT: what it waits for */
	void (*service)(void *handle, uint32_t ready);
	/* Whether it can still be used. */
	bool (*alive)(void *handle);
	/* Starts a part; ends it with remote_done, perhaps at once. -errno: it could not. */
	int (*start)(void *handle, struct remote_io *io);
};

/* Connects and makes a disk of it. */
int remote_open(struct block **block, const struct remote_ops *ops, const struct block_options *options,
		struct event_loop *loop, struct error *err);

/* The end of a part: 0 or -errno. May be called from within start and service; nothing comes of it before they return. Never after disconnect. */
void remote_done(struct remote_io *io, int result);

/* For connect: waits until fd is ready for `events` (POLLIN, POLLOUT); what is ready, -ECANCELED or -ETIMEDOUT at `deadline` (host_now). */
int remote_wait(int fd, short events, int cancel, uint64_t deadline);

/* For submit, kick, poll and so on in .block of a driver's ops. */
void remote_submit(struct block *block, struct block_request *request);
bool remote_poll(struct block *block, bool wait);
void remote_cancel(struct block *block);
int remote_close(struct block *block);

#define REMOTE_BLOCK_OPS(kind)                                                                         \
	{                                                                                              \
		.name = (kind), .submit = remote_submit, .poll = remote_poll, .cancel = remote_cancel, \
		.close = remote_close                                                                  \
	}

#endif
