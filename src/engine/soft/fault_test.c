/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/soft/fake_system.h"

/* Five or six eight-byte words from `at` up, as an IRETQ frame with or without an error code. */
static void check_frame64(struct sys *m, uint64_t rip, uint64_t cs, uint64_t rflags, uint64_t rsp, uint64_t ss)
{
	uint64_t at = m->cpu->gpr[GPR_SP];

	assert_int_equal(sys_get(m, at, 8), rip);
	assert_int_equal(sys_get(m, at + 8, 8), cs);
	assert_int_equal(sys_get(m, at + 16, 8), rflags);
	assert_int_equal(sys_get(m, at + 24, 8), rsp);
	assert_int_equal(sys_get(m, at + 32, 8), ss);
}

static void set_exception(struct sys *m, unsigned vector, uint32_t error)
{
	assert_false(SYS_TRY(m, soft_raise(m->cpu, vector, error)));
	assert_true(m->cpu->exc.pending);
}

static void test_long_same_privilege(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->sysflags |= RF_IF | RF_TF | RF_AC;
	m->cpu->gpr[GPR_SP] = SYS_STACK0 + 0x123;
	set_exception(m, EXC_UD, 0);
	sys_deliver(m);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_UD * 16);
	/* Aligned down to 16, then five words. A fault's image has RF. */
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0 + 0x120 - 40);
	check_frame64(m, SYS_CODE, SEL_CODE64, RF_RF | RF_IF | RF_TF | RF_AC | 2, SYS_STACK0 + 0x123, SEL_DATA);
	/* TF and IF clear, AC stays. */
	assert_int_equal(soft_get_rflags(m->cpu), RF_AC | 2);
	assert_false(m->cpu->mode & SOFT_MODE_STEP);
	assert_int_equal(m->cpu->seg[ENGINE_SS].selector, SEL_DATA);
	sys_destroy(m);
}

static void test_long_inner(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	assert_int_equal(soft_cpl(m->cpu), 3);
	soft_set_arith(m->cpu, FLAG_CF | FLAG_OF);
	assert_false(SYS_TRY(m, soft_raise_pf(m->cpu, 0xdead000, 6)));
	sys_deliver(m);
	assert_int_equal(m->cpu->cr2, 0xdead000);
	assert_int_equal(soft_cpl(m->cpu), 0);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0 - 48);
	assert_int_equal(sys_get(m, SYS_STACK0 - 48, 8), 6);
	m->cpu->gpr[GPR_SP] += 8;
	check_frame64(m, SYS_CODE, SEL_UCODE64, RF_RF | FLAG_CF | FLAG_OF | 2, SYS_STACK3, SEL_UDATA);
	/* SS is null, with the new CPL; and arithmetic flags are as they were. */
	assert_int_equal(m->cpu->seg[ENGINE_SS].selector, 0);
	assert_true(m->cpu->seg[ENGINE_SS].attr & ATTR_NULL);
	assert_int_equal(soft_get_arith(m->cpu), FLAG_CF | FLAG_OF);
	sys_destroy(m);
}

static void test_long_ist(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_idt64(m, EXC_NMI, 0x8e, 1);
	SYS_OK(m, soft_interrupt(m->cpu, EXC_NMI));
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_IST1 - 40);
	assert_true(m->cpu->nmi_masked);
	check_frame64(m, SYS_CODE, SEL_CODE64, 2, SYS_STACK0, SEL_DATA);
	/* IRETQ goes back to where it was and unmasks. */
	SYS_OK(m, sys_exec(m, 0x48, 0xcf));
	assert_int_equal(m->cpu->rip, SYS_CODE);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0);
	assert_int_equal(m->cpu->seg[ENGINE_SS].selector, SEL_DATA);
	assert_false(m->cpu->nmi_masked);
	sys_destroy(m);
}

static void test_interrupt(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->sysflags |= RF_IF;
	m->cpu->halted = true;
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_OK(m, soft_interrupt(m->cpu, 0x41));
	assert_int_equal(m->cpu->rip, SYS_HANDLER + 0x410);
	assert_false(m->cpu->halted);
	assert_false(m->cpu->sysflags & RF_IF);
	check_frame64(m, SYS_CODE, SEL_UCODE64, RF_IF | 2, SYS_STACK3, SEL_UDATA);
	sys_destroy(m);
}

static void test_gate_checks(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	/* INT 0x41 from CPL 3 through a gate of DPL 0: the IDT's error code, without EXT, at the instruction. */
	SYS_EXPECT(m, EXC_GP, 0x41 * 8 + 2, sys_exec(m, 0xcd, 0x41));
	assert_int_equal(m->cpu->rip, SYS_CODE);
	sys_deliver(m);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_GP * 16);
	assert_int_equal(sys_get(m, m->cpu->gpr[GPR_SP] + 8, 8), SYS_CODE);

	/* An external interrupt through the same gate is fine; one through an absent gate is #NP with EXT. */
	sys_set_idt64(m, 0x42, 0x0e, 0);
	SYS_EXPECT(m, EXC_NP, 0x42 * 8 + 3, soft_interrupt(m->cpu, 0x42));
	sys_set_idt64(m, 0x42, 0x8c, 0);
	SYS_EXPECT(m, EXC_GP, 0x42 * 8 + 3, soft_interrupt(m->cpu, 0x42));
	m->cpu->idtr.limit = 0x42 * 16 + 14;
	SYS_EXPECT(m, EXC_GP, 0x42 * 8 + 3, soft_interrupt(m->cpu, 0x42));
	m->cpu->idtr.limit = 0xfff;
	/* Targets: data, 32-bit code, outside of the table, null; a non-canonical handler. */
	sys_set_gate(m, SYS_IDT + 0x420, SEL_DATA, SYS_HANDLER, 0x8e, 0);
	SYS_EXPECT(m, EXC_GP, SEL_DATA | 1, soft_interrupt(m->cpu, 0x42));
	sys_set_gate(m, SYS_IDT + 0x420, SEL_CODE32, SYS_HANDLER, 0x8e, 0);
	SYS_EXPECT(m, EXC_GP, SEL_CODE32 | 1, soft_interrupt(m->cpu, 0x42));
	sys_set_gate(m, SYS_IDT + 0x420, 0x1230, SYS_HANDLER, 0x8e, 0);
	SYS_EXPECT(m, EXC_GP, 0x1231, soft_interrupt(m->cpu, 0x42));
	sys_set_gate(m, SYS_IDT + 0x420, 3, SYS_HANDLER, 0x8e, 0);
	SYS_EXPECT(m, EXC_GP, 1, soft_interrupt(m->cpu, 0x42));
	sys_set_gate(m, SYS_IDT + 0x420, SEL_CODE64, SYS_HANDLER, 0x8e, 0);
	sys_put(m, SYS_IDT + 0x428, 8, 0x8000);
	SYS_EXPECT(m, EXC_GP, 1, soft_interrupt(m->cpu, 0x42));
	/* Nothing was committed by any of them. */
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_GP * 16);
	assert_int_equal(m->cpu->seg[ENGINE_CS].selector, SEL_CODE64);
	sys_destroy(m);
}

static void test_software(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	m->cpu->sysflags |= RF_IF;
	m->cpu->stepped = m->cpu->step_trap = true;
	SYS_OK(m, sys_exec(m, 0xcc));
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_BP * 16);
	check_frame64(m, SYS_CODE + 1, SEL_UCODE64, RF_IF | 2, SYS_STACK3, SEL_UDATA);
	assert_false(m->cpu->step_trap);
	/* A trap gate leaves IF. */
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	m->cpu->sysflags |= RF_IF;
	sys_set_idt64(m, 0x80, 0xef, 0);
	SYS_OK(m, sys_exec(m, 0xcd, 0x80));
	check_frame64(m, SYS_CODE + 2, SEL_UCODE64, RF_IF | 2, SYS_STACK3, SEL_UDATA);
	assert_true(m->cpu->sysflags & RF_IF);
	/* INT1 ignores the DPL. */
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_OK(m, sys_exec(m, 0xf1));
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_DB * 16);
	check_frame64(m, SYS_CODE + 1, SEL_UCODE64, RF_IF | 2, SYS_STACK3, SEL_UDATA);
	sys_destroy(m);
}

static void test_debug(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->dr[7] |= 1 << 13;
	m->cpu->shadow = 3;
	m->cpu->step_trap = true;
	SYS_OK(m, soft_single_step(m->cpu));
	m->cpu->shadow = 0;
	assert_false(SYS_TRY(m, soft_single_step(m->cpu)));
	assert_int_equal(m->cpu->dr[6], 0xffff0ff0);
	sys_deliver(m);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_DB * 16);
	assert_int_equal(m->cpu->dr[6], 0xffff4ff0);
	assert_int_equal(m->cpu->dr[7], 0x400);
	check_frame64(m, SYS_CODE, SEL_CODE64, 2, SYS_STACK0, SEL_DATA);
	sys_destroy(m);
}

/* ---- faults during delivery ---- */

static void test_second_fault(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	/* #UD whose gate is absent: benign, so #NP is what the guest sees, at the first's RIP. */
	sys_set_idt64(m, EXC_UD, 0x0e, 0);
	set_exception(m, EXC_UD, 0);
	assert_false(SYS_TRY(m, soft_deliver(m->cpu)));
	assert_int_equal(m->cpu->exc.vector, EXC_NP);
	assert_int_equal(m->cpu->exc.error, EXC_UD * 8 + 3);
	assert_false(m->cpu->delivery.active);
	sys_deliver(m);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_NP * 16);
	assert_int_equal(sys_get(m, m->cpu->gpr[GPR_SP] + 8, 8), SYS_CODE);
	sys_destroy(m);
}

static void test_page_fault_in_delivery(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	/* #GP onto an unmapped stack: #PF, serially (contributory, then page fault). */
	sys_map(m, SYS_STACK0 - 4096, 0);
	sys_set_idt64(m, EXC_PF, 0x8e, 1);
	set_exception(m, EXC_GP, 0);
	sys_deliver(m);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_PF * 16);
	assert_int_equal(m->cpu->cr2, SYS_STACK0 - 8);
	assert_int_equal(sys_get(m, m->cpu->gpr[GPR_SP], 8), 2);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_IST1 - 48);
	sys_destroy(m);
}

static void test_double_fault(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	/* #PF onto an unmapped stack is a second #PF: #DF, on its IST, with error code 0. */
	sys_map(m, SYS_STACK0 - 4096, 0);
	assert_false(SYS_TRY(m, soft_raise_pf(m->cpu, 0x1234, 0)));
	sys_deliver(m);
	assert_false(m->cpu->leave);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_DF * 16);
	assert_int_equal(sys_get(m, m->cpu->gpr[GPR_SP], 8), 0);
	assert_int_equal(sys_get(m, m->cpu->gpr[GPR_SP] + 8, 8), SYS_CODE);
	/* #DE with an absent gate: #NP, contributory both: #DF. */
	sys_set_idt64(m, EXC_DE, 0x0e, 0);
	set_exception(m, EXC_DE, 0);
	assert_false(SYS_TRY(m, soft_deliver(m->cpu)));
	assert_int_equal(m->cpu->exc.vector, EXC_DF);
	assert_int_equal(m->cpu->exc.error, 0);
	sys_destroy(m);
}

static void test_triple_fault(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->idtr.limit = 0;
	set_exception(m, EXC_GP, 0);
	sys_deliver(m);
	assert_true(m->cpu->leave);
	assert_false(m->cpu->exc.pending);
	assert_int_equal(m->run.exit, ENGINE_EXIT_SHUTDOWN);
	assert_non_null(strstr(m->run.reason, "triple fault: exception 13 (error 0x43)"));
	assert_non_null(strstr(m->run.reason, "0010:0000000000028000"));
	sys_destroy(m);
}

static void test_stack_fault_in_delivery(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->gpr[GPR_SP] = 0x900000000000ull;
	SYS_EXPECT(m, EXC_SS, 1, soft_interrupt(m->cpu, 0x41));
	/* The TSS is too short for RSP0. */
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	m->cpu->seg[ENGINE_TR].limit = 10;
	SYS_EXPECT(m, EXC_TS, SEL_TSS | 1, soft_interrupt(m->cpu, 0x41));
	SYS_EXPECT(m, EXC_TS, SEL_TSS, sys_exec(m, 0xcd, 0x80));
	sys_destroy(m);
}

/* ---- protected and real mode ---- */

static void test_protected_inner(void **state)
{
	struct sys *m = sys_create_protected();
	uint64_t at;

	(void)state;
	sys_set_cpl(m, SEL_UCODE32, SEL_UDATA);
	m->cpu->sysflags |= RF_IF | RF_NT;
	assert_false(SYS_TRY(m, soft_raise_pf(m->cpu, 0x5000, 7)));
	sys_deliver(m);
	assert_int_equal(m->cpu->rip, SYS_HANDLER + EXC_PF * 16);
	assert_int_equal(m->cpu->seg[ENGINE_SS].selector, SEL_DATA);
	assert_int_equal(soft_cpl(m->cpu), 0);
	assert_false(m->cpu->sysflags & (RF_IF | RF_NT));
	at = m->cpu->gpr[GPR_SP];
	assert_int_equal(at, SYS_STACK0 - 24);
	assert_int_equal(sys_get(m, at, 4), 7);
	assert_int_equal(sys_get(m, at + 4, 4), SYS_CODE);
	assert_int_equal(sys_get(m, at + 8, 4), SEL_UCODE32);
	assert_int_equal(sys_get(m, at + 12, 4), RF_RF | RF_NT | RF_IF | 2);
	assert_int_equal(sys_get(m, at + 16, 4), SYS_STACK3);
	assert_int_equal(sys_get(m, at + 20, 4), SEL_UDATA);
	/* And back, past the error code. */
	m->cpu->gpr[GPR_SP] += 4;
	SYS_OK(m, sys_exec(m, 0xcf));
	assert_int_equal(m->cpu->rip, SYS_CODE);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK3);
	assert_int_equal(soft_cpl(m->cpu), 3);
	assert_int_equal(m->cpu->sysflags, RF_IF | RF_NT | 2);
	/* FS and GS were the kernel's. */
	assert_true(m->cpu->seg[ENGINE_FS].attr & ATTR_NULL);
	assert_false(m->cpu->seg[ENGINE_DS].attr & ATTR_NULL);
	sys_destroy(m);
}

static void test_16bit_gate(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	sys_set_gate(m, SYS_IDT + 0x41 * 8, SEL_CODE32, 0x11112222, 0x86, 0);
	m->cpu->rip = 0x12345678;
	SYS_OK(m, soft_interrupt(m->cpu, 0x41));
	assert_int_equal(m->cpu->rip, 0x2222);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0 - 6);
	assert_int_equal(sys_get(m, SYS_STACK0 - 6, 2), 0x5678);
	assert_int_equal(sys_get(m, SYS_STACK0 - 4, 2), SEL_CODE32);
	sys_destroy(m);
}

static void enter_v8086(struct sys *m, unsigned iopl)
{
	for (unsigned i = 0; i <= ENGINE_GS; i++)
		m->cpu->seg[i] = (struct engine_segment){ 0x1000 * i, 0xffff, 0xf3, 0x100 * i };
	m->cpu->sysflags = 2 | RF_VM | iopl << 12;
	soft_update_mode(m->cpu);
	m->cpu->gpr[GPR_SP] = 0x800;
	m->cpu->rip = 0x10;
}

static void test_v8086(void **state)
{
	struct sys *m = sys_create_protected();
	static const uint16_t frame[] = { 0x10, 0x100, 2, 0x800, 0x200, 0, 0x300, 0x400, 0x500 };

	(void)state;
	enter_v8086(m, 0);
	assert_int_equal(soft_cpl(m->cpu), 3);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xcd, 0x80));
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xfa));
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x9c));
	SYS_OK(m, soft_interrupt(m->cpu, 0x41));
	assert_false(m->cpu->mode & SOFT_MODE_VM);
	assert_int_equal(soft_cpl(m->cpu), 0);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0 - 36);
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(sys_get(m, SYS_STACK0 - 36 + 4 * i, 2), frame[i]);
	assert_int_equal(sys_get(m, SYS_STACK0 - 36 + 8, 4), RF_VM | 2);
	assert_true(m->cpu->seg[ENGINE_DS].attr & ATTR_NULL);
	/* Back into it. */
	SYS_OK(m, sys_exec(m, 0xcf));
	assert_true(m->cpu->mode & SOFT_MODE_VM);
	assert_int_equal(m->cpu->rip, 0x10);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x800);
	assert_int_equal(m->cpu->seg[ENGINE_CS].base, 0x1000);
	assert_int_equal(m->cpu->seg[ENGINE_GS].base, 0x5000);
	assert_int_equal(m->cpu->seg[ENGINE_DS].selector, 0x300);
	sys_destroy(m);
}

static void test_v8086_vme(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	enter_v8086(m, 0);
	m->cpu->cr4 |= CR4_VME;
	/* The redirection map says that INT 0x21 stays in v8086. */
	sys_put(m, SYS_TSS + 0x66, 2, 0x90);
	sys_put(m, 0x21 * 4, 4, 0x02003000);
	m->cpu->sysflags |= RF_VIF;
	SYS_OK(m, sys_exec(m, 0xcd, 0x21));
	assert_true(m->cpu->mode & SOFT_MODE_VM);
	assert_int_equal(m->cpu->rip, 0x3000);
	assert_int_equal(m->cpu->seg[ENGINE_CS].base, 0x2000);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x7fa);
	assert_int_equal(sys_get(m, 0x2000 + 0x7fe, 2), RF_IF | RF_IOPL | 2);
	assert_false(m->cpu->sysflags & RF_VIF);
	SYS_OK(m, sys_exec(m, 0xcf));
	assert_true(m->cpu->sysflags & RF_VIF);
	assert_false(m->cpu->sysflags & (RF_IF | RF_IOPL));
	assert_int_equal(m->cpu->rip, 0x12);
	SYS_OK(m, sys_exec(m, 0xfa));
	assert_false(m->cpu->sysflags & RF_VIF);
	m->cpu->sysflags |= RF_VIP;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xfb));
	sys_destroy(m);
}

static void test_real(void **state)
{
	struct sys *m = sys_create();

	(void)state;
	sys_put(m, 0x41 * 4, 4, 0x12340056);
	m->cpu->seg[ENGINE_SS].base = 0x20000;
	m->cpu->gpr[GPR_SP] = 0xabcd0100;
	m->cpu->rip = 0x7c00;
	m->cpu->sysflags |= RF_IF;
	SYS_OK(m, sys_exec(m, 0xcd, 0x41));
	assert_int_equal(m->cpu->rip, 0x56);
	assert_int_equal(m->cpu->seg[ENGINE_CS].base, 0x12340);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0xabcd00fa);
	assert_int_equal(sys_get(m, 0x200fa, 2), 0x7c02);
	assert_int_equal(sys_get(m, 0x200fe, 2), RF_IF | 2);
	assert_false(m->cpu->sysflags & RF_IF);
	SYS_OK(m, sys_exec(m, 0xcf));
	assert_int_equal(m->cpu->rip, 0x7c02);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0xabcd0100);
	assert_true(m->cpu->sysflags & RF_IF);
	/* No vector table at all: shutdown in the end. */
	m->cpu->idtr.limit = 3;
	set_exception(m, EXC_UD, 0);
	sys_deliver(m);
	assert_int_equal(m->run.exit, ENGINE_EXIT_SHUTDOWN);
	assert_true(m->cpu->leave);
	sys_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_same_privilege),
		cmocka_unit_test(test_long_inner),
		cmocka_unit_test(test_long_ist),
		cmocka_unit_test(test_interrupt),
		cmocka_unit_test(test_gate_checks),
		cmocka_unit_test(test_software),
		cmocka_unit_test(test_debug),
		cmocka_unit_test(test_second_fault),
		cmocka_unit_test(test_page_fault_in_delivery),
		cmocka_unit_test(test_double_fault),
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_stack_fault_in_delivery),
		cmocka_unit_test(test_protected_inner),
		cmocka_unit_test(test_16bit_gate),
		cmocka_unit_test(test_v8086),
		cmocka_unit_test(test_v8086_vme),
		cmocka_unit_test(test_real),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
