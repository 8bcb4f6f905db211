/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path.h - names inside a container's root, which whoever made the image has chosen and a container that shares the root
 * may be changing at this moment. Nothing here is looked up but through openat2(2) with RESOLVE_IN_ROOT, and what was found
 * is used as a descriptor: between looking and using there is no name to swap.
 */
#ifndef PLURES_CONTAINER_PATH_H
#define PLURES_CONTAINER_PATH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Opens a path with O_PATH; symbolic links are the root's own. With `strict` there must be none on the way. -errno. */
int path_open(int root, const char *path, bool strict);
/* As path_open with other flags. */
int path_open_as(int root, const char *path, int flags, unsigned mode);

/* Opens a path; what is not there is made: folders, and at the end a folder or an empty file. -errno and a reason. */
int path_make(int root, const char *path, bool folder, struct error *err);

/* Opens the folder that a path's last component stands in, making it; *name is that component. */
int path_make_parent(int root, const char *path, const char **name, struct error *err);

#endif
