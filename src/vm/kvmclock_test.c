/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vm/kvmclock.h"

static const uint64_t frequencies[] = {
	1, 1000, 800000, 999999, 1000000, 1900000, 2596096, 3000000, 5700000, 4000000000
};

enum { FREQUENCIES = sizeof(frequencies) / sizeof(frequencies[0]) };

static void test_an_hour_is_an_hour_at_any_frequency(void **state)
{
	(void)state;
	for (unsigned i = 0; i < FREQUENCIES; i++) {
		uint64_t khz = frequencies[i], hour = 3600ull * 1000000000;
		struct kvmclock c;
		kvmclock_init(&c, 12345, khz, 777, 0);
		assert_int_equal(kvmclock_ns(&c, 12345), 777);
		uint64_t ns = kvmclock_ns(&c, 12345 + khz * 3600 * 1000);
		assert_in_range(ns, 777 + hour - hour / 1000000000, 777 + hour);
	}
}

static void test_time_never_goes_back(void **state)
{
	struct kvmclock c;
	uint64_t last = 0;

	(void)state;
	kvmclock_init(&c, 1000, 2596096, 0, 0);
	for (uint64_t tsc = 1000; tsc < 200000; tsc++) {
		uint64_t now = kvmclock_ns(&c, tsc);
		assert_true(now >= last);
		last = now;
	}
}

/* What a guest does with the 32 bytes: Linux's pvclock ABI. */
static uint64_t guest_reads(const uint8_t *page, uint64_t tsc)
{
	uint64_t base_tsc, base_ns;
	uint32_t mul;

	memcpy(&base_tsc, page + 8, 8);
	memcpy(&base_ns, page + 16, 8);
	memcpy(&mul, page + 24, 4);
	int8_t shift = (int8_t)page[28];
	uint64_t delta = tsc - base_tsc;
	delta = shift < 0 ? delta >> -shift : delta << shift;
	__extension__ typedef unsigned __int128 u128;
	return base_ns + (uint64_t)((u128)delta * mul >> 32);
}

static void test_the_guest_sees_the_same_time(void **state)
{
	uint8_t room[40], *page = room + 1; /* any alignment */
	struct kvmclock c;
	uint32_t version;

	(void)state;
	memset(room, 0xff, sizeof(room));
	kvmclock_init(&c, 5000000, 2596096, 42, 0);
	kvmclock_write_time(&c, page);
	memcpy(&version, page, 4);
	assert_int_equal(version & 1, 0);
	assert_int_equal(page[29], 1); /* stable */
	assert_int_equal(room[0], 0xff);
	assert_int_equal(page[32], 0xff);
	for (uint64_t tsc = 5000000; tsc < 5000000000; tsc += 777777777)
		assert_int_equal(guest_reads(page, tsc), kvmclock_ns(&c, tsc));

	uint32_t before = version;
	kvmclock_write_time(&c, page);
	memcpy(&version, page, 4);
	assert_int_not_equal(version, before);
	assert_int_equal(version & 1, 0);
}

static void test_wall_clock_is_when_the_clock_was_zero(void **state)
{
	uint32_t page[3] = { 6, 0, 0 };
	struct kvmclock c;

	(void)state;
	kvmclock_init(&c, 0, 1000000, 2000000000, 1700000003000000005);
	kvmclock_write_wall(&c, page);
	assert_int_equal(page[0] & 1, 0);
	assert_int_equal(page[1], 1700000001);
	assert_int_equal(page[2], 5);
	kvmclock_set_wall(&c, 1000000000, 1700000010500000000); /* a second later, by the TSC */
	kvmclock_write_wall(&c, page);
	assert_int_equal(page[1], 1700000007);
	assert_int_equal(page[2], 500000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_hour_is_an_hour_at_any_frequency),
		cmocka_unit_test(test_time_never_goes_back),
		cmocka_unit_test(test_the_guest_sees_the_same_time),
		cmocka_unit_test(test_wall_clock_is_when_the_clock_was_zero),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
