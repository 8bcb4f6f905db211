/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2.c - qcow2 images, versions 2 and 3. QEMU's docs/interop/qcow2.txt is the specification.
 *
 * The problem. A guest's byte is found by two tables in the file, and writing one may need a cluster, a table, a count of references: several places
 * in the file that must agree after a crash at any moment, while many requests are under way and the thread must not wait.
 *
 * The scheme.
 * - What the cached tables map to one run of the file that may be read or written in place goes straight there (`direct`): a lookup
 *   and a request below. Everything else runs in a fiber, as sequential code that waits.
 * - A request that may change where clusters are is exclusive at its clusters; all others share (qcow2_op). So data never goes to a cluster that has
 *   been given to someone else meanwhile, and two writes to one new cluster do not both allocate it.
 * - Tables change in memory. A commit (a guest's flush, a full cache, closing) takes a copy of all that is dirty between two waits, so
 *   that the copy is consistent, and writes it in this order, with a flush at each semicolon:
 *       refcount blocks; refcount table; (header, if that table moved;) L2 tables; L1 table; done
 *   An L2 entry changes, in memory, after the data that it points to is written, so the flush before the L2 tables covers the data as
 *   well as the counts. Only after all that the clusters which nothing points to any more are counted down and become free.
 * - So at any moment what the file's tables reach is whole, and counted: a crash leaks clusters at worst. qemu-img check -r leaks
 *   collects them.
 * - A commit that fails makes everything dirty again, and the guest's flush fails.
 *
 * What is not trusted. Every entry is checked before use: reserved bits, alignment, inside the file. Before the first write the places of all
 * tables are known (qcow2_set), must not overlap, and no cluster among them is ever given out or written as data. A contradiction sets
 * the image's corrupt bit and ends writing; it is never repaired here.
 *
 * What is refused: encryption, external data files, features without a name here; for writing also images marked dirty (lazy
 * refcounts of a writer that died; ours are never lazy) or corrupt.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/memory.h"
#include "block/qcow2.h"

static struct qcow2 *of(struct block *block)
{
	return (struct qcow2 *)block;
}

/* ---- straight below ---- */

static void direct_done(struct block_request *below, int result)
{
	struct qcow2_direct *direct = (struct qcow2_direct *)below;
	struct qcow2 *q = direct->q;
	struct block_request *request = direct->request;
	bool tracked = direct->op.last >= direct->op.first;
	direct->next = q->unused;
	q->unused = direct;
	if (tracked)
		qcow2_op_end(q, &direct->op);
	block_done_now(request, result);
}

static struct qcow2_direct *direct_take(struct qcow2 *q, struct block_request *request)
{
	struct qcow2_direct *direct = q->unused;
	if (direct)
		q->unused = direct->next;
	else
		direct = memory_zalloc(sizeof(*direct));
	direct->q = q;
	direct->request = request;
	direct->op.first = 1;
	direct->op.last = 0;
	return direct;
}

static void direct_submit(struct qcow2_direct *direct, struct block *block, uint64_t offset)
{
	const struct block_request *request = direct->request;
	direct->below = (struct block_request){
		.op = request->op,
		.offset = offset,
		.size = request->size,
		.iov = request->iov,
		.iovs = request->iovs,
		.done = direct_done,
	};
	block_submit(block, &direct->below);
}

static bool may_write(const struct qcow2 *q, const struct qcow2_map *map)
{
	uint64_t first = map->host >> q->cluster_bits, last = (map->host + map->length - 1) >> q->cluster_bits;
	if (!map->exclusive || q->corrupt)
		return false;
	while (first <= last && !qcow2_is_metadata(q, first))
		first++;
	return first > last;
}

/* Where all of a request's bytes are in one run below; NULL: it isn't so simple. */
static struct block *find_direct(struct qcow2 *q, const struct block_request *request, uint64_t *offset)
{
	struct qcow2_map map;
	if (qcow2_map_peek(q, request->offset, request->size, &map) || map.length != request->size)
		return NULL;
	if (map.kind == QCOW2_KIND_NONE && request->op == BLOCK_READ && q->backing &&
	    request->offset + request->size <= q->backing->size) {
		*offset = request->offset;
		return q->backing;
	}
	*offset = map.host;
	bool in_file = map.kind == QCOW2_KIND_DATA && map.host + map.length <= q->file->size;
	return in_file && (request->op == BLOCK_READ || may_write(q, &map)) ? q->file : NULL;
}

static bool try_direct(struct qcow2 *q, struct block_request *request)
{
	uint64_t offset = 0;
	struct block *below = q->file;
	struct qcow2_direct *direct;
	if (request->op == BLOCK_FLUSH) {
		if (!qcow2_is_clean(q) || q->corrupt)
			return false;
		direct_submit(direct_take(q, request), below, 0);
		return true;
	}
	if (request->op != BLOCK_READ && request->op != BLOCK_WRITE)
		return false;
	below = find_direct(q, request, &offset);
	if (!below)
		return false;
	direct = direct_take(q, request);
	if (!qcow2_op_try(q, &direct->op, request->offset, request->size)) {
		direct->next = q->unused;
		q->unused = direct;
		return false;
	}
	direct_submit(direct, below, offset);
	return true;
}

/* ---- in a fiber ---- */

static int serve(struct qcow2 *q, const struct block_request *request)
{
	switch (request->op) {
	case BLOCK_READ:
		return qcow2_read(q, request->offset, request->size, (struct qcow2_vec){ request->iov, request->iovs },
				  0);
	case BLOCK_WRITE:
		return qcow2_write(q, request);
	case BLOCK_WRITE_ZEROES:
		return qcow2_write_zeroes(q, request);
	case BLOCK_DISCARD:
		return qcow2_discard(q, request);
	case BLOCK_FLUSH:
		return qcow2_commit(q);
	}
	return -EINVAL;
}

static void run(void *arg)
{
	struct block_request *request = arg;
	struct qcow2 *q = of(request->block);
	struct qcow2_op op;
	bool tracked = request->op != BLOCK_FLUSH;
	if (tracked)
		qcow2_op_begin(q, &op, request->offset, request->size, request->op != BLOCK_READ);
	int rc = serve(q, request);
	if (tracked)
		qcow2_op_end(q, &op);
	block_done(request, rc);
}

static void qcow2_submit(struct block *block, struct block_request *request)
{
	struct qcow2 *q = of(block);
	if (!try_direct(q, request))
		fiber_start(&q->fibers, run, request);
}

static void qcow2_kick(struct block *block)
{
	struct qcow2 *q = of(block);
	block_kick(q->file);
	if (q->backing)
		block_kick(q->backing);
}

static void qcow2_cancel(struct block *block)
{
	struct qcow2 *q = of(block);
	block_cancel(q->file);
	if (q->backing)
		block_cancel(q->backing);
}

static bool qcow2_poll(struct block *block, bool wait)
{
	struct qcow2 *q = of(block);
	bool any = block_poll(q->file, false);
	if (q->backing)
		any |= block_poll(q->backing, wait && !any && !q->file->under_way);
	return any || (wait && q->file->under_way && block_poll(q->file, true));
}

/* ---- opening and closing ---- */

static int write_back(struct qcow2 *q)
{
	int rc = 0;
	/* What the first gives back, the second writes. */
	while (!rc && !q->block.readonly && !q->corrupt && !qcow2_is_clean(q))
		rc = qcow2_commit(q);
	return rc;
}

static int qcow2_close(struct block *block)
{
	struct qcow2 *q = of(block);
	q->sync = true;
	int rc = write_back(q);
	qcow2_unload(q);
	while (q->unused) {
		struct qcow2_direct *next = q->unused->next;
		free(q->unused);
		q->unused = next;
	}
	fibers_fini(&q->fibers);
	int r = block_close(q->file);
	block_fini(&q->block);
	free(q);
	return rc ? rc : r;
}

static const struct block_ops qcow2_ops = {
	.name = "qcow2",
	.submit = qcow2_submit,
	.kick = qcow2_kick,
	.poll = qcow2_poll,
	.cancel = qcow2_cancel,
	.close = qcow2_close,
};

bool block_qcow2_probe(const uint8_t *head, size_t size)
{
	return size >= 4 && qcow2_be32(head) == QCOW2_MAGIC;
}

int block_qcow2_open(struct block **block, struct block *below, const struct block_options *options,
		     struct event_loop *loop, struct error *err)
{
	struct qcow2 *q = memory_zalloc(sizeof(*q));
	*block = NULL;
	block_init(&q->block, &qcow2_ops, loop, options);
	q->file = below;
	q->block.readonly |= below->readonly;
	q->sync = true;
	fibers_init(&q->fibers);
	TAILQ_INIT(&q->ops);
	int rc = qcow2_load(q, options, err);
	q->sync = false;
	if (rc)
		qcow2_close(&q->block);
	else
		*block = &q->block;
	return rc;
}
