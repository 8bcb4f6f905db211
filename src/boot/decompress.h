/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decompress.h - unpacks a kernel's payload on the host, in the formats that Linux's build knows by their first bytes:
 * gzip, xz, lzma, zstd and (legacy) lz4. bzip2 and LZO are left to the guest.
 */
#ifndef PLURES_BOOT_DECOMPRESS_H
#define PLURES_BOOT_DECOMPRESS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The format's name, or NULL for one that decompress() can't do. */
const char *decompress_format(const uint8_t *data, size_t size);

/* Unpacks into out, which has room for `room` bytes. Returns how many it wrote, or -ENOSPC when there would be more,
 * -ENOMEM, -EINVAL for damaged data, -ENOTSUP for an unknown format, -ELIBACC when the format's library is
 * missing, as err says. Bytes after the compressed stream are ignored. */
int64_t decompress(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err);

#endif
