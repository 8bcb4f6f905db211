/* SPDX-License-Identifier: Apache-2.0 */
/* none.c - a card whose cable is not plugged in. */
#include <stddef.h>

#include "net/backend.h"

static int none_open(struct net *net, struct error *err)
{
	(void)err;
	net_link(net, false);
	return 0;
}

static bool none_send(struct net *net, unsigned queue, const struct net_packet *packet)
{
	(void)net;
	(void)queue;
	(void)packet;
	return true;
}

static const struct keys_item none_keys[] = { NET_KEYS, { .name = NULL } };

const struct net_backend net_none = {
	.name = "none",
	.keys = none_keys,
	.options_size = sizeof(struct net_options),
	.size = sizeof(struct net),
	.open = none_open,
	.send = none_send,
};
