/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_ring.c - the driver's half of a split ring; section numbers are of virtio 1.2. */
#include "virtio/vhost_ring.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"

enum { DESC_SIZE = 16, DESC_NEXT = 1, DESC_WRITE = 2 };
enum { RING_INDEX = 2, RING_ENTRIES = 4, AVAIL_ENTRY = 2, USED_ENTRY = 8, USED_NO_NOTIFY = 1 };
enum { AVAIL_AT = VHOST_RING_SIZE * DESC_SIZE, USED_AT = AVAIL_AT + 0x1000 };
_Static_assert(RING_ENTRIES + VHOST_RING_SIZE * AVAIL_ENTRY + 2 <= 0x1000, "the available ring fits");
_Static_assert(USED_AT + RING_ENTRIES + VHOST_RING_SIZE * USED_ENTRY + 2 <= VHOST_RING_BYTES, "the used ring fits");

static uint8_t *avail(const struct vhost_ring *ring)
{
	return ring->shared.avail;
}

static uint8_t *used(const struct vhost_ring *ring)
{
	return ring->shared.used;
}

static uint16_t load16(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static uint32_t load32(const uint8_t *p)
{
	return le32toh(__atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED));
}

static void store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELEASE);
}

/* ---- making ---- */

void vhost_ring_reset(struct vhost_ring *ring)
{
	uint64_t count;

	assert(!ring->in_flight);
	memset(ring->shared.desc, 0, VHOST_RING_BYTES);
	ring->next_avail = ring->next_used = ring->free_head = 0;
	ring->free = VHOST_RING_SIZE;
	ring->started = ring->starved = ring->published = false;
	for (unsigned i = 0; i < VHOST_RING_SIZE; i++)
		ring->link[i] = (uint16_t)(i + 1);
	/* What was rung for what is gone. They do not block. */
	while (read(ring->shared.call, &count, sizeof(count)) > 0 || read(ring->shared.kick, &count, sizeof(count)) > 0)
		;
}

int vhost_ring_init(struct vhost_ring *ring, const struct guest_memory *memory, uint8_t *base, struct error *err)
{
	*ring = (struct vhost_ring){
		.memory = memory,
		.shared = {
			.size = VHOST_RING_SIZE,
			.desc = base,
			.avail = base + AVAIL_AT,
			.used = base + USED_AT,
			.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
			.call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		},
	};
	if (ring->shared.kick < 0 || ring->shared.call < 0)
		return error_errno(err, -errno, "can't make an eventfd");
	vhost_ring_reset(ring);
	return 0;
}

void vhost_ring_fini(struct vhost_ring *ring)
{
	assert(!ring->in_flight);
	if (!ring->shared.desc)
		return;
	if (ring->shared.kick >= 0)
		close(ring->shared.kick);
	if (ring->shared.call >= 0)
		close(ring->shared.call);
	ring->shared.desc = NULL;
}

/* ---- to the back end ---- */

static void put_descriptor(const struct vhost_ring *ring, unsigned at, const struct iovec *iov, unsigned flags)
{
	uint8_t *d = (uint8_t *)ring->shared.desc + (size_t)at * DESC_SIZE;

	bytes_put_le64(d, guest_memory_gpa(ring->memory, iov->iov_base));
	bytes_put_le32(d + 8, (uint32_t)iov->iov_len);
	bytes_put_le16(d + 12, (uint16_t)flags);
	bytes_put_le16(d + 14, flags & DESC_NEXT ? ring->link[at] : 0);
}

bool vhost_ring_put(struct vhost_ring *ring, struct virtqueue_chain *chain)
{
	unsigned n = chain->outs + chain->ins, head = ring->free_head, at = head;

	if (n > ring->free)
		return false;
	for (unsigned i = 0; i < n; i++) {
		put_descriptor(ring, at, &chain->iov[i],
			       (i + 1 < n ? DESC_NEXT : 0) | (i < chain->outs ? 0 : DESC_WRITE));
		at = ring->link[at];
	}
	ring->free_head = (uint16_t)at;
	ring->free -= (uint16_t)n;
	ring->in_flight++;
	ring->chain[head] = chain;
	bytes_put_le16(avail(ring) + RING_ENTRIES + ring->next_avail % VHOST_RING_SIZE * AVAIL_ENTRY, (uint16_t)head);
	ring->next_avail++;
	ring->published = true;
	return true;
}

/* 2.7.13.3 */
void vhost_ring_kick(struct vhost_ring *ring)
{
	const uint64_t one = 1;

	if (!ring->published)
		return;
	ring->published = false;
	store16(avail(ring) + RING_INDEX, ring->next_avail);
	atomic_thread_fence(memory_order_seq_cst);
	/* It fails only when it was rung so often that it can't be overlooked. */
	if (!(load16(used(ring)) & USED_NO_NOTIFY) && write(ring->shared.kick, &one, sizeof(one)) < 0)
		return;
}

/* ---- from the back end ---- */

/* Gives the descriptors of a chain back. */
static struct virtqueue_chain *release(struct vhost_ring *ring, unsigned head)
{
	struct virtqueue_chain *chain = ring->chain[head];
	unsigned n = chain->outs + chain->ins, last = head;

	for (unsigned i = 1; i < n; i++)
		last = ring->link[last];
	ring->link[last] = ring->free_head;
	ring->free_head = (uint16_t)head;
	ring->free += (uint16_t)n;
	ring->chain[head] = NULL;
	ring->in_flight--;
	return chain;
}

/* All that it may have written to, whatever it says about how much. */
static void mark_written(const struct vhost_ring *ring, const struct virtqueue_chain *chain)
{
	for (unsigned i = 0; i < chain->ins; i++)
		guest_memory_written_at(ring->memory, chain->in[i].iov_base, chain->in[i].iov_len);
}

struct virtqueue_chain *vhost_ring_take(struct vhost_ring *ring, size_t *written, const char **why)
{
	*why = NULL;
	if (load16(used(ring) + RING_INDEX) == ring->next_used)
		return NULL;
	const uint8_t *entry = used(ring) + RING_ENTRIES + ring->next_used % VHOST_RING_SIZE * USED_ENTRY;
	uint32_t head = load32(entry), size = load32(entry + 4);
	if (head >= VHOST_RING_SIZE || !ring->chain[head]) {
		*why = "it completed a request that it was not given";
		return NULL;
	}
	ring->next_used++;
	struct virtqueue_chain *chain = release(ring, head);
	mark_written(ring, chain);
	*written = size < chain->in_size ? size : chain->in_size;
	return chain;
}

struct virtqueue_chain *vhost_ring_take_back(struct vhost_ring *ring)
{
	for (unsigned i = 0; ring->in_flight && i < VHOST_RING_SIZE; i++)
		if (ring->chain[i]) {
			struct virtqueue_chain *chain = release(ring, i);
			mark_written(ring, chain);
			return chain;
		}
	return NULL;
}
