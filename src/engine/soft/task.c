/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.c - hardware task switches (SDM Vol. 3, 7.3): by a far JMP or CALL, a task gate, or an IRET with NT set.
 *
 * Up to the point where the old task is saved, a fault belongs to the old task and nothing has changed. From there on
 * the new task runs: its segment registers are empty until each is loaded, and a fault is met by it, at its first
 * instruction.
 */
#include "engine/soft/system.h"

enum { DR6_BT = 1 << 15 };

/* A TSS's layout: offsets and the distance from one field to the next. */
struct layout {
	uint8_t step;
	uint8_t ip;  /* then the flags and the eight general registers, in the order of their encoding */
	uint8_t seg; /* ES, CS, SS, DS (FS, GS) */
	uint8_t segs;
	uint8_t ldt;
	uint8_t min_limit;
};
static const struct layout layout16 = { 2, 0x0e, 0x22, 4, 0x2a, 0x2b };
static const struct layout layout32 = { 4, 0x20, 0x48, 6, 0x60, 0x67 };

static const struct layout *layout_of(const struct engine_segment *tss)
{
	return tss->attr & 8 ? &layout32 : &layout16;
}

/* What a TSS holds. */
struct task {
	uint32_t ip, flags, gpr[8], cr3;
	uint16_t seg[6], ldt;
	bool trap;
};

static void read_task(struct soft_cpu *cpu, const struct engine_segment *tss, struct task *task)
{
	const struct layout *l = layout_of(tss);
	uint64_t at = tss->base + l->ip;

	task->ip = soft_load_system(cpu, at, l->step);
	task->flags = soft_load_system(cpu, at + l->step, l->step);
	for (unsigned i = 0; i < 8; i++)
		task->gpr[i] = soft_load_system(cpu, at + (2 + i) * l->step, l->step);
	for (unsigned i = 0; i < 6; i++)
		task->seg[i] = i < l->segs ? soft_load_system(cpu, tss->base + l->seg + i * l->step, 2) : 0;
	task->ldt = soft_load_system(cpu, tss->base + l->ldt, 2);
	task->cr3 = l == &layout32 ? soft_load_system(cpu, tss->base + 0x1c, 4) : 0;
	task->trap = l == &layout32 && (soft_load_system(cpu, tss->base + 0x64, 1) & 1);
}

static void save_task(struct soft_cpu *cpu, const struct engine_segment *tss, uint64_t ip, uint32_t flags)
{
	const struct layout *l = layout_of(tss);
	uint64_t at = tss->base + l->ip;

	soft_store_system(cpu, at, l->step, ip);
	soft_store_system(cpu, at + l->step, l->step, flags);
	for (unsigned i = 0; i < 8; i++)
		soft_store_system(cpu, at + (2 + i) * l->step, l->step, cpu->gpr[i]);
	for (unsigned i = 0; i < l->segs; i++)
		soft_store_system(cpu, tss->base + l->seg + i * l->step, 2, cpu->seg[i].selector);
}

/* Sets or clears the busy bit of the TSS descriptor at linear `addr`. */
static void set_busy(struct soft_cpu *cpu, uint64_t addr, bool busy)
{
	uint64_t attr = soft_load_system(cpu, addr + 5, 1);

	soft_store_system(cpu, addr + 5, 1, busy ? attr | 2 : attr & ~2ull);
}

static void check_tss(struct soft_cpu *cpu, const struct soft_desc *d, enum soft_task_kind kind)
{
	uint32_t attr = d->seg.attr, error = d->selector & 0xfffc;
	unsigned busy = kind == SOFT_TASK_IRET ? 2 : 0;

	if ((d->selector & 4) || (!soft_is_system(attr, DESC_TSS16 | busy) && !soft_is_system(attr, DESC_TSS32 | busy)))
		soft_raise(cpu, kind == SOFT_TASK_IRET ? EXC_TS : EXC_GP, error);
	if (!(attr & ATTR_P))
		soft_raise(cpu, EXC_NP, error);
	if (d->seg.limit < layout_of(&d->seg)->min_limit)
		soft_raise(cpu, EXC_TS, error);
}

/* ---- the new task's segments ---- */

static void load_ldt(struct soft_cpu *cpu, uint16_t selector)
{
	struct soft_desc d;

	soft_null_seg(&cpu->seg[ENGINE_LDTR], selector, 0);
	if (!(selector & 0xfffc))
		return;
	if ((selector & 4) || !soft_desc_try(cpu, selector, &d) || !soft_is_system(d.seg.attr, DESC_LDT) ||
	    !(d.seg.attr & ATTR_P))
		soft_raise(cpu, EXC_TS, selector & 0xfffc);
	soft_copy_seg(&cpu->seg[ENGINE_LDTR], &d.seg);
}

static void load_code(struct soft_cpu *cpu, uint16_t selector)
{
	unsigned cpl = selector & 3, dpl;
	struct soft_desc d;

	soft_desc_read(cpu, selector, EXC_TS, &d);
	dpl = soft_attr_dpl(d.seg.attr);
	if (!soft_is_code(d.seg.attr) || (soft_is_conforming(d.seg.attr) ? dpl > cpl : dpl != cpl))
		soft_raise(cpu, EXC_TS, selector & 0xfffc);
	if (!(d.seg.attr & ATTR_P))
		soft_raise(cpu, EXC_NP, selector & 0xfffc);
	soft_desc_access(cpu, &d);
	soft_copy_seg(&cpu->seg[ENGINE_CS], &d.seg);
}

static void load_segments(struct soft_cpu *cpu, const struct task *task)
{
	static const uint8_t data[] = { ENGINE_DS, ENGINE_ES, ENGINE_FS, ENGINE_GS };
	struct soft_desc d;

	load_ldt(cpu, task->ldt);
	if (soft_v8086(cpu)) {
		for (unsigned i = 0; i < 6; i++)
			soft_load_seg_real(cpu, i, task->seg[i]);
		return;
	}
	load_code(cpu, task->seg[ENGINE_CS]);
	soft_check_ss(cpu, task->seg[ENGINE_SS], task->seg[ENGINE_CS] & 3, EXC_TS, &d);
	soft_desc_access(cpu, &d);
	soft_copy_seg(&cpu->seg[ENGINE_SS], &d.seg);
	soft_update_mode(cpu);
	for (unsigned i = 0; i < 4; i++)
		soft_load_data_seg(cpu, data[i], task->seg[data[i]], EXC_TS);
}

/* ---- the switch ---- */

/* Everything of the new task that can't fail. Its segment registers are left empty. */
static void enter_task(struct soft_cpu *cpu, const struct soft_desc *d, const struct task *task, bool nested)
{
	bool wide = layout_of(&d->seg) == &layout32;

	soft_copy_seg(&cpu->seg[ENGINE_TR], &d->seg);
	cpu->seg[ENGINE_TR].attr |= 2;
	cpu->cr0 |= CR0_TS;
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] = wide ? task->gpr[i] : (cpu->gpr[i] & 0xffff0000) | task->gpr[i];
	cpu->rip = task->ip;
	for (unsigned i = 0; i < 6; i++)
		soft_null_seg(&cpu->seg[i], task->seg[i], task->seg[ENGINE_CS] & 3);
	if (wide && (cpu->cr0 & CR0_PG)) {
		cpu->cr3 = task->cr3;
		/* Reserved bits in the pointers would be #GP in the new task: they are not present instead. */
		if ((cpu->cr4 & CR4_PAE) && !soft_load_pdptes(cpu))
			for (unsigned i = 0; i < 4; i++)
				cpu->pdpte[i] = 0;
		soft_tlb_flush(cpu, false);
	}
	soft_set_rflags(cpu, task->flags | (nested ? RF_NT : 0));
	cpu->resume = task->flags & RF_RF;
}

static void push_error(struct soft_cpu *cpu, uint32_t error)
{
	struct soft_stack st;

	soft_stack_current(cpu, &st);
	soft_push(cpu, &st, layout_of(&cpu->seg[ENGINE_TR])->step, error);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

void soft_task_switch(struct soft_cpu *cpu, struct soft_desc *d, enum soft_task_kind kind, uint64_t next,
		      const struct soft_event *ev)
{
	uint64_t old_addr = cpu->gdtr.base + (cpu->seg[ENGINE_TR].selector & 0xfff8);
	struct engine_segment old;
	uint32_t flags = ev ? ev->rflags : soft_get_rflags(cpu);
	struct task task;

	check_tss(cpu, d, kind);
	soft_copy_seg(&old, &cpu->seg[ENGINE_TR]);
	if ((old.attr & ATTR_NULL) || old.limit < layout_of(&old)->min_limit)
		soft_raise(cpu, EXC_TS, old.selector & 0xfffc);
	read_task(cpu, &d->seg, &task);
	soft_probe_write(cpu, old.base, layout_of(&old)->min_limit + 1, true);
	soft_probe_write(cpu, d->seg.base, 2, true);
	soft_probe_write(cpu, d->addr, 8, true);
	soft_probe_write(cpu, old_addr, 8, true);

	save_task(cpu, &old, next, kind == SOFT_TASK_IRET ? flags & ~(uint32_t)RF_NT : flags);
	if (kind != SOFT_TASK_CALL)
		set_busy(cpu, old_addr, false);
	if (kind != SOFT_TASK_IRET)
		set_busy(cpu, d->addr, true);
	if (kind == SOFT_TASK_CALL)
		soft_store_system(cpu, d->seg.base, 2, old.selector);
	enter_task(cpu, d, &task, kind == SOFT_TASK_CALL);
	load_segments(cpu, &task);
	soft_update_mode(cpu);
	if (ev && ev->has_error)
		push_error(cpu, ev->error);
	soft_check_rip(cpu, &cpu->seg[ENGINE_CS], cpu->rip);
	soft_irq_enabled(cpu);
	if (task.trap)
		soft_raise_db(cpu, DR6_BT);
}
