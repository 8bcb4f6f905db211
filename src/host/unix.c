/* SPDX-License-Identifier: Apache-2.0 */
#include "host/unix.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 64 };
_Static_assert(sizeof(((struct sockaddr_un *)NULL)->sun_path) == UNIX_PATH_MAX_SIZE + 1, "as the manual has it");

static int make(const char *path, struct sockaddr_un *address, struct error *err)
{
	if (strlen(path) > UNIX_PATH_MAX_SIZE)
		return error_set(err, -ENAMETOOLONG, "%s is too long for a socket: at most %d bytes", path,
				 UNIX_PATH_MAX_SIZE);
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(address->sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd >= 0 ? fd : error_errno(err, -errno, "can't make a socket");
}

int unix_connect(const char *path, struct error *err)
{
	struct sockaddr_un address;
	int fd = make(path, &address, err);

	if (fd < 0 || !connect(fd, (const struct sockaddr *)&address, sizeof(address)))
		return fd;
	int rc = error_errno(err, -errno, "can't connect to %s", path);
	close(fd);
	return rc;
}

/* Removes a socket that a process which is gone has left. */
static int clear_path(const char *path, struct error *err)
{
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : error_errno(err, -errno, "can't listen at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, -EEXIST, "can't listen at %s: there is a file that is no socket", path);
	int fd = unix_connect(path, err);
	if (fd >= 0)
		close(fd);
	if (fd != -ECONNREFUSED)
		return error_set(err, -EADDRINUSE, "can't listen at %s: another process does", path);
	if (unlink(path))
		return error_errno(err, -errno, "can't replace %s", path);
	return 0;
}

int unix_listen(const char *path, struct error *err)
{
	struct sockaddr_un address;
	int fd = make(path, &address, err);

	if (fd < 0)
		return fd;
	int rc = clear_path(path, err);
	if (rc) {
		close(fd);
		return rc;
	}
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address))) {
		rc = error_errno(err, -errno, "can't listen at %s", path);
		close(fd);
		return rc;
	}
	/* Nobody can connect before listen: so nobody but the user ever can. */
	if (chmod(path, 0600) || listen(fd, BACKLOG)) {
		rc = error_errno(err, -errno, "can't listen at %s", path);
		close(fd);
		unlink(path);
		return rc;
	}
	return fd;
}
