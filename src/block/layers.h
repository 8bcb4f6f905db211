/* SPDX-License-Identifier: Apache-2.0 */
/* layers.h - what block.c puts around and on top of drivers; nobody else includes it but tests. */
#ifndef PLURES_BLOCK_LAYERS_H
#define PLURES_BLOCK_LAYERS_H

#include "block/driver.h"

/* Whether something begins like an image of some format. */
bool block_probe(const uint8_t *head, size_t size);

/*
 * guard.c: a disk that was taken for raw only because it looks like nothing else. A guest that wrote an image's header there would have it
 * opened as an image the next time, with a backing file of the guest's choice. Does a WRITE at offset 0 of such a disk.
 */
void block_guard_write(struct block *block, struct block_request *request);

/* limit.c: a layer that lets through no more than options->iops and bps. It is given `below` as a format is. */
int block_limit_open(struct block **block, struct block *below, const struct block_options *options,
		     struct event_loop *loop, struct error *err);

#endif
