/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bzimage.c - Linux's bzImage, by Documentation/arch/x86/boot.rst of the kernel tree.
 *
 * Three ways in, the first that the image allows:
 *  1. its compressed vmlinux is unpacked here, placed at its physical addresses and entered there, at startup_64 or
 *     startup_32. That leaves out the slowest part of a boot on a translating engine. It needs from us what the kernel's
 *     own decompressor sets up: for 64 bits a one-to-one map of kernel, boot_params, command line and initrd; for 32 bits
 *     flat segments. The kernel then runs where it was linked, without KASLR, and the relocations behind its ELF image
 *     are not needed;
 *  2. the guest's own decompressor, by the 64-bit protocol, when we can't unpack the format;
 *  3. the guest's own decompressor, by the 32-bit protocol, for a kernel without a 64-bit entry point.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "boot/decompress.h"
#include "boot/image.h"

#define HDR_OFFSET offsetof(struct boot_params, hdr)
#define PROTOCOL_CMDLINE_SIZE 0x206
#define PROTOCOL_PAYLOAD 0x208
#define PROTOCOL_PREF_ADDRESS 0x20a
#define PROTOCOL_XLOADFLAGS 0x20c
#define MIN_IMAGE 0x250 /* where the header of protocol 2.08 ends */
#define ENTRY64_OFFSET 0x200
#define LOAD_ADDRESS_OLD 0x100000ull
#define LOADER_UNDEFINED 0xff
/* Slack behind the size that a payload claims, so that a decoder that reads an end mark is not short of room. */
#define UNPACK_SLACK 4096

struct bzimage {
	struct setup_header hdr;
	uint64_t setup_size;  /* real-mode part */
	uint64_t kernel_size; /* what follows it */
	const uint8_t *kernel;
	const uint8_t *payload; /* NULL when there is none to be found */
	uint64_t payload_size;
};

static bool bzimage_match(const struct boot_image *image)
{
	return image_has(image, 0x202, 4) && memcmp(image->data + 0x202, "HdrS", 4) == 0 &&
	       memcmp(image->data + 0x1fe, "\x55\xaa", 2) == 0;
}

static int cut_short(const struct boot_image *image, uint64_t want, struct error *err)
{
	return error_set(err, -ENOEXEC,
			 "kernel %s: is a cut short bzImage, %zu bytes of %llu: get a fresh copy of the kernel",
			 image->path, image->size, (unsigned long long)want);
}

static int damaged(const struct boot_image *image, struct error *err, const char *why)
{
	return error_set(err, -ENOEXEC, "kernel %s: is a damaged bzImage (%s): get a fresh copy of the kernel",
			 image->path, why);
}

/* Copies as much of the setup header as the image has: its length is in the jump that precedes the magic. */
static int read_header(const struct boot_image *image, struct bzimage *bz, struct error *err)
{
	if (!image_has(image, 0, MIN_IMAGE))
		return cut_short(image, MIN_IMAGE, err);
	size_t size = 0x202 + image->data[0x201] - HDR_OFFSET;

	if (size > sizeof(bz->hdr))
		size = sizeof(bz->hdr);
	if (!image_has(image, HDR_OFFSET, size))
		return cut_short(image, HDR_OFFSET + size, err);
	memcpy(&bz->hdr, image->data + HDR_OFFSET, size);
	if (bz->hdr.version < PROTOCOL_CMDLINE_SIZE)
		return error_set(err, -ENOEXEC,
				 "kernel %s: speaks boot protocol %u.%02u, older than 2.06: use Linux 2.6.22 or later",
				 image->path, bz->hdr.version >> 8, bz->hdr.version & 0xff);
	if (!(bz->hdr.loadflags & LOADED_HIGH))
		return error_set(err, -ENOEXEC, "kernel %s: is a zImage, which loads below 1M: use a bzImage",
				 image->path);
	return 0;
}

static int parse(const struct boot_image *image, struct bzimage *bz, struct error *err)
{
	int rc = read_header(image, bz, err);

	if (rc)
		return rc;
	bz->setup_size = ((bz->hdr.setup_sects ? bz->hdr.setup_sects : 4) + 1) * 512ull;
	bz->kernel_size = bz->hdr.syssize * 16ull;
	/* The header counts in paragraphs, the file need not end on one. */
	if (!image_has(image, 0, bz->setup_size + bz->kernel_size - (bz->kernel_size ? 15 : 0)))
		return cut_short(image, bz->setup_size + bz->kernel_size, err);
	if (!image_has(image, bz->setup_size, bz->kernel_size))
		bz->kernel_size = image->size - bz->setup_size;
	if (bz->kernel_size <= ENTRY64_OFFSET)
		return damaged(image, err, "it holds no kernel");
	bz->kernel = image->data + bz->setup_size;
	if (bz->hdr.version >= PROTOCOL_PAYLOAD && bz->hdr.payload_length > 4) {
		if (bz->hdr.payload_offset > bz->kernel_size ||
		    bz->hdr.payload_length > bz->kernel_size - bz->hdr.payload_offset)
			return damaged(image, err, "its payload reaches beyond the file's end");
		bz->payload = bz->kernel + bz->hdr.payload_offset;
		bz->payload_size = bz->hdr.payload_length;
	}
	return 0;
}

/* The zero page, but for what placing the initrd adds. */
static struct boot_params *write_params(struct boot *boot, const struct bzimage *bz, uint32_t load_address)
{
	struct boot_params *p = boot_memory_at(boot->memory, BOOT_PARAMS_GPA, sizeof(*p));
	struct e820_range range[E820_MAX];
	uint64_t extended_kib = (boot_low_end(boot->memory) - 0x100000) >> 10;

	memset(p, 0, sizeof(*p));
	p->hdr = bz->hdr;
	p->hdr.type_of_loader = LOADER_UNDEFINED;
	p->hdr.code32_start = load_address;
	p->hdr.cmd_line_ptr = BOOT_CMDLINE_GPA;
	p->hdr.ramdisk_image = (uint32_t)boot->initrd_gpa;
	p->hdr.ramdisk_size = (uint32_t)boot->initrd_size;
	p->hdr.setup_data = 0;
	p->acpi_rsdp_addr = boot->rsdp;
	p->alt_mem_k = (uint32_t)extended_kib;
	p->screen_info.ext_mem_k = extended_kib > 0xffff ? 0xffff : (uint16_t)extended_kib;
	p->e820_entries = (uint8_t)e820_build(boot->memory, range);
	for (unsigned i = 0; i < p->e820_entries; i++) {
		p->e820_table[i].addr = range[i].start;
		p->e820_table[i].size = range[i].size;
		p->e820_table[i].type = range[i].type;
	}
	return p;
}

/* A kernel that names no limit for the initrd has the one that boot.rst gives for old kernels. */
static uint64_t initrd_limit(const struct bzimage *bz)
{
	uint64_t max = bz->hdr.initrd_addr_max;

	return max ? max + 1 : 0x38000000;
}

static int place_rest(struct boot *boot, const struct bzimage *bz, uint32_t load_address, struct error *err)
{
	int rc = boot_place_cmdline(boot, NULL, bz->hdr.cmdline_size, err);

	if (!rc)
		rc = boot_place_initrd(boot, initrd_limit(bz), err);
	if (!rc)
		write_params(boot, bz, load_address);
	return rc;
}

/* Ways 2 and 3. */
static int load_packed(struct boot *boot, const struct bzimage *bz, struct error *err)
{
	bool has_pref = bz->hdr.version >= PROTOCOL_PREF_ADDRESS && bz->hdr.pref_address;
	uint64_t load = LOAD_ADDRESS_OLD, end;

	if (has_pref && bz->hdr.relocatable_kernel)
		load = bz->hdr.pref_address;
	if (load < LOAD_ADDRESS_OLD || load > UINT32_MAX)
		return damaged(boot->image, err, "it prefers an impossible address");
	/* It unpacks to its preferred address, in a working space of init_size bytes that covers itself. */
	end = (has_pref ? bz->hdr.pref_address : load) + (has_pref ? bz->hdr.init_size : 0);
	if (end < load + bz->kernel_size)
		end = load + bz->kernel_size;
	int rc = boot_place(boot, "kernel", load, bz->kernel, bz->kernel_size, end - load, err);

	if (!rc)
		rc = place_rest(boot, bz, (uint32_t)load, err);
	if (rc)
		return rc;
	if (bz->hdr.version >= PROTOCOL_XLOADFLAGS && bz->hdr.xloadflags & XLF_KERNEL_64)
		entry_linux64(boot, load + ENTRY64_OFFSET);
	else
		entry_linux32(boot, (uint32_t)load);
	return 0;
}

static int place_unpacked(struct boot *boot, const struct bzimage *bz, const struct boot_image *vmlinux,
			  struct error *err)
{
	struct elf_summary sum;
	int rc = elf_check(vmlinux, &sum, err);

	if (rc)
		return rc;
	if (sum.start > UINT32_MAX || sum.entry < sum.start || sum.entry >= sum.end ||
	    (sum.bits == 32 && sum.entry > UINT32_MAX))
		return damaged(boot->image, err, "the kernel inside has no usable entry point");
	rc = elf_place(boot, vmlinux, err);
	if (!rc)
		rc = place_rest(boot, bz, (uint32_t)sum.start, err);
	if (rc)
		return rc;
	if (sum.bits == 64)
		entry_linux64(boot, sum.entry);
	else
		entry_linux32(boot, (uint32_t)sum.entry);
	return 0;
}

/* Way 1. What unpacks to more than guest memory can't be a kernel for it, so memory bounds what a payload may claim. */
static int load_unpacked(struct boot *boot, const struct bzimage *bz, struct error *err)
{
	const struct boot_image *image = boot->image;
	uint32_t claimed;

	memcpy(&claimed, bz->payload + bz->payload_size - 4, 4);
	if (claimed > boot_memory_size(boot->memory))
		return error_set(err, -ENOSPC,
				 "kernel %s: unpacks to %lluM, and the machine has %lluM of memory: give it more",
				 image->path, (claimed + 0xfffffull) >> 20,
				 (unsigned long long)boot_memory_size(boot->memory) >> 20);
	size_t room = claimed + (size_t)UNPACK_SLACK;
	uint8_t *out = boot_buffer_create(room);

	if (!out)
		return error_errno(err, -errno, "kernel %s: can't allocate %zu bytes to unpack it", image->path, room);
	int64_t got = decompress(bz->payload, bz->payload_size, out, room, err);
	int rc;

	if (got == -ELIBACC)
		rc = error_prefix(err, -ELIBACC, "kernel %s: can't unpack it", image->path);
	else if (got == -ENOMEM)
		rc = error_errno(err, -ENOMEM, "kernel %s: can't unpack it", image->path);
	else if (got < 0)
		rc = damaged(image, err, "it does not unpack");
	else
		rc = place_unpacked(boot, bz,
				    &(struct boot_image){ .path = image->path, .data = out, .size = (size_t)got }, err);
	boot_buffer_destroy(out, room);
	return rc;
}

static int bzimage_load(struct boot *boot, struct error *err)
{
	struct bzimage bz = { 0 };
	int rc = parse(boot->image, &bz, err);

	if (rc)
		return rc;
	if (bz.payload && decompress_format(bz.payload, bz.payload_size))
		return load_unpacked(boot, &bz, err);
	return load_packed(boot, &bz, err);
}

const struct boot_format bzimage_format = { "bzImage", bzimage_match, bzimage_load };
