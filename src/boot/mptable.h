/* SPDX-License-Identifier: Apache-2.0 */
/* mptable.h - the MultiProcessor Specification 1.4's tables: CPUs and interrupt wiring for kernels without ACPI. */
#ifndef PLURES_BOOT_MPTABLE_H
#define PLURES_BOOT_MPTABLE_H

#include "base/error.h"

struct boot_memory;

/* Writes the floating pointer to PLATFORM_MPTABLE_BASE and the configuration table behind it. It holds the first 254 CPUs at most:
 * those, and the I/O APIC, have IDs of 8 bits. -E2BIG when there is no room. */
int mptable_build(const struct boot_memory *memory, unsigned vcpus, struct error *err);

#endif
