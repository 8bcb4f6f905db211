/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_testlib.h - a guest's half for unit tests and fuzz targets: memory, rings, and a driver that sets up a device over
 * PCI by its registers, as a guest would. Guest memory is TEST_MEMORY bytes from 0; queue i's rings are in the page pair
 * TEST_RINGS + i * 0x2000, buffers are anyone's above TEST_BUFFERS.
 */
#ifndef PLURES_VIRTIO_TESTLIB_H
#define PLURES_VIRTIO_TESTLIB_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/virtio.h"
#include "vm/device.h"
#include "vm/guest_memory.h"
#include "vm/pci.h"

enum {
	TEST_MEMORY = 0x100000,
	TEST_RINGS = 0x10000,
	TEST_BUFFERS = 0x80000,
	TEST_QUEUE_SIZE = 16,
	TEST_DESC_NEXT = 1,
	TEST_DESC_WRITE = 2,
	TEST_DESC_INDIRECT = 4,
};

struct test_guest {
	uint8_t *ram; /* a mapping of its own */
	int fd;
	struct guest_memory memory;
	struct event_loop *loop;
	struct clock *clock;
	struct bus *pio, *mmio;
	struct pci *pci;
	struct virtio_env env;
	unsigned interrupts[VIRTIO_QUEUES_MAX + 1]; /* by vector: 0 is the configuration's */
	unsigned writes;                            /* told to guest_memory's `written` */
	bool intx;
	char failure[256];

	/* The driver's. */
	struct device *dev;
	struct virtio *v;
	uint64_t bar;
	uint16_t next_avail[VIRTIO_QUEUES_MAX], seen_used[VIRTIO_QUEUES_MAX];
	uint16_t next_desc[VIRTIO_QUEUES_MAX];
};

void test_guest_init(struct test_guest *g);
void test_guest_fini(struct test_guest *g); /* destroys the device too */
/* Turns the event loop until it has nothing to do. */
void test_guest_settle(struct test_guest *g);

/* ---- the device over PCI ---- */

/* Puts v on the bus, resets the machine, and finds the BAR. */
void test_guest_plug(struct test_guest *g, struct virtio *v);
uint64_t test_reg_read(struct test_guest *g, unsigned offset, unsigned size);
void test_reg_write(struct test_guest *g, unsigned offset, unsigned size, uint64_t value);
/* Resets, accepts these of the offered features and VERSION_1, sets up all queues with MSI-X, DRIVER_OK. */
void test_driver_start(struct test_guest *g, uint64_t features);
/* Saves the device and loads what came out into another guest's, whose memory becomes a copy: load's result. */
int test_guest_move(struct test_guest *from, struct test_guest *to);

/* ---- rings ---- */

uint64_t test_ring_desc(unsigned queue);
uint64_t test_ring_avail(unsigned queue);
uint64_t test_ring_used(unsigned queue);
void test_desc(struct test_guest *g, uint64_t table, unsigned index, uint64_t addr, uint32_t len, uint16_t flags,
	       uint16_t next);
/* Makes a chain's head available, without telling the device. */
void test_avail(struct test_guest *g, unsigned queue, uint16_t head);
/* Adds a request of one readable and one writable buffer (either may be of size 0: none), available and notified. Returns
 * its head. */
uint16_t test_send(struct test_guest *g, unsigned queue, uint64_t out, uint32_t out_size, uint64_t in,
		   uint32_t in_size);
void test_notify(struct test_guest *g, unsigned queue);
/* Takes the next used element: false when there is none. */
bool test_used(struct test_guest *g, unsigned queue, uint32_t *id, uint32_t *len);
uint16_t test_used_index(struct test_guest *g, unsigned queue);

#endif
