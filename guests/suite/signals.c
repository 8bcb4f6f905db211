/* SPDX-License-Identifier: Apache-2.0 */
/* Faults become signals: which one, with which si_code, address and trap number; on alternate stacks; over vector state. */
#include "suite.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile sig_atomic_t got, code, on_stack, trap_number, error_code;
static void *volatile fault_at;
static char *area, stack[65536];

static void handler(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	char here;
	got = signal;
	code = info->si_code;
	fault_at = info->si_addr;
	on_stack = &here >= stack && &here < stack + sizeof(stack);
	trap_number = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
	error_code = (int)uc->uc_mcontext.gregs[REG_ERR];
	siglongjmp(back, 1);
}

static void catch_all(int flags)
{
	static const int all[] = { SIGFPE, SIGSEGV, SIGILL, SIGBUS, SIGTRAP, SIGUSR1, SIGALRM };
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (sigaction(all[i], &action, NULL))
			die("sigaction");
}

/* `where`: what the address is to be measured from, or NULL when it is an instruction's. */
static void report(const char *what, void (*fn)(void), const char *where)
{
	got = 0;
	if (sigsetjmp(back, 1) == 0)
		fn();
	printf("%s: signal %d code %d trap %d error %d", what, got, code, trap_number, error_code);
	if (where)
		printf(" at %ld", (long)((char *)fault_at - where));
	printf("%s\n", on_stack ? " on the alternate stack" : "");
}

static void divide(void)
{
	__asm__ volatile("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; divl %%ecx" : : : "eax", "ecx", "edx", "cc");
}

static void overflow(void)
{
	__asm__ volatile("movl $0x80000000, %%eax; cltd; movl $-1, %%ecx; idivl %%ecx" : : : "eax", "ecx", "edx", "cc");
}

static void x87_divide(void)
{
	uint16_t control = 0x37b;
	__asm__ volatile("fninit; fldcw %0; fldz; fld1; fdivp; fwait" : : "m"(control));
}

static void sse_divide(void)
{
	uint32_t mxcsr = 0x1d80;
	__asm__ volatile("ldmxcsr %0; xorps %%xmm0, %%xmm0; movss %1, %%xmm1; divss %%xmm0, %%xmm1"
			 :
			 : "m"(mxcsr), "m"((const float){ 1 })
			 : "xmm0", "xmm1");
}

static void sse_invalid(void)
{
	uint32_t mxcsr = 0x1f00;
	__asm__ volatile("ldmxcsr %0; xorps %%xmm0, %%xmm0; divss %%xmm0, %%xmm0" : : "m"(mxcsr) : "xmm0");
}

static void read_hole(void)
{
	*(volatile char *)(area + 4096 + 17);
}

static void write_hole(void)
{
	*(volatile char *)(area + 4096 + 17) = 1;
}

static void write_read_only(void)
{
	*(volatile char *)(area + 2 * 4096 + 5) = 1;
}

static void run_data(void)
{
	((void (*)(void))(void *)area)();
}

static void store_across(void)
{
	*(volatile uint64_t *)(area + 4092) = ~0ull;
}

static void undefined(void)
{
	__asm__ volatile("ud2");
}

static void privileged(void)
{
	__asm__ volatile("hlt");
}

static void port(void)
{
	__asm__ volatile("inb $0x80, %%al" : : : "eax");
}

static void breakpoint(void)
{
	__asm__ volatile("int3");
}

static void step(void)
{
#ifdef __x86_64__
	__asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; nop" : : : "memory", "cc");
#else
	__asm__ volatile("pushfl; orl $0x100, (%%esp); popfl; nop; nop" : : : "memory", "cc");
#endif
}

static void unaligned(void)
{
	__asm__ volatile("movaps 1(%0), %%xmm0" : : "r"(stack) : "xmm0");
}

static void int_gate(void)
{
	__asm__ volatile("int $0x21");
}

#ifdef __x86_64__
static void noncanonical(void)
{
	*(volatile char *)(1ull << 62);
}
#endif

static void faults(void)
{
	area = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED || mprotect(area + 4096, 4096, PROT_NONE) || mprotect(area + 8192, 4096, PROT_READ))
		die("mmap");
	area[4095] = 0x11;
	area[0] = (char)0xc3;
	report("divide by zero", divide, NULL);
	report("divide overflow", overflow, NULL);
	report("x87 divide", x87_divide, NULL);
	__asm__ volatile("fninit");
	report("sse divide", sse_divide, NULL);
	report("sse invalid", sse_invalid, NULL);
	uint32_t mxcsr = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	report("read of a hole", read_hole, area);
	report("write to a hole", write_hole, area);
	report("write to read-only", write_read_only, area);
	report("run of data", run_data, area);
	report("store across pages", store_across, area);
	printf("which wrote %s\n", area[4095] == 0x11 ? "nothing" : "a part");
	report("ud2", undefined, NULL);
	report("hlt", privileged, NULL);
	report("in", port, NULL);
	report("int3", breakpoint, NULL);
	report("single step", step, NULL);
	report("unaligned", unaligned, NULL);
	report("int 0x21", int_gate, NULL);
#ifdef __x86_64__
	report("non-canonical", noncanonical, NULL);
#endif
}

static volatile sig_atomic_t alarms, raised;
static void count(int signal)
{
	if (signal == SIGALRM)
		alarms++;
	else
		raised++;
}

/* A handler that changes the interrupted context: skips an instruction, and leaves a value in a register. */
static void skip(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
#ifdef __x86_64__
	uc->uc_mcontext.gregs[REG_RIP] += 2;
	uc->uc_mcontext.gregs[REG_RBX] = 0x1234;
#else
	uc->uc_mcontext.gregs[REG_EIP] += 2;
	uc->uc_mcontext.gregs[REG_ESI] = 0x1234;
#endif
}

static void resumed(void)
{
	struct sigaction action = { .sa_sigaction = skip, .sa_flags = SA_SIGINFO };
	sigaction(SIGILL, &action, NULL);
	unsigned long value;
#ifdef __x86_64__
	__asm__ volatile("movl $1, %%ebx; ud2; movq %%rbx, %0" : "=r"(value) : : "rbx");
#else
	__asm__ volatile("movl $1, %%esi; ud2; movl %%esi, %0" : "=r"(value) : : "esi");
#endif
	printf("resumed after ud2 with %lx\n", value);
}

/* Timer signals interrupt a computation with vectors whose result must not change. */
static void interrupted(void)
{
	struct sigaction action = { .sa_handler = count };
	sigaction(SIGALRM, &action, NULL);
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	timer_t timer;
	struct itimerspec every = { { 0, 1000000 }, { 0, 1000000 } }, off = { { 0, 0 }, { 0, 0 } };
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &every, NULL))
		die("timer");
	typedef double vector __attribute__((vector_size(16)));
	unsigned wrong = 0;
	double first = 0;
	for (int round = 0; alarms < 30 || round < 20; round++) {
		vector a = { 1, 2 }, b = { 0.5, 0.25 }, c = { 3, 5 }, d = { 7, 11 };
		for (int i = 0; i < 2000; i++) {
			a = a * 0.999 + b;
			b = b * 1.0001 - c * 0.01;
			c = c * 0.5 + d;
			d = d * 0.99 + a * 0.001;
		}
		double sum = a[0] + b[1] + c[0] * d[1];
		if (round == 0)
			first = sum;
		wrong += sum != first;
	}
	timer_settime(timer, 0, &off, NULL);
	timer_delete(timer);
	printf("interrupted sums wrong %u\n", wrong);
}

static void masks(void)
{
	struct sigaction action = { .sa_handler = count };
	sigset_t set, old;
	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	raise(SIGUSR1);
	int held = raised;
	sigprocmask(SIG_SETMASK, &old, NULL);
	printf("blocked %d, then %d\n", held, (int)raised);
}

SECTION(signals)
{
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	catch_all(0);
	faults();
	if (sigaltstack(&alternate, NULL))
		die("sigaltstack");
	catch_all(SA_ONSTACK);
	report("write to a hole", write_hole, area);
	report("divide by zero", divide, NULL);
	resumed();
	masks();
	interrupted();
	munmap(area, 3 * 4096);
	alternate.ss_flags = SS_DISABLE;
	sigaltstack(&alternate, NULL);
	for (int i = 1; i < 32; i++)
		signal(i, SIG_DFL);
}
