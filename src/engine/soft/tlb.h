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

#endif
