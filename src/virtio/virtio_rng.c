/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_rng.c - entropy, from the host's random number generator: virtio 1.2, 5.4. */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/memory.h"
#include "virtio/virtio.h"

enum {
	QUEUES = 1,
	QUEUE_SIZE = 64,
	AT_MOST = 16384 /* bytes a request: a guest gets less than it asks for, but at once */
};

struct rng {
	struct virtio v;
};

static bool serve(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	size_t done = 0;

	(void)v;
	for (unsigned i = 0; i < chain->ins && done < AT_MOST; i++) {
		size_t want = chain->in[i].iov_len < AT_MOST - done ? chain->in[i].iov_len : AT_MOST - done;
		ssize_t n = getrandom(chain->in[i].iov_base, want, 0);
		if (n > 0)
			done += (size_t)n;
		if (n < (ssize_t)want)
			break;
	}
	virtqueue_push(vq, chain, done);
	return true;
}

static void rng_notify(struct virtio *v, unsigned queue)
{
	virtio_serve(v, queue, serve);
}

static void rng_queue_reset(struct virtio *v, unsigned queue)
{
	(void)v; /* keeps no chain */
	(void)queue;
}

static void rng_destroy(struct virtio *v)
{
	virtio_fini(v);
	free(v);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.version = 1,
	.type = VIRTIO_TYPE_RNG,
	.class_code = 0x00ff00,
	.notify = rng_notify,
	.queue_reset = rng_queue_reset,
	.destroy = rng_destroy,
};

int virtio_rng_check(const char *options, struct error *err)
{
	return *options ? error_set(err, -EINVAL, "the random number generator takes no options") : 0;
}

int virtio_rng_create(struct virtio **v, const struct virtio_env *env, const char *options, struct error *err)
{
	struct rng *rng;

	*v = NULL;
	int rc = virtio_rng_check(options, err);
	if (rc)
		return rc;
	rng = memory_zalloc(sizeof(*rng));
	virtio_init(&rng->v, &rng_ops, env, 0, QUEUES, QUEUE_SIZE, 0);
	*v = &rng->v;
	return 0;
}
