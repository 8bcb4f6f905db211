/* SPDX-License-Identifier: Apache-2.0 */
/* pci_msix.c - message signalled interrupts: 6.8.2. A BAR of its own holds the table and, in its second half, the pending
 * bits. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "vm/pci_private.h"
#include "vm/state.h"

enum { ENTRY_SIZE = 16, ENTRY_DATA = 8, ENTRY_CONTROL = 12, ENTRY_MASKED = 1, BAR_SIZE_MIN = 4096 };
enum { CONTROL_ENABLE = 0x8000, CONTROL_MASK_ALL = 0x4000 };

struct pci_msix {
	const struct pci_config *config; /* of the segment */
	unsigned vectors;
	unsigned control_at; /* in configuration space */
	uint64_t pba_offset;
	atomic_bool enabled; /* written with the lock */

	/* Taken with the segment's lock held or without; held while an interrupt is sent. */
	pthread_mutex_t lock;
	bool mask_all;
	uint8_t *table;
	uint64_t *pending;
};

size_t pci_msix_table_size(const struct pci_msix *msix)
{
	return (size_t)msix->vectors * ENTRY_SIZE;
}

size_t pci_msix_pending_count(const struct pci_msix *msix)
{
	return (msix->vectors + 63) / 64;
}

/* ---- sending; all with the lock ---- */

static bool is_pending(const struct pci_msix *msix, unsigned vector)
{
	return msix->pending[vector / 64] >> vector % 64 & 1;
}

static void send_or_keep(struct pci_msix *msix, unsigned vector)
{
	const uint8_t *entry = msix->table + (size_t)vector * ENTRY_SIZE;
	uint64_t bit = UINT64_C(1) << vector % 64;

	if (msix->mask_all || entry[ENTRY_CONTROL] & ENTRY_MASKED) {
		msix->pending[vector / 64] |= bit;
		return;
	}
	msix->pending[vector / 64] &= ~bit;
	msix->config->msi(msix->config->msi_ctx, bytes_le64(entry), bytes_le32(entry + ENTRY_DATA));
}

/* Something was unmasked. */
static void send_pending(struct pci_msix *msix, unsigned first, unsigned last)
{
	if (!atomic_load(&msix->enabled))
		return;
	for (unsigned v = first; v <= last && v < msix->vectors; v++)
		if (is_pending(msix, v))
			send_or_keep(msix, v);
}

bool pci_msix_enabled(const struct pci_function *fn)
{
	return fn->msix && atomic_load_explicit(&fn->msix->enabled, memory_order_relaxed);
}

void pci_msix_raise(struct pci_function *fn, unsigned vector)
{
	struct pci_msix *msix = fn->msix;

	if (!msix || vector >= msix->vectors)
		return;
	pthread_mutex_lock(&msix->lock);
	if (atomic_load(&msix->enabled))
		send_or_keep(msix, vector);
	pthread_mutex_unlock(&msix->lock);
}

void pci_msix_control(struct pci_function *fn)
{
	struct pci_msix *msix = fn->msix;
	uint16_t control = bytes_le16(fn->config + msix->control_at);

	pthread_mutex_lock(&msix->lock);
	atomic_store(&msix->enabled, (control & CONTROL_ENABLE) != 0);
	msix->mask_all = control & CONTROL_MASK_ALL;
	if (!atomic_load(&msix->enabled))
		memset(msix->pending, 0, pci_msix_pending_count(msix) * sizeof(*msix->pending));
	send_pending(msix, 0, msix->vectors - 1);
	pthread_mutex_unlock(&msix->lock);
}

unsigned pci_msix_control_offset(const struct pci_msix *msix)
{
	return msix->control_at;
}

/* ---- the BAR ---- */

static uint64_t bar_read(void *dev, uint64_t offset, unsigned size)
{
	struct pci_msix *msix = dev;
	uint64_t value = 0, table = pci_msix_table_size(msix), pba = pci_msix_pending_count(msix) * 8;

	pthread_mutex_lock(&msix->lock);
	if (offset + size <= table)
		memcpy(&value, msix->table + offset, size);
	else if (offset >= msix->pba_offset && offset + size <= msix->pba_offset + pba)
		memcpy(&value, (const uint8_t *)msix->pending + (offset - msix->pba_offset), size);
	pthread_mutex_unlock(&msix->lock);
	return le64toh(value);
}

static void bar_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_msix *msix = dev;

	if (offset + size > pci_msix_table_size(msix))
		return;
	value = htole64(value);
	pthread_mutex_lock(&msix->lock);
	memcpy(msix->table + offset, &value, size);
	send_pending(msix, (unsigned)(offset / ENTRY_SIZE), (unsigned)((offset + size - 1) / ENTRY_SIZE));
	pthread_mutex_unlock(&msix->lock);
}

static const struct io_ops bar_io = { .read = bar_read, .write = bar_write };

/* ---- making ---- */

void pci_msix_reset(struct pci_msix *msix)
{
	pthread_mutex_lock(&msix->lock);
	atomic_store(&msix->enabled, false);
	msix->mask_all = false;
	memset(msix->table, 0, pci_msix_table_size(msix));
	memset(msix->pending, 0, pci_msix_pending_count(msix) * sizeof(*msix->pending));
	for (unsigned v = 0; v < msix->vectors; v++)
		msix->table[(size_t)v * ENTRY_SIZE + ENTRY_CONTROL] = ENTRY_MASKED;
	pthread_mutex_unlock(&msix->lock);
}

void pci_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors)
{
	struct pci_msix *msix = memory_zalloc(sizeof(*msix));
	uint64_t size = BAR_SIZE_MIN;
	uint8_t body[10];

	assert(vectors >= 1 && vectors <= PCI_MSIX_MAX && !fn->msix && fn->pci);
	msix->config = &fn->pci->config;
	msix->vectors = vectors;
	while (size / 2 < pci_msix_table_size(msix))
		size *= 2;
	msix->pba_offset = size / 2;
	msix->table = memory_zalloc(pci_msix_table_size(msix));
	msix->pending = memory_zalloc(pci_msix_pending_count(msix) * sizeof(*msix->pending));
	pthread_mutex_init(&msix->lock, NULL);

	bytes_put_le16(body, (uint16_t)(vectors - 1));
	bytes_put_le32(body + 2, bar);
	bytes_put_le32(body + 6, (uint32_t)msix->pba_offset | bar);
	msix->control_at = pci_add_capability(fn, PCI_CAP_MSIX, body, sizeof(body) + 2) + 2;
	fn->writable[msix->control_at + 1] = (CONTROL_ENABLE | CONTROL_MASK_ALL) >> 8;
	fn->msix = msix;
	pci_msix_reset(msix);
	pci_add_bar(fn, bar, PCI_BAR_MEM32, size, &bar_io, msix, "pci-msix");
}

void pci_msix_destroy(struct pci_msix *msix)
{
	if (!msix)
		return;
	pthread_mutex_destroy(&msix->lock);
	free(msix->table);
	free(msix->pending);
	free(msix);
}

/* ---- saved state ---- */

void pci_msix_save(struct pci_msix *msix, struct state_writer *w)
{
	pthread_mutex_lock(&msix->lock);
	state_put_bytes(w, "msix_table", msix->table, pci_msix_table_size(msix));
	state_put_u64s(w, "msix_pending", msix->pending, pci_msix_pending_count(msix));
	pthread_mutex_unlock(&msix->lock);
}

void pci_msix_apply(struct pci_function *fn, const uint8_t *table, const uint64_t *pending)
{
	struct pci_msix *msix = fn->msix;

	pthread_mutex_lock(&msix->lock);
	memcpy(msix->table, table, pci_msix_table_size(msix));
	memcpy(msix->pending, pending, pci_msix_pending_count(msix) * sizeof(*pending));
	pthread_mutex_unlock(&msix->lock);
	pci_msix_control(fn);
}
