/* SPDX-License-Identifier: Apache-2.0 */
/*
 * system.h - what the C helpers of system instructions, and event delivery, share.
 *
 * It is the engine's own, below cpu.h: registers as instructions see them, descriptors, stacks. Everything here is
 * light code (see cpu.h), and follows one rule: check everything, then change state. A function that says "raises"
 * does not return when it does.
 *
 *   fault.c    exceptions and interrupts: raising, combining, tracing     deliver.c  through the IDT or the IVT
 *   flags.c    RFLAGS and the mode                                        stack.c    pushes and pops
 *   segment.c  descriptors and segment registers                          desc.c     LAR ... ARPL, LGDT, LTR ...
 *   control.c  far jumps, calls and returns, IRET                         task.c     task switches
 *   syscall.c  SYSCALL, SYSENTER and back                                 near.c     near transfers, odd pushes and pops
 *   system.c   control and debug registers, HLT, TLB                      msr.c      model-specific registers, the TSC
 *   cpuid.c    CPUID and XCR0                                             io.c       IN, OUT
 *   watch.c    breakpoints (its door is in cpu.h)
 *   bcd.c      decimal arithmetic and other leftovers of 16-bit times     helpers.c  the table
 */
#ifndef PLURES_ENGINE_SOFT_SYSTEM_H
#define PLURES_ENGINE_SOFT_SYSTEM_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/soft/cpu.h"

enum { GPR_AX, GPR_CX, GPR_DX, GPR_BX, GPR_SP, GPR_BP, GPR_SI, GPR_DI };

/* ---- registers and flags ---- */

static inline uint64_t soft_trunc(uint64_t value, unsigned size)
{
	return size >= 8 ? value : value & ((1ull << (size * 8)) - 1);
}

/* Writes the low `size` bytes of a general register: 4 zero-extends, 1 (low byte) and 2 keep the rest. */
static inline void soft_set_reg(struct soft_cpu *cpu, unsigned reg, unsigned size, uint64_t value)
{
	uint64_t keep = size >= 4 ? 0 : ~((1ull << (size * 8)) - 1);

	cpu->gpr[reg & 15] = (cpu->gpr[reg & 15] & keep) | soft_trunc(value, size);
}

static inline bool soft_code64(const struct soft_cpu *cpu)
{
	return (cpu->mode & SOFT_MODE_CODE) == SOFT_MODE_CODE64;
}
static inline bool soft_lma(const struct soft_cpu *cpu)
{
	return cpu->efer & EFER_LMA;
}
/* Protected mode proper: PE and not v8086. */
static inline bool soft_protected(const struct soft_cpu *cpu)
{
	return (cpu->mode & (SOFT_MODE_PE | SOFT_MODE_VM)) == SOFT_MODE_PE;
}
static inline bool soft_v8086(const struct soft_cpu *cpu)
{
	return cpu->mode & SOFT_MODE_VM;
}
static inline unsigned soft_iopl(const struct soft_cpu *cpu)
{
	return (cpu->sysflags & RF_IOPL) >> 12;
}
static inline bool soft_canonical(uint64_t linear)
{
	return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}
/* RIP after the instruction, truncated as the code's width asks. */
static inline uint64_t soft_next_rip(const struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t next = cpu->rip + insn->len;

	return soft_code64(cpu)                                   ? next
	       : (cpu->mode & SOFT_MODE_CODE) == SOFT_MODE_CODE32 ? (uint32_t)next
								  : next & 0xffff;
}

/* Bytes of the offset in a far pointer. With REX.W it is 8, as on Intel's CPUs; AMD's ignore the prefix, so that nothing
 * made for them has it. */
static inline unsigned soft_far_size(const struct insn *insn)
{
	return insn->w ? 8 : insn->opsize;
}

/* The arithmetic flags of RFLAGS from and to cpu->flags. */
uint32_t soft_get_arith(const struct soft_cpu *cpu);
void soft_set_arith(struct soft_cpu *cpu, uint32_t rflags);
void soft_set_zf(struct soft_cpu *cpu, bool zf);
/* Loads RFLAGS as POPF and IRET do: only the bits of `mask` change. */
void soft_load_rflags(struct soft_cpu *cpu, uint64_t rflags, uint64_t mask);
/* The bits of RFLAGS that POPF and IRET of `size` bytes may change at this CPL and IOPL (protected mode). */
uint64_t soft_rflags_mask(const struct soft_cpu *cpu, unsigned size);
/* To be called when IF may have become set: has a waiting interrupt looked at again. */
void soft_irq_enabled(struct soft_cpu *cpu);

/* ---- operands ---- */

/* The linear address, checked against its segment, of `size` bytes at `delta` bytes into the memory operand. Raises. */
uint64_t soft_operand(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, unsigned delta, unsigned size,
		      enum soft_access access);
/* ModRM.rm read or written as `size` bytes, in memory or a register. Raises. */
uint64_t soft_read_rm(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, unsigned size);
void soft_write_rm(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea, unsigned size, uint64_t value);

/* ---- descriptors (segment.c) ---- */

enum {
	ATTR_TYPE = 0xf,
	ATTR_A = 0x1,
	ATTR_WR = 0x2 /* writable data, readable code */,
	ATTR_EC = 0x4 /* expand down, conforming */,
	ATTR_CODE = 0x8,
	ATTR_S = 0x10,
	ATTR_DPL = 0x60,
	ATTR_DPL_SHIFT = 5,
	ATTR_P = 0x80,
	ATTR_L = 1 << 13,
	ATTR_DB = 1 << 14,
	ATTR_G = 1 << 15,
	ATTR_NULL = 1 << 16,
};
/* Types of system descriptors. */
enum {
	DESC_TSS16 = 1,
	DESC_LDT = 2,
	DESC_TSS16_BUSY = 3,
	DESC_CALL16 = 4,
	DESC_TASK = 5,
	DESC_INT16 = 6,
	DESC_TRAP16 = 7,
	DESC_TSS32 = 9,
	DESC_TSS32_BUSY = 11,
	DESC_CALL32 = 12,
	DESC_INT32 = 14,
	DESC_TRAP32 = 15,
};

struct soft_desc {
	uint64_t lo, hi; /* as in memory; hi only of a 16-byte descriptor */
	uint64_t addr;   /* linear, where it was read */
	uint16_t selector;
	struct engine_segment seg; /* for a segment descriptor: what a register would be loaded with */
};

static inline unsigned soft_attr_dpl(uint32_t attr)
{
	return (attr & ATTR_DPL) >> ATTR_DPL_SHIFT;
}
static inline bool soft_is_code(uint32_t attr)
{
	return (attr & (ATTR_S | ATTR_CODE)) == (ATTR_S | ATTR_CODE);
}
static inline bool soft_is_conforming(uint32_t attr)
{
	return (attr & (ATTR_S | ATTR_CODE | ATTR_EC)) == (ATTR_S | ATTR_CODE | ATTR_EC);
}
static inline bool soft_is_system(uint32_t attr, unsigned type)
{
	return (attr & (ATTR_S | ATTR_TYPE)) == type;
}

/* Reads what `selector` selects into *d; false when that lies outside its table, or is null. #PF is raised. */
bool soft_desc_try(struct soft_cpu *cpu, uint16_t selector, struct soft_desc *d);
/* As soft_desc_try, raising vector(selector); a null selector raises vector(0). */
void soft_desc_read(struct soft_cpu *cpu, uint16_t selector, unsigned vector, struct soft_desc *d);
/* Sets the accessed bit, in memory and in d->seg, of a segment descriptor. May raise #PF. */
void soft_desc_access(struct soft_cpu *cpu, struct soft_desc *d);
/* Is it what SS may be loaded with at `cpl`? Raises vector(selector) or, if not present, #SS(selector). */
void soft_check_ss(struct soft_cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector, struct soft_desc *d);

/* Loads a data segment register as MOV, POP and LDS do. Raises; the caller calls soft_update_mode. */
void soft_load_seg(struct soft_cpu *cpu, unsigned seg, uint16_t selector);
/* ES, DS, FS or GS in protected mode, where a descriptor that will not do raises `vector`. */
void soft_load_data_seg(struct soft_cpu *cpu, unsigned seg, uint16_t selector, unsigned vector);
/* A segment register as real and v8086 mode load it. */
void soft_load_seg_real(struct soft_cpu *cpu, unsigned seg, uint16_t selector);
void soft_copy_seg(struct engine_segment *to, const struct engine_segment *from);
void soft_null_seg(struct engine_segment *seg, uint16_t selector, unsigned dpl);
/* The segment that SYSCALL and its kin load: flat, present, accessed; code or data, with L or D/B. */
void soft_flat_seg(struct engine_segment *seg, uint16_t selector, bool code, bool l, unsigned dpl);
/* After a return to an outer privilege: nulls the data segments that it may not use. */
void soft_drop_segs(struct soft_cpu *cpu, unsigned cpl);

/* ---- stacks (stack.c) ---- */

/* A stack being pushed to or popped from; the register is written only at the end, by the caller. */
struct soft_stack {
	struct engine_segment seg;
	uint64_t sp, mask; /* mask: the bits of SP that count */
	uint32_t error;    /* of the #SS for what is outside of it */
	bool flat64;       /* no limit, canonical addresses instead */
	bool system;       /* accesses are of CPL 0 to 2, whatever the current CPL is */
};

/* The current stack. */
void soft_stack_current(const struct soft_cpu *cpu, struct soft_stack *st);
/* One for privilege `cpl`, on segment *ss (ignored, may be NULL, if flat64). */
void soft_stack_inner(const struct soft_cpu *cpu, struct soft_stack *st, const struct engine_segment *ss, uint64_t sp,
		      unsigned cpl, bool flat64);
void soft_push(struct soft_cpu *cpu, struct soft_stack *st, unsigned size, uint64_t value);
uint64_t soft_pop(struct soft_cpu *cpu, struct soft_stack *st, unsigned size);
/* RSP with the bits of st->sp that count. */
uint64_t soft_stack_rsp(const struct soft_cpu *cpu, const struct soft_stack *st);

/* The stack pointer, and outside of long mode the selector, that the TSS holds for privilege `cpl`. Raises #TS. */
uint64_t soft_tss_stack(struct soft_cpu *cpu, unsigned cpl, uint16_t *selector);

/* ---- control transfers ---- */

/* Loads CS from *d (checked by the caller) with `cpl` as its RPL, and rip. */
void soft_enter_code(struct soft_cpu *cpu, const struct soft_desc *d, unsigned cpl, uint64_t rip);
/* Raises #GP(0) unless `rip` may be executed in code segment *cs. */
void soft_check_rip(struct soft_cpu *cpu, const struct engine_segment *cs, uint64_t rip);

/* An event on its way through the IDT. */
struct soft_event {
	uint8_t vector;
	bool has_error;
	bool soft; /* INT n, INT3, INTO: the gate's DPL counts */
	uint32_t error;
	uint64_t rip; /* to return to */
	uint64_t rflags;
};
/* Through the IDT (or IVT) into the handler; changes state only when nothing can fail any more. Raises. */
void soft_deliver_event(struct soft_cpu *cpu, const struct soft_event *ev);
/* INT n, INT3, INTO: the whole instruction. */
void soft_software_interrupt(struct soft_cpu *cpu, unsigned vector, uint64_t next);

enum soft_task_kind { SOFT_TASK_JMP, SOFT_TASK_CALL, SOFT_TASK_IRET };
/* Switches to the task whose TSS descriptor is *d. `next` is the old task's return address. An event's error code is
 * pushed on the new task's stack. Raises in the old or the new task. */
void soft_task_switch(struct soft_cpu *cpu, struct soft_desc *d, enum soft_task_kind kind, uint64_t next,
		      const struct soft_event *ev);

/* Stops the VM: run->exit, run->reason from fmt, and unwinds. */
_Noreturn void soft_stop(struct soft_cpu *cpu, enum engine_exit exit, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* #DB with what DR6 is to show. */
enum { DR6_BS = 1 << 14 };
_Noreturn void soft_raise_db(struct soft_cpu *cpu, uint64_t dr6);

/* Does the machine's CPUID offer INVPCID? */
bool soft_cpuid_has_invpcid(struct soft_cpu *cpu);

/* ---- the helpers ---- */

/* control.c */
soft_helper_fn soft_help_jmpf, soft_help_callf, soft_help_retf, soft_help_iret;
/* deliver.c, fault.c */
soft_helper_fn soft_help_int, soft_help_int3, soft_help_int1, soft_help_into;
/* syscall.c */
soft_helper_fn soft_help_syscall, soft_help_sysret, soft_help_sysenter, soft_help_sysexit;
/* flags.c */
soft_helper_fn soft_help_pushf, soft_help_popf, soft_help_cli, soft_help_sti;
/* segment.c */
soft_helper_fn soft_help_mov_to_seg, soft_help_pop_seg, soft_help_push_seg, soft_help_load_far;
/* desc.c */
soft_helper_fn soft_help_lgdt, soft_help_lidt, soft_help_sgdt, soft_help_sidt, soft_help_lldt, soft_help_ltr,
    soft_help_sldt, soft_help_str, soft_help_lar, soft_help_lsl, soft_help_verr, soft_help_verw, soft_help_arpl;
/* near.c */
soft_helper_fn soft_help_near, soft_help_push, soft_help_pop, soft_help_pusha, soft_help_popa, soft_help_enter,
    soft_help_leave;
/* system.c */
soft_helper_fn soft_help_mov_to_cr, soft_help_mov_from_cr, soft_help_mov_to_dr, soft_help_mov_from_dr, soft_help_lmsw,
    soft_help_smsw, soft_help_clts, soft_help_invlpg, soft_help_invpcid, soft_help_nop_ends, soft_help_hlt,
    soft_help_vmcall, soft_help_swapgs, soft_help_wrfsgsbase, soft_help_rdfsgsbase, soft_help_ud;
/* msr.c */
soft_helper_fn soft_help_rdmsr, soft_help_wrmsr, soft_help_rdtsc, soft_help_rdtscp, soft_help_rdpid, soft_help_rdpmc;
/* cpuid.c */
soft_helper_fn soft_help_cpuid, soft_help_xsetbv, soft_help_xgetbv;
/* io.c */
soft_helper_fn soft_help_in, soft_help_out;
/* fpu.c */
soft_helper_fn soft_help_fpu_pointers;
/* vector.c */
soft_helper_fn soft_help_gather, soft_help_masked_load, soft_help_masked_store;
/* The offset in its segment of an instruction's memory operand, where cpu->rip is the instruction's. */
uint64_t soft_vector_offset(const struct soft_cpu *cpu, const struct insn *insn);

/* ---- evex.c ---- */

soft_helper_fn soft_help_evex_gather, soft_help_evex_scatter, soft_help_evex_masked;
/* bcd.c */
soft_helper_fn soft_help_daa, soft_help_das, soft_help_aaa, soft_help_aas, soft_help_aam, soft_help_aad, soft_help_salc,
    soft_help_bound;

#endif
