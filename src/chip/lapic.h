/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lapic.h - local APICs, one a vCPU, and the bus between them: SDM Vol. 3, chapter 11 (xAPIC and x2APIC).
 *
 * What executes instructions asks lapic_ack for a vector when the guest can take one; everyone else posts messages with
 * lapic_bus_deliver (I/O APIC, MSI) or lapic_set_lint (8259). Not here: the wait-for-SIPI state, the machine's own.
 *
 * Threads: functions marked "owner" are for the vCPU's own thread, the others for any. Each lapic has one lock, never
 * held while calling another lapic, the I/O APIC or the 8259; kick is called with it held. A device may therefore
 * deliver with its own lock held, and an end-of-interrupt handler or the 8259's acknowledge may take its own.
 */
#ifndef PLURES_CHIP_LAPIC_H
#define PLURES_CHIP_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "chip/apic.h"
#include "vm/device.h"

struct lapic;
struct lapic_bus;

/* The APIC timer's input clock: what CPUID leaf 0x15 must give as the crystal's frequency, if it gives one. */
#define LAPIC_TIMER_HZ 1000000000u

enum { LAPIC_MAX = 255 /* on one bus; ids are below 255 */ };

/* What kick asks for. The values are ENGINE_KICK_*'s. */
enum {
	LAPIC_KICK_INTERRUPT = 1, /* lapic_ack has become able to give something */
	LAPIC_KICK_NMI = 2,       /* an NMI has arrived: once for each */
};

/* What the machine does for a lapic. */
struct lapic_host {
	void *ctx;
	/* Any thread, with the lapic's lock held: must not call a lapic. Called when there was nothing to ack and now
	 * there is, not for each message. */
	void (*kick)(void *ctx, unsigned what);
	/* An INIT or a start-up message came; on the sender's thread, with locks of the sender held: take note and
	 * return. The vCPU's thread then calls lapic_init for an INIT. `vector` gives CS:IP as vector << 12. */
	void (*init)(void *ctx);
	void (*sipi)(void *ctx, uint8_t vector);
	/* The guest's TSC and its frequency. */
	uint64_t (*tsc)(void *ctx);
	uint64_t (*tsc_khz)(void *ctx);
};

/* ---- the bus ---- */

struct lapic_bus *lapic_bus_create(void);      /* never NULL */
void lapic_bus_destroy(struct lapic_bus *bus); /* after its lapics */

/* Set before any vCPU runs. eoi: the guest ended a level-triggered interrupt (ioapic_eoi). extint: takes a vector from
 * the 8259 (i8259_ack). */
void lapic_bus_set_eoi(struct lapic_bus *bus, void (*eoi)(void *ctx, uint8_t vector), void *ctx);
void lapic_bus_set_extint(struct lapic_bus *bus, int (*ack)(void *ctx), void *ctx);

/* Routes a message to every lapic that it names, or for APIC_LOWEST to one of them. Has the type of
 * ioapic_config.deliver. */
void lapic_bus_deliver(void *bus, const struct apic_message *msg);
/* A write of data to 0xfeexxxxx that is not a CPU's access to its own APIC: SDM Vol. 3, 11.11. */
void lapic_bus_msi(struct lapic_bus *bus, uint64_t addr, uint32_t data);

/* ---- one lapic ---- */

struct lapic_config {
	struct lapic_bus *bus;
	struct clock *clock;
	uint8_t id;        /* the initial APIC id, unique on the bus; 0 is the boot CPU */
	bool x2apic;       /* x2APIC mode can be enabled: must agree with CPUID leaf 1 */
	bool tsc_deadline; /* likewise */
	uint8_t phys_bits; /* of a physical address: CPUID leaf 0x80000008; 0 means 52 */
	/* Only holds the state of a lapic that lives elsewhere (lapic_import, lapic_export): it kicks nobody and its timer
	 * stands still. */
	bool passive;
	struct lapic_host host;
};

/* All are to be created before any vCPU runs. Never NULL. Destroy by its device's ops. */
struct lapic *lapic_create(const struct lapic_config *config);
struct device *lapic_device(struct lapic *lapic);

/* INIT: as reset, but keeps the id and the APIC base MSR (SDM Vol. 3, 11.4.7.3). Owner. */
void lapic_init(struct lapic *lapic);

/* Leaves the boot CPU's lapic as PC firmware does, for a guest that is entered without any: enabled, the 8259 on LINT0
 * and NMI on LINT1 (MP specification 1.4, 3.6.2.2). After a reset, before the vCPU runs. */
void lapic_virtual_wire(struct lapic *lapic);

/* An access to guest-physical gpa by the owner: false when it is not in this lapic's page, or the page is not there
 * (disabled, x2APIC mode), so that the memory bus should be asked. */
bool lapic_mmio(struct lapic *lapic, uint64_t gpa, void *data, unsigned size, bool write);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC's. */
static inline bool lapic_owns_msr(uint32_t index)
{
	return index == 0x1b || index == 0x6e0 || (index >= 0x800 && index < 0x900);
}
/* false: #GP(0). Owner. */
bool lapic_msr_read(struct lapic *lapic, uint32_t index, uint64_t *value);
bool lapic_msr_write(struct lapic *lapic, uint32_t index, uint64_t value);
/* IA32_APIC_BASE; any thread. Bit 11: enabled, for CPUID.1:EDX.APIC. */
uint64_t lapic_base(const struct lapic *lapic);

/* CR8 is bits 4-7 of the task priority. Owner. The engine has checked that value < 16. */
uint64_t lapic_cr8(const struct lapic *lapic);
void lapic_set_cr8(struct lapic *lapic, uint64_t value);

/* Whether lapic_ack would give a vector. Lock-free, any thread. */
bool lapic_has_interrupt(const struct lapic *lapic);
/* Takes the highest deliverable interrupt: its vector, or -1. If another can be taken at once, kicks again. Owner. */
int lapic_ack(struct lapic *lapic);

/* Makes it passive or not: after a reset, while nothing else uses it. */
void lapic_set_passive(struct lapic *lapic, bool passive);
/* The registers of a passive lapic, in or out: IA32_APIC_BASE, IA32_TSC_DEADLINE, and by their number (offset >> 4) in the
 * xAPIC's format, with the current count of the timer: 0 is one that has expired and whose interrupt is in the IRR or was
 * served. What can't be is made to fit. While nothing else uses it. */
void lapic_import(struct lapic *lapic, uint64_t base, uint64_t tsc_deadline, const uint32_t reg[64]);
void lapic_export(struct lapic *lapic, uint64_t *base, uint64_t *tsc_deadline, uint32_t reg[64]);

/* A level on LINT0 (pin 0: the 8259's output) or LINT1 (pin 1: NMI). Has the type of irq_line.set. */
void lapic_set_lint(void *lapic, unsigned pin, bool level);

#endif
