/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost_device.h - a virtio device whose back end is another process: the front end, once, for all kinds of devices that
 * vhost-user knows. A kind of ours (devices.def) says what device it is and how its back end is reached.
 *
 * When the back end goes away or says what makes no sense, the user is told, requests fail as they would on a device that is
 * broken, the guest reads DEVICE_NEEDS_RESET, and the next time that a driver starts the device another connection is tried.
 *
 * Threads: the device's event loop.
 */
#ifndef PLURES_VIRTIO_VHOST_DEVICE_H
#define PLURES_VIRTIO_VHOST_DEVICE_H

#include "virtio/virtio.h"

enum vhost_type { VHOST_BLK, VHOST_FS, VHOST_NET };

enum { VHOST_TAG_MAX = 36 };

struct vhost_device_config {
	enum vhost_type type;
	unsigned queues;         /* that carry requests; fewer if the back end has fewer. Of VHOST_NET: one pair. */
	char tag[VHOST_TAG_MAX]; /* VHOST_FS: what a guest mounts it by; not ended when it is as long as it may be */
	uint8_t mac[6];          /* VHOST_NET */
	char name[160];          /* what the user calls it, for messages */
	/* Gives a connected Unix socket, which the device takes; and has it gone, before it is connected again too. `gone` may
	 * add to `why` what it knows. */
	int (*connect)(void *ctx, int *fd, struct error *err);
	void (*gone)(void *ctx, struct error *why);
	/* Frees ctx; at the device's end, or when it could not be made. */
	void (*destroy)(void *ctx);
	void *ctx;
};

/* VHOST_BLK and so on by the name of its kind: -EINVAL. */
int vhost_type_parse(const char *name, enum vhost_type *type, struct error *err);

/* On failure *v is NULL. */
int vhost_device_create(struct virtio **v, const struct virtio_env *env, const struct vhost_device_config *config,
			struct error *err);

#endif
