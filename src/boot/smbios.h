/* SPDX-License-Identifier: Apache-2.0 */
/* smbios.h - SMBIOS 3 structures (DSP0134 3.2): what `dmidecode` shows of the machine. */
#ifndef PLURES_BOOT_SMBIOS_H
#define PLURES_BOOT_SMBIOS_H

#include "base/error.h"

struct boot_memory;

/* Writes the entry point to PLATFORM_SMBIOS_BASE and the structures behind it. */
int smbios_build(const struct boot_memory *memory, unsigned vcpus, struct error *err);

#endif
