/* SPDX-License-Identifier: Apache-2.0 */
#include "container/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/log.h"
#include "container/mount.h"
#include "container/path.h"

/* A folder below `up`, with a mount on it. Takes the mount's descriptor. */
static int attach_at(int up, const char *name, int mount)
{
	int rc = mkdirat(up, name, 0755) ? -errno : 0;
	int place = rc ? -1 : openat(up, name, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (!rc)
		rc = place < 0 ? -errno : mount_attach(mount, place);
	if (place >= 0)
		close(place);
	close(mount);
	return rc;
}

static int make_layer(int folder, const char *name)
{
	return mkdirat(folder, name, 0755) && errno != EEXIST ? -errno : 0;
}

static int open_upper(struct child *c, struct error *err)
{
	if (c->upper < 0)
		c->upper = open_tree(AT_FDCWD, c->box->upper, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (c->upper < 0)
		return error_errno(err, -errno, "can't open %s", c->box->upper);
	return 0;
}

/* Mounts on top of the root: a tmpfs, in it the root once more as `lower`, and where changes are kept as `kept`. Leaves the working
 * folder in it, from where the layers' names are short and free of characters that overlayfs reads otherwise. */
static int make_layers(struct child *c, struct error *err)
{
	static const char *const options[] = { "mode=0755", NULL };
	/* The kept folder can be seen by path only before the root is covered, if it is below. */
	int rc = c->box->upper ? open_upper(c, err) : 0;

	if (rc)
		return rc;
	/* With what is mounted below: the kernel does not let a user namespace uncover what mounts hide. */
	int lower = open_tree(c->new_root, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);

	if (lower < 0)
		return error_errno(err, -errno, "can't clone the root");
	int scratch = mount_new("tmpfs", options, err);

	if (scratch < 0) {
		close(lower);
		return scratch;
	}
	rc = mount_attach(scratch, c->new_root);
	if (rc)
		close(lower);
	else
		rc = attach_at(scratch, "lower", lower);
	/* The layers are in the kept folder, which is then shown in the scratch one, or in that itself. */
	if (!rc)
		rc = make_layer(c->upper >= 0 ? c->upper : scratch, "upper");
	if (!rc)
		rc = make_layer(c->upper >= 0 ? c->upper : scratch, "work");
	if (!rc && c->upper >= 0) {
		rc = attach_at(scratch, "kept", c->upper);
		c->upper = -1;
	}
	if (!rc && fchdir(scratch))
		rc = -errno;
	close(scratch);
	return rc ? error_errno(err, rc, "can't make the folders of the overlay%s%s", c->box->upper ? " in " : "",
				c->box->upper ? c->box->upper : "")
		  : 0;
}

/* What the kernel does not let us overlay can still be read. */
static int fall_back(const struct error *why, struct error *err)
{
	const struct oci_attributes read_only = { .set = MOUNT_ATTR_RDONLY };
	int lower = open_tree(AT_FDCWD, "lower", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (lower < 0)
		return error_errno(err, -errno, "can't clone the root");
	int rc = mount_attributes(lower, &read_only, true);

	if (rc) {
		close(lower);
		return error_errno(err, rc, "can't make the root read-only");
	}
	log_warn("the kernel refuses an overlay, so the root is read-only: %s (--in-place writes to it)", why->text);
	return lower;
}

static int make_overlay(struct child *c, struct error *err)
{
	const char *options[] = { "lowerdir=lower", c->box->upper ? "upperdir=kept/upper" : "upperdir=upper",
				  c->box->upper ? "workdir=kept/work" : "workdir=work", c->mapped ? "userxattr" : NULL,
				  NULL };
	struct error why = { "" };
	int fd = mount_new("overlay", options, &why);

	/* Changes that shall be kept must not be lost unseen. */
	if (fd < 0 && c->box->upper)
		return error_set(err, fd, "%s: %s", c->box->upper, why.text);
	return fd < 0 ? fall_back(&why, err) : fd;
}

/* A new file of the overlay's, whatever the root has in its place. */
static int write_file(int root, const char *path, const char *text)
{
	const char *name;
	int up = path_make_parent(root, path, &name, NULL);

	if (up < 0)
		return up;
	unlinkat(up, name, 0);
	int fd = openat(up, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	int rc = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	close(up);
	return rc;
}

static void write_files(const struct child *c)
{
	const char *hostname = c->config->hostname;
	char hosts[512];
	int fd = path_open(c->new_root, "/etc/hosts", false);
	int rc = c->box->resolver ? write_file(c->new_root, "/etc/resolv.conf", c->box->resolver) : 0;

	if (rc && rc != -EROFS)
		log_warn("can't write /etc/resolv.conf: %s", strerror(-rc));
	if (fd >= 0)
		close(fd);
	else if (hostname && snprintf(hosts, sizeof(hosts), "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n",
				      hostname) < (int)sizeof(hosts))
		write_file(c->new_root, "/etc/hosts", hosts);
}

int overlay_mount(struct child *c, struct error *err)
{
	int rc = make_layers(c, err);

	if (rc)
		return rc;
	int fd = make_overlay(c, err);

	rc = fd < 0 ? fd : 0;
	int top = rc ? -1 : open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (!rc)
		rc = top < 0 ? -errno : mount_attach(fd, top);
	if (top >= 0)
		close(top);
	if (fd >= 0 && rc)
		error_errno(err, rc, "can't mount the overlay");
	if (!rc && chdir("/"))
		rc = error_errno(err, -errno, "can't go to the root");
	if (rc)
		return rc;
	close(c->root);
	c->root = c->new_root = fd;
	write_files(c);
	return 0;
}
