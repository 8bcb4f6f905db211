/* SPDX-License-Identifier: Apache-2.0 */
/*
 * translate.c - guest code to host code, a block at a time.
 *
 * The problem. Guest and host are the same architecture, so nearly every instruction could run as it is; what stands in
 * the way is that guest addresses are not host addresses, that 16 guest registers and the translator's own need more
 * than 16 host registers, and that system instructions and control flow belong to the machine.
 *
 * The scheme. A block is decoded to its end (a branch, an instruction that may change mode or address space, the page's
 * end, TRANS_MAX). A hot one is a *trace*, which goes on past conditional branches forward that were seen not taken. Going backwards over it gives the arithmetic flags that are needed at each point; going forwards
 * emits each instruction: copied (trans_copy.c), translated (trans_flow.c, trans_misc.c) or as the call of a C helper.
 * Cold code - TLB misses, stores that need finishing, exits - lies elsewhere than the block's straight line.
 *
 * Rules that everything here keeps:
 *  1. At the start of each instruction the guest's state is whole: registers in their homes (cpu.h), flags in the host's
 *     or saved if anyone needs them. What may fault comes before what changes guest state. So a fault in generated code
 *     needs only the instruction's RIP, which a slow path stores and soft_map gives for copied instructions.
 *  2. Flags that no one needs may be garbage, also in the RFLAGS that a fault in between pushes.
 *  3. A block has two entries, with the flags in the host's and in memory. Its body starts with whichever serves its
 *     first instruction; the other entry converts. The jump cache and the dispatcher enter with flags in memory.
 *  4. RIP is a constant of the block: part of its key, baked into the code.
 *  5. Bytes outside of the block that were looked at (for flags needed at a branch's target) count as its own when
 *     code is written.
 */
#include "engine/soft/translate.h"

#include <stddef.h>

#include "engine/soft/trans.h"
#include "engine/soft/unaligned.h"

/* The exception that the instruction raises in this mode before it does anything, or -1. */
static int fault_of(const struct trans *t, const struct insn *in)
{
	uint32_t flags = in->row ? in->row->flags : 0, mode = t->mode;
	if (!in->row)
		return EXC_GP; /* longer than 15 bytes */
	if (in->op == OP_UD || (in->enc != ENC_LEGACY && (!(mode & SOFT_MODE_PE) || (mode & SOFT_MODE_VM))))
		return EXC_UD;
	if ((flags & ROW_OSXSAVE) && !(mode & SOFT_MODE_OSXSAVE))
		return EXC_UD;
	if ((flags & ROW_MMX) && (mode & SOFT_MODE_EM))
		return EXC_UD;
	if (flags & (ROW_AVX | ROW_AVX512)) {
		if (!(mode & (flags & ROW_AVX512 ? SOFT_MODE_AVX512 : SOFT_MODE_AVX)))
			return EXC_UD;
		if (mode & SOFT_MODE_TS)
			return EXC_NM;
	}
	if (flags & ROW_SSE) {
		if ((mode & SOFT_MODE_EM) || !(mode & SOFT_MODE_FXSR))
			return EXC_UD;
		if (mode & SOFT_MODE_TS)
			return EXC_NM;
	}
	if ((flags & ROW_WAIT) && (mode & SOFT_MODE_TS) && (mode & SOFT_MODE_MP))
		return EXC_NM;
	if ((flags & ROW_MMX) && (mode & SOFT_MODE_TS))
		return EXC_NM;
	if ((flags & ROW_FPU) && (mode & (SOFT_MODE_TS | SOFT_MODE_EM)))
		return EXC_NM;
	if ((flags & ROW_CPL0) && (mode & SOFT_MODE_CPL) && (mode & SOFT_MODE_PE))
		return EXC_GP;
	if ((in->op == OP_CLAC || in->op == OP_STAC) && (mode & SOFT_MODE_CPL))
		return EXC_UD;
	/* A code segment is never writable, SDM Vol. 3, 5.5; in 64-bit mode the prefix is ignored. ARPL need not write. */
	if (in->mem && in->op != OP_ARPL && in->seg == ENGINE_CS && (in->mem_acc & ACC_W) && (mode & SOFT_MODE_PE) &&
	    !(mode & SOFT_MODE_VM))
		return EXC_GP;
	return -1;
}

/* Is this near branch or stack operation one that the translator leaves to a helper? */
static bool is_slow(const struct trans *t, const struct insn *in)
{
	if (in->opsize == 2 || !t->flat)
		return true;
	if (t->is64)
		return false;
	return (t->mode & SOFT_MODE_CODE) != SOFT_MODE_CODE32 || !(t->mode & SOFT_MODE_STACK32);
}

/* The op to translate it by: the row's, the slow form, or an OP_*_INLINE. */
static unsigned op_of(const struct trans *t, const struct insn *in)
{
	switch (in->op) {
	case OP_JCC:
	case OP_JMP:
	case OP_JMP_IND:
	case OP_CALL:
	case OP_CALL_IND:
	case OP_RET:
		return is_slow(t, in) ? OP_NEAR_SLOW : in->op;
	case OP_LOOP:
	case OP_JCXZ:
		return is_slow(t, in) || in->addrsize == 2 ? OP_NEAR_SLOW : in->op;
	case OP_PUSH:
		return is_slow(t, in) ? OP_PUSH_SLOW : in->op;
	case OP_POP:
		return is_slow(t, in) ? OP_POP_SLOW : in->op;
	case OP_LEAVE:
		return is_slow(t, in) ? OP_LEAVE_SLOW : in->op;
	case OP_COPY: /* PAUSE is NOP's opcode with F3 */
		return in->map == MAP_ONE && in->opcode == 0x90 && in->rep == 0xf3 ? OP_PAUSE_INLINE : in->op;
	case OP_PUSHF:
		return is_slow(t, in) || (t->mode & SOFT_MODE_VM) ? in->op : OP_PUSHF_INLINE;
	case OP_RDTSC:
		return t->mode & SOFT_MODE_TSD ? in->op : OP_RDTSC_INLINE;
	case OP_RDTSCP:
		return t->mode & SOFT_MODE_TSD ? in->op : OP_RDTSC_INLINE;
	case OP_CLI:
		return t->mode & SOFT_MODE_IOPL ? in->op : OP_CLI_SLOW;
	case OP_STI:
		return t->mode & SOFT_MODE_IOPL ? in->op : OP_STI_SLOW;
	case OP_CLD:
		return t->mode & SOFT_MODE_DF ? in->op : OP_NOP;
	case OP_STD:
		return t->mode & SOFT_MODE_DF ? OP_NOP : in->op;
	default:
		return in->op;
	}
}

static bool ends_block(unsigned op)
{
	switch (op) {
	case OP_UD:
	case OP_JCC:
	case OP_JMP:
	case OP_JMP_IND:
	case OP_CALL:
	case OP_CALL_IND:
	case OP_RET:
	case OP_LOOP:
	case OP_JCXZ:
	case OP_CLD:
	case OP_STD:
	case OP_CLAC:
	case OP_STAC:
		return true;
	default:
		return op >= OP_FIRST_HELPER && op < OP_FIRST_PLAIN_HELPER;
	}
}

static void settle(struct trans *t, unsigned i)
{
	t->op[i] = (uint8_t)op_of(t, &t->insn[i]);
	t->fault[i] = (int8_t)fault_of(t, &t->insn[i]);
}

/* Decodes the first instruction, which goes on in the next page. */
static bool decode_crossing(struct trans *t, unsigned off, uint64_t gpa2, enum translate_why *why)
{
	uint8_t bytes[INSN_MAX_LEN];
	unsigned first = 4096 - off;
	if (gpa2 == ~0ULL) {
		*why = TRANSLATE_NEED_PAGE;
		return false;
	}
	const uint8_t *next = soft_gpa_to_hva(t->cpu->vm, gpa2 & ~0xfffULL, NULL, NULL);
	unaligned_copy(bytes, t->page + off, first);
	unaligned_copy(bytes + first, next, INSN_MAX_LEN - first);
	struct insn *in = &t->insn[0];
	if (insn_decode(in, bytes, INSN_MAX_LEN, soft_mode_code(t->mode)))
		in->op = OP_UD, in->row = NULL, in->len = 15;
	t->b->gpa2 = gpa2 & ~0xfffULL;
	t->b->hi2 = (uint16_t)(in->len > first ? in->len - first : 0);
	settle(t, 0);
	t->n = 1;
	t->at[1] = in->len;
	t->b->hi = 4096;
	return true;
}

static bool decode(struct trans *t, uint64_t gpa2, unsigned max, enum translate_why *why)
{
	unsigned start = t->b->gpa & 0xfff, off = start;
	t->n = t->sides = t->asked = 0;
	t->b->lo = (uint16_t)start;
	while (t->n < max && off < 4096) {
		struct insn *in = &t->insn[t->n];
		size_t left = 4096 - off;
		int r =
		    insn_decode(in, t->page + off, left < INSN_MAX_LEN ? left : INSN_MAX_LEN, soft_mode_code(t->mode));
		if (r == INSN_TOO_SHORT) {
			if (t->n == 0)
				return decode_crossing(t, off, gpa2, why);
			break;
		}
		if (r == INSN_TOO_LONG)
			in->op = OP_UD, in->row = NULL, in->len = 15;
		settle(t, t->n);
		t->at[t->n++] = (uint16_t)(off - start);
		off += in->len;
		unsigned op = trans_op_of(t, in);
		if (trans_fault_of(t, in) >= 0 || (ends_block(op) && !trans_goes_on(t, t->n - 1)))
			break;
		if (op == OP_STI && max > t->n + 1)
			max = t->n + 1; /* one more */
	}
	t->at[t->n] = (uint16_t)(off - start);
	t->b->hi = (uint16_t)(off > 4096 ? 4096 : off);
	return true;
}

/* Shifts by CL, and the like, that may leave the flags as they are: said by the table as reading all and writing none. */
static bool may_write(const struct insn *in)
{
	if (in->op != OP_COPY || in->flags_written || in->flags_read != FLAG_ARITH)
		return false;
	unsigned ext = in->modrm >> 3 & 7;
	if (in->map == MAP_ONE && (in->opcode == 0xd2 || in->opcode == 0xd3))
		return ext != 2 && ext != 3; /* RCL and RCR read CF */
	return in->map == MAP_0F && (in->opcode == 0xa5 || in->opcode == 0xad);
}

static void find_live_flags(struct trans *t)
{
	const struct insn *last = &t->insn[t->n - 1];
	unsigned op = trans_op_of(t, last);
	uint64_t next = trans_rip(t, t->n);
	uint16_t live = FLAG_ARITH;

	if (trans_fault_of(t, last) < 0) {
		uint64_t target = next + (uint64_t)last->imm;
		if (op == OP_JMP || op == OP_CALL)
			live = trans_flags_needed(t, target);
		else if (op == OP_JCC || op == OP_LOOP || op == OP_JCXZ)
			live = trans_flags_needed(t, target) | trans_flags_needed(t, next);
		else if (!ends_block(op))
			live = trans_flags_needed(t, next);
	}
	t->live[t->n] = live;
	for (unsigned i = t->n; i-- > 0;) {
		struct insn *in = &t->insn[i];
		if (trans_fault_of(t, in) >= 0) {
			live = FLAG_ARITH;
		} else if (may_write(in)) {
			in->flags_read = live;
		} else {
			unsigned o = trans_op_of(t, in);
			if (o == OP_JCC && i + 1 < t->n)
				live |= trans_flags_needed(t, trans_rip(t, i + 1) + (uint64_t)in->imm);
			live = (live & (uint16_t)~in->flags_written) | in->flags_read;
			if (o >= OP_FIRST_HELPER && o < OP_FIRST_PLAIN_HELPER)
				live = FLAG_ARITH;
		}
		t->live[i] = live;
	}
}

/* Would the body rather start with its flags in memory? */
static bool starts_saved(const struct trans *t)
{
	if (t->b->gpa2)
		return true;
	for (unsigned i = 0; i < t->n; i++) {
		const struct insn *in = &t->insn[i];
		unsigned op = trans_op_of(t, in);
		if (op == OP_COPY && in->mem && in->mem_acc)
			return true;
		if (in->flags_read)
			return op >= OP_FIRST_HELPER && op != OP_PUSHF_INLINE;
		if (op == OP_JMP_IND || op == OP_CALL_IND || (op == OP_JMP && trans_saves_flags(t, i)))
			return true;
		if (op == OP_PUSH || op == OP_POP || op == OP_CALL || op == OP_RET || op >= OP_FIRST_HELPER)
			return true;
	}
	return false;
}

static void emit_entries(struct trans *t)
{
	struct emit *e = &t->e;
	t->b->part[0].start = t->b->code = t->b->code_mem = (uint8_t *)(uintptr_t)emit_exec(e);
	if (!t->live[0]) {
		t->flags = FLAGS_DEAD;
	} else if (starts_saved(t)) {
		emit_save_flags(e, T1, CPU_OFF(flags));
		t->b->code_mem = (uint8_t *)(uintptr_t)emit_exec(e);
		t->flags = FLAGS_SAVED;
	} else {
		emit_load_flags(e, T1, CPU_OFF(flags));
		t->b->code = (uint8_t *)(uintptr_t)emit_exec(e);
		t->flags = FLAGS_HOST;
	}
	if (t->b->gpa2)
		trans_check_second_page(t);
}

/* Counts down to the block's being hot, where that costs no flags. */
static void emit_heat(struct trans *t)
{
	t->b->heated = t->lessons.hot || t->mmu != SOFT_MMU_USER;
	if (t->b->heated || t->flags == FLAGS_HOST || !t->is64 || (t->mode & SOFT_MODE_STEP))
		return;
	t->b->heated = true;
	trans_heat(t);
}

/* Do the op's emitters know what they do to T1? */
static bool minds_t1(const struct insn *in, unsigned op)
{
	switch (op) {
	case OP_COPY:
	case OP_SETCC:
	case OP_NOP:
	case OP_JCC:
	case OP_LEA:
		return true;
	default:
		return (op == OP_PUSH || op == OP_POP) && !in->mem;
	}
}

static void translate_insn(struct trans *t, unsigned i, unsigned op)
{
	switch (op) {
	case OP_COPY:
	case OP_SETCC:
		trans_copy(t, i);
		break;
	case OP_MASKED_LOAD:
	case OP_MASKED_STORE:
		trans_masked(t, i);
		break;
	case OP_STRING:
		trans_string(t, i);
		break;
	case OP_EVEX_MASKED:
		trans_evex_masked(t, i);
		break;
	case OP_NOP:
		break;
	case OP_JCC:
		trans_jcc(t, i);
		break;
	case OP_JMP:
		trans_jmp(t, i);
		break;
	case OP_JMP_IND:
		trans_jmp_ind(t, i);
		break;
	case OP_CALL:
		trans_call(t, i);
		break;
	case OP_CALL_IND:
		trans_call_ind(t, i);
		break;
	case OP_RET:
		trans_ret(t, i);
		break;
	case OP_LOOP:
	case OP_JCXZ:
		trans_loop_insn(t, i);
		break;
	case OP_PUSH:
		trans_push(t, i);
		break;
	case OP_POP:
		trans_pop(t, i);
		break;
	case OP_LEAVE:
		trans_leave(t, i);
		break;
	case OP_LEA:
		trans_lea(t, i);
		break;
	case OP_MOFFS:
		trans_moffs(t, i);
		break;
	case OP_XLAT:
		trans_xlat(t, i);
		break;
	case OP_BT_MEM:
		trans_bt(t, i);
		break;
	case OP_MOV_FROM_SEG:
		trans_mov_from_seg(t, i);
		break;
	case OP_XSAVE:
		trans_xsave(t, i);
		break;
	case OP_FPU_SAVE:
		trans_fpu_save(t, i);
		break;
	case OP_CLFLUSH:
		trans_clflush(t, i);
		break;
	case OP_PUSHF_INLINE:
		trans_pushf(t, i);
		break;
	case OP_PAUSE_INLINE:
		trans_pause(t, i);
		break;
	case OP_RDTSC_INLINE:
		trans_rdtsc(t, i);
		break;
	case OP_CLI:
		trans_cli(t, i);
		break;
	case OP_STI:
		trans_sti(t, i);
		break;
	default:
		trans_helper(t, i, op);
	}
}

void trans_insn(struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	int fault = trans_fault_of(t, in);
	if (fault >= 0) {
		trans_raise(t, i, (unsigned)fault);
		return;
	}
	unsigned op = trans_op_of(t, in);
	bool minds = minds_t1(in, op);
	if (!minds)
		t->in_t1 = INSN_NO_REG;
	translate_insn(t, i, op);
	if (!minds)
		t->in_t1 = INSN_NO_REG;
}

static void end_names(struct trans *t)
{
	trans_rename_out(t);
	t->renamed = false;
}

static void emit_body(struct trans *t)
{
	bool after_sti = false;
	if (t->renames) {
		trans_rename_in(t);
		t->renamed = true;
	}
	for (unsigned i = 0; i < t->n && !t->done; i++) {
		if (t->renamed && i == t->rename_end)
			end_names(t);
		trans_group_step(t, i);
		trans_insn(t, i);
		bool sti = trans_op_of(t, &t->insn[i]) == OP_STI;
		if (i + 1 == t->n && sti)
			emit_gs_store_imm(&t->e, 4, CPU_OFF(shadow), 1);
		after_sti = i > 0 && trans_op_of(t, &t->insn[i - 1]) == OP_STI;
	}
	if (t->done)
		return;
	if (t->renamed)
		end_names(t);
	if (after_sti) {
		trans_poll(t, trans_rip(t, t->n));
	}
	trans_fall_through(t);
}

static bool emit_block(struct trans *t, const struct soft_room *room)
{
	t->e = (struct emit){ .p = room->code, .to_exec = room->to_exec };
	t->stubs = t->exits = t->maps = 0;
	t->failed = t->done = t->in_group = t->loop.fast = false;
	t->held = NO_GROUP;
	t->in_t1 = INSN_NO_REG;
	t->apart_to = 0;
	t->base = T0;
	t->index = EMIT_NONE;
	t->reserved = 0;
	for (unsigned i = 0; i < SOFT_BLOCK_LINKS; i++)
		t->b->link[i] = (struct soft_link){ 0 };
	t->b->others = NULL;
	bool loop = trans_is_loop(t);
	t->renames = 0;
	t->renamed = false;
	if (!loop)
		trans_rename(t);
	emit_entries(t);
	emit_heat(t);
	if (loop)
		trans_loop(t);
	else
		emit_body(t);
	t->in_group = false;
	trans_emit_edges(t);
	while ((uintptr_t)t->e.p & 15)
		emit8(&t->e, 0xcc);
	t->line_end = t->e.p;
	t->e.p = room->cold;
	trans_emit_stubs(t);
	trans_emit_exits(t);
	return !t->failed;
}

static const uint8_t *copy_page(struct trans *t)
{
	for (unsigned i = 0; i < sizeof(t->copy); i += 8)
		unaligned_store(t->copy + i, 8, unaligned_load(t->page + i, 8));
	return t->copy;
}

struct soft_block *translate_block(struct soft_cpu *cpu, uint64_t gpa, uint64_t gpa2, enum translate_why *why)
{
	struct soft_cache *cache = cpu->vm->cache;
	struct soft_room room;
	struct trans trans, *t = &trans;
	*why = TRANSLATE_FULL;
	if (!cache_room(cache, &room))
		return NULL;
	struct soft_block *b = room.block;
	b->gpa = gpa;
	b->rip = cpu->rip;
	b->mode = cpu->mode | (cpu->single ? SOFT_MODE_SINGLE : 0);
	t->cpu = cpu;
	t->cache = cache;
	t->lessons = cache_lessons(cache, b);
	t->lessons.hot |= cpu->vm->all_hot;
	if (cpu->vm->no_slots)
		t->lessons = (struct cache_lessons){ .hot = true, .demoted = ~UINT64_C(0) };
	t->b = b;
	t->mode = cpu->mode;
	t->is64 = (cpu->mode & SOFT_MODE_CODE) == SOFT_MODE_CODE64;
	t->flat = t->is64 || (cpu->mode & SOFT_MODE_FLAT);
	t->width = t->is64 ? 8 : 4;
	t->mmu = (cpu->mode & SOFT_MODE_CPL) == 3 ? SOFT_MMU_USER
		 : cpu->mode & SOFT_MODE_AC       ? SOFT_MMU_KERNEL_AC
						  : SOFT_MMU_KERNEL;
	t->page = soft_gpa_to_hva(cpu->vm, gpa & ~0xfffULL, NULL, NULL);
	bool keep = cache_keeps_bytes(cache, gpa);
	if (keep)
		t->page = copy_page(t);

	unsigned max = cpu->mode & SOFT_MODE_STEP ? 1 : cpu->vm->max_block;
	do {
		t->at[0] = 0;
		if (!decode(t, gpa2, max, why))
			return NULL;
		find_live_flags(t);
		trans_find_groups(t);
		max = t->n / 2;
	} while (!emit_block(t, &room) && max);
	if (t->failed)
		return NULL;

	b->maps = t->maps;
	b->map = cache_alloc(cache, t->maps * sizeof(*t->map));
	if (!b->map)
		return NULL;
	for (unsigned i = 0; i < t->maps; i++)
		b->map[i] = t->map[i];
	b->part[0].end = t->line_end + t->e.to_exec;
	b->part[1].start = room.cold + t->e.to_exec;
	b->part[1].end = t->e.p + t->e.to_exec;
	if (keep)
		cache_keep_bytes(cache, b, t->page);
	cache_insert(cache, b, t->line_end, t->e.p);
	return b;
}
