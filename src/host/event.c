/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source that is removed while a batch of events is being worked through may still stand in that batch: it is only
 * marked, and freed after the batch. An eventfd wakes the loop for queued work, if it sleeps, and for stopping.
 */
#include "host/event.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/memory.h"

enum { EVENT_BATCH = 32, NOT_STOPPED = -1 };

struct event_source {
	struct event_loop *loop;
	void (*fn)(void *arg, uint32_t ready);
	void *arg;
	int fd;
	bool removed;
	struct event_source *next, **link; /* in one of the loop's lists */
};

struct event_loop {
	int epoll, wake;
	atomic_int stop;      /* the status asked for, or NOT_STOPPED */
	pthread_mutex_t turn; /* held while callbacks run; taken before `lock` */
	bool in_turn;         /* with `turn` */
	pthread_mutex_t lock; /* of the fields below */
	bool asleep;          /* waits, or is about to, and nobody has woken it yet */
	struct event_source *sources;
	struct event_source *dead; /* removed, but perhaps still in the batch */
	struct event_work *work, **work_end;
	struct event_work *batch; /* what this turn has yet to run */
};

static void source_link(struct event_source **list, struct event_source *source)
{
	source->next = *list;
	source->link = list;
	if (*list)
		(*list)->link = &source->next;
	*list = source;
}

static void source_unlink(struct event_source *source)
{
	*source->link = source->next;
	if (source->next)
		source->next->link = source->link;
}

static void source_list_free(struct event_source **list)
{
	struct event_source *source = *list;
	*list = NULL;
	while (source) {
		struct event_source *next = source->next;
		free(source);
		source = next;
	}
}

int event_loop_create(struct event_loop **out, struct error *err)
{
	struct event_loop *loop = memory_zalloc(sizeof(*loop));
	int rc;
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&loop->turn, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_mutex_init(&loop->lock, NULL);
	loop->stop = NOT_STOPPED;
	loop->work_end = &loop->work;
	loop->wake = -1;
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll < 0) {
		rc = error_errno(err, -errno, "the event loop: epoll_create1");
		goto fail;
	}
	loop->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->wake < 0) {
		rc = error_errno(err, -errno, "the event loop: eventfd");
		goto fail;
	}
	struct epoll_event event = { .events = EPOLLIN };
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->wake, &event) < 0) {
		rc = error_errno(err, -errno, "the event loop: epoll_ctl");
		goto fail;
	}
	*out = loop;
	return 0;
fail:
	event_loop_destroy(loop);
	return rc;
}

void event_loop_destroy(struct event_loop *loop)
{
	if (!loop)
		return;
	source_list_free(&loop->sources);
	source_list_free(&loop->dead);
	if (loop->wake >= 0)
		close(loop->wake);
	if (loop->epoll >= 0)
		close(loop->epoll);
	pthread_mutex_destroy(&loop->lock);
	pthread_mutex_destroy(&loop->turn);
	free(loop);
}

int event_add(struct event_loop *loop, struct event_source **out, int fd, uint32_t events,
	      void (*fn)(void *arg, uint32_t ready), void *arg, struct error *err)
{
	struct event_source *source = memory_zalloc(sizeof(*source));
	*source = (struct event_source){ .loop = loop, .fn = fn, .arg = arg, .fd = fd };
	/* Visible before it can fire, since another thread's loop may call back before we return. */
	*out = source;
	pthread_mutex_lock(&loop->lock);
	source_link(&loop->sources, source);
	struct epoll_event event = { .events = events, .data.ptr = source };
	int rc = epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
	if (rc < 0)
		source_unlink(source);
	pthread_mutex_unlock(&loop->lock);
	if (rc < 0) {
		free(source);
		*out = NULL;
		return error_errno(err, rc, "can't wait for events of descriptor %d", fd);
	}
	return 0;
}

void event_set(struct event_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };
	int r = epoll_ctl(source->loop->epoll, EPOLL_CTL_MOD, source->fd, &event);
	assert(r == 0);
	(void)r;
}

void event_remove(struct event_source *source)
{
	if (!source)
		return;
	struct event_loop *loop = source->loop;
	epoll_ctl(loop->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	pthread_mutex_lock(&loop->lock);
	source->removed = true;
	source_unlink(source);
	if (loop->in_turn)
		source_link(&loop->dead, source);
	pthread_mutex_unlock(&loop->lock);
	if (!loop->in_turn)
		free(source);
}

static void event_wake(struct event_loop *loop)
{
	/* A full counter (EAGAIN) means that the loop is awake anyway. */
	int saved = errno;
	ssize_t ignored = write(loop->wake, &(uint64_t){ 1 }, sizeof(uint64_t));
	(void)ignored;
	errno = saved;
}

void event_queue(struct event_loop *loop, struct event_work *work)
{
	pthread_mutex_lock(&loop->lock);
	bool add = !work->queued, wake = add && loop->asleep;
	if (add) {
		work->queued = true;
		work->next = NULL;
		*loop->work_end = work;
		loop->work_end = &work->next;
		loop->asleep = false;
	}
	pthread_mutex_unlock(&loop->lock);
	if (wake)
		event_wake(loop);
}

/* Runs what was queued up to now; what the work itself queues waits for the next turn. */
static void event_run_work(struct event_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->batch = loop->work;
	loop->work = NULL;
	loop->work_end = &loop->work;
	while (loop->batch) {
		struct event_work *work = loop->batch;
		loop->batch = work->next;
		work->queued = false;
		pthread_mutex_unlock(&loop->lock);
		work->fn(work->arg);
		pthread_mutex_lock(&loop->lock);
	}
	pthread_mutex_unlock(&loop->lock);
}

static bool work_remove(struct event_work **link, struct event_work *work)
{
	while (*link && *link != work)
		link = &(*link)->next;
	if (!*link)
		return false;
	*link = work->next;
	return true;
}

void event_unqueue(struct event_loop *loop, struct event_work *work)
{
	pthread_mutex_lock(&loop->lock);
	if (work->queued && !work_remove(&loop->batch, work) && work_remove(&loop->work, work)) {
		loop->work_end = &loop->work;
		while (*loop->work_end)
			loop->work_end = &(*loop->work_end)->next;
	}
	work->queued = false;
	pthread_mutex_unlock(&loop->lock);
}

static void event_dispatch(struct event_loop *loop, const struct epoll_event *event)
{
	struct event_source *source = event->data.ptr;
	if (!source) {
		uint64_t count;
		ssize_t ignored = read(loop->wake, &count, sizeof(count));
		(void)ignored;
	} else if (!source->removed) {
		source->fn(source->arg, event->events);
	}
}

/* Frees what was removed: nobody may stand in a batch of events any more. */
static void event_bury(struct event_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	source_list_free(&loop->dead);
	pthread_mutex_unlock(&loop->lock);
}

int event_loop_turn(struct event_loop *loop, int timeout_ms, struct error *err)
{
	struct epoll_event events[EVENT_BATCH];
	/* Who queues work while we are up and about need not wake us: we look before we lie down. */
	pthread_mutex_lock(&loop->lock);
	loop->asleep = !loop->work;
	if (loop->work)
		timeout_ms = 0;
	pthread_mutex_unlock(&loop->lock);
	int n = epoll_wait(loop->epoll, events, EVENT_BATCH, timeout_ms);
	int rc = n < 0 && errno != EINTR ? error_errno(err, -errno, "the event loop: epoll_wait") : 0;
	int nested = pthread_mutex_lock(&loop->turn);
	assert(!nested);
	(void)nested;
	pthread_mutex_lock(&loop->lock);
	loop->asleep = false;
	pthread_mutex_unlock(&loop->lock);
	if (!rc) {
		loop->in_turn = true;
		for (int i = 0; i < n; i++)
			event_dispatch(loop, &events[i]);
		event_run_work(loop);
		loop->in_turn = false;
		event_bury(loop);
	}
	pthread_mutex_unlock(&loop->turn);
	return rc;
}

bool event_loop_borrow(struct event_loop *loop)
{
	if (pthread_mutex_trylock(&loop->turn))
		return false;
	pthread_mutex_lock(&loop->lock);
	bool idle = loop->asleep && !loop->work;
	if (idle)
		loop->asleep = false; /* what is queued now is found by event_loop_return */
	pthread_mutex_unlock(&loop->lock);
	if (!idle)
		pthread_mutex_unlock(&loop->turn);
	/* What is removed from now on may stand in the batch that the loop's thread has just got: it is buried there. */
	if (idle)
		loop->in_turn = true;
	return idle;
}

void event_loop_return(struct event_loop *loop, bool wake)
{
	if (!wake)
		event_run_work(loop);
	loop->in_turn = false;
	pthread_mutex_lock(&loop->lock);
	wake |= loop->work != NULL;
	loop->asleep = !wake;
	pthread_mutex_unlock(&loop->lock);
	pthread_mutex_unlock(&loop->turn);
	if (wake)
		event_wake(loop);
}

int event_loop_run(struct event_loop *loop, struct error *err)
{
	for (;;) {
		int status = atomic_exchange(&loop->stop, NOT_STOPPED);
		if (status != NOT_STOPPED)
			return status;
		int rc = event_loop_turn(loop, -1, err);
		if (rc < 0)
			return rc;
	}
}

void event_loop_stop(struct event_loop *loop, int status)
{
	assert(status >= 0);
	atomic_store(&loop->stop, status);
	event_wake(loop);
}
