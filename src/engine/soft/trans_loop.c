/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_loop.c - loops of one block, with their memory checks taken out of the iterations.
 *
 * The problem. A loop that walks through arrays spends most of its time, once translated, in checks of addresses, each of
 * which differs from the last iteration's by a constant.
 *
 * The scheme. A hot block that ends by a conditional branch to its own start is a loop. An operand whose registers
 * change by constants only is a *stream*: its addresses in the next `copies` iterations are known when the first begins. So
 * the loop is laid out as
 *
 *	entry:	borrowed registers are put away
 *	head:	kicked? for each stream: is all that it will touch in one page? its host address to a register
 *	fast:	the body, `copies` times, where a stream's operand is [register + constant], each with the loop's branch
 *		jump to head
 *	slow:	borrowed registers back; the body as usual, once; jump to entry
 *
 * Registers that the loop does not mention are borrowed for the host addresses: their values wait in gpr[], where the
 * way out takes them from. Operands that are no streams are checked by the TLB in their place; what that can't pass leaves
 * (*bails*) for the dispatcher at that very instruction, which goes on in an ordinary block; or, at the first instruction, for the
 * slow iteration: the dispatcher would come back to the same loop for ever.
 *
 * Rules:
 * - No flags are live at the loop's start, since the checks destroy them.
 * - The checks cover what later iterations touch, which may not happen; but all of it lies in a page that the first
 *   iteration touches for certain, so no access or dirty bit is set that would not be anyway.
 * - Fast code never calls C: it would put host addresses where C looks for guest registers. A fault of a copied instruction
 *   is told by SOFT_MAP_LOOP which registers are borrowed (block->borrowed).
 * - The jump to the head is no link. A loop whose code is dropped while another CPU runs it ends when that CPU is kicked,
 *   which is what serialises it.
 */
#include <stddef.h>

#include "engine/soft/trans.h"

enum {
	LOOP_COPIES = 8,
	LOOP_INSNS = 48,   /* in all copies */
	LOOP_SPAN = 1024,  /* bytes that one stream may touch in all copies */
	LOOP_REACH = 2048, /* of an operand's displacement */
	NO_STREAM = 0xff,
};

/* ---- Analysis ---- */

/* Adds what an instruction adds to a register. False if it changes it otherwise. */
static bool moves(const struct trans *t, const struct insn *in, unsigned reg, int64_t *by)
{
	unsigned ext = in->modrm >> 3 & 7;
	if (!trans_writes_register(in, reg))
		return true;
	if (in->opsize != 8 || !in->has_modrm)
		return false;
	if (trans_op_of(t, in) == OP_LEA && in->base == reg && in->index == INSN_NO_REG && in->addrsize == 8) {
		*by += in->disp;
		return true;
	}
	if (in->op != OP_COPY || in->map != MAP_ONE || in->mem || in->rm != reg)
		return false;
	if ((in->opcode == 0x81 || in->opcode == 0x83) && (ext == 0 || ext == 5))
		*by += ext ? -in->imm : in->imm;
	else if (in->opcode == 0xff && ext < 2)
		*by += ext ? -1 : 1;
	else
		return false;
	return *by >= -LOOP_REACH && *by <= LOOP_REACH;
}

static bool accesses(const struct insn *in)
{
	return in->mem && in->mem_acc && in->mem_size;
}

static bool simple(const struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	if (trans_fault_of(t, in) >= 0 || in->lock)
		return false;
	switch (trans_op_of(t, in)) {
	case OP_NOP:
		return true;
	case OP_LEA: /* others compute in T0 */
		return host_of(in->reg) != IN_MEMORY && in->opsize == 8 && in->addrsize == 8 && in->base != INSN_RIP &&
		       in->base != INSN_NO_REG && host_of(in->base) != IN_MEMORY;
	case OP_COPY:
	case OP_SETCC:
		/* XCHG with memory is locked. */
		return !in->mem ||
		       (in->addrsize == 8 && in->seg != ENGINE_FS && in->seg != ENGINE_GS && in->mem_size <= 64 &&
			!(in->map == MAP_ONE && (in->opcode == 0x86 || in->opcode == 0x87)));
	default:
		return false;
	}
}

/* How far a register is from its value at the iteration's start, before instruction `upto`. */
static bool moved(const struct trans *t, unsigned reg, unsigned upto, int64_t *by)
{
	*by = 0;
	if (reg == INSN_NO_REG || reg == INSN_RIP)
		return true;
	for (unsigned i = 0; i < t->n - 1; i++) {
		int64_t ignored = *by;
		if (!moves(t, &t->insn[i], reg, i < upto ? by : &ignored))
			return false;
	}
	return true;
}

/* The offset of instruction i's operand from base + index * scale at the iteration's start; or false. */
static bool operand_offset(const struct trans *t, unsigned i, int64_t *offset, int64_t *stride)
{
	const struct insn *in = &t->insn[i];
	int64_t base, index, base_all, index_all;
	if (!moved(t, in->base, i, &base) || !moved(t, in->index, i, &index) || !moved(t, in->base, t->n, &base_all) ||
	    !moved(t, in->index, t->n, &index_all))
		return false;
	int64_t scale = in->index == INSN_NO_REG ? 0 : in->scale;
	*offset = base + index * scale + (in->base == INSN_RIP ? (int64_t)trans_rip(t, i + 1) : 0) + in->disp;
	*stride = base_all + index_all * scale;
	return true;
}

static bool same_expression(const struct insn *a, const struct insn *b)
{
	return a->base == b->base && a->index == b->index && (a->index == INSN_NO_REG || a->scale == b->scale);
}

/* Puts instruction i's access into a stream, a new one if need be. False: it is checked by itself. */
static bool into_stream(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	struct trans_loop *l = &t->loop;
	int64_t offset, stride;
	if (!operand_offset(t, i, &offset, &stride) || stride > 128 || stride < -128)
		return false;
	unsigned k = 0;
	for (; k < l->streams; k++) {
		int64_t away = offset - l->stream[k].origin;
		if (same_expression(in, &t->insn[l->stream[k].insn]) && away >= -LOOP_SPAN / 2 && away <= LOOP_SPAN / 2)
			break;
	}
	if (k == TRANS_LOOP_STREAMS)
		return false;
	struct trans_stream *s = &l->stream[k];
	if (k == l->streams) {
		*s = (struct trans_stream){ .insn = (uint8_t)i, .origin = offset, .stride = (int)stride };
		l->streams++;
	}
	int lo = (int)(offset - s->origin), hi = lo + in->mem_size;
	s->lo = lo < s->lo ? lo : s->lo;
	s->hi = hi > s->hi ? hi : s->hi;
	s->write |= (in->mem_acc & ACC_W) != 0;
	l->member[i] = (uint8_t)k;
	l->offset[i] = lo;
	return true;
}

static void choose_copies(struct trans *t)
{
	struct trans_loop *l = &t->loop;
	l->copies = LOOP_INSNS / (t->n - 1);
	if (l->copies > LOOP_COPIES)
		l->copies = LOOP_COPIES;
	for (unsigned k = 0; k < l->streams; k++) {
		struct trans_stream *s = &l->stream[k];
		int stride = s->stride < 0 ? -s->stride : s->stride;
		while (l->copies > 1 && stride * (int)(l->copies - 1) + s->hi - s->lo > LOOP_SPAN)
			l->copies--;
	}
}

/* Guest registers that the loop does not mention and that can be the base of an operand without more ado. */
static uint16_t spare_registers(const struct trans *t)
{
	uint16_t used = 0;
	for (unsigned i = 0; i < t->n; i++) {
		const struct insn *in = &t->insn[i];
		used |= in->row->implicit_read | in->row->implicit_written;
		if (in->mem && in->base < 16)
			used |= (uint16_t)(1u << in->base);
		if (in->mem && in->index < 16)
			used |= (uint16_t)(1u << in->index);
		used |= (uint16_t)(1u << (in->reg & 15) | 1u << (in->vvvv & 15));
		if (in->has_modrm && !in->mem)
			used |= (uint16_t)(1u << (in->rm & 15));
		if (in->opsize == 1 || in->reg_size == 1 || in->rm_size == 1) /* AH belongs to RAX */
			used |= 0xf;
	}
	const uint16_t able = 1u << HOST_RAX | 1u << HOST_RCX | 1u << HOST_RDX | 1u << HOST_RBX | 1u << HOST_RSI |
			      1u << HOST_RDI | 1u << HOST_R8 | 1u << HOST_R9 | 1u << HOST_R14;
	return able & (uint16_t)~used;
}

/* Each stream's register; those that find none are checked in their place. */
static void assign_registers(struct trans *t)
{
	struct trans_loop *l = &t->loop;
	uint16_t spare = spare_registers(t);
	l->borrowed = 0;
	for (unsigned k = 0; k < l->streams; k++) {
		if (!spare) {
			for (unsigned i = 0; i < t->n; i++)
				l->member[i] = l->member[i] >= k ? NO_STREAM : l->member[i];
			l->streams = k;
			return;
		}
		l->stream[k].host = (uint8_t)__builtin_ctz(spare);
		l->borrowed |= (uint16_t)(1u << l->stream[k].host);
		spare &= (uint16_t)(spare - 1);
	}
}

bool trans_is_loop(struct trans *t)
{
	const struct insn *last = &t->insn[t->n - 1];
	struct trans_loop *l = &t->loop;
	if (!t->lessons.hot || t->cpu->vm->no_loops || !t->is64 || t->n < 2 || t->b->gpa2 || t->live[0] ||
	    (t->b->mode & (SOFT_MODE_SINGLE | SOFT_MODE_STEP)) || trans_fault_of(t, last) >= 0 ||
	    trans_op_of(t, last) != OP_JCC || trans_rip(t, t->n) + (uint64_t)last->imm != t->b->rip)
		return false;
	l->streams = 0;
	unsigned in_streams = 0, loose = 0;
	for (unsigned i = 0; i < t->n; i++) {
		l->member[i] = NO_STREAM;
		if (i + 1 < t->n && !simple(t, i))
			return false;
		if (!accesses(&t->insn[i]))
			continue;
		if (into_stream(t, i))
			in_streams++;
		else
			loose++;
	}
	choose_copies(t);
	assign_registers(t);
	return l->streams && l->copies > 1 && in_streams >= loose;
}

/* ---- Code ---- */

static void restore(struct trans *t)
{
	for (unsigned reg = 0; reg < 16; reg++) {
		if (t->loop.borrowed >> reg & 1)
			emit_gs(&t->e, EMIT_MOV_LOAD, 8, reg, gpr_off(reg));
	}
}

void trans_loop_check(struct trans *t, unsigned i, uint32_t how)
{
	trans_tlb_check(t, how);
	t->loop.bail[t->loop.bails++] = (struct trans_bail){ t->e.p - 4, (uint8_t)i, t->flags };
	trans_tlb_add_host(t);
}

bool trans_loop_access(struct trans *t, unsigned i)
{
	const struct trans_loop *l = &t->loop;
	if (l->member[i] == NO_STREAM)
		return false;
	const struct trans_stream *s = &l->stream[l->member[i]];
	int least = s->stride < 0 ? s->stride * (int)(l->copies - 1) : 0;
	t->base = s->host;
	t->index = EMIT_NONE;
	t->disp = l->offset[i] - s->lo - least + (int)l->copy * s->stride;
	return true;
}

/* T0 = the host address of the first byte that a stream will touch. Returns the branch for when it can't. */
static uint8_t *check_stream(struct trans *t, const struct trans_stream *s)
{
	struct insn *in = &t->insn[s->insn];
	int64_t disp = in->disp;
	int reach = s->stride * (int)(t->loop.copies - 1), least = reach < 0 ? reach : 0;
	int64_t rip = in->base == INSN_RIP ? (int64_t)trans_rip(t, s->insn + 1) : 0;
	in->disp = s->origin - rip + s->lo + least; /* with the registers as they are at the iteration's start */
	trans_offset_of(t, s->insn, T0);
	in->disp = disp;
	trans_tlb_check(t, how_of((unsigned)(s->hi - s->lo + (reach < 0 ? -reach : reach)), s->write ? ACC_RW : ACC_R));
	uint8_t *miss = t->e.p - 4;
	trans_tlb_add_host(t);
	return miss;
}

static void fast_body(struct trans *t, uint8_t *exits[LOOP_COPIES], const uint8_t *head)
{
	struct trans_loop *l = &t->loop;
	const struct insn *last = &t->insn[t->n - 1];
	l->fast = true;
	for (l->copy = 0; l->copy < l->copies; l->copy++) {
		for (unsigned i = 0; i + 1 < t->n; i++) {
			t->reserved = l->borrowed;
			trans_insn(t, i);
			t->base = T0;
		}
		trans_need_flags(t);
		bool end = l->copy + 1 == l->copies;
		exits[l->copy] = emit_jcc(&t->e, last->cond ^ 1u, false);
		if (end)
			emit_jmp_to(&t->e, head);
		else
			trans_clobber(t, 0);
	}
	t->reserved = 0;
	l->fast = false;
}

/* Ways out of the fast code, all with the borrowed registers in use. */
static void loop_exits(struct trans *t, uint8_t *exits[LOOP_COPIES], uint8_t *kicked)
{
	struct trans_loop *l = &t->loop;
	for (unsigned k = 0; k < l->copies; k++)
		emit_patch(exits[k], t->e.p);
	restore(t);
	t->flags = FLAGS_HOST;
	trans_edge(t, 1, trans_rip(t, t->n), t->n - 1);
	emit_patch(kicked, t->e.p);
	restore(t);
	t->flags = FLAGS_DEAD;
	trans_dispatch(t, t->b->rip);
	for (unsigned k = 0; k < l->bails; k++) {
		if (!l->bail[k].insn)
			continue;
		emit_patch(l->bail[k].branch, t->e.p);
		restore(t);
		t->flags = l->bail[k].flags;
		trans_dispatch(t, trans_rip(t, l->bail[k].insn));
	}
}

void trans_loop(struct trans *t)
{
	struct trans_loop *l = &t->loop;
	struct emit *e = &t->e;
	uint8_t *misses[TRANS_LOOP_STREAMS], *exits[LOOP_COPIES], *entry = e->p;
	l->bails = 0;
	t->b->borrowed = l->borrowed;
	for (unsigned reg = 0; reg < 16; reg++) {
		if (l->borrowed >> reg & 1)
			emit_gs(e, EMIT_MOV_STORE, 8, reg, gpr_off(reg));
	}
	const uint8_t *head = e->p;
	emit_gs_cmp8(e, CPU_OFF(kick), 0);
	uint8_t *kicked = emit_jcc(e, CC_NZ, false);
	for (unsigned k = 0; k < l->streams; k++) {
		misses[k] = check_stream(t, &l->stream[k]);
		emit_mov(e, 8, l->stream[k].host, T0);
	}
	fast_body(t, exits, head);

	for (unsigned k = 0; k < l->streams; k++)
		emit_patch(misses[k], e->p);
	/* By way of the dispatcher they would come to this block's start again, which does not have them missed in C. */
	for (unsigned k = 0; k < l->bails; k++) {
		if (!l->bail[k].insn)
			emit_patch(l->bail[k].branch, e->p);
	}
	restore(t);
	t->flags = FLAGS_DEAD;
	for (unsigned i = 0; i + 1 < t->n; i++) {
		trans_group_step(t, i);
		trans_insn(t, i);
	}
	t->in_group = false;
	trans_need_flags(t);
	emit_patch(emit_jcc(e, t->insn[t->n - 1].cond, false), entry);
	trans_edge(t, 0, trans_rip(t, t->n), t->n - 1);
	loop_exits(t, exits, kicked);
	t->done = true;
}
