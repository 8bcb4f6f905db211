/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - for back ends: what net.c asks of one. Cards need net.h only. */
#ifndef PLURES_NET_BACKEND_H
#define PLURES_NET_BACKEND_H

#include "base/token_bucket.h"
#include "net/net.h"

struct net_backend {
	const char *name;
	const struct keys_item *keys; /* NET_KEYS and its own */
	size_t options_size;          /* of a struct that begins with struct net_options */
	size_t size;                  /* of a struct that begins with struct net */
	/* Whether the options make sense. NULL: yes. */
	int (*check)(const struct net_options *options, struct error *err);
	/* net->options, loop and card are there. On failure nothing is left to close. */
	int (*open)(struct net *net, struct error *err);
	void (*close)(struct net *net);
	/* As in net.h; all but send may be NULL. */
	void (*run)(struct net *net, unsigned pairs);
	void (*offloads)(struct net *net, unsigned can);
	bool (*send)(struct net *net, unsigned queue, const struct net_packet *packet);
	void (*sent)(struct net *net, unsigned queue);
	void (*resume)(struct net *net, unsigned queue);
};

struct net {
	const struct net_backend *backend;
	struct net_options *options; /* the back end's larger struct */
	struct event_loop *loop;
	struct net_card card;
	unsigned queues; /* 1 unless open says otherwise */
	unsigned pairs;  /* of net_run */

	/* net.c's: the rate limit. */
	struct token_bucket in, out;
	uint32_t in_held, out_held; /* queues that wait for tokens */
	int timer;                  /* a timerfd, or -1 */
	struct event_source *timer_source;
};

/* The keys that every back end has, in its table. */
#define NET_KEYS                                                                                              \
	{ .name = "type", .kind = KEYS_STRING, .offset = offsetof(struct net_options, type), .first = true }, \
	    { .name = "mac", .kind = KEYS_STRING, .offset = offsetof(struct net_options, mac) },              \
	    { .name = "mtu",                                                                                  \
	      .kind = KEYS_NUMBER,                                                                            \
	      .offset = offsetof(struct net_options, mtu),                                                    \
	      .min = NET_MTU_MIN,                                                                             \
	      .max = NET_MTU_MAX },                                                                           \
	{                                                                                                     \
		.name = "bps", .kind = KEYS_SIZE, .offset = offsetof(struct net_options, bps)                 \
	}

/* From a back end to its card, with the rate limit between. */
bool net_receive(struct net *net, unsigned queue, const struct net_packet *packet);
void net_received(struct net *net, unsigned queue);
void net_writable(struct net *net, unsigned queue);
void net_link(struct net *net, bool up);
void net_warn(struct net *net, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define NET_BACKEND(name) extern const struct net_backend net_##name;
#include "net/backends.def"
#undef NET_BACKEND

#endif
