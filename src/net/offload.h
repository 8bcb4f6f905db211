/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offload.h - what a packet's header leaves to be done, done in software: checksums and TCP segmentation.
 *
 * A header comes from a guest or from a peer, and so does the frame: nothing in either is believed. All but
 * net_packet_check work on a frame that is the caller's own copy.
 */
#ifndef PLURES_NET_OFFLOAD_H
#define PLURES_NET_OFFLOAD_H

#include "net/net.h"

/* Whether the header can belong to a frame of that size. Does not look into the frame. */
bool net_packet_check(const struct net_packet *packet);

/* Copies the frame; `to` has room for packet->size bytes. */
void net_packet_copy(const struct net_packet *packet, void *to);

/* The ones' complement sum of size bytes in network order, not inverted, added to `sum`; net_checksum_fold makes it 16 bits. */
uint64_t net_checksum_add(uint64_t sum, const void *bytes, size_t size);
uint16_t net_checksum_fold(uint64_t sum);

/* Fills in the checksum that the header, which net_packet_check has passed, says is missing. */
void net_checksum_complete(struct net_header *header, uint8_t *frame, size_t size);

/* Where things are in a frame with TCP over IPv4 or IPv6, whose headers are whole. */
struct net_tcp {
	bool ip6;
	unsigned ip, tcp, payload; /* offsets */
};
bool net_tcp_find(struct net_tcp *tcp, const uint8_t *frame, size_t size);
/* The sum of the pseudo header for `size` bytes from the TCP header on: RFC 9293, 3.1. */
uint64_t net_tcp_pseudo(const struct net_tcp *tcp, const uint8_t *frame, size_t size);

/* One packet with a GSO type on its way to become several. */
struct net_segments {
	struct net_tcp tcp;
	uint16_t segment_size;
	const uint8_t *frame; /* the caller's */
	size_t size, next;    /* of the frame; where the next segment's payload begins */
	unsigned index;
	bool done;
};

/* False when the frame is not what its header says: it is to be dropped. */
bool net_segments_begin(struct net_segments *segments, const struct net_header *header, const uint8_t *frame,
			size_t size);
/* Writes the next frame, all checksums filled in, and returns its size: never more than the whole one's. 0 at the end. */
size_t net_segments_next(struct net_segments *segments, uint8_t *frame);

#endif
