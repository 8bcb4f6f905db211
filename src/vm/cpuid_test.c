/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vm/cpuid.h"

/* Hosts that have everything: every feature bit set, so what a guest is shown is what we choose. */
static void host(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out, const char *vendor, uint32_t max_basic,
		 uint32_t max_extended)
{
	*out = (struct engine_cpuid){ ~0u, ~0u, ~0u, ~0u };
	switch (leaf) {
	case 0:
		out->eax = max_basic;
		memcpy(&out->ebx, vendor, 4);
		memcpy(&out->edx, vendor + 4, 4);
		memcpy(&out->ecx, vendor + 8, 4);
		break;
	case 4:
	case 0x8000001d: /* L1 data, L1 code, L2 and L3, shared by many */
		out->eax = subleaf < 4 ? 0x3fc121 | 0xfc000000 : 0;
		if (subleaf < 4)
			out->eax = (out->eax & ~0xe0u) | (subleaf == 0 ? 1 : subleaf) << 5;
		break;
	case 0xd:
		*out = (struct engine_cpuid){ 0 };
		if (subleaf == 0)
			*out = (struct engine_cpuid){ 0x602e7, 0x988, 0x2b00, 0 };
		else if (subleaf == 1)
			*out = (struct engine_cpuid){ 0x1f, 0x988, 0x1900, 0 };
		else if (subleaf == 2)
			*out = (struct engine_cpuid){ 256, 576, 0, 0 };
		else if (subleaf == 5)
			*out = (struct engine_cpuid){ 64, 1088, 0, 0 };
		else if (subleaf == 6)
			*out = (struct engine_cpuid){ 512, 1152, 0, 0 };
		else if (subleaf == 7)
			*out = (struct engine_cpuid){ 1024, 1664, 0, 0 };
		break;
	case 0x80000000:
		out->eax = max_extended;
		break;
	case 0x80000008:
		out->eax = 57 << 8 | 52;
		break;
	}
}

static void intel_host(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	host(leaf, subleaf, out, "GenuineIntel", 0x20, 0x80000008);
}

static void amd_host(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	host(leaf, subleaf, out, "AuthenticAMD", 0x10, 0x80000028);
}

/* An engine without AVX-512. */
static void filter(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *r)
{
	(void)subleaf;
	if (leaf == 7)
		r->ebx &= ~(1u << 16);
}

static struct cpuid *make(cpuid_read_fn *fn, unsigned vcpus)
{
	struct cpuid_config config = { .vcpus = vcpus, .tsc_khz = 2600000, .host = fn };

	return cpuid_create(&config);
}

static struct engine_cpuid get(const struct cpuid *c, unsigned vcpu, uint32_t leaf, uint32_t subleaf)
{
	struct engine_cpuid r;

	cpuid_get(c, vcpu, leaf, subleaf, &r);
	return r;
}

static void test_what_is_not_carried_is_hidden(void **state)
{
	cpuid_read_fn *hosts[] = { intel_host, amd_host };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct cpuid *c = make(hosts[i], 2);
		struct engine_cpuid r = get(c, 0, 1, 0);
		/* MONITOR, VMX, SMX, PDCM, PCID, OSXSAVE */
		assert_int_equal(r.ecx & (1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 17 | 1 << 27), 0);
		r = get(c, 0, 7, 0);
		/* SGX, HLE, RTM, MPX, PT */
		assert_int_equal(r.ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 25), 0);
		/* PKU, OSPKE, WAITPKG, CET_SS, LA57, KL, ENQCMD, PKS */
		assert_int_equal(r.ecx & (1u << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16 | 1 << 23 | 1 << 29 | 1u << 31),
				 0);
		/* UINTR, IBT, AMX */
		assert_int_equal(r.edx & (1 << 5 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25), 0);
		assert_int_equal(get(c, 0, 0xd, 1).eax, 7); /* no XSAVES, no XFD */
		r = get(c, 0, 0x80000001, 0);
		/* SVM, IBS, XOP, SKINIT, LWP, FMA4, PERFCTR_CORE, MWAITX */
		assert_int_equal(r.ecx & (1 << 2 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 15 | 1 << 16 | 1 << 23 | 1 << 29),
				 0);
		/* CLZERO, RDPRU, PSFD, SSBD */
		assert_int_equal(get(c, 0, 0x80000008, 0).ebx & (1 << 0 | 1 << 4 | 1 << 28 | 1 << 24), 0);
		static const uint32_t absent[] = { 5, 0xa, 0xf, 0x10, 0x12, 0x14, 0x8000000a, 0x8000001b, 0x8000001f };
		for (unsigned j = 0; j < sizeof(absent) / sizeof(absent[0]); j++) {
			r = get(c, 0, absent[j], 0);
			assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
		}
		cpuid_destroy(c);
	}
}

static void test_user_features_pass(void **state)
{
	struct cpuid *c = make(amd_host, 1);
	struct engine_cpuid r;

	(void)state;
	/* x86-64-v3: SSE3, SSSE3, FMA, CX16, SSE4, MOVBE, POPCNT, XSAVE, AVX, F16C; AVX2, BMI1, BMI2; LAHF, LZCNT */
	r = get(c, 0, 1, 0);
	assert_int_equal(r.ecx & 0x34d83201, 0x34d83201 & r.ecx);
	assert_int_equal(r.ecx & (1 | 1 << 9 | 1 << 12 | 1 << 13 | 3 << 19 | 1 << 22 | 1 << 23 | 1 << 26 | 3 << 28),
			 1 | 1 << 9 | 1 << 12 | 1 << 13 | 3 << 19 | 1 << 22 | 1 << 23 | 1 << 26 | 3 << 28);
	assert_int_equal(get(c, 0, 7, 0).ebx & (1 << 3 | 1 << 5 | 1 << 8), 1 << 3 | 1 << 5 | 1 << 8);
	assert_int_equal(get(c, 0, 0x80000001, 0).ecx & (1 | 1 << 5), 1 | 1 << 5);
	cpuid_destroy(c);
}

static void test_the_machine_adds_its_own(void **state)
{
	struct cpuid *c = make(amd_host, 1);

	(void)state;
	/* x2APIC, TSC deadline, hypervisor */
	assert_int_equal(get(c, 0, 1, 0).ecx & (1u << 21 | 1 << 24 | 1u << 31), 1u << 21 | 1 << 24 | 1u << 31);
	assert_int_equal(get(c, 0, 0x80000007, 0).edx, 1 << 8); /* invariant TSC */
	struct engine_cpuid r = get(c, 0, 0x40000000, 0);
	char name[13] = "";
	memcpy(name, &r.ebx, 12);
	assert_string_equal(name, "KVMKVMKVM");
	assert_int_equal(get(c, 0, 0x40000001, 0).eax, 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24);
	assert_int_equal(get(c, 0, 0x40000010, 0).eax, 2600000);
	cpuid_destroy(c);
	c = make(intel_host, 1);
	r = get(c, 0, 0x15, 0);
	assert_int_equal((uint64_t)r.ecx * r.ebx / r.eax, 2600000000);
	assert_int_equal(get(c, 0, 7, 2).edx, 1 << 4); /* BHI_CTRL */
	assert_int_equal(get(c, 0, 7, 3).edx, 0);
	cpuid_destroy(c);
}

static void test_topology(void **state)
{
	static const unsigned counts[] = { 1, 2, 3, 8, 64 };

	(void)state;
	for (unsigned i = 0; i < 2 * sizeof(counts) / sizeof(counts[0]); i++) {
		unsigned n = counts[i / 2], bits = n > 8 ? 6 : n > 2 ? (n > 4 ? 3 : 2) : n - 1;
		struct cpuid *c = make(i & 1 ? amd_host : intel_host, n);
		unsigned last = n - 1;
		assert_int_equal(get(c, last, 1, 0).ebx >> 24, last);
		assert_int_equal(get(c, last, 1, 0).edx >> 28 & 1, n > 1);
		struct engine_cpuid r = get(c, last, 0xb, 0);
		assert_int_equal(r.eax, 0);
		assert_int_equal(r.ebx, 1);
		assert_int_equal(r.edx, last);
		r = get(c, last, 0xb, 1);
		assert_int_equal(r.eax, bits);
		assert_int_equal(r.ebx, n);
		assert_int_equal(r.ecx, 0x201);
		r = get(c, last, 0xb, 2);
		assert_int_equal(r.ebx, 0);
		assert_int_equal(r.ecx, 2);
		/* L1 and L2 are a core's own; L3 is everyone's. */
		uint32_t caches = i & 1 ? 0x8000001d : 4;
		assert_int_equal(get(c, last, caches, 0).eax >> 14 & 0xfff, 0);
		assert_int_equal(get(c, last, caches, 3).eax >> 14 & 0xfff, (1 << bits) - 1);
		assert_int_equal(get(c, last, caches, 4).eax, 0);
		if (i & 1) {
			assert_int_equal(get(c, last, 0x80000008, 0).ecx, last | bits << 12);
			assert_int_equal(get(c, last, 0x8000001e, 0).eax, last);
			assert_int_equal(get(c, last, 0x8000001e, 0).ebx, last);
		} else {
			assert_int_equal(get(c, last, 4, 0).eax >> 26, (1 << bits) - 1);
			assert_int_equal(get(c, last, 0x1f, 1).ebx, n);
		}
		cpuid_destroy(c);
	}
}

static void test_xsave_follows_the_features(void **state)
{
	struct cpuid_config config = { .vcpus = 1, .tsc_khz = 1, .host = intel_host };
	struct cpuid *c = cpuid_create(&config);

	(void)state;
	struct engine_cpuid r = get(c, 0, 0xd, 0);
	assert_int_equal(r.eax, 0xe7); /* no PKRU, no AMX */
	assert_int_equal(r.ecx, 1664 + 1024);
	assert_int_equal(get(c, 0, 0xd, 9).eax, 0);
	cpuid_destroy(c);

	config.filter = filter;
	c = cpuid_create(&config);
	r = get(c, 0, 0xd, 0);
	assert_int_equal(r.eax, 7);
	assert_int_equal(r.ecx, 832);
	assert_int_equal(get(c, 0, 0xd, 2).ebx, 576);
	assert_int_equal(get(c, 0, 0xd, 5).eax, 0);
	cpuid_destroy(c);
}

static void test_limits(void **state)
{
	struct cpuid *c = make(intel_host, 1);

	(void)state;
	assert_int_equal(get(c, 0, 0, 0).eax, 0x1f);
	assert_int_equal(get(c, 0, 0x80000000, 0).eax, 0x80000008);
	assert_int_equal(get(c, 0, 0x80000008, 0).eax, 48 << 8 | 46);
	assert_int_equal(cpuid_phys_bits(c), 46);
	assert_false(cpuid_is_amd(c));
	assert_int_equal(get(c, 0, 0x8000001d, 0).eax, 0);
	cpuid_destroy(c);
	c = make(amd_host, 1);
	assert_true(cpuid_is_amd(c));
	assert_int_equal(get(c, 0, 0, 0).eax, 0x10);
	assert_int_equal(get(c, 0, 0x80000000, 0).eax, 0x80000021);
	cpuid_destroy(c);
}

static void count(void *ctx, const char *name)
{
	unsigned *n = ctx;

	assert_true(name[0]);
	++*n;
}

static void test_this_host(void **state)
{
	struct cpuid *c = make(NULL, 2);
	struct engine_cpuid mine, guests;
	unsigned n = 0;

	(void)state;
	cpuid_host(1, 0, &mine);
	cpuid_get(c, 0, 1, 0, &guests);
	assert_int_equal(guests.eax, mine.eax);
	assert_int_equal(guests.ecx & ~mine.ecx & ~(1u << 31 | 1u << 24 | 1u << 21), 0);
	cpuid_each_feature(c, count, &n);
	assert_in_range(n, 40, 200);
	cpuid_destroy(c);
}

/* Two engines on the same host: one that translates, and one that runs guest code as it stands and lists what it has. */
static void keep(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *r)
{
	(void)leaf, (void)subleaf, (void)r;
}

static int list_leaves(struct engine_cpuid_leaf *leaves, unsigned max)
{
	assert_in_range(max, 4, 1000);
	leaves[0] = (struct engine_cpuid_leaf){ 0, 0, { 0x10, 0x68747541, 0x444d4163, 0x69746e65 } };
	leaves[1] = (struct engine_cpuid_leaf){ 1, 0, { 0, 0, 1u << 17 | 1u << 13, ~0u } };
	leaves[2] = (struct engine_cpuid_leaf){ 0x40000001, 0, { 1u << 5 | 1u << 31, 0, 0, 0 } };
	leaves[3] = (struct engine_cpuid_leaf){ 0x80000008, 0, { 48 << 8 | 40, 1u << 12 | 1u << 13, 0, 0 } };
	return 4;
}

static const struct engine_ops translates = { .name = "translates", .cpuid_filter = keep };
static const struct engine_ops runs_direct = { .name = "direct", .direct = true, .cpuid_leaves = list_leaves };

/* Mitigations are the CPU's own where guest code meets it, and nobody's where it may be elsewhere tomorrow. */
static void test_engines_that_run_guest_code_as_it_stands(void **state)
{
	enum {
		PCID = 1 << 17,
		CX16 = 1 << 13,
		IBPB = 1 << 12,
		IBRS = 1 << 14,
		ARCH_CAPABILITIES = 1 << 29,
		STEAL = 1 << 5,
		CLOCK = 1
	};
	const struct engine_ops *const both[] = { &runs_direct, &translates, NULL };
	struct cpuid *direct = cpuid_create_for(&runs_direct, 1, 2600000, NULL);
	struct cpuid *translated = cpuid_create_for(&translates, 1, 2600000, NULL);
	struct cpuid *common = cpuid_create_common(both, 1, 2600000, NULL);
	uint32_t d[CPUID_WORDS], t[CPUID_WORDS], c[CPUID_WORDS];

	(void)state;
	cpuid_words(direct, d);
	cpuid_words(translated, t);
	cpuid_words(common, c);
	assert_int_equal(d[CPUID_1_ECX] & (PCID | CX16), PCID | CX16);
	assert_int_equal(d[CPUID_80000008_EBX] & (IBPB | IBRS), IBPB);
	assert_int_equal(d[CPUID_7_EDX] & ARCH_CAPABILITIES, 0);
	assert_int_equal(t[CPUID_1_ECX] & PCID, 0);
	assert_int_equal(t[CPUID_80000008_EBX] & IBPB, 0);
	assert_int_equal(t[CPUID_7_EDX] & ARCH_CAPABILITIES, ARCH_CAPABILITIES);
	/* The kernel's paravirtual interfaces only where it has them and we know them; the clock always. */
	assert_int_equal(d[CPUID_KVM_EAX] & (STEAL | CLOCK | 1u << 31), STEAL | CLOCK);
	assert_int_equal(t[CPUID_KVM_EAX] & (STEAL | CLOCK), CLOCK);
	for (unsigned i = 0; i < CPUID_WORDS; i++)
		assert_int_equal(c[i] & ~(d[i] & t[i]), 0);
	assert_int_equal(c[CPUID_80000008_EBX] & (IBPB | IBRS), 0);
	assert_int_equal(c[CPUID_7_EDX] & ARCH_CAPABILITIES, 0);
	assert_int_equal(c[CPUID_KVM_EAX] & (STEAL | CLOCK), CLOCK);
	cpuid_destroy(direct);
	cpuid_destroy(translated);
	cpuid_destroy(common);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_not_carried_is_hidden),
		cmocka_unit_test(test_user_features_pass),
		cmocka_unit_test(test_the_machine_adds_its_own),
		cmocka_unit_test(test_topology),
		cmocka_unit_test(test_xsave_follows_the_features),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_this_host),
		cmocka_unit_test(test_engines_that_run_guest_code_as_it_stands),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
