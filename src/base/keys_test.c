/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/keys.h"

struct values {
	char *file;
	bool readonly;
	uint64_t size, count;
	struct keys_list also;
};

static const struct keys_item items[] = {
	{ .name = "file", .kind = KEYS_STRING, .offset = offsetof(struct values, file), .first = true },
	{ .name = "readonly", .kind = KEYS_FLAG, .offset = offsetof(struct values, readonly) },
	{ .name = "size", .kind = KEYS_SIZE, .offset = offsetof(struct values, size) },
	{ .name = "count", .kind = KEYS_NUMBER, .offset = offsetof(struct values, count), .min = 1, .max = 9 },
	{ .name = "also", .kind = KEYS_LIST, .offset = offsetof(struct values, also) },
	{ .name = NULL },
};

static void test_good(void **state)
{
	struct error err;
	struct values v = { .count = 7 };
	(void)state;
	assert_int_equal(keys_parse("", items, &v, &err), 0);
	assert_null(v.file);
	assert_int_equal(keys_parse("a,,b=c,readonly,size=3K", items, &v, &err), 0);
	assert_string_equal(v.file, "a,b=c");
	assert_true(v.readonly);
	assert_int_equal(v.size, 3072);
	assert_int_equal(v.count, 7);
	assert_int_equal(keys_parse("readonly=off,file=x,count=9", items, &v, &err), 0);
	assert_string_equal(v.file, "x");
	assert_false(v.readonly);
	assert_int_equal(v.count, 9);
	keys_free(items, &v);
	assert_null(v.file);
}

static void test_lists(void **state)
{
	struct error err;
	struct values v = { 0 };
	(void)state;
	assert_int_equal(keys_parse("x,also=1,readonly,also=b,,c", items, &v, &err), 0);
	assert_int_equal(v.also.count, 2);
	assert_string_equal(v.also.value[0], "1");
	assert_string_equal(v.also.value[1], "b,c");
	keys_free(items, &v);
	assert_int_equal(v.also.count, 0);
}

static void test_bad(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "x,color=red", "'color' is not among what can be set: file, readonly, size, count, also" },
		{ "x,y", "'y' is not among" },
		{ "x,", "'' is not among" },
		{ "x,file=y", "file is set twice" },
		{ "readonly=maybe", "readonly is on or off, not 'maybe'" },
		{ "x,size", "size needs a value: size=..." },
		{ "x,size=", "size needs a value" },
		{ "x,size=red", "size: " },
		{ "count=10", "count" },
		{ "x,also=a,also", "also needs a value" },
		{ ",readonly", "file needs a value" },
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct values v = { 0 };
		struct error err = { "" };
		assert_int_equal(keys_parse(bad[i].text, items, &v, &err), -22);
		if (!strstr(err.text, bad[i].says))
			fail_msg("%s: %s", bad[i].text, err.text);
		keys_free(items, &v);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_bad),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
