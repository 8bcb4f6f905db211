/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h - what a network card is connected to: packets both ways. docs/design/net.md has the reasons.
 *
 * A card (virtio_net.c) opens a back end by the text that the user wrote; each back end is a file and a line in
 * backends.def. A packet is an Ethernet frame with a header that says what its sender left to be done: a checksum that is
 * not filled in, a TCP segment too long for the wire. Either side may hand the other any packet that net_packet_check
 * passes; the one that can't use it as it is does the rest itself, by offload.h.
 *
 * Back-pressure. Who can't take a packet says so by returning false; the other keeps it, stops, and goes on when told
 * (`writable`, net_resume). Nothing waits in a queue without a bound.
 *
 * Threads. A back end belongs to one event loop: all calls, either way, come on its thread, or while it does not run. What
 * a packet points to may be guest memory, which changes at any time, so who looks into a frame looks at a copy.
 */
#ifndef PLURES_NET_NET_H
#define PLURES_NET_NET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/keys.h"
#include "host/event.h"

struct net;

enum {
	NET_QUEUES_MAX = 16, /* pairs */
	NET_MTU_MIN = 68,
	NET_MTU_MAX = 65521,
	NET_MTU = 1500,          /* unless the user says otherwise */
	NET_FRAME_MIN = 14,      /* an Ethernet header */
	NET_FRAME_MAX = 0x10100, /* 64 KiB of IP, an Ethernet header with tags */
};

/* Of virtio 1.2, 5.1.6, little-endian as it stands in guest memory; Linux' tap devices have the same. */
struct net_header {
	uint8_t flags; /* NET_NEEDS_CHECKSUM, NET_CHECKSUM_GOOD */
	uint8_t gso;   /* NET_GSO_* */
	uint16_t header_size, segment_size;
	uint16_t checksum_start, checksum_offset;
	uint16_t buffers; /* the card's */
};
enum { NET_HEADER_SIZE = 12 };
enum { NET_NEEDS_CHECKSUM = 1, NET_CHECKSUM_GOOD = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCP4 = 1, NET_GSO_TCP6 = 4, NET_GSO_ECN = 0x80 };

struct net_packet {
	struct net_header header;
	const struct iovec *iov; /* the frame */
	unsigned iovs;
	size_t size; /* of the frame */
};

/* What a packet may leave to its receiver, for net_offloads. */
enum { NET_CAN_CHECKSUM = 1, NET_CAN_TCP4 = 2, NET_CAN_TCP6 = 4, NET_CAN_ECN = 8 };

/* What a user says about a card, whatever it is connected to. */
struct net_options {
	char *type;
	char *mac;    /* or NULL */
	uint64_t mtu; /* 0: not said */
	uint64_t bps; /* bytes a second, each way; 0: no limit */
};

/* What a back end tells its card. */
struct net_card {
	/* A packet for the guest, with its header's `buffers` ignored. False: there is no room. */
	bool (*receive)(void *ctx, unsigned queue, const struct net_packet *packet);
	/* The end of a batch of them. */
	void (*received)(void *ctx, unsigned queue);
	/* After a send that was refused: try again. */
	void (*writable)(void *ctx, unsigned queue);
	void (*link)(void *ctx, bool up);
	/* The user should know: one line. May be NULL. */
	void (*warn)(void *ctx, const char *what);
	void *ctx;
};

/* Whether `options` ("user,forward=tcp:2222:22,mtu=9000") can be opened, as far as can be told without doing it. */
int net_check(const char *options, struct error *err);

/* Reads "02:00:5e:10:20:30". -EINVAL for what is no address of one card. */
int net_parse_mac(const char *text, uint8_t mac[6], struct error *err);

/* Opens a back end for a card, which must be able to take calls. On failure *net is NULL and err says what to do. */
int net_open(struct net **net, const char *options, struct event_loop *loop, const struct net_card *card,
	     struct error *err);
void net_close(struct net *net); /* NULL is nothing */

const struct net_options *net_options(const struct net *net);
unsigned net_queues(const struct net *net); /* pairs: 1, or what the user asked for */

/* Packets are received for `pairs` queues from now on, at least one; or for none (0), and those that come are lost. */
void net_run(struct net *net, unsigned pairs);
/* What received packets may leave to the card: NET_CAN_*. A hint: a back end may disregard it. */
void net_offloads(struct net *net, unsigned can);

/* Sends a packet that net_packet_check has passed. False: not now, `writable` will be called. */
bool net_send(struct net *net, unsigned queue, const struct net_packet *packet);
/* The end of a batch of sends. */
void net_sent(struct net *net, unsigned queue);
/* The card has room again, after `receive` returned false. */
void net_resume(struct net *net, unsigned queue);

#endif
