/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.h - a disk: bytes at offsets, read and written asynchronously.
 *
 * A disk is a stack of layers, each a struct block: a limiter over a format (qcow2) over a protocol (a file, NBD, iSCSI).
 * block_open builds the stack from what the user wrote; each layer is a file and a line in drivers.def. A layer stands on
 * others through this same header, so a format knows nothing of where its bytes are.
 *
 * Threads. A block belongs to one event loop; all calls come on that loop's thread, or from anywhere while the loop does not run
 * (opening and closing). `done` is called on the loop's thread, never from within block_submit. Nothing here blocks that thread for
 * longer than a copy to or from the host's page cache, except opening, closing and waiting.
 *
 * Errors are -errno: -EIO, -ENOSPC, and -EROFS for a write to what is read-only. What a request asks for is checked in one place, block_submit: a request
 * beyond the end gets -EINVAL. A request that fails may have been done in part. A layer that finds its image corrupt refuses writes
 * from then on and says so once (`warn`), and never repairs by guessing.
 *
 * Order. Requests under way may be done in any order; who needs an order waits for `done`. A write that was done before a
 * FLUSH was submitted is on stable storage when that FLUSH is done.
 */
#ifndef PLURES_BLOCK_BLOCK_H
#define PLURES_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "host/event.h"

struct block;

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,        /* offset and size are 0 */
	BLOCK_DISCARD,      /* the bytes may read as anything afterwards; a layer may ignore it */
	BLOCK_WRITE_ZEROES, /* they read as zeros */
};

/* The caller's until `done` and after; embedded in what the caller keeps for it. */
struct block_request {
	enum block_op op;
	bool unmap;              /* BLOCK_WRITE_ZEROES: space may be given back */
	uint64_t offset, size;   /* in bytes, multiples of the block's `alignment` */
	const struct iovec *iov; /* READ, WRITE: as long as `size`, valid until done; others NULL */
	unsigned iovs;
	/* 0 or -errno. On the loop's thread; may submit again and may free the request. */
	void (*done)(struct block_request *request, int result);

	/* The layer's that serves it, until done. */
	struct block *block;
	struct block_request *next;
	int result;
};

enum block_cache {
	BLOCK_CACHE_WRITEBACK, /* the host's page cache; FLUSH syncs */
	BLOCK_CACHE_NONE,      /* around the host's page cache: O_DIRECT */
	BLOCK_CACHE_UNSAFE,    /* FLUSH does nothing: for what is thrown away */
};

/* What the user said about a disk. `where` is a path, nbd://..., nbd+unix://... or iscsi://... */
struct block_options {
	const char *where;
	const char *format; /* "raw", "qcow2"; NULL: by looking, and only qcow2's magic makes it qcow2 */
	bool readonly;
	enum block_cache cache;
	bool threads; /* a file's requests are done by threads, not by io_uring; else, where io_uring is not allowed */
	uint64_t iops, bps; /* operations and bytes a second; 0 is no limit */
	/* The user should know: one line. On the loop's thread or within block_open. May be NULL. */
	void (*warn)(void *ctx, const char *what);
	void *ctx;
};

/* Whether there is such a format; NULL and "raw" are. -EINVAL and which there are. */
int block_check_format(const char *name, struct error *err);

/* Opens a disk for use by `loop`, locked against other users (several may have it read-only). On failure *block is NULL and
 * err says what, where and what to do. */
int block_open(struct block **block, const struct block_options *options, struct event_loop *loop, struct error *err);

/* Waits for nothing: no request may be under way. Cached metadata is written back first; -errno if that failed. NULL is 0. */
int block_close(struct block *block);

/* Starts a request. */
void block_submit(struct block *block, struct block_request *request);
/* Requests submitted since the last call go to the host now, at the latest; they may have gone before. Call it after a batch. */
void block_kick(struct block *block);

/* Has `done` called for what the host has finished meanwhile, earlier than the loop would; with `wait`, waits until there is something
 * (nothing under way: returns at once). Not from within `done`. False: nothing happened. */
bool block_poll(struct block *block, bool wait);
/* Whoever submitted no longer cares for what is under way: what waits for a server that is not there ends soon, with -ECANCELED.
 * The rest goes on. For a reset or the end, before block_drain. */
void block_cancel(struct block *block);
/* Waits until no request is under way; `done` may submit more, which is waited for as well. */
void block_drain(struct block *block);

/* Whether requests are under way. */
bool block_busy(const struct block *block);

uint64_t block_size(const struct block *block);      /* in bytes */
unsigned block_alignment(const struct block *block); /* 512 or 4096: what offsets and sizes are multiples of */
bool block_readonly(const struct block *block);
bool block_discards(const struct block *block);      /* DISCARD does something */
const char *block_where(const struct block *block);  /* for messages */
const char *block_format(const struct block *block); /* "raw", "qcow2" */

/* Looks whether the size has changed under it (a file that was made longer) and returns it. */
uint64_t block_refresh(struct block *block);

/* Called on the loop's thread when the size has changed. */
void block_on_resize(struct block *block, void (*resized)(void *ctx, uint64_t size), void *ctx);

#endif
