/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio.h - what would block on a file, done without blocking: by io_uring or, where a container or a kernel does not allow
 * that, by threads. One thread at a time uses it, that of its event loop.
 */
#ifndef PLURES_BLOCK_AIO_H
#define PLURES_BLOCK_AIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "host/event.h"

enum aio_op { AIO_READ, AIO_WRITE, AIO_SYNC /* fdatasync */, AIO_ALLOCATE /* fallocate */ };

/* Embedded in the caller's; the caller's again when `done` is called. */
struct aio_request {
	enum aio_op op;
	int fd;
	uint64_t offset;
	const struct iovec *iov; /* READ, WRITE; at most IOV_MAX */
	unsigned iovs;
	uint64_t size; /* ALLOCATE */
	int mode;      /* ALLOCATE: FALLOC_FL_* */
	/* The bytes that were read or written, perhaps fewer than asked for; or 0; or -errno. From the loop or aio_poll. */
	void (*done)(struct aio_request *request, int64_t result);

	/* aio's. */
	struct aio_request *next;
	int64_t result;
};

struct aio;

struct aio_ops {
	void (*submit)(struct aio *aio, struct aio_request *request);
	void (*kick)(struct aio *aio);
	bool (*poll)(struct aio *aio, bool wait);
	void (*destroy)(struct aio *aio);
};

struct aio {
	const struct aio_ops *ops;
};

/* By io_uring unless `threads`, or unless this process may not use it. */
int aio_create(struct aio **aio, struct event_loop *loop, bool threads, struct error *err);
/* Requests go to the host with the next kick, or earlier. */
static inline void aio_submit(struct aio *aio, struct aio_request *request)
{
	aio->ops->submit(aio, request);
}
static inline void aio_kick(struct aio *aio)
{
	aio->ops->kick(aio);
}
/* Calls back for what has ended; with `wait`, which needs something under way, waits for that. False: nothing had. */
static inline bool aio_poll(struct aio *aio, bool wait)
{
	return aio->ops->poll(aio, wait);
}
/* Nothing is under way. NULL is nothing. */
void aio_destroy(struct aio *aio);

/* ---- the two kinds: aio_uring.c, aio_threads.c ---- */

int aio_uring_create(struct aio **aio, struct event_loop *loop, struct error *err);
int aio_threads_create(struct aio **aio, struct event_loop *loop, struct error *err);

#endif
