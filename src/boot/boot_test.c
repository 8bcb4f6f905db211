/* SPDX-License-Identifier: Apache-2.0 */
/* What is no kernel, what can't be read, the memory layouts, and real kernels where this machine has some. */
#include <glob.h>
#include <stdio.h>

#include "boot/test_image.h"

static void test_memory_layout(void **state)
{
	(void)state;
	const struct {
		uint64_t size, low, high;
	} cases[] = {
		{ 128 * MIB, 128 * MIB, 0 },
		{ 512 * MIB, 512 * MIB, 0 },
		{ 3072 * MIB, 3072 * MIB, 0 },
		{ 3073 * MIB, 3072 * MIB, 1 * MIB },
		{ 6144 * MIB, 3072 * MIB, 3072 * MIB },
		{ 1ull << 40, 3072 * MIB, (1ull << 40) - 3072 * MIB },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct boot_memory m;

		boot_memory_layout(&m, cases[i].size);
		assert_int_equal(m.regions, cases[i].high ? 2 : 1);
		assert_int_equal(m.region[0].gpa, 0);
		assert_int_equal(m.region[0].size, cases[i].low);
		if (cases[i].high) {
			assert_int_equal(m.region[1].gpa, 4ull << 30);
			assert_int_equal(m.region[1].size, cases[i].high);
		}
	}
}

static void test_e820(void **state)
{
	(void)state;
	const uint64_t sizes[] = { 4 * MIB, 128 * MIB, 512 * MIB, 3072 * MIB, 3073 * MIB, 6144 * MIB };

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct boot_memory m;
		struct e820_range range[E820_MAX];
		uint64_t ram = 0, at = 0;

		boot_memory_layout(&m, sizes[i]);
		unsigned n = e820_build(&m, range);

		for (unsigned r = 0; r < n; r++) {
			/* In order, without overlap, whole pages but for the EBDA. */
			assert_true(range[r].start >= at);
			assert_true(range[r].size > 0);
			at = range[r].start + range[r].size;
			if (range[r].type != E820_RAM)
				continue;
			ram += range[r].size;
			assert_true(e820_usable(&m, range[r].start, range[r].size));
			assert_false(e820_usable(&m, range[r].start, range[r].size + 1));
		}
		/* All RAM but what firmware keeps below 1M. */
		assert_int_equal(ram, sizes[i] - (0x100000 - PLATFORM_EBDA_BASE));
		assert_false(e820_usable(&m, PLATFORM_RAM_LOW_END, 1));
		assert_false(e820_usable(&m, PLATFORM_LAPIC_BASE, 1));
		assert_false(e820_usable(&m, PLATFORM_ACPI_BASE, 1));
		assert_false(e820_usable(&m, ~0ull, 2));
		assert_int_equal(e820_usable(&m, 4ull << 30, 1 * MIB), sizes[i] > 3072 * MIB);
	}
}

static void test_memory_accessor(void **state)
{
	(void)state;
	struct guest g;

	guest_init(&g, 3073 * MIB);
	assert_ptr_equal(boot_memory_at(&g.memory, 0, 1), g.memory.region[0].hva);
	assert_non_null(boot_memory_at(&g.memory, 3072 * MIB - 1, 1));
	assert_null(boot_memory_at(&g.memory, 3072 * MIB - 1, 2));
	assert_null(boot_memory_at(&g.memory, 3072 * MIB, 1));
	assert_ptr_equal(boot_memory_at(&g.memory, 4ull << 30, MIB), g.memory.region[1].hva);
	assert_null(boot_memory_at(&g.memory, 4ull << 30, MIB + 1));
	assert_null(boot_memory_at(&g.memory, 0, ~0ull));
	assert_null(boot_memory_at(&g.memory, ~0ull, 2));
	guest_fini(&g);
}

static void test_not_kernels(void **state)
{
	(void)state;
	struct guest g;
	uint8_t page[4096] = { 0 };
	const char text[] = "#!/bin/sh\necho hello\n";

	guest_init(&g, 64 * MIB);
	guest_refuses(&g, "", 0, "empty file");
	guest_refuses(&g, text, sizeof(text) - 1, "text file");
	guest_refuses(&g, page, sizeof(page), "is no kernel");
	memcpy(page, "MZ", 2);
	memcpy(page + 0x38, "ARM\x64", 4);
	guest_refuses(&g, page, sizeof(page), "arm64");
	memset(page, 0, sizeof(page));
	memcpy(page, "MZ", 2);
	guest_refuses(&g, page, 0x180, "cut short");
	memcpy(page, "\x1f\x8b\x08", 3);
	guest_refuses(&g, page, sizeof(page), "gunzip");
	memcpy(page, "070701", 6);
	guest_refuses(&g, page, sizeof(page), "--initrd");
	guest_fini(&g);
}

static void test_configurations(void **state)
{
	(void)state;
	struct guest g;
	const struct test_elf elf = test_elf(0x200000, 0x200000);

	guest_init(&g, 1 * MIB);
	guest_refuses(&g, &elf, sizeof(elf), "too small");
	guest_fini(&g);
	guest_init(&g, 4 * MIB);
	assert_int_equal(guest_load(&g, &elf, sizeof(elf)), 0);
	g.config.vcpus = 0;
	guest_refuses(&g, &elf, sizeof(elf), "at least one CPU");
	g.config.vcpus = 1000000;
	guest_refuses(&g, &elf, sizeof(elf), "use fewer");
	g.config.vcpus = 1;
	g.config.cmdline = NULL;
	assert_int_equal(guest_load(&g, &elf, sizeof(elf)), 0);
	guest_fini(&g);
}

static void refuses_file(struct guest *g, const char *path, const char *text)
{
	g->config.kernel = path;
	assert_true(boot_load(&g->config, &g->memory, &g->bsp, &g->err) < 0);
	if (!strstr(g->err.text, text) || !strstr(g->err.text, path))
		fail_msg("expected \"%s\" in: %s", text, g->err.text);
}

static void test_files(void **state)
{
	(void)state;
	struct guest g;
	char path[] = "/tmp/plures-kernel-XXXXXX";
	int fd = mkstemp(path);
	const struct test_elf elf = test_elf(0x200000, 0x200000);

	guest_init(&g, 64 * MIB);
	refuses_file(&g, "/nonexistent/vmlinuz", "No such file");
	refuses_file(&g, "/tmp", "not a regular file");
	refuses_file(&g, "/dev/zero", "not a regular file");
	refuses_file(&g, path, "empty file");
	assert_int_equal(ftruncate(fd, 3ll << 30), 0);
	refuses_file(&g, path, "larger than 2048M");
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(write(fd, &elf, sizeof(elf)), sizeof(elf));
	g.config.kernel = path;
	if (boot_load(&g.config, &g.memory, &g.bsp, &g.err))
		fail_msg("%s", g.err.text);
	assert_int_equal(g.bsp.rip, 0x200000);
	close(fd);
	unlink(path);
	guest_fini(&g);
}

/* Distributions' kernels, where some are at hand. */
static void test_real_kernels(void **state)
{
	(void)state;
	static const char *const patterns[] = { "/boot/vmlinuz-*", "../.cache/guest/*/vmlinuz*",
						"../.cache/guest/*/boot/vmlinuz*" };
	glob_t found = { 0 };
	struct guest g;

	for (unsigned i = 0; i < sizeof(patterns) / sizeof(*patterns); i++)
		glob(patterns[i], i ? GLOB_APPEND : 0, NULL, &found);
	if (found.gl_pathc == 0) {
		globfree(&found);
		print_message("no kernel in /boot or .cache: skipped\n");
		skip();
	}
	for (size_t i = 0; i < found.gl_pathc; i++) {
		guest_init(&g, 512 * MIB);
		g.config.kernel = found.gl_pathv[i];
		if (boot_load(&g.config, &g.memory, &g.bsp, &g.err))
			fail_msg("%s", g.err.text);
		guest_fini(&g);
	}
	globfree(&found);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory_layout),   cmocka_unit_test(test_e820),
		cmocka_unit_test(test_memory_accessor), cmocka_unit_test(test_not_kernels),
		cmocka_unit_test(test_configurations),  cmocka_unit_test(test_files),
		cmocka_unit_test(test_real_kernels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
