/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/chip_test.h"

#define HZ UINT64_C(1193182)

struct fixture {
	struct test_board t;
	struct device *pit;
};

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	test_board_init(&f->t);
	f->pit = i8254_create(&f->t.board);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->pit->ops->destroy(f->pit);
	test_board_fini(&f->t);
	test_free(f);
	return 0;
}

/* Moves the clock to where `ticks` of the timer's have passed. */
static void advance(struct fixture *f, uint64_t ticks)
{
	clock_advance(f->t.board.clock, (ticks * SECOND + HZ - 1) / HZ);
}

static uint16_t read_latched(struct fixture *f, unsigned channel)
{
	outb(&f->t, 0x43, channel << 6);
	uint8_t low = inb(&f->t, 0x40 + channel);
	return low | inb(&f->t, 0x40 + channel) << 8;
}

static void program(struct fixture *f, unsigned channel, unsigned mode, uint16_t count)
{
	outb(&f->t, 0x43, channel << 6 | 0x30 | mode << 1);
	outb(&f->t, 0x40 + channel, count & 0xff);
	outb(&f->t, 0x40 + channel, count >> 8);
}

static void test_idle_after_reset(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(clock_next(f->t.board.clock), UINT64_MAX);
	clock_advance(f->t.board.clock, 10 * SECOND);
	assert_int_equal(f->t.rises[0], 0);
}

static void test_rate_generator(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 2, 4773); /* 250 Hz */
	assert_int_equal(f->t.rises[0], 0);
	clock_advance(f->t.board.clock, SECOND + MS);
	assert_int_equal(f->t.rises[0], 250);
	program(f, 0, 2, 1000);
	advance(f, 300);
	assert_in_range(read_latched(f, 0), 699, 700);
	advance(f, 800);
	assert_in_range(read_latched(f, 0), 898, 900);
	program(f, 0, 3, 0); /* 18.2 Hz */
	f->t.rises[0] = 0;
	clock_advance(f->t.board.clock, 10 * SECOND);
	assert_int_equal(f->t.rises[0], 182);
}

static void test_one_shot(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 0, 1193);
	assert_false(f->t.level[0]);
	advance(f, 1192);
	assert_int_equal(f->t.rises[0], 0);
	advance(f, 2);
	assert_int_equal(f->t.rises[0], 1);
	assert_true(f->t.level[0]);
	advance(f, 200000);
	assert_int_equal(f->t.rises[0], 1);
	/* The next one, as a kernel without periodic ticks does. */
	outb(&f->t, 0x40, 0xa9);
	outb(&f->t, 0x40, 0x04);
	assert_false(f->t.level[0]);
	advance(f, 1195);
	assert_int_equal(f->t.rises[0], 2);
	program(f, 0, 4, 100);
	advance(f, 100);
	assert_int_equal(f->t.rises[0], 2);
	advance(f, 2);
	assert_int_equal(f->t.rises[0], 3);
}

static void test_too_fast(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 2, 1);
	clock_advance(f->t.board.clock, 100 * MS);
	assert_in_range(f->t.rises[0], 900, 1000);
}

/* What Linux does to calibrate the TSC: channel 2's gate and output through port 0x61. */
static void test_channel_2(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, 0x61, 0);
	program(f, 2, 0, 0xe90a); /* 50 ms */
	clock_advance(t->board.clock, 100 * MS);
	assert_int_equal(inb(t, 0x61) & 0x21, 0); /* the gate is closed */
	assert_int_equal(read_latched(f, 2), 0xe90a);
	outb(t, 0x61, 1);
	clock_advance(t->board.clock, 20 * MS);
	assert_int_equal(inb(t, 0x61) & 0x21, 1);
	outb(t, 0x61, 0);
	clock_advance(t->board.clock, SECOND);
	outb(t, 0x61, 1);
	clock_advance(t->board.clock, 29 * MS);
	assert_int_equal(inb(t, 0x61) & 0x20, 0);
	clock_advance(t->board.clock, 2 * MS);
	assert_int_equal(inb(t, 0x61) & 0x20, 0x20);
	assert_int_equal(t->rises[0], 0);
	/* Read as two bytes without a latch. */
	program(f, 2, 0, 0xffff);
	advance(f, 0x100);
	uint8_t low = inb(t, 0x42);
	assert_in_range(low | inb(t, 0x42) << 8, 0xfefe, 0xfeff);
}

static void test_gated_modes(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, 0x61, 0);
	program(f, 2, 1, 1000);
	assert_int_equal(inb(t, 0x61) & 0x20, 0x20);
	outb(t, 0x61, 1);
	assert_int_equal(inb(t, 0x61) & 0x20, 0);
	advance(f, 500);
	outb(t, 0x61, 0);
	outb(t, 0x61, 1); /* triggers anew */
	advance(f, 900);
	assert_int_equal(inb(t, 0x61) & 0x20, 0);
	advance(f, 101);
	assert_int_equal(inb(t, 0x61) & 0x20, 0x20);
	program(f, 2, 3, 1000);
	advance(f, 400);
	assert_int_equal(inb(t, 0x61) & 0x20, 0x20);
	advance(f, 200);
	assert_int_equal(inb(t, 0x61) & 0x20, 0);
	outb(t, 0x61, 0);
	assert_int_equal(inb(t, 0x61) & 0x20, 0x20);
}

static void test_read_back_and_bytes(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	program(f, 0, 2, 0x1234);
	outb(t, 0x43, 0xe2); /* status of channel 0 */
	assert_int_equal(inb(t, 0x40), 0xb4);
	outb(t, 0x43, 0xc2); /* count and status */
	advance(f, 100);
	assert_int_equal(inb(t, 0x40), 0xb4);
	assert_int_equal(inb(t, 0x40), 0x34);
	assert_int_equal(inb(t, 0x40), 0x12);
	outb(t, 0x43, 0x34); /* no count yet */
	outb(t, 0x43, 0xe2);
	assert_int_equal(inb(t, 0x40), 0xf4);
	outb(t, 0x43, 0x64); /* channel 1, the high byte alone */
	outb(t, 0x41, 0x12);
	assert_int_equal(inb(t, 0x41), 0x12);
	outb(t, 0x43, 0x51); /* the low byte, decimal */
	outb(t, 0x41, 0x50);
	advance(f, 11);
	assert_in_range(inb(t, 0x41), 0x38, 0x39);
	assert_int_equal(inb(t, 0x43), 0xff);
}

static void test_port61(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;
	unsigned changes = 0;

	outb(t, 0x61, 0xff);
	assert_int_equal(inb(t, 0x61) & 0xcf, 0x0f);
	for (unsigned i = 0, last = inb(t, 0x61); i < 100; i++) {
		clock_advance(t->board.clock, 16000);
		unsigned now = inb(t, 0x61);
		changes += (now ^ last) >> 4 & 1;
		last = now;
	}
	assert_true(changes > 80);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct test_board other;

	test_board_init(&other);
	struct device *to = i8254_create(&other.board);
	program(f, 0, 2, 11932);
	outb(&f->t, 0x61, 1);
	program(f, 2, 0, 0x8000);
	advance(f, 0x1000);
	outb(&f->t, 0x43, 0x80); /* a latch half read */
	uint8_t low = inb(&f->t, 0x42);
	assert_int_equal(test_move(f->pit, to), 0);
	test_same_state(f->pit, to);
	assert_in_range(low | inb(&other, 0x42) << 8, 0x6ffe, 0x7000);
	assert_int_equal(f->t.rises[0], 0);
	clock_advance(other.board.clock, 6 * MS);
	assert_int_equal(other.rises[0], 0);
	clock_advance(other.board.clock, MS);
	assert_int_equal(other.rises[0], 1);
	clock_advance(other.board.clock, 100 * MS);
	assert_int_equal(other.rises[0], 11);
	to->ops->destroy(to);
	test_board_fini(&other);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_idle_after_reset),
		TEST(test_rate_generator),
		TEST(test_one_shot),
		TEST(test_too_fast),
		TEST(test_channel_2),
		TEST(test_gated_modes),
		TEST(test_read_back_and_bytes),
		TEST(test_port61),
		TEST(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
