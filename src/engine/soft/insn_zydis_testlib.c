/* SPDX-License-Identifier: Apache-2.0 */
/* insn_zydis_testlib.c - the comparison, and the list of what may differ and why. */
#include "engine/soft/insn_zydis_testlib.h"

#include <Zydis/Zydis.h>

#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

struct pair {
	enum insn_mode mode;
	struct insn ours;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	char *why;
	size_t why_size;
};

#define DIFFER(pair, fmt, ...) \
	(snprintf((pair)->why, (pair)->why_size, "%s: " fmt, (pair)->ours.row->name, __VA_ARGS__), false)

/* ---- what may differ ---- */

/* Known to Zydis, not offered to guests, and so undefined for us. */
static bool not_offered(const ZydisDecodedInstruction *z)
{
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX || z->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
	    z->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW)
		return true;
	/* Only Xeon Phi had these; and half precision. */
	const char *set = ZydisISASetGetString(z->meta.isa_set);
	static const char *const sets[] = { "AVX512ER", "AVX512PF", "AVX512_4FMAPS", "AVX512_4VNNIW", "AVX512_FP16" };
	for (unsigned i = 0; set && i < sizeof(sets) / sizeof(sets[0]); i++)
		if (!strncmp(set, sets[i], strlen(sets[i])))
			return true;
	switch (z->meta.isa_ext) {
	case ZYDIS_ISA_EXT_AMD3DNOW:
	case ZYDIS_ISA_EXT_AMD_INVLPGB:
	case ZYDIS_ISA_EXT_AMX_BF16:
	case ZYDIS_ISA_EXT_AMX_INT8:
	case ZYDIS_ISA_EXT_AMX_TILE:
	case ZYDIS_ISA_EXT_CET:
	case ZYDIS_ISA_EXT_CLZERO:
	case ZYDIS_ISA_EXT_ENQCMD:
	case ZYDIS_ISA_EXT_FMA4:
	case ZYDIS_ISA_EXT_HRESET:
	case ZYDIS_ISA_EXT_KEYLOCKER:
	case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
	case ZYDIS_ISA_EXT_KNC:
	case ZYDIS_ISA_EXT_MCOMMIT:
	case ZYDIS_ISA_EXT_MONITORX:
	case ZYDIS_ISA_EXT_MOVDIR:
	case ZYDIS_ISA_EXT_PADLOCK:
	case ZYDIS_ISA_EXT_PCONFIG:
	case ZYDIS_ISA_EXT_PKU:
	case ZYDIS_ISA_EXT_PT:
	case ZYDIS_ISA_EXT_RDPRU:
	case ZYDIS_ISA_EXT_RTM:
	case ZYDIS_ISA_EXT_SERIALIZE:
	case ZYDIS_ISA_EXT_SGX:
	case ZYDIS_ISA_EXT_SGX_ENCLV:
	case ZYDIS_ISA_EXT_SMX:
	case ZYDIS_ISA_EXT_SNP:
	case ZYDIS_ISA_EXT_SVM:
	case ZYDIS_ISA_EXT_TDX:
	case ZYDIS_ISA_EXT_TSX_LDTRK:
	case ZYDIS_ISA_EXT_UINTR:
	case ZYDIS_ISA_EXT_VMFUNC:
	case ZYDIS_ISA_EXT_VTX:
	case ZYDIS_ISA_EXT_WAITPKG:
	case ZYDIS_ISA_EXT_XSAVES:
		return true;
	default:
		break;
	}
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_VPERMIL2PS: /* XOP's */
	case ZYDIS_MNEMONIC_VPERMIL2PD:
	case ZYDIS_MNEMONIC_JKZD: /* Knights Corner's */
	case ZYDIS_MNEMONIC_JKNZD:
		return true;
	default:
		return false;
	}
}

/* Undefined on the CPUs of AMD, as their manual says, where Zydis follows Intel's. */
static bool undefined_on_amd(const struct pair *p)
{
	const ZydisDecodedInstruction *z = &p->z;
	if (z->opcode_map == ZYDIS_OPCODE_MAP_0F && z->opcode == 0x0d)
		return p->z.raw.modrm.mod == 3;
	return p->mode != INSN_MODE_64 && z->raw.vex.W &&
	       (z->mnemonic == ZYDIS_MNEMONIC_VPINSRD || z->mnemonic == ZYDIS_MNEMONIC_VPEXTRD);
}

/* Rows of which Zydis says less or more about flags. */
static bool flags_excused(const struct pair *p)
{
	const struct insn *o = &p->ours;
	switch (o->op) {
	case OP_STRING: /* REP with rCX = 0 leaves them */
		return o->rep;
	case OP_BT_MEM:
		return true;
	case OP_VMCALL:  /* Zydis means VMX's, which never gets here */
	case OP_SYSCALL: /* settled with all of RFLAGS */
	case OP_SYSRET:
		return true;
	default:
		break;
	}
	if (o->row->implicit_read & 1 << 1 && o->flags_read == FLAG_ARITH) /* shifts by CL */
		return o->flags_written == 0;
	if (o->row->imm && !(o->imm & (o->opsize == 8 ? 63 : 31)) && o->flags_written == 0) /* by 0 */
		return o->row->flags_written != 0;
	const char *name = o->row->name;
	if (name[0] == 'b' && name[1] == 't') /* BT: see insn_table.def */
		return o->flags_written == FLAG_CF && !o->flags_read;
	/* SDM: VTESTPx and VPTEST clear the others. */
	return o->enc == ENC_VEX && strstr(name, "test") && o->flags_written == FLAG_ARITH;
}

/* ---- memory ---- */

static int gpr_number(ZydisRegister reg)
{
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return INSN_RIP;
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8: /* AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B ... */
		return reg >= ZYDIS_REGISTER_SPL  ? (int)reg - ZYDIS_REGISTER_SPL + 4
		       : reg >= ZYDIS_REGISTER_AH ? (int)reg - ZYDIS_REGISTER_AH
						  : (int)reg - ZYDIS_REGISTER_AL;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(reg);
	default:
		return -1;
	}
}

static unsigned address_register(ZydisRegister reg)
{
	if (reg == ZYDIS_REGISTER_NONE)
		return INSN_NO_REG;
	int n = gpr_number(reg);
	return n >= 0 ? (unsigned)n : (unsigned)ZydisRegisterGetId(reg);
}

static unsigned actions_of(const ZydisDecodedOperand *op)
{
	return (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? ACC_R : 0) |
	       (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? ACC_W : 0);
}

static const ZydisDecodedOperand *memory_operand(const struct pair *p)
{
	for (unsigned i = 0; i < p->z.operand_count_visible; i++)
		if (p->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &p->op[i];
	return NULL;
}

static unsigned segment_number(ZydisRegister reg)
{
	return reg - ZYDIS_REGISTER_ES;
}

/* Where Zydis errs or follows another CPU. */
static bool size_excused(const struct pair *p)
{
	switch (p->ours.op) {
	case OP_XSAVE:   /* depends on XCR0 */
	case OP_CLFLUSH: /* only a byte is checked */
		return true;
	case OP_LOAD_FAR: /* REX.W does not make the offset 8 bytes on AMD CPUs */
	case OP_CALLF_MEM:
	case OP_JMPF_MEM:
		return p->ours.w && p->ours.mem_size == 6;
	case OP_JMP_IND: /* 66 is not ignored on AMD CPUs */
	case OP_CALL_IND:
		return p->mode == INSN_MODE_64 && p->ours.mem_size == 2;
	default:
		return false;
	}
}

/* AMD CPUs and the manual of AMD ignore these prefixes in 64-bit mode even after FS or GS. */
static bool segment_excused(const struct pair *p)
{
	return p->mode == INSN_MODE_64 && p->ours.seg_override;
}

static bool memory_same(struct pair *p)
{
	const struct insn *o = &p->ours;
	const ZydisDecodedOperand *m = memory_operand(p);
	if (o->row->op == OP_STRING || o->row->op == OP_XLAT)
		return true;
	if (o->row->op == OP_MASKED_STORE && o->mod == 3)
		return o->base == 7 && o->mem_acc == ACC_W; /* MASKMOVQ, MASKMOVDQU: Zydis has it hidden */
	if (!m || !o->mem)
		return !!m == o->mem || o->row->op == OP_NOP || DIFFER(p, "memory operand: %d, Zydis %d", o->mem, !!m);
	unsigned acc = m->mem.type == ZYDIS_MEMOP_TYPE_MEM || m->mem.type == ZYDIS_MEMOP_TYPE_VSIB ? actions_of(m) : 0;
	unsigned scale = m->mem.scale ? m->mem.scale : 1;
	unsigned base = address_register(m->mem.base), index = address_register(m->mem.index);
	if (o->base != base || o->index != index || (index != INSN_NO_REG && o->scale != scale))
		return DIFFER(p, "address: %u + %u * %u, Zydis %u + %u * %u", o->base, o->index, o->scale, base, index,
			      m->mem.scale);
	uint64_t mask = o->addrsize == 8 ? ~0ull : (1ull << 8 * o->addrsize) - 1;
	if (m->mem.disp.has_displacement ? ((uint64_t)(o->disp ^ m->mem.disp.value) & mask) != 0 : o->disp != 0)
		return DIFFER(p, "displacement: %lld, Zydis %lld", (long long)o->disp, (long long)m->mem.disp.value);
	if (o->row->op == OP_NOP || o->row->op == OP_LEA || o->row->op == OP_INVLPG)
		return o->mem_acc == ACC_NONE && o->mem_size == 0;
	if (segment_number(m->mem.segment) != o->seg && !segment_excused(p))
		return DIFFER(p, "segment: %u, Zydis %u", o->seg, segment_number(m->mem.segment));
	if (o->mem_acc != acc)
		return DIFFER(p, "access: %u, Zydis %u", o->mem_acc, acc);
	if (o->mem_size != m->size / 8 && !size_excused(p))
		return DIFFER(p, "size: %u, Zydis %u", o->mem_size, m->size / 8);
	return true;
}

/* ---- registers ---- */

struct use {
	uint32_t read, written;
};

static void use_add(struct use *use, unsigned reg, unsigned acc)
{
	if (acc & ACC_R)
		use->read |= 1u << reg;
	if (acc & ACC_W)
		use->written |= 1u << reg;
}

static struct use use_ours(const struct insn *o)
{
	struct use use = { .read = o->row->implicit_read, .written = o->row->implicit_written };
	bool twin = o->has_modrm && o->opcode == 0xff && o->map == MAP_ONE;
	unsigned high_reg = insn_high8(o, o->reg_size, o->reg) ? 4 : 0;
	unsigned high_rm = insn_high8(o, o->rm_size, o->rm) ? 4 : 0;
	if (o->row->reg_kind == REG_GPR && !twin)
		use_add(&use, o->reg - high_reg, o->row->reg_acc);
	if (o->row->rm_kind == REG_GPR && o->has_modrm && !o->mem)
		use_add(&use, o->rm - high_rm, o->row->rm_acc);
	if (o->row->vvvv_kind == REG_GPR)
		use_add(&use, o->vvvv, o->row->vvvv_acc);
	if (o->mem && o->base != INSN_NO_REG && o->base != INSN_RIP)
		use_add(&use, o->base, ACC_R);
	bool vsib = o->op == OP_GATHER || o->op == OP_EVEX_GATHER || o->op == OP_EVEX_SCATTER;
	if (o->mem && o->index != INSN_NO_REG && !vsib)
		use_add(&use, o->index, ACC_R);
	return use;
}

static struct use use_theirs(const struct pair *p)
{
	struct use use = { 0 };
	for (unsigned i = 0; i < p->z.operand_count; i++) {
		const ZydisDecodedOperand *op = &p->op[i];
		int n = -1;
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			n = gpr_number(op->reg.value);
			/* What may keep its value is read. */
			if (n >= 0 && n < 16)
				use_add(&use, n,
					actions_of(op) | (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE ? ACC_R : 0));
		} else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			n = gpr_number(op->mem.base);
			if (n >= 0 && n < 16)
				use_add(&use, n, ACC_R);
			n = gpr_number(op->mem.index);
			if (n >= 0 && n < 16)
				use_add(&use, n, ACC_R);
		}
	}
	return use;
}

static bool registers_same(struct pair *p)
{
	struct use ours = use_ours(&p->ours), theirs = use_theirs(p);
	switch (p->ours.row->op) {
	case OP_NOP:    /* no operand is touched */
	case OP_STRING: /* rCX counts as used without REP too */
	case OP_PUSHA:
	case OP_POPA:
	case OP_SYSCALL: /* helpers, which use what they use */
	case OP_SYSRET:
	case OP_SYSENTER:
	case OP_SYSEXIT:
	case OP_XLAT: /* its address is no struct insn's */
		return true;
	default:
		break;
	}
	const char *name = p->ours.row->name;
	if (name[0] == 'b' && name[1] == 's' &&
	    theirs.written) /* BSF, BSR: the destination stays when the source is 0 */
		ours.read &= theirs.read | ~theirs.written;
	if (ours.read != theirs.read)
		return DIFFER(p, "registers read: %04x, Zydis %04x", ours.read, theirs.read);
	if (ours.written != theirs.written)
		return DIFFER(p, "registers written: %04x, Zydis %04x", ours.written, theirs.written);
	return true;
}

/* ---- flags ---- */

static bool flags_same(struct pair *p)
{
	const ZydisAccessedFlags *f = p->z.cpu_flags;
	const struct insn *o = &p->ours;
	if (flags_excused(p))
		return true;
	unsigned read = f ? f->tested & FLAG_ARITH : 0;
	unsigned written = f ? (f->modified | f->set_0 | f->set_1 | f->undefined) & FLAG_ARITH : 0;
	if (o->flags_read != read)
		return DIFFER(p, "flags read: %03x, Zydis %03x", o->flags_read, read);
	if (o->flags_written != written)
		return DIFFER(p, "flags written: %03x, Zydis %03x", o->flags_written, written);
	return true;
}

/* ---- all ---- */

static bool zydis_decode(struct pair *p, const uint8_t *bytes, size_t avail)
{
	static const ZydisMachineMode machine_mode[] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32,
							 ZYDIS_MACHINE_MODE_LONG_64 };
	static const ZydisStackWidth stack_width[] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
						       ZYDIS_STACK_WIDTH_64 };
	ZydisDecoder decoder;
	ZydisDecoderInit(&decoder, machine_mode[p->mode], stack_width[p->mode]);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, avail, &p->z, p->op)))
		return false;
	/* With REX.B and 32-bit addresses, Zydis 4.0 takes R13D for a base where there is none. CPUs don't. */
	bool no_base = p->z.raw.modrm.mod == 0 && p->z.raw.modrm.rm == 4 && p->z.raw.sib.base == 5;
	for (unsigned i = 0; no_base && i < p->z.operand_count; i++)
		if (p->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && p->op[i].mem.base == ZYDIS_REGISTER_R13D) {
			p->op[i].mem.base = ZYDIS_REGISTER_NONE;
			p->op[i].mem.disp.has_displacement = ZYAN_TRUE;
			p->op[i].mem.disp.value = p->z.raw.disp.value;
		}
	return true;
}

enum insn_zydis insn_zydis_compare(enum insn_mode mode, const uint8_t *bytes, size_t avail, char *why, size_t why_size)
{
	struct pair pair = { .mode = mode, .why = why, .why_size = why_size };
	int rc = insn_decode(&pair.ours, bytes, avail, mode);
	bool ours = rc == 0 && pair.ours.op != OP_UD;
	bool theirs = zydis_decode(&pair, bytes, avail);
	if (!ours && !theirs)
		return INSN_ZYDIS_UNDEFINED;
	if (theirs && !ours && not_offered(&pair.z))
		return INSN_ZYDIS_EXCUSED;
	if (pair.ours.opcode == 0x90 && pair.ours.rex & 1 && pair.ours.rep == 0xf3)
		return INSN_ZYDIS_EXCUSED; /* XCHG R8, as CPUs do; PAUSE for Zydis */
	if (theirs && !ours && undefined_on_amd(&pair))
		return INSN_ZYDIS_EXCUSED;
	if (ours != theirs) {
		snprintf(why, why_size, "%s (%d), Zydis %s", ours ? pair.ours.row->name : "undefined", rc,
			 theirs ? ZydisMnemonicGetString(pair.z.mnemonic) : "undefined");
		return INSN_ZYDIS_DIFFERENT;
	}
	bool same =
	    pair.ours.len == pair.z.length || DIFFER(&pair, "length: %u, Zydis %u", pair.ours.len, pair.z.length);
	same = same && memory_same(&pair) && registers_same(&pair) && flags_same(&pair);
	return same ? INSN_ZYDIS_SAME : INSN_ZYDIS_DIFFERENT;
}
