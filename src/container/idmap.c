/* SPDX-License-Identifier: Apache-2.0 */
#include "container/idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAP_TEXT = 8192 };

static int format(const struct oci_maps *maps, char *text, struct error *err)
{
	size_t used = 0;

	for (size_t i = 0; i < maps->count; i++) {
		used += (size_t)snprintf(text + used, MAP_TEXT - used, "%u %u %u\n", maps->maps[i].container,
					 maps->maps[i].host, maps->maps[i].size);
		if (used + 40 > MAP_TEXT)
			return error_set(err, -E2BIG, "more maps of identities than the kernel takes");
	}
	return 0;
}

uint32_t idmap_host(const struct oci_maps *maps, uint32_t id)
{
	for (size_t i = 0; i < maps->count; i++)
		if (id >= maps->maps[i].container && id - maps->maps[i].container < maps->maps[i].size)
			return maps->maps[i].host + (id - maps->maps[i].container);
	return id;
}

static int write_file(pid_t pid, const char *file, const char *text)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int rc = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

/* newuidmap PID INSIDE OUTSIDE SIZE ... */
static int run_helper(const char *program, pid_t pid, const struct oci_maps *maps, struct error *err)
{
	char **argv = calloc(3 * maps->count + 3, sizeof(*argv)), *text = malloc(12 * (3 * maps->count + 1));
	char *at = text;
	size_t n = 0;
	int status = 0, rc = 0;

	if (!argv || !text) {
		free(argv);
		free(text);
		return error_errno(err, -ENOMEM, "%s", program);
	}
	argv[n++] = (char *)(uintptr_t)program;
	for (size_t i = 0; i < 3 * maps->count + 1; i++) {
		const struct oci_map *m = i ? &maps->maps[(i - 1) / 3] : NULL;
		unsigned value = !m                 ? (unsigned)pid
				 : (i - 1) % 3 == 0 ? m->container
				 : (i - 1) % 3 == 1 ? m->host
						    : m->size;

		argv[n++] = at;
		at += sprintf(at, "%u", value) + 1;
	}
	pid_t child = fork();

	if (!child) {
		execvp(program, argv);
		_exit(127);
	}
	if (child < 0)
		rc = error_errno(err, -errno, "can't start %s", program);
	else if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
		rc = error_set(err, -EPERM,
			       status >> 8 == 127 ? "%s is not installed: map only your own identity, or install uidmap"
						  : "%s refuses the map: look at /etc/subuid and /etc/subgid",
			       program);
	free(argv);
	free(text);
	return rc;
}

static int write_map(pid_t pid, const char *file, const char *program, const char *field, const struct oci_maps *maps,
		     struct error *err)
{
	char text[MAP_TEXT];
	int rc = format(maps, text, err);

	if (rc)
		return rc;
	rc = write_file(pid, file, text);
	if (rc == -EPERM && geteuid())
		rc = run_helper(program, pid, maps, err);
	else if (rc)
		error_errno(err, rc, "the kernel refuses the map");
	return rc ? error_prefix(err, rc, "linux.%s", field) : 0;
}

int idmap_write(pid_t pid, const struct oci_maps *uids, const struct oci_maps *gids, struct error *err)
{
	/* An unprivileged user may map its own group only after giving up setgroups(2). newgidmap sees to that where it must. */
	bool own = geteuid() && gids->count == 1 && gids->maps[0].size == 1 && gids->maps[0].host == getegid();

	if (own) {
		int rc = write_file(pid, "setgroups", "deny");

		if (rc && rc != -ENOENT)
			return error_errno(err, rc, "can't write setgroups");
	}
	int rc = write_map(pid, "gid_map", "newgidmap", "gidMappings", gids, err);

	return rc ? rc : write_map(pid, "uid_map", "newuidmap", "uidMappings", uids, err);
}

int idmap_set(int mount, bool recursive, int user_namespace, struct error *err)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (unsigned long long)user_namespace };

	if (mount_setattr(mount, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof(attr)))
		return error_errno(err, -errno, "can't map its identities (does the filesystem allow it?)");
	return 0;
}

int idmap_apply(int mount, bool recursive, const struct oci_maps *uids, const struct oci_maps *gids, struct error *err)
{
	char path[64];
	/* A process is what a new user namespace needs for a moment. */
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);

	if (!pid) {
		pause();
		_exit(0);
	}
	if (pid < 0)
		return error_errno(err, -errno, "can't make a user namespace");
	int rc = idmap_write(pid, uids, gids, err);

	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	int fd = rc ? -1 : open(path, O_RDONLY | O_CLOEXEC);

	if (!rc && fd < 0)
		rc = error_errno(err, -errno, "can't open %s", path);
	if (!rc)
		rc = idmap_set(mount, recursive, fd, err);
	if (fd >= 0)
		close(fd);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return rc;
}

bool idmap_rootless(void)
{
	char text[64] = "";
	unsigned inside = 0, outside = 1, size = 0;

	if (geteuid())
		return true;
	int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return sscanf(text, "%u %u %u", &inside, &outside, &size) != 3 || inside || outside || size != UINT32_MAX;
}
