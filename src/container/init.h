/* SPDX-License-Identifier: Apache-2.0 */
/*
 * init.h - the first process of a container, for programs that were not made to be one.
 *
 * The kernel ignores a signal to the first process of a PID namespace that has no handler for it, so that a Ctrl-C would not end
 * `sleep`; and whatever lost its parent becomes its child, to be waited for. So a process of ours stays the first: it hands on
 * signals, waits for everybody, and ends with the program and the program's status, which ends all others.
 */
#ifndef PLURES_CONTAINER_INIT_H
#define PLURES_CONTAINER_INIT_H

#include <stdbool.h>

#include "base/error.h"

/* Returns 0 in a new process, which is to become the program; the calling one stays behind and never returns. `sync` stays the new one's
 * alone. With `terminal`, descriptor 0 becomes the controlling terminal of the new one's session. */
int init_split(int sync, bool terminal, struct error *err);

#endif
