/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shield.h - keeps the runtime's own file out of containers' hands.
 *
 * While a process of the runtime is in a container, /proc/PID/exe there leads to the runtime's file on the host, and a root user
 * inside could write to it (CVE-2019-5736): a program named /proc/self/exe is enough. So the runtime starts itself once more
 * from a mount of its file that is read-only and in no namespace, or without the right to make one, from a sealed copy in
 * memory. A static program starts in half a millisecond.
 */
#ifndef PLURES_CONTAINER_SHIELD_H
#define PLURES_CONTAINER_SHIELD_H

#include "base/error.h"

/* Returns 0 when this process already runs from such a file; otherwise becomes it, with argv, or says why not. */
int shield_program(char **argv, struct error *err);

/* Becomes another program from such a file of its own. Returns only when that can't be done: -errno. */
int shield_start(const char *path, char **argv);

#endif
