/* SPDX-License-Identifier: Apache-2.0 */
/* A header and a frame that make any sense or none, through all that looks into them. */
#include <stdlib.h>
#include <string.h>

#include "net/offload.h"
#include "net/user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool count(void *ctx, const struct net_packet *packet)
{
	size_t *left = ctx;

	if (!*left)
		return false;
	--*left;
	uint8_t *copy = malloc(packet->size); /* of the very size, for the sanitizer */
	if (!copy)
		abort();
	net_packet_copy(packet, copy);
	free(copy);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct net_header header;
	struct net_segments segments;

	if (size < sizeof(header) + 1)
		return 0;
	memcpy(&header, data, sizeof(header));
	size_t left = data[sizeof(header)] & 3, n = size - sizeof(header) - 1;
	unsigned mtu = data[sizeof(header)] & 4 ? NET_MTU_MIN : 576;
	uint8_t *frame = malloc(n ? n : 1), *piece = malloc(n + 1);
	if (!frame || !piece)
		abort();
	memcpy(frame, data + sizeof(header) + 1, n);
	struct iovec iov = { frame, n };
	struct net_packet packet = { .header = header, .iov = &iov, .iovs = 1, .size = n };
	bool fine = net_packet_check(&packet);

	if (fine && header.gso && net_segments_begin(&segments, &header, frame, n))
		for (size_t part; (part = net_segments_next(&segments, piece));)
			if (part > n)
				abort();
	user_raise_segment_size(frame, n);
	if (n >= NET_FRAME_MIN)
		user_fit(frame, n, mtu, count, &left);
	if (fine)
		net_checksum_complete(&header, frame, n);
	free(frame);
	free(piece);
	return 0;
}
