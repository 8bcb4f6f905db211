/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.h - what a memory operand remembers of the page that it accessed last (slots.c). The layout, which generated
 * code knows, is in cpu.h.
 */
#ifndef PLURES_ENGINE_SOFT_SLOTS_H
#define PLURES_ENGINE_SOFT_SLOTS_H

#include "engine/soft/cpu.h"

/* Of a check that failed, as generated code hands it over. */
#define SOFT_SITE(how, slot, insn) ((uint64_t)(how) | (uint64_t)(slot) << 32 | (uint64_t)(insn) << 48)

/* What a thunk calls when a slot's check failed: `mixed` is linear ^ tag, `pc` an address in the block's code. They
 * return what soft_mem_slow and soft_mem_group would, the latter having set cpu->single with NULL. */
uint8_t *soft_slot_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc);
/* The same of a masked operand: NULL unless the TLB has all of it, since nobody knows what may be accessed. */
uint8_t *soft_slot_masked_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc);
uint8_t *soft_slot_group_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc);

/* Fills a slot, `id`, from the TLB's entry for linear, if that would let the access pass. */
void soft_slot_fill(struct soft_cpu *cpu, unsigned id, uint64_t linear, uint32_t how);
/* The address whose check by that slot failed with linear ^ tag. */
uint64_t soft_slot_address(const struct soft_cpu *cpu, unsigned id, uint64_t mixed);

/* And when the block that holds pc was entered often. */
void soft_hot(struct soft_cpu *cpu, const uint8_t *pc);

void soft_slots_init(struct soft_cpu *cpu);
/* Empties all slots, or those of pages that are not global; or those of one page. On the vCPU's own thread. */
void soft_slots_flush(struct soft_cpu *cpu, bool global_too);
void soft_slots_flush_page(struct soft_cpu *cpu, uint64_t linear);
/* No slot lets stores into the page at this host address, or NULL for any, pass any more. Any thread. */
void soft_slots_protect(struct soft_cpu *cpu, const uint8_t *page);

#endif
