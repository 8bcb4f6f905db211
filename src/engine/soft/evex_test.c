/* SPDX-License-Identifier: Apache-2.0 */
/* evex_test.c - AVX-512: which elements are accessed under a mask, what a fault leaves behind, and whose state it is. What
 * instructions compute is diff_test.c's. */
#include "engine/soft/test_machine.h"

#include <cpuid.h>

#include "base/sanitized.h"

enum { PF = 14, UD = 6, GP = 13 };
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
enum { OUT = TEST_DATA + 0x3000, FILLED = 0x4000 };

/* A machine whose guest has AVX-512; skips where the host has not, or libc's registers are not the guest's. */
static struct test_machine *begin(void **state, uint64_t at, uint64_t mask)
{
	struct test_machine *m = *state;
	if (SANITIZED || !__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw"))
		skip();
	test_state(m);
	m->state.xcr0 = 0xe7;
	for (unsigned i = 0; i < FILLED; i += 4)
		test_put(m, TEST_DATA + i, 0x1000 + i, 4);
	m->state.gpr[RSI] = at;
	m->state.gpr[RDI] = OUT;
	m->state.gpr[RAX] = mask;
	m->state.gpr[RDX] = 0xdeadbeef;
	return m;
}

static uint32_t word(const struct test_machine *m, uint64_t at)
{
	return (uint32_t)test_get(m, at, 4);
}

/* ---- masked operands ---- */

CODE64(load, "kmovq k1, rax; vpbroadcastd zmm1, edx; vmovdqu32 zmm1{k1}, [rsi]; vmovdqu64 [rdi], zmm1");
CODE64(add_broadcast, "kmovq k1, rax; vpbroadcastd zmm17, edx; vpaddd zmm17{k1}, zmm17, [rsi]{1to16};"
		      "vmovdqu64 [rdi], zmm17");
CODE64(expand, "kmovq k1, rax; vpbroadcastd zmm1, edx; vpexpandd zmm1{k1}, [rsi]; vmovdqu64 [rdi], zmm1");
CODE64(store, "kmovq k1, rax; vpbroadcastd zmm1, edx; vmovdqu32 [rsi]{k1}, zmm1");
CODE64(store_low, "kmovq k1, rax; vpbroadcastd zmm1, edx; vpmovdb [rsi]{k1}, zmm1");
CODE64(compress, "kmovq k1, rax; vpbroadcastd zmm1, edx; vpcompressd [rsi]{k1}, zmm1");
CODE64(aligned, "kmovq k1, rax; vmovdqa32 [rsi]{k1}, zmm1");

/* The operand begins 16 bytes before a page that is not there. */
static void test_loads_at_the_edge(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA + 0xff0, 0x000b);
	test_page(m, 1, TEST_ABSENT);
	test_run_ok(m, load);
	static const uint32_t want[4] = { 0x1ff0, 0x1ff4, 0xdeadbeef, 0x1ffc };
	assert_memory_equal(m->ram + OUT, want, 16);
	assert_int_equal(word(m, OUT + 16), 0xdeadbeef);
	begin(state, TEST_DATA + 0xff0, 0x800b);
	assert_int_equal(test_run(m, load), PF);
	assert_int_equal(m->frame.error, 0);
	assert_int_equal(m->state.cr2 & ~0xfffull, TEST_DATA + 0x1000);
	/* An expansion reads as many elements as there are bits. */
	begin(state, TEST_DATA + 0xff0, 0xf000);
	test_run_ok(m, expand);
	assert_int_equal(word(m, OUT + 60), 0x1ffc);
	begin(state, TEST_DATA + 0xff0, 0xf001);
	assert_int_equal(test_run(m, expand), PF);
	/* What no lane wants is not read. */
	begin(state, TEST_DATA + 0x1000, 0);
	test_run_ok(m, add_broadcast);
	assert_int_equal(word(m, OUT), 0xdeadbeef);
	begin(state, TEST_DATA + 0x1000, 0x0100);
	assert_int_equal(test_run(m, add_broadcast), PF);
}

static void test_stores_at_the_edge(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA + 0xff0, 0x000b);
	test_page(m, 1, TEST_READONLY);
	test_run_ok(m, store);
	assert_int_equal(word(m, TEST_DATA + 0xff4), 0xdeadbeef);
	assert_int_equal(word(m, TEST_DATA + 0xff8), 0x1ff8);
	/* The fault comes before any element is written. */
	begin(state, TEST_DATA + 0xff0, 0x001b);
	assert_int_equal(test_run(m, store), PF);
	assert_int_equal(m->frame.error, 3);
	assert_int_equal(word(m, TEST_DATA + 0xff4), 0x1ff4);
	begin(state, TEST_DATA + 0xff0, 0xf000);
	test_run_ok(m, compress);
	assert_int_equal(word(m, TEST_DATA + 0xffc), 0xdeadbeef);
	assert_int_equal(word(m, TEST_DATA + 0x1000), 0x2000);
	begin(state, TEST_DATA + 0xffe, 3);
	test_run_ok(m, store_low);
	assert_int_equal(word(m, TEST_DATA + 0xffc), 0xefef1ffc);
	begin(state, TEST_DATA + 0xffe, 7);
	assert_int_equal(test_run(m, store_low), PF);
	begin(state, TEST_DATA + 0xfe0, 1);
	assert_int_equal(test_run(m, aligned), GP);
	test_page(m, 1, TEST_WRITABLE);
	begin(state, TEST_DATA + 0xff0, 0x801b);
	test_run_ok(m, store);
	assert_int_equal(word(m, TEST_DATA + 0x102c), 0xdeadbeef);
	assert_int_equal(word(m, TEST_DATA + 0x1028), 0x2028);
}

static void test_device(void **state)
{
	struct test_machine *m = begin(state, TEST_DEVICE + 0x20, 0x14);
	test_run_ok(m, store);
	assert_int_equal(m->mmio_count, 2);
	assert_int_equal(m->mmio[0].gpa, TEST_DEVICE + 0x28);
	assert_int_equal(m->mmio[0].data, 0xdeadbeef);
	assert_int_equal(m->mmio[1].gpa, TEST_DEVICE + 0x30);
	begin(state, TEST_DEVICE + 0x20, 0x14);
	test_run_ok(m, load);
	assert_int_equal(m->mmio_count, 2);
	assert_int_equal(word(m, OUT + 8), 0x2b2a2928);
	assert_int_equal(word(m, OUT + 4), 0xdeadbeef);
}

CODE64(store_code, "lea rsi, [rip + 1f - 4]; kmovq k1, rax; vpbroadcastd zmm1, edx; vmovdqu32 [rsi]{k1}, zmm1;"
		   ".balign 4, 0x90; nop; nop; nop; 1: mov eax, 5; .balign 8, 0x90");

static void test_code(void **state)
{
	struct test_machine *m = begin(state, 0, 2);
	m->state.gpr[RDX] = 0x000009b8;
	test_run_ok(m, store_code);
	assert_int_equal(m->state.gpr[RAX], 9);
}

/* ---- gathers and scatters ---- */

CODE64(gather, "kmovq k1, rax; vpbroadcastd zmm1, edx; vmovdqu64 zmm18, [rbx]; vpgatherdd zmm1{k1}, [rsi + zmm18 * 4];"
	       "vmovdqu64 [rdi], zmm1");
CODE64(scatter,
       "kmovq k1, rax; vpbroadcastd zmm1, edx; vmovdqu64 zmm18, [rbx]; vpscatterdd [rsi + zmm18 * 4]{k1}, zmm1");

/* Index i of 16; the last two are in the page after. */
static struct test_machine *indexes(void **state, uint64_t mask)
{
	struct test_machine *m = begin(state, TEST_DATA, mask);
	for (unsigned i = 0; i < 16; i++)
		test_put(m, TEST_DATA + 0x2800 + 4 * i, i < 14 ? i * 3 : 0x400 + i, 4);
	m->state.gpr[RBX] = TEST_DATA + 0x2800;
	return m;
}

static void test_gather(void **state)
{
	struct test_machine *m = indexes(state, 0x4011);
	test_run_ok(m, gather);
	assert_int_equal(word(m, OUT), 0x1000);
	assert_int_equal(word(m, OUT + 4), 0xdeadbeef);
	assert_int_equal(word(m, OUT + 16), 0x1000 + 48);
	assert_int_equal(word(m, OUT + 56), 0x2000 + 56);
	indexes(state, 0x4011);
	test_page(m, 1, TEST_ABSENT);
	assert_int_equal(test_run(m, gather), PF);
	uint64_t mask;
	unsigned size, offset, c, d;
	__cpuid_count(0xd, 5, size, offset, c, d);
	memcpy(&mask, m->state.xsave + offset + 8, 8);
	assert_int_equal(mask, 0x4000); /* what was done is done */
	test_page(m, 1, TEST_WRITABLE);
}

static void test_scatter(void **state)
{
	struct test_machine *m = indexes(state, 0x4011);
	test_run_ok(m, scatter);
	assert_int_equal(word(m, TEST_DATA), 0xdeadbeef);
	assert_int_equal(word(m, TEST_DATA + 12), 0x100c);
	assert_int_equal(word(m, TEST_DATA + 48), 0xdeadbeef);
	assert_int_equal(word(m, TEST_DATA + 0x1000 + 56), 0xdeadbeef);
	indexes(state, 0x4011);
	test_page(m, 1, TEST_READONLY);
	assert_int_equal(test_run(m, scatter), PF);
	assert_int_equal(word(m, TEST_DATA + 48), 0xdeadbeef);
	test_page(m, 1, TEST_WRITABLE);
}

/* ---- state ---- */

CODE64(through_c, "kmovq k2, rax; vpbroadcastd zmm31, edx; vpbroadcastd zmm3, edx; xor eax, eax; cpuid;"
		  "kmovq rcx, k2; vmovdqu64 [rdi], zmm31; vmovdqu64 [rdi + 64], zmm3");
CODE64(enable, "xor ecx, ecx; xor edx, edx; mov eax, 0xe7; xsetbv; kmovq rcx, k3; vmovdqu64 [rdi], zmm30");
CODE64(mask_only, "kmovq rcx, k1");
CODE64(high_only, "vpxord zmm17, zmm17, zmm17");
CODE64(restore, "mov eax, -1; mov edx, eax; xsave64 [rsi]; vpxord zmm17, zmm17, zmm17; kxnorq k1, k1, k1;"
		"xrstor64 [rsi]; vmovdqu64 [rdi], zmm17; kmovq rcx, k1");
CODE64(prepare, "kmovq k1, rax; vpbroadcastd zmm17, edx");

/* C code, which may use any vector register, does not change the guest's. */
static void test_through_c(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA, 0x123456789abcdef0);
	test_run_ok(m, through_c);
	assert_int_equal(m->state.gpr[RCX], 0x123456789abcdef0);
	for (unsigned i = 0; i < 128; i += 4)
		assert_int_equal(word(m, OUT + i), 0xdeadbeef);
}

/* What there was before XCR0 had it was C's. */
static void test_enabled(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA, 0);
	m->state.xcr0 = 7;
	test_run_ok(m, enable);
	assert_int_equal(m->state.gpr[RCX], 0);
	for (unsigned i = 0; i < 64; i += 4)
		assert_int_equal(word(m, OUT + i), 0);
}

static void test_not_enabled(void **state)
{
	struct test_machine *m = begin(state, TEST_DATA, 0);
	m->state.xcr0 = 7;
	assert_int_equal(test_run(m, mask_only), UD);
	begin(state, TEST_DATA, 0);
	m->state.xcr0 = 7;
	assert_int_equal(test_run(m, high_only), UD);
}

/* In one page, and across two of which the second follows the first only for the guest. */
static void test_saved(void **state)
{
	static const uint64_t at[] = { TEST_DATA, TEST_DATA + 0xc00 };
	for (unsigned i = 0; i < 2; i++) {
		struct test_machine *m = begin(state, at[i], 0x55);
		memset(m->ram + TEST_DATA, 0, 0x2000);
		test_run_ok(m, prepare);
		m->state.rip = TEST_CODE;
		test_run_ok(m, restore);
		assert_int_equal(m->state.gpr[RCX], 0x55);
		assert_int_equal(word(m, OUT + 60), 0xdeadbeef);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_loads_at_the_edge),
		TEST(test_stores_at_the_edge),
		TEST(test_device),
		TEST(test_code),
		TEST(test_gather),
		TEST(test_scatter),
		TEST(test_through_c),
		TEST(test_enabled),
		TEST(test_not_enabled),
		TEST(test_saved),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
