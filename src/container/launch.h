/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - what create, run and exec share on the runtime's side. */
#ifndef PLURES_CONTAINER_LAUNCH_H
#define PLURES_CONTAINER_LAUNCH_H

#include "container/child.h"
#include "container/container.h"
#include "container/network.h"
#include "container/state.h"

struct launch {
	const struct container_launch *options;
	struct child child;
	struct state state;
	struct oci_config config;
	char *text; /* of the configuration */
	size_t size;
	int sync;  /* our end */
	pid_t pid; /* of the process; 0 until it is made */
	int pidfd;
	int console; /* where the master comes when this call is the terminal's other side; -1 */
	int v2;      /* the v2 cgroup; -1 */
	struct network network;
	struct sync_message message;
};

void launch_init(struct launch *launch, const struct container_launch *options);
/* Closes and frees; the process and the state stay. */
void launch_fini(struct launch *launch);

/* Connects to where the terminal's master goes, or prepares to take it here. Checks that asking for one makes sense. */
int launch_console(struct launch *launch, bool foreground, struct error *err);

/* Makes the process with clone3 `flags`; in it calls child_init or child_join. */
int launch_spawn(struct launch *launch, uint64_t flags, struct error *err);

/* Compiles the system call filter and sends it. */
int launch_filter(struct launch *launch, struct error *err);

/* Answers the process until it is ready: hooks, the filter's listener. Then its limits are set from outside, where the rights
 * for it are. */
int launch_wait_ready(struct launch *launch, struct error *err);

/* Writes the process's number to a file, whole or not at all. */
int launch_pid_file(const char *path, pid_t pid, struct error *err);

/* Lets it go on, and learns whether it became the program. */
int launch_go(struct launch *launch, bool wait, struct error *err);

/* Stays until the process ends, passing signals on and, with a terminal, copying between it and ours. */
int launch_wait(struct launch *launch, int *status, struct error *err);

/* Ends a process that came to nothing. */
void launch_abort(struct launch *launch);

#endif
