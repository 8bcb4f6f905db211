/* SPDX-License-Identifier: Apache-2.0 */
/* String instructions (string.c): against a byte-at-a-time model, and where they stop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/fake_machine.h"

enum { RAX, RCX, RDX, RSI = 6, RDI = 7 };
enum { PD = 0x1000, PT = 0x2000, WINDOW = 0x10000, PAGES = 16, SIZE = PAGES * 4096 };
#define BASE 0x400000u /* linear address of the window */

/* 32-bit paging maps BASE's pages, in reverse order, to the window: neighbours are not neighbours in memory. */
static int setup(void **state)
{
	struct fake_machine *m = fake_machine_create();
	uint32_t *pd = (uint32_t *)(m->ram + PD), *pt = (uint32_t *)(m->ram + PT);

	pd[BASE >> 22] = PT | 7;
	for (unsigned i = 0; i < PAGES; i++)
		pt[i] = (WINDOW + (PAGES - 1 - i) * 0x1000) | 7;
	m->cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
	m->cpu->cr3 = PD;
	m->cpu->mode = SOFT_MODE_PE | SOFT_MODE_CODE32 | SOFT_MODE_FLAT | SOFT_MODE_AC;
	m->cpu->rip = 0x1000;
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	fake_machine_destroy(*state);
	return 0;
}

static uint32_t *pte(struct fake_machine *m, unsigned page)
{
	return (uint32_t *)(m->ram + PT) + page;
}

static uint8_t *at(struct fake_machine *m, uint64_t linear)
{
	uint32_t offset = (uint32_t)linear - BASE;

	return m->ram + WINDOW + (PAGES - 1 - offset / 4096) * 4096 + offset % 4096;
}

static struct insn make(unsigned opcode, unsigned size, unsigned addrsize, unsigned rep)
{
	struct insn insn = {
		.op = OP_STRING,
		.opcode = (uint8_t)(size == 1 ? opcode : opcode + 1),
		.opsize = (uint8_t)size,
		.addrsize = (uint8_t)addrsize,
		.rep = (uint8_t)rep,
		.seg = ENGINE_DS,
		.len = 2,
	};
	return insn;
}

/* ---- the model ---- */

struct model {
	uint8_t bytes[SIZE];
	uint64_t rax, rcx, rsi, rdi;
	uint32_t flags;
};

static uint64_t get(const struct model *x, uint64_t linear, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, x->bytes + (linear - BASE), size);
	return v;
}

static uint32_t compare_flags(uint64_t a, uint64_t b, unsigned size)
{
	unsigned top = size * 8 - 1;
	uint64_t mask = ~0ull >> (64 - size * 8), d = (a - b) & mask;
	unsigned cf = a < b, zf = !d, sf = d >> top & 1, af = (a ^ b ^ d) >> 4 & 1, pf = !__builtin_parity(d & 255);
	unsigned of = ((a ^ b) & (a ^ d)) >> top & 1;

	return of | (sf << 7 | zf << 6 | af << 4 | pf << 2 | 2 | cf) << 8;
}

static void set_low(uint64_t *reg, uint64_t value, unsigned size)
{
	if (size >= 4)
		*reg = value;
	else
		memcpy(reg, &value, size);
}

static void model_run(struct model *x, unsigned opcode, unsigned size, unsigned rep, bool down)
{
	uint64_t step = down ? -(uint64_t)size : size, mask = ~0ull >> (64 - size * 8), count = rep ? x->rcx : 1;
	bool stop = false;

	for (; count && !stop; count--) {
		switch (opcode) {
		case 0xa4: {
			uint64_t v = get(x, x->rsi, size);
			memcpy(x->bytes + (x->rdi - BASE), &v, size);
			break;
		}
		case 0xaa:
			memcpy(x->bytes + (x->rdi - BASE), &x->rax, size);
			break;
		case 0xac:
			set_low(&x->rax, get(x, x->rsi, size), size);
			break;
		case 0xa6:
			x->flags = compare_flags(get(x, x->rsi, size), get(x, x->rdi, size), size);
			break;
		default:
			x->flags = compare_flags(x->rax & mask, get(x, x->rdi, size), size);
		}
		if (opcode != 0xaa && opcode != 0xae)
			x->rsi += step;
		if (opcode != 0xac)
			x->rdi += step;
		if (opcode == 0xa6 || opcode == 0xae)
			stop = rep && !(x->flags >> 14 & 1) == (rep == 0xf3);
		if (rep)
			x->rcx--;
	}
}

static uint32_t random32(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static uint64_t random_address(uint32_t *seed, uint64_t bytes, unsigned size, bool down)
{
	uint64_t first = BASE + random32(seed) % (SIZE - bytes + 1);

	return down ? first + bytes - size : first;
}

static void one_random(struct fake_machine *m, struct model *x, uint32_t *seed)
{
	static const unsigned opcodes[] = { 0xa4, 0xaa, 0xac, 0xa6, 0xae }, reps[] = { 0, 0xf2, 0xf3, 0xf3 };
	unsigned opcode = opcodes[random32(seed) % 5], rep = reps[random32(seed) % 4];
	unsigned size = 1u << random32(seed) % 4, extent = random32(seed) % 3;
	bool down = random32(seed) & 1;
	uint64_t count = random32(seed) % (extent == 0 ? 8 : extent == 1 ? 200 : 1200);
	uint64_t bytes = (count ? count : 1) * size;
	struct insn insn = make(opcode, size, 8, rep);
	struct soft_cpu *cpu = m->cpu;

	/* Few different bytes, so that comparisons go on for a while; often overlapping. */
	for (unsigned i = 0; i < SIZE; i++)
		x->bytes[i] = random32(seed) % 400 ? 0 : (uint8_t)random32(seed);
	x->rcx = count;
	x->rsi = random_address(seed, bytes, size, down);
	x->rdi = random_address(seed, bytes, size, down);
	if (random32(seed) & 1) {
		uint64_t near = x->rsi + random32(seed) % 64 - 32;
		if (near >= BASE + bytes && near + bytes <= BASE + SIZE)
			x->rdi = near;
	}
	x->rax = random32(seed) % 2 ? 0 : (uint64_t)random32(seed) << 32 | random32(seed);
	x->flags = random32(seed) & 0xff01;
	for (unsigned i = 0; i < PAGES; i++)
		memcpy(at(m, BASE + i * 4096), x->bytes + i * 4096, 4096);
	cpu->gpr[RAX] = x->rax;
	cpu->gpr[RCX] = x->rcx;
	cpu->gpr[RSI] = x->rsi;
	cpu->gpr[RDI] = x->rdi;
	cpu->flags = x->flags;
	cpu->sysflags = down ? RF_DF : 0;
	if (random32(seed) & 1)
		soft_tlb_flush(cpu, true);
	model_run(x, opcode, size, rep, down);
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->gpr[RAX], x->rax);
	assert_int_equal(cpu->gpr[RCX], x->rcx);
	assert_int_equal(cpu->gpr[RSI], x->rsi);
	assert_int_equal(cpu->gpr[RDI], x->rdi);
	assert_int_equal(cpu->flags, x->flags);
	for (unsigned i = 0; i < PAGES; i++)
		assert_memory_equal(at(m, BASE + i * 4096), x->bytes + i * 4096, 4096);
}

static void test_random(void **state)
{
	struct model *x = malloc(sizeof(*x));
	uint32_t seed = 0x13572468;

	for (unsigned i = 0; i < 3000; i++)
		one_random(*state, x, &seed);
	free(x);
}

static void test_fault_is_precise(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0xa4, 4, 4, 0xf3);

	*pte(m, 3) &= ~2u; /* the destination's second page is read-only */
	cpu->gpr[RSI] = BASE;
	cpu->gpr[RDI] = BASE + 0x2ffa; /* the second element crosses into it */
	cpu->gpr[RCX] = 100;
	memset(at(m, BASE), 0x5a, 4096);
	FAKE_EXPECT(m, EXC_PF, 3, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->exc.cr2, BASE + 0x3000);
	assert_int_equal(cpu->gpr[RSI], BASE + 4);
	assert_int_equal(cpu->gpr[RDI], BASE + 0x2ffe);
	assert_int_equal(cpu->gpr[RCX], 99);
	assert_int_equal(*at(m, BASE + 0x2ffd), 0x5a);
	assert_int_equal(*at(m, BASE + 0x2ffe), 0);
	assert_int_equal(cpu->rip, 0x1000);

	*pte(m, 5) = 0; /* the source's page is missing, downwards */
	cpu->sysflags = RF_DF;
	insn = make(0xac, 1, 4, 0xf3);
	cpu->gpr[RSI] = BASE + 0x6002;
	cpu->gpr[RCX] = 10;
	FAKE_EXPECT(m, EXC_PF, 0, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->exc.cr2, BASE + 0x5fff);
	assert_int_equal(cpu->gpr[RSI], BASE + 0x5fff);
	assert_int_equal(cpu->gpr[RCX], 7);
}

static void test_kick_between_chunks(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0xaa, 1, 4, 0xf3);

	cpu->gpr[RAX] = 0x77;
	cpu->gpr[RDI] = BASE + 0x800;
	cpu->gpr[RCX] = 0x1000;
	cpu->kick = SOFT_KICK_INTERRUPT;
	FAKE_EXPECT_UNWIND(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->gpr[RCX], 0x800);
	assert_int_equal(cpu->gpr[RDI], BASE + 0x1000);
	assert_int_equal(cpu->rip, 0x1000);
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0)); /* done: nothing to interrupt */
	assert_int_equal(cpu->gpr[RCX], 0);
	assert_int_equal(*at(m, BASE + 0x17ff), 0x77);
	assert_int_equal(*at(m, BASE + 0x1800), 0);
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
}

static void test_code_page(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0xaa, 4, 4, 0xf3);

	fake_machine_set_code(m, WINDOW + (PAGES - 1) * 4096, true);
	cpu->gpr[RDI] = BASE + 0xff0;
	cpu->gpr[RCX] = 8;
	FAKE_EXPECT_UNWIND(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(m->code_gpa, WINDOW + (PAGES - 1) * 4096 + 0xff0);
	assert_int_equal(m->code_size, 16);
	assert_int_equal(cpu->gpr[RCX], 4);
	assert_int_equal(cpu->rip, 0x1000);
	cpu->sysflags = RF_DF;
	cpu->gpr[RDI] = BASE + 0x20;
	FAKE_EXPECT_UNWIND(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(m->code_gpa, WINDOW + (PAGES - 1) * 4096 + 0x14);
	assert_int_equal(m->code_size, 16);
	assert_int_equal(cpu->gpr[RCX], 0);
	assert_int_equal(cpu->rip, 0x1002);
}

static void test_device(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0xa4, 4, 4, 0xf3);

	*pte(m, 1) = 0xfee00000 | 7;
	m->mmio_next = 0x12345678;
	cpu->gpr[RSI] = BASE + 0x1010;
	cpu->gpr[RDI] = BASE;
	cpu->gpr[RCX] = 3;
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(m->mmio_count, 3);
	assert_int_equal(m->mmio[2].gpa, 0xfee00018);
	assert_memory_equal(at(m, BASE + 8), "\x78\x56\x34\x12", 4);
}

static void test_ports(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0x6c, 2, 4, 0xf3);

	m->pio_next = 0x4041;
	cpu->gpr[RDX] = 0x1f0;
	cpu->gpr[RDI] = BASE + 0xffd; /* the second element crosses a page */
	cpu->gpr[RCX] = 3;
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(m->pio_count, 3);
	assert_int_equal(m->pio[0].gpa, 0x1f0);
	assert_int_equal(m->pio[0].size, 2);
	assert_memory_equal(at(m, BASE + 0xffd), "\x41\x40\x42", 3);
	assert_memory_equal(at(m, BASE + 0x1000), "\x40\x43\x40", 3);
	insn = make(0x6e, 1, 4, 0);
	cpu->gpr[RSI] = BASE + 0x1000;
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
	assert_true(m->pio[3].write);
	assert_int_equal(m->pio[3].data, 0x40);
	assert_int_equal(cpu->gpr[RSI], BASE + 0x1001);
	/* Neither without permission nor into a page that can't be written is the port touched. */
	m->io_denied = true;
	FAKE_EXPECT(m, EXC_GP, 0, soft_help_string(cpu, &insn, 0));
	m->io_denied = false;
	*pte(m, 1) &= ~2u;
	soft_tlb_flush(cpu, true);
	insn = make(0x6c, 2, 4, 0xf3);
	cpu->gpr[RDI] = BASE + 0xfff;
	cpu->gpr[RCX] = 1;
	FAKE_EXPECT(m, EXC_PF, 3, soft_help_string(cpu, &insn, 0));
	assert_int_equal(m->pio_count, 4);
}

static void test_real_mode_wraps(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0xa4, 1, 2, 0xf3);

	cpu->cr0 = 0;
	cpu->mode = SOFT_MODE_CODE16 | SOFT_MODE_AC;
	cpu->seg[ENGINE_DS] = (struct engine_segment){ .base = 0x10000, .limit = 0xffff, .attr = 0x93 };
	cpu->seg[ENGINE_ES] = (struct engine_segment){ .base = 0x20008, .limit = 0xffff, .attr = 0x93 };
	cpu->seg[ENGINE_GS] = (struct engine_segment){ .base = 0x30000, .limit = 0x7ff, .attr = 0x93 };
	for (unsigned i = 0; i < 0x10000; i++)
		m->ram[0x10000 + i] = (uint8_t)(i ^ i >> 8);
	cpu->gpr[RSI] = 0xabc0ff00;
	cpu->gpr[RDI] = 0x1234fff0;
	cpu->gpr[RCX] = 0xffff0200;
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->gpr[RSI], 0xabc00100);
	assert_int_equal(cpu->gpr[RDI], 0x123401f0);
	assert_int_equal(cpu->gpr[RCX], 0xffff0000);
	for (unsigned i = 0; i < 0x200; i++)
		assert_int_equal(m->ram[0x20008 + ((0xfff0 + i) & 0xffff)], m->ram[0x10000 + ((0xff00 + i) & 0xffff)]);
	/* A word at 0xffff is beyond the limit. */
	insn = make(0xaa, 2, 2, 0xf3);
	cpu->gpr[RDI] = 0xfffb;
	cpu->gpr[RCX] = 4;
	FAKE_EXPECT(m, EXC_GP, 0, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->gpr[RDI], 0xffff);
	assert_int_equal(cpu->gpr[RCX], 2);
	/* The override is for the source, and its limit ends a chunk. */
	insn = make(0xa4, 1, 2, 0xf3);
	insn.seg = ENGINE_GS;
	m->ram[0x307ff] = 0x99;
	cpu->gpr[RSI] = 0x7f0;
	cpu->gpr[RDI] = 0;
	cpu->gpr[RCX] = 0x20;
	FAKE_EXPECT(m, EXC_GP, 0, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->gpr[RSI], 0x800);
	assert_int_equal(cpu->gpr[RCX], 0x10);
	assert_int_equal(m->ram[0x20008 + 15], 0x99);
}

static void test_address_size_32_zero_extends(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0xa4, 1, 4, 0xf3);

	cpu->gpr[RSI] = 0xffffffff00000000 | BASE;
	cpu->gpr[RDI] = 0xffffffff00000000 | (BASE + 0x2000);
	cpu->gpr[RCX] = 0xffffffff00000004;
	*at(m, BASE + 3) = 9;
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(*at(m, BASE + 0x2003), 9);
	assert_int_equal(cpu->gpr[RSI], BASE + 4);
	assert_int_equal(cpu->gpr[RDI], BASE + 0x2004);
	assert_int_equal(cpu->gpr[RCX], 0);
}

static void test_single_step(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct insn insn = make(0xaa, 1, 4, 0xf3);

	cpu->mode |= SOFT_MODE_STEP;
	cpu->gpr[RDI] = BASE;
	cpu->gpr[RCX] = 2;
	FAKE_EXPECT_UNWIND(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->gpr[RCX], 1);
	FAKE_EXPECT_NONE(m, soft_help_string(cpu, &insn, 0));
	assert_int_equal(cpu->gpr[RCX], 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_random),
		T(test_fault_is_precise),
		T(test_kick_between_chunks),
		T(test_code_page),
		T(test_device),
		T(test_ports),
		T(test_real_mode_wraps),
		T(test_address_size_32_zero_extends),
		T(test_single_step),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
