/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/device.h"
#include "vm/state.h"

/* A saved file with one of everything, in memory of its exact size so that a sanitizer sees a read beyond it. */
static uint8_t *sample(size_t *size)
{
	struct state_writer *w = state_writer_create();
	const void *bytes;
	state_begin(w, "i8250", 0, 3);
	state_put_u8(w, "ier", 0x5a);
	state_put_u16(w, "divisor", 0x1234);
	state_put_u32(w, "word", 0xdeadbeef);
	state_put_u64(w, "time", 0x0123456789abcdef);
	state_put_bool(w, "dlab", true);
	state_put_bytes(w, "fifo", "abc", 3);
	state_put_bytes(w, "empty", NULL, 0);
	state_begin(w, "i8250", 1, 3);
	state_put_u8(w, "ier", 0xa5);
	state_put_u32s(w, "irr", (uint32_t[]){ 1, 2, 3 }, 3);
	state_put_u64s(w, "redirection", (uint64_t[]){ 1, UINT64_MAX }, 2);
	assert_int_equal(state_writer_finish(w, &bytes, size, NULL), 0);
	uint8_t *copy = malloc(*size);
	assert_non_null(copy);
	memcpy(copy, bytes, *size);
	state_writer_destroy(w);
	return copy;
}

static void what_was_put_is_got(void **state)
{
	(void)state;
	size_t size;
	uint8_t *file = sample(&size);
	struct state_reader *r;
	struct error err;
	uint8_t u8 = 0;
	uint16_t u16 = 0;
	uint32_t u32 = 0, version = 0, u32s[3];
	uint64_t u64 = 0, u64s[2];
	bool flag = false;
	char fifo[3];
	assert_int_equal(state_reader_create(&r, file, size, &err), 0);
	assert_int_equal(state_enter(r, "i8250", 0, 3, &version, &err), 0);
	assert_int_equal(version, 3);
	state_get_u8(r, "ier", &u8);
	state_get_u16(r, "divisor", &u16);
	state_get_u32(r, "word", &u32);
	state_get_u64(r, "time", &u64);
	state_get_bool(r, "dlab", &flag);
	state_get_bytes(r, "fifo", fifo, sizeof(fifo));
	assert_false(state_failed(r, &err));
	assert_int_equal(u8, 0x5a);
	assert_int_equal(u16, 0x1234);
	assert_int_equal(u32, 0xdeadbeef);
	assert_int_equal(u64, 0x0123456789abcdef);
	assert_true(flag);
	assert_memory_equal(fifo, "abc", 3);
	assert_non_null(state_get_blob(r, "fifo", &size));
	assert_int_equal(size, 3);
	assert_int_equal(state_enter(r, "i8250", 1, 9, NULL, &err), 0);
	state_get_u8(r, "ier", &u8);
	state_get_u32s(r, "irr", u32s, 3);
	state_get_u64s(r, "redirection", u64s, 2);
	assert_false(state_failed(r, &err));
	assert_int_equal(u8, 0xa5);
	assert_int_equal(u32s[2], 3);
	assert_true(u64s[1] == UINT64_MAX);
	state_reader_destroy(r);
	free(file);
}

static void failures_name_the_field(void **state)
{
	(void)state;
	size_t size;
	uint8_t *file = sample(&size), u8 = 7;
	struct state_reader *r;
	struct error err;
	assert_int_equal(state_reader_create(&r, file, size, &err), 0);
	assert_int_equal(state_enter(r, "i8250", 0, 3, NULL, &err), 0);
	assert_false(state_has(r, "lcr"));
	state_get_u8(r, "lcr", &u8);
	state_get_u8(r, "fifo", &u8);
	assert_true(state_failed(r, &err));
	assert_string_equal(err.text, "saved state of i8250: field lcr is missing");
	assert_int_equal(u8, 7);

	assert_int_equal(state_enter(r, "i8250", 0, 3, NULL, &err), 0);
	assert_false(state_failed(r, &err));
	state_get_u8(r, "divisor", &u8);
	assert_true(state_failed(r, &err));
	assert_string_equal(err.text, "saved state of i8250: field divisor is out of range");

	assert_int_equal(state_enter(r, "i8250", 0, 3, NULL, &err), 0);
	state_get_bytes(r, "fifo", &u8, 1);
	assert_true(state_failed(r, &err));
	assert_string_equal(err.text, "saved state of i8250: field fifo has the wrong length");
	assert_int_equal(u8, 7);

	assert_int_equal(state_enter(r, "i8250", 0, 2, NULL, &err), -ENOTSUP);
	assert_int_equal(state_enter(r, "i8254", 0, 2, NULL, &err), -ENOENT);
	assert_false(state_has(r, "ier"));
	state_reader_destroy(r);
	free(file);
}

/* Reads everything that sample() wrote, whatever comes of it. */
static void read_all(const uint8_t *file, size_t size)
{
	struct state_reader *r;
	struct error err;
	if (state_reader_create(&r, file, size, &err) < 0) {
		assert_true(err.text[0]);
		return;
	}
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t u8, bytes[3];
		uint32_t u32s[3];
		uint64_t u64s[2];
		size_t length;
		if (state_enter(r, "i8250", i, 3, NULL, &err) < 0)
			continue;
		state_get_u8(r, "ier", &u8);
		state_get_bytes(r, "fifo", bytes, sizeof(bytes));
		state_get_u32s(r, "irr", u32s, 3);
		state_get_u64s(r, "redirection", u64s, 2);
		state_get_blob(r, "empty", &length);
		state_failed(r, &err);
	}
	state_reader_destroy(r);
}

static void damage_is_an_error(void **state)
{
	(void)state;
	size_t size;
	uint8_t *file = sample(&size);
	struct error err;
	struct state_reader *r;
	for (size_t cut = 0; cut < size; cut++) {
		uint8_t *part = malloc(cut ? cut : 1);
		assert_non_null(part);
		memcpy(part, file, cut);
		read_all(part, cut);
		free(part);
	}
	for (size_t i = 0; i < size; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			file[i] ^= (uint8_t)(1 << bit);
			read_all(file, size);
			file[i] ^= (uint8_t)(1 << bit);
		}
	}
	assert_int_equal(state_reader_create(&r, "hello, world", 12, &err), -EINVAL);
	assert_int_equal(state_reader_create(&r, "", 0, &err), -EINVAL);
	free(file);
}

struct counter {
	struct device dev;
	uint32_t value;
};

static void counter_save(struct device *dev, struct state_writer *w)
{
	state_put_u32(w, "value", ((struct counter *)dev)->value);
}

static int counter_load(struct device *dev, struct state_reader *r, struct error *err)
{
	uint32_t value = 0;
	state_get_u32(r, "value", &value);
	if (state_failed(r, err))
		return -EINVAL;
	((struct counter *)dev)->value = value;
	return 0;
}

static void devices_of_one_name_keep_apart(void **state)
{
	(void)state;
	const struct device_ops one = { .name = "one", .version = 1, .save = counter_save, .load = counter_load };
	const struct device_ops two = { .name = "two", .version = 1, .save = counter_save, .load = counter_load };
	struct counter c[3] = { { { &one, &c[1].dev }, 10 }, { { &two, &c[2].dev }, 20 }, { { &one, NULL }, 30 } };
	struct state_writer *w = state_writer_create();
	struct state_reader *r;
	struct error err;
	const void *bytes;
	size_t size;
	state_save_devices(w, &c[0].dev);
	assert_int_equal(state_writer_finish(w, &bytes, &size, &err), 0);
	for (unsigned i = 0; i < 3; i++)
		c[i].value = 0;
	assert_int_equal(state_reader_create(&r, bytes, size, &err), 0);
	assert_int_equal(state_load_devices(r, &c[0].dev, &err), 0);
	assert_int_equal(c[0].value, 10);
	assert_int_equal(c[1].value, 20);
	assert_int_equal(c[2].value, 30);
	state_reader_destroy(r);
	state_writer_destroy(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_put_is_got),
		cmocka_unit_test(failures_name_the_field),
		cmocka_unit_test(damage_is_an_error),
		cmocka_unit_test(devices_of_one_name_keep_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
