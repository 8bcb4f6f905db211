/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/image.h"

unsigned e820_build(const struct boot_memory *memory, struct e820_range range[E820_MAX])
{
	unsigned n = 0;
	uint64_t low_end = boot_low_end(memory);

	range[n++] = (struct e820_range){ 0, PLATFORM_EBDA_BASE, E820_RAM };
	range[n++] = (struct e820_range){ PLATFORM_EBDA_BASE, PLATFORM_VGA_BASE - PLATFORM_EBDA_BASE, E820_RESERVED };
	range[n++] = (struct e820_range){ PLATFORM_ACPI_BASE, 0x100000 - PLATFORM_ACPI_BASE, E820_RESERVED };
	if (low_end > 0x100000)
		range[n++] = (struct e820_range){ 0x100000, low_end - 0x100000, E820_RAM };
	range[n++] = (struct e820_range){ PLATFORM_PCI_ECAM_BASE, PLATFORM_PCI_ECAM_SIZE, E820_RESERVED };
	range[n++] = (struct e820_range){ PLATFORM_IOAPIC_BASE, PLATFORM_IOAPIC_SIZE, E820_RESERVED };
	range[n++] = (struct e820_range){ PLATFORM_LAPIC_BASE, PLATFORM_LAPIC_SIZE, E820_RESERVED };
	for (unsigned i = 1; i < memory->regions; i++)
		range[n++] = (struct e820_range){ memory->region[i].gpa, memory->region[i].size, E820_RAM };
	return n;
}

bool e820_usable(const struct boot_memory *memory, uint64_t start, uint64_t size)
{
	struct e820_range range[E820_MAX];
	unsigned n = e820_build(memory, range);

	for (unsigned i = 0; i < n; i++) {
		const struct e820_range *r = &range[i];

		if (r->type == E820_RAM && start >= r->start && start - r->start <= r->size &&
		    size <= r->size - (start - r->start))
			return true;
	}
	return false;
}
