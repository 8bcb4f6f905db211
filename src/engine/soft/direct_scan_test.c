/* SPDX-License-Identifier: Apache-2.0 */
/* direct_scan_test.c - which pages of code are for translation alone: those with CPUID and its like, wherever it stands. */
#include "engine/soft/direct_scan.h"

#include <dlfcn.h>
#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/insn.h"

enum { PAGE = 4096, NOP = 0x90 };

static const struct {
	const char *name;
	uint8_t code[6];
	bool sensitive;
} cases[] = {
	{ "cpuid", { 0x0f, 0xa2 }, true },
	{ "rdtscp", { 0x0f, 0x01, 0xf9 }, true },
	{ "rdpid eax", { 0xf3, 0x0f, 0xc7, 0xf8 }, true },
	{ "xgetbv", { 0x0f, 0x01, 0xd0 }, true },
	{ "lsl eax, ecx", { 0x0f, 0x03, 0xc1 }, true },
	{ "lar eax, ecx", { 0x0f, 0x02, 0xc1 }, true },
	{ "verr ax", { 0x0f, 0x00, 0xe0 }, true },
	{ "smsw eax", { 0x0f, 0x01, 0xe0 }, true },
	{ "str eax", { 0x0f, 0x00, 0xc8 }, true },
	{ "sgdt [rax]", { 0x0f, 0x01, 0x00 }, true },
	{ "sysenter", { 0x0f, 0x34 }, true },
	{ "vmcall", { 0x0f, 0x01, 0xc1 }, true },
	{ "rdpkru", { 0x0f, 0x01, 0xee }, true },
	{ "rdtsc", { 0x0f, 0x31 }, false },
	{ "syscall", { 0x0f, 0x05 }, false },
	{ "xend", { 0x0f, 0x01, 0xd5 }, false },
	{ "cmpxchg8b [rax]", { 0x0f, 0xc7, 0x08 }, false },
	{ "mov eax, 0xa20f", { 0xb8, 0x0f, 0xa2, 0x00, 0x00 }, false },
	{ "mov eax, [rax + 0x30f]", { 0x8b, 0x80, 0x0f, 0x03, 0x00, 0x00 }, false },
};

/* Code as compilers make it: pushes, moves, additions, a loop. */
static void fill(uint8_t *bytes, size_t size)
{
	static const uint8_t code[] = { 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0x31, 0xc0, 0x48, 0x01,
					0xf8, 0x8b, 0x4e, 0x08, 0x48, 0xff, 0xc9, 0x75, 0xf5, 0xc9, 0xc3 };
	for (size_t at = 0; at < size; at++)
		bytes[at] = code[at % sizeof(code)];
}

static void put(uint8_t *bytes, size_t at, const uint8_t *code)
{
	struct insn insn;
	uint8_t room[INSN_MAX_LEN] = { 0 };
	memcpy(room, code, 6);
	assert_int_equal(insn_decode(&insn, room, sizeof(room), INSN_MODE_64), 0);
	size_t length = insn.len ? insn.len : 3;
	/* What was cut there must not swallow it. */
	memset(bytes + at - 16, NOP, 16);
	memcpy(bytes + at, code, length);
	memset(bytes + at + length, NOP, 16);
}

static void test_instructions(void **state)
{
	(void)state;
	static uint8_t page[PAGE];
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		for (size_t at = 200; at < PAGE - 64; at += 531) {
			fill(page, sizeof(page));
			put(page, at, cases[i].code);
			if (direct_scan_sensitive(page, NULL, NULL) != cases[i].sensitive)
				fail_msg("%s at %zu", cases[i].name, at);
		}
	}
}

/* It may begin on the one page and end on the next. */
static void test_across(void **state)
{
	(void)state;
	static uint8_t pages[3 * PAGE];
	for (size_t before = 0; before < 3; before++) {
		fill(pages, sizeof(pages));
		put(pages, 2 * PAGE - before, cases[1].code);
		bool first = direct_scan_sensitive(pages + PAGE, pages, pages + 2 * PAGE);
		bool second = direct_scan_sensitive(pages + 2 * PAGE, pages + PAGE, NULL);
		if (first != (before > 0) || second != (before == 0))
			fail_msg("%zu bytes before the end: %d %d", before, first, second);
	}
}

struct counts {
	size_t pages, sensitive;
};

static int count_libm(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size;
	struct counts *counts = data;
	if (!strstr(info->dlpi_name, "libm.so") && !strstr(info->dlpi_name, "libcmocka"))
		return 0;
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		const uint8_t *text =
		    (const uint8_t *)(info->dlpi_addr + ph->p_vaddr); /* NOLINT(performance-no-int-to-ptr) */
		for (size_t at = 0; at + PAGE <= ph->p_memsz; at += PAGE) {
			const uint8_t *next = at + 2ul * PAGE <= ph->p_memsz ? text + at + PAGE : NULL;
			counts->pages++;
			counts->sensitive += direct_scan_sensitive(text + at, at ? text + at - PAGE : NULL, next);
		}
	}
	return 0;
}

/* Libraries that ask for nothing of the kind. */
static void test_ordinary_code(void **state)
{
	(void)state;
	struct counts counts = { 0 };
	void *libm = dlopen("libm.so.6", RTLD_LAZY);
	assert_non_null(libm);
	dl_iterate_phdr(count_libm, &counts);
	dlclose(libm);
	print_message("%zu of %zu pages\n", counts.sensitive, counts.pages);
	assert_true(counts.pages > 50 && counts.sensitive * 100 <= counts.pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_instructions),
		cmocka_unit_test(test_across),
		cmocka_unit_test(test_ordinary_code),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
