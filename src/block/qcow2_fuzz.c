/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2_fuzz.c - a libFuzzer target over images and requests. The input's first byte chooses how the image comes about: all of it is
 * input, or a whole image that is made here, with clusters of one of three kinds, has some of its bytes changed. The rest of the
 * input is that, and then requests. What is wrong shows as a sanitizer's report or as a broken promise below: an image that
 * was refused has not been written, requests end, a line says why.
 */
#include <errno.h>
#include <stdlib.h>

#include "block/block_testlib.h"
#include "block/qcow2_format.h"

enum { IMAGE = 256 << 10, REQUEST = 16 << 10, CHANGES = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *data;
	size_t size;
};

static unsigned take(struct input *input)
{
	if (!input->size)
		return 0;
	input->size--;
	return *input->data++;
}

static unsigned take16(struct input *input)
{
	unsigned low = take(input);
	return low | take(input) << 8;
}

/* An image of 64 clusters, of which the first 8 are data, the next 4 zeros, then a compressed one, its tables at clusters 1 to 4. */
static void make_image(uint8_t *image, unsigned cluster_bits, unsigned refcount_order, bool extended, bool shared)
{
	uint64_t cluster = 1ull << cluster_bits, copied = shared ? 0 : QCOW2_COPIED;
	unsigned entry = extended ? 16 : 8;
	uint8_t *l2 = image + 4 * cluster;
	memset(image, 0, IMAGE);
	qcow2_put_be32(image, QCOW2_MAGIC);
	qcow2_put_be32(image + 4, 3);
	qcow2_put_be32(image + 20, cluster_bits);
	qcow2_put_be64(image + 24, 60 * cluster);
	qcow2_put_be32(image + 36, 4);
	qcow2_put_be64(image + 40, 3 * cluster);
	qcow2_put_be64(image + 48, cluster);
	qcow2_put_be32(image + 56, 1);
	qcow2_put_be64(image + 72, extended ? QCOW2_EXTENDED_L2 : 0);
	qcow2_put_be32(image + 96, refcount_order);
	qcow2_put_be32(image + 100, 112);
	qcow2_put_be64(image + cluster, 2 * cluster);
	for (unsigned i = 0; i < 14; i++)
		qcow2_refcount_put(image + 2 * cluster, refcount_order, i, i >= 4 && shared && refcount_order ? 2 : 1);
	qcow2_put_be64(image + 3 * cluster, 4 * cluster | copied);
	for (unsigned i = 0; i < 8; i++) {
		qcow2_put_be64(l2 + (size_t)i * entry, (5 + i) * cluster | copied);
		if (extended)
			qcow2_put_be64(l2 + (size_t)i * entry + 8, 0xff00ull << 32 | 0xffu);
	}
	for (unsigned i = 8; i < 12; i++)
		qcow2_put_be64(l2 + (size_t)i * entry + (extended ? 8 : 0), extended ? 0xffffull << 32 : QCOW2_ZERO);
	qcow2_put_be64(l2 + 12ull * entry, QCOW2_COMPRESSED | (13 * cluster + 10));
}

static void change(uint8_t *image, uint64_t cluster, struct input *input)
{
	unsigned changes = take(input) % CHANGES;
	for (unsigned i = 0; i < changes; i++) {
		/* In one of the tables: where is what is interesting. */
		uint64_t at = (take(input) % 5) * cluster + take16(input) % (cluster < 512 ? cluster : 512);
		image[at] = (uint8_t)take(input);
	}
}

static void fill_image(uint8_t *image, struct input *input)
{
	static const struct {
		unsigned bits, order;
		bool extended, shared;
	} kinds[] = { { 9, 4, false, false },
		      { 12, 0, false, false },
		      { 14, 3, true, false },
		      { 9, 6, false, true },
		      { 14, 1, true, true } };
	unsigned kind = take(input) % 6;
	if (kind < 5) {
		make_image(image, kinds[kind].bits, kinds[kind].order, kinds[kind].extended, kinds[kind].shared);
		change(image, 1ull << kinds[kind].bits, input);
		return;
	}
	size_t n = input->size * 3 / 4;
	memset(image, 0, IMAGE);
	memcpy(image, input->data, n < IMAGE ? n : IMAGE);
	input->data += n;
	input->size -= n;
}

static void play(struct block *block, struct input *input)
{
	static uint8_t bytes[REQUEST];
	uint64_t sectors = block_size(block) / 512;
	for (unsigned i = 0; i < 64 && input->size && sectors; i++) {
		enum block_op op = take(input) % (BLOCK_WRITE_ZEROES + 1);
		uint64_t offset = take16(input) % sectors * 512, size = (take(input) % (REQUEST / 512) + 1) * 512;
		if (size > block_size(block) - offset)
			size = block_size(block) - offset;
		if (op == BLOCK_FLUSH)
			offset = size = 0;
		bool data = op == BLOCK_READ || op == BLOCK_WRITE;
		if (test_request(block, op, offset, data ? bytes : NULL, size) > 0)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct event_loop *loop;
	struct error err = { "" };
	struct block *block;
	if (event_loop_create(&loop, NULL))
		return 0;
	struct test_disk *disk = test_disk_create(loop, IMAGE);
	struct block_options options = { .where = "/nowhere/fuzz", .readonly = take(&input) % 4 == 0 };
	disk->block.readonly = options.readonly;
	fill_image(disk->bytes, &input);
	int rc = block_qcow2_open(&block, &disk->block, &options, loop, &err);
	if (rc > 0 || (rc < 0 && (block || !err.text[0] || strchr(err.text, '\n'))))
		abort();
	if (!rc) {
		play(block, &input);
		block_close(block);
	}
	event_loop_destroy(loop);
	return 0;
}
