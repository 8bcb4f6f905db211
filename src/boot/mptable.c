/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mptable.c - the MP configuration table, entry behind entry. Section numbers are of the MultiProcessor Specification 1.4.
 *
 * Wiring is that of acpi.c and dsdt.asl: ISA interrupts arrive at the pins of their numbers but for the timer's, INTA of a
 * PCI slot at pin 16 + slot % 4.
 */
#include "boot/mptable.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "boot/image.h"

#define PACKED __attribute__((packed))

struct floating_pointer { /* 4.1 */
	char signature[4];
	uint32_t table;
	uint8_t length, revision, checksum, features[5];
} PACKED;

struct config_table { /* 4.2 */
	char signature[4];
	uint16_t length;
	uint8_t revision, checksum;
	char oem[8], product[12];
	uint32_t oem_table;
	uint16_t oem_length, entries;
	uint32_t lapic;
	uint16_t extended_length;
	uint8_t extended_checksum, reserved;
} PACKED;

struct processor { /* 4.3.1 */
	uint8_t type, apic_id, apic_version, flags;
	uint32_t signature, features, reserved[2];
} PACKED;

struct bus { /* 4.3.2 */
	uint8_t type, id;
	char kind[6];
} PACKED;

struct ioapic { /* 4.3.3 */
	uint8_t type, id, version, flags;
	uint32_t address;
} PACKED;

struct interrupt { /* 4.3.4, and 4.3.5 with a local APIC's input */
	uint8_t type, kind;
	uint16_t flags;
	uint8_t bus, irq, apic, pin;
} PACKED;

_Static_assert(sizeof(struct floating_pointer) == 16 && sizeof(struct config_table) == 44 &&
		   sizeof(struct processor) == 20 && sizeof(struct interrupt) == 8,
	       "the specification's sizes");

enum { PROCESSOR = 0, BUS = 1, IOAPIC = 2, IO_INTERRUPT = 3, LOCAL_INTERRUPT = 4 };
enum { ENABLED = 1, BOOT_PROCESSOR = 2 };
enum { HAS_FPU = 1 << 0, HAS_APIC = 1 << 9 };
enum { INT = 0, NMI = 1, EXTINT = 3 };
enum { CONFORMING = 0 }; /* edge and high on ISA, level and low on PCI */
enum { PCI_BUS = 0, ISA_BUS = 1 };
enum { LAPIC_VERSION = 0x14, IOAPIC_VERSION = 0x20 };
enum { CPUS_MAX = 254, PCI_SLOTS = 32, EVERY_APIC = 0xff };

/* The table that is being written; what has no room is counted all the same. */
struct writer {
	uint8_t *at;
	size_t used;
	unsigned entries;
};

static void put(struct writer *w, const void *entry, size_t size)
{
	if (w->used + size <= PLATFORM_MPTABLE_SIZE)
		memcpy(w->at + w->used, entry, size);
	w->used += size;
	w->entries++;
}

static void put_parts(struct writer *w, unsigned cpus)
{
	for (unsigned id = 0; id < cpus; id++)
		put(w,
		    &(struct processor){ .type = PROCESSOR,
					 .apic_id = (uint8_t)id,
					 .apic_version = LAPIC_VERSION,
					 .flags = ENABLED | (id == 0 ? BOOT_PROCESSOR : 0),
					 .features = HAS_FPU | HAS_APIC },
		    sizeof(struct processor));
	put(w, &(struct bus){ BUS, PCI_BUS, { 'P', 'C', 'I', ' ', ' ', ' ' } }, sizeof(struct bus));
	put(w, &(struct bus){ BUS, ISA_BUS, { 'I', 'S', 'A', ' ', ' ', ' ' } }, sizeof(struct bus));
	put(w, &(struct ioapic){ IOAPIC, (uint8_t)cpus, IOAPIC_VERSION, ENABLED, PLATFORM_IOAPIC_BASE },
	    sizeof(struct ioapic));
}

static void put_wires(struct writer *w, uint8_t ioapic)
{
	for (unsigned irq = 0; irq < 16; irq++) {
		unsigned pin = irq == PLATFORM_IRQ_TIMER ? PLATFORM_GSI_TIMER : irq;
		/* The 8259s' chain takes no pin; what INTA of PCI takes there, it takes without an I/O APIC only. */
		if (irq != PLATFORM_IRQ_CASCADE && irq != PLATFORM_IRQ_SCI)
			put(w,
			    &(struct interrupt){ IO_INTERRUPT, INT, CONFORMING, ISA_BUS, (uint8_t)irq, ioapic,
						 (uint8_t)pin },
			    sizeof(struct interrupt));
	}
	for (unsigned slot = 1; slot < PCI_SLOTS;
	     slot++) /* of a PCI interrupt, bits 2 to 6 are the slot, appendix D.3 */
		put(w,
		    &(struct interrupt){ IO_INTERRUPT, INT, CONFORMING, PCI_BUS, (uint8_t)(slot << 2), ioapic,
					 (uint8_t)(PLATFORM_GSI_PCI + (slot & 3)) },
		    sizeof(struct interrupt));
	put(w, &(struct interrupt){ LOCAL_INTERRUPT, EXTINT, CONFORMING, ISA_BUS, 0, EVERY_APIC, 0 },
	    sizeof(struct interrupt));
	put(w, &(struct interrupt){ LOCAL_INTERRUPT, NMI, CONFORMING, ISA_BUS, 0, EVERY_APIC, 1 },
	    sizeof(struct interrupt));
}

int mptable_build(const struct boot_memory *memory, unsigned vcpus, struct error *err)
{
	unsigned cpus = vcpus < CPUS_MAX ? vcpus : CPUS_MAX;
	struct writer w = { .at = boot_memory_at(memory, PLATFORM_MPTABLE_BASE, PLATFORM_MPTABLE_SIZE) };
	struct floating_pointer pointer = { .signature = { '_', 'M', 'P', '_' },
					    .table = PLATFORM_MPTABLE_BASE + sizeof(pointer),
					    .length = 1, /* in units of 16 bytes */
					    .revision = 4 };
	struct config_table head = { .signature = { 'P', 'C', 'M', 'P' },
				     .revision = 4,
				     .oem = { 'P', 'L', 'U', 'R', 'E', 'S', ' ', ' ' },
				     .product = { 'V', 'I', 'R', 'T', 'U', 'A', 'L', ' ', ' ', ' ', ' ', ' ' },
				     .lapic = PLATFORM_LAPIC_BASE };

	if (!w.at)
		return error_set(err, -E2BIG, "guest memory has no room for the MP table");
	pointer.checksum = image_checksum(&pointer, sizeof(pointer));
	put(&w, &pointer, sizeof(pointer));
	put(&w, &head, sizeof(head));
	w.entries = 0;
	put_parts(&w, cpus);
	put_wires(&w, (uint8_t)cpus);
	if (w.used > PLATFORM_MPTABLE_SIZE)
		return error_set(err, -E2BIG, "the MP table of %u CPUs does not fit its place", cpus);
	uint8_t *table = w.at + sizeof(pointer);
	head.length = (uint16_t)(w.used - sizeof(pointer));
	head.entries = (uint16_t)w.entries;
	memcpy(table, &head, sizeof(head));
	table[offsetof(struct config_table, checksum)] = image_checksum(table, head.length);
	return 0;
}
