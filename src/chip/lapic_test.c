/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/lapic.h"

#include "chip/chip_test.h"

enum { CPUS = 4, TSC_KHZ = 2000000 };
#define PAGE 0xfee00000u

struct cpu {
	struct fixture *f;
	struct lapic *lapic;
	unsigned kicks, nmis, inits, sipis;
	uint8_t sipi_vector;
};

struct fixture {
	struct clock *clock;
	struct lapic_bus *bus;
	struct cpu cpu[CPUS];
	int extint; /* what the 8259 would give */
	unsigned extint_acks;
	unsigned eois;
	uint8_t eoi_vector;
};

static void kick(void *ctx, unsigned what)
{
	struct cpu *cpu = ctx;
	cpu->kicks += !!(what & LAPIC_KICK_INTERRUPT);
	cpu->nmis += !!(what & LAPIC_KICK_NMI);
}

static void on_init(void *ctx)
{
	((struct cpu *)ctx)->inits++;
}

static void on_sipi(void *ctx, uint8_t vector)
{
	((struct cpu *)ctx)->sipis++;
	((struct cpu *)ctx)->sipi_vector = vector;
}

static uint64_t tsc(void *ctx)
{
	return clock_now(((struct cpu *)ctx)->f->clock) * 2;
}

static uint64_t tsc_khz(void *ctx)
{
	(void)ctx;
	return TSC_KHZ;
}

static int extint_ack(void *ctx)
{
	struct fixture *f = ctx;
	f->extint_acks++;
	lapic_set_lint(f->cpu[0].lapic, 0, false);
	return f->extint;
}

static void on_eoi(void *ctx, uint8_t vector)
{
	struct fixture *f = ctx;
	f->eois++;
	f->eoi_vector = vector;
}

static void write_reg(struct cpu *cpu, unsigned offset, uint32_t value)
{
	assert_true(lapic_mmio(cpu->lapic, PAGE + offset, &value, 4, true));
}

static uint32_t read_reg(struct cpu *cpu, unsigned offset)
{
	uint32_t value = 0;
	assert_true(lapic_mmio(cpu->lapic, PAGE + offset, &value, 4, false));
	return value;
}

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	f->clock = clock_create_manual();
	f->bus = lapic_bus_create();
	lapic_bus_set_extint(f->bus, extint_ack, f);
	lapic_bus_set_eoi(f->bus, on_eoi, f);
	for (unsigned i = 0; i < CPUS; i++) {
		struct cpu *cpu = &f->cpu[i];
		cpu->f = f;
		struct lapic_config config = {
			.bus = f->bus,
			.clock = f->clock,
			.id = i,
			.x2apic = true,
			.tsc_deadline = true,
			.phys_bits = 40,
			.host = { .ctx = cpu,
				  .kick = kick,
				  .init = on_init,
				  .sipi = on_sipi,
				  .tsc = tsc,
				  .tsc_khz = tsc_khz },
		};
		cpu->lapic = lapic_create(&config);
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	for (unsigned i = 0; i < CPUS; i++) {
		struct device *dev = lapic_device(f->cpu[i].lapic);
		dev->ops->destroy(dev);
	}
	lapic_bus_destroy(f->bus);
	clock_destroy(f->clock);
	test_free(f);
	return 0;
}

static void enable(struct cpu *cpu)
{
	write_reg(cpu, 0xf0, 0x1ff);
}

static void enable_x2apic(struct cpu *cpu)
{
	assert_true(lapic_msr_write(cpu->lapic, 0x1b, lapic_base(cpu->lapic) | 1 << 10));
	assert_true(lapic_msr_write(cpu->lapic, 0x80f, 0x1ff));
}

static void send(struct fixture *f, uint32_t dest, uint8_t vector, bool level)
{
	struct apic_message msg = { .dest = dest, .vector = vector, .level = level };
	lapic_bus_deliver(f->bus, &msg);
}

static uint64_t rdmsr(struct cpu *cpu, uint32_t index)
{
	uint64_t value = 0;
	assert_true(lapic_msr_read(cpu->lapic, index, &value));
	return value;
}

/* ---- tests ---- */

static void test_reset_values(void **state)
{
	struct cpu *cpu = &((struct fixture *)*state)->cpu[1];

	assert_int_equal(lapic_base(cpu->lapic), PAGE | 1 << 11);
	assert_int_equal(lapic_base(cpu[-1].lapic), PAGE | 1 << 11 | 1 << 8);
	assert_int_equal(read_reg(cpu, 0x20), 1u << 24);
	assert_int_equal(read_reg(cpu, 0x30), 0x1050014);
	assert_int_equal(read_reg(cpu, 0xe0), 0xffffffff);
	assert_int_equal(read_reg(cpu, 0xf0), 0xff);
	for (unsigned offset = 0x320; offset <= 0x370; offset += 16)
		assert_int_equal(read_reg(cpu, offset), 0x10000);
	assert_false(lapic_has_interrupt(cpu->lapic));
	assert_int_equal(lapic_ack(cpu->lapic), -1);
}

static void test_priorities(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	send(f, 0, 0x40, false); /* disabled by software: lost */
	assert_false(lapic_has_interrupt(cpu->lapic));
	enable(cpu);
	send(f, 0, 0x41, false);
	assert_int_equal(cpu->kicks, 1);
	send(f, 0, 0x52, false);
	assert_int_equal(cpu->kicks, 1); /* asked for already */
	assert_int_equal(lapic_ack(cpu->lapic), 0x52);
	assert_int_equal(read_reg(cpu, 0xa0), 0x50);
	assert_false(lapic_has_interrupt(cpu->lapic)); /* 0x41 is of a lower class */
	send(f, 0, 0x53, false);
	assert_int_equal(cpu->kicks, 1); /* the same class waits too */
	send(f, 0, 0x60, false);
	assert_int_equal(cpu->kicks, 2);
	assert_int_equal(lapic_ack(cpu->lapic), 0x60);
	write_reg(cpu, 0xb0, 0);
	assert_int_equal(cpu->kicks, 2);
	write_reg(cpu, 0xb0, 0);
	assert_int_equal(cpu->kicks, 3); /* the end of 0x52 lets 0x53 in */
	assert_int_equal(lapic_ack(cpu->lapic), 0x53);
	write_reg(cpu, 0xb0, 0);
	assert_int_equal(lapic_ack(cpu->lapic), 0x41);
	write_reg(cpu, 0xb0, 0);
	write_reg(cpu, 0xb0, 0); /* one too many does nothing */
	assert_int_equal(f->eois, 0);
	assert_int_equal(read_reg(cpu, 0xa0), 0);
}

static void test_tpr(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	enable(cpu);
	lapic_set_cr8(cpu->lapic, 5);
	assert_int_equal(read_reg(cpu, 0x80), 0x50);
	send(f, 0, 0x5f, false);
	assert_int_equal(cpu->kicks, 0);
	write_reg(cpu, 0x80, 0x4f);
	assert_int_equal(lapic_cr8(cpu->lapic), 4);
	assert_int_equal(cpu->kicks, 1);
	assert_int_equal(lapic_ack(cpu->lapic), 0x5f);
}

static void test_level_and_eoi(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[2];

	enable(cpu);
	send(f, 2, 0x71, true);
	assert_int_equal(read_reg(cpu, 0x180 + 0x30), 1u << 17);
	assert_int_equal(lapic_ack(cpu->lapic), 0x71);
	assert_int_equal(read_reg(cpu, 0x100 + 0x30), 1u << 17);
	write_reg(cpu, 0xb0, 0);
	assert_int_equal(f->eois, 1);
	assert_int_equal(f->eoi_vector, 0x71);
}

static void test_shorthands(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < CPUS; i++)
		enable(&f->cpu[i]);
	write_reg(&f->cpu[1], 0x300, 1u << 18 | 0x30); /* self */
	assert_int_equal(lapic_ack(f->cpu[1].lapic), 0x30);
	write_reg(&f->cpu[1], 0xb0, 0);
	write_reg(&f->cpu[1], 0x300, 2u << 18 | 0x31); /* all */
	for (unsigned i = 0; i < CPUS; i++) {
		assert_int_equal(lapic_ack(f->cpu[i].lapic), 0x31);
		write_reg(&f->cpu[i], 0xb0, 0);
	}
	write_reg(&f->cpu[1], 0x300, 3u << 18 | 0x32); /* others */
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(lapic_ack(f->cpu[i].lapic), i == 1 ? -1 : 0x32);
	write_reg(&f->cpu[0], 0x300, 3u << 18 | APIC_NMI << 8);
	assert_int_equal(f->cpu[0].nmis, 0);
	assert_int_equal(f->cpu[3].nmis, 1);
	assert_int_equal(read_reg(&f->cpu[0], 0x300), 3u << 18 | APIC_NMI << 8);
}

static void test_destinations(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < CPUS; i++) {
		enable(&f->cpu[i]);
		write_reg(&f->cpu[i], 0xd0, 1u << (24 + i));
	}
	write_reg(&f->cpu[0], 0x310, 3u << 24);
	write_reg(&f->cpu[0], 0x300, 0x40); /* physical 3 */
	assert_int_equal(lapic_ack(f->cpu[3].lapic), 0x40);
	write_reg(&f->cpu[0], 0x310, 0x0au << 24);
	write_reg(&f->cpu[0], 0x300, 1 << 11 | 0x51); /* logical flat: 1 and 3 */
	assert_int_equal(lapic_ack(f->cpu[0].lapic), -1);
	assert_int_equal(lapic_ack(f->cpu[1].lapic), 0x51);
	assert_int_equal(lapic_ack(f->cpu[2].lapic), -1);
	assert_int_equal(lapic_ack(f->cpu[3].lapic), 0x51);
	write_reg(&f->cpu[0], 0x310, 0xffu << 24);
	write_reg(&f->cpu[0], 0x300, 0x61); /* physical broadcast */
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(lapic_ack(f->cpu[i].lapic), 0x61);
	/* Clusters: 0 and 1 in the first, 2 and 3 in the second. */
	for (unsigned i = 0; i < CPUS; i++) {
		write_reg(&f->cpu[i], 0xe0, 0x0fffffff);
		write_reg(&f->cpu[i], 0xd0, (i / 2 << 4 | 1u << i % 2) << 24);
	}
	write_reg(&f->cpu[0], 0x310, 0x13u << 24);
	write_reg(&f->cpu[0], 0x300, 1 << 11 | 0x71);
	assert_int_equal(lapic_ack(f->cpu[0].lapic), -1);
	assert_int_equal(lapic_ack(f->cpu[2].lapic), 0x71);
	assert_int_equal(lapic_ack(f->cpu[3].lapic), 0x71);
}

static void test_lowest_priority(void **state)
{
	struct fixture *f = *state;
	struct apic_message msg = { .dest = 0x0f, .vector = 0x90, .delivery = APIC_LOWEST, .logical = true };

	for (unsigned i = 0; i < CPUS; i++) {
		enable(&f->cpu[i]);
		write_reg(&f->cpu[i], 0xd0, 1u << (24 + i));
		write_reg(&f->cpu[i], 0x80, i == 2 ? 0x10 : 0x20);
	}
	for (unsigned n = 0; n < 3; n++) {
		lapic_bus_deliver(f->bus, &msg);
		assert_int_equal(lapic_ack(f->cpu[2].lapic), 0x90);
		write_reg(&f->cpu[2], 0xb0, 0);
	}
	write_reg(&f->cpu[2], 0x80, 0x20);
	unsigned got[CPUS] = { 0 };
	for (unsigned n = 0; n < 8; n++) {
		lapic_bus_deliver(f->bus, &msg);
		for (unsigned i = 0; i < CPUS; i++) {
			if (lapic_ack(f->cpu[i].lapic) < 0)
				continue;
			got[i]++;
			write_reg(&f->cpu[i], 0xb0, 0);
		}
	}
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(got[i], 2);
}

static void test_init_and_sipi(void **state)
{
	struct fixture *f = *state;

	write_reg(&f->cpu[0], 0x310, 1u << 24);
	write_reg(&f->cpu[0], 0x300, 0xc500); /* INIT, level, assert */
	assert_int_equal(f->cpu[1].inits, 1);
	write_reg(&f->cpu[0], 0x300, 0x8500); /* de-assert: nothing */
	assert_int_equal(f->cpu[1].inits, 1);
	write_reg(&f->cpu[0], 0x300, 0x69a);
	assert_int_equal(f->cpu[1].sipis, 1);
	assert_int_equal(f->cpu[1].sipi_vector, 0x9a);
	write_reg(&f->cpu[0], 0x300, 0xc4500 | 0x8000); /* INIT to all others */
	assert_int_equal(f->cpu[0].inits, 0);
	assert_int_equal(f->cpu[3].inits, 1);

	enable(&f->cpu[1]);
	send(f, 1, 0x80, false);
	lapic_init(f->cpu[1].lapic);
	assert_false(lapic_has_interrupt(f->cpu[1].lapic));
	assert_int_equal(read_reg(&f->cpu[1], 0xf0), 0xff);
	assert_int_equal(read_reg(&f->cpu[1], 0x20), 1u << 24);
}

static void test_msi(void **state)
{
	struct fixture *f = *state;

	enable(&f->cpu[2]);
	lapic_bus_msi(f->bus, 0xfee00000u | 2 << 12, 0x4066);
	assert_int_equal(lapic_ack(f->cpu[2].lapic), 0x66);
	write_reg(&f->cpu[2], 0xb0, 0);
	write_reg(&f->cpu[2], 0xd0, 4u << 24);
	lapic_bus_msi(f->bus, 0xfee00000u | 4 << 12 | 0xc, 0x4167); /* logical, lowest priority */
	assert_int_equal(lapic_ack(f->cpu[2].lapic), 0x67);
}

static void test_extint(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	f->extint = 0x30;
	lapic_set_lint(cpu->lapic, 0, true);
	assert_false(lapic_has_interrupt(cpu->lapic)); /* LINT0 is masked after reset */
	lapic_virtual_wire(cpu->lapic);
	assert_true(lapic_has_interrupt(cpu->lapic));
	assert_int_equal(cpu->kicks, 1);
	lapic_set_cr8(cpu->lapic, 15); /* which no ExtINT heeds */
	assert_int_equal(lapic_ack(cpu->lapic), 0x30);
	assert_false(lapic_has_interrupt(cpu->lapic));
	assert_int_equal(read_reg(cpu, 0x110), 0); /* and it is not in service here */

	/* A disabled APIC is a wire. */
	assert_true(lapic_msr_write(cpu->lapic, 0x1b, PAGE));
	lapic_set_lint(cpu->lapic, 0, true);
	assert_int_equal(lapic_ack(cpu->lapic), 0x30);
	assert_int_equal(f->extint_acks, 2);
	uint32_t value;
	assert_false(lapic_mmio(cpu->lapic, PAGE, &value, 4, false));
}

static void test_extint_and_fixed_together(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	f->extint = 0x30;
	lapic_virtual_wire(cpu->lapic);
	send(f, 0, 0x80, false);
	lapic_set_lint(cpu->lapic, 0, true);
	assert_int_equal(cpu->kicks, 1);
	assert_int_equal(lapic_ack(cpu->lapic), 0x30);
	assert_int_equal(cpu->kicks, 2); /* there is another */
	assert_int_equal(lapic_ack(cpu->lapic), 0x80);
	assert_int_equal(cpu->kicks, 2);
}

static void test_lint1_nmi_and_level(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	lapic_virtual_wire(cpu->lapic);
	lapic_set_lint(cpu->lapic, 1, true);
	lapic_set_lint(cpu->lapic, 1, true);
	assert_int_equal(cpu->nmis, 1);
	lapic_set_lint(cpu->lapic, 1, false);
	/* Fixed and level: asks again at its end while the pin is up. */
	write_reg(cpu, 0x360, 1 << 15 | 0x44);
	lapic_set_lint(cpu->lapic, 1, true);
	assert_int_equal(read_reg(cpu, 0x360), 1 << 15 | 1 << 14 | 0x44);
	assert_int_equal(lapic_ack(cpu->lapic), 0x44);
	write_reg(cpu, 0xb0, 0);
	assert_int_equal(lapic_ack(cpu->lapic), 0x44);
	lapic_set_lint(cpu->lapic, 1, false);
	write_reg(cpu, 0xb0, 0);
	assert_int_equal(lapic_ack(cpu->lapic), -1);
	assert_int_equal(read_reg(cpu, 0x360), 1 << 15 | 0x44);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	enable(cpu);
	write_reg(cpu, 0x370, 0xfe);
	write_reg(cpu, 0x300, 0x05); /* a vector that can't be sent */
	assert_int_equal(lapic_ack(cpu->lapic), 0xfe);
	write_reg(cpu, 0xb0, 0);
	assert_int_equal(read_reg(cpu, 0x280), 0);
	write_reg(cpu, 0x280, 0);
	assert_int_equal(read_reg(cpu, 0x280), 1 << 5);
	send(f, 0, 3, false);
	read_reg(cpu, 0x400);
	write_reg(cpu, 0x280, 0);
	assert_int_equal(read_reg(cpu, 0x280), 1 << 6 | 1 << 7);
	write_reg(cpu, 0x280, 0);
	assert_int_equal(read_reg(cpu, 0x280), 0);
}

static void test_software_disable_masks(void **state)
{
	struct cpu *cpu = &((struct fixture *)*state)->cpu[0];

	enable(cpu);
	write_reg(cpu, 0x350, 0x700);
	assert_int_equal(read_reg(cpu, 0x350), 0x700);
	write_reg(cpu, 0xf0, 0xff);
	assert_int_equal(read_reg(cpu, 0x350), 0x10700);
	write_reg(cpu, 0x350, 0x700);
	assert_int_equal(read_reg(cpu, 0x350), 0x10700);
}

static void test_odd_accesses(void **state)
{
	struct cpu *cpu = &((struct fixture *)*state)->cpu[0];
	uint8_t byte = 0x55;
	uint64_t wide = ~UINT64_C(0);

	assert_true(lapic_mmio(cpu->lapic, PAGE + 0x80, &byte, 1, true));
	assert_int_equal(read_reg(cpu, 0x80), 0);
	assert_true(lapic_mmio(cpu->lapic, PAGE + 0x31, &byte, 1, false));
	assert_int_equal(byte, 0);
	assert_true(lapic_mmio(cpu->lapic, PAGE + 0x32, &byte, 1, false));
	assert_int_equal(byte, 5);
	assert_true(lapic_mmio(cpu->lapic, PAGE + 0x30, &wide, 8, false));
	assert_int_equal(wide, 0x1050014);
	assert_true(lapic_mmio(cpu->lapic, PAGE + 0xff8, &wide, 8, true));
	assert_false(lapic_mmio(cpu->lapic, PAGE + 0x1000, &byte, 1, false));
	assert_false(lapic_mmio(cpu->lapic, PAGE - 1, &byte, 1, false));
}

/* ---- timer ---- */

static void test_timer_one_shot(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	enable(cpu);
	write_reg(cpu, 0x3e0, 3); /* by 16 */
	write_reg(cpu, 0x320, 0xec);
	write_reg(cpu, 0x380, 1000);
	clock_advance(f->clock, 8000);
	assert_int_equal(read_reg(cpu, 0x390), 500);
	clock_advance(f->clock, 7999);
	assert_int_equal(lapic_ack(cpu->lapic), -1);
	clock_advance(f->clock, 1);
	assert_int_equal(lapic_ack(cpu->lapic), 0xec);
	assert_int_equal(read_reg(cpu, 0x390), 0);
	write_reg(cpu, 0xb0, 0);
	clock_advance(f->clock, 10 * SECOND);
	assert_int_equal(lapic_ack(cpu->lapic), -1);
	write_reg(cpu, 0x380, 1000);
	write_reg(cpu, 0x380, 0); /* stops */
	clock_advance(f->clock, SECOND);
	assert_int_equal(lapic_ack(cpu->lapic), -1);
}

static void test_timer_periodic(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];
	unsigned ticks = 0;

	enable(cpu);
	write_reg(cpu, 0x3e0, 0xb); /* by 1 */
	write_reg(cpu, 0x320, 1 << 17 | 0xec);
	write_reg(cpu, 0x380, 4000000);
	for (unsigned ms = 0; ms < 1000; ms++) {
		clock_advance(f->clock, MS);
		if (lapic_ack(cpu->lapic) == 0xec) {
			ticks++;
			write_reg(cpu, 0xb0, 0);
		}
	}
	assert_int_equal(ticks, 250);
	clock_advance(f->clock, MS);
	assert_int_equal(read_reg(cpu, 0x390), 3000000);
	write_reg(cpu, 0x320, 1 << 17 | 1 << 16 | 0xec);
	clock_advance(f->clock, 20 * MS);
	assert_int_equal(lapic_ack(cpu->lapic), -1);
	/* A guest can't make it faster than the host can bear. */
	write_reg(cpu, 0x380, 1);
	assert_true(clock_next(f->clock) >= clock_now(f->clock) + 100000);
}

static void test_timer_deadline(void **state)
{
	struct fixture *f = *state;
	struct cpu *cpu = &f->cpu[0];

	enable(cpu);
	assert_true(lapic_msr_write(cpu->lapic, 0x6e0, 1000)); /* not in this mode: ignored */
	assert_int_equal(rdmsr(cpu, 0x6e0), 0);
	write_reg(cpu, 0x320, 2 << 17 | 0xec);
	assert_true(lapic_msr_write(cpu->lapic, 0x6e0, 2 * MS + 1));
	assert_int_equal(rdmsr(cpu, 0x6e0), 2 * MS + 1);
	clock_advance(f->clock, MS);
	assert_int_equal(lapic_ack(cpu->lapic), -1);
	clock_advance(f->clock, 2);
	assert_int_equal(lapic_ack(cpu->lapic), 0xec);
	assert_int_equal(rdmsr(cpu, 0x6e0), 0);
	write_reg(cpu, 0xb0, 0);
	/* In the past: at once. */
	assert_true(lapic_msr_write(cpu->lapic, 0x6e0, 1));
	assert_int_equal(lapic_ack(cpu->lapic), 0xec);
	write_reg(cpu, 0xb0, 0);
	/* The end of time, zero, and a change of mode disarm or never come. */
	assert_true(lapic_msr_write(cpu->lapic, 0x6e0, UINT64_MAX));
	clock_advance(f->clock, 100 * SECOND);
	assert_int_equal(lapic_ack(cpu->lapic), -1);
	assert_true(lapic_msr_write(cpu->lapic, 0x6e0, 0));
	assert_int_equal(clock_next(f->clock), UINT64_MAX);
	assert_true(lapic_msr_write(cpu->lapic, 0x6e0, UINT64_MAX));
	write_reg(cpu, 0x320, 0xec);
	assert_int_equal(clock_next(f->clock), UINT64_MAX);
}

/* ---- x2APIC ---- */

static void test_x2apic_transitions(void **state)
{
	struct cpu *cpu = &((struct fixture *)*state)->cpu[1];
	uint64_t value;

	assert_false(lapic_msr_read(cpu->lapic, 0x802, &value));             /* not in this mode */
	assert_false(lapic_msr_write(cpu->lapic, 0x1b, PAGE | 1 << 10));     /* without EN */
	assert_false(lapic_msr_write(cpu->lapic, 0x1b, PAGE | 1 << 11 | 1)); /* reserved */
	assert_false(lapic_msr_write(cpu->lapic, 0x1b, PAGE | 1 << 11 | UINT64_C(1) << 40));
	assert_true(lapic_msr_write(cpu->lapic, 0x1b, UINT64_C(0xff00000000) | 1 << 11));
	assert_true(lapic_msr_write(cpu->lapic, 0x1b, PAGE));
	assert_false(lapic_msr_write(cpu->lapic, 0x1b, PAGE | 3 << 10)); /* off to x2APIC */
	assert_true(lapic_msr_write(cpu->lapic, 0x1b, PAGE | 1 << 11));
	assert_true(lapic_msr_write(cpu->lapic, 0x1b, PAGE | 3 << 10));
	assert_false(lapic_msr_write(cpu->lapic, 0x1b, PAGE | 1 << 11)); /* x2APIC to xAPIC */
	assert_false(lapic_mmio(cpu->lapic, PAGE + 0x20, &value, 4, false));
	assert_int_equal(rdmsr(cpu, 0x802), 1);
	assert_int_equal(rdmsr(cpu, 0x80d), 2);
	assert_true(lapic_msr_write(cpu->lapic, 0x1b, PAGE));
	assert_false(lapic_msr_read(cpu->lapic, 0x802, &value));
}

static void test_x2apic_faults(void **state)
{
	struct cpu *cpu = &((struct fixture *)*state)->cpu[0];
	uint64_t value;

	enable_x2apic(cpu);
	static const uint16_t write_only[] = { 0x80b, 0x83f },
			      read_only[] = { 0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x839 };
	static const uint16_t absent[] = { 0x800, 0x80e, 0x82f, 0x831, 0x83a, 0x840, 0x8ff };
	for (unsigned i = 0; i < sizeof(write_only) / 2; i++)
		assert_false(lapic_msr_read(cpu->lapic, write_only[i], &value));
	for (unsigned i = 0; i < sizeof(read_only) / 2; i++) {
		assert_false(lapic_msr_write(cpu->lapic, read_only[i], 0));
		assert_true(lapic_msr_read(cpu->lapic, read_only[i], &value));
	}
	for (unsigned i = 0; i < sizeof(absent) / 2; i++) {
		assert_false(lapic_msr_read(cpu->lapic, absent[i], &value));
		assert_false(lapic_msr_write(cpu->lapic, absent[i], 0));
	}
	assert_false(lapic_msr_write(cpu->lapic, 0x80b, 1));
	assert_false(lapic_msr_write(cpu->lapic, 0x808, 0x100));
	assert_false(lapic_msr_write(cpu->lapic, 0x808, UINT64_C(1) << 32));
	assert_false(lapic_msr_write(cpu->lapic, 0x832, 1 << 19));
	assert_false(lapic_msr_write(cpu->lapic, 0x830, 1 << 20));
	assert_false(lapic_msr_write(cpu->lapic, 0x828, 1));
	assert_true(lapic_msr_write(cpu->lapic, 0x828, 0));
}

static void test_x2apic_messages(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < CPUS; i++)
		enable_x2apic(&f->cpu[i]);
	assert_true(lapic_msr_write(f->cpu[0].lapic, 0x830, UINT64_C(2) << 32 | 0x55));
	assert_int_equal(lapic_ack(f->cpu[2].lapic), 0x55);
	assert_true(lapic_msr_write(f->cpu[2].lapic, 0x80b, 0));
	assert_int_equal(rdmsr(&f->cpu[0], 0x830), UINT64_C(2) << 32 | 0x55);
	/* Logical: cluster 0, CPUs 0 and 2. */
	assert_true(lapic_msr_write(f->cpu[1].lapic, 0x830, UINT64_C(5) << 32 | 1 << 11 | 0x56));
	assert_int_equal(lapic_ack(f->cpu[0].lapic), 0x56);
	assert_int_equal(lapic_ack(f->cpu[1].lapic), -1);
	assert_int_equal(lapic_ack(f->cpu[2].lapic), 0x56);
	/* 0xff is nobody, all ones everybody. */
	assert_true(lapic_msr_write(f->cpu[1].lapic, 0x830, UINT64_C(0xff) << 32 | 0x70));
	assert_int_equal(lapic_ack(f->cpu[0].lapic), -1);
	assert_true(lapic_msr_write(f->cpu[1].lapic, 0x830, UINT64_C(0xffffffff) << 32 | 0x71));
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(lapic_ack(f->cpu[i].lapic), 0x71);
	assert_true(lapic_msr_write(f->cpu[3].lapic, 0x83f, 0x88));
	assert_int_equal(lapic_ack(f->cpu[3].lapic), 0x88);
}

/* ---- saved state ---- */

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct cpu *from = &f->cpu[0], *to = &f->cpu[3];

	enable(from);
	write_reg(from, 0xd0, 1 << 24);
	write_reg(from, 0x80, 0x10);
	write_reg(from, 0x3e0, 3);
	write_reg(from, 0x320, 0xec);
	write_reg(from, 0x350, 0x700);
	send(f, 0, 0x91, true);
	assert_int_equal(lapic_ack(from->lapic), 0x91);
	send(f, 0, 0xa2, false);
	write_reg(from, 0x380, 1000000);
	clock_advance(f->clock, 8 * MS);
	assert_int_equal(test_move(lapic_device(from->lapic), lapic_device(to->lapic)), 0);
	test_same_state(lapic_device(from->lapic), lapic_device(to->lapic));
	assert_int_equal(to->kicks, 1);
	assert_int_equal(lapic_ack(to->lapic), 0xa2);
	assert_int_equal(read_reg(to, 0x390), 500000);
	clock_advance(f->clock, 8 * MS);
	write_reg(to, 0xb0, 0);
	assert_int_equal(lapic_ack(to->lapic), 0xec);
	write_reg(to, 0xb0, 0);
	write_reg(to, 0xb0, 0);
	assert_int_equal(f->eois, 1);
	assert_int_equal(f->eoi_vector, 0x91);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_reset_values),
		TEST(test_priorities),
		TEST(test_tpr),
		TEST(test_level_and_eoi),
		TEST(test_shorthands),
		TEST(test_destinations),
		TEST(test_lowest_priority),
		TEST(test_init_and_sipi),
		TEST(test_msi),
		TEST(test_extint),
		TEST(test_extint_and_fixed_together),
		TEST(test_lint1_nmi_and_level),
		TEST(test_errors),
		TEST(test_software_disable_masks),
		TEST(test_odd_accesses),
		TEST(test_timer_one_shot),
		TEST(test_timer_periodic),
		TEST(test_timer_deadline),
		TEST(test_x2apic_transitions),
		TEST(test_x2apic_faults),
		TEST(test_x2apic_messages),
		TEST(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
