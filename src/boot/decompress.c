/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/decompress.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "host/library.h"

/* What liblzma may use: Linux packs with a dictionary of 32 MiB, later of 128 MiB. */
#define LZMA_MEMORY (256ull << 20)
#define LZ4_LEGACY_MAGIC 0x184c2102u

/* Each library is loaded by a kernel that wants it. */
#define ZLIB(F) F(inflateInit2_) F(inflate) F(inflateEnd)
struct zlib_library {
	ZLIB(LIBRARY_POINTER)
};
static const char *const zlib_names[] = { ZLIB(LIBRARY_NAME) };

#define LZMA(F) F(lzma_stream_decoder) F(lzma_alone_decoder) F(lzma_code) F(lzma_end)
struct lzma_library {
	LZMA(LIBRARY_POINTER)
};
static const char *const lzma_names[] = { LZMA(LIBRARY_NAME) };

#define ZSTD(F) F(ZSTD_findFrameCompressedSize) F(ZSTD_decompress) F(ZSTD_getFrameContentSize) F(ZSTD_isError)
struct zstd_library {
	ZSTD(LIBRARY_POINTER)
};
static const char *const zstd_names[] = { ZSTD(LIBRARY_NAME) };

#define LZ4(F) F(LZ4_decompress_safe)
struct lz4_library {
	LZ4(LIBRARY_POINTER)
};
static const char *const lz4_names[] = { LZ4(LIBRARY_NAME) };

static int64_t unpack_gzip(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err)
{
	struct zlib_library zlib;
	z_stream z = { 0 };

	if (size > UINT_MAX)
		return -EINVAL;
	int rc = library_load(LIBRARY_Z, zlib_names, LIBRARY_COUNT(zlib_names), &zlib, err);
	if (rc)
		return rc;
	if (zlib.inflateInit2_(&z, 15 + 16, ZLIB_VERSION, (int)sizeof(z)) != Z_OK)
		return -ENOMEM;
	z.next_in = (Bytef *)data;
	z.avail_in = (uInt)size;
	int r = Z_OK;
	size_t done = 0;

	/* zlib counts in 32 bits; a window of 1 GiB keeps it away from the edge. */
	while (r == Z_OK && done < room) {
		size_t left = room - done;
		uInt part = left > (1u << 30) ? (1u << 30) : (uInt)left;

		z.next_out = out + done;
		z.avail_out = part;
		r = zlib.inflate(&z, Z_NO_FLUSH);
		done += part - z.avail_out;
		if (r == Z_OK && z.avail_in == 0 && z.avail_out == part)
			break;
	}
	bool full = z.avail_out == 0 && done == room;

	zlib.inflateEnd(&z);
	if (r == Z_STREAM_END)
		return (int64_t)done;
	if (r == Z_MEM_ERROR)
		return -ENOMEM;
	return full ? -ENOSPC : -EINVAL;
}

static int64_t run_lzma(const struct lzma_library *lzma, lzma_stream *s, const uint8_t *data, size_t size, uint8_t *out,
			size_t room)
{
	s->next_in = data;
	s->avail_in = size;
	s->next_out = out;
	s->avail_out = room;
	lzma_ret r = lzma->lzma_code(s, LZMA_RUN);
	int64_t done = (int64_t)(room - s->avail_out);
	bool full = s->avail_out == 0;

	lzma->lzma_end(s);
	if (r == LZMA_STREAM_END)
		return done;
	if (r == LZMA_MEM_ERROR || r == LZMA_MEMLIMIT_ERROR)
		return -ENOMEM;
	return full ? -ENOSPC : -EINVAL;
}

static int64_t unpack_xz(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err)
{
	lzma_stream s = LZMA_STREAM_INIT;
	struct lzma_library lzma;
	int rc = library_load(LIBRARY_LZMA, lzma_names, LIBRARY_COUNT(lzma_names), &lzma, err);

	if (rc)
		return rc;
	if (lzma.lzma_stream_decoder(&s, LZMA_MEMORY, 0) != LZMA_OK)
		return -ENOMEM;
	return run_lzma(&lzma, &s, data, size, out, room);
}

static int64_t unpack_lzma(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err)
{
	lzma_stream s = LZMA_STREAM_INIT;
	struct lzma_library lzma;
	int rc = library_load(LIBRARY_LZMA, lzma_names, LIBRARY_COUNT(lzma_names), &lzma, err);

	if (rc)
		return rc;
	if (lzma.lzma_alone_decoder(&s, LZMA_MEMORY) != LZMA_OK)
		return -ENOMEM;
	return run_lzma(&lzma, &s, data, size, out, room);
}

static int64_t unpack_zstd(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err)
{
	struct zstd_library zstd;
	int rc = library_load(LIBRARY_ZSTD, zstd_names, LIBRARY_COUNT(zstd_names), &zstd, err);

	if (rc)
		return rc;
	size_t frame = zstd.ZSTD_findFrameCompressedSize(data, size);

	if (zstd.ZSTD_isError(frame))
		return -EINVAL;
	size_t done = zstd.ZSTD_decompress(out, room, data, frame);

	if (!zstd.ZSTD_isError(done))
		return (int64_t)done;
	/* zstd's error codes have names only in a header for static linking: room is asked about instead. */
	unsigned long long content = zstd.ZSTD_getFrameContentSize(data, frame);

	if (content == ZSTD_CONTENTSIZE_ERROR)
		return -EINVAL;
	return content == ZSTD_CONTENTSIZE_UNKNOWN || content <= room ? -EINVAL : -ENOSPC;
}

/* lz4's legacy frame: the magic, then blocks each behind its size, to the end of the input. A kernel's payload has the
 * unpacked size in four more bytes, which can't be a block. */
static int64_t unpack_lz4(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err)
{
	size_t at = 4, done = 0;
	struct lz4_library lz4;
	int rc = library_load(LIBRARY_LZ4, lz4_names, LIBRARY_COUNT(lz4_names), &lz4, err);

	if (rc)
		return rc;
	while (size - at > 4) {
		uint32_t block = bytes_le32(data + at);

		at += 4;
		if (block == LZ4_LEGACY_MAGIC)
			continue;
		if (block == 0 || block > size - at || block > INT_MAX)
			return -EINVAL;
		size_t left = room - done;
		int most = left > INT_MAX ? INT_MAX : (int)left;
		int got = lz4.LZ4_decompress_safe((const char *)data + at, (char *)out + done, (int)block, most);

		if (got < 0)
			return most == 0 ? -ENOSPC : -EINVAL;
		at += block;
		done += (size_t)got;
	}
	return (int64_t)done;
}

static const struct {
	const char *name;
	unsigned magic_size;
	uint8_t magic[6];
	int64_t (*unpack)(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err);
} formats[] = {
	{ "gzip", 2, { 0x1f, 0x8b }, unpack_gzip },           { "xz", 6, { 0xfd, '7', 'z', 'X', 'Z', 0 }, unpack_xz },
	{ "lzma", 3, { 0x5d, 0, 0 }, unpack_lzma },           { "zstd", 4, { 0x28, 0xb5, 0x2f, 0xfd }, unpack_zstd },
	{ "lz4", 4, { 0x02, 0x21, 0x4c, 0x18 }, unpack_lz4 },
};

static int find(const uint8_t *data, size_t size)
{
	for (unsigned i = 0; i < sizeof(formats) / sizeof(*formats); i++)
		if (size >= formats[i].magic_size && memcmp(data, formats[i].magic, formats[i].magic_size) == 0)
			return (int)i;
	return -1;
}

const char *decompress_format(const uint8_t *data, size_t size)
{
	int i = find(data, size);

	return i < 0 ? NULL : formats[i].name;
}

int64_t decompress(const uint8_t *data, size_t size, uint8_t *out, size_t room, struct error *err)
{
	int i = find(data, size);

	return i < 0 ? -ENOTSUP : formats[i].unpack(data, size, out, room, err);
}
