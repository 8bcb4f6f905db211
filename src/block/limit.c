/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limit.c - token buckets. Each fills at its rate, up to what a tenth of a second gives (or one request, if that is more), and
 * a request goes when no bucket is in debt; it then takes what it costs, perhaps more than there is, which later ones wait for. So a
 * request of any size passes, and the average is right. Who waits for all requests (a reset) does not wait for tokens: they are owed.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/memory.h"
#include "block/layers.h"
#include "host/timer.h"

#define NS_PER_S UINT64_C(1000000000)
#define BURST_NS (NS_PER_S / 10)

/* Kept as time: `until` is when the bucket will be, or was, full enough to be out of debt. */
struct bucket {
	uint64_t rate; /* a second, or 0 */
	uint64_t free; /* a request may go from then on */
};

struct limited {
	struct block_request below, *request;
	struct limited *next;
};

struct limit {
	struct block block, *below;
	struct host_timer timer;
	struct bucket ops, bytes;
	struct limited *waiting, **waiting_end;
	struct limited *spare;
};

static struct limit *of(struct block *block)
{
	return (struct limit *)block;
}

/* ---- buckets ---- */

/* How long `amount` takes to flow in. */
static uint64_t cost(const struct bucket *bucket, uint64_t amount)
{
	return bucket->rate ? (uint64_t)((double)amount * (double)NS_PER_S / (double)bucket->rate) : 0;
}

static void bucket_take(struct bucket *bucket, uint64_t amount, uint64_t now)
{
	/* A full bucket: its debt ended a burst ago. */
	if (now > BURST_NS && bucket->free < now - BURST_NS)
		bucket->free = now - BURST_NS;
	bucket->free += cost(bucket, amount);
}

/* ---- requests ---- */

static void on_done(struct block_request *below, int result)
{
	struct limited *l = (struct limited *)below;
	struct block_request *request = l->request;
	struct limit *limit = of(request->block);

	l->next = limit->spare;
	limit->spare = l;
	block_done(request, result);
}

static bool is_counted(const struct block_request *r)
{
	return r->op == BLOCK_READ || r->op == BLOCK_WRITE;
}

static void pass(struct limit *limit, struct limited *l, uint64_t now)
{
	bucket_take(&limit->ops, 1, now);
	if (is_counted(l->request))
		bucket_take(&limit->bytes, l->request->size, now);
	block_submit(limit->below, &l->below);
}

/* Lets go what may, or (all) everything. */
static bool release(struct limit *limit, bool all)
{
	uint64_t now = host_now();
	bool any = false;

	while (limit->waiting) {
		uint64_t when = limit->ops.free > limit->bytes.free ? limit->ops.free : limit->bytes.free;
		if (when > now && !all) {
			host_timer_arm(&limit->timer, when - now, 0);
			break;
		}
		struct limited *l = limit->waiting;
		limit->waiting = l->next;
		if (!limit->waiting)
			limit->waiting_end = &limit->waiting;
		pass(limit, l, now);
		any = true;
	}
	return any;
}

static void on_timer(void *arg)
{
	struct limit *limit = arg;

	if (release(limit, false))
		block_kick(limit->below);
}

static void limit_submit(struct block *block, struct block_request *request)
{
	struct limit *limit = of(block);
	struct limited *l = limit->spare;

	if (l)
		limit->spare = l->next;
	else
		l = memory_zalloc(sizeof(*l));
	l->request = request;
	l->below = (struct block_request){
		.op = request->op,
		.unmap = request->unmap,
		.offset = request->offset,
		.size = request->size,
		.iov = request->iov,
		.iovs = request->iovs,
		.done = on_done,
	};
	l->next = NULL;
	bool first = !limit->waiting;
	*limit->waiting_end = l;
	limit->waiting_end = &l->next;
	if (first)
		release(limit, false);
}

static void limit_kick(struct block *block)
{
	block_kick(of(block)->below);
}

static bool limit_poll(struct block *block, bool wait)
{
	struct limit *limit = of(block);

	if (block_poll(limit->below, false))
		return true;
	if (wait && release(limit, true))
		block_kick(limit->below);
	return wait && block_poll(limit->below, true);
}

static void limit_cancel(struct block *block)
{
	release(of(block), true);
	block_cancel(of(block)->below);
}

/* ---- the layer ---- */

static uint64_t limit_refresh(struct block *block)
{
	return block_refresh(of(block)->below);
}

static int limit_grow(struct block *block, uint64_t size)
{
	struct block *below = of(block)->below;
	int rc = below->ops->grow ? below->ops->grow(below, size) : -EOPNOTSUPP;

	block->size = below->size;
	return rc;
}

static int limit_close(struct block *block)
{
	struct limit *limit = of(block);
	int rc = block_close(limit->below);

	while (limit->spare) {
		struct limited *l = limit->spare;
		limit->spare = l->next;
		free(l);
	}
	host_timer_fini(&limit->timer);
	block_fini(block);
	free(limit);
	return rc;
}

static const struct block_ops limit_ops = {
	.name = "limit",
	.submit = limit_submit,
	.kick = limit_kick,
	.poll = limit_poll,
	.cancel = limit_cancel,
	.refresh = limit_refresh,
	.grow = limit_grow,
	.close = limit_close,
};

int block_limit_open(struct block **block, struct block *below, const struct block_options *options,
		     struct event_loop *loop, struct error *err)
{
	struct limit *limit = memory_zalloc(sizeof(*limit));

	*block = NULL;
	block_init(&limit->block, &limit_ops, loop, options);
	limit->below = below;
	limit->waiting_end = &limit->waiting;
	limit->ops.rate = options->iops;
	limit->bytes.rate = options->bps;
	limit->block.size = below->size;
	limit->block.alignment = below->alignment;
	limit->block.readonly = below->readonly;
	limit->block.discards = below->discards;
	limit->block.zeroes = true; /* what is cheaper is the business of what is below */
	int rc = host_timer_init(&limit->timer, loop, on_timer, limit, err);
	if (rc)
		limit_close(&limit->block);
	else
		*block = &limit->block;
	return rc;
}
