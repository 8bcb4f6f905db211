/* SPDX-License-Identifier: Apache-2.0 */
/* virtio.c - the half of a device that all devices have. virtio.h says which thread does what. */
#include "virtio/virtio.h"

#include <assert.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { SERVE_AT_ONCE = 256 /* chains, until others get their turn */ };

/* ---- running something on a queue's thread ---- */

struct call {
	struct event_work work;
	struct virtio_queue *queue;
	void (*fn)(struct virtio_queue *queue);
	sem_t done;
};

static void on_call(void *arg)
{
	struct call *call = arg;

	call->fn(call->queue);
	sem_post(&call->done);
}

/* From the control thread; waits until it is done. */
static void on_queue_thread(struct virtio_queue *queue, void (*fn)(struct virtio_queue *queue))
{
	struct call call = { .queue = queue, .fn = fn };

	if (queue->loop == queue->virtio->env.loop) {
		fn(queue);
		return;
	}
	call.work = (struct event_work){ .fn = on_call, .arg = &call };
	sem_init(&call.done, 0, 0);
	event_queue(queue->loop, &call.work);
	while (sem_wait(&call.done))
		;
	sem_destroy(&call.done);
}

/* ---- queues ---- */

static void on_queue_work(void *arg)
{
	struct virtio_queue *queue = arg;

	if (queue->vq.running)
		queue->virtio->ops->notify(queue->virtio, queue->index);
}

static void on_queue_interrupt(void *arg)
{
	struct virtio_queue *queue = arg;
	struct virtio *v = queue->virtio;

	if (v->transport)
		v->transport->queue_interrupt(v->transport_ctx, queue->index);
}

static void on_queue_broken(void *arg, const char *why)
{
	struct virtio_queue *queue = arg;

	virtio_broken(queue->virtio, why);
}

static void start_queue(struct virtio_queue *queue)
{
	struct virtio *v = queue->virtio;

	pthread_mutex_lock(&v->lock);
	struct virtqueue_setup setup = {
		.size = queue->size,
		.desc = queue->desc,
		.avail = queue->avail,
		.used = queue->used,
		.event_index = virtio_has(v, VIRTIO_F_EVENT_IDX),
		.indirect = virtio_has(v, VIRTIO_F_INDIRECT_DESC),
		.next_avail = queue->next_avail,
		.next_used = queue->next_used,
	};
	pthread_mutex_unlock(&v->lock);
	virtqueue_start(&queue->vq, &setup);
	/* There may be something in it that was put there before it could be served. */
	event_queue(queue->loop, &queue->work);
}

static void stop_queue(struct virtio_queue *queue)
{
	virtqueue_stop(&queue->vq);
}

static void reset_one_queue(struct virtio_queue *queue)
{
	stop_queue(queue);
	queue->virtio->ops->queue_reset(queue->virtio, queue->index);
}

/* With the lock. */
static void reset_queue_registers(struct virtio_queue *queue)
{
	queue->size = queue->max_size;
	queue->enabled = queue->resetting = false;
	queue->desc = queue->avail = queue->used = 0;
	queue->next_avail = queue->next_used = 0;
}

/* ---- the control thread ---- */

/* With the lock. */
static void reset_registers(struct virtio *v)
{
	v->status = 0;
	v->accepted = 0;
	v->active = v->started = v->resetting = false;
	v->why_broken = NULL;
	for (unsigned i = 0; i < v->queues; i++)
		reset_queue_registers(&v->queue[i]);
}

void virtio_reset_now(struct virtio *v)
{
	for (unsigned i = 0; i < v->queues; i++) {
		if (v->queue[i].running)
			on_queue_thread(&v->queue[i], stop_queue);
		v->queue[i].running = false;
	}
	if (v->ops->reset)
		v->ops->reset(v);
	v->features = 0;
	if (v->transport)
		v->transport->reset(v->transport_ctx);
	pthread_mutex_lock(&v->lock);
	reset_registers(v);
	pthread_mutex_unlock(&v->lock);
}

static void control_queue(struct virtio *v, struct virtio_queue *queue)
{
	pthread_mutex_lock(&v->lock);
	bool start = v->active && queue->enabled && !queue->running, reset = queue->resetting;
	pthread_mutex_unlock(&v->lock);
	if (reset) {
		if (queue->running)
			on_queue_thread(queue, reset_one_queue);
		queue->running = false;
		pthread_mutex_lock(&v->lock);
		reset_queue_registers(queue);
		pthread_mutex_unlock(&v->lock);
	} else if (start) {
		queue->running = true;
		on_queue_thread(queue, start_queue);
	}
}

/* Does what the registers have come to ask for. */
static void on_control(void *arg)
{
	struct virtio *v = arg;

	pthread_mutex_lock(&v->lock);
	bool reset = v->resetting, start = !reset && v->active && !v->started;
	if (start) {
		v->started = true;
		v->features = v->accepted;
	}
	pthread_mutex_unlock(&v->lock);
	if (reset) {
		virtio_reset_now(v);
		return;
	}
	if (start && v->ops->start)
		v->ops->start(v);
	for (unsigned i = 0; i < v->queues; i++)
		control_queue(v, &v->queue[i]);
}

/* ---- making ---- */

void virtio_init(struct virtio *v, const struct virtio_ops *ops, const struct virtio_env *env, uint64_t features,
		 unsigned queues, uint16_t queue_size, unsigned config_size)
{
	assert(queues <= VIRTIO_QUEUES_MAX && queue_size <= VIRTQUEUE_SIZE_MAX && config_size <= VIRTIO_CONFIG_MAX);
	v->ops = ops;
	v->env = *env;
	v->control = (struct event_work){ .fn = on_control, .arg = v };
	v->offered = features | VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) |
		     VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
	if (ops->queue_reset)
		v->offered |= VIRTIO_BIT(VIRTIO_F_RING_RESET);
	v->config_size = config_size;
	v->queues = queues;
	v->queue = memory_zalloc(queues * sizeof(*v->queue));
	pthread_mutex_init(&v->lock, NULL);
	for (unsigned i = 0; i < queues; i++) {
		struct virtio_queue *queue = &v->queue[i];
		queue->virtio = v;
		queue->index = i;
		queue->loop = env->loop;
		queue->work = (struct event_work){ .fn = on_queue_work, .arg = queue };
		queue->max_size = queue->size = queue_size;
		queue->vq = (struct virtqueue){
			.memory = env->memory,
			.interrupt = on_queue_interrupt,
			.broken = on_queue_broken,
			.ctx = queue,
		};
	}
}

void virtio_fini(struct virtio *v)
{
	if (!v->ops)
		return;
	for (unsigned i = 0; i < v->queues; i++) {
		event_unqueue(v->queue[i].loop, &v->queue[i].work);
		virtqueue_fini(&v->queue[i].vq);
	}
	event_unqueue(v->env.loop, &v->control);
	free(v->queue);
	pthread_mutex_destroy(&v->lock);
	v->ops = NULL;
}

void virtio_queue_loop(struct virtio *v, unsigned queue, struct event_loop *loop)
{
	v->queue[queue].loop = loop;
}

/* ---- for devices ---- */

void virtio_kick(struct virtio *v, unsigned queue)
{
	if (queue < v->queues)
		event_queue(v->queue[queue].loop, &v->queue[queue].work);
}

void virtio_serve(struct virtio *v, unsigned queue,
		  bool (*handle)(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain))
{
	struct virtqueue *vq = &v->queue[queue].vq;
	struct virtqueue_chain *chain;
	unsigned left = SERVE_AT_ONCE;
	bool more = true;

	virtqueue_kicks_off(vq);
	while (more && left) {
		chain = virtqueue_pop(vq);
		if (chain) {
			left--;
			more = handle(v, vq, chain);
		} else {
			more = !virtqueue_kicks_on(vq);
		}
	}
	if (more && !left)
		virtio_kick(v, queue);
	virtqueue_interrupt(vq);
}

void virtio_config_set(struct virtio *v, unsigned offset, const void *bytes, unsigned size)
{
	assert(offset + size <= v->config_size);
	pthread_mutex_lock(&v->lock);
	memcpy(v->config + offset, bytes, size);
	v->generation++;
	bool tell = v->status & VIRTIO_DRIVER_OK;
	pthread_mutex_unlock(&v->lock);
	if (tell && v->transport)
		v->transport->config_interrupt(v->transport_ctx);
}

void virtio_config_get(struct virtio *v, unsigned offset, void *bytes, unsigned size)
{
	virtio_config_read(v, offset, bytes, size);
}

void virtio_broken(struct virtio *v, const char *why)
{
	pthread_mutex_lock(&v->lock);
	bool tell = v->status & VIRTIO_DRIVER_OK && !(v->status & VIRTIO_NEEDS_RESET);
	v->status |= VIRTIO_NEEDS_RESET;
	v->why_broken = why;
	pthread_mutex_unlock(&v->lock);
	if (tell && v->transport)
		v->transport->config_interrupt(v->transport_ctx);
}

/* ---- for transports ---- */

uint64_t virtio_offered(const struct virtio *v)
{
	return v->offered;
}

void virtio_accept(struct virtio *v, unsigned select, uint32_t bits)
{
	pthread_mutex_lock(&v->lock);
	if (select < 2 && !(v->status & VIRTIO_FEATURES_OK)) {
		unsigned shift = select * 32;
		v->accepted = (v->accepted & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)bits << shift;
	}
	pthread_mutex_unlock(&v->lock);
}

uint8_t virtio_status(struct virtio *v)
{
	pthread_mutex_lock(&v->lock);
	uint8_t status = v->status;
	pthread_mutex_unlock(&v->lock);
	return status;
}

/* With the lock: the status that the driver wants, less what it may not have. */
static uint8_t status_allowed(const struct virtio *v, uint8_t wanted)
{
	uint8_t status =
	    v->status |
	    (wanted & (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK | VIRTIO_FAILED));

	if (v->accepted & ~v->offered || !(v->accepted & VIRTIO_BIT(VIRTIO_F_VERSION_1)))
		status &= (uint8_t) ~(VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
	if (!(status & VIRTIO_FEATURES_OK))
		status &= (uint8_t)~VIRTIO_DRIVER_OK;
	return status;
}

void virtio_set_status(struct virtio *v, uint8_t status)
{
	bool control = false, now = false;

	pthread_mutex_lock(&v->lock);
	if (v->resetting) {
		/* The driver has to wait for it to end. */
	} else if (!status && !v->active) {
		reset_registers(v);
		now = true;
	} else if (!status) {
		v->resetting = control = true;
	} else {
		v->status = status_allowed(v, status);
		control = v->status & VIRTIO_DRIVER_OK && !v->active;
		v->active |= control;
	}
	pthread_mutex_unlock(&v->lock);
	if (now && v->transport)
		v->transport->reset(v->transport_ctx);
	if (control)
		event_queue(v->env.loop, &v->control);
}

void virtio_config_read(struct virtio *v, unsigned offset, void *bytes, unsigned size)
{
	memset(bytes, 0, size);
	if (offset >= v->config_size)
		return;
	if (size > v->config_size - offset)
		size = v->config_size - offset;
	pthread_mutex_lock(&v->lock);
	memcpy(bytes, v->config + offset, size);
	pthread_mutex_unlock(&v->lock);
}

void virtio_config_write(struct virtio *v, unsigned offset, const void *bytes, unsigned size)
{
	if (!v->ops->config_written || offset >= v->config_size || size > v->config_size - offset)
		return;
	pthread_mutex_lock(&v->lock);
	memcpy(v->config + offset, bytes, size);
	v->ops->config_written(v, offset, size);
	pthread_mutex_unlock(&v->lock);
}

void virtio_notify(struct virtio *v, unsigned queue)
{
	if (queue >= v->queues)
		return;
	struct virtio_queue *q = &v->queue[queue];
	if (!v->ops->notify_here || !event_loop_borrow(q->loop)) {
		event_queue(q->loop, &q->work);
		return;
	}
	bool done = !q->vq.running || v->ops->notify_here(v, queue);
	if (!done)
		event_queue(q->loop, &q->work);
	event_loop_return(q->loop, !done);
}

void virtio_queue_enable(struct virtio *v, unsigned queue)
{
	pthread_mutex_lock(&v->lock);
	bool control = v->active && !v->resetting;
	if (!v->queue[queue].resetting)
		v->queue[queue].enabled = true;
	pthread_mutex_unlock(&v->lock);
	if (control)
		event_queue(v->env.loop, &v->control);
}

void virtio_queue_reset(struct virtio *v, unsigned queue)
{
	pthread_mutex_lock(&v->lock);
	bool control = v->active && v->accepted & VIRTIO_BIT(VIRTIO_F_RING_RESET);
	if (control) {
		v->queue[queue].enabled = false;
		v->queue[queue].resetting = true;
	}
	pthread_mutex_unlock(&v->lock);
	if (control)
		event_queue(v->env.loop, &v->control);
}
