/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tlb.h - the soft TLB, for mmu.c. Its layout and the contract with generated code are in cpu.h; what others call is
 * there too (soft_tlb_*, soft_translate_exec).
 */
#ifndef PLURES_ENGINE_SOFT_TLB_H
#define PLURES_ENGINE_SOFT_TLB_H

#include "engine/soft/paging.h"

static inline unsigned soft_tlb_index(uint64_t linear)
{
	return (linear >> 12) & (SOFT_TLB_SIZE - 1);
}

/* Makes one entry, which has that index, match nothing. */
void soft_tlb_clear(struct soft_tlb_entry *entry, unsigned index);

/* Remembers that an entry was made from a large page (flags say which size) at linear. */
void soft_tlb_note_large(struct soft_cpu *cpu, uint64_t linear, unsigned flags);

/* The class of the accesses that the running code makes. */
static inline unsigned soft_mmu_current(const struct soft_cpu *cpu)
{
	if (soft_cpl(cpu) == 3)
		return SOFT_MMU_USER;
	return cpu->mode & SOFT_MODE_AC ? SOFT_MMU_KERNEL_AC : SOFT_MMU_KERNEL;
}

/* Where a byte of the running code's memory is on the host, if its page can be accessed directly up to its end, else
 * NULL: it must be read and written an element at a time. Raises the fault that the access meets. When a store goes to
 * a page of translated code, *code (which the caller sets to SOFT_NOT_CODE) becomes its physical address, and
 * soft_code_written must follow. */
#define SOFT_NOT_CODE (~0ull)
uint8_t *soft_page_slow(struct soft_cpu *cpu, uint64_t linear, enum soft_access access, uint64_t *code);
static inline uint8_t *soft_page_host(struct soft_cpu *cpu, uint64_t linear, enum soft_access access, uint64_t *code)
{
	struct soft_tlb_entry *entry = &cpu->tlb[soft_mmu_current(cpu)][soft_tlb_index(linear)];
	uint64_t *tag = access == SOFT_WRITE ? &entry->tag_write : &entry->tag_read;
	uint64_t offset = linear ^ __atomic_load_n(tag, __ATOMIC_RELAXED);

	if (offset < SOFT_PAGE_SIZE)
		return (uint8_t *)(uintptr_t)(offset + entry->host);
	return soft_page_slow(cpu, linear, access, code);
}

/* As soft_store, and returns whether it changed translated code. */
bool soft_store_noting(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value);
/* Ends a masked store that was made on a buffer (evex.c). Returns whether it changed code. */
bool soft_lanes_commit(struct soft_cpu *cpu);

#endif
