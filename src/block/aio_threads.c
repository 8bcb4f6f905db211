/* SPDX-License-Identifier: Apache-2.0 */
/* aio_threads.c - a few threads that make blocking system calls, for where io_uring is not allowed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"
#include "block/aio.h"

enum { THREADS = 8, STACK = 64 << 10 };

struct list {
	struct aio_request *first, **end;
};

struct pool {
	struct aio aio;
	struct event_loop *loop;
	struct event_work work; /* reaps */
	pthread_t thread[THREADS];
	unsigned threads;  /* so far; the loop's thread only */
	struct list batch; /* submitted and not kicked, likewise */

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t todo_changed, ended_changed;
	struct list todo, ended;
	unsigned idle, queued;
	bool quit;
};

static void list_init(struct list *list)
{
	list->first = NULL;
	list->end = &list->first;
}

static void list_add(struct list *list, struct aio_request *request)
{
	request->next = NULL;
	*list->end = request;
	list->end = &request->next;
}

static int64_t serve(const struct aio_request *r)
{
	int64_t n;

	do {
		switch (r->op) {
		case AIO_READ:
			n = preadv(r->fd, r->iov, (int)r->iovs, (off_t)r->offset);
			break;
		case AIO_WRITE:
			n = pwritev(r->fd, r->iov, (int)r->iovs, (off_t)r->offset);
			break;
		case AIO_SYNC:
			n = fdatasync(r->fd);
			break;
		default:
			n = fallocate(r->fd, r->mode, (off_t)r->offset, (off_t)r->size);
			break;
		}
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void *pool_thread(void *arg)
{
	struct pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		pool->idle++;
		while (!pool->todo.first && !pool->quit)
			pthread_cond_wait(&pool->todo_changed, &pool->lock);
		pool->idle--;
		struct aio_request *r = pool->todo.first;
		if (!r)
			break;
		pool->queued--;
		pool->todo.first = r->next;
		if (!r->next)
			list_init(&pool->todo);
		pthread_mutex_unlock(&pool->lock);
		r->result = serve(r);
		pthread_mutex_lock(&pool->lock);
		list_add(&pool->ended, r);
		pthread_cond_signal(&pool->ended_changed);
		event_queue(pool->loop, &pool->work);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* One more thread, with every signal left to others. */
static int add_thread(struct pool *pool)
{
	pthread_attr_t attr;
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	int r = pthread_create(&pool->thread[pool->threads], &attr, pool_thread, pool);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!r)
		pool->threads++;
	return -r;
}

static struct pool *of(struct aio *aio)
{
	return (struct pool *)aio;
}

static void threads_submit(struct aio *aio, struct aio_request *request)
{
	list_add(&of(aio)->batch, request);
}

static void threads_kick(struct aio *aio)
{
	struct pool *pool = of(aio);
	struct aio_request *r = pool->batch.first;

	if (!r)
		return;
	list_init(&pool->batch);
	pthread_mutex_lock(&pool->lock);
	while (r) {
		struct aio_request *next = r->next;
		list_add(&pool->todo, r);
		pool->queued++;
		pthread_cond_signal(&pool->todo_changed);
		r = next;
	}
	bool more = pool->queued > pool->idle;
	pthread_mutex_unlock(&pool->lock);
	/* One is always there; that another can't be made is no reason to fail. */
	if (more && pool->threads < THREADS)
		add_thread(pool);
}

static bool threads_poll(struct aio *aio, bool wait)
{
	struct pool *pool = of(aio);

	threads_kick(aio);
	pthread_mutex_lock(&pool->lock);
	while (wait && !pool->ended.first)
		pthread_cond_wait(&pool->ended_changed, &pool->lock);
	struct aio_request *r = pool->ended.first;
	list_init(&pool->ended);
	pthread_mutex_unlock(&pool->lock);
	bool any = r;
	while (r) {
		struct aio_request *next = r->next;
		r->done(r, r->result);
		r = next;
	}
	threads_kick(aio);
	return any;
}

static void on_ended(void *arg)
{
	threads_poll(arg, false);
}

static void threads_destroy(struct aio *aio)
{
	struct pool *pool = of(aio);

	pthread_mutex_lock(&pool->lock);
	pool->quit = true;
	pthread_cond_broadcast(&pool->todo_changed);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->threads; i++)
		pthread_join(pool->thread[i], NULL);
	event_unqueue(pool->loop, &pool->work);
	pthread_cond_destroy(&pool->todo_changed);
	pthread_cond_destroy(&pool->ended_changed);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static const struct aio_ops threads_ops = {
	.submit = threads_submit,
	.kick = threads_kick,
	.poll = threads_poll,
	.destroy = threads_destroy,
};

int aio_threads_create(struct aio **aio, struct event_loop *loop, struct error *err)
{
	struct pool *pool = memory_zalloc(sizeof(*pool));

	pool->aio.ops = &threads_ops;
	pool->loop = loop;
	pool->work = (struct event_work){ .fn = on_ended, .arg = pool };
	list_init(&pool->batch);
	list_init(&pool->todo);
	list_init(&pool->ended);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->todo_changed, NULL);
	pthread_cond_init(&pool->ended_changed, NULL);
	int rc = add_thread(pool);
	if (rc) {
		threads_destroy(&pool->aio);
		return error_errno(err, rc, "can't start a thread");
	}
	*aio = &pool->aio;
	return 0;
}
