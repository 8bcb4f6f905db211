/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container.h - the door: containers by the OCI runtime's operations (runtime-spec, runtime.md, "Operations"), for cli/.
 *
 * Every call stands alone: it finds the container by its ID below a root folder, does one thing and leaves. Errors are the
 * user's or the host's; the words that callers search for ("does not exist", "container not running") are in them.
 * docs/design/containers.md tells how a container comes to be.
 */
#ifndef PLURES_CONTAINER_CONTAINER_H
#define PLURES_CONTAINER_CONTAINER_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/error.h"
#include "container/config.h"

/* What `plures container run` (box.h) has beyond the specification. */
struct container_box {
	const char *config;   /* the configuration's text, in place of the bundle's config.json */
	bool overlay;         /* what the container writes to its root goes elsewhere: */
	const char *upper;    /* to `upper` in this folder, or NULL: to memory, and away with it */
	bool idmap;           /* its root, and `upper`, show the numbers of its user namespace */
	bool init;            /* the first process is ours and waits for the program, see init.h */
	bool network;         /* its network namespace gets a user-mode network, see network.h */
	const char *resolver; /* what /etc/resolv.conf shall say, where there is an overlay; or NULL */
	/* Called once the ID is taken, with the folder of the state; and once the command runs. */
	int (*claimed)(void *arg, int folder, struct error *err);
	void (*started)(void *arg);
	void *arg;
};

/* For create, run and exec. Zeroed but for root is a good start. */
struct container_launch {
	const char *root; /* where state is kept */
	const char *id;
	const char *bundle;         /* of create and run; NULL: the current folder */
	const char *console_socket; /* where a terminal's master goes; NULL */
	const char *pid_file;       /* or NULL */
	bool no_pivot, no_new_keyring, systemd;
	unsigned preserve; /* descriptors after 2 that the container gets */
	bool detach, keep; /* of run; detach of exec too */
	/* Of exec: a process file, or what differs from the container's own process. */
	const char *process_file;
	const char *const *args;
	const char *cwd, *user;
	const char *const *env, *const *caps, *const *groups; /* ended by NULL, or NULL */
	bool terminal, no_new_privileges;
	const char *apparmor, *selinux;
	const struct container_box *box; /* of run, or NULL */
};

/* create leaves a process that waits for start. */
int container_create(const struct container_launch *launch, struct error *err);
int container_start(const char *root, const char *id, struct error *err);

/* create, start, wait and delete in one; *status is the program's exit status, or 128 and the signal that ended it. Without a
 * console socket, a container with a terminal gets the caller's. */
int container_run(const struct container_launch *launch, int *status, struct error *err);

/* Runs one more process in a container. */
int container_exec(const struct container_launch *launch, int *status, struct error *err);

int container_kill(const char *root, const char *id, int signal, bool all, struct error *err);
/* With `force`, one that runs is killed, and one that is not there is no error. */
int container_delete(const char *root, const char *id, bool force, struct error *err);
int container_pause(const char *root, const char *id, bool pause, struct error *err);
int container_update(const char *root, const char *id, const char *resources, size_t size, struct error *err);

/* Prints. */
int container_state(const char *root, const char *id, FILE *out, struct error *err);
enum container_list { LIST_TABLE, LIST_JSON, LIST_QUIET };
int container_list(const char *root, enum container_list how, FILE *out, struct error *err);
int container_ps(const char *root, const char *id, bool json, const char *const *ps_args, FILE *out, struct error *err);
/* One line of statistics, or with `interval` in seconds one after another until the container ends. */
int container_events(const char *root, const char *id, bool once, unsigned interval, FILE *out, struct error *err);
int container_features(FILE *out, struct error *err);
/* The configuration that `spec` writes. */
int container_spec(FILE *out, bool rootless, struct error *err);

/* The exit status that goes with an error of run and exec: 127 and 126 as shells use them, otherwise 1. */
int container_exit_status(int rc);

#endif
