/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's CPUID as a list of leaves, made in two passes: the feature words from cpuid_features.def, which start
 * from nothing, and the descriptive leaves (names, caches, topology, XSAVE layout, clocks), each by its own function.
 * A leaf that no function adds does not exist for the guest.
 */
#include <assert.h>
#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "chip/lapic.h"
#include "vm/cpu_model.h"
#include "vm/cpuid.h"

enum {
	MAX_LEAVES = 96,
	MAX_CACHES = 8,
	KVM_BASE = 0x40000000,
	PHYS_BITS_MAX = 46, /* as the engines' own limit: 64 TiB */
};

struct leaf {
	uint32_t leaf, subleaf;
	bool any_subleaf; /* the subleaf makes no difference */
	struct engine_cpuid regs;
};

struct cpuid {
	struct cpuid_config config;
	bool amd;
	uint32_t word[CPUID_WORDS];
	uint32_t max_basic, max_extended;
	uint32_t host_max
	    [2]; /* the host's, for basic and extended leaves: asking costs an exit where the host is a guest itself */
	char *kernel_flags; /* while it is made */
	struct leaf leaf[MAX_LEAVES];
	unsigned leaves;
};

/* ---- feature words ---- */

enum policy { HOST, SOUND, NATURE, NATIVE, OURS, AMD, INTEL, SMP, DIRECT, ANYWHERE, KERNEL };

static const struct {
	uint32_t leaf, subleaf;
	unsigned reg; /* 0 eax ... 3 edx */
} words[CPUID_WORDS] = {
	[CPUID_1_ECX] = { 1, 0, 2 },
	[CPUID_1_EDX] = { 1, 0, 3 },
	[CPUID_6_EAX] = { 6, 0, 0 },
	[CPUID_7_EBX] = { 7, 0, 1 },
	[CPUID_7_ECX] = { 7, 0, 2 },
	[CPUID_7_EDX] = { 7, 0, 3 },
	[CPUID_7_1_EAX] = { 7, 1, 0 },
	[CPUID_7_1_EDX] = { 7, 1, 3 },
	[CPUID_7_2_EDX] = { 7, 2, 3 },
	[CPUID_D_1_EAX] = { 0xd, 1, 0 },
	[CPUID_80000001_ECX] = { 0x80000001, 0, 2 },
	[CPUID_80000001_EDX] = { 0x80000001, 0, 3 },
	[CPUID_80000007_EDX] = { 0x80000007, 0, 3 },
	[CPUID_80000008_EBX] = { 0x80000008, 0, 1 },
	[CPUID_80000021_EAX] = { 0x80000021, 0, 0 },
	[CPUID_80000021_ECX] = { 0x80000021, 0, 2 },
	[CPUID_KVM_EAX] = { KVM_BASE + 1, 0, 0 },
};

static const struct {
	uint8_t word, bit, policy, direct; /* the policy where engine_ops.direct is set */
	const char *name;
} features[] = {
#define FEATURE(word, bit, policy, name) { CPUID_##word, bit, policy, policy, #name },
#define MITIGATION(word, bit, policy, name) { CPUID_##word, bit, policy, HOST, #name },
#define PARAVIRT(bit, name, where, msr, gain) { CPUID_KVM_EAX, bit, where, where, #name },
#include "vm/cpuid_features.def"
#include "vm/paravirt.def"
#undef PARAVIRT
#undef MITIGATION
#undef FEATURE
};

enum { FEATURES = sizeof(features) / sizeof(features[0]) };

void cpuid_host(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	__cpuid_count(leaf, subleaf, out->eax, out->ebx, out->ecx, out->edx);
}

/* A leaf of the engine's own list. */
static struct engine_cpuid read_list(const struct cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < cpuid->config.listed; i++) {
		const struct engine_cpuid_leaf *l = &cpuid->config.list[i];
		if (l->leaf == leaf && l->subleaf == subleaf)
			return l->regs;
	}
	return (struct engine_cpuid){ 0 };
}

/* The host's leaf as the engine keeps it; zeros for one that the host does not have. */
static struct engine_cpuid read_host(const struct cpuid *cpuid, uint32_t leaf, uint32_t subleaf)
{
	struct engine_cpuid regs = { 0 };

	if (cpuid->config.list)
		return read_list(cpuid, leaf, subleaf);
	if (leaf > cpuid->host_max[leaf >> 31])
		return regs;
	cpuid->config.host(leaf, subleaf, &regs);
	if (cpuid->config.filter)
		cpuid->config.filter(leaf, subleaf, &regs);
	return regs;
}

static uint32_t reg_of(const struct engine_cpuid *regs, unsigned reg)
{
	const uint32_t all[4] = { regs->eax, regs->ebx, regs->ecx, regs->edx };

	return all[reg];
}

/* The flags of the host's first CPU as its kernel sees them, with a blank on both sides of each; NULL when it does not
 * say. The caller frees it. */
static char *kernel_flags(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t size;

	while (f && (size = getline(&line, &room, f)) > 0)
		if (!strncmp(line, "flags", 5)) {
			line[size - 1] = ' ';
			fclose(f);
			return line;
		}
	if (f)
		fclose(f);
	free(line);
	return NULL;
}

static bool kernel_trusts(const struct cpuid *cpuid, const char *name)
{
	char word[32];

	if (!cpuid->kernel_flags)
		return true;
	snprintf(word, sizeof(word), " %s ", name);
	return strstr(cpuid->kernel_flags, word);
}

static bool feature_shown(const struct cpuid *cpuid, unsigned i, uint32_t host_word)
{
	if (cpuid->config.common && features[i].policy != features[i].direct)
		return false;
	switch ((enum policy)(cpuid->config.direct ? features[i].direct : features[i].policy)) {
	case DIRECT:
	case NATIVE:
		return cpuid->config.direct && (host_word >> features[i].bit & 1);
	case KERNEL: /* who has no such leaf has no such feature */
	case HOST:
	case NATURE:
		return host_word >> features[i].bit & 1;
	case SOUND:
		return (host_word >> features[i].bit & 1) && kernel_trusts(cpuid, features[i].name);
	case OURS:
	case ANYWHERE:
		return true;
	case AMD:
		return cpuid->amd;
	case INTEL:
		return !cpuid->amd;
	case SMP:
		return cpuid->config.vcpus > 1 && (cpuid->amd || features[i].word == CPUID_1_EDX);
	}
	return false;
}

static void make_words(struct cpuid *cpuid)
{
	for (unsigned w = 0; w < CPUID_WORDS; w++) {
		struct engine_cpuid regs = { 0 };
		if (w != CPUID_KVM_EAX || cpuid->config.list) /* not another hypervisor's below us */
			regs = read_host(cpuid, words[w].leaf, words[w].subleaf);
		uint32_t host = reg_of(&regs, words[w].reg);
		for (unsigned i = 0; i < FEATURES; i++)
			if (features[i].word == w && feature_shown(cpuid, i, host))
				cpuid->word[w] |= 1u << features[i].bit;
		if (cpuid->config.common)
			cpuid->word[w] &= cpuid->config.common->word[w];
		if (cpuid->config.model)
			cpuid->word[w] &= cpuid->config.model->may[w];
	}
	if (cpuid->amd) /* AMD repeats these bits of leaf 1 there */
		cpuid->word[CPUID_80000001_EDX] |= cpuid->word[CPUID_1_EDX] & 0x0183f3ff;
}

/* ---- descriptive leaves ---- */

static void add(struct cpuid *cpuid, uint32_t leaf, uint32_t subleaf, struct engine_cpuid regs)
{
	if (leaf < KVM_BASE && leaf > cpuid->max_basic)
		return;
	if (leaf >= 0x80000000 && leaf > cpuid->max_extended)
		return;
	assert(cpuid->leaves < MAX_LEAVES);
	cpuid->leaf[cpuid->leaves++] = (struct leaf){ .leaf = leaf, .subleaf = subleaf, .regs = regs };
}

static void add_any(struct cpuid *cpuid, uint32_t leaf, struct engine_cpuid regs)
{
	unsigned before = cpuid->leaves;

	add(cpuid, leaf, 0, regs);
	if (cpuid->leaves > before)
		cpuid->leaf[before].any_subleaf = true;
}

static unsigned log2_up(unsigned n)
{
	unsigned bits = 0;

	while (1u << bits < n)
		bits++;
	return bits;
}

static unsigned at_most(unsigned value, unsigned max)
{
	return value < max ? value : max;
}

static void make_identity(struct cpuid *cpuid)
{
	unsigned n = cpuid->config.vcpus;
	struct engine_cpuid r = read_host(cpuid, 0, 0);

	r.eax = cpuid->max_basic;
	add_any(cpuid, 0, r);

	r = read_host(cpuid, 1, 0);
	r.ebx = (r.ebx & 0xff00) | at_most(1u << log2_up(n), 255) << 16;
	r.ecx = cpuid->word[CPUID_1_ECX];
	r.edx = cpuid->word[CPUID_1_EDX];
	add_any(cpuid, 1, r);

	add_any(cpuid, 6, (struct engine_cpuid){ .eax = cpuid->word[CPUID_6_EAX] });
	add(cpuid, 7, 0,
	    (struct engine_cpuid){ .eax = cpuid->amd ? 1 : 2,
				   .ebx = cpuid->word[CPUID_7_EBX],
				   .ecx = cpuid->word[CPUID_7_ECX],
				   .edx = cpuid->word[CPUID_7_EDX] });
	add(cpuid, 7, 2, (struct engine_cpuid){ .edx = cpuid->word[CPUID_7_2_EDX] });
	add(cpuid, 7, 1, (struct engine_cpuid){ .eax = cpuid->word[CPUID_7_1_EAX], .edx = cpuid->word[CPUID_7_1_EDX] });

	r = read_host(cpuid, 0x80000000, 0);
	r.eax = cpuid->max_extended;
	add_any(cpuid, 0x80000000, r);
	r = read_host(cpuid, 0x80000001, 0);
	r.ecx = cpuid->word[CPUID_80000001_ECX];
	r.edx = cpuid->word[CPUID_80000001_EDX];
	add_any(cpuid, 0x80000001, r);
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++)
		add_any(cpuid, leaf, read_host(cpuid, leaf, 0));
}

/* Leaves 4 and 0x8000001d have one format: the first two levels are a core's own, what is above is the socket's. */
static void make_caches(struct cpuid *cpuid, uint32_t leaf)
{
	uint32_t all = (1u << log2_up(cpuid->config.vcpus)) - 1;

	for (unsigned i = 0; i < MAX_CACHES; i++) {
		struct engine_cpuid r = read_host(cpuid, leaf, i);
		if (!(r.eax & 0x1f))
			break;
		unsigned level = r.eax >> 5 & 7;
		r.eax &= 0x3fff;
		if (level >= 3)
			r.eax |= all << 14;
		if (leaf == 4)
			r.eax |= at_most(all, 63) << 26;
		add(cpuid, leaf, i, r);
	}
}

static void make_topology(struct cpuid *cpuid)
{
	unsigned n = cpuid->config.vcpus;
	static const uint32_t extended[] = { 0xb, 0x1f };

	for (unsigned i = 0; i < 2; i++) {
		uint32_t leaf = extended[i];
		add(cpuid, leaf, 0, (struct engine_cpuid){ .eax = 0, .ebx = 1, .ecx = 1u << 8 });
		add(cpuid, leaf, 1, (struct engine_cpuid){ .eax = log2_up(n), .ebx = n, .ecx = 2u << 8 | 1 });
	}
	if (cpuid->amd)
		add_any(cpuid, 0x8000001e, (struct engine_cpuid){ 0 });
}

/* SDM Vol. 1, 13.2. The sizes are those of all that can be enabled; the engine knows what is. */
static void make_xsave(struct cpuid *cpuid)
{
	enum { LEGACY = 3, AVX_STATE = 1 << 2, AVX512_STATE = 7 << 5, ALIGN64 = 2, XSAVEC = 1 << 1, XSAVES = 1 << 3 };
	struct engine_cpuid r = read_host(cpuid, 0xd, 0);
	uint32_t mask = LEGACY, standard = 576, compact = 576;

	if (!(cpuid->word[CPUID_1_ECX] >> 26 & 1))
		return;
	if (cpuid->word[CPUID_1_ECX] >> 28 & 1)
		mask |= AVX_STATE;
	if (cpuid->word[CPUID_7_EBX] >> 16 & 1)
		mask |= AVX512_STATE;
	mask &= r.eax;

	for (unsigned i = 2; i < 32; i++) {
		if (!(mask >> i & 1))
			continue;
		struct engine_cpuid c = read_host(cpuid, 0xd, i);
		if (c.ebx + c.eax > standard)
			standard = c.ebx + c.eax;
		if (c.ecx & ALIGN64)
			compact = (compact + 63) & ~63u;
		compact += c.eax;
		c.ecx &= ALIGN64;
		c.edx = 0;
		add(cpuid, 0xd, i, c);
	}
	add(cpuid, 0xd, 0, (struct engine_cpuid){ .eax = mask, .ebx = standard, .ecx = standard });
	/* The compacted size is of use to XSAVEC and XSAVES only, and engines keep it up for those. */
	uint32_t features = cpuid->word[CPUID_D_1_EAX];
	bool compacts = features & (XSAVEC | XSAVES);
	add(cpuid, 0xd, 1, (struct engine_cpuid){ .eax = features, .ebx = compacts ? compact : 0 });
}

static void make_extended(struct cpuid *cpuid)
{
	unsigned n = cpuid->config.vcpus;

	if (cpuid->amd) {
		static const uint32_t descriptive[] = { 0x80000005, 0x80000019, 0x8000001a };
		for (unsigned i = 0; i < 3; i++)
			add_any(cpuid, descriptive[i], read_host(cpuid, descriptive[i], 0));
		make_caches(cpuid, 0x8000001d);
		add_any(cpuid, 0x80000021,
			(struct engine_cpuid){ .eax = cpuid->word[CPUID_80000021_EAX],
					       .ecx = cpuid->word[CPUID_80000021_ECX] });
	} else {
		add_any(cpuid, 2, read_host(cpuid, 2, 0));
		make_caches(cpuid, 4);
	}
	add_any(cpuid, 0x80000006, read_host(cpuid, 0x80000006, 0));
	add_any(cpuid, 0x80000007, (struct engine_cpuid){ .edx = cpuid->word[CPUID_80000007_EDX] });

	struct engine_cpuid r = read_host(cpuid, 0x80000008, 0);
	r.eax = at_most(r.eax & 0xff, PHYS_BITS_MAX) | at_most(r.eax >> 8 & 0xff, 48) << 8;
	r.ebx = cpuid->word[CPUID_80000008_EBX];
	r.ecx = cpuid->amd ? (n - 1) | log2_up(n) << 12 : 0;
	r.edx = 0;
	add_any(cpuid, 0x80000008, r);
}

/* Leaves 0x15 and 0x16 (Intel) and the hypervisor's: how fast clocks run. */
static void make_clocks(struct cpuid *cpuid)
{
	uint32_t khz = cpuid->config.tsc_khz;
	struct engine_cpuid signature = { .eax = KVM_BASE + 0x10 };

	if (!cpuid->amd) {
		/* TSC = crystal * ebx / eax, and the crystal is the APIC timer's clock. */
		add_any(cpuid, 0x15,
			(struct engine_cpuid){ .eax = LAPIC_TIMER_HZ / 1000, .ebx = khz, .ecx = LAPIC_TIMER_HZ });
		add_any(cpuid, 0x16, (struct engine_cpuid){ .eax = khz / 1000, .ebx = khz / 1000, .ecx = 100 });
	}
	memcpy(&signature.ebx, "KVMK", 4);
	memcpy(&signature.ecx, "VMKV", 4);
	memcpy(&signature.edx, "M\0\0\0", 4);
	add_any(cpuid, KVM_BASE, signature);
	add_any(cpuid, KVM_BASE + 1, (struct engine_cpuid){ .eax = cpuid->word[CPUID_KVM_EAX] });
	add_any(cpuid, KVM_BASE + 0x10, (struct engine_cpuid){ .eax = khz, .ebx = LAPIC_TIMER_HZ / 1000 });
}

struct cpuid *cpuid_create(const struct cpuid_config *config)
{
	struct cpuid *cpuid = memory_zalloc(sizeof(*cpuid));
	struct engine_cpuid vendor;

	cpuid->config = *config;
	if (!cpuid->config.host) {
		cpuid->config.host = cpuid_host;
		cpuid->kernel_flags = kernel_flags();
	}
	cpuid->config.host(0x80000000, 0, &vendor);
	cpuid->host_max[1] = vendor.eax;
	cpuid->config.host(0, 0, &vendor);
	cpuid->host_max[0] = vendor.eax;
	char name[13] = "";
	memcpy(name, &vendor.ebx, 4);
	memcpy(name + 4, &vendor.edx, 4);
	memcpy(name + 8, &vendor.ecx, 4);
	cpuid->amd = !strcmp(name, "AuthenticAMD") || !strcmp(name, "HygonGenuine");
	if (vendor.eax < 0xd)
		vendor.eax = 0xd;
	cpuid->max_basic = at_most(vendor.eax, cpuid->amd ? 0x10 : 0x1f);
	cpuid->max_extended = cpuid->amd ? 0x80000021 : 0x80000008;

	make_words(cpuid);
	make_identity(cpuid);
	make_topology(cpuid);
	make_xsave(cpuid);
	make_extended(cpuid);
	make_clocks(cpuid);
	free(cpuid->kernel_flags);
	cpuid->kernel_flags = NULL;
	return cpuid;
}

static struct cpuid *create_for(const struct engine_ops *ops, unsigned vcpus, uint64_t tsc_khz,
				const struct cpuid *common, const struct cpu_model *model)
{
	enum { LISTED_MAX = 256 };
	struct cpuid_config config = {
		.vcpus = vcpus,
		.tsc_khz = tsc_khz,
		.filter = ops->cpuid_filter,
		.direct = ops->direct,
		.common = common,
		.model = model,
	};
	struct engine_cpuid_leaf *list = NULL;

	if (ops->cpuid_leaves) {
		list = memory_zalloc(LISTED_MAX * sizeof(*list));
		int listed = ops->cpuid_leaves(list, LISTED_MAX);
		config.list = list;
		config.listed = listed > 0 ? (unsigned)listed : 0;
	}
	struct cpuid *cpuid = cpuid_create(&config);
	cpuid->config.list = NULL;
	cpuid->config.common = NULL;
	cpuid->config.model = NULL;
	free(list);
	return cpuid;
}

struct cpuid *cpuid_create_for(const struct engine_ops *ops, unsigned vcpus, uint64_t tsc_khz,
			       const struct cpu_model *model)
{
	return create_for(ops, vcpus, tsc_khz, NULL, model);
}

struct cpuid *cpuid_create_common(const struct engine_ops *const *ops, unsigned vcpus, uint64_t tsc_khz,
				  const struct cpu_model *model)
{
	const struct engine_ops *base = ops[0];
	struct cpuid *common = NULL;

	assert(base);
	for (unsigned n = 0; ops[n]; n++) {
		/* What only describes is the host's, where one of them filters that: it must not depend on the first. */
		if (ops[n]->cpuid_filter)
			base = ops[n];
		struct cpuid *next = create_for(ops[n], vcpus, tsc_khz, common, model);
		cpuid_destroy(common);
		common = next;
	}
	struct cpuid *cpuid = create_for(base, vcpus, tsc_khz, common, model);
	cpuid_destroy(common);
	return cpuid;
}

void cpuid_words(const struct cpuid *cpuid, uint32_t words[CPUID_WORDS])
{
	memcpy(words, cpuid->word, sizeof(cpuid->word));
}

void cpuid_destroy(struct cpuid *cpuid)
{
	free(cpuid);
}

/* What differs between vCPUs: the APIC id, which is the core's number. */
static void patch_vcpu(struct engine_cpuid *r, unsigned vcpu, uint32_t leaf)
{
	switch (leaf) {
	case 1:
		r->ebx |= vcpu << 24;
		break;
	case 0xb:
	case 0x1f:
		r->edx = vcpu;
		break;
	case 0x8000001e:
		r->eax = vcpu;
		r->ebx = vcpu & 0xff; /* core id; one thread a core, one node */
		break;
	}
}

void cpuid_get(const struct cpuid *cpuid, unsigned vcpu, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	*out = (struct engine_cpuid){ 0 };
	for (unsigned i = 0; i < cpuid->leaves; i++) {
		const struct leaf *l = &cpuid->leaf[i];
		if (l->leaf == leaf && (l->any_subleaf || l->subleaf == subleaf)) {
			*out = l->regs;
			patch_vcpu(out, vcpu, leaf);
			return;
		}
	}
	if (leaf == 0xb || (leaf == 0x1f && leaf <= cpuid->max_basic)) {
		out->ecx = subleaf & 0xff; /* past the last level */
		out->edx = vcpu;
	}
}

bool cpuid_is_amd(const struct cpuid *cpuid)
{
	return cpuid->amd;
}

unsigned cpuid_phys_bits(const struct cpuid *cpuid)
{
	struct engine_cpuid r;

	cpuid_get(cpuid, 0, 0x80000008, 0, &r);
	return r.eax & 0xff;
}

void cpuid_each_feature(const struct cpuid *cpuid, void (*fn)(void *ctx, const char *name), void *ctx)
{
	for (unsigned i = 0; i < FEATURES; i++)
		if (cpuid->word[features[i].word] >> features[i].bit & 1)
			fn(ctx, features[i].name);
}

const char *cpuid_feature(unsigned n)
{
	return n < FEATURES ? features[n].name : NULL;
}

bool cpuid_find_feature(const char *name, struct cpuid_bit *bit)
{
	for (unsigned i = 0; i < FEATURES; i++)
		if (!strcmp(features[i].name, name)) {
			*bit = (struct cpuid_bit){ features[i].word, features[i].bit };
			return true;
		}
	return false;
}

void cpuid_without_extensions(uint32_t words[CPUID_WORDS])
{
	for (unsigned i = 0; i < FEATURES; i++)
		if (features[i].policy == features[i].direct &&
		    (features[i].policy == HOST || features[i].policy == SOUND || features[i].policy == NATIVE))
			words[features[i].word] &= ~(1u << features[i].bit);
}
