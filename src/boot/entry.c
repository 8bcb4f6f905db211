/* SPDX-License-Identifier: Apache-2.0 */
/*
 * entry.c - the state in which a kernel is entered: flat segments, and for the 64-bit protocol page tables that map the
 * low 4 GiB one to one. Linux: Documentation/arch/x86/boot.rst, "32-bit" and "64-bit Boot Protocol"; PVH:
 * Xen's docs/misc/pvh; multiboot: section 3.2 of its specification.
 */
#include <string.h>

#include "boot/image.h"
#include "engine/engine.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20 };

#define CR0_PE 1ull
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_FIXED 2ull

/* Access rights as struct engine_segment has them. */
#define ATTR_CODE64 0xa09b /* G, L, present, code, read, accessed */
#define ATTR_CODE32 0xc09b /* G, D */
#define ATTR_DATA 0xc093
#define ATTR_TSS_BUSY 0x008b

#define MULTIBOOT_LOADER_MAGIC 0x2badb002u

static uint64_t descriptor(uint32_t attr, uint32_t limit_field)
{
	return (limit_field & 0xffffull) | (uint64_t)(attr & 0xff) << 40 | (uint64_t)(limit_field >> 16 & 0xf) << 48 |
	       (uint64_t)(attr >> 12 & 0xf) << 52;
}

static void flat_segments(struct boot *boot, uint32_t code_attr)
{
	struct engine_cpu_state *s = boot->bsp;
	const struct engine_segment data = { .limit = 0xffffffff, .attr = ATTR_DATA, .selector = SEL_DATA };
	const uint64_t gdt[] = {
		0, 0, descriptor(code_attr, 0xfffff), descriptor(ATTR_DATA, 0xfffff), descriptor(ATTR_TSS_BUSY, 0x67),
		0, /* the upper half of the TSS's descriptor in 64-bit mode */
	};

	memcpy(boot_memory_at(boot->memory, BOOT_GDT_GPA, sizeof(gdt)), gdt, sizeof(gdt));
	s->gdtr.base = BOOT_GDT_GPA;
	s->gdtr.limit = sizeof(gdt) - 1;
	s->idtr.base = 0;
	s->idtr.limit = 0;
	s->seg[ENGINE_CS] = (struct engine_segment){ .limit = 0xffffffff, .attr = code_attr, .selector = SEL_CODE };
	s->seg[ENGINE_DS] = s->seg[ENGINE_ES] = s->seg[ENGINE_SS] = data;
	s->seg[ENGINE_FS] = s->seg[ENGINE_GS] = data;
	s->seg[ENGINE_TR] = (struct engine_segment){ .limit = 0x67, .attr = ATTR_TSS_BUSY, .selector = SEL_TSS };
	memset(s->gpr, 0, sizeof(s->gpr));
	s->gpr[RSP] = BOOT_STACK_GPA;
	s->rflags = RFLAGS_FIXED;
	s->halted = false;
}

/* Protected mode without paging. Caches on, whatever reset left in CD and NW. */
static void protected_mode(struct boot *boot, uint32_t eip)
{
	flat_segments(boot, ATTR_CODE32);
	boot->bsp->rip = eip;
	boot->bsp->cr0 = CR0_PE | CR0_ET;
	boot->bsp->cr3 = 0;
	boot->bsp->cr4 = 0;
	boot->bsp->efer = 0;
}

static void identity_map(struct boot *boot)
{
	enum { PRESENT = 1, WRITE = 2, LARGE = 0x80, TABLES = 6 };
	uint64_t *table = boot_memory_at(boot->memory, BOOT_PAGE_TABLES_GPA, TABLES * 4096);
	uint64_t *pml4 = table, *pdpt = table + 512, *pd = table + 1024;

	memset(table, 0, TABLES * 4096);
	pml4[0] = (BOOT_PAGE_TABLES_GPA + 0x1000) | PRESENT | WRITE;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (BOOT_PAGE_TABLES_GPA + 0x2000 + i * 0x1000) | PRESENT | WRITE;
	for (uint64_t i = 0; i < 2048; i++)
		pd[i] = i << 21 | PRESENT | WRITE | LARGE;
}

void entry_linux64(struct boot *boot, uint64_t rip)
{
	flat_segments(boot, ATTR_CODE64);
	identity_map(boot);
	boot->bsp->rip = rip;
	boot->bsp->gpr[RSI] = BOOT_PARAMS_GPA;
	boot->bsp->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	boot->bsp->cr3 = BOOT_PAGE_TABLES_GPA;
	boot->bsp->cr4 = CR4_PAE;
	boot->bsp->efer = EFER_LME | EFER_LMA;
}

void entry_linux32(struct boot *boot, uint32_t eip)
{
	protected_mode(boot, eip);
	boot->bsp->gpr[RSI] = BOOT_PARAMS_GPA;
}

void entry_pvh(struct boot *boot, uint32_t eip)
{
	protected_mode(boot, eip);
	boot->bsp->gpr[RBX] = BOOT_INFO_GPA;
}

void entry_multiboot(struct boot *boot, uint32_t eip)
{
	protected_mode(boot, eip);
	boot->bsp->gpr[RAX] = MULTIBOOT_LOADER_MAGIC;
	boot->bsp->gpr[RBX] = BOOT_INFO_GPA;
}
