/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A card between a hostile driver and a hostile peer: commands on its queues, and packets with any header from the other
 * side. The first bytes choose the features.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "virtio/virtio_net.h"
#include "virtio/virtio_testlib.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COMMAND, BUFFER, SEND, RECEIVE, TURN, KINDS };

struct input {
	const uint8_t *at;
	size_t left;
};

static uint64_t take(struct input *in, unsigned size)
{
	uint8_t bytes[8] = { 0 };
	size_t n = size < in->left ? size : in->left;

	memcpy(bytes, in->at, n);
	in->at += n;
	in->left -= n;
	return bytes_le64(bytes);
}

/* Copies up to a byte's worth of input to `to`: how much. */
static size_t take_bytes(struct input *in, uint8_t *to, unsigned times)
{
	size_t n = take(in, 1), whole = n * times;

	if (n > in->left)
		n = in->left;
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
	return n && times > 1 ? whole : n;
}

static void receive(struct nic *nic, struct input *in)
{
	static uint8_t bytes[256 * 64];
	struct net_packet packet;

	uint64_t low = take(in, 8);
	uint32_t high = (uint32_t)take(in, 4);
	memcpy(&packet.header, &low, 8);
	memcpy((uint8_t *)&packet.header + 8, &high, 4);
	packet.size = take_bytes(in, bytes, packet.header.gso ? 64 : 1);
	struct iovec iov = { bytes, packet.size };
	packet.iov = &iov;
	packet.iovs = 1;
	nic_receive(nic, (unsigned)(low & 1), &packet);
	nic_received(nic, 0);
}

static void step(struct test_guest *g, struct input *in)
{
	struct nic *nic = nic_of(g->v);
	unsigned what = (unsigned)take(in, 1);
	size_t n;

	switch (what % KINDS) {
	case COMMAND:
		n = take_bytes(in, g->ram + TEST_BUFFERS, 1);
		test_send(g, 2, TEST_BUFFERS, (uint32_t)n + 1, TEST_BUFFERS + 0x1000, 1);
		break;
	case BUFFER:
		test_send(g, 0, 0, 0, TEST_BUFFERS + 0x10000 + (what >> 4) * 2048, (uint32_t)take(in, 2) + 1);
		break;
	case SEND:
		n = take_bytes(in, g->ram + TEST_BUFFERS + 0x2000, 1);
		test_send(g, 1, TEST_BUFFERS + 0x2000, (uint32_t)n + (what & 0x80 ? 2000 : 1), 0, 0);
		break;
	case RECEIVE:
		receive(nic, in);
		break;
	default:
		test_guest_settle(g);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct test_guest g;
	struct virtio *v;
	struct error err;

	if (size < 8)
		return 0;
	uint64_t features = take(&in, 5);
	test_guest_init(&g);
	if (virtio_net_create(&v, &g.env, "user,restrict", &err))
		abort();
	test_guest_plug(&g, v);
	test_driver_start(&g, features & virtio_offered(v));
	for (unsigned i = 0; i < 100 && in.left; i++)
		step(&g, &in);
	test_guest_settle(&g);
	test_guest_fini(&g);
	return 0;
}
