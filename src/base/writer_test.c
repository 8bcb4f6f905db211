/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/writer.h"

static void test_writes(void **state)
{
	char path[] = "/tmp/plures-writer-XXXXXX", text[16] = "";
	(void)state;
	close(mkstemp(path));
	struct writer *w = writer_open(path);
	assert_non_null(w);
	fputs("one ", writer_file(w));
	assert_int_equal(writer_flush(w), 0);
	fputs("two", writer_file(w));
	writer_close(w);
	FILE *f = fopen(path, "r");
	assert_int_equal(fread(text, 1, sizeof(text), f), 7);
	assert_string_equal(text, "one two");
	fclose(f);
	unlink(path);
}

/* What failed is told also after other things went wrong and after a write that had nothing left to do. */
static void test_keeps_the_first_error(void **state)
{
	(void)state;
	struct writer *w = writer_open("/dev/full");
	assert_non_null(w);
	for (unsigned i = 0; i < 100000; i++)
		fputs("more than a buffer\n", writer_file(w));
	for (unsigned i = 0; i < 3; i++) {
		errno = EPERM;
		assert_int_equal(writer_flush(w), -ENOSPC);
	}
	writer_close(w);
}

static void test_no_place(void **state)
{
	(void)state;
	assert_null(writer_open("/nowhere/file"));
	assert_int_equal(errno, ENOENT);
	writer_close(NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_writes),
		cmocka_unit_test(test_keeps_the_first_error),
		cmocka_unit_test(test_no_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
