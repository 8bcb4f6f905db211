/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvh.c - kernels given as ELF files. With Xen's PHYS32_ENTRY note they are entered by the PVH boot ABI (docs/misc/pvh
 * and public/arch-x86/hvm/start_info.h of Xen); with a multiboot header they are multiboot.c's.
 */
#include <errno.h>
#include <string.h>

#include "boot/image.h"

#define START_INFO_MAGIC 0x336ec578u

struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct module {
	uint64_t start, size, cmdline, reserved;
};

struct memmap_entry {
	uint64_t start, size;
	uint32_t type, reserved;
};

/* What lies in the page at BOOT_INFO_GPA. */
struct info_page {
	struct start_info info;
	struct module initrd;
	struct memmap_entry map[E820_MAX];
};

_Static_assert(sizeof(struct start_info) == 56 && sizeof(struct module) == 32 && sizeof(struct memmap_entry) == 24,
	       "the ABI's sizes");
_Static_assert(sizeof(struct info_page) <= 4096, "one page");

static void write_info(struct boot *boot)
{
	struct info_page *page = boot_memory_at(boot->memory, BOOT_INFO_GPA, sizeof(*page));
	struct e820_range range[E820_MAX];
	unsigned n = e820_build(boot->memory, range);

	*page = (struct info_page){
	    .info =
		{
		    .magic = START_INFO_MAGIC,
		    .version = 1,
		    .cmdline = BOOT_CMDLINE_GPA,
		    .rsdp = boot->rsdp,
		    .memmap = BOOT_INFO_GPA + offsetof(struct info_page, map),
		    .memmap_entries = n,
		},
	};
	if (boot->initrd_size) {
		page->info.modules = 1;
		page->info.module_list = BOOT_INFO_GPA + offsetof(struct info_page, initrd);
		page->initrd = (struct module){ .start = boot->initrd_gpa, .size = boot->initrd_size };
	}
	for (unsigned i = 0; i < n; i++)
		page->map[i] = (struct memmap_entry){ range[i].start, range[i].size, range[i].type, 0 };
}

static int load_pvh(struct boot *boot, const struct elf_summary *sum, struct error *err)
{
	if (sum->pvh_entry > UINT32_MAX)
		return error_set(err, -ENOEXEC, "kernel %s: is a damaged ELF file (its PVH entry point is above 4G)",
				 boot->image->path);
	int rc = elf_place(boot, boot->image, err);

	if (!rc)
		rc = boot_place_cmdline(boot, NULL, BOOT_CMDLINE_DEFAULT_MAX, err);
	if (!rc)
		rc = boot_place_initrd(boot, PLATFORM_RAM_LOW_END, err);
	if (rc)
		return rc;
	write_info(boot);
	entry_pvh(boot, (uint32_t)sum->pvh_entry);
	return 0;
}

static int elf_load(struct boot *boot, struct error *err)
{
	struct elf_summary sum;
	int rc = elf_check(boot->image, &sum, err);

	if (rc)
		return rc;
	if (sum.pvh_entry)
		return load_pvh(boot, &sum, err);
	if (multiboot_format.match(boot->image))
		return multiboot_format.load(boot, err);
	return error_set(
	    err, -ENOEXEC,
	    "kernel %s: is an ELF file with neither a PVH note nor a multiboot header: use the kernel's bzImage "
	    "(arch/x86/boot/bzImage, vmlinuz), or build it with CONFIG_PVH=y",
	    boot->image->path);
}

const struct boot_format elf_format = { "ELF", elf_match, elf_load };
