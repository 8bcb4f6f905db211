/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_stream.c - where a loop's operands go from one iteration to the next.
 *
 * Going through the body once, each register is known as a sum of registers as they were at the iteration's start, or not
 * at all. So is the address of each operand. If all registers in that sum change by constants from one iteration to the
 * next, so does the address: the operand is of a *stream*, together with those whose sums differ by a constant only.
 *
 * A stream's host address is in a register. Most go by the same step as a register of the guest (a pointer, a counter):
 * the operand is that register's sum with a host register that stays. A stream for which there is none has a pointer that
 * is moved at the end of each iteration.
 *
 * Registers that a stream needs for itself are those that the loop does not mention but in the operands of streams, which
 * mention them no more.
 */
#include <string.h>

#include "engine/soft/trans.h"

enum {
	MOST_TIMES = 8,
	LOOP_SPAN = 1024, /* bytes that one stream may touch in an iteration */
	STRIDE = 1024,    /* bytes that it may go: a page should serve some iterations */
	NO_SHIFT = INT32_MIN,
};

struct analysis {
	struct trans_sum reg[16]; /* before the instruction under way; at last, after the body */
	struct trans_sum address[TRANS_MAX];
	int shift[TRANS_MAX][16]; /* how far each register is from the iteration's start, before each instruction */
};

static struct trans_sum sum_of(struct trans_sum a, const struct trans_sum *b, int times)
{
	a.known &= b->known;
	for (unsigned r = 0; r < 16; r++) {
		int all = a.times[r] + b->times[r] * times;
		a.known &= all <= MOST_TIMES && all >= -MOST_TIMES;
		a.times[r] = (int8_t)all;
	}
	a.plus = (int64_t)((uint64_t)a.plus + (uint64_t)b->plus * (uint64_t)(int64_t)times);
	return a;
}

static struct trans_sum constant(int64_t c)
{
	return (struct trans_sum){ .known = true, .plus = c };
}

static struct trans_sum address_of(const struct trans *t, unsigned i, const struct trans_sum reg[16])
{
	const struct insn *in = &t->insn[i];
	struct trans_sum s = constant(in->disp);
	if (in->base == INSN_RIP)
		s.plus += (int64_t)trans_rip(t, i + 1);
	else if (in->base != INSN_NO_REG)
		s = sum_of(s, &reg[in->base], 1);
	if (in->index != INSN_NO_REG)
		s = sum_of(s, &reg[in->index], in->scale);
	s.known &= in->addrsize == 8;
	return s;
}

/* What instruction i makes of a register, *to, if it is a sum; else *to is none. */
static struct trans_sum result_of(const struct trans *t, unsigned i, const struct trans_sum reg[16], unsigned *to)
{
	const struct insn *in = &t->insn[i];
	unsigned ext = in->modrm >> 3 & 7;
	const struct trans_sum imm = constant(in->imm), one = constant(1), none = constant(0);
	*to = 16;
	if (in->op == OP_LEA && in->opsize == 8) {
		*to = in->reg;
		return address_of(t, i, reg);
	}
	if (in->op != OP_COPY || in->map != MAP_ONE || in->mem || in->opsize != 8)
		return (struct trans_sum){ 0 };
	if (in->opcode == 0x05 || in->opcode == 0x2d) {
		*to = HOST_RAX;
		return sum_of(reg[HOST_RAX], &imm, in->opcode == 0x05 ? 1 : -1);
	}
	if (!in->has_modrm)
		return (struct trans_sum){ 0 };
	unsigned into_reg = in->opcode == 0x03 || in->opcode == 0x2b || in->opcode == 0x8b;
	*to = into_reg ? in->reg : in->rm;
	const struct trans_sum *a = &reg[*to], *b = &reg[into_reg ? in->rm : in->reg];
	switch (in->opcode) {
	case 0x89:
	case 0x8b:
		return *b;
	case 0x01:
	case 0x03:
		return sum_of(*a, b, 1);
	case 0x29:
	case 0x2b:
		return sum_of(*a, b, -1);
	case 0x81:
	case 0x83:
		if (ext == 0 || ext == 5)
			return sum_of(*a, &imm, ext ? -1 : 1);
		break;
	case 0xff:
		if (ext < 2)
			return sum_of(*a, &one, ext ? -1 : 1);
		break;
	case 0xc1:
		if (ext == 4 && in->imm < 4)
			return sum_of(none, a, 1 << in->imm);
		break;
	default:
		break;
	}
	*to = 16;
	return (struct trans_sum){ 0 };
}

/* By how much register r differs from what it was at the iteration's start, or NO_SHIFT. */
static int shift_of(const struct trans_sum *s, unsigned r)
{
	if (!s->known || s->plus < -STRIDE * 4 || s->plus > STRIDE * 4)
		return NO_SHIFT;
	for (unsigned k = 0; k < 16; k++) {
		if (s->times[k] != (k == r))
			return NO_SHIFT;
	}
	return (int)s->plus;
}

static void analyse(const struct trans *t, struct analysis *a)
{
	for (unsigned r = 0; r < 16; r++) {
		a->reg[r] = constant(0);
		a->reg[r].times[r] = 1;
	}
	for (unsigned i = 0; i + 1 < t->n; i++) {
		const struct insn *in = &t->insn[i];
		unsigned to;
		for (unsigned r = 0; r < 16; r++)
			a->shift[i][r] = shift_of(&a->reg[r], r);
		if (trans_accesses(in))
			a->address[i] = address_of(t, i, a->reg);
		struct trans_sum result = result_of(t, i, a->reg, &to);
		for (unsigned r = 0; r < 16; r++) {
			if (trans_writes_register(in, r))
				a->reg[r] = r == to ? result : (struct trans_sum){ 0 };
		}
	}
}

/* How far the address goes in an iteration. False if nobody knows, or if it could not be worked out in few instructions. */
static bool stride_of(const struct analysis *a, const struct trans_sum *s, int *stride)
{
	int64_t all = 0;
	if (!s->known)
		return false;
	for (unsigned r = 0; r < 16; r++) {
		const int8_t times = s->times[r];
		int by = shift_of(&a->reg[r], r);
		if (!times)
			continue;
		if (by == NO_SHIFT || (times != -1 && times != 1 && times != 2 && times != 4 && times != 8))
			return false;
		all += (int64_t)by * times;
	}
	*stride = (int)all;
	return all >= -STRIDE && all <= STRIDE;
}

/* Puts instruction i's access into a stream, a new one if need be. False: it is checked by itself. */
static bool into_stream(struct trans *t, const struct analysis *a, unsigned i)
{
	const struct insn *in = &t->insn[i];
	const struct trans_sum *address = &a->address[i];
	struct trans_loop *l = &t->loop;
	unsigned k = 0;
	int stride;
	if (!stride_of(a, address, &stride))
		return false;
	for (; k < l->streams; k++) {
		const struct trans_stream *s = &l->stream[k];
		int64_t away = (int64_t)((uint64_t)address->plus - (uint64_t)s->start.plus);
		int64_t lo = away < s->lo ? away : s->lo,
			hi = away + in->mem_size > s->hi ? away + in->mem_size : s->hi;
		if (memcmp(s->start.times, address->times, sizeof(s->start.times)) == 0 && away >= -LOOP_SPAN &&
		    away <= LOOP_SPAN && hi - lo <= LOOP_SPAN)
			break;
	}
	if (k == TRANS_LOOP_STREAMS)
		return false;
	struct trans_stream *s = &l->stream[k];
	if (k == l->streams) {
		*s = (struct trans_stream){ .start = *address, .stride = stride };
		l->streams++;
	}
	int lo = (int)(address->plus - s->start.plus), hi = lo + in->mem_size;
	s->lo = lo < s->lo ? lo : s->lo;
	s->hi = hi > s->hi ? hi : s->hi;
	s->write |= (in->mem_acc & ACC_W) != 0;
	l->member[i] = (uint8_t)k;
	l->offset[i] = lo;
	return true;
}

/* The guest's register that goes with stream k, and the offsets from their sum. */
static void find_companion(struct trans *t, const struct analysis *a, unsigned k)
{
	struct trans_loop *l = &t->loop;
	struct trans_stream *s = &l->stream[k];
	s->by = EMIT_NONE;
	for (unsigned r = 0; r < 16 && s->stride && s->by == EMIT_NONE; r++) {
		bool goes = host_of(r) != IN_MEMORY && shift_of(&a->reg[r], r) == s->stride;
		for (unsigned i = 0; i + 1 < t->n && goes; i++)
			goes = l->member[i] != k || a->shift[i][r] != NO_SHIFT;
		if (goes)
			s->by = (uint8_t)r;
	}
	for (unsigned i = 0; i + 1 < t->n; i++) {
		if (l->member[i] == k)
			l->offset[i] -= s->lo + (s->by == EMIT_NONE ? 0 : a->shift[i][s->by]);
	}
}

static uint16_t bit_of(unsigned reg)
{
	return reg < 16 ? (uint16_t)(1u << reg) : 0;
}

/* Guest registers that nothing but streams' operands mentions. */
static uint16_t spare_registers(const struct trans *t)
{
	uint16_t used = 0;
	for (unsigned i = 0; i < t->n; i++) {
		const struct insn *in = &t->insn[i];
		const struct insn_row *row = in->row;
		used |= row->implicit_read | row->implicit_written;
		if (in->mem && t->loop.member[i] == TRANS_NO_STREAM)
			used |= bit_of(in->base) | bit_of(in->index);
		if ((in->has_modrm || row->reg_in_opcode) && row->reg_kind == REG_GPR)
			used |= bit_of(in->reg);
		if (in->has_modrm && !in->mem && row->rm_kind == REG_GPR)
			used |= bit_of(in->rm);
		if (in->enc != ENC_LEGACY && row->vvvv_kind == REG_GPR)
			used |= bit_of(in->vvvv);
		if (in->opsize == 1 || in->reg_size == 1 || in->rm_size == 1) /* AH belongs to RAX */
			used |= 0xf;
	}
	return (uint16_t)~used;
}

/* Gives the counter and the streams their registers: false if there are too few. */
static bool assign_registers(struct trans *t)
{
	/* Those that can be the base of an operand without more ado. */
	const uint16_t bases = 1u << HOST_RAX | 1u << HOST_RCX | 1u << HOST_RDX | 1u << HOST_RBX | 1u << HOST_RSI |
			       1u << HOST_RDI | 1u << HOST_R8 | 1u << HOST_R9 | 1u << HOST_R14;
	struct trans_loop *l = &t->loop;
	uint16_t spare = spare_registers(t), able = spare & bases;
	bool beside = spare >> HOST_RBP & 1; /* for the counter, which is no base */
	l->borrowed = 0;
	for (unsigned k = 0; k < l->streams; k++) {
		if (!able)
			return false;
		l->stream[k].host = (uint8_t)__builtin_ctz(able);
		l->borrowed |= (uint16_t)(1u << l->stream[k].host);
		able &= (uint16_t)(able - 1);
	}
	if (!able && !beside)
		return false;
	l->counter = beside ? HOST_RBP : (unsigned)__builtin_ctz(able);
	l->borrowed |= (uint16_t)(1u << l->counter);
	return true;
}

bool trans_find_streams(struct trans *t)
{
	struct trans_loop *l = &t->loop;
	struct analysis a;
	unsigned accesses = 0;
	analyse(t, &a);
	l->streams = 0;
	for (unsigned i = 0; i < t->n; i++) {
		l->member[i] = TRANS_NO_STREAM;
		if (i + 1 == t->n || !trans_accesses(&t->insn[i]))
			continue;
		accesses++;
		(void)into_stream(t, &a, i);
	}
	while (l->streams && !assign_registers(t)) {
		l->streams--;
		for (unsigned i = 0; i < t->n; i++)
			l->member[i] = l->member[i] == l->streams ? TRANS_NO_STREAM : l->member[i];
	}
	unsigned members = 0;
	for (unsigned i = 0; i < t->n; i++)
		members += l->member[i] != TRANS_NO_STREAM;
	for (unsigned k = 0; k < l->streams; k++)
		find_companion(t, &a, k);
	return l->streams && members >= accesses - members;
}
