/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - far jumps, calls and returns, call gates, and IRET (SDM Vol. 2; Vol. 3, 5.8). */
#include "engine/soft/system.h"

void soft_enter_code(struct soft_cpu *cpu, const struct soft_desc *d, unsigned cpl, uint64_t rip)
{
	soft_copy_seg(&cpu->seg[ENGINE_CS], &d->seg);
	cpu->seg[ENGINE_CS].selector = (d->selector & 0xfffc) | cpl;
	cpu->rip = rip;
	soft_update_mode(cpu);
}

void soft_check_rip(struct soft_cpu *cpu, const struct engine_segment *cs, uint64_t rip)
{
	if (soft_lma(cpu) && (cs->attr & ATTR_L) ? !soft_canonical(rip) : rip > cs->limit)
		soft_raise(cpu, EXC_GP, 0);
}

/* L and D together are reserved in long mode. */
static void check_l_and_d(struct soft_cpu *cpu, const struct soft_desc *d)
{
	if (soft_lma(cpu) && (d->seg.attr & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB))
		soft_raise(cpu, EXC_GP, d->selector & 0xfffc);
}

/* The code segment of a direct far JMP or CALL: the privilege stays. */
static void check_direct(struct soft_cpu *cpu, struct soft_desc *d)
{
	unsigned cpl = soft_cpl(cpu), dpl = soft_attr_dpl(d->seg.attr);
	uint32_t error = d->selector & 0xfffc;

	if (soft_is_conforming(d->seg.attr) ? dpl > cpl : (d->selector & 3u) > cpl || dpl != cpl)
		soft_raise(cpu, EXC_GP, error);
	if (!(d->seg.attr & ATTR_P))
		soft_raise(cpu, EXC_NP, error);
	check_l_and_d(cpu, d);
}

/* ---- call gates ---- */

struct call_gate {
	struct soft_desc code;
	uint64_t rip;
	unsigned size; /* of what is pushed: 2, 4, 8 */
	unsigned params;
	unsigned cpl; /* of the target */
};

static void read_gate_code(struct soft_cpu *cpu, uint16_t selector, struct call_gate *gate, bool call)
{
	unsigned cpl = soft_cpl(cpu), dpl;
	uint32_t attr, error = selector & 0xfffc;

	soft_desc_read(cpu, selector, EXC_GP, &gate->code);
	attr = gate->code.seg.attr;
	dpl = soft_attr_dpl(attr);
	if (!soft_is_code(attr) || dpl > cpl || (!call && !soft_is_conforming(attr) && dpl != cpl))
		soft_raise(cpu, EXC_GP, error);
	if (soft_lma(cpu) && (attr & (ATTR_L | ATTR_DB)) != ATTR_L)
		soft_raise(cpu, EXC_GP, error);
	if (!(attr & ATTR_P))
		soft_raise(cpu, EXC_NP, error);
	gate->cpl = soft_is_conforming(attr) ? cpl : dpl;
	soft_desc_access(cpu, &gate->code);
}

/* Reads the call gate *d, and what it leads to. */
static void read_gate(struct soft_cpu *cpu, const struct soft_desc *d, struct call_gate *gate, bool call)
{
	unsigned dpl = soft_attr_dpl(d->seg.attr);
	uint32_t error = d->selector & 0xfffc;

	if (dpl < soft_cpl(cpu) || dpl < (d->selector & 3u))
		soft_raise(cpu, EXC_GP, error);
	if (!(d->seg.attr & ATTR_P))
		soft_raise(cpu, EXC_NP, error);
	gate->size = soft_lma(cpu) ? 8 : d->seg.attr & 8 ? 4 : 2;
	gate->rip = d->lo & 0xffff;
	if (gate->size >= 4)
		gate->rip |= d->lo >> 32 & 0xffff0000;
	if (gate->size == 8)
		gate->rip |= d->hi << 32;
	gate->params = gate->size == 8 ? 0 : d->lo >> 32 & 31;
	read_gate_code(cpu, d->lo >> 16, gate, call);
	soft_check_rip(cpu, &gate->code.seg, gate->rip);
}

/* A call through a gate to an inner privilege: onto its stack, parameters copied. */
static void call_inner(struct soft_cpu *cpu, struct call_gate *gate, uint64_t next)
{
	bool wide = gate->size == 8;
	unsigned size = gate->size;
	uint16_t selector = 0;
	uint64_t sp = soft_tss_stack(cpu, gate->cpl, &selector), params[31];
	struct soft_stack outer, st;
	struct soft_desc ss;

	if (!wide) {
		soft_check_ss(cpu, selector, gate->cpl, EXC_TS, &ss);
		soft_desc_access(cpu, &ss);
	}
	soft_stack_current(cpu, &outer);
	for (unsigned i = 0; i < gate->params; i++)
		params[i] = soft_pop(cpu, &outer, size);
	soft_stack_inner(cpu, &st, wide ? NULL : &ss.seg, sp, gate->cpl, wide);
	soft_push(cpu, &st, size, cpu->seg[ENGINE_SS].selector);
	soft_push(cpu, &st, size, cpu->gpr[GPR_SP]);
	for (unsigned i = gate->params; i-- > 0;)
		soft_push(cpu, &st, size, params[i]);
	soft_push(cpu, &st, size, cpu->seg[ENGINE_CS].selector);
	soft_push(cpu, &st, size, next);

	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	if (wide)
		soft_null_seg(&cpu->seg[ENGINE_SS], gate->cpl, gate->cpl);
	else
		soft_copy_seg(&cpu->seg[ENGINE_SS], &ss.seg);
	soft_enter_code(cpu, &gate->code, gate->cpl, gate->rip);
}

static void call_same(struct soft_cpu *cpu, const struct soft_desc *code, unsigned size, uint64_t rip, uint64_t next)
{
	struct soft_stack st;

	soft_stack_current(cpu, &st);
	soft_push(cpu, &st, size, cpu->seg[ENGINE_CS].selector);
	soft_push(cpu, &st, size, next);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	soft_enter_code(cpu, code, soft_cpl(cpu), rip);
}

/* A far JMP or CALL to a system descriptor: a gate or a task. */
static void far_system(struct soft_cpu *cpu, struct soft_desc *d, bool call, uint64_t next)
{
	unsigned type = d->seg.attr & ATTR_TYPE, dpl = soft_attr_dpl(d->seg.attr);
	uint32_t error = d->selector & 0xfffc;
	struct call_gate gate;
	struct soft_desc tss;

	if (type == DESC_CALL32 || (type == DESC_CALL16 && !soft_lma(cpu))) {
		read_gate(cpu, d, &gate, call);
		if (!call)
			soft_enter_code(cpu, &gate.code, soft_cpl(cpu), gate.rip);
		else if (gate.cpl < soft_cpl(cpu))
			call_inner(cpu, &gate, next);
		else
			call_same(cpu, &gate.code, gate.size, gate.rip, next);
		return;
	}
	if (soft_lma(cpu) || (type != DESC_TASK && type != DESC_TSS16 && type != DESC_TSS32) || dpl < soft_cpl(cpu) ||
	    dpl < (d->selector & 3u))
		soft_raise(cpu, EXC_GP, error);
	if (type == DESC_TASK) {
		if (!(d->seg.attr & ATTR_P))
			soft_raise(cpu, EXC_NP, error);
		soft_desc_read(cpu, d->lo >> 16, EXC_GP, &tss);
		d = &tss;
	}
	soft_task_switch(cpu, d, call ? SOFT_TASK_CALL : SOFT_TASK_JMP, next, NULL);
}

/* ---- far JMP and CALL ---- */

static void far_real(struct soft_cpu *cpu, uint16_t selector, uint64_t rip, bool call, unsigned size, uint64_t next)
{
	struct soft_stack st;

	soft_check_rip(cpu, &cpu->seg[ENGINE_CS], rip);
	if (call) {
		soft_stack_current(cpu, &st);
		soft_push(cpu, &st, size, cpu->seg[ENGINE_CS].selector);
		soft_push(cpu, &st, size, next);
		cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	}
	soft_load_seg_real(cpu, ENGINE_CS, selector);
	cpu->rip = rip;
	soft_update_mode(cpu);
}

static void far_transfer(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, bool call)
{
	unsigned size = soft_far_size(insn);
	uint64_t next = soft_next_rip(cpu, insn), rip;
	struct soft_desc d;
	uint16_t selector;

	if (insn->mem) {
		rip = soft_load(cpu, soft_operand(cpu, insn, ea, 0, size, SOFT_READ), size);
		selector = soft_load(cpu, soft_operand(cpu, insn, ea, size, 2, SOFT_READ), 2);
	} else {
		rip = soft_trunc(insn->imm, size);
		selector = insn->imm2;
	}
	if (!soft_protected(cpu)) {
		far_real(cpu, selector, rip, call, size, next);
		return;
	}
	soft_desc_read(cpu, selector, EXC_GP, &d);
	if (!(d.seg.attr & ATTR_S)) {
		far_system(cpu, &d, call, next);
		return;
	}
	if (!soft_is_code(d.seg.attr))
		soft_raise(cpu, EXC_GP, selector & 0xfffc);
	check_direct(cpu, &d);
	soft_check_rip(cpu, &d.seg, rip);
	soft_desc_access(cpu, &d);
	if (call)
		call_same(cpu, &d, size, rip, next);
	else
		soft_enter_code(cpu, &d, soft_cpl(cpu), rip);
}

void soft_help_jmpf(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	far_transfer(cpu, insn, ea, false);
}

void soft_help_callf(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	far_transfer(cpu, insn, ea, true);
}

/* ---- far returns ---- */

/* Where a far RET or IRET goes, popped and checked. */
struct far_return {
	struct soft_desc code, ss;
	unsigned cpl;
	bool null_ss; /* ss.selector is null, and may be */
};

static void check_return_code(struct soft_cpu *cpu, uint16_t selector, struct far_return *to)
{
	uint32_t attr, error = selector & 0xfffc;

	to->cpl = selector & 3;
	soft_desc_read(cpu, selector, EXC_GP, &to->code);
	attr = to->code.seg.attr;
	if (!soft_is_code(attr) || to->cpl < soft_cpl(cpu) ||
	    (soft_is_conforming(attr) ? soft_attr_dpl(attr) > to->cpl : soft_attr_dpl(attr) != to->cpl))
		soft_raise(cpu, EXC_GP, error);
	check_l_and_d(cpu, &to->code);
	if (!(attr & ATTR_P))
		soft_raise(cpu, EXC_NP, error);
}

static void check_return_ss(struct soft_cpu *cpu, uint16_t selector, struct far_return *to)
{
	bool to64 = soft_lma(cpu) && (to->code.seg.attr & ATTR_L);

	to->ss.selector = selector;
	to->null_ss = !(selector & 0xfffc);
	if (!to->null_ss) {
		soft_check_ss(cpu, selector, to->cpl, EXC_GP, &to->ss);
		soft_desc_access(cpu, &to->ss);
	} else if (!to64 || to->cpl == 3 || (selector & 3) != to->cpl) {
		soft_raise(cpu, EXC_GP, 0);
	}
}

/* Loads SS and the stack pointer of the program that is returned to. CS comes after. */
static void return_stack(struct soft_cpu *cpu, const struct far_return *to, uint64_t rsp)
{
	bool to64 = soft_lma(cpu) && (to->code.seg.attr & ATTR_L);

	if (to->null_ss)
		soft_null_seg(&cpu->seg[ENGINE_SS], to->ss.selector, to->cpl);
	else
		soft_copy_seg(&cpu->seg[ENGINE_SS], &to->ss.seg);
	/* To a 16-bit stack only SP is written: what was above it leaks, on every CPU. */
	if (to64)
		cpu->gpr[GPR_SP] = rsp;
	else
		soft_set_reg(cpu, GPR_SP, cpu->seg[ENGINE_SS].attr & ATTR_DB ? 4 : 2, rsp);
}

static void retf_real(struct soft_cpu *cpu, unsigned size, unsigned release)
{
	struct soft_stack st;
	uint64_t rip;
	uint16_t selector;

	soft_stack_current(cpu, &st);
	rip = soft_pop(cpu, &st, size);
	selector = soft_pop(cpu, &st, size);
	soft_check_rip(cpu, &cpu->seg[ENGINE_CS], rip);
	st.sp = (st.sp + release) & st.mask;
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	soft_load_seg_real(cpu, ENGINE_CS, selector);
	cpu->rip = rip;
	soft_update_mode(cpu);
}

void soft_help_retf(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	unsigned size = insn->opsize, release = insn->imm_size ? insn->imm & 0xffff : 0;
	struct far_return to;
	struct soft_stack st;
	uint64_t rip, rsp = 0;
	bool outer;

	(void)ea;
	if (!soft_protected(cpu)) {
		retf_real(cpu, size, release);
		return;
	}
	soft_stack_current(cpu, &st);
	rip = soft_pop(cpu, &st, size);
	check_return_code(cpu, soft_pop(cpu, &st, size), &to);
	st.sp = (st.sp + release) & st.mask;
	outer = to.cpl > soft_cpl(cpu);
	if (outer) {
		rsp = soft_pop(cpu, &st, size) + release;
		check_return_ss(cpu, soft_pop(cpu, &st, size), &to);
	}
	soft_check_rip(cpu, &to.code.seg, rip);
	soft_desc_access(cpu, &to.code);

	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	if (outer)
		return_stack(cpu, &to, rsp);
	soft_enter_code(cpu, &to.code, to.cpl, rip);
	if (outer) {
		soft_drop_segs(cpu, to.cpl);
		soft_update_mode(cpu);
	}
}

/* ---- IRET ---- */

/* Flags that IRET loads: as POPF, and at CPL 0 the virtual interrupt flags. */
static uint64_t iret_mask(const struct soft_cpu *cpu, unsigned size)
{
	uint64_t mask = soft_rflags_mask(cpu, size);

	return size > 2 && soft_cpl(cpu) == 0 ? mask | RF_VIF | RF_VIP : mask;
}

static void iret_done(struct soft_cpu *cpu)
{
	cpu->nmi_masked = false;
	soft_update_mode(cpu);
	soft_irq_enabled(cpu);
}

/* Real mode, and v8086 that may IRET. */
static void iret_real(struct soft_cpu *cpu, unsigned size)
{
	uint64_t mask = soft_rflags_mask(cpu, size), rip, image;
	struct soft_stack st;
	uint16_t selector;

	if (soft_v8086(cpu) && soft_iopl(cpu) < 3 && (!(cpu->cr4 & CR4_VME) || size != 2))
		soft_raise(cpu, EXC_GP, 0);
	soft_stack_current(cpu, &st);
	rip = soft_pop(cpu, &st, size);
	selector = soft_pop(cpu, &st, size);
	image = soft_pop(cpu, &st, size);
	soft_check_rip(cpu, &cpu->seg[ENGINE_CS], rip);
	if (soft_v8086(cpu) && soft_iopl(cpu) < 3) {
		if ((image & RF_TF) || ((image & RF_IF) && (cpu->sysflags & RF_VIP)))
			soft_raise(cpu, EXC_GP, 0);
		image = (image & 0xffff) | (image & RF_IF ? RF_VIF : 0);
		mask = (mask & ~(uint64_t)RF_IF) | RF_VIF;
	}
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	soft_load_seg_real(cpu, ENGINE_CS, selector);
	cpu->rip = rip;
	soft_load_rflags(cpu, image, mask);
	iret_done(cpu);
}

/* From protected mode's CPL 0 into a v8086 task: six more words on the stack. */
static void iret_to_v8086(struct soft_cpu *cpu, struct soft_stack *st, uint16_t cs, uint32_t rip, uint32_t image)
{
	static const uint8_t order[] = { ENGINE_SS, ENGINE_ES, ENGINE_DS, ENGINE_FS, ENGINE_GS };
	uint16_t selector[5];
	uint32_t rsp = soft_pop(cpu, st, 4);

	for (unsigned i = 0; i < 5; i++)
		selector[i] = soft_pop(cpu, st, 4);
	if (rip > 0xffff)
		soft_raise(cpu, EXC_GP, 0);
	soft_set_rflags(cpu, image);
	cpu->resume = image & RF_RF;
	for (unsigned i = 0; i < 5; i++)
		soft_load_seg_real(cpu, order[i], selector[i]);
	soft_load_seg_real(cpu, ENGINE_CS, cs);
	cpu->gpr[GPR_SP] = rsp;
	cpu->rip = rip;
	iret_done(cpu);
}

static void iret_task(struct soft_cpu *cpu, const struct insn *insn)
{
	const struct engine_segment *tr = &cpu->seg[ENGINE_TR];
	uint16_t link = soft_load_system(cpu, tr->base, 2);
	struct soft_desc d;

	if ((link & 4) || !soft_desc_try(cpu, link, &d))
		soft_raise(cpu, EXC_TS, link & 0xfffc);
	cpu->nmi_masked = false;
	soft_task_switch(cpu, &d, SOFT_TASK_IRET, soft_next_rip(cpu, insn), NULL);
}

static void iret_protected(struct soft_cpu *cpu, unsigned size)
{
	uint64_t mask = iret_mask(cpu, size), rip, image, rsp = 0;
	struct far_return to;
	struct soft_stack st;
	uint16_t selector;
	bool outer, stack;

	soft_stack_current(cpu, &st);
	rip = soft_pop(cpu, &st, size);
	selector = soft_pop(cpu, &st, size);
	image = soft_pop(cpu, &st, size);
	if (!soft_lma(cpu) && size == 4 && (image & RF_VM) && soft_cpl(cpu) == 0) {
		iret_to_v8086(cpu, &st, selector, rip, image);
		return;
	}
	check_return_code(cpu, selector, &to);
	outer = to.cpl > soft_cpl(cpu);
	stack = outer || soft_code64(cpu);
	if (stack) {
		rsp = soft_pop(cpu, &st, size);
		check_return_ss(cpu, soft_pop(cpu, &st, size), &to);
	}
	soft_check_rip(cpu, &to.code.seg, rip);
	soft_desc_access(cpu, &to.code);

	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	if (stack)
		return_stack(cpu, &to, rsp);
	soft_enter_code(cpu, &to.code, to.cpl, rip);
	soft_load_rflags(cpu, image, mask);
	cpu->resume = size > 2 && (image & RF_RF);
	if (outer)
		soft_drop_segs(cpu, to.cpl);
	iret_done(cpu);
}

void soft_help_iret(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	if (!soft_protected(cpu))
		iret_real(cpu, insn->opsize);
	else if (!(cpu->sysflags & RF_NT))
		iret_protected(cpu, insn->opsize);
	else if (soft_lma(cpu))
		soft_raise(cpu, EXC_GP, 0);
	else
		iret_task(cpu, insn);
}
