/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slices of 4K rather than whole tables: a random read of a cold image costs 4K of metadata and not 64K, and a commit writes what has
 * changed. Dirty slices, and those that a commit is writing, stay; the rest goes when the cache is full, longest unused first.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "block/qcow2.h"

enum { CACHE_BYTES = 16 << 20 }; /* maps 128 GiB of disk in clusters of 64K */

static struct qcow2_slice **hash_place(struct qcow2 *q, uint64_t offset)
{
	uint64_t key = (offset >> q->slice_bits) * 0x9e3779b97f4a7c15ull;
	return &q->cache.hash[key >> 52];
}

static_assert(QCOW2_HASH == 1 << 12, "hash_place takes 12 bits");

void qcow2_cache_init(struct qcow2 *q)
{
	TAILQ_INIT(&q->cache.lru);
	TAILQ_INIT(&q->cache.dirty);
	q->cache.limit = CACHE_BYTES >> q->slice_bits;
}

static void slice_remove(struct qcow2 *q, struct qcow2_slice *slice)
{
	struct qcow2_slice **link = hash_place(q, slice->offset);
	while (*link != slice)
		link = &(*link)->hash_next;
	*link = slice->hash_next;
	qcow2_slice_clean(q, slice);
	TAILQ_REMOVE(&q->cache.lru, slice, lru);
	q->cache.count--;
	free(slice->bytes);
	free(slice);
}

void qcow2_cache_fini(struct qcow2 *q)
{
	struct qcow2_slice *slice;
	if (!q->cache.limit)
		return;
	while ((slice = TAILQ_FIRST(&q->cache.lru)))
		slice_remove(q, slice);
}

/* Makes room for one more. When all are dirty it grows beyond its limit; writers commit long before. */
static void cache_evict(struct qcow2 *q)
{
	struct qcow2_slice *slice, *next;
	for (slice = TAILQ_FIRST(&q->cache.lru); slice && q->cache.count >= q->cache.limit; slice = next) {
		next = TAILQ_NEXT(slice, lru);
		if (!slice->dirty && !slice->writing && !slice->loading)
			slice_remove(q, slice);
	}
}

static struct qcow2_slice *slice_add(struct qcow2 *q, uint64_t offset, bool refcounts)
{
	struct qcow2_slice *slice = memory_zalloc(sizeof(*slice)), **place = hash_place(q, offset);
	cache_evict(q);
	slice->offset = offset;
	slice->refcounts = refcounts;
	slice->bytes = qcow2_buffer(1ull << q->slice_bits);
	if (!slice->bytes) {
		free(slice);
		return NULL;
	}
	slice->hash_next = *place;
	*place = slice;
	TAILQ_INSERT_TAIL(&q->cache.lru, slice, lru);
	q->cache.count++;
	return slice;
}

static struct qcow2_slice *slice_find(struct qcow2 *q, uint64_t offset)
{
	struct qcow2_slice *slice = *hash_place(q, offset);
	while (slice && slice->offset != offset)
		slice = slice->hash_next;
	return slice;
}

struct qcow2_slice *qcow2_slice_peek(struct qcow2 *q, uint64_t offset)
{
	struct qcow2_slice *slice = slice_find(q, offset & ~((1ull << q->slice_bits) - 1));
	if (!slice || slice->loading)
		return NULL;
	TAILQ_REMOVE(&q->cache.lru, slice, lru);
	TAILQ_INSERT_TAIL(&q->cache.lru, slice, lru);
	return slice;
}

int qcow2_slice_get(struct qcow2 *q, struct qcow2_slice **out, uint64_t offset, bool refcounts)
{
	uint64_t size = 1ull << q->slice_bits;
	struct qcow2_slice *slice;
	int rc = 0;
	offset &= ~(size - 1);
	while ((slice = slice_find(q, offset)) && slice->loading)
		fiber_queue_wait(&q->fibers, &q->cache.loaded);
	if (slice) {
		/* A table that is both is written by one as the other. */
		if (slice->refcounts != refcounts) {
			qcow2_why(q, "the cluster at 0x%llx is both L2 table and refcount block",
				  (unsigned long long)offset);
			return qcow2_corrupt(q);
		}
		*out = qcow2_slice_peek(q, offset);
		return 0;
	}
	if (offset + size > q->file->size) {
		qcow2_why(q, "a table at 0x%llx is beyond the file's end", (unsigned long long)offset);
		return qcow2_corrupt(q);
	}
	slice = slice_add(q, offset, refcounts);
	if (!slice)
		return -ENOMEM;
	slice->loading = true;
	rc = qcow2_io(q, q->file, BLOCK_READ, offset, slice->bytes, size);
	slice->loading = false;
	if (rc)
		slice_remove(q, slice);
	else
		*out = slice;
	fiber_queue_wake(&q->fibers, &q->cache.loaded);
	return rc;
}

void qcow2_slices_create(struct qcow2 *q, uint64_t table, bool refcounts)
{
	uint64_t size = 1ull << q->slice_bits;
	for (uint64_t at = 0; at < q->cluster_size; at += size) {
		struct qcow2_slice *slice = slice_find(q, table + at);
		if (!slice)
			slice = slice_add(q, table + at, refcounts);
		/* Nobody loads what was free. Without memory for 4K nothing sensible is left to do. */
		if (!slice || slice->loading)
			abort();
		slice->refcounts = refcounts;
		memset(slice->bytes, 0, size);
		qcow2_slice_dirty(q, slice);
	}
}

void qcow2_slice_dirty(struct qcow2 *q, struct qcow2_slice *slice)
{
	if (slice->dirty)
		return;
	slice->dirty = true;
	TAILQ_INSERT_TAIL(&q->cache.dirty, slice, dirty_link);
	q->cache.dirty_count++;
}

void qcow2_slice_clean(struct qcow2 *q, struct qcow2_slice *slice)
{
	if (!slice->dirty)
		return;
	slice->dirty = false;
	TAILQ_REMOVE(&q->cache.dirty, slice, dirty_link);
	q->cache.dirty_count--;
}

void qcow2_slices_drop(struct qcow2 *q, uint64_t cluster_offset)
{
	for (uint64_t at = 0; at < q->cluster_size; at += 1ull << q->slice_bits) {
		struct qcow2_slice *slice;
		/* A reader may be at it who looked into L1 before it changed. */
		while ((slice = slice_find(q, cluster_offset + at)) && slice->loading)
			fiber_queue_wait(&q->fibers, &q->cache.loaded);
		if (slice && !slice->writing)
			slice_remove(q, slice);
	}
}
