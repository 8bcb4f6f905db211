/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vm/cpu_state.h"
#include "vm/state.h"

/* Saves *from and loads it into *to. */
static int round_trip(const struct engine_cpu_state *from, struct engine_cpu_state *to, struct error *err)
{
	struct state_writer *w = state_writer_create();
	struct state_reader *r;
	const void *bytes;
	size_t size;

	state_begin(w, "cpu", 0, 1);
	cpu_state_save(from, w);
	assert_int_equal(state_writer_finish(w, &bytes, &size, err), 0);
	assert_int_equal(state_reader_create(&r, bytes, size, err), 0);
	assert_int_equal(state_enter(r, "cpu", 0, 1, NULL, err), 0);
	int rc = cpu_state_load(to, r, err);
	state_reader_destroy(r);
	state_writer_destroy(w);
	return rc;
}

/* A state in long mode in which no two fields are the same. */
static void fill(struct engine_cpu_state *s)
{
	uint64_t n = 0x1000;

	engine_cpu_state_reset(s);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = n++;
	s->rip = n++;
	s->rflags = 0x246;
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++)
		s->seg[i] = (struct engine_segment){ n, (uint32_t)n + 100, (uint32_t)n + 200, (uint16_t)(n + 300) },
		n++;
	s->gdtr.base = n++;
	s->gdtr.limit = (uint16_t)n++;
	s->idtr.base = n++;
	s->idtr.limit = (uint16_t)n++;
	s->cr0 = 0x80050033;
	s->cr2 = n++;
	s->cr3 = n++ << 12;
	s->cr4 = 0x6b0;
	s->cr8 = 5;
	s->efer = 0xd01;
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = n++;
	s->xcr0 = 7;
	s->star = n++;
	s->lstar = n++;
	s->cstar = n++;
	s->sfmask = n++;
	s->kernel_gs_base = n++;
	s->sysenter_cs = n++;
	s->sysenter_esp = n++;
	s->sysenter_eip = n++;
	s->tsc_aux = n++;
	s->tsc_adjust = n++;
	s->nmi_masked = s->interrupt_shadow = true;
	s->event.valid = s->event.has_error = true;
	s->event.vector = 14;
	s->event.error = 2;
	for (unsigned i = 0; i < sizeof(s->xsave); i++)
		s->xsave[i] = (uint8_t)(i * 7);
}

static void test_everything_comes_back(void **state)
{
	static struct engine_cpu_state from, to;
	struct error err = { "" };

	(void)state;
	memset(&from, 0, sizeof(from));
	fill(&from);
	memset(&to, 0xaa, sizeof(to));
	assert_int_equal(round_trip(&from, &to, &err), 0);
	assert_memory_equal(from.gpr, to.gpr, sizeof(from.gpr));
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
		assert_int_equal(from.seg[i].base, to.seg[i].base);
		assert_int_equal(from.seg[i].limit, to.seg[i].limit);
		assert_int_equal(from.seg[i].attr, to.seg[i].attr);
		assert_int_equal(from.seg[i].selector, to.seg[i].selector);
	}
	assert_memory_equal(from.dr, to.dr, sizeof(from.dr));
	assert_memory_equal(from.xsave, to.xsave, sizeof(from.xsave));
#define SAME(field) assert_int_equal(from.field, to.field)
	SAME(rip), SAME(rflags), SAME(gdtr.base), SAME(gdtr.limit), SAME(idtr.base), SAME(idtr.limit), SAME(cr0);
	SAME(cr2), SAME(cr3), SAME(cr4), SAME(cr8), SAME(xcr0), SAME(efer), SAME(star), SAME(lstar), SAME(cstar);
	SAME(sfmask), SAME(kernel_gs_base), SAME(sysenter_cs), SAME(sysenter_esp), SAME(sysenter_eip), SAME(pat);
	SAME(tsc_aux), SAME(tsc_adjust), SAME(nmi_masked), SAME(nmi_pending), SAME(interrupt_shadow), SAME(halted);
	SAME(wait_sipi), SAME(event.valid), SAME(event.external), SAME(event.has_error), SAME(event.vector);
	SAME(event.error);
#undef SAME
}

static void refused(struct engine_cpu_state *s, const char *says)
{
	static struct engine_cpu_state to;
	struct error err = { "" };

	assert_int_equal(round_trip(s, &to, &err), -EINVAL);
	assert_non_null(strstr(err.text, says));
	memset(s, 0, sizeof(*s));
	fill(s);
}

static void test_what_no_cpu_can_be_in(void **state)
{
	static struct engine_cpu_state s;

	(void)state;
	fill(&s);
	s.cr0 &= ~1ull;
	refused(&s, "paging without protected mode");
	s.efer &= ~0x400ull;
	refused(&s, "half of long mode");
	s.cr4 = 0;
	refused(&s, "half of long mode");
	s.rflags = 0;
	refused(&s, "RFLAGS");
	s.lstar = 1ull << 63;
	refused(&s, "not canonical");
	s.seg[ENGINE_FS].base = 1ull << 50;
	refused(&s, "not canonical");
	s.xcr0 = 4;
	refused(&s, "XCR0");
	s.pat = 2;
	refused(&s, "memory type");
	s.event.vector = 32;
	refused(&s, "vector");
	s.cr3 = 1ull << 60;
	refused(&s, "page tables");
	s.cr8 = 16;
	refused(&s, "bits that do not exist");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything_comes_back),
		cmocka_unit_test(test_what_no_cpu_can_be_in),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
