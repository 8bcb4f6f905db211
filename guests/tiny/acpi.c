/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables, read the way a small operating system reads them: checksums, the processors and I/O APICs of the MADT,
 * the PM timer against the 8254, then soft-off by the sleep type that the DSDT's \_S5 names. The machine must be gone. */
#include "acpi.h"
#include "apic.h"

static void madt(const struct acpi_header *table)
{
	unsigned cpus = 0, ioapics = 0;
	const uint8_t *p = (const uint8_t *)(table + 1);
	uint32_t lapic;
	memcpy(&lapic, p, 4);
	check(lapic == 0xfee00000, "the MADT's local APIC address");
	for (p += 8; p < (const uint8_t *)table + table->length; p += p[1]) {
		if (p[1] < 2) {
			check(false, "a MADT entry's length");
			return;
		}
		if ((p[0] == 0 && p[4] & 1) || (p[0] == 9 && p[8] & 1))
			cpus++;
		ioapics += p[0] == 1;
	}
	print("cpus %u\n", cpus);
	check(ioapics == 1, "one I/O APIC");
}

static void pm_timer(uint16_t port, bool wide)
{
	uint32_t mask = wide ? ~0u : 0xffffff;
	uint32_t before = inl(port);
	pit_wait(PIT_HZ / 20);
	uint32_t ticks = (inl(port) - before) & mask;
	/* 3579545 Hz for 50 ms is 178977; a busy host only adds. */
	check(ticks > 150000 && ticks < 1000000, "the PM timer's speed");
}

/* Name (_S5, Package (n) {type, ...}) in AML: 08 '_S5_' 12 length count, then a byte constant, 0 or 1. */
static int sleep_type(const struct acpi_header *dsdt)
{
	const uint8_t *p = (const uint8_t *)dsdt, *end = p + dsdt->length - 12;
	for (; p < end; p++) {
		if (memcmp(p, "_S5_", 4) != 0 || p[4] != 0x12)
			continue;
		p += 5;
		p += (*p >> 6) + 2; /* the package's length, then its count */
		return *p == 0x0a ? p[1] : *p;
	}
	return -1;
}

int main(void)
{
	const struct acpi_header *fadt = acpi_find("FACP"), *apic = acpi_find("APIC");
	check(acpi_root() != NULL, "a root pointer");
	check(fadt && apic, "FADT and MADT");
	if (!fadt || !apic)
		return 1;
	const uint8_t *f = (const uint8_t *)fadt;
	uint32_t dsdt_at, control, timer, flags;
	memcpy(&dsdt_at, f + 40, 4);
	memcpy(&control, f + 64, 4);
	memcpy(&timer, f + 76, 4);
	memcpy(&flags, f + 112, 4);
	const struct acpi_header *dsdt = (void *)(uint64_t)dsdt_at;
	check(memcmp(dsdt, "DSDT", 4) == 0, "DSDT");
	check(acpi_sum(fadt, fadt->length) && acpi_sum(apic, apic->length) && acpi_sum(dsdt, dsdt->length),
	      "checksums");
	madt(apic);
	pm_timer((uint16_t)timer, flags >> 8 & 1);
	int type = sleep_type(dsdt);
	check(type >= 0, "\\_S5");
	print("powering off\n");
	while (!(inb(0x3fd) & 0x40))
		;
	outw((uint16_t)control, (uint16_t)(1 << 13 | type << 10));
	/* The CPU may run on until the machine has noticed. */
	for (unsigned i = 0; i < 20; i++)
		pit_wait(60000);
	print("FAILED: still here\n");
	return 1;
}
