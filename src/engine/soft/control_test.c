/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/soft/fake_system.h"

/* ---- SYSCALL and its kin ---- */

static void set_star(struct sys *m)
{
	m->cpu->star = (uint64_t)SEL_UCODE32 << 48 | (uint64_t)SEL_CODE64 << 32;
	m->cpu->lstar = 0xffffffff81000000;
	m->cpu->cstar = 0xffffffff82000000;
	m->cpu->sfmask = RF_TF | RF_IF | RF_DF | RF_AC | RF_IOPL | RF_NT;
}

static void test_syscall64(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	set_star(m);
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	m->cpu->sysflags |= RF_IF | RF_AC;
	m->cpu->stepped = m->cpu->step_trap = true;
	soft_set_arith(m->cpu, FLAG_ZF | FLAG_CF);
	SYS_OK(m, sys_exec(m, 0x0f, 0x05));
	assert_int_equal(m->cpu->rip, m->cpu->lstar);
	assert_int_equal(m->cpu->gpr[GPR_CX], SYS_CODE + 2);
	assert_int_equal(m->cpu->gpr[11], RF_IF | RF_AC | FLAG_ZF | FLAG_CF | 2);
	assert_int_equal(soft_get_rflags(m->cpu), FLAG_ZF | FLAG_CF | 2);
	assert_int_equal(m->cpu->seg[ENGINE_CS].selector, SEL_CODE64);
	assert_int_equal(m->cpu->seg[ENGINE_SS].selector, SEL_DATA);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK3);
	assert_int_equal(soft_cpl(m->cpu), 0);
	assert_true(soft_code64(m->cpu));

	/* SYSRETQ. With TF set at its end it traps; and a waiting interrupt is looked at again, since IF becomes set. */
	assert_false(m->cpu->step_trap);
	m->cpu->stepped = false;
	m->cpu->irq_pending = 1;
	m->cpu->gpr[11] |= RF_TF;
	SYS_OK(m, sys_exec(m, 0x48, 0x0f, 0x07));
	assert_int_equal(m->cpu->rip, SYS_CODE + 2);
	assert_true(m->cpu->stepped);
	assert_int_equal(soft_get_rflags(m->cpu), RF_TF | RF_IF | RF_AC | FLAG_ZF | FLAG_CF | 2);
	assert_int_equal(m->cpu->seg[ENGINE_CS].selector, SEL_UCODE64);
	assert_int_equal(m->cpu->seg[ENGINE_SS].selector, SEL_UDATA);
	assert_int_equal(soft_cpl(m->cpu), 3);
	assert_int_equal(atomic_load(&m->cpu->kick), SOFT_KICK_INTERRUPT);
	sys_destroy(m);
}

static void test_syscall_compat(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	set_star(m);
	sys_set_cpl(m, SEL_UCODE32, SEL_UDATA);
	assert_false(soft_code64(m->cpu));
	SYS_OK(m, sys_exec(m, 0x0f, 0x05));
	assert_int_equal(m->cpu->rip, m->cpu->cstar);
	assert_int_equal(m->cpu->gpr[GPR_CX], SYS_CODE + 2);
	/* SYSRETL goes back to 32-bit code. */
	SYS_OK(m, sys_exec(m, 0x0f, 0x07));
	assert_int_equal(m->cpu->rip, SYS_CODE + 2);
	assert_int_equal(m->cpu->mode & SOFT_MODE_CODE, SOFT_MODE_CODE32);
	assert_int_equal(m->cpu->seg[ENGINE_CS].selector, SEL_UCODE32);
	sys_destroy(m);
}

static void test_syscall_refused(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->efer &= ~(uint64_t)EFER_SCE;
	SYS_EXPECT(m, EXC_UD, 0, sys_exec(m, 0x0f, 0x05));
	SYS_EXPECT(m, EXC_UD, 0, sys_exec(m, 0x48, 0x0f, 0x07));
	m->cpu->efer |= EFER_SCE;
	set_star(m);
	m->cpu->gpr[GPR_CX] = 0x800000000000;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x48, 0x0f, 0x07));
	assert_int_equal(soft_cpl(m->cpu), 0);
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x48, 0x0f, 0x07));
	sys_destroy(m);
}

static void test_sysenter(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_cpl(m, SEL_UCODE32, SEL_UDATA);
	m->cpu->sysflags |= RF_IF;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x0f, 0x34));
	m->cpu->sysenter_cs = SEL_CODE64;
	m->cpu->sysenter_esp = 0xffff880000001000;
	m->cpu->sysenter_eip = 0xffffffff83000000;
	SYS_OK(m, sys_exec(m, 0x0f, 0x34));
	assert_int_equal(m->cpu->rip, m->cpu->sysenter_eip);
	assert_int_equal(m->cpu->gpr[GPR_SP], m->cpu->sysenter_esp);
	assert_true(soft_code64(m->cpu));
	assert_false(m->cpu->sysflags & RF_IF);
	m->cpu->gpr[GPR_DX] = 0x1111222233334444;
	m->cpu->gpr[GPR_CX] = 0x5555666677778888;
	SYS_OK(m, sys_exec(m, 0x0f, 0x35));
	assert_int_equal(m->cpu->rip, 0x33334444);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x77778888);
	assert_int_equal(m->cpu->seg[ENGINE_CS].selector, SEL_CODE64 + 16 + 3);
	assert_int_equal(m->cpu->mode & SOFT_MODE_CODE, SOFT_MODE_CODE32);
	assert_int_equal(soft_cpl(m->cpu), 3);
	sys_destroy(m);
}

/* ---- IRET ---- */

static void push_iret_frame(struct sys *m, uint64_t rip, uint64_t cs, uint64_t rflags, uint64_t rsp, uint64_t ss)
{
	m->cpu->gpr[GPR_SP] = SYS_STACK0 - 40;
	sys_put(m, SYS_STACK0 - 40, 8, rip);
	sys_put(m, SYS_STACK0 - 32, 8, cs);
	sys_put(m, SYS_STACK0 - 24, 8, rflags);
	sys_put(m, SYS_STACK0 - 16, 8, rsp);
	sys_put(m, SYS_STACK0 - 8, 8, ss);
}

static void test_iret_to_user(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	push_iret_frame(m, 0x400000, SEL_UCODE64, RF_IF | RF_RF | RF_AC | RF_IOPL | FLAG_CF, 0x7fff00001000, SEL_UDATA);
	sys_load(m, ENGINE_FS, SEL_UDATA);
	m->cpu->seg[ENGINE_FS].base = 0x123456789000;
	sys_load(m, ENGINE_GS, SEL_DATA);
	m->cpu->seg[ENGINE_GS].base = 0x400000;
	soft_null_seg(&m->cpu->seg[ENGINE_ES], 0, 0);
	m->cpu->irq_pending = 1;
	SYS_OK(m, sys_exec(m, 0x48, 0xcf));
	assert_int_equal(m->cpu->rip, 0x400000);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x7fff00001000);
	assert_int_equal(soft_cpl(m->cpu), 3);
	assert_int_equal(soft_get_rflags(m->cpu), RF_IF | RF_AC | RF_IOPL | FLAG_CF | 2);
	assert_true(atomic_load(&m->cpu->kick) & SOFT_KICK_INTERRUPT);
	/* A user segment is kept; the kernel's is null, but for its base. */
	assert_int_equal(m->cpu->seg[ENGINE_GS].base, 0x400000);
	assert_int_equal(m->cpu->seg[ENGINE_FS].base, 0x123456789000);
	assert_true(m->cpu->seg[ENGINE_GS].attr & ATTR_NULL);
	assert_true(m->cpu->mode & SOFT_MODE_IOPL);
	sys_destroy(m);
}

static void test_iret_to_compat(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	push_iret_frame(m, 0x8048000, SEL_UCODE32, RF_IF, 0xffffd000, SEL_UDATA);
	SYS_OK(m, sys_exec(m, 0x48, 0xcf));
	assert_int_equal(m->cpu->mode & (SOFT_MODE_CODE | SOFT_MODE_STACK32), SOFT_MODE_CODE32 | SOFT_MODE_STACK32);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0xffffd000);
	/* At CPL 3 neither IF nor IOPL may be changed. */
	m->cpu->gpr[GPR_SP] = SYS_STACK3;
	sys_put(m, SYS_STACK3, 4, 0x1000);
	sys_put(m, SYS_STACK3 + 4, 4, SEL_UCODE32);
	sys_put(m, SYS_STACK3 + 8, 4, RF_IOPL | FLAG_SF);
	SYS_OK(m, sys_exec(m, 0xcf));
	assert_int_equal(soft_get_rflags(m->cpu), RF_IF | FLAG_SF | 2);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK3 + 12);
	sys_destroy(m);
}

static void test_iret_16bit_stack(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_desc(m, SEL_DATA16, 0, 0xffff, 0x00f2);
	push_iret_frame(m, 0x1000, SEL_UCODE32, 0, 0x1234, SEL_DATA16 | 3);
	SYS_OK(m, sys_exec(m, 0x48, 0xcf));
	assert_int_equal(m->cpu->gpr[GPR_SP], (SYS_STACK0 & ~0xffffull) | 0x1234);
	/* The descriptor is marked accessed. */
	assert_int_equal(sys_get(m, SYS_GDT + SEL_DATA16 + 5, 1), 0xf3);
	sys_destroy(m);
}

static void test_iret_refused(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->sysflags |= RF_NT;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x48, 0xcf));
	m->cpu->sysflags &= ~(uint32_t)RF_NT;
	push_iret_frame(m, 0x1000, 0, 2, 0, 0);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x48, 0xcf));
	push_iret_frame(m, 0x1000, SEL_UDATA, 2, 0, SEL_UDATA);
	SYS_EXPECT(m, EXC_GP, SEL_UDATA & ~3, sys_exec(m, 0x48, 0xcf));
	push_iret_frame(m, 0x1000, SEL_UCODE64, 2, 0, SEL_DATA);
	SYS_EXPECT(m, EXC_GP, SEL_DATA, sys_exec(m, 0x48, 0xcf));
	push_iret_frame(m, 0x1000, SEL_UCODE64, 2, 0, 0);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x48, 0xcf));
	push_iret_frame(m, 0x800000000000, SEL_UCODE64, 2, 0, SEL_UDATA);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x48, 0xcf));
	/* A null SS is good enough for CPL 0. */
	push_iret_frame(m, 0x1000, SEL_CODE64, 2, 0xffff880000000000, 0);
	SYS_OK(m, sys_exec(m, 0x48, 0xcf));
	assert_int_equal(m->cpu->gpr[GPR_SP], 0xffff880000000000);
	assert_int_equal(soft_cpl(m->cpu), 0);
	sys_destroy(m);
}

/* ---- far transfers ---- */

static void test_far_jump_into_long(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	/* Compatibility mode at CPL 0, as on the way into a kernel; then a far jump into 64-bit code. */
	sys_set_cpl(m, SEL_CODE32, SEL_DATA);
	SYS_OK(m, sys_exec(m, 0xea, 0x78, 0x56, 0x34, 0x12, SEL_CODE64, 0));
	assert_true(soft_code64(m->cpu));
	assert_int_equal(m->cpu->rip, 0x12345678);
	sys_destroy(m);
}

static void test_lretq(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	m->cpu->gpr[GPR_SP] = SYS_STACK0 - 16;
	sys_put(m, SYS_STACK0 - 16, 8, 0xffffffff81000000);
	sys_put(m, SYS_STACK0 - 8, 8, SEL_CODE64);
	SYS_OK(m, sys_exec(m, 0x48, 0xcb));
	assert_int_equal(m->cpu->rip, 0xffffffff81000000);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0);
	sys_destroy(m);
}

static void test_far_pointer64(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_put(m, SYS_DATA, 8, 0xffffffff81234567);
	sys_put(m, SYS_DATA + 8, 2, SEL_CODE64);
	m->cpu->gpr[GPR_AX] = SYS_DATA;
	SYS_OK(m, sys_exec(m, 0x48, 0xff, 0x28)); /* rex.w jmpf [rax] */
	assert_int_equal(m->cpu->rip, 0xffffffff81234567);
	sys_put(m, SYS_DATA, 8, 0x800000000000);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x48, 0xff, 0x28));
	sys_put(m, SYS_DATA + 8, 2, SEL_UDATA);
	SYS_OK(m, sys_exec(m, 0x48, 0x0f, 0xb4, 0x18)); /* lfs rbx, [rax] */
	assert_int_equal(m->cpu->gpr[GPR_BX], 0x800000000000);
	assert_int_equal(m->cpu->seg[ENGINE_FS].selector, SEL_UDATA);
	sys_destroy(m);
}

static void test_call_gate64(void **state)
{
	struct sys *m = sys_create_long();

	(void)state;
	sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	sys_put(m, SYS_DATA, 4, 0);
	sys_put(m, SYS_DATA + 4, 2, SEL_GATE);
	m->cpu->gpr[GPR_AX] = SYS_DATA;
	m->cpu->rip = 0x1000;
	SYS_OK(m, sys_exec(m, 0xff, 0x18)); /* callf [rax] */
	assert_int_equal(m->cpu->rip, SYS_CODE);
	assert_int_equal(soft_cpl(m->cpu), 0);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0 - 32);
	assert_int_equal(sys_get(m, SYS_STACK0 - 32, 8), 0x1002);
	assert_int_equal(sys_get(m, SYS_STACK0 - 24, 8), SEL_UCODE64);
	assert_int_equal(sys_get(m, SYS_STACK0 - 16, 8), SYS_STACK3);
	assert_int_equal(sys_get(m, SYS_STACK0 - 8, 8), SEL_UDATA);
	SYS_OK(m, sys_exec(m, 0x48, 0xcb));
	assert_int_equal(m->cpu->rip, 0x1002);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK3);
	assert_int_equal(soft_cpl(m->cpu), 3);
	sys_destroy(m);
}

static void test_call_gate32(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	sys_set_gate(m, SYS_GDT + SEL_GATE, SEL_CODE32, SYS_CODE, 0xec, 2);
	sys_set_cpl(m, SEL_UCODE32, SEL_UDATA);
	m->cpu->gpr[GPR_SP] = SYS_STACK3 - 8;
	sys_put(m, SYS_STACK3 - 8, 4, 0x11);
	sys_put(m, SYS_STACK3 - 4, 4, 0x22);
	m->cpu->rip = 0x1000;
	SYS_OK(m, sys_exec(m, 0x9a, 0, 0, 0, 0, SEL_GATE, 0));
	assert_int_equal(m->cpu->rip, SYS_CODE);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK0 - 24);
	assert_int_equal(sys_get(m, SYS_STACK0 - 24, 4), 0x1007);
	assert_int_equal(sys_get(m, SYS_STACK0 - 16, 4), 0x11);
	assert_int_equal(sys_get(m, SYS_STACK0 - 12, 4), 0x22);
	assert_int_equal(sys_get(m, SYS_STACK0 - 8, 4), SYS_STACK3 - 8);
	/* RETF 8 drops the parameters on both stacks. */
	SYS_OK(m, sys_exec(m, 0xca, 8, 0));
	assert_int_equal(m->cpu->rip, 0x1007);
	assert_int_equal(m->cpu->gpr[GPR_SP], SYS_STACK3);
	assert_int_equal(soft_cpl(m->cpu), 3);
	sys_destroy(m);
}

static void test_far_refused(void **state)
{
	struct sys *m = sys_create_protected();

	(void)state;
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xea, 0, 0, 0, 0, 0, 0));
	SYS_EXPECT(m, EXC_GP, 0x1230, sys_exec(m, 0xea, 0, 0, 0, 0, 0x33, 0x12));
	SYS_EXPECT(m, EXC_GP, SEL_DATA, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_DATA, 0));
	SYS_EXPECT(m, EXC_GP, SEL_UCODE32 & ~3, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_UCODE32, 0));
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0xea, 0, 0, 1, 0, SEL_CODE16, 0));
	sys_set_desc(m, SEL_CODE16, 0, 0xffff, 0x001a);
	SYS_EXPECT(m, EXC_NP, SEL_CODE16, sys_exec(m, 0xea, 0, 0, 0, 0, SEL_CODE16, 0));
	/* Real code sets PE and jumps: into 16-bit, into 32-bit code. */
	sys_set_desc(m, SEL_CODE16, 0, 0xffff, 0x009a);
	SYS_OK(m, sys_exec(m, 0xea, 0x34, 0x12, 0, 0, SEL_CODE16, 0));
	assert_int_equal(m->cpu->mode & SOFT_MODE_CODE, SOFT_MODE_CODE16);
	assert_int_equal(sys_get(m, SYS_GDT + SEL_CODE16 + 5, 1), 0x9b);
	SYS_OK(m, sys_exec(m, 0x66, 0xea, 0, 0, 1, 0, SEL_CODE32, 0));
	assert_int_equal(m->cpu->mode & SOFT_MODE_CODE, SOFT_MODE_CODE32);
	assert_int_equal(m->cpu->rip, 0x10000);
	sys_destroy(m);
}

static void test_far_real(void **state)
{
	struct sys *m = sys_create();

	(void)state;
	m->cpu->gpr[GPR_SP] = 0x8000;
	m->cpu->rip = 0x100;
	SYS_OK(m, sys_exec(m, 0x9a, 0x34, 0x12, 0x00, 0x10));
	assert_int_equal(m->cpu->rip, 0x1234);
	assert_int_equal(m->cpu->seg[ENGINE_CS].base, 0x10000);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x7ffc);
	assert_int_equal(sys_get(m, 0x7ffc, 2), 0x105);
	SYS_OK(m, sys_exec(m, 0xcb));
	assert_int_equal(m->cpu->rip, 0x105);
	assert_int_equal(m->cpu->seg[ENGINE_CS].base, 0);
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x66, 0xea, 0, 0, 1, 0, 0, 0));
	sys_destroy(m);
}

/* ---- near transfers and stack instructions in 16-bit code ---- */

static void test_near(void **state)
{
	struct sys *m = sys_create();

	(void)state;
	m->cpu->rip = 0xfff0;
	m->cpu->gpr[GPR_SP] = 0x1230002;
	SYS_OK(m, sys_exec(m, 0xe8, 0x20, 0)); /* call wraps at 64 KiB */
	assert_int_equal(m->cpu->rip, 0x13);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x1230000);
	assert_int_equal(sys_get(m, 0, 2), 0xfff3);
	SYS_OK(m, sys_exec(m, 0xc2, 4, 0));
	assert_int_equal(m->cpu->rip, 0xfff3);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x1230006);
	SYS_OK(m, sys_exec(m, 0xeb, 0xfe));
	assert_int_equal(m->cpu->rip, 0xfff3);
	/* A 32-bit target outside of the segment. */
	SYS_EXPECT(m, EXC_GP, 0, sys_exec(m, 0x66, 0xe9, 0, 0, 1, 0));
	/* Conditions. */
	soft_set_arith(m->cpu, FLAG_SF);
	m->cpu->rip = 0x100;
	SYS_OK(m, sys_exec(m, 0x7c, 0x10)); /* jl */
	assert_int_equal(m->cpu->rip, 0x112);
	SYS_OK(m, sys_exec(m, 0x74, 0x10)); /* je */
	assert_int_equal(m->cpu->rip, 0x114);
	SYS_OK(m, sys_exec(m, 0x75, 0x10)); /* jne */
	assert_int_equal(m->cpu->rip, 0x126);
	/* LOOP counts CX alone; JCXZ. */
	m->cpu->gpr[GPR_CX] = 0x10001;
	SYS_OK(m, sys_exec(m, 0xe3, 0x10));
	assert_int_equal(m->cpu->rip, 0x128);
	SYS_OK(m, sys_exec(m, 0xe2, 0x10));
	assert_int_equal(m->cpu->rip, 0x12a);
	assert_int_equal(m->cpu->gpr[GPR_CX], 0x10000);
	SYS_OK(m, sys_exec(m, 0xe3, 0x10));
	assert_int_equal(m->cpu->rip, 0x13c);
	m->cpu->gpr[GPR_BX] = 0x4321;
	SYS_OK(m, sys_exec(m, 0xff, 0xe3));
	assert_int_equal(m->cpu->rip, 0x4321);
	sys_destroy(m);
}

static void test_stack_instructions(void **state)
{
	struct sys *m = sys_create();

	(void)state;
	m->cpu->seg[ENGINE_SS].base = 0x20000;
	m->cpu->gpr[GPR_SP] = 0;
	SYS_OK(m, sys_exec(m, 0x54)); /* push sp, wrapping */
	assert_int_equal(m->cpu->gpr[GPR_SP], 0xfffe);
	assert_int_equal(sys_get(m, 0x2fffe, 2), 0);
	SYS_OK(m, sys_exec(m, 0x66, 0x6a, 0xff));
	assert_int_equal(sys_get(m, 0x2fffa, 4), 0xffffffff);
	SYS_OK(m, sys_exec(m, 0x66, 0x58));
	assert_int_equal(m->cpu->gpr[GPR_AX], 0xffffffff);
	/* One byte into the next 64 KiB. */
	m->cpu->gpr[GPR_SP] = 1;
	SYS_EXPECT(m, EXC_SS, 0, sys_exec(m, 0x50));
	/* PUSHA, POPA. */
	m->cpu->gpr[GPR_SP] = 0x1000;
	for (unsigned i = 0; i < 8; i++)
		if (i != GPR_SP)
			m->cpu->gpr[i] = 0x11110000 + i;
	SYS_OK(m, sys_exec(m, 0x60));
	assert_int_equal(m->cpu->gpr[GPR_SP], 0xff0);
	assert_int_equal(sys_get(m, 0x20ffe, 2), 0);
	assert_int_equal(sys_get(m, 0x20ff6, 2), 0x1000);
	for (unsigned i = 0; i < 8; i++)
		if (i != GPR_SP)
			m->cpu->gpr[i] = 0x22220000;
	SYS_OK(m, sys_exec(m, 0x61));
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x1000);
	assert_int_equal(m->cpu->gpr[GPR_DI], 0x22220007);
	/* ENTER with nesting, LEAVE. */
	m->cpu->gpr[GPR_BP] = 0x2000;
	sys_put(m, 0x21ffe, 2, 0x7777);
	SYS_OK(m, sys_exec(m, 0xc8, 0x10, 0, 2));
	assert_int_equal(m->cpu->gpr[GPR_BP], 0xffe);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0xffe - 4 - 0x10);
	assert_int_equal(sys_get(m, 0x20ffe, 2), 0x2000);
	assert_int_equal(sys_get(m, 0x20ffc, 2), 0x7777);
	assert_int_equal(sys_get(m, 0x20ffa, 2), 0xffe);
	SYS_OK(m, sys_exec(m, 0xc9));
	assert_int_equal(m->cpu->gpr[GPR_BP], 0x2000);
	assert_int_equal(m->cpu->gpr[GPR_SP], 0x1000);
	sys_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_syscall64),          cmocka_unit_test(test_syscall_compat),
		cmocka_unit_test(test_syscall_refused),    cmocka_unit_test(test_sysenter),
		cmocka_unit_test(test_iret_to_user),       cmocka_unit_test(test_iret_to_compat),
		cmocka_unit_test(test_iret_16bit_stack),   cmocka_unit_test(test_iret_refused),
		cmocka_unit_test(test_far_jump_into_long), cmocka_unit_test(test_lretq),
		cmocka_unit_test(test_far_pointer64),      cmocka_unit_test(test_call_gate64),
		cmocka_unit_test(test_call_gate32),        cmocka_unit_test(test_far_refused),
		cmocka_unit_test(test_far_real),           cmocka_unit_test(test_near),
		cmocka_unit_test(test_stack_instructions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
