/* SPDX-License-Identifier: Apache-2.0 */
/* flags.c - RFLAGS, where its bits live, and the mode that follows from it and the rest of the state. */
#include "engine/soft/system.h"

/* RFLAGS bits that sysflags holds. RF is not among them: only an instruction breakpoint looks at it, and it is gone after
 * the instruction anyway (cpu->resume). */
#define SYSFLAGS (RF_TF | RF_IF | RF_DF | RF_IOPL | RF_NT | RF_VM | RF_AC | RF_VIF | RF_VIP | RF_ID)

uint32_t soft_get_arith(const struct soft_cpu *cpu)
{
	uint32_t ah = cpu->flags >> 8;

	return (ah & (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)) | (cpu->flags & 1 ? FLAG_OF : 0);
}

void soft_set_arith(struct soft_cpu *cpu, uint32_t rflags)
{
	uint32_t ah = (rflags & (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)) | 2;

	cpu->flags = ah << 8 | (rflags & FLAG_OF ? 1 : 0);
}

void soft_set_zf(struct soft_cpu *cpu, bool zf)
{
	soft_set_arith(cpu, (soft_get_arith(cpu) & ~FLAG_ZF) | (zf ? FLAG_ZF : 0));
}

uint64_t soft_get_rflags(const struct soft_cpu *cpu)
{
	return (cpu->sysflags & SYSFLAGS) | 2 | soft_get_arith(cpu);
}

void soft_set_rflags(struct soft_cpu *cpu, uint64_t rflags)
{
	soft_set_arith(cpu, rflags);
	cpu->sysflags = (rflags & SYSFLAGS) | 2;
	soft_update_mode(cpu);
}

void soft_load_rflags(struct soft_cpu *cpu, uint64_t rflags, uint64_t mask)
{
	soft_set_rflags(cpu, (soft_get_rflags(cpu) & ~mask) | (rflags & mask));
}

uint64_t soft_rflags_mask(const struct soft_cpu *cpu, unsigned size)
{
	uint64_t mask = FLAG_ARITH | RF_TF | RF_DF | RF_NT | RF_AC | RF_ID;

	if (soft_cpl(cpu) == 0)
		mask |= RF_IOPL;
	if (soft_cpl(cpu) <= soft_iopl(cpu))
		mask |= RF_IF;
	return size == 2 ? mask & 0xffff : mask;
}

void soft_irq_enabled(struct soft_cpu *cpu)
{
	if ((cpu->sysflags & RF_IF) && cpu->irq_pending)
		atomic_fetch_or(&cpu->kick, SOFT_KICK_INTERRUPT);
}

/* ---- the mode ---- */

static bool flat_data(const struct engine_segment *seg)
{
	return seg->base == 0 && seg->limit == UINT32_MAX &&
	       (seg->attr & (ATTR_NULL | ATTR_CODE | ATTR_EC | ATTR_WR)) == ATTR_WR;
}

static bool flat_code(const struct engine_segment *seg)
{
	return seg->base == 0 && seg->limit == UINT32_MAX && (seg->attr & (ATTR_NULL | ATTR_WR)) == ATTR_WR;
}

/* FS and GS may have any base, but no limit, and be readable and writable. */
static bool wide_seg(const struct engine_segment *seg)
{
	return seg->limit != UINT32_MAX || (seg->attr & (ATTR_NULL | ATTR_CODE | ATTR_EC | ATTR_WR)) != ATTR_WR;
}

static uint32_t segment_mode(const struct soft_cpu *cpu)
{
	const struct engine_segment *seg = cpu->seg;
	uint32_t mode;

	if (soft_lma(cpu) && (seg[ENGINE_CS].attr & ATTR_L))
		return SOFT_MODE_CODE64 | SOFT_MODE_FLAT;
	mode = seg[ENGINE_CS].attr & ATTR_DB ? SOFT_MODE_CODE32 : SOFT_MODE_CODE16;
	if (seg[ENGINE_SS].attr & ATTR_DB)
		mode |= SOFT_MODE_STACK32;
	if (flat_code(&seg[ENGINE_CS]) && flat_data(&seg[ENGINE_SS]) && flat_data(&seg[ENGINE_DS]) &&
	    flat_data(&seg[ENGINE_ES]))
		mode |= SOFT_MODE_FLAT;
	if (wide_seg(&seg[ENGINE_FS]) || wide_seg(&seg[ENGINE_GS]))
		mode |= SOFT_MODE_WIDE;
	return mode;
}

static uint32_t fpu_mode(const struct soft_cpu *cpu)
{
	uint32_t mode = 0;

	if (cpu->cr0 & CR0_TS)
		mode |= SOFT_MODE_TS;
	if (cpu->cr0 & CR0_EM)
		mode |= SOFT_MODE_EM;
	if (cpu->cr0 & CR0_MP)
		mode |= SOFT_MODE_MP;
	if (cpu->cr4 & CR4_OSFXSR)
		mode |= SOFT_MODE_FXSR;
	if (cpu->cr4 & CR4_OSXSAVE)
		mode |= SOFT_MODE_OSXSAVE;
	if ((cpu->cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6) {
		mode |= SOFT_MODE_AVX;
		if (cpu->xcr0 & cpu->xsave_mask & SOFT_XSAVE_AVX512)
			mode |= SOFT_MODE_AVX512;
	}
	return mode;
}

void soft_update_mode(struct soft_cpu *cpu)
{
	uint32_t mode = segment_mode(cpu) | fpu_mode(cpu);
	unsigned cpl = 0;
	bool checks;

	if (cpu->cr0 & CR0_PE) {
		mode |= SOFT_MODE_PE;
		cpl = soft_attr_dpl(cpu->seg[ENGINE_SS].attr);
		if (cpu->sysflags & RF_VM) {
			mode |= SOFT_MODE_VM;
			cpl = 3;
		}
	}
	mode |= cpl;
	if (soft_lma(cpu))
		mode |= SOFT_MODE_LMA;
	if (cpu->sysflags & RF_DF)
		mode |= SOFT_MODE_DF;
	soft_watch_update(cpu);
	if ((cpu->sysflags & RF_TF) || cpu->watch.code)
		mode |= SOFT_MODE_STEP;
	if (cpl < 3 && ((cpu->sysflags & RF_AC) || !(cpu->cr4 & CR4_SMAP)))
		mode |= SOFT_MODE_AC;
	if (cpl == 3 && (cpu->cr4 & CR4_TSD))
		mode |= SOFT_MODE_TSD;
	if (!(mode & SOFT_MODE_VM) && cpl <= soft_iopl(cpu))
		mode |= SOFT_MODE_IOPL;
	if (cpu->mode != mode)
		soft_returns_drop(cpu);
	cpu->mode = mode;
	/* Pages that were entered into the TLB before would pass unchecked (see mmu.c). */
	checks = cpl == 3 && (cpu->sysflags & RF_AC) && (cpu->cr0 & CR0_AM);
	if (checks && !cpu->checks_alignment)
		soft_tlb_flush(cpu, true);
	cpu->checks_alignment = checks;
}

/* ---- PUSHF, POPF ---- */

/* Is this v8086 code that may not touch IF itself? Raises #GP(0) if it may not even touch VIF (SDM Vol. 3, 21.2.8). */
static bool v8086_virtual_if(struct soft_cpu *cpu, unsigned size)
{
	if (!soft_v8086(cpu) || soft_iopl(cpu) == 3)
		return false;
	if (!(cpu->cr4 & CR4_VME) || size != 2)
		soft_raise(cpu, EXC_GP, 0);
	return true;
}

void soft_help_pushf(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t image = soft_get_rflags(cpu) & ~(uint64_t)(RF_VM | RF_RF);
	struct soft_stack st;

	(void)ea;
	if (v8086_virtual_if(cpu, insn->opsize)) {
		image = (image | RF_IOPL) & ~(uint64_t)RF_IF;
		if (cpu->sysflags & RF_VIF)
			image |= RF_IF;
	}
	soft_stack_current(cpu, &st);
	soft_push(cpu, &st, insn->opsize, image);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

void soft_help_popf(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t next = soft_next_rip(cpu, insn);
	uint64_t mask = soft_rflags_mask(cpu, insn->opsize);
	bool virtual_if = v8086_virtual_if(cpu, insn->opsize);
	struct soft_stack st;
	uint64_t image;

	(void)ea;
	soft_stack_current(cpu, &st);
	image = soft_pop(cpu, &st, insn->opsize);
	if (virtual_if) {
		if ((image & RF_TF) || ((image & RF_IF) && (cpu->sysflags & RF_VIP)))
			soft_raise(cpu, EXC_GP, 0);
		image = (image & 0xffff) | (image & RF_IF ? RF_VIF : 0);
		mask = (mask & ~(uint64_t)RF_IF) | RF_VIF;
	}
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	cpu->rip = next;
	soft_load_rflags(cpu, image, mask);
	soft_irq_enabled(cpu);
}

/* ---- CLI, STI where they may be refused or act on VIF ---- */

enum if_kind { IF_REAL, IF_VIRTUAL };

/* Which flag CLI and STI act on (SDM Vol. 2, CLI, table 3-7). Raises #GP(0) if on neither. */
static enum if_kind which_if(struct soft_cpu *cpu)
{
	if (soft_cpl(cpu) <= soft_iopl(cpu))
		return IF_REAL;
	if (soft_cpl(cpu) == 3 && (cpu->cr4 & (soft_v8086(cpu) ? CR4_VME : CR4_PVI)))
		return IF_VIRTUAL;
	soft_raise(cpu, EXC_GP, 0);
}

void soft_help_cli(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	cpu->sysflags &= ~(uint32_t)(which_if(cpu) == IF_REAL ? RF_IF : RF_VIF);
	cpu->rip = soft_next_rip(cpu, insn);
}

void soft_help_sti(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	if (which_if(cpu) == IF_VIRTUAL) {
		if (cpu->sysflags & RF_VIP)
			soft_raise(cpu, EXC_GP, 0);
		cpu->sysflags |= RF_VIF;
	} else if (!(cpu->sysflags & RF_IF)) {
		cpu->sysflags |= RF_IF;
		cpu->shadow = 1;
		soft_irq_enabled(cpu);
	}
	cpu->rip = soft_next_rip(cpu, insn);
}
