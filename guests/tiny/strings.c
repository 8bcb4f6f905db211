/* SPDX-License-Identifier: Apache-2.0 */
/* String instructions: counts and pointers where a fault stops them, both directions, overlap, 32-bit addresses, and on
 * ports (SDM Vol. 1, 7.3.9.2: a repetition is restartable). */
#include "guest.h"

static uint8_t *area; /* one page that is there, one that is not */
static uint64_t *second;

struct state {
	uint64_t rdi, rsi, rcx;
};

static void movs(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("rep movsb" : : "D"(s->rdi), "S"(s->rsi), "c"(s->rcx) : "memory");
}

static void movsq_back(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("std; rep movsq; cld" : : "D"(s->rdi), "S"(s->rsi), "c"(s->rcx) : "memory");
}

static void stosl(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("rep stosl" : : "D"(s->rdi), "c"(s->rcx), "a"(0x04030201) : "memory");
}

static void lods(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("rep lodsb" : : "S"(s->rsi), "c"(s->rcx) : "rax");
}

static void scas(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("repne scasb" : : "D"(s->rdi), "c"(s->rcx), "a"(0xee) : "cc");
}

static void cmps(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("repe cmpsb" : : "D"(s->rdi), "S"(s->rsi), "c"(s->rcx) : "cc");
}

static void ins(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("rep insb" : : "D"(s->rdi), "c"(s->rcx), "d"(0x80) : "memory");
}

static void outs(void *arg)
{
	struct state *s = arg;
	__asm__ volatile("rep outsb" : : "S"(s->rsi), "c"(s->rcx), "d"(0x80) : "memory");
}

/* `done` iterations happen before the fault. */
static void faults(const char *what, void (*fn)(void *), struct state s, int done, int step, bool di, bool si)
{
	struct trap t;
	*second &= ~1ull;
	invlpg((uint64_t)area + 4096);
	int got = try(fn, &s, &t);
	*second |= 1;
	bool right = got == 14 && t.rcx == s.rcx - (uint64_t)done &&
		     (!di || t.rdi == s.rdi + (uint64_t)((int64_t)done * step)) &&
		     (!si || t.rsi == s.rsi + (uint64_t)((int64_t)done * step));
	check(right, what);
	if (!right)
		print("  %s, rcx %lx rdi %lx rsi %lx\n", trap_name(got), t.rcx, t.rdi, t.rsi);
}

static void precise(void)
{
	uint64_t end = (uint64_t)area + 4096, low = (uint64_t)area;
	memset(area, 0x11, 4096);
	faults("MOVSB stops at the destination's page", movs, (struct state){ end - 100, low, 300 }, 100, 1, true,
	       true);
	faults("MOVSB stops at the source's page", movs, (struct state){ low, end - 7, 300 }, 7, 1, true, true);
	faults("STOSL stops before a store that crosses", stosl, (struct state){ end - 42, 0, 300 }, 10, 4, true,
	       false);
	check(area[4095] == 0x11 && area[4094] == 0x11 && area[4093] == 0x04, "and has written what came before");
	faults("LODSB", lods, (struct state){ 0, end - 5, 50 }, 5, 1, false, true);
	faults("SCASB", scas, (struct state){ end - 50, 0, 500 }, 50, 1, true, false);
	faults("INSB", ins, (struct state){ end - 3, 0, 10 }, 3, 1, true, false);
	faults("OUTSB", outs, (struct state){ 0, end - 3, 10 }, 3, 1, false, true);
	memset(area, 0x11, 4096);
	faults("CMPSB", cmps, (struct state){ low, end - 9, 500 }, 9, 1, true, true);
	/* Downwards, into the page that lies before the area's own. */
	uint64_t *first = second - 1;
	*first &= ~1ull;
	invlpg(low);
	struct state s = { end + 16, end + 2048, 100 };
	struct trap t;
	int got = try(movsq_back, &s, &t);
	*first |= 1;
	check(got == 14 && t.rcx == 97 && t.rdi == end - 8, "MOVSQ downwards");
	check((t.rflags & 0x400) != 0, "with DF in the frame");
}

static void results(void)
{
	uint64_t rdi = (uint64_t)area, rsi, rcx = 4096;
	for (int i = 0; i < 4096; i++)
		area[i] = (uint8_t)i;
	__asm__ volatile("repne scasb" : "+D"(rdi), "+c"(rcx) : "a"(200) : "cc");
	check(rdi == (uint64_t)area + 201 && rcx == 4096 - 201, "REPNE SCASB finds");
	rdi = (uint64_t)area;
	rsi = (uint64_t)area + 256;
	rcx = 1000;
	area[256 + 77] = 0;
	__asm__ volatile("repe cmpsb" : "+D"(rdi), "+S"(rsi), "+c"(rcx) : : "cc");
	check(rdi == (uint64_t)area + 78 && rcx == 1000 - 78, "REPE CMPSB stops at a difference");
	/* Overlap by one byte repeats it: the way that programs fill. */
	area[0] = 0x3c;
	rdi = (uint64_t)area + 1;
	rsi = (uint64_t)area;
	rcx = 999;
	__asm__ volatile("rep movsb" : "+D"(rdi), "+S"(rsi), "+c"(rcx) : : "memory");
	bool right = true;
	for (int i = 0; i < 1000; i++)
		right &= area[i] == 0x3c;
	check(right, "REP MOVSB onto itself");
	rdi = (uint64_t)area;
	rcx = 0;
	__asm__ volatile("stc; rep stosb" : "+D"(rdi), "+c"(rcx) : "a"(1) : "memory", "cc");
	check(rdi == (uint64_t)area && area[0] == 0x3c, "a count of zero");
	/* A 32-bit count and address: the upper halves are ignored, and become zero when there was an iteration. */
	rdi = (uint64_t)area | 1ull << 40;
	rcx = 4 | 1ull << 40;
	__asm__ volatile("addr32 rep stosb" : "+D"(rdi), "+c"(rcx) : "a"(0x77) : "memory");
	check(rdi == (uint64_t)area + 4 && rcx == 0 && area[3] == 0x77 && area[4] == 0x3c, "32-bit addresses");
	/* A long one, in pieces of pages. */
	uint8_t *from = (uint8_t *)(24ul << 20), *to = (uint8_t *)(32ul << 20);
	for (int i = 0; i < 1 << 20; i++)
		from[i] = (uint8_t)(i * 7 + (i >> 8));
	memcpy(to + 13, from + 5, (1 << 20) - 100);
	check(memcmp(to + 13, from + 5, (1 << 20) - 100) == 0, "a mebibyte, unaligned");
}

int main(void)
{
	uint64_t *table = split_page(16 << 20);
	area = (uint8_t *)(16ul << 20) + 4096;
	second = &table[2];
	precise();
	results();
	static const char text[] = "ok: REP OUTSB on the serial port\n";
	const char *next = text;
	while (next < text + sizeof(text) - 1) {
		while (!(inb(0x3fd) & 0x20))
			;
		__asm__ volatile("outsb" : "+S"(next) : "d"(0x3f8) : "memory");
	}
	uint32_t words[4] = { 0 };
	void *at = words;
	uint64_t count = 3;
	__asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(0x5f0) : "memory");
	check(words[0] == ~0u && words[2] == ~0u && words[3] == 0, "REP INSL from a port where nothing is");
	return 0;
}
