/* SPDX-License-Identifier: Apache-2.0 */
/*
 * acpi.h - the ACPI tables that describe the machine of vm/platform.h: RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG and a DSDT
 * that iasl compiles from dsdt.asl. ACPI 6.3; not the hardware-reduced kind.
 */
#ifndef PLURES_BOOT_ACPI_H
#define PLURES_BOOT_ACPI_H

#include <stdint.h>

#include "base/error.h"

struct boot_memory;

/* Writes the tables to PLATFORM_ACPI_BASE and says where the RSDP is. -E2BIG when they do not fit there. */
int acpi_build(const struct boot_memory *memory, unsigned vcpus, uint64_t *rsdp, struct error *err);

#endif
