/* SPDX-License-Identifier: Apache-2.0 */
#include "container/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "container/config.h"
#include "container/idmap.h"

/* ---- names ---- */

const char *state_default_root(char *path, size_t room)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");

	if (!geteuid() && (!runtime || !runtime[0] || !idmap_rootless()))
		snprintf(path, room, "/run/plures-oci");
	else if (runtime && runtime[0])
		snprintf(path, room, "%s/plures-oci", runtime);
	else
		snprintf(path, room, "/tmp/plures-oci-%u", geteuid());
	return path;
}

int state_check_id(const char *id, struct error *err)
{
	size_t size = strlen(id);

	if (!size)
		return error_set(err, -EINVAL, "the container ID is empty");
	if (size >= sizeof(((struct state *)NULL)->id))
		return error_set(err, -EINVAL, "container ID \"%.40s...\": is longer than 255 characters", id);
	for (const char *p = id; *p; p++)
		if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.", *p))
			return error_set(err, -EINVAL,
					 "container ID \"%.80s\": only letters, digits and _+-. can be in it", id);
	if (!strcmp(id, ".") || !strcmp(id, ".."))
		return error_set(err, -EINVAL, "container ID \"%s\" is not allowed", id);
	return 0;
}

/* ---- processes ---- */

bool state_process(pid_t pid, unsigned long long *start, bool *alive)
{
	char path[40], text[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (size <= 0)
		return false;
	text[size] = 0;
	/* Field 2 is the program's name in parentheses, with anything in it; 3 is the state and 22 the time. */
	const char *at = strrchr(text, ')');

	if (!at || strlen(at) < 3)
		return false;
	*alive = at[2] != 'Z' && at[2] != 'X';
	at += 2;
	for (unsigned field = 3; field < 22 && at; field++)
		at = strchr(at + 1, ' ');
	*start = at ? strtoull(at, NULL, 10) : 0;
	return at != NULL;
}

int state_open_process(const struct state *state)
{
	unsigned long long start;
	bool alive;
	int fd = state->pid > 0 ? (int)syscall(SYS_pidfd_open, state->pid, 0) : -1;

	if (fd < 0)
		return -ESRCH;
	/* Looked at after it was opened: now the number can't be given to another one unseen. */
	if (state_process(state->pid, &start, &alive) && alive && start == state->start)
		return fd;
	close(fd);
	return -ESRCH;
}

static bool is_alive(const struct state *state)
{
	unsigned long long start;
	bool alive;

	return state->pid > 0 && state_process(state->pid, &start, &alive) && alive && start == state->start;
}

const char *state_status_name(enum state_status status)
{
	static const char *const names[] = { "creating", "created", "running", "paused", "stopped" };

	return names[status];
}

enum state_status state_status(const struct state *state)
{
	if (!state->pid)
		return STATE_CREATING;
	if (!is_alive(state))
		return STATE_STOPPED;
	int fd = openat(state->dir, "start", O_WRONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0) {
		close(fd);
		return STATE_CREATED;
	}
	return cgroup_frozen(&state->cgroup) ? STATE_PAUSED : STATE_RUNNING;
}

/* ---- writing ---- */

static int make_root(const char *root, struct error *err)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s", root) >= (int)sizeof(path))
		return error_errno(err, -ENAMETOOLONG, "--root");
	for (char *p = path + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = 0;
		if (mkdir(path, 0700) && errno != EEXIST)
			return error_errno(err, -errno, "can't make %s", path);
		if (!c)
			return 0;
		*p = c;
	}
}

static void now(char text[40])
{
	struct timespec at;
	struct tm tm;
	char seconds[40];

	clock_gettime(CLOCK_REALTIME, &at);
	gmtime_r(&at.tv_sec, &tm);
	strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text, 40, "%.19s.%06uZ", seconds, (unsigned)(at.tv_nsec / 1000));
}

int state_claim(struct state *state, const char *root, const char *id, struct error *err)
{
	char path[PATH_MAX];
	int rc = state_check_id(id, err);

	if (rc)
		return rc;
	if (snprintf(path, sizeof(path), "%s/%s", root, id) >= (int)sizeof(path))
		return error_errno(err, -ENAMETOOLONG, "--root");
	int made = mkdir(path, 0700);

	if (made && errno == ENOENT) {
		rc = make_root(root, err);
		if (rc)
			return rc;
		made = mkdir(path, 0700);
	}
	if (made && errno == EEXIST)
		return error_set(err, -EEXIST, "container with ID \"%s\" already exists", id);
	if (made)
		return error_errno(err, -errno, "can't make %s", path);
	strcpy(state->id, id);
	now(state->created);
	state->owner = geteuid();
	state->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state->dir < 0 && errno == ENOENT) /* who removes what nobody looks after was faster */
		return error_errno(err, -EAGAIN, "%s was removed", path);
	return state->dir < 0 ? error_errno(err, -errno, "can't open %s", path) : 0;
}

static int write_file(int dir, const char *name, const char *text, size_t size, struct error *err)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t put = fd < 0 ? -1 : write(fd, text, size);
	int rc = put < 0 ? -errno : put != (ssize_t)size ? -ENOSPC : 0;

	if (fd >= 0)
		close(fd);
	return rc ? error_errno(err, rc, "can't write %s of the container's state", name) : 0;
}

static json_t *place_json(const struct cgroup_place *place)
{
	return json_pack("{s:s, s:s, s:i, s:b, s:i}", "root", place->root, "path", place->path, "controllers",
			 (int)place->controllers, "v2", place->v2, "made", (int)place->made);
}

int state_write(const struct state *state, const char *config, size_t size, struct error *err)
{
	json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:[]}", "id", state->id, "bundle", state->bundle,
				 "rootfs", state->rootfs, "created", state->created, "owner", (int)state->owner,
				 "scope", state->cgroup.scope, "cgroups");
	json_t *places = root ? json_object_get(root, "cgroups") : NULL;

	for (unsigned i = 0; i < state->cgroup.count && places; i++)
		json_array_append_new(places, place_json(&state->cgroup.places[i]));
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;

	json_decref(root);
	if (!text)
		return error_set(err, -EINVAL, "the bundle's path is not UTF-8, which the state must be");
	int rc = write_file(state->dir, "config.json", config, size, err);

	if (!rc)
		rc = write_file(state->dir, "state.json", text, strlen(text), err);
	free(text);
	return rc;
}

int state_set_process(struct state *state, pid_t pid, struct error *err)
{
	char text[64];
	bool alive;

	if (!state_process(pid, &state->start, &alive))
		return error_set(err, -ESRCH, "the container's process is gone");
	state->pid = pid;
	int size = snprintf(text, sizeof(text), "%d %llu\n", pid, state->start);

	return write_file(state->dir, "pid", text, (size_t)size, err);
}

/* ---- reading ---- */

static void copy(char *to, size_t room, const char *from)
{
	snprintf(to, room, "%s", from ? from : "");
}

static void read_place(struct reader *r, const struct field *item, struct cgroup *cgroup)
{
	struct cgroup_place *place = &cgroup->places[cgroup->count];
	const char *root = NULL, *path = NULL;
	int64_t controllers = 0, made = 0;

	reader_text(r, item, "root", REQUIRED, &root);
	reader_text(r, item, "path", REQUIRED, &path);
	reader_int(r, item, "controllers", REQUIRED, 0, INT32_MAX, &controllers);
	reader_int(r, item, "made", REQUIRED, 0, 1000, &made);
	reader_flag(r, item, "v2", &place->v2);
	if (r->rc || cgroup->count == CGROUP_PLACES)
		return;
	copy(place->root, sizeof(place->root), root);
	copy(place->path, sizeof(place->path), path);
	place->controllers = (unsigned)controllers;
	place->made = (unsigned)made;
	cgroup->count++;
}

static int read_state(struct state *state, const char *text, size_t size, struct error *err)
{
	json_t *root = reader_parse(text, size, err);
	struct arena arena = { 0 };
	struct reader r = { .arena = &arena, .err = err };
	struct field top = { .value = root }, list, item;
	const char *bundle = NULL, *rootfs = NULL, *created = NULL, *scope = NULL;
	int64_t owner = 0;

	if (!root)
		return -EINVAL;
	reader_text(&r, &top, "bundle", REQUIRED, &bundle);
	reader_text(&r, &top, "rootfs", REQUIRED, &rootfs);
	reader_text(&r, &top, "created", REQUIRED, &created);
	reader_text(&r, &top, "scope", OPTIONAL, &scope);
	reader_int(&r, &top, "owner", REQUIRED, INT32_MIN, UINT32_MAX, &owner);
	if (reader_list(&r, &top, "cgroups", REQUIRED, &list))
		for (size_t i = 0; i < CGROUP_PLACES && reader_element(&r, &list, i, &item); i++)
			read_place(&r, &item, &state->cgroup);
	copy(state->bundle, sizeof(state->bundle), bundle);
	copy(state->rootfs, sizeof(state->rootfs), rootfs);
	copy(state->created, sizeof(state->created), created);
	copy(state->cgroup.scope, sizeof(state->cgroup.scope), scope);
	state->owner = (uid_t)owner;
	json_decref(root);
	arena_fini(&arena);
	return r.rc;
}

static void read_process(struct state *state)
{
	char text[64];
	int fd = openat(state->dir, "pid", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[size > 0 ? size : 0] = 0;
	if (sscanf(text, "%d %llu", &state->pid, &state->start) != 2)
		state->pid = 0;
}

int state_load(struct state *state, const char *root, const char *id, bool *damaged, struct error *err)
{
	char path[PATH_MAX], *text;
	size_t size;
	int rc = state_check_id(id, err);

	memset(state, 0, sizeof(*state));
	state->dir = -1;
	if (rc)
		return rc;
	if (snprintf(path, sizeof(path), "%s/%s", root, id) >= (int)sizeof(path))
		return error_errno(err, -ENAMETOOLONG, "--root");
	strcpy(state->id, id);
	state->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state->dir < 0 && errno == ENOENT)
		return error_set(err, -ENOENT, "container \"%s\" does not exist", id);
	if (state->dir < 0)
		return error_errno(err, -errno, "can't open %s", path);
	rc = oci_file_read(state->dir, "state.json", &text, &size, err);
	if (!rc) {
		rc = read_state(state, text, size, err);
		free(text);
	}
	if (rc && damaged) {
		*damaged = true;
		state->cgroup.count = 0;
		return 0;
	}
	if (rc == -ENOENT)
		error_set(err, rc, "container \"%s\" was never finished: delete --force removes it", id);
	if (rc) {
		state_fini(state);
		return rc;
	}
	read_process(state);
	return 0;
}

char *state_json(const struct state *state, const char *status, const char *const *annotations, struct error *err)
{
	bool stopped = !strcmp(status, "stopped");
	json_t *root = json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:{}}", "ociVersion", OCI_VERSION, "id",
				 state->id, "pid", stopped ? 0 : state->pid, "status", status, "bundle", state->bundle,
				 "rootfs", state->rootfs, "created", state->created, "owner", "", "annotations");
	json_t *notes = root ? json_object_get(root, "annotations") : NULL;

	for (const char *const *pair = annotations; pair && *pair && notes; pair += 2)
		json_object_set_new(notes, pair[0], json_string(pair[1]));
	char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;

	json_decref(root);
	if (!text)
		error_set(err, -ENOMEM, "no memory for the state");
	return text;
}

/* ---- removing ---- */

int state_remove(struct state *state, const char *root, struct error *err)
{
	/* state.json last: as long as it is there, what it names may have to be removed. */
	static const char *const files[] = { "network", "network.ready", "start", "pid", "config.json", "state.json" };
	char path[PATH_MAX];

	for (unsigned i = 0; i < sizeof(files) / sizeof(*files); i++)
		if (unlinkat(state->dir, files[i], 0) && errno != ENOENT)
			return error_errno(err, -errno, "can't remove %s of the container's state", files[i]);
	if (snprintf(path, sizeof(path), "%s/%s", root, state->id) >= (int)sizeof(path) ||
	    (rmdir(path) && errno != ENOENT))
		return error_errno(err, -errno, "can't remove %s", path);
	return 0;
}

void state_fini(struct state *state)
{
	if (state->dir >= 0)
		close(state->dir);
	state->dir = -1;
}
