/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup.c - hierarchies, folders, and who is in them. */
#include "container/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "container/idmap.h"
#include "container/log.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define MARK "trusted.plures-oci" /* on folders above containers' own that are ours */

/* ---- files ---- */

const char *cgroup_file(const struct cgroup_place *place, const char *file, char *path, size_t room)
{
	snprintf(path, room, "%s%s%s%s", place->root, place->path, file[0] ? "/" : "", file);
	return path;
}

int cgroup_write(const struct cgroup_place *place, const char *file, const char *what, struct error *err,
		 const char *fmt, ...)
{
	char path[PATH_MAX], text[512];
	va_list args;

	va_start(args, fmt);
	int size = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (size < 0 || (size_t)size >= sizeof(text))
		return error_set(err, -EINVAL, "%s: is too long", what ? what : file);
	int fd = open(cgroup_file(place, file, path, sizeof(path)), O_WRONLY | O_CLOEXEC);
	int rc = fd < 0 || write(fd, text, (size_t)size) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	if (rc)
		error_errno(err, rc, "%s%scan't write \"%s\" to %s", what ? what : "", what ? ": " : "", text, path);
	return rc;
}

ssize_t cgroup_read(const struct cgroup_place *place, const char *file, char *text, size_t room)
{
	char path[PATH_MAX];
	int fd = open(cgroup_file(place, file, path, sizeof(path)), O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t got = 1;

	if (fd < 0)
		return -errno;
	while (used + 1 < room && (got = read(fd, text + used, room - 1 - used)) > 0)
		used += (size_t)got;
	int rc = got < 0 ? -errno : 0;

	close(fd);
	text[used] = 0;
	return rc ? rc : (ssize_t)used;
}

int cgroup_missing(const char *what, const char *controller, struct error *err)
{
	return error_set(err, -ENOTSUP, "%s: this host has no cgroup controller \"%s\" for it", what, controller);
}

/* ---- hierarchies ---- */

static unsigned controller_bit(const char *name, size_t size)
{
	static const struct {
		const char *name;
		unsigned bit;
	} all[] = {
		{ "cpu", CG_CPU },         { "cpuacct", CG_CPUACCT }, { "cpuset", CG_CPUSET },
		{ "memory", CG_MEMORY },   { "devices", CG_DEVICES }, { "freezer", CG_FREEZER },
		{ "blkio", CG_BLKIO },     { "io", CG_BLKIO },        { "pids", CG_PIDS },
		{ "hugetlb", CG_HUGETLB }, { "net_cls", CG_NET_CLS }, { "net_prio", CG_NET_PRIO },
		{ "rdma", CG_RDMA },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (strlen(all[i].name) == size && !memcmp(all[i].name, name, size))
			return all[i].bit;
	return size > 5 && !memcmp(name, "name=", 5) ? 0 : CG_OTHER;
}

/* The bits of "cpu,cpuacct", or with ' ' of "cpu io memory". */
static unsigned controller_bits(const char *list, char separator)
{
	const char stops[] = { separator, '\n', 0 };
	unsigned bits = 0;

	while (*list && *list != '\n') {
		size_t size = strcspn(list, stops);

		bits |= controller_bit(list, size);
		list += size + (list[size] == separator);
	}
	return bits;
}

static bool is_mounted(const char *root, unsigned long magic)
{
	struct statfs fs;

	return !statfs(root, &fs) && (unsigned long)fs.f_type == magic;
}

/* A v2 hierarchy's controllers, and what v2 does without any. Beside v1 it is for finding and freezing processes only: what
 * controllers it may have left over stay as they are. */
static unsigned v2_controllers(const struct cgroup_place *place, bool alone)
{
	struct cgroup_place root = { .v2 = true };
	char text[512];

	if (!alone)
		return 0;
	memcpy(root.root, place->root, sizeof(root.root));
	if (cgroup_read(&root, "cgroup.controllers", text, sizeof(text)) < 0)
		text[0] = 0;
	return controller_bits(text, ' ') | CG_CPUACCT | CG_FREEZER | CG_DEVICES;
}

/* Takes a line of /proc/self/cgroup, "4:memory:/path". Hierarchies that are not mounted where they always are, are left out. */
static void take_line(struct cgroup *cgroup, char *line, bool pure_v2)
{
	char *names = strchr(line, ':');
	char *path = names ? strchr(names + 1, ':') : NULL;
	struct cgroup_place *place = &cgroup->places[cgroup->count];

	if (!path || cgroup->count == CGROUP_PLACES)
		return;
	*path++ = 0;
	names++;
	if (strlen(names) > 40 || strlen(path) >= sizeof(place->own))
		return;
	place->v2 = !names[0];
	strcpy(place->own, path);
	if (place->v2)
		strcpy(place->root, pure_v2 ? CGROUP_ROOT : CGROUP_ROOT "/unified");
	else
		snprintf(place->root, sizeof(place->root), CGROUP_ROOT "/%s",
			 strncmp(names, "name=", 5) ? names : names + 5);
	if (!is_mounted(place->root, place->v2 ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC))
		return;
	place->controllers = place->v2 ? v2_controllers(place, pure_v2) : controller_bits(names, ',');
	cgroup->count++;
}

int cgroup_find(struct cgroup *cgroup, struct error *err)
{
	bool pure_v2 = is_mounted(CGROUP_ROOT, CGROUP2_SUPER_MAGIC);
	char *text, *line, *rest = NULL;
	size_t size;

	memset(cgroup, 0, sizeof(*cgroup));
	int rc = oci_file_read(AT_FDCWD, "/proc/self/cgroup", &text, &size, err);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		take_line(cgroup, line, pure_v2);
	free(text);
	return 0;
}

const struct cgroup_place *cgroup_with(const struct cgroup *cgroup, enum cgroup_controller controller)
{
	for (unsigned i = 0; i < cgroup->count; i++)
		if (cgroup->places[i].controllers & controller)
			return &cgroup->places[i];
	return NULL;
}

/* ---- folders ---- */

/* How many of the last folders of a path are not there. */
static unsigned count_missing(const struct cgroup_place *place)
{
	char path[PATH_MAX];
	size_t root = strlen(place->root);
	unsigned missing = 0;

	cgroup_file(place, "", path, sizeof(path));
	while (strlen(path) > root && access(path, F_OK)) {
		*strrchr(path, '/') = 0;
		missing++;
	}
	return missing;
}

/* Puts "/a/b" together from parts with as few slashes as need be; ".." is refused, for it would lead out. */
static int join(char *to, size_t room, const char *up, const char *path, struct error *err)
{
	size_t used = 0;

	for (unsigned i = 0; i < 2; i++)
		for (const char *p = i ? path : up; *p;) {
			size_t size = strcspn(p, "/");

			if (size == 2 && !memcmp(p, "..", 2))
				return error_set(err, -EINVAL,
						 "linux.cgroupsPath: \"%.80s\" must not have \"..\" in it", path);
			if (size && !(size == 1 && p[0] == '.')) {
				if (used + size + 2 > room)
					return error_set(err, -ENAMETOOLONG,
							 "linux.cgroupsPath: \"%.40s...\" is too long", path);
				to[used++] = '/';
				memcpy(to + used, p, size);
				used += size;
			}
			p += size + (p[size] == '/');
		}
	to[used] = 0;
	return 0;
}

int cgroup_plan(struct cgroup *cgroup, const char *path, const char *id, struct error *err)
{
	char default_path[300];
	int rc = 0;

	snprintf(default_path, sizeof(default_path), "/plures-%s", id);
	for (unsigned i = 0; i < cgroup->count && !rc; i++) {
		struct cgroup_place *place = &cgroup->places[i];
		/* Who is not the host's root has rights at most below its own cgroup. */
		const char *chosen = path && path[0] ? path : default_path + idmap_rootless();

		/* "If the value is a relative path [...] the runtime MAY interpret it relative to a runtime-determined location". */
		rc = join(place->path, sizeof(place->path), chosen[0] == '/' ? "" : place->own, chosen, err);
		place->made = count_missing(place);
	}
	return rc;
}

/* A new cpuset is empty, and nothing can run in it: it takes what the one above has. */
static int copy_cpuset(const struct cgroup_place *place, struct error *err)
{
	static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
	struct cgroup_place up = *place;
	char text[512];

	*strrchr(up.path, '/') = 0;
	for (unsigned i = 0; i < 2; i++) {
		if (cgroup_read(place, files[i], text, sizeof(text)) > 1)
			continue;
		if (cgroup_read(&up, files[i], text, sizeof(text)) < 0)
			return error_set(err, -EIO, "can't read %s of %s%s", files[i], up.root, up.path);
		text[strcspn(text, "\n")] = 0;
		int rc = cgroup_write(place, files[i], NULL, err, "%s", text);

		if (rc)
			return rc;
	}
	return 0;
}

/* Gives a v2 folder's children the controllers that it has itself. What the host withholds shows when a limit needs it. */
static void enable_controllers(const struct cgroup_place *place)
{
	char text[512], *rest = NULL;

	if (cgroup_read(place, "cgroup.controllers", text, sizeof(text)) <= 0)
		return;
	for (char *name = strtok_r(text, " \n", &rest); name; name = strtok_r(NULL, " \n", &rest))
		if (cgroup_write(place, "cgroup.subtree_control", NULL, NULL, "+%s", name))
			log_debug("%s%s: can't pass on the controller %s", place->root, place->path, name);
}

/* Makes one place's folders, from the top. */
static int create_place(const struct cgroup_place *place, struct error *err)
{
	struct cgroup_place at = *place;
	char path[PATH_MAX];
	size_t end = 0, size = strlen(place->path);

	while (end < size) {
		at.path[end] = 0;
		if (place->v2 && place->controllers)
			enable_controllers(&at);
		end += 1 + strcspn(place->path + end + 1, "/");
		memcpy(at.path, place->path, end);
		at.path[end] = 0;
		bool there = mkdir(cgroup_file(&at, "", path, sizeof(path)), 0755);

		if (there && errno != EEXIST)
			return error_errno(err, -errno, "can't make the cgroup %s", path);
		/* Whoever is the last in it removes it, which need not be whom it was made for. */
		if (!there && end < size)
			setxattr(path, MARK, "", 0, 0);
		if (!place->v2 && (place->controllers & CG_CPUSET)) {
			int rc = copy_cpuset(&at, err);

			if (rc)
				return rc;
		}
	}
	return 0;
}

/* The usual case is one new folder under one that is there. */
static int create_quickly(const struct cgroup_place *place)
{
	char path[PATH_MAX];

	if (place->v2 && place->controllers)
		return -EAGAIN;
	if (mkdir(cgroup_file(place, "", path, sizeof(path)), 0755))
		return -errno;
	return !place->v2 && (place->controllers & CG_CPUSET) ? copy_cpuset(place, NULL) : 0;
}

int cgroup_create(struct cgroup *cgroup, bool v2, struct error *err)
{
	for (unsigned i = 0; i < cgroup->count;) {
		if (cgroup->places[i].v2 != v2) {
			i++;
			continue;
		}
		int rc = create_quickly(&cgroup->places[i]) ? create_place(&cgroup->places[i], err) : 0;

		if (!rc) {
			i++;
			continue;
		}
		if ((rc != -EACCES && rc != -EPERM && rc != -EROFS) || !idmap_rootless())
			return rc;
		log_debug("%s", err->text);
		memmove(&cgroup->places[i], &cgroup->places[i + 1],
			(cgroup->count - i - 1) * sizeof(cgroup->places[0]));
		cgroup->count--;
	}
	return 0;
}

int cgroup_remove(const struct cgroup *cgroup, struct error *err)
{
	char path[PATH_MAX];
	int rc = 0;

	for (unsigned i = 0; i < cgroup->count; i++) {
		const struct cgroup_place *place = &cgroup->places[i];

		cgroup_file(place, "", path, sizeof(path));
		if (place->made)
			cgroup_tree_remove(place);
		for (unsigned n = 0; n < place->made || (n && getxattr(path, MARK, NULL, 0) >= 0); n++) {
			/* A process that was killed stays for a moment. */
			for (unsigned try = 0; n == 0 && rmdir(path) && errno == EBUSY && try < 100; try++)
				nanosleep(&(struct timespec){ .tv_nsec = try < 10 ? 200000 : 10000000 }, NULL);
			if (n && rmdir(path) && errno != ENOENT)
				break;
			if (n == 0 && !access(path, F_OK))
				rc = error_errno(err, -EBUSY, "can't remove the cgroup %s", path);
			*strrchr(path, '/') = 0;
		}
	}
	return rc;
}

/* ---- processes ---- */

int cgroup_open_v2(const struct cgroup *cgroup, struct error *err)
{
	char path[PATH_MAX];

	for (unsigned i = 0; i < cgroup->count; i++) {
		if (!cgroup->places[i].v2)
			continue;
		int fd =
		    open(cgroup_file(&cgroup->places[i], "", path, sizeof(path)), O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0 && errno == ENOENT)
			return -1;
		return fd < 0 ? error_errno(err, -errno, "can't open the cgroup %s", path) : fd;
	}
	return -1;
}

int cgroup_open_tasks(const struct cgroup *cgroup, int fds[CGROUP_PLACES], struct error *err)
{
	char path[PATH_MAX];
	int count = 0;

	for (unsigned i = 0; i < cgroup->count; i++) {
		if (cgroup->places[i].v2)
			continue;
		fds[count] = open(cgroup_file(&cgroup->places[i], "tasks", path, sizeof(path)), O_WRONLY | O_CLOEXEC);
		if (fds[count] < 0 && errno == ENOENT) /* planned, but this user might not make it */
			continue;
		if (fds[count] < 0) {
			int rc = -errno;

			while (count)
				close(fds[--count]);
			return error_errno(err, rc, "can't open %s", path);
		}
		count++;
	}
	return count;
}

int cgroup_enter(const int *fds, unsigned count, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < count; i++) {
		if (!rc && write(fds[i], "0", 1) != 1)
			rc = error_errno(err, -errno, "can't enter a cgroup");
		close(fds[i]);
	}
	return rc;
}

/* The place to look for processes in: they are in all of them. */
static const struct cgroup_place *any_place(const struct cgroup *cgroup)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_PIDS);

	return place || !cgroup->count ? place : &cgroup->places[0];
}

int cgroup_each_process(const struct cgroup *cgroup, void (*fn)(void *arg, pid_t pid), void *arg, struct error *err)
{
	const struct cgroup_place *place = any_place(cgroup);

	return place ? cgroup_tree_each(place, fn, arg, err) : 0;
}

static const struct cgroup_place *freezer(const struct cgroup *cgroup)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_FREEZER);

	for (unsigned i = 0; !place && i < cgroup->count; i++)
		if (cgroup->places[i].v2)
			place = &cgroup->places[i];
	return place;
}

static void send_signal(void *arg, pid_t pid)
{
	kill(pid, *(const int *)arg);
}

int cgroup_kill(const struct cgroup *cgroup, int signal, struct error *err)
{
	struct cgroup ours = { .count = 0 };

	for (unsigned i = 0; i < cgroup->count; i++)
		if (cgroup->places[i].made)
			ours.places[ours.count++] = cgroup->places[i];
	for (unsigned i = 0; i < ours.count && signal == SIGKILL; i++)
		if (ours.places[i].v2) /* at once, so that none escapes by having children faster (Linux 5.14) */
			cgroup_write(&ours.places[i], "cgroup.kill", NULL, NULL, "1");
	for (unsigned try = 0; ours.count; try++) {
		int count = cgroup_each_process(&ours, send_signal, &signal, err);

		if (count <= 0 || signal != SIGKILL)
			return count < 0 ? count : 0;
		if (cgroup_frozen(&ours))
			cgroup_freeze(&ours, false, NULL);
		if (try == 20 && freezer(&ours))
			cgroup_tree_thaw(freezer(&ours));
		if (try == 500)
			return error_set(err, -ETIMEDOUT, "%d processes of the container do not end", count);
		nanosleep(&(struct timespec){ .tv_nsec = try < 20 ? 500000 : 10000000 }, NULL);
	}
	return 0;
}

/* ---- freezing ---- */

bool cgroup_frozen(const struct cgroup *cgroup)
{
	const struct cgroup_place *place = freezer(cgroup);
	char text[256];

	if (!place || cgroup_read(place, place->v2 ? "cgroup.freeze" : "freezer.state", text, sizeof(text)) <= 0)
		return false;
	return place->v2 ? text[0] == '1' : text[0] == 'F';
}

/* Whether all processes are in the state asked for. v1 says FREEZING on the way, and wants to be asked again. */
static bool settled(const struct cgroup_place *place, bool freeze)
{
	char text[256];

	if (cgroup_read(place, place->v2 ? "cgroup.events" : "freezer.state", text, sizeof(text)) <= 0)
		return true; /* it is gone */
	if (place->v2)
		return strstr(text, freeze ? "frozen 1" : "frozen 0") != NULL;
	return !strncmp(text, freeze ? "FROZEN" : "THAWED", 6);
}

int cgroup_freeze(const struct cgroup *cgroup, bool freeze, struct error *err)
{
	const struct cgroup_place *place = freezer(cgroup);

	if (!place)
		return error_set(err, -ENOTSUP, "the container has no cgroup that could be frozen");
	for (unsigned try = 0; try < 1000; try++) {
		int rc = place->v2 ? cgroup_write(place, "cgroup.freeze", NULL, err, "%d", freeze)
				   : cgroup_write(place, "freezer.state", NULL, err, freeze ? "FROZEN" : "THAWED");

		if (rc)
			return rc == -ENOENT
				   ? error_set(err, -ENOTSUP, "the container has no cgroup that could be frozen")
				   : rc;
		if (settled(place, freeze))
			return 0;
		nanosleep(&(struct timespec){ .tv_nsec = try < 50 ? 100000 : 5000000 }, NULL);
	}
	if (freeze)
		cgroup_freeze(cgroup, false, NULL);
	return error_set(err, -ETIMEDOUT, "the container's processes do not %s", freeze ? "freeze" : "thaw");
}

/* ---- limits ---- */

int cgroup_limit(const struct cgroup *cgroup, const struct oci_resources *resources, bool update, struct error *err)
{
	bool v2 = false, v1 = false;

	for (unsigned i = 0; i < cgroup->count; i++) {
		v2 |= cgroup->places[i].v2;
		v1 |= !cgroup->places[i].v2;
	}
	int rc = v2 && !v1 ? cgroup_limit_v2(cgroup, resources, err) : cgroup_limit_v1(cgroup, resources, update, err);

	return rc ? rc : cgroup_limit_devices(cgroup, resources, err);
}
