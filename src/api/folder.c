/* SPDX-License-Identifier: Apache-2.0 */
#include "api/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOT_MAX = 56 };

/* ---- the folder of folders ---- */

/* A link, or what others can write to, is not ours to trust. */
static int check_own(const char *path, struct error *err)
{
	struct stat st;

	if (lstat(path, &st))
		return error_errno(err, -errno, "can't use %s", path);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
		return error_set(err, -EPERM, "can't use %s: it is not a folder of this user's alone", path);
	return 0;
}

static int root_path(char root[ROOT_MAX], bool make, struct error *err)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");

	if (runtime && *runtime == '/' && strlen(runtime) < ROOT_MAX - sizeof("/plures"))
		snprintf(root, ROOT_MAX, "%s/plures", runtime);
	else if (geteuid() == 0)
		snprintf(root, ROOT_MAX, "/run/plures");
	else
		snprintf(root, ROOT_MAX, "/tmp/plures-%u", geteuid());
	if (make && mkdir(root, 0700) && errno != EEXIST)
		return error_errno(err, -errno, "can't make %s", root);
	return make ? check_own(root, err) : 0;
}

static bool is_name(const char *name)
{
	size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return size && !name[size] && size <= FOLDER_NAME_MAX && name[0] != '.';
}

static void set_paths(struct folder *folder, const char *root, const char *name)
{
	snprintf(folder->path, sizeof(folder->path), "%s/%.*s", root, FOLDER_NAME_MAX, name);
	snprintf(folder->socket, sizeof(folder->socket), "%.*s/socket", FOLDER_PATH - 8, folder->path);
}

/* ---- one machine's ---- */

static void pid_path(char path[FOLDER_PATH + 8], const struct folder *folder)
{
	snprintf(path, FOLDER_PATH + 8, "%s/pid", folder->path);
}

static void remove_files(const struct folder *folder)
{
	char path[FOLDER_PATH + 8];

	pid_path(path, folder);
	unlink(folder->socket);
	unlink(path);
	rmdir(folder->path);
}

/* Whether a file that was opened is still the one of that name: who sweeps may have removed it before it was locked. */
static bool is_at(int fd, const char *path)
{
	struct stat own, there;

	return !fstat(fd, &own) && !stat(path, &there) && own.st_ino == there.st_ino && own.st_dev == there.st_dev;
}

/* Opens and locks the file `pid`: a descriptor, -EWOULDBLOCK when its machine runs, -EAGAIN when it was removed meanwhile. */
static int lock_pid(const struct folder *folder, int flags)
{
	char path[FOLDER_PATH + 8];

	pid_path(path, folder);
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
	if (fd < 0)
		return errno == ENOENT ? -EAGAIN : -errno;
	int rc = flock(fd, LOCK_EX | LOCK_NB) ? -errno : is_at(fd, path) ? fd : -EAGAIN;
	if (rc < 0)
		close(fd);
	return rc;
}

/* Makes the folder this process' own. */
static int claim(struct folder *folder, const char *name, struct error *err)
{
	enum { TRIES = 100 };
	int rc = -EAGAIN;

	for (int i = 0; rc == -EAGAIN && i < TRIES; i++) {
		if (mkdir(folder->path, 0700) && errno != EEXIST)
			return error_errno(err, -errno, "can't make %s", folder->path);
		rc = lock_pid(folder, O_CREAT);
	}
	if (rc == -EWOULDBLOCK)
		return error_set(err, -EEXIST, "a machine called %s is running", name);
	if (rc < 0)
		return error_errno(err, rc, "can't write %s/pid", folder->path);
	folder->pid_fd = rc;
	return 0;
}

/* Removes what machines that were killed left. */
static void sweep(const char *root, const struct folder *own)
{
	DIR *dir = opendir(root);

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		struct folder other;
		if (!is_name(entry->d_name))
			continue;
		set_paths(&other, root, entry->d_name);
		int fd = strcmp(other.path, own->path) ? lock_pid(&other, 0) : -EBUSY;
		if (fd < 0)
			continue;
		remove_files(&other);
		close(fd);
	}
	if (dir)
		closedir(dir);
}

int folder_make(struct folder *folder, const char *name, struct error *err)
{
	char root[ROOT_MAX], number[16];

	folder->path[0] = '\0';
	snprintf(number, sizeof(number), "%d", getpid());
	if (name && !is_name(name))
		return error_set(err, -EINVAL,
				 "a machine can't be called '%.60s': use up to %d letters, digits, '.', '_' and '-'",
				 name, FOLDER_NAME_MAX);
	int rc = root_path(root, true, err);
	if (rc)
		return rc;
	struct folder made;
	name = name ? name : number;
	set_paths(&made, root, name);
	rc = claim(&made, name, err);
	if (rc)
		return rc;
	*folder = made;
	if (ftruncate(made.pid_fd, 0) || dprintf(made.pid_fd, "%d\n", getpid()) < 0) {
		rc = error_errno(err, -errno, "can't write %s/pid", made.path);
		folder_remove(folder);
		return rc;
	}
	sweep(root, folder);
	return 0;
}

void folder_remove(struct folder *folder)
{
	if (!folder->path[0])
		return;
	remove_files(folder);
	close(folder->pid_fd);
	folder->path[0] = '\0';
}

static bool has_pid(const char *root, const char *name, const char *pid)
{
	char path[FOLDER_PATH * 3], text[16] = "";

	snprintf(path, sizeof(path), "%s/%.*s/pid", root, FOLDER_NAME_MAX, name);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	bool same = fgets(text, sizeof(text), f) && !strncmp(text, pid, strlen(pid)) && text[strlen(pid)] == '\n';
	fclose(f);
	return same;
}

int folder_find(struct folder *folder, const char *machine, struct error *err)
{
	char root[ROOT_MAX];
	bool found = false;
	int rc = root_path(root, false, err);

	if (rc)
		return rc;
	if (is_name(machine)) {
		set_paths(folder, root, machine);
		found = !access(folder->socket, F_OK);
	}
	DIR *dir = found ? NULL : opendir(root);
	for (struct dirent *entry; !found && dir && (entry = readdir(dir));)
		if (is_name(entry->d_name) && has_pid(root, entry->d_name, machine)) {
			set_paths(folder, root, entry->d_name);
			found = true;
		}
	if (dir)
		closedir(dir);
	return found ? 0 : error_set(err, -ENOENT, "no machine called '%.60s' is running", machine);
}
