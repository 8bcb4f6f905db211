/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/soft/fake_system.h"

static void wrmsr(struct sys *m, uint32_t index, uint64_t value)
{
	m->cpu->gpr[GPR_CX] = index;
	m->cpu->gpr[GPR_AX] = (uint32_t)value | 0xdead00000000;
	m->cpu->gpr[GPR_DX] = value >> 32 | 0xbeef00000000;
	sys_exec(m, 0x0f, 0x30);
}

static uint64_t rdmsr(struct sys *m, uint32_t index)
{
	m->cpu->gpr[GPR_CX] = index;
	sys_exec(m, 0x0f, 0x32);
	assert_int_equal(m->cpu->gpr[GPR_AX] >> 32 | m->cpu->gpr[GPR_DX] >> 32, 0);
	return m->cpu->gpr[GPR_AX] | m->cpu->gpr[GPR_DX] << 32;
}

/* ---- control registers ---- */

static void test_cr0(void **state)
{
	struct sys *m = sys_create_long();
	uint64_t cr0 = m->cpu->cr0;

	(void)state;
	m->cpu->gpr[GPR_AX] = CR0_PG; /* PG without PE */
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xc0));
	m->cpu->gpr[GPR_AX] = cr0 | CR0_NW;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xc0));
	m->cpu->gpr[GPR_AX] = cr0 | 1ull << 32;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xc0));
	/* Paging can't be turned off in 64-bit code. */
	m->cpu->gpr[GPR_AX] = cr0 & ~(uint64_t)CR0_PG;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xc0));
	assert_int_equal(m->cpu->cr0, cr0);
	m->cpu->gpr[GPR_AX] = (cr0 | CR0_TS | 0x40) & ~(uint64_t)CR0_ET;
	SYS_OK(m, sys_exec(m, 0x0f, 0x22, 0xc0));
	assert_int_equal(m->cpu->cr0, cr0 | CR0_TS);
	assert_true(m->cpu->mode & SOFT_MODE_TS);
	assert_int_equal(m->cpu->rip, SYS_CODE + 3);
	SYS_OK(m, sys_exec(m, 0x0f, 0x06));
	assert_false(m->cpu->mode & SOFT_MODE_TS);
	/* SMSW, LMSW. */
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0xe1));
	assert_int_equal(m->cpu->gpr[GPR_CX], (uint32_t)cr0);
	m->cpu->gpr[GPR_AX] = 0;
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0xf0));
	assert_int_equal(m->cpu->cr0, cr0);
	sys_destroy(m);
}

static void test_long_mode_switch(void **state)
{
	struct sys *m = sys_create_protected();
	struct sys *tables = sys_create_long();

	(void)state;
	memcpy(m->ram + SYS_PML4, tables->ram + SYS_PML4, 0x4000);
	sys_destroy(tables);
	sys_current = m;
	SYS_OK(m, wrmsr(m, 0xc0000080, EFER_LME));
	m->cpu->gpr[GPR_AX] = SYS_PML4;
	SYS_OK(m, sys_exec(m, 0x0f, 0x22, 0xd8));
	/* Without PAE it is refused. */
	m->cpu->gpr[GPR_AX] = m->cpu->cr0 | CR0_PG;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xc0));
	m->cpu->gpr[GPR_BX] = CR4_PAE;
	SYS_OK(m, sys_exec(m, 0x0f, 0x22, 0xe3));
	SYS_OK(m, sys_exec(m, 0x0f, 0x22, 0xc0));
	assert_int_equal(rdmsr(m, 0xc0000080), EFER_LME | EFER_LMA);
	assert_true(m->cpu->mode & SOFT_MODE_LMA);
	assert_int_equal(m->cpu->mode & SOFT_MODE_CODE, SOFT_MODE_CODE32);
	/* LME is locked, and so is PAE. */
	SYS_EXPECT(m, EXC_GP, 0, wrmsr(m, 0xc0000080, 0));
	m->cpu->gpr[GPR_BX] = 0;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xe3));
	SYS_OK(m, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_CODE64, 0));
	assert_true(soft_code64(m->cpu));
	sys_destroy(m);
}

static void test_cr3_cr4_cr8(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->gpr[GPR_AX] = 1ull << 40;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xd8));
	m->cpu->gpr[GPR_AX] = SYS_PML4 | 0x18;
	SYS_OK(m, sys_exec(m, 0x0f, 0x22, 0xd8));
	SYS_OK(m, sys_exec(m, 0x0f, 0x20, 0xdb));
	assert_int_equal(m->cpu->gpr[GPR_BX], SYS_PML4 | 0x18);
	m->cpu->gpr[GPR_AX] = CR4_PAE | CR4_PCIDE;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x22, 0xe0));
	m->cpu->gpr[GPR_AX] = CR4_PAE | CR4_OSFXSR | CR4_SMAP | CR4_OSXSAVE;
	SYS_OK(m, sys_exec(m, 0x0f, 0x22, 0xe0));
	assert_true(m->cpu->mode & SOFT_MODE_FXSR);
	assert_false(m->cpu->mode & SOFT_MODE_AC);
	m->cpu->gpr[GPR_AX] = 16;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x44, 0x0f, 0x22, 0xc0));
	m->cpu->gpr[GPR_AX] = 9;
	SYS_OK(m, sys_exec(m, 0x44, 0x0f, 0x22, 0xc0));
	assert_int_equal(m->tpr, 9);
	SYS_OK(m, sys_exec(m, 0x44, 0x0f, 0x20, 0xc3));
	assert_int_equal(m->cpu->gpr[GPR_BX], 9);
	sys_destroy(m);
}

static void test_debug_registers(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->gpr[GPR_AX] = 0xffffffff;
	SYS_OK(m, sys_exec(m, 0x0f, 0x23, 0xf0));
	assert_int_equal(m->cpu->dr[6], 0xffffeff0 | 0xf);
	/* DR4 is DR6, until DE says otherwise. */
	SYS_OK(m, sys_exec(m, 0x0f, 0x21, 0xe3));
	assert_int_equal(m->cpu->gpr[GPR_BX], m->cpu->dr[6]);
	m->cpu->cr4 |= CR4_DE;
	SYS_EXPECT(m, EXC_UD, 0, sys_exec(m, 0x0f, 0x21, 0xe3));
	m->cpu->gpr[GPR_AX] = 1ull << 32;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x23, 0xf8));
	m->cpu->gpr[GPR_AX] = 1 << 13;
	SYS_OK(m, sys_exec(m, 0x0f, 0x23, 0xf8));
	assert_int_equal(m->cpu->dr[7], 0x2400);
	m->cpu->dr[6] = 0xffff0ff0;
	SYS_EXPECT(m, EXC_DB, 0, sys_exec(m, 0x0f, 0x21, 0xc3));
	sys_deliver(m);
	assert_int_equal(m->cpu->dr[6], 0xffff2ff0);
	assert_int_equal(m->cpu->dr[7], 0x400);
	sys_destroy(m);
}

/* ---- MSRs, CPUID, time ---- */

static void test_msrs(void **state)
{
	static const uint32_t bases[] = { 0x175, 0x176, 0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102 };
	struct sys *m = sys_create_long();
	uint64_t before, offset;

	(void)state;
	for (unsigned i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		SYS_OK(m, wrmsr(m, bases[i], 0xffff800000001000 + i));
		SYS_EXPECT(m, EXC_GP, 0, wrmsr(m, bases[i], 0x800000000000));
		assert_int_equal(rdmsr(m, bases[i]), 0xffff800000001000 + i);
	}
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0xf8));
	assert_int_equal(m->cpu->seg[ENGINE_GS].base, 0xffff800000001006);
	assert_int_equal(m->cpu->kernel_gs_base, 0xffff800000001005);
	SYS_OK(m, wrmsr(m, 0x277, 0x0007040600070406));
	SYS_EXPECT(m, EXC_GP, 0, wrmsr(m, 0x277, 0x0007040600070402));
	SYS_EXPECT(m, EXC_GP, 0, wrmsr(m, 0xc0000080, 1 << 12));
	/* TSC_ADJUST follows writes to the TSC, and moves it. */
	offset = m->cpu->tsc_offset;
	SYS_OK(m, wrmsr(m, 0x3b, 1ull << 50));
	assert_int_equal(m->cpu->tsc_offset, offset + (1ull << 50));
	before = rdmsr(m, 0x10);
	SYS_OK(m, wrmsr(m, 0x10, 0));
	assert_true(rdmsr(m, 0x10) < before);
	assert_int_equal(rdmsr(m, 0x3b), m->cpu->tsc_offset - offset);
	/* The machine's. */
	m->msr = 0x1b;
	SYS_OK(m, wrmsr(m, 0x1b, 0xfee00900));
	assert_int_equal(rdmsr(m, 0x1b), 0xfee00900);
	SYS_EXPECT(m, EXC_GP, 0, wrmsr(m, 0x1c, 0));
	SYS_EXPECT(m, EXC_GP, 0, rdmsr(m, 0x1c));
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_EXPECT(m, EXC_GP, 0, rdmsr(m, 0x1b));
	sys_destroy(m);
}

static void refuse_xcr0(struct sys *m, uint32_t value)
{
	m->cpu->gpr[GPR_AX] = value;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x01, 0xd1));
}

static void test_cpuid_xcr0(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	SYS_EXPECT(m, EXC_UD, 0, sys_exec(m, 0x0f, 0x01, 0xd0));
	m->cpu->gpr[GPR_AX] = 1;
	SYS_OK(m, sys_exec(m, 0x0f, 0xa2));
	assert_false(m->cpu->gpr[GPR_CX] & 1 << 27);
	m->cpu->cr4 |= CR4_OSXSAVE;
	m->cpu->gpr[GPR_AX] = 1;
	SYS_OK(m, sys_exec(m, 0x0f, 0xa2));
	assert_true(m->cpu->gpr[GPR_CX] & 1 << 27);

	m->cpu->gpr[GPR_CX] = m->cpu->gpr[GPR_DX] = 0;
	refuse_xcr0(m, 0);
	refuse_xcr0(m, 5);
	refuse_xcr0(m, 0x27);
	refuse_xcr0(m, 0x207);
	m->cpu->gpr[GPR_AX] = 7;
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0xd1));
	assert_true(m->cpu->mode & SOFT_MODE_AVX);
	assert_false(m->cpu->mode & SOFT_MODE_AVX512);
	m->cpu->gpr[GPR_AX] = 0xd;
	m->cpu->gpr[GPR_CX] = 0;
	SYS_OK(m, sys_exec(m, 0x0f, 0xa2));
	assert_int_equal(m->cpu->gpr[GPR_BX], 832);
	m->cpu->gpr[GPR_AX] = 0xe7;
	m->cpu->gpr[GPR_CX] = m->cpu->gpr[GPR_DX] = 0;
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0xd1));
	assert_true(m->cpu->mode & SOFT_MODE_AVX512);
	m->cpu->gpr[GPR_AX] = 0xd;
	m->cpu->gpr[GPR_CX] = 0;
	SYS_OK(m, sys_exec(m, 0x0f, 0xa2));
	assert_int_equal(m->cpu->gpr[GPR_BX], 2688);
	m->cpu->gpr[GPR_AX] = 0xd;
	m->cpu->gpr[GPR_CX] = 1;
	SYS_OK(m, sys_exec(m, 0x0f, 0xa2));
	assert_int_equal(m->cpu->gpr[GPR_BX], 576 + 256 + 64 + 512 + 1024);
	sys_destroy(m);
}

static void test_time(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->tsc_aux = 0x1234;
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0xf9));
	assert_int_equal(m->cpu->gpr[GPR_CX], 0x1234);
	SYS_OK(m, sys_exec(m, 0xf3, 0x0f, 0xc7, 0xfb));
	assert_int_equal(m->cpu->gpr[GPR_BX], 0x1234);
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_OK(m, sys_exec(m, 0x0f, 0x31));
	m->cpu->cr4 |= CR4_TSD;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x31));
	sys_destroy(m);
}

/* ---- ports, flags, HLT ---- */

static void test_ports(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->gpr[GPR_AX] = 0x1111222233334444;
	m->cpu->gpr[GPR_DX] = 0xffff0cf8;
	SYS_OK(m, sys_exec(m, 0xef));
	assert_int_equal(m->port, 0xcf8);
	assert_int_equal(m->port_size, 4);
	assert_true(m->port_write);
	assert_int_equal(m->port_data, 0x33334444);
	m->port_data = 0xabcdef99;
	SYS_OK(m, sys_exec(m, 0xe4, 0xf4));
	assert_int_equal(m->port, 0xf4);
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x1111222233334499);
	SYS_OK(m, sys_exec(m, 0x66, 0xed));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0x111122223333ef99);
	SYS_OK(m, sys_exec(m, 0xed));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0xabcdef99);
	/* At CPL 3 the TSS's map decides, unless IOPL does. */
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xe4, 0x80));
	sys_put(m, SYS_TSS + 0x68 + 0x10, 1, 0xfc);
	SYS_OK(m, sys_exec(m, 0x66, 0xe5, 0x80));
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xe5, 0x80));
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xef));
	m->cpu->sysflags |= RF_IOPL;
	SYS_OK(m, sys_exec(m, 0xef));
	sys_destroy(m);
}

static void test_flags(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->sysflags |= RF_IF;
	soft_set_arith(m->cpu, FLAG_OF | FLAG_AF);
	SYS_OK(m, sys_exec(m, 0x9c));
	assert_int_equal(sys_get(m, SYS_STACK0 - 8, 8), RF_IF | FLAG_OF | FLAG_AF | 2);
	sys_put(m, SYS_STACK0 - 8, 8, ~0ull);
	SYS_OK(m, sys_exec(m, 0x9d));
	assert_int_equal(soft_get_rflags(m->cpu),
			 FLAG_ARITH | RF_TF | RF_IF | RF_DF | RF_IOPL | RF_NT | RF_AC | RF_ID | 2);
	assert_true(m->cpu->mode & SOFT_MODE_STEP);
	assert_true(m->cpu->mode & SOFT_MODE_DF);
	/* At CPL 3 with IOPL 0. */
	m->cpu->sysflags = 2 | RF_IF;
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	m->cpu->gpr[GPR_SP] = SYS_STACK3 - 8;
	sys_put(m, SYS_STACK3 - 8, 8, RF_IOPL);
	SYS_OK(m, sys_exec(m, 0x9d));
	assert_int_equal(soft_get_rflags(m->cpu), RF_IF | 2);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xfa));
	m->cpu->cr4 |= CR4_PVI;
	SYS_OK(m, sys_exec(m, 0xfb));
	assert_int_equal(m->cpu->sysflags, RF_IF | RF_VIF | 2);
	m->cpu->sysflags = 2 | RF_IOPL;
	m->cpu->irq_pending = 1;
	SYS_OK(m, sys_exec(m, 0xfb));
	assert_int_equal(m->cpu->shadow, 1);
	assert_true(atomic_load(&m->cpu->kick) & SOFT_KICK_INTERRUPT);
	sys_destroy(m);
}

static void test_alignment_flag(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	m->cpu->cr0 |= CR0_AM;
	assert_int_equal(soft_load(m->cpu, SYS_DATA + 1, 4), 0);
	m->cpu->gpr[GPR_SP] = SYS_STACK3 - 8;
	sys_put(m, SYS_STACK3 - 8, 8, RF_AC);
	SYS_OK(m, sys_exec(m, 0x9d));
	/* The page that was in the TLB is checked from now on. */
	SYS_EXPECT(m, EXC_AC, 0, soft_load(m->cpu, SYS_DATA + 1, 4));
	sys_destroy(m);
}

static void test_hlt(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->sysflags |= RF_IF;
	m->cpu->shadow = 1;
	SYS_OK(m, sys_exec(m, 0xf4));
	assert_true(m->cpu->halted && m->cpu->leave);
	assert_int_equal(m->run.exit, ENGINE_EXIT_HALTED);
	assert_int_equal(m->cpu->rip, SYS_CODE + 1);
	assert_int_equal(m->cpu->shadow, 0);
	m->cpu->leave = false;
	m->cpu->irq_pending = 1;
	SYS_OK(m, sys_exec(m, 0xf4));
	assert_true(m->cpu->halted);
	assert_false(m->cpu->leave);
	assert_true(atomic_load(&m->cpu->kick) & SOFT_KICK_INTERRUPT);
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xf4));
	sys_destroy(m);
}

static void test_small(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0xc1));
	assert_int_equal(m->cpu->gpr[GPR_AX], (uint64_t)-1000);
	m->cpu->gpr[GPR_AX] = SYS_DATA;
	SYS_OK(m, sys_exec(m, 0x0f, 0x01, 0x38)); /* invlpg [rax] */
	SYS_OK(m, sys_exec(m, 0x0f, 0x09));
	m->cpu->gpr[GPR_CX] = 2;
	SYS_OK(m, sys_exec(m, 0x66, 0x0f, 0x38, 0x82, 0x08)); /* invpcid rcx, [rax] */
	m->cpu->gpr[GPR_CX] = 4;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x66, 0x0f, 0x38, 0x82, 0x08));
	m->cpu->gpr[GPR_CX] = 1;
	sys_put(m, SYS_DATA, 8, 1);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x66, 0x0f, 0x38, 0x82, 0x08));
	SYS_EXPECT(m, EXC_UD, 0, sys_exec(m, 0xf3, 0x48, 0x0f, 0xae, 0xd0));
	m->cpu->cr4 |= CR4_FSGSBASE;
	m->cpu->gpr[GPR_AX] = 0xffff888000000000;
	SYS_OK(m, sys_exec(m, 0xf3, 0x48, 0x0f, 0xae, 0xd0)); /* wrfsbase rax */
	SYS_OK(m, sys_exec(m, 0xf3, 0x48, 0x0f, 0xae, 0xc3)); /* rdfsbase rbx */
	assert_int_equal(m->cpu->gpr[GPR_BX], 0xffff888000000000);
	m->cpu->gpr[GPR_AX] = 0x800000000000;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xf3, 0x48, 0x0f, 0xae, 0xd8));
	SYS_OK(m, sys_exec(m, 0xf3, 0x0f, 0xae, 0xd8)); /* wrgsbase eax */
	assert_int_equal(m->cpu->seg[ENGINE_GS].base, 0);
	sys_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cr0),         cmocka_unit_test(test_long_mode_switch),
		cmocka_unit_test(test_cr3_cr4_cr8), cmocka_unit_test(test_debug_registers),
		cmocka_unit_test(test_msrs),        cmocka_unit_test(test_cpuid_xcr0),
		cmocka_unit_test(test_time),        cmocka_unit_test(test_ports),
		cmocka_unit_test(test_flags),       cmocka_unit_test(test_alignment_flag),
		cmocka_unit_test(test_hlt),         cmocka_unit_test(test_small),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
