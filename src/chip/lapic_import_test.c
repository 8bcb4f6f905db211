/* SPDX-License-Identifier: Apache-2.0 */
/* A lapic whose registers live elsewhere: what goes in comes out, is saved and loaded as any other's, and starts nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "chip/lapic.h"
#include "vm/clock.h"
#include "vm/state.h"

enum {
	ID = 0x02,
	TPR = 0x08,
	LDR = 0x0d,
	DFR,
	SVR,
	ISR,
	TMR = 0x18,
	IRR = 0x20,
	ICR = 0x30,
	LVT = 0x32,
	INITIAL = 0x38,
	CURRENT,
	DIVIDE = 0x3e
};
enum { TIMER_PERIODIC = 1 << 17, ENABLED = 0x100 };
#define BASE 0xfee00900ull

static unsigned kicks;

static void on_kick(void *ctx, unsigned what)
{
	(void)ctx, (void)what;
	kicks++;
}

static uint64_t on_tsc(void *ctx)
{
	(void)ctx;
	return 1000;
}

struct lab {
	struct clock *clock;
	struct lapic_bus *bus;
	struct lapic *lapic;
};

static struct lab make(bool passive)
{
	struct lab lab = { .clock = clock_create_manual(), .bus = lapic_bus_create() };
	struct lapic_config config = {
		.bus = lab.bus,
		.clock = lab.clock,
		.x2apic = true,
		.tsc_deadline = true,
		.passive = passive,
		.host = { .kick = on_kick, .tsc = on_tsc, .tsc_khz = on_tsc },
	};

	lab.lapic = lapic_create(&config);
	kicks = 0;
	return lab;
}

static void drop(struct lab *lab)
{
	lapic_device(lab->lapic)->ops->destroy(lapic_device(lab->lapic));
	lapic_bus_destroy(lab->bus);
	clock_destroy(lab->clock);
}

/* Registers such as a kernel leaves, with a timer that has 5000 of 8000 ticks left. */
static void fill(uint32_t reg[64])
{
	memset(reg, 0, 64 * sizeof(reg[0]));
	reg[TPR] = 0x20;
	reg[LDR] = 0x01000000;
	reg[DFR] = 0xffffffff;
	reg[SVR] = 0xff | ENABLED;
	reg[ISR + 2] = 1u << 3;
	reg[TMR + 2] = 1u << 3;
	reg[IRR + 7] = 1u << 12;
	reg[ICR] = 0x000c40fd;
	reg[ICR + 1] = 0x01000000;
	reg[LVT] = 0xec | TIMER_PERIODIC;
	for (unsigned i = 1; i < 6; i++)
		reg[LVT + i] = 0x10000;
	reg[INITIAL] = 8000;
	reg[CURRENT] = 5000;
	reg[DIVIDE] = 0xb;
}

static void test_in_and_out(void **state)
{
	struct lab lab = make(true);
	uint32_t in[64], out[64];
	uint64_t base, deadline;

	(void)state;
	fill(in);
	lapic_import(lab.lapic, BASE, 0, in);
	lapic_export(lab.lapic, &base, &deadline, out);
	in[0x0a] = out[0x0a]; /* PPR is worked out */
	assert_int_equal(out[0x0a], 0x40);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(base, BASE);
	assert_int_equal(deadline, 0);
	/* Time goes by where the registers live, not here; and nobody is told of what is pending. */
	assert_int_equal(clock_next(lab.clock), UINT64_MAX);
	assert_int_equal(kicks, 0);
	drop(&lab);
}

/* From a passive lapic by way of saved state into one that works: its timer goes on from where it was. */
static void test_into_one_that_works(void **state)
{
	struct lab from = make(true), to = make(false);
	struct state_writer *w = state_writer_create();
	struct state_reader *r;
	const void *bytes;
	size_t size;
	uint32_t in[64];
	struct error err;

	(void)state;
	fill(in);
	in[INITIAL] = 800000;
	in[CURRENT] = 500000;
	lapic_import(from.lapic, BASE, 0, in);
	state_save_devices(w, lapic_device(from.lapic));
	assert_int_equal(state_writer_finish(w, &bytes, &size, &err), 0);
	assert_int_equal(state_reader_create(&r, bytes, size, &err), 0);
	assert_int_equal(state_load_devices(r, lapic_device(to.lapic), &err), 0);
	assert_int_equal(clock_next(to.clock), 500000);
	assert_true(kicks > 0 && lapic_has_interrupt(to.lapic));
	assert_int_equal(lapic_ack(to.lapic), 7 * 32 + 12);
	state_reader_destroy(r);
	state_writer_destroy(w);
	drop(&from);
	drop(&to);
}

/* One that has expired stays so; one that has no tick left, and whose interrupt nobody has made yet, does not. */
static void test_one_shot(void **state)
{
	struct lab from = make(true), to = make(true);
	struct state_writer *w = state_writer_create();
	struct state_reader *r;
	const void *bytes;
	size_t size;
	uint32_t in[64], out[64];
	uint64_t base, deadline;
	struct error err;

	(void)state;
	fill(in);
	in[LVT] = 0xec;
	in[CURRENT] = 0;
	lapic_import(to.lapic, BASE, 0, in);
	lapic_export(to.lapic, &base, &deadline, out);
	assert_int_equal(out[INITIAL], 8000);
	assert_int_equal(out[CURRENT], 0);
	/* Saved after its time and before its interrupt. */
	in[CURRENT] = 5000;
	lapic_import(from.lapic, BASE, 0, in);
	clock_advance(from.clock, 6000);
	state_save_devices(w, lapic_device(from.lapic));
	assert_int_equal(state_writer_finish(w, &bytes, &size, &err), 0);
	assert_int_equal(state_reader_create(&r, bytes, size, &err), 0);
	assert_int_equal(state_load_devices(r, lapic_device(to.lapic), &err), 0);
	lapic_export(to.lapic, &base, &deadline, out);
	assert_int_equal(out[CURRENT], 1);
	assert_int_equal(out[IRR + 7], in[IRR + 7]);
	/* A periodic one that stands at its end goes on. */
	fill(in);
	in[CURRENT] = 0;
	lapic_import(to.lapic, BASE, 0, in);
	lapic_export(to.lapic, &base, &deadline, out);
	assert_int_not_equal(out[CURRENT], 0);
	state_reader_destroy(r);
	state_writer_destroy(w);
	drop(&from);
	drop(&to);
}

static void test_deadline(void **state)
{
	struct lab lab = make(true);
	uint32_t in[64], out[64];
	uint64_t base, deadline;

	(void)state;
	fill(in);
	in[LVT] = 0xec | 2 << 17;
	in[INITIAL] = in[CURRENT] = 0;
	lapic_import(lab.lapic, BASE | 0x400, 5, in); /* long ago, in x2APIC mode */
	lapic_export(lab.lapic, &base, &deadline, out);
	assert_int_equal(base, BASE | 0x400);
	assert_int_equal(deadline, 5);
	assert_int_equal(out[LDR], 1); /* derived from the id */
	assert_int_equal(out[IRR + 7], in[IRR + 7]);
	drop(&lab);
}

static void test_what_can_not_be(void **state)
{
	struct lab lab = make(true);
	uint32_t in[64], out[64];
	uint64_t base, deadline;

	(void)state;
	memset(in, 0xff, sizeof(in));
	lapic_import(lab.lapic, BASE & ~0x800ull, ~0ull, in);
	lapic_export(lab.lapic, &base, &deadline, out);
	assert_int_equal(base & 0x400, 0); /* no x2APIC mode without an APIC */
	assert_int_equal(out[IRR] & 0xffff, 0);
	assert_int_equal(out[ISR] & 0xffff, 0);
	assert_int_equal(out[ID], 0);
	drop(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_and_out),      cmocka_unit_test(test_into_one_that_works),
		cmocka_unit_test(test_one_shot),        cmocka_unit_test(test_deadline),
		cmocka_unit_test(test_what_can_not_be),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
