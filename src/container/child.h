/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child.h - the process that becomes the container's program: what it is given by the runtime, and the steps it takes.
 *
 * child_init makes the container around itself (namespaces, mounts, the new root); child_join enters one that runs (`exec`).
 * Both end in child_become: terminal, identity, capabilities, filter, and execve. Every step is numbered where the order
 * matters, with what would break. Errors go to the runtime as SYNC_FAILED.
 */
#ifndef PLURES_CONTAINER_CHILD_H
#define PLURES_CONTAINER_CHILD_H

#include "container/cgroup.h"
#include "container/config.h"
#include "container/container.h"
#include "container/seccomp.h"
#include "container/sync.h"

struct child {
	const struct oci_config *config;
	const struct oci_process *process;
	struct cgroup *cgroup;
	const char *id;
	const char *rootfs; /* its path on the host */
	const char *state;  /* JSON, for the hooks before the start; or NULL */
	int root;           /* the root as a detached mount; -1: the child opens it */
	int sync;           /* the child's end */
	int start;          /* the FIFO to wait at; -1 to go on at once */
	int console;        /* where the terminal's master goes; -1 */
	int init;           /* pidfd of the container to join; -1 when it is made */
	int join;           /* CLONE_NEW... to join from it */
	bool no_pivot, new_keyring;
	bool systemd;                    /* which chooses the cgroups, so that only the process itself can find them */
	bool mapped;                     /* a new user namespace: wait for its maps */
	const struct container_box *box; /* or NULL */
	int upper;                       /* the folder that an overlay writes to, as a detached mount; -1 */
	unsigned preserve;               /* how many descriptors after 2 stay open */
	/* The child's own, while it runs. */
	bool entered;
	int attr;     /* /proc/self/attr/exec of the host's proc; -1 */
	int new_root; /* the root, once it is attached */
	struct oci_filter filter;
	struct sync_message *message;
};

/* Do not return. */
_Noreturn void child_init(struct child *child);
_Noreturn void child_join(struct child *child);

/* ---- the parts ---- */

/* Waits for SYNC_CGROUP and enters, once. */
int child_enter_cgroups(void *child, struct error *err);

/* Mounts, devices and links below the root, hooks, the change of root, masks: child_root.c. */
int child_make_root(struct child *child, struct error *err);
/* Devices and links that every container has (config-linux.md, "Default Devices"), and the configuration's. */
int devices_make(const struct child *child, struct error *err);

/* The terminal, of the devpts below `root`: its master goes to the console socket, its other end becomes 0 to 2. */
int terminal_open(const struct child *child, int root, struct error *err);

/* From here on it is the same for a new container and for `exec`. */
int child_become(struct child *child, struct error *err);

/* Finds a program as execvp does, in the environment's PATH: a path from malloc in *path. -ENOENT, -EACCES. */
int child_find_program(const char *name, const char *const *env, char **path);

#endif
