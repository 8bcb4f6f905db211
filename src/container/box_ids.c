/* SPDX-License-Identifier: Apache-2.0 */
/* box_ids.c - which of the host's users and groups a container's are. See user_namespaces(7), subuid(5). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "container/box_private.h"
#include "container/idmap.h"

/* What systemd sets aside for containers' ranges of 65536 (its "Users, Groups, UIDs and GIDs on systemd Systems"). */
enum { RANGE = 65536, RANGE_FIRST = 524288, RANGE_COUNT = 20661 };

static uint32_t hash(const char *text)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 16777619u;
	return h;
}

bool box_find_range(const char *text, const char *user, unsigned long number, uint32_t *first, uint32_t *count)
{
	char name[256];

	for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		size_t size = strcspn(line, ":\n");
		char *end;

		if (line[size] != ':' || size >= sizeof(name))
			continue;
		memcpy(name, line, size);
		name[size] = 0;
		unsigned long owner = strtoul(name, &end, 10);

		if ((!user || strcmp(name, user) != 0) && (end == name || *end || owner != number))
			continue;
		unsigned long from = strtoul(line + size + 1, &end, 10),
			      many = *end == ':' ? strtoul(end + 1, &end, 10) : 0;

		if (!many || from > UINT32_MAX || many > UINT32_MAX - from)
			continue;
		*first = (uint32_t)from;
		*count = (uint32_t)many;
		return true;
	}
	return false;
}

static bool range_of(const char *file, uint32_t *first, uint32_t *count)
{
	char *text;
	size_t size;

	if (oci_file_read(AT_FDCWD, file, &text, &size, NULL))
		return false;
	/* A wrong name gains nothing: newuidmap looks for itself. */
	bool there = box_find_range(text, getenv("LOGNAME"), geteuid(), first, count) ||
		     box_find_range(text, getenv("USER"), geteuid(), first, count);

	free(text);
	return there;
}

/* All numbers that this process's own user namespace has from 0 on. */
static uint32_t own_numbers(const char *file)
{
	unsigned inside = 1, outside = 0, size = 0;
	char *text;
	size_t length;

	if (oci_file_read(AT_FDCWD, file, &text, &length, NULL))
		return 1;
	if (sscanf(text, "%u %u %u", &inside, &outside, &size) != 3 || inside)
		size = 1;
	free(text);
	return size;
}

/* The range behind this user's own number; or alone, where the root folder belongs to its first, as mmdebstrap and unshare
 * --map-auto make one. */
static size_t map_range(struct oci_map maps[2], uint32_t own, uint32_t first, uint32_t count, bool alone)
{
	maps[0] = alone ? (struct oci_map){ 0, first, count } : (struct oci_map){ 0, own, 1 };
	maps[1] = (struct oci_map){ 1, first, count };
	return alone ? 1 : 2;
}

static bool has_helpers(void)
{
	return !access("/usr/bin/newuidmap", X_OK) && !access("/usr/bin/newgidmap", X_OK);
}

int box_choose_ids(enum box_users users, const char *name, uint32_t owner, struct box_ids *ids, struct error *err)
{
	bool rootless = idmap_rootless();
	uint32_t first, count;

	*ids = (struct box_ids){ .given = users != BOX_USERS_HOST, .uid_count = 1, .gid_count = 1 };
	if (users == BOX_USERS_HOST && rootless)
		return error_set(err, -EPERM, "--userns host: only the host's root can do without a user namespace");
	if (users == BOX_USERS_HOST)
		return 0;
	ids->idmap = !rootless && users == BOX_USERS_AUTO;
	if (ids->idmap) {
		first = RANGE_FIRST + RANGE * (hash(name) % RANGE_COUNT);
		ids->uids[0] = ids->gids[0] = (struct oci_map){ 0, first, RANGE };
		return 0;
	}
	ids->uids[0] = (struct oci_map){ 0, geteuid(), 1 };
	ids->gids[0] = (struct oci_map){ 0, getegid(), 1 };
	if (users == BOX_USERS_SINGLE)
		return 0;
	if (!geteuid()) {
		ids->uids[0].size = own_numbers("/proc/self/uid_map");
		ids->gids[0].size = own_numbers("/proc/self/gid_map");
	} else if (has_helpers() && range_of("/etc/subuid", &first, &count)) {
		uint32_t gid_first, gid_count;

		if (!range_of("/etc/subgid", &gid_first, &gid_count))
			return 0;
		ids->uid_count = map_range(ids->uids, geteuid(), first, count, owner == first);
		ids->gid_count = map_range(ids->gids, getegid(), gid_first, gid_count, owner == first);
	}
	return 0;
}

bool box_has_id(const struct oci_map *maps, size_t count, uint32_t id)
{
	for (size_t i = 0; i < count; i++)
		if (id >= maps[i].container && id - maps[i].container < maps[i].size)
			return true;
	return false;
}
