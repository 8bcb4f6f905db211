/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does anything to the chips of a machine with two CPUs: ports, APIC pages, MSRs, time; and a saved state of
 * them with a bit changed, which is refused or loaded but does no harm.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "chip/board.h"
#include "chip/i8250.h"
#include "chip/i8259.h"
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/platform.h"
#include "vm/state.h"

enum { CPUS = 2, STEP = 8 /* bytes of input */ };

struct machine {
	struct bus *pio, *mmio;
	struct clock *clock;
	struct lapic_bus *bus;
	struct lapic *lapic[CPUS];
	struct i8259 *pic;
	struct ioapic *ioapic;
	struct i8250 *uart;
	struct device *devices, **last;
};

static void add(struct machine *m, struct device *dev)
{
	*m->last = dev;
	m->last = &dev->next;
}

static void on_kick(void *ctx, unsigned what)
{
	(void)ctx;
	(void)what;
}

static void on_init(void *ctx)
{
	(void)ctx;
}

static void on_sipi(void *ctx, uint8_t vector)
{
	(void)ctx;
	(void)vector;
}

static uint64_t on_tsc(void *ctx)
{
	return clock_now(((struct machine *)ctx)->clock) * 3;
}

static uint64_t on_tsc_khz(void *ctx)
{
	(void)ctx;
	return 3000000;
}

static void on_event(void *ctx, enum board_event event, unsigned code)
{
	(void)ctx;
	(void)event;
	(void)code;
}

static uint64_t on_wall(void *ctx)
{
	return UINT64_C(1795251918000000000) + clock_now(((struct machine *)ctx)->clock);
}

static void isa_set(void *ctx, unsigned irq, bool level)
{
	struct machine *m = ctx;

	i8259_set(m->pic, irq, level);
	ioapic_set(m->ioapic, irq == PLATFORM_IRQ_TIMER ? PLATFORM_GSI_TIMER : irq, level);
}

static size_t on_write(void *ctx, const void *bytes, size_t size, bool wait)
{
	(void)ctx;
	(void)bytes;
	return wait ? size : size / 2;
}

static void make_interrupts(struct machine *m)
{
	for (unsigned i = 0; i < CPUS; i++) {
		struct lapic_config config = {
			.bus = m->bus,
			.clock = m->clock,
			.id = i,
			.x2apic = true,
			.tsc_deadline = true,
			.host = { m, on_kick, on_init, on_sipi, on_tsc, on_tsc_khz },
		};
		m->lapic[i] = lapic_create(&config);
		add(m, lapic_device(m->lapic[i]));
	}
	lapic_virtual_wire(m->lapic[0]);
	m->pic = i8259_create(m->pio, (struct irq_line){ lapic_set_lint, m->lapic[0], 0 });
	add(m, i8259_device(m->pic));
	struct ioapic_config config = { m->mmio, PLATFORM_IOAPIC_BASE, 0, lapic_bus_deliver, m->bus };
	m->ioapic = ioapic_create(&config);
	add(m, ioapic_device(m->ioapic));
	lapic_bus_set_eoi(m->bus, ioapic_eoi, m->ioapic);
	lapic_bus_set_extint(m->bus, i8259_ack, m->pic);
}

static void make(struct machine *m)
{
	*m = (struct machine){ .pio = bus_create(), .mmio = bus_create(), .clock = clock_create_manual() };
	m->last = &m->devices;
	m->bus = lapic_bus_create();
	make_interrupts(m);
	struct board board = {
		.pio = m->pio,
		.mmio = m->mmio,
		.reset_bus = m->pio,
		.clock = m->clock,
		.wall_clock = on_wall,
		.event = on_event,
		.ctx = m,
	};
	for (unsigned i = 0; i < 16; i++)
		board.isa[i] = (struct irq_line){ isa_set, m, i };
	for (const struct board_device *d = board_devices; d->name; d++)
		add(m, d->create(&board));
	struct i8250_config uart = {
		.pio = m->pio,
		.base = PLATFORM_COM1_PORT,
		.irq = board.isa[PLATFORM_IRQ_COM1],
		.clock = m->clock,
		.back = { .ctx = m, .write = on_write },
	};
	m->uart = i8250_create(&uart);
	add(m, i8250_device(m->uart));
}

static void destroy_from(struct device *dev)
{
	if (!dev)
		return;
	destroy_from(dev->next);
	dev->ops->destroy(dev);
}

static void destroy(struct machine *m)
{
	destroy_from(m->devices);
	lapic_bus_destroy(m->bus);
	clock_destroy(m->clock);
	bus_destroy(m->pio);
	bus_destroy(m->mmio);
}

/* Saves, changes one byte at most, and loads what came of it. What is refused may have loaded in part: reset. */
static void save_and_load(struct machine *m, uint16_t at, uint8_t change)
{
	struct state_writer *w = state_writer_create();
	struct state_reader *r;
	const void *bytes;
	size_t size;

	state_save_devices(w, m->devices);
	if (state_writer_finish(w, &bytes, &size, NULL))
		abort();
	uint8_t *copy = malloc(size);
	if (!copy)
		abort();
	memcpy(copy, bytes, size);
	copy[at % size] ^= change;
	int rc = state_reader_create(&r, copy, size, NULL);
	if (!rc) {
		rc = state_load_devices(r, m->devices, NULL);
		state_reader_destroy(r);
	}
	if (rc && !change)
		abort(); /* what we save must load */
	for (struct device *dev = m->devices; dev && rc; dev = dev->next)
		dev->ops->reset(dev);
	free(copy);
	state_writer_destroy(w);
}

static void access_port(struct machine *m, const uint8_t *in, unsigned size)
{
	static const uint16_t ports[] = {
		0x20, 0xa0, 0x40, 0x60, 0x64, 0x70, 0x71, 0x80, 0x92, 0xf4, 0x3f8, 0x4d0, 0x600, 0x608, 0xcf8, 0x43,
	};
	uint16_t port = ports[in[1] & 15] + (in[1] >> 4 & 7);
	uint64_t value;

	if (in[1] & 0x80)
		bus_read(m->pio, port, size, &value);
	else
		bus_write(m->pio, port, size, bytes_le32(in + 4) & (UINT32_MAX >> (32 - 8 * size)));
}

static void step(struct machine *m, const uint8_t in[STEP])
{
	struct lapic *lapic = m->lapic[in[0] >> 4 & 1];
	uint64_t value = bytes_le32(in + 4), got = 0;
	bool write = in[0] & 0x80;

	switch (in[0] & 15) {
	case 0:
		lapic_mmio(lapic, PLATFORM_LAPIC_BASE + bytes_le16(in + 1) % 4096, &value, 1u << (in[3] & 3), write);
		break;
	case 1:
		lapic_mmio(lapic, PLATFORM_LAPIC_BASE + (uint64_t)in[1] * 16, &value, 4, write);
		break;
	case 2:
		if (in[2] & 1)
			value |= value << 32;
		if (write)
			lapic_msr_write(lapic, 0x800 + in[1], value);
		else
			lapic_msr_read(lapic, 0x800 + in[1], &got);
		break;
	case 3:
		lapic_msr_write(lapic, in[1] & 1 ? 0x1b : 0x6e0, in[1] & 1 ? value | in[2] : on_tsc(m) + value);
		break;
	case 4:
		bus_write(m->mmio, PLATFORM_IOAPIC_BASE, 4, in[1]);
		bus_write(m->mmio, PLATFORM_IOAPIC_BASE + (in[2] & 0x50), 4, value);
		break;
	case 5:
		if (lapic_ack(lapic) > 255)
			abort();
		break;
	case 6:
		clock_advance(m->clock, value & 0xfffffff);
		break;
	case 7:
		i8250_receive(m->uart, in + 1, in[1] & 7);
		break;
	case 8:
		save_and_load(m, bytes_le16(in + 1), in[3]);
		break;
	case 9:
		lapic_set_cr8(lapic, in[1] & 15);
		break;
	case 10:
		lapic_bus_msi(m->bus, 0xfee00000 | bytes_le16(in + 1) << 4, (uint32_t)value);
		break;
	case 11:
		lapic_init(lapic);
		break;
	default:
		access_port(m, in, 1u << (in[0] >> 4) % 3);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine m;

	make(&m);
	for (size_t at = 0; at + STEP <= size && at < 4096; at += STEP)
		step(&m, data + at);
	destroy(&m);
	return 0;
}
