/* SPDX-License-Identifier: Apache-2.0 */
/*
 * folder.h - where running machines are found: a folder each, with the files `pid` and `socket`, in PLURES/NAME, where PLURES is
 * $XDG_RUNTIME_DIR/plures, for root without one /run/plures, and for others /tmp/plures-UID, if it is theirs alone.
 *
 * A machine holds a lock on its `pid` for as long as it runs. A folder whose machine was killed has none: the next machine
 * that starts removes it, or takes it over if it has the same name.
 */
#ifndef PLURES_API_FOLDER_H
#define PLURES_API_FOLDER_H

#include <sys/types.h>

#include "base/error.h"

enum { FOLDER_PATH = 108, FOLDER_NAME_MAX = 40 };

struct folder {
	char path[FOLDER_PATH];   /* "" when there is none */
	char socket[FOLDER_PATH]; /* a path that fits a socket */
	int pid_fd;               /* its maker's: the locked file */
};

/* Makes one for this process. A NULL name is the process' number. */
int folder_make(struct folder *folder, const char *name, struct error *err);
/* Removes what folder_make made and the socket in it. May be called twice. */
void folder_remove(struct folder *folder);
/* Finds that of a machine by its name or its process' number: -ENOENT. It may have ended meanwhile. */
int folder_find(struct folder *folder, const char *machine, struct error *err);

#endif
