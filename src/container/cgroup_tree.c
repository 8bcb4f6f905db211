/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup_tree.c - the folders that a container makes below its own cgroup, where it may: an init system or an engine inside does.
 * How deep they go is the container's choice, so the walk takes no path from the top, and only one step at a time (fts(3)).
 */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/cgroup.h"
#include "container/idmap.h"
#include "container/log.h"

/* ---- the walk ---- */

/* A folder of this filesystem has a link for itself, one for its name, and one for each folder in it. */
static bool has_below(const char *path)
{
	struct stat st;

	return !stat(path, &st) && st.st_nlink > 2;
}

/* Calls fn with the name, in the current folder, of each folder below the place; before those in it or, with `after`, after. */
static void walk(const struct cgroup_place *place, bool after, void (*fn)(void *arg, const char *name), void *arg)
{
	char path[PATH_MAX], *paths[] = { path, NULL };

	if (!has_below(cgroup_file(place, "", path, sizeof(path))))
		return;
	FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOSTAT, NULL);
	FTSENT *entry;

	while (tree && (entry = fts_read(tree)))
		if (entry->fts_level > 0 && entry->fts_info == (after ? FTS_DP : FTS_D))
			fn(arg, entry->fts_accpath);
	if (tree)
		fts_close(tree);
}

/* ---- processes ---- */

struct each {
	void (*fn)(void *arg, pid_t pid);
	void *arg;
	int count;
};

static int read_processes(const char *path, struct each *each, struct error *err)
{
	char *text, *rest = NULL;
	size_t size;
	int rc = oci_file_read(AT_FDCWD, path, &text, &size, err);

	if (rc)
		return rc;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		pid_t pid = (pid_t)strtol(line, NULL, 10);

		/* 0 is a process that this PID namespace does not show; a signal to it would go to our own group. */
		if (pid > 0) {
			each->fn(each->arg, pid);
			each->count++;
		}
	}
	free(text);
	return 0;
}

static void read_below(void *arg, const char *name)
{
	char path[NAME_MAX + 16];
	struct error ignored;

	snprintf(path, sizeof(path), "%s/cgroup.procs", name);
	read_processes(path, arg, &ignored);
}

int cgroup_tree_each(const struct cgroup_place *place, void (*fn)(void *arg, pid_t pid), void *arg, struct error *err)
{
	struct each each = { fn, arg, 0 };
	char path[PATH_MAX];
	int rc = read_processes(cgroup_file(place, "cgroup.procs", path, sizeof(path)), &each, err);

	/* EOPNOTSUPP: a threaded cgroup's processes are listed above it. */
	if (rc && rc != -ENOENT && rc != -ENODEV && rc != -EOPNOTSUPP)
		return rc;
	walk(place, false, read_below, &each);
	return each.count;
}

/* ---- what stands in the way of an end ---- */

static void thaw(void *arg, const char *name)
{
	const struct cgroup_place *place = arg;
	char path[NAME_MAX + 16];

	snprintf(path, sizeof(path), "%s/%s", name, place->v2 ? "cgroup.freeze" : "freezer.state");
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, place->v2 ? "0" : "THAWED", place->v2 ? 1 : 6) < 0)
		log_debug("%s: can't be written: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

void cgroup_tree_thaw(const struct cgroup_place *place)
{
	walk(place, false, thaw, (void *)(uintptr_t)place);
}

static void remove_folder(void *arg, const char *name)
{
	(void)arg;
	rmdir(name);
}

void cgroup_tree_remove(const struct cgroup_place *place)
{
	walk(place, true, remove_folder, NULL);
}

/* ---- delegation ---- */

int cgroup_delegate(const struct cgroup *cgroup, uid_t uid, gid_t gid, struct error *err)
{
	static const char usual[] = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";
	char path[PATH_MAX], *text = NULL, *rest = NULL;
	const struct cgroup_place *place = cgroup->count == 1 && cgroup->places[0].v2 ? &cgroup->places[0] : NULL;
	struct error ignored;
	size_t size;
	int rc = 0;

	if (!place || !place->made)
		return 0;
	if (oci_file_read(AT_FDCWD, "/sys/kernel/cgroup/delegate", &text, &size, &ignored))
		text = strdup(usual);
	if (!text)
		return error_errno(err, -ENOMEM, "the cgroup's owner");
	if (chown(cgroup_file(place, "", path, sizeof(path)), uid, gid))
		rc = -errno;
	for (char *name = strtok_r(text, "\n", &rest); name && !rc; name = strtok_r(NULL, "\n", &rest))
		if (chown(cgroup_file(place, name, path, sizeof(path)), uid, gid) && errno != ENOENT)
			rc = -errno;
	free(text);
	if (rc == -EPERM && idmap_rootless()) /* it is the user's own */
		return 0;
	return rc ? error_errno(err, rc, "can't give %s to user %u", path, uid) : 0;
}

/* ---- a process more ---- */

int cgroup_open_v2_of(const struct cgroup *cgroup, pid_t pid, struct error *err)
{
	const struct cgroup_place *place = cgroup->count == 1 && cgroup->places[0].v2 ? &cgroup->places[0] : NULL;
	char path[PATH_MAX], control[256], *text, *line;
	struct cgroup_place its;
	size_t size, length;

	/* "no internal processes": whoever distributes controllers to the folders below has no processes itself. */
	if (!place || cgroup_read(place, "cgroup.subtree_control", control, sizeof(control)) <= 1)
		return cgroup_open_v2(cgroup, err);
	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	if (oci_file_read(AT_FDCWD, path, &text, &size, err))
		return cgroup_open_v2(cgroup, err);
	its = *place;
	line = strncmp(text, "0::", 3) ? strstr(text, "\n0::") : text;
	line = line ? line + 3 + (*line == '\n') : text;
	line[strcspn(line, "\n")] = 0;
	length = strlen(place->path);
	/* What the container's own process is in and where it is not below the container's folder, is none of its cgroups. */
	bool below = !strncmp(line, place->path, length) && line[length] == '/' && strlen(line) < sizeof(its.path);

	if (below)
		strcpy(its.path, line);
	free(text);
	int fd = below ? open(cgroup_file(&its, "", path, sizeof(path)), O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;

	return fd >= 0 ? fd : cgroup_open_v2(cgroup, err);
}
