/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - a running machine as other processes see it: HTTP/1.1 on a Unix socket, with JSON, in a folder of the machine's own
 * below the user's runtime directory (folder.h). One request a connection.
 *
 *	GET /machine    {"name": ..., "pid": ..., "engine": ..., "memory": bytes, "cpus": N}
 *	GET /balloon    {"target": bytes, "actual": bytes, "statistics": {NAME: number, ...}}
 *	PUT /balloon    {"target": bytes}; answers as GET does
 *
 * What is wrong is answered with a status of 400 or above and {"error": "a line"}. A client may be anything: requests are bounded,
 * and one that does not finish holds up nobody.
 *
 * Threads: the machine's event loop's, or none while that does not run.
 */
#ifndef PLURES_API_API_H
#define PLURES_API_API_H

#include "base/error.h"

struct api;
struct vm;

/* Listens for a machine that is made and does not run yet. `name` or, if that is NULL, the process' number is what others
 * find it by: -EINVAL when it can't be a name, -EEXIST when a machine has it. */
int api_create(struct api **api, struct vm *vm, const char *name, struct error *err);
/* Removes its folder. NULL is nothing. */
void api_destroy(struct api *api);

/* ---- for others ---- */

/* Asks a machine, by its name or number, and gives the answer's body, which the caller frees. `body` is NULL for none. -ENOENT
 * when there is no such machine; -EREMOTEIO when it refuses, with its words in err. Blocks for some seconds at most. */
int api_call(const char *machine, const char *method, const char *path, const char *body, char **answer,
	     struct error *err);

#endif
