/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpuid.h - what CPU the guest sees: the one place that decides it, for every engine.
 *
 * Made once a machine from the host's CPUID, what the engine keeps of it and the machine's shape (N single-threaded
 * cores in one socket, APIC id = vCPU index). Read-only afterwards, so any thread may ask. Left to others: OSXSAVE and
 * the XSAVE sizes for the current XCR0 (the engine), the APIC bit after the guest disabled its APIC (vcpu.c).
 *
 * SDM Vol. 2, CPUID; AMD APM Vol. 3, appendix E; docs/design/cpuid.md for why each decision.
 */
#ifndef PLURES_VM_CPUID_H
#define PLURES_VM_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

/* The registers that hold feature bits. */
enum cpuid_word {
	CPUID_1_ECX,
	CPUID_1_EDX,
	CPUID_6_EAX,
	CPUID_7_EBX,
	CPUID_7_ECX,
	CPUID_7_EDX,
	CPUID_7_1_EAX,
	CPUID_7_1_EDX,
	CPUID_7_2_EDX,
	CPUID_D_1_EAX,
	CPUID_80000001_ECX,
	CPUID_80000001_EDX,
	CPUID_80000007_EDX,
	CPUID_80000008_EBX,
	CPUID_80000021_EAX,
	CPUID_80000021_ECX,
	CPUID_KVM_EAX,
	CPUID_WORDS,
};

typedef void cpuid_read_fn(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out);

struct cpuid;
struct cpu_model;

struct cpuid_config {
	unsigned vcpus;
	uint64_t tsc_khz;
	cpuid_read_fn *host;   /* NULL: this CPU */
	cpuid_read_fn *filter; /* the engine's cpuid_filter, or NULL */
	/* What the engine can carry, in place of the host's and a filter; or NULL. */
	const struct engine_cpuid_leaf *list;
	unsigned listed;
	bool direct; /* engine_ops.direct */
	/* Only features that this one has too, and no mitigations; or NULL. */
	const struct cpuid *common;
	const struct cpu_model *model; /* only what it allows, or NULL: all */
};

struct cpuid *cpuid_create(const struct cpuid_config *config); /* never NULL */
/* The same for a guest that may move between several engines (a list that NULL ends): what they all carry, and no word of
 * mitigations, which differ. */
struct cpuid *cpuid_create_common(const struct engine_ops *const *ops, unsigned vcpus, uint64_t tsc_khz,
				  const struct cpu_model *model);
/* The same with what an engine says of itself. */
struct cpuid *cpuid_create_for(const struct engine_ops *ops, unsigned vcpus, uint64_t tsc_khz,
			       const struct cpu_model *model);
void cpuid_destroy(struct cpuid *cpuid);

/* What CPUID gives on a vCPU. Leaves that do not exist read as zeros. */
void cpuid_get(const struct cpuid *cpuid, unsigned vcpu, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out);

/* AMD's and Hygon's CPUs; all others are treated as Intel's. */
bool cpuid_is_amd(const struct cpuid *cpuid);
/* How many bits a physical address has. */
unsigned cpuid_phys_bits(const struct cpuid *cpuid);

/* The words of feature bits that the guest sees. */
void cpuid_words(const struct cpuid *cpuid, uint32_t words[CPUID_WORDS]);

/* Calls fn with the name of each feature that the guest sees, in the table's order. */
void cpuid_each_feature(const struct cpuid *cpuid, void (*fn)(void *ctx, const char *name), void *ctx);

/* ---- the table of features, for cpu_model.c ---- */

struct cpuid_bit {
	uint8_t word, bit;
};

/* The name of the n-th feature, or NULL after the last. */
const char *cpuid_feature(unsigned n);
/* Where a feature's bit is; false when there is none of that name. */
bool cpuid_find_feature(const char *name, struct cpuid_bit *bit);
/* Clears the bits of what a CPU can do. Others stay: what the machine adds, what tells how the CPU behaves, mitigations. */
void cpuid_without_extensions(uint32_t words[CPUID_WORDS]);

/* The host's own, as the CPUID instruction gives it. */
void cpuid_host(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out);

#endif
