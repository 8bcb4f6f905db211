/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.h - for layers of a disk: what block.c asks of one. Users of a disk need block.h only.
 *
 * A layer is a file and a line in drivers.def. It embeds struct block first and fills in its fields before its open returns.
 * block.c has checked what comes to `submit`: size not 0 (but FLUSH's), aligned, inside [0, size), no write to what is
 * read-only, DISCARD and WRITE_ZEROES only for a layer that says that it does something about them.
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
	/* Ends with block_done what the host has finished meanwhile; with `wait`, waits until there is something. Only called when
	 * requests are under way. A layer on others passes it on by block_poll, with `wait` to one whose under_way is not 0. False: nothing
	 * happened. NULL: all that it does ends within submit. */
	bool (*poll)(struct block *block, bool wait);
	/* Ends with -ECANCELED what waits for someone who may never come. A layer on others passes it on. NULL: nothing does. */
	void (*cancel)(struct block *block);
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
	bool discards; /* else DISCARD does nothing */
	bool zeroes;   /* it has a cheaper way to WRITE_ZEROES than writing; else block.c writes zeros */

	unsigned under_way; /* requests submitted and not done */

	/* block.c's. */
	bool guessed;           /* raw, for want of anything that it looks like */
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
/* As block_done, but calls `done` at once: within the `done` of a request below, which spares the loop another turn. */
void block_done_now(struct block_request *request, int result);

/* Does a WRITE_ZEROES by writing zeros and ends it: for a layer that finds that its cheaper way does not work here. */
void block_write_zeros(struct block *block, struct block_request *request);

/* Tells the user through the options' warn. */
void block_warn(struct block *block, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For opening and closing only, when the loop does not run or on its thread: does one request and waits for it, turning nothing
 * else. A read-only block takes no writes here either. -errno. */
int block_sync(struct block *block, enum block_op op, uint64_t offset, void *bytes, uint64_t size);

/* ---- drivers.def ---- */

/* A protocol opens what options->where names: block_NAME_open. A format (block_NAME_probe, block_NAME_open) is given what it stands on,
 * open already, which is its own from then on, also when it fails; options->where is still the user's, for messages, and
 * further files beside it (backing files) are opened by block_open. probe looks at the first bytes, fewer than `size` being there
 * read as zeros. On failure *block is NULL and err says why, without the file's name. */
#define BLOCK_PROTOCOL(name, prefix)                                                                                \
	int block_##name##_open(struct block **block, const struct block_options *options, struct event_loop *loop, \
				struct error *err);
#define BLOCK_FORMAT(name)                                                                                      \
	bool block_##name##_probe(const uint8_t *head, size_t size);                                            \
	int block_##name##_open(struct block **block, struct block *below, const struct block_options *options, \
				struct event_loop *loop, struct error *err);
#include "block/drivers.def"
#undef BLOCK_PROTOCOL
#undef BLOCK_FORMAT

#endif
