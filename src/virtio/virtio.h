/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio.h - what a virtio device is, whatever bus it sits on (virtio 1.2). docs/design/virtio.md has the reasons.
 *
 * A device embeds struct virtio, which holds what all devices have: negotiated features, status, configuration bytes,
 * virtqueues. A transport (virtio_pci.h) gives the guest registers for them. Each kind is a file VIRTIO_KIND.c and a line
 * in devices.def.
 *
 * Threads. Every virtqueue belongs to one thread, that of its event loop: the device's, which is the machine's event
 * thread, unless the device has given it another (virtio_queue_loop). A guest's notification only queues work there, so
 * a vCPU pays a lock for it and, when that thread sleeps, one write to an eventfd; or, if the device can do a little on the
 * vCPU's thread (notify_here), that thread acts as the queue's for a moment, and nobody is woken. start, reset and all calls of the
 * device's queues come on these threads and never two at a time for one queue; so a device needs no lock for what only
 * its queues' thread touches. Registers are written by vCPU threads, under `lock`.
 *
 * A guest's reset takes effect on the control thread (the device's loop); until then the guest reads its old status, as
 * the specification lets it. When `reset` returns, the device touches guest memory no more.
 */
#ifndef PLURES_VIRTIO_VIRTIO_H
#define PLURES_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "host/event.h"
#include "virtio/virtqueue.h"

struct clock;
struct state_reader;
struct state_writer;
struct virtio;

enum { VIRTIO_QUEUES_MAX = 65, VIRTIO_CONFIG_MAX = 256 };

/* Device types, section 5. */
enum {
	VIRTIO_TYPE_NET = 1,
	VIRTIO_TYPE_BLOCK = 2,
	VIRTIO_TYPE_CONSOLE = 3,
	VIRTIO_TYPE_RNG = 4,
	VIRTIO_TYPE_BALLOON = 5,
	VIRTIO_TYPE_VSOCK = 19,
	VIRTIO_TYPE_FS = 26,
	VIRTIO_TYPE_PMEM = 27,
};

/* Features of all devices, section 6: offered by virtio.c, not by a device. */
enum {
	VIRTIO_F_INDIRECT_DESC = 28,
	VIRTIO_F_EVENT_IDX = 29,
	VIRTIO_F_VERSION_1 = 32,
	VIRTIO_F_RING_RESET = 40,
};
#define VIRTIO_BIT(feature) (UINT64_C(1) << (feature))

/* Status, section 2.1. */
enum {
	VIRTIO_ACKNOWLEDGE = 1,
	VIRTIO_DRIVER = 2,
	VIRTIO_DRIVER_OK = 4,
	VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 0x40,
	VIRTIO_FAILED = 0x80,
};

/* What a device stands in. */
struct virtio_env {
	const struct guest_memory *memory;
	struct event_loop *loop;
	struct clock *clock;
	unsigned cpus;       /* that the machine has: a device may have a queue for each; 0 where nobody knows */
	const char *machine; /* what tells this machine from others, and stays the same: for addresses. May be NULL. */
	unsigned index;      /* how many devices of the same kind were made before */
	/* The host failed in a way that ends the machine, or (warn) that the user should know. Any thread. Either may be
	 * NULL. */
	void (*fail)(void *ctx, const char *reason);
	void (*warn)(void *ctx, const char *what);
	void *ctx;
};

struct virtio_ops {
	const char *name;    /* "virtio-rng": the section's name in saved state too */
	unsigned version;    /* of the saved state */
	uint16_t type;       /* VIRTIO_TYPE_* */
	uint32_t class_code; /* PCI's: 0x00ff00 for what has none */

	/* The driver is ready: features are final and queues are about to run. Control thread. NULL: nothing to do. */
	void (*start)(struct virtio *v);
	/* Back to the state before start, with every chain dropped and nothing of the guest's in use any more. The queues
	 * have stopped; a device with I/O of its own under way waits for it. Also called for a device that never started.
	 * Control thread. NULL for one that keeps no chains and no state. */
	void (*reset)(struct virtio *v);
	/* The driver has put something into a queue, perhaps. On the queue's thread, only while it runs. */
	void (*notify)(struct virtio *v, unsigned queue);
	/* As notify, but on the thread of the vCPU that notified, in the stead of the queue's thread, which sleeps: for what takes
	 * a few microseconds. False when there is more to do, which notify will be called for. NULL: nothing does. */
	bool (*notify_here)(struct virtio *v, unsigned queue);
	/* Drops the chains of one queue. Offers VIRTIO_F_RING_RESET when there. On the queue's thread. */
	void (*queue_reset)(struct virtio *v, unsigned queue);
	/* The driver wrote config[offset, offset + size), which is done already. On a vCPU's thread, with the lock. NULL: the
	 * configuration can't be written. */
	void (*config_written)(struct virtio *v, unsigned offset, unsigned size);
	/* Ends what is under way and begins nothing, so that the queues can be saved; `on` false: goes on. Control thread, no
	 * vCPU running. NULL for a device whose queues are served by the control thread. */
	void (*pause)(struct virtio *v, bool on);
	/* What virtio.c does not know, `config` included. Chains in flight are popped again after a load, so they must be the last that were
	 * popped. NULL: nothing. Load checks first and changes nothing when it fails; start follows if the device ran. */
	void (*save)(struct virtio *v, struct state_writer *w);
	int (*load)(struct virtio *v, struct state_reader *r, struct error *err);
	/* Frees it, all of it, calling virtio_fini. reset came before. */
	void (*destroy)(struct virtio *v);
};

/* What a transport does for its device. */
struct virtio_transport {
	void (*queue_interrupt)(void *transport, unsigned queue);
	void (*config_interrupt)(void *transport);
	/* The device has nothing to say any more: what it said and the driver has not heard is void, and so is where it was
	 * to say it. Without the device's lock, before the driver sees that its reset is done. */
	void (*reset)(void *transport);
};

struct virtio_queue {
	struct virtqueue vq; /* the queue's thread */
	struct virtio *virtio;
	unsigned index;
	struct event_loop *loop;
	struct event_work work;
	bool running; /* the control thread's: vq was started */
	/* Guarded by the device's lock. */
	uint16_t max_size, size;
	bool enabled, resetting;
	uint64_t desc, avail, used;
	uint16_t next_avail, next_used; /* to start with */
};

struct virtio {
	const struct virtio_ops *ops;
	struct virtio_env env;
	const struct virtio_transport *transport;
	void *transport_ctx;
	struct event_work control;
	unsigned queues;
	struct virtio_queue *queue;
	uint64_t features; /* that the driver accepted; the queues' threads may read it while they run */

	pthread_mutex_t lock; /* guards what follows, and the queues' settings */
	uint64_t offered, accepted;
	uint8_t status, generation;
	bool active;    /* the driver has been ready since the last reset; `start` was or will be called */
	bool started;   /* `start` was called */
	bool resetting; /* the guest asked for a reset, which is still to come */
	unsigned config_size;
	uint8_t config[VIRTIO_CONFIG_MAX];
	const char *why_broken; /* of NEEDS_RESET, for traces; or NULL */
};

/* ---- for devices ---- */

/* Makes the common half: `queues` queues of at most queue_size entries. v is zeroed. */
void virtio_init(struct virtio *v, const struct virtio_ops *ops, const struct virtio_env *env, uint64_t features,
		 unsigned queues, uint16_t queue_size, unsigned config_size);
void virtio_fini(struct virtio *v);

/* Has a queue served by another event loop, which runs from before the device is on a bus until it is destroyed. */
void virtio_queue_loop(struct virtio *v, unsigned queue, struct event_loop *loop);

static inline bool virtio_has(const struct virtio *v, unsigned feature)
{
	return v->features >> feature & 1;
}

/* Serves what is in a queue: `handle` takes each chain and pushes it, now or later, or puts it back with virtqueue_unpop
 * and returns false to stop. After some chains others get their turn and it goes on by itself. Interrupts at the end.
 * On the queue's thread. */
void virtio_serve(struct virtio *v, unsigned queue,
		  bool (*handle)(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain));
/* Has notify called once more for a queue. Any thread. */
void virtio_kick(struct virtio *v, unsigned queue);

/* Changes configuration bytes and tells the driver. Any thread, without the lock. */
void virtio_config_set(struct virtio *v, unsigned offset, const void *bytes, unsigned size);
void virtio_config_get(struct virtio *v, unsigned offset, void *bytes, unsigned size);
/* The device can't go on until the driver resets it. Any thread, without the lock. */
void virtio_broken(struct virtio *v, const char *why);

/* ---- for transports; any thread unless said ---- */

uint64_t virtio_offered(const struct virtio *v);
/* The half of the accepted features that `select` (0 or 1) names; ignored after FEATURES_OK. */
void virtio_accept(struct virtio *v, unsigned select, uint32_t bits);
uint8_t virtio_status(struct virtio *v);
void virtio_set_status(struct virtio *v, uint8_t status);
/* Offsets and sizes may be anything: what is outside reads as zeros. */
void virtio_config_read(struct virtio *v, unsigned offset, void *bytes, unsigned size);
void virtio_config_write(struct virtio *v, unsigned offset, const void *bytes, unsigned size);
/* The driver's notification, on a vCPU's thread, with no lock held. */
void virtio_notify(struct virtio *v, unsigned queue);
/* Enables a queue whose settings the transport has filled in under the lock; or resets it (VIRTIO_F_RING_RESET). */
void virtio_queue_enable(struct virtio *v, unsigned queue);
void virtio_queue_reset(struct virtio *v, unsigned queue);

/* The machine's reset: at once. On the control thread, with no vCPU running. */
void virtio_reset_now(struct virtio *v);
/* Likewise: with the transport's own fields in the same section. */
/* Ends what is under way and begins nothing, or goes on, with no vCPU running. Control thread. */
void virtio_pause(struct virtio *v, bool on);
void virtio_save(struct virtio *v, struct state_writer *w);
int virtio_load(struct virtio *v, struct state_reader *r, struct error *err);
/* After a load, when the transport is loaded as well: lets the device run if it ran. */
void virtio_resume(struct virtio *v);

/* ---- kinds of devices: devices.def ---- */

struct virtio_kind {
	const char *name;
	/* Whether a device can be made with these options; "" for none. -EINVAL and what to write instead. */
	int (*check)(const char *options, struct error *err);
	/* Makes one. On failure *v is NULL. */
	int (*create)(struct virtio **v, const struct virtio_env *env, const char *options, struct error *err);
};

/* All of devices.def, ended by a NULL name; and one by name or NULL. */
extern const struct virtio_kind virtio_kinds[];
const struct virtio_kind *virtio_kind_find(const char *name);

#define VIRTIO_DEVICE(name)                                                                              \
	int virtio_##name##_check(const char *options, struct error *err);                               \
	int virtio_##name##_create(struct virtio **v, const struct virtio_env *env, const char *options, \
				   struct error *err);
#include "virtio/devices.def"
#undef VIRTIO_DEVICE

#endif
