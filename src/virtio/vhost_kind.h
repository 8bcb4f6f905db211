/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost_kind.h - what vhost_device.c has to know of each type of device: features that are the device's own business, its
 * queues and configuration space, and what a driver is told when there is nobody to serve it.
 */
#ifndef PLURES_VIRTIO_VHOST_KIND_H
#define PLURES_VIRTIO_VHOST_KIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/vhost_device.h"

enum { VHOST_QUEUE_SIZE = 256 };

struct vhost_kind {
	const char *name, *device; /* "blk", "virtio-blk-vhost": the section's name in saved state */
	uint16_t type;
	uint32_t class_code;
	uint64_t features;      /* that the back end may offer to the guest */
	uint64_t own_features;  /* offered whatever it says */
	uint64_t multi_feature; /* without which there is one queue; or 0 */
	unsigned fixed_queues;  /* that there always are */
	bool more_queues;       /* and as many more as config.queues says */
	unsigned config_size;
	bool remote_config; /* the back end keeps it */
	bool drains;        /* every request ends by itself, soon */
	bool stateless;     /* another back end can go on with what one has begun */
	/* Fills in the configuration space of our own, or corrects what the back end says; either may be NULL. */
	void (*make_config)(uint8_t *bytes, const struct vhost_device_config *config, unsigned queues);
	void (*fix_config)(uint8_t *bytes, unsigned queues);
	/* Whether requests in this queue can fail; those in others wait. */
	bool (*refuses)(unsigned queue);
	/* Answers a request that fails: what was written. False when it can't be answered. */
	bool (*refuse)(unsigned queue, struct virtqueue_chain *chain, size_t *written);
};

extern const struct vhost_kind vhost_kinds[]; /* by enum vhost_type */

#endif
