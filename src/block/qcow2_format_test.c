/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2_format.h"

enum { CLUSTER = 65536, FILE_SIZE = 8 * CLUSTER };

/* The first cluster of an image of 1 GiB: refcount table at 1, L1 at 3, all as qemu-img makes them. */
static void make_header(uint8_t *h)
{
	memset(h, 0, CLUSTER);
	qcow2_put_be32(h, QCOW2_MAGIC);
	qcow2_put_be32(h + 4, 3);
	qcow2_put_be32(h + 20, 16);
	qcow2_put_be64(h + 24, 1 << 30);
	qcow2_put_be32(h + 36, 2);
	qcow2_put_be64(h + 40, 3ull * CLUSTER);
	qcow2_put_be64(h + 48, CLUSTER);
	qcow2_put_be32(h + 56, 1);
	qcow2_put_be32(h + 96, 4);
	qcow2_put_be32(h + 100, 112);
}

static int parse(const uint8_t *h, struct qcow2_header *header, struct error *err)
{
	err->text[0] = '\0';
	return qcow2_header_parse(header, h, CLUSTER, FILE_SIZE, err);
}

static void a_header_is_read(void **state)
{
	(void)state;
	uint8_t h[CLUSTER];
	struct qcow2_header header;
	struct error err;
	make_header(h);
	qcow2_put_be32(h + 112, 0xe2792aca);
	qcow2_put_be32(h + 116, 3);
	memcpy(h + 120, "raw", 3);
	qcow2_put_be64(h + 8, 200);
	qcow2_put_be32(h + 16, 8);
	memcpy(h + 200, "base.img", 8);
	qcow2_put_be64(h + 72, QCOW2_COMPRESSION | QCOW2_EXTENDED_L2);
	h[104] = 1;
	qcow2_put_be32(h + 36, 4); /* tables of extended entries hold half as many */
	assert_int_equal(parse(h, &header, &err), 0);
	assert_string_equal(header.backing, "base.img");
	assert_string_equal(header.backing_format, "raw");
	assert_int_equal(header.compression, QCOW2_ZSTD);
	assert_true(header.extended_l2);
	assert_int_equal(header.l1_entries, 4);
	assert_int_equal(header.size, 1 << 30);
}

static void version_2_ends_sooner(void **state)
{
	(void)state;
	uint8_t h[CLUSTER];
	struct qcow2_header header;
	struct error err;
	make_header(h);
	qcow2_put_be32(h + 4, 2);
	memset(h + 72, 0, 64);
	assert_int_equal(parse(h, &header, &err), 0);
	assert_int_equal(header.refcount_order, 4);
	assert_int_equal(header.length, 72);
}

/* Each field, wrong in turn: `size` bytes at `at` get the value. What the line must say. */
static const struct {
	unsigned at, size;
	uint64_t value;
	int rc;
	const char *says;
} wrong[] = {
	{ 0, 4, 0x12345678, -EINVAL, "magic" },
	{ 4, 4, 1, -ENOTSUP, "version 1" },
	{ 4, 4, 4, -ENOTSUP, "version 4" },
	{ 8, 8, CLUSTER, -EINVAL, "outside of the first cluster" },
	{ 8, 8, 50, -EINVAL, "outside of the first cluster" },
	{ 8, 8, UINT64_MAX, -EINVAL, "outside of the first cluster" },
	{ 20, 4, 8, -EINVAL, "cluster_bits is 8" },
	{ 20, 4, 22, -EINVAL, "cluster_bits is 22" },
	{ 20, 4, UINT32_MAX, -EINVAL, "cluster_bits" },
	{ 24, 8, 2ull << 30, -EINVAL, "needs 4 entries in the L1 table" },
	{ 24, 8, UINT64_MAX, -EINVAL, "bytes" },
	{ 32, 4, 1, -ENOTSUP, "encrypted (AES)" },
	{ 32, 4, 2, -ENOTSUP, "encrypted (LUKS)" },
	{ 32, 4, 3, -EINVAL, "crypt_method is 3" },
	{ 36, 4, 1, -EINVAL, "needs 2 entries" },
	{ 36, 4, 0, -EINVAL, "needs 2 entries" },
	{ 36, 4, UINT32_MAX, -EINVAL, "L1 table has 4294967295 entries" },
	{ 36, 4, 1 << 20, -EINVAL, "truncated: the L1 table" },
	{ 40, 8, 3 * CLUSTER + 512, -EINVAL, "no multiple of the cluster size" },
	{ 40, 8, FILE_SIZE, -EINVAL, "truncated: the L1 table" },
	{ 40, 8, 0, -EINVAL, "where the header is" },
	{ 40, 8, 0ull - CLUSTER, -EINVAL, "truncated: the L1 table" },
	{ 48, 8, CLUSTER + 8, -EINVAL, "refcount table" },
	{ 48, 8, FILE_SIZE, -EINVAL, "truncated: the refcount table" },
	{ 48, 8, 0, -EINVAL, "refcount table" },
	{ 56, 4, 0, -EINVAL, "no refcount table" },
	{ 56, 4, 8, -EINVAL, "truncated: the refcount table" },
	{ 56, 4, UINT32_MAX, -EINVAL, "refcount table has 4294967295 clusters" },
	{ 60, 4, 1, -EINVAL, "snapshot table" },
	{ 60, 4, 65537, -EINVAL, "65537 snapshots" },
	{ 72, 8, 1ull << 2, -ENOTSUP, "external file" },
	{ 72, 8, 1ull << 3, -EINVAL, "compression_type is 0" },
	{ 72, 8, 1ull << 5, -ENOTSUP, "not supported: bit 5" },
	{ 72, 8, 1ull << 63, -ENOTSUP, "not supported: bit 63" },
	{ 96, 4, 7, -EINVAL, "refcount_order is 7" },
	{ 100, 4, 96, -EINVAL, "header_length is 96" },
	{ 100, 4, 105, -EINVAL, "header_length is 105" },
	{ 100, 4, CLUSTER + 8, -EINVAL, "header_length" },
	{ 104, 1, 1, -EINVAL, "compression_type is 1" },
	{ 116, 4, UINT32_MAX, -EINVAL, "extension at byte 112" },
};

static void each_wrong_field_is_said(void **state)
{
	(void)state;
	uint8_t h[CLUSTER];
	struct qcow2_header header;
	struct error err;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		make_header(h);
		qcow2_put_be32(h + 16, 4);
		h[115] = 1; /* an extension that nobody knows */
		for (unsigned k = 0; k < wrong[i].size; k++)
			h[wrong[i].at + k] = (uint8_t)(wrong[i].value >> 8 * (wrong[i].size - 1 - k));
		int rc = parse(h, &header, &err);
		if (rc != wrong[i].rc || !strstr(err.text, wrong[i].says) || strchr(err.text, '\n'))
			fail_msg("byte %u as 0x%llx: %d, %s", wrong[i].at, (unsigned long long)wrong[i].value, rc,
				 err.text);
	}
}

static void names_must_be_whole(void **state)
{
	(void)state;
	uint8_t h[CLUSTER];
	struct qcow2_header header;
	struct error err;
	make_header(h);
	qcow2_put_be64(h + 8, 200);
	qcow2_put_be32(h + 16, 1024);
	assert_int_equal(parse(h, &header, &err), -EINVAL);
	assert_non_null(strstr(err.text, "has 1024 bytes"));
	qcow2_put_be32(h + 16, 4);
	memcpy(h + 200, "a\0bc", 4);
	assert_int_equal(parse(h, &header, &err), -EINVAL);
	assert_non_null(strstr(err.text, "NUL"));
}

static void unknown_features_have_the_names_that_the_image_gives(void **state)
{
	(void)state;
	uint8_t h[CLUSTER];
	struct qcow2_header header;
	struct error err;
	make_header(h);
	qcow2_put_be64(h + 72, 1ull << 40 | 1ull << 41 | 1ull << 42);
	qcow2_put_be32(h + 112, 0x6803f857);
	qcow2_put_be32(h + 116, 3 * 48);
	h[120 + 1] = 40;
	memcpy(h + 120 + 2, "time travel", 11);
	h[168] = 1; /* a compatible one with the same number */
	h[168 + 1] = 41;
	memcpy(h + 168 + 2, "harmless", 8);
	h[216 + 1] = 42;
	memcpy(h + 216 + 2, "\033[31m", 5);
	assert_int_equal(parse(h, &header, &err), -ENOTSUP);
	assert_string_equal(err.text, "it needs features that are not supported: time travel, bit 41, ?[31m");
}

static void a_header_may_end_anywhere(void **state)
{
	(void)state;
	uint8_t h[CLUSTER];
	struct qcow2_header header;
	struct error err;
	make_header(h);
	for (size_t size = 0; size < 112; size++) {
		/* On the heap, so that a sanitizer sees what is read behind it. */
		uint8_t *part = malloc(size ? size : 1);
		memcpy(part, h, size);
		assert_int_equal(qcow2_header_parse(&header, part, size, FILE_SIZE, &err), -EINVAL);
		free(part);
	}
}

static void refcounts_of_all_widths(void **state)
{
	(void)state;
	uint8_t block[512];
	for (unsigned order = 0; order <= 6; order++) {
		uint64_t count = 4096 >> order, mask = order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
		memset(block, 0, sizeof(block));
		for (uint64_t i = 0; i < count; i++)
			qcow2_refcount_put(block, order, i, i * 0x9e3779b97f4a7c15ull & mask);
		for (uint64_t i = 0; i < count; i++)
			assert_int_equal(qcow2_refcount_get(block, order, i), i * 0x9e3779b97f4a7c15ull & mask);
	}
	/* The first entry is the byte's lowest bits; wider ones are big-endian. */
	memset(block, 0, sizeof(block));
	qcow2_refcount_put(block, 1, 1, 3);
	assert_int_equal(block[0], 0x0c);
	qcow2_refcount_put(block, 4, 0, 0x0102);
	assert_int_equal(block[0], 1);
}

static void where_compressed_clusters_are(void **state)
{
	(void)state;
	/* 64K: bits 0 to 53 are the offset, 54 to 61 the further sectors. */
	struct qcow2_compressed c = qcow2_compressed_decode(QCOW2_COMPRESSED | 2ull << 54 | 0x50123, 16);
	assert_int_equal(c.offset, 0x50123);
	assert_int_equal(c.size, 3 * 512 - 0x123);
	c = qcow2_compressed_decode(QCOW2_COMPRESSED | 0x3fffffffffffffffull, 9);
	assert_int_equal(c.offset, (1ull << 61) - 1);
}

static size_t deflate_raw(uint8_t *out, size_t room, const uint8_t *in, size_t size)
{
	z_stream stream = {
		.next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)room
	};
	assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
	deflateEnd(&stream);
	return room - stream.avail_out;
}

static void clusters_are_decompressed(void **state)
{
	(void)state;
	uint8_t *in = malloc(CLUSTER), *packed = calloc(2, CLUSTER), *out = malloc(CLUSTER);
	for (size_t i = 0; i < CLUSTER; i++)
		in[i] = (uint8_t)(i * i >> 7);
	for (int type = QCOW2_ZLIB; type <= QCOW2_ZSTD; type++) {
		size_t size = type == QCOW2_ZLIB ? deflate_raw(packed, CLUSTER, in, CLUSTER)
						 : ZSTD_compress(packed, 2 * CLUSTER, in, CLUSTER, 3);
		/* With what else the sectors hold behind it. */
		assert_int_equal(qcow2_decompress(type, out, CLUSTER, packed, size + 100), 0);
		assert_memory_equal(in, out, CLUSTER);
		assert_int_equal(qcow2_decompress(type, out, CLUSTER, packed, size / 2), -EIO);
		assert_int_equal(qcow2_decompress(type, out, CLUSTER, in, 1000), -EIO);
		assert_int_equal(qcow2_decompress(type, out, CLUSTER, packed, 0), -EIO);
	}
	free(in);
	free(packed);
	free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_header_is_read),
		cmocka_unit_test(version_2_ends_sooner),
		cmocka_unit_test(each_wrong_field_is_said),
		cmocka_unit_test(names_must_be_whole),
		cmocka_unit_test(unknown_features_have_the_names_that_the_image_gives),
		cmocka_unit_test(a_header_may_end_anywhere),
		cmocka_unit_test(refcounts_of_all_widths),
		cmocka_unit_test(where_compressed_clusters_are),
		cmocka_unit_test(clusters_are_decompressed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
