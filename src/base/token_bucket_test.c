/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/token_bucket.h"

#define S 1000000000ull

static void test_no_limit(void **state)
{
	struct token_bucket b;
	(void)state;
	token_bucket_init(&b, 0, 100, 5);
	for (unsigned i = 0; i < 10; i++) {
		assert_true(token_bucket_open(&b, 5));
		token_bucket_take(&b, UINT64_MAX);
	}
	assert_int_equal(token_bucket_wait(&b, 5), 0);
}

/* However the clock ticks and whatever is taken at once, the mean rate is the one asked for. */
static void test_rate(void **state)
{
	static const uint64_t rates[] = { 1, 7, 1000, 125000, 1000000007, UINT64_C(1) << 40 };
	static const uint64_t sizes[] = { 1, 3, 1500, 65536 };
	(void)state;
	for (unsigned i = 0; i < sizeof(rates) / sizeof(*rates); i++)
		for (unsigned j = 0; j < sizeof(sizes) / sizeof(*sizes); j++) {
			struct token_bucket b;
			uint64_t now = 12345, start = now, taken = 0;
			token_bucket_init(&b, rates[i], sizes[j], now);
			uint64_t burst = (uint64_t)b.burst;
			for (unsigned n = 0; n < 2000; n++) {
				uint64_t wait = token_bucket_wait(&b, now);
				if (wait > 1)
					assert_false(token_bucket_open(&b, now + wait / 2));
				now += wait;
				assert_true(token_bucket_open(&b, now));
				token_bucket_take(&b, sizes[j]);
				taken += sizes[j];
			}
			double fair = (double)rates[i] * (double)(now - start) / S;
			assert_true((double)taken <= fair + (double)(burst + sizes[j]) + 1);
			/* And it is not less than that: it waits for no longer than a nanosecond too much. */
			if (now != start)
				assert_true((double)taken + 1 + 4000.0 * (double)rates[i] / S >=
					    fair + (double)burst - (double)sizes[j]);
		}
}

static void test_burst(void **state)
{
	struct token_bucket b;
	(void)state;
	token_bucket_init(&b, 1000, 10, 0);
	assert_true(token_bucket_open(&b, 0));
	token_bucket_take(&b, 100);
	assert_false(token_bucket_open(&b, 0));
	assert_int_equal(token_bucket_wait(&b, 0), S / 1000);
	/* A long rest gives one burst, not more. */
	assert_true(token_bucket_open(&b, 1000 * S));
	token_bucket_take(&b, 100);
	assert_false(token_bucket_open(&b, 1000 * S));
	/* More than a burst at once is paid for afterwards. */
	assert_true(token_bucket_open(&b, 2000 * S));
	token_bucket_take(&b, 5100);
	assert_false(token_bucket_open(&b, 2004 * S));
	assert_true(token_bucket_open(&b, 2005 * S + S / 1000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_limit),
		cmocka_unit_test(test_rate),
		cmocka_unit_test(test_burst),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
