/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff_test.c - the differential test: every row of the instruction table, alone and in sequences, from random states, by
 * the host CPU and by the engine; every register, flag, byte of memory and exception compared.
 *
 * Environment: DIFF_RUNS, how many (`./dev test` asks for a million); DIFF_SEED; DIFF_ROW, only rows of that name; DIFF_EVEX, only AVX-512; DIFF_MODE, 16, 32 or 64 only;
  * DIFF_OPTIONS, the engine's; DIFF_UNDEFINED, how often each opcode is tried with other bits.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "engine/soft/diff_testlib.h"
#include "engine/soft/disasm.h"

enum { MAX_TARGETS = 4096, STATES = 8, MAX_SHOWN = 400 };

struct diff {
	struct diff_native *native;
	struct diff_guest *guest;
	struct diff_random random;
	struct diff_target target[MAX_TARGETS];
	size_t targets;
	unsigned long run_of[MAX_TARGETS], mismatch_of[MAX_TARGETS];
	struct diff_case cases[DIFF_SLOTS];
	size_t case_target[DIFF_SLOTS];
	unsigned long runs, mismatches, excepted;
	struct diff_state in, by_native, by_guest;
	struct diff_memory memory, mem_native, mem_guest;
};

/* ---- comparing ---- */

struct report {
	char text[2000];
	size_t len;
};

static void __attribute__((format(printf, 2, 3))) say(struct report *r, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int n = vsnprintf(r->text + r->len, sizeof(r->text) - r->len, fmt, args);
	va_end(args);
	r->len += n;
	if (r->len >= sizeof(r->text))
		r->len = sizeof(r->text) - 1;
}

static void compare64(struct report *r, const char *what, uint64_t native, uint64_t guest)
{
	if (native != guest)
		say(r, "    %-8s native %016" PRIx64 ", guest %016" PRIx64 "\n", what, native, guest);
}

static void compare_bytes(struct report *r, const char *what, const uint8_t *native, const uint8_t *guest, size_t size)
{
	if (!memcmp(native, guest, size))
		return;
	say(r, "    %-8s native ", what);
	for (size_t i = size; i-- > 0;)
		say(r, "%02x", native[i]);
	say(r, ", guest ");
	for (size_t i = size; i-- > 0;)
		say(r, "%02x", guest[i]);
	say(r, "\n");
}

/* Components in their initial state may have anything in memory: SDM Vol. 1, 13.6. */
static void normalize(uint8_t *xsave, const struct diff_parts *part)
{
	static const uint16_t fcw = 0x037f;
	if (!(xsave[512] & 1)) {
		memset(xsave, 0, 24);
		memcpy(xsave, &fcw, 2);
		memset(xsave + 32, 0, 128);
	}
	if (!(xsave[512] & 2))
		memset(xsave + 160, 0, 256);
	if (!(xsave[512] & 4))
		memset(xsave + 576, 0, 256);
	if (!part->size)
		return;
	if (!(xsave[512] & 0x20))
		memset(xsave + part->mask, 0, 64);
	if (!(xsave[512] & 0x40))
		memset(xsave + part->upper, 0, 512);
	if (!(xsave[512] & 0x80))
		memset(xsave + part->high, 0, 1024);
}

static void compare_avx512(struct report *r, const uint8_t *native, const uint8_t *guest, unsigned vectors,
			   const struct diff_parts *part)
{
	char name[8];
	for (unsigned i = 0; i < vectors; i++) {
		snprintf(name, sizeof(name), "zmm%uh", i);
		compare_bytes(r, name, native + part->upper + 32 * i, guest + part->upper + 32 * i, 32);
	}
	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "k%u", i);
		compare_bytes(r, name, native + part->mask + 8 * i, guest + part->mask + 8 * i, 8);
	}
	for (unsigned i = 16; i < 32 && vectors == 16; i++) {
		snprintf(name, sizeof(name), "zmm%u", i);
		compare_bytes(r, name, native + part->high + 64 * (i - 16), guest + part->high + 64 * (i - 16), 64);
	}
}

static void compare_xsave(struct report *r, uint8_t *native, uint8_t *guest, unsigned vectors, bool fip,
			  const struct diff_parts *part)
{
	normalize(native, part);
	normalize(guest, part);
	if (part->size)
		compare_avx512(r, native, guest, vectors, part);
	char name[8];
	/* The last instruction's opcode and operand address are not carried. */
	compare_bytes(r, "fcw", native, guest, 2);
	compare_bytes(r, "fsw", native + 2, guest + 2, 2);
	compare_bytes(r, "ftw", native + 4, guest + 4, 1);
	/* 0: the block that it was in is gone from the cache. */
	static const uint8_t none[8];
	if (fip && memcmp(guest + 8, none, 8) != 0)
		compare_bytes(r, "fip", native + 8, guest + 8, 8);
	compare_bytes(r, "mxcsr", native + 24, guest + 24, 4);
	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "st%u", i);
		compare_bytes(r, name, native + 32 + 16 * i, guest + 32 + 16 * i, 10);
	}
	for (unsigned i = 0; i < vectors; i++) {
		snprintf(name, sizeof(name), "xmm%u", i);
		compare_bytes(r, name, native + 160 + 16 * i, guest + 160 + 16 * i, 16);
		snprintf(name, sizeof(name), "ymm%uh", i);
		compare_bytes(r, name, native + 576 + 16 * i, guest + 576 + 16 * i, 16);
	}
}

static void compare_memory(struct report *r, const struct diff_memory *native, const struct diff_memory *guest)
{
	unsigned shown = 0;
	for (size_t i = 0; i < sizeof(native->rw) && shown < 4; i += 8) {
		uint64_t a, b;
		memcpy(&a, native->rw + i, 8);
		memcpy(&b, guest->rw + i, 8);
		char name[16];
		snprintf(name, sizeof(name), "%zx", DIFF_RW + i);
		compare64(r, name, a, b);
		shown += a != b;
	}
}

static void mask(struct diff_memory *memory, uint64_t at, unsigned from, unsigned to)
{
	for (uint64_t a = at + from; a < at + to; a++)
		if (a >= DIFF_RW && a < DIFF_RW + DIFF_RW_SIZE)
			memory->rw[a - DIFF_RW] = 0;
}

/* Takes out of a stored x87 image what is not compared in the registers either: the last instruction's addresses and
 * opcode, and what belongs to the upper eight vector registers in 32-bit code. */
static void mask_image(const struct diff_case *c, const struct diff_state *in, struct diff_memory *memory)
{
	const struct insn *insn = &c->insn[0];
	if (!(insn->mem && insn->mem_acc & ACC_W))
		return;
	uint64_t at = diff_address(c, 0, in);
	if (insn->mem_size == 28 || insn->mem_size == 108) {
		mask(memory, at, 12, 28);
	} else if (insn->mem_size == 14 || insn->mem_size == 94) {
		mask(memory, at, 6, 14);
	} else if (insn->mem_size == 512 || insn->op == OP_XSAVE) {
		mask(memory, at, 6, 24);
		if (c->mode != INSN_MODE_64) {
			mask(memory, at, 288, 416);
			mask(memory, at, 704, 832);
		}
	}
}

static const char *const reg_name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					  "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

/* ---- what may differ ---- */

/* The instruction that an exception ended the case at, or -1. */
static int ended_at(const struct diff_case *c, const struct diff_state *native)
{
	uint64_t rip = c->rip;
	for (unsigned i = 0; i < c->insns; i++) {
		if (rip == native->rip && native->vector != 3)
			return i;
		rip += c->insn[i].len;
	}
	return -1;
}

static bool is_control(const struct insn *insn)
{
	return (insn->op >= OP_JCC && insn->op <= OP_JCXZ) ||
	       (insn->op >= OP_FIRST_HELPER && insn->op < OP_FIRST_PLAIN_HELPER);
}

/* By CL: says the table that it reads all flags and writes none, because of a count of 0. */
static bool is_shift_by_cl(const struct insn *insn)
{
	return insn->row->implicit_read >> 1 & 1 && insn->op == OP_COPY && insn->flags_read == FLAG_ARITH &&
	       !insn->flags_written;
}

/* The instruction that the branch k goes to, or the end. */
static unsigned target_of(const struct diff_case *c, unsigned k)
{
	unsigned distance = c->insn[k].imm;
	for (k++; k < c->insns && distance; k++)
		distance -= distance < c->insn[k].len ? distance : c->insn[k].len;
	return k;
}

/* Flags that nobody will read: what follows instruction i overwrites them, and i comes first. The translator may drop
 * them, and a fault at i, after which i runs again, then shows them as they were earlier. */
static unsigned dead_flags(const struct diff_case *c, int i)
{
	unsigned live[DIFF_MAX_INSNS + 1];
	live[c->insns] = FLAG_ARITH;
	for (int k = c->insns - 1; k >= i; k--) {
		const struct insn *insn = &c->insn[k];
		live[k] = (live[k + 1] & ~insn->flags_written) | insn->flags_read;
		if (is_shift_by_cl(insn))
			live[k] = live[k + 1];
		else if (insn->op == OP_JMP || insn->op == OP_CALL)
			live[k] = live[target_of(c, k)];
		else if (insn->op == OP_JCC || insn->op == OP_LOOP || insn->op == OP_JCXZ)
			live[k] |= live[target_of(c, k)];
		else if (is_control(insn))
			live[k] = FLAG_ARITH;
	}
	return FLAG_ARITH & ~live[i];
}

/* The order of faults. The CPU looks at alignment (#GP) and at what x87 has pending (#MF) before it translates the
 * address; a translated access is checked first. Both faults are there, and another run brings the other. */
static bool other_fault_first(const struct insn *insn, const struct diff_state *n, const struct diff_state *g)
{
	bool memory = g->vector == 14 || g->vector == 12 || g->vector == 13;
	bool aligned = insn->mem_size >= 16 || insn->op == OP_XSAVE;
	bool pending = insn->row->flags & (ROW_FPU | ROW_MMX);
	bool pop_cs = insn->op == OP_POP && insn->seg == ENGINE_CS && g->vector == 13;
	return memory && n->rip == g->rip &&
	       ((n->vector == 13 && aligned) || (n->vector == 16 && pending) || (n->vector == 14 && pop_cs));
}

/* Flags that are undefined before instruction i, or at the end; where it branches, at any time. */
static unsigned undefined_at(const struct diff_case *c, int i)
{
	unsigned any = 0;
	bool branches = false;
	for (unsigned k = 0; k <= c->insns; k++) {
		any |= c->undefined[k];
		branches |= k < c->insns && is_control(&c->insn[k]);
	}
	return branches ? any : c->undefined[i < 0 ? c->insns : (unsigned)i];
}

static void excuse(const struct diff_case *c, struct diff_state *n, struct diff_state *g)
{
	int i = ended_at(c, n);
	if (i < 0)
		return;
	const struct insn *insn = &c->insn[i];
	unsigned dead = dead_flags(c, i);
	n->rflags &= ~(uint64_t)dead;
	g->rflags &= ~(uint64_t)dead;
	/* A branch out of the canonical addresses faults before it is made on the CPU, after it when translated. */
	bool branches = insn->op == OP_JMP_IND || insn->op == OP_CALL_IND || insn->op == OP_RET;
	if (branches && n->vector == 13 && g->vector == 13)
		g->rip = n->rip;
	if (insn->mem && other_fault_first(insn, n, g)) {
		g->vector = n->vector;
		g->error = n->error;
		g->cr2 = n->cr2;
	}
	if (n->vector != 14)
		return;
	/* Linux hides from programs what is mapped in its own half, and at the border to it. */
	if (n->cr2 >> 63)
		g->error |= 1;
	if (n->cr2 >> 12 == 0x7fffffffffff >> 12)
		g->error = n->error;
	/* Images and masked stores are written in pieces: which byte of the page faults first is the CPU's own, as is the
	 * first of a gather's elements. */
	if (insn->mem_size > 32 || (insn->row->flags & ROW_FPU && insn->mem_size > 8) || insn->op == OP_XSAVE ||
	    insn->op == OP_MASKED_STORE || insn->op == OP_MASKED_LOAD || insn->op == OP_EVEX_MASKED ||
	    diff_is_gather(insn)) {
		if (n->cr2 - g->cr2 + 0xfff < 0x1fff || diff_is_gather(insn))
			g->cr2 = n->cr2;
	}
}

/* MASKMOVQ and MASKMOVDQU may fault for lanes that they leave alone: SDM, "implementation-specific". */
static bool faults_by_chance(const struct diff_case *c, const struct diff_state *n)
{
	int i = ended_at(c, n);
	return i >= 0 && n->vector == 14 && c->insn[i].op == OP_MASKED_STORE && c->insn[i].opcode == 0xf7;
}

/* Instructions that may have done a part when they fault, each CPU in its own way. */
static bool partial(const struct diff_case *c, const struct diff_state *n)
{
	int i = ended_at(c, n);
	if (i < 0 || n->vector == 6)
		return false;
	unsigned op = c->insn[i].op;
	/* MMX: the x87 stack may have been reset before the fault; CALL: see excuse(). */
	return op == OP_CALL_IND || op == OP_RET || diff_is_gather(&c->insn[i]) || op == OP_POPA || op == OP_XSAVE ||
	       c->insn[i].mem_size > 32 || c->insn[i].row->flags & ROW_MMX;
}

/* Loads x87's pointers, which are then taken for the translation's. */
static bool loads_x87(const struct diff_case *c)
{
	for (unsigned i = 0; i < c->insns; i++) {
		const struct insn *insn = &c->insn[i];
		if (insn->mem_acc == ACC_R && (insn->mem_size > 32 || insn->mem_size == 28 || insn->mem_size == 14))
			return true;
		if (insn->op == OP_XSAVE)
			return true;
	}
	return false;
}

/* The native side runs in this process, where random addresses may meet what the test itself has mapped. */
static bool met_the_process(const struct diff_state *n, const struct diff_state *g)
{
	unsigned char in_core;
	void *page = (void *)(uintptr_t)(g->cr2 & ~0xfffull); /* NOLINT(performance-no-int-to-ptr) */
	return g->vector == 14 && (n->vector != 14 || n->cr2 != g->cr2) && mincore(page, 1, &in_core) == 0;
}

static void compare(struct diff *d, const struct diff_case *c, struct report *r)
{
	struct diff_state *n = &d->by_native, *g = &d->by_guest;
	bool wide = c->mode == INSN_MODE_64;
	if (faults_by_chance(c, n) || met_the_process(n, g))
		return;
	excuse(c, n, g);
	compare64(r, "vector", n->vector, g->vector);
	if (n->vector == g->vector)
		compare64(r, "error", n->error, g->error);
	compare64(r, "cr2", n->cr2, g->cr2);
	compare64(r, "rip", n->rip, g->rip);
	uint64_t flags = 0x247fd5 & ~(uint64_t)undefined_at(c, ended_at(c, n));
	compare64(r, "rflags", n->rflags & flags, g->rflags & flags);
	if (partial(c, n))
		return;
	for (unsigned i = 0; i < (wide ? 16 : 8); i++)
		compare64(r, reg_name[i], wide ? n->gpr[i] : (uint32_t)n->gpr[i],
			  wide ? g->gpr[i] : (uint32_t)g->gpr[i]);
	static const char *const segment_name[6] = { "es", "cs", "ss", "ds", "fs", "gs" };
	for (unsigned i = 0; i < 6; i++) {
		/* The host's IRET makes every null selector 0. */
		bool null = !n->selector[i] && g->selector[i] < 4;
		compare64(r, segment_name[i], n->selector[i], null ? 0 : g->selector[i]);
	}
	if (wide) {
		compare64(r, "fs base", n->fs_base, g->fs_base);
		compare64(r, "gs base", n->gs_base, g->gs_base);
	}
	/* 32-bit code does not reach the upper eight, but for XRSTOR and VZEROALL, which are copied. */
	compare_xsave(r, n->xsave, g->xsave, wide ? 16 : 8, !loads_x87(c), &d->in.part);
	mask_image(c, &d->in, &d->mem_native);
	mask_image(c, &d->in, &d->mem_guest);
	compare_memory(r, &d->mem_native, &d->mem_guest);
}

/* ---- running ---- */

static void show(struct diff *d, const struct diff_case *c, const struct report *r)
{
	uint64_t rip = c->rip;
	const uint8_t *at = c->bytes;
	printf("%u-bit code:\n", 16u << c->mode);
	for (unsigned i = 0; i < c->insns; i++) {
		soft_disasm(stdout, at, c->insn[i].len, rip, c->mode);
		rip += c->insn[i].len;
		at += c->insn[i].len;
	}
	for (unsigned i = 0; i < 16; i += 4)
		printf("    %-3s %016" PRIx64 "  %-3s %016" PRIx64 "  %-3s %016" PRIx64 "  %-3s %016" PRIx64 "\n",
		       reg_name[i], d->in.gpr[i], reg_name[i + 1], d->in.gpr[i + 1], reg_name[i + 2], d->in.gpr[i + 2],
		       reg_name[i + 3], d->in.gpr[i + 3]);
	printf("    flags %" PRIx64 ", exception %" PRIu64 "\n%s", d->in.rflags, d->by_native.vector, r->text);
	fflush(stdout);
}

static void run_case(struct diff *d, const struct diff_case *c, size_t target)
{
	diff_gen_state(&d->random, c, &d->in, &d->memory);
	memcpy(d->mem_native.rw, d->memory.rw, DIFF_RW_SIZE);
	memcpy(d->mem_native.ro, d->memory.ro, DIFF_RO_SIZE);
	memcpy(&d->mem_guest, &d->memory, sizeof(d->memory));
	struct report report = { .len = 0 };
	const char *why = "";
	diff_native_run(d->native, c->mode, &d->in, &d->mem_native, &d->by_native);
	if (diff_guest_run(d->guest, c->mode, &d->in, &d->mem_guest, &d->by_guest, &why))
		compare(d, c, &report);
	else
		say(&report, "    %s\n", why);
	d->runs++;
	d->run_of[target]++;
	d->excepted += d->by_native.vector != 3;
	if (report.len) {
		d->mismatch_of[target]++;
		if (d->mismatch_of[target] == 1 && d->mismatches++ < MAX_SHOWN)
			show(d, c, &report);
	}
}

static void place(struct diff *d, size_t slot)
{
	const struct diff_case *c = &d->cases[slot];
	memcpy(diff_native_code(d->native) + slot * DIFF_SLOT, c->bytes, DIFF_SLOT);
	memcpy(diff_guest_code(d->guest) + slot * DIFF_SLOT, c->bytes, DIFF_SLOT);
}

static enum insn_mode mode_of_round(const struct diff *d, size_t round)
{
	const char *only = getenv("DIFF_MODE");
	if (only)
		return atoi(only) == 64 ? INSN_MODE_64 : atoi(only) == 32 ? INSN_MODE_32 : INSN_MODE_16;
	if (round % 4 == 3)
		return diff_native_has16(d->native) ? INSN_MODE_16 : INSN_MODE_32;
	return round % 4 == 1 ? INSN_MODE_32 : INSN_MODE_64;
}

/* Fills the code area with cases of the next targets in turn and runs each. */
static void run_batch(struct diff *d, size_t *next, bool sequences)
{
	size_t slots = 0;
	for (unsigned tries = 0; slots < DIFF_SLOTS && tries < 4 * DIFF_SLOTS; tries++) {
		size_t t = (*next)++ % d->targets;
		enum insn_mode mode = mode_of_round(d, *next / d->targets);
		struct diff_case *c = &d->cases[slots];
		if (diff_excuse(&d->target[t], mode) ||
		    !diff_gen_case(&d->random, c, &d->target[t], mode, DIFF_CODE + slots * DIFF_SLOT))
			continue;
		if (sequences) {
			unsigned more = diff_random(&d->random) % (DIFF_MAX_INSNS - 1) + 1;
			for (unsigned k = 0; k < 3 * more && c->insns <= more; k++)
				diff_gen_add(&d->random, c, &d->target[diff_random(&d->random) % d->targets]);
		}
		diff_gen_finish(&d->random, c);
		d->case_target[slots] = t;
		place(d, slots++);
	}
	diff_guest_code_written(d->guest, 0, DIFF_CODE_SIZE);
	for (size_t i = 0; i < slots; i++)
		for (unsigned k = 0; k < STATES; k++)
			run_case(d, &d->cases[i], d->case_target[i]);
}

/* ---- the tests ---- */

static unsigned long number(const char *name, unsigned long otherwise)
{
	const char *text = getenv(name);
	return text ? strtoul(text, NULL, 0) : otherwise;
}

static int setup(void **state)
{
	struct diff *d = calloc(1, sizeof(*d));
	d->random.s = number("DIFF_SEED", 0x9e3779b97f4a7c15);
	d->targets = diff_targets(d->target, MAX_TARGETS);
	assert_true(d->targets <= MAX_TARGETS);
	const char *only = getenv("DIFF_ROW");
	bool evex = getenv("DIFF_EVEX");
	for (size_t i = 0; (only || evex) && i < d->targets;) {
		if ((only && strcmp(d->target[i].row->name, only) != 0) ||
		    (evex && !(d->target[i].row->flags & ROW_AVX512)))
			d->target[i] = d->target[--d->targets];
		else
			i++;
	}
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	struct diff *d = *state;
	if (d->native)
		diff_native_destroy(d->native);
	if (d->guest)
		diff_guest_destroy(d->guest);
	free(d);
	return 0;
}

static void test_same(void **state)
{
	struct diff *d = *state;
	/* Here and not in setup, for cmocka takes over signals between the two. */
	const char *why = NULL;
	d->guest = diff_guest_create(getenv("DIFF_OPTIONS"), &why);
	d->native = d->guest ? diff_native_create(&why) : NULL;
	if (!d->native) {
		printf("skipped: %s\n", why);
		skip();
	}
	unsigned long runs = number("DIFF_RUNS", 100000);
	size_t next = 0, next_sequence = 0;
	while (d->runs < runs) {
		run_batch(d, &next, false);
		if (d->runs < runs)
			run_batch(d, &next_sequence, true);
	}
	for (size_t i = 0; i < d->targets; i++)
		if (d->mismatch_of[i])
			printf("%s (opcode %02x): %lu of %lu runs differ\n", d->target[i].row->name,
			       d->target[i].opcode, d->mismatch_of[i], d->run_of[i]);
	printf("%lu runs, %lu of them ended by an exception of their own, %lu opcodes differ\n", d->runs, d->excepted,
	       d->mismatches);
	assert_int_equal(d->mismatches, 0);
}

static void test_all_rows(void **state)
{
	struct diff *d = *state;
	if (!d->native)
		skip();
	unsigned missing = 0;
	for (size_t i = 0; i < d->targets; i++) {
		const char *excuse = diff_excuse(&d->target[i], INSN_MODE_64);
		if (excuse && d->target[i].row->flags & ROW_NO64)
			excuse = diff_excuse(&d->target[i], INSN_MODE_32);
		if (d->run_of[i])
			continue;
		if (excuse)
			printf("not run: %-10s %02x: %s\n", d->target[i].row->name, d->target[i].opcode, excuse);
		else
			missing += printf("no case: %s %02x\n", d->target[i].row->name, d->target[i].opcode) > 0;
	}
	assert_int_equal(missing, 0);
}

/* ---- what EVEX leaves undefined ---- */

/* Any bytes that begin like EVEX; map, opcode and prefix in turn. */
static void make_evex(struct diff *d, struct diff_case *c, unsigned n, enum insn_mode mode)
{
	uint64_t v = diff_random(&d->random);
	uint8_t *b = c->bytes;
	memset(b, 0xcc, sizeof(c->bytes));
	b[0] = 0x62;
	b[1] = (v & 0xf0) | (n % 3 + 1);
	if (mode != INSN_MODE_64)
		b[1] |= 0xc0;
	b[2] = (v >> 8 & 0x80) | (v >> 16 & 3 ? 0x78 : v >> 8 & 0x78) | 4 | (n / 3 & 3);
	b[3] = (v >> 18 & 0xff) | (v >> 26 & 3 ? 8 : 0);
	if (v >> 28 & 1)
		b[3] &= 0x6f;
	b[4] = n / 12;
	b[5] = v >> 32;
	b[6] = v >> 40;
	memset(b + 7, 0, 6);
	c->mode = mode;
	c->insns = 1;
	c->len = 13;
	c->rip = DIFF_CODE;
}

/* Whatever the operand, it is not in this process' own memory: vectors are zero, registers point into the scratch area. */
static void make_tame_state(struct diff *d, const struct diff_case *c)
{
	diff_gen_state(&d->random, &(struct diff_case){ .mode = c->mode, .rip = c->rip }, &d->in, &d->memory);
	for (unsigned i = 0; i < 16; i++)
		d->in.gpr[i] = DIFF_RW + DIFF_RW_SIZE / 4;
	d->in.fs_base = d->in.gs_base = 0;
	memset(d->in.xsave + 160, 0, 256);
	memset(d->in.xsave + 576, 0, 256);
	memset(d->in.xsave + d->in.part.upper, 0, 512);
	memset(d->in.xsave + d->in.part.high, 0, 1024);
}

static void test_undefined(void **state)
{
	struct diff *d = *state;
	if (!d->native || !diff_parts().size || getenv("DIFF_ROW"))
		skip();
	const char *why = NULL;
	diff_native_destroy(d->native); /* anew, for its signal handlers have gone with the test before */
	d->native = diff_native_create(&why);
	assert_non_null(d->native);
	struct diff_case *c = &d->cases[0];
	unsigned differ = 0, defined = 0;
	for (unsigned n = 0; n < 3 * 4 * 256 * number("DIFF_UNDEFINED", 16); n++) {
		make_evex(d, c, n % (3 * 4 * 256), n & 1 ? INSN_MODE_32 : INSN_MODE_64);
		int rc = insn_decode(&c->insn[0], c->bytes, INSN_MAX_LEN, c->mode);
		assert_int_equal(rc, 0);
		make_tame_state(d, c);
		memcpy(d->mem_native.rw, d->memory.rw, DIFF_RW_SIZE);
		memcpy(d->mem_native.ro, d->memory.ro, DIFF_RO_SIZE);
		memcpy(diff_native_code(d->native), c->bytes, DIFF_SLOT);
		diff_native_run(d->native, c->mode, &d->in, &d->mem_native, &d->by_native);
		bool ours = c->insn[0].op != OP_UD, theirs = d->by_native.vector != 6 || d->by_native.rip != c->rip;
		defined += ours;
		if (ours == theirs)
			continue;
		if (differ++ < MAX_SHOWN) {
			printf("%u-bit, %s, native %d: ", 16u << c->mode, c->insn[0].row->name, theirs);
			soft_disasm(stdout, c->bytes, 13, 0, c->mode);
		}
	}
	printf("%u defined, %u differ\n", defined, differ);
	assert_int_equal(differ, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_all_rows),
		cmocka_unit_test(test_undefined),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
