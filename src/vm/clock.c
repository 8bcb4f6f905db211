/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers that are armed stand in a heap, earliest first. The timerfd is programmed for the earliest, and only when that
 * comes sooner than what it is programmed for: a deadline that moves away leaves it alone and costs one early wake-up
 * instead of a system call each time a guest puts its next tick off.
 */
#include "vm/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "host/event.h"

enum { NS_PER_S = 1000000000, NOT_ARMED = -1 };

struct timer {
	struct clock *clock;
	void (*fn)(void *arg);
	void *arg;
	uint64_t when;
	int place; /* in the heap, or NOT_ARMED */
};

struct clock {
	pthread_mutex_t lock; /* of everything below and of the timers */
	pthread_cond_t idle;  /* `running` changed */
	struct timer **heap;
	unsigned armed, timers; /* in the heap; in existence, for each of which the heap has room */
	struct timer *running;
	pthread_t runner; /* the thread that `running` runs on */
	bool manual;
	uint64_t now;        /* a manual clock's */
	uint64_t base;       /* a real one's: CLOCK_MONOTONIC at 0 */
	uint64_t programmed; /* the timerfd's, UINT64_MAX for none */
	int fd;
	struct event_source *source;
};

static uint64_t monotonic(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* ---- the heap ---- */

static void heap_put(struct clock *clock, unsigned place, struct timer *timer)
{
	clock->heap[place] = timer;
	timer->place = (int)place;
}

static void heap_up(struct clock *clock, struct timer *timer)
{
	unsigned i = (unsigned)timer->place;
	while (i > 0 && clock->heap[(i - 1) / 2]->when > timer->when) {
		heap_put(clock, i, clock->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_put(clock, i, timer);
}

static void heap_down(struct clock *clock, struct timer *timer)
{
	unsigned i = (unsigned)timer->place, child;
	while ((child = 2 * i + 1) < clock->armed) {
		if (child + 1 < clock->armed && clock->heap[child + 1]->when < clock->heap[child]->when)
			child++;
		if (clock->heap[child]->when >= timer->when)
			break;
		heap_put(clock, i, clock->heap[child]);
		i = child;
	}
	heap_put(clock, i, timer);
}

static void heap_remove(struct clock *clock, struct timer *timer)
{
	if (timer->place == NOT_ARMED)
		return;
	struct timer *last = clock->heap[--clock->armed];
	if (last != timer) {
		heap_put(clock, (unsigned)timer->place, last);
		heap_up(clock, last);
		heap_down(clock, last);
	}
	timer->place = NOT_ARMED;
}

static void heap_add(struct clock *clock, struct timer *timer)
{
	timer->place = (int)clock->armed++;
	heap_up(clock, timer);
}

/* ---- running ---- */

/* Programs the timerfd if the earliest deadline is sooner than what it stands at. */
static void clock_program(struct clock *clock)
{
	if (clock->manual || !clock->armed || clock->heap[0]->when >= clock->programmed)
		return;
	clock->programmed = clock->heap[0]->when;
	uint64_t at;
	if (__builtin_add_overflow(clock->programmed, clock->base, &at) || at > INT64_MAX)
		at = INT64_MAX;
	struct itimerspec spec = { .it_value = { .tv_sec = (time_t)(at / NS_PER_S),
						 .tv_nsec = (long)(at % NS_PER_S) } };
	int r = timerfd_settime(clock->fd, TFD_TIMER_ABSTIME, &spec, NULL);
	assert(r == 0);
	(void)r;
}

/* Calls the earliest timer if it is due at `now`. The lock is held on entry and exit but not during the call. */
static bool clock_fire_one(struct clock *clock, uint64_t now)
{
	if (!clock->armed || clock->heap[0]->when > now)
		return false;
	struct timer *timer = clock->heap[0];
	heap_remove(clock, timer);
	clock->running = timer;
	clock->runner = pthread_self();
	pthread_mutex_unlock(&clock->lock);
	timer->fn(timer->arg);
	pthread_mutex_lock(&clock->lock);
	clock->running = NULL;
	pthread_cond_broadcast(&clock->idle);
	return true;
}

static void clock_ready(void *arg, uint32_t ready)
{
	struct clock *clock = arg;
	(void)ready;
	pthread_mutex_lock(&clock->lock);
	uint64_t ticks;
	if (read(clock->fd, &ticks, sizeof(ticks)) == (ssize_t)sizeof(ticks)) {
		/* While callbacks run, arming leaves the timerfd alone: it is programmed once, below. */
		clock->programmed = 0;
		/* Only what is due now: a timer that always re-arms in the past must not keep the loop from the rest. */
		uint64_t now = monotonic() - clock->base;
		for (unsigned i = clock->armed; i > 0 && clock_fire_one(clock, now); i--)
			;
		clock->programmed = UINT64_MAX;
		clock_program(clock);
	}
	pthread_mutex_unlock(&clock->lock);
}

/* ---- clocks ---- */

static struct clock *clock_new(bool manual)
{
	struct clock *clock = memory_zalloc(sizeof(*clock));
	pthread_mutex_init(&clock->lock, NULL);
	pthread_cond_init(&clock->idle, NULL);
	clock->manual = manual;
	clock->programmed = UINT64_MAX;
	clock->fd = -1;
	return clock;
}

struct clock *clock_create_manual(void)
{
	return clock_new(true);
}

int clock_create(struct clock **out, struct event_loop *loop, struct error *err)
{
	struct clock *clock = clock_new(false);
	int rc;
	clock->base = monotonic();
	clock->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (clock->fd < 0) {
		rc = error_errno(err, -errno, "the machine's clock: timerfd_create");
		goto fail;
	}
	rc = event_add(loop, &clock->source, clock->fd, EPOLLIN, clock_ready, clock, err);
	if (rc < 0)
		goto fail;
	*out = clock;
	return 0;
fail:
	clock_destroy(clock);
	return rc;
}

void clock_destroy(struct clock *clock)
{
	if (!clock)
		return;
	assert(!clock->timers);
	event_remove(clock->source);
	if (clock->fd >= 0)
		close(clock->fd);
	pthread_cond_destroy(&clock->idle);
	pthread_mutex_destroy(&clock->lock);
	free(clock->heap);
	free(clock);
}

uint64_t clock_now(struct clock *clock)
{
	if (!clock->manual)
		return monotonic() - clock->base;
	pthread_mutex_lock(&clock->lock);
	uint64_t now = clock->now;
	pthread_mutex_unlock(&clock->lock);
	return now;
}

void clock_advance(struct clock *clock, uint64_t ns)
{
	assert(clock->manual);
	pthread_mutex_lock(&clock->lock);
	uint64_t end = clock->now + ns;
	while (clock->armed && clock->heap[0]->when <= end) {
		if (clock->heap[0]->when > clock->now)
			clock->now = clock->heap[0]->when;
		clock_fire_one(clock, end);
	}
	clock->now = end;
	pthread_mutex_unlock(&clock->lock);
}

uint64_t clock_next(struct clock *clock)
{
	pthread_mutex_lock(&clock->lock);
	uint64_t when = clock->armed ? clock->heap[0]->when : UINT64_MAX;
	pthread_mutex_unlock(&clock->lock);
	return when;
}

/* ---- timers ---- */

struct timer *timer_create_on(struct clock *clock, void (*fn)(void *arg), void *arg)
{
	struct timer *timer = memory_zalloc(sizeof(*timer));
	*timer = (struct timer){ .clock = clock, .fn = fn, .arg = arg, .place = NOT_ARMED };
	pthread_mutex_lock(&clock->lock);
	clock->heap = memory_resize(clock->heap, ++clock->timers, sizeof(struct timer *));
	pthread_mutex_unlock(&clock->lock);
	return timer;
}

void timer_arm(struct timer *timer, uint64_t when)
{
	struct clock *clock = timer->clock;
	pthread_mutex_lock(&clock->lock);
	heap_remove(clock, timer);
	timer->when = when;
	heap_add(clock, timer);
	clock_program(clock);
	pthread_mutex_unlock(&clock->lock);
}

void timer_cancel(struct timer *timer)
{
	pthread_mutex_lock(&timer->clock->lock);
	heap_remove(timer->clock, timer);
	pthread_mutex_unlock(&timer->clock->lock);
}

void timer_free(struct timer *timer)
{
	if (!timer)
		return;
	struct clock *clock = timer->clock;
	pthread_mutex_lock(&clock->lock);
	heap_remove(clock, timer);
	while (clock->running == timer) {
		assert(!pthread_equal(clock->runner, pthread_self()));
		pthread_cond_wait(&clock->idle, &clock->lock);
	}
	clock->timers--;
	pthread_mutex_unlock(&clock->lock);
	free(timer);
}
