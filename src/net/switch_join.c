/* SPDX-License-Identifier: Apache-2.0 */
/* switch_join.c - finding the other cards of a private network. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/switch.h"

enum { BACKLOG = 64, CARDS_MAX = 64 /* of one process on one network */ };

#define LOCK "lock"
#define PREFIX "card-"

int switch_check(const struct net_options *options, struct error *err)
{
	const struct switch_options *o = (const struct switch_options *)(const void *)options;

	if (o->name && o->path)
		return error_set(err, -EINVAL, "a network has a name= or a path=, not both");
	if (o->name && (strchr(o->name, '/') || o->name[0] == '.' || strlen(o->name) > 40))
		return error_set(err, -EINVAL, "'%.60s' can't be a network's name: it has no / and at most 40 letters",
				 o->name);
	return 0;
}

/* ---- the folder ---- */

/* Makes it unless it is there, and sees that it is the user's alone. */
static int own_folder(const char *path, struct error *err)
{
	struct stat st;

	if (mkdir(path, 0700) && errno != EEXIST)
		return error_errno(err, -errno, "can't make the folder %s for the network", path);
	if (lstat(path, &st))
		return error_errno(err, -errno, "can't use the folder %s for the network", path);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, -ENOTDIR, "%s is no folder, which a network is: choose another path=", path);
	if (st.st_uid != geteuid() || st.st_mode & 077)
		return error_set(err, -EPERM,
				 "the folder %s is open to other users: a network needs one of your own with mode 0700",
				 path);
	return 0;
}

static int too_long(struct error *err)
{
	return error_set(err, -ENAMETOOLONG,
			 "the network's path is too long for sockets in it: use path= with a shorter one");
}

/* Below the user's runtime directory; where there is none, below /tmp. */
static int default_folder(char *folder, const char *name, struct error *err)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char base[SWITCH_PATH];
	int n = runtime && *runtime == '/' ? snprintf(base, sizeof(base), "%s/plures", runtime)
					   : snprintf(base, sizeof(base), "/tmp/plures-%u", (unsigned)geteuid());

	if (n >= (int)sizeof(base))
		return too_long(err);
	int rc = own_folder(base, err);
	if (!rc && snprintf(folder, SWITCH_PATH, "%s/switch-%s", base, name) >= SWITCH_PATH)
		rc = too_long(err);
	return rc;
}

static int find_folder(struct switch_place *place, const struct switch_options *options, struct error *err)
{
	int rc = 0;

	if (!options->path)
		rc = default_folder(place->folder, options->name ? options->name : "default", err);
	else if (snprintf(place->folder, sizeof(place->folder), "%s", options->path) >= (int)sizeof(place->folder))
		rc = too_long(err);
	return rc ? rc : own_folder(place->folder, err);
}

/* ---- sockets ---- */

static int socket_address(const char *folder, const char *name, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	int n = snprintf(address->sun_path, sizeof(address->sun_path), "%s/%s", folder, name);
	return n < (int)sizeof(address->sun_path) ? 0 : -ENAMETOOLONG;
}

static bool same_user(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) && peer.uid == geteuid();
}

/* A connection to that socket, or -errno; -ECONNREFUSED when nobody listens there any more. */
static int connect_to(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	int rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) ? -errno : 0;
	if (!rc && !same_user(fd))
		rc = -EPERM;
	if (rc)
		close(fd);
	return rc ? rc : fd;
}

/* With the lock. */
static int connect_to_all(const struct switch_place *place, void (*found)(void *ctx, int fd), void *ctx,
			  struct error *err)
{
	DIR *dir = opendir(place->folder);
	struct dirent *entry;
	struct sockaddr_un address;

	if (!dir)
		return error_errno(err, -errno, "can't look into the network's folder %s", place->folder);
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0 ||
		    socket_address(place->folder, entry->d_name, &address))
			continue;
		int fd = connect_to(&address);
		if (fd >= 0)
			found(ctx, fd);
		else if (fd == -ECONNREFUSED)
			unlink(address.sun_path);
	}
	closedir(dir);
	return 0;
}

/* With the lock, and when what dead ones have left is gone. */
static int listen_there(struct switch_place *place, struct error *err)
{
	struct sockaddr_un address;
	int rc = -EADDRINUSE, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_errno(err, -errno, "the network: socket");
	place->listener = fd;
	for (unsigned i = 0; rc == -EADDRINUSE && i < CARDS_MAX; i++) {
		char name[40];
		snprintf(name, sizeof(name), PREFIX "%d-%u", (int)getpid(), i);
		if (socket_address(place->folder, name, &address))
			return too_long(err);
		rc = bind(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
	}
	if (!rc) {
		memcpy(place->socket, address.sun_path, sizeof(place->socket));
		rc = listen(fd, BACKLOG) ? -errno : 0;
	}
	return rc ? error_errno(err, rc, "can't join the network in %s", place->folder) : 0;
}

int switch_join(struct switch_place *place, const struct switch_options *options, void (*found)(void *ctx, int fd),
		void *ctx, struct error *err)
{
	char lock[SWITCH_PATH + sizeof(LOCK)];

	*place = (struct switch_place){ .listener = -1 };
	int rc = find_folder(place, options, err);
	if (rc)
		return rc;
	snprintf(lock, sizeof(lock), "%s/" LOCK, place->folder);
	int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_errno(err, -errno, "can't open %s", lock);
	/* Held for as long as some connects take: who comes later finds us listening, who came before was found by us. */
	while ((rc = flock(fd, LOCK_EX)) && errno == EINTR)
		;
	if (rc)
		rc = error_errno(err, -errno, "can't lock %s", lock);
	if (!rc)
		rc = connect_to_all(place, found, ctx, err);
	if (!rc)
		rc = listen_there(place, err);
	close(fd);
	return rc;
}

int switch_accept(const struct switch_place *place)
{
	for (;;) {
		int fd = accept4(place->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 || same_user(fd))
			return fd;
		close(fd);
	}
}

void switch_leave(struct switch_place *place)
{
	if (place->listener >= 0)
		close(place->listener);
	place->listener = -1;
	if (*place->socket)
		unlink(place->socket);
	*place->socket = '\0';
}
