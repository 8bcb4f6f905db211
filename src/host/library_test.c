/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

#include "host/library.h"

#define ZLIB(F) F(zlibVersion) F(crc32)
struct zlib {
	ZLIB(LIBRARY_POINTER)
};
static const char *const names[] = { ZLIB(LIBRARY_NAME) };

static void test_functions_are_found(void **state)
{
	struct zlib zlib;
	struct error err = { "" };

	(void)state;
	for (int i = 0; i < 2; i++) {
		memset(&zlib, 0, sizeof(zlib));
		assert_int_equal(library_load(LIBRARY_Z, names, LIBRARY_COUNT(names), &zlib, &err), 0);
		assert_int_equal(zlib.zlibVersion()[0], ZLIB_VERSION[0]);
		assert_int_equal(zlib.crc32(0, (const Bytef *)"123456789", 9), 0xcbf43926);
	}
	assert_string_equal(err.text, "");
}

static void test_what_is_missing_is_named(void **state)
{
	static const char *const wrong[] = { "zlibVersion", "zlib_has_no_such_function" };
	struct zlib zlib;
	struct error err;

	(void)state;
	assert_int_equal(library_load("libno-such.so.7", names, 2, &zlib, &err), -ELIBACC);
	assert_non_null(strstr(err.text, "libno-such.so.7"));
	assert_int_equal(library_load(LIBRARY_Z, wrong, 2, &zlib, &err), -ELIBACC);
	assert_non_null(strstr(err.text, LIBRARY_Z " has no zlib_has_no_such_function"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_functions_are_found),
		cmocka_unit_test(test_what_is_missing_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
