/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff_gen_testlib.c - instructions by table row.
 *
 * Bytes are made by chance within what the row asks for and kept if the decoder finds the row in them. Memory operands
 * get an address in the scratch area later, from the state (diff_state_testlib.c); only what has no register to set is
 * settled here, in the displacement.
 */
#include <Zydis/Zydis.h>

#include <string.h>

#include "engine/soft/diff_testlib.h"

uint64_t diff_random(struct diff_random *r)
{
	r->s ^= r->s << 13;
	r->s ^= r->s >> 7;
	r->s ^= r->s << 17;
	return r->s * 0x2545f4914f6cdd1d;
}

static unsigned below(struct diff_random *r, unsigned n)
{
	return (diff_random(r) >> 33) % n;
}

static bool one_in(struct diff_random *r, unsigned n)
{
	return below(r, n) == 0;
}

/* ---- the list ---- */

size_t diff_targets(struct diff_target *targets, size_t max)
{
	size_t n = 0;
	for (unsigned enc = ENC_LEGACY; enc <= ENC_EVEX; enc++) {
		for (unsigned map = MAP_ONE; map <= MAP_0F3A; map++) {
			for (unsigned op = 0; op < 256; op++) {
				size_t at = insn_first_row(enc, map, op);
				for (const struct insn_row *row = &insn_rows[at]; at && row->name; row++) {
					if (n < max)
						targets[n] = (struct diff_target){ row, enc, map, op };
					n++;
				}
			}
		}
	}
	return n;
}

static const char *const in_system = "the unit tests of the system helpers and the boots";

const char *diff_excuse(const struct diff_target *t, enum insn_mode mode)
{
	const struct insn_row *row = t->row;
	if (row->flags & (mode == INSN_MODE_64 ? ROW_NO64 : ROW_ONLY64))
		return "undefined in this mode: insn_test";
	if (row->flags & ROW_UNTESTABLE)
		return "random numbers: the guest suites";
	if (row->flags & ROW_AVX512 && !diff_parts().size)
		return "the host has no AVX-512";
	switch (row->op) {
	case OP_UD:
		return "undefined: insn_test";
	case OP_SYSCALL:
	case OP_INT:
		return "enters the host's kernel: control_test, the boots";
	case OP_INT1:
		return "the host's hypervisor reports it as a fault: control_test";
	case OP_SYSENTER:
	case OP_CPUID:
	case OP_XGETBV:
	case OP_RDPID:
	case OP_RDTSC:
	case OP_RDTSCP:
	case OP_RDPMC:
		return "the guest's CPU is not the host's in this: system_test, the boots";
	case OP_SGDT:
	case OP_SIDT:
	case OP_SLDT:
	case OP_STR:
	case OP_SMSW:
		return "the host's kernel emulates or forbids it (UMIP): system_test";
	case OP_JMPF_IMM:
	case OP_JMPF_MEM:
	case OP_CALLF_IMM:
	case OP_CALLF_MEM:
	case OP_RETF:
	case OP_IRET:
		return "the host's descriptor tables are not the guest's: control_test";
	case OP_VMCALL:
		return "calls the host's hypervisor: the boots";
	case OP_MONITOR:
	case OP_MWAIT:
	case OP_RSM:
	case OP_SYSRET:
	case OP_SYSEXIT:
		return in_system;
	default:
		return NULL;
	}
}

/* ---- bytes ---- */

struct code {
	uint8_t bytes[32];
	unsigned len;
	unsigned modrm; /* where it is */
};

static void put(struct code *c, uint8_t b)
{
	c->bytes[c->len++] = b;
}

static unsigned bit_of(struct diff_random *r, unsigned mask)
{
	for (;;) {
		unsigned n = below(r, 8);
		if (mask >> n & 1)
			return n;
	}
}

static void put_prefixes(struct diff_random *r, struct code *c, const struct insn_row *row, enum insn_mode mode,
			 unsigned pp)
{
	if (one_in(r, 12)) {
		/* FS and GS have no segments in a 32-bit process. */
		static const uint8_t seg[] = { 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65 };
		put(c, seg[below(r, mode == INSN_MODE_64 ? 6 : 4)]);
	}
	if (one_in(r, 16))
		put(c, 0x67);
	if (pp == 1 || (!(row->pp & 15 & ~8 & ~4) && one_in(r, 4)))
		put(c, 0x66);
	if (row->flags & ROW_LOCKABLE && one_in(r, 3))
		put(c, 0xf0);
	if (pp >= 2)
		put(c, pp == 2 ? 0xf3 : 0xf2);
	else if (row->op == OP_LOOP)
		return; /* F2 turns LOOPE into LOOPNE on some CPUs of AMD, which no manual says */
	else if (!row->pp && (row->op == OP_STRING ? !one_in(r, 3) : one_in(r, 24)))
		put(c, one_in(r, 2) ? 0xf3 : 0xf2);
}

static void put_legacy(struct diff_random *r, struct code *c, const struct diff_target *t, enum insn_mode mode)
{
	const struct insn_row *row = t->row;
	put_prefixes(r, c, row, mode, row->pp ? bit_of(r, row->pp & 15) : 0);
	if (mode == INSN_MODE_64 && !one_in(r, 3)) {
		uint8_t rex = 0x40 | below(r, 8) | below(r, 2) << 3;
		if (t->map == MAP_ONE && t->opcode == 0x90)
			rex &= ~1;
		put(c, rex);
	}
	if (t->map != MAP_ONE)
		put(c, 0x0f);
	if (t->map >= MAP_0F38)
		put(c, t->map == MAP_0F38 ? 0x38 : 0x3a);
	put(c, t->opcode);
}

static void put_vex(struct diff_random *r, struct code *c, const struct diff_target *t, enum insn_mode mode)
{
	const struct insn_row *row = t->row;
	unsigned pp = row->pp ? bit_of(r, row->pp & 15) : 0;
	unsigned w = row->sel_w ? row->sel_w >> 1 : below(r, 2);
	unsigned l = row->sel_l ? row->sel_l >> 1 : below(r, 2);
	unsigned vvvv = row->vvvv_kind ? below(r, 16) : 15;
	unsigned rxb = mode == INSN_MODE_64 ? below(r, 8) : 7;
	if (one_in(r, 12) && mode == INSN_MODE_64)
		put(c, one_in(r, 2) ? 0x64 : 0x65);
	if (one_in(r, 16))
		put(c, 0x67);
	if (t->map == MAP_0F && !w && (rxb & 3) == 3 && (mode == INSN_MODE_64 || vvvv & 8) && one_in(r, 2)) {
		put(c, 0xc5);
		put(c, (rxb & 4) << 5 | vvvv << 3 | l << 2 | pp);
	} else {
		put(c, 0xc4);
		put(c, rxb << 5 | t->map);
		put(c, w << 7 | vvvv << 3 | l << 2 | pp);
	}
	put(c, t->opcode);
}

static void put_evex(struct diff_random *r, struct code *c, const struct diff_target *t, enum insn_mode mode)
{
	const struct insn_row *row = t->row;
	bool vsib = row->op == OP_EVEX_GATHER || row->op == OP_EVEX_SCATTER;
	unsigned pp = row->pp ? bit_of(r, row->pp & 15) : 0;
	unsigned w = row->sel_w ? row->sel_w >> 1 : below(r, 2);
	unsigned l = row->sel_l ? bit_of(r, row->sel_l) : below(r, 3);
	unsigned vvvv = row->vvvv_kind ? below(r, 16) : 15, high = mode == INSN_MODE_64 ? below(r, 2) : 1;
	unsigned rxb = mode == INSN_MODE_64 ? below(r, 8) : 7, high_r = below(r, 2);
	unsigned mask = (row->mask_size && !one_in(r, 3)) || vsib ? below(r, 8) : 0;
	if (row->reg_kind == REG_K)
		rxb |= 4;
	if (row->reg_kind != REG_VEC && mode == INSN_MODE_64)
		high_r = 1;
	if (row->vvvv_kind != REG_VEC && !vsib)
		high = 1;
	if (one_in(r, 12) && mode == INSN_MODE_64)
		put(c, one_in(r, 2) ? 0x64 : 0x65);
	if (one_in(r, 16))
		put(c, 0x67);
	put(c, 0x62);
	put(c, rxb << 5 | high_r << 4 | t->map);
	put(c, w << 7 | vvvv << 3 | 4 | pp);
	put(c, below(r, 2) << 7 | l << 5 | (row->evex ? below(r, 2) << 4 : 0) | high << 3 | mask);
	put(c, t->opcode);
}

static void put_modrm(struct diff_random *r, struct code *c, const struct insn_row *row)
{
	unsigned mod = row->flags & ROW_REG_ONLY || (!(row->flags & ROW_MEM_ONLY) && one_in(r, 3)) ? 3 : below(r, 3);
	unsigned reg = row->slash ? bit_of(r, row->slash) : below(r, 8);
	unsigned rm = row->rm_mask ? bit_of(r, row->rm_mask) : below(r, 8);
	if (mod != 3 && (row->op == OP_GATHER || row->op == OP_EVEX_GATHER || row->op == OP_EVEX_SCATTER))
		rm = 4;
	c->modrm = c->len;
	put(c, mod << 6 | reg << 3 | rm);
	if (mod != 3 && rm == 4)
		put(c, below(r, 256));
}

/* Displacement and immediate: small numbers, large ones, anything. */
static void put_tail(struct diff_random *r, struct code *c, unsigned kind)
{
	for (unsigned i = 0; i < 2; i++) {
		uint64_t v = diff_random(r);
		if (kind & 1)
			v = (int64_t)(v << 50) >> 56;
		for (unsigned k = 0; k < 4; k++)
			put(c, v >> (8 * k));
		kind >>= 1;
	}
}

static bool try_insn(struct diff_random *r, struct insn *insn, const struct diff_target *t, enum insn_mode mode)
{
	struct code c = { .len = 0 };
	if (t->enc == ENC_EVEX)
		put_evex(r, &c, t, mode);
	else if (t->enc == ENC_VEX)
		put_vex(r, &c, t, mode);
	else
		put_legacy(r, &c, t, mode);
	put_modrm(r, &c, t->row); /* harmless where the opcode has none: it is then part of an immediate */
	put_tail(r, &c, below(r, 4));
	return insn_decode(insn, c.bytes, INSN_MAX_LEN, mode) == 0 && insn->op != OP_UD && insn->row == t->row;
}

/* ---- what is settled in the bytes ---- */

static void patch(struct insn *insn, unsigned at, int64_t value, unsigned size)
{
	memcpy(insn->bytes + at, &value, size);
}

static uint32_t scratch_address(struct diff_random *r)
{
	return DIFF_RW + below(r, DIFF_RW_SIZE - 64);
}

/* Where the displacement is, if it is one of four bytes (or eight: MOFFS). */
static unsigned disp_at(const struct insn *insn, unsigned size)
{
	return insn->len - insn->imm_size - size;
}

static bool is_branch(const struct insn *insn)
{
	return insn->op == OP_JCC || insn->op == OP_JMP || insn->op == OP_CALL || insn->op == OP_LOOP ||
	       insn->op == OP_JCXZ;
}

static void settle_bytes(struct diff_random *r, struct insn *insn, enum insn_mode mode, uint64_t rip)
{
	if (insn->op == OP_ENTER && !one_in(r, 8))
		patch(insn, insn->len - 2, below(r, 32), 2);
	if (!insn->mem)
		return;
	uint32_t scratch = scratch_address(r) - (mode == INSN_MODE_16 ? DIFF_SEG16 : 0);
	if (insn->op == OP_MOFFS) {
		patch(insn, disp_at(insn, insn->addrsize), scratch, insn->addrsize);
	} else if (insn->base == INSN_RIP) {
		patch(insn, disp_at(insn, 4), scratch - (int64_t)(rip + insn->len), 4);
	} else if (insn->base == INSN_NO_REG && (insn->addrsize >= 4 || mode == INSN_MODE_16)) {
		/* With an index alone the state makes it small. */
		unsigned size = insn->addrsize == 2 ? 2 : 4;
		patch(insn, disp_at(insn, size), scratch, size);
	}
	struct insn again;
	if (insn_decode(&again, insn->bytes, insn->len, mode) == 0)
		*insn = again;
}

/* ---- flags ---- */

/* What Zydis knows to be left undefined; our table counts that as written. */
static unsigned undefined_flags(const struct insn *insn, enum insn_mode mode)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	if (mode == INSN_MODE_64)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else if (mode == INSN_MODE_16)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, insn->bytes, insn->len, &z, op)) || !z.cpu_flags)
		return 0;
	return z.cpu_flags->undefined & FLAG_ARITH & insn->flags_written;
}

/* ---- registers ---- */

/* Registers that it changes. */
static uint32_t changed_by(const struct insn *insn)
{
	const struct insn_row *row = insn->row;
	uint32_t mask = row->implicit_written;
	if (row->reg_kind == REG_GPR && row->reg_acc & ACC_W)
		mask |= 1u << (insn->reg & 15) | (insn->reg_size == 1 ? 1u << (insn->reg & 3) : 0);
	if (row->rm_kind == REG_GPR && row->rm_acc & ACC_W && !insn->mem)
		mask |= 1u << (insn->rm & 15) | (insn->rm_size == 1 ? 1u << (insn->rm & 3) : 0);
	if (row->vvvv_kind == REG_GPR && row->vvvv_acc & ACC_W)
		mask |= 1u << insn->vvvv;
	return mask;
}

static bool uses_stack(const struct insn *insn)
{
	return insn->row->implicit_read >> 4 & 1;
}

static bool takes_selector(const struct insn *insn)
{
	return insn->op == OP_MOV_TO_SEG || insn->op == OP_LAR || insn->op == OP_LSL || insn->op == OP_VERR ||
	       insn->op == OP_VERW;
}

/* Registers that diff_state sets so that its accesses go where they should; the stack pointer aside. */
static uint32_t aimed_by(const struct insn *insn)
{
	uint32_t mask = 0;
	if (insn->mem && insn->base < 16)
		mask |= 1u << insn->base;
	if (insn->mem && insn->index < 16 && !diff_is_gather(insn))
		mask |= 1u << insn->index;
	if (insn->op == OP_STRING)
		mask |= 1u << 1 | 1u << 6 | 1u << 7;
	if (insn->op == OP_XLAT)
		mask |= 1u << 3;
	if (insn->op == OP_XSAVE)
		mask |= 1u << 0;
	if (diff_is_divide(insn)) /* so that the quotient fits */
		mask |= 1u << 2;
	if (insn->op == OP_LEAVE || insn->op == OP_ENTER)
		mask |= 1u << 5;
	if (insn->op == OP_BT_MEM)
		mask |= 1u << insn->reg;
	if (takes_selector(insn) && !insn->mem)
		mask |= 1u << insn->rm;
	if ((insn->op == OP_JMP_IND || insn->op == OP_CALL_IND) && !insn->mem)
		mask |= 1u << insn->rm;
	return mask;
}

static bool can_aim(const struct diff_case *c, const struct insn *insn)
{
	uint32_t taken = c->changed | c->aimed;
	if (aimed_by(insn) & (taken | (uses_stack(insn) ? 1u << 4 : 0)))
		return false;
	if (insn->op == OP_BT_MEM && (insn->reg == insn->base || insn->reg == insn->index))
		return false;
	/* With REX.W the helper reads 64-bit offsets, as CPUs of Intel do; AMD's ignore it. */
	if (insn->op == OP_LOAD_FAR && insn->w)
		return false;
	if (insn->op == OP_XSAVE && (insn->base == 0 || insn->index == 0))
		return false;
	if (uses_stack(insn) && (c->stack_wild || c->aimed >> 4 & 1))
		return false;
	/* Where these go is settled in memory, which what comes before may change. */
	bool jumps = insn->op == OP_RET || insn->op == OP_JMP_IND || insn->op == OP_CALL_IND;
	return !jumps || !c->insns;
}

static void note_registers(struct diff_case *c, const struct insn *insn)
{
	bool moves = insn->op == OP_PUSH || insn->op == OP_POP || insn->op == OP_PUSHF || insn->op == OP_PUSHA ||
		     insn->op == OP_PUSH_SEG || insn->op == OP_CALL;
	uint32_t changed = changed_by(insn);
	bool names_sp = insn->op == OP_POP && !insn->mem && (insn->has_modrm ? insn->rm : insn->reg) == 4;
	if (changed >> 4 & 1 && (!moves || names_sp))
		c->stack_wild = true;
	c->changed |= changed;
	c->aimed |= aimed_by(insn);
}

/* ---- cases ---- */

static bool add(struct diff_random *r, struct diff_case *c, const struct diff_target *t)
{
	struct insn *insn = &c->insn[c->insns];
	for (unsigned tries = 0; tries < 200; tries++) {
		if (!try_insn(r, insn, t, c->mode) || !can_aim(c, insn))
			continue;
		settle_bytes(r, insn, c->mode, c->rip + c->len);
		if (c->len + insn->len > DIFF_SLOT - 64)
			return false;
		memcpy(c->bytes + c->len, insn->bytes, insn->len);
		c->len += insn->len;
		c->undefined[c->insns + 1] =
		    (c->undefined[c->insns] & ~insn->flags_written) | undefined_flags(insn, c->mode);
		c->insns++;
		note_registers(c, insn);
		return true;
	}
	return false;
}

bool diff_gen_case(struct diff_random *r, struct diff_case *c, const struct diff_target *target, enum insn_mode mode,
		   uint64_t address)
{
	c->mode = mode;
	c->insns = 0;
	c->len = 0;
	c->code_base = mode == INSN_MODE_16 ? address & ~0xffffull : 0;
	c->rip = address - c->code_base;
	c->undefined[0] = 0;
	c->changed = c->aimed = 0;
	c->stack_wild = false;
	memset(c->bytes, 0xcc, sizeof(c->bytes));
	return add(r, c, target);
}

/* What leaves in memory what is not compared stands alone. */
static bool stands_alone(const struct insn_row *row)
{
	switch (row->op) {
	case OP_MOV_TO_SEG: /* what follows would go who knows where */
	case OP_POP_SEG:
	case OP_LOAD_FAR:
		return true;
	default:
		break;
	}
	return row->op == OP_XSAVE || row->op == OP_FPU_SAVE || row->mem_size == 512;
}

bool diff_gen_add(struct diff_random *r, struct diff_case *c, const struct diff_target *target)
{
	if (c->insns == DIFF_MAX_INSNS || diff_excuse(target, c->mode) || stands_alone(target->row) ||
	    stands_alone(c->insn[0].row) || target->row->op == OP_POPF /* needs its memory prepared */)
		return false;
	struct diff_case before = *c;
	if (!add(r, c, target))
		return false;
	/* What reads a flag that is undefined has no right result. */
	if (c->insn[c->insns - 1].flags_read & before.undefined[before.insns]) {
		*c = before;
		return false;
	}
	return true;
}

/* A branch goes to an instruction after it, or into the INT3s behind the last. */
void diff_gen_finish(struct diff_random *r, struct diff_case *c)
{
	unsigned at = 0;
	for (unsigned i = 0; i < c->insns; i++) {
		struct insn *insn = &c->insn[i];
		at += insn->len;
		if (!is_branch(insn))
			continue;
		unsigned skip = below(r, c->insns - i), distance = 0;
		for (unsigned k = i + 1; k <= i + skip; k++)
			distance += c->insn[k].len;
		if (i + 1 + skip == c->insns)
			distance += below(r, 32);
		patch(insn, insn->len - insn->imm_size, distance, insn->imm_size);
		memcpy(c->bytes + at - insn->len, insn->bytes, insn->len);
		insn->imm = distance;
	}
}
