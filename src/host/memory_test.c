/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/memory.h"

static void memory_is_shared_zeroed_and_sealed(void **state)
{
	(void)state;
	struct host_memory m;
	assert_int_equal(host_memory_init(&m, "test", 1 << 20, NULL), 0);
	uint8_t *bytes = m.base;
	for (unsigned i = 0; i < 1 << 20; i += 4096)
		assert_int_equal(bytes[i], 0);
	uint8_t *other = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, m.fd, 0);
	assert_ptr_not_equal(other, MAP_FAILED);
	bytes[12345] = 42;
	assert_int_equal(other[12345], 42);
	assert_int_equal(ftruncate(m.fd, 4096), -1);
	assert_int_equal(ftruncate(m.fd, 2 << 20), -1);
	munmap(other, 1 << 20);
	host_memory_fini(&m);
	host_memory_fini(&m);
}

static void more_than_there_is_is_refused(void **state)
{
	(void)state;
	struct error err = { "" };
	uint64_t limit = host_memory_limit();
	assert_true(limit > 1 << 20);
	assert_int_equal(host_memory_check(1 << 20, &err), 0);
	assert_int_equal(host_memory_check(limit + 1, &err), -ENOMEM);
	assert_non_null(strstr(err.text, "ask for at most"));
	assert_int_equal(host_memory_check(UINT64_MAX, &err), -ENOMEM);
	assert_int_equal(host_memory_check(1ull << 47, &err), -ENOMEM);
}

static void a_size_that_cannot_be_mapped_is_an_error(void **state)
{
	(void)state;
	struct error err = { "" };
	struct host_memory m;
	assert_true(host_memory_init(&m, "test", 1ull << 62, &err) < 0);
	assert_true(err.text[0]);
	assert_true(host_memory_init(&m, "test", 1ull << 63, &err) < 0);
	host_memory_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_shared_zeroed_and_sealed),
		cmocka_unit_test(more_than_there_is_is_refused),
		cmocka_unit_test(a_size_that_cannot_be_mapped_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
