/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtqueue.c - split virtqueues. Section numbers are of virtio 1.2.
 *
 * The rings are found once, when the queue starts: guest memory stays where it is. Everything in them may change under
 * our hands, so each field is read once, and a descriptor is copied before it is looked at.
 */
#include "virtio/virtqueue.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"

enum { DESC_SIZE = 16, DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { RING_FLAGS = 0, RING_INDEX = 2, RING_ENTRIES = 4, AVAIL_ENTRY = 2, USED_ENTRY = 8 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };

struct descriptor {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* ---- fields that the driver's CPUs read and write meanwhile ---- */

static uint16_t load16(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static void store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELEASE);
}

static uint16_t avail_index(const struct virtqueue *vq)
{
	return load16(vq->avail + RING_INDEX);
}

static uint8_t *used_event(const struct virtqueue *vq)
{
	return vq->avail + RING_ENTRIES + vq->setup.size * AVAIL_ENTRY;
}

static uint8_t *avail_event(const struct virtqueue *vq)
{
	return vq->used + RING_ENTRIES + vq->setup.size * USED_ENTRY;
}

/* ---- setting up ---- */

void virtqueue_break(struct virtqueue *vq, const char *why)
{
	if (vq->is_broken)
		return;
	vq->is_broken = true;
	if (vq->broken)
		vq->broken(vq->ctx, why);
}

/* A ring's host address, with the alignment of 2.7. */
static uint8_t *ring_at(const struct virtqueue *vq, uint64_t gpa, uint64_t size, unsigned align)
{
	return gpa % align ? NULL : guest_memory_at(vq->memory, gpa, size);
}

bool virtqueue_start(struct virtqueue *vq, const struct virtqueue_setup *setup)
{
	uint64_t size = setup->size;

	virtqueue_stop(vq);
	vq->is_broken = false;
	if (!size || size > VIRTQUEUE_SIZE_MAX || size & (size - 1)) {
		virtqueue_break(vq, "a queue's size is no power of two or too large");
		return false;
	}
	vq->desc = ring_at(vq, setup->desc, size * DESC_SIZE, 16);
	vq->avail = ring_at(vq, setup->avail, RING_ENTRIES + size * AVAIL_ENTRY + 2, 2);
	vq->used = ring_at(vq, setup->used, RING_ENTRIES + size * USED_ENTRY + 2, 4);
	if (!vq->desc || !vq->avail || !vq->used) {
		virtqueue_break(vq, "a ring is not in memory, or not aligned");
		return false;
	}
	vq->setup = *setup;
	vq->next_avail = setup->next_avail;
	vq->next_used = setup->next_used;
	vq->signalled = setup->next_used;
	vq->running = true;
	return true;
}

void virtqueue_stop(struct virtqueue *vq)
{
	vq->running = false;
	vq->desc = vq->avail = vq->used = NULL;
}

static void chain_free(struct virtqueue_chain *chain)
{
	free(chain->iov);
	free(chain);
}

void virtqueue_fini(struct virtqueue *vq)
{
	assert(!vq->in_flight);
	virtqueue_stop(vq);
	while (vq->free) {
		struct virtqueue_chain *chain = vq->free;
		vq->free = chain->next;
		chain_free(chain);
	}
}

/* ---- walking a chain ---- */

static struct virtqueue_chain *chain_take(struct virtqueue *vq)
{
	struct virtqueue_chain *chain = vq->free;

	if (chain)
		vq->free = chain->next;
	else
		chain = memory_zalloc(sizeof(*chain));
	vq->in_flight++;
	chain->next = NULL;
	chain->owner = NULL;
	chain->outs = chain->ins = 0;
	chain->out_size = chain->in_size = 0;
	return chain;
}

void virtqueue_drop(struct virtqueue *vq, struct virtqueue_chain *chain)
{
	assert(vq->in_flight);
	vq->in_flight--;
	chain->next = vq->free;
	vq->free = chain;
}

static struct descriptor descriptor_at(const uint8_t *table, unsigned index)
{
	uint8_t raw[DESC_SIZE];

	memcpy(raw, table + (size_t)index * DESC_SIZE, DESC_SIZE);
	return (struct descriptor){
		.addr = bytes_le64(raw),
		.len = bytes_le32(raw + 8),
		.flags = bytes_le16(raw + 12),
		.next = bytes_le16(raw + 14),
	};
}

/* Adds what a descriptor points to. NULL, or what is wrong with it. */
static const char *chain_add(const struct virtqueue *vq, struct virtqueue_chain *chain, const struct descriptor *d)
{
	unsigned n = chain->outs + chain->ins;

	if (n == VIRTQUEUE_SIZE_MAX)
		return "a chain is too long";
	if (!d->len)
		return "a descriptor is empty";
	void *hva = guest_memory_at(vq->memory, d->addr, d->len);
	if (!hva)
		return "a descriptor does not lie in memory";
	if (n == chain->room) {
		chain->room = n ? n * 2 : 4;
		chain->iov = memory_resize(chain->iov, chain->room, sizeof(*chain->iov));
	}
	chain->iov[n] = (struct iovec){ .iov_base = hva, .iov_len = d->len };
	if (d->flags & DESC_WRITE) {
		chain->ins++;
		chain->in_size += d->len;
	} else if (chain->ins) {
		return "a readable descriptor follows a writable one";
	} else {
		chain->outs++;
		chain->out_size += d->len;
	}
	return NULL;
}

/* Follows the chain from `head` through a table of `count` descriptors; an indirect table ends it, and a chain longer
 * than its table is a loop. */
static const char *chain_walk(const struct virtqueue *vq, struct virtqueue_chain *chain, unsigned head)
{
	const uint8_t *table = vq->desc;
	unsigned count = vq->setup.size, index = head, steps = 0;
	bool indirect = false;

	for (;;) {
		if (index >= count)
			return "a descriptor's index is out of range";
		if (steps++ == count)
			return "a chain is a loop";
		struct descriptor d = descriptor_at(table, index);
		if (d.flags & DESC_INDIRECT) {
			if (indirect || !vq->setup.indirect || d.flags & DESC_NEXT)
				return "an indirect descriptor where none may be";
			if (!d.len || d.len % DESC_SIZE || d.len / DESC_SIZE > VIRTQUEUE_SIZE_MAX)
				return "an indirect table has a wrong size";
			table = guest_memory_at(vq->memory, d.addr, d.len);
			if (!table)
				return "an indirect table does not lie in memory";
			indirect = true;
			count = d.len / DESC_SIZE;
			index = steps = 0;
			continue;
		}
		const char *why = chain_add(vq, chain, &d);
		if (why)
			return why;
		if (!(d.flags & DESC_NEXT))
			return NULL;
		index = d.next;
	}
}

struct virtqueue_chain *virtqueue_pop(struct virtqueue *vq)
{
	if (!vq->running || vq->is_broken)
		return NULL;
	uint16_t waiting = (uint16_t)(avail_index(vq) - vq->next_avail);
	if (!waiting)
		return NULL;
	if (waiting > vq->setup.size || vq->in_flight >= vq->setup.size) {
		virtqueue_break(vq, "there are more requests than the ring has room for");
		return NULL;
	}
	unsigned slot = vq->next_avail & (vq->setup.size - 1);
	struct virtqueue_chain *chain = chain_take(vq);
	chain->head = load16(vq->avail + RING_ENTRIES + slot * AVAIL_ENTRY);
	const char *why = chain_walk(vq, chain, chain->head);
	if (why) {
		virtqueue_drop(vq, chain);
		virtqueue_break(vq, why);
		return NULL;
	}
	chain->out = chain->iov;
	chain->in = chain->iov + chain->outs;
	vq->next_avail++;
	return chain;
}

void virtqueue_unpop(struct virtqueue *vq, struct virtqueue_chain *chain)
{
	vq->next_avail--;
	virtqueue_drop(vq, chain);
}

/* Tells the engine what was written, and fills the used ring's next entry but `ahead`, which the driver does not see yet. */
static void put_used(struct virtqueue *vq, struct virtqueue_chain *chain, size_t written, unsigned ahead)
{
	size_t left = written < chain->in_size ? written : chain->in_size;

	for (unsigned i = 0; left; i++) {
		size_t n = left < chain->in[i].iov_len ? left : chain->in[i].iov_len;
		guest_memory_written_at(vq->memory, chain->in[i].iov_base, n);
		left -= n;
	}
	if (vq->running && !vq->is_broken) {
		unsigned slot = (vq->next_used + ahead) & (vq->setup.size - 1u);
		uint8_t *entry = vq->used + RING_ENTRIES + slot * USED_ENTRY;
		bytes_put_le32(entry, chain->head);
		bytes_put_le32(entry + 4, (uint32_t)written);
		guest_memory_written_at(vq->memory, entry, USED_ENTRY);
	}
	virtqueue_drop(vq, chain);
}

void virtqueue_push_all(struct virtqueue *vq, struct virtqueue_chain *const *chain, const size_t *written, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		put_used(vq, chain[i], written[i], i);
	if (vq->running && !vq->is_broken) {
		vq->next_used = (uint16_t)(vq->next_used + n);
		store16(vq->used + RING_INDEX, vq->next_used);
		guest_memory_written_at(vq->memory, vq->used, RING_ENTRIES);
	}
}

void virtqueue_push(struct virtqueue *vq, struct virtqueue_chain *chain, size_t written)
{
	virtqueue_push_all(vq, &chain, &written, 1);
}

/* ---- copying ---- */

/* Walks n iovecs from `offset`; `write` says which way. */
static size_t copy(const struct iovec *iov, unsigned n, size_t offset, void *buffer, size_t size, bool write)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < size; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		size_t part = iov[i].iov_len - offset;
		if (part > size - done)
			part = size - done;
		uint8_t *guest = (uint8_t *)iov[i].iov_base + offset, *ours = (uint8_t *)buffer + done;
		memcpy(write ? guest : ours, write ? ours : guest, part);
		done += part;
		offset = 0;
	}
	return done;
}

size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *to, size_t size)
{
	return copy(chain->out, chain->outs, offset, to, size, false);
}

size_t virtqueue_chain_write(const struct virtqueue_chain *chain, size_t offset, const void *from, size_t size)
{
	return copy(chain->in, chain->ins, offset, (void *)(uintptr_t)from, size, true);
}

/* ---- notifications: 2.7.7 and 2.7.10 ---- */

/* Whether `event` lies in [from, to) of a ring's running index. */
static bool passed(uint16_t event, uint16_t from, uint16_t to)
{
	return (uint16_t)(event - from) < (uint16_t)(to - from);
}

void virtqueue_interrupt(struct virtqueue *vq)
{
	if (!vq->running || vq->is_broken)
		return;
	uint16_t from = vq->signalled, to = vq->next_used;
	if (from == to)
		return;
	vq->signalled = to;
	/* The used index must be seen before we look whether the driver wants to know: it does the opposite. */
	atomic_thread_fence(memory_order_seq_cst);
	bool wanted = vq->setup.event_index ? passed(load16(used_event(vq)), from, to)
					    : !(load16(vq->avail + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	if (wanted)
		vq->interrupt(vq->ctx);
}

void virtqueue_kicks_off(struct virtqueue *vq)
{
	if (!vq->running || vq->is_broken || vq->setup.event_index)
		return; /* with an event index, leaving it behind is enough */
	store16(vq->used + RING_FLAGS, USED_NO_NOTIFY);
	guest_memory_written_at(vq->memory, vq->used, RING_ENTRIES);
}

bool virtqueue_kicks_on(struct virtqueue *vq)
{
	if (!vq->running || vq->is_broken)
		return true;
	uint8_t *field = vq->setup.event_index ? avail_event(vq) : vq->used + RING_FLAGS;
	store16(field, vq->setup.event_index ? vq->next_avail : 0);
	guest_memory_written_at(vq->memory, field, 2);
	/* The driver adds, then looks whether to kick; we ask for kicks, then look whether something was added. */
	atomic_thread_fence(memory_order_seq_cst);
	return !virtqueue_has_more(vq);
}

bool virtqueue_has_more(const struct virtqueue *vq)
{
	return vq->running && !vq->is_broken && avail_index(vq) != vq->next_avail;
}
