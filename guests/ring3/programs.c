/* SPDX-License-Identifier: Apache-2.0 */
/* Many programs at a time, their vector state, and what a CPU tells a program of itself. */
#include "suite.h"

#include <cpuid.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t compute(uint64_t x, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u + i;
	return x;
}

/* More than there are stubs, each with something else at the same addresses. */
SECTION(processes)
{
	enum { N = 12 };
	volatile uint64_t *results = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	static uint64_t own[8192];
	fflush(stdout);
	for (unsigned i = 0; i < N; i++) {
		if (fork())
			continue;
		for (unsigned k = 0; k < 100; k++) {
			own[k * 80 % 8192] += compute(i + k, 40000);
			if (k % 10 == 0)
				sched_yield();
		}
		for (unsigned k = 0; k < 8192; k++)
			results[i] += own[k];
		_exit(0);
	}
	for (unsigned i = 0; i < N; i++)
		wait(NULL);
	for (unsigned i = 0; i < N; i++)
		printf("%#lx\n", results[i]);
}

SECTION(execs)
{
	char number[16];
	volatile unsigned good = 0;
	fflush(stdout);
	for (volatile unsigned i = 0; i < 20; i++) {
		int status;
		snprintf(number, sizeof(number), "%u", i);
		pid_t child = i % 2 ? vfork() : fork();
		if (child == 0) {
			execl("/proc/self/exe", "ring3", "--child", number, NULL);
			_exit(1);
		}
		good += child > 0 && waitpid(child, &status, 0) == child && status == 42 << 8;
	}
	printf("%u of 20\n", good);
}

/* ---- Vector state ---- */

struct vectors {
	_Alignas(64) uint8_t zmm[32][64];
	uint64_t k[8];
	uint32_t mxcsr;
	uint8_t x87[108];
};

static volatile sig_atomic_t alarms;

static void clobber(int signal)
{
	__asm__ volatile("vzeroall; vpcmpeqd %%ymm3, %%ymm3, %%ymm3" ::: "memory");
	alarms++;
}

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define MOVE_IN(i) "vmovdqu64 64*" #i "(%0), %%zmm" #i "; vmovdqu64 64*(" #i "+24)(%0), %%zmm2" #i "; "
#define MOVE_OUT(i) "vmovdqu64 %%zmm" #i ", 64*" #i "(%0); vmovdqu64 %%zmm2" #i ", 64*(" #i "+24)(%0); "
#define MASK_IN(i) "kmovq 8*" #i "(%1), %%k" #i "; "
#define MASK_OUT(i) "kmovq %%k" #i ", 8*" #i "(%1); "
#define YMM_IN(i) "vmovdqu 64*" #i "(%0), %%ymm" #i "; "
#define YMM_OUT(i) "vmovdqu %%ymm" #i ", 64*" #i "(%0); "

static void turn(const struct vectors *in, struct vectors *out, bool avx512, unsigned long loops, long call)
{
	__asm__ volatile("ldmxcsr %0; frstor %1" ::"m"(in->mxcsr), "m"(in->x87));
	if (avx512)
		__asm__ volatile(EACH(MOVE_IN) EACH(MASK_IN)::"r"(in->zmm), "r"(in->k) : "memory");
	else
		__asm__ volatile(EACH(YMM_IN)::"r"(in->zmm) : "memory");
	unsigned long after = loops;
	__asm__ volatile("1: dec %0; jne 1b; syscall; 2: dec %1; jne 2b" : "+r"(loops), "+r"(after), "+a"(call)::"rcx", "r11", "memory", "cc");
	if (avx512)
		__asm__ volatile(EACH(MOVE_OUT) EACH(MASK_OUT)::"r"(out->zmm), "r"(out->k) : "memory");
	else
		__asm__ volatile(EACH(YMM_OUT)::"r"(out->zmm) : "memory");
	__asm__ volatile("stmxcsr %0; fnsave %1; fninit; ldmxcsr %2" : "=m"(out->mxcsr), "=m"(out->x87) : "m"((const uint32_t){ 0x1f80 }));
}

static unsigned keep(unsigned seed)
{
	static struct vectors in, out;
	unsigned a = 0, b = 0, c = 0, d = 0, bad = 0;
	__cpuid_count(7, 0, a, b, c, d);
	bool avx512 = (b & bit_AVX512F) && (b & bit_AVX512BW);
	for (unsigned i = 0; i < 60; i++) {
		for (size_t k = 0; k < sizeof(in.zmm); k++)
			((uint8_t *)in.zmm)[k] = (uint8_t)compute(seed + i + k, 1);
		for (unsigned k = 0; k < 8; k++)
			in.k[k] = compute(seed + k, 2);
		in.mxcsr = 0x1f80 | (seed + i) % 4 << 13 | 0x3f % (i + 1);
		__asm__ volatile("fninit; fldpi; fldl2e; fld1; fldl2t");
		in.x87[0] = 0;
		__asm__ volatile("fnsave %0" : "=m"(in.x87));
		in.x87[1] = (uint8_t)(3 | (seed + i) % 4 << 2); /* precision, rounding */
		memset(&out, 0, sizeof(out));
		turn(&in, &out, avx512, i % 10 ? 3000 : 3000000, i % 2 ? 39 : 24);
		for (unsigned r = 0; r < 32; r++) {
			bool is_kept = avx512 ? r < 8 || (r >= 24 && r < 32) : r < 8;
			bad += is_kept && memcmp(in.zmm[r], out.zmm[r], avx512 ? 64 : 32) != 0;
		}
		bad += avx512 && memcmp(in.k, out.k, sizeof(in.k)) != 0;
		bad += in.mxcsr != out.mxcsr || memcmp(in.x87, out.x87, 12) != 0 || memcmp(in.x87 + 28, out.x87 + 28, 80) != 0;
	}
	return bad;
}

SECTION(vectors)
{
	fflush(stdout);
	for (unsigned i = 0; i < 4; i++)
		if (fork() == 0) {
			signal(SIGALRM, clobber);
			ualarm(2000, 2000);
			_exit(keep(i * 1000) ? 1 : 0);
		}
	for (unsigned i = 0; i < 4; i++) {
		int status = -1;
		wait(&status);
		printf("%#x\n", status);
	}
}

/* What the machine is may differ from the host; it must be one machine, however the program is run. */
SECTION(machine)
{
	cpu_set_t set;
	uint64_t bad = 0;
	unsigned first[16] = { 0 };
	unsigned which = 0;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
	for (unsigned i = 0; i < 30000; i++) {
		unsigned now[16], lo, hi, a, b, c, d;
		__cpuid(1, a, b, c, d);
		now[0] = a, now[1] = b, now[2] = c, now[3] = d;
		__cpuid(0x40000000, a, b, c, d);
		now[4] = a, now[5] = b, now[6] = c, now[7] = d;
		__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(now[8]));
		__asm__ volatile("xgetbv" : "=a"(now[9]), "=d"(now[10]) : "c"(0));
		__asm__ volatile("xorl %0, %0; lsl %1, %0" : "=&r"(now[11]) : "r"(0x7b) : "cc");
		__asm__ volatile("lar %1, %0" : "=r"(now[12]) : "r"(0x2b) : "cc");
		__asm__ volatile("smsw %0" : "=r"(now[13]));
		now[14] = (unsigned)sched_getcpu();
		now[15] = 0;
		if (i == 0)
			memcpy(first, now, sizeof(now));
		bad += memcmp(first, now, sizeof(now)) != 0;
		which = first[14];
	}
	for (unsigned i = 0; i < 16; i++)
		printf("machine: %#x\n", first[i]);
	printf("on CPU %u, differences: %lu\n", which, bad);
}
