/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - the dispatcher: what thunk.c, run.c and soft.c share. */
#ifndef PLURES_ENGINE_SOFT_RUN_H
#define PLURES_ENGINE_SOFT_RUN_H

#include "engine/soft/cpu.h"

/* Fills in the addresses that generated code calls, and makes a return stack of the SOFT_RETURN_GUARD bytes at
 * `returns`, which can't be accessed, and the SOFT_RETURNS * 16 after them. */
void soft_thunks_init(struct soft_cpu *cpu, uint8_t *returns);

/* Runs from cpu->rip until cpu->leave, with GS base and the guest's vector state in place (thunk.c). */
void soft_enter(struct soft_cpu *cpu);

/* Called by soft_enter's dispatcher between blocks, light, with the guest's registers in *cpu and the flags in
 * memory: returns the executable address to go on at (flags in memory), or NULL to leave. */
const void *soft_next(struct soft_cpu *cpu);

/* What the thunks call. */
void soft_call_helper(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea);
/* A miss of generated code's check, which has only linear ^ tag left. Another vCPU may have taken the write tag away
 * since (soft_tlb_protect), so the address is not simply the xor with what is there now. */
uint8_t *soft_mem_miss(struct soft_cpu *cpu, uint64_t mixed, uint32_t how);
/* The same for a group; NULL with cpu->single set. */
uint8_t *soft_group_miss(struct soft_cpu *cpu, uint64_t mixed, uint32_t how);
uint64_t soft_linear_of(struct soft_cpu *cpu, uint64_t offset, uint32_t how);

/* Generated code leaves by these: soft_exit_regs with cpu->rip set, the registers in the host's and flags in memory. */
void soft_exit_regs(void);
void soft_dispatch(void);

/* What AVX-512 is in CPUID's leaf 7: F, DQ, IFMA, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; VP2INTERSECT; BF16. */
#define SOFT_AVX512_7_EBX (1u << 16 | 1u << 17 | 1u << 21 | 1u << 28 | 1u << 30 | 1u << 31)
#define SOFT_AVX512_7_ECX (1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14)
#define SOFT_AVX512_7_EDX (1u << 8)
#define SOFT_AVX512_7_1_EAX (1u << 5)
/* Takes it out of a leaf (cpuid.c). */
void soft_cpuid_hide_avx512(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *r);
/* Puts the guest's addresses into the x87 part of an image in FXSAVE64's or XSAVE64's format (fpu.c). */
void soft_fpu_pointers(const struct soft_cpu *cpu, uint8_t *image);

/* Installs the process-wide handlers for the faults that copied instructions raise; once, idempotent. */
int soft_signals_init(struct error *err);

/* The whole of engine_ops.vcpu_run. */
void soft_run(struct soft_cpu *cpu, struct engine_run *run);

#endif
