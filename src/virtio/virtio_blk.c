/* SPDX-License-Identifier: Apache-2.0 */
/* Section numbers are of virtio 1.2. */
#include "virtio/virtio_blk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/keys.h"
#include "base/memory.h"
#include "host/io_thread.h"
#include "host/timer.h"
#include "vm/state.h"

/* 5.2.3 */
enum {
	F_SEG_MAX = 2,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_FLUSH = 9,
	F_TOPOLOGY = 10,
	F_CONFIG_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,
};
/* 5.2.4 */
enum {
	CONFIG_CAPACITY = 0,
	CONFIG_SEG_MAX = 12,
	CONFIG_BLK_SIZE = 20,
	CONFIG_PHYSICAL_EXP = 24,
	CONFIG_MIN_IO = 26,
	CONFIG_WRITEBACK = 32,
	CONFIG_QUEUES = 34,
	CONFIG_DISCARD_SECTORS = 36,
	CONFIG_DISCARD_SEGMENTS = 40,
	CONFIG_DISCARD_ALIGNMENT = 44,
	CONFIG_ZEROES_SECTORS = 48,
	CONFIG_ZEROES_SEGMENTS = 52,
	CONFIG_ZEROES_UNMAP = 56,
	CONFIG_SIZE = 60,
};
/* 5.2.6 */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { HEADER_SIZE = 16, SEGMENT_SIZE = 16, SEGMENT_UNMAP = 1 };

enum {
	QUEUE_SIZE = 256,
	DATA_SEGMENTS = QUEUE_SIZE - 2, /* a header and a status beside them */
	SECTOR = 512,
	PAGE = 4096,
	HERE_AT_ONCE = 8, /* requests, of less than HERE_SIZE bytes each, that a vCPU serves itself */
	HERE_SIZE = 64 << 10,
	NOT_HERE_FACTOR = 50,    /* or, after one that took the vCPU some time asleep, for so many times as long */
	NOT_HERE = 16,           /* notifications that are not tried after one whose requests had to wait */
	SEGMENTS = 32,           /* ranges in a discard */
	RANGE_SECTORS = 1 << 22, /* in one of them */
};

#define LOOK_NS UINT64_C(2000000000)  /* between two looks at the size */
#define QUIET_NS UINT64_C(5000000000) /* between two messages about failed requests */

struct range {
	uint64_t offset, size;
	bool unmap;
};

/* One of the guest's, from its chain's pop to its push. */
struct request {
	struct block_request block;
	struct blk *blk;
	struct virtqueue_chain *chain;
	unsigned queue;
	bool sync;      /* flush before it counts as done */
	bool shortened; /* its last iovec, by the status */
	struct range range[SEGMENTS];
	unsigned ranges, next_range;
	struct request *next;
};

struct blk {
	struct virtio v;
	struct io_thread *thread; /* or NULL: env.loop */
	struct event_loop *loop;
	struct block *block;
	struct host_timer timer; /* looks whether the size has changed */
	char serial[VIRTIO_BLK_SERIAL_MAX];

	/* The loop's thread. */
	struct request *free;
	bool paused;
	bool here;           /* a vCPU acts as the loop's thread */
	unsigned left;       /* requests that it may still serve */
	unsigned not_here;   /* notifications to leave to the thread: requests did not end at once */
	uint64_t here_again; /* not before then, either */
	bool serving;        /* interrupts are sent at the end of it */
	uint64_t told;       /* queues with something to tell, a bit each */
	struct event_work tell;
	uint64_t quiet_until; /* no message before then */
	unsigned untold;      /* failed requests since the last one */
};

static struct blk *of(struct virtio *v)
{
	return (struct blk *)v;
}

/* ---- ending requests ---- */

static void send_interrupts(struct blk *blk)
{
	for (unsigned i = 0; blk->told; i++) {
		if (blk->told >> i & 1)
			virtqueue_interrupt(&blk->v.queue[i].vq);
		blk->told &= ~(UINT64_C(1) << i);
	}
}

static void on_tell(void *arg)
{
	send_interrupts(arg);
}

static void finish(struct request *r, uint8_t status)
{
	struct blk *blk = r->blk;
	struct virtqueue *vq = &blk->v.queue[r->queue].vq;
	struct virtqueue_chain *chain = r->chain;
	struct iovec *last = &chain->in[chain->ins - 1];

	last->iov_len += r->shortened;
	if (vq->running)
		((uint8_t *)last->iov_base)[last->iov_len - 1] = status;
	virtqueue_push(vq, chain, chain->in_size);
	blk->told |= UINT64_C(1) << r->queue;
	if (!blk->serving)
		event_queue(blk->loop, &blk->tell);
	r->next = blk->free;
	blk->free = r;
}

static const char *name_of(enum block_op op)
{
	static const char *const names[] = { "a read", "a write", "a flush", "a discard", "writing zeros" };

	return names[op];
}

/* The host's errors are the user's to know; what the guest asked for in vain is the guest's. */
static void report(struct blk *blk, const struct block_request *r, int result)
{
	uint64_t now = host_now();
	char text[512], more[64] = "";

	if (result == -EINVAL || result == -EROFS || result == -EPERM || result == -EOPNOTSUPP ||
	    result == -ECANCELED || !blk->v.env.warn)
		return;
	if (now < blk->quiet_until) {
		blk->untold++;
		return;
	}
	if (blk->untold)
		snprintf(more, sizeof(more), "; and %u others before", blk->untold);
	blk->untold = 0;
	blk->quiet_until = now + QUIET_NS;
	snprintf(text, sizeof(text), "%.300s: %s of %llu bytes at %llu failed: %s; the guest is told%s",
		 block_where(blk->block), name_of(r->op), (unsigned long long)r->size, (unsigned long long)r->offset,
		 strerror(-result), more);
	blk->v.env.warn(blk->v.env.ctx, text);
}

static void next_range(struct request *r)
{
	const struct range *range = &r->range[r->next_range++];

	r->block.offset = range->offset;
	r->block.size = range->size;
	r->block.unmap = range->unmap;
	block_submit(r->blk->block, &r->block);
}

static void on_done(struct block_request *block, int result)
{
	struct request *r = (struct request *)block;
	struct blk *blk = r->blk;

	if (result) {
		report(blk, block, result);
		finish(r, result == -EOPNOTSUPP ? S_UNSUPP : S_IOERR);
	} else if (r->next_range < r->ranges) {
		next_range(r);
		block_kick(blk->block);
	} else if (r->sync) {
		r->sync = false;
		block->op = BLOCK_FLUSH;
		block_submit(blk->block, block);
		block_kick(blk->block);
	} else {
		finish(r, S_OK);
	}
}

/* ---- requests: 5.2.6 ---- */

/* Whether a write counts as done only when it is on stable storage: 5.2.6.2. */
static bool writes_through(struct virtio *v)
{
	if (virtio_has(v, F_CONFIG_WCE))
		return !__atomic_load_n(&v->config[CONFIG_WRITEBACK], __ATOMIC_RELAXED);
	return !virtio_has(v, F_FLUSH);
}

/* What the device reads behind the header, in place. */
static void set_out(struct request *r)
{
	struct iovec *iov = r->chain->out;
	unsigned n = r->chain->outs;
	size_t skip = HEADER_SIZE;

	while (n && skip >= iov->iov_len) {
		skip -= iov->iov_len;
		iov++;
		n--;
	}
	if (n) {
		iov->iov_base = (uint8_t *)iov->iov_base + skip;
		iov->iov_len -= skip;
	}
	r->block.iov = iov;
	r->block.iovs = n;
	r->block.size = r->chain->out_size - HEADER_SIZE;
}

/* What it writes before the status, in place as well. */
static void set_in(struct request *r)
{
	const struct virtqueue_chain *chain = r->chain;
	struct iovec *last = &chain->in[chain->ins - 1];

	r->shortened = last->iov_len > 1;
	if (r->shortened)
		last->iov_len--;
	r->block.iov = chain->in;
	r->block.iovs = chain->ins - !r->shortened;
	r->block.size = chain->in_size - 1;
}

static void submit(struct request *r, enum block_op op)
{
	r->block.op = op;
	r->block.done = on_done;
	block_submit(r->blk->block, &r->block);
}

static void transfer(struct request *r, bool write, uint64_t sector)
{
	if (write)
		set_out(r);
	else
		set_in(r);
	if (sector > UINT64_MAX / SECTOR || !r->block.size) {
		finish(r, S_IOERR);
		return;
	}
	r->block.offset = sector * SECTOR;
	r->sync = write && writes_through(&r->blk->v);
	submit(r, write ? BLOCK_WRITE : BLOCK_READ);
}

/* 5.2.6.2: all of it is checked before any of it is done. S_OK, or what is wrong with it. */
static uint8_t take_ranges(struct request *r, uint32_t type)
{
	size_t size = r->chain->out_size - HEADER_SIZE;
	uint8_t raw[SEGMENT_SIZE];

	if (!size || size % SEGMENT_SIZE || size / SEGMENT_SIZE > SEGMENTS)
		return S_IOERR;
	r->ranges = (unsigned)(size / SEGMENT_SIZE);
	for (unsigned i = 0; i < r->ranges; i++) {
		virtqueue_chain_read(r->chain, HEADER_SIZE + i * SEGMENT_SIZE, raw, SEGMENT_SIZE);
		uint64_t sector = bytes_le64(raw), sectors = bytes_le32(raw + 8);
		uint32_t flags = bytes_le32(raw + 12);
		if (flags & ~(uint32_t)SEGMENT_UNMAP || (flags && type == T_DISCARD))
			return S_UNSUPP;
		if (!sectors || sectors > RANGE_SECTORS || sector > UINT64_MAX / SECTOR - sectors ||
		    (sector + sectors) * SECTOR > block_size(r->blk->block))
			return S_IOERR;
		r->range[i] = (struct range){ sector * SECTOR, sectors * SECTOR, flags & SEGMENT_UNMAP };
	}
	return S_OK;
}

static void change_ranges(struct request *r, uint32_t type)
{
	uint8_t status = take_ranges(r, type);

	if (status != S_OK) {
		finish(r, status);
		return;
	}
	r->sync = writes_through(&r->blk->v);
	r->block.op = type == T_DISCARD ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES;
	r->block.done = on_done;
	next_range(r);
}

static void get_id(struct request *r)
{
	if (r->chain->in_size != VIRTIO_BLK_SERIAL_MAX + 1) {
		finish(r, S_IOERR);
		return;
	}
	virtqueue_chain_write(r->chain, 0, r->blk->serial, VIRTIO_BLK_SERIAL_MAX);
	finish(r, S_OK);
}

static void dispatch(struct request *r, uint32_t type, uint64_t sector)
{
	switch (type) {
	case T_IN:
	case T_OUT:
		transfer(r, type == T_OUT, sector);
		break;
	case T_FLUSH:
		submit(r, BLOCK_FLUSH);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		change_ranges(r, type);
		break;
	case T_GET_ID:
		get_id(r);
		break;
	default:
		finish(r, S_UNSUPP);
	}
}

/* Whether a vCPU may spend its time on it. */
static bool is_quick(struct blk *blk, uint32_t type, const struct virtqueue_chain *chain)
{
	if (!blk->left)
		return false;
	blk->left--;
	return (type == T_IN || type == T_OUT || type == T_GET_ID) && chain->in_size + chain->out_size < HERE_SIZE;
}

static bool serve(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	struct blk *blk = of(v);
	struct request *r = blk->free;
	uint8_t header[HEADER_SIZE] = { 0 };

	if (virtqueue_chain_read(chain, 0, header, HEADER_SIZE) < HEADER_SIZE || !chain->in_size) {
		virtqueue_drop(vq, chain);
		virtqueue_break(vq, "a request without a header or without room for its status");
		return false;
	}
	if (blk->here && !is_quick(blk, bytes_le32(header), chain)) {
		virtqueue_unpop(vq, chain);
		blk->left = 0;
		blk->here = false;
		return false;
	}
	if (r)
		blk->free = r->next;
	else
		r = memory_zalloc(sizeof(*r));
	r->block = (struct block_request){ .size = 0 };
	r->blk = blk;
	r->chain = chain;
	r->queue = (unsigned)((struct virtio_queue *)(void *)vq - v->queue);
	r->sync = r->shortened = false;
	r->ranges = r->next_range = 0;
	dispatch(r, bytes_le32(header), bytes_le64(header + 8));
	return true;
}

static void blk_notify(struct virtio *v, unsigned queue)
{
	struct blk *blk = of(v);

	if (blk->paused)
		return;
	blk->serving = true;
	virtio_serve(v, queue, serve);
	block_kick(blk->block);
	/* What ended at once is told at once. */
	block_poll(blk->block, false);
	blk->serving = false;
	send_interrupts(blk);
}

/* Reads of what the host has in its page cache, and writes into it, end within block_submit; then no thread has to be woken, which
 * costs more than they do. */
static bool blk_notify_here(struct virtio *v, unsigned queue)
{
	struct blk *blk = of(v);

	if (blk->paused)
		return true;
	uint64_t begin = host_now(), sleeps = host_sleeps();
	if (blk->not_here || begin < blk->here_again || block_busy(blk->block)) {
		blk->not_here -= blk->not_here > 0;
		return false;
	}
	blk->here = blk->serving = true;
	blk->left = HERE_AT_ONCE;
	virtio_serve(v, queue, serve);
	block_poll(blk->block, false);
	bool done = blk->here && !block_busy(blk->block);
	if (block_busy(blk->block))
		blk->not_here = NOT_HERE;
	blk->here = blk->serving = false;
	send_interrupts(blk);
	/* A vCPU that had to wait does not try again soon: it had better run its guest. */
	if (host_sleeps() != sleeps)
		blk->here_again = begin + (host_now() - begin) * NOT_HERE_FACTOR;
	return done;
}

/* ---- life ---- */

static void on_loop(struct blk *blk, void (*fn)(void *arg))
{
	if (blk->thread)
		io_thread_call(blk->thread, fn, blk);
	else
		fn(blk);
}

/* Requests have ended when it returns, and their chains are pushed. */
static void pause_queues(void *arg)
{
	struct blk *blk = arg;

	blk->paused = true;
	block_drain(blk->block);
	send_interrupts(blk);
}

/* The same, but nobody wants to know how they end. */
static void drain(void *arg)
{
	struct blk *blk = arg;

	block_cancel(blk->block);
	block_drain(blk->block);
	send_interrupts(blk);
}

static void unpause_queues(void *arg)
{
	struct blk *blk = arg;

	blk->paused = false;
	for (unsigned i = 0; i < blk->v.queues; i++)
		virtio_kick(&blk->v, i);
}

static void blk_pause(struct virtio *v, bool on)
{
	on_loop(of(v), on ? pause_queues : unpause_queues);
}

static void blk_start(struct virtio *v)
{
	host_timer_arm(&of(v)->timer, LOOK_NS, LOOK_NS);
}

static void blk_reset(struct virtio *v)
{
	struct blk *blk = of(v);

	on_loop(blk, drain);
	host_timer_cancel(&blk->timer);
	pthread_mutex_lock(&v->lock);
	v->config[CONFIG_WRITEBACK] = 1;
	pthread_mutex_unlock(&v->lock);
}

static void blk_queue_reset(struct virtio *v, unsigned queue)
{
	(void)queue;
	drain(of(v));
}

static void blk_config_written(struct virtio *v, unsigned offset, unsigned size)
{
	(void)v; /* only `writeback` can be written, and is looked at when it matters */
	(void)offset;
	(void)size;
}

static void on_timer(void *arg)
{
	block_refresh(((struct blk *)arg)->block);
}

static void on_resized(void *ctx, uint64_t size)
{
	struct blk *blk = ctx;
	uint8_t sectors[8];

	bytes_put_le64(sectors, size / SECTOR);
	virtio_config_set(&blk->v, CONFIG_CAPACITY, sectors, sizeof(sectors));
}

static void blk_save(struct virtio *v, struct state_writer *w)
{
	state_put_u8(w, "writeback", v->config[CONFIG_WRITEBACK]);
}

static int blk_load(struct virtio *v, struct state_reader *r, struct error *err)
{
	uint8_t writeback = 1;

	state_get_u8(r, "writeback", &writeback);
	if (state_failed(r, err))
		return -EINVAL;
	v->config[CONFIG_WRITEBACK] = writeback;
	return 0;
}

static void blk_destroy(struct virtio *v)
{
	struct blk *blk = of(v);

	on_loop(blk, drain);
	if (blk->thread)
		io_thread_stop(blk->thread);
	host_timer_fini(&blk->timer);
	int rc = block_close(blk->block);
	if (rc && v->env.warn)
		v->env.warn(v->env.ctx, "a disk could not be closed properly");
	event_unqueue(blk->loop, &blk->tell);
	while (blk->free) {
		struct request *r = blk->free;
		blk->free = r->next;
		free(r);
	}
	virtio_fini(v);
	io_thread_destroy(blk->thread);
	free(blk);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.version = 1,
	.type = VIRTIO_TYPE_BLOCK,
	.class_code = 0x018000,
	.start = blk_start,
	.reset = blk_reset,
	.notify = blk_notify,
	.notify_here = blk_notify_here,
	.queue_reset = blk_queue_reset,
	.config_written = blk_config_written,
	.pause = blk_pause,
	.save = blk_save,
	.load = blk_load,
	.destroy = blk_destroy,
};

/* ---- making ---- */

static void fill_config(struct blk *blk)
{
	uint8_t *c = blk->v.config;
	unsigned block = block_alignment(blk->block), physical = block < PAGE ? PAGE : block;

	bytes_put_le64(c + CONFIG_CAPACITY, block_size(blk->block) / SECTOR);
	bytes_put_le32(c + CONFIG_SEG_MAX, DATA_SEGMENTS);
	bytes_put_le32(c + CONFIG_BLK_SIZE, block);
	c[CONFIG_PHYSICAL_EXP] = (uint8_t)__builtin_ctz(physical / block);
	bytes_put_le16(c + CONFIG_MIN_IO, (uint16_t)(physical / block));
	c[CONFIG_WRITEBACK] = 1;
	bytes_put_le16(c + CONFIG_QUEUES, (uint16_t)blk->v.queues);
	bytes_put_le32(c + CONFIG_DISCARD_SECTORS, RANGE_SECTORS);
	bytes_put_le32(c + CONFIG_DISCARD_SEGMENTS, SEGMENTS);
	bytes_put_le32(c + CONFIG_DISCARD_ALIGNMENT, physical / SECTOR);
	bytes_put_le32(c + CONFIG_ZEROES_SECTORS, RANGE_SECTORS);
	bytes_put_le32(c + CONFIG_ZEROES_SEGMENTS, SEGMENTS);
	c[CONFIG_ZEROES_UNMAP] = 1;
}

static uint64_t features_of(const struct block *block, unsigned queues)
{
	uint64_t features = VIRTIO_BIT(F_SEG_MAX) | VIRTIO_BIT(F_BLK_SIZE) | VIRTIO_BIT(F_TOPOLOGY) |
			    VIRTIO_BIT(F_FLUSH) | VIRTIO_BIT(F_CONFIG_WCE);

	if (queues > 1)
		features |= VIRTIO_BIT(F_MQ);
	if (block_readonly(block))
		return features | VIRTIO_BIT(F_RO);
	features |= VIRTIO_BIT(F_WRITE_ZEROES);
	return block_discards(block) ? features | VIRTIO_BIT(F_DISCARD) : features;
}

static void on_block_warn(void *ctx, const char *what)
{
	const struct blk *blk = ctx;

	if (blk->v.env.warn)
		blk->v.env.warn(blk->v.env.ctx, what);
}

static int open_disk(struct blk *blk, const struct virtio_blk_config *config, struct error *err)
{
	struct block_options options = config->block;
	int rc = 0;

	if (!config->no_thread) {
		rc = io_thread_create(&blk->thread, err);
		if (rc)
			return rc;
	}
	blk->loop = blk->thread ? io_thread_loop(blk->thread) : blk->v.env.loop;
	options.warn = on_block_warn;
	options.ctx = blk;
	if (!blk->block)
		rc = block_open(&blk->block, &options, blk->loop, err);
	if (!rc)
		rc = host_timer_init(&blk->timer, blk->loop, on_timer, blk, err);
	return rc;
}

int virtio_blk_make(struct virtio **v, const struct virtio_env *env, const struct virtio_blk_config *config,
		    struct error *err)
{
	struct blk *blk = memory_zalloc(sizeof(*blk));
	unsigned queues = config->queues ? config->queues : env->cpus;

	*v = NULL;
	queues = !queues ? 1 : queues > VIRTIO_BLK_QUEUES_MAX ? VIRTIO_BLK_QUEUES_MAX : queues;
	blk->v.env = *env;
	blk->block = config->ready;
	int rc = open_disk(blk, config, err);
	if (!rc && blk->thread)
		rc = io_thread_start(blk->thread, "disk", err);
	if (rc) {
		host_timer_fini(&blk->timer);
		block_close(blk->block);
		io_thread_destroy(blk->thread);
		free(blk);
		return rc;
	}
	virtio_init(&blk->v, &blk_ops, env, features_of(blk->block, queues), queues, QUEUE_SIZE, CONFIG_SIZE);
	for (unsigned i = 0; i < queues; i++)
		virtio_queue_loop(&blk->v, i, blk->loop);
	blk->tell = (struct event_work){ .fn = on_tell, .arg = blk };
	if (config->serial)
		memcpy(blk->serial, config->serial, strnlen(config->serial, sizeof(blk->serial)));
	fill_config(blk);
	block_on_resize(blk->block, on_resized, blk);
	*v = &blk->v;
	return 0;
}

/* ---- options ---- */

struct options {
	char *where, *format, *serial, *cache, *aio;
	bool readonly;
	uint64_t iops, bps, queues;
};

static const struct keys_item keys[] = {
	{ .name = "where", .kind = KEYS_STRING, .offset = offsetof(struct options, where), .first = true },
	{ .name = "format", .kind = KEYS_STRING, .offset = offsetof(struct options, format) },
	{ .name = "readonly", .kind = KEYS_FLAG, .offset = offsetof(struct options, readonly) },
	{ .name = "serial", .kind = KEYS_STRING, .offset = offsetof(struct options, serial) },
	{ .name = "cache", .kind = KEYS_STRING, .offset = offsetof(struct options, cache) },
	{ .name = "iops", .kind = KEYS_SIZE, .offset = offsetof(struct options, iops) },
	{ .name = "bps", .kind = KEYS_SIZE, .offset = offsetof(struct options, bps) },
	{ .name = "queues",
	  .kind = KEYS_NUMBER,
	  .offset = offsetof(struct options, queues),
	  .min = 1,
	  .max = VIRTIO_BLK_QUEUES_MAX },
	{ .name = "aio", .kind = KEYS_STRING, .offset = offsetof(struct options, aio) },
	{ .name = NULL },
};

static int parse_cache(const char *text, enum block_cache *cache, struct error *err)
{
	static const char *const names[] = { "writeback", "none", "unsafe" };

	*cache = BLOCK_CACHE_WRITEBACK;
	for (unsigned i = 0; text && i < 3; i++)
		if (!strcmp(text, names[i])) {
			*cache = (enum block_cache)i;
			return 0;
		}
	return text ? error_set(err, -EINVAL, "cache is writeback, none or unsafe, not '%.40s'", text) : 0;
}

static int parse(struct options *o, struct virtio_blk_config *config, const char *text, struct error *err)
{
	*o = (struct options){ 0 };
	*config = (struct virtio_blk_config){ .queues = 0 };
	int rc = keys_parse(text, keys, o, err);
	if (!rc && !o->where)
		rc = error_set(err, -EINVAL, "a disk needs a file or an address: --disk FILE");
	if (!rc)
		rc = parse_cache(o->cache, &config->block.cache, err);
	if (!rc)
		rc = block_check_format(o->format, err);
	if (!rc && o->aio && strcmp(o->aio, "io_uring") != 0 && strcmp(o->aio, "threads") != 0)
		rc = error_set(err, -EINVAL, "aio is io_uring or threads, not '%.40s'", o->aio);
	if (!rc && o->serial && strlen(o->serial) > VIRTIO_BLK_SERIAL_MAX)
		rc = error_set(err, -EINVAL, "a serial number has at most %d characters", VIRTIO_BLK_SERIAL_MAX);
	config->block.where = o->where;
	config->block.format = o->format;
	config->block.readonly = o->readonly;
	config->block.iops = o->iops;
	config->block.bps = o->bps;
	config->block.threads = o->aio && !strcmp(o->aio, "threads");
	config->serial = o->serial;
	config->queues = (unsigned)o->queues;
	return rc;
}

int virtio_blk_check(const char *text, struct error *err)
{
	struct virtio_blk_config config;
	struct options o;
	int rc = parse(&o, &config, text, err);

	keys_free(keys, &o);
	return rc;
}

int virtio_blk_create(struct virtio **v, const struct virtio_env *env, const char *text, struct error *err)
{
	struct virtio_blk_config config;
	struct options o;

	*v = NULL;
	int rc = parse(&o, &config, text, err);
	if (!rc)
		rc = virtio_blk_make(v, env, &config, err);
	keys_free(keys, &o);
	return rc;
}
