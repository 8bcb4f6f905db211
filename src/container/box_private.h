/* SPDX-License-Identifier: Apache-2.0 */
/* box_private.h - the parts of box.h: whose numbers, which user, what configuration. */
#ifndef PLURES_CONTAINER_BOX_PRIVATE_H
#define PLURES_CONTAINER_BOX_PRIVATE_H

#include <jansson.h>

#include "container/box.h"
#include "container/config.h"

/* The maps of the user namespace. */
struct box_ids {
	bool given; /* there is a user namespace */
	bool idmap; /* mounts of the host's files are to show its numbers */
	struct oci_map uids[2], gids[2];
	size_t uid_count, gid_count;
};

/* Chooses them. `name` is what a range for root's is chosen by; `owner` is whose the root folder is. */
int box_choose_ids(enum box_users users, const char *name, uint32_t owner, struct box_ids *ids, struct error *err);
/* The part of /etc/subuid's text that a user, by name or number, has: false when there is none. */
bool box_find_range(const char *text, const char *user, unsigned long number, uint32_t *first, uint32_t *count);
/* Whether a number has one outside. */
bool box_has_id(const struct oci_map *maps, size_t count, uint32_t id);

/* Who the command runs as: NAME|UID[:GROUP|GID] by the root's own /etc/passwd and /etc/group. */
struct box_identity {
	uint32_t uid, gid;
	uint32_t groups[64];
	size_t group_count;
	char home[256]; /* or "" */
};
int box_identify(const char *rootfs, const char *user, struct box_identity *identity, struct error *err);
/* The same from the texts of the files; each may be NULL. */
int box_identify_in(const char *passwd, const char *group, const char *user, struct box_identity *identity,
		    struct error *err);

/* "SRC:DST[:ro]" */
struct box_bind {
	char source[4096], destination[4096];
	bool read_only;
};
int box_parse_bind(const char *text, struct box_bind *bind, struct error *err);

/* The configuration as JSON, from malloc. */
struct box_plan {
	const struct box *box;
	const char *rootfs; /* absolute */
	const char *hostname;
	const struct box_ids *ids;
	const struct box_identity *identity;
	bool terminal, cgroups;
};
char *box_config(const struct box_plan *plan, struct error *err);

/* The filter, for linux.seccomp; less strict for a container with CAP_SYS_ADMIN. */
json_t *box_seccomp(bool administrator);

#endif
