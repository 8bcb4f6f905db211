/* SPDX-License-Identifier: Apache-2.0 */
/* What ends an instruction of ring 3: which signal, of which code, trap, error and address, and at which instruction. The
 * program is not relocated, so instructions have the same addresses everywhere. */
#include "suite.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { PAGE = 4096, AC = 1 << 18, TF = 1 << 8 };

static sigjmp_buf back;
static char *page;

static void handler(int signal, siginfo_t *info, void *context)
{
	__asm__ volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "cc", "memory"); /* AC stays set in handlers */
	const ucontext_t *uc = context;
	const long long *regs = uc->uc_mcontext.gregs;
	uint64_t at = (uint64_t)info->si_addr, rip = (uint64_t)regs[REG_RIP];
	printf("signal %d code %d trap %lld error %lld", signal, info->si_code, regs[REG_TRAPNO], regs[REG_ERR]);
	if (at >= (uint64_t)page && at < (uint64_t)page + 8 * PAGE)
		printf(" at page+%#lx", at - (uint64_t)page);
	else
		printf(" at %#lx", at);
	if (rip >= (uint64_t)page && rip < (uint64_t)page + 8 * PAGE)
		printf(" rip page+%#lx\n", rip - (uint64_t)page);
	else
		printf(" rip %#lx\n", rip);
	siglongjmp(back, 1);
}

static void catch_all(void)
{
	static const int all[] = { SIGFPE, SIGSEGV, SIGILL, SIGBUS, SIGTRAP };
	static char stack[65536];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	if (sigaltstack(&alternate, NULL))
		die("sigaltstack");
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (sigaction(all[i], &action, NULL))
			die("sigaction");
}

/* Some work before, so that what faults was not entered a moment ago; twice, for what is only so the first time. */
#define TRY(what, ...)                                        \
	do {                                                  \
		for (volatile int i = 0; i < 2; i++) {        \
			printf("%s: ", what);                 \
			if (sigsetjmp(back, 1) == 0) {        \
				work();                       \
				__VA_ARGS__;                  \
				printf("no signal\n");        \
			}                                     \
		}                                             \
	} while (0)

static void work(void)
{
	for (volatile unsigned i = 0; i < 3000; i++)
		;
}

static void poke(uint64_t at)
{
	*(volatile uint64_t *)at = 1;
}

static void peek(uint64_t at)
{
	*(volatile uint64_t *)at;
}

static void go(uint64_t at)
{
	__asm__ volatile("call *%0" ::"r"(at) : "memory", "cc", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
}

static void go_by_return(uint64_t at)
{
	__asm__ volatile("pushq %0; ret" ::"r"(at) : "memory");
}

static const uint64_t places[] = { 0,	       8,		   0xfff,	       0x8000,		   0x7fffffffeff8,     0x7fffffffeffc,
				   0x7ffffffff000, 0x800000000000, 0xdead000000000000, 0xffff800000000000, 0xffffffff81000000, 0xfffffffffffffff8,
				   0x6a0000010000 };

SECTION(addresses)
{
	catch_all();
	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		printf("%#lx\n", places[i]);
		TRY("read", peek(places[i]));
		TRY("write", poke(places[i]));
		TRY("call", go(places[i]));
		TRY("return", go_by_return(places[i]));
	}
	TRY("vsyscall, read", peek(0xffffffffff600000));
}

SECTION(rights)
{
	static const int rights[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE | PROT_EXEC };
	enum { N = sizeof(rights) / sizeof(*rights), RET = 0xc3 };
	page = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	catch_all();
	memset(page, RET, 2 * PAGE);
	for (int from = 0; from < N; from++) {
		for (int to = 0; to < N; to++) {
			mprotect(page, 2 * PAGE, rights[from]);
			if (rights[from] & PROT_READ)
				peek((uint64_t)page);
			if (rights[from] & PROT_WRITE)
				*(volatile char *)page = (char)RET;
			if (rights[from] & PROT_EXEC)
				go((uint64_t)page);
			mprotect(page, 2 * PAGE, rights[to]);
			printf("%d to %d\n", rights[from], rights[to]);
			TRY("read", peek((uint64_t)page));
			TRY("across", peek((uint64_t)page + PAGE - 4));
			TRY("write", *(volatile char *)(page + 9) = (char)RET);
			TRY("execute", go((uint64_t)page));
			TRY("execute", go((uint64_t)page + PAGE));
		}
	}
	munmap(page, PAGE);
	TRY("unmapped", peek((uint64_t)page));
	TRY("unmapped", poke((uint64_t)page));
	TRY("unmapped", go((uint64_t)page));
	munmap(page + PAGE, 7 * PAGE);
}

#define ASM(text, ...) __asm__ volatile(text ::__VA_ARGS__ : "rax", "rcx", "rdx", "r11", "memory", "cc")

SECTION(instructions)
{
	catch_all();
	TRY("int3", ASM("int3"));
	TRY("int $3", ASM(".byte 0xcd, 0x03"));
	TRY("rep int3", ASM(".byte 0xf3, 0xcc"));
	TRY("int1", ASM(".byte 0xf1"));
	TRY("into's vector", ASM("int $4"));
	TRY("int $0x33", ASM("int $0x33"));
	TRY("int $0xcc", ASM("int $0xcc"));
	TRY("ud2", ASM("ud2"));
	TRY("ud1", ASM(".byte 0x0f, 0xb9, 0xc0"));
	TRY("bad opcode", ASM(".byte 0x06"));
	TRY("lock mov", ASM(".byte 0xf0, 0x89, 0xc0"));
	TRY("hlt", ASM("hlt"));
	TRY("cli", ASM("cli"));
	TRY("in", ASM("inb $0x80, %%al"));
	TRY("cr0", ASM("movq %%cr0, %%rax"));
	TRY("rdmsr", ASM("rdmsr"));
	TRY("lgdt", ASM("lgdt (%%rsp)"));
	TRY("swapgs", ASM("swapgs"));
	TRY("iret", ASM("pushq $0; pushq $0; pushq $0; pushq $0; pushq $0; iretq"));
	TRY("divide", ASM("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; divl %%ecx"));
	TRY("overflow", ASM("movl $0x80000000, %%eax; cltd; movl $-1, %%ecx; idivl %%ecx"));
	TRY("x87", ASM("fninit; fldcw %0; fldz; fld1; fdivp; fwait", "m"((const uint16_t){ 0x37b })));
	ASM("fninit");
	TRY("sse", ASM("ldmxcsr %0; xorps %%xmm0, %%xmm0; divss %%xmm0, %%xmm0", "m"((const uint32_t){ 0x1f00 })));
	ASM("ldmxcsr %0", "m"((const uint32_t){ 0x1f80 }));
	TRY("movaps", ASM("movaps 1(%%rsp), %%xmm0"));
	TRY("stack", ASM("movq %%rsp, %%rax; movabsq $0x800000000008, %%rsp; pushq %%rax"));
	TRY("rbp", ASM("movq %%rbp, %%rcx; movabsq $0x8000000000000000, %%rbp; movq (%%rbp), %%rax; movq %%rcx, %%rbp"));
	/* Alignment checks. */
	TRY("ac", ASM("pushfq; orq $0x40000, (%%rsp); popfq; movl -3(%%rsp), %%eax; pushfq; andq $~0x40000, (%%rsp); popfq"));
	TRY("ac, aligned", ASM("pushfq; orq $0x40000, (%%rsp); popfq; movl (%%rsp), %%eax; pushfq; andq $~0x40000, (%%rsp); popfq"));
	/* One step, then on without the flag: the handler leaves by a jump. */
	TRY("tf", ASM("pushfq; orq $0x100, (%%rsp); popfq; nop; nop; nop"));
	TRY("tf, syscall", ASM("movl $39, %%eax; pushfq; orq $0x100, (%%rsp); popfq; syscall; nop; nop"));
	TRY("tf, int3", ASM("pushfq; orq $0x100, (%%rsp); popfq; int3; nop"));
}

SECTION(segments)
{
	static const uint16_t selectors[] = { 0, 3, 0x2b, 0x23, 0x33, 0x10, 0x18, 0x63, 0x7b, 0x83, 0x7, 0xfff8 };
	catch_all();
	for (size_t i = 0; i < sizeof(selectors) / sizeof(*selectors); i++) {
		unsigned selector = selectors[i], was = 0xaaaa;
		printf("%#x\n", selector);
		TRY("ds", __asm__ volatile("movl %1, %%ds; movl %%ds, %0" : "=r"(was) : "r"(selector)); printf("%#x ", was));
		TRY("es", __asm__ volatile("movl %1, %%es; movl %%es, %0" : "=r"(was) : "r"(selector)); printf("%#x ", was));
		TRY("gs", __asm__ volatile("movl %1, %%gs; movl %%gs, %0" : "=r"(was) : "r"(selector)); printf("%#x ", was));
		TRY("ss", __asm__ volatile("movl %%ss, %%ecx; movl %1, %%ss; movl %%ss, %0; movl %%ecx, %%ss"
					   : "=r"(was)
					   : "r"(selector)
					   : "ecx");
		    printf("%#x ", was));
		TRY("fs", uint64_t base; __asm__ volatile("rdfsbase %1; movl %2, %%fs; movl %%fs, %0; xorl %%ecx, %%ecx; movl %%ecx, %%fs; wrfsbase %1"
							  : "=&r"(was), "=&r"(base)
							  : "r"(selector)
							  : "ecx");
		    printf("%#x ", was));
	}
	__asm__ volatile("movl %0, %%ds; movl %0, %%es; movl %0, %%gs" ::"r"(0));
}

static bool stack_grows(unsigned depth)
{
	volatile char room[20000];
	room[0] = (char)depth;
	return depth == 0 || (stack_grows(depth - 1) && room[0] == (char)depth);
}

SECTION(stack)
{
	printf("grows: %d\n", stack_grows(300));
}
