/* SPDX-License-Identifier: Apache-2.0 */
/* devices.c - device nodes and links in /dev. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "container/child.h"
#include "container/mount.h"
#include "container/path.h"

static const struct oci_device defaults[] = {
	{ "/dev/null", S_IFCHR, 1, 3, 0666, 0, 0 },    { "/dev/zero", S_IFCHR, 1, 5, 0666, 0, 0 },
	{ "/dev/full", S_IFCHR, 1, 7, 0666, 0, 0 },    { "/dev/random", S_IFCHR, 1, 8, 0666, 0, 0 },
	{ "/dev/urandom", S_IFCHR, 1, 9, 0666, 0, 0 }, { "/dev/tty", S_IFCHR, 5, 0, 0666, 0, 0 },
};

static const char *const links[][2] = {
	{ "fd", "/proc/self/fd" },       { "stdin", "/proc/self/fd/0" }, { "stdout", "/proc/self/fd/1" },
	{ "stderr", "/proc/self/fd/2" }, { "ptmx", "pts/ptmx" },         { "core", "/proc/kcore" },
};

/* Without the right to make devices, the host's own is mounted in its place. */
static int bind_device(const struct child *c, const struct oci_device *d, struct error *err)
{
	struct stat st;
	int fd = open_tree(AT_FDCWD, d->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (fd < 0)
		return error_errno(err, -errno, "can't open the host's %s", d->path);
	if (fstat(fd, &st) || (st.st_mode & S_IFMT) != d->type ||
	    (d->type != S_IFIFO && st.st_rdev != makedev(d->major, d->minor))) {
		close(fd);
		return error_set(err, -ENXIO, "the host's %s is another device, and this user may not make one",
				 d->path);
	}
	int place = path_make(c->new_root, d->path, false, err), rc = place < 0 ? place : mount_attach(fd, place);

	if (rc && place >= 0)
		error_errno(err, rc, "can't mount the host's %s", d->path);
	if (place >= 0)
		close(place);
	close(fd);
	return rc;
}

static bool same(int up, const char *name, const struct oci_device *d)
{
	struct stat st;

	return !fstatat(up, name, &st, AT_SYMLINK_NOFOLLOW) && (st.st_mode & S_IFMT) == d->type &&
	       (d->type == S_IFIFO || st.st_rdev == makedev(d->major, d->minor));
}

/* A node that is there and is the right one only gets its owner and mode. */
static int make_device(const struct child *c, int up, const char *name, const struct oci_device *d, struct error *err)
{
	if (mknodat(up, name, d->type | d->mode, makedev(d->major, d->minor))) {
		if (errno == EPERM)
			return bind_device(c, d, err);
		if (errno != EEXIST)
			return error_errno(err, -errno, "can't make %s", d->path);
		if (!same(up, name, d))
			return error_set(err, -EEXIST, "%s is in the container's root as something else", d->path);
		if (fchmodat(up, name, d->mode, 0) && errno != EROFS)
			return error_errno(err, -errno, "can't set the mode of %s", d->path);
	}
	if ((d->uid || d->gid) && fchownat(up, name, d->uid, d->gid, AT_SYMLINK_NOFOLLOW))
		return error_errno(err, -errno, "can't set the owner of %s", d->path);
	return 0;
}

static bool is_given(const struct oci_config *config, const char *path)
{
	for (size_t i = 0; i < config->device_count; i++)
		if (!strcmp(config->devices[i].path, path))
			return true;
	for (size_t i = 0; i < config->mount_count; i++)
		if (!strcmp(config->mounts[i].destination, path))
			return true;
	return false;
}

static int make_links(const struct child *c, int dev, struct error *err)
{
	for (unsigned i = 0; i < sizeof(links) / sizeof(*links); i++) {
		/* The kernel's memory is only there where /proc shows it; without a devpts of its own there is no ptmx. */
		if (!strcmp(links[i][0], "core") && access("/proc/kcore", F_OK))
			continue;
		if (!symlinkat(links[i][1], dev, links[i][0]))
			continue;
		/* A ptmx of the image's would be the host's. */
		if (errno == EEXIST && !strcmp(links[i][0], "ptmx") && !is_given(c->config, "/dev/ptmx") &&
		    !unlinkat(dev, "ptmx", 0) && !symlinkat(links[i][1], dev, "ptmx"))
			continue;
		if (errno != EEXIST && errno != EBUSY && errno != EISDIR)
			return error_errno(err, -errno, "can't make /dev/%s", links[i][0]);
	}
	return 0;
}

/* A /dev that is the host's own has what it has. */
static bool dev_is_bound(const struct oci_config *config)
{
	for (size_t i = 0; i < config->mount_count; i++)
		if (config->mounts[i].bind &&
		    (!strcmp(config->mounts[i].destination, "/dev") || !strcmp(config->mounts[i].destination, "/dev/")))
			return true;
	return false;
}

int devices_make(const struct child *c, struct error *err)
{
	if (dev_is_bound(c->config))
		return 0;
	int dev = path_make(c->new_root, "/dev", true, err), rc = dev < 0 ? dev : 0;

	for (unsigned i = 0; i < sizeof(defaults) / sizeof(*defaults) && !rc; i++)
		if (!is_given(c->config, defaults[i].path))
			rc = make_device(c, dev, defaults[i].path + 5, &defaults[i], err);
	for (size_t i = 0; i < c->config->device_count && !rc; i++) {
		const char *name;
		int up = path_make_parent(c->new_root, c->config->devices[i].path, &name, err);

		rc = up < 0 ? up : make_device(c, up, name, &c->config->devices[i], err);
		if (up >= 0)
			close(up);
		if (rc)
			error_prefix(err, rc, "linux.devices[%zu]", i);
	}
	if (!rc)
		rc = make_links(c, dev, err);
	if (dev >= 0)
		close(dev);
	return rc;
}
