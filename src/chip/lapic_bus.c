/* SPDX-License-Identifier: Apache-2.0 */
/* How interrupt messages find their local APICs: SDM Vol. 3, 11.6.2 and 11.12.10. */
#include "chip/lapic_private.h"

#include <assert.h>
#include <stdlib.h>

#include "base/memory.h"

struct lapic_bus *lapic_bus_create(void)
{
	struct lapic_bus *bus = memory_zalloc(sizeof(*bus));

	pthread_mutex_init(&bus->lock, NULL);
	return bus;
}

void lapic_bus_destroy(struct lapic_bus *bus)
{
	if (!bus)
		return;
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

void lapic_bus_set_eoi(struct lapic_bus *bus, void (*eoi)(void *ctx, uint8_t vector), void *ctx)
{
	bus->eoi = eoi;
	bus->eoi_ctx = ctx;
}

void lapic_bus_set_extint(struct lapic_bus *bus, int (*ack)(void *ctx), void *ctx)
{
	bus->extint = ack;
	bus->extint_ctx = ctx;
}

void lapic_bus_add(struct lapic_bus *bus, struct lapic *lapic)
{
	pthread_mutex_lock(&bus->lock);
	unsigned count = atomic_load(&bus->count);
	assert(count < LAPIC_MAX);
	for (unsigned i = 0; i < count; i++)
		assert(bus->lapic[i]->id != lapic->id);
	bus->lapic[count] = lapic;
	atomic_store(&bus->count, count + 1);
	pthread_mutex_unlock(&bus->lock);
}

void lapic_bus_remove(struct lapic_bus *bus, struct lapic *lapic)
{
	pthread_mutex_lock(&bus->lock);
	unsigned count = atomic_load(&bus->count);
	for (unsigned i = 0; i < count; i++) {
		if (bus->lapic[i] == lapic) {
			bus->lapic[i] = bus->lapic[count - 1];
			atomic_store(&bus->count, count - 1);
			break;
		}
	}
	pthread_mutex_unlock(&bus->lock);
}

/* ---- destinations ---- */

static bool matches_logical(const struct lapic *lapic, uint32_t dest)
{
	if (lapic_is_x2apic(lapic)) {
		uint32_t ldr = lapic_x2apic_ldr(lapic);
		return dest == APIC_DEST_ALL || (dest >> 16 == ldr >> 16 && dest & ldr & 0xffff);
	}
	uint32_t ldr = atomic_load_explicit(&lapic->ldr, memory_order_relaxed) >> 24;
	uint32_t model = atomic_load_explicit(&lapic->dfr, memory_order_relaxed) >> 28;
	if (dest == APIC_DEST_ALL)
		dest = 0xff;
	if (dest > 0xff)
		return false;
	if (model == 0xf) /* flat */
		return dest & ldr;
	if (model == 0) /* cluster */
		return (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && dest & ldr & 0xf;
	return false;
}

static bool matches(const struct lapic *lapic, const struct apic_message *msg)
{
	if (!lapic_is_enabled(lapic))
		return false;
	if (msg->logical)
		return matches_logical(lapic, msg->dest);
	return msg->dest == APIC_DEST_ALL || msg->dest == lapic->id;
}

/* 11.6.2.4: of those that match, one whose processor priority is lowest; equals take turns. */
static void deliver_lowest(struct lapic_bus *bus, const struct apic_message *msg)
{
	unsigned count = atomic_load(&bus->count);
	unsigned first = atomic_fetch_add(&bus->turn, 1);
	struct lapic *best = NULL;

	for (unsigned i = 0; i < count; i++) {
		struct lapic *lapic = bus->lapic[(first + i) % count];
		if (!matches(lapic, msg) || !(atomic_load(&lapic->svr) & SVR_ENABLED))
			continue;
		if (!best || atomic_load(&lapic->ppr) >> 4 < atomic_load(&best->ppr) >> 4)
			best = lapic;
	}
	if (best)
		lapic_accept(best, msg);
}

void lapic_bus_deliver(void *arg, const struct apic_message *msg)
{
	struct lapic_bus *bus = arg;

	if (msg->delivery == APIC_LOWEST) {
		deliver_lowest(bus, msg);
		return;
	}
	unsigned count = atomic_load(&bus->count);
	for (unsigned i = 0; i < count; i++) {
		if (matches(bus->lapic[i], msg))
			lapic_accept(bus->lapic[i], msg);
	}
}

void lapic_bus_msi(struct lapic_bus *bus, uint64_t addr, uint32_t data)
{
	bool logical = addr >> 2 & 1;
	uint32_t dest = addr >> 12 & 0xff;
	struct apic_message msg = {
		.dest = dest == 0xff && !logical ? APIC_DEST_ALL : dest,
		.vector = data & 0xff,
		.delivery = data >> 8 & 7,
		.logical = logical, /* 11.11.1 ignores it without the redirection hint; chip sets and guests do not */
		.level = data >> 15 & 1,
	};

	if (msg.delivery == APIC_SIPI) /* for processors to send */
		return;
	lapic_bus_deliver(bus, &msg);
}

/* ---- the interrupt command register ---- */

enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

void lapic_bus_command(struct lapic *from, uint64_t icr)
{
	struct lapic_bus *bus = from->bus;
	unsigned shorthand = icr >> 18 & 3;
	struct apic_message msg = {
		.dest = icr >> 32,
		.vector = icr & 0xff,
		.delivery = icr >> 8 & 7,
		.logical = icr >> 11 & 1,
		.level = false, /* 11.6.1: ignored but for INIT */
	};
	bool has_vector = msg.delivery == APIC_FIXED || msg.delivery == APIC_LOWEST;
	bool restarts = msg.delivery == APIC_INIT || msg.delivery == APIC_SIPI;

	/* INIT level de-assert does nothing since the Pentium 4; table 11-3: no ExtINT from here. */
	if ((msg.delivery == APIC_INIT && icr >> 15 & 1 && !(icr >> 14 & 1)) || msg.delivery == APIC_EXTINT)
		return;
	if (has_vector && msg.vector < 16) {
		lapic_lock(from);
		lapic_error_locked(from, ESR_SEND_VECTOR);
		lapic_unlock(from);
		return;
	}
	switch (shorthand) {
	case SHORTHAND_NONE:
		if (!lapic_is_x2apic(from) && msg.dest == 0xff && !msg.logical)
			msg.dest = APIC_DEST_ALL;
		lapic_bus_deliver(bus, &msg);
		return;
	case SHORTHAND_SELF:
		if (!restarts)
			lapic_accept(from, &msg);
		return;
	default:
		break;
	}
	unsigned count = atomic_load(&bus->count);
	for (unsigned i = 0; i < count; i++) {
		struct lapic *to = bus->lapic[i];
		if (to == from && (shorthand == SHORTHAND_OTHERS || restarts))
			continue;
		if (lapic_is_enabled(to))
			lapic_accept(to, &msg);
	}
}
