/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/chip_test.h"

enum { PM = 0x600, STATUS = PM, ENABLE = PM + 2, CONTROL = PM + 4, TIMER = PM + 8, GPE = PM + 12, SCI = 9 };

struct fixture {
	struct test_board t;
	struct device *pm;
};

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	test_board_init(&f->t);
	f->pm = acpi_pm_create(&f->t.board);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->pm->ops->destroy(f->pm);
	test_board_fini(&f->t);
	test_free(f);
	return 0;
}

static void test_timer_counts(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(test_in(&f->t, TIMER, 4), 0);
	clock_advance(f->t.board.clock, SECOND);
	assert_int_equal(test_in(&f->t, TIMER, 4), 3579545);
	assert_int_equal(test_in(&f->t, TIMER + 1, 2), 3579545 >> 8 & 0xffff);
	clock_advance(f->t.board.clock, 1199 * SECOND);
	assert_int_equal(test_in(&f->t, TIMER, 4), 1200 * UINT64_C(3579545) & 0xffffffff);
}

static void test_timer_overflow(void **state)
{
	struct fixture *f = *state;

	clock_advance(f->t.board.clock, 600 * SECOND); /* 2^31 ticks are 599.9 s */
	assert_int_equal(test_in(&f->t, STATUS, 2), 1);
	assert_false(f->t.level[SCI]);
	test_out(&f->t, STATUS, 2, 1);
	assert_int_equal(test_in(&f->t, STATUS, 2), 0);
	test_out(&f->t, ENABLE, 2, 1);
	clock_advance(f->t.board.clock, 599 * SECOND);
	assert_false(f->t.level[SCI]);
	clock_advance(f->t.board.clock, 2 * SECOND);
	assert_true(f->t.level[SCI]);
	assert_int_equal(clock_next(f->t.board.clock), UINT64_MAX);
	test_out(&f->t, STATUS, 2, 1);
	assert_false(f->t.level[SCI]);
}

static void test_power_button(void **state)
{
	struct fixture *f = *state;

	acpi_pm_power_button(f->pm);
	assert_false(f->t.level[SCI]);
	test_out(&f->t, STATUS, 2, 0x100);
	test_out(&f->t, ENABLE, 2, 0xffff);
	assert_int_equal(test_in(&f->t, ENABLE, 2), 0x521);
	acpi_pm_power_button(f->pm);
	assert_true(f->t.level[SCI]);
	assert_int_equal(test_in(&f->t, STATUS, 4), 0x05210100);
	test_out(&f->t, STATUS + 1, 1, 1); /* a byte of it */
	assert_false(f->t.level[SCI]);
}

static void test_power_off(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(test_in(&f->t, CONTROL, 2), 1); /* in ACPI mode */
	test_out(&f->t, CONTROL, 2, 5 << 10);
	assert_int_equal(test_in(&f->t, CONTROL, 2), 1 | 5 << 10);
	test_out(&f->t, CONTROL, 2, 1 << 13 | 1 << 10); /* a state that there is not */
	assert_int_equal(f->t.events, 0);
	test_out(&f->t, CONTROL, 2, 1 << 13 | 5 << 10);
	assert_int_equal(f->t.events, 1);
	assert_int_equal(f->t.event, BOARD_POWER_OFF);
	assert_int_equal(test_in(&f->t, CONTROL, 2), 1 | 5 << 10);
	test_out(&f->t, CONTROL + 1, 1, 0x34); /* by its byte */
	assert_int_equal(f->t.events, 2);
}

static void test_gpe(void **state)
{
	struct fixture *f = *state;

	acpi_pm_gpe(f->pm, 3);
	assert_false(f->t.level[SCI]);
	test_out(&f->t, GPE + 2, 2, 8);
	assert_true(f->t.level[SCI]);
	assert_int_equal(test_in(&f->t, GPE, 4), 0x00080008);
	test_out(&f->t, GPE, 1, 8);
	assert_false(f->t.level[SCI]);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct test_board other;

	test_board_init(&other);
	struct device *to = acpi_pm_create(&other.board);
	test_out(&f->t, ENABLE, 2, 0x101);
	test_out(&f->t, CONTROL, 2, 5 << 10);
	test_out(&f->t, GPE + 2, 2, 0x8000);
	acpi_pm_gpe(f->pm, 15);
	clock_advance(f->t.board.clock, 599 * SECOND);
	assert_int_equal(test_move(f->pm, to), 0);
	test_same_state(f->pm, to);
	assert_true(other.level[SCI]);
	test_out(&other, GPE, 2, 0xffff);
	assert_false(other.level[SCI]);
	clock_advance(other.board.clock, SECOND);
	assert_true(other.level[SCI]);
	to->ops->reset(to);
	assert_false(other.level[SCI]);
	to->ops->destroy(to);
	test_board_fini(&other);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_timer_counts), TEST(test_timer_overflow), TEST(test_power_button), TEST(test_power_off),
		TEST(test_gpe),          TEST(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
