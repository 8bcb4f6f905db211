/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "host/tsc.h"

static void test_short_and_long_measurements_agree(void **state)
{
	struct host_tsc_sample start = host_tsc_sample();
	struct timespec wait = { .tv_nsec = 100000000 };

	(void)state;
	uint64_t first = host_tsc_khz(&start);
	nanosleep(&wait, NULL);
	uint64_t second = host_tsc_khz(&start);
	assert_in_range(second, first - first / 1000, first + first / 1000);
	assert_in_range(first, 400000, 20000000);
}

static void test_a_sample_is_of_one_moment(void **state)
{
	struct host_tsc_sample a = host_tsc_sample(), b = host_tsc_sample();

	(void)state;
	assert_true(b.tsc > a.tsc && b.ns > a.ns);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_short_and_long_measurements_agree),
		cmocka_unit_test(test_a_sample_is_of_one_moment),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
