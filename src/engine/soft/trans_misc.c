/* SPDX-License-Identifier: Apache-2.0 */
/* trans_misc.c - the stack, and data movement that can't be copied as it is. */
#include <stddef.h>

#include "engine/soft/trans.h"

enum { SCRATCH_VALUE = 0 }; /* scratch[]: a value that waits for a second memory access */

static void stack_add(struct trans *t, int n)
{
	emit_lea(&t->e, t->width, HOST_GUEST_RSP, HOST_GUEST_RSP, EMIT_NONE, 1, n);
}

/* ---- PUSH ---- */

static void op_push(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	struct emit *e = &t->e;
	if (in->row->reg_in_opcode || (in->has_modrm && !in->mem)) {
		unsigned guest = in->row->reg_in_opcode ? in->reg : in->rm;
		unsigned host = host_of(guest);
		if (host == IN_MEMORY)
			trans_load_t1(t, guest), host = T1;
		trans_move(t, true, t->width, host);
	} else if (in->mem) {
		emit_gs(e, EMIT_MOV_LOAD, 8, T1, CPU_OFF(scratch[SCRATCH_VALUE]));
		trans_move(t, true, t->width, T1);
	} else {
		trans_move_imm(t, t->width, (int32_t)in->imm);
	}
	stack_add(t, -(int)t->width);
}

static void op_load_value(struct trans *t, unsigned i)
{
	(void)i;
	trans_move(t, false, t->width, T1);
	emit_gs(&t->e, EMIT_MOV_STORE, 8, T1, CPU_OFF(scratch[SCRATCH_VALUE]));
}

void trans_push(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	if (trans_grouped(t, i)) {
		op_push(t, i);
		return;
	}
	trans_clobber(t, t->live[i]);
	if (in->mem) {
		uint32_t how = how_operand(in, t->width, ACC_R);
		trans_linear(t, i, how);
		trans_access(t, i, how, op_load_value);
	}
	trans_access_by(t, i, how_of(t->width, ACC_W) | SOFT_HOW_STACK, HOST_GUEST_RSP, -(int)t->width, op_push);
}

static void op_push_value(struct trans *t, unsigned i)
{
	(void)i;
	emit_gs(&t->e, EMIT_MOV_LOAD, 8, T1, CPU_OFF(scratch[SCRATCH_VALUE]));
	trans_move(t, true, t->width, T1);
	stack_add(t, -(int)t->width);
}

/* PUSHF outside of v8086: RFLAGS without RF, which is never set when an instruction of ours begins. */
void trans_pushf(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	trans_need_flags(t);
	emit8(e, 0x9c), emit16(e, 0x5b41); /* pushfq; pop r11 */
	if (t->flags == FLAGS_HOST) {
		emit_gs(e, EMIT_MOV_STORE, 8, T1, CPU_OFF(scratch[SCRATCH_VALUE]));
		trans_clobber(t, t->live[i]); /* it reads them again if the store faults */
		emit_gs(e, EMIT_MOV_LOAD, 8, T1, CPU_OFF(scratch[SCRATCH_VALUE]));
	}
	emit_alu_imm(e, 4, 4, T1, FLAG_ARITH);
	emit_gs(e, EMIT_OR, 4, T1, CPU_OFF(sysflags));
	emit_alu_imm(e, 4, 4, T1, ~RF_RF);
	emit_gs(e, EMIT_MOV_STORE, 8, T1, CPU_OFF(scratch[SCRATCH_VALUE]));
	trans_access_by(t, i, how_of(t->width, ACC_W) | SOFT_HOW_STACK, HOST_GUEST_RSP, -(int)t->width, op_push_value);
}

/* ---- POP ---- */

static void op_pop_reg(struct trans *t, unsigned i)
{
	unsigned guest = t->insn[i].row->reg_in_opcode ? t->insn[i].reg : t->insn[i].rm;
	unsigned host = host_of(guest);
	if (guest == 4) {
		trans_move(t, false, t->width, HOST_GUEST_RSP);
		return;
	}
	trans_move(t, false, t->width, host == IN_MEMORY ? T1 : host);
	if (host == IN_MEMORY) {
		emit_gs(&t->e, EMIT_MOV_STORE, 8, T1, gpr_off(guest));
		t->in_t1 = (uint8_t)guest;
	}
	stack_add(t, (int)t->width);
}

static void op_pop_mem(struct trans *t, unsigned i)
{
	(void)i;
	emit_gs(&t->e, EMIT_MOV_LOAD, 8, T1, CPU_OFF(scratch[SCRATCH_VALUE]));
	trans_move(t, true, t->width, T1);
	stack_add(t, (int)t->width);
}

void trans_pop(struct trans *t, unsigned i)
{
	struct insn *in = &t->insn[i];
	if (trans_grouped(t, i)) {
		op_pop_reg(t, i);
		return;
	}
	trans_clobber(t, t->live[i]);
	trans_access_by(t, i, how_of(t->width, ACC_R) | SOFT_HOW_STACK, HOST_GUEST_RSP, 0,
			in->mem ? op_load_value : op_pop_reg);
	if (!in->mem)
		return;
	/* The address is computed with the stack pointer as it is after the pop. */
	uint32_t how = how_operand(in, t->width, ACC_W);
	if (in->base == 4)
		in->disp += t->width;
	trans_linear(t, i, how);
	if (in->base == 4)
		in->disp -= t->width;
	trans_access(t, i, how, op_pop_mem);
}

static void op_leave(struct trans *t, unsigned i)
{
	(void)i;
	trans_move(t, false, t->width, T1);
	emit_lea(&t->e, t->width, HOST_GUEST_RSP, HOST_RBP, EMIT_NONE, 1, (int)t->width);
	emit_mov(&t->e, t->width, HOST_RBP, T1);
}

void trans_leave(struct trans *t, unsigned i)
{
	if (trans_grouped(t, i)) {
		op_leave(t, i);
		return;
	}
	trans_clobber(t, t->live[i]);
	trans_access_by(t, i, how_of(t->width, ACC_R) | SOFT_HOW_STACK, HOST_RBP, 0, op_leave);
}

/* ---- Addresses ---- */

/* Guest register = src (T0 or T1), of the instruction's operand size. */
static void set_sized(struct trans *t, unsigned guest, unsigned src, unsigned size)
{
	if (size != 2) {
		trans_set(t, guest, src, size == 4 ? 4 : 8);
		return;
	}
	unsigned host = host_of(guest);
	if (host == IN_MEMORY) { /* mov gs:[], src16 */
		emit16(&t->e, 0x6665);
		emit_rex(&t->e, 0, src, 0, 0);
		emit8(&t->e, 0x89);
		emit_modrm(&t->e, 0, src, 4);
		emit8(&t->e, 0x25);
		emit32(&t->e, gpr_off(guest));
	} else {
		emit8(&t->e, 0x66);
		emit_rr(&t->e, EMIT_MOV_LOAD, 4, host, src);
	}
}

bool trans_lea_is_plain(const struct insn *in)
{
	bool base_in_memory = in->base < 16 && host_of(in->base) == IN_MEMORY;
	bool index_in_memory = in->index < 16 && host_of(in->index) == IN_MEMORY;
	unsigned host = host_of(in->reg);

	if (in->opsize < 4 || in->addrsize < 4)
		return false;
	/* A base in memory is loaded to where the result goes. */
	return !base_in_memory ||
	       (host == IN_MEMORY ? !index_in_memory : in->index >= 16 || host_of(in->index) != host);
}

void trans_lea(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	unsigned host = host_of(in->reg);
	if (!trans_lea_is_plain(in)) {
		trans_offset_of(t, i, T0);
		set_sized(t, in->reg, T0, in->opsize);
		t->in_t1 = INSN_NO_REG;
		return;
	}
	trans_offset_cut(t, i, host == IN_MEMORY ? T1 : host, in->opsize == 8 && in->addrsize == 8 ? 8 : 4);
	if (host == IN_MEMORY) {
		emit_gs(&t->e, EMIT_MOV_STORE, 8, T1, gpr_off(in->reg));
		t->in_t1 = in->reg;
	}
}

static void op_moffs(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	trans_move(t, in->mem_acc == ACC_W, in->opsize, HOST_RAX);
}

void trans_moffs(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	uint32_t how = how_operand(in, in->opsize, in->mem_acc);
	trans_clobber(t, t->live[i]);
	emit_mov_imm(&t->e, T0, in->addrsize == 8 ? (uint64_t)in->disp : (uint32_t)in->disp);
	trans_segment(t, i, in->seg, how);
	trans_access(t, i, how, op_moffs);
}

static void op_xlat(struct trans *t, unsigned i)
{
	(void)i;
	trans_move(t, false, 1, HOST_RAX);
}

void trans_xlat(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	uint32_t how = how_of(1, ACC_R);
	trans_clobber(t, t->live[i]);
	emit8(&t->e, 0x44), emit16(&t->e, 0xb60f), emit_modrm(&t->e, 3, T0, HOST_RAX); /* movzx r10d, al */
	emit_lea(&t->e, in->addrsize == 8 ? 8 : 4, T0, HOST_RBX, T0, 1, 0);
	if (in->addrsize == 2)
		emit8(&t->e, 0x45), emit16(&t->e, 0xb70f), emit_modrm(&t->e, 3, T0, T0);
	trans_segment(t, i, in->seg, how);
	trans_access(t, i, how, op_xlat);
}

/* ---- BT and its kin with a bit string in memory ---- */

static void op_bt(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	struct emit *e = &t->e;
	/* Only the bit's number within the operand is left in the index. */
	trans_get(t, T1, in->reg, 8);
	emit_alu_imm(e, 4, 4, T1, (int)in->opsize * 8 - 1);
	if (t->live[i + 1] & (uint16_t)~in->flags_written & FLAG_ARITH) {
		/* The other flags stay: bring them back, with T1 in use. */
		emit_gs(e, EMIT_MOV_STORE, 8, T1, CPU_OFF(scratch[1]));
		trans_need_flags(t);
		emit_gs(e, EMIT_MOV_LOAD, 8, T1, CPU_OFF(scratch[1]));
	}
	trans_map(t, i, 0);
	if (in->lock)
		emit8(e, 0xf0);
	if (in->opsize == 2)
		emit8(e, 0x66);
	emit8(e, in->opsize == 8 ? 0x4d : 0x45);
	emit8(e, 0x0f);
	emit8(e, in->opcode);
	emit_modrm(e, 0, T1, T0);
	t->flags = FLAGS_HOST;
}

void trans_bt(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	struct emit *e = &t->e;
	unsigned log = in->opsize == 2 ? 4 : in->opsize == 4 ? 5 : 6;
	uint32_t how = how_operand(in, in->opsize, in->mem_acc);
	trans_clobber(t, t->live[i]);
	trans_offset_of(t, i, T0);
	trans_get(t, T1, in->reg, 8);
	if (in->opsize == 2) {
		emit16(e, 0x0f4d), emit8(e, 0xbf), emit_modrm(e, 3, T1, T1); /* movsx r11, r11w */
	} else if (in->opsize == 4) {
		emit16(e, 0x634d), emit_modrm(e, 3, T1, T1); /* movsxd r11, r11d */
	}
	emit_shift(e, 8, 7, T1, log);
	emit_lea(e, in->addrsize == 8 ? 8 : 4, T0, T0, T1, in->opsize, 0);
	if (in->addrsize == 2)
		emit8(e, 0x45), emit16(e, 0xb70f), emit_modrm(e, 3, T0, T0);
	trans_segment(t, i, in->seg, how);
	trans_access(t, i, how, op_bt);
}

/* ---- Segment selectors, XSAVE, cache lines ---- */

static void load_selector(struct trans *t, unsigned i)
{
	unsigned seg = t->insn[i].modrm >> 3 & 7;
	emit_gs_load16(&t->e, T1,
		       CPU_OFF(seg) + seg * (uint32_t)sizeof(struct engine_segment) +
			   (uint32_t)offsetof(struct engine_segment, selector));
}

static void op_store_selector(struct trans *t, unsigned i)
{
	load_selector(t, i);
	trans_move(t, true, 2, T1);
}

void trans_mov_from_seg(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	if (!in->mem) {
		load_selector(t, i);
		set_sized(t, in->rm, T1, in->opsize);
		return;
	}
	uint32_t how = how_operand(in, 2, ACC_W);
	trans_clobber(t, t->live[i]);
	trans_linear(t, i, how);
	trans_access(t, i, how, op_store_selector);
}

/* What has been stored at T0 has addresses of the host's in it. */
static void fix_fpu_pointers(struct trans *t, unsigned i)
{
	const struct insn *copy = trans_keep_insn(t, i, OP_FPU_POINTERS);
	emit_mov_imm(&t->e, T1, (uintptr_t)copy);
	emit_call_gs(&t->e, CPU_OFF(thunk) + 8 * SOFT_THUNK_HELPER);
}

/* #GP for an image whose header, XSTATE_BV or XCOMP_BV, has components that the guest does not; bit 63 is the host's to
 * judge. */
static void check_xrstor(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	emit16(e, 0x8b4d), emit8(e, 0x9a), emit32(e, 512); /* mov r11, [r10 + 512] */
	emit16(e, 0x0b4d), emit8(e, 0x9a), emit32(e, 520); /* or r11, [r10 + 520] */
	uint32_t mask = t->mode & SOFT_MODE_AVX ? SOFT_XSAVE_AVX : SOFT_XSAVE_AVX & ~4u;
	if (t->mode & SOFT_MODE_AVX512)
		mask |= SOFT_XSAVE_AVX512;
	emit_shift(e, 8, 4, T1, 1);
	emit_alu_imm(e, 8, 4, T1, (int32_t) ~(mask << 1));
	uint8_t *skip = emit_jcc(e, CC_Z, false);
	trans_set_rip(t, trans_rip(t, i));
	emit_mov_imm(e, T0, EXC_GP);
	emit_mov_imm(e, T1, 0);
	emit_call_gs(e, CPU_OFF(thunk) + 8 * SOFT_THUNK_HELPER_END);
	emit_patch(skip, e->p);
}

/* The guest's XCR0 may be a part of the host's: the requested components are cut down to it. */
static void op_xsave(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	struct emit *e = &t->e;
	if (!(in->mem_acc & ACC_W))
		check_xrstor(t, i);
	emit_gs(e, EMIT_MOV_STORE, 8, HOST_RAX, CPU_OFF(scratch[0]));
	emit_gs(e, EMIT_MOV_STORE, 8, HOST_RDX, CPU_OFF(scratch[1]));
	emit_gs(e, EMIT_AND, 4, HOST_RAX, CPU_OFF(xcr0));
	emit_gs(e, EMIT_AND, 4, HOST_RDX, CPU_OFF(xcr0) + 4);
	trans_map(t, i, SOFT_MAP_XSAVE);
	emit8(e, 0x41 | (unsigned)in->w << 3);
	emit8(e, 0x0f);
	emit8(e, in->opcode);
	emit_modrm(e, 0, in->modrm >> 3 & 7, T0);
	emit_gs(e, EMIT_MOV_LOAD, 8, HOST_RAX, CPU_OFF(scratch[0]));
	emit_gs(e, EMIT_MOV_LOAD, 8, HOST_RDX, CPU_OFF(scratch[1]));
	if (in->mem_acc & ACC_W)
		fix_fpu_pointers(t, i);
}

void trans_xsave(struct trans *t, unsigned i)
{
	enum { WITHOUT_AVX = 576, WITH_AVX = 832, OPCODE_XSAVEC = 0xc7 };
	const struct insn *in = &t->insn[i];
	unsigned acc = in->mem_acc & ACC_W ? ACC_RW : ACC_R, size = t->mode & SOFT_MODE_AVX ? WITH_AVX : WITHOUT_AVX;
	/* What the check is for: all that there may be. */
	if (t->mode & SOFT_MODE_AVX512)
		size = t->cpu->vm->xsave_size;
	uint32_t how = how_operand(in, size, acc) | SOFT_HOW_XSAVE;
	if (in->opcode == OPCODE_XSAVEC)
		how |= SOFT_HOW_COMPACT;
	trans_clobber(t, t->live[i]);
	trans_linear(t, i, how);
	trans_access(t, i, how, op_xsave);
}

static void op_fpu_save(struct trans *t, unsigned i)
{
	op_copy(t, i);
	fix_fpu_pointers(t, i);
}

void trans_fpu_save(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	/* FXSAVE leaves the last bytes alone. */
	uint32_t how = how_operand(in, in->mem_size, ACC_RW);
	trans_clobber(t, t->live[i]);
	trans_linear(t, i, how);
	trans_access(t, i, how, op_fpu_save);
}

static void op_nothing(struct trans *t, unsigned i)
{
	(void)t;
	(void)i;
}

void trans_clflush(struct trans *t, unsigned i)
{
	trans_clobber(t, t->live[i]);
	uint32_t how = how_operand(&t->insn[i], 1, ACC_R);
	trans_linear(t, i, how);
	trans_access(t, i, how, op_nothing);
}

/* ---- REP MOVS and REP STOS ---- */

enum { STRING_SAVED = 0 }; /* scratch[]: rDI and rSI as they were */

/* The register, which waits in scratch[], becomes the host's address of what it points to, if all rCX elements of that
 * lie in one page; else to one of two branches. Destroys T1. */
static void string_operand(struct trans *t, unsigned reg, unsigned size, unsigned acc, uint8_t *slow[2])
{
	struct emit *e = &t->e;
	emit_mov(e, 8, T0, reg);
	trans_tlb_check(t, how_of(size, acc));
	slow[0] = e->p - 4;
	emit_lea(e, 8, reg, T0, HOST_RCX, size, 0);
	emit_alu_imm(e, 8, 7, reg, 4096);
	slow[1] = emit_jcc(e, CC_A, false);
	trans_tlb_add_host(t);
	emit_mov(e, 8, reg, T0);
}

static void string_restore(struct trans *t, bool moves)
{
	emit_gs(&t->e, EMIT_MOV_LOAD, 8, HOST_RDI, CPU_OFF(scratch[STRING_SAVED]));
	if (moves)
		emit_gs(&t->e, EMIT_MOV_LOAD, 8, HOST_RSI, CPU_OFF(scratch[STRING_SAVED + 1]));
}

/* Where each operand is in one page of memory the host does it, with its own addresses. All else is the helper's. */
void trans_string(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	struct emit *e = &t->e;
	bool moves = (in->opcode & 0xfe) == 0xa4, stores = (in->opcode & 0xfe) == 0xaa;
	unsigned size = in->opsize;
	uint8_t *slow[5];
	if (!(moves || stores) || !in->rep || !t->is64 || in->addrsize != 8 || in->seg == ENGINE_FS ||
	    in->seg == ENGINE_GS || (t->mode & (SOFT_MODE_DF | SOFT_MODE_STEP))) {
		trans_helper(t, i, 0);
		return;
	}
	trans_clobber(t, t->live[i]);
	emit_gs(e, EMIT_MOV_STORE, 8, HOST_RDI, CPU_OFF(scratch[STRING_SAVED]));
	if (moves)
		emit_gs(e, EMIT_MOV_STORE, 8, HOST_RSI, CPU_OFF(scratch[STRING_SAVED + 1]));
	emit_alu_imm(e, 8, 7, HOST_RCX, 4096 / (int)size);
	slow[0] = emit_jcc(e, CC_A, false);
	string_operand(t, HOST_RDI, size, ACC_W, slow + 1);
	if (moves)
		string_operand(t, HOST_RSI, size, ACC_R, slow + 3);
	emit_mov(e, 8, T0, HOST_RCX);
	emit8(e, 0xf3);
	if (size == 2)
		emit8(e, 0x66);
	emit_rex(e, size == 8, 0, 0, 0);
	emit8(e, (moves ? 0xa4 : 0xaa) | (size > 1));
	string_restore(t, moves);
	emit_lea(e, 8, HOST_RDI, HOST_RDI, T0, size, 0);
	if (moves)
		emit_lea(e, 8, HOST_RSI, HOST_RSI, T0, size, 0);
	uint8_t *done = emit_jmp(e, false);
	for (unsigned k = 0; k < (moves ? 5 : 3); k++)
		emit_patch(slow[k], e->p);
	string_restore(t, moves);
	trans_helper(t, i, 0);
	emit_patch(done, e->p);
}

/* ---- The time stamp counter ---- */

void trans_rdtsc(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	trans_clobber(t, t->live[i]);
	emit16(e, 0x310f);
	emit_shift(e, 8, 4, HOST_RDX, 32);
	emit_rr(e, EMIT_OR, 8, HOST_RAX, HOST_RDX);
	emit_gs(e, EMIT_ADD, 8, HOST_RAX, CPU_OFF(tsc_offset));
	emit_mov(e, 8, HOST_RDX, HOST_RAX);
	emit_shift(e, 8, 5, HOST_RDX, 32);
	emit_mov(e, 4, HOST_RAX, HOST_RAX);
	if (t->insn[i].op == OP_RDTSCP)
		emit_gs(e, EMIT_MOV_LOAD, 4, HOST_RCX, CPU_OFF(tsc_aux));
}

/* ---- PAUSE ---- */

/* A vCPU that waits for another by spinning holds up a host CPU that the other may need: now and then it yields. */
void trans_pause(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	const struct insn *helper = trans_keep_insn(t, i, 0);
	trans_clobber(t, t->live[i]);
	emit16(e, 0x90f3);
	if (t->stubs == sizeof(t->stub) / sizeof(*t->stub) || !helper) {
		t->failed = true;
		return;
	}
	emit_gs_alu_imm(e, 5, CPU_OFF(pause_left), 1);
	struct trans_stub *s = &t->stub[t->stubs++];
	*s = (struct trans_stub){ .branch = emit_jcc(e, CC_B, false), .insn = i, .helper = helper };
	s->after = e->p;
}

/* ---- IF ---- */

void trans_cli(struct trans *t, unsigned i)
{
	trans_clobber(t, t->live[i]);
	emit_gs_alu_imm(&t->e, 4, CPU_OFF(sysflags), (uint32_t)~RF_IF);
}

/* Interrupts are taken after the next instruction: the block goes on for one more, and its end polls. A pending one is
 * turned into a kick for that. */
void trans_sti(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	trans_clobber(t, t->live[i]);
	emit_gs_alu_imm(e, 1, CPU_OFF(sysflags), RF_IF);
	emit_gs_cmp8(e, CPU_OFF(irq_pending), 0);
	uint8_t *skip = emit_jcc(e, CC_Z, false);
	emit8(e, 0xf0);
	emit_gs_alu_imm(e, 1, CPU_OFF(kick), SOFT_KICK_INTERRUPT);
	emit_patch(skip, e->p);
}
