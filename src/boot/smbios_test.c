/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/smbios.h"

#include "base/bytes.h"
#include "boot/test_image.h"

/* The next structure: behind the formatted part come strings, and two zeros end them. */
static const uint8_t *next(const uint8_t *s)
{
	s += s[1];
	while (s[0] || s[1])
		s++;
	return s + 2;
}

static const char *string(const uint8_t *s, unsigned n)
{
	const char *at = (const char *)s + s[1];

	assert_true(n > 0);
	while (--n)
		at += strlen(at) + 1;
	return at;
}

static const uint8_t *find(struct guest *g, unsigned type, unsigned skip)
{
	const uint8_t *entry = guest_at(g, PLATFORM_SMBIOS_BASE, 24);
	const uint8_t *s = guest_at(g, bytes_le64(entry + 16), bytes_le32(entry + 12));
	const uint8_t *end = s + bytes_le32(entry + 12);

	for (; s < end; s = next(s)) {
		if (s[0] == type && skip-- == 0)
			return s;
		if (s[0] == 127)
			assert_ptr_equal(next(s), end);
	}
	return NULL;
}

static void test_entry_point(void **state)
{
	(void)state;
	struct guest g;
	uint8_t sum = 0;

	guest_init(&g, 512 * MIB);
	assert_int_equal(smbios_build(&g.memory, 2, &g.err), 0);
	const uint8_t *entry = guest_at(&g, PLATFORM_SMBIOS_BASE, 24);

	assert_memory_equal(entry, "_SM3_", 5);
	assert_int_equal(entry[6], 24);
	for (unsigned i = 0; i < 24; i++)
		sum = (uint8_t)(sum + entry[i]);
	assert_int_equal(sum, 0);
	const unsigned types[] = { 0, 1, 3, 4, 16, 17, 19, 32, 127 };
	uint16_t handles[16];
	unsigned n = 0;

	for (unsigned i = 0; i < sizeof(types) / sizeof(*types); i++) {
		const uint8_t *s = find(&g, types[i], 0);

		assert_non_null(s);
		handles[n++] = bytes_le16(s + 2);
		for (unsigned j = 0; j + 1 < n; j++)
			assert_int_not_equal(handles[j], handles[n - 1]);
	}
	const uint8_t *system = find(&g, 1, 0);

	assert_string_equal(string(system, system[4]), "Plures");
	guest_fini(&g);
}

static void check_memory(uint64_t size, unsigned regions)
{
	struct guest g;

	guest_init(&g, size);
	assert_int_equal(smbios_build(&g.memory, 1, &g.err), 0);
	const uint8_t *dimm = find(&g, 17, 0);
	uint16_t mib = bytes_le16(dimm + 12);

	assert_int_equal(mib == 0x7fff ? bytes_le32(dimm + 28) : mib, size / MIB);
	for (unsigned i = 0; i < regions; i++) {
		const uint8_t *mapped = find(&g, 19, i);

		assert_non_null(mapped);
		bool wide = bytes_le32(mapped + 4) == 0xffffffff;
		uint64_t start = wide ? bytes_le64(mapped + 15) : bytes_le32(mapped + 4) * 1024ull;
		uint64_t end = wide ? bytes_le64(mapped + 23) : bytes_le32(mapped + 8) * 1024ull + 1023;

		assert_int_equal(start, g.memory.region[i].gpa);
		assert_int_equal(end + 1 - start, g.memory.region[i].size);
	}
	assert_null(find(&g, 19, regions));
	guest_fini(&g);
}

static void test_memory(void **state)
{
	(void)state;
	check_memory(128 * MIB, 1);
	check_memory(512 * MIB, 1);
	check_memory(6144 * MIB, 2);
	check_memory(64ull << 30, 2);
	check_memory(5ull << 40, 2);
}

static void test_cpus(void **state)
{
	(void)state;
	struct guest g;

	guest_init(&g, 64 * MIB);
	assert_int_equal(smbios_build(&g.memory, 300, &g.err), 0);
	const uint8_t *cpu = find(&g, 4, 0);

	assert_int_equal(cpu[35], 255);
	assert_int_equal(bytes_le16(cpu + 42), 300);
	guest_fini(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entry_point),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_cpus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
