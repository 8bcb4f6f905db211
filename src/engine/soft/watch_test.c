/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/soft/fake_system.h"

/* MOV DRn, RAX */
static void mov_dr(struct sys *m, unsigned n, uint64_t value)
{
	m->cpu->gpr[GPR_AX] = value;
	SYS_OK(m, sys_exec(m, 0x0f, 0x23, 0xc0 | n << 3));
}

/* What the dispatcher does with an access that unwinds: runs the instruction again, alone. */
static void expect_again(struct sys *m)
{
	assert_false(m->cpu->exc.pending);
	assert_true(m->cpu->watch.again);
	SYS_OK(m, soft_before_insn(m->cpu));
	assert_true(m->cpu->mode & SOFT_MODE_STEP);
	assert_false(m->cpu->watch.again);
	m->cpu->stepped = true;
	m->cpu->step_trap = m->cpu->sysflags & RF_TF;
}

static void expect_db(struct sys *m, uint64_t dr6)
{
	m->cpu->stepped = false;
	SYS_EXPECT(m, EXC_DB, 0, soft_single_step(m->cpu));
	sys_deliver(m);
	assert_int_equal(m->cpu->dr[6], 0xffff0ff0 | dr6);
	assert_int_equal(m->cpu->watch.hits, 0);
}

static void test_data(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	/* In the TLB before the breakpoint is set, and not after. */
	soft_store(m->cpu, SYS_DATA, 8, 0);
	mov_dr(m, 0, SYS_DATA + 4);
	mov_dr(m, 7, 0x000d0402); /* 4 bytes, writes, global */
	assert_true(soft_watches_page(m->cpu, SYS_DATA));
	assert_false(soft_watches_page(m->cpu, SYS_DATA + 4096));
	SYS_OK(m, soft_load(m->cpu, SYS_DATA, 8));
	SYS_OK(m, soft_store(m->cpu, SYS_DATA, 4, 1));
	SYS_OK(m, soft_store(m->cpu, SYS_DATA + 8, 4, 1));
	assert_false(SYS_TRY(m, soft_store(m->cpu, SYS_DATA + 7, 1, 1)));
	assert_int_equal(sys_get(m, SYS_DATA + 7, 1), 0);
	expect_again(m);
	SYS_OK(m, soft_store(m->cpu, SYS_DATA + 7, 1, 1));
	assert_int_equal(sys_get(m, SYS_DATA + 7, 1), 1);
	expect_db(m, 1);
	assert_false(m->cpu->mode & SOFT_MODE_STEP);
	/* Reads and writes, 8 bytes; together with TF. */
	mov_dr(m, 3, SYS_DATA + 0x100);
	mov_dr(m, 7, 0xb0000440);
	m->cpu->sysflags |= RF_TF;
	assert_false(SYS_TRY(m, soft_load(m->cpu, SYS_DATA + 0xff, 2)));
	expect_again(m);
	SYS_OK(m, soft_load(m->cpu, SYS_DATA + 0xff, 2));
	expect_db(m, 8 | 1 << 14);
	/* Disabled: as fast as ever. */
	mov_dr(m, 7, 0);
	SYS_OK(m, soft_load(m->cpu, SYS_DATA + 0xff, 2));
	SYS_OK(m, soft_store(m->cpu, SYS_DATA + 7, 1, 1));
	sys_destroy(m);
}

static void test_fault_drops_hits(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	mov_dr(m, 1, SYS_DATA);
	mov_dr(m, 7, 0x00300408);
	m->cpu->stepped = true;
	SYS_OK(m, soft_load(m->cpu, SYS_DATA, 1));
	assert_int_equal(m->cpu->watch.hits, 2);
	SYS_EXPECT(m, EXC_GP, 0, soft_raise(m->cpu, EXC_GP, 0));
	sys_deliver(m);
	assert_int_equal(m->cpu->watch.hits, 0);
	sys_destroy(m);
}

static void test_mov_ss(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_put(m, SYS_DATA, 2, SEL_DATA);
	mov_dr(m, 0, SYS_DATA);
	mov_dr(m, 7, 0x00030402);
	m->cpu->gpr[GPR_AX] = SYS_DATA;
	assert_false(SYS_TRY(m, sys_exec(m, 0x8e, 0x10)));
	expect_again(m);
	SYS_OK(m, sys_exec(m, 0x8e, 0x10)); /* mov ss, [rax] */
	m->cpu->stepped = false;
	/* Held until the next instruction is done; INT3 enters its handler first. */
	SYS_OK(m, soft_single_step(m->cpu));
	assert_true(m->cpu->watch.again);
	m->cpu->shadow = 0;
	SYS_OK(m, sys_exec(m, 0xcc));
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_BP * 16);
	expect_db(m, 1);
	assert_int_equal(sys_get(m, m->cpu->gpr[GPR_SP], 8), SYS_HANDLER + EXC_BP * 16);
	sys_destroy(m);
}

static void test_code(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	mov_dr(m, 2, SYS_CODE);
	mov_dr(m, 7, 0x00000410);
	assert_true(m->cpu->mode & SOFT_MODE_STEP);
	m->cpu->rip = SYS_CODE + 1;
	SYS_OK(m, soft_before_insn(m->cpu));
	m->cpu->rip = SYS_CODE;
	SYS_EXPECT(m, EXC_DB, 0, soft_before_insn(m->cpu));
	sys_deliver(m);
	assert_int_equal(m->cpu->dr[6], 0xffff0ff4);
	/* A handler that returns with RF set gets past it, once. */
	sys_put(m, m->cpu->gpr[GPR_SP] + 16, 8, RF_RF | 2);
	SYS_OK(m, sys_exec(m, 0x48, 0xcf));
	assert_int_equal(m->cpu->rip, SYS_CODE);
	SYS_OK(m, soft_before_insn(m->cpu));
	SYS_EXPECT(m, EXC_DB, 0, soft_before_insn(m->cpu));
	/* And an interrupt that comes first saves it. */
	m->cpu->resume = true;
	SYS_OK(m, soft_interrupt(m->cpu, 0x41));
	assert_int_equal(sys_get(m, m->cpu->gpr[GPR_SP] + 16, 8), RF_RF | 2);
	assert_false(m->cpu->resume);
	sys_destroy(m);
}

static void test_port(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	mov_dr(m, 0, 0x80);
	m->cpu->cr4 |= CR4_DE;
	mov_dr(m, 7, 0x00020401);
	SYS_OK(m, sys_exec(m, 0xe6, 0x81));
	assert_false(SYS_TRY(m, sys_exec(m, 0xe6, 0x80)));
	assert_int_equal(m->port, 0x81);
	expect_again(m);
	SYS_OK(m, sys_exec(m, 0xe6, 0x80));
	assert_int_equal(m->port, 0x80);
	expect_db(m, 1);
	sys_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_data),   cmocka_unit_test(test_fault_drops_hits),
		cmocka_unit_test(test_mov_ss), cmocka_unit_test(test_code),
		cmocka_unit_test(test_port),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
