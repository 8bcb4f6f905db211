/* SPDX-License-Identifier: Apache-2.0 */
/* config_linux.c - "linux": namespaces, maps, devices, paths (runtime-spec, config-linux.md). */
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/stat.h>

#include "container/config.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

static const struct {
	const char *name, *file;
	int flag;
} namespaces[NS_COUNT] = {
	[NS_USER] = { "user", "user", CLONE_NEWUSER }, [NS_CGROUP] = { "cgroup", "cgroup", CLONE_NEWCGROUP },
	[NS_IPC] = { "ipc", "ipc", CLONE_NEWIPC },     [NS_UTS] = { "uts", "uts", CLONE_NEWUTS },
	[NS_NET] = { "network", "net", CLONE_NEWNET }, [NS_PID] = { "pid", "pid", CLONE_NEWPID },
	[NS_MOUNT] = { "mount", "mnt", CLONE_NEWNS },  [NS_TIME] = { "time", "time", CLONE_NEWTIME },
};

const char *oci_namespace_name(enum oci_namespace_type type)
{
	return namespaces[type].name;
}

const char *oci_namespace_file(enum oci_namespace_type type)
{
	return namespaces[type].file;
}

int oci_namespace_flag(enum oci_namespace_type type)
{
	return namespaces[type].flag;
}

static void read_namespaces(struct reader *r, const struct field *linux_field, struct oci_config *to)
{
	struct field list, item;

	for (unsigned i = 0; i < NS_COUNT; i++)
		to->namespaces[i].fd = -1;
	if (!reader_list(r, linux_field, "namespaces", OPTIONAL, &list))
		return;
	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		struct field field = { .up = &item, .name = "type" }, path = { .up = &item, .name = "path" };
		const char *type = NULL;
		unsigned n = 0;

		if (!reader_text(r, &item, "type", REQUIRED, &type))
			return;
		while (n < NS_COUNT && strcmp(namespaces[n].name, type) != 0)
			n++;
		if (n == NS_COUNT) {
			reader_fail(r, &field, "\"%.40s\" is no namespace", type);
			return;
		}
		struct oci_namespace *ns = &to->namespaces[n];

		/* "A runtime MUST generate an error if [...] duplicated namespaces with same type." */
		if (ns->given)
			reader_fail(r, &field, "\"%s\" is there twice", type);
		ns->given = true;
		if (reader_text(r, &item, "path", OPTIONAL, &ns->path) && !ns->path[0])
			ns->path = NULL;
		if (ns->path && ns->path[0] != '/')
			reader_fail(r, &path, "\"%.80s\" must be absolute", ns->path);
	}
}

void oci_read_maps(struct reader *r, const struct field *in, const char *name, struct oci_maps *to)
{
	struct field list, item;

	if (!reader_list(r, in, name, OPTIONAL, &list))
		return;
	struct oci_map *maps = reader_room(r, &list, sizeof(*maps));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		int64_t container = 0, host = 0, size = 0;

		reader_int(r, &item, "containerID", REQUIRED, 0, UINT32_MAX - 1, &container);
		reader_int(r, &item, "hostID", REQUIRED, 0, UINT32_MAX - 1, &host);
		reader_int(r, &item, "size", REQUIRED, 1, UINT32_MAX, &size);
		if (!r->rc)
			maps[i] = (struct oci_map){ (uint32_t)container, (uint32_t)host, (uint32_t)size };
	}
	to->maps = maps;
	to->count = reader_count(&list);
}

static void read_time_offsets(struct reader *r, const struct field *linux_field, struct oci_config *to)
{
	static const char *const clocks[] = { "monotonic", "boottime" };
	struct field offsets, clock;
	size_t count = 0;

	if (!reader_object(r, linux_field, "timeOffsets", OPTIONAL, &offsets))
		return;
	const char **lines = arena_alloc(r->arena, 3, sizeof(*lines));

	for (unsigned i = 0; i < 2 && lines; i++) {
		int64_t seconds = 0, nanoseconds = 0;

		if (!reader_object(r, &offsets, clocks[i], OPTIONAL, &clock))
			continue;
		reader_int(r, &clock, "secs", OPTIONAL, INT32_MIN * 1000ll, INT32_MAX * 1000ll, &seconds);
		reader_int(r, &clock, "nanosecs", OPTIONAL, 0, 999999999, &nanoseconds);
		lines[count++] =
		    arena_printf(r->arena, "%s %lld %lld", clocks[i], (long long)seconds, (long long)nanoseconds);
	}
	to->time_offsets = count ? lines : NULL;
}

static void read_device(struct reader *r, const struct field *item, struct oci_device *to)
{
	struct field type_field = { .up = item, .name = "type" }, path = { .up = item, .name = "path" };
	const char *type = NULL;
	int64_t major = 0, minor = 0, mode = 0666, uid = 0, gid = 0;

	reader_text(r, item, "type", REQUIRED, &type);
	reader_text(r, item, "path", REQUIRED, &to->path);
	if (r->rc)
		return;
	if (to->path[0] != '/')
		reader_fail(r, &path, "\"%.80s\" must be absolute", to->path);
	if (type[0] && !type[1] && strchr("cu", type[0]))
		to->type = S_IFCHR;
	else if (!strcmp(type, "b"))
		to->type = S_IFBLK;
	else if (!strcmp(type, "p"))
		to->type = S_IFIFO;
	else
		reader_fail(r, &type_field, "\"%.40s\" is none of c, b, u and p", type);
	enum field_need need = to->type == S_IFIFO ? OPTIONAL : REQUIRED;

	reader_int(r, item, "major", need, 0, UINT32_MAX, &major);
	reader_int(r, item, "minor", need, 0, UINT32_MAX, &minor);
	reader_int(r, item, "fileMode", OPTIONAL, 0, UINT32_MAX, &mode);
	reader_int(r, item, "uid", OPTIONAL, 0, UINT32_MAX - 1, &uid);
	reader_int(r, item, "gid", OPTIONAL, 0, UINT32_MAX - 1, &gid);
	to->major = (uint32_t)major;
	to->minor = (uint32_t)minor;
	to->mode = (mode_t)mode & 07777; /* engines send the file's type along */
	to->uid = (uint32_t)uid;
	to->gid = (uint32_t)gid;
}

static void read_devices(struct reader *r, const struct field *linux_field, struct oci_config *to)
{
	struct field list, item;

	if (!reader_list(r, linux_field, "devices", OPTIONAL, &list))
		return;
	struct oci_device *devices = reader_room(r, &list, sizeof(*devices));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++)
		read_device(r, &item, &devices[i]);
	to->devices = devices;
	to->device_count = reader_count(&list);
}

/* Absolute paths; a relative one would be looked up from who knows where. */
static void read_paths(struct reader *r, const struct field *linux_field, const char *name, const char *const **to)
{
	struct field list = { .up = linux_field, .name = name };
	const char *const *paths = NULL;

	if (!reader_texts(r, linux_field, name, OPTIONAL, &paths))
		return;
	for (size_t i = 0; paths[i]; i++) {
		struct field item = { .up = &list, .index = i };

		if (paths[i][0] != '/')
			reader_fail(r, &item, "\"%.80s\" must be absolute", paths[i]);
	}
	*to = paths;
}

/* What stands in a namespace of the container's own may be set; everything else would change the host
 * ("kernel.shm_rmid_forced" is of the IPC namespace, "kernel.panic" is not). */
static bool sysctl_allowed(const struct oci_config *c, const char *name)
{
	static const char *const ipc[] = {
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"
	};

	if (!strncmp(name, "net.", 4))
		return c->namespaces[NS_NET].given;
	if (!strcmp(name, "kernel.domainname") || !strcmp(name, "kernel.hostname"))
		return c->namespaces[NS_UTS].given;
	if (!strncmp(name, "fs.mqueue.", 10))
		return c->namespaces[NS_IPC].given;
	for (unsigned i = 0; i < sizeof(ipc) / sizeof(*ipc); i++)
		if (!strcmp(name, ipc[i]))
			return c->namespaces[NS_IPC].given;
	/* The user namespace's own counts, user.max_net_namespaces and the like. */
	return !strncmp(name, "user.", 5) && c->namespaces[NS_USER].given;
}

static void read_sysctl(struct reader *r, const struct field *linux_field, struct oci_config *to)
{
	struct field object = { .up = linux_field, .name = "sysctl" };

	if (!reader_pairs(r, linux_field, "sysctl", &to->sysctl))
		return;
	for (const char *const *pair = to->sysctl; *pair && !r->rc; pair += 2) {
		struct field item = { .up = &object, .name = pair[0] };
		char *name = arena_text(r->arena, pair[0], strlen(pair[0]));

		if (!name)
			return;
		/* "net/ipv4/conf/eth0.1/forwarding" is how a name with dots in it is written. */
		if (strchr(name, '/'))
			for (char *p = name; *p; p++)
				*p = *p == '/' ? '.' : *p == '.' ? '/' : *p;
		if (strstr(name, "..") || name[0] == '.' || strstr(name, "//"))
			reader_fail(r, &item, "is no sysctl");
		else if (!sysctl_allowed(to, name))
			reader_fail(r, &item,
				    "belongs to no namespace of the container's own, so it would change the host");
	}
}

static void read_personality(struct reader *r, const struct field *linux_field, struct oci_config *to)
{
	struct field personality, domain = { .up = &personality, .name = "domain" };
	struct field flags = { .up = &personality, .name = "flags" };
	const char *text = NULL, *const *list = NULL;

	if (!reader_object(r, linux_field, "personality", OPTIONAL, &personality))
		return;
	if (!reader_text(r, &personality, "domain", REQUIRED, &text))
		return;
	if (strcmp(text, "LINUX") != 0 && strcmp(text, "LINUX32") != 0)
		reader_fail(r, &domain, "\"%.40s\" is neither LINUX nor LINUX32", text);
	if (reader_texts(r, &personality, "flags", OPTIONAL, &list) && list[0])
		reader_fail(r, &flags, "no flags are supported");
	to->personality = (struct reader_number){ true, strcmp(text, "LINUX") ? PER_LINUX32 : PER_LINUX };
}

static void read_propagation(struct reader *r, const struct field *linux_field, struct oci_config *to)
{
	struct field field = { .up = linux_field, .name = "rootfsPropagation" };
	const char *text = NULL;

	if (!reader_text(r, linux_field, "rootfsPropagation", OPTIONAL, &text) || !text[0])
		return;
	to->propagation = oci_propagation(text);
	if (!to->propagation)
		reader_fail(r, &field,
			    "\"%.40s\" is none of shared, slave, private, unbindable, and these with r before", text);
}

void oci_read_linux(struct reader *r, const struct field *config, struct oci_config *to)
{
	struct field lin, part;

	if (!reader_object(r, config, "linux", REQUIRED, &lin))
		return;
	read_namespaces(r, &lin, to);
	oci_read_maps(r, &lin, "uidMappings", &to->uids);
	oci_read_maps(r, &lin, "gidMappings", &to->gids);
	read_time_offsets(r, &lin, to);
	read_devices(r, &lin, to);
	reader_text(r, &lin, "cgroupsPath", OPTIONAL, &to->cgroups_path);
	if (reader_object(r, &lin, "resources", OPTIONAL, &part))
		oci_read_resources(r, &part, &to->resources);
	read_propagation(r, &lin, to);
	read_paths(r, &lin, "maskedPaths", &to->masked_paths);
	read_paths(r, &lin, "readonlyPaths", &to->readonly_paths);
	read_sysctl(r, &lin, to);
	reader_text(r, &lin, "mountLabel", OPTIONAL, &to->mount_label);
	read_personality(r, &lin, to);
	oci_read_seccomp(r, &lin, &to->seccomp);
	if (reader_object(r, &lin, "intelRdt", OPTIONAL, &part))
		reader_fail(r, &part, "is not supported");
}
