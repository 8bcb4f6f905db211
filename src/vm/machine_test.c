/* SPDX-License-Identifier: Apache-2.0 */
/* machine_test.c - the fuzz target's operations, chosen at random with a fixed seed: a guest that presses every key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm/machine_fuzz.c"

static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void test_any_access_is_survived(void **state)
{
	enum { RUNS = 500, OPS = 2000 };
	uint8_t *data = malloc(OPS * OP_SIZE);
	uint64_t seed = 0x706c75726573;

	(void)state;
	alarm(250); /* a hang is a failure too */
	for (unsigned run = 0; run < RUNS; run++) {
		for (unsigned i = 0; i < OPS * OP_SIZE; i++)
			data[i] = (uint8_t)next(&seed);
		LLVMFuzzerTestOneInput(data, (size_t)(run % 10 + 1) * (OPS / 10) * OP_SIZE);
	}
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_access_is_survived),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
