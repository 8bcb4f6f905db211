/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_kind.c - block devices, file systems and network cards behind vhost-user. Sections are of virtio 1.2. */
#include "virtio/vhost_kind.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

/* ---- block devices: 5.2 ---- */

enum { BLK_F_MQ = 12, BLK_CONFIG_QUEUES = 34, BLK_CONFIG_SIZE = 60, BLK_IOERR = 1 };
/* SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES: not CONFIG_WCE, since the
 * configuration is only read. */
#define BLK_FEATURES UINT64_C(0x7676)

static void blk_fix_config(uint8_t *bytes, unsigned queues)
{
	bytes_put_le16(bytes + BLK_CONFIG_QUEUES, (uint16_t)queues);
}

static bool any_queue(unsigned queue)
{
	(void)queue;
	return true;
}

static bool blk_refuse(unsigned queue, struct virtqueue_chain *chain, size_t *written)
{
	const uint8_t status = BLK_IOERR;

	(void)queue;
	if (chain->in_size)
		virtqueue_chain_write(chain, chain->in_size - 1, &status, 1);
	*written = chain->in_size;
	return true;
}

/* ---- file systems: 5.11, and linux/fuse.h ---- */

enum { FS_CONFIG_QUEUES = VHOST_TAG_MAX, FS_CONFIG_SIZE = FS_CONFIG_QUEUES + 4 };
enum { FUSE_IN_UNIQUE = 8, FUSE_OUT_SIZE = 16, FUSE_OUT_ERROR = 4, FUSE_OUT_UNIQUE = 8 };

static void fs_make_config(uint8_t *bytes, const struct vhost_device_config *config, unsigned queues)
{
	memcpy(bytes, config->tag, VHOST_TAG_MAX);
	bytes_put_le32(bytes + FS_CONFIG_QUEUES, queues - 1);
}

static bool fs_refuse(unsigned queue, struct virtqueue_chain *chain, size_t *written)
{
	uint8_t answer[FUSE_OUT_SIZE] = { 0 };

	(void)queue;
	bytes_put_le32(answer, FUSE_OUT_SIZE);
	bytes_put_le32(answer + FUSE_OUT_ERROR, (uint32_t)-ENOTCONN);
	virtqueue_chain_read(chain, FUSE_IN_UNIQUE, answer + FUSE_OUT_UNIQUE, 8);
	*written = virtqueue_chain_write(chain, 0, answer, sizeof(answer)); /* nothing for one that wants no answer */
	return true;
}

/* ---- network cards: 5.1 ---- */

enum { NET_F_MAC = 5, NET_RX = 0, NET_CONFIG_SIZE = 6 };
/* CSUM, GUEST_CSUM, GUEST_TSO4, TSO6, ECN, UFO, HOST_TSO4, TSO6, ECN, UFO, MRG_RXBUF. */
#define NET_FEATURES UINT64_C(0xff83)

static void net_make_config(uint8_t *bytes, const struct vhost_device_config *config, unsigned queues)
{
	(void)queues;
	memcpy(bytes, config->mac, sizeof(config->mac));
}

static bool net_refuses(unsigned queue)
{
	return queue != NET_RX;
}

/* What is sent is lost, as on a cable that is cut; nothing is received. */
static bool net_refuse(unsigned queue, struct virtqueue_chain *chain, size_t *written)
{
	(void)chain;
	*written = 0;
	return net_refuses(queue);
}

const struct vhost_kind vhost_kinds[] = {
	[VHOST_BLK] = {
		.name = "blk",
		.device = "vhost-user-blk",
		.type = VIRTIO_TYPE_BLOCK,
		.class_code = 0x010000,
		.features = BLK_FEATURES,
		.multi_feature = VIRTIO_BIT(BLK_F_MQ),
		.more_queues = true,
		.config_size = BLK_CONFIG_SIZE,
		.remote_config = true,
		.drains = true,
		.stateless = true,
		.fix_config = blk_fix_config,
		.refuses = any_queue,
		.refuse = blk_refuse,
	},
	[VHOST_FS] = {
		.name = "fs",
		.device = "vhost-user-fs",
		.type = VIRTIO_TYPE_FS,
		.class_code = 0x018000,
		.fixed_queues = 1,
		.more_queues = true,
		.config_size = FS_CONFIG_SIZE,
		.make_config = fs_make_config,
		.refuses = any_queue,
		.refuse = fs_refuse,
	},
	[VHOST_NET] = {
		.name = "net",
		.device = "vhost-user-net",
		.type = VIRTIO_TYPE_NET,
		.class_code = 0x020000,
		.features = NET_FEATURES,
		.own_features = VIRTIO_BIT(NET_F_MAC),
		.fixed_queues = 2,
		.config_size = NET_CONFIG_SIZE,
		.stateless = true,
		.make_config = net_make_config,
		.refuses = net_refuses,
		.refuse = net_refuse,
	},
};

int vhost_type_parse(const char *name, enum vhost_type *type, struct error *err)
{
	for (unsigned i = 0; i < sizeof(vhost_kinds) / sizeof(*vhost_kinds); i++)
		if (!strcmp(vhost_kinds[i].name, name)) {
			*type = i;
			return 0;
		}
	return error_set(err, -EINVAL, "vhost-user knows no '%s': use one of blk, fs, net", name);
}
