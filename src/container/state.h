/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - what is remembered of a container between two calls of the runtime: a folder ROOT/ID with
 *
 *   state.json   where things are. Written before anything is made that it speaks of, and never changed.
 *   config.json  the configuration as it was at `create`.
 *   pid          "PID START": the container's process and when it started, written in one go.
 *   network      the user-mode network's process, in the same way, where there is one; network.ready is a FIFO for it.
 *   start        a FIFO whose reading end the process holds until it becomes the user's program.
 *
 * So whatever moment the runtime is killed at, what it had made is on record, and the state needs no update that could be
 * missed: whether a container is `created` or `running` is whether somebody still reads the FIFO.
 */
#ifndef PLURES_CONTAINER_STATE_H
#define PLURES_CONTAINER_STATE_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "container/cgroup.h"

enum state_status { STATE_CREATING, STATE_CREATED, STATE_RUNNING, STATE_PAUSED, STATE_STOPPED };

struct state {
	char id[256];
	int dir; /* the folder; -1 */
	char bundle[PATH_MAX], rootfs[PATH_MAX];
	char created[40]; /* RFC 3339 */
	uid_t owner;
	struct cgroup cgroup;
	pid_t pid;                /* 0 until the process is there */
	unsigned long long start; /* of the process, in ticks since boot */
};

/* Where state is kept unless --root says so; from $XDG_RUNTIME_DIR for those who may not write to /run. */
const char *state_default_root(char *path, size_t room);

/* Whether an ID is one: letters, digits and _+-. with at least one, and not "." or "..". */
int state_check_id(const char *id, struct error *err);

/* Takes an ID by making its folder: -EEXIST when it is in use. Fills in id, dir, created and owner. */
int state_claim(struct state *state, const char *root, const char *id, struct error *err);
/* Writes state.json and config.json. */
int state_write(const struct state *state, const char *config, size_t size, struct error *err);
/* Records the process. */
int state_set_process(struct state *state, pid_t pid, struct error *err);

/* Reads it back; -ENOENT and "container does not exist". With `damaged` given, a folder without a readable state.json is no
 * error but sets it: its maker was killed before anything else was there to clean up. */
int state_load(struct state *state, const char *root, const char *id, bool *damaged, struct error *err);
enum state_status state_status(const struct state *state);
const char *state_status_name(enum state_status status);

/* The state as the specification's JSON (runtime.md, "State"), from malloc. `status` may differ from what is, for hooks. */
char *state_json(const struct state *state, const char *status, const char *const *annotations, struct error *err);

/* Removes the folder. */
int state_remove(struct state *state, const char *root, struct error *err);
void state_fini(struct state *state);

/* When a process started, and whether it is more than a zombie. False when there is none. */
bool state_process(pid_t pid, unsigned long long *start, bool *alive);

/* Opens a pidfd of the container's process, making sure that it is still the same one; -ESRCH when it has ended. */
int state_open_process(const struct state *state);

#endif
