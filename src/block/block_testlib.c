/* SPDX-License-Identifier: Apache-2.0 */
#include "block/block_testlib.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

static void need(bool fine, const char *what)
{
	if (!fine) {
		perror(what);
		abort();
	}
}

/* ---- a disk in memory ---- */

static void serve(struct test_disk *disk, struct block_request *r)
{
	uint64_t at = r->offset;

	if (!disk->fail && (r->op == BLOCK_READ || r->op == BLOCK_WRITE))
		for (unsigned i = 0; i < r->iovs; at += r->iov[i++].iov_len)
			memcpy(r->op == BLOCK_READ ? r->iov[i].iov_base : disk->bytes + at,
			       r->op == BLOCK_READ ? disk->bytes + at : r->iov[i].iov_base, r->iov[i].iov_len);
	if (!disk->fail && (r->op == BLOCK_DISCARD || r->op == BLOCK_WRITE_ZEROES))
		memset(disk->bytes + r->offset, r->op == BLOCK_DISCARD ? 0xdd : 0, r->size);
	block_done(r, disk->fail);
}

static void test_disk_submit(struct block *block, struct block_request *request)
{
	struct test_disk *disk = (struct test_disk *)block;

	disk->counts[request->op]++;
	if (disk->hold) {
		request->next = disk->held;
		disk->held = request;
	} else {
		serve(disk, request);
	}
}

void test_disk_release(struct test_disk *disk)
{
	while (disk->held) {
		struct block_request *r = disk->held;
		disk->held = r->next;
		serve(disk, r);
	}
}

static void test_disk_kick(struct block *block)
{
	((struct test_disk *)block)->kicks++;
}

static bool test_disk_poll(struct block *block, bool wait)
{
	bool any = wait && ((struct test_disk *)block)->held;

	if (any)
		test_disk_release((struct test_disk *)block);
	return any;
}

static int test_disk_close(struct block *block)
{
	struct test_disk *disk = (struct test_disk *)block;

	free(disk->bytes);
	block_fini(block);
	free(disk);
	return 0;
}

static const struct block_ops test_disk_ops = {
	.name = "test",
	.submit = test_disk_submit,
	.kick = test_disk_kick,
	.poll = test_disk_poll,
	.close = test_disk_close,
};

struct test_disk *test_disk_create(struct event_loop *loop, uint64_t size)
{
	struct test_disk *disk = memory_zalloc(sizeof(*disk));
	const struct block_options options = { .where = "test" };

	block_init(&disk->block, &test_disk_ops, loop, &options);
	disk->block.size = size;
	disk->block.discards = true;
	disk->bytes = memory_zalloc(size);
	for (uint64_t i = 0; i < size; i++)
		disk->bytes[i] = test_byte(i);
	return disk;
}

/* ---- files ---- */

uint8_t test_byte(uint64_t offset)
{
	return (uint8_t)(offset * 7 + (offset >> 9) * 13 + 1);
}

void test_file(char path[TEST_PATH], uint64_t size)
{
	uint8_t *bytes = memory_zalloc(size + 1);

	snprintf(path, TEST_PATH, "/var/tmp/plures-test-XXXXXX");
	int fd = mkstemp(path);
	need(fd >= 0, path);
	for (uint64_t i = 0; i < size; i++)
		bytes[i] = test_byte(i);
	need(write(fd, bytes, size) == (ssize_t)size, path);
	close(fd);
	free(bytes);
}

/* ---- requests ---- */

struct waiter {
	struct block_request request;
	bool done;
	int result;
};

static void on_done(struct block_request *request, int result)
{
	struct waiter *w = (struct waiter *)request;

	w->done = true;
	w->result = result;
}

int test_request_iov(struct block *block, enum block_op op, uint64_t offset, const struct iovec *iov, unsigned iovs,
		     uint64_t size)
{
	struct waiter w = {
		.request = { .op = op, .offset = offset, .size = size, .iov = iov, .iovs = iovs, .done = on_done },
	};

	block_submit(block, &w.request);
	need(!w.done, "done was called from submit");
	block_kick(block);
	while (!w.done)
		event_loop_turn(block->loop, -1, NULL);
	return w.result;
}

int test_request(struct block *block, enum block_op op, uint64_t offset, void *bytes, uint64_t size)
{
	struct iovec iov = { .iov_base = bytes, .iov_len = size };

	return test_request_iov(block, op, offset, bytes ? &iov : NULL, bytes ? 1 : 0, size);
}
