/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges are a sorted array, searched by halves. Readers take no lock: a sequence counter, odd while a writer is at
 * work, tells them to look again. So a guest that moves a PCI window on one CPU harms no access of another, and an
 * access costs no shared write. The array never moves or grows, which is what makes reading it during a change safe.
 */
#include "vm/bus.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/memory.h"

enum { BUS_RANGES = 512 }; /* ranges come from devices, never from a guest's wish */

struct range {
	_Atomic uint64_t start, last;
	const struct io_ops *_Atomic ops;
	void *_Atomic dev;
	const char *_Atomic name;
};

struct bus {
	pthread_mutex_t lock; /* of writers */
	atomic_uint sequence;
	atomic_uint count;
	struct range range[BUS_RANGES];
};

/* What a lookup copies out. */
struct hit {
	uint64_t start, last;
	const struct io_ops *ops;
	void *dev;
	const char *name;
};

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define STORE(field, value) atomic_store_explicit(&(field), value, memory_order_relaxed)

struct bus *bus_create(void)
{
	struct bus *bus = memory_zalloc(sizeof(*bus));
	pthread_mutex_init(&bus->lock, NULL);
	return bus;
}

void bus_destroy(struct bus *bus)
{
	if (!bus)
		return;
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* The index of the first range that ends at or after addr. */
static unsigned bus_search(struct bus *bus, uint64_t addr)
{
	unsigned low = 0, high = LOAD(bus->count);
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (LOAD(bus->range[middle].last) < addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool bus_find_once(struct bus *bus, uint64_t addr, struct hit *hit)
{
	unsigned i = bus_search(bus, addr);
	if (i >= LOAD(bus->count) || LOAD(bus->range[i].start) > addr)
		return false;
	hit->start = LOAD(bus->range[i].start);
	hit->last = LOAD(bus->range[i].last);
	hit->ops = LOAD(bus->range[i].ops);
	hit->dev = LOAD(bus->range[i].dev);
	hit->name = LOAD(bus->range[i].name);
	return true;
}

static bool bus_find(struct bus *bus, uint64_t addr, struct hit *hit)
{
	for (;;) {
		unsigned before = atomic_load_explicit(&bus->sequence, memory_order_acquire);
		bool found = bus_find_once(bus, addr, hit);
		atomic_thread_fence(memory_order_acquire);
		if (!(before & 1) && LOAD(bus->sequence) == before)
			return found;
	}
}

static void bus_change_begin(struct bus *bus)
{
	pthread_mutex_lock(&bus->lock);
	STORE(bus->sequence, LOAD(bus->sequence) + 1);
	atomic_thread_fence(memory_order_release);
}

static void bus_change_end(struct bus *bus)
{
	atomic_store_explicit(&bus->sequence, LOAD(bus->sequence) + 1, memory_order_release);
	pthread_mutex_unlock(&bus->lock);
}

static void range_copy(struct range *to, struct range *from)
{
	STORE(to->start, LOAD(from->start));
	STORE(to->last, LOAD(from->last));
	STORE(to->ops, LOAD(from->ops));
	STORE(to->dev, LOAD(from->dev));
	STORE(to->name, LOAD(from->name));
}

void bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct io_ops *ops, void *dev, const char *name)
{
	assert(size && start + (size - 1) >= start && ops && ops->read && ops->write && name);
	bus_change_begin(bus);
	unsigned count = LOAD(bus->count), at = bus_search(bus, start);
	assert(count < BUS_RANGES);
	assert(at == count || LOAD(bus->range[at].start) > start + (size - 1));
	for (unsigned i = count; i > at; i--)
		range_copy(&bus->range[i], &bus->range[i - 1]);
	STORE(bus->range[at].start, start);
	STORE(bus->range[at].last, start + (size - 1));
	STORE(bus->range[at].ops, ops);
	STORE(bus->range[at].dev, dev);
	STORE(bus->range[at].name, name);
	STORE(bus->count, count + 1);
	bus_change_end(bus);
}

void bus_remove(struct bus *bus, uint64_t start)
{
	bus_change_begin(bus);
	unsigned count = LOAD(bus->count), at = bus_search(bus, start);
	assert(at < count && LOAD(bus->range[at].start) == start);
	for (unsigned i = at; i + 1 < count; i++)
		range_copy(&bus->range[i], &bus->range[i + 1]);
	STORE(bus->count, count - 1);
	bus_change_end(bus);
}

static uint64_t bus_mask(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
}

bool bus_read(struct bus *bus, uint64_t addr, unsigned size, uint64_t *value)
{
	struct hit hit;
	*value = bus_mask(size);
	if (bus_find(bus, addr, &hit) && hit.last - addr >= size - 1) {
		*value = hit.ops->read(hit.dev, addr - hit.start, size) & bus_mask(size);
		return true;
	}
	if (size == 1)
		return false;
	/* An access over the end of a range is one of bytes, as on the ISA bus. */
	bool any = false;
	uint64_t all = 0;
	for (unsigned i = 0; i < size; i++) {
		uint64_t byte;
		any |= bus_read(bus, addr + i, 1, &byte);
		all |= byte << (i * 8);
	}
	*value = all;
	return any;
}

bool bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value)
{
	struct hit hit;
	if (bus_find(bus, addr, &hit) && hit.last - addr >= size - 1) {
		hit.ops->write(hit.dev, addr - hit.start, size, value & bus_mask(size));
		return true;
	}
	if (size == 1)
		return false;
	bool any = false;
	for (unsigned i = 0; i < size; i++)
		any |= bus_write(bus, addr + i, 1, value >> (i * 8) & 0xff);
	return any;
}

const char *bus_name(struct bus *bus, uint64_t addr)
{
	struct hit hit;
	return bus_find(bus, addr, &hit) ? hit.name : NULL;
}
