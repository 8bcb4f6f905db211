/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tlb.c - emptying the TLBs, and the instruction TLB.
 *
 * A flush costs by what is in use, not by the size of the arrays: bitmaps name the entries that were filled since they
 * were last emptied (tlb_used, itlb_used; one for global and one for other pages, so that a change of address space
 * does not look at the kernel's). A bit may be stale, so each entry's own flags decide.
 *
 * Large pages are entered as the 4 KiB that were touched. INVLPG within one must drop them all, so the entries say that
 * they are of a large page; filters, by hash of the area and one for each half of the address space, keep the INVLPGs of
 * ordinary pages from looking for them.
 */
#include "engine/soft/tlb.h"

#include "engine/soft/direct.h"
#include "engine/soft/profile.h"
#include "engine/soft/slots.h"

#define ITLB_EMPTY (~0ull)

void soft_tlb_clear(struct soft_tlb_entry *entry, unsigned index)
{
	__atomic_store_n(&entry->tag_read, soft_tlb_no_tag(index), __ATOMIC_RELAXED);
	__atomic_store_n(&entry->tag_write, soft_tlb_no_tag(index), __ATOMIC_RELAXED);
}

/* Empties the jump cache, or what is in it of pages that are not global. */
static void jc_clear(struct soft_cpu *cpu, bool local_only)
{
	unsigned n = cpu->jc_listed[local_only];

	for (unsigned i = 0; i < n && n <= SOFT_JC_LISTED; i++)
		__atomic_store_n(&cpu->jc[cpu->jc_list[local_only][i]].mode, SOFT_JC_EMPTY, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < SOFT_JC_SIZE && n > SOFT_JC_LISTED; i++)
		__atomic_store_n(&cpu->jc[i].mode, SOFT_JC_EMPTY, __ATOMIC_RELAXED);
	cpu->jc_listed[1] = 0;
	if (local_only && n <= SOFT_JC_LISTED)
		return;
	cpu->jc_listed[0] = 0;
	for (unsigned i = 0; i < 64; i++)
		cpu->jc_pages[i] = 0;
}

static void forget_large(struct soft_cpu *cpu)
{
	for (unsigned kernel = 0; kernel < 2; kernel++) {
		for (unsigned i = 0; i < 64; i++)
			cpu->large_areas[kernel][i] = 0;
		cpu->huge_areas[kernel] = 0;
	}
}

static unsigned large_bit(uint64_t linear)
{
	return (linear >> 21 ^ linear >> 33) & 4095;
}

static unsigned huge_bit(uint64_t linear)
{
	return (linear >> 30 ^ linear >> 36) & 63;
}

/* May there be entries made from a large or huge page around linear? */
static bool maybe_large(const struct soft_cpu *cpu, uint64_t linear)
{
	unsigned bit = large_bit(linear), kernel = linear >> 63;

	return (cpu->large_areas[kernel][bit / 64] >> bit % 64 | cpu->huge_areas[kernel] >> huge_bit(linear)) & 1;
}

void soft_tlb_note_large(struct soft_cpu *cpu, uint64_t linear, unsigned flags)
{
	unsigned bit = large_bit(linear), kernel = linear >> 63;

	if (flags & SOFT_TLB_HUGE) {
		cpu->huge_areas[kernel] |= 1ull << huge_bit(linear);
		return;
	}
	cpu->large_areas[kernel][bit / 64] |= 1ull << bit % 64;
	if (cpu->cr4 & CR4_PAE)
		return;
	bit = large_bit(linear ^ 1 << 21); /* the other half of 4 MiB */
	cpu->large_areas[kernel][bit / 64] |= 1ull << bit % 64;
}

void soft_tlb_init(struct soft_cpu *cpu)
{
	/* The jump cache, and the TLBs but for the first entry of each, are empty when they are zero: their pages stay untouched, which is
	 * most of a CPU's, until the guest fills them. */
	_Static_assert(!SOFT_JC_EMPTY, "zeroed memory is an empty jump cache");
	for (unsigned mmu = 0; mmu < SOFT_MMU_COUNT; mmu++)
		soft_tlb_clear(&cpu->tlb[mmu][0], 0);
	for (unsigned user = 0; user < 2; user++)
		for (unsigned i = 0; i < SOFT_ITLB_SIZE; i++)
			cpu->itlb_of[user][i] = ITLB_EMPTY;
	soft_slots_init(cpu);
}

/* Empties the entries of one class that a bitmap names and that are global or not, as asked. */
static void flush_data(struct soft_cpu *cpu, unsigned mmu, unsigned global)
{
	for (unsigned word = 0; word < SOFT_TLB_SIZE / 64; word++) {
		uint64_t bits = cpu->tlb_used[mmu][global][word];
		cpu->tlb_used[mmu][global][word] = 0;
		for (; bits; bits &= bits - 1) {
			unsigned index = word * 64 + (unsigned)__builtin_ctzll(bits);
			if ((cpu->tlb_flags[mmu][index] & SOFT_TLB_GLOBAL) == global)
				soft_tlb_clear(&cpu->tlb[mmu][index], index);
		}
	}
}

static void flush_exec(struct soft_cpu *cpu, unsigned user, unsigned global)
{
	for (unsigned word = 0; word < SOFT_ITLB_SIZE / 64; word++) {
		uint64_t bits = cpu->itlb_used[user][global][word];
		cpu->itlb_used[user][global][word] = 0;
		for (; bits; bits &= bits - 1) {
			unsigned index = word * 64 + (unsigned)__builtin_ctzll(bits);
			if ((cpu->itlb_flags[user][index] & SOFT_TLB_GLOBAL) == global)
				cpu->itlb_of[user][index] = ITLB_EMPTY;
		}
	}
}

/* A group of accesses that is under way when C code returns must not go on by what its check found. */
static void note_stale(struct soft_cpu *cpu)
{
	__atomic_store_n(&cpu->stale, 1, __ATOMIC_RELAXED);
}

void soft_tlb_flush(struct soft_cpu *cpu, bool global_too)
{
	if (profiled(cpu))
		profile_flush(cpu, global_too);
	note_stale(cpu);
	soft_returns_drop(cpu);
	soft_direct_flush(cpu);
	soft_slots_flush(cpu, global_too);
	for (unsigned global = 0; global <= global_too; global++) {
		for (unsigned mmu = 0; mmu < SOFT_MMU_COUNT; mmu++)
			flush_data(cpu, mmu, global);
		flush_exec(cpu, 0, global);
		flush_exec(cpu, 1, global);
	}
	if (!global_too) {
		jc_clear(cpu, true);
		return;
	}
	forget_large(cpu);
	jc_clear(cpu, false);
}

/* Do two linear addresses lie in the same page, of the size that an entry's flags say? (4 MiB stands for 2, too.) */
static bool same_page(uint64_t a, uint64_t b, uint64_t flags)
{
	unsigned shift = flags & SOFT_TLB_HUGE ? 30 : flags & SOFT_TLB_LARGE ? 22 : 12;

	return a >> shift == b >> shift;
}

static uint64_t itlb_linear(uint64_t key)
{
	return (uint64_t)((int64_t)(key & ~((1ull << 28) - 1)) >> 16);
}

/* Of flush_large, one class's data entries. */
static void flush_large_data(struct soft_cpu *cpu, unsigned mmu, uint64_t linear)
{
	for (unsigned word = 0; word < SOFT_TLB_SIZE / 64; word++) {
		uint64_t bits = cpu->tlb_used[mmu][0][word] | cpu->tlb_used[mmu][1][word];
		for (; bits; bits &= bits - 1) {
			unsigned i = word * 64 + (unsigned)__builtin_ctzll(bits);
			struct soft_tlb_entry *entry = &cpu->tlb[mmu][i];
			uint64_t flags = cpu->tlb_flags[mmu][i];
			if (same_page(entry->tag_read, linear, flags))
				soft_tlb_clear(entry, i);
			else if ((flags & (SOFT_TLB_LARGE | SOFT_TLB_HUGE)) && soft_tlb_index(entry->tag_read) == i)
				soft_tlb_note_large(cpu, entry->tag_read, (unsigned)flags & SOFT_PAGE_MASK);
		}
	}
}

static void flush_large_exec(struct soft_cpu *cpu, unsigned user, uint64_t linear)
{
	for (unsigned word = 0; word < SOFT_ITLB_SIZE / 64; word++) {
		uint64_t bits = cpu->itlb_used[user][0][word] | cpu->itlb_used[user][1][word];
		for (; bits; bits &= bits - 1) {
			unsigned i = word * 64 + (unsigned)__builtin_ctzll(bits), flags = cpu->itlb_flags[user][i];
			uint64_t *key = &cpu->itlb_of[user][i];
			if (same_page(itlb_linear(*key), linear, flags))
				*key = ITLB_EMPTY;
			else if ((flags & (SOFT_TLB_LARGE | SOFT_TLB_HUGE)) && *key != ITLB_EMPTY)
				soft_tlb_note_large(cpu, itlb_linear(*key), flags);
		}
	}
}

/* Empties all entries of the large page around linear. The filters are made anew of what remains: or each INVLPG in an area
 * that once had a large page, or whose bit such a one has, would come here. */
static void flush_large(struct soft_cpu *cpu, uint64_t linear)
{
	soft_slots_flush(cpu, true);
	forget_large(cpu);
	for (unsigned mmu = 0; mmu < SOFT_MMU_COUNT; mmu++)
		flush_large_data(cpu, mmu, linear);
	for (unsigned user = 0; user < 2; user++)
		flush_large_exec(cpu, user, linear);
	jc_clear(cpu, false);
}

void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t linear)
{
	unsigned index = soft_tlb_index(linear), bit = soft_jc_page_bit(linear);

	profile_count(cpu, PROFILE_FLUSH_PAGE);
	note_stale(cpu);
	soft_returns_drop(cpu);
	soft_direct_flush_page(cpu, linear);
	soft_slots_flush_page(cpu, linear);
	for (unsigned mmu = 0; mmu < SOFT_MMU_COUNT; mmu++) {
		struct soft_tlb_entry *entry = &cpu->tlb[mmu][index];
		if (entry->tag_read >> 12 == linear >> 12)
			soft_tlb_clear(entry, index);
	}
	cpu->itlb_of[0][soft_itlb_index(linear)] = ITLB_EMPTY;
	cpu->itlb_of[1][soft_itlb_index(linear)] = ITLB_EMPTY;
	if (maybe_large(cpu, linear))
		flush_large(cpu, linear);
	else if (cpu->jc_pages[bit / 64] >> bit % 64 & 1)
		jc_clear(cpu, false);
}

void soft_tlb_protect(struct soft_cpu *cpu, uint64_t gpa)
{
	uint64_t page = gpa & ~(uint64_t)SOFT_PAGE_MASK;

	for (unsigned word = 0; word < SOFT_MMU_COUNT * (SOFT_TLB_SIZE / 64); word++) {
		unsigned mmu = word / (SOFT_TLB_SIZE / 64), first = word % (SOFT_TLB_SIZE / 64);
		uint64_t bits = __atomic_load_n(&cpu->tlb_used[mmu][0][first], __ATOMIC_RELAXED) |
				__atomic_load_n(&cpu->tlb_used[mmu][1][first], __ATOMIC_RELAXED);
		for (; bits; bits &= bits - 1) {
			unsigned i = first * 64 + (unsigned)__builtin_ctzll(bits);
			uint64_t flags = __atomic_load_n(&cpu->tlb_flags[mmu][i], __ATOMIC_RELAXED);
			if (page == SOFT_EVERY_PAGE || (flags & ~(uint64_t)SOFT_PAGE_MASK) == page)
				__atomic_store_n(&cpu->tlb[mmu][i].tag_write, soft_tlb_no_tag(i), __ATOMIC_RELAXED);
		}
	}
	note_stale(cpu);
}

bool soft_translate_exec(struct soft_cpu *cpu, uint64_t linear, uint64_t *gpa)
{
	unsigned user = soft_cpl(cpu) == 3, index = soft_itlb_index(linear);
	uint64_t key = cpu->itlb_of[user][index];
	struct soft_walk walk;

	if ((key ^ linear >> 12 << 28) >> 28 == 0 && soft_is_canonical(linear) && key != ITLB_EMPTY) {
		*gpa = (key << 36 >> 24) | (linear & SOFT_PAGE_MASK);
		return true;
	}
	if (!soft_walk(cpu, linear, SOFT_EXEC, user, false, &walk))
		return false;
	*gpa = walk.gpa;
	if (walk.gpa >> 40)
		return true; /* does not fit into a key */
	key = SOFT_ITLB_KEY(linear, walk.gpa);
	cpu->itlb_of[user][index] = key;
	cpu->itlb_flags[user][index] = (uint8_t)walk.flags;
	cpu->itlb_used[user][walk.flags & SOFT_TLB_GLOBAL][index / 64] |= 1ull << index % 64;
	if (walk.flags & (SOFT_TLB_LARGE | SOFT_TLB_HUGE))
		soft_tlb_note_large(cpu, linear, walk.flags);
	return true;
}
