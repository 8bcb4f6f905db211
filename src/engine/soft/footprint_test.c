/* SPDX-License-Identifier: Apache-2.0 */
/*
 * footprint_test.c - the table's word for how many bytes an instruction accesses, against the host CPU's.
 *
 * The translator checks an operand of insn.mem_size bytes, for reading or writing, and then lets the host execute the instruction in guest memory,
 * so a size that is too small would let a guest reach past the end of its memory. Every instruction that is copied is
 * run with its operand just in front of a page that may not be touched: by itself, which must not fault there, and must
 * when moved by one byte, or if it writes when it may not; and translated, in each mode, at the end of guest memory.
 */
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/soft/test_forms.h"
#include "engine/soft/test_machine.h"

enum { PAGE = 4096 };

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

/* Runs the form's bytes with rbx = at, by way of `code`, which can be executed. The signal it met, or 0. */
static int run_native(uint8_t *code, const struct test_form *c, const uint8_t *at)
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
	struct test_form *forms = forms_make(INSN_MODE_64, &n);
	char text[128];

	(void)state;
	mprotect(data + 2 * PAGE, PAGE, PROT_NONE);
	for (unsigned i = 0; i < 4; i++)
		sigaction(signals[i], &sa, &old[i]);
	for (unsigned i = 0; i < n; i++) {
		const struct test_form *c = &forms[i];
		forms_describe(text, sizeof(text), c);
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
		mprotect(data, 2 * PAGE, PROT_READ);
		got = run_native(code, c, end - c->insn.mem_size);
		mprotect(data, 2 * PAGE, PROT_READ | PROT_WRITE);
		if ((got == SIGSEGV && fault_trap == 14) != !!(c->insn.mem_acc & ACC_W)) {
			print_error("%s: %s\n", c->insn.mem_acc & ACC_W ? "does not write" : "writes", text);
			wrong++;
		}
	}
	for (unsigned i = 0; i < 4; i++)
		sigaction(signals[i], &old[i], NULL);
	free(forms);
	munmap(data, 3 * PAGE);
	munmap(code, PAGE);
	print_message("%u of %u forms ran\n", ran, n);
	assert_int_equal(wrong, 0);
}

/* ---- translated ---- */

static void run_translated(struct test_machine *m, unsigned bits, const struct test_form *c, unsigned *at)
{
	test_state(m);
	test_bits(m, bits);
	m->state.gpr[3] = TEST_RAM - c->insn.mem_size;
	memset(m->ram + TEST_RAM - 1024, 0, 1024);
	(void)test_run_at(m, c->bytes, c->bytes + c->insn.len);
	if (m->mmio_count) {
		char text[128];
		forms_describe(text, sizeof(text), c);
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
	struct test_form *forms = forms_make((enum insn_mode)(bits / 32), &n);
	unsigned *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		for (unsigned i = 0; i < n; i++)
			run_translated(m, bits, &forms[i], at);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (status && *at < n) {
		char text[128];
		forms_describe(text, sizeof(text), &forms[*at]);
		print_error("%u-bit mode, status %x: %s\n", bits, (unsigned)status, text);
	}
	assert_int_equal(status, 0);
	assert_int_equal(*at, n);
	munmap(at, PAGE);
	free(forms);
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
