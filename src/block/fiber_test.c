/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "block/fiber.h"

struct trace {
	struct fibers fibers;
	struct fiber_queue queue;
	struct fiber_lock lock;
	char text[256];
	struct fiber *waiting;
	int count;
};

static void say(struct trace *trace, const char *word)
{
	strncat(trace->text, word, sizeof(trace->text) - strlen(trace->text) - 1);
}

static void waits_twice(void *arg)
{
	struct trace *trace = arg;
	say(trace, "a");
	trace->waiting = trace->fibers.running;
	fiber_wait(&trace->fibers);
	say(trace, "b");
	fiber_wait(&trace->fibers);
	say(trace, "c");
}

static void fibers_go_on_where_they_were(void **state)
{
	(void)state;
	struct trace trace = { .count = 0 };
	fibers_init(&trace.fibers);
	fiber_start(&trace.fibers, waits_twice, &trace);
	assert_string_equal(trace.text, "a");
	say(&trace, "1");
	fiber_wake(&trace.fibers, trace.waiting);
	say(&trace, "2");
	assert_int_equal(trace.fibers.busy, 1);
	fiber_wake(&trace.fibers, trace.waiting);
	assert_string_equal(trace.text, "a1b2c");
	assert_int_equal(trace.fibers.busy, 0);
	fibers_fini(&trace.fibers);
}

static void locker(void *arg)
{
	struct trace *trace = arg;
	char word[16];
	int me = trace->count++;
	fiber_lock(&trace->fibers, &trace->lock);
	snprintf(word, sizeof(word), "(%d", me);
	say(trace, word);
	fiber_queue_wait(&trace->fibers, &trace->queue);
	say(trace, ")");
	fiber_unlock(&trace->fibers, &trace->lock);
}

static void a_lock_is_held_across_waits_and_handed_over_in_order(void **state)
{
	(void)state;
	struct trace trace = { .count = 0 };
	fibers_init(&trace.fibers);
	for (int i = 0; i < 3; i++)
		fiber_start(&trace.fibers, locker, &trace);
	assert_string_equal(trace.text, "(0");
	for (int i = 0; i < 3; i++)
		fiber_queue_wake(&trace.fibers, &trace.queue);
	assert_string_equal(trace.text, "(0)(1)(2)");
	assert_false(trace.lock.held);
	fibers_fini(&trace.fibers);
}

static void leaf(void *arg)
{
	say(arg, "leaf ");
}

static void starter(void *arg)
{
	struct trace *trace = arg;
	fiber_start(&trace->fibers, leaf, trace);
	fiber_start(&trace->fibers, leaf, trace);
	say(trace, "starter ");
}

static void a_fiber_started_within_one_runs_after_it(void **state)
{
	(void)state;
	struct trace trace = { .count = 0 };
	fibers_init(&trace.fibers);
	fiber_start(&trace.fibers, starter, &trace);
	assert_string_equal(trace.text, "starter leaf leaf ");
	fibers_fini(&trace.fibers);
}

static void many_fibers_come_and_go(void **state)
{
	(void)state;
	struct trace trace = { .count = 0 };
	fibers_init(&trace.fibers);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 100; i++)
			fiber_start(&trace.fibers, locker, &trace);
		assert_int_equal(trace.fibers.busy, 100);
		while (trace.fibers.busy)
			fiber_queue_wake(&trace.fibers, &trace.queue);
	}
	assert_int_equal(trace.count, 300);
	fibers_fini(&trace.fibers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fibers_go_on_where_they_were),
		cmocka_unit_test(a_lock_is_held_across_waits_and_handed_over_in_order),
		cmocka_unit_test(a_fiber_started_within_one_runs_after_it),
		cmocka_unit_test(many_fibers_come_and_go),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
