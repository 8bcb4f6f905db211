/* SPDX-License-Identifier: Apache-2.0 */
/* Any rings, any descriptors: the queue gives chains inside guest memory or breaks. */
#include <stdlib.h>
#include <string.h>

#include "virtio/virtio_testlib.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing(void *ctx)
{
	(void)ctx;
}

/* Touches all of a chain, so that the sanitizer sees what is outside. */
static void use(const struct test_guest *g, const struct virtqueue_chain *chain)
{
	uint8_t buffer[256];

	for (unsigned i = 0; i < chain->outs + chain->ins; i++) {
		const uint8_t *p = chain->iov[i].iov_base;
		if (p < g->ram || chain->iov[i].iov_len > (size_t)(g->ram + TEST_MEMORY - p))
			abort();
	}
	virtqueue_chain_read(chain, chain->out_size / 2, buffer, sizeof(buffer));
	memset(buffer, 0x11, sizeof(buffer));
	virtqueue_chain_write(chain, chain->in_size / 2, buffer, sizeof(buffer));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum { SETUP = 32 };
	struct test_guest g;
	struct virtqueue_chain *kept = NULL, *chain;

	if (size < SETUP)
		return 0;
	test_guest_init(&g);
	struct virtqueue vq = { .memory = &g.memory, .interrupt = nothing, .ctx = &g };
	struct virtqueue_setup setup = {
		.size = (uint16_t)(1u << (data[0] & 7)),
		.desc = TEST_RINGS,
		.avail = TEST_RINGS + 0x800,
		.used = TEST_RINGS + 0x1000,
		.event_index = data[1] & 1,
		.indirect = data[1] & 2,
		.next_avail = data[2],
		.next_used = data[3],
	};
	if (data[1] & 4)
		memcpy(&setup.desc, data + 8, 24); /* three addresses */
	if (data[1] & 8)
		memcpy(&setup.size, data + 4, 2);
	size_t room = TEST_MEMORY - TEST_RINGS, n = size - SETUP < room ? size - SETUP : room;
	memcpy(g.ram + TEST_RINGS, data + SETUP, n);
	virtqueue_start(&vq, &setup);
	for (unsigned i = 0; i < 64; i++) {
		virtqueue_kicks_off(&vq);
		chain = virtqueue_pop(&vq);
		if (!chain) {
			virtqueue_kicks_on(&vq);
			break;
		}
		use(&g, chain);
		if (i % 5 == 4) {
			virtqueue_unpop(&vq, chain);
			continue;
		}
		if (i % 3 == 0 && !kept) {
			kept = chain;
			continue;
		}
		virtqueue_push(&vq, chain, i * 100);
		virtqueue_interrupt(&vq);
	}
	if (kept)
		virtqueue_drop(&vq, kept);
	virtqueue_fini(&vq);
	test_guest_fini(&g);
	return 0;
}
