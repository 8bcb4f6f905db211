/* SPDX-License-Identifier: Apache-2.0 */
/* stack.c - pushes and pops, on the current stack or on the one of an inner privilege. */
#include "engine/soft/system.h"

void soft_stack_current(const struct soft_cpu *cpu, struct soft_stack *st)
{
	soft_copy_seg(&st->seg, &cpu->seg[ENGINE_SS]);
	st->flat64 = soft_code64(cpu);
	st->mask = st->flat64 ? ~0ull : cpu->mode & SOFT_MODE_STACK32 ? UINT32_MAX : 0xffff;
	st->sp = cpu->gpr[GPR_SP] & st->mask;
	st->error = 0;
	st->system = false;
}

void soft_stack_inner(const struct soft_cpu *cpu, struct soft_stack *st, const struct engine_segment *ss, uint64_t sp,
		      unsigned cpl, bool flat64)
{
	st->flat64 = flat64;
	st->error = 0;
	if (flat64) {
		st->mask = ~0ull;
		soft_null_seg(&st->seg, 0, cpl);
	} else {
		st->mask = ss->attr & ATTR_DB ? UINT32_MAX : 0xffff;
		st->error = ss->selector & 0xfffc;
		soft_copy_seg(&st->seg, ss);
	}
	st->sp = sp & st->mask;
	st->system = cpl != soft_cpl(cpu);
}

/* Does the segment hold [offset, offset + size)? */
static bool in_segment(const struct engine_segment *seg, uint64_t offset, unsigned size)
{
	uint64_t last = offset + size - 1;

	if (seg->attr & ATTR_NULL)
		return false;
	if ((seg->attr & (ATTR_CODE | ATTR_EC)) == ATTR_EC)
		return offset > seg->limit && last <= (seg->attr & ATTR_DB ? UINT32_MAX : 0xffffu);
	return last <= seg->limit;
}

static uint64_t stack_linear(struct soft_cpu *cpu, const struct soft_stack *st, uint64_t sp, unsigned size)
{
	if (st->flat64) {
		if (!soft_canonical(sp) || !soft_canonical(sp + size - 1))
			soft_raise(cpu, EXC_SS, st->error);
		return sp;
	}
	if (!in_segment(&st->seg, sp, size))
		soft_raise(cpu, EXC_SS, st->error);
	return (uint32_t)(st->seg.base + sp);
}

void soft_push(struct soft_cpu *cpu, struct soft_stack *st, unsigned size, uint64_t value)
{
	uint64_t sp = (st->sp - size) & st->mask;
	uint64_t linear = stack_linear(cpu, st, sp, size);

	if (st->system)
		soft_store_system(cpu, linear, size, value);
	else
		soft_store(cpu, linear, size, value);
	st->sp = sp;
}

uint64_t soft_pop(struct soft_cpu *cpu, struct soft_stack *st, unsigned size)
{
	uint64_t linear = stack_linear(cpu, st, st->sp, size);
	uint64_t value = st->system ? soft_load_system(cpu, linear, size) : soft_load(cpu, linear, size);

	st->sp = (st->sp + size) & st->mask;
	return value;
}

uint64_t soft_stack_rsp(const struct soft_cpu *cpu, const struct soft_stack *st)
{
	/* A 32-bit stack pointer is ESP, which zero-extends; of a 16-bit one only SP changes. */
	if (st->mask == 0xffff)
		return (cpu->gpr[GPR_SP] & ~0xffffull) | st->sp;
	return st->sp;
}

uint64_t soft_tss_stack(struct soft_cpu *cpu, unsigned cpl, uint16_t *selector)
{
	const struct engine_segment *tr = &cpu->seg[ENGINE_TR];
	bool wide = tr->attr & 8; /* a 32-bit (or 64-bit) TSS */
	uint32_t offset = wide ? 4 + 8 * cpl : 2 + 4 * cpl;
	uint32_t size = wide ? 8 : 4;

	if ((tr->attr & ATTR_NULL) || offset + size - 1 > tr->limit)
		soft_raise(cpu, EXC_TS, tr->selector & 0xfffc);
	if (soft_lma(cpu))
		return soft_load_system(cpu, tr->base + offset, 8);
	*selector = soft_load_system(cpu, tr->base + offset + size / 2, 2);
	return soft_load_system(cpu, tr->base + offset, size / 2);
}
