/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A commit copies, at one moment, all that is dirty, and writes the copies: refcounts, then L2 tables, then L1, with a flush between, so that
 * nothing in the file ever points to what is not there yet. What changes meanwhile is the next commit's. See qcow2.c.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/memory.h"
#include "block/qcow2.h"

/* A piece of a table on its way to the file. */
struct piece {
	uint64_t offset, size;
	uint8_t *bytes;
	struct qcow2_slice *slice; /* or NULL */
};

struct pieces {
	struct piece *piece;
	size_t count, room;
};

/* All that one commit writes. */
struct commit {
	struct pieces refcounts, reftable, l2, l1;
	bool moved;        /* the refcount table has a new place */
	uint8_t place[12]; /* the header's fields that say so */
	struct qcow2_frees frees;
};

static uint8_t *pieces_add(struct pieces *pieces, uint64_t offset, uint64_t size, struct qcow2_slice *slice)
{
	if (pieces->count == pieces->room) {
		pieces->room = pieces->room ? pieces->room * 2 : 16;
		pieces->piece = memory_resize(pieces->piece, pieces->room, sizeof(pieces->piece[0]));
	}
	struct piece *piece = &pieces->piece[pieces->count++];
	*piece = (struct piece){ .offset = offset, .size = size, .slice = slice };
	piece->bytes = qcow2_buffer(size);
	if (!piece->bytes)
		abort(); /* as memory.h does: some KB */
	return piece->bytes;
}

static void pieces_fini(struct pieces *pieces)
{
	for (size_t i = 0; i < pieces->count; i++)
		free(pieces->piece[i].bytes);
	free(pieces->piece);
	*pieces = (struct pieces){ .count = 0 };
}

static int by_offset(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Writes them, neighbours together. */
static int pieces_write(struct qcow2 *q, struct pieces *pieces)
{
	enum { TOGETHER = 64 };
	struct qcow2_group group = { .q = q };
	if (pieces->count > 1)
		qsort(pieces->piece, pieces->count, sizeof(pieces->piece[0]), by_offset);
	for (size_t i = 0, n; i < pieces->count; i += n) {
		struct iovec iov[TOGETHER];
		const struct piece *first = &pieces->piece[i];
		uint64_t size = 0;
		for (n = 0; n < TOGETHER && i + n < pieces->count && first[n].offset == first->offset + size; n++) {
			iov[n] = (struct iovec){ .iov_base = first[n].bytes, .iov_len = first[n].size };
			size += first[n].size;
		}
		qcow2_group_io(&group, q->file, BLOCK_WRITE, first->offset, size,
			       (struct qcow2_vec){ iov, (unsigned)n }, 0);
	}
	return qcow2_group_wait(&group);
}

static int flush(struct qcow2 *q)
{
	return qcow2_io(q, q->file, BLOCK_FLUSH, 0, NULL, 0);
}

/* ---- what is dirty ---- */

static void take_slices(struct qcow2 *q, struct commit *commit)
{
	struct qcow2_slice *slice;
	uint64_t size = 1ull << q->slice_bits;
	while ((slice = TAILQ_FIRST(&q->cache.dirty))) {
		struct pieces *pieces = slice->refcounts ? &commit->refcounts : &commit->l2;
		memcpy(pieces_add(pieces, slice->offset, size, slice), slice->bytes, size);
		qcow2_slice_clean(q, slice);
		slice->writing = true;
	}
}

/* The dirty pieces, or all, of a table that is in memory in the host's order. Its last piece in the file may be part of a sector, whose rest is free. */
static void take_table(const struct qcow2 *q, struct pieces *pieces, const uint64_t *table, uint64_t entries,
		       uint64_t offset, bool *dirty, bool all)
{
	uint64_t each = 1ull << (q->slice_bits - 3);
	for (uint64_t i = 0, first = 0; first < entries; i++, first += each) {
		if (!all && !dirty[i])
			continue;
		dirty[i] = false;
		uint8_t *bytes = pieces_add(pieces, offset + first * 8, each * 8, NULL);
		for (uint64_t k = 0; k < each; k++)
			qcow2_put_be64(bytes + k * 8, first + k < entries ? table[first + k] : 0);
	}
}

static void take_all(struct qcow2 *q, struct commit *commit)
{
	take_slices(q, commit);
	commit->moved = q->reftable_moved;
	if (q->any_reftable_dirty)
		take_table(q, &commit->reftable, q->reftable, q->reftable_entries, q->header.reftable_offset,
			   q->reftable_dirty, commit->moved);
	qcow2_put_be64(commit->place, q->header.reftable_offset);
	qcow2_put_be32(commit->place + 8, q->header.reftable_clusters);
	if (q->any_l1_dirty)
		take_table(q, &commit->l1, q->l1, q->header.l1_entries, q->header.l1_offset, q->l1_dirty, false);
	q->any_reftable_dirty = q->reftable_moved = q->any_l1_dirty = false;
	commit->frees = q->frees;
	q->frees = (struct qcow2_frees){ .count = 0 };
}

/* It failed: all of it is dirty again. */
static void give_back(struct qcow2 *q, struct commit *commit)
{
	for (size_t i = 0; i < commit->refcounts.count; i++)
		qcow2_slice_dirty(q, commit->refcounts.piece[i].slice);
	for (size_t i = 0; i < commit->l2.count; i++)
		qcow2_slice_dirty(q, commit->l2.piece[i].slice);
	for (size_t i = 0; i < commit->l1.count; i++)
		q->l1_dirty[(commit->l1.piece[i].offset - q->header.l1_offset) >> q->slice_bits] = true;
	q->any_l1_dirty |= commit->l1.count > 0;
	/* The table may have moved since; where it is now it is to be written whole. */
	q->reftable_moved |= commit->moved;
	for (size_t i = 0; i < commit->reftable.count && !q->reftable_moved; i++)
		q->reftable_dirty[(commit->reftable.piece[i].offset - q->header.reftable_offset) >> q->slice_bits] =
		    true;
	q->any_reftable_dirty |= commit->reftable.count > 0;
	for (size_t i = 0; i < commit->frees.count; i++)
		qcow2_free(q, commit->frees.free[i].cluster, commit->frees.free[i].count);
}

static void done_writing(struct commit *commit)
{
	for (size_t i = 0; i < commit->refcounts.count; i++)
		commit->refcounts.piece[i].slice->writing = false;
	for (size_t i = 0; i < commit->l2.count; i++)
		commit->l2.piece[i].slice->writing = false;
}

/* ---- the order ---- */

int qcow2_header_write(struct qcow2 *q, unsigned at, const void *bytes, unsigned size)
{
	memcpy(q->head + at, bytes, size);
	return qcow2_io(q, q->file, BLOCK_WRITE, 0, q->head, 1ull << q->slice_bits);
}

static int write_refcounts(struct qcow2 *q, struct commit *commit)
{
	int rc = pieces_write(q, &commit->refcounts);
	if (!rc && commit->reftable.count) {
		rc = flush(q);
		if (!rc)
			rc = pieces_write(q, &commit->reftable);
	}
	if (!rc && commit->moved) {
		rc = flush(q);
		if (!rc)
			rc = qcow2_header_write(q, QCOW2_AT_REFTABLE, commit->place, sizeof(commit->place));
	}
	return rc;
}

static int write_all(struct qcow2 *q, struct commit *commit)
{
	int rc = write_refcounts(q, commit);
	/* Data too: what L2 tables point to has been written before. */
	if (!rc && commit->l2.count)
		rc = flush(q);
	if (!rc && commit->l2.count)
		rc = pieces_write(q, &commit->l2);
	if (!rc && commit->l1.count)
		rc = flush(q);
	if (!rc && commit->l1.count)
		rc = pieces_write(q, &commit->l1);
	return rc ? rc : flush(q);
}

bool qcow2_is_clean(const struct qcow2 *q)
{
	return !q->cache.dirty_count && !q->any_l1_dirty && !q->any_reftable_dirty && !q->frees.count &&
	       !q->commit_lock.held;
}

static int commit_now(struct qcow2 *q)
{
	struct commit commit = { .moved = false };
	q->commits_begun++;
	take_all(q, &commit);
	int rc = write_all(q, &commit);
	done_writing(&commit);
	if (rc)
		give_back(q, &commit);
	else
		rc = qcow2_release(q, &commit.frees);
	free(commit.frees.free);
	pieces_fini(&commit.refcounts);
	pieces_fini(&commit.reftable);
	pieces_fini(&commit.l2);
	pieces_fini(&commit.l1);
	return rc;
}

int qcow2_commit(struct qcow2 *q)
{
	uint64_t begun = q->commits_begun;
	if (q->corrupt)
		return -EIO;
	fiber_lock(&q->fibers, &q->commit_lock);
	/* One that began after we came has done our work. */
	if (q->corrupt)
		q->commit_result = -EIO;
	else if (q->commits_begun == begun)
		q->commit_result = commit_now(q);
	int rc = q->commit_result;
	fiber_unlock(&q->fibers, &q->commit_lock);
	return rc;
}
