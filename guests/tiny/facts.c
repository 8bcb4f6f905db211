/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest can find out about its processor without running anything for long, in lines that must be the same on every
 * engine (tests/test_kvm.py compares): CPUID, each MSR that can be read, control registers, the local APIC as it is found. */
#include "apic.h"

static void read_msr(void *arg)
{
	uint64_t *value = arg;
	*value = rdmsr((uint32_t)*value);
}

/* Time, and what depends on it, differs from run to run. */
static bool runs(uint32_t index)
{
	return index == 0x10 || index == 0x3b || index == 0x6e0 || index == 0x838 || index == 0x839;
}

static void msrs(uint32_t first, uint32_t count)
{
	struct trap t;

	for (uint32_t i = first; i < first + count; i++) {
		uint64_t value = i;
		int vector = try(read_msr, &value, &t);
		if (vector < 0)
			print("msr %x %lx\n", i, runs(i) ? 0 : value);
		else if (vector != 13 || t.error)
			print("msr %x: trap %d\n", i, vector);
	}
}

static void leaves(uint32_t base)
{
	uint32_t max = cpuid(base, 0).eax;

	for (uint32_t leaf = base; leaf <= max && leaf < base + 64; leaf++) {
		unsigned subleaves = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x8000001d ? 4 : 1;
		for (unsigned i = 0; i < subleaves; i++) {
			struct cpuid r = cpuid(leaf, i);
			/* The TSC's frequency is measured: not twice the same. */
			print("cpuid %x %u: %08x %08x %08x %08x\n", leaf, i, leaf == 0x40000010 ? 0 : r.eax, r.ebx,
			      r.ecx, r.edx);
		}
	}
}

/* SDM Vol. 3, table 11-1: what may be read, and does not run. */
static bool is_register(unsigned reg)
{
	return reg <= 0x30 || (reg >= 0x80 && reg <= 0xa0) || (reg >= 0xd0 && reg <= 0x280) ||
	       (reg >= 0x300 && reg <= 0x380) || reg == LAPIC_DIVIDE;
}

static void call(void *arg)
{
	uint64_t result;
	__asm__ volatile("vmcall" : "=a"(result) : "a"(0x7fffffff), "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
	*(uint64_t *)arg = result;
}

static void call_amd(void *arg)
{
	uint64_t result;
	__asm__ volatile("vmmcall" : "=a"(result) : "a"(0x7fffffff), "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
	*(uint64_t *)arg = result;
}

int main(void)
{
	struct trap t;
	uint64_t result = 0;

	leaves(0);
	leaves(0x40000000);
	leaves(0x80000000);
	print("cr0 %lx cr4 %lx cr8 %lx efer %lx\n", READ_CR(0), READ_CR(4), READ_CR(8), rdmsr(0xc0000080));
	uint64_t dr6, dr7;
	__asm__("mov %%dr6, %0; mov %%dr7, %1" : "=r"(dr6), "=r"(dr7));
	print("dr6 %lx dr7 %lx\n", dr6, dr7);
	for (unsigned reg = LAPIC_ID; reg <= LAPIC_DIVIDE; reg += 0x10)
		if (is_register(reg))
			print("lapic %x %x\n", reg, lapic_read(reg));
	msrs(0, 0x900);
	msrs(0x4b564d00, 16);
	msrs(0xc0000080, 0x100);
	msrs(0xc0010000, 0x140);
	msrs(0xc0011000, 0x40);
	if (guest_on_tcg()) /* or on a KVM that emulates, which knows nothing of what follows */
		return 0;
	int vector = try(call, &result, &t);
	print("vmcall: trap %d, %lx\n", vector, result);
	vector = try(call_amd, &result, &t);
	print("vmmcall: trap %d, %lx\n", vector, result);
	uint32_t mxcsr;
	uint16_t control;
	__asm__("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(control));
	print("mxcsr %x fcw %x\n", mxcsr, control);
	return 0;
}
