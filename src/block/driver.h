/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.h - for layers of a disk: what block.c asks of one. Users of a disk need block.h only.
 *
 * A layer embeds struct block first and fills in its fields before its open returns. block.c has checked what comes to
 * `submit`: size not 0 (but FLUSH's), aligned, inside [0, size), no write to what is read-only.
 */
#ifndef PLURES_BLOCK_DRIVER_H
#define PLURES_BLOCK_DRIVER_H

#include "block/block.h"

struct block_ops {
	const char *name;
	/* Starts a request; ends it with block_done, now or later, on the loop's thread. */
	void (*submit)(struct block *block, struct block_request *request);
	/* The end of a batch. NULL: nothing to do, but a layer on another passes it on. */
	void (*kick)(struct block *block);
	/* Looks at the size again. NULL: it does not change. */
	uint64_t (*refresh)(struct block *block);
	/* Makes it `size` bytes long, growing only; for formats that need room in what they stand on. Blocks; may be NULL: -EOPNOTSUPP. Rarely
	 * called: a layer that grows does so by large steps. */
	int (*grow)(struct block *block, uint64_t size);
	/* Frees it and what it stands on; no request is under way. -errno when something could not be written. */
	int (*close)(struct block *block);
};

struct block {
	const struct block_ops *ops;
	struct event_loop *loop;
	struct block_options options; /* `where` and `format` belong to the block */
	uint64_t size;
	unsigned alignment;
	bool readonly;
	bool discards, zeroes; /* it does something about DISCARD, WRITE_ZEROES that is cheaper than writing */

	/* block.c's. */
	struct event_work work; /* calls `done` from the loop, not from within submit */
	struct block_request *finished, **finished_end;
	void (*resized)(void *ctx, uint64_t size);
	void *resized_ctx;
};

/* Fills in what all layers have; *block is zeroed. */
void block_init(struct block *block, const struct block_ops *ops, struct event_loop *loop,
		const struct block_options *options);
void block_fini(struct block *block);

/* The end of a request, from the layer that serves it: `done` is called from the loop, soon. On the loop's thread. */
void block_done(struct block_request *request, int result);

/* Tells the user through the options' warn. */
void block_warn(struct block *block, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For opening and closing only, when the loop does not run or on its thread: does one request and waits for it, turning nothing else. -errno. */
int block_sync(struct block *block, enum block_op op, uint64_t offset, void *bytes, uint64_t size);

#endif
