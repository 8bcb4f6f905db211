/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limit.c - token buckets for requests and bytes. A request goes when both are open, and then takes what it costs. Who waits for
 * all requests (a reset) does not wait for tokens: they are owed.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/token_bucket.h"
#include "block/layers.h"
#include "host/timer.h"

struct limited {
	struct block_request below, *request;
	struct limited *next;
};

struct limit {
	struct block block, *below;
	struct host_timer timer;
	struct token_bucket ops, bytes;
	struct limited *waiting, **waiting_end;
	struct limited *spare;
};

static struct limit *of(struct block *block)
{
	return (struct limit *)block;
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

static void pass(struct limit *limit, struct limited *l)
{
	token_bucket_take(&limit->ops, 1);
	if (is_counted(l->request))
		token_bucket_take(&limit->bytes, l->request->size);
	block_submit(limit->below, &l->below);
}

/* Lets go what may, or (all) everything. */
static bool release(struct limit *limit, bool all)
{
	uint64_t now = host_now();
	bool any = false;

	while (limit->waiting) {
		uint64_t ops = token_bucket_wait(&limit->ops, now), bytes = token_bucket_wait(&limit->bytes, now);
		if ((ops || bytes) && !all) {
			host_timer_arm(&limit->timer, ops > bytes ? ops : bytes, 0);
			break;
		}
		struct limited *l = limit->waiting;
		limit->waiting = l->next;
		if (!limit->waiting)
			limit->waiting_end = &limit->waiting;
		pass(limit, l);
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
	uint64_t now = host_now();
	token_bucket_init(&limit->ops, options->iops, 1, now);
	token_bucket_init(&limit->bytes, options->bps, 1, now);
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
