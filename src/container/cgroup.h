/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.h - a container's place in every cgroup hierarchy of the host. See cgroups(7).
 *
 * A host has one v2 hierarchy, or several of v1, or both ("hybrid": controllers on v1, and a v2 mount without any). A
 * container has a folder, a place, in each; limits go where the controller is. What is planned is written to the state file
 * before anything is made, so that whoever finds the state knows what to remove.
 *
 * Moving a process by writing its number to cgroup.procs makes the kernel wait for an RCU grace period, ten milliseconds on an
 * idle host, more than all the rest of a start. A process that writes "0" to a v1 `tasks` file moves only itself, which needs
 * no such lock; and on v2 clone3(CLONE_INTO_CGROUP) makes it there. So the child moves itself, on descriptors that the
 * parent opened: cgroup_enter.
 */
#ifndef PLURES_CONTAINER_CGROUP_H
#define PLURES_CONTAINER_CGROUP_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "container/config.h"

enum cgroup_controller {
	CG_CPU = 1 << 0,
	CG_CPUACCT = 1 << 1,
	CG_CPUSET = 1 << 2,
	CG_MEMORY = 1 << 3,
	CG_DEVICES = 1 << 4,
	CG_FREEZER = 1 << 5,
	CG_BLKIO = 1 << 6, /* `io` on v2 */
	CG_PIDS = 1 << 7,
	CG_HUGETLB = 1 << 8,
	CG_NET_CLS = 1 << 9,
	CG_NET_PRIO = 1 << 10,
	CG_RDMA = 1 << 11,
	CG_OTHER =
	    1 << 12, /* one that nothing here is limited with; a hierarchy of v1 without any is one with a name */
};

enum { CGROUP_PLACES = 16, CGROUP_PATH = 512 };

struct cgroup_place {
	char root[64];             /* where the hierarchy is mounted: "/sys/fs/cgroup/memory" */
	char path[CGROUP_PATH];    /* of the container's folder in it: "/plures-ID" */
	char own[CGROUP_PATH / 2]; /* of this process's own */
	unsigned controllers;
	bool v2;
	unsigned made; /* how many of path's last folders are ours; 0 when the container's was there before us */
};

struct cgroup {
	struct cgroup_place places[CGROUP_PLACES];
	unsigned count;
	char scope[256]; /* of the systemd unit that holds the container; "" without systemd */
};

/* Finds the host's hierarchies. A host without any gives none. */
int cgroup_find(struct cgroup *cgroup, struct error *err);

/* Chooses the container's path in each: `path` is linux.cgroupsPath or NULL. Looks, and changes nothing. */
int cgroup_plan(struct cgroup *cgroup, const char *path, const char *id, struct error *err);

/* Makes the folders of v2, which are needed before the process, or of v1. Places that an unprivileged user may not have are taken out of the list. Half-done work is undone by
 * cgroup_remove. */
int cgroup_create(struct cgroup *cgroup, bool v2, struct error *err);

/* The v2 folder for clone3's CLONE_INTO_CGROUP, or -1 when there is no such hierarchy. */
int cgroup_open_v2(const struct cgroup *cgroup, struct error *err);

/* The same for one more process beside `pid`, the container's first, which may have gone to a folder below. */
int cgroup_open_v2_of(const struct cgroup *cgroup, pid_t pid, struct error *err);

/* Opens what a process writes to in order to enter the v1 hierarchies; returns how many descriptors, or -errno. */
int cgroup_open_tasks(const struct cgroup *cgroup, int fds[CGROUP_PLACES], struct error *err);
/* Moves the calling process, which must have one thread, and closes the descriptors. */
int cgroup_enter(const int *fds, unsigned count, struct error *err);

/* Sets limits. With `update`, of a container that runs: some must be set in another order. */
int cgroup_limit(const struct cgroup *cgroup, const struct oci_resources *resources, bool update, struct error *err);

/* Makes a user of the host's the owner of a v2 folder that is ours, so far as it lets a process be organized below it: not of its
 * limits (the kernel's cgroup-v2.rst, "Model of Delegation"). */
int cgroup_delegate(const struct cgroup *cgroup, uid_t uid, gid_t gid, struct error *err);

/* Calls fn for every process of the container; returns how many, or -errno. */
int cgroup_each_process(const struct cgroup *cgroup, void (*fn)(void *arg, pid_t pid), void *arg, struct error *err);

/* Stops or continues all processes, and waits until they have. */
int cgroup_freeze(const struct cgroup *cgroup, bool freeze, struct error *err);
bool cgroup_frozen(const struct cgroup *cgroup);

/* Sends a signal to all processes of the folders that are ours. SIGKILL is repeated until none is left. */
int cgroup_kill(const struct cgroup *cgroup, int signal, struct error *err);

/* Removes the folders that are ours, with what the container made in them; those that are gone are no error. */
int cgroup_remove(const struct cgroup *cgroup, struct error *err);

/* The place that has a controller, or NULL. */
const struct cgroup_place *cgroup_with(const struct cgroup *cgroup, enum cgroup_controller controller);

/* ---- the parts ---- */

/* Writes text to a file of a place. `what` names the configuration's field in the error; NULL when there is none. */
int cgroup_write(const struct cgroup_place *place, const char *file, const char *what, struct error *err,
		 const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* Reads a file of a place; its size, or -errno. The text is terminated. */
ssize_t cgroup_read(const struct cgroup_place *place, const char *file, char *text, size_t room);
/* "DIR/file" of a place. */
const char *cgroup_file(const struct cgroup_place *place, const char *file, char *path, size_t room);

/* Of a place and the folders that the container made below it: calls fn for each process and returns how many; thaws the folders below;
 * removes them, so far as they are empty. */
int cgroup_tree_each(const struct cgroup_place *place, void (*fn)(void *arg, pid_t pid), void *arg, struct error *err);
void cgroup_tree_thaw(const struct cgroup_place *place);
void cgroup_tree_remove(const struct cgroup_place *place);

/* A limit whose controller is not there: -ENOTSUP and the field. */
int cgroup_missing(const char *what, const char *controller, struct error *err);

int cgroup_limit_v1(const struct cgroup *cgroup, const struct oci_resources *resources, bool update, struct error *err);
int cgroup_limit_v2(const struct cgroup *cgroup, const struct oci_resources *resources, struct error *err);
/* CPU shares, [2, 262144], as a weight, [1, 10000]. */
int64_t cgroup_v2_weight(int64_t shares);
int cgroup_limit_devices(const struct cgroup *cgroup, const struct oci_resources *resources, struct error *err);

/* The systemd manager (`--systemd-cgroup`): asks it over D-Bus for a scope that holds process `pid`, then fills in the places'
 * paths from where systemd put it. cgroups_path is "slice:prefix:name". */
int cgroup_systemd_start(struct cgroup *cgroup, const char *cgroups_path, const char *id, pid_t pid,
			 const struct oci_resources *resources, struct error *err);
/* Tells it of limits that change; they are to be set after that. */
int cgroup_systemd_update(const struct cgroup *cgroup, const struct oci_resources *resources, struct error *err);
/* Moves one more process in, where a user may not do it because it comes from outside of what is the user's. */
struct dbus;
int cgroup_systemd_attach(struct dbus *bus, const struct cgroup *cgroup, pid_t pid, struct error *err);
int cgroup_systemd_stop(const struct cgroup *cgroup, struct error *err);

#endif
