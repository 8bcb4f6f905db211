/* SPDX-License-Identifier: Apache-2.0 */
/* "Header", "Header extensions" and "Feature name table" of the specification. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "block/qcow2_format.h"

#define CHECK(condition, ...)                                        \
	do {                                                         \
		if (!(condition))                                    \
			return error_set(err, -EINVAL, __VA_ARGS__); \
	} while (0)

enum {
	EXTENSION_END = 0,
	EXTENSION_FEATURE_NAMES = 0x6803f857,
	FEATURE_NAME = 48, /* one entry of that table */
};
#define EXTENSION_BACKING_FORMAT 0xe2792acau

#define KNOWN_INCOMPATIBLE (QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_DATA_FILE | QCOW2_COMPRESSION | QCOW2_EXTENDED_L2)

/* The area of a header extension: data within the first cluster. */
struct extension {
	uint32_t type, size;
	const uint8_t *data;
};

int qcow2_header_cluster(const uint8_t *bytes, unsigned *cluster_bits, struct error *err)
{
	CHECK(qcow2_be32(bytes) == QCOW2_MAGIC, "it does not begin with qcow2's magic number");
	uint32_t version = qcow2_be32(bytes + 4), bits = qcow2_be32(bytes + 20);
	if (version != 2 && version != 3)
		return error_set(err, -ENOTSUP,
				 "its format is version %" PRIu32 " of qcow, which is not supported (2 and 3 are)",
				 version);
	CHECK(bits >= QCOW2_MIN_CLUSTER_BITS && bits <= QCOW2_MAX_CLUSTER_BITS,
	      "its header is damaged: cluster_bits is %" PRIu32 ", not %d to %d", bits, QCOW2_MIN_CLUSTER_BITS,
	      QCOW2_MAX_CLUSTER_BITS);
	*cluster_bits = bits;
	return 0;
}

static int parse_fixed(struct qcow2_header *header, const uint8_t *bytes, uint64_t size, struct error *err)
{
	header->version = qcow2_be32(bytes + 4);
	header->size = qcow2_be64(bytes + QCOW2_AT_SIZE);
	header->l1_entries = qcow2_be32(bytes + 36);
	header->l1_offset = qcow2_be64(bytes + 40);
	header->reftable_offset = qcow2_be64(bytes + QCOW2_AT_REFTABLE);
	header->reftable_clusters = qcow2_be32(bytes + 56);
	header->snapshots = qcow2_be32(bytes + 60);
	header->snapshots_offset = qcow2_be64(bytes + 64);
	header->length = QCOW2_HEADER_V2;
	header->refcount_order = 4;
	if (header->version == 2)
		return 0;

	CHECK(size >= QCOW2_HEADER_V3, "it ends within its header");
	header->incompatible = qcow2_be64(bytes + QCOW2_AT_INCOMPATIBLE);
	header->compatible = qcow2_be64(bytes + 80);
	header->autoclear = qcow2_be64(bytes + QCOW2_AT_AUTOCLEAR);
	header->refcount_order = qcow2_be32(bytes + 96);
	header->length = qcow2_be32(bytes + 100);
	CHECK(header->refcount_order <= 6, "its header is damaged: refcount_order is %u, not 0 to 6",
	      header->refcount_order);
	CHECK(header->length >= QCOW2_HEADER_V3 && header->length % 8 == 0 && header->length <= size,
	      "its header is damaged: header_length is %" PRIu32, header->length);
	return 0;
}

/* The extension at *at, which moves behind it. */
static int next_extension(const struct qcow2_header *header, const uint8_t *bytes, uint64_t size, uint64_t *at,
			  struct extension *extension, struct error *err)
{
	*extension = (struct extension){ .type = EXTENSION_END };
	/* The area ends at the latest where the backing file's name begins. */
	uint64_t end = size, name = qcow2_be64(bytes + 8);
	if (name && name < end)
		end = name;
	if (*at + 8 > end)
		return 0;
	extension->type = qcow2_be32(bytes + *at);
	extension->size = qcow2_be32(bytes + *at + 4);
	extension->data = bytes + *at + 8;
	if (extension->type == EXTENSION_END)
		return 0;
	CHECK(extension->size <= end - *at - 8,
	      "its header is damaged: the extension at byte %" PRIu64 " says that it has %" PRIu32 " bytes", *at,
	      extension->size);
	*at += 8 + (((uint64_t)extension->size + 7) & ~7ull);
	(void)header;
	return 0;
}

/* What the image's own table calls an incompatible feature, or its bit's number. */
static void feature_name(const struct extension *table, unsigned bit, char *name, size_t room)
{
	snprintf(name, room, "bit %u", bit);
	for (uint32_t i = 0; table->data && i + FEATURE_NAME <= table->size; i += FEATURE_NAME) {
		const uint8_t *entry = table->data + i;
		if (entry[0] != 0 || entry[1] != bit)
			continue;
		size_t n = 0;
		/* The user's terminal shows this. */
		for (; n < FEATURE_NAME - 2 && n + 1 < room && entry[2 + n]; n++)
			name[n] = entry[2 + n] >= ' ' && entry[2 + n] < 127 ? (char)entry[2 + n] : '?';
		if (n)
			name[n] = '\0';
		return;
	}
}

static int check_features(const struct qcow2_header *header, const struct extension *names, struct error *err)
{
	uint64_t unknown = header->incompatible & ~KNOWN_INCOMPATIBLE;
	if (unknown) {
		char list[256] = "", name[64];
		for (unsigned bit = 0; bit < 64; bit++) {
			if (!(unknown >> bit & 1))
				continue;
			feature_name(names, bit, name, sizeof(name));
			size_t used = strlen(list);
			snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "", name);
		}
		return error_set(err, -ENOTSUP, "it needs features that are not supported: %s", list);
	}
	if (header->incompatible & QCOW2_DATA_FILE)
		return error_set(
		    err, -ENOTSUP,
		    "its data is in an external file, which is not supported; qemu-img convert makes an image without");
	return 0;
}

static int parse_compression(struct qcow2_header *header, const uint8_t *bytes, struct error *err)
{
	unsigned type = header->length > QCOW2_HEADER_V3 ? bytes[104] : 0;
	bool said = header->incompatible & QCOW2_COMPRESSION;
	CHECK(said == (type != 0), "its header is damaged: compression_type is %u, but its feature bit is %d", type,
	      said);
	if (type > QCOW2_ZSTD)
		return error_set(err, -ENOTSUP, "its clusters are compressed in a way that is not supported (type %u)",
				 type);
	header->compression = type;
	return 0;
}

static int parse_backing_name(struct qcow2_header *header, const uint8_t *bytes, uint64_t size, struct error *err)
{
	uint64_t offset = qcow2_be64(bytes + 8);
	uint32_t length = qcow2_be32(bytes + 16);
	if (!offset)
		return 0;
	CHECK(length < QCOW2_NAME, "its header is damaged: the backing file's name has %" PRIu32 " bytes, more than %d",
	      length, QCOW2_NAME - 1);
	CHECK(offset >= header->length && offset <= size && length <= size - offset,
	      "its header is damaged: the backing file's name is outside of the first cluster");
	CHECK(!memchr(bytes + offset, 0, length), "its header is damaged: the backing file's name has a NUL");
	memcpy(header->backing, bytes + offset, length);
	header->backing[length] = '\0';
	return 0;
}

static int parse_extensions(struct qcow2_header *header, const uint8_t *bytes, uint64_t size, struct error *err)
{
	struct extension extension, names = { .type = 0 };
	uint64_t at = header->length;
	do {
		int rc = next_extension(header, bytes, size, &at, &extension, err);
		if (rc)
			return rc;
		if (extension.type == EXTENSION_FEATURE_NAMES) {
			names = extension;
		} else if (extension.type == EXTENSION_BACKING_FORMAT) {
			CHECK(extension.size < sizeof(header->backing_format) &&
				  !memchr(extension.data, 0, extension.size),
			      "its header is damaged: the backing file's format has no such name");
			memcpy(header->backing_format, extension.data, extension.size);
			header->backing_format[extension.size] = '\0';
		}
	} while (extension.type != EXTENSION_END);
	return check_features(header, &names, err);
}

int qcow2_check_table(const struct qcow2_header *header, const char *what, uint64_t offset, uint64_t bytes,
		      uint64_t file_size, struct error *err)
{
	CHECK((offset & ((1ull << header->cluster_bits) - 1)) == 0,
	      "its header is damaged: the %s is at 0x%" PRIx64 ", which is no multiple of the cluster size", what,
	      offset);
	CHECK(offset != 0, "its header is damaged: the %s is at 0, where the header is", what);
	CHECK(offset <= file_size && bytes <= file_size - offset,
	      "it is truncated: the %s at 0x%" PRIx64 " (%" PRIu64 " bytes) is beyond the file's end at 0x%" PRIx64,
	      what, offset, bytes, file_size);
	return 0;
}

static int check_tables(struct qcow2_header *header, uint64_t file_size, struct error *err)
{
	unsigned bits = header->cluster_bits;
	/* L2 entries a table, as a power of two. */
	unsigned l2_bits = bits - (header->extended_l2 ? 4 : 3);
	CHECK(header->size <= INT64_MAX, "its header is damaged: the disk has %" PRIu64 " bytes", header->size);
	CHECK((uint64_t)header->l1_entries * 8 <= QCOW2_MAX_L1,
	      "its header is damaged: the L1 table has %" PRIu32 " entries", header->l1_entries);
	uint64_t clusters = (header->size >> bits) + ((header->size & ((1ull << bits) - 1)) != 0);
	uint64_t need = (clusters + (1ull << l2_bits) - 1) >> l2_bits;
	CHECK(header->l1_entries >= need,
	      "its header is damaged: a disk of %" PRIu64 " bytes needs %" PRIu64
	      " entries in the L1 table, which has %" PRIu32,
	      header->size, need, header->l1_entries);
	int rc = 0;
	if (header->l1_entries)
		rc = qcow2_check_table(header, "L1 table", header->l1_offset, (uint64_t)header->l1_entries * 8,
				       file_size, err);
	if (rc)
		return rc;

	CHECK(header->reftable_clusters != 0, "its header is damaged: there is no refcount table");
	CHECK((uint64_t)header->reftable_clusters << bits <= QCOW2_MAX_REFTABLE,
	      "its header is damaged: the refcount table has %" PRIu32 " clusters", header->reftable_clusters);
	rc = qcow2_check_table(header, "refcount table", header->reftable_offset,
			       (uint64_t)header->reftable_clusters << bits, file_size, err);
	if (rc)
		return rc;

	CHECK(header->snapshots <= QCOW2_MAX_SNAPSHOTS, "its header is damaged: it has %" PRIu32 " snapshots",
	      header->snapshots);
	/* 40 bytes are the least that an entry has. */
	if (header->snapshots)
		rc = qcow2_check_table(header, "snapshot table", header->snapshots_offset,
				       (uint64_t)header->snapshots * 40, file_size, err);
	return rc;
}

int qcow2_header_parse(struct qcow2_header *header, const uint8_t *bytes, uint64_t size, uint64_t file_size,
		       struct error *err)
{
	*header = (struct qcow2_header){ .version = 0 };
	CHECK(size >= QCOW2_HEADER_V2, "it ends within its header");
	int rc = qcow2_header_cluster(bytes, &header->cluster_bits, err);
	if (!rc)
		rc = parse_fixed(header, bytes, size, err);
	/* Features first: what they mean may change all that follows. */
	if (!rc)
		rc = parse_extensions(header, bytes, size, err);
	if (rc)
		return rc;

	uint32_t crypt = qcow2_be32(bytes + 32);
	if (crypt == 1 || crypt == 2)
		return error_set(err, -ENOTSUP, "it is encrypted (%s), which is not supported",
				 crypt == 1 ? "AES" : "LUKS");
	CHECK(crypt == 0, "its header is damaged: crypt_method is %" PRIu32, crypt);
	rc = parse_compression(header, bytes, err);
	if (!rc)
		rc = parse_backing_name(header, bytes, size, err);
	if (rc)
		return rc;
	header->extended_l2 = header->incompatible & QCOW2_EXTENDED_L2;
	CHECK(!header->extended_l2 || header->cluster_bits >= 14,
	      "its header is damaged: extended L2 entries need clusters of 16K at least");
	return check_tables(header, file_size, err);
}
