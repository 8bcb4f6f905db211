/* SPDX-License-Identifier: Apache-2.0 */
#include "container/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_LINKS = 40 };

static int open_in(int root, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how how = { .flags = flags | O_CLOEXEC,
				.mode = mode,
				.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve };

	/* EAGAIN: something was renamed meanwhile, so ".." could not be trusted. */
	for (unsigned try = 0;; try++) {
		long fd = syscall(SYS_openat2, root, path[0] ? path : ".", &how, sizeof(how));

		if (fd >= 0)
			return (int)fd;
		if ((errno != EAGAIN && errno != EINTR) || try == 100)
			return -errno;
	}
}

int path_open(int root, const char *path, bool strict)
{
	return open_in(root, path, O_PATH, 0, strict ? RESOLVE_NO_SYMLINKS : 0);
}

int path_open_as(int root, const char *path, int flags, unsigned mode)
{
	return open_in(root, path, (uint64_t)flags, mode, 0);
}

/* Makes one missing component below the folder `up`; a dangling symbolic link is -ELOOP. */
static int make_one(int up, const char *name, bool folder)
{
	if (folder)
		return mkdirat(up, name, 0755) && errno != EEXIST ? -errno : 0;
	int fd = openat(up, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0644);

	if (fd < 0)
		return errno == EEXIST ? 0 : -errno;
	close(fd);
	return 0;
}

/* A walk: `done` is what was found to be there, `rest` what remains. */
struct walk {
	char done[PATH_MAX], rest[PATH_MAX];
	unsigned links;
};

/* Puts a dangling link's target in front of the rest. */
static int follow(struct walk *w, int up, const char *name, const char *after)
{
	char target[PATH_MAX], next[PATH_MAX];
	ssize_t size = readlinkat(up, name, target, sizeof(target) - 1);

	if (size < 0)
		return -errno;
	target[size] = 0;
	if (++w->links > MAX_LINKS)
		return -ELOOP;
	if (snprintf(next, sizeof(next), "%s/%s", target, after) >= (int)sizeof(next))
		return -ENAMETOOLONG;
	strcpy(w->rest, next);
	if (target[0] == '/')
		w->done[0] = 0;
	return 0;
}

/* Moves on by one component. */
static int step(struct walk *w, int root, bool folder)
{
	char name[NAME_MAX + 1], after[PATH_MAX];
	const char *start = w->rest + strspn(w->rest, "/");
	size_t size = strcspn(start, "/"), done = strlen(w->done);
	bool last = !start[size + strspn(start + size, "/")];

	if (size > NAME_MAX || done + size + 2 > sizeof(w->done))
		return -ENAMETOOLONG;
	memcpy(name, start, size);
	name[size] = 0;
	strcpy(after, start + size);
	int up = path_open(root, w->done, false);

	if (up < 0)
		return up;
	w->done[done] = '/';
	strcpy(w->done + done + 1, name);
	int fd = path_open(root, w->done, false), rc = 0;

	if (fd == -ENOENT) {
		rc = make_one(up, name, folder || !last);
		fd = rc ? rc : path_open(root, w->done, false);
		if (fd == -ENOENT) { /* it is there and leads nowhere */
			w->done[done] = 0;
			rc = follow(w, up, name, after);
			close(up);
			return rc;
		}
	}
	close(up);
	if (fd < 0)
		return fd;
	close(fd);
	strcpy(w->rest, after);
	return 0;
}

int path_make(int root, const char *path, bool folder, struct error *err)
{
	struct walk w;
	int fd = path_open(root, path, false), rc = 0;

	if (fd != -ENOENT)
		return fd < 0 ? error_errno(err, fd, "can't open %s", path) : fd;
	w.links = 0;
	w.done[0] = 0;
	if (strlen(path) >= sizeof(w.rest))
		return error_errno(err, -ENAMETOOLONG, "can't make %s", path);
	strcpy(w.rest, path);
	while (!rc && w.rest[strspn(w.rest, "/")])
		rc = step(&w, root, folder);
	fd = rc ? rc : path_open(root, w.done, false);
	return fd < 0 ? error_errno(err, fd, "can't make %s in the container's root", path) : fd;
}

int path_make_parent(int root, const char *path, const char **name, struct error *err)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];

	*name = slash ? slash + 1 : path;
	if (!**name || !strcmp(*name, ".") || !strcmp(*name, ".."))
		return error_set(err, -EINVAL, "\"%s\" does not end in a name", path);
	if ((size_t)(*name - path) >= sizeof(folder))
		return error_errno(err, -ENAMETOOLONG, "%s", path);
	memcpy(folder, path, (size_t)(*name - path));
	folder[*name - path] = 0;
	return path_make(root, folder, true, err);
}
