/* SPDX-License-Identifier: Apache-2.0 */
/* Ways out of 64-bit code and back, and the bases of FS and GS. */
#include "suite.h"

#include <asm/prctl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

SECTION(int80)
{
	enum { GETPID = 20, PERSONALITY = 136, NONE = 9999 };
	static const unsigned numbers[] = { GETPID, PERSONALITY, NONE };
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t rax = numbers[i % 3] | 0x1234567800000000u, r10 = i, r8 = ~0ull, r11 = i * 7ull, rcx = ~0u;
		register uint64_t r8_ __asm__("r8") = r8, r10_ __asm__("r10") = r10, r11_ __asm__("r11") = r11;
		__asm__ volatile("int $0x80" : "+a"(rax), "+r"(r8_), "+r"(r10_), "+r"(r11_), "+c"(rcx) : "b"(~0u) : "memory");
		if (i % 3 == 0)
			rax = (pid_t)rax == getpid();
		if (i < 3 || r8_ != r8 || r10_ != r10 || r11_ != r11 || rcx != ~0u)
			printf("%u: %#lx, %d %d %d %d\n", i, rax, r8_ == r8, r10_ == r10, r11_ == r11, rcx == ~0u);
	}
}

/* 64-bit code that calls 32-bit code by a far call, which computes, makes a system call and comes back. */
SECTION(compatibility)
{
	static const uint8_t code[] = {
		0xb8, 0x14, 0x00, 0x00, 0x00, /* mov $20, %eax */
		0xcd, 0x80,		      /* int $0x80 */
		0x89, 0xc2,		      /* mov %eax, %edx */
		0xb9, 0x00, 0x40, 0x00, 0x00, /* mov $0x4000, %ecx */
		0x40,			      /* inc %eax */
		0x49,			      /* dec %ecx */
		0x75, 0xfc,		      /* jne */
		0xcb,			      /* lret */
	};
	uint8_t *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct __attribute__((packed)) {
		uint32_t offset;
		uint16_t selector;
	} target = { (uint32_t)(uintptr_t)low, 0x23 };
	if (low == MAP_FAILED)
		die("mmap");
	memcpy(low, code, sizeof(code));
	/* callf [rbx]; ret: a far call of 64-bit code with a 32-bit operand comes back by a 32-bit one. */
	memcpy(low + 2048, (const uint8_t[]){ 0xff, 0x1b, 0xc3 }, 3);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t rax = 0, rdx = 0;
		__asm__ volatile("movq %%rsp, %%r12; movq %3, %%rsp; call *%2; movq %%r12, %%rsp"
				 : "=a"(rax), "=&d"(rdx)
				 : "r"(low + 2048), "r"(low + 8192), "b"(&target)
				 : "r12", "rcx", "r8", "r9", "r10", "r11", "rsi", "rdi", "memory", "cc");
		if ((pid_t)rdx != getpid() || (uint32_t)rax != (uint32_t)rdx + 0x4000)
			die("compatibility mode");
	}
	printf("1000 calls\n");
	munmap(low, 8192);
}

SECTION(bases)
{
	uint64_t values[] = { 0, 1, 0x10000, 0x123456789000, 0x7fffffffeff0 }, got = 0, here = 0;
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t base = values[i % 5];
		if (i & 1)
			__asm__ volatile("wrgsbase %0" ::"r"(base));
		else
			syscall(SYS_arch_prctl, ARCH_SET_GS, base);
		if (i % 7 == 0)
			sched_yield();
		syscall(SYS_arch_prctl, ARCH_GET_GS, &got);
		__asm__ volatile("rdgsbase %0" : "=r"(here));
		if (here != base || got != base)
			printf("%u: %#lx %#lx for %#lx\n", i, here, got, base);
	}
	uint64_t cell[2] = { 0x55, 0x77 };
	__asm__ volatile("wrgsbase %1; movq %%gs:8, %0; wrgsbase %2" : "=&r"(got) : "r"(cell), "r"(0ull));
	printf("by gs: %#lx\n", got);
	/* Without FS there is no libc: no call between. */
	__asm__ volatile("rdfsbase %%r12; wrfsbase %2; movl $39, %%eax; syscall; movq %%fs:0, %0; rdfsbase %1; wrfsbase %%r12"
			 : "=&b"(got), "=&d"(here)
			 : "r"(cell), "c"(0)
			 : "rax", "r11", "r12", "memory");
}

/* SYSCALL and its registers, also by what is no call. */
SECTION(syscalls)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < 3000; i++) {
		static const uint64_t numbers[] = { SYS_getppid, ~0ull, 5000, 0x40000000u | SYS_getppid, 0x8000000000000027u };
		uint64_t rax = numbers[i % 5], rcx, r11_, flags;
		__asm__ volatile("pushfq; popq %2; stc; std; pushfq; popq %2; leaq 1f(%%rip), %%rdx; syscall; 1: movq %%r11, %3; cld"
				 : "+a"(rax), "=&c"(rcx), "=&b"(flags), "=r"(r11_)
				 :
				 : "rdx", "r11", "memory", "cc");
		if ((int64_t)rax > 0)
			rax = (pid_t)rax == getppid() ? 1 : (pid_t)rax == getpid() ? 2 : 3;
		if (i < 5)
			printf("%#lx %d %#lx\n", rax, rcx != 0, flags ^ r11_);
		sum += rax + (flags ^ r11_);
	}
	printf("%#lx\n", sum);
}

/* The page that old programs call; the host's kernel may have none. */
static void call_vsyscalls(void)
{
	unsigned good = 0;
	signal(SIGSEGV, SIG_DFL);
	for (unsigned i = 0; i < 100; i++) {
		struct timeval tv = { 0 }, now;
		int64_t rc, t, got;
		unsigned cpu = ~0u;
		gettimeofday(&now, NULL);
		__asm__ volatile("call *%1" : "=a"(rc) : "r"(0xffffffffff600000), "D"(&tv), "S"(NULL) : "memory", "rcx", "r11");
		__asm__ volatile("call *%1" : "=a"(t) : "r"(0xffffffffff600400), "D"(NULL) : "memory", "rcx", "r11");
		__asm__ volatile("call *%1"
				 : "=a"(got)
				 : "r"(0xffffffffff600800), "D"(&cpu), "S"(NULL), "d"(NULL)
				 : "memory", "rcx", "r11");
		good += rc == 0 && tv.tv_sec >= now.tv_sec && t >= tv.tv_sec && got == 0 && cpu < 64;
	}
	printf("vsyscalls: %u of 100\n", good);
	fflush(stdout);
	_exit(0);
}

SECTION(vsyscall)
{
	int status;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0)
		call_vsyscalls();
	if (child < 0 || waitpid(child, &status, 0) != child)
		die("fork");
	if (status)
		printf("vsyscalls: status %#x\n", status);
}
