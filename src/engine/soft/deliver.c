/* SPDX-License-Identifier: Apache-2.0 */
/*
 * deliver.c - an event's way through the IDT into its handler: SDM Vol. 3, 6.12 (protected mode), 6.14 (long mode), 21.3
 * (v8086), and the interrupt vector table of real mode (21.1.4).
 */
#include "engine/soft/system.h"

/* Flags that are clear in every handler; IF too behind an interrupt gate. */
#define HANDLER_CLEARS (RF_TF | RF_NT | RF_RF | RF_VM)

static uint32_t idt_error(const struct soft_event *ev)
{
	return ev->vector * 8 + 2;
}

/* The checks of a gate that all kinds share. `attr` is bits 40 to 47 of the gate. */
static void check_gate(struct soft_cpu *cpu, const struct soft_event *ev, uint8_t attr)
{
	if (ev->soft && soft_attr_dpl(attr) < soft_cpl(cpu))
		soft_raise(cpu, EXC_GP, idt_error(ev));
	if (!(attr & ATTR_P))
		soft_raise(cpu, EXC_NP, idt_error(ev));
}

/* Reads and checks the code segment that a gate names. Returns the handler's CPL. */
static unsigned read_target(struct soft_cpu *cpu, uint16_t selector, struct soft_desc *cs)
{
	unsigned cpl = soft_cpl(cpu);
	uint32_t attr, error = selector & 0xfffc;

	soft_desc_read(cpu, selector, EXC_GP, cs);
	attr = cs->seg.attr;
	if (!soft_is_code(attr) || soft_attr_dpl(attr) > cpl)
		soft_raise(cpu, EXC_GP, error);
	if (!(attr & ATTR_P))
		soft_raise(cpu, EXC_NP, error);
	if (soft_lma(cpu) && (attr & (ATTR_L | ATTR_DB)) != ATTR_L)
		soft_raise(cpu, EXC_GP, error);
	if (!soft_is_conforming(attr))
		cpl = soft_attr_dpl(attr);
	if (soft_v8086(cpu) && cpl != 0)
		soft_raise(cpu, EXC_GP, error);
	soft_desc_access(cpu, cs);
	return cpl;
}

/* What an event does to RFLAGS; the mode is brought up to date by the caller, last. */
static void enter_handler_flags(struct soft_cpu *cpu, bool interrupt_gate)
{
	cpu->sysflags &= ~(uint32_t)(HANDLER_CLEARS | (interrupt_gate ? RF_IF : 0));
}

/* ---- long mode ---- */

/* The stack for the handler: the gate's IST, the TSS's for an inner privilege, or the current one. */
static uint64_t long_stack(struct soft_cpu *cpu, unsigned ist, unsigned cpl)
{
	const struct engine_segment *tr = &cpu->seg[ENGINE_TR];
	uint32_t offset = 0x24 + 8 * (ist - 1);

	if (!ist)
		return cpl < soft_cpl(cpu) ? soft_tss_stack(cpu, cpl, NULL) : cpu->gpr[GPR_SP];
	if ((tr->attr & ATTR_NULL) || offset + 7 > tr->limit)
		soft_raise(cpu, EXC_TS, tr->selector & 0xfffc);
	return soft_load_system(cpu, tr->base + offset, 8);
}

static void deliver_long(struct soft_cpu *cpu, const struct soft_event *ev)
{
	uint32_t slot = ev->vector * 16;
	uint64_t lo, hi, rip;
	struct soft_desc cs;
	struct soft_stack st;
	unsigned type, cpl;

	if (slot + 15u > cpu->idtr.limit)
		soft_raise(cpu, EXC_GP, idt_error(ev));
	lo = soft_load_system(cpu, cpu->idtr.base + slot, 8);
	hi = soft_load_system(cpu, cpu->idtr.base + slot + 8, 8);
	type = lo >> 40 & (ATTR_S | ATTR_TYPE);
	if (type != DESC_INT32 && type != DESC_TRAP32)
		soft_raise(cpu, EXC_GP, idt_error(ev));
	check_gate(cpu, ev, lo >> 40);
	cpl = read_target(cpu, lo >> 16, &cs);
	rip = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | hi << 32;

	soft_stack_inner(cpu, &st, NULL, long_stack(cpu, lo >> 32 & 7, cpl) & ~15ull, cpl, true);
	soft_push(cpu, &st, 8, cpu->seg[ENGINE_SS].selector);
	soft_push(cpu, &st, 8, cpu->gpr[GPR_SP]);
	soft_push(cpu, &st, 8, ev->rflags);
	soft_push(cpu, &st, 8, cpu->seg[ENGINE_CS].selector);
	soft_push(cpu, &st, 8, ev->rip);
	if (ev->has_error)
		soft_push(cpu, &st, 8, ev->error);
	if (!soft_canonical(rip))
		soft_raise(cpu, EXC_GP, 0);

	if (cpl != soft_cpl(cpu))
		soft_null_seg(&cpu->seg[ENGINE_SS], cpl, cpl);
	cpu->gpr[GPR_SP] = st.sp;
	enter_handler_flags(cpu, type == DESC_INT32);
	soft_enter_code(cpu, &cs, cpl, rip);
}

/* ---- protected mode ---- */

/* Opens the stack of privilege `cpl`, its segment checked, and saves there what an inner handler must restore. */
static void push_outer(struct soft_cpu *cpu, struct soft_stack *st, struct soft_desc *ss, unsigned cpl, unsigned size)
{
	static const uint8_t order[] = { ENGINE_GS, ENGINE_FS, ENGINE_DS, ENGINE_ES };
	uint16_t selector = 0;
	uint64_t sp = soft_tss_stack(cpu, cpl, &selector);

	soft_check_ss(cpu, selector, cpl, EXC_TS, ss);
	soft_desc_access(cpu, ss);
	soft_stack_inner(cpu, st, &ss->seg, sp, cpl, false);
	if (soft_v8086(cpu))
		for (unsigned i = 0; i < 4; i++)
			soft_push(cpu, st, size, cpu->seg[order[i]].selector);
	soft_push(cpu, st, size, cpu->seg[ENGINE_SS].selector);
	soft_push(cpu, st, size, cpu->gpr[GPR_SP]);
}

static void through_gate(struct soft_cpu *cpu, const struct soft_event *ev, uint64_t gate)
{
	unsigned type = gate >> 40 & ATTR_TYPE;
	unsigned size = type & 8 ? 4 : 2;
	uint32_t offset = (gate & 0xffff) | (size == 4 ? gate >> 32 & 0xffff0000 : 0);
	struct soft_desc cs, ss;
	struct soft_stack st;
	unsigned cpl = read_target(cpu, gate >> 16, &cs);
	bool inner = cpl < soft_cpl(cpu), v8086 = soft_v8086(cpu);

	if (inner)
		push_outer(cpu, &st, &ss, cpl, size);
	else
		soft_stack_current(cpu, &st);
	soft_push(cpu, &st, size, ev->rflags);
	soft_push(cpu, &st, size, cpu->seg[ENGINE_CS].selector);
	soft_push(cpu, &st, size, ev->rip);
	if (ev->has_error)
		soft_push(cpu, &st, size, ev->error);
	soft_check_rip(cpu, &cs.seg, offset);

	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	if (inner)
		soft_copy_seg(&cpu->seg[ENGINE_SS], &ss.seg);
	if (v8086) {
		static const uint8_t dropped[] = { ENGINE_GS, ENGINE_FS, ENGINE_DS, ENGINE_ES };

		for (unsigned i = 0; i < 4; i++)
			soft_null_seg(&cpu->seg[dropped[i]], 0, 0);
	}
	enter_handler_flags(cpu, !(type & 1));
	soft_enter_code(cpu, &cs, cpl, offset);
}

static void deliver_protected(struct soft_cpu *cpu, const struct soft_event *ev)
{
	uint32_t slot = ev->vector * 8;
	struct soft_desc tss;
	uint64_t gate;

	if (slot + 7u > cpu->idtr.limit)
		soft_raise(cpu, EXC_GP, idt_error(ev));
	gate = soft_load_system(cpu, cpu->idtr.base + slot, 8);
	switch (gate >> 40 & (ATTR_S | ATTR_TYPE)) {
	case DESC_INT16:
	case DESC_TRAP16:
	case DESC_INT32:
	case DESC_TRAP32:
		check_gate(cpu, ev, gate >> 40);
		through_gate(cpu, ev, gate);
		break;
	case DESC_TASK:
		check_gate(cpu, ev, gate >> 40);
		soft_desc_read(cpu, gate >> 16, EXC_GP, &tss);
		soft_task_switch(cpu, &tss, SOFT_TASK_CALL, ev->rip, ev);
		break;
	default:
		soft_raise(cpu, EXC_GP, idt_error(ev));
	}
}

/* ---- real mode ---- */

static void deliver_real(struct soft_cpu *cpu, const struct soft_event *ev)
{
	struct soft_stack st;
	uint32_t target;

	if (ev->vector * 4u + 3 > cpu->idtr.limit)
		soft_raise(cpu, EXC_GP, 0);
	target = soft_load_system(cpu, cpu->idtr.base + ev->vector * 4u, 4);
	soft_stack_current(cpu, &st);
	soft_push(cpu, &st, 2, ev->rflags);
	soft_push(cpu, &st, 2, cpu->seg[ENGINE_CS].selector);
	soft_push(cpu, &st, 2, ev->rip);
	if ((target & 0xffff) > cpu->seg[ENGINE_CS].limit)
		soft_raise(cpu, EXC_GP, 0);

	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	cpu->sysflags &= ~(uint32_t)(RF_TF | RF_IF | RF_AC);
	soft_load_seg_real(cpu, ENGINE_CS, target >> 16);
	cpu->rip = target & 0xffff;
	soft_update_mode(cpu);
}

void soft_deliver_event(struct soft_cpu *cpu, const struct soft_event *ev)
{
	if (!(cpu->cr0 & CR0_PE))
		deliver_real(cpu, ev);
	else if (soft_lma(cpu))
		deliver_long(cpu, ev);
	else
		deliver_protected(cpu, ev);
}

/* ---- INT n, INT3, INTO ---- */

/* With CR4.VME, a clear bit in the TSS's map sends INT n to v8086's own vector table (SDM Vol. 3, 21.3.3.4). */
static bool redirected(struct soft_cpu *cpu, unsigned vector)
{
	const struct engine_segment *tr = &cpu->seg[ENGINE_TR];
	uint32_t offset;

	if (!(cpu->cr4 & CR4_VME) || !(tr->attr & 8) || tr->limit < 0x67)
		return false;
	offset = soft_load_system(cpu, tr->base + 0x66, 2) - 32 + vector / 8;
	if (offset > tr->limit)
		return false;
	return !(soft_load_system(cpu, tr->base + offset, 1) >> (vector % 8) & 1);
}

static void int_in_v8086(struct soft_cpu *cpu, unsigned vector, uint64_t next)
{
	uint64_t image = soft_get_rflags(cpu);
	uint32_t virtual_if = soft_iopl(cpu) < 3 ? RF_VIF : RF_IF;
	struct soft_stack st;
	uint32_t target = soft_load(cpu, vector * 4, 4);

	if (virtual_if == RF_VIF)
		image = (image & ~(uint64_t)RF_IF) | RF_IOPL | (cpu->sysflags & RF_VIF ? RF_IF : 0);
	soft_stack_current(cpu, &st);
	soft_push(cpu, &st, 2, image);
	soft_push(cpu, &st, 2, cpu->seg[ENGINE_CS].selector);
	soft_push(cpu, &st, 2, next);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
	cpu->sysflags &= ~(uint32_t)(RF_TF | RF_NT | virtual_if);
	soft_load_seg_real(cpu, ENGINE_CS, target >> 16);
	cpu->rip = target & 0xffff;
	soft_update_mode(cpu);
}

void soft_help_int(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	unsigned vector = insn->imm & 0xff;
	uint64_t next = soft_next_rip(cpu, insn);

	(void)ea;
	if (soft_v8086(cpu)) {
		if (redirected(cpu, vector)) {
			int_in_v8086(cpu, vector, next);
			return;
		}
		if (soft_iopl(cpu) < 3)
			soft_raise(cpu, EXC_GP, 0);
	}
	soft_software_interrupt(cpu, vector, next);
}

void soft_help_int3(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	soft_software_interrupt(cpu, EXC_BP, soft_next_rip(cpu, insn));
}

void soft_help_into(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	if (soft_get_arith(cpu) & FLAG_OF)
		soft_software_interrupt(cpu, EXC_OF, soft_next_rip(cpu, insn));
	else
		cpu->rip = soft_next_rip(cpu, insn);
}
