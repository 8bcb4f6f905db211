/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes that are not simply in place. Whoever calls these has an exclusive qcow2_op, so nobody else looks at or changes what is
 * mapped at these clusters. Data is written first; only when it is in the file an L2 entry, in the cache, begins to point to it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/memory.h"
#include "block/qcow2.h"

/* From how many bytes on a request to write zeros is cheaper than writing them. */
enum { ZEROS_WORTH = 32 << 10 };

/* A write as it goes to contiguous clusters of the file. */
struct job {
	uint64_t offset, size; /* of the disk, all of them in one slice's clusters */
	struct qcow2_vec vec;
	uint64_t at;         /* in vec */
	uint64_t start, end; /* with what has to be copied around it */
	uint64_t host;       /* of the cluster that has `start` */
	bool zero;           /* there the file reads as zeros */
};

static uint64_t round_down(uint64_t value, uint64_t unit)
{
	return value & ~(unit - 1);
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) & ~(unit - 1);
}

/* The bits of the subclusters that have bytes of [start, end) in the cluster at `cluster`. */
static uint32_t sub_mask(const struct qcow2 *q, uint64_t cluster, uint64_t start, uint64_t end)
{
	uint64_t sub = 1ull << q->sub_bits;
	uint64_t first = start > cluster ? (start - cluster) / sub : 0;
	uint64_t last = end < cluster + q->cluster_size ? (end - cluster + sub - 1) / sub : q->cluster_size / sub;
	return (uint32_t)(((1ull << last) - 1) & ~((1ull << first) - 1));
}

/* ---- L2 tables ---- */

static int copy_table(struct qcow2 *q, uint64_t from, uint64_t to)
{
	uint8_t *table = qcow2_buffer(q->cluster_size);
	/* A table that is shared is never dirty: it is not written. */
	int rc = table ? qcow2_io(q, q->file, BLOCK_READ, from, table, q->cluster_size) : -ENOMEM;
	if (!rc)
		rc = qcow2_io(q, q->file, BLOCK_WRITE, to, table, q->cluster_size);
	free(table);
	return rc;
}

static int new_table(struct qcow2 *q, uint64_t index)
{
	uint64_t old = q->l1[index] & QCOW2_OFFSET;
	struct qcow2_run run;
	int rc = qcow2_alloc(q, 1, true, &run);
	if (rc)
		return rc;
	uint64_t table = run.cluster << q->cluster_bits;
	if (old)
		rc = copy_table(q, old, table);
	else if (!run.zero)
		qcow2_slices_create(q, table, false);
	if (rc) {
		qcow2_alloc_undo(q, &run);
		return rc;
	}
	q->l1[index] = table | QCOW2_COPIED;
	q->l1_dirty[index * 8 >> q->slice_bits] = q->any_l1_dirty = true;
	if (old)
		qcow2_free(q, old >> q->cluster_bits, 1);
	return 0;
}

/* Makes the L2 table for `offset` one that may be written. */
static int ensure_table(struct qcow2 *q, uint64_t offset)
{
	uint64_t index = offset >> (q->cluster_bits + q->l2_bits);
	int rc = 0;
	if (q->l1[index] & QCOW2_COPIED)
		return 0;
	fiber_lock(&q->fibers, &q->l1_lock);
	if (!(q->l1[index] & QCOW2_COPIED))
		rc = new_table(q, index);
	fiber_unlock(&q->fibers, &q->l1_lock);
	return rc;
}

/* What an entry pointed to is not used any more by it. */
static void free_old(struct qcow2 *q, struct qcow2_entry old)
{
	if (old.word & QCOW2_COMPRESSED) {
		struct qcow2_compressed c = qcow2_compressed_decode(old.word, q->cluster_bits);
		uint64_t first = c.offset >> q->cluster_bits, last = (c.offset + c.size - 1) >> q->cluster_bits;
		qcow2_free(q, first, last - first + 1);
	} else if (old.word & QCOW2_OFFSET) {
		qcow2_free(q, (old.word & QCOW2_OFFSET) >> q->cluster_bits, 1);
	}
}

/* ---- data ---- */

/* Bytes of the disk around a write that have to be in its new place too. Empty, or zeros where there are zeros: not written. */
struct edge {
	uint64_t start, size;
	uint8_t *bytes;
	bool zero;
};

static int edge_init(struct qcow2 *q, struct edge *edge, uint64_t start, uint64_t end, bool zero_there)
{
	*edge = (struct edge){ .start = start, .size = end - start };
	if (!edge->size)
		return 0;
	int rc = qcow2_reads_zero(q, start, edge->size);
	if (rc < 0)
		return rc;
	if (rc && zero_there) {
		edge->size = 0;
		return 0;
	}
	edge->zero = rc && edge->size >= ZEROS_WORTH && q->file->zeroes;
	if (edge->zero)
		return 0;
	edge->bytes = qcow2_buffer(edge->size);
	if (!edge->bytes)
		return -ENOMEM;
	struct iovec iov = { .iov_base = edge->bytes, .iov_len = edge->size };
	return qcow2_read(q, start, edge->size, (struct qcow2_vec){ &iov, 1 }, 0);
}

/* Writes the job's bytes with its edges, as few requests as can be. */
static int job_write(struct qcow2 *q, const struct job *job)
{
	struct edge head = { .size = 0 }, tail = { .size = 0 };
	struct qcow2_group group = { .q = q };
	struct iovec *iov = memory_zalloc((job->vec.iovs + 2) * sizeof(*iov));
	unsigned n = 0;
	uint64_t first = job->offset, at = job->at, size = job->size;
	uint64_t base = job->host - round_down(job->start, q->cluster_size);
	int rc = edge_init(q, &head, job->start, job->offset, job->zero);
	if (!rc)
		rc = edge_init(q, &tail, job->offset + job->size, job->end, job->zero);
	if (rc)
		goto out;
	if (head.zero)
		qcow2_group_io(&group, q->file, BLOCK_WRITE_ZEROES, base + head.start, head.size,
			       (struct qcow2_vec){ 0 }, 0);
	if (tail.zero)
		qcow2_group_io(&group, q->file, BLOCK_WRITE_ZEROES, base + tail.start, tail.size,
			       (struct qcow2_vec){ 0 }, 0);
	if (head.bytes && head.size) {
		iov[n++] = (struct iovec){ .iov_base = head.bytes, .iov_len = head.size };
		first = head.start;
		size += head.size;
	}
	/* The vector's bytes before `at` are left out by its first element. */
	for (unsigned i = 0; i < job->vec.iovs; i++) {
		struct iovec part = job->vec.iov[i];
		uint64_t skip = at < part.iov_len ? at : part.iov_len;
		at -= skip;
		if (part.iov_len > skip)
			iov[n++] =
			    (struct iovec){ .iov_base = (char *)part.iov_base + skip, .iov_len = part.iov_len - skip };
	}
	if (tail.bytes && tail.size) {
		/* Behind the job's bytes, not behind the whole vector. */
		uint64_t left = size;
		unsigned k = 0;
		for (; k < n && left > 0; k++) {
			if (iov[k].iov_len > left)
				iov[k].iov_len = left;
			left -= iov[k].iov_len;
		}
		iov[k] = (struct iovec){ .iov_base = tail.bytes, .iov_len = tail.size };
		n = k + 1;
		size += tail.size;
	}
	qcow2_group_io(&group, q->file, BLOCK_WRITE, base + first, size, (struct qcow2_vec){ iov, n }, 0);
	rc = qcow2_group_wait(&group);
out:
	free(iov);
	free(head.bytes);
	free(tail.bytes);
	return rc;
}

/* Where nothing is to be copied: only what the host's clusters are is looked at. */
static int write_in_place(struct qcow2 *q, const struct job *job)
{
	struct qcow2_group group = { .q = q };
	uint64_t host = job->host + (job->offset & (q->cluster_size - 1));
	for (uint64_t c = host >> q->cluster_bits; c <= (host + job->size - 1) >> q->cluster_bits; c++)
		if (qcow2_is_metadata(q, c)) {
			qcow2_why(q,
				  "the cluster of the disk's byte %" PRIu64 " is said to be at 0x%" PRIx64
				  ", where a table is",
				  job->offset, c << q->cluster_bits);
			return qcow2_corrupt(q);
		}
	qcow2_group_io(&group, q->file, BLOCK_WRITE, host, job->size, job->vec, job->at);
	return qcow2_group_wait(&group);
}

/* ---- one step of a write ---- */

enum plan {
	PLAN_IN_PLACE, /* all of it is data, ours alone */
	PLAN_FILL,     /* there is a cluster of ours, but not all that is written is data yet */
	PLAN_ALLOC,
};

static enum plan plan_of(const struct qcow2 *q, struct qcow2_entry entry, uint64_t cluster, uint64_t start,
			 uint64_t end)
{
	if (entry.word & QCOW2_COMPRESSED || !(entry.word & QCOW2_COPIED) || !(entry.word & QCOW2_OFFSET))
		return PLAN_ALLOC;
	if (!q->header.extended_l2)
		return entry.word & QCOW2_ZERO ? PLAN_FILL : PLAN_IN_PLACE;
	uint32_t mask = sub_mask(q, cluster, start, end);
	return ((uint32_t)entry.bitmap & mask) == mask ? PLAN_IN_PLACE : PLAN_FILL;
}

/* In what units a cluster's old bytes have to be copied: all of them when they were elsewhere. */
static uint64_t copy_unit(const struct qcow2 *q, struct qcow2_entry entry, enum plan plan)
{
	bool elsewhere = plan == PLAN_ALLOC && (entry.word & (QCOW2_COMPRESSED | QCOW2_OFFSET));
	return elsewhere ? q->cluster_size : 1ull << q->sub_bits;
}

/* Lets the entry of the cluster at `cluster` point to what the job has written. */
static int point_to(struct qcow2 *q, const struct job *job, uint64_t cluster, uint64_t host)
{
	struct qcow2_slice *slice;
	struct qcow2_entry entry;
	int rc = qcow2_entry_get(q, cluster, &slice, &entry);
	if (rc)
		return rc;
	struct qcow2_entry new = { .word = host | QCOW2_COPIED };
	if (q->header.extended_l2) {
		uint64_t mask = sub_mask(q, cluster, job->start, job->end);
		bool same = (entry.word & QCOW2_OFFSET) == host && !(entry.word & QCOW2_COMPRESSED);
		/* From another place everything has been copied, so that `mask` has all bits. */
		if (!(entry.word & QCOW2_COMPRESSED))
			new.bitmap = entry.bitmap &(same || !(entry.word & QCOW2_OFFSET) ? ~0ull : 0);
		new.bitmap = (new.bitmap & ~(mask << 32)) | mask;
	}
	qcow2_entry_put(q, slice, cluster, new);
	if ((entry.word & QCOW2_OFFSET) != host || entry.word & QCOW2_COMPRESSED)
		free_old(q, entry);
	return 0;
}

static int fill(struct qcow2 *q, struct job *job)
{
	int rc = job_write(q, job);
	return rc ? rc : point_to(q, job, round_down(job->offset, q->cluster_size), job->host);
}

/* How many clusters from that of `offset` on need new places, as far as one slice says; their last one's entry. */
static int count_alloc(struct qcow2 *q, uint64_t offset, uint64_t end, uint64_t *count, struct qcow2_entry *last)
{
	uint64_t most = qcow2_entries_left(q, offset), cluster = round_down(offset, q->cluster_size);
	struct qcow2_slice *slice;
	struct qcow2_entry entry;
	for (*count = 0; *count < most && cluster < end; ++*count, cluster += q->cluster_size) {
		int rc = qcow2_entry_get(q, cluster, &slice, &entry);
		if (rc)
			return rc;
		if (plan_of(q, entry, cluster, offset, end) != PLAN_ALLOC)
			break;
		*last = entry;
	}
	return 0;
}

static int allocate(struct qcow2 *q, struct job *job, struct qcow2_entry first)
{
	struct qcow2_entry last = first;
	struct qcow2_slice *slice;
	struct qcow2_run run;
	uint64_t count, cluster = round_down(job->offset, q->cluster_size);
	int rc = count_alloc(q, job->offset, job->offset + job->size, &count, &last);
	if (!rc)
		rc = qcow2_alloc(q, count, false, &run);
	if (rc)
		return rc;
	if (run.count < count || cluster + (count << q->cluster_bits) < job->offset + job->size) {
		uint64_t end = cluster + (run.count << q->cluster_bits);
		if (end < job->offset + job->size)
			job->size = end - job->offset;
		rc = qcow2_entry_get(q, end - 1, &slice, &last);
	}
	job->start = round_down(job->offset, copy_unit(q, first, PLAN_ALLOC));
	job->end = round_up(job->offset + job->size, copy_unit(q, last, PLAN_ALLOC));
	job->host = run.cluster << q->cluster_bits;
	job->zero = run.zero;
	if (!rc)
		rc = job_write(q, job);
	while (!rc && run.count) {
		rc = point_to(q, job, cluster, run.cluster << q->cluster_bits);
		if (rc)
			break;
		cluster += q->cluster_size;
		run.cluster++;
		run.count--;
	}
	if (rc)
		qcow2_alloc_undo(q, &run);
	return rc;
}

/* Writes some of the job's bytes, at least those in its first cluster, and sets its size to how many. */
static int write_some(struct qcow2 *q, struct job *job)
{
	struct qcow2_slice *slice;
	struct qcow2_entry entry;
	struct qcow2_map map;
	uint64_t cluster = round_down(job->offset, q->cluster_size);
	int rc = q->corrupt ? -EIO : ensure_table(q, job->offset);
	if (!rc)
		rc = qcow2_entry_get(q, job->offset, &slice, &entry);
	if (rc)
		return rc;
	enum plan plan = plan_of(q, entry, cluster, job->offset, job->offset + job->size);
	job->host = entry.word & QCOW2_OFFSET;
	switch (plan) {
	case PLAN_IN_PLACE:
		rc = qcow2_map(q, job->offset, job->size, &map);
		if (rc)
			return rc;
		job->size = map.length;
		return write_in_place(q, job);
	case PLAN_FILL:
		if (job->offset + job->size > cluster + q->cluster_size)
			job->size = cluster + q->cluster_size - job->offset;
		job->start = round_down(job->offset, 1ull << q->sub_bits);
		job->end = round_up(job->offset + job->size, 1ull << q->sub_bits);
		return fill(q, job);
	case PLAN_ALLOC:
		return allocate(q, job, entry);
	}
	return -EIO;
}

/* Commits when so much is dirty that the cache has little room for the rest. */
static int commit_if_much(struct qcow2 *q)
{
	return q->cache.dirty_count > q->cache.limit / 4 || q->frees.count > 4096 ? qcow2_commit(q) : 0;
}

static int write_bytes(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_vec vec)
{
	uint64_t at = 0;
	int rc = 0;
	while (at < size && !rc) {
		struct job job = { .offset = offset + at, .size = size - at, .vec = vec, .at = at };
		rc = write_some(q, &job);
		at += job.size;
		if (!rc)
			rc = commit_if_much(q);
	}
	return rc;
}

int qcow2_write(struct qcow2 *q, const struct block_request *request)
{
	return write_bytes(q, request->offset, request->size, (struct qcow2_vec){ request->iov, request->iovs });
}

/* ---- zeros and discards: whole clusters ---- */

/* How many bytes from `offset` on have no L2 table. */
static uint64_t without_table(const struct qcow2 *q, uint64_t offset)
{
	uint64_t span = 1ull << (q->cluster_bits + q->l2_bits);
	return q->l1[offset / span] & QCOW2_OFFSET ? 0 : span - (offset & (span - 1));
}

static struct qcow2_entry zero_entry(const struct qcow2 *q)
{
	struct qcow2_entry entry = { .word = QCOW2_ZERO };
	if (q->header.extended_l2)
		entry = (struct qcow2_entry){ .bitmap = 0xffffffffull << 32 };
	return entry;
}

/* Changes a cluster's entry to `new`, or, when `keep` is set and the cluster is ours alone, to zeros in the same place. */
static int replace_entry(struct qcow2 *q, uint64_t cluster, struct qcow2_entry new, bool keep)
{
	struct qcow2_slice *slice;
	struct qcow2_entry old;
	int rc = ensure_table(q, cluster);
	if (!rc)
		rc = qcow2_entry_get(q, cluster, &slice, &old);
	if (rc)
		return rc;
	bool stays = keep && plan_of(q, old, cluster, cluster, cluster + q->cluster_size) != PLAN_ALLOC;
	if (stays)
		new.word |= old.word &(QCOW2_OFFSET | QCOW2_COPIED);
	if (new.word == old.word &&new.bitmap == old.bitmap)
		return 0;
	qcow2_entry_put(q, slice, cluster, new);
	if (!stays)
		free_old(q, old);
	return 0;
}

static int replace_entries(struct qcow2 *q, uint64_t start, uint64_t end, struct qcow2_entry new, bool keep,
			   bool skip_empty)
{
	int rc = 0;
	while (start < end && !rc) {
		uint64_t skip = skip_empty ? without_table(q, start) : 0;
		if (!skip) {
			rc = q->corrupt ? -EIO : replace_entry(q, start, new, keep);
			skip = q->cluster_size;
		}
		if (!rc)
			rc = commit_if_much(q);
		start += skip;
	}
	return rc;
}

static int write_zero_bytes(struct qcow2 *q, uint64_t offset, uint64_t size)
{
	int rc = size ? qcow2_reads_zero(q, offset, size) : 1;
	if (rc)
		return rc < 0 ? rc : 0;
	uint64_t room = size < (1 << 20) ? size : 1 << 20;
	struct iovec iov = { .iov_base = qcow2_buffer(room) };
	if (!iov.iov_base)
		return -ENOMEM;
	memset(iov.iov_base, 0, room);
	for (rc = 0; size && !rc; offset += iov.iov_len, size -= iov.iov_len) {
		iov.iov_len = size < room ? size : room;
		rc = write_bytes(q, offset, iov.iov_len, (struct qcow2_vec){ &iov, 1 });
	}
	free(iov.iov_base);
	return rc;
}

/* [*start, *end): the clusters that a request covers wholly. The disk's last one ends with the disk. False: none. */
static bool whole_clusters(const struct qcow2 *q, const struct block_request *request, uint64_t *start, uint64_t *end)
{
	uint64_t stop = request->offset + request->size;
	*start = round_up(request->offset, q->cluster_size);
	*end = stop == q->block.size ? round_up(stop, q->cluster_size) : round_down(stop, q->cluster_size);
	return *start < *end;
}

int qcow2_write_zeroes(struct qcow2 *q, const struct block_request *request)
{
	uint64_t start, end, stop = request->offset + request->size;
	bool backed = q->backing;
	if ((q->header.version < 3 && backed) || !whole_clusters(q, request, &start, &end))
		return write_zero_bytes(q, request->offset, request->size);
	struct qcow2_entry new = { .word = 0 };
	if (q->header.version >= 3)
		new = zero_entry(q);
	bool keep = q->header.version >= 3 && !request->unmap;
	int rc = write_zero_bytes(q, request->offset, start - request->offset);
	if (!rc)
		rc = replace_entries(q, start, end, new, keep, !backed);
	if (!rc && end < stop)
		rc = write_zero_bytes(q, end, stop - end);
	return rc;
}

int qcow2_discard(struct qcow2 *q, const struct block_request *request)
{
	struct qcow2_entry new = { .word = 0 };
	uint64_t start, end;
	bool backed = q->backing;
	/* What the backing file has must not come back; version 2 has no entry that says so. */
	if ((q->header.version < 3 && backed) || !whole_clusters(q, request, &start, &end))
		return 0;
	if (backed)
		new = zero_entry(q);
	return replace_entries(q, start, end, new, false, true);
}
