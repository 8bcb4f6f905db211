/* SPDX-License-Identifier: Apache-2.0 */
/*
 * systemd.c - cgroups that systemd makes (`--systemd-cgroup`): a scope unit for the container's process, asked for over D-Bus
 * (org.freedesktop.systemd1(5), StartTransientUnit). Limits are written to the cgroup's files afterwards, as without systemd:
 * Delegate=yes makes the folder ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "container/cgroup.h"
#include "container/dbus.h"

#define SYSTEMD "org.freedesktop.systemd1"
#define MANAGER "org.freedesktop.systemd1.Manager"

/* "slice:prefix:name" becomes the unit "prefix-name.scope" in a slice; a name that is a slice already stays. */
static int unit_names(const char *path, const char *id, char *slice, char *scope, size_t room, struct error *err)
{
	const char *first = path ? strchr(path, ':') : NULL, *second = first ? strchr(first + 1, ':') : NULL;
	int used;

	if (path && path[0] && !second)
		return error_set(err, -EINVAL,
				 "linux.cgroupsPath: \"%.80s\" must be slice:prefix:name with --systemd-cgroup", path);
	if (!second) {
		snprintf(slice, room, "%s", geteuid() ? "user.slice" : "system.slice");
		used = snprintf(scope, room, "plures-%s.scope", id);
		return (size_t)used < room
			   ? 0
			   : error_errno(err, -ENAMETOOLONG, "the container ID is too long for systemd");
	}
	snprintf(slice, room, "%.*s", (int)(first - path), path);
	if (!slice[0])
		snprintf(slice, room, "%s", geteuid() ? "user.slice" : "system.slice");
	int prefix = (int)(second - first - 1);

	used = snprintf(scope, room, "%.*s%s%s%s", prefix, first + 1, prefix ? "-" : "", second + 1,
			strstr(second, ".slice") ? "" : ".scope");
	return (size_t)used < room ? 0 : error_errno(err, -ENAMETOOLONG, "linux.cgroupsPath");
}

/* A property is a name and a variant. */
static void put_bool(struct dbus_writer *w, const char *name, bool value)
{
	dbus_put_align(w, 8);
	dbus_put_string(w, name);
	dbus_put_signature(w, "b");
	dbus_put_u32(w, value);
}

static void put_text(struct dbus_writer *w, const char *name, const char *value)
{
	dbus_put_align(w, 8);
	dbus_put_string(w, name);
	dbus_put_signature(w, "s");
	dbus_put_string(w, value);
}

static void put_scope(struct dbus_writer *w, const char *scope, const char *slice, const char *id, pid_t pid)
{
	char description[320];

	dbus_put_string(w, scope);
	dbus_put_string(w, "replace");
	size_t properties = dbus_begin_array(w, 8);

	snprintf(description, sizeof(description), "container %s", id);
	put_text(w, "Description", description);
	put_text(w, "Slice", slice);
	put_bool(w, "Delegate", true);
	put_bool(w, "DefaultDependencies", false);
	put_bool(w, "CPUAccounting", true);
	put_bool(w, "MemoryAccounting", true);
	put_bool(w, "TasksAccounting", true);
	dbus_put_align(w, 8);
	dbus_put_string(w, "PIDs");
	dbus_put_signature(w, "au");
	size_t pids = dbus_begin_array(w, 4);
	dbus_put_u32(w, (uint32_t)pid);
	dbus_end_array(w, pids);
	dbus_end_array(w, properties);
	dbus_end_array(w, dbus_begin_array(w, 8)); /* no auxiliary units */
}

/* Where systemd put the process: its lines of /proc/PID/cgroup, found by hierarchy. */
static int find_places(struct cgroup *cgroup, pid_t pid, struct error *err)
{
	char path[48], *text, *rest = NULL;
	size_t size;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	int rc = oci_file_read(AT_FDCWD, path, &text, &size, err);

	if (rc)
		return rc;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *names = strchr(line, ':'), *where = names ? strchr(names + 1, ':') : NULL;

		if (!where)
			continue;
		*where++ = 0;
		names++;
		for (unsigned i = 0; i < cgroup->count; i++) {
			struct cgroup_place *place = &cgroup->places[i];
			const char *base = strrchr(place->root, '/') + 1;
			bool same =
			    place->v2 ? !names[0] : !strcmp(base, !strncmp(names, "name=", 5) ? names + 5 : names);

			if (same && strlen(where) < sizeof(place->path)) {
				strcpy(place->path, strcmp(where, "/") ? where : "");
				/* The scope's folder goes with the scope; what is in it is ours to kill. */
				place->made = strstr(where, cgroup->scope) ? 1 : 0;
			}
		}
	}
	free(text);
	return 0;
}

/* v1 controllers in which systemd left the process at the top get a folder of our own below the same path. */
static int complete_places(struct cgroup *cgroup, const char *slice, struct error *err)
{
	for (unsigned i = 0; i < cgroup->count; i++) {
		struct cgroup_place *place = &cgroup->places[i];

		if (place->made)
			continue;
		if (snprintf(place->path, sizeof(place->path), "/%s/%s", slice, cgroup->scope) >=
		    (int)sizeof(place->path))
			return error_errno(err, -ENAMETOOLONG, "the scope's name");
		place->made = 1;
	}
	return cgroup_create(cgroup, false, err);
}

int cgroup_systemd_start(struct cgroup *cgroup, const char *cgroups_path, const char *id, pid_t pid,
			 const struct oci_resources *resources, struct error *err)
{
	struct dbus_writer args = { 0 };
	char slice[256], scope[256];
	int rc = unit_names(cgroups_path, id, slice, scope, sizeof(scope), err);
	struct dbus *bus = NULL;

	(void)resources;
	if (!rc)
		rc = dbus_open(&bus, err);
	/* Only those who subscribed are told when a job is done. */
	if (!rc)
		rc = dbus_call(bus, SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "Subscribe", "", NULL, err);
	if (!rc) {
		strcpy(cgroup->scope, scope);
		put_scope(&args, scope, slice, id, pid);
		rc = dbus_call(bus, SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "StartTransientUnit",
			       "ssa(sv)a(sa(sv))", &args, err);
	}
	if (!rc)
		rc = dbus_wait_job(bus, scope, err);
	dbus_close(bus);
	dbus_writer_fini(&args);
	if (rc)
		return error_prefix(err, rc, "--systemd-cgroup: systemd does not make %s", scope);
	rc = find_places(cgroup, pid, err);
	return rc ? rc : complete_places(cgroup, slice, err);
}

int cgroup_systemd_stop(const struct cgroup *cgroup, struct error *err)
{
	struct dbus_writer args = { 0 };
	struct dbus *bus = NULL;
	struct error reason = { "" };
	int rc = dbus_open(&bus, err);

	if (rc)
		return rc;
	dbus_put_string(&args, cgroup->scope);
	dbus_put_string(&args, "replace");
	rc = dbus_call(bus, SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "StopUnit", "ss", &args, &reason);
	/* A scope whose processes have ended is gone by itself. */
	if (rc == -ENOENT)
		rc = 0;
	if (rc)
		error_set(err, rc, "can't stop %s: %.400s", cgroup->scope, reason.text);
	dbus_close(bus);
	dbus_writer_fini(&args);
	return rc;
}
