/* SPDX-License-Identifier: Apache-2.0 */
/* msr.c - the model-specific registers that the engine carries itself, and the time stamp counter. */
#include "engine/soft/system.h"

enum {
	MSR_TSC = 0x10,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_PAT = 0x277,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

static uint64_t host_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

/* Where a register that is nothing but a stored value lives; or NULL. */
static uint64_t *plain_msr(struct soft_cpu *cpu, uint32_t index)
{
	switch (index) {
	case MSR_TSC_ADJUST:
		return &cpu->tsc_offset;
	case MSR_SYSENTER_CS:
		return &cpu->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &cpu->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &cpu->sysenter_eip;
	case MSR_PAT:
		return &cpu->pat;
	case MSR_EFER:
		return &cpu->efer;
	case MSR_STAR:
		return &cpu->star;
	case MSR_LSTAR:
		return &cpu->lstar;
	case MSR_CSTAR:
		return &cpu->cstar;
	case MSR_SFMASK:
		return &cpu->sfmask;
	case MSR_FS_BASE:
		return &cpu->seg[ENGINE_FS].base;
	case MSR_GS_BASE:
		return &cpu->seg[ENGINE_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &cpu->kernel_gs_base;
	case MSR_TSC_AUX:
		return &cpu->tsc_aux;
	default:
		return NULL;
	}
}

static bool read_msr(struct soft_cpu *cpu, uint32_t index, uint64_t *value)
{
	const uint64_t *plain = plain_msr(cpu, index);
	bool ok;

	if (plain) {
		*value = *plain;
		return true;
	}
	if (index == MSR_TSC) {
		*value = host_tsc() + cpu->tsc_offset;
		return true;
	}
	soft_heavy_begin(cpu);
	ok = cpu->cb->msr_read(cpu->cb_ctx, index, value);
	soft_heavy_end(cpu);
	return ok;
}

/* Each of the eight entries must be a memory type that exists (SDM Vol. 3, table 12-11). */
static bool pat_valid(uint64_t value)
{
	for (unsigned i = 0; i < 64; i += 8) {
		uint8_t type = value >> i;

		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

static bool write_efer(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed;

	if (value & ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE))
		return false;
	value = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
	changed = value ^ cpu->efer;
	if ((changed & EFER_LME) && (cpu->cr0 & CR0_PG))
		return false;
	cpu->efer = value;
	if (changed & EFER_NXE)
		soft_tlb_flush(cpu, true);
	return true;
}

static bool write_valid(uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_PAT:
		return pat_valid(value);
	case MSR_TSC_AUX:
		return !(value >> 32);
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		return soft_canonical(value);
	default:
		return true;
	}
}

static bool write_msr(struct soft_cpu *cpu, uint32_t index, uint64_t value)
{
	uint64_t *plain = plain_msr(cpu, index);
	bool ok;

	if (index == MSR_EFER)
		return write_efer(cpu, value);
	if (plain) {
		if (!write_valid(index, value))
			return false;
		*plain = index == MSR_SFMASK ? (uint32_t)value : value;
		return true;
	}
	if (index == MSR_TSC) {
		cpu->tsc_offset = value - host_tsc();
		return true;
	}
	soft_heavy_begin(cpu);
	ok = cpu->cb->msr_write(cpu->cb_ctx, index, value);
	soft_heavy_end(cpu);
	return ok;
}

static void set_edx_eax(struct soft_cpu *cpu, uint64_t value)
{
	cpu->gpr[GPR_AX] = (uint32_t)value;
	cpu->gpr[GPR_DX] = value >> 32;
}

void soft_help_rdmsr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t value = 0;

	(void)insn;
	(void)ea;
	if (soft_cpl(cpu) != 0 || !read_msr(cpu, cpu->gpr[GPR_CX], &value))
		soft_raise(cpu, EXC_GP, 0);
	set_edx_eax(cpu, value);
}

void soft_help_wrmsr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t value = (uint32_t)cpu->gpr[GPR_AX] | cpu->gpr[GPR_DX] << 32;

	(void)ea;
	if (soft_cpl(cpu) != 0 || !write_msr(cpu, cpu->gpr[GPR_CX], value))
		soft_raise(cpu, EXC_GP, 0);
	cpu->rip = soft_next_rip(cpu, insn);
}

/* ---- the time stamp counter ---- */

static void check_tsd(struct soft_cpu *cpu)
{
	if ((cpu->cr4 & CR4_TSD) && soft_cpl(cpu) != 0)
		soft_raise(cpu, EXC_GP, 0);
}

void soft_help_rdtsc(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)insn;
	(void)ea;
	check_tsd(cpu);
	set_edx_eax(cpu, host_tsc() + cpu->tsc_offset);
}

void soft_help_rdtscp(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)insn;
	(void)ea;
	check_tsd(cpu);
	set_edx_eax(cpu, host_tsc() + cpu->tsc_offset);
	cpu->gpr[GPR_CX] = (uint32_t)cpu->tsc_aux;
}

void soft_help_rdpid(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	cpu->gpr[insn->rm & 15] = (uint32_t)cpu->tsc_aux;
}

/* No performance counter is offered. */
void soft_help_rdpmc(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)insn;
	(void)ea;
	soft_raise(cpu, EXC_GP, 0);
}
