/* SPDX-License-Identifier: Apache-2.0 */
/* From an opened file to tables in memory, all of whose entries are known to point to where tables may be. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "block/qcow2.h"

enum { SLICE_BITS = 12, MAX_CHAIN = 64 };

/* Reads bytes at any offset. */
static int read_bytes(struct qcow2 *q, uint64_t offset, void *bytes, uint64_t size)
{
	uint64_t align = q->file->alignment, first = offset & ~(align - 1);
	uint64_t end = (offset + size + align - 1) & ~(align - 1);
	uint8_t *buffer = qcow2_buffer(end - first);
	int rc = buffer ? block_sync(q->file, BLOCK_READ, first, buffer, end - first) : -ENOMEM;
	if (!rc)
		memcpy(bytes, buffer + (offset - first), size);
	free(buffer);
	return rc;
}

/* ---- the header ---- */

static void set_geometry(struct qcow2 *q)
{
	const struct qcow2_header *h = &q->header;
	q->cluster_bits = h->cluster_bits;
	q->cluster_size = 1ull << h->cluster_bits;
	q->entry_bits = h->extended_l2 ? 4 : 3;
	q->l2_bits = h->cluster_bits - q->entry_bits;
	q->sub_bits = h->extended_l2 ? h->cluster_bits - 5 : h->cluster_bits;
	q->refblock_bits = h->cluster_bits + 3 - h->refcount_order;
	q->slice_bits = h->cluster_bits < SLICE_BITS ? h->cluster_bits : SLICE_BITS;
}

static int load_header(struct qcow2 *q, struct error *err)
{
	uint8_t start[512];
	unsigned bits = 0;
	uint64_t size = q->file->size;
	if (size < sizeof(start))
		return error_set(err, -EINVAL, "it is too short for a qcow2 image");
	int rc = read_bytes(q, 0, start, sizeof(start));
	if (rc)
		return error_errno(err, rc, "can't read its header");
	rc = qcow2_header_cluster(start, &bits, err);
	if (rc)
		return rc;
	if (size > 1ull << bits)
		size = 1ull << bits;
	uint8_t *cluster = qcow2_buffer(size);
	rc = cluster ? read_bytes(q, 0, cluster, size) : -ENOMEM;
	if (rc)
		error_errno(err, rc, "can't read its header");
	else
		rc = qcow2_header_parse(&q->header, cluster, size, q->file->size, err);
	free(cluster);
	if (rc)
		return rc;
	set_geometry(q);
	if (1u << q->sub_bits < q->file->alignment)
		return error_set(
		    err, -EINVAL,
		    "its clusters are smaller than what the disk below reads and writes: leave out cache=none");
	return 0;
}

static int check_writable(const struct qcow2 *q, struct error *err)
{
	const char *where = q->block.options.where;
	if (q->header.incompatible & QCOW2_CORRUPT)
		return error_set(err, -EIO,
				 "it is marked as corrupt: repair it with qemu-img check -r all %s, or use it readonly",
				 where);
	/* Its refcounts are too low perhaps, so that a cluster in use could be taken; a read does not look at them. */
	if (q->header.incompatible & QCOW2_DIRTY)
		return error_set(
		    err, -EIO, "it was not closed cleanly: repair it with qemu-img check -r all %s, or use it readonly",
		    where);
	return 0;
}

/* ---- tables ---- */

/* Reads a table of offsets into memory, in the host's order. */
static int load_table(struct qcow2 *q, uint64_t **table, uint64_t offset, uint64_t entries, const char *what,
		      struct error *err)
{
	*table = calloc(entries ? entries : 1, sizeof(**table));
	int rc = !*table ? -ENOMEM : entries ? read_bytes(q, offset, *table, entries * 8) : 0;
	for (uint64_t i = 0; i < entries && !rc; i++)
		(*table)[i] = be64toh((*table)[i]);
	return rc ? error_errno(err, rc, "can't read its %s", what) : 0;
}

static int bad_entry(const char *what, uint64_t index, uint64_t entry, const char *why, struct error *err)
{
	return error_set(
	    err, -EIO, "it is corrupt: entry %" PRIu64 " of its %s, 0x%" PRIx64 ", %s; look at it with qemu-img check",
	    index, what, entry, why);
}

/* Every entry of a table of tables: a whole cluster in the file, or 0. */
static int check_entries(const struct qcow2 *q, const uint64_t *table, uint64_t entries, uint64_t reserved,
			 const char *what, struct error *err)
{
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t offset = table[i] & ~(reserved | QCOW2_COPIED);
		if (table[i] & reserved)
			return bad_entry(what, i, table[i], "has bits that must be 0", err);
		if (table[i] && (offset & (q->cluster_size - 1) || !offset))
			return bad_entry(what, i, table[i], "is not where a table can be", err);
		if (offset && (offset > q->file->size || q->cluster_size > q->file->size - offset))
			return bad_entry(what, i, table[i], "is beyond the end of the file, which is truncated perhaps",
					 err);
	}
	return 0;
}

static int load_l1(struct qcow2 *q, struct error *err)
{
	uint64_t entries = q->header.l1_entries;
	int rc = load_table(q, &q->l1, q->header.l1_offset, entries, "L1 table", err);
	if (!rc)
		rc = check_entries(q, q->l1, entries, QCOW2_L1_RESERVED, "L1 table", err);
	if (rc)
		return rc;
	q->l1_dirty = memory_zalloc((entries * 8 >> q->slice_bits) + 1);
	return 0;
}

/* Clusters [offset, offset + size) are a table's; nobody else's. */
static int claim(struct qcow2 *q, uint64_t offset, uint64_t size, const char *what, bool shared, struct error *err)
{
	for (uint64_t c = offset >> q->cluster_bits; c <= (offset + size - 1) >> q->cluster_bits; c++) {
		bool added;
		int rc = qcow2_set_add(&q->metadata, c, &added);
		if (rc)
			return error_errno(err, rc, "a list of its tables");
		if (!added && !shared)
			return error_set(err, -EIO,
					 "it is corrupt: its %s at 0x%" PRIx64
					 " is also another table's; look at it with qemu-img check",
					 what, c << q->cluster_bits);
	}
	return 0;
}

/* One entry of the snapshot table, at *at, which moves behind it. */
static int claim_snapshot(struct qcow2 *q, uint64_t *at, struct error *err)
{
	uint8_t entry[40];
	uint64_t end = q->file->size;
	int rc = end - *at < sizeof(entry) ? -EINVAL : read_bytes(q, *at, entry, sizeof(entry));
	uint64_t size = sizeof(entry) +
			(rc ? 0 : qcow2_be16(entry + 12) + qcow2_be16(entry + 14) + (uint64_t)qcow2_be32(entry + 36));
	size = (size + 7) & ~7ull;
	if (rc || size > end - *at || *at + size - q->header.snapshots_offset > QCOW2_MAX_SNAPSHOT_TABLE)
		return error_set(
		    err, -EIO,
		    "it is corrupt: its snapshot table ends within an entry; look at it with qemu-img check");
	*at += size;
	uint64_t l1 = qcow2_be64(entry), entries = qcow2_be32(entry + 8);
	if (!entries)
		return 0;
	if (entries * 8 > QCOW2_MAX_L1)
		return error_set(err, -EIO, "it is corrupt: a snapshot's L1 table has %" PRIu64 " entries", entries);
	rc = qcow2_check_table(&q->header, "L1 table of a snapshot", l1, entries * 8, end, err);
	return rc ? rc : claim(q, l1, entries * 8, "L1 table of a snapshot", false, err);
}

static int claim_snapshots(struct qcow2 *q, struct error *err)
{
	uint64_t start = q->header.snapshots_offset, at = start;
	int rc = 0;
	for (uint32_t i = 0; i < q->header.snapshots && !rc; i++)
		rc = claim_snapshot(q, &at, err);
	return rc || at == start ? rc : claim(q, start, at - start, "snapshot table", false, err);
}

static int claim_tables(struct qcow2 *q, struct error *err)
{
	const struct qcow2_header *h = &q->header;
	int rc = claim(q, h->reftable_offset, (uint64_t)h->reftable_clusters << q->cluster_bits, "refcount table",
		       false, err);
	if (!rc && h->l1_entries)
		rc = claim(q, h->l1_offset, (uint64_t)h->l1_entries * 8, "L1 table", false, err);
	for (uint64_t i = 0; i < q->reftable_entries && !rc; i++)
		if (q->reftable[i])
			rc = claim(q, q->reftable[i], 1, "refcount block", false, err);
	for (uint64_t i = 0; i < h->l1_entries && !rc; i++)
		if (q->l1[i] & QCOW2_OFFSET)
			rc = claim(q, q->l1[i] & QCOW2_OFFSET, 1, "L2 table", !(q->l1[i] & QCOW2_COPIED), err);
	return rc ? rc : claim_snapshots(q, err);
}

/* ---- for writing ---- */

static int load_refcounts(struct qcow2 *q, struct error *err)
{
	q->reftable_entries = (uint64_t)q->header.reftable_clusters << q->cluster_bits >> 3;
	int rc = load_table(q, &q->reftable, q->header.reftable_offset, q->reftable_entries, "refcount table", err);
	if (!rc)
		rc = check_entries(q, q->reftable, q->reftable_entries, QCOW2_REFTABLE_RESERVED, "refcount table", err);
	if (rc)
		return rc;
	q->reftable_dirty = memory_zalloc((q->reftable_entries * 8 >> q->slice_bits) + 1);
	return claim_tables(q, err);
}

static int prepare_writing(struct qcow2 *q, struct error *err)
{
	uint64_t size = (q->file->size + q->cluster_size - 1) & ~(q->cluster_size - 1);
	int rc = check_writable(q, err);
	if (rc)
		return rc;
	/* The last table may end with the file, within its cluster; we write whole pieces of tables. */
	if (size > q->file->size && q->file->ops->grow)
		rc = q->file->ops->grow(q->file, size);
	if (rc)
		return error_errno(err, rc, "can't make it longer");
	q->fresh = size >> q->cluster_bits;
	rc = load_refcounts(q, err);
	if (rc)
		return rc;
	q->head = qcow2_buffer(1ull << q->slice_bits);
	rc = q->head ? read_bytes(q, 0, q->head, 1ull << q->slice_bits) : -ENOMEM;
	/* Whatever they promise (bitmaps, say) is not kept from now on. */
	if (!rc && q->header.autoclear)
		rc = qcow2_header_write(q, QCOW2_AT_AUTOCLEAR, (uint8_t[8]){ 0 }, 8);
	return rc ? error_errno(err, rc, "its header") : 0;
}

/* ---- backing files ---- */

/* The path of the backing file `name` of the image at `where`: beside it, unless it says otherwise. From the heap. */
static char *backing_path(const char *where, const char *name)
{
	const char *slash = strrchr(where, '/');
	char *path;
	if (!strncmp(name, "file:", 5))
		name += 5;
	if (name[0] == '/' || strstr(name, "://") || strstr(where, "://") || !slash)
		return memory_strdup(name);
	if (asprintf(&path, "%.*s/%s", (int)(slash - where), where, name) < 0)
		abort();
	return path;
}

/* The path of the backing file of the file at `path`, or NULL: it has none, or opening it will say what is wrong. */
static char *next_in_chain(const char *path, struct stat *st)
{
	struct qcow2_header header;
	uint8_t start[512];
	unsigned bits;
	char *next = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	if (fstat(fd, st) == 0 && S_ISREG(st->st_mode) && pread(fd, start, sizeof(start), 0) == sizeof(start) &&
	    !qcow2_header_cluster(start, &bits, NULL)) {
		uint64_t size = (uint64_t)st->st_size < 1ull << bits ? (uint64_t)st->st_size : 1ull << bits;
		uint8_t *cluster = qcow2_buffer(size);
		if (cluster && pread(fd, cluster, size, 0) == (ssize_t)size &&
		    !qcow2_header_parse(&header, cluster, size, ((uint64_t)st->st_size + 511) & ~511ull, NULL) &&
		    header.backing[0] && strcmp(header.backing_format, "raw") != 0)
			next = backing_path(path, header.backing);
		free(cluster);
	}
	close(fd);
	return next;
}

/* Follows the chain before any of it is opened and locked: an image below itself would seem to be in use by another machine. */
static int check_chain(const struct qcow2 *q, struct error *err)
{
	struct stat seen[MAX_CHAIN];
	char *path = memory_strdup(q->block.options.where);
	int rc = 0;
	unsigned n = 0;
	while (path && !rc) {
		if (n == MAX_CHAIN) {
			rc = error_set(err, -ELOOP, "more than %d backing files below each other", MAX_CHAIN);
			break;
		}
		seen[n].st_ino = 0;
		char *next = next_in_chain(path, &seen[n]);
		for (unsigned i = 0; i < n && !rc; i++)
			if (seen[n].st_ino && seen[i].st_ino == seen[n].st_ino && seen[i].st_dev == seen[n].st_dev)
				rc = error_set(err, -ELOOP, "its backing files form a loop: %s is below itself", path);
		n++;
		free(path);
		path = next;
	}
	free(path);
	return rc;
}

static int open_backing(struct qcow2 *q, const struct block_options *options, struct error *err)
{
	const struct qcow2_header *h = &q->header;
	struct block_options below = *options;
	if (!h->backing[0])
		return 0;
	if (!strncmp(h->backing, "json:", 5))
		return error_set(err, -ENOTSUP, "its backing file is described in JSON, which is not supported: %.100s",
				 h->backing);
	int rc = check_chain(q, err);
	if (rc)
		return rc;
	char *path = backing_path(options->where, h->backing);
	below.where = path;
	below.format = h->backing_format[0] ? h->backing_format : NULL;
	below.readonly = true;
	below.iops = below.bps = 0;
	rc = block_open(&q->backing, &below, q->block.loop, err);
	free(path);
	if (rc)
		return error_prefix(err, rc, "its backing file");
	if (q->backing->alignment > q->block.alignment)
		q->block.alignment = q->backing->alignment;
	return 0;
}

/* ---- all of it ---- */

int qcow2_load(struct qcow2 *q, const struct block_options *options, struct error *err)
{
	int rc = load_header(q, err);
	if (rc)
		return rc;
	qcow2_cache_init(q);
	q->block.alignment = q->file->alignment;
	rc = load_l1(q, err);
	if (!rc)
		rc = open_backing(q, options, err);
	/* The first that changes the file. */
	if (!rc && !q->block.readonly)
		rc = prepare_writing(q, err);
	if (rc)
		return rc;
	if (1u << q->sub_bits < q->block.alignment)
		return error_set(err, -EINVAL, "its clusters are smaller than what its backing file's disk reads");
	q->block.size = (q->header.size + q->block.alignment - 1) & ~(uint64_t)(q->block.alignment - 1);
	q->block.discards = q->block.zeroes = true;
	return 0;
}

void qcow2_unload(struct qcow2 *q)
{
	if (q->backing)
		block_close(q->backing);
	qcow2_cache_fini(q);
	free(q->l1);
	free(q->l1_dirty);
	free(q->reftable);
	free(q->reftable_dirty);
	free(q->metadata.place);
	free(q->frees.free);
	free(q->head);
}
