/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"

static void test_every_engine_is_found_by_its_name(void **state)
{
	(void)state;
	for (unsigned i = 0; engines[i]; i++) {
		assert_non_null(engines[i]->summary);
		assert_ptr_equal(engine_find(engines[i]->name), engines[i]);
	}
	assert_null(engine_find("no-such-engine"));
	assert_null(engine_find(""));
}

static void test_reset_state_is_the_manuals(void **state)
{
	(void)state;
	static struct engine_cpu_state s;

	memset(&s, 0xaa, sizeof(s));
	engine_cpu_state_reset(&s);
	assert_int_equal(s.seg[ENGINE_CS].base + s.rip, 0xfffffff0);
	assert_int_equal(s.rflags, 2);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.cr4 | s.cr3 | s.efer | s.gpr[0], 0);
	assert_false(s.halted || s.nmi_masked || s.nmi_pending || s.interrupt_shadow);
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
		assert_int_equal(s.seg[i].limit, 0xffff);
		assert_int_equal(s.seg[i].attr & 0x80, 0x80);
	}
	assert_int_equal(s.xsave[24] | s.xsave[25] << 8, 0x1f80);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_engine_is_found_by_its_name),
		cmocka_unit_test(test_reset_state_is_the_manuals),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
