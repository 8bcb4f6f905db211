/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff_state_testlib.c - states to run a case from.
 *
 * Registers, vectors and x87 hold a mixture of the random and the notable. Then each instruction's memory operand is
 * given an address in the scratch area by setting the registers that make it up, which diff_gen has seen to that no earlier
 * instruction changes. Addresses are mostly well inside, at times misaligned, across the two pages, across the edge
 * of what is mapped, or read-only.
 */
#include <string.h>

#include "engine/engine.h"
#include "engine/soft/diff_testlib.h"

static unsigned below(struct diff_random *r, unsigned n)
{
	return (diff_random(r) >> 33) % n;
}

static bool one_in(struct diff_random *r, unsigned n)
{
	return below(r, n) == 0;
}

/* ---- values ---- */

static uint64_t integer(struct diff_random *r)
{
	uint64_t v = diff_random(r);
	switch (below(r, 8)) {
	case 0:
		return v & 0xff;
	case 1:
		return (int64_t)v >> (v & 63);
	case 2:
		return 1ull << (v & 63);
	case 3:
		return (1ull << (v & 63)) - 1;
	case 4:
		return -(v & 7);
	default:
		return v;
	}
}

static uint32_t single(struct diff_random *r)
{
	static const uint32_t notable[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
					    0xff800000, 0x7fc00000, 0x7f800001, 1,          0x00800000,
					    0x4f000000, 0x5f000000, 0x4b7fffff, 0x3effffff };
	uint32_t v = diff_random(r) >> 16;
	switch (below(r, 4)) {
	case 0:
		return notable[v % (sizeof(notable) / sizeof(notable[0]))];
	case 1:
		return v;
	default: /* of moderate size */
		return (v & 0x807fffff) | (120 + (v >> 8 & 15)) << 23;
	}
}

static uint64_t real(struct diff_random *r)
{
	static const uint64_t notable[] = { 0,
					    1ull << 63,
					    0x3ff0000000000000,
					    0xbff0000000000000,
					    0x7ff0000000000000,
					    0xfff0000000000000,
					    0x7ff8000000000000,
					    0x7ff0000000000001,
					    1,
					    0x0010000000000000,
					    0x41e0000000000000,
					    0x43e0000000000000,
					    0x3fdfffffffffffff };
	uint64_t v = diff_random(r);
	switch (below(r, 4)) {
	case 0:
		return notable[v % (sizeof(notable) / sizeof(notable[0]))];
	case 1:
		return v;
	default:
		return (v & 0x800fffffffffffff) | (uint64_t)(1010 + (v >> 56 & 31)) << 52;
	}
}

/* Eight bytes of a vector or of memory. */
static uint64_t lane(struct diff_random *r, unsigned kind)
{
	switch (kind) {
	case 0:
		return diff_random(r);
	case 1:
		return integer(r);
	case 2:
		return single(r) | (uint64_t)single(r) << 32;
	default:
		return real(r);
	}
}

static void fill(struct diff_random *r, void *to, size_t size)
{
	unsigned kind = below(r, 4);
	for (size_t i = 0; i < size; i += 8) {
		uint64_t v = lane(r, kind);
		memcpy((uint8_t *)to + i, &v, 8);
	}
}

static void fill_x87(struct diff_random *r, uint8_t *area)
{
	uint16_t fcw = 0x037f, fsw = below(r, 8) << 11;
	if (one_in(r, 4))
		fcw = (fcw & ~0x0f00) | below(r, 4) << 10 | (one_in(r, 2) ? 0 : 2 + below(r, 2)) << 8;
	if (one_in(r, 24))
		fcw &= ~below(r, 64); /* unmasked */
	else
		fsw |= below(r, 64) & (one_in(r, 2) ? 0x3f : 0);
	fsw |= below(r, 16) << 8 & 0x4700;
	memcpy(area, &fcw, 2);
	memcpy(area + 2, &fsw, 2);
	area[4] = one_in(r, 2) ? 0xff : one_in(r, 4) ? 0 : below(r, 256);
	memset(area + 5, 0, 19);
	for (unsigned i = 0; i < 8; i++) {
		/* 80 bits: mostly normal numbers, at times anything. */
		uint64_t mantissa = diff_random(r) | 1ull << 63;
		uint16_t exponent = 0x3ff0 + below(r, 32);
		if (one_in(r, 3)) {
			static const uint16_t e[] = { 0, 0x7fff, 1, 0x3fff, 0x7ffe, 0x4010 };
			exponent = e[below(r, 6)];
			mantissa = one_in(r, 2) ? (uint64_t)below(r, 3) << 62 : diff_random(r);
		} else if (one_in(r, 4)) {
			mantissa &= ~0ull << below(r, 64);
		}
		exponent |= below(r, 2) << 15;
		memset(area + 32 + 16 * i, 0, 16);
		memcpy(area + 32 + 16 * i, &mantissa, 8);
		memcpy(area + 40 + 16 * i, &exponent, 2);
	}
}

/* Mask registers: all, none, some. */
static uint64_t some_mask(struct diff_random *r)
{
	switch (below(r, 4)) {
	case 0:
		return ~0ull;
	case 1:
		return one_in(r, 2) ? 0 : 1ull << below(r, 16);
	default:
		return diff_random(r);
	}
}

static void fill_avx512(struct diff_random *r, uint8_t *area, const struct diff_parts *part)
{
	for (unsigned i = 0; i < 8; i++) {
		uint64_t mask = some_mask(r);
		memcpy(area + part->mask + 8 * i, &mask, 8);
	}
	for (unsigned i = 0; i < 16; i++) {
		fill(r, area + part->upper + 32 * i, 32);
		fill(r, area + part->high + 64 * i, 64);
	}
	area[512] |= 0xe0;
}

static void fill_xsave(struct diff_random *r, uint8_t *area, const struct diff_parts *part)
{
	memset(area, 0, DIFF_XSAVE_SIZE);
	fill_x87(r, area);
	uint32_t mxcsr = 0x1f80, mask = 0xffff;
	if (one_in(r, 4))
		mxcsr = (mxcsr & ~0x6000) | below(r, 4) << 13 | (one_in(r, 4) ? 0x8000 : 0) | (one_in(r, 4) ? 0x40 : 0);
	if (one_in(r, 24))
		mxcsr &= ~(below(r, 64) << 7); /* unmasked */
	else if (one_in(r, 2))
		mxcsr |= below(r, 64);
	memcpy(area + 24, &mxcsr, 4);
	memcpy(area + 28, &mask, 4);
	for (unsigned i = 0; i < 16; i++)
		fill(r, area + 160 + 16 * i, 16);
	memset(area + 416, 0, 160);
	area[512] = 7;
	for (unsigned i = 0; i < 16; i++)
		fill(r, area + 576 + 16 * i, 16);
	if (part->size)
		fill_avx512(r, area, part);
}

/* ---- addresses ---- */

struct making {
	struct diff_random *r;
	const struct diff_case *c;
	struct diff_state *state;
	struct diff_memory *memory;
	uint32_t fixed; /* registers that must not be set any more */
};

static uint64_t segment_base(const struct diff_case *c, unsigned seg, const struct diff_state *state)
{
	if (c->mode == INSN_MODE_16)
		return seg == ENGINE_CS ? c->code_base : DIFF_SEG16;
	return seg == ENGINE_FS ? state->fs_base : seg == ENGINE_GS ? state->gs_base : 0;
}

/* A linear address for an access of size bytes. */
static uint64_t pick_address(struct diff_random *r, unsigned size, unsigned align)
{
	unsigned room = size < 1024 ? size : 1024;
	uint64_t a;
	switch (below(r, 24)) {
	case 0: /* across the pages */
		return DIFF_RW + 0x1000 - 1 - below(r, room ? room : 1);
	case 1: /* out of them */
		return one_in(r, 2) ? DIFF_RW + DIFF_RW_SIZE - below(r, room + 1) : DIFF_RW - below(r, room + 1);
	case 2:
		a = DIFF_RO + below(r, DIFF_RO_SIZE - room);
		break;
	default:
		a = DIFF_RW + below(r, DIFF_RW_SIZE - room);
		break;
	}
	return one_in(r, 12) ? a : a & -(uint64_t)align;
}

static unsigned alignment(const struct insn *insn)
{
	if (insn->op == OP_XSAVE)
		return 64;
	if (insn->mem_size == 512 || (insn->mem_size == 16 && insn->enc == ENC_LEGACY))
		return 16;
	if (insn->mem_size == 32 || insn->mem_size == 64)
		return insn->mem_size;
	return 1;
}

static bool can_set(const struct making *m, unsigned reg)
{
	return reg < 16 && !(m->fixed >> reg & 1);
}

static void set(struct making *m, unsigned reg, uint64_t value)
{
	m->state->gpr[reg] = value;
	m->fixed |= 1u << reg;
}

/* Of an odd number, modulo 2^64. */
static uint64_t inverse(uint64_t a)
{
	uint64_t x = a;
	for (unsigned i = 0; i < 6; i++)
		x *= 2 - a * x;
	return x;
}

static uint64_t truncate_to(uint64_t v, unsigned bytes)
{
	return bytes == 8 ? v : v & ((1ull << 8 * bytes) - 1);
}

/* Where a vector register's byte is in the area. */
static uint8_t *vector_byte(struct making *m, unsigned reg, unsigned at)
{
	uint8_t *x = m->state->xsave;
	if (reg > 15)
		return x + m->state->part.high + (reg - 16) * 64 + at;
	if (at < 16)
		return x + 160 + 16 * reg + at;
	return at < 32 ? x + 576 + 16 * reg + at - 16 : x + m->state->part.upper + 32 * reg + at - 32;
}

/* The vector index of a gather or scatter: small numbers. */
static void set_gather(struct making *m, const struct insn *insn)
{
	unsigned size = insn->opcode & 1 ? 8 : 4, end = insn->enc == ENC_EVEX ? 64 : 32;
	for (unsigned at = 0; at < end; at += size) {
		int64_t v = (int64_t)below(m->r, 200) - (one_in(m->r, 16) ? 100000 : 100);
		memcpy(vector_byte(m, insn->index, at), &v, size);
	}
}

/* Sets registers so that the operand of insn is at `linear`. Returns where it then is. */
static void aim(struct making *m, const struct insn *insn, uint64_t linear)
{
	uint64_t base = segment_base(m->c, insn->seg, m->state);
	uint64_t want = linear - base;
	uint64_t *gpr = m->state->gpr;
	bool index = insn->index != INSN_NO_REG && !diff_is_gather(insn);
	if (insn->op == OP_MOFFS || insn->base == INSN_RIP)
		return;
	if (insn->base == INSN_NO_REG) {
		if (index && can_set(m, insn->index))
			set(m, insn->index, below(m->r, 16));
		return;
	}
	if (!can_set(m, insn->base))
		return;
	uint64_t value = want - insn->disp;
	if (index && insn->index == insn->base) {
		unsigned k = insn->scale + 1;
		value = k & 1 ? value * inverse(k) : value / k;
	} else if (index) {
		if (can_set(m, insn->index) && one_in(m->r, 2))
			set(m, insn->index, below(m->r, 64));
		value -= gpr[insn->index] * insn->scale;
		m->fixed |= 1u << insn->index;
	}
	/* What 67 cuts off may be anything. */
	if (insn->addrsize == 2)
		value = (value & 0xffff) | (diff_random(m->r) & 0xffff) << 16;
	if (m->c->mode != INSN_MODE_64)
		value = (uint32_t)value;
	else if (insn->addrsize == 4)
		value = (uint32_t)value | diff_random(m->r) << 32;
	set(m, insn->base, value);
}

/* ---- by instruction ---- */

uint64_t diff_address(const struct diff_case *c, unsigned i, const struct diff_state *state)
{
	const struct insn *insn = &c->insn[i];
	const uint64_t *gpr = state->gpr;
	uint64_t a = insn->disp;
	if (insn->base == INSN_RIP) {
		a += c->rip;
		for (unsigned k = 0; k <= i; k++)
			a += c->insn[k].len;
	} else if (insn->base < 16) {
		a += gpr[insn->base];
	}
	if (insn->index < 16 && !diff_is_gather(insn))
		a += gpr[insn->index] * insn->scale;
	a = truncate_to(a, insn->addrsize);
	return a + segment_base(c, insn->seg, state);
}

static void poke(struct making *m, uint64_t at, const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++, at++) {
		if (at >= DIFF_RW && at < DIFF_RW + DIFF_RW_SIZE)
			m->memory->rw[at - DIFF_RW] = ((const uint8_t *)data)[i];
		else if (at >= DIFF_RO && at < DIFF_RO + DIFF_RO_SIZE)
			m->memory->ro[at - DIFF_RO] = ((const uint8_t *)data)[i];
	}
}

static void make_stack(struct making *m)
{
	if (!can_set(m, 4))
		return;
	uint64_t a = pick_address(m->r, 64, 8);
	if (a >= DIFF_RO && !one_in(m->r, 4))
		a -= DIFF_RO - DIFF_RW;
	a -= segment_base(m->c, ENGINE_SS, m->state);
	/* What a 16-bit stack ignores. */
	if (m->c->mode == INSN_MODE_16 && one_in(m->r, 2))
		a |= (diff_random(m->r) & 0xffff) << 16;
	set(m, 4, a);
}

static void make_operand(struct making *m, const struct insn *insn)
{
	struct diff_random *r = m->r;
	uint64_t a = pick_address(r, insn->op == OP_XSAVE ? DIFF_XSAVE_SIZE : insn->mem_size, alignment(insn));
	if (insn->op == OP_BT_MEM && can_set(m, insn->reg) && insn->reg != insn->base && insn->reg != insn->index) {
		set(m, insn->reg, (int64_t)below(r, 8000) - (one_in(r, 4) ? 4000 : 0));
	} else if (diff_is_gather(insn)) {
		set_gather(m, insn);
		a = DIFF_RW + 1024 + below(r, 4096);
	} else if (insn->op == OP_XLAT && can_set(m, 3)) {
		set(m, 3, a - segment_base(m->c, insn->seg, m->state) - (m->state->gpr[0] & 0xff));
	}
	if (insn->mem)
		aim(m, insn, a);
}

static void make_string(struct making *m, const struct insn *insn)
{
	struct diff_random *r = m->r;
	uint64_t junk = insn->addrsize < 8 && m->c->mode == INSN_MODE_64 ? diff_random(r) << 32 : 0;
	uint64_t si = segment_base(m->c, insn->seg, m->state), di = segment_base(m->c, ENGINE_ES, m->state);
	if (can_set(m, 6))
		set(m, 6, ((pick_address(r, 64, 1) - si) & (insn->addrsize == 8 ? ~0ull : 0xffffffff)) | junk);
	if (can_set(m, 7))
		set(m, 7, (pick_address(r, 64, 1) - di) | junk);
	if (can_set(m, 1))
		set(m, 1, (one_in(r, 16) ? below(r, 6000) : below(r, 40)) | junk);
	if (one_in(r, 4))
		m->state->rflags |= 0x400;
	/* Runs of equal bytes, so that REPE has something to do; where nobody else has put anything. */
	if (m->c->insns == 1 && one_in(r, 2))
		memset(m->memory->rw, below(r, 256), sizeof(m->memory->rw));
}

static uint64_t stack_top(const struct making *m)
{
	uint64_t sp = m->state->gpr[4];
	return segment_base(m->c, ENGINE_SS, m->state) + (m->c->mode == INSN_MODE_16 ? sp & 0xffff : sp);
}

/* Segments that the host's kernel and the guest's have alike: null, user code and data, the local ones, and some that a
 * program may not have or that there are not. */
static uint64_t pick_selector(struct diff_random *r)
{
	static const uint16_t list[] = { 0,
					 1,
					 3,
					 0x2b,
					 0x2b,
					 0x28,
					 0x29,
					 0x23,
					 0x20,
					 0x33,
					 0x10,
					 0x18,
					 0x1b,
					 DIFF_DATA16_SELECTOR,
					 DIFF_DATA16_SELECTOR - 1,
					 DIFF_CODE16_SELECTOR,
					 0x2f,
					 0xfffb };
	return list[below(r, sizeof(list) / sizeof(list[0]))] | diff_random(r) << 16;
}

/* Contents that the instruction can do something with. */
static void make_contents(struct making *m, const struct insn *insn)
{
	struct diff_random *r = m->r;
	uint64_t at = insn->mem ? diff_address(m->c, insn - m->c->insn, m->state) : 0;
	uint64_t target = m->c->rip + m->c->len + below(r, 32);
	_Alignas(64) uint8_t area[DIFF_XSAVE_SIZE];
	uint64_t v;
	switch (insn->op) {
	case OP_JMP_IND:
	case OP_CALL_IND:
		if (insn->mem)
			poke(m, at, &target, 8);
		else if (can_set(m, insn->rm))
			set(m, insn->rm, target | (m->c->mode == INSN_MODE_64 && one_in(r, 8) ? 1ull << 60 : 0));
		break;
	case OP_RET:
		poke(m, stack_top(m), &target, 8);
		break;
	case OP_MOV_TO_SEG:
	case OP_LAR:
	case OP_LSL:
	case OP_VERR:
	case OP_VERW:
		v = pick_selector(r);
		if (insn->mem)
			poke(m, at, &v, 2);
		else if (can_set(m, insn->rm))
			set(m, insn->rm, m->c->mode == INSN_MODE_64 ? v : (uint32_t)v);
		break;
	case OP_POP_SEG:
		v = pick_selector(r);
		poke(m, stack_top(m), &v, 8);
		break;
	case OP_LOAD_FAR:
		v = pick_selector(r);
		poke(m, at + insn->mem_size - 2, &v, 2);
		break;
	case OP_POPF: /* not into single steps or alignment checks */
		v = diff_random(r) & 0x0000000000204cd5;
		poke(m, stack_top(m), &v, 8);
		break;
	case OP_LEAVE:
	case OP_ENTER: /* copies frame pointers from there */
		if (can_set(m, 5))
			set(m, 5, pick_address(r, 16, 8) - segment_base(m->c, ENGINE_SS, m->state));
		break;
	case OP_XSAVE:
		/* No more than the guest has; 32-bit code reaches a part only. */
		set(m, 0, diff_random(r) & (m->state->part.size && m->c->mode == INSN_MODE_64 ? 0xe7 : 7));
		if (!one_in(r, 8)) {
			fill_xsave(r, area, &m->state->part);
			area[512] &= diff_random(r);
			poke(m, at, area, sizeof(area));
		}
		break;
	case OP_COPY:
		if (insn->mem_size == 512 && !one_in(r, 8)) {
			fill_xsave(r, area, &m->state->part);
			poke(m, at, area, 512);
		} else if (insn->mem_size == 4 && insn->map == MAP_0F && insn->opcode == 0xae && !one_in(r, 8)) {
			v = 0x1f80 | (diff_random(r) & 0xe07f);
			poke(m, at, &v, 4);
		}
		break;
	default:
		break;
	}
}

bool diff_is_divide(const struct insn *insn)
{
	return insn->map == MAP_ONE && (insn->opcode & 0xfe) == 0xf6 && ((insn->modrm >> 3) & 6) == 6;
}

static void make_for(struct making *m, const struct insn *insn)
{
	if (insn->row->implicit_read & 1 << 4)
		make_stack(m);
	if (insn->op == OP_STRING)
		make_string(m, insn);
	else if (insn->mem || insn->op == OP_XLAT)
		make_operand(m, insn);
	if (diff_is_divide(insn) && can_set(m, 2) && !one_in(m->r, 4))
		set(m, 2, one_in(m->r, 2) ? below(m->r, 100) : -(m->state->gpr[0] >> 63));
	make_contents(m, insn);
}

bool diff_is_gather(const struct insn *insn)
{
	return insn->op == OP_GATHER || insn->op == OP_EVEX_GATHER || insn->op == OP_EVEX_SCATTER;
}

void diff_gen_state(struct diff_random *r, const struct diff_case *c, struct diff_state *state,
		    struct diff_memory *memory)
{
	struct making m = { .r = r, .c = c, .state = state, .memory = memory };
	for (unsigned i = 0; i < 16; i++)
		state->gpr[i] = integer(r);
	if (c->mode != INSN_MODE_64) {
		for (unsigned i = 0; i < 16; i++)
			state->gpr[i] = i < 8 ? (uint32_t)state->gpr[i] : 0;
	}
	state->rip = c->rip;
	state->code_base = c->code_base;
	state->rflags = 0x202 | (diff_random(r) & FLAG_ARITH);
	state->fs_base = (uint64_t)below(r, 1 << 20) << 4;
	state->gs_base = (int64_t)below(r, 1 << 20) - (1 << 19);
	state->part = diff_parts();
	fill_xsave(r, state->xsave, &state->part);
	for (size_t i = 0; i < sizeof(memory->rw); i += 256)
		fill(r, memory->rw + i, 256);
	for (unsigned i = 0; i < c->insns; i++)
		make_for(&m, &c->insn[i]);
}
