/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/i8250.h"

#include "chip/chip_test.h"

#define COM1 0x3f8
#define COM2 0x2f8

struct fixture {
	struct test_board t;
	struct i8250 *uart, *other;
	char sent[8192];
	size_t sent_size;
	size_t accepts; /* what the back end takes without waiting */
	unsigned writes, waits, rooms;
};

static size_t on_write(void *ctx, const void *bytes, size_t size, bool wait)
{
	struct fixture *f = ctx;
	if (!wait && size > f->accepts)
		size = f->accepts;
	assert_true(f->sent_size + size <= sizeof(f->sent));
	memcpy(f->sent + f->sent_size, bytes, size);
	f->sent_size += size;
	f->writes++;
	f->waits += wait;
	return size;
}

static void on_room(void *ctx)
{
	((struct fixture *)ctx)->rooms++;
}

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	test_board_init(&f->t);
	f->accepts = sizeof(f->sent);
	struct i8250_config config = {
		.pio = f->t.board.pio,
		.base = COM1,
		.irq = f->t.board.isa[4],
		.clock = f->t.board.clock,
		.back = { .ctx = f, .write = on_write, .room = on_room },
	};
	f->uart = i8250_create(&config);
	config.base = COM2;
	config.flow_control = true;
	config.irq = f->t.board.isa[3];
	f->other = i8250_create(&config);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	i8250_device(f->uart)->ops->destroy(i8250_device(f->uart));
	i8250_device(f->other)->ops->destroy(i8250_device(f->other));
	test_board_fini(&f->t);
	test_free(f);
	return 0;
}

static void test_registers(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	assert_int_equal(inb(t, COM1 + 2), 0x01);
	assert_int_equal(inb(t, COM1 + 5), 0x60);
	assert_int_equal(inb(t, COM1 + 6), 0xb0);
	outb(t, COM1 + 7, 0xa5);
	assert_int_equal(inb(t, COM1 + 7), 0xa5);
	outb(t, COM1 + 1, 0xff);
	assert_int_equal(inb(t, COM1 + 1), 0x0f);
	outb(t, COM1 + 3, 0x83);
	test_out(t, COM1, 2, 0x1234); /* as two bytes */
	assert_int_equal(inb(t, COM1), 0x34);
	assert_int_equal(inb(t, COM1 + 1), 0x12);
	outb(t, COM1 + 3, 0x03);
	assert_int_equal(inb(t, COM1 + 1), 0x0f);
}

/* What Linux does to tell a 16550A from others. */
static void test_probe(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	outb(t, COM1 + 1, 0);
	assert_int_equal(inb(t, COM1 + 1) & 0x0f, 0);
	outb(t, COM1 + 1, 0x0f);
	assert_int_equal(inb(t, COM1 + 1) & 0x0f, 0x0f);
	outb(t, COM1 + 1, 0);
	outb(t, COM1 + 4, 0x1a); /* loop, OUT2, RTS */
	assert_int_equal(inb(t, COM1 + 6) & 0xf0, 0x90);
	outb(t, COM1 + 4, 0);
	outb(t, COM1 + 2, 1);
	assert_int_equal(inb(t, COM1 + 2) >> 6, 3);
	outb(t, COM1 + 2, 0x21);
	assert_int_equal(inb(t, COM1 + 2) >> 5, 6); /* no 64-byte FIFO */
	outb(t, COM1 + 2, 0);
	assert_int_equal(inb(t, COM1 + 2) >> 6, 0);
}

static void test_output(void **state)
{
	struct fixture *f = *state;

	for (const char *p = "hello"; *p; p++) {
		assert_true(inb(&f->t, COM1 + 5) & 0x20);
		outb(&f->t, COM1, *p);
	}
	assert_int_equal(f->writes, 0);
	clock_advance(f->t.board.clock, MS);
	assert_int_equal(f->writes, 1);
	assert_memory_equal(f->sent, "hello", 5);
	clock_advance(f->t.board.clock, SECOND);
	assert_int_equal(f->writes, 1);
	for (unsigned i = 0; i < 5000; i++)
		outb(&f->t, COM1, 'x');
	assert_int_equal(f->writes, 2);
	i8250_flush(f->uart);
	assert_int_equal(f->sent_size, 5005);
}

/* A back end that is slow loses nothing and holds up only who has more to send than there is room for. */
static void test_slow_back(void **state)
{
	struct fixture *f = *state;

	f->accepts = 3;
	for (const char *p = "0123456789"; *p; p++)
		outb(&f->t, COM1, *p);
	clock_advance(f->t.board.clock, MS);
	assert_int_equal(f->sent_size, 3);
	clock_advance(f->t.board.clock, 2 * MS);
	assert_int_equal(f->sent_size, 9);
	f->accepts = 0;
	clock_advance(f->t.board.clock, 100 * MS);
	assert_in_range(f->writes, 10, 15);
	assert_int_equal(f->waits, 0);
	for (unsigned i = 0; i < 4095; i++)
		outb(&f->t, COM1, 'x');
	assert_int_equal(f->waits, 0);
	outb(&f->t, COM1, 'y');
	assert_int_equal(f->waits, 1);
	assert_int_equal(f->sent_size, 9 + 4096);
	assert_memory_equal(f->sent, "0123456789xx", 12);
	clock_advance(f->t.board.clock, 10 * MS);
	assert_int_equal(f->sent_size, 9 + 4096);
	f->accepts = 1;
	clock_advance(f->t.board.clock, 10 * MS);
	assert_int_equal(f->sent_size, 9 + 4097);
	assert_int_equal(clock_next(f->t.board.clock), UINT64_MAX);
}

static void test_thre_interrupt(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	outb(t, COM1 + 1, 2);
	assert_false(t->level[4]); /* OUT2 is off */
	outb(t, COM1 + 4, 8);
	assert_true(t->level[4]);
	assert_int_equal(inb(t, COM1 + 2), 0x02);
	assert_false(t->level[4]); /* reading it cleared it */
	assert_int_equal(inb(t, COM1 + 2), 0x01);
	outb(t, COM1, 'a');
	assert_true(t->level[4]);
	outb(t, COM1 + 1, 0);
	assert_false(t->level[4]);
	assert_int_equal(inb(t, COM1 + 2), 0x01);
	outb(t, COM1 + 1, 2); /* enabling raises it again */
	assert_int_equal(inb(t, COM1 + 2), 0x02);
}

static void test_receive(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, COM1 + 1, 1);
	outb(t, COM1 + 4, 8);
	assert_int_equal(i8250_receive(f->uart, "ab", 2), 1); /* no FIFO */
	assert_true(t->level[4]);
	assert_int_equal(inb(t, COM1 + 2), 0x04);
	assert_int_equal(inb(t, COM1 + 5), 0x61);
	assert_int_equal(f->rooms, 0);
	assert_int_equal(inb(t, COM1), 'a');
	assert_int_equal(f->rooms, 1);
	assert_false(t->level[4]);
	assert_int_equal(inb(t, COM1 + 5), 0x60);
	assert_int_equal(i8250_receive(f->uart, "b", 1), 1);
	assert_int_equal(inb(t, COM1), 'b');
	assert_int_equal(f->rooms, 1);
}

static void test_flow_control(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, COM2 + 4, 1); /* DTR alone: a console that only prints */
	assert_int_equal(i8250_receive(f->other, "ab", 2), 0);
	outb(t, COM2 + 2, 7); /* a driver starts up */
	assert_int_equal(f->rooms, 0);
	outb(t, COM2 + 4, 3);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(i8250_receive(f->other, "ab", 2), 2);
	outb(t, COM2 + 4, 1);
	assert_int_equal(i8250_receive(f->other, "c", 1), 0);
	assert_int_equal(inb(t, COM2), 'a');
	assert_int_equal(inb(t, COM2), 'b');
}

static void test_fifo_and_timeout(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, COM1 + 1, 1);
	outb(t, COM1 + 4, 8);
	outb(t, COM1 + 3, 3);
	outb(t, COM1 + 2, 0x87); /* trigger level 8 */
	assert_int_equal(i8250_receive(f->uart, "1234567", 7), 7);
	assert_false(t->level[4]);
	clock_advance(t->board.clock, 340000);
	assert_false(t->level[4]);
	clock_advance(t->board.clock, 10000); /* four characters of ten bits */
	assert_true(t->level[4]);
	assert_int_equal(inb(t, COM1 + 2), 0xcc);
	assert_int_equal(inb(t, COM1), '1');
	assert_false(t->level[4]);
	clock_advance(t->board.clock, MS);
	assert_true(t->level[4]);
	assert_int_equal(i8250_receive(f->uart, "89abcdefghijk", 13), 10);
	assert_int_equal(inb(t, COM1 + 2), 0xc4);
	for (unsigned i = 0; i < 7; i++)
		assert_int_equal(inb(t, COM1), "2345678"[i]);
	assert_int_equal(f->rooms, 0);
	assert_int_equal(inb(t, COM1), '9');
	assert_int_equal(f->rooms, 1);
	outb(t, COM1 + 2, 0x83); /* clears */
	assert_int_equal(inb(t, COM1 + 5), 0x60);
	assert_false(t->level[4]);
}

static void test_loopback(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, COM1 + 4, 0x18);
	outb(t, COM1 + 1, 1);
	outb(t, COM1, 'z');
	assert_int_equal(f->sent_size, 0);
	assert_int_equal(i8250_receive(f->uart, "q", 1), 0);
	assert_int_equal(inb(t, COM1 + 2), 0x04);
	assert_false(t->level[4]); /* OUT2 does not leave the chip */
	outb(t, COM1, 'y');
	assert_int_equal(inb(t, COM1 + 5), 0x63); /* overrun */
	assert_int_equal(inb(t, COM1), 'z');
	outb(t, COM1 + 4, 0x08);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(f->sent_size, 0);
}

static void test_modem_status(void **state)
{
	struct test_board *t = &((struct fixture *)*state)->t;

	outb(t, COM1 + 4, 0x10);
	assert_int_equal(inb(t, COM1 + 6), 0x0b);
	assert_int_equal(inb(t, COM1 + 6), 0x00);
	outb(t, COM1 + 4, 0x14);
	assert_int_equal(inb(t, COM1 + 6), 0x40);
	outb(t, COM1 + 1, 8);
	outb(t, COM1 + 4, 0x10);
	assert_int_equal(inb(t, COM1 + 2), 0x00);
	assert_int_equal(inb(t, COM1 + 6), 0x04);
	assert_int_equal(inb(t, COM1 + 2), 0x01);
	outb(t, COM1 + 4, 0x08);
	assert_true(t->level[4]);
	assert_int_equal(inb(t, COM1 + 6), 0xbb);
	assert_false(t->level[4]);
}

static void test_break(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, COM1 + 2, 1);
	outb(t, COM1 + 4, 8);
	outb(t, COM1 + 1, 4);
	i8250_receive(f->uart, "a", 1);
	i8250_break(f->uart);
	assert_int_equal(inb(t, COM1 + 5), 0xe1);
	assert_false(t->level[4]);
	assert_int_equal(inb(t, COM1), 'a');
	assert_true(t->level[4]);
	assert_int_equal(inb(t, COM1 + 2), 0xc6);
	assert_int_equal(inb(t, COM1 + 5), 0xf1);
	assert_false(t->level[4]);
	assert_int_equal(inb(t, COM1), 0);
	assert_int_equal(inb(t, COM1 + 5), 0x60);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;
	struct test_board *t = &f->t;

	outb(t, COM1 + 3, 0x83);
	outb(t, COM1, 12);
	outb(t, COM1 + 3, 3);
	outb(t, COM1 + 2, 0xc1);
	outb(t, COM1 + 4, 0x0b);
	outb(t, COM1 + 1, 7);
	outb(t, COM1 + 7, 0x77);
	outb(t, COM1, 'o');
	i8250_receive(f->uart, "in", 2);
	i8250_break(f->uart);
	assert_int_equal(test_move(i8250_device(f->uart), i8250_device(f->other)), 0);
	test_same_state(i8250_device(f->uart), i8250_device(f->other));
	assert_int_equal(f->sent_size, 1);
	assert_true(t->level[3]);
	assert_int_equal(inb(t, COM2 + 2), 0xc2);
	assert_false(t->level[3]);
	clock_advance(t->board.clock, 10 * MS);
	assert_int_equal(inb(t, COM2 + 2), 0xcc);
	assert_int_equal(inb(t, COM2), 'i');
	assert_int_equal(inb(t, COM2), 'n');
	assert_int_equal(inb(t, COM2 + 5), 0xf1);
	assert_int_equal(inb(t, COM2), 0);
	assert_int_equal(inb(t, COM2 + 7), 0x77);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_registers),      TEST(test_probe),   TEST(test_output),           TEST(test_slow_back),
		TEST(test_thre_interrupt), TEST(test_receive), TEST(test_fifo_and_timeout), TEST(test_loopback),
		TEST(test_modem_status),   TEST(test_break),   TEST(test_round_trip),       TEST(test_flow_control),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
