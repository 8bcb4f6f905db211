/* SPDX-License-Identifier: Apache-2.0 */
/* idmap.h - maps between the identities of a user namespace and the host's. See user_namespaces(7). */
#ifndef PLURES_CONTAINER_IDMAP_H
#define PLURES_CONTAINER_IDMAP_H

#include <sys/types.h>

#include "container/config.h"

/* Writes the maps of a process that has made a user namespace. What this user may not write itself goes through newuidmap
 * and newgidmap, which know /etc/subuid. */
int idmap_write(pid_t pid, const struct oci_maps *uids, const struct oci_maps *gids, struct error *err);

/* The host's identity of a namespace's; itself where nothing is mapped. */
uint32_t idmap_host(const struct oci_maps *maps, uint32_t id);

/* Makes a detached mount show the identities of a user namespace, or of maps for which one is made. */
int idmap_set(int mount, bool recursive, int user_namespace, struct error *err);
int idmap_apply(int mount, bool recursive, const struct oci_maps *uids, const struct oci_maps *gids, struct error *err);

/* Whether this process is less than root of the host: it is in a user namespace, or not root. */
bool idmap_rootless(void);

#endif
