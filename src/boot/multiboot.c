/* SPDX-License-Identifier: Apache-2.0 */
/* multiboot.c - kernels of the Multiboot Specification 0.6.96: ELF, or flat with load addresses in the header. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "boot/image.h"

enum { SEARCH = 8192, HEADER_MAGIC = 0x1badb002 };

/* Header flags. Bits 0-15 are demands, the others offers. */
enum {
	WANT_PAGE_ALIGN = 1,
	WANT_MEMORY = 2,
	WANT_VIDEO = 4,
	HAS_ADDRESSES = 1 << 16,
	KNOWN_DEMANDS = WANT_PAGE_ALIGN | WANT_MEMORY | WANT_VIDEO,
};

/* Information flags. */
enum { INFO_MEMORY = 1, INFO_CMDLINE = 4, INFO_MODULES = 8, INFO_MMAP = 64, INFO_LOADER_NAME = 512 };

struct header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length,
	    mmap_addr;
	uint32_t drives_length, drives_addr, config_table, loader_name, apm_table;
	uint32_t vbe[4], framebuffer[7];
};

struct module {
	uint32_t start, end, string, reserved;
};

struct mmap_entry {
	uint32_t size; /* of what follows */
	uint64_t start, length;
	uint32_t type;
} __attribute__((packed));

/* What lies in the page at BOOT_INFO_GPA. */
struct info_page {
	struct info info;
	struct module initrd;
	struct mmap_entry map[E820_MAX];
	char loader_name[8];
	char initrd_name[256];
};

_Static_assert(sizeof(struct info) == 116 && sizeof(struct mmap_entry) == 24, "the specification's sizes");
_Static_assert(sizeof(struct info_page) <= 4096, "one page");

/* Finds the header and returns its offset, or -1. Its address fields read as 0 where the file ends before them. */
static int64_t find_header(const struct boot_image *image, struct header *h)
{
	for (size_t at = 0; at + 12 <= SEARCH && image_has(image, at, 12); at += 4) {
		size_t left = image->size - at;

		memset(h, 0, sizeof(*h));
		memcpy(h, image->data + at, left < sizeof(*h) ? left : sizeof(*h));
		if (h->magic == HEADER_MAGIC && h->magic + h->flags + h->checksum == 0)
			return (int64_t)at;
	}
	return -1;
}

static bool multiboot_match(const struct boot_image *image)
{
	struct header h;

	return find_header(image, &h) >= 0;
}

/* A flat image: the header's own address tells which file offset load_addr is. */
static int place_flat(struct boot *boot, const struct header *h, uint64_t header_offset, struct error *err)
{
	const struct boot_image *image = boot->image;
	uint64_t behind = (uint64_t)h->header_addr - h->load_addr;

	if (h->header_addr < h->load_addr || behind > header_offset)
		return error_set(err, -ENOEXEC, "kernel %s: its multiboot header has impossible addresses",
				 image->path);
	uint64_t offset = header_offset - behind;
	uint64_t filled = h->load_end_addr ? (uint64_t)h->load_end_addr - h->load_addr : image->size - offset;

	if ((h->load_end_addr && h->load_end_addr < h->load_addr) || !image_has(image, offset, filled))
		return error_set(err, -ENOEXEC,
				 "kernel %s: is cut short: its multiboot header promises more than there is",
				 image->path);
	uint64_t size = filled;

	if (h->bss_end_addr) {
		if (h->bss_end_addr < h->load_addr + filled)
			return error_set(err, -ENOEXEC, "kernel %s: its multiboot header has impossible addresses",
					 image->path);
		size = h->bss_end_addr - h->load_addr;
	}
	return boot_place(boot, "kernel", h->load_addr, image->data + offset, filled, size, err);
}

static int place_kernel(struct boot *boot, uint32_t *entry, struct error *err)
{
	const struct boot_image *image = boot->image;
	struct header h;
	int64_t offset = find_header(image, &h);

	if (h.flags & 0xffff & ~(unsigned)KNOWN_DEMANDS)
		return error_set(err, -ENOTSUP,
				 "kernel %s: its multiboot header asks for something unknown (flags %#x)", image->path,
				 h.flags & 0xffff);
	if (h.flags & HAS_ADDRESSES) {
		*entry = h.entry_addr;
		return place_flat(boot, &h, (uint64_t)offset, err);
	}
	struct elf_summary sum;

	if (!elf_match(image))
		return error_set(err, -ENOEXEC,
				 "kernel %s: has a multiboot header, but neither an ELF header nor load addresses",
				 image->path);
	int rc = elf_check(image, &sum, err);

	if (rc)
		return rc;
	if (sum.entry > UINT32_MAX)
		return error_set(err, -ENOEXEC, "kernel %s: its entry point %#llx can't be reached from 32-bit mode",
				 image->path, (unsigned long long)sum.entry);
	*entry = (uint32_t)sum.entry;
	return elf_place(boot, image, err);
}

static void write_info(struct boot *boot)
{
	struct info_page *page = boot_memory_at(boot->memory, BOOT_INFO_GPA, sizeof(*page));
	struct e820_range range[E820_MAX];
	unsigned n = e820_build(boot->memory, range);
	const uint32_t here = BOOT_INFO_GPA;

	memset(page, 0, sizeof(*page));
	page->info = (struct info){
		.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MMAP | INFO_LOADER_NAME,
		.mem_lower = PLATFORM_EBDA_BASE >> 10,
		.mem_upper = (uint32_t)((boot_low_end(boot->memory) - 0x100000) >> 10),
		.cmdline = BOOT_CMDLINE_GPA,
		.mmap_length = n * (uint32_t)sizeof(struct mmap_entry),
		.mmap_addr = here + offsetof(struct info_page, map),
		.loader_name = here + offsetof(struct info_page, loader_name),
	};
	strcpy(page->loader_name, "Plures");
	for (unsigned i = 0; i < n; i++)
		page->map[i] = (struct mmap_entry){ 20, range[i].start, range[i].size, range[i].type };
	if (boot->initrd_size) {
		snprintf(page->initrd_name, sizeof(page->initrd_name), "%s", boot_base_name(boot->config->initrd));
		page->info.flags |= INFO_MODULES;
		page->info.mods_count = 1;
		page->info.mods_addr = here + offsetof(struct info_page, initrd);
		page->initrd = (struct module){
			.start = (uint32_t)boot->initrd_gpa,
			.end = (uint32_t)(boot->initrd_gpa + boot->initrd_size),
			.string = here + offsetof(struct info_page, initrd_name),
		};
	}
}

static int multiboot_load(struct boot *boot, struct error *err)
{
	uint32_t entry = 0;
	int rc = place_kernel(boot, &entry, err);

	/* The first word is the kernel's own name, which kernels skip. */
	if (!rc)
		rc = boot_place_cmdline(boot, boot_base_name(boot->image->path), BOOT_CMDLINE_DEFAULT_MAX, err);
	if (!rc)
		rc = boot_place_initrd(boot, PLATFORM_RAM_LOW_END, err);
	if (rc)
		return rc;
	write_info(boot);
	entry_multiboot(boot, entry);
	return 0;
}

const struct boot_format multiboot_format = { "multiboot", multiboot_match, multiboot_load };
