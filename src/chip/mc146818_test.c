/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/chip_test.h"

enum { RTC = 8 };

struct fixture {
	struct test_board t;
	struct device *rtc;
};

/* 2026-11-21 09:05:18.25 UTC, a Saturday. */
#define WALL (UINT64_C(1795251918) * SECOND + SECOND / 4)

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	test_board_init(&f->t);
	f->t.wall = WALL;
	f->t.board.ram_low = UINT64_C(0xc0000000);
	f->t.board.ram_high = UINT64_C(3) << 30;
	f->rtc = mc146818_create(&f->t.board);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->rtc->ops->destroy(f->rtc);
	test_board_fini(&f->t);
	test_free(f);
	return 0;
}

static uint8_t get(struct test_board *t, unsigned reg)
{
	outb(t, 0x70, reg);
	return inb(t, 0x71);
}

static void put(struct test_board *t, unsigned reg, uint8_t value)
{
	outb(t, 0x70, reg);
	outb(t, 0x71, value);
}

static void expect(struct test_board *t, const uint8_t time[8])
{
	static const uint8_t regs[8] = { 0x32, 9, 8, 7, 6, 4, 2, 0 };
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(get(t, regs[i]), time[i]);
}

static void test_time(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	expect(t, (const uint8_t[]){ 0x20, 0x26, 0x11, 0x21, 7, 0x09, 0x05, 0x18 });
	clock_advance(t->board.clock, 15 * 3600 * SECOND);
	expect(t, (const uint8_t[]){ 0x20, 0x26, 0x11, 0x22, 1, 0x00, 0x05, 0x18 });
	put(t, 0x0b, 0x04); /* binary, 12 hours */
	expect(t, (const uint8_t[]){ 0x20, 26, 11, 22, 1, 12, 5, 18 });
	clock_advance(t->board.clock, 13 * 3600 * SECOND);
	assert_int_equal(get(t, 4), 0x81);
	assert_int_equal(get(t, 0x0d), 0x80);
	assert_int_equal(clock_next(t->board.clock), UINT64_MAX); /* nothing runs for nobody */
}

static void test_update_in_progress(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	assert_int_equal(get(t, 0x0a), 0x26);
	clock_advance(t->board.clock, SECOND * 3 / 4 - 100000);
	assert_int_equal(get(t, 0x0a), 0xa6);
	assert_int_equal(get(t, 0), 0x18);
	clock_advance(t->board.clock, 100000);
	assert_int_equal(get(t, 0x0a), 0x26);
	assert_int_equal(get(t, 0), 0x19);
}

/* As Linux sets it. */
static void test_set(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	put(t, 0x0b, 0x82);
	put(t, 0x0a, 0x76);
	clock_advance(t->board.clock, 10 * SECOND);
	expect(t, (const uint8_t[]){ 0x20, 0x26, 0x11, 0x21, 7, 0x09, 0x05, 0x18 });
	put(t, 0x32, 0x19);
	put(t, 9, 0x99);
	put(t, 8, 0x12);
	put(t, 7, 0x31);
	put(t, 4, 0x23);
	put(t, 2, 0x59);
	put(t, 0, 0x59);
	put(t, 0x0b, 0x02);
	put(t, 0x0a, 0x26);
	expect(t, (const uint8_t[]){ 0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59 });
	clock_advance(t->board.clock, SECOND / 2 - MS);
	assert_int_equal(get(t, 0), 0x59);
	clock_advance(t->board.clock, 2 * MS);
	expect(t, (const uint8_t[]){ 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00 });
	/* One byte of a running clock; and nonsense is some time. */
	put(t, 2, 0x30);
	expect(t, (const uint8_t[]){ 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x30, 0x00 });
	for (unsigned reg = 0; reg < 10; reg++)
		put(t, reg, 0xff);
	put(t, 0x32, 0xff);
	get(t, 9);
}

static void test_update_interrupt(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	put(t, 0x0b, 0x12);
	clock_advance(t->board.clock, SECOND / 2);
	assert_false(t->level[RTC]);
	clock_advance(t->board.clock, SECOND / 4);
	assert_true(t->level[RTC]);
	clock_advance(t->board.clock, 5 * SECOND);
	assert_int_equal(t->rises[RTC], 1);
	assert_int_equal(get(t, 0x0c) & 0xb0, 0x90);
	assert_false(t->level[RTC]);
	assert_int_equal(get(t, 0x0c), 0);
	for (unsigned i = 0; i < 10; i++) {
		clock_advance(t->board.clock, SECOND);
		assert_int_equal(get(t, 0x0c) & 0x90, 0x90);
	}
	assert_int_equal(t->rises[RTC], 11);
}

static void test_alarm(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	put(t, 5, 0x10);
	put(t, 3, 0x00);
	put(t, 1, 0x05);
	put(t, 0x0b, 0x22);
	clock_advance(t->board.clock, (54 * 60 + 46) * SECOND);
	assert_false(t->level[RTC]);
	clock_advance(t->board.clock, SECOND);
	assert_true(t->level[RTC]);
	assert_int_equal(get(t, 0x0c) & 0xa0, 0xa0);
	clock_advance(t->board.clock, 86400 * SECOND);
	assert_int_equal(t->rises[RTC], 2);
	get(t, 0x0c);
	/* Any hour, any minute. */
	put(t, 5, 0xff);
	put(t, 3, 0xc0);
	for (unsigned i = 0; i < 5; i++) {
		clock_advance(t->board.clock, 60 * SECOND);
		assert_int_equal(get(t, 0x0c) & 0xa0, 0xa0);
	}
	/* Never. */
	put(t, 1, 0x99);
	assert_int_equal(clock_next(t->board.clock), UINT64_MAX);
}

static void test_periodic(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;
	unsigned n = 0;

	put(t, 0x0b, 0x42); /* 1024 Hz */
	for (unsigned i = 0; i < 10000; i++) {
		clock_advance(t->board.clock, 100000);
		if (t->level[RTC]) {
			assert_int_equal(get(t, 0x0c) & 0xc0, 0xc0);
			n++;
		}
	}
	assert_in_range(n, 1023, 1024);
	/* Nobody reads: no more work for the host. */
	clock_advance(t->board.clock, SECOND);
	assert_int_equal(clock_next(t->board.clock), UINT64_MAX);
	put(t, 0x0b, 0x02);
	assert_false(t->level[RTC]);
}

static void test_memory(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	assert_int_equal(get(t, 0x15) | get(t, 0x16) << 8, 640);
	assert_int_equal(get(t, 0x17) | get(t, 0x18) << 8, 0xffff);
	assert_int_equal(get(t, 0x34) | get(t, 0x35) << 8, 0xbf00);
	assert_int_equal(get(t, 0x5b) | get(t, 0x5c) << 8 | get(t, 0x5d) << 16, 0xc000);
	put(t, 0x0f, 0x0a);
	put(t, 0xff, 0x5a); /* bit 7 is not part of the index */
	assert_int_equal(get(t, 0x7f), 0x5a);
	struct device *rtc = ((struct fixture *)*state)->rtc;
	put(t, 0x0b, 0x72);
	rtc->ops->reset(rtc);
	assert_int_equal(get(t, 0x0f), 0x0a);
	assert_int_equal(get(t, 0x0b), 0x02);
}

static void test_host_clock(void **state)
{
	struct fixture *f = *state;
	struct test_board other;

	(void)f;
	test_board_init(&other);
	other.board.wall_clock = NULL;
	struct device *rtc = mc146818_create(&other.board);
	assert_int_equal(get(&other, 0x32), 0x20);
	rtc->ops->destroy(rtc);
	test_board_fini(&other);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct test_board other;

	test_board_init(&other);
	other.wall = WALL;
	struct device *to = mc146818_create(&other.board);
	put(&f->t, 0x0b, 0x82);
	put(&f->t, 9, 0x30);
	put(&f->t, 0x0b, 0x12);
	put(&f->t, 0x77, 0x99);
	assert_int_equal(test_move(f->rtc, to), 0);
	test_same_state(f->rtc, to);
	assert_int_equal(get(&other, 9), 0x30);
	assert_int_equal(get(&other, 0x77), 0x99);
	clock_advance(other.board.clock, SECOND);
	assert_true(other.level[RTC]);
	to->ops->destroy(to);
	test_board_fini(&other);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_time),       TEST(test_update_in_progress), TEST(test_set),    TEST(test_update_interrupt),
		TEST(test_alarm),      TEST(test_periodic),           TEST(test_memory), TEST(test_host_clock),
		TEST(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
