/* SPDX-License-Identifier: Apache-2.0 */
/* desc.c - instructions about descriptors: the table registers, and LAR, LSL, VERR, VERW, ARPL. */
#include "engine/soft/system.h"

/* ---- LGDT, LIDT, SGDT, SIDT ---- */

static void check_cpl0(struct soft_cpu *cpu)
{
	if (soft_cpl(cpu) != 0)
		soft_raise(cpu, EXC_GP, 0);
}

static void check_umip(struct soft_cpu *cpu)
{
	if ((cpu->cr4 & CR4_UMIP) && soft_cpl(cpu) != 0)
		soft_raise(cpu, EXC_GP, 0);
}

static void load_table(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, uint64_t *base, uint16_t *limit)
{
	unsigned size = soft_code64(cpu) ? 8 : 4;
	uint64_t b;
	uint16_t l;

	check_cpl0(cpu);
	l = soft_load(cpu, soft_operand(cpu, insn, ea, 0, 2, SOFT_READ), 2);
	b = soft_load(cpu, soft_operand(cpu, insn, ea, 2, size, SOFT_READ), size);
	if (size == 4 && insn->opsize == 2)
		b &= 0xffffff;
	if (!soft_canonical(b))
		soft_raise(cpu, EXC_GP, 0);
	*base = b;
	*limit = l;
	cpu->rip = soft_next_rip(cpu, insn);
}

static void store_table(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, uint64_t base, uint16_t limit)
{
	unsigned size = soft_code64(cpu) ? 8 : 4;
	uint64_t at, at_base;

	check_umip(cpu);
	at = soft_operand(cpu, insn, ea, 0, 2, SOFT_WRITE);
	at_base = soft_operand(cpu, insn, ea, 2, size, SOFT_WRITE);
	soft_probe_write(cpu, at_base, size, false);
	soft_store(cpu, at, 2, limit);
	soft_store(cpu, at_base, size, base);
}

void soft_help_lgdt(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	load_table(cpu, insn, ea, &cpu->gdtr.base, &cpu->gdtr.limit);
}

void soft_help_lidt(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	load_table(cpu, insn, ea, &cpu->idtr.base, &cpu->idtr.limit);
}

void soft_help_sgdt(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	store_table(cpu, insn, ea, cpu->gdtr.base, cpu->gdtr.limit);
}

void soft_help_sidt(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	store_table(cpu, insn, ea, cpu->idtr.base, cpu->idtr.limit);
}

/* ---- LLDT, LTR, SLDT, STR ---- */

static void check_protected(struct soft_cpu *cpu)
{
	if (!soft_protected(cpu))
		soft_raise(cpu, EXC_UD, 0);
}

/* Reads and checks the descriptor of an LDT or a free TSS, which must be in the GDT. */
static void read_system(struct soft_cpu *cpu, uint16_t selector, bool tss, struct soft_desc *d)
{
	uint32_t error = selector & 0xfffc;
	bool good;

	if (selector & 4)
		soft_raise(cpu, EXC_GP, error);
	soft_desc_read(cpu, selector, EXC_GP, d);
	if (tss)
		good = soft_is_system(d->seg.attr, DESC_TSS32) ||
		       (!soft_lma(cpu) && soft_is_system(d->seg.attr, DESC_TSS16));
	else
		good = soft_is_system(d->seg.attr, DESC_LDT);
	if (!good)
		soft_raise(cpu, EXC_GP, error);
	if (!(d->seg.attr & ATTR_P))
		soft_raise(cpu, EXC_NP, error);
	if (!soft_canonical(d->seg.base))
		soft_raise(cpu, EXC_GP, error);
}

void soft_help_lldt(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_desc d;
	uint16_t selector;

	check_protected(cpu);
	check_cpl0(cpu);
	selector = soft_read_rm(cpu, insn, ea, 2);
	if (selector & 0xfffc) {
		read_system(cpu, selector, false, &d);
		soft_copy_seg(&cpu->seg[ENGINE_LDTR], &d.seg);
	} else {
		soft_null_seg(&cpu->seg[ENGINE_LDTR], selector, 0);
	}
	cpu->rip = soft_next_rip(cpu, insn);
}

void soft_help_ltr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_desc d;

	check_protected(cpu);
	check_cpl0(cpu);
	read_system(cpu, soft_read_rm(cpu, insn, ea, 2), true, &d);
	d.seg.attr |= 2; /* busy */
	soft_store_system(cpu, d.addr + 5, 1, d.seg.attr & 0xff);
	soft_copy_seg(&cpu->seg[ENGINE_TR], &d.seg);
	cpu->rip = soft_next_rip(cpu, insn);
}

static void store_selector(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, unsigned seg)
{
	check_protected(cpu);
	check_umip(cpu);
	soft_write_rm(cpu, insn, ea, insn->mem ? 2 : insn->opsize, cpu->seg[seg].selector);
}

void soft_help_sldt(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	store_selector(cpu, insn, ea, ENGINE_LDTR);
}

void soft_help_str(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	store_selector(cpu, insn, ea, ENGINE_TR);
}

/* ---- LAR, LSL, VERR, VERW ---- */

#define TYPES_LAR                                                                                          \
	(1u << DESC_TSS16 | 1u << DESC_LDT | 1u << DESC_TSS16_BUSY | 1u << DESC_CALL16 | 1u << DESC_TASK | \
	 1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY | 1u << DESC_CALL32)
#define TYPES_LAR_LONG (1u << DESC_LDT | 1u << DESC_TSS32 | 1u << DESC_TSS32_BUSY | 1u << DESC_CALL32)
#define TYPES_GATES (1u << DESC_CALL16 | 1u << DESC_TASK | 1u << DESC_CALL32)

/* May the program at this CPL look at the descriptor? `types` is the set of system types that count. */
static bool visible(const struct soft_cpu *cpu, const struct soft_desc *d, uint32_t types)
{
	unsigned dpl = soft_attr_dpl(d->seg.attr);

	if (!(d->seg.attr & ATTR_S) && !(types >> (d->seg.attr & ATTR_TYPE) & 1))
		return false;
	return soft_is_conforming(d->seg.attr) || (dpl >= soft_cpl(cpu) && dpl >= (d->selector & 3u));
}

void soft_help_lar(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_desc d;
	bool ok;

	check_protected(cpu);
	ok = soft_desc_try(cpu, soft_read_rm(cpu, insn, ea, 2), &d) &&
	     visible(cpu, &d, soft_lma(cpu) ? TYPES_LAR_LONG : TYPES_LAR);
	if (ok)
		soft_set_reg(cpu, insn->reg, insn->opsize, d.lo >> 32 & 0xffff00);
	soft_set_zf(cpu, ok);
}

void soft_help_lsl(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_desc d;
	bool ok;

	check_protected(cpu);
	ok = soft_desc_try(cpu, soft_read_rm(cpu, insn, ea, 2), &d) &&
	     visible(cpu, &d, (soft_lma(cpu) ? TYPES_LAR_LONG : TYPES_LAR) & ~TYPES_GATES);
	if (ok)
		soft_set_reg(cpu, insn->reg, insn->opsize, d.seg.limit);
	soft_set_zf(cpu, ok);
}

void soft_help_verr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_desc d;

	check_protected(cpu);
	soft_set_zf(cpu, soft_desc_try(cpu, soft_read_rm(cpu, insn, ea, 2), &d) && visible(cpu, &d, 0) &&
			     (d.seg.attr & (ATTR_CODE | ATTR_WR)) != ATTR_CODE);
}

void soft_help_verw(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_desc d;

	check_protected(cpu);
	soft_set_zf(cpu, soft_desc_try(cpu, soft_read_rm(cpu, insn, ea, 2), &d) && visible(cpu, &d, 0) &&
			     (d.seg.attr & (ATTR_CODE | ATTR_WR)) == ATTR_WR);
}

void soft_help_arpl(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	unsigned rpl = cpu->gpr[insn->reg & 15] & 3;
	uint16_t selector;
	bool raised;

	check_protected(cpu);
	selector = soft_read_rm(cpu, insn, ea, 2);
	raised = (selector & 3u) < rpl;
	if (raised)
		soft_write_rm(cpu, insn, ea, 2, (selector & ~3u) | rpl);
	soft_set_zf(cpu, raised);
}
