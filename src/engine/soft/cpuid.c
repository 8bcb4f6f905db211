/* SPDX-License-Identifier: Apache-2.0 */
/* cpuid.c - CPUID as the guest's own state changes it, and XCR0, which CPUID says the bounds of. */
#include "engine/soft/run.h"
#include "engine/soft/system.h"
#include "engine/soft/vm.h"

enum { XCR0_X87 = 1, XCR0_SSE = 2, XCR0_AVX = 4, XCR0_AVX512 = 0xe0 };
enum {
	LEAF_XSAVE = 0xd,
	XSAVE_HEADER_END = 512 + 64,
	XGETBV1 = 1 << 2,
	COMPACTS = 1 << 1 | 1 << 3 /* XSAVEC, XSAVES */,
	ALIGN64 = 1 << 1
};

static void machine_cpuid(struct soft_cpu *cpu, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	soft_heavy_begin(cpu);
	cpu->cb->cpuid(cpu->cb_ctx, leaf, subleaf, out);
	soft_heavy_end(cpu);
	if (cpu->vm->no_avx512)
		soft_cpuid_hide_avx512(leaf, subleaf, out);
}

void soft_cpuid_hide_avx512(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *r)
{
	enum { AVX_SIZE = 832 };

	if (leaf == 7 && subleaf == 0) {
		r->ebx &= ~SOFT_AVX512_7_EBX;
		r->ecx &= ~SOFT_AVX512_7_ECX;
		r->edx &= ~SOFT_AVX512_7_EDX;
	} else if (leaf == 7 && subleaf == 1) {
		r->eax &= ~SOFT_AVX512_7_1_EAX;
	} else if (leaf == LEAF_XSAVE && subleaf == 0) {
		r->eax &= ~(uint32_t)XCR0_AVX512;
		r->ecx = AVX_SIZE;
	} else if (leaf == LEAF_XSAVE && subleaf >= 5 && subleaf <= 7) {
		r->eax = r->ebx = r->ecx = r->edx = 0;
	}
}

uint32_t soft_xsave_how(const struct soft_cpu *cpu, uint32_t how)
{
	enum { AVX_SIZE = 256 };
	uint64_t asked = cpu->gpr[GPR_AX] & cpu->xcr0 & cpu->xsave_mask;
	uint32_t size = XSAVE_HEADER_END, compact = XSAVE_HEADER_END;

	if (asked & XCR0_AVX) {
		size += AVX_SIZE;
		compact += AVX_SIZE;
	}
	for (unsigned i = 5; i < 8; i++) {
		if (!(asked >> i & 1))
			continue;
		uint32_t end = (uint32_t)cpu->vm->xsave_part[i].offset + cpu->vm->xsave_part[i].size;
		size = end > size ? end : size;
		compact = ((compact + 63) & ~63u) + cpu->vm->xsave_part[i].size;
	}
	how &= ~(uint32_t)(SOFT_HOW_SIZE | SOFT_HOW_XSAVE);
	return (how & ~(uint32_t)SOFT_HOW_COMPACT) | (how & SOFT_HOW_COMPACT ? compact : size);
}

/* The size of an XSAVE area for the components of `xcr0`. */
static uint32_t xsave_size(struct soft_cpu *cpu, uint64_t xcr0, bool compacted)
{
	uint32_t size = XSAVE_HEADER_END, end;
	struct engine_cpuid c;

	for (unsigned i = 2; i < 63; i++) {
		if (!(xcr0 >> i & 1))
			continue;
		machine_cpuid(cpu, LEAF_XSAVE, i, &c);
		if (compacted && (c.ecx & ALIGN64))
			size = (size + 63) & ~63u;
		end = compacted ? size + c.eax : c.ebx + c.eax;
		if (end > size)
			size = end;
	}
	return size;
}

void soft_help_cpuid(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	enum { LEAF_FEATURES = 1, OSXSAVE = 1 << 27 };
	uint32_t leaf = cpu->gpr[GPR_AX], subleaf = cpu->gpr[GPR_CX];
	struct engine_cpuid c;

	(void)insn;
	(void)ea;
	machine_cpuid(cpu, leaf, subleaf, &c);
	if (leaf == LEAF_FEATURES) {
		c.ecx &= ~(uint32_t)OSXSAVE;
		if (cpu->cr4 & CR4_OSXSAVE)
			c.ecx |= OSXSAVE;
	}
	/* What does not compact has no size for it. */
	if (leaf == LEAF_XSAVE && (subleaf ? subleaf == 1 && c.eax & COMPACTS : c.eax))
		c.ebx = xsave_size(cpu, cpu->xcr0, subleaf == 1);
	cpu->gpr[GPR_AX] = c.eax;
	cpu->gpr[GPR_BX] = c.ebx;
	cpu->gpr[GPR_CX] = c.ecx;
	cpu->gpr[GPR_DX] = c.edx;
}

bool soft_cpuid_has_invpcid(struct soft_cpu *cpu)
{
	struct engine_cpuid c;

	machine_cpuid(cpu, 7, 0, &c);
	return c.ebx >> 10 & 1;
}

/* ---- XCR0 ---- */

static void check_osxsave(struct soft_cpu *cpu)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		soft_raise(cpu, EXC_UD, 0);
}

static bool xcr0_valid(struct soft_cpu *cpu, uint64_t value)
{
	struct engine_cpuid c;
	uint64_t offered;

	machine_cpuid(cpu, LEAF_XSAVE, 0, &c);
	offered = ((uint64_t)c.edx << 32 | c.eax) & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
	if ((value & ~offered) || !(value & XCR0_X87))
		return false;
	if ((value & XCR0_AVX) && !(value & XCR0_SSE))
		return false;
	return !(value & XCR0_AVX512) || ((value & XCR0_AVX512) == XCR0_AVX512 && (value & XCR0_AVX));
}

void soft_help_xsetbv(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t value = (uint32_t)cpu->gpr[GPR_AX] | cpu->gpr[GPR_DX] << 32;

	(void)ea;
	check_osxsave(cpu);
	if (soft_cpl(cpu) != 0 || (uint32_t)cpu->gpr[GPR_CX] != 0 || !xcr0_valid(cpu, value))
		soft_raise(cpu, EXC_GP, 0);
	cpu->xcr0 = value;
	soft_vectors_grow(cpu);
	cpu->rip = soft_next_rip(cpu, insn);
	soft_update_mode(cpu);
}

/* Which components are in use: the guest's are the host's own while it runs. */
static uint64_t xinuse(struct soft_cpu *cpu)
{
	struct engine_cpuid c;
	uint32_t lo, hi;

	machine_cpuid(cpu, LEAF_XSAVE, 1, &c);
	if (!(c.eax & XGETBV1))
		soft_raise(cpu, EXC_GP, 0);
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1));
	return ((uint64_t)hi << 32 | lo) & cpu->xcr0;
}

void soft_help_xgetbv(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint32_t index = cpu->gpr[GPR_CX];
	uint64_t value;

	(void)insn;
	(void)ea;
	check_osxsave(cpu);
	if (index > 1)
		soft_raise(cpu, EXC_GP, 0);
	value = index ? xinuse(cpu) : cpu->xcr0;
	cpu->gpr[GPR_AX] = (uint32_t)value;
	cpu->gpr[GPR_DX] = value >> 32;
}
