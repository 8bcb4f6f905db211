/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mount.h - mounts of the configuration, by the kernel's descriptor-based calls (fsopen, open_tree, mount_setattr,
 * move_mount; Linux 5.12): a mount is made, given its attributes, and only then attached to a descriptor of its place, so no
 * half-made one is ever seen and no path is looked up twice.
 */
#ifndef PLURES_CONTAINER_MOUNT_H
#define PLURES_CONTAINER_MOUNT_H

#include "container/cgroup.h"
#include "container/config.h"

/* Opens what bind mounts are of, on the host, before the child loses sight of it or the right to see it; applies their maps
 * of identities, but for those that are the container's own (mount_idmap). */
int mount_open_sources(struct oci_config *config, const char *bundle, struct error *err);
/* Gives the idmapped mounts without maps of their own the container's user namespace, of which `process` is a member. */
int mount_idmap(const struct oci_config *config, pid_t process, struct error *err);

/* Mounts all, in order, below `root`. `enter` is called before the first mount that shows the container's cgroups; it must
 * leave the process in them. */
struct mount_context {
	int root;
	const struct cgroup *cgroup;
	int (*enter)(void *arg, struct error *err);
	void *arg;
	const char *label; /* linux.mountLabel, or NULL */
	bool cgroup_namespace;
};
int mount_all(const struct oci_config *config, const struct mount_context *context, struct error *err);

/* Covers paths with nothing, and makes paths read-only. What is not there needs no covering. `null` is the host's. */
int mount_mask(int root, const char *const *paths, int null, struct error *err);
int mount_readonly(int root, const char *const *paths, struct error *err);

/* A new filesystem of a type with options ("size=64k"; ended by NULL), as a detached mount: its descriptor, or -errno. */
int mount_new(const char *type, const char *const *options, struct error *err);

/* Steps, each 0 or -errno. */
int mount_attributes(int fd, const struct oci_attributes *attributes, bool recursive);
int mount_propagation(int fd, const char *path, uint64_t flags);
int mount_attach(int mount, int place);

#endif
