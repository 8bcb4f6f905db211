/* SPDX-License-Identifier: Apache-2.0 */
/* pci_function.c - a function's configuration space: registers, BARs, capabilities, INTA. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "vm/pci_private.h"
#include "vm/platform.h"
#include "vm/state.h"

enum { BAR_IS_IO = 1, BAR_IS_64 = 4 };

/* ---- making ---- */

void pci_function_init(struct pci_function *fn, const struct pci_identity *id)
{
	uint8_t *c = fn->config;

	bytes_put_le16(c + PCI_VENDOR, id->vendor);
	bytes_put_le16(c + PCI_VENDOR + 2, id->device);
	c[PCI_REVISION] = id->revision;
	c[PCI_CLASS] = (uint8_t)id->class_code;
	c[PCI_CLASS + 1] = (uint8_t)(id->class_code >> 8);
	c[PCI_CLASS + 2] = (uint8_t)(id->class_code >> 16);
	bytes_put_le16(c + PCI_SUBSYSTEM_VENDOR, id->subsystem_vendor);
	bytes_put_le16(c + PCI_SUBSYSTEM_VENDOR + 2, id->subsystem);
	c[PCI_INTERRUPT_PIN] = id->intx;
	fn->writable[0x0c] = 0xff; /* cache line size */
	fn->writable[PCI_INTERRUPT_LINE] = 0xff;
	bytes_put_le16(fn->writable + PCI_COMMAND, 0x0147 | PCI_COMMAND_NO_INTX);
	fn->next_capability = PCI_FIRST_CAPABILITY;
}

void pci_add_bar(struct pci_function *fn, unsigned index, enum pci_bar_kind kind, uint64_t size,
		 const struct io_ops *ops, void *dev, const char *name)
{
	bool wide = kind == PCI_BAR_MEM64;
	unsigned at = PCI_BAR0 + index * 4;

	assert(index + wide < PCI_BARS && fn->bar[index].kind == PCI_BAR_NONE);
	assert(size >= (kind == PCI_BAR_IO ? 4 : 16) && !(size & (size - 1)));
	assert(wide || size <= 1u << 31);
	fn->bar[index] = (struct pci_bar){ .kind = kind, .size = size, .ops = ops, .dev = dev, .name = name };
	/* Bits below the size can't be written: that is how a guest finds it (6.2.5.1). */
	bytes_put_le32(fn->writable + at, (uint32_t) ~(size - 1));
	if (wide)
		bytes_put_le32(fn->writable + at + 4, (uint32_t)(~(size - 1) >> 32));
	fn->config[at] = kind == PCI_BAR_IO ? BAR_IS_IO : wide ? BAR_IS_64 : 0;
}

unsigned pci_add_capability(struct pci_function *fn, uint8_t id, const void *body, unsigned size)
{
	unsigned at = fn->next_capability;

	assert(size >= 2 && at + size <= PCI_CONFIG_SIZE);
	fn->config[at] = id;
	fn->config[at + 1] = 0;
	memcpy(fn->config + at + 2, body, size - 2);
	fn->config[fn->last_capability ? fn->last_capability + 1 : PCI_CAPABILITIES] = (uint8_t)at;
	fn->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	fn->last_capability = at;
	fn->next_capability = (at + size + 3) & ~3u;
	return at;
}

void pci_set_registers(struct pci_function *fn, const struct pci_registers *registers)
{
	fn->registers = *registers;
}

/* ---- BARs on the buses ---- */

static struct bus *bus_of(const struct pci_function *fn, const struct pci_bar *bar)
{
	return bar->kind == PCI_BAR_IO ? fn->pci->config.pio : fn->pci->config.mmio;
}

static bool within(uint64_t at, uint64_t size, uint64_t base, uint64_t window)
{
	return at >= base && size <= window && at - base <= window - size;
}

/* Whether the guest has put a BAR where the host bridge forwards accesses, and enabled it; and where. */
static bool wanted_at(const struct pci_function *fn, unsigned index, uint64_t *at)
{
	const struct pci_bar *bar = &fn->bar[index];
	uint16_t command = bytes_le16(fn->config + PCI_COMMAND);
	uint32_t low = bytes_le32(fn->config + PCI_BAR0 + index * 4);

	switch (bar->kind) {
	case PCI_BAR_IO:
		*at = low & ~3u;
		return command & PCI_COMMAND_IO && within(*at, bar->size, PLATFORM_PCI_IO_BASE, PLATFORM_PCI_IO_SIZE);
	case PCI_BAR_MEM32:
		*at = low & ~0xfu;
		break;
	case PCI_BAR_MEM64:
		*at = (uint64_t)bytes_le32(fn->config + PCI_BAR0 + index * 4 + 4) << 32 | (low & ~0xfu);
		break;
	default:
		return false;
	}
	return command & PCI_COMMAND_MEMORY &&
	       (within(*at, bar->size, PLATFORM_PCI_MMIO32_BASE, PLATFORM_PCI_MMIO32_SIZE) ||
		within(*at, bar->size, PLATFORM_PCI_MMIO64_BASE, PLATFORM_PCI_MMIO64_SIZE));
}

static bool is_taken(struct pci *pci, struct bus *bus, uint64_t at, uint64_t size)
{
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		const struct pci_function *fn = pci->slot[slot];
		for (unsigned i = 0; fn && i < PCI_BARS; i++) {
			const struct pci_bar *bar = &fn->bar[i];
			if (bar->mapped && bus_of(fn, bar) == bus && at < bar->at + bar->size && bar->at < at + size)
				return true;
		}
	}
	return false;
}

/* A doorbell that can't be had is a call of the BAR's write function. */
static void ring_doorbells(struct pci_function *fn, const struct pci_bar *bar, bool on)
{
	const struct pci_config *config = &fn->pci->config;

	for (unsigned i = 0; config->doorbell && i < bar->bells; i++)
		config->doorbell(config->msi_ctx, bar->at + bar->bell + i * bar->step, bar->fd[i], on);
}

static void unmap_bar(struct pci_function *fn, struct pci_bar *bar)
{
	if (bar->mapped) {
		ring_doorbells(fn, bar, false);
		bus_remove(bus_of(fn, bar), bar->at);
	}
	bar->mapped = false;
}

void pci_function_unmap(struct pci_function *fn)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		unmap_bar(fn, &fn->bar[i]);
}

static void map_wanted(struct pci_function *fn)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &fn->bar[i];
		uint64_t at;
		if (bar->mapped || !wanted_at(fn, i, &at) || is_taken(fn->pci, bus_of(fn, bar), at, bar->size))
			continue;
		bus_add(bus_of(fn, bar), at, bar->size, bar->ops, bar->dev, bar->name);
		bar->at = at;
		bar->mapped = true;
		ring_doorbells(fn, bar, true);
	}
}

/* Brings the buses up to date with what fn's registers say; what that uncovers of others comes back. With the lock. */
static void remap(struct pci_function *fn)
{
	struct pci *pci = fn->pci;

	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint64_t at;
		if (fn->bar[i].mapped && !(wanted_at(fn, i, &at) && at == fn->bar[i].at))
			unmap_bar(fn, &fn->bar[i]);
	}
	map_wanted(fn);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
		if (pci->slot[slot])
			map_wanted(pci->slot[slot]);
}

bool pci_has_doorbells(const struct pci *pci)
{
	return pci->config.doorbell;
}

void pci_set_doorbells(struct pci_function *fn, unsigned index, uint64_t bell, uint64_t step, const int *fd,
		       unsigned bells)
{
	struct pci_bar *bar = &fn->bar[index];

	assert(bar->kind == PCI_BAR_MEM32 || bar->kind == PCI_BAR_MEM64);
	assert(!bar->mapped && bell + (uint64_t)bells * step <= bar->size);
	bar->bell = bell;
	bar->step = step;
	bar->fd = fd;
	bar->bells = bells;
}

bool pci_bar_access(struct pci_function *fn, unsigned index, uint64_t offset, unsigned size, uint64_t *value,
		    bool write)
{
	const struct pci_bar *bar = index < PCI_BARS ? &fn->bar[index] : NULL;

	if (!bar || bar->kind == PCI_BAR_NONE || offset > bar->size || size > bar->size - offset)
		return false;
	if (write)
		bar->ops->write(bar->dev, offset, size, *value);
	else
		*value = bar->ops->read(bar->dev, offset, size);
	return true;
}

/* ---- INTA ---- */

/* With the lock. */
static void drive_intx(struct pci_function *fn)
{
	struct pci *pci = fn->pci;
	unsigned line = fn->slot % PCI_PIRQS;
	bool level = fn->intx && !(bytes_le16(fn->config + PCI_COMMAND) & PCI_COMMAND_NO_INTX);

	fn->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
	if (fn->intx)
		fn->config[PCI_STATUS] |= PCI_STATUS_INTX;
	if (level == fn->intx_driven)
		return;
	fn->intx_driven = level;
	pci->asserted[line] += level ? 1 : -1u;
	if (pci->asserted[line] == level)
		irq_line_set(&pci->config.pirq[line], level);
}

void pci_intx_set(struct pci_function *fn, bool level)
{
	pthread_mutex_lock(&fn->pci->lock);
	fn->intx = level;
	drive_intx(fn);
	pthread_mutex_unlock(&fn->pci->lock);
}

/* ---- registers ---- */

static bool is_special(const struct pci_function *fn, unsigned offset, unsigned size)
{
	const struct pci_registers *r = &fn->registers;

	return r->size && offset >= r->start && offset + size <= r->start + (unsigned)r->size;
}

uint32_t pci_function_read(struct pci_function *fn, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	if (is_special(fn, offset, size))
		return fn->registers.read(fn->registers.dev, offset - fn->registers.start, size);
	pthread_mutex_lock(&fn->pci->lock);
	memcpy(&value, fn->config + offset, size);
	pthread_mutex_unlock(&fn->pci->lock);
	return le32toh(value);
}

static bool touches(unsigned offset, unsigned size, unsigned start, unsigned end)
{
	return offset < end && start < offset + size;
}

void pci_function_write(struct pci_function *fn, unsigned offset, unsigned size, uint32_t value)
{
	if (is_special(fn, offset, size)) {
		fn->registers.write(fn->registers.dev, offset - fn->registers.start, size, value);
		return;
	}
	pthread_mutex_lock(&fn->pci->lock);
	for (unsigned i = 0; i < size; i++) {
		uint8_t *byte = &fn->config[offset + i], mask = fn->writable[offset + i];
		*byte = (uint8_t)((*byte & ~mask) | ((value >> i * 8) & mask));
	}
	bool command = touches(offset, size, PCI_COMMAND, PCI_COMMAND + 2);
	if (command || touches(offset, size, PCI_BAR0, PCI_BARS_END))
		remap(fn);
	if (command)
		drive_intx(fn);
	if (fn->msix) {
		unsigned control = pci_msix_control_offset(fn->msix);
		if (touches(offset, size, control, control + 2))
			pci_msix_control(fn);
	}
	pthread_mutex_unlock(&fn->pci->lock);
}

/* ---- reset ---- */

static uint64_t take_room(uint64_t *next, uint64_t size, uint64_t base, uint64_t window)
{
	uint64_t at = (*next + size - 1) & ~(size - 1);

	if (!within(at, size, base, window))
		return 0;
	*next = at + size;
	return at;
}

/* Where firmware would put a BAR, or 0: below 4 GiB if it fits. */
static uint64_t place(const struct pci_bar *bar, struct pci_room *room)
{
	if (bar->kind == PCI_BAR_IO)
		return take_room(&room->io, bar->size, PLATFORM_PCI_IO_BASE, PLATFORM_PCI_IO_SIZE);
	uint64_t at = 0;
	if (bar->kind == PCI_BAR_MEM32 || bar->size <= PLATFORM_PCI_MMIO32_SIZE / 4)
		at = take_room(&room->mem32, bar->size, PLATFORM_PCI_MMIO32_BASE, PLATFORM_PCI_MMIO32_SIZE);
	if (!at && bar->kind == PCI_BAR_MEM64)
		at = take_room(&room->mem64, bar->size, PLATFORM_PCI_MMIO64_BASE, PLATFORM_PCI_MMIO64_SIZE);
	return at;
}

void pci_function_reset(struct pci_function *fn, struct pci_room *room)
{
	uint16_t command = 0;

	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		fn->config[i] &= (uint8_t)~fn->writable[i];
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &fn->bar[i];
		uint8_t *reg = fn->config + PCI_BAR0 + i * 4;
		uint64_t at = bar->kind == PCI_BAR_NONE ? 0 : place(bar, room);
		if (!at)
			continue;
		command |= bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
		bytes_put_le32(reg, bytes_le32(reg) | (uint32_t)at);
		if (bar->kind == PCI_BAR_MEM64)
			bytes_put_le32(reg + 4, (uint32_t)(at >> 32));
	}
	bytes_put_le16(fn->config + PCI_COMMAND, command);
	if (fn->config[PCI_INTERRUPT_PIN])
		fn->config[PCI_INTERRUPT_LINE] = (uint8_t)(PLATFORM_IRQ_PCI + fn->slot % 2);
	fn->intx = false;
	drive_intx(fn);
	if (fn->msix)
		pci_msix_reset(fn->msix);
	map_wanted(fn);
}

/* ---- saved state ---- */

struct pci_saved {
	uint8_t config[PCI_CONFIG_SIZE];
	bool intx;
	uint8_t *table;
	uint64_t *pending;
};

void pci_function_save(struct pci_function *fn, struct state_writer *w)
{
	pthread_mutex_lock(&fn->pci->lock);
	state_put_bytes(w, "pci_config", fn->config, sizeof(fn->config));
	state_put_bool(w, "pci_intx", fn->intx);
	pthread_mutex_unlock(&fn->pci->lock);
	if (fn->msix)
		pci_msix_save(fn->msix, w);
}

void pci_saved_free(struct pci_saved *saved)
{
	if (!saved)
		return;
	free(saved->table);
	free(saved->pending);
	free(saved);
}

int pci_function_load(struct pci_function *fn, struct state_reader *r, struct pci_saved **out, struct error *err)
{
	struct pci_saved *saved = memory_zalloc(sizeof(*saved));

	*out = NULL;
	state_get_bytes(r, "pci_config", saved->config, sizeof(saved->config));
	state_get_bool(r, "pci_intx", &saved->intx);
	if (fn->msix) {
		size_t size = pci_msix_table_size(fn->msix), count = pci_msix_pending_count(fn->msix);
		saved->table = memory_zalloc(size);
		saved->pending = memory_zalloc(count * sizeof(*saved->pending));
		state_get_bytes(r, "msix_table", saved->table, size);
		state_get_u64s(r, "msix_pending", saved->pending, count);
	}
	if (state_failed(r, err)) {
		pci_saved_free(saved);
		return -EINVAL;
	}
	*out = saved;
	return 0;
}

void pci_function_apply(struct pci_function *fn, struct pci_saved *saved)
{
	if (!saved)
		return;
	pthread_mutex_lock(&fn->pci->lock);
	/* What a guest can't write is as this program made it. */
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		fn->config[i] = (uint8_t)((fn->config[i] & ~fn->writable[i]) | (saved->config[i] & fn->writable[i]));
	remap(fn);
	fn->intx = saved->intx;
	drive_intx(fn);
	if (fn->msix)
		pci_msix_apply(fn, saved->table, saved->pending);
	pthread_mutex_unlock(&fn->pci->lock);
	pci_saved_free(saved);
}
