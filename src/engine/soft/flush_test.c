/* SPDX-License-Identifier: Apache-2.0 */
/* flush_test.c - what INVLPG must reach: entries made from large pages, and slots that were given up and taken again. */
#include "engine/soft/test_machine.h"

enum {
	PTE = TEST_TABLES + 0x3000, /* of DATA's pages */
	PDE = TEST_TABLES + 0x2000,
	LARGE = 0x600000, /* a page of 2 MiB, and */
	OTHER = 0x200000, /* another one */
};

/* POP reads by the stack's slot. */
CODE64(slot_again, "mov rsp, r8; pop rbx\n"
		   "mov rax, cr3; mov cr3, rax\n" /* empties the slot */
		   "invlpg [r8]\n"                /* and it is not on the list any more */
		   "mov rsp, r8; pop rcx\n"
		   "mov [r9], r10\n"
		   "invlpg [r8]\n"
		   "mov rsp, r8; pop rdx\n");

static void test_slot(void **state)
{
	struct test_machine *m = *state;
	test_put(m, TEST_DATA + 0x2800, 1, 8);
	test_put(m, TEST_DATA + 0x3800, 2, 8);
	m->state.gpr[8] = TEST_DATA + 0x2800;
	m->state.gpr[9] = PTE + 2 * 8;
	m->state.gpr[10] = (TEST_DATA + 0x3000) | 7;
	test_run_ok(m, slot_again);
	assert_int_equal(m->state.gpr[3], 1);
	assert_int_equal(m->state.gpr[1], 1);
	assert_int_equal(m->state.gpr[2], 2);
}

/* r8 and r9: the two large pages; r10 and r11 become their entries. */
CODE64(large_pages, "mov rax, [r8 + 0x1000]; mov rax, [r8 + 0x5000]; mov rax, [r9 + 0x7000]\n"
		    "mov [r12 + 3 * 8], r10\n"
		    "invlpg [r8 + 0x1ff000]\n"
		    "mov rbx, [r8 + 0x1000]; mov rcx, [r8 + 0x5000]; mov rbp, [r9 + 0x7000]\n"
		    "mov [r12 + 1 * 8], r11\n"
		    "invlpg [r9]\n"
		    "mov rdx, [r9 + 0x7000]\n");

static void test_large(void **state)
{
	struct test_machine *m = *state;
	test_put(m, LARGE + 0x1000, 1, 8);
	test_put(m, LARGE + 0x5000, 2, 8);
	test_put(m, OTHER + 0x7000, 3, 8);
	test_put(m, TEST_DATA + 0x1000, 11, 8);
	test_put(m, TEST_DATA + 0x5000, 12, 8);
	test_put(m, TEST_DATA + 0x7000, 13, 8);
	m->state.gpr[8] = LARGE;
	m->state.gpr[9] = OTHER;
	m->state.gpr[10] = m->state.gpr[11] = TEST_DATA | 0x87;
	m->state.gpr[12] = PDE;
	test_run_ok(m, large_pages);
	assert_int_equal(m->state.gpr[3], 11);
	assert_int_equal(m->state.gpr[1], 12);
	assert_int_equal(m->state.gpr[5], 3);
	assert_int_equal(m->state.gpr[2], 13);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_slot, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_large, test_setup, test_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
