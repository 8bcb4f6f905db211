/* SPDX-License-Identifier: Apache-2.0 */
/* Code written by a program, whose results are also worked out in C; in pages that are writable and executable, that are
 * flipped between the two, and that are mapped twice. */
#include "stress.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 4, STEPS = 24 };

typedef uint64_t function(uint64_t a, uint64_t b);

/* One step of a function of rdi and rsi, whose value is in rax: how to write it and what it does. */
static uint8_t *emit(uint8_t *at, unsigned op, uint32_t imm)
{
	static const uint8_t codes[][4] = {
		{ 0x48, 0x05 },             /* add rax, imm32 */
		{ 0x48, 0x35 },             /* xor rax, imm32 */
		{ 0x48, 0x69, 0xc0 },       /* imul rax, rax, imm32 */
		{ 0x48, 0x2d },             /* sub rax, imm32 */
		{ 0x48, 0x01, 0xf8, 0 },    /* add rax, rdi */
		{ 0x48, 0x31, 0xf0, 0 },    /* xor rax, rsi */
		{ 0x48, 0xc1, 0xc0, 0 },    /* rol rax, imm8 */
		{ 0x48, 0x8d, 0x04, 0x70 }, /* lea rax, [rax + rsi * 2] */
	};
	static const uint8_t lengths[] = { 2, 2, 3, 2, 3, 3, 3, 4 };
	memcpy(at, codes[op], lengths[op]);
	at += lengths[op];
	if (op < 4) {
		memcpy(at, &imm, 4);
		at += 4;
	} else if (op == 6) {
		*at++ = (uint8_t)imm;
	}
	return at;
}

static uint64_t step(unsigned op, uint32_t imm, uint64_t rax, uint64_t a, uint64_t b)
{
	uint64_t wide = (uint64_t)(int64_t)(int32_t)imm;
	switch (op) {
	case 0:
		return rax + wide;
	case 1:
		return rax ^ wide;
	case 2:
		return rax * wide;
	case 3:
		return rax - wide;
	case 4:
		return rax + a;
	case 5:
		return rax ^ b;
	case 6:
		return imm & 63 ? rax << (imm & 63) | rax >> (64 - (imm & 63)) : rax;
	default:
		return rax + b * 2;
	}
}

struct code {
	unsigned op[STEPS], count;
	uint32_t imm[STEPS];
};

static void invent(struct job *j, struct code *c)
{
	c->count = pick(j, STEPS - 1) + 1;
	for (unsigned i = 0; i < c->count; i++) {
		c->op[i] = pick(j, 8);
		c->imm[i] = (uint32_t)rnd(j);
	}
}

static size_t write_code(uint8_t *at, const struct code *c)
{
	uint8_t bytes[STEPS * 8 + 8] = { 0x31, 0xc0 }, *p = bytes + 2; /* xor eax, eax */
	for (unsigned i = 0; i < c->count; i++)
		p = emit(p, c->op[i], c->imm[i]);
	*p++ = 0xc3;
	memcpy(at, bytes, (size_t)(p - bytes));
	return (size_t)(p - bytes);
}

static uint64_t expected(const struct code *c, uint64_t a, uint64_t b)
{
	uint64_t rax = 0;
	for (unsigned i = 0; i < c->count; i++)
		rax = step(c->op[i], c->imm[i], rax, a, b);
	return rax;
}

static void run(struct job *j, const uint8_t *at, const struct code *c)
{
	uint64_t a = rnd(j), b = rnd(j), got = ((function *)(uintptr_t)at)(a, b);
	must(got == expected(c, a, b), "jit: written code gives something else");
	mix(j, got);
}

static void both(struct job *j)
{
	uint8_t *p = map(PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	struct code c;
	for (int i = 0; i < 150; i++) {
		uint8_t *at = p + pick(j, PAGES * PAGE - STEPS * 8 - 8);
		invent(j, &c);
		write_code(at, &c);
		for (int k = 0; k < 3; k++)
			run(j, at, &c);
	}
	munmap(p, PAGES * PAGE);
}

static void flipped(struct job *j)
{
	uint8_t *p = map(PAGES * PAGE, PROT_READ | PROT_WRITE);
	struct code c[8];
	size_t at[8];
	for (int i = 0; i < 20; i++) {
		size_t used = pick(j, PAGE);
		must(!mprotect(p, PAGES * PAGE, PROT_READ | PROT_WRITE), "mprotect");
		for (int k = 0; k < 8; k++) {
			invent(j, &c[k]);
			at[k] = used;
			used += write_code(p + used, &c[k]);
		}
		must(!mprotect(p, PAGES * PAGE, PROT_READ | PROT_EXEC), "mprotect");
		for (int k = 0; k < 24; k++)
			run(j, p + at[k % 8], &c[k % 8]);
	}
	munmap(p, PAGES * PAGE);
}

static void twice(struct job *j)
{
	int fd = memfd_create("stress", 0);
	must(fd >= 0 && !ftruncate(fd, PAGES * PAGE), "memfd_create");
	uint8_t *writable = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint8_t *runnable = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	must(writable != MAP_FAILED && runnable != MAP_FAILED, "mmap");
	struct code c;
	for (int i = 0; i < 100; i++) {
		size_t at = pick(j, PAGES * PAGE - STEPS * 8 - 8);
		invent(j, &c);
		write_code(writable + at, &c);
		run(j, runnable + at, &c);
		/* The kernel writes, too. */
		c.op[0] = 0;
		c.imm[0] = (uint32_t)rnd(j);
		uint8_t head[STEPS * 8 + 8];
		size_t size = write_code(head, &c);
		must(pwrite(fd, head, size, (off_t)at) == (ssize_t)size, "pwrite");
		run(j, runnable + at, &c);
	}
	munmap(writable, PAGES * PAGE);
	munmap(runnable, PAGES * PAGE);
	close(fd);
}

/* New code where old code was, in a mapping at the same address. */
static void replaced(struct job *j)
{
	uint8_t *p = NULL;
	struct code c;
	for (int i = 0; i < 40; i++) {
		p = mmap(p, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | (p ? MAP_FIXED : 0),
			 -1, 0);
		must(p != MAP_FAILED, "mmap");
		invent(j, &c);
		write_code(p, &c);
		run(j, p, &c);
	}
	munmap(p, PAGE);
}

void job_jit(struct job *j)
{
	both(j);
	flipped(j);
	twice(j);
	replaced(j);
}

/* --- an engine that makes code forever: an arena filled in turn, with functions that call the one before them --- */

enum { CHUNKS = 8, CHUNK = 16 * PAGE, FUNCTIONS = 500, TURNS = 2 * CHUNKS, CALLED = 5 };

/* A function that was written; what it gives is what the one it calls first gives, gone on with. */
struct made {
	struct code code;
	const struct made *calls;
	uint8_t *at;
};

static uint64_t made_gives(const struct made *m, uint64_t a, uint64_t b)
{
	uint64_t rax = m->calls ? made_gives(m->calls, a, b) : 0;
	for (unsigned i = 0; i < m->code.count; i++)
		rax = step(m->code.op[i], m->code.imm[i], rax, a, b);
	return rax;
}

static uint8_t *make(struct made *m, uint8_t *at)
{
	uint8_t bytes[CALLED + STEPS * 8 + 8] = { 0x31, 0xc0 }, *p = bytes + 2;
	if (m->calls) {
		int32_t distance = (int32_t)(m->calls->at - (at + CALLED));
		bytes[0] = 0xe8; /* call */
		memcpy(bytes + 1, &distance, 4);
		p = bytes + CALLED;
	}
	for (unsigned i = 0; i < m->code.count; i++)
		p = emit(p, m->code.op[i], m->code.imm[i]);
	*p++ = 0xc3;
	memcpy(at, bytes, (size_t)(p - bytes));
	m->at = at;
	return at + (p - bytes);
}

static void fill_and_run(struct job *j, uint8_t *chunk, bool flip, struct made *made)
{
	uint8_t *at = chunk;
	must(!flip || !mprotect(chunk, CHUNK, PROT_READ | PROT_WRITE), "mprotect");
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		made[i].calls = i && pick(j, 3) ? &made[i - 1] : NULL;
		invent(j, &made[i].code);
		at = make(&made[i], at);
	}
	must(at <= chunk + CHUNK, "jit: the chunk is too small");
	must(!flip || !mprotect(chunk, CHUNK, PROT_READ | PROT_EXEC), "mprotect");
	for (unsigned i = 0; i < FUNCTIONS; i++) {
		uint64_t a = rnd(j), b = rnd(j), got = ((function *)(uintptr_t)made[i].at)(a, b);
		must(got == made_gives(&made[i], a, b), "jit: the engine's code gives something else");
		mix(j, got);
	}
}

void job_engine(struct job *j)
{
	bool flip = pick(j, 2);
	uint8_t *arena = map((size_t)CHUNKS * CHUNK, PROT_READ | PROT_WRITE | PROT_EXEC);
	struct made *made = calloc(FUNCTIONS, sizeof(*made));
	must(made, "calloc");
	for (unsigned i = 0; i < TURNS; i++)
		fill_and_run(j, arena + (size_t)(i % CHUNKS) * CHUNK, flip, made);
	free(made);
	munmap(arena, (size_t)CHUNKS * CHUNK);
}

/* --- one thread changes a constant in code that others run; they must see only whole, ever newer ones --- */

enum { CHANGES = 2000 };

static uint8_t *changing;

static void *caller(void *arg)
{
	uint32_t last = 0;
	uint64_t *calls = arg;
	do {
		uint32_t value = (uint32_t)((function *)(uintptr_t)changing)(0, 0);
		if (value < last || value > CHANGES)
			return arg;
		last = value;
		++*calls;
	} while (last < CHANGES);
	return NULL;
}

void job_patch(struct job *j)
{
	pthread_t thread[2];
	uint64_t calls[2] = { 0 };
	uint8_t *p = map(2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	/* mov eax, imm32; ret - the immediate aligned, so that a store to it is one. */
	changing = p + pick(j, PAGE / 8) * 8 + 7;
	memcpy(changing, "\xb8\0\0\0\0\xc3", 6);
	for (int i = 0; i < 2; i++)
		must(!pthread_create(&thread[i], NULL, caller, &calls[i]), "pthread_create");
	for (uint32_t i = 1; i <= CHANGES; i++) {
		__atomic_store_n((uint32_t *)(void *)(changing + 1), i, __ATOMIC_RELEASE);
		must((uint32_t)((function *)(uintptr_t)changing)(0, 0) == i, "patch: the writer runs old code");
		if (i % 64 == 0)
			usleep(50);
	}
	for (int i = 0; i < 2; i++) {
		void *bad;
		must(!pthread_join(thread[i], &bad) && !bad, "patch: another thread saw what was never there");
	}
	mix(j, rnd(j));
	munmap(p, 2 * PAGE);
}
