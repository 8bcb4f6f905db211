/* SPDX-License-Identifier: Apache-2.0 */
/* config_mounts.c - "mounts" (runtime-spec, config.md, "Mounts" and "Linux mount options"). */
#include <string.h>
#include <sys/mount.h>

#include "container/config.h"

enum option_kind {
	ATTRIBUTE, /* of this mount; `on` tells whether it is set or cleared */
	RECURSIVE, /* of it and all below */
	ATIME,     /* one of several values of a field */
	RECURSIVE_ATIME,
	PROPAGATION,
	SUPERBLOCK, /* a flag that filesystems read under its own name */
	BIND,
	RBIND,
	IDMAP,
	RIDMAP,
	REMOUNT,
	COPY_UP,
	NOTHING, /* is the default, or has no meaning any more */
};

struct option {
	const char *name;
	enum option_kind kind;
	bool on;
	uint64_t value;
};

/* Sorted only for the reader. */
static const struct option options[] = {
	{ "async", NOTHING, false, 0 },
	{ "atime", ATIME, false, MOUNT_ATTR_RELATIME },
	{ "bind", BIND, true, 0 },
	{ "defaults", NOTHING, false, 0 },
	{ "dev", ATTRIBUTE, false, MOUNT_ATTR_NODEV },
	{ "diratime", ATTRIBUTE, false, MOUNT_ATTR_NODIRATIME },
	{ "dirsync", SUPERBLOCK, true, 0 },
	{ "exec", ATTRIBUTE, false, MOUNT_ATTR_NOEXEC },
	{ "idmap", IDMAP, true, 0 },
	{ "iversion", SUPERBLOCK, true, 0 },
	{ "lazytime", SUPERBLOCK, true, 0 },
	{ "loud", NOTHING, false, 0 },
	{ "mand", NOTHING, false, 0 },
	{ "noatime", ATIME, true, MOUNT_ATTR_NOATIME },
	{ "nodev", ATTRIBUTE, true, MOUNT_ATTR_NODEV },
	{ "nodiratime", ATTRIBUTE, true, MOUNT_ATTR_NODIRATIME },
	{ "noexec", ATTRIBUTE, true, MOUNT_ATTR_NOEXEC },
	{ "noiversion", NOTHING, false, 0 },
	{ "nolazytime", NOTHING, false, 0 },
	{ "nomand", NOTHING, false, 0 },
	{ "norelatime", ATIME, false, MOUNT_ATTR_STRICTATIME },
	{ "nostrictatime", ATIME, false, MOUNT_ATTR_RELATIME },
	{ "nosuid", ATTRIBUTE, true, MOUNT_ATTR_NOSUID },
	{ "nosymfollow", ATTRIBUTE, true, MOUNT_ATTR_NOSYMFOLLOW },
	{ "private", PROPAGATION, true, MS_PRIVATE },
	{ "ratime", RECURSIVE_ATIME, false, MOUNT_ATTR_RELATIME },
	{ "rbind", RBIND, true, 0 },
	{ "rdev", RECURSIVE, false, MOUNT_ATTR_NODEV },
	{ "rdiratime", RECURSIVE, false, MOUNT_ATTR_NODIRATIME },
	{ "relatime", ATIME, true, MOUNT_ATTR_RELATIME },
	{ "remount", REMOUNT, true, 0 },
	{ "rexec", RECURSIVE, false, MOUNT_ATTR_NOEXEC },
	{ "ridmap", RIDMAP, true, 0 },
	{ "rnoatime", RECURSIVE_ATIME, true, MOUNT_ATTR_NOATIME },
	{ "rnodev", RECURSIVE, true, MOUNT_ATTR_NODEV },
	{ "rnodiratime", RECURSIVE, true, MOUNT_ATTR_NODIRATIME },
	{ "rnoexec", RECURSIVE, true, MOUNT_ATTR_NOEXEC },
	{ "rnorelatime", RECURSIVE_ATIME, false, MOUNT_ATTR_STRICTATIME },
	{ "rnostrictatime", RECURSIVE_ATIME, false, MOUNT_ATTR_RELATIME },
	{ "rnosuid", RECURSIVE, true, MOUNT_ATTR_NOSUID },
	{ "rnosymfollow", RECURSIVE, true, MOUNT_ATTR_NOSYMFOLLOW },
	{ "ro", ATTRIBUTE, true, MOUNT_ATTR_RDONLY },
	{ "rprivate", PROPAGATION, true, MS_PRIVATE | MS_REC },
	{ "rrelatime", RECURSIVE_ATIME, true, MOUNT_ATTR_RELATIME },
	{ "rro", RECURSIVE, true, MOUNT_ATTR_RDONLY },
	{ "rrw", RECURSIVE, false, MOUNT_ATTR_RDONLY },
	{ "rshared", PROPAGATION, true, MS_SHARED | MS_REC },
	{ "rslave", PROPAGATION, true, MS_SLAVE | MS_REC },
	{ "rstrictatime", RECURSIVE_ATIME, true, MOUNT_ATTR_STRICTATIME },
	{ "rsuid", RECURSIVE, false, MOUNT_ATTR_NOSUID },
	{ "rsymfollow", RECURSIVE, false, MOUNT_ATTR_NOSYMFOLLOW },
	{ "runbindable", PROPAGATION, true, MS_UNBINDABLE | MS_REC },
	{ "rw", ATTRIBUTE, false, MOUNT_ATTR_RDONLY },
	{ "shared", PROPAGATION, true, MS_SHARED },
	{ "silent", NOTHING, false, 0 },
	{ "slave", PROPAGATION, true, MS_SLAVE },
	{ "strictatime", ATIME, true, MOUNT_ATTR_STRICTATIME },
	{ "suid", ATTRIBUTE, false, MOUNT_ATTR_NOSUID },
	{ "symfollow", ATTRIBUTE, false, MOUNT_ATTR_NOSYMFOLLOW },
	{ "sync", SUPERBLOCK, true, 0 },
	{ "tmpcopyup", COPY_UP, true, 0 },
	{ "unbindable", PROPAGATION, true, MS_UNBINDABLE },
};

const char *oci_mount_option_name(size_t index)
{
	return index < sizeof(options) / sizeof(*options) ? options[index].name : NULL;
}

static const struct option *find(const char *name)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++)
		if (!strcmp(options[i].name, name))
			return &options[i];
	return NULL;
}

uint64_t oci_propagation(const char *text)
{
	const struct option *o = find(text);

	return o && o->kind == PROPAGATION ? o->value : 0;
}

/* The last option about a flag wins. */
static void set_attribute(struct oci_attributes *to, uint64_t value, bool on)
{
	to->set = on ? to->set | value : to->set & ~value;
	to->clear = on ? to->clear & ~value : to->clear | value;
}

static void set_atime(struct oci_attributes *to, uint64_t value)
{
	to->set = (to->set & ~(uint64_t)MOUNT_ATTR__ATIME) | value;
	to->clear |= MOUNT_ATTR__ATIME;
}

/* Where the options go that need room. */
struct lists {
	uint64_t *propagation;
	const char **data;
	size_t data_count;
};

static void apply(const struct option *o, const char *text, struct lists *lists, struct oci_mount *to)
{
	switch (o ? o->kind : SUPERBLOCK) {
	case ATTRIBUTE:
		set_attribute(&to->attributes, o->value, o->on);
		break;
	case RECURSIVE:
		set_attribute(&to->recursive, o->value, o->on);
		break;
	case ATIME:
		set_atime(&to->attributes, o->value);
		break;
	case RECURSIVE_ATIME:
		set_atime(&to->recursive, o->value);
		break;
	case PROPAGATION:
		lists->propagation[to->propagation_count++] = o->value;
		break;
	case BIND:
	case RBIND:
		to->bind = o->kind == BIND ? BIND_ONE : BIND_RECURSIVE;
		break;
	case IDMAP:
	case RIDMAP:
		to->idmap = o->kind == IDMAP ? IDMAP_ONE : IDMAP_RECURSIVE;
		break;
	case REMOUNT:
		to->remount = true;
		break;
	case COPY_UP:
		to->copy_up = true;
		break;
	case NOTHING:
		break;
	case SUPERBLOCK:
		/* What is not in the table is the filesystem's own. */
		lists->data[lists->data_count++] = text;
		break;
	}
}

static void read_options(struct reader *r, const struct field *item, struct oci_mount *to)
{
	static const char *const none[] = { NULL };
	const char *const *texts = NULL;
	size_t count = 0;

	to->data = none;
	if (!reader_texts(r, item, "options", OPTIONAL, &texts))
		return;
	while (texts[count])
		count++;
	struct lists lists = { .propagation = arena_alloc(r->arena, count + 1, sizeof(uint64_t)),
			       .data = arena_alloc(r->arena, count + 1, sizeof(char *)) };

	if (!lists.propagation || !lists.data) {
		reader_fail(r, item, "no memory for %zu options", count);
		return;
	}
	for (size_t i = 0; i < count; i++)
		apply(find(texts[i]), texts[i], &lists, to);
	to->propagation = lists.propagation;
	to->data = lists.data;
}

/* Filesystems without a device: their superblock stays writable, so that mount points can be made below. */
static bool is_virtual(const char *type)
{
	static const char *const names[] = { "proc",   "sysfs",  "tmpfs",   "devpts",
					     "mqueue", "cgroup", "cgroup2", "overlay" };

	for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(names[i], type))
			return true;
	return false;
}

static void read_mount(struct reader *r, const struct field *item, struct oci_mount *to)
{
	struct field source = { .up = item, .name = "source" }, type = { .up = item, .name = "type" };
	struct field destination = { .up = item, .name = "destination" };

	to->fd = -1;
	reader_text(r, item, "destination", REQUIRED, &to->destination);
	reader_text(r, item, "type", OPTIONAL, &to->type);
	reader_text(r, item, "source", OPTIONAL, &to->source);
	read_options(r, item, to);
	oci_read_maps(r, item, "uidMappings", &to->uids);
	oci_read_maps(r, item, "gidMappings", &to->gids);
	if (r->rc)
		return;
	if (!to->destination[0])
		reader_fail(r, &destination, "must not be empty");
	/* "bind" and "none" are no filesystems; engines write them beside the option. */
	if (!to->bind && to->type && !strcmp(to->type, "bind"))
		to->bind = BIND_RECURSIVE;
	if (to->bind && (!to->source || !to->source[0]))
		reader_fail(r, &source, "is missing: a bind mount needs one");
	if (!to->bind && !to->remount && (!to->type || !to->type[0] || !strcmp(to->type, "none")))
		reader_fail(r, &type, "is missing: only a bind mount does without");
	if (!to->idmap && to->uids.count)
		to->idmap = to->bind == BIND_RECURSIVE ? IDMAP_RECURSIVE : IDMAP_ONE;
	if (!to->uids.count != !to->gids.count)
		reader_fail(r, item, "uidMappings and gidMappings belong together");
	if (to->idmap && !to->bind)
		reader_fail(r, item, "only bind mounts can be idmapped");
	to->read_only_superblock =
	    !to->bind && to->type && (to->attributes.set & MOUNT_ATTR_RDONLY) && !is_virtual(to->type);
}

void oci_read_mounts(struct reader *r, const struct field *config, struct oci_config *to)
{
	struct field list, item;

	if (!reader_list(r, config, "mounts", OPTIONAL, &list))
		return;
	to->mounts = reader_room(r, &list, sizeof(*to->mounts));
	to->mount_count = reader_count(&list);
	for (size_t i = 0; reader_element(r, &list, i, &item); i++)
		read_mount(r, &item, &to->mounts[i]);
}
