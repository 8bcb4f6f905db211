/* SPDX-License-Identifier: Apache-2.0 */
/*
 * placement_test.c - an instruction does the same wherever its operand lies.
 *
 * Every form that is copied is run on the same registers and the same bytes in ordinary memory, across two pages, in a
 * device, beside translated code, and across into such a page. All must leave the same registers, flags and bytes, or
 * raise the same exception. The operand's offset in 64 bytes is the same, as alignment counts.
 */
#include "engine/soft/test_forms.h"
#include "engine/soft/test_machine.h"

enum { RUNS = 3, WINDOW = 1024 /* bytes that are compared, from 64 in front of the operand on */ };
enum { ORDINARY, SPLIT, DEVICE, BESIDE_CODE, INTO_CODE, PLACES };
static const char *const place_name[PLACES] = { "ordinary memory", "two pages", "a device", "a page of code",
						"two pages, one of code" };

/* What a run starts from, and what it leaves. */
struct outcome {
	int vector;
	struct engine_cpu_state state;
	uint8_t bytes[WINDOW];
};

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1d;
}

static void random_bytes(uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		p[i] = (uint8_t)(rnd() >> 32);
}

/* Random registers; the x87 and SSE with all exceptions masked or, at times, not. */
static void random_state(struct test_machine *m, unsigned bits, const struct test_form *form)
{
	struct engine_cpu_state *s = &m->state;
	test_state(m);
	test_bits(m, bits);
	for (unsigned i = 0; i < 16; i++) {
		if (i != 3 && i != 4)
			s->gpr[i] = rnd() >> (rnd() & 56);
	}
	s->rflags = 2 | (rnd() & 0x8d5);
	random_bytes(s->xsave + 32, 512 - 96 - 32);
	random_bytes(s->xsave + 576, 256);
	memset(s->xsave, 0, 32);
	bool masked = form->insn.op == OP_FPU_SAVE || rnd() & 1;
	unsigned fcw = masked ? 0x37f : 0x340 | (rnd() & 0x3f), mxcsr = masked ? 0x1f80 : rnd() & 0xff80;
	memcpy(s->xsave, &fcw, 2);
	s->xsave[4] = (uint8_t)rnd();
	for (unsigned i = 0; i < 8; i++)
		memset(s->xsave + 32 + 16 * i + 10, 0, 6);
	memcpy(s->xsave + 24, &mxcsr, 4);
	s->xsave[512] = 7;
}

/* Where the operand is, of which `first` bytes are in the first page; and where its window is on the host. */
static uint64_t place(struct test_machine *m, unsigned where, unsigned first, uint8_t **window)
{
	uint64_t offset = 0x400 + ((0 - first) & 63), at;
	switch (where) {
	case ORDINARY:
		at = TEST_DATA + offset;
		break;
	case SPLIT:
		at = TEST_DATA + 0x3000 - first;
		break;
	case DEVICE:
		*window = m->device + offset - 64;
		return TEST_DEVICE + offset;
	case BESIDE_CODE:
		at = (TEST_CODE & ~0xfff) + offset;
		break;
	default:
		at = (TEST_CODE & ~0xfff) - first;
		break;
	}
	*window = m->ram + at - 64;
	return at;
}

static void run_in(struct test_machine *m, const struct test_form *form, const struct engine_cpu_state *state,
		   const uint8_t *bytes, unsigned where, unsigned first, struct outcome *out)
{
	uint8_t *window;
	m->state = *state;
	m->state.gpr[3] = place(m, where, first, &window);
	memcpy(window, bytes, WINDOW);
	out->vector = test_run_at(m, form->bytes, form->bytes + form->insn.len);
	out->state = m->state;
	memcpy(out->bytes, window, WINDOW);
	out->state.gpr[3] = 0;
	memset(out->state.xsave + 16, 0, 8); /* the x87's operand pointer */
	out->state.cr2 = 0;
	/* SDM Vol. 2, MUL: SF, ZF, AF and PF are undefined. An AMD family 26 leaves some as they were: as the check did. */
	if (!strcmp(form->insn.row->name, "mul") || !strcmp(form->insn.row->name, "imul"))
		out->state.rflags &= ~UINT64_C(0xd4);
}

/* SF, ZF, AF and PF are undefined after MUL and IMUL (SDM Vol. 2). Some CPUs leave them as they were before, where they are
 * dead. */
static uint64_t defined_flags(const struct test_form *form)
{
	const char *name = form->insn.row->name;
	bool multiplies = !strcmp(name, "mul") || !strcmp(name, "imul");
	return multiplies ? ~(uint64_t)(FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF) : ~UINT64_C(0);
}

static bool same(const struct test_form *form, const struct outcome *a, const struct outcome *b)
{
	unsigned size = form->insn.mem_size;
	return a->vector == b->vector && !memcmp(a->state.gpr, b->state.gpr, sizeof(a->state.gpr)) &&
	       !((a->state.rflags ^ b->state.rflags) & defined_flags(form)) && a->state.rip == b->state.rip &&
	       !memcmp(a->state.xsave, b->state.xsave, 832) && !memcmp(a->bytes, b->bytes, 64 + size);
}

static void differ(const struct test_form *form, const struct outcome *a, const struct outcome *b, unsigned where)
{
	char text[128];
	forms_describe(text, sizeof(text), form);
	print_error("differs in %s: %s\n", place_name[where], text);
	print_error("  vector %d and %d\n", a->vector, b->vector);
	for (unsigned i = 0; i < 16; i++) {
		if (a->state.gpr[i] != b->state.gpr[i])
			print_error("  register %u: %lx and %lx\n", i, a->state.gpr[i], b->state.gpr[i]);
	}
	if (a->state.rflags != b->state.rflags)
		print_error("  flags: %lx and %lx\n", a->state.rflags, b->state.rflags);
	for (unsigned i = 0; i < 832; i++) {
		if (a->state.xsave[i] != b->state.xsave[i])
			print_error("  byte %u of XSAVE: %02x and %02x\n", i, a->state.xsave[i], b->state.xsave[i]);
	}
	for (unsigned i = 0; i < 64u + form->insn.mem_size; i++) {
		if (a->bytes[i] != b->bytes[i])
			print_error("  byte %d of the operand: %02x and %02x\n", (int)i - 64, a->bytes[i], b->bytes[i]);
	}
}

/* How many places differ. */
static unsigned check_form(struct test_machine *m, unsigned bits, const struct test_form *form)
{
	static struct outcome ordinary, other; /* large */
	static struct engine_cpu_state state;
	unsigned size = form->insn.mem_size, first = size == 1 ? 1 : 1 + (unsigned)(rnd() % (size - 1)), wrong = 0;
	uint8_t bytes[WINDOW];

	/* An operand of a vector's size is mostly aligned. */
	if (size >= 16 && size <= 32 && (form->insn.row->flags & ROW_SSE))
		first = rnd() & 3 ? 0 : first;
	random_state(m, bits, form);
	state = m->state;
	random_bytes(bytes, sizeof(bytes));
	run_in(m, form, &state, bytes, ORDINARY, first, &ordinary);
	for (unsigned where = SPLIT; where < PLACES; where++) {
		if ((where == SPLIT || where == INTO_CODE) && (size == 1 || !first))
			continue;
		run_in(m, form, &state, bytes, where, first, &other);
		if (!same(form, &ordinary, &other)) {
			differ(form, &ordinary, &other, where);
			wrong++;
		}
	}
	return wrong;
}

static void check_all(void **state, unsigned bits)
{
	struct test_machine *m = *state;
	unsigned n, wrong = 0;
	struct test_form *forms = forms_make((enum insn_mode)(bits / 32), &n);

	m->device = calloc(1, 0x1000);
	for (unsigned i = 0; i < n * RUNS && wrong < 20; i++)
		wrong += check_form(m, bits, &forms[i / RUNS]);
	free(m->device);
	free(forms);
	assert_int_equal(wrong, 0);
}

static void test_64(void **state)
{
	check_all(state, 64);
}

static void test_32(void **state)
{
	check_all(state, 32);
}

static void test_16(void **state)
{
	check_all(state, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_64, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_32, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_16, test_setup, test_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
