/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "base/size.h"

static void sizes_parse(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int rc;
		uint64_t size;
	} rows[] = {
		{ "0", 0, 0 },
		{ "4096", 0, 4096 },
		{ "512M", 0, 512ull << 20 },
		{ "512m", 0, 512ull << 20 },
		{ "6G", 0, 6ull << 30 },
		{ "6GiB", 0, 6ull << 30 },
		{ "1KB", 0, 1024 },
		{ "0x100k", 0, 256 << 10 },
		{ "15T", 0, 15ull << 40 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "16777216T", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "M", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 M", -EINVAL, 0 },
		{ "1.5G", -EINVAL, 0 },
		{ "1Mx", -EINVAL, 0 },
		{ "0x", -EINVAL, 0 },
		{ "12q", -EINVAL, 0 },
	};
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct error err = { "" };
		uint64_t size = 0;
		assert_int_equal(size_parse(rows[i].text, &size, &err), rows[i].rc);
		assert_true(size == rows[i].size);
		assert_int_equal(err.text[0] != '\0', rows[i].rc != 0);
	}
}

static void numbers_have_bounds(void **state)
{
	(void)state;
	struct error err = { "" };
	uint64_t n = 0;
	assert_int_equal(number_parse("64", "--cpus", 1, 64, &n, &err), 0);
	assert_int_equal(n, 64);
	assert_int_equal(number_parse("0", "--cpus", 1, 64, &n, &err), -ERANGE);
	assert_string_equal(err.text, "--cpus: 0 is not between 1 and 64");
	assert_int_equal(number_parse("1000", "--cpus", 1, 64, &n, &err), -ERANGE);
	assert_int_equal(number_parse("two", "--cpus", 1, 64, &n, &err), -EINVAL);
	assert_int_equal(number_parse("2x", "--cpus", 1, 64, &n, &err), -EINVAL);
	assert_int_equal(n, 64);
}

static void sizes_format(void **state)
{
	(void)state;
	char text[SIZE_TEXT];
	assert_string_equal(size_format(0, text, sizeof(text)), "0");
	assert_string_equal(size_format(4097, text, sizeof(text)), "4097");
	assert_string_equal(size_format(512ull << 20, text, sizeof(text)), "512M");
	assert_string_equal(size_format(1ull << 63, text, sizeof(text)), "8388608T");
	assert_string_equal(size_format(UINT64_MAX, text, sizeof(text)), "18446744073709551615");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_parse),
		cmocka_unit_test(numbers_have_bounds),
		cmocka_unit_test(sizes_format),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
