/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vm/kvmclock.h"
#include "vm/msr.h"
#include "vm/state.h"

enum { MEMORY = 8192 };

struct guest {
	uint8_t memory[MEMORY];
	uint64_t written; /* bytes that were announced */
	struct kvmclock clock;
	struct msrs *amd, *intel;
};

static void *memory(void *ctx, uint64_t gpa, uint64_t size)
{
	struct guest *g = ctx;

	return gpa <= MEMORY && size <= MEMORY - gpa ? g->memory + gpa : NULL;
}

static void written(void *ctx, uint64_t gpa, uint64_t size)
{
	struct guest *g = ctx;

	(void)gpa;
	g->written += size;
}

static int set_up(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));
	struct msr_config config = {
		.amd = true, .phys_bits = 46, .clock = &g->clock, .memory = memory, .written = written, .ctx = g
	};

	kvmclock_init(&g->clock, 0, 2000000, 0, 0);
	g->amd = msrs_create(&config);
	config.amd = false;
	g->intel = msrs_create(&config);
	*state = g;
	return 0;
}

static int tear_down(void **state)
{
	struct guest *g = *state;

	msrs_destroy(g->amd);
	msrs_destroy(g->intel);
	free(g);
	return 0;
}

static uint64_t get(struct msrs *msrs, uint32_t index)
{
	uint64_t value = 0xdead;

	assert_true(msrs_read(msrs, index, &value));
	return value;
}

static void test_unknown_registers_fault(void **state)
{
	struct guest *g = *state;
	uint64_t value;

	static const uint32_t unknown[] = { 0x12345678, 0xc0000080, 0x10, 0x1b, 0x802, 0x6e0, 0xc0010117, 0x199 };
	for (unsigned i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
		assert_false(msrs_read(g->amd, unknown[i], &value));
		assert_false(msrs_write(g->amd, unknown[i], 0));
	}
	/* The vendors' own. */
	assert_false(msrs_read(g->intel, 0xc0010015, &value));
	assert_false(msrs_read(g->amd, 0x1a0, &value));
}

/* What Debian's kernel reads and writes without being prepared for a fault. */
static void test_linux_meets_no_fault(void **state)
{
	struct guest *g = *state;

	assert_true(get(g->intel, 0x1a0) & 1);      /* fast strings */
	assert_true(msrs_write(g->intel, 0x8b, 0)); /* before CPUID 1, to learn the microcode's revision */
	assert_int_not_equal(get(g->intel, 0x8b) >> 32, 0);
	assert_true(msrs_write(g->intel, 0x140, 0));
	assert_int_equal(get(g->intel, 0x17), 0);
	assert_true(get(g->amd, 0xc0010015) & 1 << 24); /* else: "TSC doesn't count with P0 frequency" */
	assert_int_equal(get(g->amd, 0xc0010010), 0);
	assert_true(msrs_write(g->amd, 0xc0011029, 2));
	assert_true(msrs_write(g->amd, 0x48, 1));
	assert_true(get(g->amd, 0x10a) & 2); /* IBRS_ALL */
	for (unsigned i = 0; i < 10; i++) {
		assert_true(msrs_write(g->amd, 0x400 + 4 * i, ~0ull));
		assert_true(msrs_write(g->amd, 0x401 + 4 * i, 0));
		assert_false(msrs_write(g->amd, 0x401 + 4 * i, 1));
	}
	assert_true(msrs_write(g->amd, 0x1d9, 0));
}

static void test_mtrrs_begin_as_firmware_leaves_them(void **state)
{
	struct guest *g = *state;

	assert_int_equal(get(g->amd, 0xfe) & 0xff, 8);
	assert_int_equal(get(g->amd, 0x2ff), 0xc06);
	assert_int_equal(get(g->amd, 0x200), 0xc0000000);
	assert_int_equal(get(g->amd, 0x201), 0x3fffc0000800);
	assert_int_equal(get(g->amd, 0x20f), 0);
	assert_int_equal(get(g->amd, 0x259), 0);
	assert_int_equal(get(g->amd, 0x26f), 0x0606060606060606);
}

static void test_mtrrs_take_only_what_can_be(void **state)
{
	struct guest *g = *state;

	assert_true(msrs_write(g->amd, 0x202, 0x80000001));
	assert_int_equal(get(g->amd, 0x202), 0x80000001);
	assert_false(msrs_write(g->amd, 0x202, 0x80000002)); /* no such type */
	assert_false(msrs_write(g->amd, 0x202, 1ull << 46)); /* no such address */
	assert_true(msrs_write(g->amd, 0x203, 0x3fff80000800));
	assert_false(msrs_write(g->amd, 0x203, 0x3fff80000400));
	assert_false(msrs_write(g->amd, 0x250, 0x0706060606060606));
	assert_false(msrs_write(g->amd, 0x2ff, 0x1006));
	assert_false(msrs_write(g->amd, 0xfe, 0x508)); /* read-only */
	msrs_reset(g->amd);
	assert_int_equal(get(g->amd, 0x202), 0);
}

static void test_kvm_clock_is_written_into_memory(void **state)
{
	struct guest *g = *state;

	assert_true(msrs_write(g->amd, 0x4b564d01, 0x1000 | 1));
	assert_int_equal(get(g->amd, 0x4b564d01), 0x1001);
	assert_int_equal(g->memory[0x1000 + 29], 1);
	assert_int_equal(g->written, KVMCLOCK_TIME_SIZE);
	assert_true(msrs_write(g->amd, 0x4b564d00, 0x20));
	assert_int_equal(g->written, KVMCLOCK_TIME_SIZE + KVMCLOCK_WALL_SIZE);
	/* Switched off: nothing is written, whatever the address. */
	assert_true(msrs_write(g->amd, 0x4b564d01, ~1ull));
	/* Outside memory. */
	assert_false(msrs_write(g->amd, 0x4b564d01, (MEMORY - 30) | 1));
	assert_false(msrs_write(g->amd, 0x4b564d01, ~0ull));
	assert_false(msrs_write(g->amd, 0x4b564d00, MEMORY - 11));
	assert_int_equal(g->written, KVMCLOCK_TIME_SIZE + KVMCLOCK_WALL_SIZE);
}

static struct state_reader *saved(struct msrs *msrs, struct state_writer *w)
{
	struct state_reader *r;
	const void *bytes;
	size_t size;

	state_begin(w, "msr", 0, 1);
	msrs_save(msrs, w);
	assert_int_equal(state_writer_finish(w, &bytes, &size, NULL), 0);
	assert_int_equal(state_reader_create(&r, bytes, size, NULL), 0);
	assert_int_equal(state_enter(r, "msr", 0, 1, NULL, NULL), 0);
	return r;
}

static void test_saved_and_loaded(void **state)
{
	struct guest *g = *state;
	struct error err;

	assert_true(msrs_write(g->amd, 0x202, 0x80000006));
	assert_true(msrs_write(g->amd, 0x48, 1));
	assert_true(msrs_write(g->amd, 0x4b564d01, 0x1001));
	struct state_writer *w = state_writer_create();
	struct state_reader *r = saved(g->amd, w);
	msrs_reset(g->amd);
	memset(g->memory, 0, MEMORY);
	assert_int_equal(msrs_load(g->amd, r, &err), 0);
	assert_int_equal(get(g->amd, 0x202), 0x80000006);
	assert_int_equal(get(g->amd, 0x48), 1);
	assert_int_equal(get(g->amd, 0x4b564d01), 0x1001);
	assert_int_equal(g->memory[0x1000 + 29], 1); /* the guest's clock runs again */
	state_reader_destroy(r);
	state_writer_destroy(w);

	/* What no guest could have written. */
	w = state_writer_create();
	state_begin(w, "msr", 0, 1);
	state_put_u64(w, "00000202", 0x80000002);
	const void *bytes;
	size_t size;
	assert_int_equal(state_writer_finish(w, &bytes, &size, NULL), 0);
	assert_int_equal(state_reader_create(&r, bytes, size, NULL), 0);
	assert_int_equal(state_enter(r, "msr", 0, 1, NULL, NULL), 0);
	assert_int_equal(msrs_load(g->amd, r, &err), -EINVAL);
	state_reader_destroy(r);
	state_writer_destroy(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_unknown_registers_fault, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_linux_meets_no_fault, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_mtrrs_begin_as_firmware_leaves_them, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_mtrrs_take_only_what_can_be, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_kvm_clock_is_written_into_memory, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_saved_and_loaded, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
