/* SPDX-License-Identifier: Apache-2.0 */
/* mount_copy.h - copies a folder's contents into another, for a tmpfs with `tmpcopyup`. */
#ifndef PLURES_CONTAINER_MOUNT_COPY_H
#define PLURES_CONTAINER_MOUNT_COPY_H

#include "base/error.h"

/* Copies files, folders and symbolic links with their owners and modes from the folder `from` (O_PATH will do) into the mount
 * `to`. Devices, sockets and pipes are left out. */
int mount_copy(int from, int to, struct error *err);

#endif
