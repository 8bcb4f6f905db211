/* SPDX-License-Identifier: Apache-2.0 */
/* "Host cluster management", "Cluster mapping": how refcounts and compressed clusters are encoded. */
#include <errno.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2_format.h"
#include "host/library.h"

/* Loaded by the first compressed cluster. */
#define ZLIB(F) F(inflateInit2_) F(inflate) F(inflateEnd)
struct zlib_library {
	ZLIB(LIBRARY_POINTER)
};
static const char *const zlib_names[] = { ZLIB(LIBRARY_NAME) };

#define ZSTD(F) F(ZSTD_createDCtx) F(ZSTD_decompressStream) F(ZSTD_isError) F(ZSTD_freeDCtx)
struct zstd_library {
	ZSTD(LIBRARY_POINTER)
};
static const char *const zstd_names[] = { ZSTD(LIBRARY_NAME) };

uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t index)
{
	switch (order) {
	case 0:
	case 1:
	case 2: {
		/* Within a byte, the first entry is in the least significant bits. */
		unsigned width = 1u << order, shift = (unsigned)(index << order & 7);
		return block[index << order >> 3] >> shift & ((1u << width) - 1);
	}
	case 3:
		return block[index];
	case 4:
		return qcow2_be16(block + index * 2);
	case 5:
		return qcow2_be32(block + index * 4);
	default:
		return qcow2_be64(block + index * 8);
	}
}

void qcow2_refcount_put(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
	switch (order) {
	case 0:
	case 1:
	case 2: {
		unsigned mask = (1u << (1u << order)) - 1, shift = (unsigned)(index << order & 7);
		uint8_t *byte = &block[index << order >> 3];
		*byte = (uint8_t)((*byte & ~(mask << shift)) | (value & mask) << shift);
		break;
	}
	case 3:
		block[index] = (uint8_t)value;
		break;
	case 4:
		qcow2_put_be16(block + index * 2, (uint16_t)value);
		break;
	case 5:
		qcow2_put_be32(block + index * 4, (uint32_t)value);
		break;
	default:
		qcow2_put_be64(block + index * 8, value);
	}
}

struct qcow2_compressed qcow2_compressed_decode(uint64_t entry, unsigned cluster_bits)
{
	/* "Compressed Clusters Descriptor": bits below x are the offset, those from x to 61 the number of further sectors. */
	unsigned x = 62 - (cluster_bits - 8);
	uint64_t offset = entry & ((1ull << x) - 1);
	uint64_t sectors = (entry >> x & ((1ull << (62 - x)) - 1)) + 1;
	return (struct qcow2_compressed){ .offset = offset, .size = sectors * 512 - (offset & 511) };
}

/* A deflate stream without zlib's header. */
static int decompress_zlib(uint8_t *out, size_t out_size, const uint8_t *in, size_t in_size)
{
	struct zlib_library zlib;
	int rc = library_load(LIBRARY_Z, zlib_names, LIBRARY_COUNT(zlib_names), &zlib, NULL);
	if (rc)
		return rc;
	z_stream stream = { .next_in = (Bytef *)(uintptr_t)in,
			    .avail_in = (uInt)in_size,
			    .next_out = out,
			    .avail_out = (uInt)out_size };
	/* The specification's writers use windows of 4K; a larger one reads those too. */
	if (zlib.inflateInit2_(&stream, -MAX_WBITS, ZLIB_VERSION, (int)sizeof(stream)) != Z_OK)
		return -ENOMEM;
	int r = zlib.inflate(&stream, Z_FINISH);
	bool whole = stream.avail_out == 0 && (r == Z_STREAM_END || r == Z_BUF_ERROR || r == Z_OK);
	zlib.inflateEnd(&stream);
	return whole ? 0 : -EIO;
}

static int decompress_zstd(uint8_t *out, size_t out_size, const uint8_t *in, size_t in_size)
{
	struct zstd_library zstd;
	int rc = library_load(LIBRARY_ZSTD, zstd_names, LIBRARY_COUNT(zstd_names), &zstd, NULL);
	if (rc)
		return rc;
	/* As a stream: what follows the frame up to the sector's end is not ours to look at. */
	ZSTD_inBuffer from = { .src = in, .size = in_size };
	ZSTD_outBuffer to = { .dst = out, .size = out_size };
	ZSTD_DCtx *context = zstd.ZSTD_createDCtx();
	if (!context)
		return -ENOMEM;
	size_t left = 1, before;
	do {
		before = from.pos + to.pos;
		left = zstd.ZSTD_decompressStream(context, &to, &from);
	} while (!zstd.ZSTD_isError(left) && left && to.pos < to.size && from.pos + to.pos > before);
	zstd.ZSTD_freeDCtx(context);
	return !zstd.ZSTD_isError(left) && to.pos == to.size ? 0 : -EIO;
}

int qcow2_decompress(enum qcow2_compression compression, uint8_t *out, size_t out_size, const uint8_t *in,
		     size_t in_size)
{
	return compression == QCOW2_ZSTD ? decompress_zstd(out, out_size, in, in_size)
					 : decompress_zlib(out, out_size, in, in_size);
}
