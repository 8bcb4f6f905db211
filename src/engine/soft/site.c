/* SPDX-License-Identifier: Apache-2.0 */
/* site.c - what running code teaches about itself: which blocks are hot, and whose memory operands had better not have slots
 * of their own (slots.c). Such a block is dropped and translated anew, knowing it. */
#include "engine/soft/cache.h"
#include "engine/soft/profile.h"
#include "engine/soft/slots.h"
#include "engine/soft/tlb.h"

enum {
	SAMPLED = 4,    /* of so many misses one is looked at, since asking for the time is dear */
	QUICK = 200000, /* TSC cycles between such misses of a site that are too few */
	TOO_MANY = 8    /* such misses */
};

/* A miss of a site: true if it misses too often. Whoever has its block dropped then may wait for the cache's lock, and only asks
 * the TLB afterwards: the page may be one that begins to be watched meanwhile. */
static bool count(struct soft_cpu *cpu, unsigned id)
{
	if (++cpu->slot_misses % SAMPLED)
		return false;
	uint32_t now = (uint32_t)__builtin_ia32_rdtsc(), since = now - cpu->slot_note[id].when;

	cpu->slot_note[id].when = now;
	if (since > QUICK) {
		cpu->slot_note[id].quick /= 2;
		return false;
	}
	if (++cpu->slot_note[id].quick < TOO_MANY)
		return false;
	cpu->slot_note[id].quick = 0;
	return true;
}

void soft_hot(struct soft_cpu *cpu, const uint8_t *pc)
{
	cache_promote(cpu->vm->cache, pc);
}

/* The offset in the page from the TLB's entry for an address, where it is in *entry; larger than that if it is not there. */
static uint64_t tlb_offset(struct soft_cpu *cpu, uint64_t linear, uint32_t how, const struct soft_tlb_entry **entry)
{
	unsigned mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT;
	const struct soft_tlb_entry *e = &cpu->tlb[mmu][soft_tlb_index(linear)];

	*entry = e;
	return linear ^ __atomic_load_n(how & SOFT_HOW_WRITE ? &e->tag_write : &e->tag_read, __ATOMIC_RELAXED);
}

uint8_t *soft_slot_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc)
{
	uint32_t how = (uint32_t)site;
	unsigned id = site >> 32 & 0xffff, insn = site >> 48;
	uint64_t linear = soft_slot_address(cpu, id, mixed);
	if (how & SOFT_HOW_XSAVE)
		how = soft_xsave_how(cpu, how);
	const struct soft_tlb_entry *entry;
	uint64_t offset = tlb_offset(cpu, linear, how, &entry);

	if (offset <= SOFT_PAGE_SIZE - (how & SOFT_HOW_SIZE) && count(cpu, id)) {
		cache_demote(cpu->vm->cache, pc, insn);
		offset = tlb_offset(cpu, linear, how, &entry);
	}
	if (offset > SOFT_PAGE_SIZE - (how & SOFT_HOW_SIZE)) {
		uint8_t *host =
		    profiled(cpu) ? profile_mem_miss(cpu, linear, how, soft_mem_slow) : soft_mem_slow(cpu, linear, how);
		soft_slot_fill(cpu, id, linear, how);
		return host;
	}
	cpu->bounce.kind = SOFT_BOUNCE_NONE;
	uint8_t *host = (uint8_t *)(uintptr_t)(entry->host + offset);
	soft_slot_fill(cpu, id, linear, how);
	return host;
}

uint8_t *soft_slot_masked_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc)
{
	uint32_t how = (uint32_t)site;
	unsigned id = site >> 32 & 0xffff, insn = site >> 48;
	uint64_t linear = soft_slot_address(cpu, id, mixed);
	const struct soft_tlb_entry *entry;
	uint64_t offset = tlb_offset(cpu, linear, how, &entry);

	if (offset <= SOFT_PAGE_SIZE - (how & SOFT_HOW_SIZE) && count(cpu, id)) {
		cache_demote(cpu->vm->cache, pc, insn);
		offset = tlb_offset(cpu, linear, how, &entry);
	}
	if (offset > SOFT_PAGE_SIZE - (how & SOFT_HOW_SIZE))
		return NULL;
	uint8_t *host = (uint8_t *)(uintptr_t)(entry->host + offset);
	soft_slot_fill(cpu, id, linear, how);
	return host;
}

uint8_t *soft_slot_group_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc)
{
	uint32_t how = (uint32_t)site;
	unsigned id = site >> 32 & 0xffff, insn = site >> 48;
	uint64_t linear = soft_slot_address(cpu, id, mixed);
	const struct soft_tlb_entry *entry;
	uint8_t *host;

	if (count(cpu, id))
		cache_demote(cpu->vm->cache, pc, insn);
	uint64_t offset = tlb_offset(cpu, linear, how, &entry);
	if (offset <= SOFT_PAGE_SIZE - (how & SOFT_HOW_SIZE))
		host = (uint8_t *)(uintptr_t)(entry->host + offset);
	else
		host = profiled(cpu) ? profile_group_miss(cpu, linear, how, soft_mem_group)
				     : soft_mem_group(cpu, linear, how);
	cpu->single = !host;
	if (host)
		soft_slot_fill(cpu, id, linear, how);
	return host;
}
