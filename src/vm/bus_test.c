/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "vm/bus.h"

struct probe {
	uint64_t offset, value;
	unsigned size, calls;
};

static uint64_t probe_read(void *dev, uint64_t offset, unsigned size)
{
	struct probe *p = dev;
	p->offset = offset;
	p->size = size;
	p->calls++;
	return 0x1122334455667788;
}

static void probe_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct probe *p = dev;
	p->offset = offset;
	p->size = size;
	p->value = value;
	p->calls++;
}

static const struct io_ops probe_ops = { probe_read, probe_write };

static void finds_the_range_of_an_address(void **state)
{
	(void)state;
	struct bus *bus = bus_create();
	struct probe a = { 0 }, b = { 0 };
	uint64_t v;
	bus_add(bus, 0x3f8, 8, &probe_ops, &a, "uart");
	bus_add(bus, 0x60, 1, &probe_ops, &b, "kbd");
	assert_true(bus_read(bus, 0x3fa, 2, &v));
	assert_int_equal(v, 0x7788);
	assert_int_equal(a.offset, 2);
	assert_int_equal(a.size, 2);
	assert_true(bus_write(bus, 0x60, 1, 0x1fe));
	assert_int_equal(b.value, 0xfe);
	assert_string_equal(bus_name(bus, 0x3ff), "uart");
	assert_null(bus_name(bus, 0x400));
	bus_destroy(bus);
}

static void nothing_reads_as_ones(void **state)
{
	(void)state;
	struct bus *bus = bus_create();
	uint64_t v = 0;
	assert_false(bus_read(bus, 0x80, 1, &v));
	assert_int_equal(v, 0xff);
	assert_false(bus_read(bus, UINT64_MAX - 3, 8, &v));
	assert_true(v == UINT64_MAX);
	assert_false(bus_write(bus, UINT64_MAX, 4, 1));
	bus_destroy(bus);
}

static void an_access_over_the_end_is_one_of_bytes(void **state)
{
	(void)state;
	struct bus *bus = bus_create();
	struct probe a = { 0 };
	uint64_t v;
	bus_add(bus, 0x60, 1, &probe_ops, &a, "kbd");
	assert_true(bus_read(bus, 0x60, 2, &v));
	assert_int_equal(v, 0xff88);
	assert_int_equal(a.size, 1);
	assert_true(bus_write(bus, 0x5f, 4, 0xaabbccdd));
	assert_int_equal(a.value, 0xcc);
	assert_int_equal(a.calls, 2);
	bus_destroy(bus);
}

static void the_last_address_can_be_claimed(void **state)
{
	(void)state;
	struct bus *bus = bus_create();
	struct probe a = { 0 };
	uint64_t v;
	bus_add(bus, UINT64_MAX - 0xfff, 0x1000, &probe_ops, &a, "top");
	assert_true(bus_read(bus, UINT64_MAX - 7, 8, &v));
	assert_int_equal(a.offset, 0xff8);
	bus_destroy(bus);
}

static void removed_ranges_are_gone(void **state)
{
	(void)state;
	struct bus *bus = bus_create();
	struct probe p[20] = { 0 };
	uint64_t v;
	for (unsigned i = 0; i < 20; i++)
		bus_add(bus, (i * 7 % 20) * 0x10, 0x10, &probe_ops, &p[i * 7 % 20], "p");
	for (unsigned i = 0; i < 20; i += 2)
		bus_remove(bus, i * 0x10);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(bus_read(bus, i * 0x10 + 3, 1, &v), i % 2);
		assert_int_equal(p[i].calls, i % 2);
	}
	bus_destroy(bus);
}

struct race {
	struct bus *bus;
	atomic_bool done;
	struct probe fixed;
	unsigned misses;
};

static void *race_reader(void *arg)
{
	struct race *r = arg;
	uint64_t v;
	while (!r->done)
		r->misses += !bus_read(r->bus, 0x1004, 4, &v) || r->fixed.offset != 4;
	return NULL;
}

/* A range that stays is found at every moment while others come and go beside it. */
static void readers_survive_changes(void **state)
{
	(void)state;
	struct race r = { .bus = bus_create() };
	struct probe other = { 0 };
	pthread_t thread;
	bus_add(r.bus, 0x1000, 0x10, &probe_ops, &r.fixed, "fixed");
	pthread_create(&thread, NULL, race_reader, &r);
	for (unsigned i = 0; i < 20000; i++) {
		bus_add(r.bus, 0x100, 0x10, &probe_ops, &other, "low");
		bus_add(r.bus, 0x2000, 0x10, &probe_ops, &other, "high");
		bus_remove(r.bus, 0x100);
		bus_remove(r.bus, 0x2000);
	}
	r.done = true;
	pthread_join(thread, NULL);
	assert_int_equal(r.misses, 0);
	assert_int_equal(other.calls, 0);
	bus_destroy(r.bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_range_of_an_address),
		cmocka_unit_test(nothing_reads_as_ones),
		cmocka_unit_test(an_access_over_the_end_is_one_of_bytes),
		cmocka_unit_test(the_last_address_can_be_claimed),
		cmocka_unit_test(removed_ranges_are_gone),
		cmocka_unit_test(readers_survive_changes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
