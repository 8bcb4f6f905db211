/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot.h - puts a kernel into guest memory and says in what state the first CPU enters it.
 *
 * Takes bzImage (Linux/x86 boot protocol), ELF with a PVH note (Xen's public/arch-x86/hvm/start_info.h) and multiboot
 * 1; also writes what firmware would have left: ACPI tables, SMBIOS and the memory map. Files come from the user and
 * may hold anything: every length and address in them is checked against the file and against guest memory.
 *
 * Not here: chips, the engine's memory regions, waking secondary CPUs. Nothing is kept between calls, so a machine that
 * resets calls boot_load again. One thread, before any vCPU runs.
 */
#ifndef PLURES_BOOT_BOOT_H
#define PLURES_BOOT_BOOT_H

#include <stdint.h>

#include "base/error.h"

struct engine_cpu_state;

/* Guest memory as the machine mapped it. Regions are sorted by gpa, do not overlap, and hva covers size bytes. */
struct boot_region {
	uint64_t gpa, size;
	uint8_t *hva;
};

#define BOOT_MAX_REGIONS 2

struct boot_memory {
	struct boot_region region[BOOT_MAX_REGIONS];
	unsigned regions;
};

/* Fills in gpa and size of the RAM regions of a machine with `size` bytes (a multiple of 4096): one below the hole at
 * 3 GiB, the rest from 4 GiB. The caller maps them and sets hva. */
void boot_memory_layout(struct boot_memory *memory, uint64_t size);

/* The host address of [gpa, gpa + size), or NULL unless all of it lies in one region. */
void *boot_memory_at(const struct boot_memory *memory, uint64_t gpa, uint64_t size);

struct boot_config {
	const char *kernel;  /* path */
	const char *initrd;  /* path, or NULL */
	const char *cmdline; /* "" for none */
	unsigned vcpus;      /* local APIC IDs 0 to vcpus - 1 go into the tables */
};

/* The least memory that boot_load takes, whatever the kernel. */
#define BOOT_MEMORY_MIN (4ull << 20)

/* Loads all of it. *bsp comes in as engine_cpu_state_reset left it and goes out as the state to enter the kernel with.
 * Returns 0, or -errno and a line that says what is wrong with which file and what to do. */
int boot_load(const struct boot_config *config, const struct boot_memory *memory, struct engine_cpu_state *bsp,
	      struct error *err);

#endif
