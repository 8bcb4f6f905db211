/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/http.h"

static long parse(struct http *http, const char *text)
{
	return http_parse(http, text, strlen(text));
}

static void requests(void **state)
{
	static const char whole[] = "PUT /balloon HTTP/1.1\r\nHost: x\r\ncontent-LENGTH:   5\r\n\r\nhello";
	struct http http;

	(void)state;
	assert_int_equal(parse(&http, whole), sizeof(whole) - 1);
	assert_string_equal(http.method, "PUT");
	assert_string_equal(http.path, "/balloon");
	assert_int_equal(http.status, 0);
	assert_int_equal(http.body_size, 5);
	assert_memory_equal(http.body, "hello", 5);
	for (size_t size = 0; size < sizeof(whole) - 1; size++) /* in any number of pieces */
		assert_int_equal(http_parse(&http, whole, size), 0);
	assert_int_equal(parse(&http, "GET / HTTP/1.0\r\n\r\nmore"), 18);
	assert_int_equal(http.body_size, 0);
}

static void answers(void **state)
{
	char text[256];
	struct http http;

	(void)state;
	size_t size = http_answer_head(text, sizeof(text), 404, 2);
	memcpy(text + size, "{}", 3);
	assert_int_equal(parse(&http, text), size + 2);
	assert_int_equal(http.status, 404);
	assert_memory_equal(http.body, "{}", 2);
	size = http_request_head(text, sizeof(text), "GET", "/machine", 0);
	assert_int_equal(parse(&http, text), size);
	assert_string_equal(http.path, "/machine");
}

static void nonsense(void **state)
{
	static const char *const bad[] = {
		"\r\n\r\n",
		"GET\r\n\r\n",
		"GET /\r\n\r\n",
		"GET  / HTTP/1.1\r\n\r\n",
		"GET / HTTP/2.0\r\n\r\n",
		"GET / HTTP/1.12\r\n\r\n",
		"GETGETGETGET / HTTP/1.1\r\n\r\n",
		"GET /\x01 HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nno colon\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length:\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: 16385\r\n\r\n",
		"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
		"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 2x0 OK\r\n\r\n",
		"HTTP/1.1 000 OK\r\n\r\n",
		"HTTP/1.1 20\r\n\r\n",
	};
	char *large = calloc(1, HTTP_MAX + 1);
	struct http http;

	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(parse(&http, bad[i]), -1);
	assert_non_null(large);
	memset(large, 'x', HTTP_MAX);
	assert_int_equal(parse(&http, large), -1);
	free(large);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests),
		cmocka_unit_test(answers),
		cmocka_unit_test(nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
