/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff_native_testlib.c - runs a case on the host CPU, in this process.
 *
 * A few instructions load the whole state from a page at a fixed address, so that they need no register to reach it, and
 * jump to the case. It always ends in a signal; the handler copies the state from the signal frame and returns into
 * diff_native_exit with a clean one. FS and GS bases are the case's own, so libc's thread pointer is restored before
 * anything else happens.
 */
#include "engine/soft/diff_testlib.h"

#include <asm/ldt.h>
#include <cpuid.h>
#include <immintrin.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/sanitized.h"
#include "engine/engine.h"

/* At CONTEXT; the assembler knows the offsets. */
#define CONTEXT 0x30000000
struct context {
	struct diff_state in;
	_Alignas(4096) uint64_t host_rsp;
	uint64_t host_fs;
	struct {
		uint32_t offset;
		uint16_t selector, data;
	} far_target;
	volatile bool active;
	struct diff_state out;
};
#define CTX ((struct context *)CONTEXT)
_Static_assert(offsetof(struct diff_state, rip) == 0x80, "known to the assembler");
_Static_assert(offsetof(struct diff_state, xsave) == 0x100, "known to the assembler");
_Static_assert(offsetof(struct context, host_rsp) == 0x1000, "known to the assembler");
_Static_assert(offsetof(struct context, far_target) == 0x1010, "known to the assembler");

enum { ALT_STACK = 65536, USER_CS32 = 0x23, USER_DS = 0x2b };

struct diff_native {
	bool has16;
	uint8_t *scratch, *ro, *code, *context_page, *stack;
};

void diff_native_enter64(void);
void diff_native_enter32(void);
void diff_native_enter16(void);
extern const char diff_native_exit[];

#define LOAD_SEGMENTS "	mov 0x30001016, %ds; mov 0x30001016, %es; mov 0x30001016, %ss\n"
#define LOAD_ALL(segments)                                                                          \
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"                       \
	"	mov %rsp, 0x30001000\n"                                                                   \
	"	xor %edx, %edx; mov $0xe7, %eax; xrstor64 0x30000100\n"                                   \
	"	mov 0x30000090, %rax; wrfsbase %rax\n"                                                    \
	"	mov 0x30000098, %rax; wrgsbase %rax\n"                                                    \
	"	pushq 0x30000088; popfq\n" segments                                                 \
	"	mov 0x30000000, %rax; mov 0x30000008, %rcx; mov 0x30000010, %rdx; mov 0x30000018, %rbx\n" \
	"	mov 0x30000028, %rbp; mov 0x30000030, %rsi; mov 0x30000038, %rdi\n"                       \
	"	mov 0x30000040, %r8;  mov 0x30000048, %r9;  mov 0x30000050, %r10; mov 0x30000058, %r11\n" \
	"	mov 0x30000060, %r12; mov 0x30000068, %r13; mov 0x30000070, %r14; mov 0x30000078, %r15\n" \
	"	mov 0x30000020, %rsp\n"

__asm__(".text\n"
	".globl diff_native_enter64\n"
	"diff_native_enter64:\n" LOAD_ALL(
	    "") "	jmp *0x30000080\n"
		".globl diff_native_enter32\n"
		"diff_native_enter32:\n" LOAD_ALL(
		    "") "	ljmp *0x30001010\n"
			".globl diff_native_enter16\n"
			"diff_native_enter16:\n" LOAD_ALL(
			    LOAD_SEGMENTS) "	ljmp *0x30001010\n"
					   ".globl diff_native_exit\n"
					   "diff_native_exit:\n"
					   "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
					   "	ret\n");

static struct sigaction old_action[NSIG]; /* the engine's handlers, which must go on working */

static void copy_fpu(struct diff_state *out, struct _libc_fpstate *fp)
{
	enum { SIZE_AT = 464 + 16 }; /* struct _fpx_sw_bytes' xstate_size */
	uint32_t size;
	memcpy(&size, (const uint8_t *)fp + SIZE_AT, sizeof(size));
	memcpy(out->xsave, fp, size < DIFF_XSAVE_SIZE ? size : DIFF_XSAVE_SIZE);
	/* The frame that returns is clean: initial x87 and vector state, all exceptions masked. */
	uint8_t *raw = (uint8_t *)fp;
	memset(raw + 512, 0, 8);
	uint32_t mxcsr = 0x1f80;
	memcpy(raw + 24, &mxcsr, sizeof(mxcsr));
}

/* As a 32-bit program has them; 64-bit code does not care. */
static inline void load_data_segments(void)
{
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(USER_DS));
}

/* Loading FS takes its base away. */
__attribute__((always_inline)) static inline void take_segments(struct diff_state *out)
{
	__asm__ volatile("mov %%es, %0; mov %%ds, %1; mov %%fs, %2; mov %%gs, %3"
			 : "=r"(out->selector[ENGINE_ES]), "=r"(out->selector[ENGINE_DS]),
			   "=r"(out->selector[ENGINE_FS]), "=r"(out->selector[ENGINE_GS]));
	load_data_segments();
	__asm__ volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
}

__attribute__((no_sanitize("address", "undefined"))) static void on_signal(int sig, siginfo_t *info, void *arg)
{
	if (!CTX->active) {
		old_action[sig].sa_sigaction(sig, info, arg);
		return;
	}
	struct diff_state *out = &CTX->out;
	__asm__ volatile("rdfsbase %0" : "=r"(out->fs_base));
	__asm__ volatile("wrfsbase %0" : : "r"(CTX->host_fs));
	__asm__ volatile("rdgsbase %0" : "=r"(out->gs_base));
	take_segments(out);
	__asm__ volatile("wrfsbase %0" : : "r"(CTX->host_fs));
	CTX->active = false;
	ucontext_t *uc = arg;
	greg_t *g = uc->uc_mcontext.gregs;
	static const uint8_t order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	for (unsigned i = 0; i < 16; i++)
		out->gpr[i] = g[order[i]];
	out->selector[ENGINE_CS] = g[REG_CSGSFS];
	out->selector[ENGINE_SS] = g[REG_CSGSFS] >> 48;
	out->rip = g[REG_RIP];
	out->rflags = g[REG_EFL];
	out->vector = g[REG_TRAPNO];
	out->error = g[REG_ERR];
	out->cr2 = out->vector == 14 ? g[REG_CR2] : 0;
	copy_fpu(out, uc->uc_mcontext.fpregs);
	g[REG_RIP] = (greg_t)diff_native_exit;
	g[REG_RSP] = CTX->host_rsp;
	g[REG_EFL] = 0x202;
	g[REG_CSGSFS] = 0x33 | (greg_t)USER_DS << 48; /* CS, and SS at the top */
}

struct diff_parts diff_parts(void)
{
	struct diff_parts part = { 0 };
	unsigned size, offset, c, d;
	if (SANITIZED || !__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw"))
		return part;
	__cpuid_count(0xd, 5, size, offset, c, d);
	part.mask = (uint16_t)offset;
	__cpuid_count(0xd, 6, size, offset, c, d);
	part.upper = (uint16_t)offset;
	__cpuid_count(0xd, 7, size, offset, c, d);
	part.high = (uint16_t)offset;
	part.size = (uint16_t)(offset + size);
	return part;
}

static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };

static void *map_at(uintptr_t address, size_t size, int prot)
{
	return mmap((void *)address, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1,
		    0);
}

static bool make_segment16(unsigned index, unsigned base, bool code)
{
	struct user_desc d = {
		.entry_number = index,
		.base_addr = base,
		.limit = 0xffff,
		.contents = code ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA,
		.useable = 1,
	};
	return syscall(SYS_modify_ldt, 1, &d, sizeof(d)) == 0;
}

static bool make_segments16(void)
{
	for (unsigned i = 0; i < DIFF_CODE_SIZE >> 16; i++)
		if (!make_segment16((DIFF_CODE16_SELECTOR >> 3) + i, DIFF_CODE + (i << 16), true))
			return false;
	return make_segment16(DIFF_DATA16_SELECTOR >> 3, DIFF_SEG16, false);
}

bool diff_native_has16(const struct diff_native *n)
{
	return n->has16;
}

struct diff_native *diff_native_create(const char **why)
{
	if (!(getauxval(AT_HWCAP2) & 2)) {
		*why = "the host kernel has no FSGSBASE";
		return NULL;
	}
	struct diff_native *n = calloc(1, sizeof(*n));
	n->scratch = map_at(DIFF_RW, DIFF_RW_SIZE, PROT_READ | PROT_WRITE);
	n->ro = map_at(DIFF_RO, DIFF_RO_SIZE, PROT_READ | PROT_WRITE);
	n->code = map_at(DIFF_CODE, DIFF_CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
	n->context_page = map_at(CONTEXT, (sizeof(struct context) + 4095) & ~4095ul, PROT_READ | PROT_WRITE);
	n->stack = malloc(ALT_STACK);
	if (n->scratch == MAP_FAILED || n->ro == MAP_FAILED || n->code == MAP_FAILED || n->context_page == MAP_FAILED) {
		*why = "an address that it needs is taken";
		free(n->stack);
		free(n);
		return NULL;
	}
	mprotect(n->ro, DIFF_RO_SIZE, PROT_READ);
	__asm__ volatile("rdfsbase %0" : "=r"(CTX->host_fs));
	load_data_segments();
	n->has16 = make_segments16();
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
		sigaction(signals[i], &sa, &old_action[signals[i]]);
	}
	return n;
}

void diff_native_destroy(struct diff_native *n)
{
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &old_action[signals[i]], NULL);
	munmap(n->scratch, DIFF_RW_SIZE);
	munmap(n->ro, DIFF_RO_SIZE);
	munmap(n->code, DIFF_CODE_SIZE);
	munmap(n->context_page, (sizeof(struct context) + 4095) & ~4095ul);
	free(n->stack);
	free(n);
}

uint8_t *diff_native_code(struct diff_native *n)
{
	return n->code;
}

void diff_native_run(struct diff_native *n, enum insn_mode mode, const struct diff_state *in,
		     struct diff_memory *memory, struct diff_state *out)
{
	stack_t stack = { .ss_sp = n->stack, .ss_size = ALT_STACK }, old;
	sigaltstack(&stack, &old);
	memcpy(n->scratch, memory->rw, DIFF_RW_SIZE);
	if (memcmp(n->ro, memory->ro, DIFF_RO_SIZE) != 0) {
		mprotect(n->ro, DIFF_RO_SIZE, PROT_READ | PROT_WRITE);
		memcpy(n->ro, memory->ro, DIFF_RO_SIZE);
		mprotect(n->ro, DIFF_RO_SIZE, PROT_READ);
	}
	CTX->in = *in;
	CTX->far_target.offset = in->rip;
	CTX->far_target.selector = USER_CS32;
	CTX->far_target.data = DIFF_DATA16_SELECTOR;
	if (mode == INSN_MODE_16)
		CTX->far_target.selector = DIFF_CODE16_SELECTOR + ((in->code_base - DIFF_CODE) >> 16 << 3);
	CTX->active = true;
	switch (mode) {
	case INSN_MODE_64:
		diff_native_enter64();
		break;
	case INSN_MODE_32:
		diff_native_enter32();
		break;
	case INSN_MODE_16:
		diff_native_enter16();
		load_data_segments();
		break;
	}
	*out = CTX->out;
	memcpy(memory->rw, n->scratch, DIFF_RW_SIZE);
	if (old.ss_flags == SS_DISABLE || old.ss_sp)
		sigaltstack(&old, NULL);
}
