/* SPDX-License-Identifier: Apache-2.0 */
#include "container/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "container/idmap.h"
#include "container/log.h"
#include "container/mount_copy.h"
#include "container/path.h"

/* ---- steps ---- */

int mount_attributes(int fd, const struct oci_attributes *attributes, bool recursive)
{
	struct mount_attr attr = { .attr_set = attributes->set, .attr_clr = attributes->clear };

	if (!attr.attr_set && !attr.attr_clr)
		return 0;
	/* atime is a field of several values: to set one, the field must be named in attr_clr. */
	if (attr.attr_set & MOUNT_ATTR__ATIME)
		attr.attr_clr |= MOUNT_ATTR__ATIME;
	return mount_setattr(fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof(attr)) ? -errno : 0;
}

int mount_propagation(int fd, const char *path, uint64_t flags)
{
	struct mount_attr attr = { .propagation = flags & ~(uint64_t)MS_REC };

	return mount_setattr(fd, path, (path[0] ? 0 : AT_EMPTY_PATH) | (flags & MS_REC ? AT_RECURSIVE : 0), &attr,
			     sizeof(attr))
		   ? -errno
		   : 0;
}

int mount_attach(int mount, int place)
{
	return move_mount(mount, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) ? -errno : 0;
}

/* ---- a filesystem ---- */

/* What the filesystem itself said of its options, which is better than EINVAL. */
static int fs_error(int fs, int rc, const char *type, struct error *err)
{
	char text[256];
	ssize_t size = read(fs, text, sizeof(text) - 1);

	if (size <= 2)
		return error_errno(err, rc, "can't make a %s", type);
	text[size] = 0;
	text[strcspn(text, "\n")] = 0;
	return error_set(err, rc, "can't make a %s: %s (%s)", type, text + 2, strerror(-rc));
}

static int set_option(int fs, const char *option)
{
	const char *equals = strchr(option, '=');
	char name[64];

	if (!equals)
		return fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0) ? -errno : 0;
	if ((size_t)(equals - option) >= sizeof(name))
		return -EINVAL;
	memcpy(name, option, (size_t)(equals - option));
	name[equals - option] = 0;
	return fsconfig(fs, FSCONFIG_SET_STRING, name, equals + 1, 0) ? -errno : 0;
}

static int make_filesystem(const struct oci_mount *m, const char *label, uint64_t attributes, struct error *err)
{
	int fs = fsopen(m->type, FSOPEN_CLOEXEC), rc = 0;
	char context[512];

	if (fs < 0)
		return error_errno(err, -errno, "type: the kernel has no filesystem \"%.40s\"", m->type);
	if (m->source && m->source[0] && fsconfig(fs, FSCONFIG_SET_STRING, "source", m->source, 0))
		rc = -errno;
	for (const char *const *option = m->data; *option && !rc; option++)
		rc = set_option(fs, *option);
	if (!rc && m->read_only_superblock && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0))
		rc = -errno;
	/* proc and sysfs label their files themselves, and a namespace's one mqueue is there already, without the option. */
	bool queues = !strcmp(m->type, "mqueue");

	if (!label || !label[0] || !strcmp(m->type, "proc") || !strcmp(m->type, "sysfs"))
		label = NULL;
	if (!rc && label && !queues && snprintf(context, sizeof(context), "%s", label) < (int)sizeof(context))
		rc = fsconfig(fs, FSCONFIG_SET_STRING, "context", context, 0) ? -errno : 0;
	if (!rc && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		rc = -errno;
	if (rc) {
		fs_error(fs, rc, m->type, err);
		close(fs);
		return rc;
	}
	int fd = fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)attributes);

	rc = fd < 0 ? error_errno(err, -errno, "can't mount a %s", m->type) : 0;
	close(fs);
	if (!rc && label && queues) {
		snprintf(context, sizeof(context), "/proc/self/fd/%d", fd);
		/* A policy may leave its files without labels. */
		if (setxattr(context, "security.selinux", label, strlen(label) + 1, 0))
			log_debug("can't label a %s \"%s\": %s", m->type, label, strerror(errno));
	}
	return rc ? rc : fd;
}

int mount_new(const char *type, const char *const *options, struct error *err)
{
	const struct oci_mount m = { .type = type, .source = type, .data = options };

	return make_filesystem(&m, NULL, 0, err);
}

/* ---- bind mounts ---- */

static int open_source(struct oci_mount *m, const char *bundle, struct error *err)
{
	char path[PATH_MAX];

	/* "Path to be bind mounted [...] absolute, or relative to the bundle". */
	if (snprintf(path, sizeof(path), "%s%s%s", m->source[0] == '/' ? "" : bundle, m->source[0] == '/' ? "" : "/",
		     m->source) >= (int)sizeof(path))
		return error_errno(err, -ENAMETOOLONG, "source");
	m->fd = open_tree(AT_FDCWD, path,
			  OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (m->bind == BIND_RECURSIVE ? AT_RECURSIVE : 0));
	if (m->fd >= 0)
		return 0;
	if (errno != EPERM)
		return error_errno(err, -errno, "source: can't open %s", path);
	/* Without privileges on the host's mounts the child does it, in namespaces of its own. */
	return access(path, F_OK) ? error_errno(err, -errno, "source: can't open %s", path) : 0;
}

int mount_open_sources(struct oci_config *config, const char *bundle, struct error *err)
{
	for (size_t i = 0; i < config->mount_count; i++) {
		struct oci_mount *m = &config->mounts[i];
		int rc = m->bind && !m->remount ? open_source(m, bundle, err) : 0;

		if (!rc && m->uids.count)
			rc = idmap_apply(m->fd, m->idmap == IDMAP_RECURSIVE, &m->uids, &m->gids, err);
		if (rc)
			return error_prefix(err, rc, "mounts[%zu] (%s)", i, m->destination);
	}
	return 0;
}

int mount_idmap(const struct oci_config *config, pid_t process, struct error *err)
{
	char path[64];
	int user = -1, rc = 0;

	for (size_t i = 0; i < config->mount_count && !rc; i++) {
		const struct oci_mount *m = &config->mounts[i];

		if (!m->idmap || m->uids.count)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/ns/user", process);
		if (user < 0)
			user = open(path, O_RDONLY | O_CLOEXEC);
		rc = user < 0 ? error_errno(err, -errno, "can't open %s", path)
			      : idmap_set(m->fd, m->idmap == IDMAP_RECURSIVE, user, err);
		if (rc)
			error_prefix(err, rc, "mounts[%zu] (%s)", i, m->destination);
	}
	if (user >= 0)
		close(user);
	return rc;
}

/* Gives a mount that is not attached yet its attributes. A user namespace may not take away what the host has set: then
 * "rw" and the like mean "as it was". */
static int set_attributes(int fd, const struct oci_attributes *attributes, bool recursive, struct error *err)
{
	int rc = mount_attributes(fd, attributes, recursive);

	if (rc == -EPERM && attributes->clear) {
		const struct oci_attributes set = { .set = attributes->set & ~(uint64_t)MOUNT_ATTR__ATIME };

		rc = mount_attributes(fd, &set, recursive);
	}
	return rc ? error_errno(err, rc, "options: can't set them") : 0;
}

static int set_propagation(const struct oci_mount *m, int fd, struct error *err)
{
	int rc = 0;

	/* Of a bind mount the kernel makes a peer of its source, so a mount inside the container would show up outside. */
	if (m->bind && !m->propagation_count)
		rc = mount_propagation(fd, "", MS_PRIVATE | MS_REC);
	for (size_t i = 0; i < m->propagation_count && !rc; i++)
		rc = mount_propagation(fd, "", m->propagation[i]);
	return rc ? error_errno(err, rc, "options: can't set the propagation") : 0;
}

static int make_bind(const struct oci_mount *m, struct error *err)
{
	int fd = m->fd;

	if (fd < 0) {
		fd = open_tree(AT_FDCWD, m->source,
			       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (m->bind == BIND_RECURSIVE ? AT_RECURSIVE : 0));
		if (fd < 0)
			return error_errno(err, -errno, "source: can't open %s", m->source);
	}
	int rc = set_attributes(fd, &m->attributes, false, err);

	return rc ? rc : fd;
}

/* ---- where it goes ---- */

/* proc and sys decide what is masked, so they must be where their names say and nowhere else. */
static bool is_kernel_filesystem(const struct oci_mount *m)
{
	return !m->bind && m->type && (!strcmp(m->type, "proc") || !strcmp(m->type, "sysfs"));
}

static int open_place(const struct mount_context *c, const struct oci_mount *m, int mount, struct error *err)
{
	struct stat st = { .st_mode = S_IFDIR };
	int fd;

	if (m->bind && fstat(mount, &st))
		return error_errno(err, -errno, "source");
	fd = path_make(c->root, m->destination, S_ISDIR(st.st_mode), err);
	if (fd < 0)
		return error_prefix(err, fd, "destination");
	if (is_kernel_filesystem(m)) {
		close(fd);
		fd = path_open(c->root, m->destination, true);
		if (fd == -ELOOP)
			return error_set(err, -ELOOP,
					 "destination: %s is a symbolic link, on which no %s may be mounted",
					 m->destination, m->type);
		if (fd < 0)
			return error_errno(err, fd, "destination");
	}
	return fd;
}

/* Changes a mount that is there already. */
static int remount(const struct mount_context *c, const struct oci_mount *m, struct error *err)
{
	int fd = path_open(c->root, m->destination, false);

	if (fd < 0)
		return error_errno(err, fd, "destination");
	int rc = set_attributes(fd, &m->attributes, false, err);

	if (!rc)
		rc = set_attributes(fd, &m->recursive, true, err);
	if (!rc)
		rc = set_propagation(m, fd, err);
	if (!rc && m->data[0] && !m->bind) {
		int fs = fspick(fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);

		rc = fs < 0 ? -errno : 0;
		for (const char *const *option = m->data; *option && !rc; option++)
			rc = set_option(fs, *option);
		if (!rc && fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0))
			rc = -errno;
		if (fs >= 0)
			close(fs);
		if (rc)
			error_errno(err, rc, "options: can't change the filesystem");
	}
	close(fd);
	return rc;
}

/* ---- cgroups inside ---- */

/* One hierarchy of v1: in a namespace the hierarchy itself, which starts at the container's own folder; otherwise a bind
 * mount of that folder. */
static int cgroup_v1_mount(const struct mount_context *c, const struct cgroup_place *place, uint64_t attributes,
			   struct error *err)
{
	const char *base = strrchr(place->root, '/') + 1;
	char path[CGROUP_PATH + 64], list[64], *rest = NULL;
	static const char *const none[] = { NULL };
	struct oci_mount m = { .type = place->v2 ? "cgroup2" : "cgroup", .source = "cgroup", .data = none };

	if (!c->cgroup_namespace) {
		int fd = open_tree(AT_FDCWD, cgroup_file(place, "", path, sizeof(path)),
				   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
		const struct oci_attributes set = { .set = attributes };
		int rc = fd < 0 ? -errno : mount_attributes(fd, &set, false);

		if (rc && fd >= 0)
			close(fd);
		return rc ? error_errno(err, rc, "can't open the cgroup %s", path) : fd;
	}
	const char *options[8] = { NULL };
	unsigned count = 0;

	snprintf(list, sizeof(list), "%s", base);
	if (!place->v2 && !place->controllers) {
		snprintf(path, sizeof(path), "name=%s", base);
		options[count++] = "none";
		options[count++] = path;
	} else if (!place->v2) {
		for (char *name = strtok_r(list, ",", &rest); name && count < 7; name = strtok_r(NULL, ",", &rest))
			options[count++] = name;
	}
	m.data = options;
	return make_filesystem(&m, NULL, attributes, err);
}

/* v1: a tmpfs with the hierarchies in it, as the host has them. */
static int mount_cgroup_v1(const struct mount_context *c, const struct oci_mount *m, struct error *err)
{
	static const char *const data[] = { "mode=755", NULL };
	const uint64_t flags = m->attributes.set & ~(uint64_t)MOUNT_ATTR_RDONLY;
	struct oci_mount tmpfs = { .type = "tmpfs", .source = "tmpfs", .data = data };
	int fd = make_filesystem(&tmpfs, c->label, flags, err);

	if (fd < 0)
		return fd;
	int place = open_place(c, m, fd, err), rc = place < 0 ? place : 0;

	if (!rc) {
		rc = mount_attach(fd, place);
		if (rc)
			error_errno(err, rc, "can't attach a tmpfs");
	}
	for (unsigned i = 0; i < c->cgroup->count && !rc; i++) {
		const char *base = strrchr(c->cgroup->places[i].root, '/') + 1, *comma = strchr(base, ',');
		char folder[CGROUP_PATH + 64];

		/* An unprivileged user has no folder to show. */
		if (!c->cgroup_namespace &&
		    access(cgroup_file(&c->cgroup->places[i], "", folder, sizeof(folder)), F_OK))
			continue;
		if (mkdirat(fd, base, 0755))
			rc = error_errno(err, -errno, "can't make %s", base);
		/* "cpu,cpuacct" is found under each of its names. */
		for (const char *name = base; comma && name; name = strchr(name, ',') ? strchr(name, ',') + 1 : NULL) {
			char single[32];

			snprintf(single, sizeof(single), "%.*s", (int)strcspn(name, ","), name);
			if (symlinkat(base, fd, single))
				rc = error_errno(err, -errno, "can't make %s", single);
		}
		int one = rc ? rc : cgroup_v1_mount(c, &c->cgroup->places[i], m->attributes.set, err);
		int spot = one < 0 ? -1 : openat(fd, base, O_PATH | O_CLOEXEC);

		rc = one < 0 ? one : mount_attach(one, spot);
		if (rc && one >= 0)
			error_errno(err, rc, "can't attach the cgroups of %s", base);
		if (spot >= 0)
			close(spot);
		if (one >= 0)
			close(one);
	}
	if (!rc && (m->attributes.set & MOUNT_ATTR_RDONLY)) {
		const struct oci_attributes read_only = { .set = MOUNT_ATTR_RDONLY };

		rc = mount_attributes(fd, &read_only, false);
	}
	if (place >= 0)
		close(place);
	close(fd);
	return rc;
}

/* v2: the hierarchy, or without a namespace the container's own folder in it. */
static int make_cgroup_v2(const struct mount_context *c, const struct oci_mount *m, struct error *err)
{
	struct oci_mount cgroup = *m;

	cgroup.type = "cgroup2";
	if (c->cgroup_namespace)
		return make_filesystem(&cgroup, NULL, m->attributes.set, err);
	if (c->cgroup->count)
		return cgroup_v1_mount(c, &c->cgroup->places[0], m->attributes.set, err);
	int fd = make_filesystem(&cgroup, NULL, m->attributes.set, err);

	if (fd != -EPERM)
		return fd;
	/* A user namespace may mount only what a cgroup namespace of its own shows. It gets what the user sees outside. */
	const struct oci_attributes set = { .set = m->attributes.set | MOUNT_ATTR_RDONLY };

	fd = open_tree(AT_FDCWD, "/sys/fs/cgroup", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	int rc = fd < 0 ? -errno : mount_attributes(fd, &set, true);

	if (rc && fd >= 0)
		close(fd);
	return rc ? error_errno(err, rc, "can't open the host's cgroups") : fd;
}

static bool is_v2_host(const struct cgroup *cgroup)
{
	struct statfs fs;

	if (!cgroup->count)
		return !statfs("/sys/fs/cgroup", &fs) && fs.f_type == CGROUP2_SUPER_MAGIC;
	return cgroup->count == 1 && cgroup->places[0].v2;
}

/* ---- all ---- */

/* tmpcopyup: a tmpfs that begins with what it covers. */
static int copy_up(const struct oci_mount *m, int mount, int place, struct error *err)
{
	const struct oci_attributes read_only = { .set = MOUNT_ATTR_RDONLY };
	int rc = mount_copy(place, mount, err);

	if (!rc && (m->attributes.set & MOUNT_ATTR_RDONLY)) {
		rc = mount_attributes(mount, &read_only, false);
		if (rc)
			error_errno(err, rc, "can't make it read-only");
	}
	return rc;
}

static int mount_one(const struct mount_context *c, const struct oci_mount *m, struct error *err)
{
	bool cgroup = !m->bind && m->type && (!strcmp(m->type, "cgroup") || !strcmp(m->type, "cgroup2"));
	int fd, rc = 0;

	if (m->remount)
		return remount(c, m, err);
	if (cgroup) {
		rc = c->enter(c->arg, err);
		if (rc)
			return rc;
		if (!is_v2_host(c->cgroup) && !strcmp(m->type, "cgroup"))
			return mount_cgroup_v1(c, m, err);
	}
	if (m->bind)
		fd = make_bind(m, err);
	else if (cgroup)
		fd = make_cgroup_v2(c, m, err);
	else
		fd = make_filesystem(m, c->label, m->attributes.set & ~(m->copy_up ? (uint64_t)MOUNT_ATTR_RDONLY : 0),
				     err);
	if (fd < 0)
		return fd;
	int place = open_place(c, m, fd, err);

	rc = place < 0 ? place : set_attributes(fd, &m->recursive, true, err);
	if (!rc)
		rc = set_propagation(m, fd, err);
	if (!rc && m->copy_up && !m->bind)
		rc = copy_up(m, fd, place, err);
	if (!rc) {
		rc = mount_attach(fd, place);
		if (rc)
			error_errno(err, rc, "can't attach it");
	}
	if (place >= 0)
		close(place);
	close(fd);
	return rc;
}

int mount_all(const struct oci_config *config, const struct mount_context *context, struct error *err)
{
	for (size_t i = 0; i < config->mount_count; i++) {
		int rc = mount_one(context, &config->mounts[i], err);

		if (rc)
			return error_prefix(err, rc, "mounts[%zu] (%s)", i, config->mounts[i].destination);
	}
	return 0;
}

/* ---- covered paths ---- */

/* An empty folder that nobody can write to. The first is made, later ones are clones of it. */
static int empty_folder(int *first, struct error *err)
{
	static const char *const data[] = { "nr_blocks=1", "nr_inodes=1", NULL };
	const struct oci_mount m = { .type = "tmpfs", .source = "tmpfs", .data = data };

	if (*first >= 0) {
		int fd = open_tree(*first, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

		if (fd >= 0)
			return fd;
	}
	return make_filesystem(&m, NULL, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
			       err);
}

static int mask_one(int place, int null, int *first, struct error *err)
{
	struct stat st;

	if (fstat(place, &st))
		return error_errno(err, -errno, "can't look at it");
	bool folder = S_ISDIR(st.st_mode);
	int fd = folder ? empty_folder(first, err)
			: open_tree(null, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

	if (fd < 0)
		return folder ? fd : error_errno(err, -errno, "can't clone /dev/null");
	int rc = mount_attach(fd, place);

	if (rc)
		error_errno(err, rc, "can't cover it");
	if (!rc && folder && *first < 0)
		*first = fd;
	else
		close(fd);
	return rc;
}

int mount_mask(int root, const char *const *paths, int null, struct error *err)
{
	int first = -1, rc = 0;

	for (unsigned i = 0; paths && paths[i] && !rc; i++) {
		int place = path_open(root, paths[i], false);

		if (place == -ENOENT || place == -ENOTDIR)
			continue;
		rc = place < 0 ? error_errno(err, place, "can't open it") : mask_one(place, null, &first, err);
		if (place >= 0)
			close(place);
		if (rc)
			error_prefix(err, rc, "linux.maskedPaths[%u] (%s)", i, paths[i]);
	}
	if (first >= 0)
		close(first);
	return rc;
}

int mount_readonly(int root, const char *const *paths, struct error *err)
{
	const struct oci_attributes read_only = { .set = MOUNT_ATTR_RDONLY };

	for (unsigned i = 0; paths && paths[i]; i++) {
		int place = path_open(root, paths[i], false), rc = 0;

		if (place == -ENOENT || place == -ENOTDIR)
			continue;
		int fd = place < 0
			     ? -1
			     : open_tree(place, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);

		rc = place < 0 ? place : fd < 0 ? -errno : mount_attributes(fd, &read_only, true);
		if (!rc)
			rc = mount_attach(fd, place);
		if (fd >= 0)
			close(fd);
		if (place >= 0)
			close(place);
		if (rc)
			return error_errno(err, rc, "linux.readonlyPaths[%u] (%s)", i, paths[i]);
	}
	return 0;
}
