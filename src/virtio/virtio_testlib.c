/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/virtio_testlib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "virtio/virtio_pci.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/platform.h"
#include "vm/state.h"

#define ECAM(slot, reg) (PLATFORM_PCI_ECAM_BASE + ((slot) << 15) + (reg))

static void need(bool fine, const char *what)
{
	if (!fine) {
		fprintf(stderr, "virtio_testlib: %s\n", what);
		abort();
	}
}

static void on_written(void *ctx, uint64_t gpa, uint64_t size)
{
	struct test_guest *g = ctx;

	need(gpa < TEST_MEMORY && size <= TEST_MEMORY - gpa, "a write outside memory");
	g->writes++;
}

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct test_guest *g = ctx;

	(void)addr;
	if (data <= VIRTIO_QUEUES_MAX)
		g->interrupts[data]++;
}

static void on_intx(void *ctx, unsigned pin, bool level)
{
	(void)pin;
	((struct test_guest *)ctx)->intx = level;
}

static void on_fail(void *ctx, const char *reason)
{
	struct test_guest *g = ctx;

	snprintf(g->failure, sizeof(g->failure), "%s", reason);
}

void test_guest_init(struct test_guest *g)
{
	struct error err;

	memset(g, 0, sizeof(*g));
	g->fd = memfd_create("test", MFD_CLOEXEC);
	need(g->fd >= 0 && !ftruncate(g->fd, TEST_MEMORY), "no memory");
	g->ram = mmap(NULL, TEST_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
	need(g->ram != MAP_FAILED, "no mapping");
	g->memory = (struct guest_memory){ .written = on_written, .ctx = g };
	guest_memory_add(&g->memory, 0, TEST_MEMORY, g->ram, g->fd);
	need(!event_loop_create(&g->loop, &err), "no event loop");
	g->clock = clock_create_manual();
	g->pio = bus_create();
	g->mmio = bus_create();
	struct pci_config config = { .pio = g->pio, .mmio = g->mmio, .msi = on_msi, .msi_ctx = g };
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		config.pirq[i] = (struct irq_line){ .set = on_intx, .sink = g, .pin = i };
	g->pci = pci_create(&config);
	g->env =
	    (struct virtio_env){ .memory = &g->memory, .loop = g->loop, .clock = g->clock, .fail = on_fail, .ctx = g };
}

void test_guest_fini(struct test_guest *g)
{
	if (g->dev)
		g->dev->ops->destroy(g->dev);
	pci_device(g->pci)->ops->destroy(pci_device(g->pci));
	bus_destroy(g->mmio);
	bus_destroy(g->pio);
	clock_destroy(g->clock);
	event_loop_destroy(g->loop);
	munmap(g->ram, TEST_MEMORY);
	close(g->fd);
}

void test_guest_settle(struct test_guest *g)
{
	for (unsigned i = 0; i < 8; i++)
		event_loop_turn(g->loop, 0, NULL);
}

/* ---- the device over PCI ---- */

void test_guest_plug(struct test_guest *g, struct virtio *v)
{
	struct error err;
	uint64_t low = 0, high = 0;

	g->v = v;
	need(!virtio_pci_create(&g->dev, g->pci, v, &err), "no room on the bus");
	pci_device(g->pci)->ops->reset(pci_device(g->pci));
	g->dev->ops->reset(g->dev);
	bus_read(g->mmio, ECAM(1, 0x10), 4, &low);
	bus_read(g->mmio, ECAM(1, 0x14), 4, &high);
	g->bar = high << 32 | (low & ~UINT64_C(0xf));
}

uint64_t test_reg_read(struct test_guest *g, unsigned offset, unsigned size)
{
	uint64_t value;

	bus_read(g->mmio, g->bar + offset, size, &value);
	return value;
}

void test_reg_write(struct test_guest *g, unsigned offset, unsigned size, uint64_t value)
{
	bus_write(g->mmio, g->bar + offset, size, value);
}

/* MSI-X on, vector i with data i. */
static void enable_msix(struct test_guest *g)
{
	uint64_t table = 0, cap = 0, id = 0, next = 0;

	bus_read(g->mmio, ECAM(1, 0x20), 4, &table);
	bus_read(g->mmio, ECAM(1, 0x34), 1, &cap);
	for (;;) {
		bus_read(g->mmio, ECAM(1, cap), 1, &id);
		if (id == 0x11)
			break;
		bus_read(g->mmio, ECAM(1, cap + 1), 1, &next);
		need(next, "no MSI-X");
		cap = next;
	}
	for (unsigned i = 0; i <= g->v->queues; i++) {
		bus_write(g->mmio, table + i * 16, 8, 0xfee00000);
		bus_write(g->mmio, table + i * 16 + 8, 8, i);
	}
	bus_write(g->mmio, ECAM(1, cap + 2), 2, 0x8000);
}

static void start_queue(struct test_guest *g, unsigned queue)
{
	test_reg_write(g, 0x16, 2, queue);
	test_reg_write(g, 0x18, 2, TEST_QUEUE_SIZE);
	test_reg_write(g, 0x1a, 2, queue + 1);
	test_reg_write(g, 0x20, 4, test_ring_desc(queue));
	test_reg_write(g, 0x28, 8, test_ring_avail(queue));
	test_reg_write(g, 0x30, 8, test_ring_used(queue));
	memset(g->ram + test_ring_desc(queue), 0, 0x2000);
	g->next_avail[queue] = g->seen_used[queue] = g->next_desc[queue] = 0;
	test_reg_write(g, 0x1c, 2, 1);
}

void test_driver_start(struct test_guest *g, uint64_t features)
{
	enable_msix(g);
	test_reg_write(g, 0x14, 1, 0);
	test_guest_settle(g);
	test_reg_write(g, 0x10, 2, 0);
	features |= VIRTIO_BIT(VIRTIO_F_VERSION_1);
	for (unsigned i = 0; i < 2; i++) {
		test_reg_write(g, 0x08, 4, i);
		test_reg_write(g, 0x0c, 4, features >> i * 32 & UINT32_MAX);
	}
	test_reg_write(g, 0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	for (unsigned i = 0; i < g->v->queues && i < (TEST_BUFFERS - TEST_RINGS) / 0x2000; i++)
		start_queue(g, i);
	test_reg_write(g, 0x14, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
	test_guest_settle(g);
}

int test_guest_move(struct test_guest *from, struct test_guest *to)
{
	struct state_writer *w = state_writer_create();
	struct state_reader *r = NULL;
	const void *bytes;
	size_t size;
	struct error err = { "" };

	memcpy(to->ram, from->ram, TEST_MEMORY);
	memcpy(to->next_avail, from->next_avail, sizeof(to->next_avail));
	memcpy(to->seen_used, from->seen_used, sizeof(to->seen_used));
	memcpy(to->next_desc, from->next_desc, sizeof(to->next_desc));
	state_save_devices(w, from->dev);
	need(!state_writer_finish(w, &bytes, &size, &err) && !state_reader_create(&r, bytes, size, &err), err.text);
	int rc = state_load_devices(r, to->dev, &err);
	if (rc)
		fprintf(stderr, "load: %s\n", err.text);
	state_reader_destroy(r);
	state_writer_destroy(w);
	return rc;
}

/* ---- rings ---- */

uint64_t test_ring_desc(unsigned queue)
{
	return TEST_RINGS + queue * 0x2000;
}

uint64_t test_ring_avail(unsigned queue)
{
	return test_ring_desc(queue) + 0x800;
}

uint64_t test_ring_used(unsigned queue)
{
	return test_ring_desc(queue) + 0x1000;
}

void test_desc(struct test_guest *g, uint64_t table, unsigned index, uint64_t addr, uint32_t len, uint16_t flags,
	       uint16_t next)
{
	uint8_t *d = g->ram + table + index * 16;

	bytes_put_le64(d, addr);
	bytes_put_le32(d + 8, len);
	bytes_put_le16(d + 12, flags);
	bytes_put_le16(d + 14, next);
}

void test_avail(struct test_guest *g, unsigned queue, uint16_t head)
{
	uint8_t *avail = g->ram + test_ring_avail(queue);

	bytes_put_le16(avail + 4 + g->next_avail[queue] % TEST_QUEUE_SIZE * 2, head);
	bytes_put_le16(avail + 2, ++g->next_avail[queue]);
}

void test_notify(struct test_guest *g, unsigned queue)
{
	test_reg_write(g, VIRTIO_PCI_NOTIFY + queue * VIRTIO_PCI_NOTIFY_STEP, 2, queue);
}

uint16_t test_send(struct test_guest *g, unsigned queue, uint64_t out, uint32_t out_size, uint64_t in, uint32_t in_size)
{
	uint64_t table = test_ring_desc(queue);
	uint16_t head = g->next_desc[queue] % TEST_QUEUE_SIZE, second = (uint16_t)((head + 1) % TEST_QUEUE_SIZE);

	if (out_size && in_size) {
		test_desc(g, table, head, out, out_size, TEST_DESC_NEXT, second);
		test_desc(g, table, second, in, in_size, TEST_DESC_WRITE, 0);
	} else {
		test_desc(g, table, head, out_size ? out : in, out_size + in_size, in_size ? TEST_DESC_WRITE : 0, 0);
	}
	g->next_desc[queue] = (uint16_t)(g->next_desc[queue] + 1 + (out_size && in_size));
	test_avail(g, queue, head);
	test_notify(g, queue);
	return head;
}

uint16_t test_used_index(struct test_guest *g, unsigned queue)
{
	return bytes_le16(g->ram + test_ring_used(queue) + 2);
}

bool test_used(struct test_guest *g, unsigned queue, uint32_t *id, uint32_t *len)
{
	const uint8_t *used = g->ram + test_ring_used(queue);

	if (bytes_le16(used + 2) == g->seen_used[queue])
		return false;
	const uint8_t *entry = used + 4 + g->seen_used[queue]++ % TEST_QUEUE_SIZE * 8;
	if (id)
		*id = bytes_le32(entry);
	if (len)
		*len = bytes_le32(entry + 4);
	return true;
}
