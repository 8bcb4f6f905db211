/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unix.h - Unix sockets with a name in the file system. Only the user can connect to those that we listen at. All are
 * non-blocking and not inherited. Threads: any.
 */
#ifndef PLURES_HOST_UNIX_H
#define PLURES_HOST_UNIX_H

#include "base/error.h"

/* The longest path that a socket can have. */
enum { UNIX_PATH_MAX_SIZE = 107 };

/* Listens at path: a descriptor; -EADDRINUSE when someone else does, -EEXIST when there is a file that is no socket. A socket
 * that nobody listens at any more is replaced. Whoever closes it removes the file. */
int unix_listen(const char *path, struct error *err);

/* Connects to whoever listens at path: a descriptor, or -errno at once. */
int unix_connect(const char *path, struct error *err);

#endif
