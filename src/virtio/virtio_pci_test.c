/* SPDX-License-Identifier: Apache-2.0 */
/* The transport, driven register by register, with a device that records what is done to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_testlib.h"
#include "vm/bus.h"
#include "vm/platform.h"

#define ECAM(slot, reg) (PLATFORM_PCI_ECAM_BASE + ((slot) << 15) + (reg))

struct probe {
	struct virtio v;
	unsigned starts, resets, notifies[2], queue_resets, config_writes, served;
};

static void probe_start(struct virtio *v)
{
	((struct probe *)v)->starts++;
}

static void probe_reset(struct virtio *v)
{
	((struct probe *)v)->resets++;
}

static bool serve(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	((struct probe *)v)->served++;
	virtqueue_push(vq, chain, virtqueue_chain_write(chain, 0, "served", 6));
	return true;
}

static void probe_notify(struct virtio *v, unsigned queue)
{
	((struct probe *)v)->notifies[queue]++;
	virtio_serve(v, queue, serve);
}

static void probe_queue_reset(struct virtio *v, unsigned queue)
{
	(void)queue;
	((struct probe *)v)->queue_resets++;
}

static void probe_config_written(struct virtio *v, unsigned offset, unsigned size)
{
	(void)offset;
	(void)size;
	((struct probe *)v)->config_writes++;
}

static void probe_destroy(struct virtio *v)
{
	virtio_fini(v);
	free(v);
}

static const struct virtio_ops probe_ops = {
	.name = "virtio-probe",
	.version = 1,
	.type = VIRTIO_TYPE_RNG,
	.class_code = 0x00ff00,
	.start = probe_start,
	.reset = probe_reset,
	.notify = probe_notify,
	.queue_reset = probe_queue_reset,
	.config_written = probe_config_written,
	.destroy = probe_destroy,
};

static struct probe *begin(struct test_guest *g)
{
	struct probe *probe = memory_zalloc(sizeof(*probe));

	test_guest_init(g);
	virtio_init(&probe->v, &probe_ops, &g->env, 1 << 5, 2, 64, 12);
	memcpy(probe->v.config, "configspace", 12);
	test_guest_plug(g, &probe->v);
	probe->resets = 0;
	return probe;
}

static void test_capabilities(void **state)
{
	struct test_guest g;
	uint64_t cap, value;
	unsigned found = 0;
	(void)state;
	begin(&g);
	bus_read(g.mmio, ECAM(1, 0), 4, &value);
	assert_int_equal(value, 0x10441af4);
	bus_read(g.mmio, ECAM(1, 0x34), 1, &cap);
	while (cap) {
		uint64_t id, type, bar, offset, length;
		bus_read(g.mmio, ECAM(1, cap), 1, &id);
		bus_read(g.mmio, ECAM(1, cap + 3), 1, &type);
		bus_read(g.mmio, ECAM(1, cap + 4), 1, &bar);
		bus_read(g.mmio, ECAM(1, cap + 8), 4, &offset);
		bus_read(g.mmio, ECAM(1, cap + 12), 4, &length);
		if (id == 9) {
			found |= 1u << type;
			assert_int_equal(bar, 0);
			assert_true(offset + length <= VIRTIO_PCI_BAR_SIZE);
		}
		bus_read(g.mmio, ECAM(1, cap + 1), 1, &cap);
	}
	assert_int_equal(found, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5);
	test_guest_fini(&g);
}

static void test_negotiation(void **state)
{
	struct test_guest g;
	(void)state;
	struct probe *probe = begin(&g);
	test_reg_write(&g, 0x00, 4, 0);
	assert_int_equal(test_reg_read(&g, 0x04, 4), 1 << 5 | 1u << 28 | 1u << 29);
	test_reg_write(&g, 0x00, 4, 1);
	assert_int_equal(test_reg_read(&g, 0x04, 4), 1 | 1 << 8);
	test_reg_write(&g, 0x00, 4, 2);
	assert_int_equal(test_reg_read(&g, 0x04, 4), 0);
	/* Without VERSION_1, with what is not offered. */
	test_reg_write(&g, 0x14, 1, 3);
	test_reg_write(&g, 0x14, 1, 11);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 3);
	test_reg_write(&g, 0x08, 4, 1);
	test_reg_write(&g, 0x0c, 4, 3);
	test_reg_write(&g, 0x14, 1, 11);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 3);
	test_reg_write(&g, 0x14, 1, 15);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 3);
	test_reg_write(&g, 0x0c, 4, 1);
	test_reg_write(&g, 0x14, 1, 11);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 11);
	/* Final now. */
	test_reg_write(&g, 0x0c, 4, 0);
	assert_int_equal(test_reg_read(&g, 0x0c, 4), 1);
	assert_int_equal(probe->starts, 0);
	test_reg_write(&g, 0x14, 1, 15);
	test_guest_settle(&g);
	assert_int_equal(probe->starts, 1);
	assert_true(virtio_has(&probe->v, VIRTIO_F_VERSION_1));
	assert_false(virtio_has(&probe->v, VIRTIO_F_EVENT_IDX));
	test_reg_write(&g, 0x14, 1, 1); /* bits do not go */
	assert_int_equal(test_reg_read(&g, 0x14, 1), 15);
	test_guest_fini(&g);
}

static void test_requests_and_interrupts(void **state)
{
	struct test_guest g;
	(void)state;
	struct probe *probe = begin(&g);
	test_driver_start(&g, 0);
	assert_int_equal(probe->starts, 1);
	test_send(&g, 1, TEST_BUFFERS, 4, TEST_BUFFERS + 0x100, 16);
	assert_int_equal(probe->served, 0); /* not on the vCPU's thread */
	test_guest_settle(&g);
	assert_int_equal(probe->served, 1);
	assert_true(test_used(&g, 1, NULL, NULL));
	assert_memory_equal(g.ram + TEST_BUFFERS + 0x100, "served", 6);
	assert_int_equal(g.interrupts[2], 1);
	assert_int_equal(g.interrupts[0] + g.interrupts[1], 0);
	test_notify(&g, 2); /* there is none */
	test_notify(&g, 1000);
	test_guest_settle(&g);
	test_guest_fini(&g);
}

static void test_intx(void **state)
{
	struct test_guest g;
	uint64_t value;
	(void)state;
	begin(&g);
	test_driver_start(&g, 0);
	for (unsigned cap = 0x40; cap < 0x100; cap += 4) { /* MSI-X off again */
		bus_read(g.mmio, ECAM(1, cap), 1, &value);
		if (value == 0x11) {
			bus_write(g.mmio, ECAM(1, cap + 2), 2, 0);
			break;
		}
	}
	test_send(&g, 0, 0, 0, TEST_BUFFERS, 16);
	test_guest_settle(&g);
	assert_true(g.intx);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_ISR, 1), 1);
	assert_false(g.intx);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_ISR, 1), 0);
	virtio_config_set(g.v, 0, "C", 1);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_ISR, 1), 2);
	test_send(&g, 0, 0, 0, TEST_BUFFERS, 16);
	test_guest_settle(&g);
	/* What is said between the driver's reset and its end is void, too. */
	test_reg_write(&g, 0x14, 1, 0);
	virtio_config_set(g.v, 0, "c", 1);
	assert_true(g.intx);
	test_guest_settle(&g);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 0);
	assert_false(g.intx);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_ISR, 1), 0);
	test_guest_fini(&g);
}

static void test_config(void **state)
{
	struct test_guest g;
	(void)state;
	struct probe *probe = begin(&g);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_CONFIG, 4), 0x666e6f63);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_CONFIG + 10, 4), 'e');
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_CONFIG + 12, 8), 0);
	test_reg_write(&g, VIRTIO_PCI_CONFIG, 1, 'C');
	assert_int_equal(probe->config_writes, 1);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_CONFIG, 1), 'C');
	test_reg_write(&g, VIRTIO_PCI_CONFIG + 10, 4, 0);
	test_reg_write(&g, VIRTIO_PCI_CONFIG + 0xff8, 8, 0);
	assert_int_equal(probe->config_writes, 1);
	uint64_t generation = test_reg_read(&g, 0x15, 1);
	test_driver_start(&g, 0);
	virtio_config_set(&probe->v, 2, "xy", 2);
	assert_int_equal(test_reg_read(&g, 0x15, 1), generation + 1);
	assert_int_equal(g.interrupts[0], 1);
	test_guest_fini(&g);
}

static void test_reset(void **state)
{
	struct test_guest g;
	(void)state;
	struct probe *probe = begin(&g);
	test_driver_start(&g, VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
	test_reg_write(&g, 0x14, 1, 0);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 15); /* not yet */
	test_reg_write(&g, 0x14, 1, 1);                   /* too early: ignored */
	test_send(&g, 0, 0, 0, TEST_BUFFERS, 16);
	unsigned served = probe->served;
	test_guest_settle(&g);
	assert_int_equal(probe->served, served);
	assert_int_equal(probe->resets, 1);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 0);
	test_reg_write(&g, 0x16, 2, 0);
	assert_int_equal(test_reg_read(&g, 0x1c, 2), 0);
	assert_int_equal(test_reg_read(&g, 0x18, 2), 64);
	assert_int_equal(test_reg_read(&g, 0x20, 8), 0);
	assert_int_equal(test_reg_read(&g, 0x10, 2), 0xffff);
	assert_int_equal(test_reg_read(&g, 0x1a, 2), 0xffff);
	/* And again. */
	test_driver_start(&g, 0);
	test_send(&g, 0, 0, 0, TEST_BUFFERS, 16);
	test_guest_settle(&g);
	assert_int_equal(probe->served, served + 1);
	/* The machine's reset is done at once. */
	g.dev->ops->reset(g.dev);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 0);
	assert_int_equal(test_reg_read(&g, 0x10, 2), 0xffff);
	test_guest_fini(&g);
}

static void test_queue_reset(void **state)
{
	struct test_guest g;
	(void)state;
	struct probe *probe = begin(&g);
	test_driver_start(&g, VIRTIO_BIT(VIRTIO_F_RING_RESET));
	test_reg_write(&g, 0x16, 2, 1);
	assert_int_equal(test_reg_read(&g, 0x1c, 2), 1);
	test_reg_write(&g, 0x3a, 2, 1);
	assert_int_equal(test_reg_read(&g, 0x3a, 2), 1);
	test_guest_settle(&g);
	assert_int_equal(test_reg_read(&g, 0x3a, 2), 0);
	assert_int_equal(test_reg_read(&g, 0x1c, 2), 0);
	assert_int_equal(probe->queue_resets, 1);
	test_send(&g, 1, 0, 0, TEST_BUFFERS, 16);
	test_guest_settle(&g);
	assert_int_equal(probe->served, 0);
	/* Set up anew while the device runs. */
	memset(g.ram + test_ring_desc(1), 0, 0x2000);
	g.next_avail[1] = 0;
	test_reg_write(&g, 0x18, 2, 16);
	test_reg_write(&g, 0x20, 8, test_ring_desc(1));
	test_reg_write(&g, 0x28, 8, test_ring_avail(1));
	test_reg_write(&g, 0x30, 8, test_ring_used(1));
	test_reg_write(&g, 0x1c, 2, 1);
	test_guest_settle(&g);
	test_send(&g, 1, 0, 0, TEST_BUFFERS, 16);
	test_guest_settle(&g);
	assert_int_equal(probe->served, 1);
	test_guest_fini(&g);
}

static void test_broken_ring(void **state)
{
	struct test_guest g;
	(void)state;
	begin(&g);
	test_driver_start(&g, 0);
	test_avail(&g, 0, 0xffff);
	test_notify(&g, 0);
	test_guest_settle(&g);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 15 | VIRTIO_NEEDS_RESET);
	assert_int_equal(g.interrupts[0], 1);
	test_driver_start(&g, 0);
	assert_int_equal(test_reg_read(&g, 0x14, 1), 15);
	test_guest_fini(&g);
}

static void test_window(void **state)
{
	struct test_guest g;
	uint64_t value, cap = 0;
	(void)state;
	begin(&g);
	for (unsigned at = 0x40; at < 0xf0; at += 4) {
		uint64_t id, type;
		bus_read(g.mmio, ECAM(1, at), 1, &id);
		bus_read(g.mmio, ECAM(1, at + 3), 1, &type);
		if (id == 9 && type == 5)
			cap = at;
	}
	assert_true(cap);
	bus_write(g.mmio, ECAM(1, cap + 8), 4, VIRTIO_PCI_CONFIG);
	bus_write(g.mmio, ECAM(1, cap + 12), 4, 4);
	bus_read(g.mmio, ECAM(1, cap + 16), 4, &value);
	assert_int_equal(value, 0x666e6f63);
	bus_write(g.mmio, ECAM(1, cap + 16), 4, 0x64636261);
	assert_int_equal(test_reg_read(&g, VIRTIO_PCI_CONFIG, 4), 0x64636261);
	/* Shut: another length, another BAR, outside. */
	bus_read(g.mmio, ECAM(1, cap + 16), 2, &value);
	assert_int_equal(value, 0);
	bus_write(g.mmio, ECAM(1, cap + 8), 4, VIRTIO_PCI_BAR_SIZE);
	bus_read(g.mmio, ECAM(1, cap + 16), 4, &value);
	bus_write(g.mmio, ECAM(1, cap + 8), 4, 0xfffffffc);
	bus_read(g.mmio, ECAM(1, cap + 16), 4, &value);
	assert_int_equal(value, 0);
	bus_write(g.mmio, ECAM(1, cap + 8), 4, 0);
	bus_write(g.mmio, ECAM(1, cap + 4), 1, 4);
	bus_read(g.mmio, ECAM(1, cap + 16), 4, &value);
	assert_int_equal(value, 0);
	test_guest_fini(&g);
}

static void test_saved_state(void **state)
{
	struct test_guest g, other;
	(void)state;
	begin(&g);
	struct probe *copy = begin(&other);
	test_driver_start(&g, VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
	for (unsigned i = 0; i < 5; i++) {
		test_send(&g, 0, 0, 0, TEST_BUFFERS, 16);
		test_guest_settle(&g);
	}
	assert_int_equal(test_guest_move(&g, &other), 0);
	test_guest_settle(&other);
	assert_int_equal(copy->starts, 1);
	assert_true(virtio_has(&copy->v, VIRTIO_F_EVENT_IDX));
	assert_int_equal(test_reg_read(&other, 0x14, 1), 15);
	for (unsigned i = 0; i < 5; i++)
		assert_true(test_used(&other, 0, NULL, NULL));
	bus_write(other.mmio, 0, 1, 0);
	other.ram[test_ring_avail(0) + 4 + 32] = 5; /* used_event */
	test_send(&other, 0, 0, 0, TEST_BUFFERS, 16);
	test_guest_settle(&other);
	assert_true(test_used(&other, 0, NULL, NULL));
	assert_int_equal(copy->served, 1);
	assert_int_equal(other.interrupts[1], 1);
	test_guest_fini(&g);
	test_guest_fini(&other);
}

/* Any access of any width to any register: nothing bad comes of it. */
static void test_all_registers(void **state)
{
	struct test_guest g;
	(void)state;
	begin(&g);
	test_driver_start(&g, 0);
	for (unsigned size = 1; size <= 8; size *= 2)
		for (unsigned offset = 0; offset < VIRTIO_PCI_BAR_SIZE; offset += offset < 0x80 ? 1 : 0x3f) {
			test_reg_read(&g, offset, size);
			test_reg_write(&g, offset, size, 0x8877665544332211 * (offset + 1));
		}
	test_guest_settle(&g);
	test_guest_fini(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_requests_and_interrupts),
		cmocka_unit_test(test_intx),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_queue_reset),
		cmocka_unit_test(test_broken_ring),
		cmocka_unit_test(test_window),
		cmocka_unit_test(test_saved_state),
		cmocka_unit_test(test_all_registers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
