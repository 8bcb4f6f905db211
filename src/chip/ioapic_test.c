/* SPDX-License-Identifier: Apache-2.0 */
#include "chip/ioapic.h"

#include "chip/chip_test.h"
#include "vm/platform.h"

struct fixture {
	struct bus *mmio;
	struct ioapic *ioapic, *other;
	struct apic_message last;
	unsigned messages;
};

static void deliver(void *ctx, const struct apic_message *msg)
{
	struct fixture *f = ctx;
	f->last = *msg;
	f->messages++;
}

static int setup(void **state)
{
	struct fixture *f = test_calloc(1, sizeof(*f));
	f->mmio = bus_create();
	struct ioapic_config config = {
		.mmio = f->mmio, .base = PLATFORM_IOAPIC_BASE, .id = 3, .deliver = deliver, .ctx = f
	};
	f->ioapic = ioapic_create(&config);
	config.base += 0x10000;
	f->other = ioapic_create(&config);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	ioapic_device(f->ioapic)->ops->destroy(ioapic_device(f->ioapic));
	ioapic_device(f->other)->ops->destroy(ioapic_device(f->other));
	bus_destroy(f->mmio);
	test_free(f);
	return 0;
}

static uint32_t get(struct fixture *f, unsigned reg)
{
	uint64_t value;
	assert_true(bus_write(f->mmio, PLATFORM_IOAPIC_BASE, 4, reg));
	assert_true(bus_read(f->mmio, PLATFORM_IOAPIC_BASE + 0x10, 4, &value));
	return value;
}

static void put(struct fixture *f, unsigned reg, uint32_t value)
{
	assert_true(bus_write(f->mmio, PLATFORM_IOAPIC_BASE, 4, reg));
	assert_true(bus_write(f->mmio, PLATFORM_IOAPIC_BASE + 0x10, 4, value));
}

static void test_registers(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, 0), 3u << 24);
	assert_int_equal(get(f, 1), 0x00170020);
	for (unsigned pin = 0; pin < 24; pin++)
		assert_int_equal(get(f, 0x10 + 2 * pin), 0x10000);
	put(f, 0x10, 0xffffffff);
	assert_int_equal(get(f, 0x10), 0x1afff);
	put(f, 0x11, 0xffffffff);
	assert_int_equal(get(f, 0x11), 0xff000000);
	put(f, 0x40, 0xffffffff);
	assert_int_equal(get(f, 0x40), 0);
	put(f, 0, 0xffffffff);
	assert_int_equal(get(f, 0), 0x0f000000);
}

static void test_edge(void **state)
{
	struct fixture *f = *state;

	put(f, 0x15, 5u << 24);
	put(f, 0x14, 0x30);
	ioapic_set(f->ioapic, 2, true);
	assert_int_equal(f->messages, 1);
	assert_int_equal(f->last.vector, 0x30);
	assert_int_equal(f->last.dest, 5);
	assert_false(f->last.level);
	ioapic_set(f->ioapic, 2, true); /* no edge */
	assert_int_equal(f->messages, 1);
	ioapic_set(f->ioapic, 2, false);
	ioapic_set(f->ioapic, 2, true);
	assert_int_equal(f->messages, 2);
	/* One that comes while masked is ignored. */
	put(f, 0x14, 0x10030);
	ioapic_set(f->ioapic, 2, false);
	ioapic_set(f->ioapic, 2, true);
	assert_int_equal(f->messages, 2);
	put(f, 0x14, 0x30);
	assert_int_equal(f->messages, 2);
	ioapic_set(f->ioapic, 2, false);
	ioapic_set(f->ioapic, 2, true);
	assert_int_equal(f->messages, 3);
}

static void test_level(void **state)
{
	struct fixture *f = *state;

	put(f, 0x22, 0x8851); /* pin 9, logical */
	put(f, 0x23, 0x03000000);
	ioapic_set(f->ioapic, 9, true);
	assert_int_equal(f->messages, 1);
	assert_true(f->last.level);
	assert_true(f->last.logical);
	assert_int_equal(get(f, 0x22), 0x8851 | 1 << 14);
	ioapic_set(f->ioapic, 9, false);
	ioapic_set(f->ioapic, 9, true);
	assert_int_equal(f->messages, 1); /* not before its end */
	ioapic_eoi(f->ioapic, 0x50);
	assert_int_equal(f->messages, 1);
	ioapic_eoi(f->ioapic, 0x51);
	assert_int_equal(f->messages, 2);
	ioapic_set(f->ioapic, 9, false);
	ioapic_eoi(f->ioapic, 0x51);
	assert_int_equal(f->messages, 2);
	assert_int_equal(get(f, 0x22), 0x8851);
	/* The EOI register. */
	ioapic_set(f->ioapic, 9, true);
	assert_int_equal(f->messages, 3);
	assert_true(bus_write(f->mmio, PLATFORM_IOAPIC_BASE + 0x40, 4, 0x51));
	assert_int_equal(f->messages, 4);
	/* Unmasking with the line up. */
	put(f, 0x22, 0x18851);
	ioapic_eoi(f->ioapic, 0x51);
	assert_int_equal(f->messages, 4);
	put(f, 0x22, 0x8851);
	assert_int_equal(f->messages, 5);
	/* Edge mode clears the remote IRR; going back delivers. */
	put(f, 0x22, 0x10851);
	assert_int_equal(get(f, 0x22), 0x10851);
	put(f, 0x22, 0x8851);
	assert_int_equal(f->messages, 6);
}

static void test_modes(void **state)
{
	struct fixture *f = *state;

	put(f, 0x10, 0x700);
	put(f, 0x11, 0xff000000);
	ioapic_set(f->ioapic, 0, true);
	assert_int_equal(f->last.delivery, APIC_EXTINT);
	assert_int_equal(f->last.dest, APIC_DEST_ALL);
	put(f, 0x12, 0x8400); /* an NMI has no end, so no remote IRR */
	ioapic_set(f->ioapic, 1, true);
	assert_int_equal(f->last.delivery, APIC_NMI);
	assert_int_equal(get(f, 0x12), 0x8400);
}

static void test_round_trip(void **state)
{
	struct fixture *f = *state;

	put(f, 0x22, 0x8051);
	put(f, 0x14, 0x10030);
	ioapic_set(f->ioapic, 9, true);
	ioapic_set(f->ioapic, 2, true);
	assert_int_equal(f->messages, 1);
	assert_int_equal(test_move(ioapic_device(f->ioapic), ioapic_device(f->other)), 0);
	test_same_state(ioapic_device(f->ioapic), ioapic_device(f->other));
	assert_int_equal(f->messages, 1);
	ioapic_eoi(f->other, 0x51);
	assert_int_equal(f->messages, 2);
	ioapic_device(f->other)->ops->reset(ioapic_device(f->other));
	assert_int_equal(f->messages, 2);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_registers), TEST(test_edge), TEST(test_level), TEST(test_modes), TEST(test_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
