/* SPDX-License-Identifier: Apache-2.0 */
/* user.h - what the files of the user network share: the options, and frames made fit for a guest's MTU. */
#ifndef PLURES_NET_USER_H
#define PLURES_NET_USER_H

#include <netinet/in.h>

#include "net/offload.h"

struct user_options {
	struct net_options common;
	struct keys_list forward;
	bool restricted; /* the guest reaches nothing but by forwards */
};

/* Connections to a port of the host that go to the guest. */
struct user_forward {
	bool udp;
	struct in_addr host;
	unsigned host_port, guest_port;
};

/* Reads "tcp:2222:22" or "udp:0.0.0.0:5353:53". -EINVAL and what it should look like. */
int user_forward_parse(const char *text, struct user_forward *forward, struct error *err);

/* The largest TCP segment that libslirp is told the guest takes, where the guest can be given more than fits its MTU. */
enum { USER_SEGMENT = 16384 };

/* Raises the maximum segment size that a SYN announces, in a frame whose checksum is complete. */
void user_raise_segment_size(uint8_t *frame, size_t size);

/* Sends a frame of libslirp's, which knows no MTU, as what a guest takes: TCP with a GSO type, other IPv4 in fragments. False:
 * not taken, nothing was sent. */
bool user_fit(const uint8_t *frame, size_t size, unsigned mtu, bool (*send)(void *ctx, const struct net_packet *packet),
	      void *ctx);

#endif
