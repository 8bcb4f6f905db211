/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost_user.h - messages to a device's back end in another process (QEMU's docs/interop/vhost-user.rst): this is the
 * front end's side of one connection. Rings and their eventfds are the caller's (vhost_ring.h); docs/design/vhost-user.md
 * has the reasons.
 *
 * A back end is believed nothing: a reply that is late, short, long or to something else is an error, and after any error
 * the connection is good for nothing but vhost_user_close. Messages with a reply block, for VHOST_USER_PATIENCE_MS at most;
 * those without do not.
 *
 * Threads: one at a time.
 */
#ifndef PLURES_VIRTIO_VHOST_USER_H
#define PLURES_VIRTIO_VHOST_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/guest_memory.h"

enum { VHOST_USER_PATIENCE_MS = 5000, VHOST_USER_CONFIG_MAX = 256 };

struct vhost_user {
	int fd;            /* -1: closed */
	int back_fd;       /* where the back end asks for something; or -1 */
	uint64_t features; /* virtio's, that the back end offers */
	uint64_t protocol; /* the protocol's, that both have */
	unsigned queues;   /* that it has, if it */
	bool says_queues;
};

/* Where a ring is, as addresses of this process in regions that were given to vhost_user_set_memory. */
struct vhost_user_ring {
	uint16_t size;
	void *desc, *avail, *used;
	int kick, call; /* eventfds */
};

/* Takes fd, a connected Unix socket, and agrees on the protocol. On failure it is closed. */
int vhost_user_open(struct vhost_user *vu, int fd, struct error *err);
/* Hangs up. May be called twice. */
void vhost_user_close(struct vhost_user *vu);

/* Shares guest memory, and one region more that is not the guest's (its gpa is any that no other has). */
int vhost_user_set_memory(struct vhost_user *vu, const struct guest_memory *memory, const struct guest_region *more,
			  struct error *err);
/* Reads the device's configuration space: `size` bytes. -ENOTSUP when the back end keeps none. */
int vhost_user_get_config(struct vhost_user *vu, void *config, unsigned size, struct error *err);
int vhost_user_set_features(struct vhost_user *vu, uint64_t features, struct error *err);

/* Has the back end begin with a ring that is empty, and end: when stop returns 0, it touches the ring no more. */
int vhost_user_ring_start(struct vhost_user *vu, unsigned index, const struct vhost_user_ring *ring, struct error *err);
int vhost_user_ring_stop(struct vhost_user *vu, unsigned index, struct error *err);

/* Takes one request from back_fd, which is readable: *config_changed says that the configuration is to be read again.
 * Anything else is refused, as the protocol provides. */
int vhost_user_take_request(struct vhost_user *vu, bool *config_changed, struct error *err);

#endif
