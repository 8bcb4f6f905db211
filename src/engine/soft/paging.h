/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paging.h - the page walk, for mmu.c and tlb.c. Everyone else calls soft_translate.
 *
 * Light code (see cpu.h); vCPU thread only.
 */
#ifndef PLURES_ENGINE_SOFT_PAGING_H
#define PLURES_ENGINE_SOFT_PAGING_H

#include "engine/soft/cpu.h"
#include "engine/soft/vm.h"

enum { SOFT_PAGE_SIZE = 4096, SOFT_PAGE_MASK = SOFT_PAGE_SIZE - 1 };

/* One finished walk. */
struct soft_walk {
	uint64_t gpa;   /* of the byte */
	unsigned flags; /* SOFT_TLB_* */
};

/* Walks the guest's page tables as soft_translate does, with the same faults. */
bool soft_walk(struct soft_cpu *cpu, uint64_t linear, enum soft_access access, bool user, bool ac,
	       struct soft_walk *walk);

/* As soft_linear's check, without raising anything. */
bool soft_segment_allows(const struct soft_cpu *cpu, unsigned seg, uint64_t offset, uint64_t size,
			 enum soft_access access);

static inline bool soft_is_canonical(uint64_t linear)
{
	return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}

/* The memory region that holds the physical address, or NULL where there is none (MMIO or nothing). */
static inline struct soft_region *soft_region_at(struct soft_vm *vm, uint64_t gpa)
{
	for (unsigned i = 0; i < vm->regions; i++) {
		struct soft_region *region = &vm->region[i];
		if (gpa - region->gpa < region->size)
			return region;
	}
	return NULL;
}

/* The dirty log hears of a store to that page, before or after it. */
static inline void soft_region_dirty(struct soft_region *region, uint64_t gpa)
{
	_Atomic uint8_t *flags = &region->page_flags[(gpa - region->gpa) / SOFT_PAGE_SIZE];

	if (__builtin_expect(atomic_load_explicit(flags, memory_order_relaxed) & SOFT_PAGE_CLEAN, 0))
		atomic_fetch_and(flags, (uint8_t)~SOFT_PAGE_CLEAN);
}

static inline bool soft_region_is_watched(struct soft_region *region, uint64_t gpa)
{
	return atomic_load_explicit(&region->page_flags[(gpa - region->gpa) / SOFT_PAGE_SIZE], memory_order_relaxed) &
	       (SOFT_PAGE_CODE | SOFT_PAGE_CLEAN);
}

#endif
