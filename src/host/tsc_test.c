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

/* What a guest is told at once must do for as long as it runs: Linux gives a TSC up that is a part in 2000 off. */
static void test_a_short_measurement_is_exact_enough(void **state)
{
	struct host_tsc_sample long_ago = host_tsc_sample();
	struct timespec wait = { .tv_nsec = 100000000 };

	(void)state;
	nanosleep(&wait, NULL);
	uint64_t exact = host_tsc_khz(&long_ago);
	for (int i = 0; i < 20; i++) {
		struct host_tsc_sample start = host_tsc_sample();
		assert_in_range(host_tsc_khz(&start), exact - exact / 5000, exact + exact / 5000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_short_and_long_measurements_agree),
		cmocka_unit_test(test_a_sample_is_of_one_moment),
		cmocka_unit_test(test_a_short_measurement_is_exact_enough),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
