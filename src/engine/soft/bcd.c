/* SPDX-License-Identifier: Apache-2.0 */
/* bcd.c - decimal arithmetic, BOUND and SALC: instructions that 64-bit mode dropped (SDM Vol. 2). */
#include "engine/soft/system.h"

static uint8_t al_of(const struct soft_cpu *cpu)
{
	return cpu->gpr[GPR_AX];
}
static uint8_t ah_of(const struct soft_cpu *cpu)
{
	return cpu->gpr[GPR_AX] >> 8;
}
static void set_ax(struct soft_cpu *cpu, uint8_t ah, uint8_t al)
{
	soft_set_reg(cpu, GPR_AX, 2, (uint32_t)ah << 8 | al);
}

/* SF, ZF and PF of a byte, with the given CF and AF; OF is 0, which is what CPUs leave where it is undefined. */
static void set_flags(struct soft_cpu *cpu, uint8_t result, bool cf, bool af)
{
	uint32_t flags = (cf ? FLAG_CF : 0) | (af ? FLAG_AF : 0);

	if (!result)
		flags |= FLAG_ZF;
	if (result & 0x80)
		flags |= FLAG_SF;
	if (!__builtin_parity(result))
		flags |= FLAG_PF;
	soft_set_arith(cpu, flags);
}

void soft_help_daa(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint32_t flags = soft_get_arith(cpu);
	uint8_t old = al_of(cpu), al = old;
	bool af = (old & 15) > 9 || (flags & FLAG_AF), cf = old > 0x99 || (flags & FLAG_CF);

	(void)insn;
	(void)ea;
	if (af)
		al += 6;
	if (cf)
		al += 0x60;
	set_ax(cpu, ah_of(cpu), al);
	set_flags(cpu, al, cf, af);
}

void soft_help_das(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint32_t flags = soft_get_arith(cpu);
	uint8_t old = al_of(cpu), al = old;
	bool af = (old & 15) > 9 || (flags & FLAG_AF), high = old > 0x99 || (flags & FLAG_CF);
	bool cf = high || (af && old < 6);

	(void)insn;
	(void)ea;
	if (af)
		al -= 6;
	if (high)
		al -= 0x60;
	set_ax(cpu, ah_of(cpu), al);
	set_flags(cpu, al, cf, af);
}

void soft_help_aaa(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	bool adjust = (al_of(cpu) & 15) > 9 || (soft_get_arith(cpu) & FLAG_AF);
	uint16_t ax = cpu->gpr[GPR_AX];

	(void)insn;
	(void)ea;
	if (adjust)
		ax += 0x106;
	set_ax(cpu, ax >> 8, ax & 15);
	set_flags(cpu, ax & 15, adjust, adjust);
}

void soft_help_aas(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	bool adjust = (al_of(cpu) & 15) > 9 || (soft_get_arith(cpu) & FLAG_AF);
	uint16_t ax = cpu->gpr[GPR_AX];

	(void)insn;
	(void)ea;
	if (adjust)
		ax -= 0x106;
	set_ax(cpu, ax >> 8, ax & 15);
	set_flags(cpu, ax & 15, adjust, adjust);
}

void soft_help_aam(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint8_t base = insn->imm, al = al_of(cpu);

	(void)ea;
	if (!base)
		soft_raise(cpu, EXC_DE, 0);
	set_ax(cpu, al / base, al % base);
	set_flags(cpu, al % base, false, false);
}

void soft_help_aad(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint8_t al = al_of(cpu) + ah_of(cpu) * (uint8_t)insn->imm;

	(void)ea;
	set_ax(cpu, 0, al);
	set_flags(cpu, al, false, false);
}

void soft_help_salc(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)insn;
	(void)ea;
	soft_set_reg(cpu, GPR_AX, 1, soft_get_arith(cpu) & FLAG_CF ? 0xff : 0);
}

void soft_help_bound(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	unsigned size = insn->opsize, shift = 64 - size * 8;
	int64_t index = (int64_t)(cpu->gpr[insn->reg & 15] << shift) >> shift, low, high;

	low = soft_load(cpu, soft_operand(cpu, insn, ea, 0, size, SOFT_READ), size) << shift;
	high = soft_load(cpu, soft_operand(cpu, insn, ea, size, size, SOFT_READ), size) << shift;
	if (index < low >> shift || index > high >> shift)
		soft_raise(cpu, EXC_BR, 0);
}
