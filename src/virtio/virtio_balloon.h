/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_balloon.h - memory that a guest gives back: virtio 1.2, 5.5. Pages in the balloon, and pages that the guest reports
 * as free, leave the host's memory; they come back when they are touched.
 *
 * Event thread.
 */
#ifndef PLURES_VIRTIO_BALLOON_H
#define PLURES_VIRTIO_BALLOON_H

#include <stdint.h>

#include "virtio/virtio.h"

/* Statistics, by the specification's tags; UINT64_MAX where the guest has said nothing. Bytes, or counts. */
enum virtio_balloon_stat {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE,
	BALLOON_TOTAL,
	BALLOON_AVAILABLE,
	BALLOON_DISK_CACHES,
	BALLOON_HUGETLB_ALLOCATIONS,
	BALLOON_HUGETLB_FAILURES,
	BALLOON_STATS,
};

/* v is one that virtio_balloon_create made. */
/* Asks the guest to have this much in the balloon. */
void virtio_balloon_set_target(struct virtio *v, uint64_t bytes);
uint64_t virtio_balloon_target(struct virtio *v);
/* How much it says is in it. */
uint64_t virtio_balloon_actual(struct virtio *v);
void virtio_balloon_stats(struct virtio *v, uint64_t stats[BALLOON_STATS]);

#endif
