/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans.h - what the translator's files share: the state of a block being made.
 *
 *   translate.c    decodes the block, computes flag liveness, calls the emitter of each instruction
 *   trans_mem.c    addresses, the TLB check, its slow path out of line; where the flags are
 *   trans_group.c  several accesses by one check
 *   trans_rename.c guest registers that live in memory, elsewhere for a block's length
 *   trans_loop.c   loops of one block; trans_stream.c: their operands
 *   trans_copy.c   instructions that are copied
 *   trans_flow.c   branches, block exits, helpers
 *   trans_misc.c   stack and data movement with a translation of its own
 */
#ifndef PLURES_ENGINE_SOFT_TRANS_H
#define PLURES_ENGINE_SOFT_TRANS_H

#include "engine/soft/cache.h"
#include "engine/soft/cpu.h"
#include "engine/soft/emit.h"

/* In an instruction: guest RSP's place, which another register has (trans_rename.c). */
enum { TRANS_RENAMES = 3, TRANS_RSP = 17 };

enum { T0 = HOST_R10, T1 = HOST_R11, HOST_GUEST_RSP = HOST_R15, IN_MEMORY = 0xff };

/* Where the arithmetic flags are at this point of the code. DEAD: nobody will read them. */
enum flag_state { FLAGS_HOST, FLAGS_SAVED, FLAGS_DEAD };

struct trans;
typedef void trans_op(struct trans *t, unsigned i);

/* The out-of-line part of a memory access. */
struct trans_stub {
	uint8_t *branch; /* the rel32 of the check's branch */
	uint8_t *resume; /* where the op starts */
	uint8_t *after;  /* where the instruction goes on after the op */
	trans_op *op;
	uint32_t how;
	unsigned insn;
	bool group;
	uint8_t t1, t1_after; /* the guest registers that T1 holds at resume and at after, as trans.in_t1 */
	bool renamed;         /* the names of trans_rename.c hold there */
	bool within;          /* a group goes on after it by what its own check found */
	bool slotted;         /* the check was of slot `slot` */
	unsigned slot;
	bool constant; /* the check was for one page, of `address`; T0 is that page's first byte at resume */
	uint64_t address;
	unsigned index; /* the register that T0 is added to from resume on (with disp), or EMIT_NONE */
	int disp;
	const struct insn *helper;    /* of a C helper that then does all of the access, or NULL */
	enum flag_state before, done; /* of the flags at resume and at after */
};

/* A sum of guest registers, each so many times, and a constant, modulo 2^64; or not known. */
struct trans_sum {
	bool known;
	int8_t times[16];
	int64_t plus;
};

/* A loop of one block (trans_loop.c), and its streams (trans_stream.c). */
enum { TRANS_LOOP_STREAMS = 6, TRANS_NO_STREAM = 0xff };
struct trans_stream {
	struct trans_sum start; /* the address that lo and hi count from, by the registers at an iteration's start */
	uint8_t host;           /* the register that holds its host address, */
	uint8_t by;             /* less this guest register's value; or EMIT_NONE */
	bool write;
	int stride; /* bytes an iteration */
	int lo, hi; /* what one iteration touches */
};
struct trans_bail {
	uint8_t *branch;
	uint8_t insn;
	enum flag_state flags;
};
struct trans_loop {
	bool fast;         /* it is fast code that is being emitted */
	uint16_t borrowed; /* registers */
	unsigned counter;  /* one of them */
	unsigned streams, bails, leaves;
	struct trans_stream stream[TRANS_LOOP_STREAMS];
	struct trans_bail bail[SOFT_BLOCK_INSNS], leave[SOFT_BLOCK_INSNS];
	uint8_t member[SOFT_BLOCK_INSNS]; /* of each instruction's operand: its stream, or TRANS_NO_STREAM */
	int offset[SOFT_BLOCK_INSNS];     /* ... and what to add to the stream's registers for it */
};

/* An exit that waits to be emitted out of line: a conditional branch's taken side, or a kick's. */
struct trans_exit {
	uint8_t *branch;
	unsigned link; /* index into block->link, or EXIT_* */
	uint64_t rip;
	enum flag_state flags;
	unsigned from; /* instruction */
	uint8_t *back; /* EXIT_CALL*: where the host's RET shall come back to */
	uint8_t *miss; /* another branch that comes here, or NULL */
	struct soft_link *side;
	bool done;
};
enum {
	EXIT_T0 = 100 /* rip is in T0 */,
	EXIT_RIP = 101 /* rip is a constant; no link */,
	EXIT_RECHECK = 102 /* the same, past the jump cache */,
	EXIT_CALL = 103 /* of a call: rip's page is mapped elsewhere, or no branch: only the link's stub is wanted */,
	EXIT_CALL_T0 = 104 /* of an indirect call: rip is in T0 */,
	EXIT_HOT = 106 /* the block is hot; `from` is its counter */,
	EXIT_SIDE = 107 /* the branch is the link `side` */,
	EXIT_RENAMED = 109 /* a side exit, the names of trans_rename.c being in force */,
	EXIT_OTHER = 108 /* of an indirect jump that goes elsewhere than it was thought to; rip is in T0 */,
	EXIT_RET = 105 /* of a return that the return stack does not know; rip is in T0 */
};

enum { TRANS_MAX = SOFT_BLOCK_INSNS, NO_GROUP = 0xff };

/* What the translator does itself of what else is a helper's (translate.c's op_of). */
enum { OP_PUSHF_INLINE = OP_COUNT, OP_RDTSC_INLINE, OP_PAUSE_INLINE };

struct trans {
	struct emit e;
	struct soft_cpu *cpu;
	struct soft_cache *cache;
	struct soft_block *b;
	uint32_t mode;
	bool is64, flat;
	unsigned width; /* of addresses and stack: 8 or 4 */
	unsigned mmu;
	struct insn insn[TRANS_MAX];
	uint8_t op[TRANS_MAX];        /* of each, trans_op_of's and */
	int8_t fault[TRANS_MAX];      /* trans_fault_of's answers */
	uint16_t at[TRANS_MAX + 1];   /* offset of each from the block's rip; [n] is the end */
	uint16_t live[TRANS_MAX + 1]; /* flags needed at the start of each; [n] at the end */
	unsigned n;
	unsigned sides; /* Jcc's that are not the last */
	struct {
		uint64_t rip;
		uint16_t flags;
	} needed[16]; /* what trans_flags_needed has found */
	unsigned asked;
	enum flag_state flags;
	struct trans_stub stub[TRANS_MAX * 2];
	unsigned stubs;
	struct trans_exit exit[32];
	unsigned exits;
	struct soft_map map[TRANS_MAX * 4];
	unsigned maps;
	/* Groups (trans_group.c). */
	struct {
		unsigned last; /* of the group that begins at this instruction; 0 for none */
		uint8_t base;  /* guest register */
		bool write;
		bool apart;    /* T0 is used for something else in between */
		uint8_t first; /* of a member: where its group begins */
		int16_t min;   /* lowest offset from the base, as it is at the group's start */
		uint16_t span; /* bytes from there */
		int16_t
		    offset;   /* of this instruction's own access, when `member`, from the base at the group's start, */
		int16_t disp; /* and from the base as it is at the instruction */
		bool member;
	} group[TRANS_MAX];
	struct trans_loop loop;
	unsigned renames, rename_end; /* trans_rename.c: how many, and the first instruction after them */
	bool renamed;                 /* they are in force where code is emitted now */
	bool in_group;                /* T0 is held's */
	unsigned held;                /* the group that T0 is of, by its first instruction, or NO_GROUP */
	unsigned apart_to;            /* the last instruction of the groups so far whose members are apart */
	/* Where the access under way is made: base + index + disp. */
	unsigned base;  /* T0, but in loops */
	unsigned index; /* the guest's own base register, T0 being what is to be added to it; or EMIT_NONE */
	int disp;
	uint16_t reserved; /* registers that an op must not borrow */
	uint8_t in_t1;     /* the guest register, of those in memory, that T1 has a copy of, or INSN_NO_REG */
	struct cache_lessons lessons;
	const uint8_t *page; /* the first page's bytes: in memory, or */
	uint8_t copy[4096];  /* as they were when we began */
	uint8_t *line_end;   /* of the straight line */
	bool failed;         /* out of memory for what the block needs */
	bool done;           /* the block's end has been emitted */
};

static inline uint32_t trans_offset(const struct trans *t, const uint8_t *p)
{
	return (uint32_t)(p + t->e.to_exec - t->b->part[0].start);
}

static inline uint64_t trans_rip(const struct trans *t, unsigned i)
{
	uint64_t rip = t->b->rip + t->at[i];
	return t->is64 ? rip : (uint32_t)rip;
}

/* Host register of a guest's, or IN_MEMORY. */
static inline unsigned host_of(unsigned guest)
{
	switch (guest) {
	case 4:
	case TRANS_RSP:
		return HOST_GUEST_RSP;
	case 10:
	case 11:
	case 15:
		return IN_MEMORY;
	default:
		return guest;
	}
}

#define CPU_OFF(field) ((uint32_t)offsetof(struct soft_cpu, field))
static inline uint32_t gpr_off(unsigned guest)
{
	return CPU_OFF(gpr) + 8 * guest;
}

/* ---- translate.c ---- */

/* Emits instruction i. */
void trans_insn(struct trans *t, unsigned i);
/* The op to translate it by, for an instruction of the block: the row's, the slow form, or an OP_*_INLINE. */
static inline unsigned trans_op_of(const struct trans *t, const struct insn *in)
{
	return t->op[in - t->insn];
}
/* The exception that it raises in this mode before it does anything, or -1. */
static inline int trans_fault_of(const struct trans *t, const struct insn *in)
{
	return t->fault[in - t->insn];
}

/* ---- trans_mem.c ---- */

/* Before code that destroys the host's flags: saves them if any of `live` are there. Uses T1. */
void trans_clobber(struct trans *t, uint16_t live);
/* Brings live flags into the host's. Uses T1. */
void trans_need_flags(struct trans *t);
/* dst (a host register, size 4 or 8) = guest register, and back. */
void trans_get(struct trans *t, unsigned dst, unsigned guest, unsigned size);
void trans_set(struct trans *t, unsigned guest, unsigned src, unsigned size);
/* Is the address of instruction i's operand the same each time, and does its page hold all of it? */
bool trans_constant_address(const struct trans *t, unsigned i, unsigned size, uint64_t *address);
/* T1 = a guest register that lives in memory, unless it is there. */
void trans_load_t1(struct trans *t, unsigned guest);
/* Can LEA be one here too, or go to T1? Then it leaves T0 alone. */
bool trans_lea_is_plain(const struct insn *in);
/* dst = offset of the memory operand, without segment. Uses T1 for an index in memory. Leaves flags alone. */
void trans_offset_of(struct trans *t, unsigned i, unsigned dst);
/* The same cut to `size` bytes, 4 or 8. */
void trans_offset_cut(struct trans *t, unsigned i, unsigned dst, unsigned size);
/* T0 = linear address of instruction i's operand (flags are clobbered unless it is 64-bit and without segment). */
void trans_linear(struct trans *t, unsigned i, uint32_t how);
/* T0 = offset in `seg` already: makes it linear. */
void trans_segment(struct trans *t, unsigned i, unsigned seg, uint32_t how);
/* The check for T0, then op with T0 = host address; the flags must not live in the host's. */
void trans_access(struct trans *t, unsigned i, uint32_t how, trans_op *op);
/* Both of trans_linear and trans_access, with a shorter check where the address is a constant. */
void trans_access_operand(struct trans *t, unsigned i, uint32_t how, trans_op *op);
/* For an access at disp from a host register that holds a guest's. */
void trans_access_by(struct trans *t, unsigned i, uint32_t how, unsigned reg, int disp, trans_op *op);
/* As trans_access, but on a miss instruction i's C helper does the whole access. */
void trans_access_or_help(struct trans *t, unsigned i, uint32_t how, trans_op *op);
/* Instruction i's C helper prepares a buffer, on which the op is made, and which is then stored if it writes. */
void trans_access_by_lane(struct trans *t, unsigned i, trans_op *op);
/* rip = constant, through T1 if it is wide. Leaves flags alone. */
void trans_set_rip(struct trans *t, uint64_t rip);
void trans_map(struct trans *t, unsigned i, unsigned special);
void trans_emit_stubs(struct trans *t);

/* `how` of an access to memory elsewhere than the instruction's operand, */
static inline uint32_t how_of(unsigned size, unsigned acc)
{
	return size | (acc & ACC_R ? SOFT_HOW_READ : 0u) | (acc & ACC_W ? SOFT_HOW_WRITE : 0u);
}
/* and of one to the operand, which may be on the stack. */
static inline uint32_t how_operand(const struct insn *in, unsigned size, unsigned acc)
{
	return how_of(size, acc) | (in->seg == ENGINE_SS ? SOFT_HOW_STACK : 0u) | (in->lock ? SOFT_HOW_LOCK : 0u);
}

/* The check alone, of T0: afterwards it is the host address; or, with an index, what is to be added to that register for the
 * host address, T0 having been index + disp. Returns the stub, for its `op`, `after` and `done`; NULL if full. */
struct trans_stub *trans_check(struct trans *t, unsigned i, uint32_t how, unsigned index, int disp);

/* In an op: mov between a register, or a constant, and what is accessed. */
void trans_move(struct trans *t, bool store, unsigned size, unsigned reg);
void trans_move_imm(struct trans *t, unsigned size, int32_t imm);

/* Its two parts: T0 ^= tag, and a branch (its displacement is the last thing emitted) when it misses; then T0 += host. T1
 * must be left alone in between. */
void trans_tlb_check(struct trans *t, uint32_t how);
void trans_tlb_add_host(struct trans *t);

/* ---- trans_group.c ---- */

/* Finds the groups of the decoded block. */
void trans_find_groups(struct trans *t);
/* Before and after each instruction: opens the group that begins at i, closes the one that ended. */
void trans_group_step(struct trans *t, unsigned i);
/* Is instruction i's access one that a group's check has covered? Then T0 + t->disp is where it goes. */
bool trans_grouped(struct trans *t, unsigned i);

/* Does the instruction change a guest register? */
bool trans_writes_register(const struct insn *in, unsigned reg);

/* ---- trans_loop.c ---- */

/* Is the decoded block a loop that this file can do? Then trans_loop emits all of it. */
bool trans_is_loop(struct trans *t);
void trans_loop(struct trans *t);
/* In a loop's fast code: is instruction i's operand at t->base + t->index + t->disp? Otherwise its address, in T0, is checked
 * thus. */
bool trans_loop_access(struct trans *t, unsigned i);
void trans_loop_check(struct trans *t, unsigned i, uint32_t how);
/* Does the instruction access memory by its operand? */
bool trans_accesses(const struct insn *in);

/* ---- trans_stream.c ---- */

/* Finds the streams of a loop and gives them registers. False if it is not worth it. */
bool trans_find_streams(struct trans *t);

/* ---- trans_rename.c ---- */

/* Gives guest r10, r11 and r15 the names of registers that the block does not mention, where it pays. */
void trans_rename(struct trans *t);
/* From when the names hold, and from when they don't. Leave flags, T0 and T1 alone. */
void trans_rename_in(struct trans *t);
void trans_rename_out(struct trans *t);

/* ---- trans_copy.c ---- */
void trans_copy(struct trans *t, unsigned i);
void trans_masked(struct trans *t, unsigned i);
void trans_evex_masked(struct trans *t, unsigned i);
trans_op op_copy; /* its part after the check */

/* ---- trans_flow.c ---- */
/* Does a trace go on after instruction i, a branch that has just been decoded? */
bool trans_goes_on(struct trans *t, unsigned i);
void trans_jcc(struct trans *t, unsigned i);
void trans_loop_insn(struct trans *t, unsigned i);
void trans_jmp(struct trans *t, unsigned i);
void trans_call(struct trans *t, unsigned i);
void trans_ret(struct trans *t, unsigned i);
void trans_jmp_ind(struct trans *t, unsigned i);
void trans_call_ind(struct trans *t, unsigned i);
/* Goes to rip by the block's link k; or to the dispatcher, at rip. */
void trans_edge(struct trans *t, unsigned k, uint64_t rip, unsigned from);
/* The same, forward in the page, by a link of its own. */
void trans_side_edge(struct trans *t, uint64_t rip, unsigned from);
void trans_dispatch(struct trans *t, uint64_t rip);
/* Goes to the twin without groups that begins at instruction i; the flags are not in the host's. */
void trans_to_twin(struct trans *t, unsigned i);
/* Does the edge of instruction i, a jump, need the flags saved? */
bool trans_saves_flags(const struct trans *t, unsigned i);
/* Leaves for the dispatcher at rip if kicked. */
void trans_poll(struct trans *t, uint64_t rip);
/* Ends the block by going on at instruction n. */
void trans_fall_through(struct trans *t);
/* Instruction i (as `op` if not 0), kept for as long as the block is; NULL, and the block fails, without memory. */
struct insn *trans_keep_insn(struct trans *t, unsigned i, unsigned op);
/* Calls the C helper of instruction i (as `op` if not 0). */
void trans_helper(struct trans *t, unsigned i, unsigned op);
/* Leaves for soft_hot when the block has been entered often. Destroys the flags. */
void trans_heat(struct trans *t);
/* Raises an exception at instruction i. */
void trans_raise(struct trans *t, unsigned i, unsigned vector);
/* At the head of a block that crosses pages. */
void trans_check_second_page(struct trans *t);
/* What the exits wait for: `edges` alone, which are run as often as the block; the rest, which is not. */
void trans_emit_edges(struct trans *t);
void trans_emit_exits(struct trans *t);
/* The flags that code at rip needs on entry; all of them when that is not known. */
uint16_t trans_flags_needed(struct trans *t, uint64_t rip);

/* ---- trans_misc.c ---- */
void trans_push(struct trans *t, unsigned i);
void trans_pushf(struct trans *t, unsigned i);
void trans_pop(struct trans *t, unsigned i);
void trans_leave(struct trans *t, unsigned i);
void trans_lea(struct trans *t, unsigned i);
void trans_moffs(struct trans *t, unsigned i);
void trans_xlat(struct trans *t, unsigned i);
void trans_bt(struct trans *t, unsigned i);
void trans_mov_from_seg(struct trans *t, unsigned i);
void trans_xsave(struct trans *t, unsigned i);
void trans_fpu_save(struct trans *t, unsigned i);
void trans_clflush(struct trans *t, unsigned i);
void trans_pause(struct trans *t, unsigned i);
void trans_rdtsc(struct trans *t, unsigned i);
void trans_string(struct trans *t, unsigned i);
void trans_cli(struct trans *t, unsigned i);
void trans_sti(struct trans *t, unsigned i);

#endif
