/* SPDX-License-Identifier: Apache-2.0 */
/* Code that changes: by itself, by another mapping, by the kernel, by a debugger, by another thread. */
#include "suite.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, ROUNDS = 300 };

/* mov $value, %eax; ret */
static void write_function(void *at, uint32_t value)
{
	uint8_t code[6] = { 0xb8, [5] = 0xc3 };
	memcpy(code + 1, &value, 4);
	memcpy(at, code, sizeof(code));
}

static uint32_t call(const void *at)
{
	return ((uint32_t(*)(void))(uintptr_t)at)();
}

static void *map(size_t size, int rights)
{
	void *p = mmap(NULL, size, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

SECTION(rwx)
{
	uint8_t *p = map(2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	uint32_t bad = 0, count;
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint8_t *at = p + i % 2 * 100 + i % 3 * PAGE / 2;
		write_function(at, i);
		bad += call(at) != i;
	}
	/* 1: incl count(%rip); dec %ecx; jne 1b; ret. It writes where it stands; also across the end of the page. */
	for (unsigned k = 0; k < 2; k++) {
		static const uint8_t code[] = { 0xff, 0x05, 0x5a, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xc3 };
		uint8_t *at = k ? p + PAGE - 3 : p + 64;
		memset(p, 0, 2 * PAGE);
		memcpy(at, code, sizeof(code));
		__asm__ volatile("call *%0" ::"r"(at), "c"(5000) : "memory", "cc");
		memcpy(&count, at + 6 + 0x5a, 4);
		printf("%u\n", count);
	}
	/* movb $0x90, 0(%rip) over the next instruction, an INT3; then ret. */
	static const uint8_t patch[] = { 0xc6, 0x05, 0, 0, 0, 0, 0x90, 0xcc, 0xc3 };
	memcpy(p + 512, patch, sizeof(patch));
	call(p + 512);
	printf("wrong: %u\n", bad);
	munmap(p, 2 * PAGE);
}

SECTION(w_xor_x)
{
	uint8_t *p = map(3 * PAGE, PROT_READ | PROT_WRITE);
	uint32_t bad = 0;
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint8_t *at = p + i % 3 * PAGE + i % 7 * 16;
		mprotect(p, 3 * PAGE, PROT_READ | PROT_WRITE);
		write_function(at, i * 3);
		mprotect(p, 3 * PAGE, PROT_READ | PROT_EXEC);
		bad += call(at) != i * 3;
	}
	munmap(p, 3 * PAGE);
	int fd = memfd_create("code", 0);
	if (fd < 0 || ftruncate(fd, PAGE))
		die("memfd_create");
	uint8_t *w = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *x = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		write_function(w + i % 5 * 8, i);
		bad += call(x + i % 5 * 8) != i;
	}
	/* By the kernel: write(2). */
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint8_t code[8];
		write_function(code, i + 7);
		bad += pwrite(fd, code, 6, 64) != 6 || call(x + 64) != i + 7;
	}
	close(fd);
	/* Other memory at the same place. */
	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint8_t *p2 = mmap(w, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		write_function(p2, i);
		bad += call(w) != i;
	}
	printf("wrong: %u\n", bad);
	munmap(w, PAGE);
	munmap(x, PAGE);
}

SECTION(proc_self_mem)
{
	uint8_t *p = map(PAGE, PROT_READ | PROT_WRITE);
	uint32_t bad = 0;
	write_function(p, 0);
	mprotect(p, PAGE, PROT_READ | PROT_EXEC);
	int fd = open("/proc/self/mem", O_RDWR);
	if (fd < 0)
		die("/proc/self/mem");
	for (uint32_t i = 0; i < ROUNDS; i++) {
		bad += call(p) != i;
		uint32_t next = i + 1;
		bad += pwrite(fd, &next, 4, (off_t)(uintptr_t)p + 1) != 4;
	}
	close(fd);
	printf("wrong: %u\n", bad);
	munmap(p, PAGE);
}

/* Functions that one thread changes and another calls; and memory whose rights and pages go away under a thread. */
static struct {
	uint8_t *write, *run;
	_Atomic uint32_t seen;
	atomic_bool end;
} shared;

static void *caller(void *unused)
{
	while (!atomic_load(&shared.end)) {
		/* CPUID in all but name: IRET or a fault would do as well. What is fetched next is new. */
		__asm__ volatile("" ::: "memory");
		atomic_store(&shared.seen, call(shared.run));
		sched_yield();
	}
	return unused;
}

SECTION(other_thread)
{
	pthread_t thread;
	int fd = memfd_create("code", 0);
	if (fd < 0 || ftruncate(fd, PAGE))
		die("memfd_create");
	shared.write = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	shared.run = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	write_function(shared.write + 3, 0); /* the number is in one aligned word */
	shared.run += 3;
	if (pthread_create(&thread, NULL, caller, NULL))
		die("pthread_create");
	for (uint32_t i = 1; i < ROUNDS; i++) {
		__atomic_store_n((uint32_t *)(void *)(shared.write + 4), i, __ATOMIC_SEQ_CST);
		while (atomic_load(&shared.seen) != i)
			sched_yield();
	}
	atomic_store(&shared.end, true);
	pthread_join(thread, NULL);
	puts("all were seen");
	close(fd);
}

extern uint8_t stepped[], stepped_loop[], stepped_end[];
__asm__("stepped: int3; movl $40, %ecx; xorl %eax, %eax\n"
	"stepped_loop: addl %ecx, %eax; pushfq; popq %rdx; leaq 8(%rax), %rsi; dec %ecx; jne stepped_loop\n"
	"movl $39, %eax; syscall; xorl %eax, %eax\n"
	"stepped_end: int3; ret");

static uint64_t rip_of(pid_t child)
{
	struct user_regs_struct regs;
	if (ptrace(PTRACE_GETREGS, child, NULL, &regs))
		die("PTRACE_GETREGS");
	return regs.rip;
}

static int go_on(pid_t child, int how)
{
	int status;
	if (ptrace(how, child, NULL, NULL) || waitpid(child, &status, 0) != child)
		die("ptrace");
	return status;
}

/* A debugger at work on a program that computes. */
SECTION(debugger)
{
	int status;
	unsigned steps = 0;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		for (unsigned i = 0; i < 3; i++)
			((void (*)(void))stepped)();
		_exit(7);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		die("fork");
	printf("%#x at %ld\n", status, (long)(rip_of(child) - (uint64_t)stepped));
	while (rip_of(child) != (uint64_t)stepped_end && steps < 10000) {
		uint64_t rip = rip_of(child);
		mix(&rip, 8);
		steps++;
		if ((status = go_on(child, PTRACE_SINGLESTEP)) != (SIGTRAP << 8 | 0x7f))
			break;
	}
	printf("%u steps, sum %#lx, %#x\n", steps, mixed(), status);
	/* A breakpoint in the loop, the second time around. */
	go_on(child, PTRACE_CONT);
	printf("at %ld\n", (long)(rip_of(child) - (uint64_t)stepped));
	go_on(child, PTRACE_CONT);
	long word = ptrace(PTRACE_PEEKTEXT, child, stepped_loop, NULL);
	for (unsigned i = 0; i < 40; i++) {
		struct user_regs_struct regs;
		ptrace(PTRACE_POKETEXT, child, stepped_loop, (word & ~0xffl) | 0xcc);
		status = go_on(child, PTRACE_CONT);
		ptrace(PTRACE_GETREGS, child, NULL, &regs);
		mix(&regs.rcx, 8);
		regs.rip--;
		ptrace(PTRACE_SETREGS, child, NULL, &regs);
		ptrace(PTRACE_POKETEXT, child, stepped_loop, word);
		mix(&status, 4);
		go_on(child, PTRACE_SINGLESTEP);
	}
	printf("breakpoints: %#lx\n", mixed());
	for (unsigned i = 0; i < 4 && WIFSTOPPED(status = go_on(child, PTRACE_CONT)); i++)
		printf("%#x at %ld\n", status, (long)(rip_of(child) - (uint64_t)stepped));
	printf("ends with %#x\n", status);
}
