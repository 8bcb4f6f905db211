/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/soft/fake_system.h"

/* MOV DS, AX with this selector. */
static void mov_ds(struct sys *m, uint16_t selector)
{
	m->cpu->gpr[GPR_AX] = selector;
	sys_exec(m, 0x8e, 0xd8);
}

static void mov_ss(struct sys *m, uint16_t selector)
{
	m->cpu->gpr[GPR_AX] = selector;
	sys_exec(m, 0x8e, 0xd0);
}

static void test_load_data(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	assert_true(m->cpu->mode & SOFT_MODE_FLAT);
	SYS_OK(m, mov_ds(m, 0));
	assert_false(m->cpu->mode & SOFT_MODE_FLAT);
	assert_true(m->cpu->seg[ENGINE_DS].attr & ATTR_NULL);
	SYS_OK(m, mov_ds(m, SEL_UDATA));
	assert_true(m->cpu->mode & SOFT_MODE_FLAT);
	SYS_OK(m, mov_ds(m, SEL_READONLY));
	assert_false(m->cpu->mode & SOFT_MODE_FLAT);
	assert_int_equal(sys_get(m, SYS_GDT + SEL_READONLY + 5, 1), 0xf1);
	SYS_OK(m, mov_ds(m, SEL_CODE32));
	SYS_EXPECT(m, EXC_GP, SEL_EXEC_ONLY, mov_ds(m, SEL_EXEC_ONLY));
	SYS_EXPECT(m, EXC_GP, SEL_TSS, mov_ds(m, SEL_TSS));
	SYS_EXPECT(m, EXC_NP, SEL_NOT_PRESENT, mov_ds(m, SEL_NOT_PRESENT));
	SYS_EXPECT(m, EXC_GP, SYS_GDT_SIZE, mov_ds(m, SYS_GDT_SIZE));
	SYS_EXPECT(m, EXC_GP, 0x14, mov_ds(m, 0x14)); /* no LDT */
	assert_int_equal(m->cpu->seg[ENGINE_DS].selector, SEL_CODE32);
	sys_set_cpl(m, SEL_UCODE32, SEL_UDATA);
	SYS_EXPECT(m, EXC_GP, SEL_DATA, mov_ds(m, SEL_DATA));
	SYS_EXPECT(m, EXC_GP, SEL_DATA, mov_ds(m, SEL_DATA | 3));
	sys_destroy(m);
}

static void test_load_ss(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	SYS_OK(m, mov_ss(m, SEL_DATA16));
	assert_int_equal(m->cpu->shadow, 3);
	assert_false(m->cpu->mode & SOFT_MODE_STACK32);
	SYS_EXPECT(m, EXC_GP, 0, mov_ss(m, 0));
	SYS_EXPECT(m, EXC_GP, SEL_DATA, mov_ss(m, SEL_DATA | 1));
	SYS_EXPECT(m, EXC_GP, SEL_UDATA & ~3, mov_ss(m, SEL_UDATA));
	SYS_EXPECT(m, EXC_GP, SEL_CODE32, mov_ss(m, SEL_CODE32));
	SYS_EXPECT(m, EXC_SS, SEL_NOT_PRESENT, mov_ss(m, SEL_NOT_PRESENT));
	/* POP SS counts in the old stack's width. */
	SYS_OK(m, mov_ss(m, SEL_DATA));
	m->cpu->gpr[GPR_SP] = SYS_STACK0 - 4;
	sys_put(m, SYS_STACK0 - 4, 4, SEL_DATA16);
	SYS_OK(m, sys_exec(m, 0x17));
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0);
	assert_int_equal(m->cpu->seg[ENGINE_SS].selector, SEL_DATA16);
	sys_destroy(m);
}

static void test_load_long(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	SYS_OK(m, mov_ss(m, 0));
	assert_int_equal(soft_cpl(m->cpu), 0);
	SYS_EXPECT(m, EXC_GP, 0, mov_ss(m, 3));
	m->cpu->gpr[GPR_AX] = SEL_UDATA;
	m->cpu->seg[ENGINE_FS].base = 0x1234567890;
	SYS_OK(m, sys_exec(m, 0x8e, 0xe0));
	assert_int_equal(m->cpu->seg[ENGINE_FS].base, 0);
	SYS_OK(m, sys_exec(m, 0x0f, 0xa0)); /* push fs */
	assert_int_equal(sys_get(m, SYS_STACK0 - 8, 8), SEL_UDATA);
	SYS_OK(m, sys_exec(m, 0x0f, 0xa9)); /* pop gs */
	assert_int_equal(m->cpu->seg[ENGINE_GS].selector, SEL_UDATA);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0);
	sys_destroy(m);
}

static void test_real_and_unreal(void **state)
{
	struct sys *m = sys_create();

	(void)state;
	m->cpu->seg[ENGINE_DS].limit = UINT32_MAX;
	SYS_OK(m, mov_ds(m, 0x1234));
	assert_int_equal(m->cpu->seg[ENGINE_DS].base, 0x12340);
	assert_int_equal(m->cpu->seg[ENGINE_DS].limit, UINT32_MAX);
	/* LES DI, [0x100] */
	SYS_OK(m, mov_ds(m, 0x2000));
	sys_put(m, 0x20100, 4, 0x56780042);
	m->cpu->gpr[GPR_DI] = 0xffff0000;
	SYS_OK(m, sys_exec(m, 0xc4, 0x3e, 0x00, 0x01));
	assert_int_equal(m->cpu->gpr[GPR_DI], 0xffff0042);
	assert_int_equal(m->cpu->seg[ENGINE_ES].base, 0x56780);
	SYS_EXPECT(m, EXC_UD, 0, sys_exec(m, 0x0f, 0x00, 0xd8)); /* ltr */
	sys_destroy(m);
}

static void test_tables(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->gpr[GPR_AX] = SYS_DATA;
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0x00)); /* sgdt [rax] */
	assert_int_equal(sys_get(m, SYS_DATA, 2), SYS_GDT_SIZE - 1);
	assert_int_equal(sys_get(m, SYS_DATA + 2, 8), SYS_GDT);
	sys_put(m, SYS_DATA + 2, 8, 0x8000000000000000);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x01, 0x18)); /* lidt [rax] */
	sys_put(m, SYS_DATA + 2, 8, 0xffff800000001000);
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0x18));
	assert_int_equal(m->cpu->idtr.base, 0xffff800000001000);
	assert_int_equal(m->cpu->idtr.limit, SYS_GDT_SIZE - 1);
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0x00));
	m->cpu->cr4 |= CR4_UMIP;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x01, 0x00));
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x00, 0xc8)); /* str */
	sys_destroy(m);
}

static void test_ltr_lldt(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->gpr[GPR_AX] = SEL_TSS;
	sys_put(m, SYS_GDT + SEL_TSS + 8, 8, 0xffff8000);
	SYS_OK(m, sys_exec(m, 0x0f, 0x00, 0xd8));
	assert_int_equal(m->cpu->seg[ENGINE_TR].base, 0xffff800000000000 + SYS_TSS);
	assert_int_equal(sys_get(m, SYS_GDT + SEL_TSS + 5, 1), 0x8b);
	/* It is busy now. */
	SYS_EXPECT(m, EXC_GP, SEL_TSS, sys_exec(m, 0x0f, 0x00, 0xd8));
	m->cpu->gpr[GPR_AX] = 0;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x00, 0xd8));
	SYS_OK(m, sys_exec(m, 0x0f, 0x00, 0xd0)); /* lldt: null is allowed */
	assert_true(m->cpu->seg[ENGINE_LDTR].attr & ATTR_NULL);
	m->cpu->gpr[GPR_AX] = SEL_LDT;
	SYS_OK(m, sys_exec(m, 0x0f, 0x00, 0xd0));
	assert_int_equal(m->cpu->seg[ENGINE_LDTR].base, SYS_LDT);
	/* And a segment out of it. */
	sys_put(m, SYS_LDT + 8, 8, 0x00cf93000000ffff);
	SYS_OK(m, mov_ds(m, 0xc));
	assert_int_equal(m->cpu->seg[ENGINE_DS].selector, 0xc);
	SYS_OK(m, sys_exec(m, 0x0f, 0x00, 0xc3)); /* sldt ebx */
	assert_int_equal(m->cpu->gpr[GPR_BX], SEL_LDT);
	sys_destroy(m);
}

static void lar(struct sys *m, uint16_t selector, bool ok, uint32_t rights)
{
	m->cpu->gpr[GPR_AX] = selector;
	m->cpu->gpr[GPR_BX] = 0x5555;
	soft_set_arith(m->cpu, ok ? FLAG_CF : FLAG_CF | FLAG_ZF);
	SYS_OK(m, sys_exec(m, 0x0f, 0x02, 0xd8)); /* lar ebx, ax */
	assert_int_equal(soft_get_arith(m->cpu), ok ? FLAG_CF | FLAG_ZF : FLAG_CF);
	assert_int_equal(m->cpu->gpr[GPR_BX], ok ? rights : 0x5555);
}

static void check_zf(struct sys *m, uint16_t selector, uint8_t modrm, bool zf)
{
	m->cpu->gpr[GPR_AX] = selector;
	SYS_OK(m, sys_exec(m, 0x0f, 0x00, modrm));
	assert_int_equal(soft_get_arith(m->cpu) & FLAG_ZF, zf ? FLAG_ZF : 0);
}

static void test_rights(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	lar(m, SEL_DATA, true, 0xcf9300);
	lar(m, 0, false, 0);
	lar(m, 0xfff8, false, 0);
	lar(m, SEL_TSS, true, 0x008900);
	lar(m, SEL_DATA | 3, false, 0);
	m->cpu->gpr[GPR_AX] = SEL_CODE16;
	SYS_OK(m, sys_exec(m, 0x0f, 0x03, 0xd8)); /* lsl ebx, ax */
	assert_int_equal(m->cpu->gpr[GPR_BX], 0xffff);
	m->cpu->gpr[GPR_AX] = SEL_GATE;
	SYS_OK(m, sys_exec(m, 0x0f, 0x03, 0xd8));
	assert_false(soft_get_arith(m->cpu) & FLAG_ZF);
	check_zf(m, SEL_READONLY, 0xe0, true);  /* verr */
	check_zf(m, SEL_READONLY, 0xe8, false); /* verw */
	check_zf(m, SEL_DATA, 0xe8, true);
	check_zf(m, SEL_EXEC_ONLY, 0xe0, false);
	check_zf(m, SEL_TSS, 0xe0, false);
	/* ARPL AX, BX */
	m->cpu->gpr[GPR_AX] = 0x10;
	m->cpu->gpr[GPR_BX] = 3;
	SYS_OK(m, sys_exec(m, 0x63, 0xd8));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x13);
	assert_true(soft_get_arith(m->cpu) & FLAG_ZF);
	sys_destroy(m);
}

static void test_expand_down(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	/* Limit 0xf in pages: valid are the offsets from 0x10000 up. */
	SYS_OK(m, mov_ss(m, SEL_DOWN));
	m->cpu->gpr[GPR_SP] = 0x10004;
	SYS_OK(m, sys_exec(m, 0x50));
	SYS_EXPECT(m, EXC_SS, 0, sys_exec(m, 0x50));
	sys_destroy(m);
}

/* ---- leftovers of 16-bit times, with the examples of SDM Vol. 2 ---- */

static void test_bcd(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	m->cpu->gpr[GPR_AX] = 0xae; /* 0x79 + 0x35 */
	soft_set_arith(m->cpu, FLAG_OF | FLAG_SF);
	SYS_OK(m, sys_exec(m, 0x27));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x14);
	assert_int_equal(soft_get_arith(m->cpu), FLAG_CF | FLAG_AF | FLAG_PF);
	m->cpu->gpr[GPR_AX] = 0xee; /* 0x35 - 0x47 */
	soft_set_arith(m->cpu, FLAG_CF | FLAG_AF);
	SYS_OK(m, sys_exec(m, 0x2f));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x88);
	assert_int_equal(soft_get_arith(m->cpu), FLAG_CF | FLAG_AF | FLAG_SF | FLAG_PF);
	m->cpu->gpr[GPR_AX] = 0x77770fa;
	soft_set_arith(m->cpu, 0);
	SYS_OK(m, sys_exec(m, 0x37));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x7777200);
	m->cpu->gpr[GPR_AX] = 0x34;
	SYS_OK(m, sys_exec(m, 0xd4, 10));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x502);
	SYS_OK(m, sys_exec(m, 0xd5, 10));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x34);
	SYS_EXPECT(m, EXC_DE, 0, sys_exec(m, 0xd4, 0));
	soft_set_arith(m->cpu, FLAG_CF);
	SYS_OK(m, sys_exec(m, 0xd6));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0xff);
	/* BOUND EAX, [ebx] with signed bounds. */
	m->cpu->gpr[GPR_BX] = SYS_DATA;
	sys_put(m, SYS_DATA, 4, (uint32_t)-5);
	sys_put(m, SYS_DATA + 4, 4, 5);
	m->cpu->gpr[GPR_AX] = (uint32_t)-5;
	SYS_OK(m, sys_exec(m, 0x62, 0x03));
	m->cpu->gpr[GPR_AX] = 6;
	SYS_EXPECT(m, EXC_BR, 0, sys_exec(m, 0x62, 0x03));
	sys_destroy(m);
}

/* Every instruction that goes to a helper has one. */
static void test_table(void **state)
{
	(void)state;
	for (unsigned op = OP_FIRST_HELPER; op < OP_COUNT; op++)
		assert_non_null(soft_helper[op]);
	for (unsigned op = 0; op < OP_FIRST_HELPER; op++)
		assert_null(soft_helper[op]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_load_data), cmocka_unit_test(test_load_ss),
		cmocka_unit_test(test_load_long), cmocka_unit_test(test_real_and_unreal),
		cmocka_unit_test(test_tables),    cmocka_unit_test(test_ltr_lldt),
		cmocka_unit_test(test_rights),    cmocka_unit_test(test_expand_down),
		cmocka_unit_test(test_bcd),       cmocka_unit_test(test_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
