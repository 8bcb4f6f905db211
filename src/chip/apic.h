/* SPDX-License-Identifier: Apache-2.0 */
/*
 * apic.h - the words that local APICs and I/O APICs speak with each other: one interrupt message.
 *
 * SDM Vol. 3, 11.6.1 (interrupt command register) and 11.11 (message signalled interrupts), 82093AA 3.2.4.
 */
#ifndef PLURES_CHIP_APIC_H
#define PLURES_CHIP_APIC_H

#include <stdbool.h>
#include <stdint.h>

/* Delivery modes, as encoded in the ICR, an LVT, a redirection entry and MSI data. */
enum apic_delivery {
	APIC_FIXED = 0,
	APIC_LOWEST = 1,
	APIC_SMI = 2,
	APIC_NMI = 4,
	APIC_INIT = 5,
	APIC_SIPI = 6,
	APIC_EXTINT = 7,
};

/* The physical destination that means everyone. A sender with 8 bits for it translates its own 0xff to this. */
#define APIC_DEST_ALL 0xffffffffu

struct apic_message {
	uint32_t dest;
	uint8_t vector;
	uint8_t delivery; /* enum apic_delivery */
	bool logical;     /* dest is matched against logical destination registers */
	bool level;       /* level triggered: its EOI is told to the I/O APICs */
};

#endif
