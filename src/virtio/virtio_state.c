/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_state.c - the common half of a device's saved state. */
#include <errno.h>

#include "virtio/virtio.h"
#include "vm/state.h"

enum { STATUS_KNOWN = 0xcf };

struct saved_queues {
	uint32_t size[VIRTIO_QUEUES_MAX], enabled[VIRTIO_QUEUES_MAX];
	uint32_t next_avail[VIRTIO_QUEUES_MAX], next_used[VIRTIO_QUEUES_MAX];
	uint64_t desc[VIRTIO_QUEUES_MAX], avail[VIRTIO_QUEUES_MAX], used[VIRTIO_QUEUES_MAX];
};

void virtio_pause(struct virtio *v, bool on)
{
	if (on)
		v->control.fn(v); /* what the guest has asked for counts as done */
	if (v->ops->pause)
		v->ops->pause(v, on);
}

void virtio_save(struct virtio *v, struct state_writer *w)
{
	struct saved_queues s = { 0 };

	virtio_pause(v, true);
	for (unsigned i = 0; i < v->queues; i++) {
		const struct virtio_queue *queue = &v->queue[i];
		const struct virtqueue *vq = &queue->vq;
		s.size[i] = queue->size;
		s.enabled[i] = queue->enabled;
		s.desc[i] = queue->desc;
		s.avail[i] = queue->avail;
		s.used[i] = queue->used;
		s.next_avail[i] = vq->running ? (uint16_t)(vq->next_avail - vq->in_flight) : queue->next_avail;
		s.next_used[i] = vq->running ? vq->next_used : queue->next_used;
	}
	state_put_u8(w, "status", v->status);
	state_put_u8(w, "generation", v->generation);
	state_put_u64(w, "accepted", v->accepted);
	state_put_u32s(w, "queue_size", s.size, v->queues);
	state_put_u32s(w, "queue_enabled", s.enabled, v->queues);
	state_put_u64s(w, "queue_desc", s.desc, v->queues);
	state_put_u64s(w, "queue_avail", s.avail, v->queues);
	state_put_u64s(w, "queue_used", s.used, v->queues);
	state_put_u32s(w, "queue_next_avail", s.next_avail, v->queues);
	state_put_u32s(w, "queue_next_used", s.next_used, v->queues);
	if (v->ops->save)
		v->ops->save(v, w);
	virtio_pause(v, false);
}

static void apply_queues(struct virtio *v, const struct saved_queues *s)
{
	for (unsigned i = 0; i < v->queues; i++) {
		struct virtio_queue *queue = &v->queue[i];
		queue->size = (uint16_t)s->size[i];
		queue->enabled = s->enabled[i];
		queue->desc = s->desc[i];
		queue->avail = s->avail[i];
		queue->used = s->used[i];
		queue->next_avail = (uint16_t)s->next_avail[i];
		queue->next_used = (uint16_t)s->next_used[i];
	}
}

int virtio_load(struct virtio *v, struct state_reader *r, struct error *err)
{
	struct saved_queues s = { 0 };
	uint8_t status = 0, generation = 0;
	uint64_t accepted = 0;

	state_get_u8(r, "status", &status);
	state_get_u8(r, "generation", &generation);
	state_get_u64(r, "accepted", &accepted);
	state_get_u32s(r, "queue_size", s.size, v->queues);
	state_get_u32s(r, "queue_enabled", s.enabled, v->queues);
	state_get_u64s(r, "queue_desc", s.desc, v->queues);
	state_get_u64s(r, "queue_avail", s.avail, v->queues);
	state_get_u64s(r, "queue_used", s.used, v->queues);
	state_get_u32s(r, "queue_next_avail", s.next_avail, v->queues);
	state_get_u32s(r, "queue_next_used", s.next_used, v->queues);
	if (state_failed(r, err))
		return -EINVAL;
	for (unsigned i = 0; i < v->queues; i++)
		if (s.size[i] > v->queue[i].max_size)
			return error_set(err, -EINVAL, "%s: queue %u is larger than this program's", v->ops->name, i);
	if (status & VIRTIO_FEATURES_OK && accepted & ~v->offered)
		return error_set(err, -EINVAL, "%s: the guest uses features that this machine's device lacks (%#llx)",
				 v->ops->name, (unsigned long long)(accepted & ~v->offered));
	virtio_reset_now(v);
	int rc = v->ops->load ? v->ops->load(v, r, err) : 0;
	if (rc)
		return rc;
	pthread_mutex_lock(&v->lock);
	v->status = status & STATUS_KNOWN;
	v->generation = generation;
	v->accepted = accepted;
	v->active = status & VIRTIO_DRIVER_OK && status & VIRTIO_FEATURES_OK;
	apply_queues(v, &s);
	pthread_mutex_unlock(&v->lock);
	return 0;
}

void virtio_resume(struct virtio *v)
{
	v->control.fn(v);
}
