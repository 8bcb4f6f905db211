/* SPDX-License-Identifier: Apache-2.0 */
/* chip_test.h - what the unit tests of chips share: a board that records, and a round trip through saved state. */
#ifndef PLURES_CHIP_CHIP_TEST_H
#define PLURES_CHIP_CHIP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "chip/board.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/state.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)

struct test_board {
	struct board board;
	bool level[16];
	unsigned rises[16];
	unsigned events;
	enum board_event event;
	unsigned code;
	uint64_t wall; /* at machine time 0 */
};

static inline void test_irq(void *sink, unsigned pin, bool level)
{
	struct test_board *t = sink;
	t->rises[pin] += level && !t->level[pin];
	t->level[pin] = level;
}

static inline void test_event(void *ctx, enum board_event event, unsigned code)
{
	struct test_board *t = ctx;
	t->events++;
	t->event = event;
	t->code = code;
}

static inline uint64_t test_wall(void *ctx)
{
	struct test_board *t = ctx;
	return t->wall + clock_now(t->board.clock);
}

static inline void test_board_init(struct test_board *t)
{
	memset(t, 0, sizeof(*t));
	t->board.pio = bus_create();
	t->board.mmio = bus_create();
	t->board.reset_bus = t->board.pio;
	t->board.clock = clock_create_manual();
	for (unsigned i = 0; i < 16; i++)
		t->board.isa[i] = (struct irq_line){ .set = test_irq, .sink = t, .pin = i };
	t->board.wall_clock = test_wall;
	t->board.event = test_event;
	t->board.ctx = t;
	t->board.ram_low = 512 << 20;
}

static inline void test_board_fini(struct test_board *t)
{
	clock_destroy(t->board.clock);
	bus_destroy(t->board.mmio);
	bus_destroy(t->board.pio);
}

static inline uint64_t test_in(struct test_board *t, uint16_t port, unsigned size)
{
	uint64_t value = 0;
	bus_read(t->board.pio, port, size, &value);
	return value;
}

static inline void test_out(struct test_board *t, uint16_t port, unsigned size, uint64_t value)
{
	assert_true(bus_write(t->board.pio, port, size, value));
}

static inline uint8_t inb(struct test_board *t, uint16_t port)
{
	return (uint8_t)test_in(t, port, 1);
}

static inline void outb(struct test_board *t, uint16_t port, uint8_t value)
{
	test_out(t, port, 1, value);
}

/* Saves `from` and loads what came out into `to`, which may be on another board: the result of load. */
static inline int test_move(struct device *from, struct device *to)
{
	struct state_writer *w = state_writer_create();
	struct state_reader *r = NULL;
	const void *bytes;
	size_t size;
	struct error err = { "" };

	state_save_devices(w, from);
	assert_int_equal(state_writer_finish(w, &bytes, &size, &err), 0);
	assert_int_equal(state_reader_create(&r, bytes, size, &err), 0);
	int rc = state_load_devices(r, to, &err);
	if (rc)
		print_message("load: %s\n", err.text);
	state_reader_destroy(r);
	state_writer_destroy(w);
	return rc;
}

/* Whether both devices save the same. */
static inline void test_same_state(struct device *a, struct device *b)
{
	struct state_writer *wa = state_writer_create(), *wb = state_writer_create();
	const void *bytes_a, *bytes_b;
	size_t size_a, size_b;

	state_save_devices(wa, a);
	state_save_devices(wb, b);
	assert_int_equal(state_writer_finish(wa, &bytes_a, &size_a, NULL), 0);
	assert_int_equal(state_writer_finish(wb, &bytes_b, &size_b, NULL), 0);
	assert_int_equal(size_a, size_b);
	assert_memory_equal(bytes_a, bytes_b, size_a);
	state_writer_destroy(wa);
	state_writer_destroy(wb);
}

#endif
