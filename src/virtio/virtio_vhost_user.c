/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_vhost_user.c - a device whose back end listens at a Unix socket: "blk,socket=PATH". */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/keys.h"
#include "base/memory.h"
#include "host/unix.h"
#include "virtio/vhost_device.h"

enum { QUEUES_MAX = 16 };

struct options {
	char *type, *socket, *tag, *mac;
	uint64_t queues;
};

static const struct keys_item keys[] = {
	{ .name = "type", .kind = KEYS_STRING, .offset = offsetof(struct options, type), .first = true },
	{ .name = "socket", .kind = KEYS_STRING, .offset = offsetof(struct options, socket) },
	{ .name = "queues",
	  .kind = KEYS_NUMBER,
	  .offset = offsetof(struct options, queues),
	  .min = 1,
	  .max = QUEUES_MAX },
	{ .name = "tag", .kind = KEYS_STRING, .offset = offsetof(struct options, tag) },
	{ .name = "mac", .kind = KEYS_STRING, .offset = offsetof(struct options, mac) },
	{ .name = NULL },
};

static int parse_mac(const char *text, uint8_t mac[6], struct error *err)
{
	unsigned byte[6];
	char end;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4], &byte[5],
		   &end) != 6)
		return error_set(err, -EINVAL, "'%.40s' is not a MAC address like 52:54:00:12:34:56", text);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)byte[i];
	if (mac[0] & 1)
		return error_set(err, -EINVAL, "%s is the address of a group, not of a card", text);
	return 0;
}

/* One that is the same each time, and hardly another card's: FNV-1a over the socket's path. */
static void make_mac(const char *path, uint8_t mac[6])
{
	uint32_t hash = 2166136261u;

	for (; *path; path++)
		hash = (hash ^ (uint8_t)*path) * 16777619u;
	const uint8_t made[6] = { 0x52, 0x54, 0x00, (uint8_t)(hash >> 16), (uint8_t)(hash >> 8), (uint8_t)hash };
	memcpy(mac, made, sizeof(made));
}

static int parse_type(const struct options *o, struct vhost_device_config *config, struct error *err)
{
	int rc = o->type ? vhost_type_parse(o->type, &config->type, err)
			 : error_set(err, -EINVAL, "which device? Use blk,socket=PATH or the like");

	if (rc)
		return rc;
	if (!o->socket)
		return error_set(err, -EINVAL, "where is its back end? Add socket=PATH");
	if (strlen(o->socket) > UNIX_PATH_MAX_SIZE)
		return error_set(err, -EINVAL, "%s is too long for a socket: at most %d bytes", o->socket,
				 UNIX_PATH_MAX_SIZE);
	if (!o->tag != (config->type != VHOST_FS))
		return error_set(err, -EINVAL, "%s",
				 o->tag ? "a tag is for fs only" : "fs needs a tag to mount it by: tag=NAME");
	if (o->tag && (!*o->tag || strlen(o->tag) > VHOST_TAG_MAX))
		return error_set(err, -EINVAL, "a tag has 1 to %d bytes", VHOST_TAG_MAX);
	if (o->mac && config->type != VHOST_NET)
		return error_set(err, -EINVAL, "a mac is for net only");
	return 0;
}

/* Both are filled in even on failure, for release. */
static int parse(const char *text, struct options *o, struct vhost_device_config *config, struct error *err)
{
	*o = (struct options){ .queues = 1 };
	*config = (struct vhost_device_config){ .type = VHOST_BLK };
	int rc = keys_parse(text, keys, o, err);
	if (!rc)
		rc = parse_type(o, config, err);
	if (rc)
		return rc;
	config->queues = (unsigned)o->queues;
	if (o->tag)
		memcpy(config->tag, o->tag, strlen(o->tag));
	snprintf(config->name, sizeof(config->name), "vhost-user %s at %s", o->type, o->socket);
	make_mac(o->socket, config->mac);
	return o->mac ? parse_mac(o->mac, config->mac, err) : 0;
}

static int connect_to(void *ctx, int *fd, struct error *err)
{
	*fd = unix_connect(ctx, err);
	return *fd < 0 ? *fd : 0;
}

int virtio_vhost_user_check(const char *text, struct error *err)
{
	struct vhost_device_config config;
	struct options o;
	int rc = parse(text, &o, &config, err);

	keys_free(keys, &o);
	return rc;
}

int virtio_vhost_user_create(struct virtio **v, const struct virtio_env *env, const char *text, struct error *err)
{
	struct vhost_device_config config;
	struct options o;
	int rc = parse(text, &o, &config, err);

	*v = NULL;
	if (!rc) {
		config.connect = connect_to;
		config.destroy = free;
		config.ctx = memory_strdup(o.socket);
		rc = vhost_device_create(v, env, &config, err);
	}
	keys_free(keys, &o);
	return rc;
}
