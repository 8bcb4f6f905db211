/* SPDX-License-Identifier: Apache-2.0 */
/* pci.c - the segment: how a guest reaches configuration space, and the host bridge. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/memory.h"
#include "vm/pci_private.h"
#include "vm/platform.h"
#include "vm/state.h"

enum { ADDRESS_SIZE = 8, DATA_OFFSET = 4, RESET_OFFSET = PLATFORM_RESET_PORT - PLATFORM_PCI_ADDRESS_PORT };
#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_KEPT 0x80fffffcu /* enable, bus, device, function, register */

/* A host bridge that no driver of a guest knows more about than its class. */
static const struct pci_identity bridge_identity = {
	.vendor = 0x1b36,
	.device = 0x0008,
	.subsystem_vendor = 0x1af4,
	.subsystem = 0x1100,
	.class_code = 0x060000,
};

/* ---- finding a register: bus in bits 16-23, slot in 11-15, function in 8-10 of `where` ---- */

static struct pci_function *pci_find(struct pci *pci, uint32_t where)
{
	if (where >> 16 & 0xff || where >> 8 & 7)
		return NULL;
	return pci->slot[where >> 11 & 0x1f]; /* changes only while no vCPU runs */
}

static uint32_t ones(unsigned size)
{
	return size >= 4 ? ~0u : (1u << size * 8) - 1;
}

/* ---- by ports: 3.2.2.3.2 ---- */

static uint64_t port_read(void *dev, uint64_t offset, unsigned size)
{
	struct pci *pci = dev;
	uint64_t value = ones(size);

	if (offset == RESET_OFFSET && size == 1) {
		if (pci->config.reset_bus)
			bus_read(pci->config.reset_bus, PLATFORM_RESET_PORT, 1, &value);
		return value;
	}
	pthread_mutex_lock(&pci->lock);
	uint32_t address = pci->address;
	pthread_mutex_unlock(&pci->lock);
	if (offset == 0 && size == 4)
		return address;
	struct pci_function *fn = address & ADDRESS_ENABLE ? pci_find(pci, address) : NULL;
	unsigned in_word = offset & 3;
	if (offset >= DATA_OFFSET && fn && in_word + size <= 4)
		value = pci_function_read(fn, (address & 0xfc) + in_word, size);
	return value;
}

static void port_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci *pci = dev;

	if (offset == RESET_OFFSET && size == 1) {
		if (pci->config.reset_bus)
			bus_write(pci->config.reset_bus, PLATFORM_RESET_PORT, 1, value);
		return;
	}
	pthread_mutex_lock(&pci->lock);
	if (offset == 0 && size == 4)
		pci->address = (uint32_t)value & ADDRESS_KEPT;
	uint32_t address = pci->address;
	pthread_mutex_unlock(&pci->lock);
	struct pci_function *fn = address & ADDRESS_ENABLE ? pci_find(pci, address) : NULL;
	unsigned in_word = offset & 3;
	if (offset >= DATA_OFFSET && fn && in_word + size <= 4)
		pci_function_write(fn, (address & 0xfc) + in_word, size, (uint32_t)value);
}

static const struct io_ops port_io = { .read = port_read, .write = port_write };

/* ---- by memory: PCI Express 3.0, 7.2.2. A function has 4 KiB, of which a conventional one uses 256 bytes. ---- */

static uint32_t ecam_read_part(struct pci *pci, uint32_t offset, unsigned size)
{
	struct pci_function *fn = pci_find(pci, offset >> 12 << 8);
	uint32_t reg = offset & 0xfff;

	return fn && reg < PCI_CONFIG_SIZE ? pci_function_read(fn, reg, size) : ones(size);
}

static void ecam_write_part(struct pci *pci, uint32_t offset, unsigned size, uint32_t value)
{
	struct pci_function *fn = pci_find(pci, offset >> 12 << 8);
	uint32_t reg = offset & 0xfff;

	if (fn && reg < PCI_CONFIG_SIZE)
		pci_function_write(fn, reg, size, value);
}

/* How much of an access lies in the four aligned bytes that it begins in. */
static unsigned part_of(uint64_t offset, unsigned size)
{
	unsigned room = 4 - (offset & 3);

	if (size <= room)
		return size == 3 ? 1 : size;
	return room == 3 ? 1 : room;
}

static uint64_t ecam_read(void *dev, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	for (unsigned done = 0; done < size;) {
		unsigned n = part_of(offset + done, size - done);
		value |= (uint64_t)ecam_read_part(dev, (uint32_t)offset + done, n) << done * 8;
		done += n;
	}
	return value;
}

static void ecam_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	for (unsigned done = 0; done < size;) {
		unsigned n = part_of(offset + done, size - done);
		ecam_write_part(dev, (uint32_t)offset + done, n, (uint32_t)(value >> done * 8) & ones(n));
		done += n;
	}
}

static const struct io_ops ecam_io = { .read = ecam_read, .write = ecam_write };

/* ---- functions ---- */

int pci_add(struct pci *pci, struct pci_function *fn, const struct pci_identity *id, struct error *err)
{
	unsigned slot = 0;

	while (slot < PCI_SLOTS && pci->slot[slot])
		slot++;
	if (slot == PCI_SLOTS)
		return error_set(err, -ENOSPC, "a machine has room for %d devices: leave some out", PCI_SLOTS - 1);
	pci_function_init(fn, id);
	pthread_mutex_lock(&pci->lock);
	fn->pci = pci;
	fn->slot = slot;
	pci->slot[slot] = fn;
	pthread_mutex_unlock(&pci->lock);
	return 0;
}

void pci_remove(struct pci_function *fn)
{
	struct pci *pci = fn->pci;

	if (!pci)
		return;
	pci_intx_set(fn, false);
	pthread_mutex_lock(&pci->lock);
	pci_function_unmap(fn);
	pci->slot[fn->slot] = NULL;
	pthread_mutex_unlock(&pci->lock);
	pci_msix_destroy(fn->msix);
	fn->msix = NULL;
	fn->pci = NULL;
}

/* ---- the segment as a device ---- */

static void pci_reset(struct device *dev)
{
	struct pci *pci = (struct pci *)dev;
	struct pci_room room = {
		.io = PLATFORM_PCI_IO_BASE,
		.mem32 = PLATFORM_PCI_MMIO32_BASE,
		.mem64 = PLATFORM_PCI_MMIO64_BASE,
	};

	pthread_mutex_lock(&pci->lock);
	pci->address = 0;
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (pci->slot[i])
			pci_function_unmap(pci->slot[i]);
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		if (pci->slot[i])
			pci_function_reset(pci->slot[i], &room);
	pthread_mutex_unlock(&pci->lock);
}

static void pci_save(struct device *dev, struct state_writer *w)
{
	struct pci *pci = (struct pci *)dev;

	state_put_u32(w, "address", pci->address);
	pci_function_save(&pci->bridge, w);
}

static int pci_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct pci *pci = (struct pci *)dev;
	struct pci_saved *saved;
	uint32_t address = 0;

	state_get_u32(r, "address", &address);
	int rc = pci_function_load(&pci->bridge, r, &saved, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&pci->lock);
	pci->address = address & ADDRESS_KEPT;
	pthread_mutex_unlock(&pci->lock);
	pci_function_apply(&pci->bridge, saved);
	return 0;
}

static void pci_destroy(struct device *dev)
{
	struct pci *pci = (struct pci *)dev;

	pci_remove(&pci->bridge);
	for (unsigned i = 0; i < PCI_SLOTS; i++)
		assert(!pci->slot[i]); /* functions go first */
	bus_remove(pci->config.pio, PLATFORM_PCI_ADDRESS_PORT);
	bus_remove(pci->config.mmio, PLATFORM_PCI_ECAM_BASE);
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}

static const struct device_ops pci_ops = {
	.name = "pci",
	.version = 1,
	.reset = pci_reset,
	.save = pci_save,
	.load = pci_load,
	.destroy = pci_destroy,
};

struct pci *pci_create(const struct pci_config *config)
{
	struct pci *pci = memory_zalloc(sizeof(*pci));

	pci->dev.ops = &pci_ops;
	pci->config = *config;
	pthread_mutex_init(&pci->lock, NULL);
	int rc = pci_add(pci, &pci->bridge, &bridge_identity, NULL);
	assert(!rc && pci->bridge.slot == 0);
	(void)rc;
	bus_add(config->pio, PLATFORM_PCI_ADDRESS_PORT, ADDRESS_SIZE, &port_io, pci, "pci");
	bus_add(config->mmio, PLATFORM_PCI_ECAM_BASE, PLATFORM_PCI_ECAM_SIZE, &ecam_io, pci, "pci-ecam");
	return pci;
}

struct device *pci_device(struct pci *pci)
{
	return &pci->dev;
}
