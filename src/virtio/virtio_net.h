/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_net.h - what the files of the network card share; for others it is a struct virtio like any. */
#ifndef PLURES_VIRTIO_NET_H
#define PLURES_VIRTIO_NET_H

#include "net/net.h"
#include "net/offload.h"
#include "virtio/virtio.h"

enum { /* virtio 1.2, 5.1.3 */
       NET_F_CSUM = 0,
       NET_F_GUEST_CSUM = 1,
       NET_F_CTRL_GUEST_OFFLOADS = 2,
       NET_F_MTU = 3,
       NET_F_MAC = 5,
       NET_F_GUEST_TSO4 = 7,
       NET_F_GUEST_TSO6 = 8,
       NET_F_GUEST_ECN = 9,
       NET_F_HOST_TSO4 = 11,
       NET_F_HOST_TSO6 = 12,
       NET_F_HOST_ECN = 13,
       NET_F_MRG_RXBUF = 15,
       NET_F_STATUS = 16,
       NET_F_CTRL_VQ = 17,
       NET_F_CTRL_RX = 18,
       NET_F_CTRL_VLAN = 19,
       NET_F_CTRL_RX_EXTRA = 20,
       NET_F_GUEST_ANNOUNCE = 21,
       NET_F_MQ = 22,
       NET_F_CTRL_MAC_ADDR = 23,
};

enum { NET_MAC_SIZE = 6, NET_MACS_MAX = 64 /* of each kind in the filter */ };
enum { NET_CONFIG_MAC = 0, NET_CONFIG_STATUS = 6, NET_CONFIG_PAIRS = 8, NET_CONFIG_MTU = 10, NET_CONFIG_SIZE = 12 };
enum { NET_STATUS_LINK_UP = 1, NET_STATUS_ANNOUNCE = 2 };

/* Which frames the driver wants: 5.1.6.5.1 to 5.1.6.5.3. */
struct net_filter {
	uint8_t promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
	uint8_t mac[NET_MAC_SIZE];
	uint32_t unicasts, multicasts; /* more than NET_MACS_MAX: all are wanted */
	uint8_t unicast[NET_MACS_MAX][NET_MAC_SIZE], multicast[NET_MACS_MAX][NET_MAC_SIZE];
	uint8_t vlan[4096 / 8];
};

/* A packet that the driver does not take whole, on its way in pieces. */
struct net_pieces {
	struct net_segments segments;
	bool busy;
	size_t ready; /* size of the piece in `piece` that found no room, or 0 */
	uint8_t *whole, *piece;
};

struct nic {
	struct virtio v;
	struct net *net;
	unsigned max_pairs, pairs; /* that there are, that the driver uses */
	bool link;
	unsigned can,
	    can_mask; /* NET_CAN_*: what received packets may leave to the driver, and those that it has not switched off */
	uint8_t own_mac[NET_MAC_SIZE];
	struct net_filter filter;
	struct net_pieces pieces[NET_QUEUES_MAX];
};

static inline struct nic *nic_of(struct virtio *v)
{
	return (struct nic *)v;
}

/* ---- virtio_net_receive.c ---- */

/* As struct net_card's. */
bool nic_receive(void *ctx, unsigned pair, const struct net_packet *packet);
void nic_received(void *ctx, unsigned pair);
/* The driver has added buffers, perhaps. */
void nic_refilled(struct nic *nic, unsigned pair);
void nic_drop_pieces(struct nic *nic, unsigned pair);

/* ---- virtio_net_control.c ---- */

/* Whether the driver wants a frame that begins with these bytes. */
bool nic_wants(const struct nic *nic, const uint8_t *frame, size_t size);
/* The filter of a driver that has said nothing yet. */
void nic_filter_reset(struct nic *nic);
void nic_set_mac(struct nic *nic, const uint8_t mac[NET_MAC_SIZE]);
/* What received packets may leave to the driver, after a change. */
void nic_update_offloads(struct nic *nic);
/* Serves the control queue, whose number depends on the features. */
void nic_serve_control(struct nic *nic, unsigned queue);

#endif
