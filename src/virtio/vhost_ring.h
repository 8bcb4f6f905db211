/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost_ring.h - a ring between us and a back end in another process, which stands in for one of the guest's.
 *
 * The back end never sees the guest's rings. We pop chains from the guest's virtqueue, where they are checked, and write
 * their descriptors into a ring of our own, in memory that the guest has not; what the back end completes there we push
 * to the guest. So the engine learns what was written before the guest can see that it was (guest_memory.h), and a chain
 * is known to us as long as it is under way. docs/design/vhost-user.md has the alternatives.
 *
 * What the back end writes into its ring is checked as a guest's ring is. Threads: the queue's.
 */
#ifndef PLURES_VIRTIO_VHOST_RING_H
#define PLURES_VIRTIO_VHOST_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "virtio/vhost_user.h"
#include "virtio/virtqueue.h"

/* As large as a ring may be, so that the longest chain finds room; VHOST_RING_BYTES is what it takes. */
enum { VHOST_RING_SIZE = VIRTQUEUE_SIZE_MAX, VHOST_RING_BYTES = 0x8000 };

struct vhost_ring {
	struct vhost_user_ring shared; /* for vhost_user_ring_start */
	const struct guest_memory *memory;
	bool started; /* the owner's: the back end has it */
	bool starved; /* the owner's: a chain found no room */

	/* Private. */
	uint16_t next_avail, next_used, free, free_head;
	bool published; /* something since the last kick */
	unsigned in_flight;
	uint16_t link[VHOST_RING_SIZE];                 /* descriptors of a chain, or free ones, in order */
	struct virtqueue_chain *chain[VHOST_RING_SIZE]; /* by the chain's first descriptor */
};

/* Makes one in VHOST_RING_BYTES of shared memory at `base`, with new eventfds. */
int vhost_ring_init(struct vhost_ring *ring, const struct guest_memory *memory, uint8_t *base, struct error *err);
/* No chain may be out. May be called twice. */
void vhost_ring_fini(struct vhost_ring *ring);
/* Empty, as for a back end that has not seen it. No chain may be out. */
void vhost_ring_reset(struct vhost_ring *ring);

/* Hands a chain to the back end: false, having done nothing, when there is no room until others are done. */
bool vhost_ring_put(struct vhost_ring *ring, struct virtqueue_chain *chain);
/* Wakes the back end if something was put since the last time. */
void vhost_ring_kick(struct vhost_ring *ring);

/* The next chain that the back end is done with, its buffers marked as written, and how many bytes it says it wrote; NULL
 * when there is none, or (*why is set) when what stands in the ring makes no sense. */
struct virtqueue_chain *vhost_ring_take(struct vhost_ring *ring, size_t *written, const char **why);
/* Any chain that is under way, taken back from a back end that is gone; NULL when there is none. */
struct virtqueue_chain *vhost_ring_take_back(struct vhost_ring *ring);

#endif
