/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "host/event.h"
#include "vm/clock.h"

enum { MS = 1000000 };

struct log {
	struct clock *clock;
	struct timer *timer;
	uint64_t at[64];
	unsigned count;
	uint64_t period;
};

static void log_fire(void *arg)
{
	struct log *log = arg;
	if (log->count < 64)
		log->at[log->count] = clock_now(log->clock);
	log->count++;
	if (log->period)
		timer_arm(log->timer, clock_now(log->clock) + log->period);
}

static void a_manual_clock_fires_in_order(void **state)
{
	(void)state;
	struct clock *clock = clock_create_manual();
	struct log log = { .clock = clock };
	struct timer *timers[50];
	for (unsigned i = 0; i < 50; i++) {
		timers[i] = timer_create_on(clock, log_fire, &log);
		timer_arm(timers[i], 1000 + i * 37 % 50);
	}
	assert_int_equal(clock_next(clock), 1000);
	timer_cancel(timers[1]); /* 1037 */
	timer_arm(timers[0], 1100);
	clock_advance(clock, 999);
	assert_int_equal(log.count, 0);
	clock_advance(clock, 200);
	assert_int_equal(clock_now(clock), 1199);
	assert_int_equal(log.count, 49);
	for (unsigned i = 1; i < log.count; i++)
		assert_true(log.at[i] > log.at[i - 1]);
	assert_int_equal(log.at[0], 1001);
	assert_int_equal(log.at[48], 1100);
	assert_true(clock_next(clock) == UINT64_MAX);
	for (unsigned i = 0; i < 50; i++)
		timer_free(timers[i]);
	clock_destroy(clock);
}

static void a_callback_can_arm_its_timer_again(void **state)
{
	(void)state;
	struct clock *clock = clock_create_manual();
	struct log log = { .clock = clock, .period = 10 };
	log.timer = timer_create_on(clock, log_fire, &log);
	timer_arm(log.timer, 5);
	clock_advance(clock, 100);
	assert_int_equal(log.count, 10);
	assert_int_equal(log.at[9], 95);
	timer_free(log.timer);
	clock_destroy(clock);
}

static void a_past_deadline_fires_at_once(void **state)
{
	(void)state;
	struct clock *clock = clock_create_manual();
	struct log log = { .clock = clock };
	clock_advance(clock, 500);
	struct timer *timer = timer_create_on(clock, log_fire, &log);
	timer_arm(timer, 1);
	clock_advance(clock, 0);
	assert_int_equal(log.count, 1);
	assert_int_equal(log.at[0], 500);
	timer_free(timer);
	clock_destroy(clock);
}

static void a_real_clock_is_punctual(void **state)
{
	(void)state;
	struct event_loop *loop;
	struct clock *clock;
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	assert_int_equal(clock_create(&clock, loop, NULL), 0);
	struct log log = { .clock = clock, .period = 2 * MS };
	struct log late = { .clock = clock };
	log.timer = timer_create_on(clock, log_fire, &log);
	late.timer = timer_create_on(clock, log_fire, &late);
	uint64_t begin = clock_now(clock);
	timer_arm(late.timer, begin + 60 * MS);
	timer_arm(log.timer, begin + 2 * MS);
	while (log.count < 10 && clock_now(clock) < begin + 10000ull * MS)
		assert_int_equal(event_loop_turn(loop, 1000, NULL), 0);
	assert_int_equal(log.count, 10);
	for (unsigned i = 0; i < 10; i++)
		assert_true(log.at[i] >= begin + (i + 1) * 2 * MS);
	timer_cancel(log.timer);
	while (!late.count && clock_now(clock) < begin + 10000ull * MS)
		assert_int_equal(event_loop_turn(loop, 1000, NULL), 0);
	assert_int_equal(log.count, 10);
	assert_int_equal(late.count, 1);
	assert_true(late.at[0] >= begin + 60 * MS);
	/* Never due, and so far off that adding the clock's base overflows. */
	timer_arm(late.timer, UINT64_MAX - 1);
	timer_arm(log.timer, UINT64_MAX);
	assert_int_equal(event_loop_turn(loop, 5, NULL), 0);
	assert_int_equal(late.count, 1);
	timer_free(log.timer);
	timer_free(late.timer);
	clock_destroy(clock);
	event_loop_destroy(loop);
}

static void a_deadline_can_move_closer_and_away(void **state)
{
	(void)state;
	struct event_loop *loop;
	struct clock *clock;
	assert_int_equal(event_loop_create(&loop, NULL), 0);
	assert_int_equal(clock_create(&clock, loop, NULL), 0);
	struct log log = { .clock = clock };
	log.timer = timer_create_on(clock, log_fire, &log);
	uint64_t begin = clock_now(clock);
	timer_arm(log.timer, begin + 5000ull * MS);
	timer_arm(log.timer, begin + 5 * MS);
	timer_arm(log.timer, begin + 20 * MS);
	while (!log.count && clock_now(clock) < begin + 4000ull * MS)
		assert_int_equal(event_loop_turn(loop, 1000, NULL), 0);
	assert_int_equal(log.count, 1);
	assert_true(log.at[0] >= begin + 20 * MS);
	timer_free(log.timer);
	clock_destroy(clock);
	event_loop_destroy(loop);
}

struct flight {
	struct event_loop *loop;
	atomic_uint fired;
};

static void *flight_loop(void *arg)
{
	struct flight *f = arg;
	event_loop_run(f->loop, NULL);
	return NULL;
}

static void flight_fire(void *arg)
{
	struct flight *f = arg;
	f->fired++;
}

/* Timers that are armed, cancelled and freed from another thread than the loop's, while they fire. */
static void any_thread_arms_and_frees(void **state)
{
	(void)state;
	struct flight f = { 0 };
	struct clock *clock;
	pthread_t thread;
	assert_int_equal(event_loop_create(&f.loop, NULL), 0);
	assert_int_equal(clock_create(&clock, f.loop, NULL), 0);
	pthread_create(&thread, NULL, flight_loop, &f);
	for (unsigned i = 0; i < 2000; i++) {
		struct timer *timer = timer_create_on(clock, flight_fire, &f);
		unsigned before = f.fired;
		timer_arm(timer, clock_now(clock) + i % 50 * 1000);
		if (i % 3 == 0) {
			for (unsigned n = 0; f.fired == before && n < 10000; n++)
				usleep(100);
			assert_int_not_equal(f.fired, before);
		}
		timer_free(timer);
	}
	event_loop_stop(f.loop, 0);
	pthread_join(thread, NULL);
	clock_destroy(clock);
	event_loop_destroy(f.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_manual_clock_fires_in_order),
		cmocka_unit_test(a_callback_can_arm_its_timer_again),
		cmocka_unit_test(a_past_deadline_fires_at_once),
		cmocka_unit_test(a_real_clock_is_punctual),
		cmocka_unit_test(a_deadline_can_move_closer_and_away),
		cmocka_unit_test(any_thread_arms_and_frees),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
