/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_share.c - a folder of the host's for the guest, served by a virtiofsd of our own: "DIR:TAG[,readonly]". */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/keys.h"
#include "base/memory.h"
#include "virtio/vhost_device.h"
#include "virtio/virtiofsd.h"

struct options {
	char *what; /* DIR:TAG */
	bool readonly;
};

struct share {
	char *folder; /* absolute */
	bool readonly;
	struct virtiofsd *daemon; /* or NULL */
};

static const struct keys_item keys[] = {
	{ .name = "share", .kind = KEYS_STRING, .offset = offsetof(struct options, what), .first = true },
	{ .name = "readonly", .kind = KEYS_FLAG, .offset = offsetof(struct options, readonly) },
	{ .name = NULL },
};

/* The tag stands behind the last colon; *folder is cut off before it. */
static int parse(const char *text, struct options *o, const char **tag, struct error *err)
{
	*o = (struct options){ 0 };
	int rc = keys_parse(text, keys, o, err);
	if (rc)
		return rc;
	char *colon = o->what ? strrchr(o->what, ':') : NULL;
	if (!colon || colon == o->what)
		return error_set(err, -EINVAL, "a share is a folder and a tag to mount it by: DIR:TAG");
	*colon = '\0';
	*tag = colon + 1;
	if (!**tag || strlen(*tag) > VHOST_TAG_MAX)
		return error_set(err, -EINVAL, "a tag has 1 to %d bytes", VHOST_TAG_MAX);
	return 0;
}

static int start(void *ctx, int *fd, struct error *err)
{
	struct share *share = ctx;

	virtiofsd_stop(share->daemon, NULL);
	return virtiofsd_start(&share->daemon, share->folder, share->readonly, fd, err);
}

static void gone(void *ctx, struct error *why)
{
	struct share *share = ctx;

	virtiofsd_stop(share->daemon, why);
	share->daemon = NULL;
}

static void destroy(void *ctx)
{
	struct share *share = ctx;

	virtiofsd_stop(share->daemon, NULL);
	free(share->folder);
	free(share);
}

int virtio_share_check(const char *text, struct error *err)
{
	struct options o;
	const char *tag;
	int rc = parse(text, &o, &tag, err);

	keys_free(keys, &o);
	return rc;
}

static int create(struct virtio **v, const struct virtio_env *env, const struct options *o, const char *tag,
		  struct error *err)
{
	struct vhost_device_config config = {
		.type = VHOST_FS,
		.queues = 1,
		.connect = start,
		.gone = gone,
		.destroy = destroy,
	};
	char *folder = realpath(o->what, NULL);

	if (!folder)
		return error_errno(err, -errno, "can't share %s", o->what);
	struct share *share = memory_zalloc(sizeof(*share));
	share->folder = folder;
	share->readonly = o->readonly;
	config.ctx = share;
	memcpy(config.tag, tag, strlen(tag));
	snprintf(config.name, sizeof(config.name), "share %s", tag);
	return vhost_device_create(v, env, &config, err);
}

int virtio_share_create(struct virtio **v, const struct virtio_env *env, const char *text, struct error *err)
{
	struct options o;
	const char *tag = "";
	int rc = parse(text, &o, &tag, err);

	*v = NULL;
	if (!rc)
		rc = create(v, env, &o, tag, err);
	keys_free(keys, &o);
	return rc;
}
