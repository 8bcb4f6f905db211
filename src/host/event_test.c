/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "host/event.h"

struct pipe_source {
	struct event_loop *loop;
	struct event_source *source, *other;
	int fd[2];
	unsigned calls;
};

static void pipe_open(struct pipe_source *p, struct event_loop *loop, void (*fn)(void *, uint32_t))
{
	p->loop = loop;
	assert_int_equal(pipe(p->fd), 0);
	assert_int_equal(event_add(loop, &p->source, p->fd[0], EPOLLIN, fn, p, NULL), 0);
}

static void pipe_close(struct pipe_source *p)
{
	close(p->fd[0]);
	close(p->fd[1]);
}

static void pipe_count(void *arg, uint32_t ready)
{
	struct pipe_source *p = arg;
	char c;
	p->calls++;
	assert_true(ready & EPOLLIN);
	assert_int_equal(read(p->fd[0], &c, 1), 1);
}

/* Removes itself and another that is ready in the same turn. */
static void pipe_remove_both(void *arg, uint32_t ready)
{
	struct pipe_source *p = arg;
	(void)ready;
	p->calls++;
	event_remove(p->source);
	event_remove(p->other);
}

static void a_ready_descriptor_calls_back(void **state)
{
	(void)state;
	struct event_loop *loop;
	struct pipe_source p = { 0 };
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	pipe_open(&p, loop, pipe_count);
	assert_int_equal(event_loop_turn(loop, 0, NULL), 0);
	assert_int_equal(p.calls, 0);
	assert_int_equal(write(p.fd[1], "xy", 2), 2);
	assert_int_equal(event_loop_turn(loop, 0, NULL), 0);
	event_set(p.source, 0);
	assert_int_equal(event_loop_turn(loop, 0, NULL), 0);
	assert_int_equal(p.calls, 1);
	event_set(p.source, EPOLLIN);
	assert_int_equal(event_loop_turn(loop, 0, NULL), 0);
	assert_int_equal(p.calls, 2);
	event_remove(p.source);
	pipe_close(&p);
	event_loop_destroy(loop);
}

static void a_removed_source_is_not_called(void **state)
{
	(void)state;
	struct event_loop *loop;
	struct pipe_source a = { 0 }, b = { 0 };
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	pipe_open(&a, loop, pipe_remove_both);
	pipe_open(&b, loop, pipe_remove_both);
	a.other = b.source;
	b.other = a.source;
	assert_int_equal(write(a.fd[1], "x", 1), 1);
	assert_int_equal(write(b.fd[1], "x", 1), 1);
	assert_int_equal(event_loop_turn(loop, 0, NULL), 0);
	assert_int_equal(a.calls + b.calls, 1);
	pipe_close(&a);
	pipe_close(&b);
	event_loop_destroy(loop);
}

static void a_regular_file_is_refused(void **state)
{
	(void)state;
	struct event_loop *loop;
	struct event_source *source;
	struct error err = { "" };
	FILE *f = tmpfile();
	assert_non_null(f);
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	assert_int_equal(event_add(loop, &source, fileno(f), EPOLLIN, pipe_count, NULL, &err), -EPERM);
	assert_null(source);
	assert_true(err.text[0]);
	fclose(f);
	event_loop_destroy(loop);
}

struct worker {
	struct event_loop *loop;
	struct event_work work;
	unsigned runs;
	atomic_uint handed;
};

static void worker_run(void *arg)
{
	struct worker *w = arg;
	w->runs++;
	w->handed = 0;
	if (w->runs == 100)
		event_loop_stop(w->loop, 3);
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	for (unsigned i = 0; i < 100; i++) {
		w->handed = 1;
		event_queue(w->loop, &w->work);
		for (unsigned n = 0; w->handed && n < 100000; n++)
			usleep(20);
	}
	return NULL;
}

static void other_threads_queue_work(void **state)
{
	(void)state;
	struct worker w = { .work = { .fn = worker_run, .arg = &w } };
	pthread_t thread;
	assert_int_equal(event_loop_create(&w.loop, NULL), 0);
	pthread_create(&thread, NULL, worker_thread, &w);
	assert_int_equal(event_loop_run(w.loop, NULL), 3);
	pthread_join(thread, NULL);
	assert_int_equal(w.runs, 100);
	event_loop_destroy(w.loop);
}

static void queueing_twice_runs_once(void **state)
{
	(void)state;
	struct worker w = { .work = { .fn = worker_run, .arg = &w } };
	assert_int_equal(event_loop_create(&w.loop, NULL), 0);
	event_queue(w.loop, &w.work);
	event_queue(w.loop, &w.work);
	assert_int_equal(event_loop_turn(w.loop, 0, NULL), 0);
	assert_int_equal(event_loop_turn(w.loop, 0, NULL), 0);
	assert_int_equal(w.runs, 1);
	event_loop_destroy(w.loop);
}

/* Takes its neighbour out of the batch that is being run, and frees it. */
static void worker_take_out(void *arg)
{
	struct worker **pair = arg;
	pair[0]->runs++;
	event_unqueue(pair[0]->loop, &pair[1]->work);
	free(pair[1]);
	pair[1] = NULL;
}

static void work_that_was_taken_out_is_not_run(void **state)
{
	(void)state;
	struct worker *pair[2];
	struct worker last = { .work = { .fn = worker_run, .arg = &last } };
	assert_int_equal(event_loop_create(&last.loop, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		pair[i] = calloc(1, sizeof(*pair[i]));
		pair[i]->loop = last.loop;
		pair[i]->work = (struct event_work){ .fn = worker_run, .arg = pair[i] };
	}
	event_queue(last.loop, &pair[0]->work);
	event_unqueue(last.loop, &pair[0]->work);
	event_unqueue(last.loop, &pair[0]->work);
	event_loop_turn(last.loop, 0, NULL);
	assert_int_equal(pair[0]->runs, 0);

	pair[0]->work = (struct event_work){ .fn = worker_take_out, .arg = pair };
	event_queue(last.loop, &pair[0]->work);
	event_queue(last.loop, &pair[1]->work);
	event_queue(last.loop, &last.work);
	event_loop_turn(last.loop, 0, NULL);
	assert_null(pair[1]);
	assert_int_equal(last.runs, 1);

	/* The last one in the queue: what is queued next must still be found. */
	event_queue(last.loop, &pair[0]->work);
	event_queue(last.loop, &last.work);
	event_unqueue(last.loop, &last.work);
	event_unqueue(last.loop, &pair[0]->work);
	event_queue(last.loop, &last.work);
	event_loop_turn(last.loop, 0, NULL);
	assert_int_equal(last.runs, 2);
	free(pair[0]);
	event_loop_destroy(last.loop);
}

struct lender {
	struct event_loop *loop;
	pthread_t thread;
	struct event_work work;
	atomic_uint runs;
	pthread_t by;
};

static void *lender_thread(void *arg)
{
	struct lender *l = arg;
	event_loop_run(l->loop, NULL);
	return NULL;
}

static void lender_run(void *arg)
{
	struct lender *l = arg;
	l->by = pthread_self();
	atomic_fetch_add(&l->runs, 1);
}

static void borrow(struct event_loop *loop)
{
	while (!event_loop_borrow(loop))
		usleep(100);
}

static void a_sleeping_loop_can_be_borrowed(void **state)
{
	(void)state;
	struct lender l = { .work = { .fn = lender_run, .arg = &l } };
	struct pipe_source p = { 0 };
	assert_int_equal(event_loop_create(&l.loop, NULL), 0);
	assert_false(event_loop_borrow(l.loop)); /* nobody sleeps in it */
	pipe_open(&p, l.loop, pipe_count);
	pthread_create(&l.thread, NULL, lender_thread, &l);

	borrow(l.loop);
	assert_false(event_loop_borrow(l.loop));
	event_queue(l.loop, &l.work);
	assert_int_equal(l.runs, 0);
	event_loop_return(l.loop, false);
	assert_int_equal(l.runs, 1);
	assert_true(pthread_equal(l.by, pthread_self()));

	borrow(l.loop);
	event_queue(l.loop, &l.work);
	event_loop_return(l.loop, true);
	while (l.runs < 2)
		usleep(100);
	assert_true(pthread_equal(l.by, l.thread));

	/* A source that goes while the loop's thread has its event in hand, perhaps, is not called. */
	borrow(l.loop);
	assert_int_equal(write(p.fd[1], "x", 1), 1);
	usleep(1000);
	assert_int_equal(p.calls, 0);
	event_remove(p.source);
	event_loop_return(l.loop, false);
	usleep(1000);
	assert_int_equal(p.calls, 0);
	event_loop_stop(l.loop, 0);
	pthread_join(l.thread, NULL);
	pipe_close(&p);
	event_loop_destroy(l.loop);
}

static void a_stop_that_comes_first_is_kept(void **state)
{
	(void)state;
	struct event_loop *loop;
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	event_loop_stop(loop, 0);
	assert_int_equal(event_loop_run(loop, NULL), 0);
	event_loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ready_descriptor_calls_back),      cmocka_unit_test(a_removed_source_is_not_called),
		cmocka_unit_test(a_regular_file_is_refused),          cmocka_unit_test(other_threads_queue_work),
		cmocka_unit_test(queueing_twice_runs_once),           cmocka_unit_test(a_stop_that_comes_first_is_kept),
		cmocka_unit_test(work_that_was_taken_out_is_not_run), cmocka_unit_test(a_sleeping_loop_can_be_borrowed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
