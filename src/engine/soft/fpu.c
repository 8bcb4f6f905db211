/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fpu.c - the x87's record of its last instruction and of that one's operand, for handlers of its exceptions (SDM Vol. 1,
 * 8.1.8).
 *
 * The host's x87 runs copies of the guest's instructions, so it records where the copy and the guest's memory lie in this
 * process. Whatever stores the record - FNSTENV, FNSAVE, FXSAVE, XSAVE - is followed by soft_fpu_pointers, which puts
 * the guest's addresses in their place. A record that does not point into translated code is one that the guest has
 * loaded itself, and stays as it is. The operand is only found by way of the TLB, and only looked for when an exception
 * is waiting; it is 0 else, as CPUs that keep it for exceptions only have it.
 */
#include "engine/soft/run.h"
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"
#include "engine/soft/unaligned.h"

enum { FSW_ES = 0x80 };

/* Where the parts of an image are. Without CS and DS (0) the addresses are 64 bits wide. */
struct layout {
	uint8_t size, fsw, ip, cs, dp, ds;
};
static const struct layout fxsave64 = { .size = 8, .fsw = 2, .ip = 8, .dp = 16 };
static const struct layout fxsave32 = { .size = 4, .fsw = 2, .ip = 8, .cs = 12, .dp = 16, .ds = 20 };
static const struct layout env32 = { .size = 4, .fsw = 4, .ip = 12, .cs = 16, .dp = 20, .ds = 24 };
static const struct layout env16 = { .size = 2, .fsw = 2, .ip = 6, .cs = 8, .dp = 10, .ds = 12 };

static uint16_t host_cs(void)
{
	uint16_t cs;
	__asm__("mov %%cs, %0" : "=r"(cs));
	return cs;
}

/* The guest-linear address of what lies at a host address, of which the low `size` bytes are known; or 0. */
static uint64_t linear_of(const struct soft_cpu *cpu, uint64_t host, unsigned size)
{
	uint64_t known = size == 8 ? ~0ull : UINT32_MAX;

	for (unsigned mmu = 0; mmu < SOFT_MMU_COUNT; mmu++) {
		for (unsigned i = 0; i < SOFT_TLB_SIZE; i++) {
			const struct soft_tlb_entry *entry = &cpu->tlb[mmu][i];
			if (soft_tlb_index(entry->tag_read) == i &&
			    !((entry->host ^ host) & known & ~(uint64_t)SOFT_PAGE_MASK))
				return entry->tag_read | (host & SOFT_PAGE_MASK);
		}
	}
	return 0;
}

static void fix(const struct soft_cpu *cpu, uint8_t *image, const struct layout *l)
{
	uint64_t mask = l->size == 8 ? ~0ull : (1ull << 8 * l->size) - 1, rip = 0, dp = 0;
	uint16_t cs = l->cs ? (uint16_t)unaligned_load(image + l->cs, 2) : 0;

	if (cs && cs != host_cs())
		return;
	/* Of 16 bits nothing can be told. */
	if (l->size > 2 && !soft_code_rip(cpu->vm, unaligned_load(image + l->ip, l->size), mask, &rip))
		return;
	if (l->size > 2 && (image[l->fsw] & FSW_ES))
		dp = linear_of(cpu, unaligned_load(image + l->dp, l->size), l->size);
	unaligned_store(image + l->ip, l->size, rip & (soft_code64(cpu) ? ~0ull : UINT32_MAX));
	unaligned_store(image + l->dp, l->size, dp);
	if (cs)
		unaligned_store(image + l->cs, 2, cpu->seg[ENGINE_CS].selector);
	if (l->ds && unaligned_load(image + l->ds, 2))
		unaligned_store(image + l->ds, 2, cpu->seg[ENGINE_DS].selector);
}

void soft_fpu_pointers(const struct soft_cpu *cpu, uint8_t *image)
{
	fix(cpu, image, &fxsave64);
}

/* Here `ea` is the host address of what has been stored. */
void soft_help_fpu_pointers(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	enum { XSTATE_BV = 512, X87 = 1 };
	uint8_t *image = (uint8_t *)(uintptr_t)ea; /* NOLINT(performance-no-int-to-ptr) */

	/* The x87's part of the image is only written if it was asked for, and is not initial. */
	if (insn->row->op == OP_XSAVE && !(cpu->gpr[GPR_AX] & cpu->xcr0 & image[XSTATE_BV] & X87))
		return;
	if (insn->map == MAP_ONE)
		fix(cpu, image, insn->opsize == 2 ? &env16 : &env32);
	else
		fix(cpu, image, insn->w ? &fxsave64 : &fxsave32);
}
