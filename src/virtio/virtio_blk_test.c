/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "block/block_testlib.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_testlib.h"

enum { T_IN, T_OUT, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { OK, IOERR, UNSUPP, PENDING = 0xee };
enum { SECTORS = 2048, HEADERS = TEST_BUFFERS, STATUS = TEST_BUFFERS + 0x1000, DATA = TEST_BUFFERS + 0x2000 };
enum { F_RO = 5, F_FLUSH = 9, F_CONFIG_WCE = 11, F_MQ = 12 };

struct fixture {
	struct test_guest g;
	struct test_disk *disk; /* or NULL: a file */
	struct event_loop *loop;
	char path[TEST_PATH], warned[512];
	unsigned warnings, sent;
	uint8_t *ram;
};

static void on_warn(void *ctx, const char *what)
{
	struct fixture *f = (struct fixture *)ctx;

	f->warnings++;
	snprintf(f->warned, sizeof(f->warned), "%s", what);
}

/* ---- the driver's half ---- */

/* Makes a request available in three descriptors, as drivers do: its slot, by which status_of knows it. */
static unsigned send(struct fixture *f, unsigned queue, uint32_t type, uint64_t sector, uint64_t data, uint32_t size)
{
	unsigned slot = f->sent++ % (TEST_QUEUE_SIZE / 4);
	uint8_t *header = f->ram + HEADERS + (queue * 8 + slot) * 16;
	uint64_t table = test_ring_desc(queue), status = STATUS + queue * 8 + slot;
	bool in = type == T_IN || type == T_GET_ID;
	unsigned first = slot * 4, last = first + 1;

	bytes_put_le32(header, type);
	bytes_put_le64(header + 8, sector);
	f->ram[status] = PENDING;
	test_desc(&f->g, table, first, (uint64_t)(header - f->ram), 16, TEST_DESC_NEXT, (uint16_t)(first + 1));
	if (size) {
		unsigned flags = TEST_DESC_NEXT | (in ? TEST_DESC_WRITE : 0);
		test_desc(&f->g, table, last, data, size, (uint16_t)flags, (uint16_t)(last + 1));
		last++;
	}
	test_desc(&f->g, table, last, status, 1, TEST_DESC_WRITE, 0);
	test_avail(&f->g, queue, (uint16_t)first);
	test_notify(&f->g, queue);
	return queue * 8 + slot;
}

static uint8_t status_of(const struct fixture *f, unsigned slot)
{
	return __atomic_load_n(&f->ram[STATUS + slot], __ATOMIC_ACQUIRE);
}

/* Waits until something was used, whichever thread does it. */
static bool wait_used(struct fixture *f, unsigned queue)
{
	for (unsigned i = 0; i < 20000; i++) {
		test_guest_settle(&f->g);
		if (test_used(&f->g, queue, NULL, NULL))
			return true;
		usleep(500);
	}
	return false;
}

static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint64_t data, uint32_t size)
{
	unsigned slot = send(f, 0, type, sector, data, size);

	assert_true(wait_used(f, 0));
	return status_of(f, slot);
}

/* ---- fixtures ---- */

static void begin(struct fixture *f, struct virtio_blk_config config)
{
	struct error err = { "" };
	struct virtio *v;

	test_guest_init(&f->g);
	f->ram = f->g.ram;
	f->g.env.warn = on_warn;
	f->g.env.ctx = f;
	if (config.no_thread) {
		f->disk = test_disk_create(f->g.loop, SECTORS * 512);
		f->disk->block.zeroes = true;
		config.ready = &f->disk->block;
	} else if (!config.block.where) {
		test_file(f->path, SECTORS * 512);
		config.block.where = f->path;
		config.block.format = "raw";
	}
	if (virtio_blk_make(&v, &f->g.env, &config, &err))
		fail_msg("%s", err.text);
	test_guest_plug(&f->g, v);
	test_driver_start(&f->g, virtio_offered(v));
}

static void end(struct fixture *f)
{
	test_guest_fini(&f->g);
	if (f->path[0])
		unlink(f->path);
}

static uint64_t config_of(struct fixture *f, unsigned offset, unsigned size)
{
	return test_reg_read(&f->g, VIRTIO_PCI_CONFIG + offset, size);
}

/* ---- tests ---- */

static void reads_writes_and_the_rest(void **state)
{
	(void)state;
	for (unsigned threaded = 0; threaded < 2; threaded++) {
		struct fixture f = { .sent = 0 };
		begin(&f, (struct virtio_blk_config){ .no_thread = !threaded, .serial = "serial-0123456789-abc" });
		assert_int_equal(config_of(&f, 0, 4), SECTORS);
		assert_int_equal(config_of(&f, 20, 4), 512);
		assert_int_equal(request(&f, T_IN, 3, DATA, 4096), OK);
		for (unsigned i = 0; i < 4096; i++)
			assert_int_equal(f.ram[DATA + i], test_byte(3 * 512 + i));
		memset(f.ram + DATA, 0x3c, 8192);
		assert_int_equal(request(&f, T_OUT, 100, DATA, 8192), OK);
		assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), OK);
		memset(f.ram + DATA, 0, 8192);
		assert_int_equal(request(&f, T_IN, 100, DATA, 8192), OK);
		assert_int_equal(f.ram[DATA], 0x3c);
		assert_int_equal(f.ram[DATA + 8191], 0x3c);
		assert_int_equal(request(&f, T_GET_ID, 0, DATA, 20), OK);
		assert_memory_equal(f.ram + DATA, "serial-0123456789-ab", 20);
		assert_int_equal(request(&f, T_IN, SECTORS - 1, DATA, 512), OK);
		assert_true(f.g.interrupts[1] > 0);
		assert_int_equal(f.warnings, 0);
		end(&f);
	}
}

/* Everything in one writable descriptor, the header split in two: framing is the driver's choice (2.7.4.2). */
static void framing_is_the_drivers(void **state)
{
	struct fixture f = { .sent = 0 };
	uint64_t table = test_ring_desc(0);

	(void)state;
	begin(&f, (struct virtio_blk_config){ .no_thread = true });
	bytes_put_le32(f.ram + HEADERS, T_IN);
	bytes_put_le64(f.ram + HEADERS + 8, 9);
	test_desc(&f.g, table, 0, HEADERS, 5, TEST_DESC_NEXT, 1);
	test_desc(&f.g, table, 1, HEADERS + 5, 11, TEST_DESC_NEXT, 2);
	test_desc(&f.g, table, 2, DATA, 513, TEST_DESC_WRITE, 0);
	f.ram[DATA + 512] = PENDING;
	test_avail(&f.g, 0, 0);
	test_notify(&f.g, 0);
	assert_true(wait_used(&f, 0));
	assert_int_equal(f.ram[DATA + 512], OK);
	assert_int_equal(f.ram[DATA], test_byte(9 * 512));
	assert_int_equal(f.ram[DATA + 511], test_byte(9 * 512 + 511));

	/* A write whose header and data share a descriptor. */
	memset(f.ram + DATA, 0x42, 1024);
	bytes_put_le32(f.ram + DATA, T_OUT);
	bytes_put_le64(f.ram + DATA + 8, 9);
	test_desc(&f.g, table, 0, DATA, 16 + 512, TEST_DESC_NEXT, 1);
	test_desc(&f.g, table, 1, STATUS, 1, TEST_DESC_WRITE, 0);
	f.ram[STATUS] = PENDING;
	test_avail(&f.g, 0, 0);
	test_notify(&f.g, 0);
	assert_true(wait_used(&f, 0));
	assert_int_equal(f.ram[STATUS], OK);
	assert_int_equal(f.disk->bytes[9 * 512], 0x42);
	assert_int_equal(f.disk->bytes[9 * 512 + 511], 0x42);
	assert_int_equal(f.disk->bytes[10 * 512], test_byte(10 * 512));
	end(&f);
}

static void nonsense_is_refused(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .no_thread = true });
	assert_int_equal(request(&f, T_IN, SECTORS, DATA, 512), IOERR);
	assert_int_equal(request(&f, T_IN, SECTORS - 1, DATA, 1024), IOERR);
	assert_int_equal(request(&f, T_OUT, UINT64_MAX, DATA, 512), IOERR);
	assert_int_equal(request(&f, T_OUT, UINT64_MAX / 512, DATA, 512), IOERR);
	assert_int_equal(request(&f, T_IN, 0, DATA, 100), IOERR);
	assert_int_equal(request(&f, T_IN, 0, 0, 0), IOERR);
	assert_int_equal(request(&f, T_GET_ID, 0, DATA, 19), IOERR);
	assert_int_equal(request(&f, 77, 0, DATA, 512), UNSUPP);
	assert_int_equal(request(&f, UINT32_MAX, 0, 0, 0), UNSUPP);
	assert_int_equal(f.warnings, 0); /* the guest's mistakes are not the user's */
	/* No header, no status: nothing that could be answered. */
	test_send(&f.g, 0, HEADERS, 15, STATUS, 1);
	test_guest_settle(&f.g);
	assert_true(virtio_status(f.g.v) & VIRTIO_NEEDS_RESET);
	f.sent = 0;
	test_driver_start(&f.g, virtio_offered(f.g.v));
	test_send(&f.g, 0, HEADERS, 16, 0, 0);
	test_guest_settle(&f.g);
	assert_true(virtio_status(f.g.v) & VIRTIO_NEEDS_RESET);
	end(&f);
}

static void put_range(struct fixture *f, unsigned i, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	bytes_put_le64(f->ram + DATA + i * 16, sector);
	bytes_put_le32(f->ram + DATA + i * 16 + 8, sectors);
	bytes_put_le32(f->ram + DATA + i * 16 + 12, flags);
}

static void ranges_are_discarded_and_zeroed(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .no_thread = true });
	put_range(&f, 0, 4, 2, 0);
	put_range(&f, 1, 100, 8, 0);
	assert_int_equal(request(&f, T_DISCARD, 0, DATA, 32), OK);
	assert_int_equal(f.disk->counts[BLOCK_DISCARD], 2);
	assert_int_equal(f.disk->bytes[4 * 512], 0xdd);
	assert_int_equal(f.disk->bytes[107 * 512 + 511], 0xdd);
	assert_int_equal(f.disk->bytes[108 * 512], test_byte(108 * 512));
	put_range(&f, 0, 4, 2, 1);
	put_range(&f, 1, 6, 1, 0);
	assert_int_equal(request(&f, T_WRITE_ZEROES, 0, DATA, 32), OK);
	assert_int_equal(f.disk->bytes[4 * 512], 0);
	assert_int_equal(f.disk->bytes[6 * 512 + 511], 0);
	assert_int_equal(f.disk->bytes[7 * 512], test_byte(7 * 512));
	/* The second is wrong: nothing is done. */
	static const uint64_t wrong[][3] = {
		{ SECTORS, 1, 0 }, { SECTORS - 1, 2, 0 }, { UINT64_MAX, 1, 0 }, { 0, 0, 0 }, { 0, 1, 2 }, { 0, 1, 1 },
	};
	unsigned done = f.disk->counts[BLOCK_DISCARD];
	for (unsigned i = 0; i < 6; i++) {
		put_range(&f, 0, 10, 2, 0);
		put_range(&f, 1, wrong[i][0], (uint32_t)wrong[i][1], (uint32_t)wrong[i][2]);
		assert_int_equal(request(&f, T_DISCARD, 0, DATA, 32), i < 4 ? IOERR : UNSUPP);
	}
	assert_int_equal(request(&f, T_DISCARD, 0, DATA, 17), IOERR);
	assert_int_equal(request(&f, T_DISCARD, 0, 0, 0), IOERR);
	assert_int_equal(request(&f, T_DISCARD, 0, DATA, 33 * 16), IOERR);
	assert_int_equal(f.disk->counts[BLOCK_DISCARD], done);
	end(&f);
}

static void the_hosts_errors_reach_guest_and_user(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .no_thread = true });
	f.disk->fail = -ENOSPC;
	assert_int_equal(request(&f, T_OUT, 8, DATA, 512), IOERR);
	assert_string_equal(f.warned,
			    "test: a write of 512 bytes at 4096 failed: No space left on device; the guest is told");
	f.disk->fail = -EIO;
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(request(&f, T_IN, 8, DATA, 512), IOERR);
	assert_int_equal(f.warnings, 1); /* one in some seconds */
	f.disk->fail = 0;
	assert_int_equal(request(&f, T_IN, 8, DATA, 512), OK);
	end(&f);
}

static void a_driver_without_flush_is_written_through(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .no_thread = true });
	assert_int_equal(request(&f, T_OUT, 0, DATA, 512), OK);
	assert_int_equal(f.disk->counts[BLOCK_FLUSH], 0);
	test_reg_write(&f.g, VIRTIO_PCI_CONFIG + 32, 1, 0);
	assert_int_equal(request(&f, T_OUT, 0, DATA, 512), OK);
	assert_int_equal(f.disk->counts[BLOCK_FLUSH], 1);
	assert_int_equal(request(&f, T_IN, 0, DATA, 512), OK);
	assert_int_equal(f.disk->counts[BLOCK_FLUSH], 1);
	f.sent = 0;
	test_driver_start(&f.g, virtio_offered(f.g.v) & ~(VIRTIO_BIT(F_FLUSH) | VIRTIO_BIT(F_CONFIG_WCE)));
	assert_int_equal(config_of(&f, 32, 1), 1);
	assert_int_equal(request(&f, T_OUT, 0, DATA, 512), OK);
	put_range(&f, 0, 4, 2, 0);
	assert_int_equal(request(&f, T_WRITE_ZEROES, 0, DATA, 16), OK);
	assert_int_equal(f.disk->counts[BLOCK_FLUSH], 3);
	end(&f);
}

static void a_reset_waits_for_requests_under_way(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .no_thread = true });
	f.disk->hold = true;
	f.ram[DATA] = 0x99;
	unsigned slot = send(&f, 0, T_IN, 5, DATA, 512);
	test_guest_settle(&f.g);
	assert_int_equal(status_of(&f, slot), PENDING);
	assert_non_null(f.disk->held);
	test_reg_write(&f.g, 0x14, 1, 0);
	assert_int_not_equal(test_reg_read(&f.g, 0x14, 1), 0);
	event_loop_turn(f.g.loop, 0, NULL);
	assert_int_equal(test_reg_read(&f.g, 0x14, 1), 0);
	assert_null(f.disk->held);
	assert_int_equal(status_of(&f, slot), PENDING); /* its queue is gone */
	f.disk->hold = false;
	f.sent = 0;
	test_driver_start(&f.g, virtio_offered(f.g.v));
	assert_int_equal(request(&f, T_IN, 5, DATA, 512), OK);
	/* The machine's end comes while requests are under way. */
	f.disk->hold = true;
	send(&f, 0, T_IN, 5, DATA, 512);
	test_guest_settle(&f.g);
	end(&f);
}

/* With a thread of its own, whenever the reset comes. */
static void resets_at_any_moment(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .queues = 2 });
	for (unsigned i = 0; i < 200; i++) {
		for (unsigned n = 0; n < 3; n++)
			send(&f, n % 2, n ? T_OUT : T_IN, n * 8, DATA + n * 4096, 4096);
		if (i % 3)
			usleep(i % 7 * 10);
		test_reg_write(&f.g, 0x14, 1, 0);
		f.sent = 0;
		test_driver_start(&f.g, virtio_offered(f.g.v));
		assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), OK);
	}
	end(&f);
}

static void every_queue_is_served(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .queues = 4 });
	assert_true(virtio_offered(f.g.v) & VIRTIO_BIT(F_MQ));
	assert_int_equal(config_of(&f, 34, 2), 4);
	for (unsigned i = 0; i < 40; i++) {
		f.sent = 0;
		unsigned slot = send(&f, i % 4, T_IN, i, DATA, 512);
		assert_true(wait_used(&f, i % 4));
		assert_int_equal(status_of(&f, slot), OK);
		assert_int_equal(f.ram[DATA], test_byte(i * 512));
	}
	end(&f);
}

static void a_disk_may_be_read_only(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .block.readonly = true });
	assert_true(virtio_offered(f.g.v) & VIRTIO_BIT(F_RO));
	assert_int_equal(request(&f, T_IN, 0, DATA, 512), OK);
	assert_int_equal(request(&f, T_OUT, 0, DATA, 512), IOERR);
	put_range(&f, 0, 4, 2, 0);
	assert_int_equal(request(&f, T_WRITE_ZEROES, 0, DATA, 16), IOERR);
	assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), OK);
	assert_int_equal(f.warnings, 0);
	end(&f);
}

static void a_larger_file_is_a_larger_disk(void **state)
{
	struct fixture f = { .sent = 0 };

	(void)state;
	begin(&f, (struct virtio_blk_config){ .queues = 1 });
	unsigned interrupts = f.g.interrupts[0];
	assert_int_equal(truncate(f.path, (SECTORS + 10) * 512), 0);
	for (unsigned i = 0; i < 2000 && config_of(&f, 0, 4) == SECTORS; i++)
		usleep(10000);
	assert_int_equal(config_of(&f, 0, 4), SECTORS + 10);
	assert_true(f.g.interrupts[0] > interrupts);
	assert_int_equal(request(&f, T_IN, SECTORS + 9, DATA, 512), OK);
	end(&f);
}

/* What was asked for before is answered before; the other machine goes on behind it. */
static void it_moves_between_machines(void **state)
{
	struct fixture from = { .sent = 0 }, to = { .sent = 0 };

	(void)state;
	begin(&from, (struct virtio_blk_config){ .block.where = NULL });
	assert_int_equal(request(&from, T_IN, 1, DATA, 512), OK);
	test_reg_write(&from.g, VIRTIO_PCI_CONFIG + 32, 1, 0);
	unsigned slot = send(&from, 0, T_IN, 2, DATA, 512);
	begin(&to, (struct virtio_blk_config){ .block.where = NULL });
	assert_int_equal(test_guest_move(&from.g, &to.g), 0);
	to.sent = from.sent;
	/* It goes on where it was saved, too. */
	assert_true(wait_used(&from, 0));
	assert_int_equal(status_of(&from, slot), OK);
	assert_int_equal(request(&from, T_IN, 3, DATA, 512), OK);
	assert_true(wait_used(&to, 0));
	assert_int_equal(status_of(&to, slot), OK);
	assert_int_equal(config_of(&to, 32, 1), 0);
	assert_int_equal(request(&to, T_IN, 4, DATA, 512), OK);
	assert_int_equal(to.ram[DATA], test_byte(4 * 512));
	end(&from);
	end(&to);
}

static void options_are_checked(void **state)
{
	static const char *const good[] = {
		"disk.img",
		"disk.img,format=raw,readonly,serial=x,cache=none,iops=100,bps=10M,queues=4,aio=threads",
		"a,,b",
		"where=x,cache=unsafe,aio=io_uring",
	};
	static const char *const bad[][2] = {
		{ "", "a disk needs a file" },
		{ "x,cache=writethrough", "cache is writeback, none or unsafe" },
		{ "x,format=iso", "no image format is called 'iso'" },
		{ "x,aio=native", "aio is io_uring or threads" },
		{ "x,serial=123456789012345678901", "at most 20" },
		{ "x,queues=17", "queues" },
		{ "x,color=red", "where, format, readonly, serial, cache, iops, bps, queues, aio" },
	};
	struct error err = { "" };

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		if (virtio_blk_check(good[i], &err))
			fail_msg("%s: %s", good[i], err.text);
	for (unsigned i = 0; i < 7; i++) {
		assert_int_equal(virtio_blk_check(bad[i][0], &err), -EINVAL);
		if (!strstr(err.text, bad[i][1]))
			fail_msg("%s", err.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_writes_and_the_rest),
		cmocka_unit_test(framing_is_the_drivers),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(ranges_are_discarded_and_zeroed),
		cmocka_unit_test(the_hosts_errors_reach_guest_and_user),
		cmocka_unit_test(a_driver_without_flush_is_written_through),
		cmocka_unit_test(a_reset_waits_for_requests_under_way),
		cmocka_unit_test(resets_at_any_moment),
		cmocka_unit_test(every_queue_is_served),
		cmocka_unit_test(a_disk_may_be_read_only),
		cmocka_unit_test(a_larger_file_is_a_larger_disk),
		cmocka_unit_test(it_moves_between_machines),
		cmocka_unit_test(options_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
