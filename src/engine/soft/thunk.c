/* SPDX-License-Identifier: Apache-2.0 */
/*
 * thunk.c - the border between generated code and C, in assembly.
 *
 * soft_enter builds the one stack frame that C runs on and falls into the dispatcher: soft_next (run.c) says where to
 * go, and every way out of generated code comes back to `dispatch` with that frame restored. So nothing that a helper
 * leaves on the stack matters, and soft_unwind is a jump.
 *
 * Generated code runs on the return stack (cpu.h). A thunk is called on it, and goes to C on the dispatcher's frame with
 * its own stack pointer in rbx.
 */
#include <stddef.h>

#include "engine/soft/cpu.h"
#include "engine/soft/run.h"

#define GPR(n) (offsetof(struct soft_cpu, gpr) + 8 * (n))

#define OPERANDS                                                                                                    \
	[g0] "i"(GPR(0)), [g1] "i"(GPR(1)), [g2] "i"(GPR(2)), [g3] "i"(GPR(3)), [g4] "i"(GPR(4)), [g5] "i"(GPR(5)), \
	    [g6] "i"(GPR(6)), [g7] "i"(GPR(7)), [g8] "i"(GPR(8)), [g9] "i"(GPR(9)), [g12] "i"(GPR(12)),             \
	    [g13] "i"(GPR(13)), [g14] "i"(GPR(14)), [rip] "i"(offsetof(struct soft_cpu, rip)),                      \
	    [flags] "i"(offsetof(struct soft_cpu, flags)), [self] "i"(offsetof(struct soft_cpu, self)),             \
	    [hrsp] "i"(offsetof(struct soft_cpu, host_rsp)), [rrsp] "i"(offsetof(struct soft_cpu, return_rsp)),     \
	    [rbottom] "i"(offsetof(struct soft_cpu, return_bottom)), [link] "i"(offsetof(struct soft_cpu, exit_link))

/* Guest registers to memory; all but r10, r11, which are scratch. */
#define SAVE_CALLEE                                                                  \
	"mov %%rbx, %%gs:%c[g3]\n mov %%r15, %%gs:%c[g4]\n mov %%rbp, %%gs:%c[g5]\n" \
	"mov %%r12, %%gs:%c[g12]\n mov %%r13, %%gs:%c[g13]\n mov %%r14, %%gs:%c[g14]\n"
#define SAVE_CALLER                                                                                           \
	"mov %%rax, %%gs:%c[g0]\n mov %%rcx, %%gs:%c[g1]\n mov %%rdx, %%gs:%c[g2]\n mov %%rsi, %%gs:%c[g6]\n" \
	"mov %%rdi, %%gs:%c[g7]\n mov %%r8, %%gs:%c[g8]\n mov %%r9, %%gs:%c[g9]\n"
#define LOAD_CALLEE                                                                  \
	"mov %%gs:%c[g3], %%rbx\n mov %%gs:%c[g4], %%r15\n mov %%gs:%c[g5], %%rbp\n" \
	"mov %%gs:%c[g12], %%r12\n mov %%gs:%c[g13], %%r13\n mov %%gs:%c[g14], %%r14\n"
#define LOAD_CALLER                                                                                           \
	"mov %%gs:%c[g0], %%rax\n mov %%gs:%c[g1], %%rcx\n mov %%gs:%c[g2], %%rdx\n mov %%gs:%c[g6], %%rsi\n" \
	"mov %%gs:%c[g7], %%rdi\n mov %%gs:%c[g8], %%r8\n mov %%gs:%c[g9], %%r9\n"
/* From the return stack, on which a thunk was called, to C's and back. */
#define TO_C                                                                  \
	"mov %%rsp, %%rbx\n lea 8(%%rsp), %%rax\n mov %%rax, %%gs:%c[rrsp]\n" \
	"mov %%gs:%c[hrsp], %%rsp\n mov %%gs:%c[self], %%rdi\n"
#define FROM_C "mov %%rbx, %%rsp\n mov %%gs:%c[g3], %%rbx\n"
/* To C with what a check that failed hands over (slots.h), and back with a host address. */
#define SITE_TO_C SAVE_CALLEE SAVE_CALLER TO_C "mov %%r10, %%rsi\n mov %%r11, %%rdx\n mov (%%rbx), %%rcx\n"
#define HOST_FROM_C FROM_C "mov %%rax, %%r10\n" LOAD_CALLER "ret\n"
#define HOST_OR_DISPATCH "test %%rax, %%rax\n jz soft_dispatch\n" HOST_FROM_C
/* Arithmetic flags to memory, by way of r10. */
#define SAVE_FLAGS "mov %%rax, %%r10\n lahf\n seto %%al\n mov %%ax, %%gs:%c[flags]\n mov %%r10, %%rax\n"

__attribute__((naked)) void soft_enter(struct soft_cpu *cpu __attribute__((unused)))
{
	__asm__ volatile("push %%rbx\n push %%rbp\n push %%r12\n push %%r13\n push %%r14\n push %%r15\n sub $8, %%rsp\n"
			 "mov %%rsp, %%gs:%c[hrsp]\n"
			 ".globl soft_dispatch\n"
			 "soft_dispatch:\n"
			 "mov %%gs:%c[hrsp], %%rsp\n"
			 "cld\n"
			 "mov %%gs:%c[self], %%rdi\n"
			 "call soft_next\n"
			 "test %%rax, %%rax\n"
			 "jz 1f\n"
			 "mov %%rax, %%r11\n" LOAD_CALLEE LOAD_CALLER "mov %%gs:%c[rrsp], %%rsp\n jmp *%%r11\n"
			 "1: add $8, %%rsp\n pop %%r15\n pop %%r14\n pop %%r13\n pop %%r12\n pop %%rbp\n pop %%rbx\n"
			 "ret\n" ::OPERANDS);
}

__attribute__((naked)) void soft_exit_regs(void)
{
	__asm__ volatile(SAVE_CALLEE SAVE_CALLER "mov %%rsp, %%gs:%c[rrsp]\n jmp soft_dispatch\n" ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_mem(void)
{
	__asm__ volatile(SAVE_CALLEE SAVE_CALLER TO_C
			 "mov %%r10, %%rsi\n mov %%r11d, %%edx\n call soft_mem_miss\n" HOST_FROM_C ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_group(void)
{
	__asm__ volatile(SITE_TO_C "call soft_group_miss\n" HOST_OR_DISPATCH ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_slot(void)
{
	__asm__ volatile(SITE_TO_C "call soft_slot_miss\n" HOST_FROM_C ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_slot_group(void)
{
	__asm__ volatile(SITE_TO_C "call soft_slot_group_miss\n" HOST_OR_DISPATCH ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_slot_masked(void)
{
	__asm__ volatile(SITE_TO_C "call soft_slot_masked_miss\n" HOST_FROM_C ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_hot(void)
{
	__asm__ volatile(SAVE_CALLEE SAVE_CALLER TO_C
			 "mov (%%rbx), %%rsi\n call soft_hot\n jmp soft_dispatch\n" ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_linear(void)
{
	__asm__ volatile(SAVE_CALLEE SAVE_CALLER TO_C
			 "mov %%r10, %%rsi\n mov %%r11d, %%edx\n call soft_linear_of\n" HOST_FROM_C ::OPERANDS);
}

/* The flags are the instruction's result and must survive: both in memory and in the host's. */
static __attribute__((naked, used)) void thunk_commit(void)
{
	__asm__ volatile(SAVE_FLAGS SAVE_CALLEE SAVE_CALLER TO_C
			 "call soft_mem_commit\n test %%al, %%al\n jnz soft_dispatch\n" FROM_C
			 "movzwl %%gs:%c[flags], %%eax\n add $0x7f, %%al\n sahf\n" LOAD_CALLER "ret\n" ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_commit_mem(void)
{
	__asm__ volatile(SAVE_CALLEE SAVE_CALLER TO_C
			 "call soft_mem_commit\n test %%al, %%al\n jnz soft_dispatch\n" FROM_C LOAD_CALLER
			 "ret\n" ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_helper(void)
{
	__asm__ volatile(
	    SAVE_CALLEE SAVE_CALLER TO_C
	    "mov %%r11, %%rsi\n mov %%r10, %%rdx\n call soft_call_helper\n mov %%rbx, %%rsp\n" LOAD_CALLEE LOAD_CALLER
	    "ret\n" ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_helper_end(void)
{
	__asm__ volatile(
	    SAVE_CALLEE SAVE_CALLER TO_C
	    "mov %%r11, %%rsi\n mov %%r10, %%rdx\n call soft_call_helper\n jmp soft_dispatch\n" ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_link(void)
{
	__asm__ volatile(SAVE_FLAGS "pop %%r10\n mov (%%r10), %%r10\n mov %%r10, %%gs:%c[link]\n"
				    "mov (%%r10), %%r10\n mov %%r10, %%gs:%c[rip]\n jmp soft_exit_regs\n" ::OPERANDS);
}

static __attribute__((naked, used)) void thunk_link_mem(void)
{
	__asm__ volatile("pop %%r10\n mov (%%r10), %%r10\n mov %%r10, %%gs:%c[link]\n"
			 "mov (%%r10), %%r10\n mov %%r10, %%gs:%c[rip]\n jmp soft_exit_regs\n" ::OPERANDS);
}

/* A guest's return to the one address that the return stack's bottom holds (r10): it is not canonical. */
static __attribute__((naked, used)) void return_bottom(void)
{
	__asm__ volatile("mov %%r10, %%gs:%c[rip]\n mov %%gs:%c[rbottom], %%rsp\n jmp soft_exit_regs\n" ::OPERANDS);
}

_Noreturn __attribute__((naked)) void soft_unwind(struct soft_cpu *cpu __attribute__((unused)))
{
	__asm__ volatile("jmp soft_dispatch\n");
}

void soft_thunks_init(struct soft_cpu *cpu, uint8_t *returns)
{
	cpu->return_guard = returns;
	cpu->return_bottom = (uint64_t *)(void *)(returns + SOFT_RETURN_GUARD) + 2 * (SOFT_RETURNS - 1);
	cpu->return_bottom[0] = (uintptr_t)return_bottom;
	cpu->return_bottom[1] = SOFT_RETURN_NONE;
	soft_returns_drop(cpu);
	for (unsigned i = 0; i < SOFT_HEATS; i++)
		cpu->heat[i] = SOFT_HOT;
	cpu->thunk[SOFT_THUNK_MEM] = thunk_mem;
	cpu->thunk[SOFT_THUNK_GROUP] = thunk_group;
	cpu->thunk[SOFT_THUNK_HOT] = thunk_hot;
	cpu->thunk[SOFT_THUNK_SLOT] = thunk_slot;
	cpu->thunk[SOFT_THUNK_SLOT_GROUP] = thunk_slot_group;
	cpu->thunk[SOFT_THUNK_SLOT_MASKED] = thunk_slot_masked;
	cpu->thunk[SOFT_THUNK_COMMIT] = thunk_commit;
	cpu->thunk[SOFT_THUNK_COMMIT_MEM] = thunk_commit_mem;
	cpu->thunk[SOFT_THUNK_HELPER] = thunk_helper;
	cpu->thunk[SOFT_THUNK_HELPER_END] = thunk_helper_end;
	cpu->thunk[SOFT_THUNK_LINK] = thunk_link;
	cpu->thunk[SOFT_THUNK_LINK_MEM] = thunk_link_mem;
	cpu->thunk[SOFT_THUNK_LINEAR] = thunk_linear;
	cpu->exit_regs = soft_exit_regs;
}
