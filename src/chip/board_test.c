/* SPDX-License-Identifier: Apache-2.0 */
/* Every chip of devices.def together on one board, and those that are too small for a test of their own. */
#include "chip/chip_test.h"

enum { MAX = 32 };

static unsigned make_all(struct test_board *t, struct device *all[MAX])
{
	unsigned count = 0;

	for (const struct board_device *d = board_devices; d->name; d++) {
		assert_true(count < MAX);
		all[count] = d->create(&t->board);
		assert_string_equal(all[count]->ops->name, d->name);
		count++;
	}
	for (unsigned i = 0; i + 1 < count; i++)
		all[i]->next = all[i + 1];
	return count;
}

static void destroy_all(struct device *all[MAX], unsigned count)
{
	while (count--)
		all[count]->ops->destroy(all[count]);
}

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* No access of any size to any port does harm, whatever came before; and any state so reached can be saved and loaded. */
static void test_any_access(void **state)
{
	struct test_board t, other;
	struct device *all[MAX] = { NULL }, *copies[MAX] = { NULL };
	uint32_t seed = 1;

	(void)state;
	test_board_init(&t);
	test_board_init(&other);
	unsigned count = make_all(&t, all);
	make_all(&other, copies);
	static const uint16_t ports[] = { 0x40, 0x61, 0x60, 0x64,  0x70,  0x71, 0x80,
					  0x92, 0xed, 0xf4, 0x600, 0x608, 0xcf8 };
	for (unsigned i = 0; i < 200000; i++) {
		uint64_t value = 0;
		uint16_t port = ports[next_random(&seed) % (sizeof(ports) / sizeof(ports[0]))];
		port += next_random(&seed) % 8;
		unsigned size = 1u << next_random(&seed) % 3;
		if (next_random(&seed) % 2)
			bus_write(t.board.pio, port, size, next_random(&seed));
		else
			bus_read(t.board.pio, port, size, &value);
		if (i % 64 == 0)
			clock_advance(t.board.clock, next_random(&seed) % (10 * MS));
		if (i % 10000 == 0)
			assert_int_equal(test_move(all[0], copies[0]), 0);
	}
	for (struct device *dev = all[0]; dev; dev = dev->next)
		dev->ops->reset(dev);
	destroy_all(all, count);
	destroy_all(copies, count);
	test_board_fini(&t);
	test_board_fini(&other);
}

static void test_debug_exit(void **state)
{
	struct test_board t;

	(void)state;
	test_board_init(&t);
	struct device *dev = debug_exit_create(&t.board);
	outb(&t, 0xf4, 0x10);
	assert_int_equal(t.events, 1);
	assert_int_equal(t.event, BOARD_DEBUG_EXIT);
	assert_int_equal(t.code, 0x21);
	test_out(&t, 0xf4, 4, 0);
	assert_int_equal(t.code, 1);
	assert_int_equal(inb(&t, 0xf4), 0);
	assert_int_equal(test_move(dev, dev), 0);
	dev->ops->reset(dev);
	dev->ops->destroy(dev);
	test_board_fini(&t);
}

static void test_post_port(void **state)
{
	struct test_board t;

	(void)state;
	test_board_init(&t);
	struct device *dev = post_port_create(&t.board);
	outb(&t, 0x80, 0x55);
	outb(&t, 0xed, 0x55);
	assert_int_equal(inb(&t, 0x80), 0xff);
	assert_int_equal(test_move(dev, dev), 0);
	dev->ops->reset(dev);
	dev->ops->destroy(dev);
	test_board_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_access),
		cmocka_unit_test(test_debug_exit),
		cmocka_unit_test(test_post_port),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
