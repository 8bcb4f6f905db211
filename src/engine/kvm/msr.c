/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msr.c - who serves which MSR. KVM has those that the engine's contract makes the engine's, the local APIC's, and those
 * that are the CPU's own protection; the rest comes to the machine, as on every engine, so that a guest finds the same.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/private.h"

enum { ASYNC_PF_ACK = 0x4b564d07 };

/* Runs of indices. */
static const struct {
	uint32_t first, count;
} engines_own[] = {
	{ 0x10, 1 },       /* TSC */
	{ 0x1b, 1 },       /* APIC_BASE */
	{ 0x3b, 1 },       /* TSC_ADJUST */
	{ 0x174, 3 },      /* SYSENTER_CS, _ESP, _EIP */
	{ 0x277, 1 },      /* PAT */
	{ 0x6e0, 1 },      /* TSC_DEADLINE */
	{ 0xc0000080, 5 }, /* EFER, STAR, LSTAR, CSTAR, SFMASK */
	{ 0xc0000100, 4 }, /* FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX */
};

/* What a guest protects itself with, and the paravirtual one that has no state and is written often; each with the CPUID bit
 * that it comes with: leaf, register, bits. */
static const struct {
	uint32_t index, leaf;
	unsigned reg; /* 0 eax, 1 ebx, 3 edx */
	uint32_t bits;
} by_cpuid[] = {
	{ 0x48, 7, 3, 1u << 26 | 1u << 27 | 1u << 31 },          /* SPEC_CTRL */
	{ 0x48, 0x80000008, 1, 1u << 14 | 1u << 15 | 1u << 24 }, /* the same on AMD */
	{ 0x49, 7, 3, 1u << 26 },                                /* PRED_CMD */
	{ 0x49, 0x80000008, 1, 1u << 12 },                       /* the same on AMD */
	{ 0x10a, 7, 3, 1u << 29 },                               /* ARCH_CAPABILITIES */
	{ 0x10b, 7, 3, 1u << 28 },                               /* FLUSH_CMD */
	{ 0xc001011f, 0x80000008, 1, 1u << 25 },                 /* VIRT_SPEC_CTRL */
	{ ASYNC_PF_ACK, 0x40000001, 0, 1u << 14 },
};

enum {
	OWN = sizeof(engines_own) / sizeof(engines_own[0]),
	BY_CPUID = sizeof(by_cpuid) / sizeof(by_cpuid[0]),
};
_Static_assert(OWN + BY_CPUID <= KVM_MSR_FILTER_MAX_RANGES, "a range of the filter for each");

static bool has(const struct engine_vcpu *vcpu, unsigned i)
{
	struct engine_cpuid r;

	vcpu->cb->cpuid(vcpu->ctx, by_cpuid[i].leaf, 0, &r);
	return (by_cpuid[i].reg == 0 ? r.eax : by_cpuid[i].reg == 1 ? r.ebx : r.edx) & by_cpuid[i].bits;
}

static void allow(struct kvm_msr_filter *filter, unsigned *n, uint32_t first, uint32_t count, uint8_t *bitmap)
{
	filter->ranges[(*n)++] = (struct kvm_msr_filter_range){
		.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
		.base = first,
		.nmsrs = count,
		.bitmap = bitmap,
	};
}

int kvm_msr_filter(struct engine_vcpu *vcpu, struct error *err)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_FILTER },
	};
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
	uint8_t all[8];
	unsigned n = 0;

	memset(all, 0xff, sizeof(all));
	for (unsigned i = 0; i < OWN; i++)
		allow(&filter, &n, engines_own[i].first, engines_own[i].count, all);
	for (unsigned i = 0; i < BY_CPUID; i++) {
		bool again = i && by_cpuid[i].index == by_cpuid[i - 1].index && has(vcpu, i - 1);
		if (!again && has(vcpu, i))
			allow(&filter, &n, by_cpuid[i].index, 1, all);
	}
	if (ioctl(vcpu->vm->fd, KVM_ENABLE_CAP, &cap) || ioctl(vcpu->vm->fd, KVM_X86_SET_MSR_FILTER, &filter))
		return error_errno(err, -errno, "KVM refuses the filter of MSRs");
	return 0;
}

/* KVM_GET_MSRS or KVM_SET_MSRS of one. */
static bool msr_io(const struct engine_vcpu *vcpu, unsigned long request, struct kvm_msr_entry *entry)
{
	uint64_t room[(sizeof(struct kvm_msrs) + sizeof(*entry)) / sizeof(uint64_t)];
	struct kvm_msrs *msrs = (struct kvm_msrs *)room;

	*msrs = (struct kvm_msrs){ .nmsrs = 1 };
	msrs->entries[0] = *entry;
	bool done = ioctl(vcpu->fd, request, msrs) == 1;
	*entry = msrs->entries[0];
	return done;
}

bool kvm_msr_set(struct engine_vcpu *vcpu, uint32_t index, uint64_t value)
{
	struct kvm_msr_entry entry = { .index = index, .data = value };

	return msr_io(vcpu, KVM_SET_MSRS, &entry);
}

bool kvm_msr_get(struct engine_vcpu *vcpu, uint32_t index, uint64_t *value)
{
	struct kvm_msr_entry entry = { .index = index };

	if (!msr_io(vcpu, KVM_GET_MSRS, &entry))
		return false;
	*value = entry.data;
	return true;
}

bool kvm_vcpu_paravirt(struct engine_vcpu *vcpu, uint32_t index, uint64_t value)
{
	return kvm_msr_set(vcpu, index, value);
}
