/* SPDX-License-Identifier: Apache-2.0 */
/* Signals, synchronous and not: what handlers find in registers, and what programs find when handlers have changed them. */
#include "stress.h"

#include <immintrin.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

/* --- faults, whose handler steps over the instruction --- */

static struct {
	volatile int number, code, count;
	void *volatile address;
	volatile int length; /* of the instruction */
} seen;

static void on_fault(int number, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	seen.number = number;
	seen.code = info->si_code;
	seen.address = info->si_addr;
	seen.count++;
	r[REG_RIP] += seen.length;
	r[REG_RBX] = r[REG_RBX] * 3 + number;
	/* The handler has vectors of its own. */
	__m128i x = _mm_set1_epi32(number), y = _mm_mullo_epi16(x, x);
	__asm__ volatile("" : : "x"(y));
}

static void catch (int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };
	must(!sigaction(number, &action, NULL), "sigaction");
}

#define FAULTING(bytes, text, ...)                                                                             \
	do {                                                                                                   \
		seen.length = (bytes);                                                                         \
		__asm__ volatile(text : "+b"(rbx), "+x"(vector) : __VA_ARGS__ : "rax", "rdx", "memory", "cc"); \
	} while (0)

void job_faults(struct job *j)
{
	static const int numbers[] = { SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGBUS };
	static char alternate[65536];
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
	uint8_t *none = map(2 * PAGE, PROT_NONE), *readable = map(PAGE, PROT_READ);
	for (unsigned i = 0; i < 5; i++)
		catch (numbers[i], on_fault, SA_ONSTACK | SA_NODEFER);
	must(!sigaltstack(&stack, NULL), "sigaltstack");
	memset(&seen, 0, sizeof(seen));
	uint64_t rbx = rnd(j);
	__m128i vector = _mm_set_epi64x((long long)rnd(j), (long long)rnd(j)), before = vector;
	for (int i = 0; i < 200; i++) {
		unsigned offset = pick(j, PAGE);
		int count = seen.count;
		switch (pick(j, 7)) {
		case 0:
			FAULTING(2, "mov (%2), %%eax", "c"(none + offset));
			must(seen.address == none + offset && seen.code == SEGV_ACCERR, "faults: a load");
			break;
		case 1:
			FAULTING(2, "mov %%eax, (%2)", "c"(readable + offset / 2));
			must(seen.address == readable + offset / 2 && seen.code == SEGV_ACCERR, "faults: a store");
			break;
		case 2:
			FAULTING(3, "div %q2", "c"(0UL));
			must(seen.number == SIGFPE && seen.code == FPE_INTDIV, "faults: a division");
			break;
		case 3:
			FAULTING(2, "ud2", "c"(0));
			must(seen.number == SIGILL, "faults: ud2");
			break;
		case 4:
			FAULTING(0, "int3", "c"(0));
			must(seen.number == SIGTRAP, "faults: int3");
			break;
		case 5:
			/* Across the end of the readable page's neighbour: the second page is at fault. */
			FAULTING(3, "mov (%2), %%rax", "c"(none + PAGE - 1 - offset % 7));
			must(seen.number == SIGSEGV, "faults: a load across pages");
			break;
		default:
			FAULTING(3, "mov (%2), %%rax", "c"(0x8000000000000000UL + offset));
			must(seen.number == SIGSEGV && seen.code == SI_KERNEL,
			     "faults: an address that is not canonical");
			break;
		}
		must(seen.count == count + 1, "faults: not one signal");
		mix(j, rbx);
		mix(j, (uint64_t)seen.number * 1000 + (uint64_t)seen.code);
	}
	must(_mm_movemask_epi8(_mm_cmpeq_epi8(vector, before)) == 0xffff, "faults: a vector register has changed");
	munmap(none, 2 * PAGE);
	munmap(readable, PAGE);
}

/* --- single steps --- */

static volatile uint64_t steps, trail;

static void on_step(int number, siginfo_t *info, void *context)
{
	const greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	(void)number;
	(void)info;
	steps++;
	trail = trail * 31 + (uint64_t)r[REG_RAX];
}

/* Counts the instructions of a loop by the trap flag: five a round, four before the first and until the flag is off. */
void job_steps(struct job *j)
{
	catch (SIGTRAP, on_step, 0);
	for (int i = 0; i < 4; i++) {
		uint64_t rounds = pick(j, 60) + 1, rax = rnd(j);
		steps = trail = 0;
		__asm__ volatile("pushfq\n orl $0x100, (%%rsp)\n popfq\n"
				 "1: lea (%0,%0,2), %0\n xor $0x55, %0\n push %0\n pop %0\n dec %1\n jnz 1b\n"
				 "pushfq\n andl $~0x100, (%%rsp)\n popfq\n"
				 : "+a"(rax), "+c"(rounds)
				 :
				 : "memory", "cc");
		mix(j, steps);
		mix(j, trail);
		mix(j, rax);
	}
}

/* --- a timer's signals --- */

static volatile unsigned alarms;
static volatile double handlers_own;

static void on_alarm(int number)
{
	(void)number;
	alarms++;
	for (int i = 0; i < 20; i++)
		handlers_own = handlers_own * 1.0001 + 0.5;
}

void job_alarms(struct job *j)
{
	struct itimerval every = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	double values[16], total = 0;
	uint64_t table[64] = { 0 };
	alarms = 0;
	must(!sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &every, NULL), "setitimer");
	for (int i = 0; i < 16; i++)
		values[i] = pick(j, 1000);
	for (int round = 0; round < 3000 || alarms < 5; round++) {
		if (round >= 3000)
			continue; /* what a fast machine waits for is no result */
		for (int i = 0; i < 16; i++) {
			values[i] = values[i] * 0.99 + values[(i + 1) % 16] * 0.01;
			table[(round + i) % 64] = table[(round * 7 + i) % 64] * 5 + (uint64_t)values[i];
		}
	}
	must(!setitimer(ITIMER_REAL, &never, NULL), "setitimer");
	for (int i = 0; i < 16; i++)
		total += values[i];
	mix_bytes(j, &total, sizeof(total));
	mix_bytes(j, table, sizeof(table));
}
