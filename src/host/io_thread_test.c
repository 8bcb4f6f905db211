/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "host/io_thread.h"

struct seen {
	pthread_t by;
	unsigned calls;
};

static void look(void *arg)
{
	struct seen *seen = arg;

	seen->by = pthread_self();
	seen->calls++;
}

static void calls_run_on_the_thread(void **state)
{
	struct io_thread *thread;
	struct seen seen = { .calls = 0 };
	pthread_t first;

	(void)state;
	assert_int_equal(io_thread_create(&thread, NULL), 0);
	io_thread_call(thread, look, &seen); /* not started: by the caller */
	assert_true(pthread_equal(seen.by, pthread_self()));
	assert_int_equal(io_thread_start(thread, "test", NULL), 0);
	io_thread_call(thread, look, &seen);
	first = seen.by;
	assert_false(pthread_equal(first, pthread_self()));
	for (unsigned i = 0; i < 1000; i++)
		io_thread_call(thread, look, &seen);
	assert_true(pthread_equal(first, seen.by));
	io_thread_stop(thread);
	io_thread_stop(thread);
	io_thread_call(thread, look, &seen);
	assert_true(pthread_equal(seen.by, pthread_self()));
	assert_int_equal(seen.calls, 1003);
	io_thread_destroy(thread);
	io_thread_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_run_on_the_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
