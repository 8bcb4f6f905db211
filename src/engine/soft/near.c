/* SPDX-License-Identifier: Apache-2.0 */
/*
 * near.c - near transfers, pushes and pops where the translator does not do them itself: 16-bit code and stacks,
 * segments with a base or a limit.
 */
#include "engine/soft/system.h"

/* ---- near transfers ---- */

/* 64-bit code has 64-bit targets, or with 66 those of 16 bits, as CPUs of AMD do it (see insn.h). */
static uint64_t near_mask(const struct insn *insn)
{
	return insn->opsize == 8 ? ~0ull : insn->opsize == 2 ? 0xffff : UINT32_MAX;
}

static uint64_t relative_target(const struct soft_cpu *cpu, const struct insn *insn)
{
	return (cpu->rip + insn->len + insn->imm) & near_mask(insn);
}

static void jump(struct soft_cpu *cpu, uint64_t target)
{
	soft_check_rip(cpu, &cpu->seg[ENGINE_CS], target);
	cpu->rip = target;
}

static void call(struct soft_cpu *cpu, const struct insn *insn, uint64_t target)
{
	struct soft_stack st;

	soft_stack_current(cpu, &st);
	soft_check_rip(cpu, &cpu->seg[ENGINE_CS], target);
	soft_push(cpu, &st, insn->opsize, soft_next_rip(cpu, insn));
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	cpu->rip = target;
}

static void ret(struct soft_cpu *cpu, const struct insn *insn)
{
	struct soft_stack st;
	uint64_t target;

	soft_stack_current(cpu, &st);
	target = soft_pop(cpu, &st, insn->opsize);
	jump(cpu, target);
	if (insn->imm_size)
		st.sp = (st.sp + (insn->imm & 0xffff)) & st.mask;
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

static bool condition(const struct soft_cpu *cpu, unsigned cond)
{
	uint32_t f = soft_get_arith(cpu);
	bool less = !(f & FLAG_SF) != !(f & FLAG_OF), taken;

	switch (cond >> 1) {
	case 0:
		taken = f & FLAG_OF;
		break;
	case 1:
		taken = f & FLAG_CF;
		break;
	case 2:
		taken = f & FLAG_ZF;
		break;
	case 3:
		taken = f & (FLAG_CF | FLAG_ZF);
		break;
	case 4:
		taken = f & FLAG_SF;
		break;
	case 5:
		taken = f & FLAG_PF;
		break;
	case 6:
		taken = less;
		break;
	default:
		taken = less || (f & FLAG_ZF);
		break;
	}
	return taken != (cond & 1);
}

static void jump_if(struct soft_cpu *cpu, const struct insn *insn, bool taken)
{
	if (taken)
		jump(cpu, relative_target(cpu, insn));
	else
		cpu->rip = soft_next_rip(cpu, insn);
}

/* LOOPNE (E0), LOOPE (E1), LOOP (E2). */
static void loop(struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t count = soft_trunc(cpu->gpr[GPR_CX] - 1, insn->addrsize);
	bool zf = soft_get_arith(cpu) & FLAG_ZF;

	jump_if(cpu, insn, count != 0 && (insn->opcode == 0xe2 || zf == (insn->opcode == 0xe1)));
	soft_set_reg(cpu, GPR_CX, insn->addrsize, count);
}

void soft_help_near(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	switch (insn->row->op) {
	case OP_JCC:
		jump_if(cpu, insn, condition(cpu, insn->cond));
		break;
	case OP_JMP:
		jump(cpu, relative_target(cpu, insn));
		break;
	case OP_JMP_IND:
		jump(cpu, soft_read_rm(cpu, insn, ea, insn->opsize));
		break;
	case OP_CALL:
		call(cpu, insn, relative_target(cpu, insn));
		break;
	case OP_CALL_IND:
		call(cpu, insn, soft_read_rm(cpu, insn, ea, insn->opsize));
		break;
	case OP_RET:
		ret(cpu, insn);
		break;
	case OP_LOOP:
		loop(cpu, insn);
		break;
	case OP_JCXZ:
		jump_if(cpu, insn, soft_trunc(cpu->gpr[GPR_CX], insn->addrsize) == 0);
		break;
	default:
		soft_raise(cpu, EXC_UD, 0);
	}
}

/* ---- PUSH, POP ---- */

void soft_help_push(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_stack st;
	uint64_t value;

	if (insn->has_modrm)
		value = soft_read_rm(cpu, insn, ea, insn->opsize);
	else if (insn->imm_size)
		value = insn->imm;
	else
		value = cpu->gpr[insn->reg & 15];
	soft_stack_current(cpu, &st);
	soft_push(cpu, &st, insn->opsize, soft_trunc(value, insn->opsize));
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

void soft_help_pop(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_stack st;
	uint64_t value, rsp;

	soft_stack_current(cpu, &st);
	value = soft_pop(cpu, &st, insn->opsize);
	rsp = soft_stack_rsp(cpu, &st);
	if (!insn->mem) {
		cpu->gpr[GPR_SP] = rsp;
		soft_set_reg(cpu, insn->has_modrm ? insn->rm : insn->reg, insn->opsize, value);
		return;
	}
	/* An address that is relative to the stack pointer counts from where the pop leaves it. */
	if (insn->base == GPR_SP)
		ea += insn->opsize;
	soft_write_rm(cpu, insn, ea, insn->opsize, value);
	cpu->gpr[GPR_SP] = rsp;
}

void soft_help_pusha(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_stack st;

	(void)ea;
	soft_stack_current(cpu, &st);
	for (unsigned i = 0; i < 8; i++)
		soft_push(cpu, &st, insn->opsize, soft_trunc(cpu->gpr[i], insn->opsize));
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

void soft_help_popa(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_stack st;
	uint64_t value[8];

	(void)ea;
	soft_stack_current(cpu, &st);
	for (unsigned i = 8; i-- > 0;)
		value[i] = soft_pop(cpu, &st, insn->opsize);
	for (unsigned i = 0; i < 8; i++)
		if (i != GPR_SP)
			soft_set_reg(cpu, i, insn->opsize, value[i]);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

/* ---- ENTER, LEAVE ---- */

void soft_help_enter(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	unsigned size = insn->opsize, level = insn->imm2 & 31;
	struct soft_stack st, frames;
	uint64_t frame;

	(void)ea;
	soft_stack_current(cpu, &st);
	soft_stack_current(cpu, &frames);
	soft_push(cpu, &st, size, soft_trunc(cpu->gpr[GPR_BP], size));
	frame = soft_stack_rsp(cpu, &st); /* on a 16-bit stack with the upper half of ESP, as CPUs do it */
	frames.sp = cpu->gpr[GPR_BP] & st.mask;
	for (unsigned i = 1; i < level; i++) {
		uint64_t at = (frames.sp - size) & st.mask;

		frames.sp = at;
		soft_push(cpu, &st, size, soft_pop(cpu, &frames, size));
		frames.sp = at;
	}
	if (level)
		soft_push(cpu, &st, size, frame);
	st.sp = (st.sp - (insn->imm & 0xffff)) & st.mask;
	/* The new top of the stack must be writable, or the instruction faults now. */
	if (st.flat64)
		soft_probe_write(cpu, st.sp, size, false);
	else
		soft_probe_write(cpu, soft_linear(cpu, ENGINE_SS, st.sp, size, SOFT_WRITE), size, false);
	soft_set_reg(cpu, GPR_BP, size, frame);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

void soft_help_leave(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_stack st;
	uint64_t bp;

	(void)ea;
	soft_stack_current(cpu, &st);
	st.sp = cpu->gpr[GPR_BP] & st.mask;
	bp = soft_pop(cpu, &st, insn->opsize);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	soft_set_reg(cpu, GPR_BP, insn->opsize, bp);
}
