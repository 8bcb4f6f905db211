/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "block/qcow2.h"

/* Starts a read of what the backing file has; zeros behind its end. */
static void read_backing(struct qcow2 *q, struct qcow2_group *group, uint64_t offset, uint64_t size,
			 struct qcow2_vec vec, uint64_t at)
{
	uint64_t end = q->backing ? q->backing->size : 0, there = 0;
	if (offset < end)
		there = end - offset < size ? end - offset : size;
	if (there)
		qcow2_group_io(group, q->backing, BLOCK_READ, offset, there, vec, at);
	if (there < size)
		qcow2_vec_zero(vec, at + there, size - there);
}

/* Starts a read of data in the file. A file may end within its last cluster. */
static void read_data(struct qcow2 *q, struct qcow2_group *group, uint64_t host, uint64_t size, struct qcow2_vec vec,
		      uint64_t at)
{
	uint64_t end = q->file->size, there = 0;
	if (host < end)
		there = end - host < size ? end - host : size;
	if (there)
		qcow2_group_io(group, q->file, BLOCK_READ, host, there, vec, at);
	if (there < size)
		qcow2_vec_zero(vec, at + there, size - there);
}

/* Reads and decompresses a cluster into `out`. */
static int read_compressed(struct qcow2 *q, uint64_t entry, uint8_t *out)
{
	struct qcow2_compressed c = qcow2_compressed_decode(entry, q->cluster_bits);
	uint64_t align = q->file->alignment, first = c.offset & ~(align - 1);
	uint64_t end = (c.offset + c.size + align - 1) & ~(align - 1);
	/* The last sectors may be beyond the file's end: writers count generously. */
	if (end > q->file->size)
		end = q->file->size;
	uint8_t *in = qcow2_buffer(end - first);
	if (!in)
		return -ENOMEM;
	int rc = qcow2_io(q, q->file, BLOCK_READ, first, in, end - first);
	if (!rc)
		rc = qcow2_decompress(q->header.compression, out, q->cluster_size, in + (c.offset - first),
				      end - c.offset);
	free(in);
	return rc;
}

static int read_from_compressed(struct qcow2 *q, uint64_t entry, uint64_t offset, uint64_t size, struct qcow2_vec vec,
				uint64_t at)
{
	uint8_t *out = qcow2_buffer(q->cluster_size);
	int rc = out ? read_compressed(q, entry, out) : -ENOMEM;
	if (!rc)
		qcow2_vec_put(vec, at, out + (offset & (q->cluster_size - 1)), size);
	free(out);
	return rc;
}

int qcow2_read(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_vec vec, uint64_t at)
{
	struct qcow2_group group = { .q = q };
	int rc = 0, r;
	while (size && !rc) {
		struct qcow2_map map;
		rc = qcow2_map(q, offset, size, &map);
		if (rc)
			break;
		switch (map.kind) {
		case QCOW2_KIND_NONE:
			read_backing(q, &group, offset, map.length, vec, at);
			break;
		case QCOW2_KIND_ZERO:
			qcow2_vec_zero(vec, at, map.length);
			break;
		case QCOW2_KIND_DATA:
			read_data(q, &group, map.host, map.length, vec, at);
			break;
		case QCOW2_KIND_COMPRESSED:
			rc = read_from_compressed(q, map.host, offset, map.length, vec, at);
			break;
		}
		offset += map.length;
		at += map.length;
		size -= map.length;
	}
	r = qcow2_group_wait(&group);
	return rc ? rc : r;
}

int qcow2_reads_zero(struct qcow2 *q, uint64_t offset, uint64_t size)
{
	while (size) {
		struct qcow2_map map;
		int rc = qcow2_map(q, offset, size, &map);
		if (rc)
			return rc;
		bool zero = map.kind == QCOW2_KIND_ZERO ||
			    (map.kind == QCOW2_KIND_NONE && (!q->backing || offset >= q->backing->size));
		if (!zero)
			return 0;
		offset += map.length;
		size -= map.length;
	}
	return 1;
}
