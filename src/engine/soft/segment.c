/* SPDX-License-Identifier: Apache-2.0 */
/* segment.c - descriptors, and what loading a segment register checks and does (SDM Vol. 3, 3.4 and 5). */
#include "engine/soft/system.h"

/* ---- descriptors ---- */

static void decode(const struct soft_cpu *cpu, struct soft_desc *d)
{
	uint64_t lo = d->lo;
	uint32_t limit = (lo & 0xffff) | (lo >> 32 & 0xf0000);

	d->seg.selector = d->selector;
	d->seg.attr = lo >> 40 & 0xf0ff;
	d->seg.limit = d->seg.attr & ATTR_G ? limit << 12 | 0xfff : limit;
	d->seg.base = (lo >> 16 & 0xffffff) | (lo >> 32 & 0xff000000);
	if (soft_lma(cpu) && !(d->seg.attr & ATTR_S))
		d->seg.base |= d->hi << 32;
}

bool soft_desc_try(struct soft_cpu *cpu, uint16_t selector, struct soft_desc *d)
{
	const struct engine_segment *ldt = &cpu->seg[ENGINE_LDTR];
	uint64_t base = cpu->gdtr.base;
	uint32_t limit = cpu->gdtr.limit, index = selector & 0xfff8;

	if (!(selector & 0xfffc))
		return false;
	if (selector & 4) {
		if (ldt->attr & ATTR_NULL)
			return false;
		base = ldt->base;
		limit = ldt->limit;
	}
	if (index + 7 > limit)
		return false;
	d->selector = selector;
	d->addr = base + index;
	d->lo = soft_load_system(cpu, d->addr, 8);
	d->hi = 0;
	if (soft_lma(cpu) && !(d->lo >> 40 & ATTR_S)) {
		if (index + 15 > limit)
			return false;
		d->hi = soft_load_system(cpu, d->addr + 8, 8);
	}
	decode(cpu, d);
	return true;
}

void soft_desc_read(struct soft_cpu *cpu, uint16_t selector, unsigned vector, struct soft_desc *d)
{
	if (!soft_desc_try(cpu, selector, d))
		soft_raise(cpu, vector, selector & 0xfffc);
}

void soft_desc_access(struct soft_cpu *cpu, struct soft_desc *d)
{
	if (d->seg.attr & ATTR_A)
		return;
	d->seg.attr |= ATTR_A;
	soft_store_system(cpu, d->addr + 5, 1, d->seg.attr & 0xff);
}

void soft_check_ss(struct soft_cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector, struct soft_desc *d)
{
	uint32_t attr;

	soft_desc_read(cpu, selector, vector, d);
	attr = d->seg.attr;
	if ((selector & 3) != cpl || soft_attr_dpl(attr) != cpl ||
	    (attr & (ATTR_S | ATTR_CODE | ATTR_WR)) != (ATTR_S | ATTR_WR))
		soft_raise(cpu, vector, selector & 0xfffc);
	if (!(attr & ATTR_P))
		soft_raise(cpu, EXC_SS, selector & 0xfffc);
}

/* ---- segment registers ---- */

void soft_copy_seg(struct engine_segment *to, const struct engine_segment *from)
{
	to->base = from->base;
	to->limit = from->limit;
	to->attr = from->attr;
	to->selector = from->selector;
}

void soft_null_seg(struct engine_segment *seg, uint16_t selector, unsigned dpl)
{
	seg->base = 0;
	seg->limit = 0;
	seg->attr = ATTR_NULL | dpl << ATTR_DPL_SHIFT;
	seg->selector = selector;
}

void soft_flat_seg(struct engine_segment *seg, uint16_t selector, bool code, bool l, unsigned dpl)
{
	uint32_t type = ATTR_A | ATTR_WR | (code ? ATTR_CODE : 0);

	seg->base = 0;
	seg->limit = UINT32_MAX;
	seg->attr = type | ATTR_S | dpl << ATTR_DPL_SHIFT | ATTR_P | ATTR_G | (l ? ATTR_L : ATTR_DB);
	seg->selector = selector;
}

void soft_load_seg_real(struct soft_cpu *cpu, unsigned seg, uint16_t selector)
{
	struct engine_segment *s = &cpu->seg[seg];

	s->selector = selector;
	s->base = (uint32_t)selector << 4;
	/* Real mode leaves limit and attributes as they are ("unreal mode" lives off that); v8086 sets them. */
	if (soft_v8086(cpu)) {
		s->limit = 0xffff;
		s->attr = ATTR_A | ATTR_WR | ATTR_S | ATTR_DPL | ATTR_P;
	} else if ((s->attr & ATTR_NULL) || !(s->attr & ATTR_P)) {
		s->limit = 0xffff;
		s->attr = ATTR_A | ATTR_WR | ATTR_S | ATTR_P;
	}
}

static void load_ss(struct soft_cpu *cpu, uint16_t selector)
{
	unsigned cpl = soft_cpl(cpu);
	struct soft_desc d;

	if (!(selector & 0xfffc)) {
		if (!soft_code64(cpu) || cpl == 3 || (selector & 3) != cpl)
			soft_raise(cpu, EXC_GP, 0);
		soft_null_seg(&cpu->seg[ENGINE_SS], selector, cpl);
		return;
	}
	soft_check_ss(cpu, selector, cpl, EXC_GP, &d);
	soft_desc_access(cpu, &d);
	soft_copy_seg(&cpu->seg[ENGINE_SS], &d.seg);
}

void soft_load_data_seg(struct soft_cpu *cpu, unsigned seg, uint16_t selector, unsigned vector)
{
	unsigned rpl = selector & 3;
	struct soft_desc d;
	uint32_t attr;

	if (!(selector & 0xfffc)) {
		soft_null_seg(&cpu->seg[seg], selector, 0);
		return;
	}
	soft_desc_read(cpu, selector, vector, &d);
	attr = d.seg.attr;
	if (!(attr & ATTR_S) || (attr & (ATTR_CODE | ATTR_WR)) == ATTR_CODE)
		soft_raise(cpu, vector, selector & 0xfffc);
	if (!soft_is_conforming(attr) && (rpl > soft_attr_dpl(attr) || soft_cpl(cpu) > soft_attr_dpl(attr)))
		soft_raise(cpu, vector, selector & 0xfffc);
	if (!(attr & ATTR_P))
		soft_raise(cpu, EXC_NP, selector & 0xfffc);
	soft_desc_access(cpu, &d);
	soft_copy_seg(&cpu->seg[seg], &d.seg);
}

void soft_load_seg(struct soft_cpu *cpu, unsigned seg, uint16_t selector)
{
	if (!soft_protected(cpu))
		soft_load_seg_real(cpu, seg, selector);
	else if (seg == ENGINE_SS)
		load_ss(cpu, selector);
	else
		soft_load_data_seg(cpu, seg, selector, EXC_GP);
}

void soft_drop_segs(struct soft_cpu *cpu, unsigned cpl)
{
	static const uint8_t data[] = { ENGINE_ES, ENGINE_DS, ENGINE_FS, ENGINE_GS };

	for (unsigned i = 0; i < 4; i++) {
		struct engine_segment *s = &cpu->seg[data[i]];

		if (!(s->attr & ATTR_NULL) && !soft_is_conforming(s->attr) && soft_attr_dpl(s->attr) < cpl) {
			/* The base stays, and 64-bit code goes on using that of FS and GS. */
			s->selector = 0;
			s->attr = ATTR_NULL;
		}
	}
}

/* ---- operands ---- */

uint64_t soft_operand(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, unsigned delta, unsigned size,
		      enum soft_access access)
{
	uint64_t offset;

	if (soft_code64(cpu)) {
		offset = insn->seg < ENGINE_FS ? ea : ea - cpu->seg[insn->seg].base;
		return soft_linear(cpu, insn->seg, offset + delta, size, access);
	}
	offset = (uint32_t)(ea - cpu->seg[insn->seg].base);
	if (insn->addrsize == 2)
		offset &= 0xffff;
	return soft_linear(cpu, insn->seg, (uint32_t)(offset + delta), size, access);
}

uint64_t soft_read_rm(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, unsigned size)
{
	if (!insn->mem)
		return soft_trunc(cpu->gpr[insn->rm & 15], size);
	return soft_load(cpu, soft_operand(cpu, insn, ea, 0, size, SOFT_READ), size);
}

void soft_write_rm(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, unsigned size, uint64_t value)
{
	if (!insn->mem)
		soft_set_reg(cpu, insn->rm, size, value);
	else
		soft_store(cpu, soft_operand(cpu, insn, ea, 0, size, SOFT_WRITE), size, value);
}

/* ---- MOV to SS and its kin ---- */

static void loaded_seg(struct soft_cpu *cpu, unsigned seg, uint64_t next)
{
	soft_update_mode(cpu);
	/* The stack pointer is about to follow: no interrupt, and no single-step trap, in between. */
	if (seg == ENGINE_SS)
		cpu->shadow = 3;
	cpu->rip = next;
}

void soft_help_mov_to_seg(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t next = soft_next_rip(cpu, insn);

	/* ES, CS, SS, DS, FS, GS: as ModRM.reg and enum engine segments number them. */
	if (insn->reg == ENGINE_CS || insn->reg > ENGINE_GS)
		soft_raise(cpu, EXC_UD, 0);
	soft_load_seg(cpu, insn->reg, soft_read_rm(cpu, insn, ea, 2));
	loaded_seg(cpu, insn->reg, next);
}

/* 06 0E 16 1E and 07 17 1F, 0F A0 A1 and A8 A9: all have the segment in bits 3 to 5. */
static unsigned seg_of_opcode(const struct insn *insn)
{
	return insn->opcode >> 3 & 7;
}

void soft_help_pop_seg(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t next = soft_next_rip(cpu, insn), rsp;
	unsigned seg = seg_of_opcode(insn);
	struct soft_stack st;
	uint16_t selector;

	(void)ea;
	soft_stack_current(cpu, &st);
	selector = soft_pop(cpu, &st, insn->opsize);
	/* By the width of the stack that it came from, not of the one that POP SS loads. */
	rsp = soft_stack_rsp(cpu, &st);
	soft_load_seg(cpu, seg, selector);
	cpu->gpr[GPR_SP] = rsp;
	loaded_seg(cpu, seg, next);
}

void soft_help_push_seg(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_stack st;

	(void)ea;
	soft_stack_current(cpu, &st);
	soft_push(cpu, &st, insn->opsize, cpu->seg[seg_of_opcode(insn)].selector);
	cpu->gpr[GPR_SP] = soft_stack_rsp(cpu, &st);
}

void soft_help_load_far(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t next = soft_next_rip(cpu, insn);
	unsigned size = soft_far_size(insn), seg;
	uint64_t offset;
	uint16_t selector;

	/* C4 LES, C5 LDS; 0F B2 LSS, B4 LFS, B5 LGS. */
	switch (insn->opcode) {
	case 0xc4:
		seg = ENGINE_ES;
		break;
	case 0xc5:
		seg = ENGINE_DS;
		break;
	case 0xb2:
		seg = ENGINE_SS;
		break;
	case 0xb4:
		seg = ENGINE_FS;
		break;
	default:
		seg = ENGINE_GS;
		break;
	}
	offset = soft_load(cpu, soft_operand(cpu, insn, ea, 0, size, SOFT_READ), size);
	selector = soft_load(cpu, soft_operand(cpu, insn, ea, size, 2, SOFT_READ), 2);
	soft_load_seg(cpu, seg, selector);
	soft_set_reg(cpu, insn->reg, size, offset);
	soft_update_mode(cpu);
	cpu->rip = next;
}
