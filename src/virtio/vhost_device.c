/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_device.c - the front end of vhost-user devices. Section numbers are of virtio 1.2. */
#include "virtio/vhost_device.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "host/memory.h"
#include "virtio/vhost_kind.h"
#include "virtio/vhost_ring.h"
#include "virtio/vhost_user.h"
#include "vm/state.h"

/* Where the back ends find our rings: an address that no guest's memory reaches (PLATFORM_PCI_MMIO64_BASE is below). */
#define RINGS_GPA (UINT64_C(1) << 45)

struct ring {
	struct vhost_device *device;
	unsigned index;
	struct vhost_ring ring;
	struct event_source *called;
};

struct vhost_device {
	struct virtio v;
	struct virtio_ops ops; /* of its kind */
	struct vhost_device_config config;
	const struct vhost_kind *kind;
	struct vhost_user peer;
	bool alive; /* there is a back end */
	struct event_source *watch, *requests;
	struct host_memory memory; /* of the rings */
	struct ring *rings;        /* v.queues */
};

static struct vhost_device *of(struct virtio *v)
{
	return (struct vhost_device *)v;
}

static struct virtqueue *queue_of(struct ring *ring)
{
	return &ring->device->v.queue[ring->index].vq;
}

/* ---- a back end that is gone ---- */

static void hang_up(struct vhost_device *device)
{
	event_remove(device->watch);
	event_remove(device->requests);
	device->watch = device->requests = NULL;
	for (unsigned i = 0; device->rings && i < device->v.queues; i++) {
		event_remove(device->rings[i].called);
		device->rings[i].called = NULL;
	}
	vhost_user_close(&device->peer);
	device->alive = false;
}

/* Ends a request that nobody will serve. */
static void fail(struct ring *ring, struct virtqueue_chain *chain)
{
	struct virtqueue *vq = queue_of(ring);
	size_t written = 0;

	if (ring->device->kind->refuse(ring->index, chain, &written))
		virtqueue_push(vq, chain, written);
	else
		virtqueue_drop(vq, chain);
}

static bool fail_new(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	const struct virtio_queue *queue =
	    (struct virtio_queue *)(void *)((char *)vq - offsetof(struct virtio_queue, vq));

	fail(&of(v)->rings[queue->index], chain);
	return true;
}

static void lost(struct vhost_device *device, struct error *why)
{
	const struct virtio_env *env = &device->v.env;
	struct virtqueue_chain *chain;
	char text[sizeof(why->text) + 240];

	hang_up(device);
	if (device->config.gone)
		device->config.gone(device->config.ctx, why);
	for (unsigned i = 0; i < device->v.queues; i++) {
		struct ring *ring = &device->rings[i];
		while ((chain = vhost_ring_take_back(&ring->ring)))
			fail(ring, chain);
		vhost_ring_reset(&ring->ring);
		virtqueue_interrupt(queue_of(ring));
		virtio_kick(&device->v, i);
	}
	snprintf(text, sizeof(text), "%s: lost the back end: %s; the guest's device fails until it is reset",
		 device->config.name, why->text);
	if (env->warn)
		env->warn(env->ctx, text);
	virtio_broken(&device->v, "the back end is gone");
}

/* ---- rings ---- */

/* Takes what the back end has completed. */
static void complete(struct ring *ring)
{
	struct virtqueue *vq = queue_of(ring);
	struct virtqueue_chain *chain;
	const char *why;
	size_t written;

	while ((chain = vhost_ring_take(&ring->ring, &written, &why)))
		virtqueue_push(vq, chain, written);
	virtqueue_interrupt(vq);
	if (why) {
		struct error err;
		error_set(&err, -EPROTO, "%s", why);
		lost(ring->device, &err);
	} else if (ring->ring.starved) {
		ring->ring.starved = false;
		virtio_kick(&ring->device->v, ring->index);
	}
}

static void on_called(void *arg, uint32_t ready)
{
	struct ring *ring = arg;
	uint64_t count;

	(void)ready;
	if (read(ring->ring.shared.call, &count, sizeof(count)) > 0)
		complete(ring);
}

static bool relay(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	const struct virtio_queue *queue =
	    (struct virtio_queue *)(void *)((char *)vq - offsetof(struct virtio_queue, vq));
	struct vhost_ring *ring = &of(v)->rings[queue->index].ring;

	if (vhost_ring_put(ring, chain))
		return true;
	ring->starved = true;
	virtqueue_unpop(vq, chain);
	return false;
}

static void device_notify(struct virtio *v, unsigned queue)
{
	struct vhost_device *device = of(v);
	struct vhost_ring *ring = &device->rings[queue].ring;
	struct error err;

	if (device->alive && !ring->started) {
		if (vhost_user_ring_start(&device->peer, queue, &ring->shared, &err))
			lost(device, &err);
		else
			ring->started = true;
	}
	if (device->alive) {
		virtio_serve(v, queue, relay);
		vhost_ring_kick(ring);
	} else if (device->kind->refuses(queue)) {
		virtio_serve(v, queue, fail_new);
	}
}

/* ---- connecting ---- */

static void on_hang_up(void *arg, uint32_t ready)
{
	struct vhost_device *device = arg;
	struct error err;

	(void)ready;
	/* Nothing was asked, so there is nothing that it could have to say. */
	error_set(&err, -ECONNRESET, "%s",
		  ready & (EPOLLRDHUP | EPOLLHUP) ? "it hung up" : "it speaks without being asked");
	lost(device, &err);
}

static int read_config(struct vhost_device *device, struct error *err)
{
	uint8_t config[VHOST_USER_CONFIG_MAX] = { 0 };
	const struct vhost_kind *kind = device->kind;

	if (!kind->remote_config)
		return 0;
	int rc = vhost_user_get_config(&device->peer, config, kind->config_size, err);
	if (rc)
		return rc;
	if (kind->fix_config)
		kind->fix_config(config, device->v.queues);
	if (memcmp(config, device->v.config, kind->config_size) != 0)
		virtio_config_set(&device->v, 0, config, kind->config_size);
	return 0;
}

static void on_request(void *arg, uint32_t ready)
{
	struct vhost_device *device = arg;
	struct error err;
	bool changed = false;

	(void)ready;
	int rc = vhost_user_take_request(&device->peer, &changed, &err);
	if (!rc && changed)
		rc = read_config(device, &err);
	if (rc)
		lost(device, &err);
}

static int open_peer(struct vhost_device *device, struct error *err)
{
	int fd;
	int rc = device->config.connect(device->config.ctx, &fd, err);

	return rc ? rc : vhost_user_open(&device->peer, fd, err);
}

/* The rings' memory, as one more region. */
static struct guest_region rings_region(const struct vhost_device *device)
{
	return (struct guest_region){
		.gpa = RINGS_GPA,
		.size = device->memory.size,
		.hva = device->memory.base,
		.fd = device->memory.fd,
	};
}

/* What comes after the device is made: memory, and watching. */
static int set_up_peer(struct vhost_device *device, struct error *err)
{
	struct event_loop *loop = device->v.env.loop;
	struct guest_region more = rings_region(device);
	int rc = vhost_user_set_memory(&device->peer, device->v.env.memory, &more, err);

	if (!rc)
		rc = event_add(loop, &device->watch, device->peer.fd, EPOLLIN | EPOLLRDHUP, on_hang_up, device, err);
	if (!rc && device->peer.back_fd >= 0)
		rc = event_add(loop, &device->requests, device->peer.back_fd, EPOLLIN, on_request, device, err);
	for (unsigned i = 0; !rc && i < device->v.queues; i++) {
		struct ring *ring = &device->rings[i];
		rc = event_add(loop, &ring->called, ring->ring.shared.call, EPOLLIN, on_called, ring, err);
	}
	device->alive = !rc;
	return rc;
}

static unsigned queues_of(const struct vhost_device *device)
{
	const struct vhost_kind *kind = device->kind;
	unsigned all = kind->fixed_queues + (kind->more_queues ? device->config.queues : 0);

	/* Of a network card, some back ends count pairs. */
	if (kind->more_queues && device->peer.says_queues && all > device->peer.queues)
		all = device->peer.queues;
	if (kind->multi_feature && !(device->peer.features & kind->multi_feature))
		all = 1;
	return all;
}

/* Another back end has to be like the one that the guest has met. */
static int reconnect(struct vhost_device *device, struct error *err)
{
	int rc = open_peer(device, err);

	if (rc)
		return rc;
	if (device->v.offered & device->kind->features & ~(device->peer.features | device->kind->own_features))
		rc = error_set(err, -ENOTSUP, "it lacks features that the guest uses");
	else if (queues_of(device) < device->v.queues)
		rc = error_set(err, -ENOTSUP, "it has fewer queues than the guest uses");
	if (!rc)
		rc = set_up_peer(device, err);
	return rc ? rc : read_config(device, err);
}

/* ---- the device ---- */

static void device_start(struct virtio *v)
{
	struct vhost_device *device = of(v);
	struct error err = { "" };
	int rc = device->alive ? 0 : reconnect(device, &err);

	if (!rc)
		rc = vhost_user_set_features(
		    &device->peer, (v->features & device->kind->features) | VIRTIO_BIT(VIRTIO_F_VERSION_1), &err);
	if (rc)
		lost(device, &err);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits for what is under way, for some time: a back end may go on with it after it was told to stop. */
static void drain(struct ring *ring)
{
	int64_t deadline = now_ms() + VHOST_USER_PATIENCE_MS;

	while (ring->device->alive && ring->ring.in_flight && now_ms() < deadline) {
		struct pollfd p[2] = { { .fd = ring->ring.shared.call, .events = POLLIN },
				       { .fd = ring->device->peer.fd, .events = POLLIN } };
		complete(ring);
		if (!ring->device->alive || !ring->ring.in_flight)
			break;
		poll(p, 2, 20);
		on_called(ring, 0);
		if (ring->device->alive && p[1].revents)
			on_hang_up(ring->device, (uint32_t)p[1].revents);
	}
}

static void stop_ring(struct ring *ring)
{
	struct vhost_device *device = ring->device;
	struct virtqueue_chain *chain;
	struct error err;

	if (ring->ring.started && device->kind->drains)
		drain(ring);
	if (device->alive && ring->ring.started) {
		if (vhost_user_ring_stop(&device->peer, ring->index, &err))
			lost(device, &err);
		else
			complete(ring);
	}
	while ((chain = vhost_ring_take_back(&ring->ring)))
		virtqueue_drop(queue_of(ring), chain);
	vhost_ring_reset(&ring->ring);
}

static void device_reset(struct virtio *v)
{
	struct vhost_device *device = of(v);

	for (unsigned i = 0; i < v->queues; i++)
		stop_ring(&device->rings[i]);
}

static void device_save(struct virtio *v, struct state_writer *w)
{
	state_put_u8(w, "running", v->started);
}

static int device_load(struct virtio *v, struct state_reader *r, struct error *err)
{
	const struct vhost_device *device = of(v);
	uint8_t running = 0;

	state_get_u8(r, "running", &running);
	if (state_failed(r, err))
		return -EINVAL;
	if (running && !device->kind->stateless)
		return error_set(err, -ENOTSUP, "%s: a saved machine can't go on with another back end",
				 device->config.name);
	return 0;
}

static void device_destroy(struct virtio *v)
{
	struct vhost_device *device = of(v);

	hang_up(device);
	if (device->config.destroy)
		device->config.destroy(device->config.ctx);
	for (unsigned i = 0; device->rings && i < v->queues; i++)
		vhost_ring_fini(&device->rings[i].ring);
	free(device->rings);
	host_memory_fini(&device->memory);
	virtio_fini(v);
	free(device);
}

static const struct virtio_ops device_ops = {
	.version = 1,
	.start = device_start,
	.reset = device_reset,
	.notify = device_notify,
	.save = device_save,
	.load = device_load,
	.destroy = device_destroy,
};

/* ---- making ---- */

static int make_rings(struct vhost_device *device, struct error *err)
{
	unsigned queues = device->v.queues;
	int rc = host_memory_init(&device->memory, "plures-vhost", (uint64_t)queues * VHOST_RING_BYTES, err);

	if (rc)
		return rc;
	device->rings = memory_zalloc(queues * sizeof(*device->rings));
	for (unsigned i = 0; !rc && i < queues; i++) {
		struct ring *ring = &device->rings[i];
		ring->device = device;
		ring->index = i;
		rc = vhost_ring_init(&ring->ring, device->v.env.memory,
				     (uint8_t *)device->memory.base + (size_t)i * VHOST_RING_BYTES, err);
	}
	return rc;
}

/* Of a device that has a back end. */
static int make(struct vhost_device *device, const struct virtio_env *env, struct error *err)
{
	const struct vhost_kind *kind = device->kind;
	const struct vhost_device_config *config = &device->config;
	unsigned queues = queues_of(device);

	if (queues < kind->fixed_queues + kind->more_queues)
		return error_set(err, -ENOTSUP, "it has %u queues, too few for this device", queues);
	device->ops = device_ops;
	device->ops.name = kind->device;
	device->ops.type = kind->type;
	device->ops.class_code = kind->class_code;
	virtio_init(&device->v, &device->ops, env, (device->peer.features & kind->features) | kind->own_features,
		    queues, VHOST_QUEUE_SIZE, kind->config_size);
	if (kind->make_config)
		kind->make_config(device->v.config, config, queues);
	int rc = make_rings(device, err);
	if (!rc)
		rc = set_up_peer(device, err);
	return rc ? rc : read_config(device, err);
}

int vhost_device_create(struct virtio **v, const struct virtio_env *env, const struct vhost_device_config *config,
			struct error *err)
{
	struct vhost_device *device = memory_zalloc(sizeof(*device));

	*v = NULL;
	device->config = *config;
	device->kind = &vhost_kinds[config->type];
	device->peer = (struct vhost_user){ .fd = -1, .back_fd = -1 };
	device->memory.fd = -1;
	int rc = open_peer(device, err);
	if (!rc)
		rc = make(device, env, err);
	if (rc) {
		if (device->config.gone)
			device->config.gone(device->config.ctx, err);
		device_destroy(&device->v);
		return error_prefix(err, rc, "%s", config->name);
	}
	*v = &device->v;
	return 0;
}
