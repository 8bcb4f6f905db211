/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child_root.c - the container's file tree.
 *
 * 1. No mount of ours may reach the host, so everything is made a slave first.
 * 2. The root is mounted onto itself: pivot_root wants a mount.
 * 3. Only then this process becomes root of its user namespace: before, it is the host's user, who can reach the root's path.
 * 4. Mounts, in the configuration's order; devices and links on top of them.
 * 5. Hooks that run while both trees can be seen; after them, what they may have brought is masked.
 * 6. The old tree is let go.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "container/child.h"
#include "container/hooks.h"
#include "container/mount.h"
#include "container/overlay.h"
#include "container/path.h"

/* pivot_root refuses to work where the mount that a path is on is shared. Its root is the path or a folder above. */
static int make_private(const char *path)
{
	char up[PATH_MAX];
	int rc;

	snprintf(up, sizeof(up), "%s", path);
	while ((rc = mount_propagation(AT_FDCWD, up, MS_PRIVATE)) == -EINVAL && up[1]) {
		char *slash = strrchr(up, '/');

		slash[slash == up] = 0;
	}
	return rc;
}

/* 1 and 2; leaves new_root. */
static int attach_root(struct child *c, struct error *err)
{
	uint64_t propagation = c->config->propagation ? c->config->propagation : MS_SLAVE | MS_REC;

	/* Binds are still to be made. */
	if (propagation & MS_UNBINDABLE)
		propagation ^= MS_UNBINDABLE | MS_PRIVATE;
	int rc = propagation & MS_SHARED ? 0 : mount_propagation(AT_FDCWD, "/", propagation);

	if (!rc && c->config->propagation)
		rc = make_private(c->rootfs);
	if (rc)
		return error_errno(err, rc, "linux.rootfsPropagation: can't change the root's");
	if (c->root < 0)
		c->root = open_tree(AT_FDCWD, c->rootfs, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (c->root < 0)
		return error_errno(err, -errno, "root.path: can't open %s", c->rootfs);
	int place = open(c->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (place < 0)
		return error_errno(err, -errno, "root.path: can't open %s", c->rootfs);
	/* The clone is a peer of where it comes from; mounts inside must not show up there. What it shall be it becomes at the end. */
	rc = mount_propagation(c->root, "", propagation & MS_SHARED ? MS_PRIVATE : propagation);
	if (!rc)
		rc = mount_attach(c->root, place);
	close(place);
	if (rc)
		return error_errno(err, rc, "root.path: can't mount %s", c->rootfs);
	c->new_root = c->root;
	return 0;
}

/* 6. Both the new and the old root are ".", so no folder is needed for the old one. */
static int change_root(const struct child *c, struct error *err)
{
	int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (old < 0 || fchdir(c->new_root))
		rc = -errno;
	else if (c->no_pivot)
		rc = mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") ? -errno : 0;
	else if (syscall(SYS_pivot_root, ".", ".") || fchdir(old))
		rc = -errno;
	/* The host's mounts must not be unmounted with ours. */
	if (!rc && !c->no_pivot)
		rc = mount_propagation(old, "", MS_SLAVE | MS_REC);
	if (!rc && !c->no_pivot && umount2(".", MNT_DETACH))
		rc = -errno;
	if (!rc && chdir("/"))
		rc = -errno;
	if (old >= 0)
		close(old);
	return rc ? error_errno(err, rc, "can't change the root to %s%s", c->rootfs,
				rc == -EINVAL && !c->no_pivot ? " (on a ramfs only --no-pivot works)" : "")
		  : 0;
}

/* 5 */
static int run_hooks(struct child *c, struct error *err)
{
	const struct oci_hooks *hooks = c->config->hooks;
	int rc = 0;

	if (!hooks[HOOK_PRESTART].count && !hooks[HOOK_CREATE_RUNTIME].count && !hooks[HOOK_CREATE_CONTAINER].count &&
	    !hooks[HOOK_START_CONTAINER].count)
		return 0;
	rc = sync_send(c->sync, SYNC_HOOKS, 0, NULL, 0);
	if (rc)
		return error_errno(err, rc, "hooks");
	rc = sync_expect(c->sync, SYNC_HOOKED, c->message, err);
	if (rc)
		return rc;
	/* The state as it is, and as it will be for the hooks before the start. */
	size_t first = strnlen(c->message->data, c->message->size) + 1;

	if (first < c->message->size)
		c->state = strndup(c->message->data + first, c->message->size - first);
	return c->state ? hooks_run(hooks, HOOK_CREATE_CONTAINER, c->message->data, err)
			: error_errno(err, -ENOMEM, "hooks");
}

/* A filter comes after the cgroups; it is kept for child_become. */
static int take_filter(struct child *c, struct error *err)
{
	if (!c->config->seccomp.given)
		return 0;
	int rc = sync_expect(c->sync, SYNC_FILTER, c->message, err);

	if (rc)
		return rc;
	c->filter.size = c->message->size;
	c->filter.code = malloc(c->message->size);
	if (!c->filter.code)
		return error_errno(err, -ENOMEM, "linux.seccomp");
	memcpy(c->filter.code, c->message->data, c->message->size);
	return 0;
}

static int open_attributes(struct child *c)
{
	c->attr = -1;
	if (c->process->apparmor_profile || c->process->selinux_label)
		c->attr = open("/proc/self/attr/exec", O_WRONLY | O_CLOEXEC);
	return 0;
}

/* What covers files is the host's null device, checked: an image's /dev/null could be anything. */
static int open_null(struct error *err)
{
	int fd = open("/dev/null", O_PATH | O_CLOEXEC);
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		return fd;
	if (fd >= 0)
		close(fd);
	return error_set(err, -ENODEV, "the host's /dev/null is not the null device");
}

static int mask(const struct child *c, struct error *err)
{
	const struct oci_attributes read_only = { .set = MOUNT_ATTR_RDONLY };
	int null = open_null(err), rc = null < 0 ? null : mount_readonly(c->new_root, c->config->readonly_paths, err);

	if (!rc)
		rc = mount_mask(c->new_root, c->config->masked_paths, null, err);
	if (!rc && c->config->root_readonly) {
		rc = mount_attributes(c->new_root, &read_only, false);
		if (rc)
			error_errno(err, rc, "root.readonly");
	}
	if (null >= 0)
		close(null);
	return rc;
}

int child_make_root(struct child *c, struct error *err)
{
	int rc = attach_root(c, err);
	struct mount_context context = { .cgroup = c->cgroup,
					 .enter = child_enter_cgroups,
					 .arg = c,
					 .label = c->config->mount_label,
					 .cgroup_namespace = c->config->namespaces[NS_CGROUP].given };

	/* 3. A map need not have a 0; then what follows is done by whoever this process is. */
	if (!rc && c->config->namespaces[NS_USER].given && (setresgid(0, 0, 0) || setresuid(0, 0, 0)) &&
	    errno != EINVAL)
		rc = error_errno(err, -errno, "can't become root of the user namespace");
	umask(0);
	if (!rc && c->box && c->box->overlay)
		rc = overlay_mount(c, err);
	if (!rc) {
		context.root = c->new_root;
		rc = mount_all(c->config, &context, err);
	}
	if (!rc)
		rc = devices_make(c, err);
	if (!rc)
		rc = child_enter_cgroups(c, err);
	if (!rc)
		rc = take_filter(c, err);
	if (!rc)
		rc = run_hooks(c, err);
	if (!rc && c->process->terminal)
		rc = terminal_open(c, c->new_root, err);
	if (!rc)
		rc = mask(c, err);
	if (!rc)
		rc = open_attributes(c);
	if (!rc)
		rc = change_root(c, err);
	if (!rc && c->config->propagation) {
		rc = mount_propagation(AT_FDCWD, "/", c->config->propagation & ~(uint64_t)MS_REC);
		if (rc)
			error_errno(err, rc, "linux.rootfsPropagation");
	}
	return rc;
}
