/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_loop.c - loops of one block, with their memory checks taken out of the iterations.
 *
 * The problem. A loop that walks through arrays spends most of its time, once translated, in checks of addresses, each of
 * which differs from the last iteration's by a constant.
 *
 * The scheme. A hot block that ends by a conditional branch to its own start is a loop; branches out of it may stand
 * before. An operand whose address goes on by a constant belongs to a *stream* (trans_stream.c): it can be told for how many
 * iterations it stays in its page. So the loop is laid out as
 *
 *	entry:	borrowed registers are put away
 *	head:	kicked? for each stream: is what it touches first in one page? its host address to a register; the least
 *		number of iterations that any stream stays in its page, to another
 *	fast:	the body, a stream's operand being [register + ...]; out of the loop if its branch says so
 *		again for as many iterations; jump to head
 *	slow:	borrowed registers back; the body as usual, once; jump to entry, or, if kicked, leave
 *
 * A kick that was there before the loop began leaves after one iteration: whoever set it counts on some progress.
 *
 * Registers that the loop does not mention are borrowed for the host addresses and the count: their values wait in gpr[],
 * where the way out takes them from. Operands that are no streams are checked by the TLB in their place; what that can't
 * pass leaves (*bails*) for the dispatcher at that very instruction, which goes on in an ordinary block; or, at the first
 * instruction, for the slow iteration: the dispatcher would come back to the same loop for ever.
 *
 * Rules:
 * - No flags are live at the loop's start, since the checks destroy them.
 * - The checks pass by what the TLB holds and never walk, so no access or dirty bit is set by them.
 * - Fast code never calls C: it would put host addresses where C looks for guest registers. A fault of a copied instruction
 *   is told by SOFT_MAP_LOOP which registers are borrowed (block->borrowed).
 * - The jump to the head is no link. A loop whose code is dropped while another CPU runs it ends when that CPU is kicked,
 *   which is what serialises it. LOOP_WORK bounds how long that takes.
 */
#include <stddef.h>

#include "engine/soft/trans.h"

enum {
	LOOP_WORK = 4096, /* instructions between two looks at `kick` */
	RECIPROCAL = 1 << 24,
};

bool trans_accesses(const struct insn *in)
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
	case OP_LEA:
	case OP_JCC:
		return true;
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

bool trans_is_loop(struct trans *t)
{
	const struct insn *last = &t->insn[t->n - 1];
	if (!t->lessons.hot || t->cpu->vm->no_loops || !t->is64 || t->n < 2 || t->b->gpa2 || t->live[0] ||
	    (t->b->mode & (SOFT_MODE_SINGLE | SOFT_MODE_STEP)) || trans_fault_of(t, last) >= 0 ||
	    trans_op_of(t, last) != OP_JCC || trans_rip(t, t->n) + (uint64_t)last->imm != t->b->rip)
		return false;
	for (unsigned i = 0; i + 1 < t->n; i++) {
		if (!simple(t, i))
			return false;
	}
	return trans_find_streams(t);
}

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
	if (l->member[i] == TRANS_NO_STREAM)
		return false;
	const struct trans_stream *s = &l->stream[l->member[i]];
	t->base = s->host;
	t->index = s->by == EMIT_NONE ? EMIT_NONE : host_of(s->by);
	t->disp = l->offset[i];
	return true;
}

/* T0 = the sum, plus more. A borrowed register's value is in gpr[]. */
static void emit_sum(struct trans *t, const struct trans_sum *sum, int more)
{
	struct emit *e = &t->e;
	int64_t plus = (int64_t)((uint64_t)sum->plus + (uint64_t)(int64_t)more);
	bool wide = plus != (int32_t)plus, any = wide;
	if (wide)
		emit_mov_imm(e, T0, (uint64_t)plus);
	for (unsigned r = 0; r < 16; r++) {
		unsigned host = t->loop.borrowed >> r & 1 ? IN_MEMORY : host_of(r);
		if (sum->times[r] <= 0)
			continue;
		if (host == IN_MEMORY)
			emit_gs(e, EMIT_MOV_LOAD, 8, host = T1, gpr_off(r));
		if (!any && sum->times[r] == 1)
			emit_mov(e, 8, T0, host);
		else
			emit_lea(e, 8, T0, any ? T0 : EMIT_NONE, host, (unsigned)sum->times[r], 0);
		any = true;
	}
	if (!any)
		emit_mov_imm(e, T0, (uint64_t)plus);
	else if (!wide && plus)
		emit_lea(e, 8, T0, T0, EMIT_NONE, 1, (int32_t)plus);
	for (unsigned r = 0; r < 16; r++) {
		if (sum->times[r] >= 0)
			continue;
		if (t->loop.borrowed >> r & 1 || host_of(r) == IN_MEMORY)
			emit_gs(e, EMIT_SUB, 8, T0, gpr_off(r));
		else
			emit_rr(e, EMIT_SUB, 8, T0, host_of(r));
	}
}

/* With a stream's offset in its page in its register: at most as many iterations after the next as it stays there. */
static void limit_count(struct trans *t, const struct trans_stream *s)
{
	struct emit *e = &t->e;
	int stride = s->stride < 0 ? -s->stride : s->stride;
	if (s->stride > 0) {
		emit_mov_imm(e, T1, (uint64_t)(4096 - (s->hi - s->lo)));
		emit_rr(e, EMIT_SUB, 8, T1, s->host);
	} else {
		emit_mov(e, 8, T1, s->host);
	}
	if (stride & (stride - 1)) {
		emit_imul_imm(e, T1, T1, RECIPROCAL / stride + 1);
		emit_shift(e, 8, 5, T1, 24);
	} else if (stride > 1) {
		emit_shift(e, 4, 5, T1, (unsigned)__builtin_ctz((unsigned)stride));
	}
	emit_rr(e, EMIT_CMP, 8, t->loop.counter, T1);
	emit_cmov(e, CC_A, t->loop.counter, T1);
}

/* A stream's host address to its register. Returns the branch for when it can't. */
static uint8_t *check_stream(struct trans *t, const struct trans_stream *s)
{
	struct emit *e = &t->e;
	emit_sum(t, &s->start, s->lo);
	trans_tlb_check(t, how_of((unsigned)(s->hi - s->lo), s->write ? ACC_RW : ACC_R));
	uint8_t *miss = e->p - 4;
	if (s->stride)
		emit_mov(e, 8, s->host, T0);
	trans_tlb_add_host(t);
	if (s->stride)
		limit_count(t, s);
	emit_mov(e, 8, s->host, T0);
	if (s->by != EMIT_NONE)
		emit_rr(e, EMIT_SUB, 8, s->host, host_of(s->by));
	return miss;
}

static void fast_body(struct trans *t, const uint8_t *head)
{
	struct trans_loop *l = &t->loop;
	struct emit *e = &t->e;
	const uint8_t *body = e->p;
	l->fast = true;
	t->flags = FLAGS_DEAD;
	t->in_t1 = INSN_NO_REG;
	for (unsigned i = 0; i < t->n; i++) {
		const struct insn *in = &t->insn[i];
		if (trans_op_of(t, in) == OP_JCC) {
			trans_need_flags(t);
			l->leave[l->leaves++] =
			    (struct trans_bail){ emit_jcc(e, i + 1 == t->n ? in->cond ^ 1u : in->cond, false),
						 (uint8_t)i, FLAGS_HOST };
			continue;
		}
		t->reserved = l->borrowed;
		trans_insn(t, i);
		t->base = T0;
		t->index = EMIT_NONE;
	}
	t->reserved = 0;
	l->fast = false;
	for (unsigned k = 0; k < l->streams; k++) {
		if (l->stream[k].stride && l->stream[k].by == EMIT_NONE)
			emit_alu_imm(e, 8, 0, l->stream[k].host, l->stream[k].stride);
	}
	emit_alu_imm(e, 8, 5, l->counter, 1);
	emit_patch(emit_jcc(e, CC_B ^ 1, false), body);
	emit_jmp_to(e, head);
}

/* Ways out of the fast code, all with the borrowed registers in use. */
static void loop_exits(struct trans *t, const uint8_t *entry, uint8_t *again)
{
	struct trans_loop *l = &t->loop;
	for (unsigned k = l->leaves; k-- > 0;) {
		unsigned i = l->leave[k].insn;
		emit_patch(l->leave[k].branch, t->e.p);
		restore(t);
		t->flags = FLAGS_HOST;
		if (i + 1 == t->n)
			trans_edge(t, 1, trans_rip(t, t->n), i);
		else
			trans_side_edge(t, trans_rip(t, i + 1) + (uint64_t)t->insn[i].imm, i);
	}
	/* After a slow iteration: */
	emit_patch(again, t->e.p);
	emit_gs_cmp8(&t->e, CPU_OFF(kick), 0);
	emit_patch(emit_jcc(&t->e, CC_Z, false), entry);
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
	uint8_t *misses[TRANS_LOOP_STREAMS], *entry = e->p;
	l->bails = l->leaves = 0;
	t->b->borrowed = l->borrowed;
	for (unsigned reg = 0; reg < 16; reg++) {
		if (l->borrowed >> reg & 1)
			emit_gs(e, EMIT_MOV_STORE, 8, reg, gpr_off(reg));
	}
	const uint8_t *head = e->p;
	emit_gs_cmp8(e, CPU_OFF(kick), 0);
	uint8_t *kicked = emit_jcc(e, CC_NZ, false);
	emit_mov_imm(e, l->counter, LOOP_WORK / t->n);
	for (unsigned k = 0; k < l->streams; k++)
		misses[k] = check_stream(t, &l->stream[k]);
	fast_body(t, head);

	emit_patch(kicked, e->p);
	for (unsigned k = 0; k < l->streams; k++)
		emit_patch(misses[k], e->p);
	/* By way of the dispatcher they would come to this block's start again, which does not have them missed in C. */
	for (unsigned k = 0; k < l->bails; k++) {
		if (!l->bail[k].insn)
			emit_patch(l->bail[k].branch, e->p);
	}
	restore(t);
	t->flags = FLAGS_DEAD;
	t->in_t1 = INSN_NO_REG;
	for (unsigned i = 0; i + 1 < t->n; i++) {
		trans_group_step(t, i);
		trans_insn(t, i);
	}
	t->in_group = false;
	trans_need_flags(t);
	uint8_t *again = emit_jcc(e, t->insn[t->n - 1].cond, false);
	trans_edge(t, 0, trans_rip(t, t->n), t->n - 1);
	loop_exits(t, entry, again);
	t->done = true;
}
