/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/block_testlib.h"
#include "block/layers.h"
#include "host/timer.h"

enum { SIZE = 4 << 20 };

static struct event_loop *make_loop(void)
{
	struct event_loop *loop;

	assert_int_equal(event_loop_create(&loop, NULL), 0);
	return loop;
}

/* ---- what block_submit refuses ---- */

static void requests_are_checked(void **state)
{
	struct event_loop *loop = make_loop();
	struct test_disk *disk = test_disk_create(loop, SIZE);
	struct block *block = &disk->block;
	uint8_t bytes[1024];

	(void)state;
	assert_int_equal(test_request(block, BLOCK_READ, SIZE - 1024, bytes, 1024), 0);
	assert_int_equal(bytes[0], test_byte(SIZE - 1024));
	assert_int_equal(test_request(block, BLOCK_READ, SIZE - 512, bytes, 1024), -EINVAL);
	assert_int_equal(test_request(block, BLOCK_READ, SIZE + 512, bytes, 512), -EINVAL);
	assert_int_equal(test_request(block, BLOCK_READ, UINT64_MAX - 511, bytes, 1024), -EINVAL);
	assert_int_equal(test_request(block, BLOCK_READ, 100, bytes, 512), -EINVAL);
	assert_int_equal(test_request(block, BLOCK_WRITE, 0, bytes, 100), -EINVAL);
	assert_int_equal(test_request(block, BLOCK_DISCARD, SIZE, NULL, 512), -EINVAL);
	assert_int_equal(disk->counts[BLOCK_READ], 1);
	assert_int_equal(disk->counts[BLOCK_WRITE] + disk->counts[BLOCK_DISCARD], 0);
	block->readonly = true;
	assert_int_equal(test_request(block, BLOCK_WRITE, 0, bytes, 512), -EROFS);
	assert_int_equal(test_request(block, BLOCK_DISCARD, 0, NULL, 512), -EROFS);
	assert_int_equal(test_request(block, BLOCK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
	assert_int_equal(test_request(block, BLOCK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(test_request(block, BLOCK_READ, 0, bytes, 0), 0);
	assert_int_equal(disk->counts[BLOCK_FLUSH], 0);
	assert_int_equal(block_close(block), 0);
	event_loop_destroy(loop);
}

static void what_a_layer_lacks_is_made_up_for(void **state)
{
	struct event_loop *loop = make_loop();
	struct test_disk *disk = test_disk_create(loop, SIZE);
	struct block *block = &disk->block;

	(void)state;
	assert_int_equal(test_request(block, BLOCK_WRITE_ZEROES, 512, NULL, 3 << 20), 0);
	assert_int_equal(disk->counts[BLOCK_WRITE_ZEROES], 0);
	assert_int_equal(disk->bytes[511], test_byte(511));
	for (unsigned i = 512; i < (3 << 20) + 512; i++)
		assert_int_equal(disk->bytes[i], 0);
	assert_int_equal(disk->bytes[(3 << 20) + 512], test_byte((3 << 20) + 512));
	block->zeroes = true;
	assert_int_equal(test_request(block, BLOCK_WRITE_ZEROES, 0, NULL, 512), 0);
	assert_int_equal(disk->counts[BLOCK_WRITE_ZEROES], 1);
	block->discards = false;
	assert_int_equal(test_request(block, BLOCK_DISCARD, 0, NULL, 512), 0);
	assert_int_equal(disk->counts[BLOCK_DISCARD], 0);
	disk->fail = -ENOSPC;
	block->zeroes = false;
	assert_int_equal(test_request(block, BLOCK_WRITE_ZEROES, 0, NULL, 2 << 20), -ENOSPC);
	assert_int_equal(block_close(block), 0);
	event_loop_destroy(loop);
}

/* ---- waiting without the loop ---- */

struct counted {
	struct block_request request;
	unsigned *done, again;
};

static void on_counted(struct block_request *request, int result)
{
	struct counted *c = (struct counted *)request;

	assert_int_equal(result, 0);
	++*c->done;
	if (c->again) {
		c->again--;
		block_submit(request->block, request);
	}
}

static void draining_waits_for_all(void **state)
{
	struct event_loop *loop = make_loop();
	struct test_disk *disk = test_disk_create(loop, SIZE);
	struct counted c[3];
	unsigned done = 0;
	uint8_t bytes[512];

	(void)state;
	disk->hold = true;
	for (unsigned i = 0; i < 3; i++) {
		c[i] =
		    (struct counted){ .request = { .op = BLOCK_FLUSH, .done = on_counted }, .done = &done, .again = i };
		block_submit(&disk->block, &c[i].request);
	}
	assert_false(block_poll(&disk->block, false));
	block_drain(&disk->block);
	assert_int_equal(done, 6);
	assert_int_equal(disk->block.under_way, 0);
	assert_false(block_poll(&disk->block, true)); /* does not wait for nothing */
	assert_int_equal(block_sync(&disk->block, BLOCK_READ, 512, bytes, 512), 0);
	assert_int_equal(bytes[3], test_byte(515));
	assert_int_equal(block_sync(&disk->block, BLOCK_READ, 1, bytes, 512), -EINVAL);
	/* The loop still has work of the block's, which must not outlive it. */
	assert_int_equal(block_close(&disk->block), 0);
	event_loop_turn(loop, 0, NULL);
	event_loop_destroy(loop);
}

/* ---- limits ---- */

static struct block *limited(struct test_disk *disk, uint64_t iops, uint64_t bps)
{
	const struct block_options options = { .where = "test", .iops = iops, .bps = bps };
	struct block *block;

	assert_int_equal(block_limit_open(&block, &disk->block, &options, disk->block.loop, NULL), 0);
	return block;
}

/* How long n requests take, one after the other. */
static uint64_t time_of(struct block *block, unsigned n, uint64_t size)
{
	static uint8_t bytes[SIZE];
	uint64_t begin = host_now();

	for (unsigned i = 0; i < n; i++)
		assert_int_equal(test_request(block, BLOCK_READ, 0, bytes, size), 0);
	return host_now() - begin;
}

static void a_limited_disk_takes_its_time(void **state)
{
	struct event_loop *loop = make_loop();

	(void)state;
	/* 100 a second: 10 at once, so 20 more take at least a fifth of one. No upper bound: the host may be busy. */
	struct block *block = limited(test_disk_create(loop, SIZE), 100, 0);
	assert_true(time_of(block, 30, 512) >= 190000000);
	assert_int_equal(block_size(block), SIZE);
	block_close(block);
	/* 10 MB/s: a tenth of it is free, and one request may be larger than that. */
	block = limited(test_disk_create(loop, SIZE), 0, 10 << 20);
	assert_true(time_of(block, 2, SIZE) >= 290000000);
	block_close(block);
	event_loop_destroy(loop);
}

static void who_drains_a_limited_disk_does_not_wait_for_tokens(void **state)
{
	struct event_loop *loop = make_loop();
	struct test_disk *disk = test_disk_create(loop, SIZE);
	struct block *block = limited(disk, 1, 0);
	struct counted c[50];
	unsigned done = 0;

	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		c[i] = (struct counted){ .request = { .op = BLOCK_FLUSH, .done = on_counted }, .done = &done };
		block_submit(block, &c[i].request);
	}
	event_loop_turn(loop, 0, NULL);
	assert_true(disk->counts[BLOCK_FLUSH] < 5);
	block_cancel(block); /* a disk that is there is not affected */
	block_drain(block);  /* in time: 49 seconds would be more than the test may take */
	assert_int_equal(done, 50);
	/* They are owed. */
	block_submit(block, &c[0].request);
	event_loop_turn(loop, 0, NULL);
	event_loop_turn(loop, 0, NULL);
	assert_int_equal(done, 50);
	block_drain(block);
	block_close(block);
	event_loop_destroy(loop);
}

static void errors_and_closing_pass_through_a_limit(void **state)
{
	struct event_loop *loop = make_loop();
	struct test_disk *disk = test_disk_create(loop, SIZE);
	struct block *block = limited(disk, 1000000, 0);
	uint8_t bytes[512];

	(void)state;
	disk->fail = -ENOSPC;
	assert_int_equal(test_request(block, BLOCK_WRITE, 0, bytes, 512), -ENOSPC);
	assert_int_equal(test_request(block, BLOCK_READ, SIZE, bytes, 512), -EINVAL);
	assert_int_equal(test_request(block, BLOCK_WRITE_ZEROES, 0, NULL, 512), -ENOSPC);
	block_close(block);
	event_loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_checked),
		cmocka_unit_test(what_a_layer_lacks_is_made_up_for),
		cmocka_unit_test(draining_waits_for_all),
		cmocka_unit_test(a_limited_disk_takes_its_time),
		cmocka_unit_test(who_drains_a_limited_disk_does_not_wait_for_tokens),
		cmocka_unit_test(errors_and_closing_pass_through_a_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
