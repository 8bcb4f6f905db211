/* SPDX-License-Identifier: Apache-2.0 */
/*
 * box.h - `plures container run`: a root folder and a command become an OCI configuration, which is run like any other.
 *
 * The defaults are for a command that is not trusted: its own user namespace, no network, the root left as it is, Podman's usual
 * capabilities, a filter. docs/design/containers.md, "A container without an engine", has the reasons.
 *
 * A call that runs in the foreground stays until the container has ended and removes everything; another process of it, the keeper,
 * does so when this one is killed.
 */
#ifndef PLURES_CONTAINER_BOX_H
#define PLURES_CONTAINER_BOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum box_net { BOX_NET_NONE, BOX_NET_HOST, BOX_NET_USER };
enum box_users {
	BOX_USERS_AUTO,   /* a user namespace with as many numbers as this user may have */
	BOX_USERS_SINGLE, /* ... with this user's own as the only one */
	BOX_USERS_HOST,   /* none; of the host's root only */
};
enum { BOX_LIST = 128 };

/* A list of words; names point into the command line. */
struct box_words {
	const char *words[BOX_LIST];
	size_t count;
};

struct box {
	const char *rootfs;
	const char *const *args; /* ended by NULL */
	const char *name;        /* NULL: made up */
	const char *hostname;    /* NULL: the name */
	const char *user, *workdir, *keep;
	const char *log;    /* where what it writes goes when it is detached; NULL: nowhere */
	uint64_t memory;    /* 0: no limit, as with the others */
	uint64_t cpu_quota; /* microseconds in a tenth of a second */
	unsigned pids;
	enum box_net net;
	enum box_users users;
	bool terminal; /* a pseudoterminal, and ours to it */
	struct box_words binds, tmpfs, env, cap_add, cap_drop;
	bool read_only, in_place, no_init, no_seccomp, no_new_privileges, detach;
};

/* Adds to a list. -E2BIG. */
int box_add(struct box_words *words, const char *word, struct error *err);

/* Where the state of these containers is. */
const char *box_default_root(char *path, size_t room);

/* Runs it: *status is the command's, or what says why there was none: 127 not found, 126 not executable, 125 everything else. With
 * `detach` it returns when the command runs, after printing the name to `out`. */
int box_run(const struct box *box, const char *root, FILE *out, int *status, struct error *err);

/* One more command in it; *status as above. */
struct box_exec {
	const char *name, *user, *workdir;
	const char *const *args;
	struct box_words env;
	bool terminal;
};
int box_exec(const struct box_exec *exec, const char *root, int *status, struct error *err);

/* Lists them. What calls that were killed left is removed first. */
int box_list(const char *root, bool json, FILE *out, struct error *err);

/* Ends it: SIGTERM, and SIGKILL after as many seconds. Returns when nothing of it is left. */
int box_stop(const char *root, const char *name, unsigned seconds, struct error *err);
/* Removes whatever is left of it. */
int box_remove(const char *root, const char *name, bool force, struct error *err);

#endif
