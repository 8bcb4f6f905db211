/* SPDX-License-Identifier: Apache-2.0 */
/* acpi.h - finds ACPI tables the way an operating system without UEFI does: the root pointer in the BIOS area or, as the
 * PVH start info says, elsewhere (ACPI 6.4, 5.2.5). */
#ifndef GUEST_ACPI_H
#define GUEST_ACPI_H

#include "guest.h"

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem[6], oem_table[8];
	uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));

static inline bool acpi_sum(const void *table, size_t size)
{
	uint8_t sum = 0;
	for (size_t i = 0; i < size; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)table)[i]);
	return sum == 0;
}

static inline const uint8_t *acpi_root(void)
{
	const uint32_t *info = (const uint32_t *)(uint64_t)start_info;
	if (info[0] == 0x336ec578) { /* PVH start info: rsdp_paddr */
		uint64_t rsdp = info[8] | (uint64_t)info[9] << 32;
		if (rsdp && memcmp((void *)rsdp, "RSD PTR ", 8) == 0)
			return (void *)rsdp;
	}
	for (uint64_t at = 0xe0000; at < 0x100000; at += 16)
		if (memcmp((void *)at, "RSD PTR ", 8) == 0 && acpi_sum((void *)at, 20))
			return (void *)at;
	return NULL;
}

static inline const struct acpi_header *acpi_find(const char *signature)
{
	const uint8_t *root = acpi_root();
	if (!root)
		return NULL;
	uint64_t xsdt = 0;
	uint32_t rsdt;
	memcpy(&rsdt, root + 16, 4);
	if (root[15] >= 2)
		memcpy(&xsdt, root + 24, 8);
	const struct acpi_header *list = (void *)(xsdt ? xsdt : rsdt);
	size_t width = xsdt ? 8 : 4;
	for (const uint8_t *p = (const uint8_t *)(list + 1); p < (const uint8_t *)list + list->length; p += width) {
		uint64_t at = 0;
		memcpy(&at, p, width);
		if (memcmp((void *)at, signature, 4) == 0)
			return (void *)at;
	}
	return NULL;
}

#endif
