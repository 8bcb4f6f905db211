/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/chip_test.h"

static void test_reset_control(void **state)
{
	struct test_board t;

	(void)state;
	test_board_init(&t);
	struct device *dev = reset_port_create(&t.board);
	outb(&t, 0xcf9, 0x02);
	assert_int_equal(t.events, 0);
	assert_int_equal(inb(&t, 0xcf9), 0x02);
	outb(&t, 0xcf9, 0x06);
	assert_int_equal(t.events, 1);
	assert_int_equal(t.event, BOARD_RESET);
	dev->ops->destroy(dev);
	test_board_fini(&t);
}

static void test_port92(void **state)
{
	struct test_board t;

	(void)state;
	test_board_init(&t);
	struct device *dev = reset_port_create(&t.board);
	assert_int_equal(inb(&t, 0x92), 0x02);
	outb(&t, 0x92, 0x00);
	assert_int_equal(inb(&t, 0x92), 0x00);
	assert_int_equal(t.events, 0);
	outb(&t, 0x92, 0x03);
	assert_int_equal(t.events, 1);
	outb(&t, 0x92, 0x03);
	assert_int_equal(t.events, 1);
	dev->ops->reset(dev);
	assert_int_equal(inb(&t, 0x92), 0x02);
	dev->ops->destroy(dev);
	test_board_fini(&t);
}

static void test_round_trip(void **state)
{
	struct test_board t, other;

	(void)state;
	test_board_init(&t);
	test_board_init(&other);
	struct device *from = reset_port_create(&t.board), *to = reset_port_create(&other.board);
	outb(&t, 0xcf9, 0x0a);
	outb(&t, 0x92, 0);
	assert_int_equal(test_move(from, to), 0);
	test_same_state(from, to);
	assert_int_equal(inb(&other, 0xcf9), 0x0a);
	assert_int_equal(inb(&other, 0x92), 0);
	from->ops->destroy(from);
	to->ops->destroy(to);
	test_board_fini(&t);
	test_board_fini(&other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reset_control),
		cmocka_unit_test(test_port92),
		cmocka_unit_test(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
