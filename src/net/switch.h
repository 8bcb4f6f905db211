/* SPDX-License-Identifier: Apache-2.0 */
/*
 * switch.h - how a card finds the others of its private network: a folder with a socket for each, and a lock.
 *
 * The folder is the user's alone (mode 0700), and who connects must be the same user. What a dead machine has left there is
 * removed by whoever joins next.
 */
#ifndef PLURES_NET_SWITCH_H
#define PLURES_NET_SWITCH_H

#include "net/net.h"

/* The first message each way. The number goes up when messages change. */
#define SWITCH_HELLO "plures switch 1\n"
enum { SWITCH_HELLO_SIZE = 16, SWITCH_PATH = 108 /* room for a socket's path */ };

struct switch_options {
	struct net_options common;
	char *name, *path; /* one or the other, or neither */
};

/* A card's place in a network. */
struct switch_place {
	char folder[SWITCH_PATH], socket[SWITCH_PATH]; /* "" while there is none */
	int listener;                                  /* non-blocking; -1 while there is none */
};

int switch_check(const struct net_options *options, struct error *err);

/* Takes a place in the network; calls found(ctx, fd) with a connection to each card that is there already. On failure
 * switch_leave is still to be called. */
int switch_join(struct switch_place *place, const struct switch_options *options, void (*found)(void *ctx, int fd),
		void *ctx, struct error *err);
/* The next connection of a card that joined later and is the same user's, or -1. */
int switch_accept(const struct switch_place *place);
void switch_leave(struct switch_place *place);

#endif
