/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi.c - ACPI tables as packed structs that are filled in and copied out one behind the other. Section numbers are of
 * ACPI 6.3.
 */
#include "boot/acpi.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "boot/dsdt.h"
#include "boot/image.h"

#define PACKED __attribute__((packed))

struct sdt_header { /* 5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} PACKED;

struct generic_address { /* 5.2.3.2 */
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
} PACKED;

struct rsdp { /* 5.2.5.3 */
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} PACKED;

struct facs { /* 5.2.10 */
	char signature[4];
	uint32_t length, hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version, reserved0[3];
	uint32_t ospm_flags;
	uint8_t reserved1[24];
} PACKED;

struct fadt { /* 5.2.9 */
	struct sdt_header header;
	uint32_t facs, dsdt;
	uint8_t reserved0, profile;
	uint16_t sci_irq;
	uint32_t smi_command;
	uint8_t acpi_enable, acpi_disable, s4bios, pstate_control;
	uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
	uint8_t pm1_event_size, pm1_control_size, pm2_control_size, pm_timer_size, gpe0_size, gpe1_size, gpe1_base;
	uint8_t cst_control;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_flags;
	uint8_t reserved1;
	uint32_t flags;
	struct generic_address reset;
	uint8_t reset_value;
	uint16_t arm_boot_flags;
	uint8_t minor_revision;
	uint64_t x_facs, x_dsdt;
	struct generic_address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control, x_pm_timer,
	    x_gpe0, x_gpe1, sleep_control, sleep_status;
	char hypervisor[8];
} PACKED;

_Static_assert(sizeof(struct sdt_header) == 36 && sizeof(struct rsdp) == 36 && sizeof(struct facs) == 64 &&
		   sizeof(struct fadt) == 276,
	       "the specification's sizes");

enum { /* FADT flags, table 5-35 */
       FADT_WBINVD = 1 << 0,
       FADT_C1 = 1 << 2,
       FADT_NO_SLEEP_BUTTON = 1 << 5, /* the power button is a fixed one: bit 4 is clear */
       FADT_NO_FIXED_RTC = 1 << 6,
       FADT_TIMER_32_BITS = 1 << 8,
       FADT_RESET = 1 << 10,
};
enum { BOOT_LEGACY_DEVICES = 1 << 0, BOOT_NO_VGA = 1 << 2 }; /* table 5-36; no 8042 keyboard controller either */
enum { SPACE_IO = 1, ACCESS_BYTE = 1, ACCESS_WORD = 2, ACCESS_DWORD = 3 };

/* PCI firmware specification 3.0, 4.1.2, with one segment of one bus. */
struct mcfg {
	struct sdt_header header;
	uint64_t reserved;
	uint64_t base;
	uint16_t segment;
	uint8_t first_bus, last_bus;
	uint32_t reserved1;
} PACKED;

/* MADT, 5.2.12. */
struct madt_header {
	struct sdt_header header;
	uint32_t lapic_address, flags;
} PACKED;
struct madt_lapic {
	uint8_t type, length, uid, apic_id;
	uint32_t flags;
} PACKED;
struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} PACKED;
struct madt_override {
	uint8_t type, length, bus, irq;
	uint32_t gsi;
	uint16_t flags;
} PACKED;
struct madt_lapic_nmi {
	uint8_t type, length, uid;
	uint16_t flags;
	uint8_t lint;
} PACKED;
struct madt_x2apic {
	uint8_t type, length;
	uint16_t reserved;
	uint32_t apic_id, flags, uid;
} PACKED;
struct madt_x2apic_nmi {
	uint8_t type, length;
	uint16_t flags;
	uint32_t uid;
	uint8_t lint, reserved[3];
} PACKED;

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4, MADT_X2APIC = 9, MADT_X2APIC_NMI = 10 };
enum { MADT_HAS_8259 = 1, MADT_ENABLED = 1 };
enum { ACTIVE_HIGH = 1, LEVEL = 3 << 2 }; /* MPS INTI flags, table 5-50 */
#define XAPIC_IDS 255                     /* the first ID that only an x2APIC has */

/* Where the next table goes, in host and guest; out of room is remembered and reported once. */
struct writer {
	uint8_t *base;
	uint32_t gpa, used, room;
	bool full;
};

static void *put(struct writer *w, const void *data, uint32_t size)
{
	void *at = w->base + w->used;

	if (size > w->room - w->used) {
		w->full = true;
		return NULL;
	}
	memcpy(at, data, size);
	w->used += size;
	return at;
}

/* Starts a table on a 64-byte boundary, as the FACS needs. */
static uint32_t begin(struct writer *w)
{
	uint32_t aligned = (w->used + 63) & ~63u;

	if (aligned > w->room)
		w->full = true;
	else
		w->used = aligned;
	return w->gpa + w->used;
}

static struct sdt_header header(const char *signature, uint8_t revision)
{
	struct sdt_header h = {
		.revision = revision,
		.oem_id = "PLURES",
		.oem_table_id = { 'P', 'L', 'U', 'R', 'E', 'S', 'V', 'M' },
		.oem_revision = 1,
		.creator_id = { 'P', 'L', 'R', 'S' },
		.creator_revision = 1,
	};

	memcpy(h.signature, signature, 4);
	return h;
}

/* Sets length and checksum of the table that begins at gpa and ends where the writer stands. */
static void end(struct writer *w, uint32_t gpa)
{
	uint8_t *table = w->base + (gpa - w->gpa);
	uint32_t length = w->gpa + w->used - gpa;

	if (w->full)
		return;
	memcpy(table + offsetof(struct sdt_header, length), &length, 4);
	table[offsetof(struct sdt_header, checksum)] = 0;
	table[offsetof(struct sdt_header, checksum)] = image_checksum(table, length);
}

static uint32_t write_dsdt(struct writer *w)
{
	uint32_t gpa = begin(w);

	put(w, acpi_dsdt, sizeof(acpi_dsdt));
	return gpa;
}

static uint32_t write_facs(struct writer *w)
{
	uint32_t gpa = begin(w);
	const struct facs facs = { .signature = { 'F', 'A', 'C', 'S' }, .length = sizeof(facs), .version = 2 };

	put(w, &facs, sizeof(facs));
	return gpa;
}

static struct generic_address io_address(uint16_t port, uint8_t bits, uint8_t access)
{
	return (struct generic_address){ .space = SPACE_IO, .bit_width = bits, .access_size = access, .address = port };
}

/* SMI_CMD of 0 says that the machine is always in ACPI mode; the 64-bit DSDT address takes precedence over the other.
 */
static uint32_t write_fadt(struct writer *w, uint32_t facs, uint32_t dsdt)
{
	uint32_t gpa = begin(w);
	const struct fadt fadt = {
		.header = header("FACP", 6),
		.facs = facs,
		.dsdt = dsdt,
		.sci_irq = PLATFORM_IRQ_SCI,
		.pm1a_event = PLATFORM_PM1_EVENT_PORT,
		.pm1a_control = PLATFORM_PM1_CONTROL_PORT,
		.pm_timer = PLATFORM_PM_TIMER_PORT,
		.gpe0 = PLATFORM_GPE0_PORT,
		.pm1_event_size = 4,
		.pm1_control_size = 2,
		.pm_timer_size = 4,
		.gpe0_size = 4,
		.c2_latency = 0xffff, /* no C2, no C3 */
		.c3_latency = 0xffff,
		.century = PLATFORM_RTC_CENTURY,
		.boot_flags = BOOT_LEGACY_DEVICES | BOOT_NO_VGA,
		.flags =
		    FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC | FADT_TIMER_32_BITS | FADT_RESET,
		.reset = io_address(PLATFORM_RESET_PORT, 8, ACCESS_BYTE),
		.reset_value = PLATFORM_RESET_VALUE,
		.minor_revision = 3,
		.x_dsdt = dsdt,
		.x_pm1a_event = io_address(PLATFORM_PM1_EVENT_PORT, 32, ACCESS_WORD),
		.x_pm1a_control = io_address(PLATFORM_PM1_CONTROL_PORT, 16, ACCESS_WORD),
		.x_pm_timer = io_address(PLATFORM_PM_TIMER_PORT, 32, ACCESS_DWORD),
		.x_gpe0 = io_address(PLATFORM_GPE0_PORT, 32, ACCESS_BYTE),
		.hypervisor = { 'P', 'l', 'u', 'r', 'e', 's' },
	};

	put(w, &fadt, sizeof(fadt));
	end(w, gpa);
	return gpa;
}

static void write_cpus(struct writer *w, unsigned vcpus)
{
	for (unsigned id = 0; id < vcpus; id++) {
		if (id < XAPIC_IDS)
			put(w, &(struct madt_lapic){ MADT_LAPIC, 8, (uint8_t)id, (uint8_t)id, MADT_ENABLED }, 8);
		else
			put(w, &(struct madt_x2apic){ MADT_X2APIC, 16, 0, id, MADT_ENABLED, id }, 16);
	}
}

static uint32_t write_madt(struct writer *w, unsigned vcpus)
{
	uint32_t gpa = begin(w);
	const struct madt_header madt = { header("APIC", 5), PLATFORM_LAPIC_BASE, MADT_HAS_8259 };
	const struct madt_ioapic ioapic = { MADT_IOAPIC, sizeof(ioapic), 0, 0, PLATFORM_IOAPIC_BASE, 0 };
	const struct madt_override timer = {
		MADT_OVERRIDE, sizeof(timer), 0, PLATFORM_IRQ_TIMER, PLATFORM_GSI_TIMER, 0
	};
	const struct madt_override sci = { MADT_OVERRIDE,    sizeof(sci),      0,
					   PLATFORM_IRQ_SCI, PLATFORM_IRQ_SCI, ACTIVE_HIGH | LEVEL };
	const struct madt_lapic_nmi nmi = { MADT_LAPIC_NMI, sizeof(nmi), 0xff, 0, 1 };
	const struct madt_x2apic_nmi x2nmi = {
		.type = MADT_X2APIC_NMI, .length = sizeof(x2nmi), .uid = ~0u, .lint = 1
	};

	put(w, &madt, sizeof(madt));
	write_cpus(w, vcpus);
	put(w, &ioapic, sizeof(ioapic));
	put(w, &timer, sizeof(timer));
	put(w, &sci, sizeof(sci));
	put(w, &nmi, sizeof(nmi));
	if (vcpus > XAPIC_IDS)
		put(w, &x2nmi, sizeof(x2nmi));
	end(w, gpa);
	return gpa;
}

static uint32_t write_mcfg(struct writer *w)
{
	uint32_t gpa = begin(w);
	const struct mcfg mcfg = { .header = header("MCFG", 1), .base = PLATFORM_PCI_ECAM_BASE };

	put(w, &mcfg, sizeof(mcfg));
	end(w, gpa);
	return gpa;
}

static uint32_t write_rsdt(struct writer *w, const uint32_t *tables, unsigned n)
{
	uint32_t gpa = begin(w);
	const struct sdt_header h = header("RSDT", 1);

	put(w, &h, sizeof(h));
	put(w, tables, n * 4);
	end(w, gpa);
	return gpa;
}

static uint32_t write_xsdt(struct writer *w, const uint32_t *tables, unsigned n)
{
	uint32_t gpa = begin(w);
	const struct sdt_header h = header("XSDT", 1);

	put(w, &h, sizeof(h));
	for (unsigned i = 0; i < n; i++) {
		uint64_t table = tables[i];

		put(w, &table, 8);
	}
	end(w, gpa);
	return gpa;
}

int acpi_build(const struct boot_memory *memory, unsigned vcpus, uint64_t *rsdp, struct error *err)
{
	struct writer w = {
		.base = boot_memory_at(memory, PLATFORM_ACPI_BASE, PLATFORM_ACPI_SIZE),
		.gpa = PLATFORM_ACPI_BASE,
		.room = PLATFORM_ACPI_SIZE,
	};
	struct rsdp root = { .signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
			     .oem_id = "PLURES",
			     .revision = 2,
			     .length = sizeof(root) };

	if (!w.base)
		return error_set(err, -EINVAL, "there is no memory where ACPI tables go (at %#x)", PLATFORM_ACPI_BASE);
	uint8_t *at = put(&w, &root, sizeof(root));
	uint32_t dsdt = write_dsdt(&w), facs = write_facs(&w);
	uint32_t tables[] = { write_fadt(&w, facs, dsdt), write_madt(&w, vcpus), write_mcfg(&w) };
	const unsigned n = sizeof(tables) / sizeof(*tables);

	root.rsdt = write_rsdt(&w, tables, n);
	root.xsdt = write_xsdt(&w, tables, n);
	if (w.full)
		return error_set(err, -E2BIG, "%u CPUs do not fit into the ACPI tables: use fewer", vcpus);
	root.checksum = image_checksum(&root, offsetof(struct rsdp, length));
	root.extended_checksum = image_checksum(&root, sizeof(root));
	memcpy(at, &root, sizeof(root));
	*rsdp = PLATFORM_ACPI_BASE;
	return 0;
}
