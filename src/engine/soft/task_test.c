/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/soft/fake_system.h"

enum { TSS_OLD = SYS_TSS, TSS_NEW = SYS_TSS + 0x400, NEW_IP = SYS_CODE + 0x800, NEW_SP = SYS_IST1 };

/* Fills the second TSS with a task at CPL 0. */
static struct sys *create(void)
{
	static const uint16_t segs[] = { SEL_DATA, SEL_CODE32, SEL_DATA, SEL_DATA, 0, SEL_UDATA };
	struct sys *m = sys_create_protected();

	sys_put(m, TSS_NEW + 0x20, 4, NEW_IP);
	sys_put(m, TSS_NEW + 0x24, 4, RF_IF | FLAG_CF | 2);
	for (unsigned i = 0; i < 8; i++)
		sys_put(m, TSS_NEW + 0x28 + 4 * i, 4, i == GPR_SP ? NEW_SP : 0x1000 + i);
	for (unsigned i = 0; i < 6; i++)
		sys_put(m, TSS_NEW + 0x48 + 4 * i, 4, segs[i]);
	for (unsigned i = 0; i < 8; i++)
		if (i != GPR_SP)
			m->cpu->gpr[i] = 0x2000 + i;
	return m;
}

static unsigned tss_type(struct sys *m, unsigned selector)
{
	return sys_get(m, SYS_GDT + selector + 5, 1) & 15;
}

static void check_new_task(struct sys *m)
{
	assert_int_equal(m->cpu->rip, NEW_IP);
	assert_int_equal(m->cpu->seg[ENGINE_TR].selector, SEL_TSS32);
	assert_int_equal(m->cpu->seg[ENGINE_TR].base, TSS_NEW);
	assert_true(m->cpu->cr0 & CR0_TS);
	assert_true(m->cpu->mode & SOFT_MODE_TS);
	assert_int_equal(m->cpu->gpr[GPR_DI], 0x1007);
	assert_true(m->cpu->seg[ENGINE_FS].attr & ATTR_NULL);
	assert_int_equal(m->cpu->seg[ENGINE_GS].selector, SEL_UDATA);
	assert_int_equal(tss_type(m, SEL_TSS32), DESC_TSS32_BUSY);
}

static void test_jump(void **state)
{
	struct sys *m = create();

	(void)state;
	sys_put(m, SYS_GDT + SEL_TSS + 5, 1, 0x8b);
	SYS_OK(m, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_TSS32, 0));
	check_new_task(m);
	assert_int_equal(soft_get_rflags(m->cpu), RF_IF | FLAG_CF | 2);
	assert_int_equal(m->cpu->gpr[GPR_SP], NEW_SP);
	assert_int_equal(tss_type(m, SEL_TSS), DESC_TSS32);
	assert_int_equal(sys_get(m, TSS_OLD + 0x20, 4), SYS_CODE + 7);
	assert_int_equal(sys_get(m, TSS_OLD + 0x28, 4), 0x2000);
	assert_int_equal(sys_get(m, TSS_OLD + 0x4c, 2), SEL_CODE32);
	/* Not to itself: it is busy. */
	SYS_EXPECT(m, EXC_GP, SEL_TSS32, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_TSS32, 0));
	sys_destroy(m);
}

static void test_call_and_iret(void **state)
{
	struct sys *m = create();

	(void)state;
	sys_put(m, SYS_GDT + SEL_TSS + 5, 1, 0x8b);
	SYS_OK(m, sys_exec(m, 0x9a, 0, 0, 0, 0, SEL_TSS32, 0));
	check_new_task(m);
	assert_int_equal(soft_get_rflags(m->cpu), RF_NT | RF_IF | FLAG_CF | 2);
	assert_int_equal(sys_get(m, TSS_NEW, 2), SEL_TSS);
	assert_int_equal(tss_type(m, SEL_TSS), DESC_TSS32_BUSY);
	m->cpu->gpr[GPR_AX] = 0x3000;
	m->cpu->nmi_masked = true;
	SYS_OK(m, sys_exec(m, 0xcf));
	assert_int_equal(m->cpu->rip, SYS_CODE + 7);
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x2000);
	assert_int_equal(m->cpu->seg[ENGINE_TR].selector, SEL_TSS);
	assert_false(m->cpu->sysflags & RF_NT);
	assert_false(m->cpu->nmi_masked);
	assert_int_equal(tss_type(m, SEL_TSS32), DESC_TSS32);
	assert_int_equal(sys_get(m, TSS_NEW + 0x20, 4), NEW_IP + 1);
	assert_int_equal(sys_get(m, TSS_NEW + 0x24, 4), RF_IF | FLAG_CF | 2);
	assert_int_equal(sys_get(m, TSS_NEW + 0x28, 4), 0x3000);
	sys_destroy(m);
}

static void test_task_gate(void **state)
{
	struct sys *m = create();

	(void)state;
	sys_set_gate(m, SYS_IDT + EXC_DF * 8, SEL_TSS32, 0, 0x85, 0);
	assert_false(SYS_TRY(m, soft_raise(m->cpu, EXC_DF, 0)));
	sys_deliver(m);
	check_new_task(m);
	assert_int_equal(m->cpu->gpr[GPR_SP], NEW_SP - 4);
	assert_int_equal(sys_get(m, TSS_OLD + 0x20, 4), SYS_CODE);
	assert_int_equal(sys_get(m, TSS_NEW, 2), SEL_TSS);
	sys_destroy(m);
}

static void test_refused(void **state)
{
	struct sys *m = create();

	(void)state;
	m->cpu->rip = 0x100;
	sys_set_desc(m, SEL_TSS32, TSS_NEW, 0x66, 0x89);
	SYS_EXPECT(m, EXC_TS, SEL_TSS32, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_TSS32, 0));
	sys_set_desc(m, SEL_TSS32, TSS_NEW, 0x67, 0x09);
	SYS_EXPECT(m, EXC_NP, SEL_TSS32, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_TSS32, 0));
	assert_int_equal(m->cpu->rip, 0x100);
	/* A bad segment is the new task's fault. */
	sys_set_desc(m, SEL_TSS32, TSS_NEW, 0x67, 0x89);
	sys_put(m, TSS_NEW + 0x54, 2, SEL_EXEC_ONLY);
	SYS_EXPECT(m, EXC_TS, SEL_EXEC_ONLY, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_TSS32, 0));
	assert_int_equal(m->cpu->rip, NEW_IP);
	assert_int_equal(m->cpu->seg[ENGINE_TR].selector, SEL_TSS32);
	sys_deliver(m);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_TS * 16);
	sys_destroy(m);
}

static void test_into_v8086(void **state)
{
	struct sys *m = create();

	(void)state;
	sys_put(m, TSS_NEW + 0x24, 4, RF_VM | 2);
	for (unsigned i = 0; i < 6; i++)
		sys_put(m, TSS_NEW + 0x48 + 4 * i, 4, 0x100 * i);
	sys_put(m, TSS_NEW + 0x20, 4, 0x1234);
	SYS_OK(m, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_TSS32, 0));
	assert_true(m->cpu->mode & SOFT_MODE_VM);
	assert_int_equal(m->cpu->seg[ENGINE_CS].base, 0x1000);
	assert_int_equal(m->cpu->seg[ENGINE_GS].base, 0x5000);
	assert_int_equal(m->cpu->rip, 0x1234);
	sys_destroy(m);
}

static void test_16bit(void **state)
{
	struct sys *m = create();

	(void)state;
	sys_set_desc(m, SEL_TSS32, TSS_NEW, 0x2b, 0x81);
	memset(m->ram + TSS_NEW, 0, 0x68);
	sys_put(m, TSS_NEW + 0x0e, 2, 0x4321);
	sys_put(m, TSS_NEW + 0x12, 2, 0x5555);
	sys_put(m, TSS_NEW + 0x22, 2, SEL_DATA);
	sys_put(m, TSS_NEW + 0x24, 2, SEL_CODE32);
	sys_put(m, TSS_NEW + 0x26, 2, SEL_DATA);
	sys_put(m, TSS_NEW + 0x28, 2, SEL_DATA);
	SYS_OK(m, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_TSS32, 0));
	assert_int_equal(m->cpu->rip, 0x4321);
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x5555);
	assert_int_equal(tss_type(m, SEL_TSS32), DESC_TSS16_BUSY);
	sys_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_jump),    cmocka_unit_test(test_call_and_iret), cmocka_unit_test(test_task_gate),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_into_v8086),    cmocka_unit_test(test_16bit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
