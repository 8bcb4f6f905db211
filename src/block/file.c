/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.c - files and block devices.
 *
 * What the host's page cache can do at once is done at once, on the loop's thread: a read of what is there, a write. Whatever
 * may wait goes to struct aio. A write into the page cache may wait too, when the host has too much to write back; once one took
 * long, writes go to aio for a while. Around the page cache (O_DIRECT) everything goes there.
 *
 * A file's size need not be a multiple of the alignment: up to the next one it reads as zeros, and a write makes it longer.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "block/aio.h"
#include "block/driver.h"
#include "block/lock.h"
#include "host/timer.h"

#define SLOW_NS UINT64_C(2000000) /* a write into the page cache that takes this long has waited for something */

enum {
	BOUNCE = 1 << 20,
	PAGE = 4096,
	RETRIES = 100,
	AVOID = 10 /* for so many times as long writes go to aio then */
};

struct file {
	struct block block;
	struct aio *aio;
	int fd;
	bool direct, device;
	bool no_nowait;        /* the file system has no RWF_NOWAIT */
	unsigned memory_align; /* of buffers, when direct */
	uint64_t bytes;        /* the file's own size; block.size is rounded up */
	uint64_t inline_again; /* until then, writes go to aio */
	int lost;              /* -errno of a flush that failed: what it should have written is gone */
	struct part *free;
};

/* A request on its way through aio, part by part. */
struct part {
	struct aio_request aio;
	struct file *file;
	struct block_request *request;
	uint64_t done;
	unsigned retries;
	struct iovec *iov; /* [room]: of what is left, when that is not the request's own */
	unsigned room;
	uint8_t *bounce; /* BOUNCE bytes, or NULL */
	struct part *next;
};

static struct file *of(struct block *block)
{
	return (struct file *)block;
}

static uint64_t round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

/* ---- iovecs ---- */

/* Copies [offset, offset + size) of iovecs to or from a buffer. */
static void copy(const struct iovec *iov, uint64_t offset, uint8_t *buffer, size_t size, bool to_buffer)
{
	for (; size; iov++) {
		if (offset >= iov->iov_len) {
			offset -= iov->iov_len;
			continue;
		}
		size_t n = iov->iov_len - offset < size ? iov->iov_len - offset : size;
		uint8_t *there = (uint8_t *)iov->iov_base + offset;
		memcpy(to_buffer ? buffer : there, to_buffer ? there : buffer, n);
		buffer += n;
		size -= n;
		offset = 0;
	}
}

static void fill_zeros(const struct iovec *iov, uint64_t offset, uint64_t size)
{
	for (; size; iov++) {
		if (offset >= iov->iov_len) {
			offset -= iov->iov_len;
			continue;
		}
		size_t n = iov->iov_len - offset < size ? iov->iov_len - offset : size;
		memset((uint8_t *)iov->iov_base + offset, 0, n);
		size -= n;
		offset = 0;
	}
}

static bool aligned(const struct block_request *r, unsigned align)
{
	for (unsigned i = 0; i < r->iovs; i++)
		if (((uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len) % align)
			return false;
	return true;
}

/* ---- through aio ---- */

static struct part *part_take(struct file *file, struct block_request *request)
{
	struct part *part = file->free;

	if (part)
		file->free = part->next;
	else
		part = memory_zalloc(sizeof(*part));
	part->file = file;
	part->request = request;
	part->done = 0;
	part->retries = 0;
	part->aio.fd = file->fd;
	return part;
}

static void part_free(struct part *part)
{
	free(part->bounce);
	part->bounce = NULL;
	part->next = part->file->free;
	part->file->free = part;
}

static void part_end(struct part *part, int result)
{
	struct block_request *request = part->request;

	part_free(part);
	block_done(request, result);
}

/* The iovecs of what is left, at most IOV_MAX. */
static void set_iov(struct part *part)
{
	const struct block_request *r = part->request;
	uint64_t skip = part->done;
	unsigned first = 0;

	while (skip >= r->iov[first].iov_len)
		skip -= r->iov[first++].iov_len;
	part->aio.iov = r->iov + first;
	part->aio.iovs = r->iovs - first < IOV_MAX ? r->iovs - first : IOV_MAX;
	if (!skip)
		return;
	if (part->room < part->aio.iovs) {
		part->room = part->aio.iovs;
		part->iov = memory_resize(part->iov, part->room, sizeof(*part->iov));
	}
	memcpy(part->iov, part->aio.iov, part->aio.iovs * sizeof(*part->iov));
	part->iov[0].iov_base = (uint8_t *)part->iov[0].iov_base + skip;
	part->iov[0].iov_len -= skip;
	part->aio.iov = part->iov;
}

static void set_bounce(struct part *part)
{
	const struct block_request *r = part->request;
	uint64_t left = r->size - part->done;

	if (part->room < 1) {
		part->room = 1;
		part->iov = memory_resize(part->iov, part->room, sizeof(*part->iov));
	}
	part->iov[0] = (struct iovec){ .iov_base = part->bounce, .iov_len = left < BOUNCE ? left : BOUNCE };
	part->aio.iov = part->iov;
	part->aio.iovs = 1;
	if (r->op == BLOCK_WRITE)
		copy(r->iov, part->done, part->bounce, part->iov[0].iov_len, true);
}

static void part_go(struct part *part)
{
	if (part->bounce)
		set_bounce(part);
	else
		set_iov(part);
	part->aio.offset = part->request->offset + part->done;
	aio_submit(part->file->aio, &part->aio);
}

/* A read ended at the end of the file. */
static void part_at_end(struct part *part)
{
	const struct block_request *r = part->request;

	if (r->offset + part->done < part->file->bytes) {
		part_end(part, -EIO); /* someone has made it shorter */
		return;
	}
	fill_zeros(r->iov, part->done, r->size - part->done);
	part_end(part, 0);
}

static void on_transferred(struct aio_request *aio, int64_t result)
{
	struct part *part = (struct part *)aio;
	struct file *file = part->file;
	const struct block_request *r = part->request;

	if ((result == -EINTR || result == -EAGAIN) && part->retries++ < RETRIES) {
		part_go(part);
		return;
	}
	if (result < 0 || (!result && r->op == BLOCK_WRITE)) {
		part_end(part, result ? (int)result : -EIO);
		return;
	}
	if (part->bounce && r->op == BLOCK_READ)
		copy(r->iov, part->done, part->bounce, (size_t)result, false);
	part->done += (uint64_t)result;
	if (part->done == r->size)
		part_end(part, 0);
	else if (r->op == BLOCK_READ && (!result || r->offset + part->done >= file->bytes))
		part_at_end(part);
	else {
		if (file->direct)
			part->done -= part->done % file->block.alignment;
		part_go(part);
	}
}

/* Reads or writes, from `done` bytes on. */
static void transfer(struct file *file, struct block_request *request, uint64_t done)
{
	struct part *part = part_take(file, request);

	part->done = done;
	part->aio.op = request->op == BLOCK_READ ? AIO_READ : AIO_WRITE;
	part->aio.done = on_transferred;
	if (file->direct && !aligned(request, file->memory_align)) {
		size_t size = request->size < BOUNCE ? round_up(request->size, PAGE) : BOUNCE;
		part->bounce = aligned_alloc(PAGE, size);
		if (!part->bounce) {
			part_end(part, -ENOMEM);
			return;
		}
	}
	part_go(part);
}

static void on_flushed(struct aio_request *aio, int64_t result)
{
	struct part *part = (struct part *)aio;
	struct file *file = part->file;

	/* The kernel forgets what it could not write, and the next fdatasync would succeed. */
	if (result < 0 && !file->lost && !file->direct) {
		file->lost = (int)result;
		block_warn(&file->block, "%s: what the guest wrote could not be stored and is lost: %s",
			   block_where(&file->block), strerror((int)-result));
	}
	part_end(part, (int)result);
}

static void flush(struct file *file, struct block_request *request)
{
	if (file->lost || file->block.options.cache == BLOCK_CACHE_UNSAFE) {
		block_done(request, file->lost);
		return;
	}
	struct part *part = part_take(file, request);
	part->aio.op = AIO_SYNC;
	part->aio.done = on_flushed;
	aio_submit(file->aio, &part->aio);
}

static bool is_unsupported(int64_t result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV || result == -ENOTTY;
}

static void on_allocated(struct aio_request *aio, int64_t result)
{
	struct part *part = (struct part *)aio;
	struct file *file = part->file;
	struct block_request *r = part->request;

	if (!is_unsupported(result)) {
		part_end(part, (int)result);
		return;
	}
	if (r->op == BLOCK_DISCARD) {
		file->block.discards = false;
		part_end(part, 0);
		return;
	}
	file->block.zeroes = false;
	part_free(part);
	block_write_zeros(&file->block, r);
	block_kick(&file->block);
}

static void allocate(struct file *file, struct block_request *request, int mode)
{
	struct part *part = part_take(file, request);

	part->aio.op = AIO_ALLOCATE;
	part->aio.done = on_allocated;
	part->aio.mode = mode | FALLOC_FL_KEEP_SIZE;
	part->aio.offset = request->offset;
	part->aio.size = request->size;
	aio_submit(file->aio, &part->aio);
}

/* ---- at once ---- */

/* Reads what the page cache has: the bytes. */
static uint64_t read_now(struct file *file, const struct block_request *r)
{
	if (file->no_nowait || r->iovs > IOV_MAX)
		return 0;
	ssize_t n = preadv2(file->fd, r->iov, (int)r->iovs, (off_t)r->offset, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP)
		file->no_nowait = true;
	return n > 0 ? (uint64_t)n : 0;
}

/* Writes into the page cache, unless that may wait: the bytes, or -errno. */
static int64_t write_now(struct file *file, const struct block_request *r)
{
	uint64_t now = host_now();

	/* A part of a page may have to be read first. */
	if (now < file->inline_again || (r->offset | r->size) % PAGE || r->iovs > IOV_MAX)
		return 0;
	uint64_t before = host_sleeps();
	ssize_t n = pwritev(file->fd, r->iov, (int)r->iovs, (off_t)r->offset);
	int64_t result = n < 0 ? -errno : n;
	uint64_t after = host_now();
	/* A thread that was only preempted has not waited for the disk. */
	if (after - now > SLOW_NS && host_sleeps() != before)
		file->inline_again = after + (after - now) * AVOID;
	return result == -EINTR || result == -EAGAIN ? 0 : result;
}

static void file_submit(struct block *block, struct block_request *request)
{
	struct file *file = of(block);
	int64_t done = 0;

	switch (request->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		if (!file->direct)
			done = request->op == BLOCK_READ ? (int64_t)read_now(file, request) : write_now(file, request);
		if (done < 0 || (uint64_t)done == request->size)
			block_done(request, done < 0 ? (int)done : 0);
		else
			transfer(file, request, (uint64_t)done);
		break;
	case BLOCK_FLUSH:
		flush(file, request);
		break;
	case BLOCK_DISCARD:
		allocate(file, request, FALLOC_FL_PUNCH_HOLE);
		break;
	case BLOCK_WRITE_ZEROES:
		allocate(file, request,
			 request->unmap && block->discards ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
		break;
	}
}

static void file_kick(struct block *block)
{
	aio_kick(of(block)->aio);
}

static bool file_poll(struct block *block, bool wait)
{
	return aio_poll(of(block)->aio, wait);
}

/* ---- sizes ---- */

/* The size that the host says; 0 and -errno in *rc when it can't. */
static uint64_t host_size(int fd, bool device, int *rc)
{
	struct stat st;
	uint64_t size = 0;

	if (device)
		*rc = ioctl(fd, BLKGETSIZE64, &size) < 0 ? -errno : 0;
	else if (fstat(fd, &st) < 0)
		*rc = -errno;
	else
		size = (uint64_t)st.st_size;
	return size;
}

static uint64_t file_refresh(struct block *block)
{
	struct file *file = of(block);
	int rc = 0;
	uint64_t bytes = host_size(file->fd, file->device, &rc);

	if (rc)
		return block->size;
	file->bytes = bytes;
	return round_up(bytes, block->alignment);
}

static int file_grow(struct block *block, uint64_t size)
{
	struct file *file = of(block);

	if (file->device)
		return size <= block->size ? 0 : -ENOSPC;
	if (size <= file->bytes)
		return 0;
	if (ftruncate(file->fd, (off_t)size) < 0)
		return -errno;
	block->size = file_refresh(block);
	return 0;
}

/* ---- opening ---- */

static int file_close(struct block *block)
{
	struct file *file = of(block);

	aio_destroy(file->aio);
	while (file->free) {
		struct part *part = file->free;
		file->free = part->next;
		free(part->iov);
		free(part);
	}
	if (file->fd >= 0)
		close(file->fd);
	block_fini(block);
	free(file);
	return 0;
}

static const struct block_ops file_ops = {
	.name = "file",
	.submit = file_submit,
	.kick = file_kick,
	.poll = file_poll,
	.refresh = file_refresh,
	.grow = file_grow,
	.close = file_close,
};

static int open_descriptor(struct file *file, struct error *err)
{
	const struct block_options *o = &file->block.options;
	int flags =
	    (o->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK; /* else a pipe would wait for its other end */

	file->direct = o->cache == BLOCK_CACHE_NONE;
	file->fd = open(o->where, flags | (file->direct ? O_DIRECT : 0));
	if (file->fd >= 0)
		return 0;
	int rc = -errno;
	if (rc == -EINVAL && file->direct)
		return error_set(err, rc, "its file system has no I/O around the page cache: leave out cache=none");
	if ((rc == -EACCES || rc == -EPERM || rc == -EROFS) && !o->readonly && !access(o->where, R_OK))
		return error_errno(err, rc, "can't open it for writing (readonly would do without)");
	if (strstr(o->where, "://"))
		return error_errno(err, rc, "this program has nothing for such addresses, and as a file");
	return error_errno(err, rc, "can't open it");
}

static int check_kind(struct file *file, struct error *err)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return error_errno(err, -errno, "can't look at it");
	file->device = S_ISBLK(st.st_mode);
	if (!file->device && !S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "%s: use a file or a block device",
				 S_ISDIR(st.st_mode) ? "it is a folder" : "it is neither a file nor a block device");
	fcntl(file->fd, F_SETFL, fcntl(file->fd, F_GETFL) & ~O_NONBLOCK);
	return 0;
}

/* What offsets and buffers must be multiples of. */
static void find_alignment(struct file *file)
{
	struct statx stx = { 0 };
	int sector = 0;

	if (file->device && !ioctl(file->fd, BLKSSZGET, &sector) && sector > 512)
		file->block.alignment = (unsigned)sector;
	file->memory_align = PAGE;
	if (!file->direct)
		return;
#ifdef STATX_DIOALIGN
	if (!statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) && stx.stx_mask & STATX_DIOALIGN &&
	    stx.stx_dio_mem_align) {
		file->memory_align = stx.stx_dio_mem_align;
		if (stx.stx_dio_offset_align > file->block.alignment)
			file->block.alignment = stx.stx_dio_offset_align;
	}
#else
	(void)stx;
#endif
}

static int file_setup(struct file *file, struct event_loop *loop, struct error *err)
{
	struct error why = { "" };
	int rc = open_descriptor(file, err);

	if (!rc)
		rc = check_kind(file, err);
	if (rc)
		return rc;
	rc = lock_file(file->fd, file->block.readonly, &why);
	if (rc == -EAGAIN)
		return error_set(err, rc, "%s", why.text);
	if (rc)
		block_warn(&file->block, "%s: %s: nothing keeps other programs from using it at the same time",
			   block_where(&file->block), why.text);
	find_alignment(file);
	rc = 0;
	file->bytes = host_size(file->fd, file->device, &rc);
	if (rc)
		return error_errno(err, rc, "can't tell its size");
	file->block.size = round_up(file->bytes, file->block.alignment);
	file->block.discards = file->block.zeroes = true;
	return aio_create(&file->aio, loop, file->block.options.threads, err);
}

int block_file_open(struct block **block, const struct block_options *options, struct event_loop *loop,
		    struct error *err)
{
	struct file *file = memory_zalloc(sizeof(*file));

	*block = NULL;
	block_init(&file->block, &file_ops, loop, options);
	file->fd = -1;
	int rc = file_setup(file, loop, err);
	if (rc)
		file_close(&file->block);
	else
		*block = &file->block;
	return rc;
}
