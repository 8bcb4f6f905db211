/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.c - a memory of one page for each memory operand.
 *
 * The problem. Looking up the soft TLB costs generated code seven instructions for each access, three of which compute
 * the index, and a chain of eight cycles before the access can begin.
 *
 * The scheme. Most operands (a stack frame, an array that is walked through, a struct that is used again) access the same
 * page as the last time. So an operand, a *site*, owns a slot: the page's address, the *tag*, and where that page is on the
 * host. Slots lie at fixed places of struct soft_cpu, so a check is four instructions and three cycles. What does not match
 * goes to C, which asks the TLB, or walks, and refills the slot.
 *
 * That is dear, so a site whose page changes all of the time (a hash table) is better off with the TLB. It shows by
 * how soon one miss follows another: after a number of quick ones the block is dropped and translated anew with the TLB's
 * check for that site (cache_demote), which the cache remembers.
 *
 * Rules:
 * - Slots are a second TLB: every flush of the TLB empties them too, and a slot is filled only from an entry of the TLB
 *   that is there. So what is true of the TLB (mmu.c) is true of them.
 * - There are SOFT_SLOTS for each privilege class and kind of access, given out in turn. Sites that share one merely
 *   miss more often; a slot for stores holds pages that have a write tag only.
 * - An empty slot's tag is of a page that is not canonical, and its addend is 0: should a guest access exactly that page,
 *   the check passes and the access raises #GP on the host, which is what it would do in the guest.
 * - soft_slots_protect comes from other threads, so a tag may go between a check and the question what it was. It leaves
 *   a tag of its own, and the page of each slot is kept beside it.
 */
#include "engine/soft/slots.h"

#include "engine/soft/tlb.h"

#define EMPTY UINT64_C(0x80c0de0000000000)
#define TAKEN UINT64_C(0x80c1de0000000000) /* by soft_slots_protect */

static struct soft_slot *slot_of(struct soft_cpu *cpu, unsigned id)
{
	return &cpu->slot[0][0][0] + id;
}

static void empty(struct soft_cpu *cpu, unsigned id)
{
	struct soft_slot *slot = slot_of(cpu, id);
	__atomic_store_n(&slot->tag, EMPTY, __ATOMIC_RELAXED);
	slot->addend = 0;
	__atomic_store_n(&cpu->slot_note[id].host, 0, __ATOMIC_RELAXED);
}

static void note_page(struct soft_cpu *cpu, uint64_t linear)
{
	unsigned bit = soft_jc_page_bit(linear);
	cpu->slot_pages[bit / 64] |= UINT64_C(1) << bit % 64;
}

void soft_slots_init(struct soft_cpu *cpu)
{
	for (unsigned id = 0; id < SOFT_SLOT_IDS; id++)
		empty(cpu, id);
}

void soft_slots_flush(struct soft_cpu *cpu, bool global_too)
{
	unsigned list = !global_too, n = cpu->slots_listed[list];

	for (unsigned i = 0; i < n; i++) {
		unsigned id = cpu->slots_list[list][i];
		empty(cpu, id);
		cpu->slot_note[id].listed &= list ? 1 : 0;
	}
	cpu->slots_listed[1] = 0;
	if (list)
		return;
	cpu->slots_listed[0] = 0;
	for (unsigned i = 0; i < 64; i++)
		cpu->slot_pages[i] = 0;
}

void soft_slots_flush_page(struct soft_cpu *cpu, uint64_t linear)
{
	unsigned n = cpu->slots_listed[0], kept = 0, bit = soft_jc_page_bit(linear);

	if (!(cpu->slot_pages[bit / 64] >> bit % 64 & 1))
		return;
	for (unsigned i = 0; i < 64; i++)
		cpu->slot_pages[i] = 0;
	for (unsigned i = 0; i < n; i++) {
		unsigned id = cpu->slots_list[0][i];
		uint64_t tag = slot_of(cpu, id)->tag;
		if ((tag ^ linear) < SOFT_PAGE_SIZE)
			empty(cpu, id), tag = EMPTY;
		/* What an earlier program has used must not be looked at each time. */
		if (tag == EMPTY && cpu->slot_note[id].listed == 1) {
			cpu->slot_note[id].listed = 0;
			continue;
		}
		cpu->slots_list[0][kept++] = (uint16_t)id;
		if (tag != EMPTY)
			note_page(cpu, tag);
	}
	cpu->slots_listed[0] = kept;
}

void soft_slots_protect(struct soft_cpu *cpu, const uint8_t *page)
{
	atomic_thread_fence(memory_order_seq_cst); /* the TLB's tags are gone before the slots are looked at */
	for (unsigned mmu = 0; mmu < SOFT_MMU_COUNT; mmu++) {
		for (unsigned i = 0; i < SOFT_SLOTS; i++) {
			unsigned id = (mmu * 2 + 1) * SOFT_SLOTS + i;
			uint64_t host = __atomic_load_n(&cpu->slot_note[id].host, __ATOMIC_RELAXED);
			if (host && (!page || host == (uintptr_t)page))
				__atomic_store_n(&slot_of(cpu, id)->tag, TAKEN, __ATOMIC_RELAXED);
		}
	}
}

static void list(struct soft_cpu *cpu, unsigned which, unsigned id)
{
	if (cpu->slot_note[id].listed >> which & 1)
		return;
	cpu->slot_note[id].listed |= (uint8_t)(1 << which);
	cpu->slots_list[which][cpu->slots_listed[which]++] = (uint16_t)id;
}

void soft_slot_fill(struct soft_cpu *cpu, unsigned id, uint64_t linear, uint32_t how)
{
	unsigned mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT;
	unsigned index = soft_tlb_index(linear);
	struct soft_tlb_entry *entry = &cpu->tlb[mmu][index];
	uint64_t *tag = how & SOFT_HOW_WRITE ? &entry->tag_write : &entry->tag_read;
	uint64_t page = linear & ~(uint64_t)SOFT_PAGE_MASK;
	struct soft_slot *slot = slot_of(cpu, id);

	if (__atomic_load_n(tag, __ATOMIC_RELAXED) != page)
		return;
	list(cpu, 0, id);
	if (!(cpu->tlb_flags[mmu][index] & SOFT_TLB_GLOBAL))
		list(cpu, 1, id);
	note_page(cpu, page);
	cpu->slot_note[id].page = page;
	slot->addend = entry->addend;
	__atomic_store_n(&cpu->slot_note[id].host, entry->host, __ATOMIC_RELAXED);
	__atomic_store_n(&slot->tag, page, __ATOMIC_RELEASE);
	if (!(how & SOFT_HOW_WRITE))
		return;
	atomic_thread_fence(memory_order_seq_cst); /* as tlb_fill's: soft_tlb_protect takes the TLB's tags first */
	if (__atomic_load_n(tag, __ATOMIC_RELAXED) != page)
		empty(cpu, id);
}

uint64_t soft_slot_address(const struct soft_cpu *cpu, unsigned id, uint64_t mixed)
{
	uint64_t tag = __atomic_load_n(&(&cpu->slot[0][0][0] + id)->tag, __ATOMIC_RELAXED);
	uint64_t linear = mixed ^ tag;

	if (tag == TAKEN && (linear >> 48 == TAKEN >> 48 || linear >> 48 == (TAKEN >> 48 ^ 0xffff)))
		linear = mixed ^ cpu->slot_note[id].page; /* taken since the check */
	return linear;
}
