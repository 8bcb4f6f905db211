/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioapic.h - the I/O APIC: 24 pins, version 0x20 (82093AA with the EOI register that later ones have).
 *
 * Reached by any thread; one lock, held while delivering.
 */
#ifndef PLURES_CHIP_IOAPIC_H
#define PLURES_CHIP_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "chip/apic.h"
#include "vm/device.h"

struct ioapic;

struct ioapic_config {
	struct bus *mmio;
	uint64_t base; /* PLATFORM_IOAPIC_BASE */
	uint8_t id;
	void (*deliver)(void *ctx, const struct apic_message *msg); /* lapic_bus_deliver */
	void *ctx;
	/* What a pin will send has changed: a level-triggered message whose end must be told (ioapic_eoi), or NULL when there
	 * is none. With the lock held; may be NULL. */
	void (*route)(void *ctx, unsigned pin, const struct apic_message *msg);
};

struct ioapic *ioapic_create(const struct ioapic_config *config); /* never NULL */
struct device *ioapic_device(struct ioapic *ioapic);

/* The level of an input pin. ISA interrupt n is pin n, but the 8254's interrupt 0 is pin 2. Type of irq_line.set. */
void ioapic_set(void *ioapic, unsigned pin, bool level);

/* A CPU ended a level-triggered interrupt: a pin that still holds its line delivers again. For lapic_bus_set_eoi. */
void ioapic_eoi(void *ioapic, uint8_t vector);

#endif
