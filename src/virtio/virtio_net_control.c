/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_net_control.c - what the driver tells the card through the control queue: virtio 1.2, 5.1.6.5. */
#include <string.h>

#include "base/bytes.h"
#include "virtio/virtio_net.h"

enum { CLASS_RX = 0, CLASS_MAC = 1, CLASS_VLAN = 2, CLASS_ANNOUNCE = 3, CLASS_MQ = 4, CLASS_OFFLOADS = 5 };
enum {
	MAC_TABLE_SET = 0,
	MAC_ADDR_SET = 1,
	VLAN_ADD = 0,
	VLAN_DELETE = 1,
	ANNOUNCE_ACK = 0,
	MQ_PAIRS_SET = 0,
	OFFLOADS_SET = 0
};
enum { ACK_OK = 0, ACK_ERROR = 1, COMMAND_SIZE = 2 };
enum { ETHERTYPE_VLAN = 0x8100, VLAN_ID = 0xfff };

/* ---- the filter ---- */

static bool in_table(const uint8_t table[][NET_MAC_SIZE], uint32_t n, const uint8_t *mac)
{
	for (uint32_t i = 0; i < n; i++)
		if (!memcmp(table[i], mac, NET_MAC_SIZE))
			return true;
	return false;
}

static bool wants_vlan(const struct nic *nic, const uint8_t *frame, size_t size)
{
	if (!virtio_has(&nic->v, NET_F_CTRL_VLAN) || size < 18 || (frame[12] << 8 | frame[13]) != ETHERTYPE_VLAN)
		return true;
	unsigned id = (unsigned)(frame[14] << 8 | frame[15]) & VLAN_ID;
	return !id || nic->filter.vlan[id / 8] >> id % 8 & 1;
}

bool nic_wants(const struct nic *nic, const uint8_t *frame, size_t size)
{
	static const uint8_t broadcast[NET_MAC_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct net_filter *f = &nic->filter;

	if (!wants_vlan(nic, frame, size))
		return false;
	if (f->promiscuous || !virtio_has(&nic->v, NET_F_CTRL_RX))
		return true;
	if (!memcmp(frame, broadcast, NET_MAC_SIZE))
		return !f->no_broadcast;
	if (frame[0] & 1)
		return !f->no_multicast && (f->all_multicast || f->multicasts > NET_MACS_MAX ||
					    in_table(f->multicast, f->multicasts, frame));
	return !f->no_unicast && (f->all_unicast || f->unicasts > NET_MACS_MAX ||
				  !memcmp(frame, f->mac, NET_MAC_SIZE) || in_table(f->unicast, f->unicasts, frame));
}

void nic_filter_reset(struct nic *nic)
{
	nic->filter = (struct net_filter){ .promiscuous = 1 };
	nic_set_mac(nic, nic->own_mac);
}

void nic_set_mac(struct nic *nic, const uint8_t mac[NET_MAC_SIZE])
{
	memcpy(nic->filter.mac, mac, NET_MAC_SIZE);
	pthread_mutex_lock(&nic->v.lock);
	memcpy(nic->v.config + NET_CONFIG_MAC, mac, NET_MAC_SIZE);
	pthread_mutex_unlock(&nic->v.lock);
}

void nic_update_offloads(struct nic *nic)
{
	const struct virtio *v = &nic->v;
	unsigned can = 0;

	if (virtio_has(v, NET_F_GUEST_CSUM))
		can = NET_CAN_CHECKSUM | (virtio_has(v, NET_F_GUEST_TSO4) ? NET_CAN_TCP4 : 0) |
		      (virtio_has(v, NET_F_GUEST_TSO6) ? NET_CAN_TCP6 : 0) |
		      (virtio_has(v, NET_F_GUEST_ECN) ? NET_CAN_ECN : 0);
	nic->can = can & nic->can_mask;
	if (!(nic->can & NET_CAN_CHECKSUM))
		nic->can = 0;
	net_offloads(nic->net, nic->can);
}

/* ---- commands; each returns whether it is accepted ---- */

static bool set_rx(struct nic *nic, unsigned command, const struct virtqueue_chain *chain)
{
	struct net_filter *f = &nic->filter;
	uint8_t *const mode[] = { &f->promiscuous,  &f->all_multicast, &f->all_unicast,
				  &f->no_multicast, &f->no_unicast,    &f->no_broadcast };
	uint8_t on;

	if (command >= sizeof(mode) / sizeof(*mode) || virtqueue_chain_read(chain, COMMAND_SIZE, &on, 1) != 1)
		return false;
	*mode[command] = on != 0;
	return true;
}

/* Reads one table at *at and moves on behind it. */
static bool read_table(const struct virtqueue_chain *chain, size_t *at, uint8_t table[][NET_MAC_SIZE], uint32_t *count)
{
	uint8_t n[4];

	if (virtqueue_chain_read(chain, *at, n, sizeof(n)) != sizeof(n))
		return false;
	*count = bytes_le32(n);
	*at += sizeof(n);
	size_t size = (size_t)*count * NET_MAC_SIZE;
	if (chain->out_size < *at || size > chain->out_size - *at)
		return false;
	size_t keep = *count > NET_MACS_MAX ? 0 : size;
	if (virtqueue_chain_read(chain, *at, table, keep) != keep)
		return false;
	*at += size;
	return true;
}

static bool set_macs(struct nic *nic, const struct virtqueue_chain *chain)
{
	struct net_filter f = nic->filter;
	size_t at = COMMAND_SIZE;

	if (!read_table(chain, &at, f.unicast, &f.unicasts) || !read_table(chain, &at, f.multicast, &f.multicasts))
		return false;
	nic->filter = f;
	return true;
}

static bool set_mac(struct nic *nic, const struct virtqueue_chain *chain)
{
	uint8_t mac[NET_MAC_SIZE];

	if (virtqueue_chain_read(chain, COMMAND_SIZE, mac, sizeof(mac)) != sizeof(mac))
		return false;
	nic_set_mac(nic, mac);
	return true;
}

static bool set_vlan(struct nic *nic, unsigned command, const struct virtqueue_chain *chain)
{
	uint8_t bytes[2];

	if (virtqueue_chain_read(chain, COMMAND_SIZE, bytes, 2) != 2 || bytes_le16(bytes) > VLAN_ID)
		return false;
	unsigned id = bytes_le16(bytes);
	uint8_t bit = (uint8_t)(1 << id % 8);
	if (command == VLAN_ADD)
		nic->filter.vlan[id / 8] |= bit;
	else if (command == VLAN_DELETE)
		nic->filter.vlan[id / 8] &= (uint8_t)~bit;
	return command == VLAN_ADD || command == VLAN_DELETE;
}

static bool announced(struct nic *nic)
{
	uint8_t status[2];

	virtio_config_get(&nic->v, NET_CONFIG_STATUS, status, 2);
	bytes_put_le16(status, bytes_le16(status) & (uint16_t)~NET_STATUS_ANNOUNCE);
	virtio_config_set(&nic->v, NET_CONFIG_STATUS, status, 2);
	return true;
}

static bool set_pairs(struct nic *nic, const struct virtqueue_chain *chain)
{
	uint8_t bytes[2];

	if (virtqueue_chain_read(chain, COMMAND_SIZE, bytes, 2) != 2)
		return false;
	unsigned pairs = bytes_le16(bytes);
	if (!pairs || pairs > nic->max_pairs)
		return false;
	nic->pairs = pairs;
	net_run(nic->net, pairs);
	return true;
}

static bool set_offloads(struct nic *nic, const struct virtqueue_chain *chain)
{
	const uint64_t known = VIRTIO_BIT(NET_F_GUEST_CSUM) | VIRTIO_BIT(NET_F_GUEST_TSO4) |
			       VIRTIO_BIT(NET_F_GUEST_TSO6) | VIRTIO_BIT(NET_F_GUEST_ECN);
	uint8_t bytes[8];

	if (virtqueue_chain_read(chain, COMMAND_SIZE, bytes, 8) != 8)
		return false;
	uint64_t on = bytes_le64(bytes);
	if (on & ~(known & nic->v.features))
		return false;
	nic->can_mask = (on >> NET_F_GUEST_CSUM & 1 ? NET_CAN_CHECKSUM : 0) |
			(on >> NET_F_GUEST_TSO4 & 1 ? NET_CAN_TCP4 : 0) |
			(on >> NET_F_GUEST_TSO6 & 1 ? NET_CAN_TCP6 : 0) | (on >> NET_F_GUEST_ECN & 1 ? NET_CAN_ECN : 0);
	nic_update_offloads(nic);
	return true;
}

static bool mac_command(struct nic *nic, unsigned command, const struct virtqueue_chain *chain)
{
	if (command == MAC_TABLE_SET)
		return virtio_has(&nic->v, NET_F_CTRL_RX) && set_macs(nic, chain);
	return command == MAC_ADDR_SET && virtio_has(&nic->v, NET_F_CTRL_MAC_ADDR) && set_mac(nic, chain);
}

static bool obey(struct nic *nic, unsigned class, unsigned command, const struct virtqueue_chain *chain)
{
	switch (class) {
	case CLASS_RX:
		return virtio_has(&nic->v, command < 2 ? NET_F_CTRL_RX : NET_F_CTRL_RX_EXTRA) &&
		       set_rx(nic, command, chain);
	case CLASS_MAC:
		return mac_command(nic, command, chain);
	case CLASS_VLAN:
		return virtio_has(&nic->v, NET_F_CTRL_VLAN) && set_vlan(nic, command, chain);
	case CLASS_ANNOUNCE:
		return command == ANNOUNCE_ACK && virtio_has(&nic->v, NET_F_GUEST_ANNOUNCE) && announced(nic);
	case CLASS_MQ:
		return command == MQ_PAIRS_SET && virtio_has(&nic->v, NET_F_MQ) && set_pairs(nic, chain);
	case CLASS_OFFLOADS:
		return command == OFFLOADS_SET && virtio_has(&nic->v, NET_F_CTRL_GUEST_OFFLOADS) &&
		       set_offloads(nic, chain);
	default:
		return false;
	}
}

static bool serve(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	uint8_t command[COMMAND_SIZE], ack = ACK_ERROR;

	if (virtqueue_chain_read(chain, 0, command, sizeof(command)) == sizeof(command) &&
	    obey(nic_of(v), command[0], command[1], chain))
		ack = ACK_OK;
	virtqueue_push(vq, chain, virtqueue_chain_write(chain, 0, &ack, 1));
	return true;
}

void nic_serve_control(struct nic *nic, unsigned queue)
{
	virtio_serve(&nic->v, queue, serve);
}
