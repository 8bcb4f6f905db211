/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "vm/cpu_model.h"

/* A host that has everything but BMI2, and SHA-512 that its engine does not carry. */
static void host(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	*out = (struct engine_cpuid){ ~0u, ~0u, ~0u, ~0u };
	if (leaf == 0) {
		out->eax = 0x20;
		memcpy(&out->ebx, "Genu", 4);
		memcpy(&out->edx, "ineI", 4);
		memcpy(&out->ecx, "ntel", 4);
	} else if (leaf == 0x80000000) {
		out->eax = 0x80000008;
	} else if (leaf == 7 && subleaf == 0) {
		out->ebx &= ~(1u << 8);
	} else if (leaf == 0xd) {
		*out = (struct engine_cpuid){ subleaf == 0 ? 0xe7 : subleaf == 1 ? 7 : 256, 576, 0, 0 };
	} else if (leaf == 4) {
		out->eax = 0;
	}
}

static void filter(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *r)
{
	if (leaf == 7 && subleaf == 1)
		r->eax &= ~1u;
}

static struct cpuid *make(const char *text, struct cpu_model *model)
{
	struct error err = { "" };

	assert_int_equal(cpu_model_parse(text, model, &err), 0);
	struct cpuid_config config = { .vcpus = 2, .tsc_khz = 2600000, .host = host, .filter = filter, .model = model };
	return cpuid_create(&config);
}

static void append(void *ctx, const char *name)
{
	strcat(ctx, " ");
	strcat(ctx, name);
}

/* Whether the guest sees all of the first names and none of the others, which blanks separate. */
static void sees(const char *text, const char *those, const char *not_those)
{
	struct cpu_model model;
	struct cpuid *c = make(text, &model);
	char seen[4096] = "", name[40], blank[42];
	int size;

	cpuid_each_feature(c, append, seen);
	strcat(seen, " ");
	for (int without = 0; without < 2; without++)
		for (const char *left = without ? not_those : those; sscanf(left, "%39s%n", name, &size) == 1;
		     left += size) {
			snprintf(blank, sizeof(blank), " %s ", name);
			if ((strstr(seen, blank) != NULL) == (without != 0))
				fail_msg("--cpu %s %s %s:%s", text, without ? "has" : "lacks", name, seen);
		}
	cpuid_destroy(c);
}

static void test_host_is_all_that_there_is(void **state)
{
	(void)state;
	sees("host", "avx512f sha_ni x2apic smep abm", "bmi2 sha512 pcid");
	sees("max", "avx512f sha_ni x2apic smep abm", "bmi2 sha512 pcid");
}

static void test_levels(void **state)
{
	(void)state;
	sees("x86-64-v1",
	     "sse2 cmov nx lm syscall apic x2apic hypervisor tsc_deadline_timer arch_capabilities fdp_excptn_only",
	     "pni popcnt xsave avx smep sha_ni rdrand fsgsbase");
	sees("x86-64-v2", "sse4_2 ssse3 popcnt cx16 lahf_lm", "movbe xsave avx aes");
	sees("x86-64-v2,+aes,+smep", "sse4_2 aes smep", "avx smap");
	sees("x86-64-v4,-avx512f", "avx2 fma", "avx512f avx512vl avx512bw");
}

static void test_features_bring_and_take_others(void **state)
{
	(void)state;
	sees("x86-64-v1,+avx2", "avx2 avx xsave sse4_2 sse4_1 ssse3 pni", "fma xsaveopt");
	sees("-avx", "sse4_2 xsave xsavec", "avx avx2 fma f16c vaes avx512f avx512_vnni avx_vnni sm3 sm4");
	sees("-xsave", "sse4_2", "xsave xsaveopt xsavec xgetbv1 avx avx512vl");
	sees("-avx,+avx2", "avx avx2", "fma avx512f");
	sees("host,-lm", "", "lm pdpe1gb");
	/* As QEMU and the manuals write them. */
	sees("-sse4.1,+sse3,-lzcnt,-sha-ni,-tsc-deadline", "pni ssse3", "sse4_1 sse4_2 abm sha_ni tsc_deadline_timer");
	sees("-hypervisor", "x2apic", "hypervisor");
}

static void lacks(const char *text, const char *says)
{
	struct cpu_model model;
	struct cpuid *c = make(text, &model);
	struct error err = { "" };
	int rc = cpu_model_check(&model, c, "engine test", &err);

	assert_int_equal(rc, says ? -ENOTSUP : 0);
	if (says)
		assert_string_equal(err.text, says);
	cpuid_destroy(c);
}

static void test_what_is_not_there_is_named(void **state)
{
	(void)state;
	lacks("host", NULL);
	lacks("x86-64-v2,+aes,-popcnt", NULL);
	lacks("x86-64-v3,-bmi2", NULL);
	lacks("x86-64-v3", "--cpu asks for bmi2, which engine test on this host does not have");
	lacks("+sha512,+bmi2", "--cpu asks for bmi2, sha512, which engine test on this host does not have");
	lacks("+sha512,-avx", NULL);
}

static void test_nonsense_is_refused(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{ "", "no CPU model is called ''" },
		{ "486", "no CPU model is called '486': use one of host, max, x86-64-v1" },
		{ "host,avx", "'avx' must be +FEATURE or -FEATURE" },
		{ "host,+avx3", "is called 'avx3'" },
		{ "+", "is called ''" },
		{ "host,", "'' must be" },
		{ "host,+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		  "no CPU feature" },
		{ "+avx host", "is called 'avx host'" },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cpu_model model;
		struct error err = { "" };
		assert_int_equal(cpu_model_parse(cases[i].text, &model, &err), -EINVAL);
		if (!strstr(err.text, cases[i].says))
			fail_msg("%s: %s", cases[i].text, err.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_host_is_all_that_there_is),
		cmocka_unit_test(test_levels),
		cmocka_unit_test(test_features_bring_and_take_others),
		cmocka_unit_test(test_what_is_not_there_is_named),
		cmocka_unit_test(test_nonsense_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
