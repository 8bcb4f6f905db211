/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit_test.c - an instruction that faults changes nothing, whatever the tables hold.
 *
 * Random system instructions in random states, with descriptor tables, gates and TSS that are half sense and half noise,
 * in each mode. After a fault every register must be what it was before; then the fault is delivered, which must
 * succeed or end the machine within four exceptions. What the handlers read out of bounds, sanitizers see.
 */
#include <stdio.h>

#include "engine/soft/fake_system.h"

enum { ROUNDS = 60000 };

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint64_t pick(const uint64_t *values, unsigned count)
{
	return values[rnd() % count];
}
#define PICK(...) pick((const uint64_t[]){ __VA_ARGS__ }, sizeof((const uint64_t[]){ __VA_ARGS__ }) / 8)

/* An instruction's bytes without its ModRM's memory operand, which is always [RAX], [BX+SI] or [EAX]. */
struct sample {
	uint8_t bytes[8];
	uint8_t count;
};
#define S(...)                                                      \
	{                                                           \
		{ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }) \
	}

static const struct sample samples[] = {
	S(0xcf),
	S(0x48, 0xcf),
	S(0x66, 0xcf),
	S(0xcb),
	S(0x48, 0xcb),
	S(0xca, 8, 0),
	S(0xff, 0x18),
	S(0xff, 0x28),
	S(0x48, 0xff, 0x28),
	S(0x9a, 0, 0, 0x10, 0, 0x80, 0),
	S(0xea, 0, 0, 0x10, 0, 0x50, 0),
	S(0x9a, 0, 0x10, 0xa0, 0),
	S(0xcd, 0x80),
	S(0xcd, 0x21),
	S(0xcc),
	S(0xce),
	S(0xf1),
	S(0x0f, 0x05),
	S(0x0f, 0x07),
	S(0x48, 0x0f, 0x07),
	S(0x0f, 0x34),
	S(0x0f, 0x35),
	S(0x48, 0x0f, 0x35),
	S(0x9c),
	S(0x9d),
	S(0x66, 0x9d),
	S(0xfa),
	S(0xfb),
	S(0x8e, 0x10),
	S(0x8e, 0x18),
	S(0x8e, 0xe3),
	S(0x07),
	S(0x17),
	S(0x1f),
	S(0x0f, 0xa1),
	S(0x0f, 0xa9),
	S(0x06),
	S(0x0f, 0xa0),
	S(0xc4, 0x18),
	S(0xc5, 0x18),
	S(0x0f, 0xb2, 0x18),
	S(0x0f, 0xb4, 0x18),
	S(0x48, 0x0f, 0xb5, 0x18),
	S(0x0f, 0x01, 0x10),
	S(0x0f, 0x01, 0x18),
	S(0x0f, 0x01, 0x00),
	S(0x0f, 0x01, 0x08),
	S(0x0f, 0x00, 0x10),
	S(0x0f, 0x00, 0xd3),
	S(0x0f, 0x00, 0x18),
	S(0x0f, 0x00, 0xdb),
	S(0x0f, 0x00, 0x00),
	S(0x0f, 0x00, 0x08),
	S(0x0f, 0x02, 0x18),
	S(0x0f, 0x03, 0x18),
	S(0x0f, 0x00, 0x20),
	S(0x0f, 0x00, 0x28),
	S(0x63, 0x18),
	S(0x0f, 0x22, 0xc3),
	S(0x0f, 0x22, 0xdb),
	S(0x0f, 0x22, 0xe3),
	S(0x0f, 0x20, 0xc3),
	S(0x0f, 0x23, 0xfb),
	S(0x0f, 0x23, 0xf3),
	S(0x0f, 0x21, 0xe3),
	S(0x0f, 0x01, 0x30),
	S(0x0f, 0x01, 0x20),
	S(0x0f, 0x06),
	S(0x0f, 0x30),
	S(0x0f, 0x32),
	S(0x0f, 0x31),
	S(0x0f, 0x01, 0xd0),
	S(0x0f, 0x01, 0xd1),
	S(0x0f, 0x01, 0xf8),
	S(0x0f, 0x01, 0x38),
	S(0x66, 0x0f, 0x38, 0x82, 0x18),
	S(0xf4),
	S(0xe4, 0x40),
	S(0xef),
	S(0x66, 0xed),
	S(0x60),
	S(0x61),
	S(0xc8, 0x20, 0, 3),
	S(0xc9),
	S(0x50),
	S(0x5b),
	S(0x8f, 0x00),
	S(0xff, 0x30),
	S(0x6a, 0xff),
	S(0xe8, 0x10, 0x20),
	S(0xe8, 0, 0, 0x10, 0),
	S(0xc3),
	S(0xc2, 4, 0),
	S(0xff, 0x10),
	S(0xff, 0x20),
	S(0xeb, 0xfe),
	S(0x62, 0x18),
	S(0xd4, 0),
	S(0x0f, 0x09),
	S(0x0f, 0x01, 0xc1),
};

static uint64_t random_value(void)
{
	uint64_t value = PICK(0, 1, 8, 0x10, 0x7ff, 0xffff, 0x8000, SYS_STACK0, SYS_STACK3, SYS_DATA, SYS_DATA + 0xffe,
			      SYS_TSS, SYS_RAM - 4, SYS_RAM, 0x7fffffffffff, 0x800000000000, 0xffff800000000000, ~0ull,
			      0xfffffffe, 0x80000000, SEL_UDATA, SEL_UCODE64, SEL_CODE64, SEL_GATE);

	return rnd() % 4 ? value + (rnd() % 3) * 8 - 8 : rnd();
}

static void random_bytes(struct sys *m, uint64_t at, unsigned size, unsigned changes)
{
	while (changes--)
		m->ram[at + rnd() % size] =
		    (uint8_t)(rnd() % 3 ? rnd() : PICK(0, 0x89, 0x8b, 0x85, 0xee, 0xff, 0x10, 0x2b));
}

static void random_tables(struct sys *m, const uint8_t *clean)
{
	memcpy(m->ram + SYS_GDT, clean + SYS_GDT, 0x4000);
	memcpy(m->ram + SYS_PML4, clean + SYS_PML4, 16);
	memcpy(m->ram + SYS_PDPT, clean + SYS_PDPT, 16);
	memcpy(m->ram + SYS_PD, clean + SYS_PD, 16);
	memcpy(m->ram + SYS_PT, clean + SYS_PT, 0x400);
	if (rnd() % 2)
		random_bytes(m, SYS_GDT, SYS_GDT_SIZE, rnd() % 8);
	if (rnd() % 4 == 0)
		random_bytes(m, SYS_IDT, 0x1000, rnd() % 200);
	if (rnd() % 2)
		random_bytes(m, SYS_TSS, 0x500, rnd() % 20);
	if (rnd() % 4 == 0)
		random_bytes(m, SYS_PT + 0x100, 0x50, rnd() % 4);
	for (unsigned i = 0; i < 12; i++) {
		sys_put(m, SYS_STACK0 + 8 * i - 48, 8, random_value());
		sys_put(m, SYS_DATA + 8 * i, 8, random_value());
	}
	soft_tlb_flush(m->cpu, true);
}

static void random_state(struct sys *m)
{
	struct soft_cpu *cpu = m->cpu;

	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = random_value();
	cpu->gpr[GPR_AX] = rnd() % 4 ? SYS_DATA : random_value();
	cpu->gpr[GPR_SP] = rnd() % 4 ? SYS_STACK0 - 48 : random_value();
	cpu->gpr[GPR_CX] =
	    rnd() % 2 ? PICK(0x10, 0x174, 0x277, 0xc0000080, 0xc0000082, 0xc0000100, 0x1b) : cpu->gpr[GPR_CX];
	if (!soft_code64(cpu))
		for (unsigned i = 0; i < 16; i++)
			cpu->gpr[i] = (uint32_t)cpu->gpr[i];
	soft_set_rflags(cpu, (soft_get_rflags(cpu) & RF_VM) | (rnd() & (0x3c0cd5 | RF_IOPL)) | 2);
	cpu->cr4 ^= rnd() & (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_UMIP | CR4_FSGSBASE | CR4_OSXSAVE);
	/* All pages are the user's. */
	if (rnd() % 16 == 0)
		cpu->cr4 |= CR4_SMAP;
	cpu->star = rnd() % 2 ? (uint64_t)SEL_UCODE32 << 48 | (uint64_t)SEL_CODE64 << 32 : rnd();
	cpu->sysenter_cs = PICK(0, 3, SEL_CODE64, 0xffff);
	cpu->irq_pending = rnd() % 2;
	soft_update_mode(cpu);
}

static __attribute__((noinline)) struct sys *create_mode(unsigned kind)
{
	struct sys *m = kind < 3 ? sys_create_long() : kind < 6 ? sys_create_protected() : sys_create();

	if (kind == 1)
		sys_set_cpl(m, SEL_UCODE64, SEL_UDATA);
	if (kind == 2)
		sys_set_cpl(m, SEL_UCODE32, SEL_UDATA);
	if (kind == 4)
		sys_set_cpl(m, SEL_UCODE32, SEL_UDATA);
	if (kind == 5) {
		for (unsigned i = 0; i <= ENGINE_GS; i++)
			m->cpu->seg[i] = (struct engine_segment){ 0x1000 * i, 0xffff, 0xf3, 0x100 * i };
		m->cpu->sysflags |= RF_VM;
		soft_update_mode(m->cpu);
	}
	return m;
}

/* Everything that a guest sees of its CPU, for comparison. */
enum { SNAPSHOT = 24 + 32 + 3 * ENGINE_SEGMENTS };

static void take(const struct soft_cpu *cpu, uint64_t words[SNAPSHOT])
{
	const uint64_t system[] = {
		cpu->rip,
		soft_get_rflags(cpu),
		cpu->mode,
		cpu->cr0,
		cpu->cr2,
		cpu->cr3,
		cpu->cr4,
		cpu->efer,
		cpu->star,
		cpu->lstar,
		cpu->cstar,
		cpu->sfmask,
		cpu->kernel_gs_base,
		cpu->sysenter_cs,
		cpu->sysenter_esp,
		cpu->sysenter_eip,
		cpu->pat,
		cpu->tsc_aux,
		cpu->xcr0,
		cpu->gdtr.base,
		cpu->gdtr.limit,
		cpu->idtr.base,
		cpu->idtr.limit,
		cpu->nmi_masked,
		cpu->halted,
		cpu->shadow,
	};
	uint64_t *segs = words + 24 + 32;

	memset(words, 0, SNAPSHOT * sizeof(*words));
	memcpy(words, cpu->gpr, sizeof(cpu->gpr));
	memcpy(words + 16, cpu->dr, sizeof(cpu->dr));
	memcpy(words + 24, system, sizeof(system));
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
		segs[3 * i] = cpu->seg[i].base;
		segs[3 * i + 1] = (uint64_t)cpu->seg[i].attr << 32 | cpu->seg[i].limit;
		segs[3 * i + 2] = cpu->seg[i].selector;
	}
}

static void check_delivery(struct sys *m)
{
	volatile unsigned tries = 0;

	while (m->cpu->exc.pending && !m->cpu->leave) {
		assert_true(tries < 4);
		tries++;
		(void)SYS_TRY(m, soft_deliver(m->cpu));
		assert_false(m->cpu->delivery.active);
	}
	assert_false(m->heavy);
}

static bool step(struct sys *m)
{
	const struct sample *sample = &samples[rnd() % (sizeof(samples) / sizeof(*samples))];
	uint64_t before[SNAPSHOT], after[SNAPSHOT];
	struct insn insn;
	bool done;

	if (insn_decode(&insn, sample->bytes, sample->count, soft_mode_code(m->cpu->mode)) || insn.op == OP_UD ||
	    insn.len != sample->count)
		return false;
	take(m->cpu, before);
	m->cpu->exc.pending = false;
	done = SYS_TRY(m, soft_helper[sys_slow_op(insn.op)](m->cpu, &insn, sys_ea(m, &insn)));
	take(m->cpu, after);
	/* After a task switch, which sets CR0.TS, a fault is the new task's. */
	if (!done && m->cpu->exc.pending && !(m->cpu->cr0 & CR0_TS) && memcmp(before, after, sizeof(before)) != 0) {
		fprintf(stderr, "%02x %02x %02x: #%u(%x) changed something, seed %llx\n", sample->bytes[0],
			sample->bytes[1], sample->bytes[2], m->cpu->exc.vector, m->cpu->exc.error,
			(unsigned long long)seed);
		return true;
	}
	check_delivery(m);
	return false;
}

static void run_mode(unsigned kind)
{
	struct sys *m = create_mode(kind);
	struct soft_cpu *clean_cpu = malloc(sizeof(*clean_cpu));
	uint8_t *clean = malloc(SYS_RAM);
	volatile unsigned bad = 0;

	memcpy(clean, m->ram, SYS_RAM);
	memcpy(clean_cpu, m->cpu, sizeof(*clean_cpu));
	for (volatile unsigned i = 0; i < ROUNDS; i++) {
		/* The TLB's own notes of what is in it are restored too: it must be empty. */
		soft_tlb_flush(m->cpu, true);
		memcpy(m->cpu, clean_cpu, offsetof(struct soft_cpu, tlb));
		memcpy(&m->cpu->vm, &clean_cpu->vm,
		       offsetof(struct soft_cpu, bounce_buf) - offsetof(struct soft_cpu, vm));
		m->heavy = false;
		random_tables(m, clean);
		random_state(m);
		bad += step(m);
		if (!m->cpu->leave && !m->cpu->exc.pending && rnd() % 4 == 0)
			(void)SYS_TRY(m, soft_interrupt(m->cpu, rnd() & 0xff));
		check_delivery(m);
	}
	assert_int_equal(bad, 0);
	free(clean);
	free(clean_cpu);
	sys_destroy(m);
}

static void test_all_modes(void **state)
{
	(void)state;
	for (unsigned kind = 0; kind < 7; kind++) {
		seed = 88172645463325252ull + kind;
		run_mode(kind);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
