/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/chip_test.h"

struct fixture {
	struct test_board t;
	struct device *kbc;
};

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	test_board_init(&f->t);
	f->kbc = i8042_create(&f->t.board);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->kbc->ops->destroy(f->kbc);
	test_board_fini(&f->t);
	test_free(f);
	return 0;
}

/* The order of what Linux's driver asks when it starts. */
static void test_probe(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	assert_int_equal(inb(t, 0x64), 0x14); /* empty, not locked */
	outb(t, 0x64, 0x20);
	assert_int_equal(inb(t, 0x64), 0x1d);
	assert_int_equal(inb(t, 0x60), 0x74);
	assert_int_equal(inb(t, 0x64), 0x1c);
	outb(t, 0x64, 0x60);
	outb(t, 0x60, 0x75);
	outb(t, 0x64, 0x20);
	assert_int_equal(inb(t, 0x60), 0x75);
	outb(t, 0x64, 0xaa);
	assert_int_equal(inb(t, 0x60), 0x55);
	outb(t, 0x64, 0xd3);
	outb(t, 0x60, 0x5a);
	assert_int_equal(inb(t, 0x64) & 0x21, 0x01); /* not from a mouse: there is no port for one */
	assert_int_equal(inb(t, 0x60), 0x5a);
	outb(t, 0x64, 0xa9);
	assert_int_equal(inb(t, 0x60), 1);
	outb(t, 0x64, 0xab);
	assert_int_equal(inb(t, 0x60), 0);
}

static void test_nothing_connected(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	outb(t, 0x60, 0xf2);
	assert_false(t->level[1]);
	assert_int_equal(inb(t, 0x64) & 0x41, 0x41);
	assert_int_equal(inb(t, 0x60), 0xfe);
	assert_int_equal(inb(t, 0x64) & 0x41, 0);
	outb(t, 0x64, 0x60);
	outb(t, 0x60, 0x45);
	outb(t, 0x60, 0xff);
	assert_true(t->level[1]);
	inb(t, 0x60);
	assert_false(t->level[1]);
}

static void test_reset_line(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	outb(t, 0x64, 0xff);
	assert_int_equal(t->events, 0);
	outb(t, 0x64, 0xfe);
	assert_int_equal(t->events, 1);
	assert_int_equal(t->event, BOARD_RESET);
	outb(t, 0x64, 0xd1);
	outb(t, 0x60, 0x01); /* A20 off */
	assert_int_equal(t->events, 1);
	outb(t, 0x64, 0xd0);
	assert_int_equal(inb(t, 0x60), 0x01);
	outb(t, 0x64, 0xd1);
	outb(t, 0x60, 0x02);
	assert_int_equal(t->events, 2);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct test_board other;

	test_board_init(&other);
	struct device *to = i8042_create(&other.board);
	outb(&f->t, 0x64, 0x60);
	outb(&f->t, 0x60, 0x41);
	outb(&f->t, 0x60, 0xed);
	outb(&f->t, 0x64, 0x6f);
	assert_int_equal(test_move(f->kbc, to), 0);
	test_same_state(f->kbc, to);
	assert_true(other.level[1]);
	outb(&other, 0x60, 0x99);
	assert_int_equal(inb(&other, 0x60), 0xfe);
	outb(&other, 0x64, 0x2f);
	assert_int_equal(inb(&other, 0x60), 0x99);
	to->ops->destroy(to);
	test_board_fini(&other);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_probe),
		TEST(test_nothing_connected),
		TEST(test_reset_line),
		TEST(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
