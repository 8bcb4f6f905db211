/* SPDX-License-Identifier: Apache-2.0 */
/* cpuid.c - what KVM can give, and what a guest gets: KVM itself keeps OSXSAVE, the APIC bit and the XSAVE sizes right. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/memory.h"
#include "engine/kvm/private.h"

/* The CPU's name and its first caches say nothing of what KVM can do, and it leaves them to us. */
static void describe(struct engine_cpuid_leaf *l)
{
	if (l->leaf >= 0x80000002 && l->leaf <= 0x80000005)
		__cpuid_count(l->leaf, l->subleaf, l->regs.eax, l->regs.ebx, l->regs.ecx, l->regs.edx);
}

static struct kvm_cpuid2 *new_list(void)
{
	struct kvm_cpuid2 *list = memory_zalloc(sizeof(*list) + KVM_LEAVES_MAX * sizeof(list->entries[0]));

	list->nent = KVM_LEAVES_MAX;
	return list;
}

int kvm_cpuid_leaves(struct engine_cpuid_leaf *leaves, unsigned max)
{
	char text[256];
	int kvm = kvm_open(text, sizeof(text));

	if (kvm < 0)
		return kvm;
	struct kvm_cpuid2 *list = new_list();
	int rc = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list) ? -errno : 0;
	for (unsigned i = 0; !rc && i < list->nent && i < max; i++) {
		const struct kvm_cpuid_entry2 *e = &list->entries[i];
		leaves[i] = (struct engine_cpuid_leaf){ e->function, e->index, { e->eax, e->ebx, e->ecx, e->edx } };
		describe(&leaves[i]);
	}
	if (!rc)
		rc = (int)(list->nent < max ? list->nent : max);
	free(list);
	close(kvm);
	return rc;
}

/* Leaves whose subleaves differ, and how many there can be. */
static unsigned subleaves_of(uint32_t leaf)
{
	switch (leaf) {
	case 4:
	case 0x8000001d:
		return 8;
	case 7:
	case 0xb:
	case 0x1f:
		return 3;
	case 0xd:
		return 32;
	default:
		return 0;
	}
}

static bool is_empty(const struct engine_cpuid *r)
{
	return !(r->eax | r->ebx | r->ecx | r->edx);
}

static void add_leaf(struct kvm_cpuid2 *list, const struct engine_vcpu *vcpu, uint32_t leaf)
{
	unsigned subleaves = subleaves_of(leaf);
	struct engine_cpuid r;

	for (unsigned i = 0; i < (subleaves ? subleaves : 1) && list->nent < KVM_LEAVES_MAX; i++) {
		vcpu->cb->cpuid(vcpu->ctx, leaf, i, &r);
		if (i && is_empty(&r))
			continue;
		list->entries[list->nent++] = (struct kvm_cpuid_entry2){
			.function = leaf,
			.index = i,
			.flags = subleaves ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = r.eax,
			.ebx = r.ebx,
			.ecx = r.ecx,
			.edx = r.edx,
		};
	}
}

int kvm_cpuid_set(struct engine_vcpu *vcpu, struct error *err)
{
	static const uint32_t bases[] = { 0, 0x40000000, 0x80000000 };
	struct kvm_cpuid2 *list = new_list();
	struct engine_cpuid r;

	list->nent = 0;
	for (unsigned i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
		vcpu->cb->cpuid(vcpu->ctx, bases[i], 0, &r);
		for (uint32_t leaf = bases[i]; leaf <= r.eax && leaf - bases[i] < 64; leaf++)
			add_leaf(list, vcpu, leaf);
	}
	int rc = ioctl(vcpu->fd, KVM_SET_CPUID2, list) ? -errno : 0;
	free(list);
	if (rc)
		return error_errno(err, rc, "KVM refuses this machine's CPUID");
	return 0;
}
