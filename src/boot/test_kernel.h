/* SPDX-License-Identifier: Apache-2.0 */
/* test_kernel.h - made-up kernels, for the boot tests and the fuzz target. */
#ifndef PLURES_BOOT_TEST_KERNEL_H
#define PLURES_BOOT_TEST_KERNEL_H

#include <asm/bootparam.h>
#include <elf.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A 64-bit ELF: one segment of `filled` bytes of 0x90 and some BSS at paddr, and, if pvh, the PVH note. */
struct test_elf {
	Elf64_Ehdr ehdr;
	Elf64_Phdr load, note;
	struct {
		Elf64_Nhdr head;
		char name[4];
		uint32_t entry;
	} pvh;
	uint32_t code[256];
};

static inline struct test_elf test_elf(uint64_t paddr, uint32_t pvh)
{
	struct test_elf e = {
		.ehdr = { .e_type = ET_EXEC,
			  .e_machine = EM_X86_64,
			  .e_version = 1,
			  .e_entry = paddr + 0x40,
			  .e_phoff = offsetof(struct test_elf, load),
			  .e_ehsize = sizeof(Elf64_Ehdr),
			  .e_phentsize = sizeof(Elf64_Phdr),
			  .e_phnum = 2 },
		.load = { .p_type = PT_LOAD,
			  .p_offset = offsetof(struct test_elf, code),
			  .p_vaddr = 0xffffffff80000000ull + paddr,
			  .p_paddr = paddr,
			  .p_filesz = sizeof(e.code),
			  .p_memsz = 0x10000 },
		.note = { .p_type = pvh ? PT_NOTE : PT_NULL,
			  .p_offset = offsetof(struct test_elf, pvh),
			  .p_filesz = sizeof(e.pvh),
			  .p_align = 4 },
		.pvh = { { 4, 4, 18 }, "Xen", pvh },
	};

	memcpy(e.ehdr.e_ident, ELFMAG, SELFMAG);
	e.ehdr.e_ident[EI_CLASS] = ELFCLASS64;
	e.ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
	memset(e.code, 0x90, sizeof(e.code));
	return e;
}

/* A bzImage of protocol 2.15 around a payload, which gets its unpacked size appended. The caller frees it. */
static inline uint8_t *test_bzimage(const void *payload, size_t payload_size, uint32_t unpacked, size_t *size)
{
	const size_t setup = 5 * 512, before = 0x400;
	size_t kernel = (before + payload_size + 4 + 15) & ~15ull;
	uint8_t *image = calloc(1, setup + kernel);
	struct setup_header hdr = {
		.setup_sects = 4,
		.syssize = (uint32_t)(kernel / 16),
		.boot_flag = 0xaa55,
		.jump = 0x66eb,
		.header = 0x53726448,
		.version = 0x20f,
		.loadflags = LOADED_HIGH,
		.code32_start = 0x100000,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = (uint32_t)before,
		.payload_length = (uint32_t)payload_size + 4,
		.pref_address = 0x1000000,
		.init_size = 0x200000,
	};

	memcpy(image + 0x1f1, &hdr, sizeof(hdr));
	memset(image + setup, 0xcc, before);
	memcpy(image + setup + before, payload, payload_size);
	memcpy(image + setup + before + payload_size, &unpacked, 4);
	*size = setup + kernel;
	return image;
}

static inline struct setup_header *test_header(uint8_t *bzimage)
{
	return (struct setup_header *)(bzimage + 0x1f1);
}

#endif
