/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vm/bus.h"
#include "vm/pci.h"
#include "vm/platform.h"
#include "vm/state.h"

#define ECAM(slot, reg) (PLATFORM_PCI_ECAM_BASE + ((slot) << 15) + (reg))

struct machine {
	struct bus *pio, *mmio, *reset_bus;
	struct pci *pci;
	unsigned messages;
	uint64_t addr;
	uint32_t data;
	bool line[PCI_PIRQS];
	uint64_t control;
	uint64_t last_offset, last_value;
};

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct machine *m = ctx;
	m->messages++;
	m->addr = addr;
	m->data = data;
}

static void on_line(void *ctx, unsigned pin, bool level)
{
	((struct machine *)ctx)->line[pin] = level;
}

static uint64_t on_read(void *ctx, uint64_t offset, unsigned size)
{
	(void)size;
	((struct machine *)ctx)->last_offset = offset;
	return 0x1122334455667788;
}

static void on_write(void *ctx, uint64_t offset, unsigned size, uint64_t value)
{
	struct machine *m = ctx;
	(void)size;
	m->last_offset = offset;
	m->last_value = value;
}

static const struct io_ops io = { .read = on_read, .write = on_write };

static void start(struct machine *m)
{
	*m = (struct machine){ .pio = bus_create(), .mmio = bus_create(), .reset_bus = bus_create() };
	bus_add(m->reset_bus, PLATFORM_RESET_PORT, 1, &io, m, "reset");
	struct pci_config config = {
		.pio = m->pio, .mmio = m->mmio, .reset_bus = m->reset_bus, .msi = on_msi, .msi_ctx = m
	};
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		config.pirq[i] = (struct irq_line){ .set = on_line, .sink = m, .pin = i };
	m->pci = pci_create(&config);
}

static void stop(struct machine *m)
{
	pci_device(m->pci)->ops->destroy(pci_device(m->pci));
	bus_destroy(m->pio);
	bus_destroy(m->mmio);
	bus_destroy(m->reset_bus);
}

static const struct pci_identity identity = { .vendor = 0x1af4,
					      .device = 0x1044,
					      .subsystem_vendor = 0x1af4,
					      .subsystem = 1,
					      .class_code = 0xff0001,
					      .intx = true };

static void add(struct machine *m, struct pci_function *fn)
{
	struct error err;
	*fn = (struct pci_function){ 0 };
	assert_int_equal(pci_add(m->pci, fn, &identity, &err), 0);
	pci_add_bar(fn, 0, PCI_BAR_MEM64, 0x4000, &io, m, "test");
	pci_add_bar(fn, 2, PCI_BAR_IO, 32, &io, m, "test");
	pci_add_msix(fn, 4, 3);
}

static void reset(struct machine *m)
{
	pci_device(m->pci)->ops->reset(pci_device(m->pci));
}

static uint32_t get(struct machine *m, uint64_t addr, unsigned size)
{
	uint64_t value;
	assert_true(bus_read(m->mmio, addr, size, &value));
	return (uint32_t)value;
}

static void set(struct machine *m, uint64_t addr, unsigned size, uint32_t value)
{
	assert_true(bus_write(m->mmio, addr, size, value));
}

static uint32_t port_get(struct machine *m, uint16_t port, unsigned size)
{
	uint64_t value;
	bus_read(m->pio, port, size, &value);
	return (uint32_t)value;
}

static void test_ports(void **state)
{
	struct machine m;
	(void)state;
	start(&m);
	reset(&m);
	bus_write(m.pio, 0xcfb, 1, 1);
	bus_write(m.pio, 0xcf8, 4, 0x80000000);
	assert_int_equal(port_get(&m, 0xcf8, 4), 0x80000000);
	assert_int_equal(port_get(&m, 0xcfc, 4), 0x00081b36);
	assert_int_equal(port_get(&m, 0xcfe, 2), 0x0008);
	assert_int_equal(port_get(&m, 0xcfd, 1), 0x1b);
	/* Other slots, functions and buses are empty. */
	for (uint32_t where = 0x800; where <= 0x800000; where <<= 1) {
		bus_write(m.pio, 0xcf8, 4, 0x80000000 | where);
		assert_int_equal(port_get(&m, 0xcfc, 4), 0xffffffff);
	}
	bus_write(m.pio, 0xcf8, 4, 0);
	assert_int_equal(port_get(&m, 0xcfc, 4), 0xffffffff);
	/* The reset control is the byte at 0xcf9, and no wider access reaches it. */
	bus_write(m.pio, 0xcf9, 1, 6);
	assert_int_equal(m.last_value, 6);
	assert_int_equal(port_get(&m, 0xcf9, 1), 0x88);
	bus_write(m.pio, 0xcf8, 4, 0x8000ff00);
	bus_write(m.pio, 0xcf8, 2, 0xff00);
	assert_int_equal(m.last_value, 6);
	assert_int_equal(port_get(&m, 0xcf8, 4), 0x8000ff00);
	stop(&m);
}

static void test_ecam(void **state)
{
	struct machine m;
	uint64_t value;
	(void)state;
	start(&m);
	reset(&m);
	assert_int_equal(get(&m, ECAM(0, 0), 4), 0x00081b36);
	assert_int_equal(get(&m, ECAM(0, 1), 2), 0x081b);
	assert_true(bus_read(m.mmio, ECAM(0, 0), 8, &value));
	assert_int_equal(value & 0xffffffff, 0x00081b36);
	assert_int_equal(get(&m, ECAM(0, 0x100), 4), 0xffffffff);
	assert_int_equal(get(&m, ECAM(1, 0), 4), 0xffffffff);
	/* Nothing of the identity can be written. */
	for (unsigned reg = 0; reg < 0x1000; reg += 4)
		set(&m, ECAM(0, reg), 4, 0xffffffff);
	assert_int_equal(get(&m, ECAM(0, 0), 4), 0x00081b36);
	assert_int_equal(get(&m, ECAM(0, 0x10), 4), 0);
	stop(&m);
}

static void test_bars(void **state)
{
	struct machine m;
	struct pci_function fn;
	uint64_t value;
	(void)state;
	start(&m);
	add(&m, &fn);
	reset(&m);
	/* Firmware's work is done. */
	uint32_t at = get(&m, ECAM(1, 0x10), 4) & ~0xfu, ports = get(&m, ECAM(1, 0x18), 4) & ~3u;
	assert_int_equal(get(&m, ECAM(1, 4), 2), 3);
	assert_int_equal(get(&m, at + 4, 4), 0x55667788);
	assert_int_equal(m.last_offset, 4);
	assert_int_equal(port_get(&m, (uint16_t)(ports + 1), 1), 0x88);
	assert_int_equal(m.last_offset, 1);
	/* Sizing. */
	set(&m, ECAM(1, 4), 2, 0);
	assert_false(bus_read(m.mmio, at, 4, &value));
	set(&m, ECAM(1, 0x10), 4, 0xffffffff);
	set(&m, ECAM(1, 0x14), 4, 0xffffffff);
	set(&m, ECAM(1, 0x18), 4, 0xffffffff);
	assert_int_equal(get(&m, ECAM(1, 0x10), 4), 0xffffc004);
	assert_int_equal(get(&m, ECAM(1, 0x14), 4), 0xffffffff);
	assert_int_equal(get(&m, ECAM(1, 0x18), 4), 0xffffffe1);
	assert_int_equal(get(&m, ECAM(1, 0x1c), 4), 0);
	/* Moved above 4 GiB. */
	set(&m, ECAM(1, 0x10), 4, 0x8000);
	set(&m, ECAM(1, 0x14), 4, 0x41);
	set(&m, ECAM(1, 4), 2, 2);
	assert_int_equal(get(&m, 0x4100008010, 4), 0x55667788);
	assert_int_equal(m.last_offset, 0x10);
	/* Over a chip, over memory, over configuration space: not decoded. */
	const uint64_t nowhere[] = { 0xfec00000, 0xe0000000,         0,           0x100000000,
				     0xfee00000, 0xfffffffffffff000, 0x8000000000 };
	for (unsigned i = 0; i < sizeof(nowhere) / sizeof(*nowhere); i++) {
		set(&m, ECAM(1, 0x10), 4, (uint32_t)nowhere[i]);
		set(&m, ECAM(1, 0x14), 4, (uint32_t)(nowhere[i] >> 32));
		assert_false(fn.bar[0].mapped);
	}
	pci_remove(&fn);
	stop(&m);
}

static void test_overlap(void **state)
{
	struct machine m;
	struct pci_function a, b;
	(void)state;
	start(&m);
	add(&m, &a);
	add(&m, &b);
	reset(&m);
	uint32_t at = get(&m, ECAM(1, 0x10), 4) & ~0xfu;
	assert_true(a.bar[0].mapped && b.bar[0].mapped && a.bar[0].at != b.bar[0].at);
	set(&m, ECAM(2, 0x10), 4, at);
	assert_false(b.bar[0].mapped);
	assert_true(a.bar[0].mapped);
	set(&m, ECAM(1, 0x10), 4, at + 0x100000);
	assert_true(a.bar[0].mapped && b.bar[0].mapped);
	assert_int_equal(b.bar[0].at, at);
	/* Its own BARs over each other. */
	set(&m, ECAM(1, 0x20), 4, at);
	assert_false(a.bar[4].mapped);
	pci_remove(&b);
	pci_remove(&a);
	stop(&m);
}

static void test_capabilities(void **state)
{
	struct machine m;
	struct pci_function fn;
	(void)state;
	start(&m);
	add(&m, &fn);
	const uint8_t body[] = { 1, 2, 3 };
	unsigned at = pci_add_capability(&fn, 9, body, 5);
	reset(&m);
	assert_true(get(&m, ECAM(1, 6), 2) & 0x10);
	unsigned first = get(&m, ECAM(1, 0x34), 1);
	assert_int_equal(get(&m, ECAM(1, first), 1), 0x11);
	assert_int_equal(get(&m, ECAM(1, first + 1), 1), at);
	assert_int_equal(get(&m, ECAM(1, at), 4), 0x02010009);
	assert_int_equal(at & 3, 0);
	pci_remove(&fn);
	stop(&m);
}

static void test_intx(void **state)
{
	struct machine m;
	struct pci_function a, b[4];
	(void)state;
	start(&m);
	add(&m, &a);
	for (unsigned i = 0; i < 4; i++)
		add(&m, &b[i]);
	reset(&m);
	assert_int_equal(get(&m, ECAM(1, 0x3d), 1), 1);
	pci_intx_set(&a, true); /* slot 1 */
	assert_true(m.line[1]);
	assert_true(get(&m, ECAM(1, 6), 2) & 8);
	pci_intx_set(&b[3], true); /* slot 5 */
	pci_intx_set(&a, false);
	assert_true(m.line[1]);
	/* Disabled, it is pending but not on the line. */
	set(&m, ECAM(5, 4), 2, 0x400);
	assert_false(m.line[1]);
	assert_true(get(&m, ECAM(5, 6), 2) & 8);
	set(&m, ECAM(5, 4), 2, 0);
	assert_true(m.line[1]);
	reset(&m);
	assert_false(m.line[1]);
	pci_intx_set(&a, true);
	pci_remove(&a);
	assert_false(m.line[1]);
	for (unsigned i = 0; i < 4; i++)
		pci_remove(&b[i]);
	stop(&m);
}

static void test_msix(void **state)
{
	struct machine m;
	struct pci_function fn;
	(void)state;
	start(&m);
	add(&m, &fn);
	reset(&m);
	uint32_t table = get(&m, ECAM(1, 0x20), 4), cap = get(&m, ECAM(1, 0x34), 1);
	uint32_t pba = table + (get(&m, ECAM(1, cap + 8), 4) & ~7u);
	assert_int_equal(get(&m, ECAM(1, cap + 2), 2), 2);
	assert_int_equal(get(&m, ECAM(1, cap + 4), 4), 4);
	assert_int_equal(get(&m, table + 16 + 12, 4), 1);
	set(&m, table + 16, 4, 0xfee01000);
	set(&m, table + 24, 4, 0x4041);
	pci_msix_raise(&fn, 1);
	assert_int_equal(get(&m, pba, 4), 0);
	set(&m, ECAM(1, cap + 2), 2, 0x8002);
	assert_true(pci_msix_enabled(&fn));
	pci_msix_raise(&fn, 1);
	pci_msix_raise(&fn, 3);
	pci_msix_raise(&fn, 0xffff);
	assert_int_equal(m.messages, 0);
	assert_int_equal(get(&m, pba, 4), 2);
	set(&m, table + 28, 4, 0);
	assert_int_equal(m.messages, 1);
	assert_int_equal(m.addr, 0xfee01000);
	assert_int_equal(m.data, 0x4041);
	assert_int_equal(get(&m, pba, 4), 0);
	pci_msix_raise(&fn, 1);
	assert_int_equal(m.messages, 2);
	/* All masked, and let go. */
	set(&m, ECAM(1, cap + 2), 2, 0xc002);
	pci_msix_raise(&fn, 1);
	assert_int_equal(m.messages, 2);
	set(&m, pba, 4, 0); /* can't be written */
	set(&m, ECAM(1, cap + 2), 2, 0x8002);
	assert_int_equal(m.messages, 3);
	/* The rest of the BAR reads as zeros. */
	assert_int_equal(get(&m, table + 48, 4), 0);
	assert_int_equal(get(&m, pba + 8, 4), 0);
	reset(&m);
	assert_false(pci_msix_enabled(&fn));
	pci_remove(&fn);
	stop(&m);
}

static void test_saved_state(void **state)
{
	struct machine m, other;
	struct pci_function fn, copy;
	const void *bytes;
	size_t size;
	struct state_reader *r;
	struct pci_saved *saved;
	struct error err;
	(void)state;
	start(&m);
	start(&other);
	add(&m, &fn);
	add(&other, &copy);
	reset(&m);
	reset(&other);
	set(&m, ECAM(1, 0x10), 4, 0xd0000000);
	uint32_t table = get(&m, ECAM(1, 0x20), 4), cap = get(&m, ECAM(1, 0x34), 1);
	set(&m, ECAM(1, cap + 2), 2, 0x8002);
	set(&m, table + 16, 4, 0xfee02000);
	pci_msix_raise(&fn, 1);
	pci_intx_set(&fn, true);

	struct state_writer *w = state_writer_create();
	state_begin(w, "x", 0, 1);
	pci_function_save(&fn, w);
	assert_int_equal(state_writer_finish(w, &bytes, &size, &err), 0);
	assert_int_equal(state_reader_create(&r, bytes, size, &err), 0);
	assert_int_equal(state_enter(r, "x", 0, 1, NULL, &err), 0);
	assert_int_equal(pci_function_load(&copy, r, &saved, &err), 0);
	pci_function_apply(&copy, saved);
	assert_int_equal(get(&other, 0xd0000000, 4), 0x55667788);
	assert_true(other.line[1]);
	set(&other, table + 28, 4, 0);
	assert_int_equal(other.messages, 1);
	assert_int_equal(other.addr, 0xfee02000);
	state_reader_destroy(r);
	state_writer_destroy(w);
	pci_remove(&fn);
	pci_remove(&copy);
	stop(&m);
	stop(&other);
}

static void test_full(void **state)
{
	struct machine m;
	struct pci_function fn[PCI_SLOTS];
	struct error err;
	(void)state;
	start(&m);
	for (unsigned i = 1; i < PCI_SLOTS; i++)
		add(&m, &fn[i]);
	fn[0] = (struct pci_function){ 0 };
	assert_int_equal(pci_add(m.pci, &fn[0], &identity, &err), -28);
	pci_remove(&fn[0]);
	for (unsigned i = 1; i < PCI_SLOTS; i++)
		pci_remove(&fn[i]);
	stop(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ports),   cmocka_unit_test(test_ecam),         cmocka_unit_test(test_bars),
		cmocka_unit_test(test_overlap), cmocka_unit_test(test_capabilities), cmocka_unit_test(test_intx),
		cmocka_unit_test(test_msix),    cmocka_unit_test(test_saved_state),  cmocka_unit_test(test_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
