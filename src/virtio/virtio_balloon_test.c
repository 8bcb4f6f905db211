/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_testlib.h"
#include "vm/clock.h"

#define S UINT64_C(1000000000)

static void begin(struct test_guest *g, const char *options, uint64_t features)
{
	struct virtio *v;
	struct error err;

	test_guest_init(g);
	assert_int_equal(virtio_balloon_create(&v, &g->env, options, &err), 0);
	test_guest_plug(g, v);
	test_driver_start(g, features);
}

static void test_inflate(void **state)
{
	struct test_guest g;
	(void)state;
	begin(&g, "64K", VIRTIO_BIT(2) | VIRTIO_BIT(5));
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_CONFIG, 4), 16);
	memset(g.ram + 0xa0000, 0xaa, 0x20000);
	/* In disorder, one twice, some that are no memory. */
	const uint32_t pages[] = { 0xa3, 0xa1, 0xa2, 0xa1, 0xb0, 0x100, 0xffffffff, 0xff00 };
	for (unsigned i = 0; i < 8; i++)
		bytes_put_le32(g.ram + TEST_BUFFERS + i * 4, pages[i]);
	test_send(&g, 0, TEST_BUFFERS, 35, 0, 0); /* and half a one */
	test_guest_settle(&g);
	assert_true(test_used(&g, 0, NULL, NULL));
	for (unsigned page = 0xa0; page < 0xc0; page++) {
		bool gone = (page >= 0xa1 && page <= 0xa3) || page == 0xb0;
		assert_int_equal(g.ram[page << 12], gone ? 0 : 0xaa);
		assert_int_equal(g.ram[(page << 12) + 4095], gone ? 0 : 0xaa);
	}
	test_reg_write(&g, VIRTIO_PCI_CONFIG + 4, 4, 4);
	assert_int_equal(virtio_balloon_actual(g.v), 0x4000);
	test_send(&g, 1, TEST_BUFFERS, 32, 0, 0);
	test_guest_settle(&g);
	assert_true(test_used(&g, 1, NULL, NULL));
	virtio_balloon_set_target(g.v, 0x8000);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_CONFIG, 4), 8);
	assert_int_equal(g.interrupts[0], 1);
	test_guest_fini(&g);
}

static void test_reporting(void **state)
{
	(void)state;
	for (unsigned queue = 2; queue <= 4; queue++) { /* however the driver counts */
		struct test_guest g;
		begin(&g, "", VIRTIO_BIT(5));
		memset(g.ram + 0xa0000, 0xaa, 0x10000);
		test_send(&g, queue, 0, 0, 0xa4000, 0x8000);
		test_guest_settle(&g);
		assert_true(test_used(&g, queue, NULL, NULL));
		assert_int_equal(g.ram[0xa3fff], 0xaa);
		assert_int_equal(g.ram[0xa4000], 0);
		assert_int_equal(g.ram[0xabfff], 0);
		assert_int_equal(g.ram[0xac000], 0xaa);
		test_guest_fini(&g);
	}
}

static void test_not_negotiated(void **state)
{
	struct test_guest g;
	(void)state;
	begin(&g, "reporting=off", 0);
	memset(g.ram + 0xa0000, 0xaa, 0x10000);
	test_send(&g, 2, 0, 0, 0xa4000, 0x8000);
	test_guest_settle(&g);
	assert_int_equal(g.ram[0xa4000], 0xaa);
	test_guest_fini(&g);
}

static void put_stat(struct test_guest *g, unsigned i, uint16_t tag, uint64_t value)
{
	bytes_put_le16(g->ram + TEST_BUFFERS + i * 10, tag);
	bytes_put_le64(g->ram + TEST_BUFFERS + i * 10 + 2, value);
}

static void test_stats(void **state)
{
	struct test_guest g, other;
	uint64_t stats[BALLOON_STATS];
	(void)state;
	begin(&g, "0,stats=10", VIRTIO_BIT(1) | VIRTIO_BIT(5));
	put_stat(&g, 0, BALLOON_FREE, 1234);
	put_stat(&g, 1, 999, 1);
	test_send(&g, 2, TEST_BUFFERS, 20, 0, 0);
	test_guest_settle(&g);
	virtio_balloon_stats(g.v, stats);
	assert_int_equal(stats[BALLOON_FREE], 1234);
	assert_int_equal(stats[BALLOON_TOTAL], UINT64_MAX);
	assert_false(test_used(&g, 2, NULL, NULL)); /* kept until it is time */
	clock_advance(g.clock, 9 * S);
	assert_false(test_used(&g, 2, NULL, NULL));
	/* A copy made meanwhile goes on with the same buffer. */
	begin(&other, "0,stats=10", VIRTIO_BIT(1) | VIRTIO_BIT(5));
	assert_int_equal(test_guest_move(&g, &other), 0);
	test_guest_settle(&other);
	virtio_balloon_stats(other.v, stats);
	assert_int_equal(stats[BALLOON_FREE], 1234);
	clock_advance(other.clock, 10 * S);
	assert_true(test_used(&other, 2, NULL, NULL));
	test_guest_fini(&other);

	clock_advance(g.clock, 1 * S);
	assert_true(test_used(&g, 2, NULL, NULL));
	assert_int_equal(g.interrupts[3], 1);
	put_stat(&g, 0, BALLOON_FREE, 5678);
	test_send(&g, 2, TEST_BUFFERS, 10, 0, 0);
	test_guest_settle(&g);
	virtio_balloon_stats(g.v, stats);
	assert_int_equal(stats[BALLOON_FREE], 5678);
	test_reg_write(&g, 0x14, 1, 0);
	test_guest_settle(&g);
	clock_advance(g.clock, 100 * S);
	test_driver_start(&g, VIRTIO_BIT(1));
	test_guest_fini(&g);
}

static void test_options(void **state)
{
	struct error err;
	(void)state;
	assert_int_equal(virtio_balloon_check("1G,deflate-on-oom=off,stats=5", &err), 0);
	assert_int_equal(virtio_balloon_check("lots", &err), -22);
	assert_int_equal(virtio_balloon_check("1G,stats=-1", &err), -22);
	assert_int_equal(virtio_balloon_check("9999999T", &err), -22);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inflate), cmocka_unit_test(test_reporting), cmocka_unit_test(test_not_negotiated),
		cmocka_unit_test(test_stats),   cmocka_unit_test(test_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
