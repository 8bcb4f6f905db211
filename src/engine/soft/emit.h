/* SPDX-License-Identifier: Apache-2.0 */
/*
 * emit.h - the one file that writes bytes of host code.
 *
 * Small functions, each one host instruction, appending at e->p. Registers are host encodings 0-15. What the guest's
 * own instructions become is put together in trans_copy.c from the pieces here. Nothing here knows the guest.
 */
#ifndef PLURES_ENGINE_SOFT_EMIT_H
#define PLURES_ENGINE_SOFT_EMIT_H

#include <stdbool.h>
#include <stdint.h>

struct emit {
	uint8_t *p;       /* where the next byte goes, in the writable view */
	intptr_t to_exec; /* what to add to get its address in the executable view */
};

enum {
	HOST_RAX,
	HOST_RCX,
	HOST_RDX,
	HOST_RBX,
	HOST_RSP,
	HOST_RBP,
	HOST_RSI,
	HOST_RDI,
	HOST_R8,
	HOST_R9,
	HOST_R10,
	HOST_R11,
	HOST_R12,
	HOST_R13,
	HOST_R14,
	HOST_R15,
};

/* The opcode of "op r, r/m" forms. */
enum {
	EMIT_ADD = 0x03,
	EMIT_OR = 0x0b,
	EMIT_AND = 0x23,
	EMIT_SUB = 0x2b,
	EMIT_XOR = 0x33,
	EMIT_CMP = 0x3b,
	EMIT_MOV_LOAD = 0x8b,
	EMIT_MOV_STORE = 0x89
};

/* Condition codes of Jcc. */
enum { CC_B = 2, CC_Z = 4, CC_NZ = 5, CC_BE = 6, CC_A = 7 };

static inline void emit8(struct emit *e, unsigned v)
{
	*e->p++ = (uint8_t)v;
}

static inline void emit16(struct emit *e, unsigned v)
{
	__builtin_memcpy(e->p, &(uint16_t){ (uint16_t)v }, 2);
	e->p += 2;
}

static inline void emit32(struct emit *e, uint32_t v)
{
	__builtin_memcpy(e->p, &v, 4);
	e->p += 4;
}

static inline void emit64(struct emit *e, uint64_t v)
{
	__builtin_memcpy(e->p, &v, 8);
	e->p += 8;
}

static inline const uint8_t *emit_exec(const struct emit *e)
{
	return e->p + e->to_exec;
}

/* REX, when needed: w, and the top bits of reg, index and base. */
static inline void emit_rex(struct emit *e, unsigned w, unsigned reg, unsigned index, unsigned base)
{
	unsigned rex = w << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1);
	if (rex)
		emit8(e, 0x40 | rex);
}

static inline void emit_modrm(struct emit *e, unsigned mod, unsigned reg, unsigned rm)
{
	emit8(e, mod << 6 | (reg & 7) << 3 | (rm & 7));
}

/* op reg, gs:[offset]; size 4 or 8. EMIT_MOV_STORE stores. */
static inline void emit_gs(struct emit *e, unsigned op, unsigned size, unsigned reg, uint32_t offset)
{
	emit8(e, 0x65);
	emit_rex(e, size == 8, reg, 0, 0);
	emit8(e, op);
	emit_modrm(e, 0, reg, 4);
	emit8(e, 0x25);
	emit32(e, offset);
}

/* op reg, gs:[index + offset]; index is not rsp or r12. */
static inline void emit_gs_index(struct emit *e, unsigned op, unsigned size, unsigned reg, unsigned index,
				 uint32_t offset)
{
	emit8(e, 0x65);
	emit_rex(e, size == 8, reg, 0, index);
	emit8(e, op);
	emit_modrm(e, 2, reg, index);
	emit32(e, offset);
}

/* op reg, gs:[index * 8 + offset]; index is not rsp */
static inline void emit_gs_index8(struct emit *e, unsigned op, unsigned size, unsigned reg, unsigned index,
				  uint32_t offset)
{
	emit8(e, 0x65);
	emit_rex(e, size == 8, reg, index, 0);
	emit8(e, op);
	emit_modrm(e, 0, reg, 4);
	emit8(e, 3 << 6 | (index & 7) << 3 | 5);
	emit32(e, offset);
}

/* movzx reg32, word gs:[offset] */
static inline void emit_gs_load16(struct emit *e, unsigned reg, uint32_t offset)
{
	emit8(e, 0x65);
	emit_rex(e, 0, reg, 0, 0);
	emit16(e, 0xb70f);
	emit_modrm(e, 0, reg, 4);
	emit8(e, 0x25);
	emit32(e, offset);
}

/* mov gs:[offset], imm32 sign-extended to size (4 or 8) */
static inline void emit_gs_store_imm(struct emit *e, unsigned size, uint32_t offset, int32_t imm)
{
	emit8(e, 0x65);
	emit_rex(e, size == 8, 0, 0, 0);
	emit8(e, 0xc7);
	emit_modrm(e, 0, 0, 4);
	emit8(e, 0x25);
	emit32(e, offset);
	emit32(e, (uint32_t)imm);
}

/* Group 1 with imm32 on dword gs:[offset]: ext 1 or, 4 and, 7 cmp */
static inline void emit_gs_alu_imm(struct emit *e, unsigned ext, uint32_t offset, uint32_t imm)
{
	emit8(e, 0x65);
	emit8(e, 0x81);
	emit_modrm(e, 0, ext, 4);
	emit8(e, 0x25);
	emit32(e, offset);
	emit32(e, imm);
}

/* dec dword gs:[offset] */
static inline void emit_gs_dec(struct emit *e, uint32_t offset)
{
	emit8(e, 0x65);
	emit8(e, 0xff);
	emit_modrm(e, 0, 1, 4);
	emit8(e, 0x25);
	emit32(e, offset);
}

/* cmp dword gs:[offset], imm8 */
static inline void emit_gs_cmp8(struct emit *e, uint32_t offset, int8_t imm)
{
	emit8(e, 0x65);
	emit8(e, 0x83);
	emit_modrm(e, 0, 7, 4);
	emit8(e, 0x25);
	emit32(e, offset);
	emit8(e, (uint8_t)imm);
}

/* test reg, reg */
static inline void emit_test(struct emit *e, unsigned reg)
{
	emit_rex(e, 1, reg, 0, reg);
	emit8(e, 0x85);
	emit_modrm(e, 3, reg, reg);
}

/* op reg, rm (registers); size 4 or 8 */
static inline void emit_rr(struct emit *e, unsigned op, unsigned size, unsigned reg, unsigned rm)
{
	emit_rex(e, size == 8, reg, 0, rm);
	emit8(e, op);
	emit_modrm(e, 3, reg, rm);
}

static inline void emit_mov(struct emit *e, unsigned size, unsigned dst, unsigned src)
{
	emit_rr(e, EMIT_MOV_LOAD, size, dst, src);
}

/* Loads a constant in the shortest form. */
static inline void emit_mov_imm(struct emit *e, unsigned dst, uint64_t v)
{
	if (v <= UINT32_MAX) {
		emit_rex(e, 0, 0, 0, dst);
		emit8(e, 0xb8 | (dst & 7));
		emit32(e, (uint32_t)v);
	} else if ((int64_t)v == (int32_t)v) {
		emit_rex(e, 1, 0, 0, dst);
		emit8(e, 0xc7);
		emit_modrm(e, 3, 0, dst);
		emit32(e, (uint32_t)v);
	} else {
		emit_rex(e, 1, 0, 0, dst);
		emit8(e, 0xb8 | (dst & 7));
		emit64(e, v);
	}
}

enum { EMIT_NONE = 0xff };

/* lea dst, [base + index * scale + disp]; size 4 truncates. base and index may be EMIT_NONE. */
static inline void emit_lea(struct emit *e, unsigned size, unsigned dst, unsigned base, unsigned index, unsigned scale,
			    int32_t disp)
{
	unsigned b = base == EMIT_NONE ? 0 : base, x = index == EMIT_NONE ? 0 : index;
	emit_rex(e, size == 8, dst, x, b);
	emit8(e, 0x8d);
	unsigned mod = disp == 0 && (b & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;
	if (base == EMIT_NONE)
		mod = 0;
	if (index != EMIT_NONE || base == EMIT_NONE || (b & 7) == 4) {
		unsigned ss = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
		emit_modrm(e, mod, dst, 4);
		emit8(e, ss << 6 | (index == EMIT_NONE ? 4 : x & 7) << 3 | (base == EMIT_NONE ? 5 : b & 7));
	} else {
		emit_modrm(e, mod, dst, b);
	}
	if (base == EMIT_NONE || mod == 2)
		emit32(e, (uint32_t)disp);
	else if (mod == 1)
		emit8(e, (uint8_t)disp);
}

/* Shift by a constant: ext 4 shl, 5 shr, 7 sar */
static inline void emit_shift(struct emit *e, unsigned size, unsigned ext, unsigned reg, unsigned count)
{
	emit_rex(e, size == 8, 0, 0, reg);
	emit8(e, 0xc1);
	emit_modrm(e, 3, ext, reg);
	emit8(e, count);
}

/* cmp qword gs:[offset], imm32 sign-extended */
static inline void emit_gs_cmp64(struct emit *e, uint32_t offset, int32_t imm)
{
	emit8(e, 0x65);
	emit_rex(e, 1, 0, 0, 0);
	emit8(e, 0x81);
	emit_modrm(e, 0, 7, 4);
	emit8(e, 0x25);
	emit32(e, offset);
	emit32(e, (uint32_t)imm);
}

/* imul reg, rm, imm32, of 64 bits */
static inline void emit_imul_imm(struct emit *e, unsigned reg, unsigned rm, int32_t imm)
{
	emit_rex(e, 1, reg, 0, rm);
	emit8(e, 0x69);
	emit_modrm(e, 3, reg, rm);
	emit32(e, (uint32_t)imm);
}

/* cmovcc reg, rm, of 64 bits */
static inline void emit_cmov(struct emit *e, unsigned cc, unsigned reg, unsigned rm)
{
	emit_rex(e, 1, reg, 0, rm);
	emit8(e, 0x0f);
	emit8(e, 0x40 | cc);
	emit_modrm(e, 3, reg, rm);
}

/* Group 1 with imm32: ext 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp */
static inline void emit_alu_imm(struct emit *e, unsigned size, unsigned ext, unsigned reg, int32_t imm)
{
	emit_rex(e, size == 8, 0, 0, reg);
	if (imm == (int8_t)imm) {
		emit8(e, 0x83);
		emit_modrm(e, 3, ext, reg);
		emit8(e, (uint8_t)imm);
	} else {
		emit8(e, 0x81);
		emit_modrm(e, 3, ext, reg);
		emit32(e, (uint32_t)imm);
	}
}

/* ModRM, and SIB, of [base + index + disp]; base is none of rsp, rbp, r12, r13, index is EMIT_NONE or not rsp. */
static inline void emit_modrm_disp(struct emit *e, unsigned reg, unsigned base, unsigned index, int32_t disp)
{
	unsigned mod = disp == 0 ? 0 : disp == (int8_t)disp ? 1 : 2;
	emit_modrm(e, mod, reg, index == EMIT_NONE ? base : 4);
	if (index != EMIT_NONE)
		emit8(e, (index & 7) << 3 | (base & 7));
	if (mod == 1)
		emit8(e, (uint8_t)disp);
	else if (mod == 2)
		emit32(e, (uint32_t)disp);
}

/* The same with EVEX, whose 8-bit displacement counts in `unit` bytes. */
static inline void emit_modrm_disp_evex(struct emit *e, unsigned reg, unsigned base, unsigned index, int32_t disp,
					int32_t unit)
{
	int32_t units = disp / unit;
	unsigned mod = disp == 0 ? 0 : units * unit == disp && units == (int8_t)units ? 1 : 2;
	emit_modrm(e, mod, reg, index == EMIT_NONE ? base : 4);
	if (index != EMIT_NONE)
		emit8(e, (index & 7) << 3 | (base & 7));
	if (mod == 1)
		emit8(e, (uint8_t)units);
	else if (mod == 2)
		emit32(e, (uint32_t)disp);
}

/* mov reg, [base + index + disp] or the other way; size 1, 2, 4, 8; base and index as above */
static inline void emit_mem(struct emit *e, bool store, unsigned size, unsigned reg, unsigned base, unsigned index,
			    int32_t disp)
{
	if (size == 2)
		emit8(e, 0x66);
	unsigned rex = (size == 8) << 3 | (reg >> 3) << 2 | (base >> 3);
	if (index != EMIT_NONE)
		rex |= index >> 3 << 1;
	if (rex || size == 1)
		emit8(e, 0x40 | rex);
	emit8(e, (store ? 0x88 : 0x8a) | (size != 1));
	emit_modrm_disp(e, reg, base, index, disp);
}

/* One instruction that does nothing, of 0 to 7 bytes. */
static inline void emit_nop(struct emit *e, unsigned bytes)
{
	static const uint8_t nops[8][7] = {
		{ 0 },
		{ 0x90 },
		{ 0x66, 0x90 },
		{ 0x0f, 0x1f, 0x00 },
		{ 0x0f, 0x1f, 0x40, 0x00 },
		{ 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00 },
	};
	__builtin_memcpy(e->p, nops[bytes], 7);
	e->p += bytes;
}

/* Branches with a 32-bit displacement, to be filled in by emit_patch; return where the displacement is. With `aligned`
 * the displacement does not cross an 8-byte boundary, so that it can be patched while others run it. */
static inline void emit_align(struct emit *e, unsigned before)
{
	unsigned at = ((uintptr_t)e->p + before) & 7;
	if (at > 4)
		emit_nop(e, 8 - at);
}

static inline uint8_t *emit_jmp(struct emit *e, bool aligned)
{
	if (aligned)
		emit_align(e, 1);
	emit8(e, 0xe9);
	emit32(e, 0);
	return e->p - 4;
}

static inline uint8_t *emit_jcc(struct emit *e, unsigned cc, bool aligned)
{
	if (aligned)
		emit_align(e, 2);
	emit8(e, 0x0f);
	emit8(e, 0x80 | cc);
	emit32(e, 0);
	return e->p - 4;
}

/* Points the displacement at `at` to `target` (both in the writable view). */
static inline void emit_patch(uint8_t *at, const uint8_t *target)
{
	int32_t rel = (int32_t)(target - (at + 4));
	__atomic_store_n((int32_t *)(void *)at, rel, __ATOMIC_RELEASE);
}

static inline uint8_t *emit_call(struct emit *e, bool aligned)
{
	if (aligned)
		emit_align(e, 1);
	emit8(e, 0xe8);
	emit32(e, 0);
	return e->p - 4;
}

static inline void emit_jmp_to(struct emit *e, const uint8_t *target)
{
	emit_patch(emit_jmp(e, false), target);
}

/* call gs:[offset] */
static inline void emit_call_gs(struct emit *e, uint32_t offset)
{
	emit8(e, 0x65);
	emit16(e, 0x14ff);
	emit8(e, 0x25);
	emit32(e, offset);
}

/* jmp gs:[offset] */
static inline void emit_jmp_gs(struct emit *e, uint32_t offset)
{
	emit8(e, 0x65);
	emit16(e, 0x24ff);
	emit8(e, 0x25);
	emit32(e, offset);
}

static inline void emit_jmp_reg(struct emit *e, unsigned reg)
{
	emit_rex(e, 0, 0, 0, reg);
	emit8(e, 0xff);
	emit_modrm(e, 3, 4, reg);
}

/* Flags to memory and back, through `tmp` for rax. The format is struct soft_cpu.flags'. */
static inline void emit_save_flags(struct emit *e, unsigned tmp, uint32_t offset)
{
	emit_mov(e, 8, tmp, HOST_RAX);
	emit8(e, 0x9f);                                                                       /* lahf */
	emit16(e, 0x900f), emit8(e, 0xc0);                                                    /* seto al */
	emit8(e, 0x65), emit8(e, 0x66), emit16(e, 0x0489), emit8(e, 0x25), emit32(e, offset); /* mov gs:[], ax */
	emit_mov(e, 8, HOST_RAX, tmp);
}

static inline void emit_load_flags(struct emit *e, unsigned tmp, uint32_t offset)
{
	emit_mov(e, 8, tmp, HOST_RAX);
	emit_gs_load16(e, HOST_RAX, offset);
	emit16(e, 0x7f04); /* add al, 0x7f: OF */
	emit8(e, 0x9e);    /* sahf */
	emit_mov(e, 8, HOST_RAX, tmp);
}

#endif
