/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn.c - the decoder: SDM Vol. 2, chapter 2 and appendix A; AMD APM Vol. 3, chapter 1.
 *
 * insn_table.def is read three times: to number its lines, to make the rows, and to make an index from map and opcode to
 * the opcode's first row. Decoding reads prefixes, opcode and ModRM, walks the opcode's few rows to the first that fits,
 * and takes the rest (address, sizes, immediate) from what that row says.
 */
#include "engine/soft/insn.h"

#include "engine/engine.h"
#include "engine/soft/insn_words.h"
#include "engine/soft/unaligned.h"

/* ---- first reading: a number for every line; ATs are the rows that end the opcode before them ---- */

#define UNIQUE_(n) LINE_##n
#define UNIQUE(n) UNIQUE_(n)
#define AT(map, o) AT_##map##_##o,
#define AT7(map, o, ...) AT_##map##_##o,
#define AT8(map, o, ...) AT_##map##_##o,
#define AT16(map, o, ...) AT_##map##_##o,
#define ROW(...) UNIQUE(__COUNTER__),
enum {
	AT_NOTHING,
#include "engine/soft/insn_table.def"
	AT_END,
	ROWS,
};
#undef AT
#undef AT7
#undef AT8
#undef AT16
#undef ROW

/* ---- second reading: the rows ---- */

#define AT(map, o) { .name = NULL },
#define AT7(map, ...) { .name = NULL },
#define AT8(map, ...) { .name = NULL },
#define AT16(map, ...) { .name = NULL },
/* The first word after the name is pasted to OP_; the rest are expanded when the result is read again. */
#define ROW(name_, ...) { .name = name_, .op = OP_##__VA_ARGS__ },
const struct insn_row insn_rows[] = {
	{ .name = "(undefined)", .op = OP_UD },
#include "engine/soft/insn_table.def"
	{ .name = NULL },
};
#undef AT
#undef AT7
#undef AT8
#undef AT16
#undef ROW
const size_t insn_row_count = sizeof(insn_rows) / sizeof(insn_rows[0]);
_Static_assert(sizeof(insn_rows) / sizeof(insn_rows[0]) == ROWS, "both readings see the same lines");

/* ---- third reading: where the rows of an opcode begin ---- */

enum { TAB_ONE, TAB_0F, TAB_38, TAB_3A, TAB_V0F, TAB_V38, TAB_V3A, TAB_E0F, TAB_E38, TAB_E3A, TAB_COUNT };

#define AT1(map, first, o) [TAB_##map][0x##o] = AT_##map##_##first,
#define AT(map, o) AT1(map, o, o)
#define AT7(map, a, b, c, d, e, f, g) \
	AT1(map, a, a) AT1(map, a, b) AT1(map, a, c) AT1(map, a, d) AT1(map, a, e) AT1(map, a, f) AT1(map, a, g)
#define AT8(map, a, b, c, d, e, f, g, h) AT7(map, a, b, c, d, e, f, g) AT1(map, a, h)
#define AT16(map, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
	AT8(map, a, b, c, d, e, f, g, h)                          \
	AT1(map, a, i)                                            \
	AT1(map, a, j) AT1(map, a, k) AT1(map, a, l) AT1(map, a, m) AT1(map, a, n) AT1(map, a, o) AT1(map, a, p)
#define ROW(...)
static const uint16_t row_index[TAB_COUNT][256] = {
#include "engine/soft/insn_table.def"
};
#undef AT

/* Opcodes followed by ModRM, a bit each; all of 0F38 and 0F3A are. */
static const uint64_t has_modrm_one[4] = { 0x0f0f0f0f0f0f0f0f, 0x00000a0c00000000, 0x000000000000ffff,
					   0xc0c00000ff0f00f3 };
static const uint64_t has_modrm_0f[4] = { ~0x00ff000000005ff0ull, ~0x0080000000000000ull, ~0x000007070000ffffull,
					  ~0x000000000000ff00ull };

static unsigned table_of(enum insn_enc enc, enum insn_map map)
{
	return enc == ENC_EVEX ? TAB_E0F + (map - MAP_0F) : enc == ENC_VEX ? TAB_V0F + (map - MAP_0F) : (unsigned)map;
}

size_t insn_first_row(enum insn_enc enc, enum insn_map map, uint8_t opcode)
{
	if (enc != ENC_LEGACY && map == MAP_ONE)
		return 0;
	unsigned at = row_index[table_of(enc, map)][opcode];
	return at ? at + 1 : 0;
}

/* ---- bytes ---- */

struct cursor {
	const uint8_t *bytes;
	unsigned pos, avail;
	int error; /* the first one; reads after it give 0 */
};

/* Size is 1, 2, 4 or 8. */
static inline uint64_t take(struct cursor *c, unsigned size)
{
	if (__builtin_expect(c->pos + size > c->avail, 0)) {
		if (!c->error)
			c->error = c->pos + size > INSN_MAX_LEN ? INSN_TOO_LONG : INSN_TOO_SHORT;
		return 0;
	}
	const uint8_t *p = c->bytes + c->pos;
	c->pos += size;
	return unaligned_load(p, size);
}

static inline int64_t take_signed(struct cursor *c, unsigned size)
{
	unsigned shift = 64 - 8 * size;
	return (int64_t)(take(c, size) << shift) >> shift;
}

/* ---- prefixes and opcode ---- */

/* What the prefixes say, beyond what struct insn keeps. */
struct prefixes {
	uint8_t rex_r, rex_x, rex_b; /* 0 or 8 */
	uint8_t high_r;              /* EVEX.R': 0 or 16 */
	uint8_t seg;
	bool vex_ud; /* a prefix that a VEX instruction must not have, or a bad map */
};

/* Bytes that are prefixes in some mode, a bit each. */
static const uint64_t is_prefix[4] = { 0x4040404000000000, 0x000000f00000ffff, 0, 0x000d000000000000 };

/* Returns the first byte that is none, b being the one that was just taken. A REX that is not last before the opcode counts
 * for nothing. */
static __attribute__((noinline)) uint8_t take_more_prefixes(struct insn *insn, struct prefixes *pf, struct cursor *c,
							    enum insn_mode mode, uint8_t b)
{
	for (;; b = take(c, 1)) {
		switch (b) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			if (mode != INSN_MODE_64) {
				pf->seg = (b >> 3) & 3;
				insn->seg_override = true;
			}
			break;
		case 0x64:
		case 0x65:
			pf->seg = b - 0x60;
			insn->seg_override = true;
			break;
		case 0x66:
			insn->opsz66 = true;
			break;
		case 0x67:
			insn->addr67 = true;
			break;
		case 0xf0:
			insn->lock = true;
			break;
		case 0xf2:
		case 0xf3:
			insn->rep = b;
			break;
		default:
			if (mode == INSN_MODE_64 && (b & 0xf0) == 0x40) {
				insn->rex = b;
				continue;
			}
			return b;
		}
		insn->rex = 0;
	}
}

/* Mostly there is no prefix, or REX alone: which of the two, no branch predictor knows. */
static inline uint8_t take_prefixes(struct insn *insn, struct prefixes *pf, struct cursor *c, enum insn_mode mode)
{
	uint8_t b = take(c, 1);
	if (c->avail >= 2) {
		unsigned rex = mode == INSN_MODE_64 && (b & 0xf0) == 0x40;
		insn->rex = b & -rex;
		c->pos += rex;
		b = c->bytes[rex];
	}
	if (is_prefix[b >> 6] >> (b & 63) & 1)
		return take_more_prefixes(insn, pf, c, mode, b);
	return b;
}

static void take_vex(struct insn *insn, struct prefixes *pf, struct cursor *c, enum insn_mode mode, bool three)
{
	pf->vex_ud = insn->rex || insn->lock || insn->rep || insn->opsz66;
	insn->enc = ENC_VEX;
	insn->map = MAP_0F;
	insn->rex = 0;
	uint8_t b = take(c, 1);
	pf->rex_r = b & 0x80 ? 0 : 8;
	if (three) {
		pf->rex_x = b & 0x40 ? 0 : 8;
		pf->rex_b = b & 0x20 ? 0 : 8;
		unsigned map = b & 0x1f;
		if (map < MAP_0F || map > MAP_0F3A)
			pf->vex_ud = true;
		else
			insn->map = map;
		b = take(c, 1);
		insn->w = b & 0x80;
	}
	insn->vvvv = ~(b >> 3) & 15;
	insn->vl = (b >> 2) & 1;
	insn->vpp = b & 3;
	if (mode != INSN_MODE_64)
		pf->rex_b = 0;
	insn->opcode = take(c, 1);
}

static void take_evex(struct insn *insn, struct prefixes *pf, struct cursor *c, enum insn_mode mode)
{
	uint8_t *p = insn->evex_p;

	pf->vex_ud = insn->rex || insn->lock || insn->rep || insn->opsz66;
	insn->enc = ENC_EVEX;
	insn->rex = 0;
	for (unsigned i = 0; i < 3; i++)
		p[i] = take(c, 1);
	insn->map = p[0] & 7;
	if (insn->map < MAP_0F || insn->map > MAP_0F3A || (p[0] & 8) || !(p[1] & 4)) {
		pf->vex_ud = true;
		insn->map = MAP_0F;
	}
	pf->rex_r = p[0] & 0x80 ? 0 : 8;
	pf->rex_x = p[0] & 0x40 ? 0 : 8;
	pf->rex_b = p[0] & 0x20 || mode != INSN_MODE_64 ? 0 : 8;
	pf->high_r = p[0] & 0x10 || mode != INSN_MODE_64 ? 0 : 16;
	insn->w = p[1] & 0x80;
	insn->vvvv = (~(p[1] >> 3) & 15) | (p[2] & 8 ? 0 : 16);
	insn->vpp = p[1] & 3;
	insn->vl = p[2] >> 5 & 3;
	insn->mask = p[2] & 7;
	insn->opcode = take(c, 1);
}

static bool evex_b(const struct insn *insn)
{
	return insn->evex_p[2] & 0x10;
}

static void take_opcode(struct insn *insn, struct prefixes *pf, struct cursor *c, enum insn_mode mode)
{
	uint8_t b = take_prefixes(insn, pf, c, mode);
	if (b == 0xc4 || b == 0xc5 || b == 0x62) {
		/* LES, LDS and BOUND have no register form: outside 64-bit mode, what would be one is VEX or EVEX. */
		bool vex = mode == INSN_MODE_64;
		if (!vex) {
			uint8_t next = take(c, 1);
			vex = next >= 0xc0;
			c->pos -= c->error ? 0 : 1;
		}
		if (vex && b == 0x62) {
			take_evex(insn, pf, c, mode);
			return;
		}
		if (vex) {
			take_vex(insn, pf, c, mode, b == 0xc4);
			return;
		}
	}
	insn->w = insn->rex & 8;
	pf->rex_r = (insn->rex & 4) << 1;
	pf->rex_x = (insn->rex & 2) << 2;
	pf->rex_b = (insn->rex & 1) << 3;
	insn->map = MAP_ONE;
	if (b == 0x0f) {
		insn->map = MAP_0F;
		b = take(c, 1);
		if (b == 0x38 || b == 0x3a) {
			insn->map = b == 0x38 ? MAP_0F38 : MAP_0F3A;
			b = take(c, 1);
		}
	}
	insn->opcode = b;
	insn->vpp = insn->rep == 0xf3 ? 2 : insn->rep == 0xf2 ? 3 : insn->opsz66 ? 1 : 0;
}

/* ---- ModRM ---- */

static void take_address16(struct insn *insn, struct cursor *c)
{
	static const uint8_t base[8] = { 3, 3, 5, 5, 6, 7, 5, 3 };
	static const uint8_t index[8] = { 6, 7, 6, 7, INSN_NO_REG, INSN_NO_REG, INSN_NO_REG, INSN_NO_REG };
	unsigned rm = insn->modrm & 7;
	insn->base = base[rm];
	insn->index = index[rm];
	if (insn->mod == 0 && rm == 6) {
		insn->base = INSN_NO_REG;
		insn->disp = take_signed(c, 2);
	} else if (insn->mod) {
		insn->disp = take_signed(c, insn->mod);
	}
}

static void take_address(struct insn *insn, const struct prefixes *pf, struct cursor *c, enum insn_mode mode)
{
	unsigned base = insn->modrm & 7;
	bool sib = base == 4;
	if (sib) {
		uint8_t b = take(c, 1);
		base = b & 7;
		unsigned index = ((b >> 3) & 7) | pf->rex_x;
		/* No index, but for a gather, whose index is a vector register. */
		if (index != 4 || insn->enc != ENC_LEGACY)
			insn->index = index;
		insn->scale = 1 << (b >> 6);
	}
	if (base == 5 && insn->mod == 0) {
		if (!sib && mode == INSN_MODE_64)
			insn->base = INSN_RIP;
		insn->disp = take_signed(c, 4);
		return;
	}
	insn->base = base | pf->rex_b;
	if (insn->mod)
		insn->disp = take_signed(c, insn->mod == 1 ? 1 : 4);
}

static void take_modrm(struct insn *insn, const struct prefixes *pf, struct cursor *c, enum insn_mode mode)
{
	uint8_t b = take(c, 1);
	insn->has_modrm = true;
	insn->modrm = b;
	insn->mod = b >> 6;
	insn->reg = ((b >> 3) & 7) | pf->rex_r;
	insn->rm = (b & 7) | pf->rex_b;
	/* MOV to and from control and debug registers ignores mod. */
	if (insn->map == MAP_0F && insn->enc == ENC_LEGACY && (insn->opcode & 0xfc) == 0x20)
		insn->mod = 3;
	if (insn->mod == 3) {
		/* EVEX.b turns L'L into a rounding mode, of scalars or of whole registers. */
		if (evex_b(insn))
			insn->vl = 2;
		return;
	}
	insn->mem = true;
	if (insn->addrsize == 2)
		take_address16(insn, c);
	else
		take_address(insn, pf, c, mode);
}

static bool modrm_follows(const struct insn *insn)
{
	const uint64_t *bits = insn->map == MAP_ONE ? has_modrm_one : has_modrm_0f;
	return insn->map >= MAP_0F38 || (bits[insn->opcode >> 6] >> (insn->opcode & 63)) & 1;
}

/* ---- rows ---- */

static inline unsigned mask_fits(unsigned mask, unsigned n)
{
	return (unsigned)(mask == 0) | (mask >> n & 1);
}

static inline bool row_fits(const struct insn_row *row, const struct insn *insn, uint32_t wrong)
{
	/* All of it, since which of them decides is as good as random. */
	return (unsigned)!(row->flags & wrong) & mask_fits(row->pp, insn->vpp) &
	       mask_fits(row->slash, (insn->modrm >> 3) & 7) & mask_fits(row->rm_mask, insn->modrm & 7) &
	       mask_fits(row->sel_w, insn->w) & mask_fits(row->sel_l, insn->vl);
}

static inline const struct insn_row *find_row(const struct insn *insn, enum insn_mode mode, unsigned first)
{
	uint32_t wrong = (mode == INSN_MODE_64 ? ROW_NO64 : ROW_ONLY64) | (insn->mem ? ROW_REG_ONLY : ROW_MEM_ONLY);
	if (first) {
		for (const struct insn_row *row = &insn_rows[first + 1]; row->name; row++)
			if (row_fits(row, insn, wrong))
				return row;
	}
	return &insn_rows[0];
}

/* ---- sizes ---- */

static inline uint8_t operand_size(const struct insn *insn, enum insn_mode mode)
{
	/* By whether the size is of 16 bits, and by REX.W; in the last row, which is OS_V's with ROW_DEF64, and in OS_N's only in 64-bit mode. */
	static const uint8_t size[6][2][2] = {
		[OS_V] = { { 4, 8 }, { 2, 8 } }, [OS_B] = { { 1, 1 }, { 1, 1 } }, [OS_Y] = { { 4, 8 }, { 4, 8 } },
		[OS_Z] = { { 4, 4 }, { 2, 4 } }, [OS_N] = { { 8, 8 }, { 8, 8 } }, [OS_N + 1] = { { 8, 8 }, { 2, 8 } },
	};
	const struct insn_row *row = insn->row;
	bool mode64 = mode == INSN_MODE_64, w = insn->w && mode64;
	bool is16 = (insn->opsz66 && !insn->opsz_mandatory) != (mode == INSN_MODE_16);
	unsigned kind = row->opsize;
	if (kind == OS_V && mode64 && (row->flags & ROW_DEF64))
		kind = OS_N + 1;
	return kind == OS_N && !mode64 ? 4 : size[kind][is16][w];
}

static unsigned size_in_bytes(const struct insn *insn, unsigned size, enum insn_mode mode)
{
	if (__builtin_expect(size == SZ_V, 1))
		return insn->opsize;
	if (!(size & SZ_SYMBOLIC))
		return size;
	unsigned y = insn->w && mode == INSN_MODE_64 ? 8 : 4;
	unsigned l = 16u << insn->vl;
	switch (size) {
	case SZ_2V:
		return 2 * insn->opsize;
	case SZ_Y:
		return y;
	case SZ_2Y:
		return 2 * y;
	case SZ_W:
		return insn->w ? 8 : 4;
	case SZ_L:
		return l;
	case SZ_HL:
		return l / 2;
	case SZ_QL:
		return l / 4;
	case SZ_EL:
		return l / 8;
	case SZ_DUP:
		return insn->vl ? l : 8;
	case SZ_FAR:
		return 2 + insn->opsize;
	case SZ_DESC:
		return mode == INSN_MODE_64 ? 10 : 6;
	case SZ_ENV:
		return insn->opsize == 2 ? 14 : 28;
	case SZ_SAVE:
		return insn->opsize == 2 ? 94 : 108;
	default:
		return insn->opsize;
	}
}

/* ---- immediates ---- */

static void take_imm(struct insn *insn, struct cursor *c)
{
	unsigned z = insn->opsize == 2 ? 2 : 4;
	unsigned start = c->pos;
	switch ((enum row_imm)insn->row->imm) {
	case IMM_NONE:
		return;
	case IMM_8:
	case IMM_REL8:
	case IMM_COUNT:
		insn->imm = take_signed(c, 1);
		break;
	case IMM_Z:
	case IMM_REL:
		insn->imm = take_signed(c, z);
		break;
	case IMM_V:
		insn->imm = take_signed(c, insn->opsize);
		break;
	case IMM_U8:
		insn->imm = take(c, 1);
		break;
	case IMM_U16:
		insn->imm = take(c, 2);
		break;
	case IMM_FAR:
		insn->imm = take(c, insn->opsize);
		insn->imm2 = take(c, 2);
		break;
	case IMM_ENTER:
		insn->imm = take(c, 2);
		insn->imm2 = take(c, 1);
		break;
	case IMM_8_8:
		insn->imm = take(c, 1);
		insn->imm2 = take(c, 1);
		break;
	case IMM_MOFFS:
		insn->disp = take(c, insn->addrsize);
		insn->mem = true;
		return;
	}
	insn->imm_size = c->pos - start;
}

/* ---- what remains ---- */

static void settle_flags(struct insn *insn)
{
	const struct insn_row *row = insn->row;
	insn->flags_read = row->flags_read;
	insn->flags_written = row->flags_written;
	if (row->flags & ROW_COND) {
		static const uint16_t read[8] = { FLAG_OF, FLAG_CF, FLAG_ZF,           FLAG_CF | FLAG_ZF,
						  FLAG_SF, FLAG_PF, FLAG_SF | FLAG_OF, FLAG_ZF | FLAG_SF | FLAG_OF };
		insn->cond = insn->opcode & 15;
		insn->flags_read = read[insn->cond >> 1];
	}
	if (row->op == OP_STRING && insn->rep) {
		insn->flags_read |= insn->flags_written;
		insn->flags_written = 0;
	}
	if (row->imm == IMM_COUNT && !(insn->imm & (insn->opsize == 8 ? 63 : 31)))
		insn->flags_written = 0;
}

/* Registers 16 to 31, mask registers, and what a mask is for. */
static void settle_evex(struct insn *insn, const struct prefixes *pf, enum insn_mode mode)
{
	const struct insn_row *row = insn->row;
	bool vsib = row->op == OP_EVEX_GATHER || row->op == OP_EVEX_SCATTER;

	if (row->reg_kind == REG_VEC)
		insn->reg |= pf->high_r;
	if (!insn->mem && row->rm_kind == REG_VEC)
		insn->rm |= pf->rex_x << 1;
	if (vsib && insn->index != INSN_NO_REG)
		insn->index |= insn->vvvv & 16;
	insn->mask_size = size_in_bytes(insn, row->mask_size, mode);
	insn->disp_unit = 1;
	if (insn->mask_size)
		insn->lanes =
		    (insn->mem && !(row->evex & EVEX_SPLAT) ? insn->mem_size : 16u << insn->vl) / insn->mask_size;
	if (!insn->mem)
		return;
	if (evex_b(insn))
		insn->mem_size = insn->w ? 8 : 4;
	insn->disp_unit = row->evex & EVEX_PACKED ? insn->mask_size : insn->mem_size;
	if (insn->mod == 1)
		insn->disp *= insn->disp_unit;
	if (insn->mask && row->op == OP_COPY && !(row->evex & EVEX_WHOLE))
		insn->op = OP_EVEX_MASKED;
}

static bool is_gather(const struct insn_row *row)
{
	return row->op == OP_GATHER || row->op == OP_EVEX_GATHER || row->op == OP_EVEX_SCATTER;
}

static void settle_operands(struct insn *insn, const struct prefixes *pf, enum insn_mode mode)
{
	const struct insn_row *row = insn->row;
	insn->reg_size = size_in_bytes(insn, row->reg_size, mode);
	insn->rm_size = size_in_bytes(insn, row->rm_size, mode);
	if (row->reg_in_opcode)
		insn->reg = (insn->opcode & 7) | pf->rex_b;
	else if (row->reg_kind == REG_MMX || row->reg_kind == REG_SEG)
		insn->reg &= 7;
	/* Outside 64-bit mode bit 3 of vvvv is ignored, but not where vvvv names nothing and must be 1111. */
	if (mode != INSN_MODE_64 && row->vvvv_kind)
		insn->vvvv &= 0x17;
	if (row->op == OP_PUSH_SEG || row->op == OP_POP_SEG)
		insn->reg = (insn->opcode >> 3) & 7;
	if (row->rm_kind == REG_MMX || row->rm_kind == REG_ST || row->rm_kind == REG_K)
		insn->rm &= 7;
	if (row->op == OP_MASKED_STORE && !insn->mem) {
		insn->mem = true;
		insn->base = 7;
		insn->mem_size = row->mem_size;
		insn->mem_acc = ACC_W;
	} else if (insn->mem) {
		insn->mem_size = size_in_bytes(insn, row->mem_size, mode);
		insn->mem_acc = row->rm_acc;
	}
	insn->seg = pf->seg;
	if (!insn->seg_override)
		insn->seg = insn->mem && (insn->base == 4 || insn->base == 5) ? ENGINE_SS : ENGINE_DS;
	if (insn->index == 4 && !is_gather(row))
		insn->index = INSN_NO_REG;
	if (insn->enc == ENC_EVEX)
		settle_evex(insn, pf, mode);
}

/* A mask register's number has three bits; in ModRM.rm what is above is ignored, elsewhere it must not be set. */
static bool mask_undefined(const struct insn *insn, const struct prefixes *pf)
{
	const struct insn_row *row = insn->row;

	return (row->reg_kind == REG_K && (pf->rex_r || pf->high_r)) || (row->vvvv_kind == REG_K && insn->vvvv > 7);
}

/* SDM Vol. 2, 2.7.11. */
static bool evex_undefined(const struct insn *insn, const struct prefixes *pf, enum insn_mode mode)
{
	const struct insn_row *row = insn->row;
	bool vsib = row->op == OP_EVEX_GATHER || row->op == OP_EVEX_SCATTER, zero = insn->evex_p[2] & 0x80;

	if (!row->vvvv_kind && (vsib ? insn->vvvv & 15 : insn->vvvv))
		return true;
	if (mode != INSN_MODE_64 && (insn->vvvv & 16))
		return true;
	if (evex_b(insn) && !(row->evex & (insn->mem ? EVEX_BROADCAST : EVEX_ROUNDING | EVEX_SAE)))
		return true;
	if (insn->vl == 3 || (insn->mask && !row->mask_size))
		return true;
	if (zero && (!insn->mask || row->reg_kind == REG_K || (insn->mem && (row->rm_acc & ACC_W)) || vsib))
		return true;
	if (row->reg_kind == REG_GPR && pf->high_r)
		return true;
	return vsib && (!insn->mask || insn->index == INSN_NO_REG || insn->addrsize == 2 || (insn->modrm & 7) != 4 ||
			(row->op == OP_EVEX_GATHER && insn->reg == insn->index));
}

static bool operands_undefined(const struct insn *insn, const struct prefixes *pf, enum insn_mode mode)
{
	const struct insn_row *row = insn->row;
	if (mask_undefined(insn, pf) || (insn->enc == ENC_EVEX && evex_undefined(insn, pf, mode)))
		return true;
	if (insn->enc == ENC_VEX && !row->vvvv_kind && insn->vvvv)
		return true;
	switch (row->reg_kind) {
	case REG_SEG:
		return insn->reg > ENGINE_GS || (row->op == OP_MOV_TO_SEG && insn->reg == ENGINE_CS);
	case REG_CR:
		return !((1u << insn->reg) & (mode == INSN_MODE_64 ? 0x11du : 0x1du));
	case REG_DR:
		return insn->reg > 7;
	default:
		break;
	}
	if (row->op == OP_GATHER)
		return insn->index == INSN_NO_REG || insn->addrsize == 2 || (insn->modrm & 7) != 4 ||
		       insn->reg == insn->index || insn->reg == insn->vvvv || insn->index == insn->vvvv;
	return false;
}

/* Gives what 64-bit mode lacks as its twin there. */
static void settle_twin(struct insn *insn)
{
	if (insn->map != MAP_ONE || insn->enc != ENC_LEGACY)
		return;
	if ((insn->opcode & 0xf0) == 0x40) {
		insn->has_modrm = true;
		insn->mod = 3;
		insn->reg = (insn->opcode >> 3) & 1;
		insn->rm = insn->opcode & 7;
		insn->modrm = 0xc0 | insn->reg << 3 | insn->rm;
		insn->opcode = 0xff;
	} else if (insn->opcode == 0x82) {
		insn->opcode = 0x80;
	}
}

/* Their fourth register is in the immediate, where bit 7 is ignored outside 64-bit mode. */
static bool is_vblendv(const struct insn *insn)
{
	return insn->enc == ENC_VEX && insn->map == MAP_0F3A && insn->opcode >= 0x4a && insn->opcode <= 0x4c;
}

static inline void clear(struct insn *insn)
{
	*insn = (struct insn){ .scale = 1 };
	insn->row = &insn_rows[0];
	insn->base = INSN_NO_REG;
	insn->index = INSN_NO_REG;
	insn->disp_unit = 1;
}

/* Prefixes, opcode, address and immediate: what tells the row, the length and the flags. */
static inline int take_insn(struct insn *insn, struct prefixes *pf, struct cursor *c, enum insn_mode mode)
{
	clear(insn);
	take_opcode(insn, pf, c, mode);
	if (c->error)
		return c->error;
	static const uint8_t address_size[3][2] = { { 2, 4 }, { 4, 2 }, { 8, 4 } };
	insn->addrsize = address_size[mode][insn->addr67];

	unsigned at = row_index[table_of(insn->enc, insn->map)][insn->opcode];
	if (pf->vex_ud)
		at = 0;
	if (at == AT_ONE_90 && pf->rex_b)
		at = AT_ONE_91;
	if (at && modrm_follows(insn))
		take_modrm(insn, pf, c, mode);
	insn->row = find_row(insn, mode, at);
	insn->op = insn->row->op;
	if (insn->row->opsize == OS_Y && mode != INSN_MODE_64)
		insn->w = false;
	if (insn->row->pp) {
		insn->rep_mandatory = insn->vpp >= 2;
		insn->opsz_mandatory = insn->vpp == 1 && !(insn->row->pp & IS_OPSIZE);
	}
	insn->opsize = operand_size(insn, mode);
	take_imm(insn, c);
	insn->len = c->pos;
	settle_flags(insn);
	return c->error;
}

int insn_skim(struct insn *insn, const uint8_t *bytes, size_t avail, enum insn_mode mode)
{
	struct cursor c = { .bytes = bytes, .avail = avail < INSN_MAX_LEN ? avail : INSN_MAX_LEN };
	struct prefixes pf = { 0 };
	return take_insn(insn, &pf, &c, mode);
}

int insn_decode(struct insn *insn, const uint8_t *bytes, size_t avail, enum insn_mode mode)
{
	struct cursor c = { .bytes = bytes, .avail = avail < INSN_MAX_LEN ? avail : INSN_MAX_LEN };
	struct prefixes pf = { 0 };
	if (take_insn(insn, &pf, &c, mode))
		return c.error;

	settle_operands(insn, &pf, mode);
	if ((insn->lock && !(insn->row->flags & ROW_LOCKABLE && insn->mem)) || operands_undefined(insn, &pf, mode))
		insn->op = OP_UD;
	settle_twin(insn);
	if (mode != INSN_MODE_64 && insn->row->opsize == OS_Y)
		insn->w = false; /* VEX.W, which is ignored */
	unaligned_copy(insn->bytes, bytes, c.pos);
	if (mode != INSN_MODE_64 && is_vblendv(insn))
		insn->bytes[c.pos - 1] &= 0x7f;
	return 0;
}
