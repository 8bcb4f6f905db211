/* SPDX-License-Identifier: Apache-2.0 */
#include "container/shield.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

static bool is_shielded(int self)
{
	int seals = fcntl(self, F_GET_SEALS); /* -1 for what is no memfd */
	struct statvfs fs;

	return (seals > 0 && (seals & SEALS) == SEALS) || (!fstatvfs(self, &fs) && (fs.f_flag & ST_RDONLY));
}

/* The file alone as a mount that is nowhere attached. */
static int read_only_mount(const char *path)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
	int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (fd >= 0 && mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int sealed_copy(int self)
{
	int fd = memfd_create("plures-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stat st;
	off_t at = 0;

	if (fd < 0 || fstat(self, &st))
		return -1;
	while (at < st.st_size)
		if (sendfile(fd, self, &at, (size_t)(st.st_size - at)) <= 0)
			break;
	if (at == st.st_size && !fchmod(fd, 0755) && !fcntl(fd, F_ADD_SEALS, SEALS))
		return fd;
	close(fd);
	return -1;
}

int shield_start(const char *path, char **argv)
{
	int file = open(path, O_RDONLY | O_CLOEXEC), fd = file < 0 ? -1 : read_only_mount(path);

	if (file >= 0 && fd < 0)
		fd = sealed_copy(file);
	if (fd >= 0)
		fexecve(fd, argv, environ);
	int rc = -errno;

	if (file >= 0)
		close(file);
	if (fd >= 0)
		close(fd);
	return rc;
}

int shield_program(char **argv, struct error *err)
{
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	if (self < 0)
		return error_errno(err, -errno, "can't open /proc/self/exe: is /proc mounted?");
	if (is_shielded(self)) {
		close(self);
		return 0;
	}
	int fd = read_only_mount("/proc/self/exe");

	if (fd < 0)
		fd = sealed_copy(self);
	close(self);
	if (fd < 0)
		return error_errno(err, -errno, "can't make a copy of this program to start containers from");
	fexecve(fd, argv, environ);
	int rc = -errno;

	close(fd);
	return error_errno(err, rc, "can't start this program from its copy");
}
