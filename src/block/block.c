/* SPDX-License-Identifier: Apache-2.0 */
/* block.c - what all layers of a disk have in common: checks, completion, and building the stack. */
#include "block/block.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "block/driver.h"
#include "block/layers.h"

/* ---- completion ---- */

/* Calls back for what has finished up to now. */
static bool run_finished(struct block *block)
{
	struct block_request *request = block->finished;

	block->finished = NULL;
	block->finished_end = &block->finished;
	bool any = request;
	while (request) {
		struct block_request *next = request->next;
		block->under_way--;
		request->done(request, request->result);
		request = next;
	}
	return any;
}

static void on_finished(void *arg)
{
	run_finished(arg);
}

void block_done(struct block_request *request, int result)
{
	struct block *block = request->block;

	assert(result <= 0);
	request->result = result;
	request->next = NULL;
	*block->finished_end = request;
	block->finished_end = &request->next;
	event_queue(block->loop, &block->work);
}

void block_done_now(struct block_request *request, int result)
{
	assert(result <= 0);
	request->block->under_way--;
	request->done(request, result);
}

bool block_poll(struct block *block, bool wait)
{
	bool any = run_finished(block);

	if (!block->under_way)
		return any;
	if (block->ops->poll)
		any |= block->ops->poll(block, wait && !any && !block->finished);
	return run_finished(block) || any;
}

void block_cancel(struct block *block)
{
	if (block->ops->cancel)
		block->ops->cancel(block);
}

void block_drain(struct block *block)
{
	while (block->under_way) {
		block_kick(block);
		block_poll(block, true);
	}
}

/* ---- requests ---- */

/* 0, or what is wrong with a request; *nothing when there is nothing to do. */
static int check(const struct block *block, const struct block_request *r, bool *nothing)
{
	if (r->op == BLOCK_FLUSH) {
		*nothing = block->readonly;
		return 0;
	}
	if (r->op != BLOCK_READ && block->readonly)
		return -EROFS;
	if ((r->offset | r->size) % block->alignment || r->offset > block->size || r->size > block->size - r->offset)
		return -EINVAL;
	*nothing = !r->size || (r->op == BLOCK_DISCARD && !block->discards);
	return 0;
}

void block_submit(struct block *block, struct block_request *request)
{
	bool nothing = false;
	int rc = check(block, request, &nothing);

	request->block = block;
	block->under_way++;
	if (rc || nothing)
		block_done(request, rc);
	else if (request->op == BLOCK_WRITE_ZEROES && !block->zeroes)
		block_write_zeros(block, request);
	else if (request->op == BLOCK_WRITE && !request->offset && block->guessed)
		block_guard_write(block, request);
	else
		block->ops->submit(block, request);
}

void block_kick(struct block *block)
{
	if (block->ops->kick)
		block->ops->kick(block);
}

/* ---- writing zeros ---- */

enum { ZEROS = 64 << 10, ZEROS_IOVS = 16 };

/* One WRITE_ZEROES, as writes one after the other. */
struct zeroing {
	struct block_request write, *request;
	struct iovec iov[ZEROS_IOVS];
};

static void zeroing_next(struct zeroing *z)
{
	static _Alignas(4096) const uint8_t zeros[ZEROS];
	const struct block_request *r = z->request;
	uint64_t left = r->offset + r->size - z->write.offset;

	z->write.size = left < (uint64_t)ZEROS * ZEROS_IOVS ? left : (uint64_t)ZEROS * ZEROS_IOVS;
	z->write.iovs = 0;
	for (uint64_t at = 0; at < z->write.size; at += ZEROS) {
		size_t part = z->write.size - at < ZEROS ? z->write.size - at : ZEROS;
		z->iov[z->write.iovs++] = (struct iovec){ .iov_base = (void *)(uintptr_t)zeros, .iov_len = part };
	}
	/* Below the core's door, like the request whose place it takes. */
	z->write.block = r->block;
	z->write.block->under_way++;
	z->write.block->ops->submit(z->write.block, &z->write);
}

static void zeroing_done(struct block_request *write, int result)
{
	struct zeroing *z = (struct zeroing *)write;
	const struct block_request *r = z->request;

	write->offset += write->size;
	if (!result && write->offset < r->offset + r->size) {
		zeroing_next(z);
		block_kick(r->block);
		return;
	}
	block_done(z->request, result);
	free(z);
}

void block_write_zeros(struct block *block, struct block_request *request)
{
	struct zeroing *z = memory_zalloc(sizeof(*z));

	(void)block;
	z->request = request;
	z->write =
	    (struct block_request){ .op = BLOCK_WRITE, .offset = request->offset, .iov = z->iov, .done = zeroing_done };
	zeroing_next(z);
}

/* ---- one request at a time ---- */

struct sync {
	struct block_request request;
	bool done;
	int result;
};

static void sync_done(struct block_request *request, int result)
{
	struct sync *sync = (struct sync *)request;

	sync->done = true;
	sync->result = result;
}

int block_sync(struct block *block, enum block_op op, uint64_t offset, void *bytes, uint64_t size)
{
	struct iovec iov = { .iov_base = bytes, .iov_len = size };
	struct sync sync = {
		.request = { .op = op, .offset = offset, .size = size, .done = sync_done },
	};

	if (bytes) {
		sync.request.iov = &iov;
		sync.request.iovs = 1;
	}
	block_submit(block, &sync.request);
	block_kick(block);
	while (!sync.done)
		block_poll(block, true);
	return sync.result;
}

/* ---- what a layer is ---- */

void block_init(struct block *block, const struct block_ops *ops, struct event_loop *loop,
		const struct block_options *options)
{
	block->ops = ops;
	block->loop = loop;
	block->options = *options;
	block->options.where = memory_strdup(options->where);
	block->options.format = options->format ? memory_strdup(options->format) : NULL;
	block->alignment = 512;
	block->readonly = options->readonly;
	block->work = (struct event_work){ .fn = on_finished, .arg = block };
	block->finished_end = &block->finished;
}

void block_fini(struct block *block)
{
	if (!block->ops)
		return;
	assert(!block->under_way);
	event_unqueue(block->loop, &block->work);
	free((char *)(uintptr_t)block->options.where);
	free((char *)(uintptr_t)block->options.format);
	block->ops = NULL;
}

void block_warn(struct block *block, const char *format, ...)
{
	char what[512];
	va_list ap;

	if (!block->options.warn)
		return;
	va_start(ap, format);
	vsnprintf(what, sizeof(what), format, ap);
	va_end(ap);
	block->options.warn(block->options.ctx, what);
}

bool block_busy(const struct block *block)
{
	return block->under_way;
}

uint64_t block_size(const struct block *block)
{
	return block->size;
}

unsigned block_alignment(const struct block *block)
{
	return block->alignment;
}

bool block_readonly(const struct block *block)
{
	return block->readonly;
}

bool block_discards(const struct block *block)
{
	return block->discards;
}

const char *block_where(const struct block *block)
{
	return block->options.where;
}

const char *block_format(const struct block *block)
{
	return block->options.format ? block->options.format : "raw";
}

uint64_t block_refresh(struct block *block)
{
	uint64_t size = block->ops->refresh ? block->ops->refresh(block) : block->size;

	if (size != block->size) {
		block->size = size;
		if (block->resized)
			block->resized(block->resized_ctx, size);
	}
	return size;
}

void block_on_resize(struct block *block, void (*resized)(void *ctx, uint64_t size), void *ctx)
{
	block->resized = resized;
	block->resized_ctx = ctx;
}

/* ---- the stack ---- */

typedef int protocol_open(struct block **block, const struct block_options *options, struct event_loop *loop,
			  struct error *err);

struct protocol {
	const char *prefix;
	protocol_open *open;
};

struct format {
	const char *name;
	bool (*probe)(const uint8_t *head, size_t size);
	int (*open)(struct block **block, struct block *below, const struct block_options *options,
		    struct event_loop *loop, struct error *err);
};

static const struct protocol protocols[] = {
#define BLOCK_PROTOCOL(name, prefix) { prefix, block_##name##_open },
#define BLOCK_FORMAT(name)
#include "block/drivers.def"
#undef BLOCK_PROTOCOL
#undef BLOCK_FORMAT
};

static const struct format formats[] = {
#define BLOCK_PROTOCOL(name, prefix)
#define BLOCK_FORMAT(name) { #name, block_##name##_probe, block_##name##_open },
#include "block/drivers.def"
#undef BLOCK_PROTOCOL
#undef BLOCK_FORMAT
	{ NULL, NULL, NULL },
};

static protocol_open *find_protocol(const char *where)
{
	const struct protocol *p = protocols;

	while (strncmp(where, p->prefix, strlen(p->prefix)) != 0)
		p++; /* the last one's is "" */
	return p->open;
}

int block_check_format(const char *name, struct error *err)
{
	char list[128] = "raw";

	if (!name || !strcmp(name, "raw"))
		return 0;
	for (const struct format *f = formats; f->name; f++) {
		if (!strcmp(f->name, name))
			return 0;
		strncat(list, ", ", sizeof(list) - strlen(list) - 1);
		strncat(list, f->name, sizeof(list) - strlen(list) - 1);
	}
	return error_set(err, -EINVAL, "no image format is called '%.40s': use one of %s", name, list);
}

bool block_probe(const uint8_t *head, size_t size)
{
	for (const struct format *f = formats; f->name; f++)
		if (f->probe(head, size))
			return true;
	return false;
}

/* The format that was asked for or, without one, that the bytes are of; NULL for raw. */
static int find_format(const struct format **format, struct block *block, const char *wanted, struct error *err)
{
	_Alignas(4096) uint8_t head[4096] = { 0 };
	uint64_t size = block->size < sizeof(head) ? block->size : sizeof(head);
	const struct format *f = formats;

	*format = NULL;
	if (!f->name || (wanted && !strcmp(wanted, "raw")))
		return 0;
	int rc = !wanted && size ? block_sync(block, BLOCK_READ, 0, head, size) : 0;
	if (rc)
		return error_errno(err, rc, "can't read its beginning");
	while (f->name && !(wanted ? !strcmp(wanted, f->name) : f->probe(head, sizeof(head))))
		f++;
	*format = f->name ? f : NULL;
	return 0;
}

static int give_up(struct block **block, int rc)
{
	block_close(*block);
	*block = NULL;
	return rc;
}

static int open_stack(struct block **block, const struct block_options *options, struct event_loop *loop,
		      struct error *err)
{
	struct block_options below = *options;
	const struct format *format;
	struct block *layer;

	below.format = NULL;
	int rc = find_protocol(options->where)(block, &below, loop, err);
	if (rc)
		return rc;
	rc = find_format(&format, *block, options->format, err);
	if (rc)
		return give_up(block, rc);
	if (format) {
		layer = *block;
		*block = NULL;
		below.format = format->name;
		rc = format->open(block, layer, &below, loop, err);
		if (rc)
			return rc;
	}
	if (!(*block)->size)
		return give_up(
		    block, error_set(err, -EINVAL, "it is empty: give it a size, such as with truncate --size 10G"));
	(*block)->guessed = !format && !options->format;
	if (options->iops || options->bps) {
		layer = *block;
		rc = block_limit_open(block, layer, &below, loop, err);
	}
	return rc;
}

int block_open(struct block **block, const struct block_options *options, struct event_loop *loop, struct error *err)
{
	*block = NULL;
	int rc = block_check_format(options->format, err);
	if (!rc)
		rc = open_stack(block, options, loop, err);
	return rc ? error_prefix(err, rc, "%s", options->where) : 0;
}

int block_close(struct block *block)
{
	return block ? block->ops->close(block) : 0;
}
