/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "block/qcow2.h"

/* ---- requests below ---- */

struct io {
	struct block_request request;
	struct qcow2_group *group;
	struct iovec iov[];
};

void *qcow2_buffer(uint64_t size)
{
	void *buffer = NULL;
	return posix_memalign(&buffer, 4096, size) == 0 ? buffer : NULL;
}

/* The part of a vector that begins at byte `at`; returns how many it took. `iov` has room for as many as `vec`. */
static unsigned vec_part(struct iovec *iov, struct qcow2_vec vec, uint64_t at, uint64_t size)
{
	unsigned n = 0;
	for (unsigned i = 0; i < vec.iovs && size; i++) {
		uint64_t length = vec.iov[i].iov_len;
		if (at >= length) {
			at -= length;
			continue;
		}
		length -= at;
		if (length > size)
			length = size;
		iov[n++] = (struct iovec){ .iov_base = (char *)vec.iov[i].iov_base + at, .iov_len = length };
		size -= length;
		at = 0;
	}
	assert(!size);
	return n;
}

void qcow2_vec_zero(struct qcow2_vec vec, uint64_t at, uint64_t size)
{
	for (unsigned i = 0; i < vec.iovs && size; i++) {
		uint64_t length = vec.iov[i].iov_len;
		if (at >= length) {
			at -= length;
			continue;
		}
		length = length - at < size ? length - at : size;
		memset((char *)vec.iov[i].iov_base + at, 0, length);
		size -= length;
		at = 0;
	}
}

void qcow2_vec_put(struct qcow2_vec vec, uint64_t at, const uint8_t *bytes, uint64_t size)
{
	for (unsigned i = 0; i < vec.iovs && size; i++) {
		uint64_t length = vec.iov[i].iov_len;
		if (at >= length) {
			at -= length;
			continue;
		}
		length = length - at < size ? length - at : size;
		memcpy((char *)vec.iov[i].iov_base + at, bytes, length);
		bytes += length;
		size -= length;
		at = 0;
	}
}

static void group_ended(struct qcow2_group *group, int result)
{
	if (result && !group->result)
		group->result = result;
	group->left--;
}

static void io_done(struct block_request *request, int result)
{
	struct io *io = (struct io *)request;
	struct qcow2_group *group = io->group;
	struct fiber *waiter = group->waiter;
	group_ended(group, result);
	free(io);
	if (!group->left && waiter) {
		group->waiter = NULL;
		fiber_wake(&group->q->fibers, waiter);
	}
}

static void io_sync(struct qcow2_group *group, struct block *block, enum block_op op, uint64_t offset, uint64_t size,
		    const struct iovec *iov, unsigned iovs)
{
	int rc = 0;
	if (!iovs)
		rc = block_sync(block, op, offset, NULL, size);
	for (unsigned i = 0; i < iovs && !rc; i++) {
		rc = block_sync(block, op, offset, iov[i].iov_base, iov[i].iov_len);
		offset += iov[i].iov_len;
	}
	group_ended(group, rc);
}

void qcow2_group_io(struct qcow2_group *group, struct block *block, enum block_op op, uint64_t offset, uint64_t size,
		    struct qcow2_vec vec, uint64_t at)
{
	struct io *io = memory_zalloc(sizeof(*io) + vec.iovs * sizeof(io->iov[0]));
	io->group = group;
	unsigned iovs = vec.iovs ? vec_part(io->iov, vec, at, size) : 0;
	group->left++;
	if (group->q->sync) {
		io_sync(group, block, op, offset, size, io->iov, iovs);
		free(io);
		return;
	}
	io->request = (struct block_request){
		.op = op, .offset = offset, .size = size, .iov = iovs ? io->iov : NULL, .iovs = iovs, .done = io_done
	};
	block_submit(block, &io->request);
}

int qcow2_group_wait(struct qcow2_group *group)
{
	struct qcow2 *q = group->q;
	if (group->left) {
		block_kick(q->file);
		if (q->backing)
			block_kick(q->backing);
		group->waiter = q->fibers.running;
		fiber_wait(&q->fibers);
	}
	return group->result;
}

int qcow2_io(struct qcow2 *q, struct block *block, enum block_op op, uint64_t offset, void *bytes, uint64_t size)
{
	struct qcow2_group group = { .q = q };
	struct iovec iov = { .iov_base = bytes, .iov_len = size };
	qcow2_group_io(&group, block, op, offset, size, (struct qcow2_vec){ &iov, bytes ? 1 : 0 }, 0);
	return qcow2_group_wait(&group);
}

/* ---- who is where ---- */

static bool op_conflicts(const struct qcow2_op *a, const struct qcow2_op *b)
{
	return (a->exclusive || b->exclusive) && a->first <= b->last && b->first <= a->last;
}

/* Is there an earlier one that it must wait for? Since ops only ever wait for earlier ones, somebody can always go on. */
static bool op_blocked(const struct qcow2 *q, const struct qcow2_op *op)
{
	if (!op->exclusive && !q->exclusive_ops)
		return false;
	const struct qcow2_op *other = TAILQ_FIRST(&q->ops);
	while (other && other != op && !op_conflicts(op, other))
		other = TAILQ_NEXT(other, link);
	return other && other != op;
}

static void op_set(const struct qcow2 *q, struct qcow2_op *op, uint64_t offset, uint64_t size, bool exclusive)
{
	op->first = offset >> q->cluster_bits;
	op->last = (offset + size - 1) >> q->cluster_bits;
	op->exclusive = exclusive;
}

void qcow2_op_begin(struct qcow2 *q, struct qcow2_op *op, uint64_t offset, uint64_t size, bool exclusive)
{
	op_set(q, op, offset, size, exclusive);
	q->exclusive_ops += exclusive;
	TAILQ_INSERT_TAIL(&q->ops, op, link);
	while (op_blocked(q, op))
		fiber_queue_wait(&q->fibers, &q->op_waiters);
}

bool qcow2_op_try(struct qcow2 *q, struct qcow2_op *op, uint64_t offset, uint64_t size)
{
	op_set(q, op, offset, size, false);
	if (op_blocked(q, op))
		return false;
	TAILQ_INSERT_TAIL(&q->ops, op, link);
	return true;
}

void qcow2_op_end(struct qcow2 *q, struct qcow2_op *op)
{
	TAILQ_REMOVE(&q->ops, op, link);
	q->exclusive_ops -= op->exclusive;
	fiber_queue_wake(&q->fibers, &q->op_waiters);
}
