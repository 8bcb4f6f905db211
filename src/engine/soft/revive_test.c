/* SPDX-License-Identifier: Apache-2.0 */
/* revive_test.c - code that is written again as it was: its translation is taken up again, but only if all is as it was. */
#include "engine/soft/cache.h"
#include "engine/soft/cpu.h"
#include "engine/soft/test_machine.h"
#include "engine/soft/vm.h"

CODE64(adds, "mov eax, 5; add eax, ebx; jmp 1f; 1: nop");
CODE64(subtracts, "mov eax, 5; sub eax, ebx; jmp 1f; 1: nop");
/* The first block is the same in both; what follows needs its carry, or does not. */
CODE64(overwrites, "mov eax, -1; add eax, ebx; jmp 1f; nop; 1: xor ecx, ecx; mov edx, 7");
CODE64(carries, "mov eax, -1; add eax, ebx; jmp 1f; nop; 1: setc cl; mov edx, 7; nop");

static struct soft_cpu *cpu_of(struct test_machine *m)
{
	return (struct soft_cpu *)m->vcpu; /* its first member */
}

/* The translation of what was run last, from its beginning. */
static struct soft_block *translation(struct test_machine *m)
{
	struct soft_cpu *cpu = cpu_of(m);
	return cache_find(cpu->vm->cache, TEST_CODE, TEST_CODE, cpu->mode);
}

static void run(struct test_machine *m, const uint8_t *code, const uint8_t *end, uint64_t rax)
{
	m->state.gpr[3] = 3;
	assert_int_equal(test_run_at(m, code, end), TEST_NO_VECTOR);
	assert_int_equal(m->state.gpr[0], rax);
	assert_non_null(translation(m));
}
#define RUN(m, name, rax) run(m, name, name##_end, rax)

static void test_again(void **state)
{
	struct test_machine *m = *state;
	struct soft_block *add, *sub;
	RUN(m, adds, 8);
	RUN(m, subtracts, 2); /* what is made from here on keeps its bytes */
	RUN(m, adds, 8);
	add = translation(m);
	for (unsigned i = 0; i < 3; i++) {
		RUN(m, adds, 8); /* the bytes were written, but are the same */
		assert_ptr_equal(translation(m), add);
	}
	RUN(m, subtracts, 2);
	sub = translation(m);
	assert_ptr_not_equal(sub, add);
	RUN(m, subtracts, 2);
	assert_ptr_equal(translation(m), sub);
}

static void test_switched_off(void **state)
{
	struct test_machine *m = *state;
	struct soft_block *before;
	RUN(m, adds, 8);
	RUN(m, adds, 8);
	before = translation(m);
	RUN(m, adds, 8);
	assert_ptr_not_equal(translation(m), before);
}

/* Bytes that were only looked at ahead of the block belong to it. */
static void test_looked_at(void **state)
{
	struct test_machine *m = *state;
	for (unsigned i = 0; i < 4; i++) {
		RUN(m, overwrites, 2);
		assert_int_equal(m->state.gpr[1], 0);
		m->state.gpr[1] = 0;
		RUN(m, carries, 2);
		assert_int_equal(m->state.gpr[1], 1);
		assert_int_equal(m->state.gpr[2], 7);
	}
}

/* A translation that is laid aside goes with the rest of its region. */
static void test_evicted(void **state)
{
	struct test_machine *m = *state;
	struct soft_cpu *cpu = cpu_of(m);
	enum { JUMPS = 200 };
	uint8_t code[JUMPS * 16];
	RUN(m, adds, 8);
	RUN(m, adds, 8);
	for (unsigned round = 0; round < 100; round++) {
		/* Blocks that each write differently, to fill the cache. */
		for (unsigned i = 0; i < sizeof(code); i += 16) {
			static const uint8_t jump[16] = { 0xb8, 0, 0, 0, 0, 0x48, 0x83, 0xc1, 0x01, 0xeb, 5 };
			memcpy(code + i, jump, sizeof(jump));
			memcpy(code + i + 1, &round, sizeof(round));
		}
		assert_int_equal(test_run_at(m, code, code + sizeof(code)), TEST_NO_VECTOR);
		assert_int_equal(m->state.gpr[0], round);
		RUN(m, adds, 8);
		assert_false(translation(m)->dead);
	}
	assert_true(cache_inserts(cpu->vm->cache) > 100 * JUMPS);
}

static int setup_without(void **state)
{
	return test_setup_with(state, "no-revive");
}

static int setup_small(void **state)
{
	return test_setup_with(state, "small-cache");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_again, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_switched_off, setup_without, test_teardown),
		cmocka_unit_test_setup_teardown(test_looked_at, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_evicted, setup_small, test_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
