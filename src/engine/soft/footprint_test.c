/* SPDX-License-Identifier: Apache-2.0 */
/*
 * footprint_test.c - the table's word for how many bytes an instruction accesses, against the host CPU's.
 *
 * The translator checks an operand of insn.mem_size bytes and then lets the host execute the instruction in guest memory,
 * so a size that is too small would let a guest reach past the end of its memory. Every instruction that is copied is
 * run with its operand just in front of a page that may not be touched: by itself, which must not fault there, and must
 * when moved by one byte; and translated, in each mode, at the end of guest memory.
 */
#include "engine/soft/insn.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/soft/test_machine.h"

enum { PAGE = 4096, MAX_CASES = 1 << 15 };

struct footprint {
	uint8_t bytes[INSN_MAX_LEN];
	struct insn insn;
};

/* The operand is [rbx], [ebx]. */
static void add_case(struct footprint *cases, unsigned *n, enum insn_mode mode, const uint8_t *bytes, unsigned size)
{
	struct footprint *c = &cases[*n];
	uint8_t padded[INSN_MAX_LEN] = { 0 };
	memcpy(padded, bytes, size);
	if (insn_decode(&c->insn, padded, INSN_MAX_LEN, mode) ||
	    (c->insn.op != OP_COPY && c->insn.op != OP_SETCC && c->insn.op != OP_FPU_SAVE) || !c->insn.mem ||
	    !c->insn.mem_acc || c->insn.base != 3)
		return;
	/* A register operand is rcx throughout. */
	if (c->insn.row->reg_kind != REG_NONE && (c->insn.modrm >> 3 & 7) != 1)
		return;
	memcpy(c->bytes, padded, INSN_MAX_LEN);
	if (*n < MAX_CASES - 1)
		(*n)++;
}

static void add_legacy(struct footprint *cases, unsigned *n, enum insn_mode mode, unsigned map, unsigned opcode)
{
	static const uint8_t prefix[6][2] = { { 0 }, { 0x66 }, { 0xf3 }, { 0xf2 }, { 0x66, 0xf3 }, { 0x66, 0xf2 } };
	for (unsigned k = 0; k < 6 * 2 * 8; k++) {
		const uint8_t *p = prefix[k / 16];
		uint8_t bytes[INSN_MAX_LEN];
		unsigned size = 0;
		if ((k >> 3 & 1) && mode != INSN_MODE_64)
			continue;
		if (mode == INSN_MODE_16)
			bytes[size++] = 0x67;
		for (unsigned i = 0; i < 2 && p[i]; i++)
			bytes[size++] = p[i];
		if (k >> 3 & 1)
			bytes[size++] = 0x48;
		if (map != MAP_ONE)
			bytes[size++] = 0x0f;
		if (map >= MAP_0F38)
			bytes[size++] = map == MAP_0F38 ? 0x38 : 0x3a;
		bytes[size++] = (uint8_t)opcode;
		bytes[size++] = (uint8_t)((k & 7) << 3 | 3);
		add_case(cases, n, mode, bytes, size);
	}
}

static void add_vex(struct footprint *cases, unsigned *n, enum insn_mode mode, unsigned map, unsigned opcode)
{
	for (unsigned k = 0; k < 2 * 2 * 4 * 8 * 2; k++) {
		/* vvvv is 0 or, as an instruction without that operand wants it, 15. */
		uint8_t vvvv = k >> 7 ? 0x78 : 0x68;
		uint8_t bytes[] = { 0x67,
				    0xc4,
				    (uint8_t)(0xe0 | map),
				    (uint8_t)((k >> 6 & 1) << 7 | vvvv | (k >> 3 & 7)),
				    (uint8_t)opcode,
				    (uint8_t)((k & 7) << 3 | 3) };
		unsigned skip = mode == INSN_MODE_16 ? 0 : 1;
		add_case(cases, n, mode, bytes + skip, sizeof(bytes) - skip);
	}
}

static struct footprint *make_cases(enum insn_mode mode, unsigned *n)
{
	struct footprint *cases = calloc(MAX_CASES, sizeof(*cases));
	*n = 0;
	for (unsigned map = MAP_ONE; map <= MAP_0F3A; map++) {
		for (unsigned opcode = 0; opcode < 256; opcode++) {
			if (insn_first_row(ENC_LEGACY, map, (uint8_t)opcode))
				add_legacy(cases, n, mode, map, opcode);
			if (map != MAP_ONE && insn_first_row(ENC_VEX, map, (uint8_t)opcode))
				add_vex(cases, n, mode, map, opcode);
		}
	}
	assert_in_range(*n, 1000, MAX_CASES - 2);
	return cases;
}

static void describe(char *text, size_t size, const struct footprint *c)
{
	int at = snprintf(text, size, "%s (%u bytes):", c->insn.row->name, c->insn.mem_size);
	for (unsigned i = 0; i < c->insn.len; i++)
		at += snprintf(text + at, size - (size_t)at, " %02x", c->bytes[i]);
}

/* ---- by itself ---- */

static sigjmp_buf back;
static volatile int fault_trap, fault_signal;
static volatile uint64_t fault_at;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	fault_signal = signal;
	fault_trap = (int)((ucontext_t *)context)->uc_mcontext.gregs[REG_TRAPNO];
	fault_at = (uintptr_t)info->si_addr;
	siglongjmp(back, 1);
}

/* Runs the case's bytes with rbx = at, by way of `code`, which can be executed. The signal it met, or 0. */
static int run_native(uint8_t *code, const struct footprint *c, const uint8_t *at)
{
	/* rbx to r11; the stack stays as it is */
	static const uint8_t head[] = { 0x49, 0x89, 0xdb, 0x48, 0x89, 0xfb };
	static const uint8_t tail[] = { 0x4c, 0x89, 0xdb, 0xc3 };
	uint64_t address = (uintptr_t)at;
	unsigned mxcsr = 0x1f80, size = sizeof(head);
	memcpy(code, head, sizeof(head));
	memcpy(code + size, c->bytes, c->insn.len);
	size += c->insn.len;
	memcpy(code + size, tail, sizeof(tail));
	fault_signal = 0;
	if (!sigsetjmp(back, 0)) {
		uint64_t a = 0, d = 0, ignored = 0x77;
		__asm__ volatile("call *%3"
				 : "+a"(a), "+d"(d), "+c"(ignored)
				 : "r"(code), "D"(address)
				 : "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
	}
	__asm__ volatile("fninit\n ldmxcsr %0" ::"m"(mxcsr));
	return fault_signal;
}

static void test_native(void **state)
{
	uint8_t *data = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER }, old[4];
	const uint8_t *end = data + 2 * PAGE;
	unsigned n, wrong = 0, ran = 0;
	struct footprint *cases = make_cases(INSN_MODE_64, &n);
	char text[128];

	(void)state;
	mprotect(data + 2 * PAGE, PAGE, PROT_NONE);
	for (unsigned i = 0; i < 4; i++)
		sigaction(signals[i], &sa, &old[i]);
	for (unsigned i = 0; i < n; i++) {
		const struct footprint *c = &cases[i];
		describe(text, sizeof(text), c);
		memset(data, 0, 2 * PAGE);
		int got = run_native(code, c, end - c->insn.mem_size);
		if (got == SIGILL)
			continue; /* this CPU has it not */
		ran++;
		if ((got == SIGSEGV || got == SIGBUS) && fault_trap == 14) {
			print_error("accesses more: %s\n", text);
			wrong++;
			continue;
		}
		got = run_native(code, c, end - c->insn.mem_size + 1);
		if (got != SIGSEGV && got != SIGBUS) {
			print_error("accesses less: %s\n", text);
			wrong++;
		}
	}
	for (unsigned i = 0; i < 4; i++)
		sigaction(signals[i], &old[i], NULL);
	free(cases);
	munmap(data, 3 * PAGE);
	munmap(code, PAGE);
	print_message("%u of %u forms ran\n", ran, n);
	assert_int_equal(wrong, 0);
}

/* ---- translated ---- */

static void run_translated(struct test_machine *m, unsigned bits, const struct footprint *c, unsigned *at)
{
	test_state(m);
	test_bits(m, bits);
	m->state.gpr[3] = TEST_RAM - c->insn.mem_size;
	memset(m->ram + TEST_RAM - 1024, 0, 1024);
	(void)test_run_at(m, c->bytes, c->bytes + c->insn.len);
	if (m->mmio_count) {
		char text[128];
		describe(text, sizeof(text), c);
		print_error("reaches a device: %s\n", text);
		_exit(1);
	}
	(*at)++;
}

/* In a process of its own: an access past the end is the end of it. */
static void translated(void **state, unsigned bits)
{
	struct test_machine *m = *state;
	unsigned n;
	struct footprint *cases = make_cases((enum insn_mode)(bits / 32), &n);
	unsigned *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		for (unsigned i = 0; i < n; i++)
			run_translated(m, bits, &cases[i], at);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (status && *at < n) {
		char text[128];
		describe(text, sizeof(text), &cases[*at]);
		print_error("%u-bit mode, status %x: %s\n", bits, (unsigned)status, text);
	}
	assert_int_equal(status, 0);
	assert_int_equal(*at, n);
	munmap(at, PAGE);
	free(cases);
}

static void test_64(void **state)
{
	translated(state, 64);
}

static void test_32(void **state)
{
	translated(state, 32);
}

static void test_16(void **state)
{
	translated(state, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_native),
		cmocka_unit_test_setup_teardown(test_64, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_32, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_16, test_setup, test_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
