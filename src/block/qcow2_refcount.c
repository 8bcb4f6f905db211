/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "Host cluster management". The refcount table is in memory, refcount blocks are in the cache. What is taken is counted in the cache at once
 * and in the file by the commit that writes what points to it, before that; what is given up is counted down after the commit
 * in which nothing points to it any more. So a crash leaves clusters that count too high, never too low.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/memory.h"
#include "block/qcow2.h"

enum { GROW_STEP = 32 << 20 };
#define MAX_CLUSTERS(q) (1ull << (56 - (q)->cluster_bits)) /* what entries can point to */

/* ---- sets ---- */

static size_t set_place(const struct qcow2_set *set, uint64_t cluster)
{
	size_t mask = set->places - 1, i = (size_t)(cluster * 0x9e3779b97f4a7c15ull >> 20) & mask;
	while (set->place[i] && set->place[i] != cluster)
		i = (i + 1) & mask;
	return i;
}

static int set_grow(struct qcow2_set *set)
{
	struct qcow2_set bigger = { .places = set->places ? set->places * 2 : 64 };
	bigger.place = calloc(bigger.places, sizeof(bigger.place[0]));
	if (!bigger.place)
		return -ENOMEM;
	for (size_t i = 0; i < set->places; i++)
		if (set->place[i])
			bigger.place[set_place(&bigger, set->place[i])] = set->place[i];
	bigger.count = set->count;
	free(set->place);
	*set = bigger;
	return 0;
}

int qcow2_set_add(struct qcow2_set *set, uint64_t cluster, bool *added)
{
	*added = false;
	if (!cluster)
		return 0;
	int rc = set->count * 2 >= set->places ? set_grow(set) : 0;
	if (rc)
		return rc;
	size_t i = set_place(set, cluster);
	if (!set->place[i]) {
		set->place[i] = cluster;
		set->count++;
		*added = true;
	}
	return 0;
}

void qcow2_set_remove(struct qcow2_set *set, uint64_t cluster)
{
	size_t mask = set->places - 1, i = cluster && set->places ? set_place(set, cluster) : 0;
	if (!cluster || !set->places || !set->place[i])
		return;
	set->place[i] = 0;
	set->count--;
	/* Those behind it may have been put there because its place was taken. */
	for (i = (i + 1) & mask; set->place[i]; i = (i + 1) & mask) {
		uint64_t moved = set->place[i];
		set->place[i] = 0;
		set->place[set_place(set, moved)] = moved;
	}
}

bool qcow2_is_metadata(const struct qcow2 *q, uint64_t cluster)
{
	return !cluster || (q->metadata.places && q->metadata.place[set_place(&q->metadata, cluster)]);
}

/* Ours, in a place just made free or taken: growing may fail only for want of some bytes. */
static void add_metadata(struct qcow2 *q, uint64_t cluster)
{
	bool added;
	if (qcow2_set_add(&q->metadata, cluster, &added))
		abort();
}

/* ---- refcount blocks ---- */

static uint64_t block_entries(const struct qcow2 *q)
{
	return 1ull << q->refblock_bits;
}

/* Entries in a slice of one. */
static uint64_t slice_entries(const struct qcow2 *q)
{
	return 8ull << q->slice_bits >> q->header.refcount_order;
}

static int slice_of(struct qcow2 *q, uint64_t cluster, struct qcow2_slice **slice)
{
	uint64_t block = q->reftable[cluster >> q->refblock_bits];
	uint64_t in_block = cluster & (block_entries(q) - 1);
	return qcow2_slice_get(q, slice, block + (in_block << q->header.refcount_order >> 3), true);
}

static uint64_t get(const struct qcow2 *q, const struct qcow2_slice *slice, uint64_t cluster)
{
	return qcow2_refcount_get(slice->bytes, q->header.refcount_order, cluster & (slice_entries(q) - 1));
}

static void put(struct qcow2 *q, struct qcow2_slice *slice, uint64_t cluster, uint64_t count)
{
	qcow2_refcount_put(slice->bytes, q->header.refcount_order, cluster & (slice_entries(q) - 1), count);
	qcow2_slice_dirty(q, slice);
}

/* The slice, which was made a moment ago. */
static void put_new(struct qcow2 *q, uint64_t cluster)
{
	uint64_t block = q->reftable[cluster >> q->refblock_bits], in_block = cluster & (block_entries(q) - 1);
	struct qcow2_slice *slice = qcow2_slice_peek(q, block + (in_block << q->header.refcount_order >> 3));
	assert(slice);
	put(q, slice, cluster, 1);
}

static void mark_reftable(struct qcow2 *q, uint64_t index)
{
	q->reftable_dirty[index * 8 >> q->slice_bits] = true;
	q->any_reftable_dirty = true;
}

/* Makes the file long enough for clusters below `end`. What it grows by reads as zeros. */
static int grow_file(struct qcow2 *q, uint64_t end)
{
	uint64_t need = end << q->cluster_bits;
	if (need <= q->file->size)
		return 0;
	if (!q->file->ops->grow)
		return -ENOSPC;
	int rc = q->file->ops->grow(q->file, (need + GROW_STEP - 1) & ~(uint64_t)(GROW_STEP - 1));
	/* Perhaps there is room for less. */
	if (rc)
		rc = q->file->ops->grow(q->file, need);
	return rc == -EOPNOTSUPP ? -ENOSPC : rc;
}

/* A refcount block for clusters that have none: it counts itself. `cluster`, one of them, becomes it. */
static int add_block(struct qcow2 *q, uint64_t cluster)
{
	uint64_t index = cluster >> q->refblock_bits;
	if (qcow2_is_metadata(q, cluster)) {
		qcow2_why(q, "the cluster of a table, at 0x%" PRIx64 ", has no refcount", cluster << q->cluster_bits);
		return qcow2_corrupt(q);
	}
	int rc = grow_file(q, cluster + 1);
	if (rc)
		return rc;
	add_metadata(q, cluster);
	q->reftable[index] = cluster << q->cluster_bits;
	mark_reftable(q, index);
	if (q->fresh <= cluster)
		q->fresh = cluster + 1;
	qcow2_slices_create(q, q->reftable[index], true);
	put_new(q, cluster);
	return 0;
}

/*
 * The table has no entry for clusters from its end on: a table twice as large, written behind that end by the next commit, together with the blocks that
 * count it and themselves.
 */
static int grow_table(struct qcow2 *q)
{
	uint64_t first = q->reftable_entries << q->refblock_bits;
	uint64_t table = (uint64_t)q->header.reftable_clusters * 2, blocks = 1;
	while (blocks << q->refblock_bits < table + blocks)
		blocks++;
	uint64_t entries = table << q->cluster_bits >> 3, end = first + table + blocks;
	if (entries < q->reftable_entries + blocks || table << q->cluster_bits > QCOW2_MAX_REFTABLE ||
	    end > MAX_CLUSTERS(q))
		return -EFBIG;
	for (uint64_t i = first; i < end; i++)
		if (qcow2_is_metadata(q, i)) {
			qcow2_why(q, "the cluster of a table, at 0x%" PRIx64 ", has no refcount", i << q->cluster_bits);
			return qcow2_corrupt(q);
		}
	int rc = grow_file(q, end);
	if (rc)
		return rc;

	q->reftable = memory_resize(q->reftable, entries, sizeof(q->reftable[0]));
	memset(q->reftable + q->reftable_entries, 0, (entries - q->reftable_entries) * sizeof(q->reftable[0]));
	free(q->reftable_dirty);
	q->reftable_dirty = memory_zalloc((entries * 8 >> q->slice_bits) + 1);
	for (uint64_t i = 0; i < blocks; i++) {
		q->reftable[q->reftable_entries + i] = (first + table + i) << q->cluster_bits;
		qcow2_slices_create(q, (first + table + i) << q->cluster_bits, true);
	}
	q->reftable_entries = entries;
	for (uint64_t i = first; i < end; i++) {
		put_new(q, i);
		add_metadata(q, i);
	}
	qcow2_free(q, q->header.reftable_offset >> q->cluster_bits, q->header.reftable_clusters);
	q->header.reftable_offset = first << q->cluster_bits;
	q->header.reftable_clusters = (uint32_t)table;
	q->any_reftable_dirty = q->reftable_moved = true;
	if (q->fresh < end)
		q->fresh = end;
	return 0;
}

/* ---- taking ---- */

/* Takes what is free from `cluster` on in a slice; 0 when that one isn't. */
static uint64_t take(struct qcow2 *q, struct qcow2_slice *slice, uint64_t cluster, uint64_t count)
{
	uint64_t left = slice_entries(q) - (cluster & (slice_entries(q) - 1)), n = 0;
	while (n < count && n < left && !get(q, slice, cluster + n))
		n++;
	return n;
}

static int check_taken(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
	for (uint64_t i = cluster; i < cluster + count; i++)
		if (qcow2_is_metadata(q, i)) {
			qcow2_why(q, "the cluster at 0x%" PRIx64 " holds a table, but its refcount is 0",
				  i << q->cluster_bits);
			return qcow2_corrupt(q);
		}
	return 0;
}

/* Looks at one cluster, the hint, or goes on. 1: taken. */
static int alloc_step(struct qcow2 *q, uint64_t count, struct qcow2_run *run)
{
	struct qcow2_slice *slice;
	uint64_t cluster = q->free_hint;
	if (cluster >= MAX_CLUSTERS(q))
		return -EFBIG;
	if (cluster >> q->refblock_bits >= q->reftable_entries)
		return grow_table(q);
	if (!q->reftable[cluster >> q->refblock_bits])
		return add_block(q, cluster);
	int rc = slice_of(q, cluster, &slice);
	/* It may have waited, so that others have moved the hint. */
	if (rc || cluster != q->free_hint)
		return rc;
	uint64_t end = (cluster | (slice_entries(q) - 1)) + 1;
	while (cluster < end && get(q, slice, cluster))
		cluster++;
	q->free_hint = cluster;
	if (cluster == end)
		return 0;
	run->cluster = cluster;
	run->count = take(q, slice, cluster, count);
	rc = check_taken(q, run->cluster, run->count);
	if (!rc)
		rc = grow_file(q, run->cluster + run->count);
	if (rc)
		return rc;
	for (uint64_t i = 0; i < run->count; i++)
		put(q, slice, run->cluster + i, 1);
	q->free_hint = run->cluster + run->count;
	return 1;
}

int qcow2_alloc(struct qcow2 *q, uint64_t count, bool metadata, struct qcow2_run *run)
{
	int rc;
	do {
		rc = q->corrupt ? -EIO : alloc_step(q, count, run);
		/* Room may come from what waits to be given back. */
		if (rc == -ENOSPC && q->frees.count)
			rc = qcow2_commit(q);
	} while (!rc);
	if (rc < 0)
		return rc;
	run->zero = run->cluster >= q->fresh;
	if (q->fresh < run->cluster + run->count)
		q->fresh = run->cluster + run->count;
	for (uint64_t i = 0; metadata && i < run->count; i++)
		add_metadata(q, run->cluster + i);
	return 0;
}

/* ---- giving back ---- */

static void frees_add(struct qcow2_frees *frees, uint64_t cluster, uint64_t count)
{
	if (frees->count) {
		struct qcow2_free *last = &frees->free[frees->count - 1];
		if (last->cluster + last->count == cluster) {
			last->count += count;
			return;
		}
	}
	if (frees->count == frees->room) {
		frees->room = frees->room ? frees->room * 2 : 16;
		frees->free = memory_resize(frees->free, frees->room, sizeof(frees->free[0]));
	}
	frees->free[frees->count++] = (struct qcow2_free){ .cluster = cluster, .count = count };
}

void qcow2_free(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
	frees_add(&q->frees, cluster, count);
}

/* The slice with the refcount of `cluster`, which is not 0. */
static int counted_slice(struct qcow2 *q, uint64_t cluster, struct qcow2_slice **slice)
{
	uint64_t index = cluster >> q->refblock_bits;
	int rc = 0;
	if (index < q->reftable_entries && q->reftable[index]) {
		rc = slice_of(q, cluster, slice);
		if (rc || get(q, *slice, cluster))
			return rc;
	}
	qcow2_why(q, "the cluster at 0x%" PRIx64 " is in use, but its refcount is 0", cluster << q->cluster_bits);
	qcow2_corrupt(q);
	return -EIO;
}

/* Gives back the first of `count` clusters, and as many behind it as go with it in one step: *n. */
static int release_some(struct qcow2 *q, uint64_t cluster, uint64_t count, uint64_t *n)
{
	struct qcow2_slice *slice;
	int rc = counted_slice(q, cluster, &slice);
	*n = 1;
	if (rc)
		return rc;
	bool last = get(q, slice, cluster) == 1;
	if (last && qcow2_is_metadata(q, cluster)) {
		qcow2_slices_drop(q, cluster << q->cluster_bits);
		qcow2_set_remove(&q->metadata, cluster);
	} else if (last && q->file->discards) {
		uint64_t left = slice_entries(q) - (cluster & (slice_entries(q) - 1));
		while (*n < count && *n < left && get(q, slice, cluster + *n) == 1 &&
		       !qcow2_is_metadata(q, cluster + *n))
			++*n;
		/* Before anyone can take them. That a file can't is no reason to fail. */
		qcow2_io(q, q->file, BLOCK_DISCARD, cluster << q->cluster_bits, NULL, *n << q->cluster_bits);
	}
	rc = slice_of(q, cluster, &slice);
	for (uint64_t i = cluster; i < cluster + *n && !rc; i++)
		put(q, slice, i, get(q, slice, i) - 1);
	if (!rc && last && cluster < q->free_hint)
		q->free_hint = cluster;
	return rc;
}

int qcow2_release(struct qcow2 *q, const struct qcow2_frees *frees)
{
	int rc = 0;
	for (size_t i = 0; i < frees->count; i++)
		for (uint64_t at = 0, n; at < frees->free[i].count && !rc; at += n)
			rc = release_some(q, frees->free[i].cluster + at, frees->free[i].count - at, &n);
	return rc;
}

void qcow2_alloc_undo(struct qcow2 *q, const struct qcow2_run *run)
{
	for (uint64_t i = run->cluster; i < run->cluster + run->count; i++) {
		struct qcow2_slice *slice;
		qcow2_set_remove(&q->metadata, i);
		if (counted_slice(q, i, &slice))
			return; /* it leaks */
		put(q, slice, i, get(q, slice, i) - 1);
		if (i < q->free_hint)
			q->free_hint = i;
	}
}
