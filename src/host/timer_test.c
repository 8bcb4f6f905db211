/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/timer.h"

struct counter {
	struct host_timer timer;
	unsigned calls;
};

static void count(void *arg)
{
	((struct counter *)arg)->calls++;
}

static void it_goes_off_when_armed_and_not_when_cancelled(void **state)
{
	struct counter c = { .calls = 0 };
	struct event_loop *loop;

	(void)state;
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	assert_int_equal(host_timer_init(&c.timer, loop, count, &c, NULL), 0);
	event_loop_turn(loop, 5, NULL);
	assert_int_equal(c.calls, 0);
	uint64_t begin = host_now();
	host_timer_arm(&c.timer, 3000000, 0);
	while (!c.calls)
		event_loop_turn(loop, -1, NULL);
	assert_true(host_now() - begin >= 3000000);
	event_loop_turn(loop, 10, NULL);
	assert_int_equal(c.calls, 1);
	host_timer_arm(&c.timer, 0, 0); /* at once */
	event_loop_turn(loop, -1, NULL);
	assert_int_equal(c.calls, 2);
	host_timer_arm(&c.timer, 3000000, 0);
	host_timer_cancel(&c.timer);
	event_loop_turn(loop, 10, NULL);
	assert_int_equal(c.calls, 2);
	host_timer_fini(&c.timer);
	host_timer_fini(&c.timer);
	event_loop_destroy(loop);
}

static void it_goes_off_again_and_again(void **state)
{
	struct counter c = { .calls = 0 };
	struct event_loop *loop;

	(void)state;
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	assert_int_equal(host_timer_init(&c.timer, loop, count, &c, NULL), 0);
	host_timer_arm(&c.timer, 1000000, 1000000);
	while (c.calls < 3)
		event_loop_turn(loop, -1, NULL);
	host_timer_fini(&c.timer);
	event_loop_destroy(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_goes_off_when_armed_and_not_when_cancelled),
		cmocka_unit_test(it_goes_off_again_and_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
