/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_blk.h - disks: virtio 1.2, 5.2. The kind's options are "WHERE[,format=,readonly,serial=,cache=,iops=,bps=,queues=,aio=]";
 * here is what is below them, for tests.
 *
 * A disk has a thread that serves all its queues and that its block layers belong to.
 */
#ifndef PLURES_VIRTIO_VIRTIO_BLK_H
#define PLURES_VIRTIO_VIRTIO_BLK_H

#include "block/block.h"
#include "virtio/virtio.h"

enum { VIRTIO_BLK_SERIAL_MAX = 20, VIRTIO_BLK_QUEUES_MAX = 16 };

struct virtio_blk_config {
	struct block_options block; /* but warn and ctx */
	struct block *ready;        /* instead: one that is open, on env->loop; taken in any case */
	const char *serial;         /* or NULL */
	unsigned queues;            /* 0: one for each vCPU */
	bool no_thread;             /* env->loop serves it */
};

int virtio_blk_make(struct virtio **v, const struct virtio_env *env, const struct virtio_blk_config *config,
		    struct error *err);

#endif
