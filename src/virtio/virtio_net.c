/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_net.c - a network card: virtio 1.2, 5.1. What it is connected to is net/net.h's.
 *
 * Queues come in pairs, an even one to receive and an odd one to send; behind them is the control queue, whose number
 * depends on whether the driver knows of several pairs. virtio_net_receive.c has the way in, virtio_net_control.c the
 * control queue.
 */
#include "virtio/virtio_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "vm/state.h"

enum { QUEUE_SIZE = 256 };

static unsigned control_queue(const struct nic *nic)
{
	return virtio_has(&nic->v, NET_F_MQ) ? nic->max_pairs * 2 : 2;
}

/* ---- to the network ---- */

/* Takes the header off the front of a chain. */
static void take_header(struct virtqueue_chain *chain, struct net_header *header)
{
	size_t left = NET_HEADER_SIZE;

	virtqueue_chain_read(chain, 0, header, NET_HEADER_SIZE);
	while (left >= chain->out->iov_len) {
		left -= chain->out->iov_len;
		chain->out++;
		chain->outs--;
	}
	chain->out->iov_base = (uint8_t *)chain->out->iov_base + left;
	chain->out->iov_len -= left;
}

/* Whether the driver may leave to us what the header says. */
static bool negotiated(const struct virtio *v, const struct net_header *header)
{
	unsigned gso = header->gso & ~(unsigned)NET_GSO_ECN;

	return (!(header->flags & NET_NEEDS_CHECKSUM) || virtio_has(v, NET_F_CSUM)) &&
	       (gso != NET_GSO_TCP4 || virtio_has(v, NET_F_HOST_TSO4)) &&
	       (gso != NET_GSO_TCP6 || virtio_has(v, NET_F_HOST_TSO6)) &&
	       (!(header->gso & NET_GSO_ECN) || virtio_has(v, NET_F_HOST_ECN));
}

static bool take_packet(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	struct virtio_queue *queue = (struct virtio_queue *)(void *)((char *)vq - offsetof(struct virtio_queue, vq));
	struct net_packet packet;

	if (chain->out_size < NET_HEADER_SIZE + NET_FRAME_MIN) {
		virtqueue_push(vq, chain, 0);
		return true;
	}
	packet.size = chain->out_size - NET_HEADER_SIZE;
	take_header(chain, &packet.header);
	packet.header.flags &= NET_NEEDS_CHECKSUM;
	packet.header.buffers = 0;
	packet.iov = chain->out;
	packet.iovs = chain->outs;
	if (net_packet_check(&packet) && negotiated(v, &packet.header) &&
	    !net_send(nic_of(v)->net, queue->index / 2, &packet)) {
		virtqueue_unpop(vq, chain);
		return false; /* until on_writable */
	}
	virtqueue_push(vq, chain, 0);
	return true;
}

static void on_writable(void *ctx, unsigned pair)
{
	struct nic *nic = ctx;

	virtio_kick(&nic->v, pair * 2 + 1);
}

static void nic_notify(struct virtio *v, unsigned queue)
{
	struct nic *nic = nic_of(v);

	if (queue == control_queue(nic)) {
		nic_serve_control(nic, queue);
	} else if (queue / 2 >= nic->max_pairs) {
		/* the control queue's other place */
	} else if (queue & 1) {
		virtio_serve(v, queue, take_packet);
		net_sent(nic->net, queue / 2);
	} else {
		nic_refilled(nic, queue / 2);
	}
}

/* ---- configuration ---- */

static void set_status(struct nic *nic, uint16_t set, uint16_t clear)
{
	uint8_t status[2];

	virtio_config_get(&nic->v, NET_CONFIG_STATUS, status, 2);
	uint16_t old = bytes_le16(status), new = (uint16_t)((old & ~clear) | set);
	bytes_put_le16(status, new);
	if (new != old)
		virtio_config_set(&nic->v, NET_CONFIG_STATUS, status, 2);
}

static void on_link(void *ctx, bool up)
{
	struct nic *nic = ctx;

	nic->link = up;
	if (nic->v.ops) /* else the back end is just being opened */
		set_status(nic, up ? NET_STATUS_LINK_UP : 0, NET_STATUS_LINK_UP);
}

static void on_warn(void *ctx, const char *what)
{
	const struct nic *nic = ctx;

	if (nic->v.ops && nic->v.env.warn)
		nic->v.env.warn(nic->v.env.ctx, what);
}

/* ---- life ---- */

static void nic_start(struct virtio *v)
{
	struct nic *nic = nic_of(v);

	nic_update_offloads(nic);
	net_run(nic->net, nic->pairs);
}

static void nic_reset(struct virtio *v)
{
	struct nic *nic = nic_of(v);

	net_run(nic->net, 0);
	for (unsigned i = 0; i < nic->max_pairs; i++)
		nic_drop_pieces(nic, i);
	nic->pairs = 1;
	nic->can_mask = ~0u;
	nic_filter_reset(nic);
	set_status(nic, 0, NET_STATUS_ANNOUNCE);
}

static void nic_queue_reset(struct virtio *v, unsigned queue)
{
	if (queue / 2 < nic_of(v)->max_pairs && !(queue & 1))
		nic_drop_pieces(nic_of(v), queue / 2);
}

static void nic_save(struct virtio *v, struct state_writer *w)
{
	const struct nic *nic = nic_of(v);
	const struct net_filter *f = &nic->filter;

	state_put_u32(w, "pairs", nic->pairs);
	state_put_u32(w, "can_mask", nic->can_mask & (NET_CAN_CHECKSUM | NET_CAN_TCP4 | NET_CAN_TCP6 | NET_CAN_ECN));
	state_put_bytes(w, "mac", f->mac, sizeof(f->mac));
	state_put_bytes(w, "modes", &f->promiscuous, offsetof(struct net_filter, mac));
	state_put_u32(w, "unicasts", f->unicasts);
	state_put_u32(w, "multicasts", f->multicasts);
	state_put_bytes(w, "unicast", f->unicast, sizeof(f->unicast));
	state_put_bytes(w, "multicast", f->multicast, sizeof(f->multicast));
	state_put_bytes(w, "vlan", f->vlan, sizeof(f->vlan));
}

static int nic_load(struct virtio *v, struct state_reader *r, struct error *err)
{
	struct nic *nic = nic_of(v);
	struct net_filter f = { 0 };
	uint32_t pairs = 0, can_mask = 0;

	state_get_u32(r, "pairs", &pairs);
	state_get_u32(r, "can_mask", &can_mask);
	state_get_bytes(r, "mac", f.mac, sizeof(f.mac));
	state_get_bytes(r, "modes", &f.promiscuous, offsetof(struct net_filter, mac));
	state_get_u32(r, "unicasts", &f.unicasts);
	state_get_u32(r, "multicasts", &f.multicasts);
	state_get_bytes(r, "unicast", f.unicast, sizeof(f.unicast));
	state_get_bytes(r, "multicast", f.multicast, sizeof(f.multicast));
	state_get_bytes(r, "vlan", f.vlan, sizeof(f.vlan));
	if (state_failed(r, err))
		return -EINVAL;
	if (!pairs || pairs > nic->max_pairs)
		return error_set(err, -EINVAL, "virtio-net: the guest uses %u pairs of queues, and there are %u", pairs,
				 nic->max_pairs);
	nic->pairs = pairs;
	nic->can_mask = can_mask;
	nic->filter = f;
	nic_set_mac(nic, f.mac);
	/* Whoever is on the network now has not heard of the guest. */
	set_status(nic, NET_STATUS_ANNOUNCE, 0);
	return 0;
}

static void nic_destroy(struct virtio *v)
{
	struct nic *nic = nic_of(v);

	net_close(nic->net);
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		free(nic->pieces[i].whole);
		free(nic->pieces[i].piece);
	}
	virtio_fini(v);
	free(nic);
}

static const struct virtio_ops nic_ops = {
	.name = "virtio-net",
	.version = 1,
	.type = VIRTIO_TYPE_NET,
	.class_code = 0x020000,
	.start = nic_start,
	.reset = nic_reset,
	.notify = nic_notify,
	.queue_reset = nic_queue_reset,
	.save = nic_save,
	.load = nic_load,
	.destroy = nic_destroy,
};

/* ---- making ---- */

/* Locally administered, one station's: IEEE 802, 8.2. The same machine's same card has the same. */
static void make_mac(const struct virtio_env *env, uint8_t mac[NET_MAC_SIZE])
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

	for (const char *p = env->machine ? env->machine : ""; *p; p++)
		hash = (hash ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
	hash = (hash ^ env->index) * UINT64_C(0x100000001b3);
	mac[0] = 0x02;
	for (unsigned i = 1; i < NET_MAC_SIZE; i++)
		mac[i] = (uint8_t)(hash >> (8 * i));
}

int virtio_net_check(const char *options, struct error *err)
{
	return net_check(options, err);
}

static uint64_t features_of(const struct nic *nic)
{
	uint64_t features = VIRTIO_BIT(NET_F_CSUM) | VIRTIO_BIT(NET_F_GUEST_CSUM) |
			    VIRTIO_BIT(NET_F_CTRL_GUEST_OFFLOADS) | VIRTIO_BIT(NET_F_MAC) |
			    VIRTIO_BIT(NET_F_GUEST_TSO4) | VIRTIO_BIT(NET_F_GUEST_TSO6) | VIRTIO_BIT(NET_F_GUEST_ECN) |
			    VIRTIO_BIT(NET_F_HOST_TSO4) | VIRTIO_BIT(NET_F_HOST_TSO6) | VIRTIO_BIT(NET_F_HOST_ECN) |
			    VIRTIO_BIT(NET_F_MRG_RXBUF) | VIRTIO_BIT(NET_F_STATUS) | VIRTIO_BIT(NET_F_CTRL_VQ) |
			    VIRTIO_BIT(NET_F_CTRL_RX) | VIRTIO_BIT(NET_F_CTRL_VLAN) | VIRTIO_BIT(NET_F_CTRL_RX_EXTRA) |
			    VIRTIO_BIT(NET_F_GUEST_ANNOUNCE) | VIRTIO_BIT(NET_F_CTRL_MAC_ADDR);

	if (nic->max_pairs > 1)
		features |= VIRTIO_BIT(NET_F_MQ);
	if (net_options(nic->net)->mtu)
		features |= VIRTIO_BIT(NET_F_MTU);
	return features;
}

int virtio_net_create(struct virtio **v, const struct virtio_env *env, const char *options, struct error *err)
{
	struct nic *nic = memory_zalloc(sizeof(*nic));
	const struct net_card card = { .receive = nic_receive,
				       .received = nic_received,
				       .writable = on_writable,
				       .link = on_link,
				       .warn = on_warn,
				       .ctx = nic };

	*v = NULL;
	int rc = net_open(&nic->net, options, env->loop, &card, err);
	if (rc) {
		free(nic);
		return rc;
	}
	const char *mac = net_options(nic->net)->mac;
	if (!mac || net_parse_mac(mac, nic->own_mac, NULL))
		make_mac(env, nic->own_mac);
	nic->max_pairs = net_queues(nic->net);
	virtio_init(&nic->v, &nic_ops, env, features_of(nic), nic->max_pairs * 2 + 1, QUEUE_SIZE, NET_CONFIG_SIZE);
	bytes_put_le16(nic->v.config + NET_CONFIG_STATUS, nic->link ? NET_STATUS_LINK_UP : 0);
	bytes_put_le16(nic->v.config + NET_CONFIG_PAIRS, (uint16_t)nic->max_pairs);
	bytes_put_le16(nic->v.config + NET_CONFIG_MTU, (uint16_t)net_options(nic->net)->mtu);
	nic->pairs = 1;
	nic->can_mask = ~0u;
	nic_filter_reset(nic);
	*v = &nic->v;
	return 0;
}
