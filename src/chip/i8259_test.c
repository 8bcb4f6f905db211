/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/i8259.h"

#include "chip/chip_test.h"

struct fixture {
	struct test_board t;
	struct i8259 *pic;
	bool intr;
};

static void on_output(void *sink, unsigned pin, bool level)
{
	(void)pin;
	((struct fixture *)sink)->intr = level;
}

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	test_board_init(&f->t);
	f->pic = i8259_create(f->t.board.pio, (struct irq_line){ .set = on_output, .sink = f });
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	i8259_device(f->pic)->ops->destroy(i8259_device(f->pic));
	test_board_fini(&f->t);
	test_free(f);
	return 0;
}

static void init(struct fixture *f, uint8_t icw4)
{
	struct test_board *t = &f->t;
	outb(t, 0x20, 0x11);
	outb(t, 0x21, 0x30);
	outb(t, 0x21, 0x04);
	outb(t, 0x21, icw4);
	outb(t, 0xa0, 0x11);
	outb(t, 0xa1, 0x38);
	outb(t, 0xa1, 0x02);
	outb(t, 0xa1, icw4);
}

static void pulse(struct fixture *f, unsigned irq)
{
	i8259_set(f->pic, irq, true);
	i8259_set(f->pic, irq, false);
}

static void test_silent_after_reset(void **state)
{
	struct fixture *f = *state;

	pulse(f, 0);
	assert_false(f->intr);
	assert_int_equal(inb(&f->t, 0x21), 0xff);
}

/* What Linux does to see whether there is a chip at all. */
static void test_probe(void **state)
{
	struct fixture *f = *state;

	init(f, 1);
	assert_int_equal(inb(&f->t, 0x21), 0);
	outb(&f->t, 0xa1, 0xff);
	outb(&f->t, 0x21, 0xfb);
	assert_int_equal(inb(&f->t, 0x21), 0xfb);
	assert_int_equal(inb(&f->t, 0xa1), 0xff);
}

static void test_priority_and_eoi(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	init(f, 1);
	pulse(f, 4);
	pulse(f, 1);
	assert_true(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x31);
	assert_false(f->intr); /* 4 waits for 1 */
	pulse(f, 0);
	assert_true(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x30);
	outb(t, 0x20, 0x0b);
	assert_int_equal(inb(t, 0x20), 0x03);
	outb(t, 0x20, 0x0a);
	assert_int_equal(inb(t, 0x20), 0x10);
	outb(t, 0x20, 0x20);
	assert_false(f->intr);
	outb(t, 0x20, 0x61); /* specific */
	assert_true(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x34);
	outb(t, 0x20, 0x20);
	assert_false(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x37); /* nothing: spurious */
	outb(t, 0x20, 0x0b);
	assert_int_equal(inb(t, 0x20), 0);
}

static void test_masks(void **state)
{
	struct fixture *f = *state;

	init(f, 1);
	outb(&f->t, 0x21, 0x10);
	pulse(f, 4);
	assert_false(f->intr);
	outb(&f->t, 0x21, 0);
	assert_true(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x34);
}

static void test_cascade(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	init(f, 1);
	pulse(f, 12);
	pulse(f, 8);
	assert_int_equal(i8259_ack(f->pic), 0x38);
	assert_false(f->intr);
	outb(t, 0xa0, 0x20);
	assert_false(f->intr);
	outb(t, 0x20, 0x62);
	assert_true(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x3c);
	outb(t, 0xa0, 0x20);
	outb(t, 0x20, 0x20);
	assert_false(f->intr);
	outb(t, 0x20, 0x0b);
	assert_int_equal(inb(t, 0x20), 0);
}

static void test_level(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	test_out(t, 0x4d0, 2, 0xffff);
	assert_int_equal(test_in(t, 0x4d0, 2), 0xdef8);
	init(f, 1);
	i8259_set(f->pic, 9, true);
	assert_int_equal(i8259_ack(f->pic), 0x39);
	outb(t, 0xa0, 0x20);
	outb(t, 0x20, 0x20);
	assert_true(f->intr); /* still up */
	i8259_set(f->pic, 9, false);
	outb(t, 0xa0, 0x0a);
	assert_int_equal(inb(t, 0xa0), 0);
}

static void test_auto_eoi_and_rotation(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	init(f, 3);
	pulse(f, 3);
	pulse(f, 5);
	assert_int_equal(i8259_ack(f->pic), 0x33);
	assert_int_equal(i8259_ack(f->pic), 0x35);
	assert_false(f->intr);
	pulse(f, 8);
	pulse(f, 9);
	assert_int_equal(i8259_ack(f->pic), 0x38);
	assert_true(f->intr); /* the slave asks again */
	assert_int_equal(i8259_ack(f->pic), 0x39);
	assert_false(f->intr);
	outb(t, 0x20, 0x80); /* rotate in automatic EOI mode */
	pulse(f, 3);
	assert_int_equal(i8259_ack(f->pic), 0x33);
	pulse(f, 1);
	pulse(f, 4);
	assert_int_equal(i8259_ack(f->pic), 0x34);
	assert_int_equal(i8259_ack(f->pic), 0x31);

	init(f, 1);
	outb(t, 0x20, 0xc5); /* 5 is lowest: 6 is highest */
	pulse(f, 0);
	pulse(f, 6);
	assert_int_equal(i8259_ack(f->pic), 0x36);
	outb(t, 0x20, 0xa0); /* rotate on EOI: 6 is lowest now */
	pulse(f, 6);
	pulse(f, 7);
	assert_int_equal(i8259_ack(f->pic), 0x37);
}

static void test_poll(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	init(f, 1);
	outb(t, 0x20, 0x0c);
	assert_int_equal(inb(t, 0x20), 0);
	pulse(f, 3);
	outb(t, 0x20, 0x0c);
	assert_int_equal(inb(t, 0x20), 0x83);
	assert_false(f->intr);
	outb(t, 0x20, 0x0b);
	assert_int_equal(inb(t, 0x20), 0x08);
}

static void test_special_modes(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	init(f, 1);
	pulse(f, 2 + 8);
	pulse(f, 4);
	assert_int_equal(i8259_ack(f->pic), 0x3a);
	outb(t, 0x21, 0x04);
	assert_false(f->intr);
	outb(t, 0x20, 0x68); /* special mask: what is masked blocks nothing */
	assert_true(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x34);
	outb(t, 0x20, 0x20); /* does not end the masked cascade */
	outb(t, 0x20, 0x0b);
	assert_int_equal(inb(t, 0x20), 0x04);
	outb(t, 0x20, 0x48);

	init(f, 0x11); /* special fully nested */
	pulse(f, 12);
	assert_int_equal(i8259_ack(f->pic), 0x3c);
	pulse(f, 8);
	assert_true(f->intr);
	assert_int_equal(i8259_ack(f->pic), 0x38);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct fixture other;

	memset(&other, 0, sizeof(other));
	test_board_init(&other.t);
	other.pic = i8259_create(other.t.board.pio, (struct irq_line){ .set = on_output, .sink = &other });
	outb(&f->t, 0x4d1, 0x02);
	init(f, 1);
	outb(&f->t, 0x20, 0xc3);
	outb(&f->t, 0xa1, 0x01);
	pulse(f, 5);
	i8259_set(f->pic, 9, true);
	assert_int_equal(i8259_ack(f->pic), 0x35);
	pulse(f, 4);
	outb(&f->t, 0xa0, 0x11); /* half way through an initialisation */
	outb(&f->t, 0xa1, 0x70);
	assert_int_equal(test_move(i8259_device(f->pic), i8259_device(other.pic)), 0);
	test_same_state(i8259_device(f->pic), i8259_device(other.pic));
	assert_int_equal(other.intr, f->intr);
	outb(&other.t, 0xa1, 2);
	outb(&other.t, 0xa1, 1);
	assert_int_equal(i8259_ack(other.pic), 0x34);
	outb(&other.t, 0x20, 0x20);
	outb(&other.t, 0x20, 0x20);
	assert_int_equal(i8259_ack(other.pic), 0x71);
	i8259_device(other.pic)->ops->destroy(i8259_device(other.pic));
	test_board_fini(&other.t);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_silent_after_reset),
		TEST(test_probe),
		TEST(test_priority_and_eoi),
		TEST(test_masks),
		TEST(test_cascade),
		TEST(test_level),
		TEST(test_auto_eoi_and_rotation),
		TEST(test_poll),
		TEST(test_special_modes),
		TEST(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
