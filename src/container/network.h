/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network.h - a network namespace's way out through the user's own sockets: a process of pasta (package passt) or slirp4netns on the
 * host, with an interface inside. Addresses are the same with both, and as `plures run --net user` has them: 10.0.2.15, router
 * 10.0.2.2, name server 10.0.2.3. The host itself can't be reached.
 *
 * The process is on record in the container's state before it runs anything, so that whoever removes the state ends it.
 */
#ifndef PLURES_CONTAINER_NETWORK_H
#define PLURES_CONTAINER_NETWORK_H

#include <sys/types.h>

#include "base/error.h"
#include "container/state.h"

#define NETWORK_RESOLVER "nameserver 10.0.2.3\n"

struct network {
	pid_t pid, holder; /* 0 */
	int ready;         /* a FIFO that it writes to; -1 */
	int words;         /* what it said on its standard error; -1 */
	const char *program;
};

void network_init(struct network *network);
/* Which of the programs is installed, or NULL and the reason. */
const char *network_program(struct error *err);
/* Starts it for a container's network namespace; the second descriptor is of its user namespace, which may be the host's. */
int network_start(struct network *network, const char *root, const struct state *state, const int namespaces[2],
		  struct error *err);
/* Waits until the interface is there; nothing when none was started. */
int network_wait(struct network *network, struct error *err);
/* Forgets it; the process stays. */
void network_fini(struct network *network);

/* Ends the process that is on record. */
void network_stop(const struct state *state);

#endif
