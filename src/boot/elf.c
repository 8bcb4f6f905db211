/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elf.c - checks and places ELF images of either class, and finds the PVH note in them.
 *
 * Used for three things: a kernel given as an ELF file, the ELF inside a bzImage, and multiboot kernels. Sizes and
 * offsets are the file's word until elf_check has held them against the file; boot_place holds addresses against RAM.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "boot/image.h"

enum { MAX_SEGMENTS = 64, NOTE_PHYS32_ENTRY = 18 };

/* A program header of either class. */
struct segment {
	uint32_t type;
	uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

struct header {
	unsigned bits;
	uint16_t type, machine;
	uint64_t entry, phoff;
	unsigned phentsize, phnum;
};

bool elf_match(const struct boot_image *image)
{
	return image_has(image, 0, SELFMAG) && memcmp(image->data, ELFMAG, SELFMAG) == 0;
}

static int bad(const struct boot_image *image, struct error *err, const char *why)
{
	return error_set(err, -ENOEXEC, "kernel %s: is a damaged ELF file (%s): get a fresh copy of the kernel",
			 image->path, why);
}

static int read_header(const struct boot_image *image, struct header *h, struct error *err)
{
	if (!image_has(image, 0, EI_NIDENT))
		return bad(image, err, "cut short");
	if (image->data[EI_DATA] != ELFDATA2LSB)
		return error_set(err, -ENOEXEC, "kernel %s: is a big-endian ELF file: use an x86 kernel", image->path);
	if (image->data[EI_CLASS] == ELFCLASS64) {
		Elf64_Ehdr e;

		if (!image_has(image, 0, sizeof(e)))
			return bad(image, err, "cut short");
		memcpy(&e, image->data, sizeof(e));
		*h = (struct header){ 64, e.e_type, e.e_machine, e.e_entry, e.e_phoff, e.e_phentsize, e.e_phnum };
	} else if (image->data[EI_CLASS] == ELFCLASS32) {
		Elf32_Ehdr e;

		if (!image_has(image, 0, sizeof(e)))
			return bad(image, err, "cut short");
		memcpy(&e, image->data, sizeof(e));
		*h = (struct header){ 32, e.e_type, e.e_machine, e.e_entry, e.e_phoff, e.e_phentsize, e.e_phnum };
	} else {
		return bad(image, err, "unknown class");
	}
	if (h->machine != EM_X86_64 && h->machine != EM_386)
		return error_set(err, -ENOEXEC,
				 "kernel %s: is an ELF file for another kind of CPU (%u): use an x86 kernel",
				 image->path, h->machine);
	if (h->type != ET_EXEC && h->type != ET_DYN)
		return error_set(err, -ENOEXEC, "kernel %s: is an ELF file, but not a program or kernel", image->path);
	unsigned want = h->bits == 64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (h->phentsize != want || h->phnum == 0 || h->phnum > MAX_SEGMENTS)
		return bad(image, err, "its program headers make no sense");
	if (!image_has(image, h->phoff, (uint64_t)h->phnum * want))
		return bad(image, err, "cut short");
	return 0;
}

static struct segment read_segment(const struct boot_image *image, const struct header *h, unsigned i)
{
	const uint8_t *at = image->data + h->phoff + (uint64_t)i * h->phentsize;

	if (h->bits == 64) {
		Elf64_Phdr p;

		memcpy(&p, at, sizeof(p));
		return (struct segment){ p.p_type, p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz, p.p_align };
	}
	Elf32_Phdr p;

	memcpy(&p, at, sizeof(p));
	return (struct segment){ p.p_type, p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz, p.p_align };
}

/* Walks the notes of one PT_NOTE segment for Xen's 32-bit physical entry point (public/elfnote.h). */
static uint64_t pvh_entry_in(const struct boot_image *image, const struct segment *s)
{
	uint64_t align = s->align == 8 ? 8 : 4;
	uint64_t at = s->offset, end = s->offset + s->filesz;
	Elf64_Nhdr note; /* the same in both classes */

	while (end - at >= sizeof(note)) {
		memcpy(&note, image->data + at, sizeof(note));
		uint64_t name = at + sizeof(note);
		uint64_t desc = name + ((note.n_namesz + align - 1) & ~(align - 1));
		uint64_t next = desc + ((note.n_descsz + align - 1) & ~(align - 1));

		if (desc > end || note.n_descsz > end - desc)
			return 0;
		if (note.n_type == NOTE_PHYS32_ENTRY && note.n_namesz == 4 && note.n_descsz >= 4 &&
		    memcmp(image->data + name, "Xen", 4) == 0) {
			uint64_t entry = 0;

			memcpy(&entry, image->data + desc, note.n_descsz >= 8 ? 8 : 4);
			return entry;
		}
		if (next > end)
			return 0;
		at = next;
	}
	return 0;
}

static int check_load(const struct boot_image *image, const struct segment *s, struct elf_summary *sum,
		      struct error *err)
{
	if (s->filesz > s->memsz || s->paddr + s->memsz < s->paddr)
		return bad(image, err, "a segment has impossible sizes");
	if (!image_has(image, s->offset, s->filesz))
		return error_set(err, -ENOEXEC, "kernel %s: is cut short: a segment reaches beyond the end of the file",
				 image->path);
	if (s->paddr < sum->start)
		sum->start = s->paddr;
	if (s->paddr + s->memsz > sum->end)
		sum->end = s->paddr + s->memsz;
	return 0;
}

int elf_check(const struct boot_image *image, struct elf_summary *sum, struct error *err)
{
	struct header h;
	int rc = read_header(image, &h, err);

	if (rc)
		return rc;
	*sum = (struct elf_summary){ .entry = h.entry, .start = UINT64_MAX, .bits = h.bits };
	for (unsigned i = 0; i < h.phnum; i++) {
		struct segment s = read_segment(image, &h, i);

		if (s.type == PT_LOAD && s.memsz) {
			rc = check_load(image, &s, sum, err);
			if (rc)
				return rc;
			/* A kernel linked high has a virtual entry point; it is entered without paging or mapped one to
			 * one, so at the physical one. */
			if (h.entry >= s.vaddr && h.entry - s.vaddr < s.memsz)
				sum->entry = h.entry - s.vaddr + s.paddr;
		} else if (s.type == PT_NOTE && !sum->pvh_entry && image_has(image, s.offset, s.filesz)) {
			sum->pvh_entry = pvh_entry_in(image, &s);
		}
	}
	if (sum->start >= sum->end)
		return bad(image, err, "nothing to load");
	return 0;
}

int elf_place(struct boot *boot, const struct boot_image *image, struct error *err)
{
	struct header h;
	int rc = read_header(image, &h, err);

	for (unsigned i = 0; !rc && i < h.phnum; i++) {
		struct segment s = read_segment(image, &h, i);

		if (s.type == PT_LOAD && s.memsz)
			rc = boot_place(boot, "ELF segment", s.paddr, image->data + s.offset, s.filesz, s.memsz, err);
	}
	return rc;
}
