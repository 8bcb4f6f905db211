/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - what the loaders share: the kernel file, guest memory's layout, and the state handed to the guest.
 *
 * boot.c reads the file, asks each format whether the file is its own, and calls that format's load function. A format
 * places the kernel with boot_place, the initrd with boot_place_initrd, writes its information block into the low
 * pages below, and sets the entry state with cpu_enter_*. Every loader may be given any bytes.
 */
#ifndef PLURES_BOOT_IMAGE_H
#define PLURES_BOOT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot.h"
#include "vm/platform.h"

/* Low pages that the loader keeps to itself until the guest has read them; a kernel may not be placed here. */
#define BOOT_GDT_GPA 0x500
#define BOOT_PAGE_TABLES_GPA 0x1000 /* PML4, PDPT and four page directories: 4 GiB mapped one to one */
#define BOOT_PARAMS_GPA 0x7000      /* Linux's zero page */
#define BOOT_INFO_GPA 0x8000        /* PVH's or multiboot's information and what it points to, one page */
#define BOOT_STACK_GPA 0xA000       /* the stack's end: one page below */
#define BOOT_CMDLINE_GPA 0x10000
#define BOOT_CMDLINE_ROOM 0x10000
#define BOOT_LOW_END 0x20000

/* What Linux takes on x86; for formats that do not say what their kernel takes. */
#define BOOT_CMDLINE_DEFAULT_MAX 2047

/* A kernel file in host memory. */
struct boot_image {
	const char *path; /* for messages */
	const uint8_t *data;
	size_t size;
};

/* One boot under way. */
struct boot {
	const struct boot_config *config;
	const struct boot_memory *memory;
	const struct boot_image *image;
	struct engine_cpu_state *bsp;
	uint64_t rsdp;
	uint64_t kernel_end; /* the first guest address after all that was placed below 4 GiB for the kernel */
	uint64_t initrd_gpa, initrd_size;
};

/* boot.c: loads an image that is already in host memory. */
int boot_load_image(const struct boot_image *image, const struct boot_config *config, const struct boot_memory *memory,
		    struct engine_cpu_state *bsp, struct error *err);

/* A format of kernel: `match` looks at the file, `load` does everything from there on. */
struct boot_format {
	const char *name;
	bool (*match)(const struct boot_image *image);
	int (*load)(struct boot *boot, struct error *err);
};

extern const struct boot_format bzimage_format, elf_format, multiboot_format;

/* memory.c: zeroed host memory for a kernel of a size that the user's file chose, in large pages where the host has
 * them, as faults are what loading a kernel costs most. NULL with errno when there is none. */
uint8_t *boot_buffer_create(size_t size);
void boot_buffer_destroy(uint8_t *buffer, size_t size);

/* Whether [offset, offset + size) lies in the image. */
static inline bool image_has(const struct boot_image *image, uint64_t offset, uint64_t size)
{
	return offset <= image->size && size <= image->size - offset;
}

/* The byte that makes those of a firmware table add up to 0. */
static inline uint8_t image_checksum(const void *data, size_t size)
{
	const uint8_t *byte = data;
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *byte++);
	return (uint8_t)-sum;
}

/* place.c: putting things into guest memory. */

/* Copies `filled` bytes to gpa and zeroes what follows up to `size`. -ENOSPC when the guest's usable memory does not
 * have the range: the message names `what` and says how much memory it needs. */
int boot_place(struct boot *boot, const char *what, uint64_t gpa, const void *data, uint64_t filled, uint64_t size,
	       struct error *err);
/* Reads config->initrd, if any, into the top of low memory below `limit` and above kernel_end. */
int boot_place_initrd(struct boot *boot, uint64_t limit, struct error *err);
/* Writes the command line to BOOT_CMDLINE_GPA, behind `name` and a space if name is not NULL. `max` counts the bytes that
 * the kernel takes without the terminator. */
int boot_place_cmdline(struct boot *boot, const char *name, uint64_t max, struct error *err);
/* The last part of a path. */
const char *boot_base_name(const char *path);
/* The BIOS data area's few words that kernels look at. */
void boot_place_bda(struct boot *boot);
/* One region from the first byte of guest RAM to this address. */
uint64_t boot_low_end(const struct boot_memory *memory);
uint64_t boot_memory_size(const struct boot_memory *memory);

/* e820.c: the memory map, whatever format it is handed over in. Types are E820's, as all the formats use them. */
enum { E820_RAM = 1, E820_RESERVED = 2 };
#define E820_MAX 8

struct e820_range {
	uint64_t start, size;
	uint32_t type;
};

unsigned e820_build(const struct boot_memory *memory, struct e820_range range[E820_MAX]);
/* Whether [start, start + size) is RAM that firmware left to the kernel. */
bool e820_usable(const struct boot_memory *memory, uint64_t start, uint64_t size);

/* entry.c: the state that the first CPU enters with. `info` goes into RSI, ESI or EBX as the protocol has it. */
void entry_linux64(struct boot *boot, uint64_t rip);
void entry_linux32(struct boot *boot, uint32_t eip);
void entry_pvh(struct boot *boot, uint32_t eip);
void entry_multiboot(struct boot *boot, uint32_t eip);

/* elf.c: placing an ELF image's segments. */
struct elf_summary {
	uint64_t entry;      /* physical, as the image wants to be entered */
	uint64_t start, end; /* physical, over all segments */
	uint64_t pvh_entry;  /* the PVH note's, or 0 */
	unsigned bits;       /* 32 or 64 */
};

bool elf_match(const struct boot_image *image);
/* Checks the headers and segments against the file and fills in *sum; touches nothing. */
int elf_check(const struct boot_image *image, struct elf_summary *sum, struct error *err);
/* Places what elf_check accepted and moves kernel_end past it. */
int elf_place(struct boot *boot, const struct boot_image *image, struct error *err);

#endif
