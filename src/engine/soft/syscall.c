/* SPDX-License-Identifier: Apache-2.0 */
/*
 * syscall.c - SYSCALL, SYSRET, SYSENTER, SYSEXIT.
 *
 * Both vendors' are offered in both modes: SYSCALL from compatibility mode goes through CSTAR as on AMD, and SYSENTER
 * works in long mode as on Intel. A guest uses what the vendor in CPUID makes it expect.
 */
#include "engine/soft/system.h"

static void set_code_stack(struct soft_cpu *cpu, uint16_t cs, uint16_t ss, bool l, unsigned cpl)
{
	soft_flat_seg(&cpu->seg[ENGINE_CS], cs, true, l, cpl);
	soft_flat_seg(&cpu->seg[ENGINE_SS], ss, false, false, cpl);
}

/* Loads the flags of the side that is entered and brings the mode up to date: last. */
static void finish(struct soft_cpu *cpu, uint64_t rflags)
{
	soft_set_rflags(cpu, rflags);
	soft_irq_enabled(cpu);
}

/* After SYSCALL and SYSRET the single-step trap comes if TF is set at their end, not at their start. */
static void step_by_new_flags(struct soft_cpu *cpu)
{
	cpu->step_trap = cpu->sysflags & RF_TF;
	cpu->stepped |= cpu->step_trap;
}

void soft_help_syscall(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t next = soft_next_rip(cpu, insn), rflags = soft_get_rflags(cpu);
	uint16_t cs = cpu->star >> 32 & 0xfffc;

	(void)ea;
	if (!(cpu->efer & EFER_SCE) || !soft_protected(cpu))
		soft_raise(cpu, EXC_UD, 0);
	cpu->kernel_entries++;
	cpu->gpr[GPR_CX] = next;
	if (soft_lma(cpu)) {
		cpu->gpr[11] = rflags;
		cpu->rip = soft_code64(cpu) ? cpu->lstar : cpu->cstar;
		set_code_stack(cpu, cs, cs + 8, true, 0);
		finish(cpu, rflags & ~cpu->sfmask);
	} else {
		cpu->rip = (uint32_t)cpu->star;
		set_code_stack(cpu, cs, cs + 8, false, 0);
		finish(cpu, rflags & ~(uint64_t)(RF_IF | RF_VM));
	}
	step_by_new_flags(cpu);
}

void soft_help_sysret(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t user_flags = FLAG_ARITH | RF_TF | RF_IF | RF_DF | RF_IOPL | RF_NT | RF_AC | RF_VIF | RF_VIP | RF_ID;
	uint16_t base = cpu->star >> 48 & 0xfffc;
	uint64_t rcx = cpu->gpr[GPR_CX], rflags = cpu->gpr[11] & user_flags;
	bool to64 = soft_code64(cpu) && insn->opsize == 8;

	(void)ea;
	if (!(cpu->efer & EFER_SCE) || !soft_protected(cpu))
		soft_raise(cpu, EXC_UD, 0);
	if (soft_cpl(cpu) != 0 || (to64 && !soft_canonical(rcx)))
		soft_raise(cpu, EXC_GP, 0);
	if (!soft_lma(cpu))
		rflags = soft_get_rflags(cpu) | RF_IF;
	cpu->rip = to64 ? rcx : (uint32_t)rcx;
	set_code_stack(cpu, (base + (to64 ? 16 : 0)) | 3, (base + 8) | 3, to64, 3);
	finish(cpu, rflags);
	step_by_new_flags(cpu);
}

void soft_help_sysenter(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint16_t cs = cpu->sysenter_cs & 0xfffc;
	bool l = soft_lma(cpu);

	(void)insn;
	(void)ea;
	if (!(cpu->cr0 & CR0_PE) || !cs)
		soft_raise(cpu, EXC_GP, 0);
	cpu->rip = l ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
	cpu->gpr[GPR_SP] = l ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
	set_code_stack(cpu, cs, cs + 8, l, 0);
	finish(cpu, soft_get_rflags(cpu) & ~(uint64_t)(RF_IF | RF_VM));
}

void soft_help_sysexit(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t rip = cpu->gpr[GPR_DX], rsp = cpu->gpr[GPR_CX];
	uint16_t base = cpu->sysenter_cs & 0xfffc;
	bool to64 = soft_code64(cpu) && insn->opsize == 8;

	(void)ea;
	if (!soft_protected(cpu) || !base || soft_cpl(cpu) != 0)
		soft_raise(cpu, EXC_GP, 0);
	if (to64 && (!soft_canonical(rip) || !soft_canonical(rsp)))
		soft_raise(cpu, EXC_GP, 0);
	cpu->rip = to64 ? rip : (uint32_t)rip;
	cpu->gpr[GPR_SP] = to64 ? rsp : (uint32_t)rsp;
	set_code_stack(cpu, (base + (to64 ? 32 : 16)) | 3, (base + (to64 ? 40 : 24)) | 3, to64, 3);
	finish(cpu, soft_get_rflags(cpu));
}
