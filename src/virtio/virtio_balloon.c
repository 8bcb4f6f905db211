/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/virtio_balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/keys.h"
#include "base/memory.h"
#include "vm/clock.h"
#include "vm/state.h"

enum { F_STATS = 1, F_DEFLATE_ON_OOM = 2, F_REPORTING = 5 };
enum { CONFIG_TARGET = 0, CONFIG_ACTUAL = 4, CONFIG_SIZE = 8 };
/* Drivers number the optional queues either as the specification does (3 is for hints, which we do not offer) or without
 * gaps: so what a queue is for follows from what was negotiated. */
enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUES = 5, QUEUE_SIZE = 128 };
enum { PAGE_SHIFT = 12, PAGES_AT_ONCE = 1024, STAT_SIZE = 10 };

#define NS_PER_S 1000000000ull

struct options {
	uint64_t size;
	bool deflate_on_oom, reporting;
	uint64_t stats; /* seconds, or 0 */
};

struct balloon {
	struct virtio v;
	struct options options;
	struct timer *timer;
	struct virtqueue_chain *stats_chain; /* the driver's, given back when statistics are wanted */
	uint64_t stats[BALLOON_STATS];
};

static struct balloon *of(struct virtio *v)
{
	return (struct balloon *)v;
}

/* ---- pages ---- */

static int compare_pages(const void *a, const void *b)
{
	uint32_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return x < y ? -1 : x > y;
}

/* Gives pages back, neighbours together: a guest names them in any order. */
static void discard_pages(struct virtio *v, uint32_t *page, size_t count)
{
	qsort(page, count, sizeof(*page), compare_pages);
	for (size_t i = 0, n; i < count; i += n) {
		for (n = 1; i + n < count && page[i + n] - page[i] <= n; n++)
			;
		uint64_t pages = page[i + n - 1] - page[i] + UINT64_C(1);
		guest_memory_discard(v->env.memory, (uint64_t)page[i] << PAGE_SHIFT, pages << PAGE_SHIFT);
	}
}

static bool inflate(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	uint32_t page[PAGES_AT_ONCE];
	size_t offset = 0, n;

	while ((n = virtqueue_chain_read(chain, offset, page, sizeof(page)) / sizeof(*page))) {
		for (size_t i = 0; i < n; i++)
			page[i] = le32toh(page[i]);
		discard_pages(v, page, n);
		offset += n * sizeof(*page);
	}
	virtqueue_push(vq, chain, 0);
	return true;
}

/* Pages come back by being touched. */
static bool deflate(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	(void)v;
	virtqueue_push(vq, chain, 0);
	return true;
}

/* Free pages, as buffers that we may write to. */
static bool report(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	for (unsigned i = 0; i < chain->ins; i++)
		guest_memory_discard(v->env.memory, guest_memory_gpa(v->env.memory, chain->in[i].iov_base),
				     chain->in[i].iov_len);
	virtqueue_push(vq, chain, 0);
	return true;
}

/* ---- statistics ---- */

static bool take_stats(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	struct balloon *balloon = of(v);
	uint8_t stat[STAT_SIZE];

	for (size_t at = 0; at / STAT_SIZE < 64; at += STAT_SIZE) {
		if (virtqueue_chain_read(chain, at, stat, STAT_SIZE) < STAT_SIZE)
			break;
		unsigned tag = bytes_le16(stat);
		if (tag < BALLOON_STATS)
			balloon->stats[tag] = bytes_le64(stat + 2);
	}
	if (balloon->stats_chain) /* there is one too many */
		virtqueue_push(vq, balloon->stats_chain, 0);
	balloon->stats_chain = chain;
	return true;
}

static void drop_stats_chain(struct balloon *balloon)
{
	if (balloon->stats_chain)
		virtqueue_drop(&balloon->v.queue[QUEUE_STATS].vq, balloon->stats_chain);
	balloon->stats_chain = NULL;
}

static void on_timer(void *arg)
{
	struct balloon *balloon = arg;
	struct virtqueue *vq = &balloon->v.queue[QUEUE_STATS].vq;

	if (balloon->stats_chain) {
		virtqueue_push(vq, balloon->stats_chain, 0);
		balloon->stats_chain = NULL;
		virtqueue_interrupt(vq);
	}
	timer_arm(balloon->timer, clock_now(balloon->v.env.clock) + balloon->options.stats * NS_PER_S);
}

/* ---- the device ---- */

static void balloon_start(struct virtio *v)
{
	struct balloon *balloon = of(v);

	if (balloon->timer && virtio_has(v, F_STATS))
		timer_arm(balloon->timer, clock_now(v->env.clock) + balloon->options.stats * NS_PER_S);
}

static void balloon_reset(struct virtio *v)
{
	struct balloon *balloon = of(v);

	if (balloon->timer)
		timer_cancel(balloon->timer);
	drop_stats_chain(balloon);
	memset(balloon->stats, 0xff, sizeof(balloon->stats));
	pthread_mutex_lock(&v->lock);
	bytes_put_le32(v->config + CONFIG_ACTUAL, 0);
	pthread_mutex_unlock(&v->lock);
}

static void balloon_queue_reset(struct virtio *v, unsigned queue)
{
	if (queue == QUEUE_STATS)
		drop_stats_chain(of(v));
}

static void balloon_notify(struct virtio *v, unsigned queue)
{
	if (queue == QUEUE_INFLATE)
		virtio_serve(v, queue, inflate);
	else if (queue == QUEUE_DEFLATE)
		virtio_serve(v, queue, deflate);
	else if (queue == QUEUE_STATS && virtio_has(v, F_STATS))
		virtio_serve(v, queue, take_stats);
	else if (virtio_has(v, F_REPORTING))
		virtio_serve(v, queue, report);
}

static void balloon_config_written(struct virtio *v, unsigned offset, unsigned size)
{
	(void)offset; /* `actual` is the driver's, and the target is not worth keeping from it */
	(void)size;
	(void)v;
}

static void balloon_save(struct virtio *v, struct state_writer *w)
{
	state_put_u32(w, "target", bytes_le32(v->config + CONFIG_TARGET));
	state_put_u32(w, "actual", bytes_le32(v->config + CONFIG_ACTUAL));
}

static int balloon_load(struct virtio *v, struct state_reader *r, struct error *err)
{
	uint32_t target = 0, actual = 0;

	state_get_u32(r, "target", &target);
	state_get_u32(r, "actual", &actual);
	if (state_failed(r, err))
		return -EINVAL;
	bytes_put_le32(v->config + CONFIG_TARGET, target);
	bytes_put_le32(v->config + CONFIG_ACTUAL, actual);
	return 0;
}

static void balloon_destroy(struct virtio *v)
{
	struct balloon *balloon = of(v);

	if (balloon->timer)
		timer_free(balloon->timer);
	drop_stats_chain(balloon);
	virtio_fini(v);
	free(balloon);
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.version = 1,
	.type = VIRTIO_TYPE_BALLOON,
	.class_code = 0x00ff00,
	.start = balloon_start,
	.reset = balloon_reset,
	.notify = balloon_notify,
	.queue_reset = balloon_queue_reset,
	.config_written = balloon_config_written,
	.save = balloon_save,
	.load = balloon_load,
	.destroy = balloon_destroy,
};

/* ---- for the host ---- */

void virtio_balloon_set_target(struct virtio *v, uint64_t bytes)
{
	uint8_t pages[4];

	bytes_put_le32(pages, (uint32_t)(bytes >> PAGE_SHIFT));
	virtio_config_set(v, CONFIG_TARGET, pages, sizeof(pages));
}

static uint64_t config_bytes(struct virtio *v, unsigned offset)
{
	uint8_t pages[4];

	virtio_config_read(v, offset, pages, sizeof(pages));
	return (uint64_t)bytes_le32(pages) << PAGE_SHIFT;
}

uint64_t virtio_balloon_target(struct virtio *v)
{
	return config_bytes(v, CONFIG_TARGET);
}

uint64_t virtio_balloon_actual(struct virtio *v)
{
	return config_bytes(v, CONFIG_ACTUAL);
}

void virtio_balloon_stats(struct virtio *v, uint64_t stats[BALLOON_STATS])
{
	memcpy(stats, of(v)->stats, sizeof(of(v)->stats));
}

/* ---- making ---- */

static const struct keys_item keys[] = {
	{ .name = "size", .kind = KEYS_SIZE, .offset = offsetof(struct options, size), .first = true },
	{ .name = "deflate-on-oom", .kind = KEYS_FLAG, .offset = offsetof(struct options, deflate_on_oom) },
	{ .name = "reporting", .kind = KEYS_FLAG, .offset = offsetof(struct options, reporting) },
	{ .name = "stats", .kind = KEYS_NUMBER, .offset = offsetof(struct options, stats), .max = 86400 },
	{ .name = NULL },
};

static int parse(struct options *options, const char *text, struct error *err)
{
	*options = (struct options){ .deflate_on_oom = true, .reporting = true };
	int rc = keys_parse(text, keys, options, err);

	if (!rc && options->size >> PAGE_SHIFT > UINT32_MAX)
		rc = error_set(err, -EINVAL, "no balloon can be that large");
	return rc;
}

int virtio_balloon_check(const char *text, struct error *err)
{
	struct options options;

	return parse(&options, text, err);
}

int virtio_balloon_create(struct virtio **v, const struct virtio_env *env, const char *text, struct error *err)
{
	struct options options;

	*v = NULL;
	int rc = parse(&options, text, err);
	if (rc)
		return rc;
	struct balloon *balloon = memory_zalloc(sizeof(*balloon));
	uint64_t features = options.deflate_on_oom ? VIRTIO_BIT(F_DEFLATE_ON_OOM) : 0;
	if (options.reporting)
		features |= VIRTIO_BIT(F_REPORTING);
	if (options.stats)
		features |= VIRTIO_BIT(F_STATS);
	balloon->options = options;
	virtio_init(&balloon->v, &balloon_ops, env, features, QUEUES, QUEUE_SIZE, CONFIG_SIZE);
	if (options.stats)
		balloon->timer = timer_create_on(env->clock, on_timer, balloon);
	balloon_reset(&balloon->v);
	virtio_balloon_set_target(&balloon->v, options.size);
	*v = &balloon->v;
	return 0;
}
