/* SPDX-License-Identifier: Apache-2.0 */
/* apic.h - the local APIC by its xAPIC page, the I/O APIC, and a clock to measure others by (the ACPI PM timer's
 * stand-in: channel 2 of the 8254, which every PC has). */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include "guest.h"

enum {
	LAPIC = (int)0xfee00000,
	LAPIC_ID = 0x20,
	LAPIC_EOI = 0xb0,
	LAPIC_SPURIOUS = 0xf0,
	LAPIC_ICR = 0x300,
	LAPIC_ICR_HIGH = 0x310,
	LAPIC_TIMER = 0x320,
	LAPIC_LINT0 = 0x350,
	LAPIC_COUNT = 0x380,
	LAPIC_CURRENT = 0x390,
	LAPIC_DIVIDE = 0x3e0,
	MSR_TSC_DEADLINE = 0x6e0,
};

static inline uint32_t lapic_read(unsigned reg)
{
	return *(volatile uint32_t *)(0xfee00000ul + reg);
}

static inline void lapic_write(unsigned reg, uint32_t value)
{
	*(volatile uint32_t *)(0xfee00000ul + reg) = value;
}

static inline void lapic_on(void)
{
	lapic_write(LAPIC_SPURIOUS, 0x1ff);
}

static inline uint32_t ioapic_read(uint32_t reg)
{
	*(volatile uint32_t *)0xfec00000ul = reg;
	return *(volatile uint32_t *)0xfec00010ul;
}

static inline void ioapic_write(uint32_t reg, uint32_t value)
{
	*(volatile uint32_t *)0xfec00000ul = reg;
	*(volatile uint32_t *)0xfec00010ul = value;
}

enum { PIT_HZ = 1193182 };

/* Channel 2, gated on, counting down from 65535 once: waits `ticks` of 838 ns. */
static inline void pit_wait(unsigned ticks)
{
	outb(0x61, (inb(0x61) & ~2) | 1);
	outb(0x43, 0xb0);
	outb(0x42, (uint8_t)ticks);
	outb(0x42, (uint8_t)(ticks >> 8));
	while (!(inb(0x61) & 0x20))
		;
}

#endif
