/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_pci.c - the modern PCI transport. Section numbers are of virtio 1.2. */
#include "virtio/virtio_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "virtio/virtio.h"
#include "vm/state.h"

enum { VENDOR = 0x1af4, DEVICE_BASE = 0x1040, CAP_VENDOR = 9, NO_VECTOR = 0xffff };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI = 5 }; /* 4.1.4 */
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

enum { /* 4.1.4.3 */
       COMMON_DEVICE_FEATURE_SELECT = 0x00,
       COMMON_DEVICE_FEATURE = 0x04,
       COMMON_DRIVER_FEATURE_SELECT = 0x08,
       COMMON_DRIVER_FEATURE = 0x0c,
       COMMON_CONFIG_VECTOR = 0x10,
       COMMON_QUEUES = 0x12,
       COMMON_STATUS = 0x14,
       COMMON_GENERATION = 0x15,
       COMMON_QUEUE_SELECT = 0x16,
       COMMON_QUEUE_SIZE = 0x18,
       COMMON_QUEUE_VECTOR = 0x1a,
       COMMON_QUEUE_ENABLE = 0x1c,
       COMMON_QUEUE_NOTIFY_OFF = 0x1e,
       COMMON_QUEUE_DESC = 0x20,
       COMMON_QUEUE_AVAIL = 0x28,
       COMMON_QUEUE_USED = 0x30,
       COMMON_QUEUE_NOTIFY_DATA = 0x38,
       COMMON_QUEUE_RESET = 0x3a,
       COMMON_SIZE = 0x3c,
};

/* The registers of CAP_PCI in configuration space, by which a guest without BARs reaches the BAR: 4.1.4.9. */
enum { WINDOW_BAR = 4, WINDOW_OFFSET = 8, WINDOW_LENGTH = 12, WINDOW_DATA = 16, WINDOW_SIZE = 20 };

struct virtio_pci {
	struct device dev;
	struct device_ops ops; /* with the device's name */
	struct pci_function fn;
	struct virtio *v;
	unsigned window; /* the offset of CAP_PCI */

	/* Vectors are written under the virtio device's lock and read without. */
	_Atomic uint16_t config_vector;
	_Atomic uint16_t *queue_vector;
	/* Under that lock too. */
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;

	/* Notifications that an engine turns into events: a descriptor a queue, and who waits for it; or NULL. */
	int *bell;
	struct event_source **bell_source;

	pthread_mutex_t isr_lock; /* taken last; with it, the line follows isr */
	uint8_t isr;
};

/* ---- interrupts ---- */

static void interrupt(struct virtio_pci *p, uint16_t vector, uint8_t isr)
{
	if (pci_msix_enabled(&p->fn)) {
		if (vector != NO_VECTOR)
			pci_msix_raise(&p->fn, vector);
		return;
	}
	pthread_mutex_lock(&p->isr_lock);
	p->isr |= isr;
	pci_intx_set(&p->fn, true);
	pthread_mutex_unlock(&p->isr_lock);
}

static void on_queue_interrupt(void *transport, unsigned queue)
{
	struct virtio_pci *p = transport;

	interrupt(p, atomic_load_explicit(&p->queue_vector[queue], memory_order_relaxed), ISR_QUEUE);
}

static void on_config_interrupt(void *transport)
{
	struct virtio_pci *p = transport;

	interrupt(p, atomic_load_explicit(&p->config_vector, memory_order_relaxed), ISR_CONFIG);
}

/* Reading takes the interrupt back. */
static uint8_t take_isr(struct virtio_pci *p)
{
	pthread_mutex_lock(&p->isr_lock);
	uint8_t isr = p->isr;
	p->isr = 0;
	if (isr)
		pci_intx_set(&p->fn, false);
	pthread_mutex_unlock(&p->isr_lock);
	return isr;
}

/* The interrupt of a device that was reset would stay up: its driver may be gone, and others share the line. */
static void on_reset(void *arg)
{
	struct virtio_pci *p = arg;

	pthread_mutex_lock(&p->v->lock);
	atomic_store(&p->config_vector, NO_VECTOR);
	for (unsigned i = 0; i < p->v->queues; i++)
		atomic_store(&p->queue_vector[i], NO_VECTOR);
	p->device_feature_select = p->driver_feature_select = 0;
	p->queue_select = 0;
	pthread_mutex_unlock(&p->v->lock);
	take_isr(p);
}

static const struct virtio_transport transport = {
	.queue_interrupt = on_queue_interrupt,
	.config_interrupt = on_config_interrupt,
	.reset = on_reset,
};

/* ---- the common registers ---- */

static struct virtio_queue *selected(struct virtio_pci *p)
{
	return p->queue_select < p->v->queues ? &p->v->queue[p->queue_select] : NULL;
}

static void queue_registers(struct virtio_pci *p, uint8_t *r)
{
	const struct virtio_queue *queue = selected(p);

	if (!queue)
		return; /* a size of 0 says that there is none */
	bytes_put_le16(r + COMMON_QUEUE_SIZE, queue->size);
	bytes_put_le16(r + COMMON_QUEUE_VECTOR, atomic_load(&p->queue_vector[p->queue_select]));
	bytes_put_le16(r + COMMON_QUEUE_ENABLE, queue->enabled);
	bytes_put_le16(r + COMMON_QUEUE_NOTIFY_OFF, p->queue_select);
	bytes_put_le64(r + COMMON_QUEUE_DESC, queue->desc);
	bytes_put_le64(r + COMMON_QUEUE_AVAIL, queue->avail);
	bytes_put_le64(r + COMMON_QUEUE_USED, queue->used);
	bytes_put_le16(r + COMMON_QUEUE_NOTIFY_DATA, p->queue_select);
	bytes_put_le16(r + COMMON_QUEUE_RESET, queue->resetting);
}

static uint32_t feature_half(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> select * 32) : 0;
}

/* All registers as they would read, since a guest may read any part of them. */
static void common_registers(struct virtio_pci *p, uint8_t r[COMMON_SIZE])
{
	struct virtio *v = p->v;

	memset(r, 0, COMMON_SIZE);
	pthread_mutex_lock(&v->lock);
	bytes_put_le32(r + COMMON_DEVICE_FEATURE_SELECT, p->device_feature_select);
	bytes_put_le32(r + COMMON_DEVICE_FEATURE, feature_half(v->offered, p->device_feature_select));
	bytes_put_le32(r + COMMON_DRIVER_FEATURE_SELECT, p->driver_feature_select);
	bytes_put_le32(r + COMMON_DRIVER_FEATURE, feature_half(v->accepted, p->driver_feature_select));
	bytes_put_le16(r + COMMON_CONFIG_VECTOR, atomic_load(&p->config_vector));
	bytes_put_le16(r + COMMON_QUEUES, (uint16_t)v->queues);
	r[COMMON_STATUS] = v->status;
	r[COMMON_GENERATION] = v->generation;
	bytes_put_le16(r + COMMON_QUEUE_SELECT, p->queue_select);
	queue_registers(p, r);
	pthread_mutex_unlock(&v->lock);
}

static uint16_t valid_vector(const struct virtio_pci *p, uint64_t value)
{
	return value <= p->v->queues ? (uint16_t)value : NO_VECTOR;
}

/* A half or the whole of one of a queue's addresses. */
static void write_address(uint64_t *address, unsigned at, unsigned size, uint64_t value)
{
	if (size == 8)
		*address = value;
	else if (size == 4)
		*address = (*address & ~((uint64_t)UINT32_MAX << at * 8)) | value << at * 8;
}

/* With the lock: a queue that is not enabled takes settings. */
static void write_queue(struct virtio_pci *p, unsigned offset, unsigned size, uint64_t value)
{
	struct virtio_queue *queue = selected(p);

	if (!queue || queue->enabled || queue->resetting)
		return;
	if (offset == COMMON_QUEUE_SIZE) {
		if (size == 2 && value <= queue->max_size)
			queue->size = (uint16_t)value;
	} else if (offset < COMMON_QUEUE_AVAIL) {
		write_address(&queue->desc, offset & 7, size, value);
	} else if (offset < COMMON_QUEUE_USED) {
		write_address(&queue->avail, offset & 7, size, value);
	} else {
		write_address(&queue->used, offset & 7, size, value);
	}
}

/* With the lock. */
static void write_register(struct virtio_pci *p, unsigned offset, unsigned size, uint64_t value)
{
	switch (offset) {
	case COMMON_DEVICE_FEATURE_SELECT:
		p->device_feature_select = (uint32_t)value;
		break;
	case COMMON_DRIVER_FEATURE_SELECT:
		p->driver_feature_select = (uint32_t)value;
		break;
	case COMMON_CONFIG_VECTOR:
		atomic_store(&p->config_vector, valid_vector(p, value));
		break;
	case COMMON_QUEUE_SELECT:
		p->queue_select = (uint16_t)value;
		break;
	case COMMON_QUEUE_VECTOR:
		if (selected(p))
			atomic_store(&p->queue_vector[p->queue_select], valid_vector(p, value));
		break;
	case COMMON_QUEUE_SIZE:
	case COMMON_QUEUE_DESC:
	case COMMON_QUEUE_DESC + 4:
	case COMMON_QUEUE_AVAIL:
	case COMMON_QUEUE_AVAIL + 4:
	case COMMON_QUEUE_USED:
	case COMMON_QUEUE_USED + 4:
		write_queue(p, offset, size, value);
		break;
	default:
		break;
	}
}

static void common_write(struct virtio_pci *p, unsigned offset, unsigned size, uint64_t value)
{
	struct virtio *v = p->v;

	pthread_mutex_lock(&v->lock);
	unsigned queue = p->queue_select, select = p->driver_feature_select;
	write_register(p, offset, size, value);
	pthread_mutex_unlock(&v->lock);
	if (offset == COMMON_STATUS) {
		virtio_set_status(v, (uint8_t)value);
	} else if (offset == COMMON_DRIVER_FEATURE) {
		virtio_accept(v, select, (uint32_t)value);
	} else if (offset == COMMON_QUEUE_ENABLE && value == 1 && queue < v->queues) {
		virtio_queue_enable(v, queue);
	} else if (offset == COMMON_QUEUE_RESET && value == 1 && queue < v->queues) {
		virtio_queue_reset(v, queue);
	}
}

/* ---- the BAR ---- */

static uint64_t bar_read(void *dev, uint64_t offset, unsigned size)
{
	struct virtio_pci *p = dev;
	uint8_t bytes[COMMON_SIZE + 8] = { 0 };
	uint64_t value = 0;

	if (offset < VIRTIO_PCI_ISR) {
		if (offset < COMMON_SIZE) {
			common_registers(p, bytes);
			memcpy(&value, bytes + offset, size);
		}
	} else if (offset == VIRTIO_PCI_ISR) {
		value = take_isr(p);
	} else if (offset >= VIRTIO_PCI_CONFIG && offset < VIRTIO_PCI_NOTIFY) {
		virtio_config_read(p->v, (unsigned)offset - VIRTIO_PCI_CONFIG, &value, size);
	}
	return le64toh(value);
}

static void bar_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *p = dev;
	uint64_t bytes = htole64(value);

	if (offset >= VIRTIO_PCI_NOTIFY)
		virtio_notify(p->v, (unsigned)(offset - VIRTIO_PCI_NOTIFY) / VIRTIO_PCI_NOTIFY_STEP);
	else if (offset >= VIRTIO_PCI_CONFIG)
		virtio_config_write(p->v, (unsigned)offset - VIRTIO_PCI_CONFIG, &bytes, size);
	else if (offset < COMMON_SIZE)
		common_write(p, (unsigned)offset, size, value);
}

static const struct io_ops bar_io = { .read = bar_read, .write = bar_write };

/* ---- notifications that do not come as writes ---- */

static void on_bell(void *arg, uint32_t ready)
{
	struct virtio_queue *queue = arg;
	const struct virtio_pci *p = queue->virtio->transport_ctx;
	uint64_t count;

	(void)ready;
	if (read(p->bell[queue->index], &count, sizeof(count)) == (ssize_t)sizeof(count))
		virtio_kick(queue->virtio, queue->index);
}

static void remove_bells(struct virtio_pci *p)
{
	for (unsigned i = 0; p->bell && i < p->v->queues; i++) {
		event_remove(p->bell_source[i]);
		if (p->bell[i] >= 0)
			close(p->bell[i]);
	}
	free(p->bell_source);
	free(p->bell);
	p->bell_source = NULL;
	p->bell = NULL;
}

/* Not for a device that serves its queues on the vCPU's thread, which wants the write itself, nor for queues whose loop
 * still runs when the device is destroyed. */
static bool wants_bells(const struct virtio_pci *p, const struct pci *pci)
{
	const struct virtio *v = p->v;

	if (!pci_has_doorbells(pci) || v->ops->notify_here)
		return false;
	for (unsigned i = 0; i < v->queues; i++)
		if (v->queue[i].loop != v->env.loop)
			return false;
	return true;
}

static int add_bells(struct virtio_pci *p, struct pci *pci, struct error *err)
{
	struct virtio *v = p->v;
	int rc = 0;

	if (!wants_bells(p, pci))
		return 0;
	p->bell = memory_zalloc(v->queues * sizeof(*p->bell));
	p->bell_source = memory_zalloc(v->queues * sizeof(struct event_source *));
	for (unsigned i = 0; i < v->queues; i++)
		p->bell[i] = -1;
	for (unsigned i = 0; !rc && i < v->queues; i++) {
		p->bell[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (p->bell[i] < 0)
			rc = error_errno(err, -errno, "%s: can't make an eventfd", v->ops->name);
		else
			rc = event_add(v->queue[i].loop, &p->bell_source[i], p->bell[i], EPOLLIN, on_bell, &v->queue[i],
				       err);
	}
	if (rc) {
		remove_bells(p);
		return rc;
	}
	pci_set_doorbells(&p->fn, VIRTIO_PCI_BAR, VIRTIO_PCI_NOTIFY, VIRTIO_PCI_NOTIFY_STEP, p->bell, v->queues);
	return 0;
}

/* ---- the window in configuration space ---- */

/* The BAR's offset that the window stands at, or a large one when it is shut for accesses of this size. */
static uint32_t window_offset(struct virtio_pci *p, unsigned size)
{
	uint32_t bar = pci_function_read(&p->fn, p->window + WINDOW_BAR, 1);
	uint32_t offset = pci_function_read(&p->fn, p->window + WINDOW_OFFSET, 4);
	uint32_t length = pci_function_read(&p->fn, p->window + WINDOW_LENGTH, 4);

	return bar == VIRTIO_PCI_BAR && length == size && !(offset % size) ? offset : UINT32_MAX;
}

static uint32_t window_read(void *dev, unsigned offset, unsigned size)
{
	struct virtio_pci *p = dev;
	uint64_t value = 0;

	if (!offset)
		pci_bar_access(&p->fn, VIRTIO_PCI_BAR, window_offset(p, size), size, &value, false);
	return (uint32_t)value;
}

static void window_write(void *dev, unsigned offset, unsigned size, uint32_t value)
{
	struct virtio_pci *p = dev;
	uint64_t wide = value;

	if (!offset)
		pci_bar_access(&p->fn, VIRTIO_PCI_BAR, window_offset(p, size), size, &wide, true);
}

/* ---- the device ---- */

static void virtio_pci_reset(struct device *dev)
{
	struct virtio_pci *p = (struct virtio_pci *)dev;

	virtio_reset_now(p->v);
}

static void virtio_pci_save(struct device *dev, struct state_writer *w)
{
	struct virtio_pci *p = (struct virtio_pci *)dev;
	uint32_t vectors[VIRTIO_QUEUES_MAX] = { 0 };

	virtio_save(p->v, w);
	for (unsigned i = 0; i < p->v->queues; i++)
		vectors[i] = atomic_load(&p->queue_vector[i]);
	state_put_u32s(w, "queue_vectors", vectors, p->v->queues);
	state_put_u16(w, "config_vector", atomic_load(&p->config_vector));
	state_put_u32(w, "device_feature_select", p->device_feature_select);
	state_put_u32(w, "driver_feature_select", p->driver_feature_select);
	state_put_u16(w, "queue_select", p->queue_select);
	state_put_u8(w, "isr", p->isr);
	pci_function_save(&p->fn, w);
}

static int virtio_pci_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct virtio_pci *p = (struct virtio_pci *)dev;
	struct pci_saved *saved;
	uint32_t vectors[VIRTIO_QUEUES_MAX] = { 0 }, device_select = 0, driver_select = 0;
	uint16_t config_vector = 0, queue_select = 0;
	uint8_t isr = 0;

	state_get_u32s(r, "queue_vectors", vectors, p->v->queues);
	state_get_u16(r, "config_vector", &config_vector);
	state_get_u32(r, "device_feature_select", &device_select);
	state_get_u32(r, "driver_feature_select", &driver_select);
	state_get_u16(r, "queue_select", &queue_select);
	state_get_u8(r, "isr", &isr);
	int rc = pci_function_load(&p->fn, r, &saved, err);
	if (rc)
		return rc;
	rc = virtio_load(p->v, r, err);
	if (rc) {
		pci_saved_free(saved);
		return rc;
	}
	for (unsigned i = 0; i < p->v->queues; i++)
		atomic_store(&p->queue_vector[i], valid_vector(p, vectors[i]));
	atomic_store(&p->config_vector, valid_vector(p, config_vector));
	p->device_feature_select = device_select;
	p->driver_feature_select = driver_select;
	p->queue_select = queue_select;
	p->isr = isr;
	pci_function_apply(&p->fn, saved);
	virtio_resume(p->v);
	return 0;
}

static void virtio_pci_destroy(struct device *dev)
{
	struct virtio_pci *p = (struct virtio_pci *)dev;

	virtio_reset_now(p->v);
	pci_remove(&p->fn);
	remove_bells(p);
	p->v->ops->destroy(p->v);
	pthread_mutex_destroy(&p->isr_lock);
	free(p->queue_vector);
	free(p);
}

static void virtio_pci_pause(struct device *dev, bool on)
{
	virtio_pause(((struct virtio_pci *)dev)->v, on);
}

static const struct device_ops virtio_pci_ops = {
	.reset = virtio_pci_reset,
	.save = virtio_pci_save,
	.load = virtio_pci_load,
	.pause = virtio_pci_pause,
	.destroy = virtio_pci_destroy,
};

/* ---- making ---- */

/* 4.1.4: struct virtio_pci_cap after its header of two bytes, and `extra` bytes behind it. */
static unsigned add_capability(struct virtio_pci *p, uint8_t type, uint32_t offset, uint32_t length, unsigned extra,
			       uint32_t extra_value)
{
	uint8_t body[18] = { 0 };
	unsigned size = 16 + extra;

	body[0] = (uint8_t)size;
	body[1] = type;
	body[2] = VIRTIO_PCI_BAR;
	bytes_put_le32(body + 6, offset);
	bytes_put_le32(body + 10, length);
	bytes_put_le32(body + 14, extra_value);
	return pci_add_capability(&p->fn, CAP_VENDOR, body, size);
}

static void add_window(struct virtio_pci *p)
{
	p->window = add_capability(p, CAP_PCI, 0, 0, 4, 0);
	p->fn.writable[p->window + WINDOW_BAR] = 0xff;
	memset(p->fn.writable + p->window + WINDOW_OFFSET, 0xff, WINDOW_DATA - WINDOW_OFFSET);
	const struct pci_registers registers = {
		.start = (uint8_t)(p->window + WINDOW_DATA),
		.size = WINDOW_SIZE - WINDOW_DATA,
		.read = window_read,
		.write = window_write,
		.dev = p,
	};
	pci_set_registers(&p->fn, &registers);
}

static int add_function(struct virtio_pci *p, struct pci *pci, struct error *err)
{
	const struct virtio_ops *ops = p->v->ops;
	const struct pci_identity identity = {
		.vendor = VENDOR,
		.device = (uint16_t)(DEVICE_BASE + ops->type),
		.subsystem_vendor = VENDOR,
		.subsystem = (uint16_t)(DEVICE_BASE + ops->type),
		.class_code = ops->class_code,
		.revision = 1,
		.intx = true,
	};
	int rc = pci_add(pci, &p->fn, &identity, err);

	if (rc)
		return rc;
	pci_add_bar(&p->fn, VIRTIO_PCI_BAR, PCI_BAR_MEM64, VIRTIO_PCI_BAR_SIZE, &bar_io, p, ops->name);
	pci_add_msix(&p->fn, VIRTIO_PCI_MSIX_BAR, p->v->queues + 1);
	add_capability(p, CAP_COMMON, VIRTIO_PCI_COMMON, COMMON_SIZE, 0, 0);
	add_capability(p, CAP_ISR, VIRTIO_PCI_ISR, 1, 0, 0);
	if (p->v->config_size)
		add_capability(p, CAP_DEVICE, VIRTIO_PCI_CONFIG, p->v->config_size, 0, 0);
	add_capability(p, CAP_NOTIFY, VIRTIO_PCI_NOTIFY, p->v->queues * VIRTIO_PCI_NOTIFY_STEP, 4,
		       VIRTIO_PCI_NOTIFY_STEP);
	add_window(p);
	return 0;
}

int virtio_pci_create(struct device **dev, struct pci *pci, struct virtio *v, struct error *err)
{
	struct virtio_pci *p = memory_zalloc(sizeof(*p));
	int rc;

	*dev = NULL;
	p->v = v;
	v->transport_ctx = p;
	rc = add_function(p, pci, err);
	if (!rc) {
		rc = add_bells(p, pci, err);
		if (rc)
			pci_remove(&p->fn);
	}
	if (rc) {
		v->ops->destroy(v);
		free(p);
		return rc;
	}
	p->ops = virtio_pci_ops;
	p->ops.name = v->ops->name;
	p->ops.version = v->ops->version;
	p->dev.ops = &p->ops;
	p->queue_vector = memory_zalloc(v->queues * sizeof(*p->queue_vector));
	pthread_mutex_init(&p->isr_lock, NULL);
	on_reset(p);
	v->transport = &transport;
	*dev = &p->dev;
	return 0;
}
