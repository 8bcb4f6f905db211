/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "virtio/virtio.h"

const struct virtio_kind virtio_kinds[] = {
#define VIRTIO_DEVICE(name) { #name, virtio_##name##_check, virtio_##name##_create },
#include "virtio/devices.def"
#undef VIRTIO_DEVICE
	{ NULL, NULL, NULL },
};

const struct virtio_kind *virtio_kind_find(const char *name)
{
	for (const struct virtio_kind *kind = virtio_kinds; kind->name; kind++)
		if (!strcmp(kind->name, name))
			return kind;
	return NULL;
}
