/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_flow.c - branches, the ways out of a block, and calls of C helpers.
 *
 * A direct exit is an *edge*: a jump that points to a stub until its target is known, and to the target's code then
 * (cache_link). An edge that goes backwards polls `kick`, and so does every indirect branch, so no loop of linked
 * blocks can run for long without looking. An edge into another page first checks, against the instruction TLB, that
 * the page is still mapped to where it was when the link was made. Both checks destroy the flags; an edge that needs
 * neither keeps them in the host's.
 *
 * Indirect branches look up the jump cache in generated code. With CS base other than 0, or in single-step mode,
 * nothing is linked or cached: the dispatcher sees every branch.
 */
#include <stddef.h>

#include "engine/soft/tlb.h"
#include "engine/soft/trans.h"

enum { LOOK_AHEAD = 6 };

static bool linked(const struct trans *t)
{
	return t->flat && !(t->mode & SOFT_MODE_STEP) && !(t->cpu->vm->trace & ENGINE_TRACE_EXEC);
}

static struct trans_exit *add_exit(struct trans *t, uint8_t *branch, unsigned link, uint64_t rip, unsigned from)
{
	if (t->exits == sizeof(t->exit) / sizeof(*t->exit)) {
		t->failed = true;
		return &t->exit[0];
	}
	struct trans_exit *x = &t->exit[t->exits++];
	*x = (struct trans_exit){ .branch = branch, .link = link, .rip = rip, .flags = t->flags, .from = from };
	return x;
}

static bool same_page(const struct trans *t, uint64_t rip)
{
	return t->flat && (rip ^ t->b->rip) < 4096;
}

static uint16_t look_ahead(struct trans *t, uint64_t rip)
{
	unsigned at = rip & 0xfff, lo = at;
	uint16_t needed = 0, unknown = FLAG_ARITH;
	for (unsigned k = 0; k < LOOK_AHEAD && unknown; k++) {
		struct insn in;
		size_t left = 4096 - at;
		if (!left || insn_skim(&in, t->page + at, left < 15 ? left : 15, soft_mode_code(t->mode)))
			break;
		at += in.len;
		needed |= in.flags_read & unknown;
		unknown &= (uint16_t) ~(in.flags_read | in.flags_written);
		if (in.row->op != OP_COPY && in.row->op != OP_NOP && in.row->op != OP_PUSH && in.row->op != OP_POP &&
		    in.row->op != OP_LEA)
			break;
	}
	if (lo < t->b->lo)
		t->b->lo = (uint16_t)lo;
	if (at > t->b->hi)
		t->b->hi = (uint16_t)at;
	return needed | unknown;
}

uint16_t trans_flags_needed(struct trans *t, uint64_t rip)
{
	if (!same_page(t, rip))
		return FLAG_ARITH;
	for (unsigned i = 0; i < t->asked; i++)
		if (t->needed[i].rip == rip)
			return t->needed[i].flags;
	uint16_t flags = look_ahead(t, rip);
	if (t->asked < sizeof(t->needed) / sizeof(*t->needed)) {
		t->needed[t->asked].rip = rip;
		t->needed[t->asked++].flags = flags;
	}
	return flags;
}

void trans_dispatch(struct trans *t, uint64_t rip)
{
	trans_clobber(t, FLAG_ARITH);
	trans_set_rip(t, rip);
	emit_jmp_gs(&t->e, CPU_OFF(exit_regs));
}

static void emit_link_stub(struct trans *t, struct soft_link *link)
{
	link->stub = t->e.p;
	emit_patch(link->patch, t->e.p);
	emit_call_gs(&t->e, CPU_OFF(thunk) + 8 * (link->flags_mem ? SOFT_THUNK_LINK_MEM : SOFT_THUNK_LINK));
	emit64(&t->e, (uintptr_t)link);
}

bool trans_saves_flags(const struct trans *t, unsigned i)
{
	uint64_t rip = trans_rip(t, i + 1) + (uint64_t)t->insn[i].imm;
	return rip <= trans_rip(t, i) || !same_page(t, rip);
}

/* What an edge checks before its jump. Returns the branch to where it goes if rip's page is mapped elsewhere, or NULL. */
static uint8_t *edge_checks(struct trans *t, struct soft_link *link, uint64_t rip, unsigned from)
{
	struct emit *e = &t->e;
	bool backward = rip <= trans_rip(t, from), cross = !same_page(t, rip);
	uint8_t *miss = NULL;
	link->rip = rip;
	link->from = t->b;
	if (t->flags == FLAGS_HOST && (backward || cross || !trans_flags_needed(t, rip)))
		trans_clobber(t, trans_flags_needed(t, rip));
	if (backward) {
		emit_gs_cmp8(e, CPU_OFF(kick), 0);
		add_exit(t, emit_jcc(e, CC_NZ, false), EXIT_RIP, rip, from);
	}
	if (cross) {
		unsigned user = (t->mode & SOFT_MODE_CPL) == 3;
		emit_nop(e, -((unsigned)(uintptr_t)e->p + 2) & 7);
		emit16(e, 0xba49); /* movabs r10 */
		link->key = e->p;
		emit64(e, 0);
		emit_gs(e, EMIT_CMP, 8, T0, CPU_OFF(itlb_of) + user * SOFT_ITLB_SIZE * 8 + 8 * soft_itlb_index(rip));
		miss = emit_jcc(e, CC_NZ, false);
	}
	link->flags_mem = t->flags != FLAGS_HOST;
	return miss;
}

/* Goes to rip, at the end of straight-line code. */
void trans_edge(struct trans *t, unsigned k, uint64_t rip, unsigned from)
{
	struct soft_link *link = &t->b->link[k];
	if (!linked(t)) {
		trans_dispatch(t, rip);
		return;
	}
	uint8_t *miss = edge_checks(t, link, rip, from);
	link->patch = emit_jmp(&t->e, true);
	add_exit(t, link->patch, k, rip, from)->miss = miss;
}

static struct soft_link *another_link(struct trans *t)
{
	struct soft_link *link = cache_alloc(t->cache, sizeof(*link));
	if (!link) {
		t->failed = true;
		return NULL;
	}
	*link = (struct soft_link){ .from = t->b, .sibling = t->b->others };
	t->b->others = link;
	return link;
}

void trans_side_edge(struct trans *t, uint64_t rip, unsigned from)
{
	struct soft_link *link = another_link(t);
	if (!link)
		return;
	(void)edge_checks(t, link, rip, from);
	link->patch = emit_jmp(&t->e, true);
	struct trans_exit *x = add_exit(t, link->patch, EXIT_SIDE, rip, from);
	x->side = link;
}

void trans_to_twin(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	struct soft_link *link = another_link(t);
	if (!link)
		return;
	link->rip = trans_rip(t, i);
	link->flags_mem = true;
	link->patch = emit_jmp(e, true);
	link->stub = e->p;
	emit_patch(link->patch, link->stub);
	emit_gs_store_imm(e, 4, CPU_OFF(single), 1);
	if (!linked(t)) {
		trans_set_rip(t, link->rip);
		emit_jmp_gs(e, CPU_OFF(exit_regs));
		return;
	}
	emit_call_gs(e, CPU_OFF(thunk) + 8 * SOFT_THUNK_LINK_MEM);
	emit64(e, (uintptr_t)link);
}

/* ---- The return stack ---- */

static void push_const(struct emit *e, uint64_t v)
{
	if ((int64_t)v == (int32_t)v) {
		emit8(e, 0x68); /* push imm32 */
		emit32(e, (uint32_t)v);
		return;
	}
	emit_mov_imm(e, T0, v);
	emit16(e, 0x5241); /* push r10 */
}

static void pop_entry(struct emit *e, int8_t bytes)
{
	emit32(e, 0x24648d48); /* lea rsp, [rsp + bytes] */
	emit8(e, (uint8_t)bytes);
}

/* Where the host's RET comes back to, after instruction i's call: on to what follows it in the guest. */
static void land(struct trans *t, unsigned i)
{
	pop_entry(&t->e, 8);
	t->flags = FLAGS_SAVED;
	trans_edge(t, 1, trans_rip(t, i + 1), i);
	t->done = true;
}

/* A direct call, the guest's return address having been pushed. */
static void call_edge(struct trans *t, uint64_t rip, unsigned i)
{
	struct soft_link *link = &t->b->link[0];
	if (!linked(t)) {
		trans_dispatch(t, rip);
		t->done = true;
		return;
	}
	uint8_t *miss = edge_checks(t, link, rip, i);
	push_const(&t->e, trans_rip(t, i + 1));
	link->patch = emit_call(&t->e, true);
	add_exit(t, miss, EXIT_CALL, rip, i)->back = t->e.p;
	land(t, i);
}

void trans_poll(struct trans *t, uint64_t rip)
{
	trans_clobber(t, trans_flags_needed(t, rip));
	emit_gs_cmp8(&t->e, CPU_OFF(kick), 0);
	add_exit(t, emit_jcc(&t->e, CC_NZ, false), EXIT_RIP, rip, t->n - 1);
}

void trans_fall_through(struct trans *t)
{
	trans_edge(t, 1, trans_rip(t, t->n), t->n ? t->n - 1 : 0);
	t->done = true;
}

static uint64_t branch_target(const struct trans *t, unsigned i)
{
	uint64_t rip = trans_rip(t, i + 1) + (uint64_t)t->insn[i].imm;
	return t->is64 ? rip : (uint32_t)rip;
}

/* A Jcc that is link k itself: forward, in the page, with the flags in the host's. */
static void plain_jcc(struct trans *t, unsigned i, unsigned cond, unsigned k, uint64_t rip)
{
	struct trans_exit *x = add_exit(t, emit_jcc(&t->e, cond, true), k, rip, i);
	t->b->link[k] = (struct soft_link){ .rip = rip, .from = t->b, .patch = x->branch };
	(void)trans_flags_needed(t, rip);
}

/* A Jcc that a trace goes on after. */
static void side_exit(struct trans *t, unsigned i, uint64_t target)
{
	struct soft_link *link = another_link(t);
	if (!link)
		return;
	struct trans_exit *x = add_exit(t, emit_jcc(&t->e, t->insn[i].cond, true), EXIT_SIDE, target, i);
	x->side = link;
	link->rip = target;
	link->patch = x->branch;
}

bool trans_goes_on(struct trans *t, unsigned i)
{
	enum { SIDE_EXITS = 6 };
	const struct insn *in = &t->insn[i];
	uint64_t next = trans_rip(t, i) + in->len, target = next + (uint64_t)in->imm;
	if (trans_op_of(t, in) != OP_JCC || !t->lessons.hot || t->cpu->vm->no_traces || !t->is64 || !linked(t) ||
	    target <= next || !same_page(t, target) || !same_page(t, next) || t->sides == SIDE_EXITS)
		return false;
	uint32_t mode = t->b->mode & ~(uint32_t)SOFT_MODE_SINGLE;
	if (!t->cpu->vm->all_hot && !cache_find(t->cache, t->b->gpa + (next - t->b->rip), next, mode))
		return false; /* it has never been gone on after */
	t->sides++;
	return true;
}

void trans_jcc(struct trans *t, unsigned i)
{
	uint64_t target = branch_target(t, i);
	trans_need_flags(t);
	if (t->renamed) {
		add_exit(t, emit_jcc(&t->e, t->insn[i].cond, false), EXIT_RENAMED, target, i);
		return;
	}
	if (i + 1 < t->n) {
		side_exit(t, i, target);
		return;
	}
	if (linked(t) && target <= trans_rip(t, i) && same_page(t, trans_rip(t, i + 1))) {
		/* The end of a loop, which goes on. */
		plain_jcc(t, i, t->insn[i].cond ^ 1u, 1, trans_rip(t, i + 1));
		trans_edge(t, 0, target, i);
		t->done = true;
		return;
	}
	bool plain = linked(t) && target > trans_rip(t, i) && same_page(t, target);
	if (plain)
		plain_jcc(t, i, t->insn[i].cond, 0, target);
	else
		add_exit(t, emit_jcc(&t->e, t->insn[i].cond, false), 0, target, i);
	trans_edge(t, 1, trans_rip(t, i + 1), i);
	t->done = true;
}

void trans_loop_insn(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	if (in->opcode <= 0xe1)
		trans_need_flags(t);
	enum flag_state flags = t->flags;
	if (in->addrsize == 4)
		emit8(&t->e, 0x67);
	emit8(&t->e, in->opcode);
	uint8_t *rel = t->e.p;
	emit8(&t->e, 0);
	trans_edge(t, 1, trans_rip(t, i + 1), i);
	/* edge's code is longer than a byte's reach only with both checks and a wide target; so jump over it. */
	t->flags = flags;
	if (t->e.p - (rel + 1) > 127) {
		t->failed = true;
		return;
	}
	*rel = (uint8_t)(t->e.p - (rel + 1));
	trans_edge(t, 0, branch_target(t, i), i);
	t->done = true;
}

void trans_jmp(struct trans *t, unsigned i)
{
	trans_edge(t, 0, branch_target(t, i), i);
	t->done = true;
}

/* ---- Indirect ---- */

/* With rip in T0. In 64-bit code it says where that comes from, and what the branch has done to RSP: should the
 * address not be canonical, the fault is the branch's own (find_block). */
static void note_branch(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	struct emit *e = &t->e;
	int undo = 0;

	emit_gs(e, EMIT_MOV_STORE, 8, T0, CPU_OFF(rip));
	if (soft_mode_code(t->mode) != INSN_MODE_64)
		return;
	if (in->row->op == OP_CALL_IND)
		undo = 8;
	else if (in->row->op == OP_RET)
		undo = -8 - (in->imm_size ? (uint16_t)in->imm : 0);
	emit_gs(e, EMIT_MOV_STORE, 8, T0, CPU_OFF(branch.to));
	emit_mov_imm(e, T1, trans_rip(t, i));
	emit_gs(e, EMIT_MOV_STORE, 8, T1, CPU_OFF(branch.rip));
	emit_gs_store_imm(e, 4, CPU_OFF(branch.undo), undo);
}

static void leave_indirect(struct trans *t, unsigned i)
{
	note_branch(t, i);
	emit_jmp_gs(&t->e, CPU_OFF(exit_regs));
}

/* T1 = the code for the address in T0, from the jump cache; leaves by `miss` (EXIT_*) if it is not there. */
static void look_up(struct trans *t, unsigned i, unsigned miss, struct trans_exit *exits[3])
{
	struct emit *e = &t->e;
	_Static_assert(sizeof(struct soft_jc_entry) == 16 && SOFT_JC_BITS == 15, "the index is a word of twice RIP");
	emit_gs_cmp8(e, CPU_OFF(kick), 0);
	exits[0] = add_exit(t, emit_jcc(e, CC_NZ, false), miss, 0, i);
	emit_lea(e, 4, T1, T0, T0, 1, 0);
	emit32(e, 0xdbb70f45); /* movzx r11d, r11w */
	emit_gs_index8(e, EMIT_CMP, 8, T0, T1, CPU_OFF(jc) + (uint32_t)offsetof(struct soft_jc_entry, rip));
	exits[1] = add_exit(t, emit_jcc(e, CC_NZ, false), miss, 0, i);
	emit_gs_index8(e, 0x81, 4, 7, T1, CPU_OFF(jc) + (uint32_t)offsetof(struct soft_jc_entry, mode)); /* cmp imm32 */
	emit32(e, t->mode);
	exits[2] = add_exit(t, emit_jcc(e, CC_NZ, false), miss, 0, i);
	emit_gs_index8(e, EMIT_MOV_LOAD, 4, T1, T1, CPU_OFF(jc) + (uint32_t)offsetof(struct soft_jc_entry, code));
}

/* Goes to T0. */
static void indirect(struct trans *t, unsigned i)
{
	struct trans_exit *exits[3];
	trans_clobber(t, FLAG_ARITH);
	t->done = true;
	if (!linked(t)) {
		leave_indirect(t, i);
		return;
	}
	look_up(t, i, EXIT_T0, exits);
	emit_jmp_reg(&t->e, T1);
}

/* Goes to T0, the guest's return address having been pushed. */
static void indirect_call(struct trans *t, unsigned i)
{
	struct trans_exit *exits[3];
	struct emit *e = &t->e;
	trans_clobber(t, FLAG_ARITH);
	t->done = true;
	if (!linked(t)) {
		leave_indirect(t, i);
		return;
	}
	look_up(t, i, EXIT_CALL_T0, exits);
	push_const(e, trans_rip(t, i + 1));
	emit8(e, 0x41), emit16(e, 0xd3ff); /* call r11 */
	for (unsigned k = 0; k < 3; k++)
		exits[k]->back = e->p;
	land(t, i);
}

/* Returns to T0. */
static void indirect_ret(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	trans_clobber(t, FLAG_ARITH);
	t->done = true;
	if (!linked(t)) {
		leave_indirect(t, i);
		return;
	}
	emit32(e, 0x24543b4c), emit8(e, 8); /* cmp r10, [rsp + 8] */
	add_exit(t, emit_jcc(e, CC_NZ, false), EXIT_RET, 0, i);
	emit8(e, 0xc3);
}

/* A RET that does not return to the last CALL, which it takes from the stack all the same. */
static void other_return(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	emit_mov_imm(e, T1, SOFT_RETURN_NONE);
	emit32(e, 0x245c394c), emit8(e, 8); /* cmp [rsp + 8], r11 */
	emit16(e, 0x0574);                  /* je, past the next */
	pop_entry(e, 16);
	indirect(t, i);
}

static void emit_store_const(struct trans *t, uint64_t v)
{
	struct emit *e = &t->e;
	if (t->width == 8 && (int64_t)v != (int32_t)v) {
		emit_mov_imm(e, T1, v);
		trans_move(t, true, 8, T1);
		return;
	}
	trans_move_imm(t, t->width, (int32_t)v);
}

static void op_push_return(struct trans *t, unsigned i)
{
	emit_store_const(t, trans_rip(t, i + 1));
	emit_lea(&t->e, t->width, HOST_GUEST_RSP, HOST_GUEST_RSP, EMIT_NONE, 1, -(int)t->width);
}

static void push_return(struct trans *t, unsigned i)
{
	if (trans_grouped(t, i)) {
		op_push_return(t, i);
		return;
	}
	trans_clobber(t, t->live[i]);
	trans_access_by(t, i, how_of(t->width, ACC_W) | SOFT_HOW_STACK, HOST_GUEST_RSP, -(int)t->width, op_push_return);
}

void trans_call(struct trans *t, unsigned i)
{
	push_return(t, i);
	call_edge(t, branch_target(t, i), i);
}

static void op_ret(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	trans_move(t, false, t->width, T0);
	emit_lea(&t->e, t->width, HOST_GUEST_RSP, HOST_GUEST_RSP, EMIT_NONE, 1,
		 (int)t->width + (in->imm_size ? (uint16_t)in->imm : 0));
}

void trans_ret(struct trans *t, unsigned i)
{
	if (trans_grouped(t, i)) {
		op_ret(t, i);
	} else {
		trans_clobber(t, t->live[i]);
		trans_access_by(t, i, how_of(t->width, ACC_R) | SOFT_HOW_STACK, HOST_GUEST_RSP, 0, op_ret);
	}
	indirect_ret(t, i);
}

static void op_load_target(struct trans *t, unsigned i)
{
	(void)i;
	trans_move(t, false, t->width, T0);
}

/* T0 = the target of JMP or CALL r/m. */
static void load_target(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	if (!in->mem) {
		trans_get(t, T0, in->rm, t->width);
		return;
	}
	uint32_t how = how_operand(in, t->width, ACC_R);
	trans_clobber(t, t->live[i]);
	trans_access_operand(t, i, how, op_load_target);
}

/* Where a jump by way of a constant address goes now, which is where most such go for ever (a PLT's). */
static bool guess_target(const struct trans *t, unsigned i, uint64_t *target)
{
	uint64_t address;
	if (!t->lessons.hot || t->cpu->vm->no_guesses || !linked(t) || !t->insn[i].mem ||
	    !trans_constant_address(t, i, 8, &address))
		return false;
	const struct soft_tlb_entry *entry = &t->cpu->tlb[t->mmu][soft_tlb_index(address)];
	if (entry->tag_read != (address & ~UINT64_C(4095)))
		return false;
	const uint64_t *at =
	    (const uint64_t *)(uintptr_t)(entry->addend + address); /* NOLINT(performance-no-int-to-ptr) */
	*target = __atomic_load_n(at, __ATOMIC_RELAXED);
	return (int64_t)(*target << 16) >> 16 == (int64_t)*target;
}

void trans_jmp_ind(struct trans *t, unsigned i)
{
	struct emit *e = &t->e;
	uint64_t guess;
	load_target(t, i);
	if (!guess_target(t, i, &guess)) {
		indirect(t, i);
		return;
	}
	trans_clobber(t, FLAG_ARITH);
	if ((int64_t)guess == (int32_t)guess) {
		emit_alu_imm(e, 8, 7, T0, (int32_t)guess);
	} else {
		emit_mov_imm(e, T1, guess);
		emit_rr(e, EMIT_CMP, 8, T0, T1);
	}
	add_exit(t, emit_jcc(e, CC_NZ, false), EXIT_OTHER, 0, i);
	trans_edge(t, 0, guess, i);
	t->done = true;
}

void trans_call_ind(struct trans *t, unsigned i)
{
	load_target(t, i);
	emit_gs(&t->e, EMIT_MOV_STORE, 8, T0, CPU_OFF(scratch));
	push_return(t, i);
	emit_gs(&t->e, EMIT_MOV_LOAD, 8, T0, CPU_OFF(scratch));
	indirect_call(t, i);
}

/* ---- Helpers ---- */

/* T0 = linear address of the operand, with no check but the base. */
static void helper_address(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	trans_offset_of(t, i, T0);
	bool data_segment = in->seg == ENGINE_FS || in->seg == ENGINE_GS;
	if (data_segment || !t->flat)
		emit_gs(&t->e, EMIT_ADD, t->width, T0,
			CPU_OFF(seg) + in->seg * (uint32_t)sizeof(struct engine_segment) +
			    (uint32_t)offsetof(struct engine_segment, base));
}

struct insn *trans_keep_insn(struct trans *t, unsigned i, unsigned op)
{
	struct insn *copy = cache_alloc(t->cache, sizeof(*copy));
	if (!copy) {
		t->failed = true;
		return NULL;
	}
	*copy = t->insn[i];
	if (op)
		copy->op = (uint8_t)op;
	return copy;
}

/* Some helpers compute their addresses themselves, from the registers. */
static bool takes_address(const struct insn *in)
{
	return in->mem && in->op != OP_STRING && !(in->op >= OP_MASKED_LOAD && in->op <= OP_EVEX_SCATTER);
}

void trans_helper(struct trans *t, unsigned i, unsigned op)
{
	const struct insn *in = &t->insn[i];
	const struct insn *copy = trans_keep_insn(t, i, op);
	if (!copy)
		return;
	bool ends = copy->op < OP_FIRST_PLAIN_HELPER;
	trans_clobber(t, ends ? FLAG_ARITH : t->live[i] | in->flags_read);
	if (takes_address(copy))
		helper_address(t, i);
	trans_set_rip(t, trans_rip(t, i));
	emit_mov_imm(&t->e, T1, (uintptr_t)copy);
	emit_call_gs(&t->e, CPU_OFF(thunk) + 8 * (ends ? SOFT_THUNK_HELPER_END : SOFT_THUNK_HELPER));
	t->done = ends;
	if (in->flags_written)
		t->flags = FLAGS_SAVED;
}

void trans_raise(struct trans *t, unsigned i, unsigned vector)
{
	trans_clobber(t, FLAG_ARITH);
	trans_set_rip(t, trans_rip(t, i));
	emit_mov_imm(&t->e, T0, vector);
	emit_mov_imm(&t->e, T1, 0);
	emit_call_gs(&t->e, CPU_OFF(thunk) + 8 * SOFT_THUNK_HELPER_END);
	t->done = true;
}

/* ---- The block's head and tail ---- */

void trans_heat(struct trans *t)
{
	unsigned n = (unsigned)(t->b->rip ^ t->b->rip >> 12) % SOFT_HEATS;
	emit_gs_dec(&t->e, CPU_OFF(heat) + 4 * n);
	add_exit(t, emit_jcc(&t->e, CC_Z, false), EXIT_HOT, t->b->rip, n);
}

void trans_check_second_page(struct trans *t)
{
	if (!t->flat)
		return; /* never linked nor in a jump cache: the dispatcher has just checked */
	unsigned user = (t->mode & SOFT_MODE_CPL) == 3;
	uint64_t next = (t->b->rip | 0xfff) + 1;
	emit_mov_imm(&t->e, T0, SOFT_ITLB_KEY(next, t->b->gpa2));
	emit_gs(&t->e, EMIT_CMP, 8, T0, CPU_OFF(itlb_of) + user * SOFT_ITLB_SIZE * 8 + 8 * soft_itlb_index(next));
	add_exit(t, emit_jcc(&t->e, CC_NZ, false), EXIT_RECHECK, t->b->rip, 0);
}

/* Does the exit's branch go to the link's target itself, once it is linked? */
static bool is_link(const struct trans *t, const struct trans_exit *x)
{
	return x->link < SOFT_BLOCK_LINKS && t->b->link[x->link].patch == x->branch;
}

void trans_emit_edges(struct trans *t)
{
	for (unsigned k = 0; k < t->exits; k++) {
		const struct trans_exit x = t->exit[k];
		if (x.link >= SOFT_BLOCK_LINKS || is_link(t, &x))
			continue;
		t->exit[k].done = true;
		t->flags = x.flags;
		emit_patch(x.branch, t->e.p);
		trans_edge(t, x.link, x.rip, x.from);
	}
}

static void emit_call_exit(struct trans *t, const struct trans_exit *x)
{
	struct emit *e = &t->e;
	/* The branch comes with nothing but the guest's address pushed. */
	if (x->branch) {
		push_const(e, trans_rip(t, x->from + 1));
		uint8_t *to_stub = emit_call(e, false);
		emit_jmp_to(e, x->back);
		emit_patch(to_stub, e->p);
	}
	emit_link_stub(t, &t->b->link[0]);
}

static void emit_exit(struct trans *t, const struct trans_exit *x)
{
	struct emit *e = &t->e;
	switch (x->link) {
	case EXIT_T0:
		leave_indirect(t, x->from);
		break;
	case EXIT_SIDE:
		emit_link_stub(t, x->side);
		break;
	case EXIT_CALL:
		emit_call_exit(t, x);
		break;
	case EXIT_CALL_T0:
		note_branch(t, x->from);
		push_const(e, trans_rip(t, x->from + 1));
		emit_call_gs(e, CPU_OFF(exit_regs));
		emit_jmp_to(e, x->back);
		break;
	case EXIT_RET:
		other_return(t, x->from);
		break;
	case EXIT_RENAMED:
		trans_rename_out(t);
		trans_side_edge(t, x->rip, x->from);
		break;
	case EXIT_OTHER:
		indirect(t, x->from);
		break;
	case EXIT_HOT:
		emit_gs_store_imm(e, 4, CPU_OFF(heat) + 4 * x->from, SOFT_HOT);
		trans_set_rip(t, x->rip);
		emit_call_gs(e, CPU_OFF(thunk) + 8 * SOFT_THUNK_HOT);
		break;
	case EXIT_RECHECK:
		emit_gs_store_imm(e, 4, CPU_OFF(recheck), 1);
		trans_dispatch(t, x->rip);
		break;
	default:
		trans_dispatch(t, x->rip);
	}
}

void trans_emit_exits(struct trans *t)
{
	for (unsigned k = 0; k < t->exits; k++) {
		const struct trans_exit x = t->exit[k];
		if (x.done)
			continue;
		t->flags = x.flags;
		if (is_link(t, &x)) {
			if (x.miss)
				emit_patch(x.miss, t->e.p);
			emit_link_stub(t, &t->b->link[x.link]);
			continue;
		}
		if (x.branch && x.link != EXIT_SIDE)
			emit_patch(x.branch, t->e.p);
		emit_exit(t, &x);
	}
}
