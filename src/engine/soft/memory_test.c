/* SPDX-License-Identifier: Apache-2.0 */
/* memory_test.c - instructions whose way with memory is out of the ordinary: what they save, where they fault, and what
 * a fault leaves as it was. */
#include "engine/soft/test_machine.h"

enum { UD = 6, SS = 12, GP = 13, PF = 14, MF = 16, XM = 19 };
enum { CF = 1, PAF = 4, AF = 0x10, ZF = 0x40, SF = 0x80, OF = 0x800 };
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

static struct test_machine *begin(void **state, uint64_t rsi)
{
	struct test_machine *m = *state;
	test_state(m);
	for (unsigned n = 0; n < 4; n++)
		test_page(m, n, TEST_WRITABLE);
	memset(m->ram + TEST_DATA, 0, 0x4000);
	m->state.gpr[RSI] = rsi;
	return m;
}

/* ---- what the x87 remembers of its last instruction ---- */

CODE64(env_quiet, "fld qword ptr [rsi]; fnstenv [rsi + 64]");
CODE64(env_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; fnstenv [rsi + 64]");
CODE64(save_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; fnsave [rsi + 64]");
CODE64(env16_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; .byte 0x66; fnstenv [rsi + 64]");
CODE64(fxsave64_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; fxsave64 [rsi + 64]");
CODE64(fxsave_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; fxsave [rsi + 64]");
CODE64(xsave64_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; mov eax, 7; xor edx, edx; xsave64 [rsi + 64]");
CODE64(xsavec64_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; mov eax, 7; xor edx, edx; xsavec64 [rsi + 64]");
CODE64(xsave_none, "fld1; mov eax, 2; xor edx, edx; xsave64 [rsi + 64]");
CODE64(roundtrip, "fxrstor64 [rsi]; fxsave64 [rsi + 512]");
CODE64(env_roundtrip, "fldenv [rsi]; fnstenv [rsi + 64]");

enum { FDIV = TEST_CODE + 5 };

static struct test_machine *begin_x87(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA);
	test_put(m, TEST_DATA + 8, 0x37b, 2); /* #Z unmasked */
	return m;
}

static void expect_env(struct test_machine *m, uint64_t at, uint64_t ip, uint64_t dp)
{
	assert_int_equal(test_get(m, at + 12, 4), ip);
	assert_int_equal(test_get(m, at + 20, 4), dp);
	uint64_t cs = test_get(m, at + 16, 2);
	assert_true(cs == 0 || cs == 8); /* newer CPUs no longer keep it */
}

static void test_x87_environment(void **state)
{
	struct test_machine *m = begin_x87(state);
	test_run_ok(m, env_quiet);
	expect_env(m, TEST_DATA + 64, TEST_CODE, 0);
	m = begin_x87(state);
	test_run_ok(m, env_pending);
	expect_env(m, TEST_DATA + 64, FDIV, TEST_DATA);
	m = begin_x87(state);
	test_run_ok(m, save_pending);
	expect_env(m, TEST_DATA + 64, FDIV, TEST_DATA);
	m = begin_x87(state);
	test_run_ok(m, env16_pending);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 14, 8), 0);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 10, 2), 0);
}

static void test_x87_images(void **state)
{
	struct test_machine *m = begin_x87(state);
	test_run_ok(m, fxsave64_pending);
	assert_memory_equal(m->state.xsave + 8, m->ram + TEST_DATA + 64 + 8, 16); /* so does the CPU's saved state */
	assert_int_equal(test_get(m, TEST_DATA + 64 + 8, 8), FDIV);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 16, 8), TEST_DATA);
	m = begin_x87(state);
	test_run_ok(m, fxsave_pending);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 8, 4), FDIV);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 16, 4), TEST_DATA);
	m = begin_x87(state);
	test_run_ok(m, xsave64_pending);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 8, 8), FDIV);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 16, 8), TEST_DATA);
	m = begin_x87(state);
	test_run_ok(m, xsavec64_pending);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 8, 8), FDIV);
	/* Not asked for: left as it was. */
	m = begin_x87(state);
	test_put(m, TEST_DATA + 64 + 8, 0x1122334455667788, 8);
	test_run_ok(m, xsave_none);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 8, 8), 0x1122334455667788);
	/* What crosses a page comes to memory by way of a buffer. */
	m = begin_x87(state);
	test_put(m, TEST_DATA + 0xe00 + 8, 0x37b, 2);
	m->state.gpr[RSI] = TEST_DATA + 0xe00;
	test_run_ok(m, xsave64_pending);
	assert_int_equal(test_get(m, TEST_DATA + 0xe00 + 64 + 8, 8), FDIV);
}

/* What the guest has loaded itself comes back. */
static void test_x87_roundtrip(void **state)
{
	struct test_machine *m = begin_x87(state);
	test_put(m, TEST_DATA, 0x0081037e, 4); /* an exception waits, or the pointers may not be kept */
	test_put(m, TEST_DATA + 8, 0x123456789abc, 8);
	test_put(m, TEST_DATA + 16, 0x1234567890ab, 8);
	test_put(m, TEST_DATA + 24, 0x1f80, 4);
	test_run_ok(m, roundtrip);
	assert_memory_equal(m->ram + TEST_DATA + 8, m->ram + TEST_DATA + 512 + 8, 8);
	m = begin_x87(state);
	static const uint32_t env[7] = { 0x37e, 0x81, 0xffff, 0x12345678, 0x23, 0x87654321, 0x2b };
	memcpy(m->ram + TEST_DATA, env, sizeof(env));
	test_run_ok(m, env_roundtrip);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 12, 4), 0x12345678);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 20, 4), 0x87654321);
}

/* ---- XSAVE: only the components asked for are there to fault ---- */

CODE64(xsave_all, "mov eax, 7; xor edx, edx; xsave [rsi]");
CODE64(xsave_sse, "mov eax, 3; xor edx, edx; xsave [rsi]");
CODE64(xrstor_sse, "mov eax, 3; xor edx, edx; xrstor [rsi]");

static void test_xsave_size(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA + 0x1000 - 576);
	test_page(m, 1, TEST_ABSENT);
	test_run_ok(m, xsave_sse);
	assert_int_equal(m->ram[TEST_DATA + 0x1000 - 576 + 512] & 4, 0);
	m = begin(state, TEST_DATA + 0x1000 - 576);
	test_page(m, 1, TEST_ABSENT);
	test_put(m, TEST_DATA + 0x1000 - 576 + 24, 0x1f80, 4);
	test_run_ok(m, xrstor_sse);
	m = begin(state, TEST_DATA + 0x1000 - 576);
	test_page(m, 1, TEST_ABSENT);
	assert_int_equal(test_run(m, xsave_all), PF);
	assert_int_equal(m->state.gpr[RAX], 7);
	assert_int_equal(m->state.cr2, TEST_DATA + 0x1000);
	m = begin(state, TEST_DATA + 8);
	assert_int_equal(test_run(m, xsave_all), GP);
	assert_int_equal(m->state.gpr[RAX], 7);
}

CODE64(xsave_roundtrip, "xsavec64 [rsi]; vpxor ymm1, ymm1, ymm1; fninit; xrstor64 [rsi]");
CODE64(xsave_ask_all, "xsave [rsi]");
CODE64(xrstor_all, "xrstor [rsi]");

static void xsave_begin(struct test_machine *m, uint64_t xcr0)
{
	m->state.xcr0 = xcr0;
	m->state.gpr[RAX] = m->state.gpr[RDX] = ~0ull;
	test_set_ymm(m, 1, "0123456789abcdefghijklmnopqrstuv");
}

/* A guest sees the components of its own XCR0 and no others of the host's. */
static void test_xsave_components(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA);
	char ymm[32];
	xsave_begin(m, 7);
	test_run_ok(m, xsave_roundtrip);
	test_get_ymm(m, 1, ymm);
	assert_memory_equal(ymm, "0123456789abcdefghijklmnopqrstuv", 32);
	assert_int_equal(test_get(m, TEST_DATA + 520, 8), 1ull << 63 | 7);
	m = begin(state, TEST_DATA);
	xsave_begin(m, 3);
	memset(m->ram + TEST_DATA + 512, 0, 64);
	memset(m->ram + TEST_DATA + 576, 0xee, 512);
	test_run_ok(m, xsave_ask_all);
	assert_int_equal(test_get(m, TEST_DATA + 512, 8) & ~3ull, 0);
	assert_int_equal(m->ram[TEST_DATA + 576], 0xee);
	assert_int_equal(m->state.gpr[RAX], ~0ull);
	assert_int_equal(m->state.gpr[RDX], ~0ull);

	static const struct {
		uint64_t xcr0, bv, comp;
		int vector;
	} headers[] = {
		{ 7, 7, 0, TEST_NO_VECTOR },
		{ 3, 7, 0, GP },
		{ 3, 3, 0, TEST_NO_VECTOR },
		{ 7, 0x20, 0, GP },
		{ 7, 7, 1ull << 63 | 7, TEST_NO_VECTOR },
		{ 7, 7, 1ull << 63 | 0xe7, GP },
		{ 7, 7, 1ull << 63 | 3, GP },
		{ 7, 1ull << 63, 0, GP },
		{ 7, 3, 7, GP },
	};
	for (unsigned i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
		m = begin(state, TEST_DATA);
		xsave_begin(m, headers[i].xcr0);
		test_put(m, TEST_DATA + 24, 0x1f80, 4);
		test_put(m, TEST_DATA + 512, headers[i].bv, 8);
		test_put(m, TEST_DATA + 520, headers[i].comp, 8);
		assert_int_equal(test_run(m, xrstor_all), headers[i].vector);
	}
}

/* ---- REP MOVS and REP STOS ---- */

CODE64(move_bytes, "rep movsb");
CODE64(move_quads, "rep movsq");
CODE64(fill_words, "mov ax, 0x1234; rep stosw");
CODE64(move_over_code,
       "lea rdi, [rip + 1f]; lea rsi, [rip + 2f]; mov ecx, 5; rep movsb; 1: mov eax, 5; jmp 3f; 2: mov eax, 9; 3:");

static struct test_machine *string_begin(void **state, uint64_t from, uint64_t to, uint64_t count)
{
	struct test_machine *m = begin(state, from);
	for (unsigned i = 0; i < 0x4000; i += 8)
		test_put(m, TEST_DATA + i, 0x0101010101010101 * (i & 0x7f), 8);
	m->state.gpr[RDI] = to;
	m->state.gpr[RCX] = count;
	return m;
}

/* Pages as a whole and in parts, overlapping, across pages; nothing at all, wherever that is; and up to a fault. */
static void test_strings(void **state)
{
	struct test_machine *m = string_begin(state, TEST_DATA, TEST_DATA + 0x2000, 4096);
	m->ram[TEST_DATA + 4095] = 0xab;
	test_run_ok(m, move_bytes);
	test_run_ok(m, move_bytes); /* rCX is 0 now */
	assert_memory_equal(m->ram + TEST_DATA, m->ram + TEST_DATA + 0x2000, 4096);
	assert_int_equal(m->ram[TEST_DATA + 0x3000], 0);
	assert_int_equal(m->state.gpr[RSI], TEST_DATA + 0x1000);
	assert_int_equal(m->state.gpr[RDI], TEST_DATA + 0x3000);
	assert_int_equal(m->state.gpr[RCX], 0);
	m = string_begin(state, TEST_DATA + 8, TEST_DATA + 16, 512);
	test_run_ok(m, move_quads); /* each sees the one before */
	test_run_ok(m, move_quads);
	for (unsigned i = 16; i < 16 + 4096; i += 8)
		assert_int_equal(test_get(m, TEST_DATA + i, 8), 0x0808080808080808);
	m = string_begin(state, TEST_DATA, TEST_DATA + 0xffe, 2);
	test_run_ok(m, fill_words);
	assert_int_equal(test_get(m, TEST_DATA + 0xffe, 4), 0x12341234);
	m = string_begin(state, 0x7000000000, 0x7000000000, 0);
	test_run_ok(m, move_bytes);
	m = string_begin(state, TEST_DATA, TEST_DATA + 0xff0, 32);
	test_page(m, 1, TEST_READONLY);
	assert_int_equal(test_run(m, move_bytes), PF);
	assert_int_equal(m->state.gpr[RCX], 16);
	assert_int_equal(m->state.gpr[RDI], TEST_DATA + 0x1000);
	test_page(m, 1, TEST_WRITABLE);
	m = string_begin(state, TEST_DATA, 0, 0);
	test_run_ok(m, move_over_code);
	assert_int_equal(m->state.gpr[RAX], 9);
}

/* ---- read and written, whatever comes of it ---- */

CODE64(cx8, "cmpxchg8b [rsi]");
CODE64(cx16, "lock cmpxchg16b [rsi]");
CODE64(cx, "cmpxchg [rsi], rcx");

static void test_cmpxchg(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA + 0xffc);
	test_put(m, TEST_DATA + 0xffc, 0x1111111122222222, 8);
	m->state.gpr[RAX] = 0x22222222, m->state.gpr[RDX] = 0x11111111;
	m->state.gpr[RBX] = 0x33333333, m->state.gpr[RCX] = 0x44444444;
	test_run_ok(m, cx8);
	assert_int_equal(test_get(m, TEST_DATA + 0xffc, 8), 0x4444444433333333);
	assert_true(m->state.rflags & ZF);
	test_run_ok(m, cx8);
	assert_false(m->state.rflags & ZF);
	assert_int_equal(m->state.gpr[RAX], 0x33333333);
	assert_int_equal(m->state.gpr[RDX], 0x44444444);

	m = begin(state, TEST_DATA + 0x10);
	m->state.gpr[RBX] = 1, m->state.gpr[RCX] = 2;
	test_run_ok(m, cx16);
	assert_int_equal(test_get(m, TEST_DATA + 0x10, 8), 1);
	assert_int_equal(test_get(m, TEST_DATA + 0x18, 8), 2);
	m = begin(state, TEST_DATA + 8);
	assert_int_equal(test_run(m, cx16), GP);
	m = begin(state, TEST_DATA + 0xff8);
	assert_int_equal(test_run(m, cx16), GP);

	/* A comparison that fails writes too. */
	m = begin(state, TEST_DATA);
	test_page(m, 0, TEST_READONLY);
	m->state.gpr[RAX] = 5;
	assert_int_equal(test_run(m, cx), PF);
	assert_int_equal(m->frame.error, 3);
	assert_int_equal(m->state.gpr[RAX], 5);
	m = begin(state, TEST_DEVICE + 0x10);
	m->state.gpr[RAX] = 5;
	test_run_ok(m, cx);
	assert_int_equal(m->mmio_count, 2);
	assert_true(m->mmio[1].write);
	assert_int_equal(m->mmio[1].data, 0x1716151413121110);
	assert_int_equal(m->state.gpr[RAX], 0x1716151413121110);
}

CODE64(lock_add, "lock add qword ptr [rsi], 1");
CODE64(xchg, "xchg [rsi], r11");
CODE64(lock_xadd, "lock xadd [rsi], r15d");

static void test_locked_across_pages(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA + 0xffd);
	test_put(m, TEST_DATA + 0xffd, 0xffffff, 8);
	test_run_ok(m, lock_add);
	assert_int_equal(test_get(m, TEST_DATA + 0xffd, 8), 0x1000000);
	m->state.gpr[R11] = 0x1122334455667788;
	test_run_ok(m, xchg);
	assert_int_equal(test_get(m, TEST_DATA + 0xffd, 8), 0x1122334455667788);
	assert_int_equal(m->state.gpr[R11], 0x1000000);
	m->state.gpr[R15] = ~0ull;
	test_run_ok(m, lock_xadd);
	assert_int_equal(m->state.gpr[R15], 0x55667788);
	assert_int_equal(test_get(m, TEST_DATA + 0xffd, 8), 0x1122334455667787);
	/* No part of it is done when the other can't be. */
	m = begin(state, TEST_DATA + 0xffd);
	test_page(m, 1, TEST_READONLY);
	assert_int_equal(test_run(m, lock_add), PF);
	assert_int_equal(m->state.cr2, TEST_DATA + 0x1000);
	assert_int_equal(test_get(m, TEST_DATA + 0xffd, 8), 0);
}

/* ---- stack ---- */

CODE64(push16, "push ax; push word ptr [rsi]; .byte 0x66, 0x6a, 0xfe; .byte 0x66, 0x68, 0x34, 0x12; mov rbx, rsp");
CODE64(pop16, "pop ax; pop word ptr [rsi]; pop r11w");
CODE64(push_pop_rsp,
       "push rsp; pop rax; push rsp; pop rsp; push qword ptr [rsp - 8]; pop qword ptr [rsp + 8]; mov rbx, rsp");
CODE64(pop_mem, "pop qword ptr [rsi]");
CODE64(pop_rsp_index, "pop qword ptr [rsp + rax * 8 - 16]");
CODE64(push_fault, "push qword ptr [rsi]");
CODE64(call_mem, "call qword ptr [rsi]");

static void test_push_pop(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA);
	m->state.gpr[RAX] = 0xaabb;
	test_put(m, TEST_DATA, 0xccdd, 2);
	test_run_ok(m, push16);
	assert_int_equal(m->state.gpr[RBX], TEST_STACK - 8);
	assert_int_equal(test_get(m, TEST_STACK - 8, 8), 0xaabbccddfffe1234);
	m->state.gpr[RAX] = m->state.gpr[R11] = ~0ull;
	test_run_ok(m, pop16);
	assert_int_equal(m->state.gpr[RSP], TEST_STACK - 2);
	assert_int_equal(m->state.gpr[RAX], 0xffffffffffff1234);
	assert_int_equal(test_get(m, TEST_DATA, 2), 0xfffe);
	assert_int_equal(m->state.gpr[R11], 0xffffffffffffccdd);

	m = begin(state, TEST_DATA);
	test_run_ok(m, push_pop_rsp);
	assert_int_equal(m->state.gpr[RAX], TEST_STACK);
	assert_int_equal(m->state.gpr[RBX], TEST_STACK);
	assert_int_equal(test_get(m, TEST_STACK + 8, 8), TEST_STACK);
}

static void test_stack_faults(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA);
	test_page(m, 0, TEST_READONLY);
	assert_int_equal(test_run(m, pop_mem), PF);
	assert_int_equal(m->frame.rsp, TEST_STACK);
	m = begin(state, TEST_DATA);
	m->state.gpr[RAX] = 1;
	test_put(m, TEST_STACK, 0x1234, 8);
	test_run_ok(m, pop_rsp_index); /* [rsp] after the pop, less 8 */
	assert_int_equal(test_get(m, TEST_STACK, 8), 0x1234);
	assert_int_equal(m->state.gpr[RSP], TEST_STACK + 8);
	m = begin(state, TEST_DATA);
	test_page(m, 0, TEST_ABSENT);
	assert_int_equal(test_run(m, push_fault), PF);
	assert_int_equal(m->frame.rsp, TEST_STACK);
	m = begin(state, TEST_DATA);
	test_page(m, 0, TEST_ABSENT);
	assert_int_equal(test_run(m, call_mem), PF);
	assert_int_equal(m->frame.rsp, TEST_STACK);
	assert_int_equal(m->frame.rip, TEST_CODE);
}

/* A store by a C helper into the code that follows is seen by it. */
CODE64(push16_code, "lea rsp, [rip + 1f + 3]; push ax; 1: mov ecx, 5");
CODE64(sidt_code, "lea rsi, [rip + 1f + 2]; sidt [rsi]; 1: movabs rcx, 5; nop; nop");

static void test_helper_writes_code(void **state)
{
	struct test_machine *m = begin(state, 0);
	m->state.gpr[RAX] = 9;
	test_run_ok(m, push16_code);
	assert_int_equal(m->state.gpr[RCX], 9);
	m = begin(state, 0);
	m->state.idtr.base = 0x9090000012345678; /* limit and base are the constant, and its last bytes the NOPs */
	test_run_ok(m, sidt_code);
	assert_int_equal(m->state.gpr[RCX], 0x1234567801ff);
}

CODE64(enter0, "enter 32, 0; mov rbx, rsp; leave");
CODE64(enter3, "mov rbp, rsi; enter 16, 3; mov rbx, rsp");
CODE64(enter16, ".byte 0x66; enter 8, 1; mov rbx, rsp");

static void test_enter(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA);
	m->state.gpr[RBP] = 0x1111;
	test_run_ok(m, enter0);
	assert_int_equal(m->state.gpr[RBX], TEST_STACK - 8 - 32);
	assert_int_equal(m->state.gpr[RSP], TEST_STACK);
	assert_int_equal(m->state.gpr[RBP], 0x1111);
	m = begin(state, TEST_DATA + 0x100);
	test_put(m, TEST_DATA + 0xf8, 0xaaaa, 8);
	test_put(m, TEST_DATA + 0xf0, 0xbbbb, 8);
	test_run_ok(m, enter3);
	assert_int_equal(m->state.gpr[RBP], TEST_STACK - 8);
	assert_int_equal(m->state.gpr[RBX], TEST_STACK - 8 * 4 - 16);
	assert_int_equal(test_get(m, TEST_STACK - 8, 8), TEST_DATA + 0x100);
	assert_int_equal(test_get(m, TEST_STACK - 16, 8), 0xaaaa);
	assert_int_equal(test_get(m, TEST_STACK - 24, 8), 0xbbbb);
	assert_int_equal(test_get(m, TEST_STACK - 32, 8), TEST_STACK - 8);
	m = begin(state, TEST_DATA);
	m->state.gpr[RBP] = 0x5555444433332222;
	test_run_ok(m, enter16);
	assert_int_equal(m->state.gpr[RBX], TEST_STACK - 4 - 8);
	assert_int_equal(test_get(m, TEST_STACK - 2, 2), 0x2222);
	assert_int_equal(test_get(m, TEST_STACK - 4, 2), (TEST_STACK - 2) & 0xffff);
	/* The place that it would leave the stack pointer at can't be written. */
	m = begin(state, TEST_DATA);
	m->state.gpr[RSP] = TEST_DATA + 0x1080;
	m->state.gpr[RBP] = 0x77;
	test_page(m, 0, TEST_READONLY);
	test_page(m, 1, TEST_WRITABLE);
	static const uint8_t enter_far[] = { 0xc8, 0x00, 0x01, 0x00 };
	/* (the exception is pushed on the same stack, which has room) */
	assert_int_equal(test_run_at(m, enter_far, enter_far + sizeof(enter_far)), PF);
	assert_int_equal(m->state.gpr[RBP], 0x77);
	assert_int_equal(m->frame.rsp, TEST_DATA + 0x1080);
}

/* ---- addresses of their own kind ---- */

CODE64(xlat_fs, ".byte 0x64; xlatb");
CODE64(xlat_addr32, ".byte 0x67; xlatb");

static void test_xlat(void **state)
{
	struct test_machine *m = begin(state, 0);
	m->ram[TEST_DATA + 0x185] = 0x99;
	m->state.gpr[RAX] = 0xffffffffffffff85;
	m->state.gpr[RBX] = 0x40;
	m->state.seg[ENGINE_FS].base = TEST_DATA + 0xc0;
	test_run_ok(m, xlat_fs);
	assert_int_equal(m->state.gpr[RAX], 0xffffffffffffff99);
	m = begin(state, 0);
	m->ram[TEST_DATA + 0x185] = 0x99;
	m->state.gpr[RAX] = 0x85;
	m->state.gpr[RBX] = 0xabcdef0000000000 | (TEST_DATA + 0x100);
	test_run_ok(m, xlat_addr32);
	assert_int_equal(m->state.gpr[RAX], 0x99);
}

CODE64(bt64, "stc; bts [rsi], rax; setc bl; lock btr [rsi], r10; setc bh; btc [rsi], r11; setc cl");
CODE64(bt32, "bts [rsi], eax; bts [rsi], r10d; bts [rsi], r11d");
CODE64(bt16, "bts [rsi], ax; bts [rsi], r10w; bts [rsi], r11w");
CODE64(bt_addr32, "bts [esi], eax");
CODE64(bt_imm, "bts qword ptr [rsi], 63; bt dword ptr [rsi + 4], 63; setc bl");
CODE64(bt_flags, "mov edx, 0x80000000; add edx, edx; bt [rsi], rax; seto bl; setz bh; setc cl");

static void test_bit_strings(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA + 0x800);
	m->state.gpr[RAX] = 0x1000;            /* 512 bytes on */
	m->state.gpr[R10] = (uint64_t)-0x2000; /* 1 KiB back */
	m->state.gpr[R11] = (uint64_t)-1;
	m->ram[TEST_DATA + 0x400] = 0xff;
	test_run_ok(m, bt64);
	assert_int_equal(m->ram[TEST_DATA + 0xa00], 1);
	assert_int_equal(m->ram[TEST_DATA + 0x400], 0xfe);
	assert_int_equal(m->ram[TEST_DATA + 0x7ff], 0x80);
	assert_int_equal(m->state.gpr[RBX] & 0xffff, 0x100);
	assert_int_equal(m->state.gpr[RCX] & 0xff, 0);
	m = begin(state, TEST_DATA + 0x800);
	m->state.gpr[RAX] = 0xaaaaaaaa00000005; /* the upper half does not count */
	m->state.gpr[R10] = (uint32_t)-32;
	m->state.gpr[R11] = 0x7f;
	test_run_ok(m, bt32);
	assert_int_equal(test_get(m, TEST_DATA + 0x7fc, 8), 0x2000000001);
	assert_int_equal(m->ram[TEST_DATA + 0x80f], 0x80);
	m = begin(state, TEST_DATA + 0x800);
	m->state.gpr[RAX] = 0xffffffffffff0011;
	m->state.gpr[R10] = 0x8000; /* 4 KiB back */
	m->state.gpr[R11] = 0xfff0;
	m->state.gpr[RSI] = TEST_DATA + 0x1800;
	test_run_ok(m, bt16);
	assert_int_equal(m->ram[TEST_DATA + 0x1802], 2);
	assert_int_equal(m->ram[TEST_DATA + 0x800], 1);
	assert_int_equal(m->ram[TEST_DATA + 0x17fe], 1);
	m = begin(state, 0xffffffff00000000 | (TEST_DATA + 0x800));
	m->state.gpr[RAX] = 8;
	test_run_ok(m, bt_addr32);
	assert_int_equal(m->ram[TEST_DATA + 0x801], 1);
	m = begin(state, TEST_DATA);
	test_run_ok(m, bt_imm);
	assert_int_equal(m->ram[TEST_DATA + 7], 0x80);
	assert_int_equal(m->state.gpr[RBX] & 0xff, 1);
	m = begin(state, TEST_DATA);
	test_run_ok(m, bt_flags); /* 0x80000000 + 0x80000000: OF, ZF; BT leaves them */
	assert_int_equal(m->state.gpr[RBX] & 0xffff, 0x101);
	assert_int_equal(m->state.gpr[RCX] & 0xff, 0);
}

CODE64(bad_rbp, "mov rax, [rbp + 8]");
CODE64(bad_rsp, "mov [rsp + rax], cl");
CODE64(bad_rbx, "add [rbx], cl");
CODE64(bad_ds_rbp, "mov rax, ds:[rbp + 8]");
CODE64(bad_gs_rbp, "mov rax, gs:[rbp + 8]");

static void test_bad_addresses(void **state)
{
	struct test_machine *m = begin(state, 0);
	m->state.gpr[RBP] = m->state.gpr[RBX] = 1ull << 63;
	assert_int_equal(test_run(m, bad_rbp), SS);
	m = begin(state, 0);
	m->state.gpr[RAX] = 1ull << 62;
	assert_int_equal(test_run(m, bad_rsp), SS);
	m = begin(state, 0);
	m->state.gpr[RBX] = 1ull << 63;
	assert_int_equal(test_run(m, bad_rbx), GP);
	m = begin(state, 0);
	m->state.gpr[RBP] = 1ull << 63;
	assert_int_equal(test_run(m, bad_gs_rbp), GP);
}

/* ---- bytes in another order, and other things with a 66 in front ---- */

CODE64(movbe, "movbe rax, [rsi]; movbe ecx, [rsi]; movbe r10w, [rsi]; movbe [rsi + 8], r10d; movbe [rsi + 16], ax;"
	      "movbe [rsi + 24], rax");
CODE64(counts, "mov rax, -1; popcnt ax, word ptr [rsi]; mov rcx, -1; lzcnt cx, word ptr [rsi]; mov rdx, -1;"
	       "tzcnt dx, word ptr [rsi]; popcnt r10, [rsi]");
CODE64(crc,
       "crc32 eax, byte ptr [rsi]; crc32 ecx, word ptr [rsi]; crc32 edx, dword ptr [rsi]; crc32 rbx, qword ptr [rsi];"
       "crc32 edi, ah; crc32 r10, r11b");

static uint32_t crc32c(uint32_t crc, uint64_t value, unsigned size)
{
	for (unsigned i = 0; i < 8 * size; i++) {
		crc = crc >> 1 ^ (((crc ^ value) & 1) ? 0x82f63b78 : 0);
		value >>= 1;
	}
	return crc;
}

static void test_operand_sizes(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA);
	uint64_t v = 0x1122334455667788;
	test_put(m, TEST_DATA, v, 8);
	m->state.gpr[R10] = ~0ull;
	test_run_ok(m, movbe);
	assert_int_equal(m->state.gpr[RAX], 0x8877665544332211);
	assert_int_equal(m->state.gpr[RCX], 0x88776655);
	assert_int_equal(m->state.gpr[R10], 0xffffffffffff8877);
	assert_int_equal(test_get(m, TEST_DATA + 8, 8), 0x7788ffff);
	assert_int_equal(test_get(m, TEST_DATA + 16, 8), 0x1122);
	assert_int_equal(test_get(m, TEST_DATA + 24, 8), v);

	m = begin(state, TEST_DATA);
	test_put(m, TEST_DATA, 0xffffffffffff0f00, 8);
	test_run_ok(m, counts);
	assert_int_equal(m->state.gpr[RAX], 0xffffffffffff0004);
	assert_int_equal(m->state.gpr[RCX], 0xffffffffffff0004);
	assert_int_equal(m->state.gpr[RDX], 0xffffffffffff0008);
	assert_int_equal(m->state.gpr[R10], 52);

	m = begin(state, TEST_DATA);
	test_put(m, TEST_DATA, v, 8);
	m->state.gpr[RBX] = 0xffffffff00000005;
	m->state.gpr[RDI] = 7;
	m->state.gpr[R10] = 0xffffffff00000009;
	m->state.gpr[R11] = 0x1234;
	test_run_ok(m, crc);
	uint32_t eax = crc32c(0, v & 0xff, 1);
	assert_int_equal(m->state.gpr[RAX], eax);
	assert_int_equal(m->state.gpr[RCX], crc32c(0, v & 0xffff, 2));
	assert_int_equal(m->state.gpr[RDX], crc32c(0, v & 0xffffffff, 4));
	assert_int_equal(m->state.gpr[RBX], crc32c(5, v, 8));
	assert_int_equal(m->state.gpr[RDI], crc32c(7, eax >> 8 & 0xff, 1));
	assert_int_equal(m->state.gpr[R10], crc32c(9, 0x34, 1));
}

/* The same in 16- and 32-bit code, where 66 means the opposite, or REX's neighbours are other instructions. */
CODE16(code16, "movbe ax, [si]; movbe ecx, [si]; mov bx, 0xfffe; popcnt dx, [si]; lock add dword ptr [si + 8], 5; "
	       "movq mm0, [si]; movq [si + 16], mm0; movdqu xmm1, [si]; movdqu [si + 32], xmm1; fnstenv [si + 64]");

static void test_16_bit_code(void **state)
{
	struct test_machine *m = begin(state, 0x2000);
	test_bits(m, 16);
	for (unsigned i = 0; i < 6; i++)
		m->state.seg[i].limit = i == ENGINE_CS ? 0xffffffff : 0xffff;
	m->state.seg[ENGINE_DS].base = TEST_DATA - 0x2000;
	test_put(m, TEST_DATA, 0x1122334455667788, 8);
	memset(m->ram + TEST_DATA + 64, 0xee, 32);
	test_run_ok(m, code16);
	assert_int_equal(m->state.gpr[RAX] & 0xffff, 0x8877);
	assert_int_equal(m->state.gpr[RCX], 0x88776655);
	assert_int_equal(m->state.gpr[RDX] & 0xffff, 8);
	assert_int_equal(test_get(m, TEST_DATA + 8, 8), 5);
	assert_int_equal(test_get(m, TEST_DATA + 16, 8), 0x1122334455667788);
	assert_int_equal(test_get(m, TEST_DATA + 24, 8), 0);
	assert_memory_equal(m->ram + TEST_DATA, m->ram + TEST_DATA + 32, 16);
	assert_int_equal(test_get(m, TEST_DATA + 64 + 14, 2), 0xeeee); /* the 16-bit form is that long */
}

/* ---- exceptions of vector arithmetic ---- */

CODE64(divps, "ldmxcsr [rsi]; divss xmm0, dword ptr [rsi + 4]");

static void test_simd_exception(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA);
	static const float one[4] = { 1 };
	test_put(m, TEST_DATA, 0x1d80, 4); /* #Z unmasked */
	memcpy(m->state.xsave + 160, one, 16);
	m->state.xsave[512] |= 3;
	assert_int_equal(test_run(m, divps), XM);
	m = begin(state, TEST_DATA);
	test_put(m, TEST_DATA, 0x1d80, 4);
	memcpy(m->state.xsave + 160, one, 16);
	m->state.xsave[512] |= 3;
	m->state.cr4 &= ~0x400ull; /* OSXMMEXCPT */
	assert_int_equal(test_run(m, divps), UD);
}

CODE64(x87_pending, "fldcw [rsi + 8]; fld1; fdiv dword ptr [rsi]; mov eax, 1; fld qword ptr [rsi + 16]");

static void test_x87_exception(void **state)
{
	struct test_machine *m = begin_x87(state);
	assert_int_equal(test_run(m, x87_pending), MF);
	assert_int_equal(m->state.gpr[RAX], 1);
	assert_int_equal(m->frame.rip, FDIV + 2 + 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_x87_environment, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_x87_images, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_x87_roundtrip, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_xsave_size, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_xsave_components, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_strings, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_cmpxchg, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_locked_across_pages, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_push_pop, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_stack_faults, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_helper_writes_code, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_enter, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_xlat, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_bit_strings, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_bad_addresses, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_operand_sizes, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_16_bit_code, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_simd_exception, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_x87_exception, test_setup, test_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
