/* SPDX-License-Identifier: Apache-2.0 */
/* site.c - what running code teaches about itself: which blocks are hot, and whose memory operands had better not have slots
 * of their own (slots.c). Such a block is dropped and translated anew, knowing it. */
#include "engine/soft/cache.h"
#include "engine/soft/profile.h"
#include "engine/soft/slots.h"
#include "engine/soft/tlb.h"

enum {
	QUICK = 50000,   /* TSC cycles between misses of a site that are too few */
	TOO_MANY = 8,    /* such misses */
	TOO_OFTEN = 20,  /* times that a group crossed pages, */
	PERSISTENT = 800 /* so many cycles or fewer between them */
};

/* A miss of a site: true if it misses too often. */
static bool count(struct soft_cpu *cpu, unsigned id)
{
	uint32_t now = (uint32_t)__builtin_ia32_rdtsc(), since = now - cpu->slot_miss[id].when;

	cpu->slot_miss[id].when = now;
	if (since > QUICK) {
		cpu->slot_miss[id].quick /= 2;
		return false;
	}
	if (++cpu->slot_miss[id].quick < TOO_MANY)
		return false;
	cpu->slot_miss[id].quick = 0;
	return true;
}

void soft_hot(struct soft_cpu *cpu, const uint8_t *pc)
{
	cache_promote(cpu->vm->cache, pc);
}

/* A stack frame, say, that goes on in the next page would be taken apart each time. */
void soft_group_apart(struct soft_cpu *cpu, uint64_t linear, uint64_t site, const uint8_t *pc)
{
	unsigned n = (unsigned)(cpu->rip ^ cpu->rip >> 8) % SOFT_APARTS;
	uint32_t now = (uint32_t)__builtin_ia32_rdtsc();
	if ((linear & SOFT_PAGE_MASK) + (site & SOFT_HOW_SIZE) <= SOFT_PAGE_SIZE)
		return;
	if (now - cpu->apart[n].since > PERSISTENT * TOO_OFTEN) {
		cpu->apart[n].since = now;
		cpu->apart[n].count = 0;
	}
	if (++cpu->apart[n].count >= TOO_OFTEN)
		cache_take_apart(cpu->vm->cache, pc, site >> 48);
}

uint8_t *soft_slot_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc)
{
	uint32_t how = (uint32_t)site;
	unsigned id = site >> 32 & 0xffff, insn = site >> 48, mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT;
	uint64_t linear = soft_slot_address(cpu, id, mixed);
	const struct soft_tlb_entry *entry = &cpu->tlb[mmu][soft_tlb_index(linear)];
	uint64_t offset =
	    linear ^ __atomic_load_n(how & SOFT_HOW_WRITE ? &entry->tag_write : &entry->tag_read, __ATOMIC_RELAXED);

	if (offset > SOFT_PAGE_SIZE - (how & SOFT_HOW_SIZE)) {
		uint8_t *host =
		    profiled(cpu) ? profile_mem_miss(cpu, linear, how, soft_mem_slow) : soft_mem_slow(cpu, linear, how);
		soft_slot_fill(cpu, id, linear, how);
		return host;
	}
	if (count(cpu, id))
		cache_demote(cpu->vm->cache, pc, insn);
	cpu->bounce.kind = SOFT_BOUNCE_NONE;
	uint8_t *host = (uint8_t *)(uintptr_t)(entry->host + offset);
	soft_slot_fill(cpu, id, linear, how);
	return host;
}

uint8_t *soft_slot_group_miss(struct soft_cpu *cpu, uint64_t mixed, uint64_t site, const uint8_t *pc)
{
	uint32_t how = (uint32_t)site;
	unsigned id = site >> 32 & 0xffff, insn = site >> 48;
	uint64_t linear = soft_slot_address(cpu, id, mixed);
	uint8_t *host =
	    profiled(cpu) ? profile_group_miss(cpu, linear, how, soft_mem_group) : soft_mem_group(cpu, linear, how);

	if (count(cpu, id))
		cache_demote(cpu->vm->cache, pc, insn);
	cpu->single = !host;
	if (host)
		soft_slot_fill(cpu, id, linear, how);
	else
		soft_group_apart(cpu, linear, site, pc);
	return host;
}
