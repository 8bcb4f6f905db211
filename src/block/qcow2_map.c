/* SPDX-License-Identifier: Apache-2.0 */
/* "Cluster mapping" and "Extended L2 Entries": every entry is checked before anything is read or written where it points. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "block/qcow2.h"

int qcow2_why(struct qcow2 *q, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(q->why, sizeof(q->why), format, ap);
	va_end(ap);
	return -EIO;
}

int qcow2_corrupt(struct qcow2 *q)
{
	if (q->corrupt)
		return -EIO;
	q->corrupt = true;
	block_warn(&q->block,
		   "%s: the image is corrupt: %s; it is not written any more: look at it with qemu-img check",
		   q->block.options.where, q->why);
	/* The corrupt bit, so that nobody else writes either. Version 2 has none. */
	if (!q->block.readonly && q->header.version >= 3) {
		uint8_t features[8];
		q->header.incompatible |= QCOW2_CORRUPT;
		qcow2_put_be64(features, q->header.incompatible);
		qcow2_header_write(q, QCOW2_AT_INCOMPATIBLE, features, sizeof(features));
	}
	return -EIO;
}

static uint64_t l2_index(const struct qcow2 *q, uint64_t offset)
{
	return offset >> q->cluster_bits & ((1ull << q->l2_bits) - 1);
}

static uint64_t l1_index(const struct qcow2 *q, uint64_t offset)
{
	return offset >> (q->cluster_bits + q->l2_bits);
}

/* Where in the file the entry of the cluster that has `offset` is; 0: it has no L2 table. */
static uint64_t entry_place(const struct qcow2 *q, uint64_t offset)
{
	uint64_t table = q->l1[l1_index(q, offset)] & QCOW2_OFFSET;
	return table ? table + (l2_index(q, offset) << q->entry_bits) : 0;
}

uint64_t qcow2_entries_left(const struct qcow2 *q, uint64_t offset)
{
	uint64_t in_slice = 1ull << (q->slice_bits - q->entry_bits);
	return in_slice - (l2_index(q, offset) & (in_slice - 1));
}

static struct qcow2_entry entry_load(const struct qcow2 *q, const struct qcow2_slice *slice, uint64_t offset)
{
	const uint8_t *at = slice->bytes + (entry_place(q, offset) - slice->offset);
	struct qcow2_entry entry = { .word = qcow2_be64(at) };
	if (q->header.extended_l2)
		entry.bitmap = qcow2_be64(at + 8);
	return entry;
}

enum qcow2_kind qcow2_entry_kind(const struct qcow2 *q, struct qcow2_entry entry, unsigned sub)
{
	if (entry.word & QCOW2_COMPRESSED)
		return QCOW2_KIND_COMPRESSED;
	if (q->header.extended_l2)
		return entry.bitmap >> sub & 1          ? QCOW2_KIND_DATA
		       : entry.bitmap >> (sub + 32) & 1 ? QCOW2_KIND_ZERO
							: QCOW2_KIND_NONE;
	return entry.word & QCOW2_ZERO     ? QCOW2_KIND_ZERO
	       : entry.word & QCOW2_OFFSET ? QCOW2_KIND_DATA
					   : QCOW2_KIND_NONE;
}

static int check_compressed(struct qcow2 *q, uint64_t offset, struct qcow2_entry entry)
{
	struct qcow2_compressed c = qcow2_compressed_decode(entry.word, q->cluster_bits);
	if (entry.word & QCOW2_COPIED || c.offset < q->cluster_size || c.offset >= q->file->size || c.offset >> 56)
		return qcow2_why(q, "the compressed cluster of the disk's byte %" PRIu64 " is said to be at 0x%" PRIx64,
				 offset, c.offset);
	return 0;
}

static int check_entry(struct qcow2 *q, uint64_t offset, struct qcow2_entry entry)
{
	uint64_t host = entry.word & QCOW2_OFFSET;
	bool zero_flag = q->header.version >= 3 && !q->header.extended_l2;
	if (entry.word & QCOW2_COMPRESSED)
		return check_compressed(q, offset, entry);
	if (entry.word & (QCOW2_L2_RESERVED | (zero_flag ? 0 : QCOW2_ZERO)))
		return qcow2_why(q,
				 "the L2 entry of the disk's byte %" PRIu64 ", 0x%" PRIx64 ", has bits that must be 0",
				 offset, entry.word);
	if (host & (q->cluster_size - 1) || host >= q->file->size)
		return qcow2_why(
		    q, "the cluster of the disk's byte %" PRIu64 " is said to be at 0x%" PRIx64 ", which is %s", offset,
		    host, host >= q->file->size ? "beyond the file's end" : "no multiple of the cluster size");
	if (!host && (entry.word & QCOW2_COPIED || (uint32_t)entry.bitmap))
		return qcow2_why(
		    q, "the cluster of the disk's byte %" PRIu64 " is said to be at 0, where the header is", offset);
	if ((uint32_t)entry.bitmap & (uint32_t)(entry.bitmap >> 32))
		return qcow2_why(
		    q, "the cluster of the disk's byte %" PRIu64 " has subclusters that are both data and zeros",
		    offset);
	return 0;
}

/* Adds what `entry` says about the bytes from `at` on in its cluster to a map that begins before it. False: the map ends here. */
static bool map_entry(const struct qcow2 *q, struct qcow2_map *map, struct qcow2_entry entry, uint64_t at,
		      uint64_t size)
{
	uint64_t sub_size = 1ull << q->sub_bits;
	while (at < q->cluster_size && map->length < size) {
		uint64_t length = sub_size - (at & (sub_size - 1));
		enum qcow2_kind kind = qcow2_entry_kind(q, entry, (unsigned)(at >> q->sub_bits));
		uint64_t host = (entry.word & QCOW2_OFFSET) + at;
		bool exclusive = entry.word & QCOW2_COPIED;
		if (kind == QCOW2_KIND_COMPRESSED) {
			/* Alone: each is decompressed by itself. */
			if (map->length)
				return false;
			host = entry.word;
			length = q->cluster_size - at;
		}
		if (!map->length)
			*map = (struct qcow2_map){ .kind = kind, .host = host, .exclusive = exclusive };
		else if (kind != map->kind ||
			 (kind == QCOW2_KIND_DATA && (host != map->host + map->length || exclusive != map->exclusive)))
			return false;
		map->length += length;
		at += length;
	}
	return map->kind != QCOW2_KIND_COMPRESSED;
}

int qcow2_map_peek(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_map *map)
{
	uint64_t place = entry_place(q, offset), span = 1ull << (q->cluster_bits + q->l2_bits);
	*map = (struct qcow2_map){ .kind = QCOW2_KIND_NONE };
	if (!place) {
		map->length = span - (offset & (span - 1));
		if (map->length > size)
			map->length = size;
		return 0;
	}
	const struct qcow2_slice *slice = qcow2_slice_peek(q, place);
	if (!slice)
		return -EAGAIN;
	if (slice->refcounts)
		return qcow2_why(q, "the cluster at 0x%" PRIx64 " is both L2 table and refcount block", slice->offset);
	uint64_t entries = qcow2_entries_left(q, offset), at = offset & (q->cluster_size - 1);
	uint64_t cluster = offset - at;
	bool l2_exclusive = q->l1[l1_index(q, offset)] & QCOW2_COPIED;
	for (; entries && map->length < size; entries--, cluster += q->cluster_size, at = 0) {
		struct qcow2_entry entry = entry_load(q, slice, cluster);
		int rc = check_entry(q, cluster, entry);
		if (rc && !map->length)
			return rc;
		if (rc || !map_entry(q, map, entry, at, size))
			break;
	}
	/* What a snapshot's table points to is the snapshot's as well. */
	map->exclusive &= l2_exclusive;
	if (map->length > size)
		map->length = size;
	return 0;
}

int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_map *map)
{
	int rc;
	while ((rc = qcow2_map_peek(q, offset, size, map)) == -EAGAIN) {
		struct qcow2_slice *slice;
		rc = qcow2_slice_get(q, &slice, entry_place(q, offset), false);
		if (rc)
			return rc;
	}
	return rc == -EIO ? qcow2_corrupt(q) : rc;
}

int qcow2_entry_get(struct qcow2 *q, uint64_t offset, struct qcow2_slice **slice, struct qcow2_entry *entry)
{
	int rc = qcow2_slice_get(q, slice, entry_place(q, offset), false);
	if (rc)
		return rc;
	*entry = entry_load(q, *slice, offset);
	return check_entry(q, offset, *entry) ? qcow2_corrupt(q) : 0;
}

void qcow2_entry_put(struct qcow2 *q, struct qcow2_slice *slice, uint64_t offset, struct qcow2_entry entry)
{
	uint8_t *at = slice->bytes + (entry_place(q, offset) - slice->offset);
	qcow2_put_be64(at, entry.word);
	if (q->header.extended_l2)
		qcow2_put_be64(at + 8, entry.bitmap);
	qcow2_slice_dirty(q, slice);
}
