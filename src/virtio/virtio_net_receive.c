/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_net_receive.c - packets for the guest: virtio 1.2, 5.1.6.3 and 5.1.6.4.
 *
 * A packet comes with whatever offloads its sender used. What the driver has not negotiated is done here: a checksum is
 * filled in, a long TCP segment is cut. The pieces of one packet may find the queue full; those that are left wait, and
 * until they are gone the card takes nothing else for that queue.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "virtio/virtio_net.h"

enum { PEEK = 18 /* both addresses, a VLAN tag */, CHAINS_MAX = VIRTQUEUE_SIZE_MAX };

static struct virtqueue *rx_queue(struct nic *nic, unsigned pair)
{
	return &nic->v.queue[pair * 2].vq;
}

/* ---- into buffers ---- */

enum placed { PLACED, LOST, NO_ROOM };

static void put_back(struct virtqueue *vq, struct virtqueue_chain **chain, unsigned n)
{
	while (n)
		virtqueue_unpop(vq, chain[--n]);
}

/* Takes chains that together have room for `need` bytes: all of them, or none. */
static enum placed take_chains(struct nic *nic, struct virtqueue *vq, size_t need, struct virtqueue_chain **chain,
			       unsigned *n)
{
	bool mergeable = virtio_has(&nic->v, NET_F_MRG_RXBUF);
	size_t room = 0;

	for (*n = 0; room < need;) {
		struct virtqueue_chain *next = virtqueue_pop(vq);
		if (!next) {
			bool hopeless = *n == vq->setup.size || !vq->running || vq->is_broken;
			/* While they are taken, so that what is added to them is what we are told of. */
			if (!hopeless && !virtqueue_kicks_on(vq))
				continue;
			put_back(vq, chain, *n);
			return hopeless ? LOST : NO_ROOM;
		}
		chain[(*n)++] = next;
		room += next->in_size;
		if (next->in_size < NET_HEADER_SIZE) {
			put_back(vq, chain, *n);
			virtqueue_break(vq, "a receive buffer has no room for a header");
			return LOST;
		}
		if (room < need && (!mergeable || *n == CHAINS_MAX)) {
			put_back(vq, chain, *n);
			return LOST; /* the driver will never take this */
		}
	}
	return PLACED;
}

/* Copies header and frame over the chains, in order. */
static void fill(struct virtqueue_chain **chain, size_t *written, unsigned n, const struct net_header *header,
		 const struct net_packet *packet)
{
	size_t at = virtqueue_chain_write(chain[0], 0, header, NET_HEADER_SIZE);
	unsigned c = 0;

	for (unsigned i = 0; i < packet->iovs; i++) {
		const uint8_t *from = packet->iov[i].iov_base;
		size_t left = packet->iov[i].iov_len;
		while (left && c < n) {
			size_t done = virtqueue_chain_write(chain[c], at, from, left);
			from += done;
			left -= done;
			at += done;
			if (left) {
				written[c++] = at;
				at = 0;
			}
		}
	}
	if (c < n)
		written[c] = at;
}

static enum placed place(struct nic *nic, unsigned pair, const struct net_packet *packet)
{
	struct virtqueue *vq = rx_queue(nic, pair);
	struct virtqueue_chain *chain[CHAINS_MAX];
	size_t written[CHAINS_MAX];
	struct net_header header = packet->header;
	unsigned n = 0;

	chain[0] = NULL;
	enum placed placed = take_chains(nic, vq, NET_HEADER_SIZE + packet->size, chain, &n);
	if (placed != PLACED)
		return placed;
	header.buffers = (uint16_t)n;
	fill(chain, written, n, &header, packet);
	virtqueue_push_all(vq, chain, written, n);
	return PLACED;
}

/* ---- what the driver does not take as it is ---- */

static unsigned needs(const struct net_header *header)
{
	unsigned gso = header->gso & ~(unsigned)NET_GSO_ECN;

	return (header->flags & NET_NEEDS_CHECKSUM ? NET_CAN_CHECKSUM : 0) | (gso == NET_GSO_TCP4 ? NET_CAN_TCP4 : 0) |
	       (gso == NET_GSO_TCP6 ? NET_CAN_TCP6 : 0) | (header->gso & NET_GSO_ECN ? NET_CAN_ECN : 0);
}

/* Sends pieces until there are none or the queue is full. */
static void send_pieces(struct nic *nic, unsigned pair)
{
	struct net_pieces *p = &nic->pieces[pair];

	while (p->busy) {
		if (!p->ready)
			p->ready = net_segments_next(&p->segments, p->piece);
		if (!p->ready) {
			p->busy = false;
			break;
		}
		struct iovec iov = { .iov_base = p->piece, .iov_len = p->ready };
		struct net_packet packet = { .iov = &iov, .iovs = 1, .size = p->ready };
		if (nic->can & NET_CAN_CHECKSUM)
			packet.header.flags = NET_CHECKSUM_GOOD;
		if (place(nic, pair, &packet) == NO_ROOM)
			break;
		p->ready = 0;
	}
}

/* Takes a copy of the packet and sends what the driver can do with it. */
static bool receive_in_software(struct nic *nic, unsigned pair, const struct net_packet *packet)
{
	struct net_pieces *p = &nic->pieces[pair];
	struct net_header header = packet->header;

	if (!p->whole) {
		p->whole = memory_zalloc(NET_FRAME_MAX);
		p->piece = memory_zalloc(NET_FRAME_MAX);
	}
	net_packet_copy(packet, p->whole);
	if (header.gso != NET_GSO_NONE) {
		p->busy = net_segments_begin(&p->segments, &header, p->whole, packet->size);
		p->ready = 0;
		send_pieces(nic, pair);
		return true;
	}
	net_checksum_complete(&header, p->whole, packet->size);
	struct iovec iov = { .iov_base = p->whole, .iov_len = packet->size };
	struct net_packet whole = { .iov = &iov, .iovs = 1, .size = packet->size };
	return place(nic, pair, &whole) != NO_ROOM;
}

/* ---- the card's half of the door ---- */

bool nic_receive(void *ctx, unsigned pair, const struct net_packet *packet)
{
	struct nic *nic = ctx;
	uint8_t start[PEEK];
	size_t peeked = 0;

	if (pair >= nic->pairs)
		pair = 0;
	if (!rx_queue(nic, pair)->running || !nic->link)
		return true; /* nobody listens */
	if (nic->pieces[pair].busy)
		return false;
	for (unsigned i = 0; i < packet->iovs && peeked < PEEK; i++) {
		size_t n = packet->iov[i].iov_len < PEEK - peeked ? packet->iov[i].iov_len : PEEK - peeked;
		memcpy(start + peeked, packet->iov[i].iov_base, n);
		peeked += n;
	}
	if (!net_packet_check(packet) || !nic_wants(nic, start, peeked))
		return true;
	if (needs(&packet->header) & ~nic->can)
		return receive_in_software(nic, pair, packet);
	if (packet->header.flags & NET_CHECKSUM_GOOD && !(nic->can & NET_CAN_CHECKSUM)) {
		struct net_packet plain = *packet;
		plain.header.flags = 0;
		return place(nic, pair, &plain) != NO_ROOM;
	}
	return place(nic, pair, packet) != NO_ROOM;
}

void nic_received(void *ctx, unsigned pair)
{
	struct nic *nic = ctx;

	virtqueue_interrupt(rx_queue(nic, pair < nic->pairs ? pair : 0));
}

void nic_refilled(struct nic *nic, unsigned pair)
{
	virtqueue_kicks_off(rx_queue(nic, pair));
	send_pieces(nic, pair);
	if (!nic->pieces[pair].busy)
		net_resume(nic->net, pair);
	virtqueue_interrupt(rx_queue(nic, pair));
}

void nic_drop_pieces(struct nic *nic, unsigned pair)
{
	nic->pieces[pair].busy = false;
	nic->pieces[pair].ready = 0;
}
