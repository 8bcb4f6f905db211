/* SPDX-License-Identifier: Apache-2.0 */
/* Every way to a timer interrupt: 8254 through the 8259 and through the I/O APIC, the local APIC's timer one-shot, periodic
 * and by TSC deadline; the clocks against each other; STI's shadow, HLT, CR8 and masking. */
#include "apic.h"

enum { PIC_VECTOR = 0x20, IOAPIC_VECTOR = 0x50, TIMER_VECTOR = 0x60, TRIES = 10 };

static volatile unsigned ticks;
static uint64_t interrupted_at;

static void pic_tick(struct trap *t)
{
	ticks++;
	interrupted_at = t->rip;
	outb(0x20, 0x20);
}

static void apic_tick(struct trap *t)
{
	ticks++;
	interrupted_at = t->rip;
	lapic_write(LAPIC_EOI, 0);
}

/* Whether a is b, give or take `percent`. A busy host delays, so these are wide, and what is measured gets more than one try. */
static bool near(uint64_t a, uint64_t b, unsigned percent)
{
	return a * 100 >= b * (100 - percent) && a * 100 <= b * (100 + percent);
}

static void pit_start(unsigned mode, unsigned divisor)
{
	outb(0x43, (uint8_t)(0x30 | mode << 1));
	outb(0x40, (uint8_t)divisor);
	outb(0x40, (uint8_t)(divisor >> 8));
}

static void by_pic(void)
{
	on_trap(PIC_VECTOR, pic_tick);
	lapic_write(LAPIC_LINT0, 0x700);
	outb(0x21, 0xfe);
	pit_start(2, PIT_HZ / 200);
	ticks = 0;
	while (ticks < 20)
		wait_interrupt();
	check(true, "8254 by the 8259, waiting in HLT");
	ticks = 0;
	sti();
	while (ticks < 20)
		;
	cli();
	check(true, "8254 by the 8259, in a busy loop");
	/* Masked, a tick stays pending and comes when the mask goes. */
	outb(0x21, 0xff);
	sti();
	ticks = 0;
	pit_wait(PIT_HZ / 40);
	check(ticks == 0, "masked in the 8259");
	outb(0x21, 0xfe);
	for (unsigned i = 0; i < 100 && !ticks; i++)
		pit_wait(1000);
	cli();
	check(ticks != 0, "and delivered when unmasked");
	/* The instruction after STI still runs without an interrupt. */
	outb(0x20, 0x0a);
	while (!(inb(0x20) & 1))
		;
	ticks = 0;
	__asm__ volatile("sti; cli" : : : "memory");
	check(ticks == 0, "STI; CLI lets nothing in");
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
	check(ticks != 0, "STI; NOP; NOP lets it in"); /* and, where the handler takes long, the next one too */
	outb(0x21, 0xff);
}

static void by_ioapic(void)
{
	on_trap(IOAPIC_VECTOR, apic_tick);
	lapic_write(LAPIC_LINT0, 0x10000);
	/* The 8254 is on pin 2: what a MADT's override says of ISA interrupt 0. */
	ioapic_write(0x10 + 2 * 2 + 1, lapic_read(LAPIC_ID));
	ioapic_write(0x10 + 2 * 2, IOAPIC_VECTOR);
	ticks = 0;
	while (ticks < 20)
		wait_interrupt();
	check(true, "8254 by the I/O APIC");
	ioapic_write(0x10 + 2 * 2, 0x10000 | IOAPIC_VECTOR);
	sti();
	pit_wait(5000);
	ticks = 0;
	pit_wait(PIT_HZ / 40);
	cli();
	check(ticks == 0, "masked in the I/O APIC");
	check((ioapic_read(1) >> 16 & 0xff) == 23, "the I/O APIC has 24 pins");
	pit_start(0, 0);
}

static uint64_t lapic_per_second(void)
{
	lapic_write(LAPIC_DIVIDE, 3); /* by 16 */
	lapic_write(LAPIC_TIMER, 0x10000 | TIMER_VECTOR);
	uint64_t sum = 0;
	lapic_write(LAPIC_COUNT, ~0u);
	pit_wait(PIT_HZ / 40);
	sum = ~0u - lapic_read(LAPIC_CURRENT);
	lapic_write(LAPIC_COUNT, 0);
	return sum * 40;
}

static void by_lapic(void)
{
	on_trap(TIMER_VECTOR, apic_tick);
	uint64_t hz = lapic_per_second();
	check(hz > 100000, "the local APIC's timer counts");
	lapic_write(LAPIC_TIMER, TIMER_VECTOR);
	ticks = 0;
	lapic_write(LAPIC_COUNT, (uint32_t)(hz / 100));
	wait_interrupt();
	check(ticks == 1, "one-shot, in HLT");
	pit_wait(PIT_HZ / 40);
	sti();
	pit_wait(PIT_HZ / 40);
	cli();
	check(ticks == 1, "once");
	check(lapic_read(LAPIC_CURRENT) == 0, "and stays at zero");
	lapic_write(LAPIC_TIMER, 0x20000 | TIMER_VECTOR);
	uint64_t start, periodic = 0;
	bool as_fast = false;
	for (int i = 0; i < TRIES && !as_fast; i++) {
		ticks = 0;
		start = rdtsc();
		lapic_write(LAPIC_COUNT, (uint32_t)(hz / 40));
		while (ticks < 4)
			wait_interrupt();
		periodic = rdtsc() - start;
		lapic_write(LAPIC_COUNT, 0);
		/* 4 ticks of 25 ms, which a busy host does not run together: 100 ms by the 8254. */
		start = rdtsc();
		pit_wait(PIT_HZ / 20);
		pit_wait(PIT_HZ / 20);
		as_fast = near(periodic, rdtsc() - start, 40);
	}
	check(true, "periodic");
	check(as_fast, "as fast as it was asked");
	/* The priority: a vector of class 6 is held by a CR8 of 6. */
	WRITE_CR(8, 6);
	lapic_write(LAPIC_TIMER, TIMER_VECTOR);
	ticks = 0;
	lapic_write(LAPIC_COUNT, (uint32_t)(hz / 1000));
	sti();
	/* A host that is busy may be late with it. */
	for (int i = 0; i < 40 && !(lapic_read(0x200 + 0x10 * (TIMER_VECTOR / 32)) >> TIMER_VECTOR % 32 & 1); i++)
		pit_wait(PIT_HZ / 40);
	check(ticks == 0, "held by CR8");
	check(lapic_read(0x80) == 0x60, "which is the task priority");
	WRITE_CR(8, 0);
	__asm__ volatile("nop; nop");
	check(ticks == 1, "released by CR8");
	cli();
	if (!(cpuid(1, 0).ecx & 1 << 24)) {
		print("no TSC deadline here\n");
		return;
	}
	lapic_write(LAPIC_TIMER, 0x40000 | TIMER_VECTOR);
	ticks = 0;
	start = rdtsc();
	wrmsr(MSR_TSC_DEADLINE, start + periodic / 10);
	wait_interrupt();
	check(ticks == 1 && rdtsc() >= start + periodic / 10, "TSC deadline, not early");
	check(rdmsr(MSR_TSC_DEADLINE) == 0, "and the MSR reads zero after");
	ticks = 0;
	wrmsr(MSR_TSC_DEADLINE, start);
	wait_interrupt();
	check(ticks == 1, "a deadline that has passed");
}

static void clocks(void)
{
	bool same = false;
	for (int i = 0; i < TRIES && !same; i++) {
		uint64_t start = rdtsc();
		pit_wait(PIT_HZ / 20);
		uint64_t a = rdtsc();
		pit_wait(PIT_HZ / 20);
		uint64_t b = rdtsc();
		same = near(a - start, b - a, 40);
	}
	check(same, "TSC against the 8254, twice");
	bool forward = true;
	uint64_t last = rdtsc();
	for (int i = 0; i < 100000; i++) {
		uint64_t now = rdtsc();
		forward &= now >= last;
		last = now;
	}
	check(forward, "the TSC never goes back");
}

int main(void)
{
	lapic_on();
	by_pic();
	by_ioapic();
	by_lapic();
	clocks();
	return 0;
}
