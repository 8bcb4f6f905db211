/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_mem.c - addresses, the soft TLB's check, and where the flags are.
 *
 * The check destroys the arithmetic flags, so before it they are saved to memory if anyone still needs them, and come
 * back only in front of an instruction that reads them (or that changes some and keeps others). Between two
 * instructions the flags are in one of three places, struct trans.flags.
 *
 * A memory access is: address to T0; look-up; on a miss (out of line) soft_mem_slow, which returns a host address; then
 * the op. Where the guest addresses by one register the op does so too, with T0 added, which does not depend on it: so the
 * access need not wait for the check. Elsewhere T0 is the host address. A store that can't be made in place - to a device, across pages, into
 * translated code - is made on a buffer by a second copy of the op out of line, and then finished by soft_mem_commit.
 */
#include <assert.h>
#include <stddef.h>

#include "engine/soft/slots.h"
#include "engine/soft/trans.h"

void trans_clobber(struct trans *t, uint16_t live)
{
	if (t->flags != FLAGS_HOST)
		return;
	if (live & FLAG_ARITH) {
		t->in_t1 = INSN_NO_REG;
		emit_save_flags(&t->e, T1, CPU_OFF(flags));
		t->flags = FLAGS_SAVED;
	} else {
		t->flags = FLAGS_DEAD;
	}
}

void trans_need_flags(struct trans *t)
{
	if (t->flags == FLAGS_SAVED) {
		t->in_t1 = INSN_NO_REG;
		emit_load_flags(&t->e, T1, CPU_OFF(flags));
		t->flags = FLAGS_HOST;
	}
}

void trans_load_t1(struct trans *t, unsigned guest)
{
	if (t->in_t1 != guest)
		emit_gs(&t->e, EMIT_MOV_LOAD, 8, T1, gpr_off(guest));
	t->in_t1 = (uint8_t)guest;
}

void trans_get(struct trans *t, unsigned dst, unsigned guest, unsigned size)
{
	unsigned host = host_of(guest);
	if (host == IN_MEMORY)
		emit_gs(&t->e, EMIT_MOV_LOAD, size, dst, gpr_off(guest));
	else if (host != dst || size == 4)
		emit_mov(&t->e, size, dst, host);
}

void trans_set(struct trans *t, unsigned guest, unsigned src, unsigned size)
{
	unsigned host = host_of(guest);
	if (host == IN_MEMORY) {
		if (size == 4) {
			emit_mov(&t->e, 4, src, src);
		}
		emit_gs(&t->e, EMIT_MOV_STORE, 8, src, gpr_off(guest));
	} else if (host != src || size == 4) {
		emit_mov(&t->e, size, host, src);
	}
}

void trans_set_rip(struct trans *t, uint64_t rip)
{
	if ((int64_t)rip == (int32_t)rip) {
		emit_gs_store_imm(&t->e, 8, CPU_OFF(rip), (int32_t)rip);
	} else {
		emit_mov_imm(&t->e, T1, rip);
		emit_gs(&t->e, EMIT_MOV_STORE, 8, T1, CPU_OFF(rip));
	}
}

void trans_map(struct trans *t, unsigned i, unsigned special)
{
	if (t->maps == sizeof(t->map) / sizeof(*t->map)) {
		t->failed = true;
		return;
	}
	t->map[t->maps++] = (struct soft_map){ .host = trans_offset(t, t->e.p),
					       .guest = t->at[i],
					       .flags_host = t->flags == FLAGS_HOST,
					       .special = (uint8_t)(special | (t->renamed ? SOFT_MAP_RENAMED : 0)) };
}

void trans_offset_of(struct trans *t, unsigned i, unsigned dst)
{
	trans_offset_cut(t, i, dst, t->insn[i].addrsize == 8 ? 8 : 4);
}

void trans_offset_cut(struct trans *t, unsigned i, unsigned dst, unsigned size)
{
	const struct insn *in = &t->insn[i];
	unsigned base = EMIT_NONE, index = EMIT_NONE;

	if (in->base == INSN_RIP) {
		uint64_t address = trans_rip(t, i + 1) + (uint64_t)in->disp;
		emit_mov_imm(&t->e, dst, size == 4 ? (uint32_t)address : address);
		return;
	}
	if (in->base != INSN_NO_REG) {
		base = host_of(in->base);
		if (base == IN_MEMORY && in->base == t->in_t1 && (in->index >= 16 || host_of(in->index) != IN_MEMORY))
			base = T1;
		else if (base == IN_MEMORY)
			emit_gs(&t->e, EMIT_MOV_LOAD, 8, base = dst, gpr_off(in->base));
	}
	if (in->index != INSN_NO_REG) {
		index = host_of(in->index);
		if (index == IN_MEMORY)
			trans_load_t1(t, in->index), index = T1;
	}
	if (base == EMIT_NONE && index == EMIT_NONE) {
		emit_mov_imm(&t->e, dst, size == 4 ? (uint32_t)in->disp : (uint64_t)in->disp);
	} else if (index == EMIT_NONE && in->disp == 0) {
		if (base != dst || size == 4)
			emit_mov(&t->e, size, dst, base);
	} else {
		emit_lea(&t->e, size, dst, base, index, in->scale, (int32_t)in->disp);
	}
	if (in->addrsize == 2) { /* movzx dst32, dst16 */
		emit_rex(&t->e, 0, dst, 0, dst);
		emit16(&t->e, 0xb70f);
		emit_modrm(&t->e, 3, dst, dst);
	}
}

void trans_segment(struct trans *t, unsigned i, unsigned seg, uint32_t how)
{
	bool data_segment = seg == ENGINE_FS || seg == ENGINE_GS;
	if (t->is64 || (t->flat && !(t->mode & SOFT_MODE_WIDE))) {
		if (data_segment)
			emit_gs(&t->e, EMIT_ADD, t->width, T0,
				CPU_OFF(seg) + seg * (uint32_t)sizeof(struct engine_segment) +
				    (uint32_t)offsetof(struct engine_segment, base));
		return;
	}
	if (t->flat && !data_segment)
		return;
	t->in_t1 = INSN_NO_REG;
	trans_set_rip(t, trans_rip(t, i));
	emit_mov_imm(&t->e, T1, (how & (SOFT_HOW_SIZE | SOFT_HOW_READ | SOFT_HOW_WRITE)) | seg << 24);
	emit_call_gs(&t->e, CPU_OFF(thunk) + 8 * SOFT_THUNK_LINEAR);
}

void trans_linear(struct trans *t, unsigned i, uint32_t how)
{
	trans_offset_of(t, i, T0);
	trans_segment(t, i, t->insn[i].seg, how);
}

static uint32_t tlb_off(const struct trans *t, uint32_t field)
{
	return CPU_OFF(tlb) + t->mmu * (uint32_t)sizeof(((struct soft_cpu *)0)->tlb[0]) + field;
}

static uint32_t tag_off(const struct trans *t, uint32_t how)
{
	return tlb_off(t, how & SOFT_HOW_WRITE ? (uint32_t)offsetof(struct soft_tlb_entry, tag_write)
					       : (uint32_t)offsetof(struct soft_tlb_entry, tag_read));
}

/* A new stub, for an access whose check branches at e->p - 4; NULL when there is no room. */
static struct trans_stub *new_stub(struct trans *t, unsigned i, uint32_t how)
{
	if (t->stubs == sizeof(t->stub) / sizeof(*t->stub)) {
		t->failed = true;
		return NULL;
	}
	struct trans_stub *s = &t->stub[t->stubs++];
	*s = (struct trans_stub){ .insn = i,
				  .how = how | t->mmu << SOFT_HOW_MMU_SHIFT,
				  .before = t->flags,
				  .index = EMIT_NONE,
				  .t1 = t->in_t1,
				  .t1_after = INSN_NO_REG,
				  .renamed = t->renamed,
				  .within = t->apart_to > i };
	return s;
}

static int own_slot(struct trans *t)
{
	return (int)(1 + cache_next_slot(t->cache) % (SOFT_SLOTS - 1));
}

/* Which slot of its class an access should use, or -1. Kernel code runs for one process now and for another soon, so its
 * sites would miss more often than they pay for; all but the stack's. */
static int choose_slot(struct trans *t, unsigned i, uint32_t how)
{
	const struct insn *in = &t->insn[i];
	bool group = t->group[i].last;
	if (t->lessons.demoted >> i & 1)
		return -1;
	/* In a twin without groups pages meet: the stack's slot would take turns. */
	if (t->b->mode & SOFT_MODE_SINGLE)
		return t->lessons.hot && t->mmu == SOFT_MMU_USER ? own_slot(t) : -1;
	if (group ? t->group[i].base == 4
		  : (how & SOFT_HOW_STACK) && (!in->mem || (in->base == 4 && in->index == INSN_NO_REG)))
		return SOFT_SLOT_STACK;
	if (!t->lessons.hot || t->mmu != SOFT_MMU_USER)
		return -1;
	return own_slot(t);
}

/* The check by a slot of the site's own (slots.c). */
static void slot_check(struct trans *t, struct trans_stub *s, unsigned n)
{
	unsigned write = (s->how & SOFT_HOW_WRITE) != 0;
	s->slotted = true;
	s->slot = (t->mmu * 2 + write) * SOFT_SLOTS + n;
	uint32_t at = CPU_OFF(slot) + s->slot * (uint32_t)sizeof(struct soft_slot);
	bool sum = s->index == EMIT_NONE;
	unsigned mixed = sum ? T1 : T0;
	if (sum)
		emit_mov(&t->e, 8, T1, T0);
	emit_gs(&t->e, EMIT_XOR, 8, mixed, at + (uint32_t)offsetof(struct soft_slot, tag));
	emit_alu_imm(&t->e, 8, 7, mixed, 4096 - (int32_t)(s->how & SOFT_HOW_SIZE));
	s->branch = emit_jcc(&t->e, CC_A, false);
	emit_gs(&t->e, sum ? EMIT_ADD : EMIT_MOV_LOAD, 8, T0, at + (uint32_t)offsetof(struct soft_slot, addend));
	s->resume = t->e.p;
	trans_map(t, s->insn, s->how & SOFT_HOW_STACK ? SOFT_MAP_STACK : 0); /* an empty slot may match */
}

void trans_tlb_check(struct trans *t, uint32_t how)
{
	struct emit *e = &t->e;
	_Static_assert(sizeof(struct soft_tlb_entry) == 32, "the index computation scales by 32");
	t->in_t1 = INSN_NO_REG;
	emit_mov(e, 4, T1, T0);
	emit_shift(e, 4, 5, T1, 12 - 5);
	emit_alu_imm(e, 4, 4, T1, (SOFT_TLB_SIZE - 1) << 5);
	emit_gs_index(e, EMIT_XOR, 8, T0, T1, tag_off(t, how));
	emit_alu_imm(e, 8, 7, T0, 4096 - (int32_t)(how & SOFT_HOW_SIZE));
	emit_jcc(e, CC_A, false);
}

void trans_tlb_add_host(struct trans *t)
{
	emit_gs_index(&t->e, EMIT_ADD, 8, T0, T1, tlb_off(t, (uint32_t)offsetof(struct soft_tlb_entry, host)));
}

struct trans_stub *trans_check(struct trans *t, unsigned i, uint32_t how, unsigned index, int disp)
{
	assert(t->flags != FLAGS_HOST && !t->in_group);
	int slot = choose_slot(t, i, how);
	if (slot < 0 || index == EMIT_NONE)
		t->in_t1 = INSN_NO_REG;
	struct trans_stub *s = new_stub(t, i, how);
	if (!s)
		return NULL;
	s->index = index;
	s->disp = index == EMIT_NONE ? 0 : disp;
	if (slot >= 0) {
		slot_check(t, s, (unsigned)slot);
		return s;
	}
	trans_tlb_check(t, how);
	s->branch = t->e.p - 4;
	if (index == EMIT_NONE)
		trans_tlb_add_host(t);
	else
		emit_gs_index(&t->e, EMIT_MOV_LOAD, 8, T0, T1,
			      tlb_off(t, (uint32_t)offsetof(struct soft_tlb_entry, addend)));
	s->resume = t->e.p;
	return s;
}

/* After the op. */
static void end_access(struct trans *t, struct trans_stub *s, trans_op *op)
{
	s->op = op;
	s->after = t->e.p;
	s->done = t->flags;
	s->t1_after = t->in_t1;
}

/* The check for T0, which is index + disp if there is an index; then op. */
static void check_and_do(struct trans *t, unsigned i, uint32_t how, unsigned index, int disp, trans_op *op)
{
	t->index = index;
	t->disp = disp;
	struct trans_stub *s = trans_check(t, i, how, index, disp);
	if (!s)
		return;
	op(t, i);
	end_access(t, s, op);
}

void trans_access(struct trans *t, unsigned i, uint32_t how, trans_op *op)
{
	if (t->loop.fast) {
		t->index = EMIT_NONE;
		t->disp = 0;
		trans_loop_check(t, i, how);
		op(t, i);
		return;
	}
	check_and_do(t, i, how, EMIT_NONE, 0, op);
}

void trans_access_by(struct trans *t, unsigned i, uint32_t how, unsigned reg, int disp, trans_op *op)
{
	if (disp)
		emit_lea(&t->e, t->width, T0, reg, EMIT_NONE, 1, disp);
	else
		emit_mov(&t->e, t->width, T0, reg);
	check_and_do(t, i, how, t->is64 ? reg : EMIT_NONE, t->is64 ? disp : 0, op);
}

void trans_move(struct trans *t, bool store, unsigned size, unsigned reg)
{
	emit_mem(&t->e, store, size, reg, T0, t->index, t->disp);
}

void trans_move_imm(struct trans *t, unsigned size, int32_t imm)
{
	unsigned x = t->index == EMIT_NONE ? 0 : t->index;
	emit_rex(&t->e, size == 8, 0, x, T0);
	emit8(&t->e, 0xc7);
	emit_modrm_disp(&t->e, 0, T0, t->index, t->disp);
	emit32(&t->e, (uint32_t)imm);
}

/* The host's register of an operand that is addressed by one register and no segment, in 64-bit code; or EMIT_NONE. */
static unsigned operand_register(const struct trans *t, const struct insn *in)
{
	if (!t->is64 || in->addrsize != 8 || in->base == INSN_NO_REG || in->base == INSN_RIP ||
	    in->index != INSN_NO_REG || in->seg == ENGINE_FS || in->seg == ENGINE_GS || host_of(in->base) == IN_MEMORY)
		return EMIT_NONE;
	return host_of(in->base);
}

bool trans_constant_address(const struct trans *t, unsigned i, unsigned size, uint64_t *address)
{
	const struct insn *in = &t->insn[i];
	if (!t->is64 || in->addrsize != 8 || in->seg == ENGINE_FS || in->seg == ENGINE_GS || in->index != INSN_NO_REG)
		return false;
	if (in->base == INSN_RIP)
		*address = trans_rip(t, i + 1) + (uint64_t)in->disp;
	else if (in->base == INSN_NO_REG)
		*address = (uint64_t)in->disp;
	else
		return false;
	return (*address & 4095) + size <= 4096;
}

void trans_access_operand(struct trans *t, unsigned i, uint32_t how, trans_op *op)
{
	struct emit *e = &t->e;
	uint64_t address;
	unsigned reg = t->loop.fast ? EMIT_NONE : operand_register(t, &t->insn[i]);
	if (reg != EMIT_NONE) {
		trans_access_by(t, i, how, reg, (int)t->insn[i].disp, op);
		return;
	}
	if (t->loop.fast || !trans_constant_address(t, i, how & SOFT_HOW_SIZE, &address)) {
		trans_linear(t, i, how);
		trans_access(t, i, how, op);
		return;
	}
	struct trans_stub *s = new_stub(t, i, how);
	if (!s)
		return;
	uint64_t page = address & ~UINT64_C(4095);
	uint32_t entry = (address >> 12 & (SOFT_TLB_SIZE - 1)) * (uint32_t)sizeof(struct soft_tlb_entry);
	if ((int64_t)page == (int32_t)page) {
		emit_gs_cmp64(e, tag_off(t, how) + entry, (int32_t)page);
	} else {
		emit_mov_imm(e, T0, page);
		emit_gs(e, EMIT_CMP, 8, T0, tag_off(t, how) + entry);
	}
	s->branch = emit_jcc(e, CC_NZ, false);
	s->constant = true;
	s->address = address;
	emit_gs(e, EMIT_MOV_LOAD, 8, T0, tlb_off(t, (uint32_t)offsetof(struct soft_tlb_entry, host)) + entry);
	s->resume = e->p;
	t->index = EMIT_NONE;
	t->disp = (int)(address & 4095);
	op(t, i);
	end_access(t, s, op);
}

void trans_access_or_help(struct trans *t, unsigned i, uint32_t how, trans_op *op)
{
	const struct insn *helper = trans_keep_insn(t, i, 0);
	trans_access(t, i, how, op);
	if (!t->failed)
		t->stub[t->stubs - 1].helper = helper;
}

/* Calls the helper of instruction i, and then makes the op on the buffer that it has prepared. */
static void by_lane(struct trans *t, unsigned i, const struct insn *helper, trans_op *op)
{
	struct emit *e = &t->e;
	trans_set_rip(t, trans_rip(t, i));
	emit_mov_imm(e, T1, (uintptr_t)helper);
	emit_call_gs(e, CPU_OFF(thunk) + 8 * SOFT_THUNK_HELPER);
	emit_gs(e, EMIT_MOV_LOAD, 8, T0, CPU_OFF(scratch[SOFT_SCRATCH_BUFFER]));
	t->index = EMIT_NONE;
	t->disp = 0;
	op(t, i);
	if (!(t->insn[i].mem_acc & ACC_W))
		return;
	trans_set_rip(t, trans_rip(t, i + 1));
	emit_call_gs(e, CPU_OFF(thunk) + 8 * (t->flags == FLAGS_HOST ? SOFT_THUNK_COMMIT : SOFT_THUNK_COMMIT_MEM));
}

void trans_access_by_lane(struct trans *t, unsigned i, trans_op *op)
{
	const struct insn *helper = trans_keep_insn(t, i, 0);
	if (!t->failed)
		by_lane(t, i, helper, op);
}

static void emit_how(struct trans *t, const struct trans_stub *s, uint32_t how)
{
	emit_mov_imm(&t->e, T1, s->slotted ? SOFT_SITE(how, s->slot, s->insn) : how);
}

/* With linear ^ tag in T0, and so the address' offset in its page: a branch for when the group goes on in the next one. */
static uint8_t *emit_crossing(struct trans *t, const struct trans_stub *s)
{
	emit_mov(&t->e, 4, T1, T0);
	emit_alu_imm(&t->e, 4, 4, T1, 4095);
	emit_alu_imm(&t->e, 4, 7, T1, 4096 - (int32_t)(s->how & SOFT_HOW_SIZE));
	return emit_jcc(&t->e, CC_A, false);
}

/* Out of line: calls a thunk, and leaves for the dispatcher, with the registers where C looks for them. */
static void call_thunk(struct trans *t, unsigned thunk)
{
	if (t->renamed)
		trans_rename_out(t);
	emit_call_gs(&t->e, CPU_OFF(thunk) + 8 * thunk);
	if (t->renamed)
		trans_rename_in(t);
}

static void leave_at(struct trans *t, unsigned i)
{
	if (t->renamed)
		trans_rename_out(t);
	trans_dispatch(t, trans_rip(t, i));
}

/* The op once more, out of line. */
static void repeat_op(struct trans *t, const struct trans_stub *s, int disp)
{
	t->flags = s->before;
	t->in_t1 = INSN_NO_REG;
	t->index = s->index;
	t->disp = disp;
	s->op(t, s->insn);
	assert(t->flags == s->done);
}

/* Back to the straight line, where T1 has what C code has destroyed. */
static void restore_t1(struct trans *t, unsigned guest)
{
	if (guest != INSN_NO_REG)
		emit_gs(&t->e, EMIT_MOV_LOAD, 8, T1, gpr_off(guest));
}

/* From a check of its own that another group goes on after. C code may have emptied the TLB, which ends that one. */
static void resume_group(struct trans *t, const struct trans_stub *s)
{
	struct emit *e = &t->e;
	restore_t1(t, s->t1);
	if (!s->within) {
		emit_jmp_to(e, s->resume);
		return;
	}
	emit_gs_cmp8(e, CPU_OFF(stale), 0);
	emit_patch(emit_jcc(e, CC_Z, false), s->resume);
	t->flags = s->before;
	leave_at(t, s->insn);
}

/* With T0 as the op wants it. A group that goes on afterwards may have ended, as above; but the access was begun. */
static void resume_access(struct trans *t, const struct trans_stub *s, int disp)
{
	struct emit *e = &t->e;
	bool write = s->how & SOFT_HOW_WRITE;
	uint8_t *bounced = NULL;

	restore_t1(t, s->t1);
	if (write) {
		emit_gs_cmp8(e, CPU_OFF(bounce.kind), SOFT_BOUNCE_NONE);
		bounced = emit_jcc(e, CC_NZ, false);
	}
	if (!s->within) {
		emit_jmp_to(e, s->resume);
	} else {
		emit_gs_cmp8(e, CPU_OFF(stale), 0);
		emit_patch(emit_jcc(e, CC_Z, false), s->resume);
		repeat_op(t, s, disp);
		leave_at(t, s->insn + 1);
	}
	if (!write)
		return;
	emit_patch(bounced, e->p);
	repeat_op(t, s, disp);
	trans_set_rip(t, trans_rip(t, s->insn + 1));
	call_thunk(t, t->flags == FLAGS_HOST ? SOFT_THUNK_COMMIT : SOFT_THUNK_COMMIT_MEM);
	if (s->within)
		leave_at(t, s->insn + 1);
	else
		restore_t1(t, s->t1_after), emit_jmp_to(e, s->after);
}

static void emit_stub(struct trans *t, const struct trans_stub *s)
{
	struct emit *e = &t->e;
	t->in_t1 = INSN_NO_REG;
	t->renamed = s->renamed;
	emit_patch(s->branch, e->p);
	if (s->helper && s->slotted) {
		emit_mov(e, 8, T0, T1);
		emit_how(t, s, s->how);
		emit_call_gs(e, CPU_OFF(thunk) + 8 * SOFT_THUNK_SLOT_MASKED);
		emit_test(e, T0);
		emit_patch(emit_jcc(e, CC_NZ, false), s->resume);
	}
	if (s->helper && s->helper->op == OP_EVEX_MASKED) {
		t->flags = s->before;
		by_lane(t, s->insn, s->helper, s->op);
		emit_jmp_to(e, s->after);
		return;
	}
	if (s->helper) {
		trans_set_rip(t, trans_rip(t, s->insn));
		emit_mov_imm(e, T1, (uintptr_t)s->helper);
		emit_call_gs(e, CPU_OFF(thunk) + 8 * SOFT_THUNK_HELPER);
		emit_jmp_to(e, s->after);
		return;
	}
	if (s->constant) {
		/* As the general check would have it. */
		emit_mov_imm(e, T1, (s->address >> 12 & (SOFT_TLB_SIZE - 1)) * sizeof(struct soft_tlb_entry));
		emit_mov_imm(e, T0, s->address);
		emit_gs_index(e, EMIT_XOR, 8, T0, T1, tag_off(t, s->how));
	}
	if (!s->slotted)
		emit_gs(e, EMIT_MOV_STORE, 8, T1, CPU_OFF(scratch[7]));
	else if (s->index == EMIT_NONE)
		emit_mov(e, 8, T0, T1);
	uint8_t *crosses = s->group ? emit_crossing(t, s) : NULL;
	trans_set_rip(t, trans_rip(t, s->insn));
	emit_how(t, s, s->how);
	unsigned thunk = s->slotted ? SOFT_THUNK_SLOT : SOFT_THUNK_MEM;
	if (s->group)
		thunk = s->slotted ? SOFT_THUNK_SLOT_GROUP : SOFT_THUNK_GROUP;
	call_thunk(t, thunk);
	int disp = s->constant ? (int)(s->address & 4095) : s->disp;
	if (s->index != EMIT_NONE)
		emit_rr(e, EMIT_SUB, 8, T0, s->index);
	if (disp)
		emit_lea(e, 8, T0, T0, EMIT_NONE, 1, -disp);
	if (s->group) {
		resume_group(t, s);
		if (crosses) {
			emit_patch(crosses, e->p);
			if (t->renamed)
				trans_rename_out(t);
			trans_to_twin(t, s->insn);
		}
	} else {
		resume_access(t, s, disp);
	}
}

void trans_emit_stubs(struct trans *t)
{
	for (unsigned i = 0; i < t->stubs && !t->failed; i++)
		emit_stub(t, &t->stub[i]);
	t->renamed = false;
}
