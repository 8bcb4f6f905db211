/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that write programs: pages writable and executable, pages flipped between the two, two mappings of one
 * memfd, and code that several threads run while it grows. */
#include "suite.h"

#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int function(void);

/* mov eax, value; ret */
static void emit(uint8_t *at, int value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static int call(const uint8_t *at)
{
	return ((function *)(uintptr_t)at)();
}

static uint8_t *map(int protection, int flags, int fd)
{
	uint8_t *p = mmap(NULL, 16 * 4096, protection, flags, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void both(void)
{
	uint8_t *p = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	unsigned wrong = 0;
	for (int i = 0; i < 5000; i++) {
		size_t at = rnd() % (16 * 4096 - 8);
		emit(p + at, i);
		wrong += call(p + at) != i;
	}
	/* One function, changed by each way of writing. */
	for (int i = 0; i < 2000; i++) {
		emit(p, i);
		wrong += call(p) != i;
		p[2] ^= 1;
		wrong += call(p) != (i ^ 0x100);
		__atomic_fetch_add((int *)(void *)(p + 1), 5, __ATOMIC_SEQ_CST);
		wrong += call(p) != (i ^ 0x100) + 5;
		uint8_t copy[6];
		emit(copy, -i);
		memcpy(p, copy, 6);
		wrong += call(p) != -i;
	}
	printf("writable and executable, wrong %u\n", wrong);
	munmap(p, 16 * 4096);
}

static void flipped(void)
{
	uint8_t *p = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	unsigned wrong = 0;
	for (int i = 0; i < 500; i++) {
		if (mprotect(p, 16 * 4096, PROT_READ | PROT_WRITE))
			die("mprotect");
		for (int j = 0; j < 16; j++)
			emit(p + j * 4096 + 4096 - 6, i * j);
		if (mprotect(p, 16 * 4096, PROT_READ | PROT_EXEC))
			die("mprotect");
		for (int j = 0; j < 16; j++)
			wrong += call(p + j * 4096 + 4096 - 6) != i * j;
	}
	printf("flipped, wrong %u\n", wrong);
	munmap(p, 16 * 4096);
}

static void twice(void)
{
	int fd = memfd_create("jit", 0);
	if (fd < 0 || ftruncate(fd, 16 * 4096))
		die("memfd");
	uint8_t *writable = map(PROT_READ | PROT_WRITE, MAP_SHARED, fd),
		*runnable = map(PROT_READ | PROT_EXEC, MAP_SHARED, fd);
	unsigned wrong = 0;
	for (int i = 0; i < 2000; i++) {
		emit(writable + i % 64, i);
		wrong += call(runnable + i % 64) != i;
	}
	/* The kernel writes it: read() into the mapping. */
	for (int i = 0; i < 500; i++) {
		uint8_t body[6];
		emit(body, i);
		if (pwrite(fd, body, 6, 4096) != 6)
			die("pwrite");
		wrong += call(runnable + 4096) != i;
	}
	printf("two mappings, wrong %u\n", wrong);
	munmap(writable, 16 * 4096);
	munmap(runnable, 16 * 4096);
	close(fd);
}

/* A new mapping at the address of an old one must not run the old one's code. */
static void replaced(void)
{
	uint8_t *at = NULL;
	unsigned wrong = 0;
	for (int i = 0; i < 500; i++) {
		uint8_t *p = mmap(at, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);
		if (p == MAP_FAILED)
			die("mmap");
		at = p;
		emit(p, i);
		wrong += call(p) != i;
		if (i % 3 == 0)
			munmap(p, 4096);
	}
	printf("replaced, wrong %u\n", wrong);
}

/* One thread adds functions to a page and publishes how many there are, others call them all. */
static uint8_t *growing;
static unsigned count, bad;

static void *caller(void *arg)
{
	for (;;) {
		unsigned n = __atomic_load_n(&count, __ATOMIC_ACQUIRE);
		for (unsigned i = n > 20 ? n - 20 : 0; i < n && i < 600; i++)
			if (call(growing + i * 6) != (int)i)
				__atomic_fetch_add(&bad, 1, __ATOMIC_SEQ_CST);
		if (n >= 600)
			return NULL;
	}
}

static void grown(void)
{
	pthread_t thread[2];
	growing = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, caller, NULL);
	for (unsigned i = 0; i < 600; i++) {
		emit(growing + i * 6, (int)i);
		__atomic_store_n(&count, i + 1, __ATOMIC_RELEASE);
		if (i % 50 == 0)
			usleep(100);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	printf("growing under two callers, wrong %u\n", bad);
	munmap(growing, 16 * 4096);
}

static jmp_buf buffer;
static int depth(int n)
{
	if (n == 0)
		longjmp(buffer, 9);
	return n < 0 ? 0 : depth(n - 1) + 1;
}

SECTION(jit)
{
	both();
	flipped();
	twice();
	replaced();
	grown();
	volatile int jumps = 0;
	int value = setjmp(buffer);
	if (++jumps < 50)
		depth(jumps * 20);
	printf("longjmp %d after %d\n", value, jumps);
}
