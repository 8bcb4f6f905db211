/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn.h - the instruction table, and the decoder that it feeds.
 *
 * One row of insn_table.def is one instruction: encoding, operands, flags read and written, how it is translated.
 * Decoding is pure: bytes and a mode in, struct insn out, no vCPU. What is not in the table is #UD: an instruction
 * that the table does not know is never copied, so the host can't be made to run something unexamined.
 */
#ifndef PLURES_ENGINE_SOFT_INSN_H
#define PLURES_ENGINE_SOFT_INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How an instruction is translated. COPY: emitted as it is, with registers renamed and its memory operand rewritten.
 * HELPER rows call soft_helper[op] in C with the decoded instruction. The others have their own translation. */
enum insn_op {
	OP_UD, /* raises #UD (also the row of what the table does not know) */
	OP_COPY,
	OP_NOP, /* no operand is touched: NOP Ev, ENDBR, PREFETCHx, hints */

	/* Control flow. */
	OP_JCC,
	OP_JMP,
	OP_JMP_IND,
	OP_CALL,
	OP_CALL_IND,
	OP_RET /* C2, C3 */,
	OP_LOOP /* E0-E2 */,
	OP_JCXZ,
	/* Stack. */
	OP_PUSH /* 50, 68, 6A, FF/6 */,
	OP_POP /* 58, 8F/0 */,
	OP_LEAVE,
	/* Data movement with a translation of its own. */
	OP_LEA,
	OP_MOFFS /* A0-A3 */,
	OP_XLAT,
	OP_BT_MEM /* BT/BTS/BTR/BTC m, r (bit string); m, imm is COPY */,
	OP_MOV_FROM_SEG /* 8C */,
	OP_SETCC,
	OP_XSAVE /* XSAVE, XSAVEC, XSAVEOPT, XRSTOR */,
	OP_FPU_SAVE /* FNSAVE, FNSTENV, FXSAVE */,
	OP_CLFLUSH /* checks a byte's read, then nothing */,
	/* Flags that live in memory. */
	OP_CLI,
	OP_STI,
	OP_CLD,
	OP_STD,
	OP_CLAC,
	OP_STAC,
	/* Everything from here on is a C helper: void soft_helper(cpu, insn, ea). */
	OP_FIRST_HELPER,
	/* ... that may change RIP, the mode or the address space, and ends the block (it sets cpu->rip itself). */
	OP_JMPF_IMM = OP_FIRST_HELPER,
	OP_JMPF_MEM,
	OP_CALLF_IMM,
	OP_CALLF_MEM,
	OP_RETF,
	OP_IRET,
	OP_INT,
	OP_INT3,
	OP_INT1,
	OP_INTO,
	OP_SYSCALL,
	OP_SYSRET,
	OP_SYSENTER,
	OP_SYSEXIT,
	OP_RSM,
	OP_HLT,
	OP_MWAIT,
	OP_POPF,
	OP_MOV_TO_SEG /* 8E */,
	OP_POP_SEG,
	OP_LOAD_FAR /* LDS LES LSS LFS LGS */,
	OP_MOV_TO_CR,
	OP_MOV_TO_DR,
	OP_LMSW,
	OP_CLTS,
	OP_WRMSR,
	OP_XSETBV,
	OP_INVLPG,
	OP_INVPCID,
	OP_WBINVD,
	OP_INVD,
	OP_VMCALL,
	OP_SWAPGS,
	OP_WRFSBASE,
	OP_WRGSBASE,
	OP_LTR,
	OP_LLDT,
	OP_LGDT,
	OP_LIDT,
	OP_CLI_SLOW,
	OP_STI_SLOW,
	OP_IN,
	OP_OUT,
	OP_NEAR_SLOW, /* any near CALL RET JMP JCC LOOP, in a mode where the translator does not do it itself */
	OP_FIRST_PLAIN_HELPER,
	/* ... that only touches registers, flags and memory, after which the block goes on. */
	OP_STRING = OP_FIRST_PLAIN_HELPER /* MOVS CMPS STOS LODS SCAS INS OUTS with any prefix; when it must stop in the
		* middle (a kick, a store into code) it leaves rip at the instruction that is next and unwinds */
	,
	OP_MASKED_LOAD,
	OP_MASKED_STORE /* VMASKMOVPx, VPMASKMOVx, MASKMOVQ/DQU: only enabled lanes may fault; copied
		* where all of the operand is ordinary memory */
	,
	OP_GATHER,
	OP_EVEX_MASKED, /* in no row: EVEX with a mask and memory; copied, as MASKED_LOAD, or done on a buffer that the
			 * helper prepares */
	OP_EVEX_GATHER,
	OP_EVEX_SCATTER,
	OP_FPU_POINTERS, /* in no row: follows what saves the x87's environment */
	OP_PUSHF,
	OP_PUSHA,
	OP_POPA,
	OP_ENTER,
	OP_PUSH_SEG,
	OP_PUSH_SLOW,
	OP_POP_SLOW,
	OP_LEAVE_SLOW,
	OP_MOV_FROM_CR,
	OP_MOV_FROM_DR,
	OP_SMSW,
	OP_RDMSR,
	OP_CPUID,
	OP_RDTSC,
	OP_RDTSCP,
	OP_RDPMC,
	OP_RDPID,
	OP_XGETBV,
	OP_RDFSBASE,
	OP_RDGSBASE,
	OP_SGDT,
	OP_SIDT,
	OP_SLDT,
	OP_STR,
	OP_LAR,
	OP_LSL,
	OP_VERR,
	OP_VERW,
	OP_ARPL,
	OP_BOUND,
	OP_MONITOR,
	OP_DAA,
	OP_DAS,
	OP_AAA,
	OP_AAS,
	OP_AAM,
	OP_AAD,
	OP_SALC,
	OP_COUNT,
};

/* What a ModRM field, VEX.vvvv or opcode-embedded register names. */
enum insn_reg { REG_NONE, REG_GPR, REG_MMX, REG_VEC, REG_SEG, REG_CR, REG_DR, REG_ST, REG_K };

/* Access of an explicit operand. */
enum { ACC_NONE, ACC_R = 1, ACC_W = 2, ACC_RW = 3 };

/* Arithmetic flags, as in RFLAGS. */
enum {
	FLAG_CF = 0x1,
	FLAG_PF = 0x4,
	FLAG_AF = 0x10,
	FLAG_ZF = 0x40,
	FLAG_SF = 0x80,
	FLAG_OF = 0x800,
	FLAG_ARITH = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF,
};

enum insn_enc { ENC_LEGACY, ENC_VEX, ENC_EVEX };
enum insn_map { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A };

/* Row flags. */
enum {
	ROW_NO64 = 1 << 0,        /* #UD in 64-bit mode */
	ROW_ONLY64 = 1 << 1,      /* #UD outside 64-bit mode */
	ROW_LOCKABLE = 1 << 2,    /* LOCK allowed when the destination is memory */
	ROW_MEM_ONLY = 1 << 3,    /* mod == 3 is #UD */
	ROW_REG_ONLY = 1 << 4,    /* mod != 3 is #UD */
	ROW_CPL0 = 1 << 5,        /* #GP unless CPL is 0 (in v8086 and protected mode); the translator raises it */
	ROW_DEF64 = 1 << 6,       /* operand size is 64 in 64-bit mode without REX.W (push, call, ...) */
	ROW_FPU = 1 << 7,         /* x87 or MMX: #NM by CR0.TS or EM */
	ROW_SSE = 1 << 8,         /* #UD unless CR4.OSFXSR and not EM; #NM by TS */
	ROW_AVX = 1 << 9,         /* #UD unless CR4.OSXSAVE and XCR0[2:1] == 3; #NM by TS */
	ROW_AVX512 = 1 << 10,     /* as ROW_AVX, with XCR0[7:5] */
	ROW_UNTESTABLE = 1 << 11, /* the differential test can't run it natively in user mode, or its result is not a
				  * function of its operands (RDRAND); the test's own list says what tests it instead */
	ROW_ENDS = 1 << 12,       /* the block ends after it */
	ROW_WAIT = 1 << 13,       /* FWAIT: #NM by TS and MP */
	ROW_MMX = 1 << 14,        /* MMX: #UD by CR0.EM, #NM by TS (instead of ROW_FPU) */
	ROW_OSXSAVE = 1 << 15,    /* #UD unless CR4.OSXSAVE */
	ROW_COND = 1 << 16,       /* the opcode's low 4 bits are a condition */
};

/* What EVEX rows allow: insn_evex.def has the words. */
enum {
	EVEX_BROADCAST = 1 << 0,
	EVEX_ROUNDING = 1 << 1,
	EVEX_SAE = 1 << 2,
	EVEX_WHOLE = 1 << 3,
	EVEX_PACKED = 1 << 4,
	EVEX_SPLAT = 1 << 5,
};

struct insn_row {
	const char *name;          /* mnemonic, lower case */
	uint8_t op;                /* enum insn_op */
	uint8_t reg_kind, reg_acc; /* ModRM.reg, or the opcode-embedded register */
	uint8_t rm_kind, rm_acc;   /* ModRM.rm when mod == 3; rm_acc holds for memory too */
	uint8_t vvvv_kind, vvvv_acc;
	bool reg_in_opcode;     /* 50+r, B8+r, C8+r, 90+r */
	uint16_t flags_read;    /* FLAG_*; for Jcc/SETcc/CMOVcc computed per condition by the decoder */
	uint16_t flags_written; /* definitely overwritten or left undefined */
	uint16_t implicit_read, implicit_written; /* masks of general registers used beyond the fields: 1 << n */
	uint32_t flags;                           /* ROW_* */
	/* The decoder's own (insn.c): what selects the row within its opcode, 0 for "any", and sizes. */
	uint8_t pp;           /* mandatory prefixes that it takes: mask of 1 << pp, as VEX.pp numbers them */
	uint8_t slash;        /* ModRM.reg: mask of 1 << n */
	uint8_t rm_mask;      /* ModRM.rm when mod == 3: mask of 1 << n */
	uint8_t sel_w, sel_l; /* W and VEX.L: mask of 1 << n */
	uint8_t opsize, imm;  /* enum row_opsize, row_imm */
	uint8_t evex;         /* EVEX_* */
	uint16_t mem_size, reg_size, rm_size; /* bytes, or SZ_* */
	uint16_t mask_size;                   /* of an element that a mask is for; 0: may not be masked */
};

enum { INSN_MAX_LEN = 15, INSN_NO_REG = 0xff, INSN_RIP = 0x10 };

struct insn {
	const struct insn_row *row;
	uint8_t op;  /* row->op, or OP_UD when the mode or a prefix forbids it */
	uint8_t len; /* bytes, 1-15 */
	uint8_t enc, map, opcode;
	uint8_t opsize;            /* effective size of the general operands in bytes: 1, 2, 4, 8 */
	uint8_t reg_size, rm_size; /* bytes of the general registers that reg and rm name (MOVZX: 4 and 1); 0 if they
				    * name none. High-byte numbering goes by these, see insn_high8 */
	uint8_t addrsize;          /* 2, 4, 8 */
	uint8_t seg;               /* effective segment of the memory operand, ENGINE_ES ... ENGINE_GS order */
	bool lock, opsz66, addr67, seg_override;
	uint8_t rep; /* 0, 0xf2, 0xf3: the last such prefix, whether or not it selects the instruction */
	bool rep_mandatory, opsz_mandatory; /* the prefix is part of the opcode (SSE) */
	uint8_t rex;                        /* raw REX byte, 0 if none (legacy) */
	bool w;            /* REX.W, VEX.W; clear where it would name a 64-bit general register that the mode lacks */
	uint8_t vl, vpp;   /* VEX: L (0 128, 1 256, 2 512) and pp */
	uint8_t vvvv;      /* 0-15 (EVEX 0-31), already inverted; valid when row->vvvv_kind */
	uint8_t evex_p[3]; /* raw EVEX payload */
	uint8_t mask, mask_size; /* EVEX.aaa, 0 for none; bytes of an element */
	uint8_t lanes;           /* elements that a mask is for; of memory, where it has any */
	uint8_t disp_unit;       /* what an 8-bit displacement counts in; 1 but with EVEX */
	bool has_modrm;
	uint8_t modrm, mod, reg, rm; /* reg and rm extended by REX/VEX R and B (registers 0-15, EVEX 0-31);
				      * for reg_in_opcode, reg holds the register */
	uint8_t cond;                /* low 4 bits of Jcc, SETcc, CMOVcc */
	/* Memory operand, when mem is set: base + index * scale + disp in addrsize, then the segment's base. */
	bool mem;
	uint8_t base, index, scale; /* register numbers, INSN_NO_REG, or INSN_RIP as base; scale 1, 2, 4, 8 */
	int64_t disp;      /* sign-extended; for INSN_RIP relative to the next instruction; moffs: the address */
	uint16_t mem_size; /* bytes accessed */
	uint8_t mem_acc;   /* ACC_* ; ACC_NONE for LEA, NOP */
	uint8_t imm_size;  /* bytes of immediate in the encoding (ENTER: 3; far pointers: 4 or 6) */
	int64_t imm;       /* sign-extended (ports, INT's vector, RET's and ENTER's size: zero-extended); far pointer:
			  * offset; relative branches: the displacement */
	uint16_t imm2;     /* ENTER: level; far pointer: selector; EXTRQ/INSERTQ's second */
	uint16_t flags_read, flags_written;
	uint8_t bytes[INSN_MAX_LEN];
};

/*
 * What the decoder settles, so that nobody else has to:
 * - insn->row is never NULL. op is OP_UD when the mode, LOCK, VEX or operands forbid what the row says.
 * - Forms that 64-bit mode lacks and that have a twin there are given as the twin: INC/DEC 40-4F as FF /0 and /1,
 *   opcode 82 as 80. `bytes` stay as they were. VEX.W and bits of register numbers that are ignored there are cleared.
 * - 66 before a near branch in 64-bit mode makes its operand size 2 (and E8, E9, 0F 8x take 2 bytes), as on AMD CPUs.
 * - 64-bit mode ignores CS, DS, ES and SS prefixes: an earlier FS or GS prefix stays in force.
 * - Implicit operands: MASKMOVQ and MASKMOVDQU have mem set with base rDI, MOFFS has disp alone. String instructions
 *   and XLAT have mem clear, with seg the segment of their rSI (rBX) operand.
 * - A VEX instruction is #UD in real and v8086 mode, which `mode` does not tell: that is the caller's.
 */

/* Does 66, or that there is none, belong to the opcode, so that it says nothing of the operand size? */
enum { ROW_PP_66_IS_OPSIZE = 16 };
static inline bool insn_selected_by_66(const struct insn *insn)
{
	return (insn->row->pp & 3) && !(insn->row->pp & ROW_PP_66_IS_OPSIZE);
}

/* The code segment's mode. */
enum insn_mode { INSN_MODE_16, INSN_MODE_32, INSN_MODE_64 };

/*
 * Decodes the instruction at `bytes`, of which `avail` (1 to 15) can be read. Returns 0 and fills *insn (op is OP_UD
 * for what is undefined, with len the bytes examined), INSN_TOO_SHORT if it needs more bytes than avail (the
 * instruction goes on in the next page), or INSN_TOO_LONG when it would exceed 15 bytes (#GP).
 */
enum { INSN_TOO_SHORT = -1, INSN_TOO_LONG = -2 };
int insn_decode(struct insn *insn, const uint8_t *bytes, size_t avail, enum insn_mode mode);
/* The same, but faster: only row, len, imm of branches and the flags are filled in, and what operands make undefined is not noticed. */
int insn_skim(struct insn *insn, const uint8_t *bytes, size_t avail, enum insn_mode mode);

/* Does high-byte register numbering apply to general register field n (no REX, 8-bit, n in 4-7: AH CH DH BH)? */
static inline bool insn_is_high8(const struct insn *insn, unsigned n)
{
	return insn->opsize == 1 && insn->enc == ENC_LEGACY && !insn->rex && n >= 4 && n < 8;
}
/* The same for one operand, whose size is insn->reg_size or rm_size: right for MOVZX, MOVSX and CRC32 too. */
static inline bool insn_high8(const struct insn *insn, unsigned size, unsigned n)
{
	return size == 1 && insn->enc == ENC_LEGACY && !insn->rex && n >= 4 && n < 8;
}

/* The rows, for tests. Those of one opcode stand together; the first of them is at insn_first_row (0: none) and a row
 * without a name ends them. */
extern const struct insn_row insn_rows[];
extern const size_t insn_row_count;
size_t insn_first_row(enum insn_enc enc, enum insn_map map, uint8_t opcode);

#endif
