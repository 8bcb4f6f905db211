/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_group.c - several memory accesses by one check.
 *
 * Compilers address the stack and structs by one register and constant offsets: PUSH after PUSH, [rsp + 8], [rbx + 16].
 * A run of instructions whose accesses all lie at known offsets from one register's value is a *group*: its first access
 * checks the whole span, and the others are plain accesses by T0 (and, where it can be, that very register, so that they
 * need not wait for the check). Between them the flags stay where they are.
 *
 * Other instructions may stand in between, also such as access memory by another register and have a check, or a group, of
 * their own. These use T0 too, so what the check found is kept in cpu->held, and T0 comes back from there. Only their
 * misses call C; should it empty the TLB (cpu->stale), they leave the block. Since such an access may fault, a group does not
 * begin to write after one.
 *
 * The check passes only if all of the span can be read (and written, if any of the group does) in place, so nothing in
 * the group can fault on memory. When it does not - another page begins in the span, a device, code, a page that is not
 * there - the block is left at the group's first instruction for a twin that was translated without groups
 * (SOFT_MODE_SINGLE), where each access faults or bounces by itself, precisely. Where pages meet is told and jumped over
 * in generated code, by a link (block->others): a stack frame that crosses them would go this way each time.
 */
#include "engine/soft/trans.h"

enum { GROUP_SPAN = 512 };

/* What an instruction does to a group with a given base. */
struct role {
	bool fits; /* may be in the group at all */
	bool access;
	bool write;
	bool last;  /* must be the last one */
	int offset; /* of the access, from the base's value before the instruction */
	unsigned size;
	int moves; /* by how much the base changes */
};

static bool by_register(const struct trans *t, const struct insn *in)
{
	return in->mem && in->base != INSN_NO_REG && in->base != INSN_RIP && in->index == INSN_NO_REG &&
	       in->addrsize == t->width && in->seg != ENGINE_FS && in->seg != ENGINE_GS && !in->lock &&
	       in->disp >= -4096 && in->disp <= 4096;
}

bool trans_writes_register(const struct insn *in, unsigned reg)
{
	const struct insn_row *row = in->row;
	if (row->implicit_written & 1u << reg)
		return true;
	if ((in->has_modrm || row->reg_in_opcode) && row->reg_kind == REG_GPR && (row->reg_acc & ACC_W) &&
	    in->reg == reg)
		return true;
	if (in->has_modrm && !in->mem && row->rm_kind == REG_GPR && (row->rm_acc & ACC_W) && in->rm == reg)
		return true;
	if (in->enc != ENC_LEGACY && row->vvvv_kind == REG_GPR && (row->vvvv_acc & ACC_W) && in->vvvv == reg)
		return true;
	/* High bytes: AH belongs to register 0. */
	return in->opsize == 1 && reg < 4 &&
	       trans_writes_register(&(struct insn){ .row = row,
						     .reg = in->reg,
						     .rm = in->rm,
						     .has_modrm = in->has_modrm,
						     .mem = in->mem,
						     .opsize = 4 },
				     reg + 4);
}

/* ADD or SUB of a constant to the whole base. */
static bool adds_constant(const struct trans *t, const struct insn *in, unsigned base, int *by)
{
	unsigned ext = in->modrm >> 3 & 7;
	if (in->op != OP_COPY || in->map != MAP_ONE || (in->opcode != 0x83 && in->opcode != 0x81) || in->mem ||
	    in->rm != base || in->opsize != t->width || (ext != 0 && ext != 5) || in->imm < -4096 || in->imm > 4096)
		return false;
	*by = ext == 0 ? (int)in->imm : -(int)in->imm;
	return true;
}

static struct role copy_role(const struct trans *t, const struct insn *in, unsigned base)
{
	struct role r = { .fits = true };
	if (adds_constant(t, in, base, &r.moves))
		return r;
	r.last = trans_writes_register(in, base);
	if (in->mem && in->mem_acc && in->mem_size) {
		r.access = by_register(t, in) && in->base == base && in->mem_size <= 64;
		r.fits = r.access;
		r.write = in->mem_acc & ACC_W;
		r.offset = (int)in->disp;
		r.size = in->mem_size;
	} else if (in->mem) {
		r.fits = false;
	}
	return r;
}

static struct role stack_role(const struct trans *t, unsigned base, int offset, int moves, bool write)
{
	return (struct role){
		.fits = base == 4, .access = true, .write = write, .offset = offset, .size = t->width, .moves = moves
	};
}

static struct role role_of(const struct trans *t, unsigned i, unsigned base)
{
	const struct insn *in = &t->insn[i];
	int width = (int)t->width;
	struct role r = { 0 };
	if (trans_fault_of(t, in) >= 0)
		return r;
	switch (trans_op_of(t, in)) {
	case OP_COPY:
	case OP_SETCC:
		return copy_role(t, in, base);
	case OP_NOP:
	case OP_JCC:
		r.fits = true;
		return r;
	case OP_LEA:
		r.fits = trans_lea_is_plain(in); /* others compute in T0 */
		r.last = in->reg == base;
		return r;
	case OP_PUSH:
		r = stack_role(t, base, -width, -width, true);
		r.fits = r.fits && !in->mem;
		return r;
	case OP_POP:
		r = stack_role(t, base, 0, width, false);
		r.fits = r.fits && !in->mem;
		r.last = !in->mem && (in->row->reg_in_opcode ? in->reg : in->rm) == 4;
		return r;
	case OP_LEAVE:
		r = stack_role(t, 4, 0, 0, false);
		r.fits = base == 5;
		r.last = true;
		return r;
	case OP_CALL:
		r = stack_role(t, base, -width, -width, true);
		r.last = true;
		return r;
	case OP_RET:
		r = stack_role(t, base, 0, width, false);
		r.last = true;
		return r;
	default:
		return r;
	}
}

/* The register that instruction i would begin a group by, or -1. */
static int base_of(const struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	switch (trans_op_of(t, in)) {
	case OP_COPY:
	case OP_SETCC:
		return in->mem && in->mem_acc && by_register(t, in) ? in->base : -1;
	case OP_PUSH:
	case OP_POP:
	case OP_CALL:
	case OP_RET:
		return 4;
	case OP_LEAVE:
		return 5;
	default:
		return -1;
	}
}

/* May an instruction that does not belong to a group by this register stand between those that do? */
static bool may_stand_between(const struct trans *t, unsigned i, unsigned base)
{
	const struct insn *in = &t->insn[i];
	if (!t->is64 || t->cpu->vm->no_interleave || trans_fault_of(t, in) >= 0)
		return false;
	switch (trans_op_of(t, in)) {
	case OP_COPY:
	case OP_SETCC:
	case OP_LEA:
		return true;
	case OP_PUSH:
	case OP_POP:
		return !in->mem && base != 4;
	default:
		return false;
	}
}

/* Makes instruction i a member of the group that begins at `first`, if the span allows. */
static bool add_member(struct trans *t, unsigned first, unsigned i, const struct role *r, int at)
{
	int lo = at + r->offset, hi = lo + (int)r->size;
	if (i != first) {
		int min = t->group[first].min, max = min + (int)t->group[first].span;
		lo = min < lo ? min : lo;
		hi = max > hi ? max : hi;
	}
	if (hi - lo > GROUP_SPAN)
		return false;
	t->group[first].min = (int16_t)lo;
	t->group[first].span = (uint16_t)(hi - lo);
	t->group[first].write |= r->write;
	t->group[i].member = true;
	t->group[i].first = (uint8_t)first;
	t->group[i].offset = (int16_t)(at + r->offset);
	t->group[i].disp = (int16_t)r->offset;
	return true;
}

/* The group that begins at `first`, if there is one. */
static void find_group(struct trans *t, unsigned first, unsigned base)
{
	enum { FAR = 16 };
	int at = 0;
	unsigned accesses = 0, last = first;
	bool maybe = false, lost = false, apart = false;
	t->group[first].write = false;
	for (unsigned i = first; i < t->n && i - last < FAR; i++) {
		struct role r = role_of(t, i, base);
		if (!r.fits && may_stand_between(t, i, base)) {
			r = (struct role){ .fits = true, .last = trans_writes_register(&t->insn[i], base) };
			maybe |= trans_op_of(t, &t->insn[i]) != OP_LEA;
			lost = true;
		}
		/* What may not be reached may not be writable, and must not become dirty. */
		if (!r.fits || (maybe && r.write && !t->group[first].write))
			break;
		maybe |= trans_op_of(t, &t->insn[i]) == OP_JCC;
		if (r.access) {
			if (!add_member(t, first, i, &r, at))
				break;
			apart |= lost;
			lost = false;
			accesses++;
			last = i;
		}
		at += r.moves;
		if (r.last)
			break;
	}
	if (accesses < 2) {
		t->group[first].member = false;
		return;
	}
	t->group[first].last = last;
	t->group[first].base = (uint8_t)base;
	t->group[first].apart = apart;
}

void trans_find_groups(struct trans *t)
{
	for (unsigned i = 0; i < t->n; i++)
		t->group[i].last = 0, t->group[i].member = false;
	if (!t->flat || (t->b->mode & SOFT_MODE_SINGLE) || t->cpu->vm->no_groups)
		return;
	for (unsigned i = 0; i + 1 < t->n; i++) {
		bool may = !t->group[i].member && trans_fault_of(t, &t->insn[i]) < 0;
		int base = may ? base_of(t, i) : -1;
		if (base >= 0)
			find_group(t, i, (unsigned)base);
	}
}

/* The register that a group's members are addressed by, beside T0; or EMIT_NONE, T0 being the address of its first byte. */
static unsigned group_index(const struct trans *t, unsigned group)
{
	unsigned host = host_of(t->group[group].base);
	return t->is64 && host != IN_MEMORY ? host : EMIT_NONE;
}

static uint32_t held_off(const struct trans *t, unsigned group)
{
	unsigned base = t->group[group].base;
	return CPU_OFF(held) + 8u * (base == TRANS_RSP ? 4 : base);
}

static void open_group(struct trans *t, unsigned i)
{
	unsigned base = t->group[i].base, host = host_of(base);
	uint32_t how = how_of(t->group[i].span, t->group[i].write ? ACC_RW : ACC_R);
	trans_clobber(t, t->live[i]);
	if (host == IN_MEMORY && base == t->in_t1)
		host = T1;
	else if (host == IN_MEMORY)
		emit_gs(&t->e, EMIT_MOV_LOAD, 8, host = T0, gpr_off(base));
	emit_lea(&t->e, t->width, T0, host, EMIT_NONE, 1, t->group[i].min);
	struct trans_stub *s = trans_check(t, i, how, group_index(t, i), t->group[i].min);
	if (s)
		s->group = true;
	if (!t->group[i].apart)
		return;
	emit_gs(&t->e, EMIT_MOV_STORE, 8, T0, held_off(t, i));
	if (t->apart_to < t->group[i].last)
		t->apart_to = t->group[i].last;
}

/* Does instruction i leave T0 as the group under way has it? */
static bool keeps_held(const struct trans *t, unsigned i)
{
	if (t->group[i].member)
		return t->group[i].first == t->held;
	struct role r = role_of(t, i, t->group[t->held].base);
	return r.fits && !r.access;
}

void trans_group_step(struct trans *t, unsigned i)
{
	if (t->held != NO_GROUP && (i > t->group[t->held].last || !keeps_held(t, i)))
		t->held = NO_GROUP;
	t->in_group = false;
	if (t->group[i].member && t->held == NO_GROUP) {
		t->held = t->group[i].first;
		if (i == t->held)
			open_group(t, i);
		else
			emit_gs(&t->e, EMIT_MOV_LOAD, 8, T0, held_off(t, t->held));
	}
	t->in_group = t->held != NO_GROUP;
}

bool trans_grouped(struct trans *t, unsigned i)
{
	if (t->loop.fast)
		return trans_loop_access(t, i);
	if (!t->in_group || !t->group[i].member)
		return false;
	t->index = group_index(t, t->held);
	t->disp = t->index == EMIT_NONE ? t->group[i].offset - t->group[t->held].min : t->group[i].disp;
	return true;
}
