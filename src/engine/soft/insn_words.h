/* SPDX-License-Identifier: Apache-2.0 */
/* insn_words.h - what the words of insn_table.def and insn_evex.def mean: for insn.c alone, whose rows they make. */
#ifndef PLURES_ENGINE_SOFT_INSN_WORDS_H
#define PLURES_ENGINE_SOFT_INSN_WORDS_H

#include "engine/soft/insn.h"

enum row_opsize { OS_V, OS_B, OS_Y, OS_Z, OS_N };
enum row_imm {
	IMM_NONE,
	IMM_8,
	IMM_Z,
	IMM_V,
	IMM_U8,
	IMM_U16,
	IMM_FAR,
	IMM_ENTER,
	IMM_MOFFS,
	IMM_REL8,
	IMM_REL,
	IMM_8_8,
	IMM_COUNT,
};
enum {
	SZ_0 = 0,
	SZ_1 = 1,
	SZ_2 = 2,
	SZ_4 = 4,
	SZ_8 = 8,
	SZ_10 = 10,
	SZ_16 = 16,
	SZ_32 = 32,
	SZ_512 = 512,
	SZ_SYMBOLIC = 0x8000,
	SZ_V = SZ_SYMBOLIC,
	SZ_2V,
	SZ_Y,
	SZ_2Y,
	SZ_W,
	SZ_L,
	SZ_HL,
	SZ_QL,
	SZ_EL,
	SZ_DUP,
	SZ_FAR,
	SZ_DESC,
	SZ_ENV,
	SZ_SAVE,
};
enum { NP = 1, P66 = 2, PF3 = 4, PF2 = 8, IS_OPSIZE = ROW_PP_66_IS_OPSIZE, NP_66 = NP | P66 | IS_OPSIZE };
enum {
	NONE = 0,
	AX = 1 << 0,
	CX = 1 << 1,
	DX = 1 << 2,
	BX = 1 << 3,
	SP = 1 << 4,
	BP = 1 << 5,
	SI = 1 << 6,
	DI = 1 << 7,
	ALL8 = 0xff,
	MUL_1 = AX,
	MUL_V = AX | DX,
	CF = FLAG_CF,
	PF = FLAG_PF,
	AF = FLAG_AF,
	ZF = FLAG_ZF,
	SF = FLAG_SF,
	OF = FLAG_OF,
	ARITH = FLAG_ARITH,
	ARITH_BUT_CF = FLAG_ARITH & ~FLAG_CF,
	ARITH_BUT_OF = FLAG_ARITH & ~FLAG_OF,
	NO64 = ROW_NO64,
	ONLY64 = ROW_ONLY64,
	LOCKABLE = ROW_LOCKABLE,
	MEM = ROW_MEM_ONLY,
	REG = ROW_REG_ONLY,
	CPL0 = ROW_CPL0,
	DEF64 = ROW_DEF64,
	FPU = ROW_FPU,
	SSE = ROW_SSE,
	AVX = ROW_AVX,
	UNTESTABLE = ROW_UNTESTABLE,
	WAIT = ROW_WAIT,
	MMX = ROW_MMX,
	OSXSAVE = ROW_OSXSAVE,
	AVX512 = ROW_AVX512,
	COND = ROW_COND,
	BC = EVEX_BROADCAST,
	ER = EVEX_ROUNDING,
	SAE = EVEX_SAE,
	WHOLE = EVEX_WHOLE,
	PACKED = EVEX_PACKED,
	SPLAT = EVEX_SPLAT,
};

#define P(mask) .pp = (mask)
#define SL(n) .slash = 1 << (n)
#define SLS(mask) .slash = (mask)
#define RMIS(n) .rm_mask = 1 << (n)
#define W0 .sel_w = 1
#define W1 .sel_w = 2
#define L0 .sel_l = 1
#define L1 .sel_l = 2
#define L2 .sel_l = 4
#define L12 .sel_l = 6
#define OB .opsize = OS_B
#define OY .opsize = OS_Y
#define OZ .opsize = OS_Z
#define ON .opsize = OS_N
#define O_1 .opsize = OS_B
#define O_V .opsize = OS_V
#define REG_FIELD(kind, acc, size) .reg_kind = (kind), .reg_acc = ACC_##acc, .reg_size = (size)
#define RM_FIELD(kind, acc, rsize, msize) \
	.rm_kind = (kind), .rm_acc = ACC_##acc, .rm_size = (rsize), .mem_size = SZ_##msize
#define E(acc, size) RM_FIELD(REG_GPR, acc, SZ_##size, size)
#define EM(acc, rsize, msize) RM_FIELD(REG_GPR, acc, SZ_##rsize, msize)
#define M(acc, size) RM_FIELD(REG_NONE, acc, 0, size)
#define X(acc, size) RM_FIELD(REG_VEC, acc, 0, size)
#define Q(acc, size) RM_FIELD(REG_MMX, acc, 0, size)
#define ST .rm_kind = REG_ST, .rm_acc = ACC_RW
#define G(acc, size) REG_FIELD(REG_GPR, acc, SZ_##size)
#define OG(acc, size) G(acc, size), .reg_in_opcode = true
#define V(acc) REG_FIELD(REG_VEC, acc, 0)
#define N(acc) REG_FIELD(REG_MMX, acc, 0)
#define S(acc) REG_FIELD(REG_SEG, acc, 0)
#define C(acc) REG_FIELD(REG_CR, acc, 0)
#define D(acc) REG_FIELD(REG_DR, acc, 0)
#define H(acc) .vvvv_kind = REG_VEC, .vvvv_acc = ACC_##acc
#define B(acc) .vvvv_kind = REG_GPR, .vvvv_acc = ACC_##acc
#define K(acc) REG_FIELD(REG_K, acc, 0)
#define HK(acc) .vvvv_kind = REG_K, .vvvv_acc = ACC_##acc
#define XK(acc) RM_FIELD(REG_K, acc, 0, 0)
#define XKM(acc, size) RM_FIELD(REG_K, acc, 0, size)
#define MK(size) .mask_size = SZ_##size
#define EX(bits) .evex = (bits)
#define I(kind) .imm = IMM_##kind
#define FR(mask) .flags_read = (mask)
#define FW(mask) .flags_written = (mask)
#define IR(mask) .implicit_read = (mask)
#define IW(mask) .implicit_written = (mask)
#define IW_RW(mask) IW(mask)
#define IW_R(mask) IW(NONE)
#define F(mask) .flags = (mask)

#endif
