/* SPDX-License-Identifier: Apache-2.0 */
#include "host/io_thread.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"

struct io_thread {
	struct event_loop *loop;
	pthread_t thread;
	bool running;
};

struct call {
	struct event_work work;
	void (*fn)(void *arg);
	void *arg;
	sem_t done;
};

int io_thread_create(struct io_thread **out, struct error *err)
{
	struct io_thread *thread = memory_zalloc(sizeof(*thread));

	*out = NULL;
	int rc = event_loop_create(&thread->loop, err);
	if (rc)
		free(thread);
	else
		*out = thread;
	return rc;
}

struct event_loop *io_thread_loop(struct io_thread *thread)
{
	return thread->loop;
}

static void *io_thread_main(void *arg)
{
	struct io_thread *thread = arg;
	struct error err;

	if (event_loop_run(thread->loop, &err) < 0) {
		/* epoll_wait of a descriptor that is ours can't fail. */
		fprintf(stderr, "plures: %s\n", err.text);
		abort();
	}
	return NULL;
}

int io_thread_start(struct io_thread *thread, const char *name, struct error *err)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = pthread_create(&thread->thread, NULL, io_thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return error_errno(err, -r, "can't start a thread");
	pthread_setname_np(thread->thread, name);
	thread->running = true;
	return 0;
}

static void on_call(void *arg)
{
	struct call *call = arg;

	call->fn(call->arg);
	sem_post(&call->done);
}

void io_thread_call(struct io_thread *thread, void (*fn)(void *arg), void *arg)
{
	struct call call = { .fn = fn, .arg = arg };

	if (!thread->running) {
		fn(arg);
		return;
	}
	call.work = (struct event_work){ .fn = on_call, .arg = &call };
	sem_init(&call.done, 0, 0);
	event_queue(thread->loop, &call.work);
	while (sem_wait(&call.done))
		;
	sem_destroy(&call.done);
}

void io_thread_stop(struct io_thread *thread)
{
	if (!thread->running)
		return;
	event_loop_stop(thread->loop, 0);
	pthread_join(thread->thread, NULL);
	thread->running = false;
}

void io_thread_destroy(struct io_thread *thread)
{
	if (!thread)
		return;
	io_thread_stop(thread);
	event_loop_destroy(thread->loop);
	free(thread);
}
