/* SPDX-License-Identifier: Apache-2.0 */
/*
 * systemd.c - cgroups that systemd makes (`--systemd-cgroup`): a scope unit for the container's process, asked for over D-Bus
 * (org.freedesktop.systemd1(5), StartTransientUnit). Limits are written to the cgroup's files afterwards, as without systemd:
 * Delegate=yes makes the folder ours. Those that systemd has a property for it is told too, for it writes the files anew, with what
 * it knows, whenever it reloads or changes something of the unit (systemd.resource-control(5)).
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

static void put_size(struct dbus_writer *w, const char *name, uint64_t value)
{
	dbus_put_align(w, 8);
	dbus_put_string(w, name);
	dbus_put_signature(w, "t");
	dbus_put_u64(w, value);
}

/* "0-3,7" as bits, the lowest first. */
static void put_set(struct dbus_writer *w, const char *name, const char *list)
{
	uint8_t bits[128] = { 0 };
	size_t used = 0;

	for (const char *at = list ? list : ""; *at;) {
		char *end;
		unsigned long first = strtoul(at, &end, 10), last = *end == '-' ? strtoul(end + 1, &end, 10) : first;

		for (; first <= last && first < 8 * sizeof(bits); first++) {
			bits[first / 8] |= (uint8_t)(1 << first % 8);
			used = first / 8 + 1 > used ? first / 8 + 1 : used;
		}
		at = end == at ? "" : end + (*end == ',');
	}
	if (!used)
		return;
	dbus_put_align(w, 8);
	dbus_put_string(w, name);
	dbus_put_signature(w, "ay");
	dbus_put_bytes(w, bits, used);
}

/* A limit of -1 is none, which for systemd is the largest number; 0 is as if it were not given. */
static void put_limit(struct dbus_writer *w, const char *name, const struct reader_number *n)
{
	if (n->set && n->value)
		put_size(w, name, n->value < 0 ? UINT64_MAX : (uint64_t)n->value);
}

/* Where a file of the unit's cgroup holds both quota and period, one of them may be there already. */
static void put_quota(struct dbus_writer *w, const struct cgroup *cgroup, const struct oci_cpu *cpu)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_CPU);
	long long quota = -1, period = 100000;
	char text[64];

	if ((!cpu->quota.set || !cpu->quota.value) && (!cpu->period.set || !cpu->period.value))
		return;
	if (place && place->v2 && cgroup_read(place, "cpu.max", text, sizeof(text)) > 0 &&
	    sscanf(text, "%lld %lld", &quota, &period) != 2)
		sscanf(text, "max %lld", &period);
	else if (place && !place->v2 && cgroup_read(place, "cpu.cfs_quota_us", text, sizeof(text)) > 0 &&
		 sscanf(text, "%lld", &quota) == 1 && cgroup_read(place, "cpu.cfs_period_us", text, sizeof(text)) > 0)
		sscanf(text, "%lld", &period);
	if (cpu->quota.set && cpu->quota.value)
		quota = cpu->quota.value;
	if (cpu->period.set && cpu->period.value)
		period = cpu->period.value;
	/* Microseconds of each second, rounded up, from which systemd computes the quota again. */
	if (quota > 0 && quota < INT64_MAX / 1000000 && period > 0)
		put_size(w, "CPUQuotaPerSecUSec", (uint64_t)(quota * 1000000 + period - 1) / (uint64_t)period);
	else
		put_size(w, "CPUQuotaPerSecUSec", UINT64_MAX);
	put_size(w, "CPUQuotaPeriodUSec", (uint64_t)period);
}

static void put_limits(struct dbus_writer *w, const struct cgroup *cgroup, const struct oci_resources *r)
{
	bool v2 = cgroup->count == 1 && cgroup->places[0].v2;

	put_limit(w, v2 ? "MemoryMax" : "MemoryLimit", &r->memory.limit);
	if (v2) {
		struct reader_number swap = r->memory.swap;

		put_limit(w, "MemoryLow", &r->memory.reservation);
		/* v1, and the configuration, count both together. */
		if (swap.set && swap.value > 0 && r->memory.limit.value > 0)
			put_size(w, "MemorySwapMax", (uint64_t)(swap.value - r->memory.limit.value));
		else if (swap.value < 0)
			put_limit(w, "MemorySwapMax", &swap);
	}
	if (r->cpu.shares.set && r->cpu.shares.value)
		put_size(w, v2 ? "CPUWeight" : "CPUShares",
			 (uint64_t)(v2 ? cgroup_v2_weight(r->cpu.shares.value) : r->cpu.shares.value));
	put_quota(w, cgroup, &r->cpu);
	if (v2) {
		put_set(w, "AllowedCPUs", r->cpu.cpus);
		put_set(w, "AllowedMemoryNodes", r->cpu.mems);
	}
	if (r->pids.set)
		put_size(w, "TasksMax", r->pids.value > 0 ? (uint64_t)r->pids.value : UINT64_MAX);
}

static void put_scope(struct dbus_writer *w, const struct cgroup *cgroup, const char *slice, const char *id, pid_t pid,
		      const struct oci_resources *resources)
{
	const char *scope = cgroup->scope;
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
	put_limits(w, cgroup, resources);
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

	if (!rc)
		rc = dbus_open(&bus, err);
	/* Only those who subscribed are told when a job is done. */
	if (!rc)
		rc = dbus_call(bus, SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "Subscribe", "", NULL, err);
	if (!rc) {
		strcpy(cgroup->scope, scope);
		put_scope(&args, cgroup, slice, id, pid, resources);
		rc = dbus_call(bus, SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "StartTransientUnit",
			       "ssa(sv)a(sa(sv))", &args, err);
	}
	if (!rc)
		rc = dbus_wait_job(bus, scope, err);
	dbus_close(bus);
	dbus_writer_fini(&args);
	if (rc) /* whatever is not found or permitted here, it is not the container's program, which such a status tells of */
		return error_prefix(err, -EIO, "--systemd-cgroup: systemd does not make %s", scope);
	rc = find_places(cgroup, pid, err);
	return rc ? rc : complete_places(cgroup, slice, err);
}

int cgroup_systemd_update(const struct cgroup *cgroup, const struct oci_resources *resources, struct error *err)
{
	struct dbus_writer args = { 0 };
	struct dbus *bus = NULL;
	int rc = dbus_open(&bus, err);

	if (rc)
		return rc;
	dbus_put_string(&args, cgroup->scope);
	dbus_put_u32(&args, 1); /* not beyond this boot */
	size_t properties = dbus_begin_array(&args, 8);

	put_limits(&args, cgroup, resources);
	dbus_end_array(&args, properties);
	rc = dbus_call(bus, SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "SetUnitProperties", "sba(sv)", &args, err);
	dbus_close(bus);
	dbus_writer_fini(&args);
	return rc ? error_prefix(err, rc, "systemd does not change %s", cgroup->scope) : 0;
}

int cgroup_systemd_attach(struct dbus *bus, const struct cgroup *cgroup, pid_t pid, struct error *err)
{
	struct dbus_writer args = { 0 };

	dbus_put_string(&args, cgroup->scope);
	dbus_put_string(&args, ""); /* the unit's own cgroup */
	size_t pids = dbus_begin_array(&args, 4);

	dbus_put_u32(&args, (uint32_t)pid);
	dbus_end_array(&args, pids);
	int rc =
	    dbus_call(bus, SYSTEMD, "/org/freedesktop/systemd1", MANAGER, "AttachProcessesToUnit", "ssau", &args, err);

	dbus_writer_fini(&args);
	return rc ? error_prefix(err, -EIO, "systemd does not move a process into %s", cgroup->scope) : 0;
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
