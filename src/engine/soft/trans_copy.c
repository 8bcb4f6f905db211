/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_copy.c - instructions that the host executes as they are.
 *
 * Only the register numbers and the memory operand change: the operand is [T0 + disp], a host address. Guest registers
 * that live in memory are loaded into a scratch register before and stored after. High-byte registers (AH ...) can't
 * be named beside r8-r15, so an instruction that has one lends a low register for the while.
 */
#include "engine/soft/trans.h"

enum { FIELD_REG, FIELD_RM, FIELD_VVVV, FIELDS };

/* One instruction's plan: the host register of each field. */
struct plan {
	struct {
		unsigned kind, acc, guest, host;
		bool high8;
	} field[FIELDS];
	unsigned used;        /* host registers that may not be borrowed */
	unsigned base, index; /* of the memory operand */
	struct {
		unsigned guest, host, acc;
	} loaded[FIELDS]; /* guest registers in memory */
	unsigned n_loaded;
	struct {
		unsigned host, slot;
	} lent[3];
	unsigned n_lent;
	bool no_rex;
};

static unsigned borrow(struct trans *t, struct plan *p, bool legacy)
{
	static const uint8_t low[] = { HOST_RSI, HOST_RDI, HOST_RBX, HOST_RDX, HOST_RCX, HOST_RAX };
	static const uint8_t any[] = { HOST_R8, HOST_R9, HOST_R12, HOST_R13, HOST_R14, HOST_RBP };
	const uint8_t *list = legacy ? low : any;
	unsigned reg = list[0];
	for (unsigned k = 0; k < 6; k++) {
		if (!(p->used & 1u << list[k])) {
			reg = list[k];
			break;
		}
	}
	unsigned slot = 4 + p->n_lent;
	emit_gs(&t->e, EMIT_MOV_STORE, 8, reg, CPU_OFF(scratch) + 8 * slot);
	p->lent[p->n_lent].host = reg;
	p->lent[p->n_lent++].slot = slot;
	p->used |= 1u << reg;
	return reg;
}

/* A host register for a guest register that lives in memory. */
static unsigned load_field(struct trans *t, struct plan *p, unsigned k, unsigned opsize)
{
	unsigned guest = p->field[k].guest;
	for (unsigned j = 0; j < p->n_loaded; j++) {
		if (p->loaded[j].guest == guest) {
			if ((p->field[k].acc & ACC_R) && !(p->loaded[j].acc & ACC_R))
				emit_gs(&t->e, EMIT_MOV_LOAD, 8, p->loaded[j].host, gpr_off(guest));
			p->loaded[j].acc |= p->field[k].acc;
			return p->loaded[j].host;
		}
	}
	unsigned host;
	if (!(p->used & 1u << T1))
		host = T1;
	else if (!(p->used & 1u << T0))
		host = T0;
	else
		host = borrow(t, p, false);
	p->used |= 1u << host;
	bool load = (p->field[k].acc & ACC_R) || opsize < 4;
	if (host == T1 && load)
		trans_load_t1(t, guest);
	else if (host == T1)
		t->in_t1 = (uint8_t)guest;
	else if (load)
		emit_gs(&t->e, EMIT_MOV_LOAD, 8, host, gpr_off(guest));
	p->loaded[p->n_loaded].guest = guest;
	p->loaded[p->n_loaded].host = host;
	p->loaded[p->n_loaded++].acc = p->field[k].acc;
	return host;
}

static void plan_fields(struct trans *t, const struct insn *in, struct plan *p)
{
	const struct insn_row *row = in->row;
	p->field[FIELD_REG].kind = in->has_modrm || row->reg_in_opcode ? row->reg_kind : REG_NONE;
	p->field[FIELD_REG].acc = row->reg_acc;
	p->field[FIELD_REG].guest = in->reg;
	p->field[FIELD_RM].kind = in->has_modrm && !in->mem ? row->rm_kind : REG_NONE;
	p->field[FIELD_RM].acc = row->rm_acc;
	p->field[FIELD_RM].guest = in->rm;
	p->field[FIELD_VVVV].kind = in->enc == ENC_LEGACY ? REG_NONE : row->vvvv_kind;
	p->field[FIELD_VVVV].acc = row->vvvv_acc;
	p->field[FIELD_VVVV].guest = in->vvvv;
	p->used = row->implicit_read | row->implicit_written | 1u << HOST_RSP | t->reserved;
	if (in->mem || t->in_group)
		p->used |= 1u << T0;
	if (in->mem && t->index != EMIT_NONE)
		p->used |= 1u << t->index;
	for (unsigned k = 0; k < FIELDS; k++) {
		if (p->field[k].kind != REG_GPR) {
			p->field[k].host = p->field[k].guest;
			continue;
		}
		unsigned n = p->field[k].guest;
		if (insn_high8(in, k == FIELD_RM ? in->rm_size : in->reg_size, n)) {
			p->field[k].high8 = true;
			p->no_rex = true;
			p->field[k].host = n;
			p->used |= 1u << (n - 4);
			continue;
		}
		p->field[k].host = host_of(n);
		if (p->field[k].host != IN_MEMORY)
			p->used |= 1u << p->field[k].host;
	}
	unsigned size = in->enc == ENC_LEGACY ? in->opsize : 8;
	for (unsigned k = 0; k < FIELDS; k++) {
		if (p->field[k].kind == REG_GPR && p->field[k].host == IN_MEMORY)
			p->field[k].host = load_field(t, p, k, size);
	}
}

/* With a high-byte register nothing may need a REX prefix. */
static void plan_no_rex(struct trans *t, const struct insn *in, struct plan *p)
{
	if (in->mem) {
		p->base = borrow(t, p, true);
		emit_lea(&t->e, 8, p->base, t->base, p->index, 1, 0);
		p->index = EMIT_NONE;
	}
	for (unsigned k = 0; k < FIELDS; k++) {
		if (p->field[k].kind != REG_GPR || p->field[k].high8 || p->field[k].host < 8)
			continue;
		unsigned reg = borrow(t, p, true);
		emit_mov(&t->e, 8, reg, p->field[k].host);
		p->loaded[p->n_loaded].guest = p->field[k].guest;
		p->loaded[p->n_loaded].host = reg;
		p->loaded[p->n_loaded++].acc = p->field[k].acc;
		p->field[k].host = reg;
	}
}

static void plan_finish(struct trans *t, const struct plan *p)
{
	for (unsigned j = 0; j < p->n_loaded; j++) {
		if (!(p->loaded[j].acc & ACC_W))
			continue;
		unsigned host = host_of(p->loaded[j].guest);
		if (host == IN_MEMORY)
			emit_gs(&t->e, EMIT_MOV_STORE, 8, p->loaded[j].host, gpr_off(p->loaded[j].guest));
		else
			emit_mov(&t->e, 8, host, p->loaded[j].host);
	}
	for (unsigned j = p->n_lent; j-- > 0;)
		emit_gs(&t->e, EMIT_MOV_LOAD, 8, p->lent[j].host, CPU_OFF(scratch) + 8 * p->lent[j].slot);
}

/* Part of the opcode; or the operand size, which is also that of the x87's environment. */
static bool needs_66(const struct trans *t, const struct insn *in)
{
	if (soft_mode_code(t->mode) != INSN_MODE_16 || insn_selected_by_66(in) || in->row->flags & (ROW_SSE | ROW_MMX))
		return in->opsz66;
	return in->opsize == 2;
}

static void emit_opcode(struct trans *t, const struct insn *in, unsigned opcode)
{
	struct emit *e = &t->e;
	if (in->map != MAP_ONE)
		emit8(e, 0x0f);
	if (in->map == MAP_0F38)
		emit8(e, 0x38);
	else if (in->map == MAP_0F3A)
		emit8(e, 0x3a);
	emit8(e, opcode);
}

/* What goes into the fields of an encoding: the plan's registers, or else what the guest's has there. rm is the base of an
 * operand in memory, and x the index, or 0. */
struct operands {
	unsigned reg, rm, vvvv, x;
};

static struct operands operands_of(const struct insn *in, const struct plan *p)
{
	struct operands o = { .reg = in->modrm >> 3 & 7, .rm = in->modrm & 7 };

	if (p->field[FIELD_REG].kind != REG_NONE)
		o.reg = p->field[FIELD_REG].host;
	if (p->field[FIELD_RM].kind != REG_NONE)
		o.rm = p->field[FIELD_RM].host;
	if (p->field[FIELD_VVVV].kind != REG_NONE)
		o.vvvv = p->field[FIELD_VVVV].host;
	if (in->mem) {
		o.rm = p->base;
		o.x = p->index == EMIT_NONE ? 0 : p->index;
	}
	return o;
}

static void emit_legacy(struct trans *t, const struct insn *in, const struct plan *p)
{
	struct emit *e = &t->e;
	const struct insn_row *row = in->row;
	const struct operands o = operands_of(in, p);
	unsigned opcode = in->opcode;
	bool modrm = in->has_modrm;

	if (in->lock)
		emit8(e, 0xf0);
	if (needs_66(t, in))
		emit8(e, 0x66);
	if (in->rep_mandatory) /* elsewhere it has no meaning, or is a hint (XACQUIRE) */
		emit8(e, in->rep);
	unsigned rex = 0;
	if (modrm)
		rex = (o.reg >> 3 & 1) << 2 | (o.x >> 3 & 1) << 1 | (o.rm >> 3 & 1);
	else if (row->reg_in_opcode)
		rex = o.reg >> 3 & 1;
	rex |= (unsigned)in->w << 3;
	if (rex || in->rex)
		emit8(e, 0x40 | rex);
	emit_opcode(t, in, row->reg_in_opcode ? (opcode & 0xf8) | (o.reg & 7) : opcode);
	if (modrm && in->mem)
		emit_modrm_disp(e, o.reg, o.rm, p->index, t->disp);
	else if (modrm)
		emit_modrm(e, 3, o.reg, o.rm);
}

static void emit_vex(struct trans *t, const struct insn *in, const struct plan *p)
{
	struct emit *e = &t->e;
	const struct operands o = operands_of(in, p);
	emit8(e, 0xc4);
	emit8(e, (~o.reg & 8) << 4 | (~o.x & 8) << 3 | (~o.rm & 8) << 2 | in->map);
	emit8(e, (unsigned)in->w << 7 | (~o.vvvv & 15) << 3 | (unsigned)(in->vl & 1) << 2 | in->vpp);
	emit8(e, in->opcode);
	if (in->has_modrm && in->mem)
		emit_modrm_disp(e, o.reg, o.rm, p->index, t->disp);
	else if (in->has_modrm)
		emit_modrm(e, 3, o.reg, o.rm);
}

static void emit_evex(struct trans *t, const struct insn *in, const struct plan *p)
{
	struct emit *e = &t->e;
	const struct operands o = operands_of(in, p);
	emit8(e, 0x62);
	/* X is the top bit of the index, or of a vector register in rm. */
	unsigned x = in->mem ? o.x : o.rm >> 1;
	emit8(e, (~o.reg & 8) << 4 | (~x & 8) << 3 | (~o.rm & 8) << 2 | (~o.reg & 16) | in->map);
	emit8(e, (unsigned)in->w << 7 | (~o.vvvv & 15) << 3 | 4 | in->vpp);
	emit8(e, (in->evex_p[2] & ~8u) | (~o.vvvv & 16) >> 1);
	emit8(e, in->opcode);
	if (in->mem)
		emit_modrm_disp_evex(e, o.reg, o.rm, p->index, t->disp, in->disp_unit);
	else
		emit_modrm(e, 3, o.reg, o.rm);
}

void op_copy(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	uint16_t passing = t->live[i + 1] & (uint16_t)~in->flags_written;
	if ((in->flags_read | (in->flags_written ? passing : 0)) & FLAG_ARITH)
		trans_need_flags(t);

	struct plan p = { .base = t->base, .index = t->index };
	plan_fields(t, in, &p);
	if (p.no_rex)
		plan_no_rex(t, in, &p);
	trans_map(t, i, t->loop.fast ? SOFT_MAP_LOOP : 0);
	if (in->enc == ENC_LEGACY)
		emit_legacy(t, in, &p);
	else if (in->enc == ENC_EVEX)
		emit_evex(t, in, &p);
	else
		emit_vex(t, in, &p);
	for (unsigned k = in->len - in->imm_size; k < in->len; k++)
		emit8(&t->e, in->bytes[k]);
	plan_finish(t, &p);
	if (p.no_rex)
		t->in_t1 = INSN_NO_REG;
	if (in->flags_written)
		t->flags = FLAGS_HOST;
}

void trans_copy(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	if (!in->mem || in->mem_acc == ACC_NONE || in->mem_size == 0) {
		op_copy(t, i);
		return;
	}
	if (trans_grouped(t, i)) {
		op_copy(t, i);
		return;
	}
	/* The x87 does not store what raises an exception that is not masked: a bounced store must find what was there. */
	unsigned acc = in->mem_acc | (in->row->flags & ROW_FPU ? ACC_R : 0u);
	uint32_t how = how_operand(in, in->mem_size, acc);
	/* XCHG with memory is locked without the prefix. */
	if (in->map == MAP_ONE && (in->opcode == 0x86 || in->opcode == 0x87))
		how |= SOFT_HOW_LOCK;
	trans_clobber(t, t->live[i]);
	trans_access_operand(t, i, how, op_copy);
}

/* Disabled lanes are not accessed: where the whole operand may be, the host's own instruction sees to that; elsewhere
 * (a page missing, a device, translated code, a segment's limit) the helper goes lane by lane. */
void trans_masked(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	bool implicit = in->row->flags & ROW_REG_ONLY; /* MASKMOVQ, MASKMOVDQU: the address is rDI */
	if (implicit || (!t->is64 && (!t->flat || (t->mode & SOFT_MODE_WIDE)))) {
		trans_helper(t, i, 0);
		return;
	}
	uint32_t how = how_operand(in, in->mem_size, in->mem_acc);
	trans_clobber(t, t->live[i]);
	trans_linear(t, i, how);
	trans_access_or_help(t, i, how, op_copy);
}

/* The same for EVEX, where the masked instruction may be any: what can't be accessed as it stands is prepared lane by
 * lane in a buffer by the helper, and stored from there when the instruction is done. */
void trans_evex_masked(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	uint32_t how = how_operand(in, in->mem_size, in->mem_acc);
	trans_clobber(t, t->live[i]);
	if (!t->is64 && (!t->flat || (t->mode & SOFT_MODE_WIDE))) {
		trans_access_by_lane(t, i, op_copy);
		return;
	}
	trans_linear(t, i, how);
	trans_access_or_help(t, i, how, op_copy);
}
