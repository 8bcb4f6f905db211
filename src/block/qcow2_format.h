/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2_format.h - the qcow2 file format: its header, parsed and checked, and the encoding of table entries. Pure: bytes in, values or an
 * error out; no I/O. Sections are those of QEMU's docs/interop/qcow2.txt.
 */
#ifndef PLURES_BLOCK_QCOW2_FORMAT_H
#define PLURES_BLOCK_QCOW2_FORMAT_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"

enum {
	QCOW2_MAGIC = 0x514649fb,
	QCOW2_HEADER_V2 = 72,
	QCOW2_HEADER_V3 = 104,
	QCOW2_MIN_CLUSTER_BITS = 9,
	QCOW2_MAX_CLUSTER_BITS = 21,
	QCOW2_MAX_L1 =
	    32 << 20, /* bytes; the field's limits, which keep a hostile image from taking the host's memory */
	QCOW2_MAX_REFTABLE = 8 << 20,
	QCOW2_MAX_SNAPSHOTS = 65536,
	QCOW2_MAX_SNAPSHOT_TABLE = 64 << 20,
	QCOW2_SUBCLUSTERS = 32,
	QCOW2_NAME = 1024, /* of the backing file, with a NUL */

	QCOW2_AT_SIZE = 24,
	QCOW2_AT_REFTABLE = 48, /* its offset, then its clusters: changed together by one write */
	QCOW2_AT_INCOMPATIBLE = 72,
	QCOW2_AT_AUTOCLEAR = 88,
};

#define QCOW2_DIRTY (1ull << 0)
#define QCOW2_CORRUPT (1ull << 1)
#define QCOW2_DATA_FILE (1ull << 2)
#define QCOW2_COMPRESSION (1ull << 3)
#define QCOW2_EXTENDED_L2 (1ull << 4)

/* Entries of L1 and L2 tables. */
#define QCOW2_COPIED (1ull << 63)
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO (1ull << 0)
#define QCOW2_OFFSET 0x00fffffffffffe00ull
#define QCOW2_L1_RESERVED 0x7f000000000001ffull
#define QCOW2_L2_RESERVED 0x3f000000000001feull
#define QCOW2_REFTABLE_RESERVED 0x1ffull

enum qcow2_compression { QCOW2_ZLIB, QCOW2_ZSTD };

struct qcow2_header {
	unsigned version, cluster_bits, refcount_order;
	uint32_t length; /* of the fixed part */
	uint64_t size;   /* of the disk, as the image says */
	uint64_t l1_offset, reftable_offset, snapshots_offset;
	uint32_t l1_entries, reftable_clusters, snapshots;
	uint64_t incompatible, compatible, autoclear;
	enum qcow2_compression compression;
	bool extended_l2;
	char backing[QCOW2_NAME]; /* "": none */
	char backing_format[32];  /* "": not said */
};

/* The fixed part's first bytes: the size of the cluster that has the whole header, or -EINVAL. `bytes` has at least 24. */
int qcow2_header_cluster(const uint8_t *bytes, unsigned *cluster_bits, struct error *err);

/* Parses the header in the image's first `size` bytes, which are the first cluster or, in a shorter file, all of it. `file_size` bounds where
 * tables may be. err says what is wrong, without the image's name. -EINVAL: damaged or no qcow2; -ENOTSUP: it needs what we lack. */
int qcow2_header_parse(struct qcow2_header *header, const uint8_t *bytes, uint64_t size, uint64_t file_size,
		       struct error *err);

/* Is the table of `bytes` bytes at `offset` where a table may be? `what` names it in err. */
int qcow2_check_table(const struct qcow2_header *header, const char *what, uint64_t offset, uint64_t bytes,
		      uint64_t file_size, struct error *err);

/* The refcount with number `index` in a refcount block of entries of 1 << order bits. */
uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t index);
void qcow2_refcount_put(uint8_t *block, unsigned order, uint64_t index, uint64_t value);

/* A compressed cluster's bytes in the file: whole sectors, of which the first begins before `offset`. */
struct qcow2_compressed {
	uint64_t offset, size; /* up to the end of the last sector */
};
struct qcow2_compressed qcow2_compressed_decode(uint64_t entry, unsigned cluster_bits);

/* Decompresses exactly `out_size` bytes; -EIO if `in` has fewer or is damaged. Any thread. */
int qcow2_decompress(enum qcow2_compression compression, uint8_t *out, size_t out_size, const uint8_t *in,
		     size_t in_size);

static inline uint16_t qcow2_be16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t qcow2_be32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t qcow2_be64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void qcow2_put_be16(void *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void qcow2_put_be32(void *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void qcow2_put_be64(void *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

#endif
