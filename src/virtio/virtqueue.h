/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtqueue.h - the device's half of one virtqueue: split rings, indirect descriptors, event index (virtio 1.2, 2.7).
 *
 * Whatever a guest puts into its rings, this is the one place where it is read. A device gets chains: lists of host
 * memory, checked, first what the device reads and then what it writes. A ring that makes no sense (an index out of
 * range, a loop, an address that is no memory, a readable part after a writable one) breaks the queue: it gives no more
 * chains, and `broken` is called once so that the device asks for a reset.
 *
 *	do {
 *		virtqueue_kicks_off(vq);
 *		while ((chain = virtqueue_pop(vq)))
 *			virtqueue_push(vq, chain, serve(chain));
 *	} while (!virtqueue_kicks_on(vq));
 *	virtqueue_interrupt(vq);
 *
 * (virtio_serve of virtio.h does this.) Threads: one thread at a time uses a virtqueue, the one that its owner has chosen.
 */
#ifndef PLURES_VIRTIO_VIRTQUEUE_H
#define PLURES_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vm/guest_memory.h"

enum { VIRTQUEUE_SIZE_MAX = 1024 /* of a ring, and of a chain */ };

/* One request: iovecs over guest memory. The guest may change the bytes at any time: copy what is to be checked. */
struct virtqueue_chain {
	struct iovec *out; /* the device reads */
	struct iovec *in;  /* the device writes */
	unsigned outs, ins;
	size_t out_size, in_size; /* sums of the lengths */
	void *owner;              /* the device's, NULL when popped */

	/* The virtqueue's. */
	struct virtqueue_chain *next;
	uint16_t head;
	unsigned room;
	struct iovec *iov;
};

/* How the driver set it up. Guest-physical addresses. */
struct virtqueue_setup {
	uint16_t size; /* a power of two, at most VIRTQUEUE_SIZE_MAX */
	uint64_t desc, avail, used;
	bool event_index, indirect;
	/* Where the device goes on: 0 after a reset. */
	uint16_t next_avail, next_used;
};

struct virtqueue {
	const struct guest_memory *memory;
	/* Both on the queue's thread. `broken` with a few words about why. */
	void (*interrupt)(void *ctx);
	void (*broken)(void *ctx, const char *why);
	void *ctx;

	/* Private. */
	struct virtqueue_setup setup;
	bool running, is_broken;
	uint8_t *desc, *avail, *used; /* host addresses of the rings */
	uint16_t next_avail, next_used;
	uint16_t signalled; /* next_used when the driver was last told, or did not want to be */
	unsigned in_flight;
	struct virtqueue_chain *free;
};

/* ---- setting up ---- */

/* *vq is zeroed but for memory, interrupt, broken and ctx. False when the rings are not in memory, not aligned or of a
 * wrong size; the queue is broken then. */
bool virtqueue_start(struct virtqueue *vq, const struct virtqueue_setup *setup);
/* Ends use of guest memory; chains that are out are dropped with virtqueue_drop before or after. */
void virtqueue_stop(struct virtqueue *vq);
/* Frees it; no chain may be out. */
void virtqueue_fini(struct virtqueue *vq);

/* ---- chains ---- */

/* The next request, or NULL: nothing there, not running, or broken. */
struct virtqueue_chain *virtqueue_pop(struct virtqueue *vq);
/* Puts the last one popped back, as if it had not been popped. */
void virtqueue_unpop(struct virtqueue *vq, struct virtqueue_chain *chain);
/* Completes a request of which the device wrote the first `written` bytes of `in`, in any order among those popped. */
void virtqueue_push(struct virtqueue *vq, struct virtqueue_chain *chain, size_t written);
/* Completes several at once, in this order: the driver sees all of them or none. */
void virtqueue_push_all(struct virtqueue *vq, struct virtqueue_chain *const *chain, const size_t *written, unsigned n);
/* Forgets a request without completing it: at a reset. */
void virtqueue_drop(struct virtqueue *vq, struct virtqueue_chain *chain);
/* For a request that violates the device's own protocol in a way that it has no answer to. */
void virtqueue_break(struct virtqueue *vq, const char *why);

/* Copy from `out` or to `in`, starting `offset` bytes into it; the bytes that there were. */
size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *to, size_t size);
size_t virtqueue_chain_write(const struct virtqueue_chain *chain, size_t offset, const void *from, size_t size);

/* ---- notifications ---- */

/* Interrupts the driver if something was pushed since the last time and the driver wants to know. */
void virtqueue_interrupt(struct virtqueue *vq);
/* Asks the driver not to kick; it may all the same. */
void virtqueue_kicks_off(struct virtqueue *vq);
/* Asks for kicks again. False when there is something to pop already, for which no kick will come. */
bool virtqueue_kicks_on(struct virtqueue *vq);
/* Whether pop would look at something. */
bool virtqueue_has_more(const struct virtqueue *vq);

#endif
