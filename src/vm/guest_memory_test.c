/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "host/memory.h"
#include "vm/guest_memory.h"

struct seen {
	uint64_t gpa, size;
	unsigned calls;
};

static void on_written(void *ctx, uint64_t gpa, uint64_t size)
{
	struct seen *s = ctx;
	s->gpa = gpa;
	s->size = size;
	s->calls++;
}

static void test_ranges(void **state)
{
	static uint8_t low[0x3000], high[0x1000];
	struct seen seen = { 0 };
	struct guest_memory m = { .written = on_written, .ctx = &seen };
	char buffer[8] = "1234567";
	(void)state;
	guest_memory_add(&m, 0, sizeof(low), low, -1);
	guest_memory_add(&m, 0x100000000, sizeof(high), high, -1);
	assert_ptr_equal(guest_memory_at(&m, 0, 0x3000), low);
	assert_ptr_equal(guest_memory_at(&m, 0x2fff, 1), low + 0x2fff);
	assert_ptr_equal(guest_memory_at(&m, 0x100000010, 0xff0), high + 0x10);
	assert_null(guest_memory_at(&m, 0x2fff, 2));
	assert_null(guest_memory_at(&m, 0x3000, 1));
	assert_null(guest_memory_at(&m, 0, 0));
	assert_null(guest_memory_at(&m, 1, UINT64_MAX));
	assert_null(guest_memory_at(&m, 0x100000001, 0x1000));
	assert_null(guest_memory_at(&m, UINT64_MAX, 1));
	assert_null(guest_memory_at(&m, UINT64_MAX - 3, 8));

	assert_true(guest_memory_write(&m, 0x100000ff8, buffer, 8));
	assert_int_equal(seen.gpa, 0x100000ff8);
	assert_int_equal(seen.size, 8);
	assert_false(guest_memory_write(&m, 0x100000ff9, buffer, 8));
	assert_int_equal(seen.calls, 1);
	memset(buffer, 0, sizeof(buffer));
	assert_true(guest_memory_read(&m, 0x100000ff8, buffer, 8));
	assert_string_equal(buffer, "1234567");
	assert_false(guest_memory_read(&m, 0x2ffc, buffer, 8));
	guest_memory_written_at(&m, high + 16, 4);
	assert_int_equal(seen.gpa, 0x100000010);
	assert_true(guest_memory_read(&m, 0x3000, buffer, 0));
}

static void test_discard(void **state)
{
	struct host_memory h;
	struct seen seen = { 0 };
	struct guest_memory m = { .written = on_written, .ctx = &seen };
	struct error err;
	(void)state;
	assert_int_equal(host_memory_init(&h, "test", 0x4000, &err), 0);
	guest_memory_add(&m, 0x10000, 0x4000, h.base, h.fd);
	uint8_t *p = h.base;
	memset(p, 0xaa, 0x4000);
	assert_true(guest_memory_discard(&m, 0x10800, 0x2000));
	assert_int_equal(p[0xfff], 0xaa);
	assert_int_equal(p[0x1000], 0);
	assert_int_equal(p[0x1fff], 0);
	assert_int_equal(p[0x2000], 0xaa);
	assert_int_equal(seen.gpa, 0x11000);
	assert_int_equal(seen.size, 0x1000);
	assert_true(guest_memory_discard(&m, 0x10001, 0x100));
	assert_false(guest_memory_discard(&m, 0x13000, 0x1001));
	assert_int_equal(p[0x3000], 0xaa);
	host_memory_fini(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_discard),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
