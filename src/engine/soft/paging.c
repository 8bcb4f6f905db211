/* SPDX-License-Identifier: Apache-2.0 */
/*
 * paging.c - linear to physical, as SDM Vol. 3, chapter 4 has it: 32-bit, PAE and 4-level paging.
 *
 * The walk reads the guest's tables where they lie and sets A and D with a compare-and-swap on the entry that it read;
 * when the entry changed meanwhile it starts over, so that a bit is never set in an entry that was not used. A is set
 * in upper entries on the way down, and in the leaf (with D for a store) only after the access was found permitted.
 *
 * An entry that lies outside of memory reads as all ones, which for most formats has reserved bits set; one in
 * read-only memory is used as it is.
 */
#include "engine/soft/paging.h"

#define PTE_NX (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull
#define PTE_IGNORED_PAE 0x7ff0000000000000ull /* bits 52-62, ignored in 4-level paging, reserved in PAE */

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80, PTE_G = 0x100 };
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

/* What is asked of a walk. */
struct request {
	uint64_t linear;
	enum soft_access access;
	bool user, ac;
};

/* A paging-structure entry where it lies. */
struct entry {
	void *at; /* NULL: outside of memory */
	struct soft_region *region;
};

static struct entry entry_at(struct soft_vm *vm, uint64_t gpa)
{
	struct soft_region *region = soft_region_at(vm, gpa);
	if (!region)
		return (struct entry){ NULL, NULL };
	return (struct entry){ region->hva + (gpa - region->gpa), region };
}

static inline bool entry_changed(struct entry entry)
{
	soft_region_dirty(entry.region, entry.region->gpa + (uint64_t)((uint8_t *)entry.at - entry.region->hva));
	return true;
}

/* Sets bits in an entry that was read as `value`; false if it is another by now. */
static bool entry_set64(struct entry entry, uint64_t value, uint64_t bits)
{
	if ((value & bits) == bits || entry.region->readonly)
		return true;
	return __atomic_compare_exchange_n((uint64_t *)entry.at, &value, value | bits, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED) &&
	       entry_changed(entry);
}

static bool entry_set32(struct entry entry, uint32_t value, uint32_t bits)
{
	if ((value & bits) == bits || entry.region->readonly)
		return true;
	return __atomic_compare_exchange_n((uint32_t *)entry.at, &value, value | bits, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED) &&
	       entry_changed(entry);
}

/* How a walk ended. AGAIN: an entry changed under it. */
enum outcome { WALK_FAULT, WALK_DONE, WALK_AGAIN };

static enum outcome fault(struct soft_cpu *cpu, const struct request *req, uint32_t error)
{
	bool nx = (cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE);

	if (req->access == SOFT_WRITE)
		error |= PF_W;
	if (req->user)
		error |= PF_U;
	if (req->access == SOFT_EXEC && (nx || (cpu->cr4 & CR4_SMEP)))
		error |= PF_I;
	cpu->exc.vector = EXC_PF;
	cpu->exc.has_error = true;
	cpu->exc.error = error;
	cpu->exc.cr2 = req->linear;
	return WALK_FAULT;
}

/* SDM Vol. 3, 4.6. `rights` is the and of W and U over all levels. */
static inline bool permitted(const struct soft_cpu *cpu, const struct request *req, uint64_t rights, bool nx)
{
	if (req->user) {
		if (!(rights & PTE_U))
			return false;
	} else if (rights & PTE_U) {
		if (req->access == SOFT_EXEC ? (cpu->cr4 & CR4_SMEP) : (cpu->cr4 & CR4_SMAP) && !req->ac)
			return false;
	}
	if (req->access == SOFT_WRITE && !(rights & PTE_W) && (req->user || (cpu->cr0 & CR0_WP)))
		return false;
	return req->access != SOFT_EXEC || !nx;
}

static inline void finish(const struct soft_cpu *cpu, const struct request *req, uint64_t rights, uint64_t leaf,
			  unsigned size_flag, struct soft_walk *walk)
{
	unsigned flags = size_flag;

	if ((leaf & PTE_G) && (cpu->cr4 & CR4_PGE))
		flags |= SOFT_TLB_GLOBAL;
	if ((leaf & PTE_D) || req->access == SOFT_WRITE) {
		if ((rights & PTE_W) || (!req->user && !(cpu->cr0 & CR0_WP)))
			flags |= SOFT_TLB_WRITE;
	}
	walk->flags = flags;
}

/* Bits that are reserved in every 8-byte entry. */
static inline uint64_t reserved_bits(const struct soft_cpu *cpu)
{
	uint64_t reserved = ~cpu->vm->maxphyaddr_mask & PTE_ADDRESS;

	return cpu->efer & EFER_NXE ? reserved : reserved | PTE_NX;
}

/* Walks tables of 8-byte entries from the one at `table`, which `linear` indexes from bit `shift` on. */
static inline __attribute__((always_inline)) enum outcome walk64(struct soft_cpu *cpu, const struct request *req,
								 uint64_t table, unsigned shift, uint64_t reserved,
								 struct soft_walk *walk)
{
	uint64_t rights = PTE_W | PTE_U, nx = 0, value;
	struct entry entry;

	for (;; shift -= 9) {
		entry = entry_at(cpu->vm, table + ((req->linear >> shift) & 511) * 8);
		value = entry.at ? __atomic_load_n((uint64_t *)entry.at, __ATOMIC_RELAXED) : ~0ull;
		if (!(value & PTE_P))
			return fault(cpu, req, 0);
		if (value & reserved)
			return fault(cpu, req, PF_P | PF_RSVD);
		rights &= value;
		nx |= value & PTE_NX;
		if (shift == 12)
			break;
		if (value & PTE_PS) {
			/* Bit 12 is PAT; those from there to the page's size are reserved. */
			if (shift == 39 || (value & ((1ull << shift) - 1) & ~0x1fffull))
				return fault(cpu, req, PF_P | PF_RSVD);
			break;
		}
		if (!entry_set64(entry, value, PTE_A))
			return WALK_AGAIN;
		table = value & PTE_ADDRESS;
	}
	if (!permitted(cpu, req, rights, nx))
		return fault(cpu, req, PF_P);
	if (!entry_set64(entry, value, req->access == SOFT_WRITE ? PTE_A | PTE_D : PTE_A))
		return WALK_AGAIN;
	uint64_t offset = (1ull << shift) - 1;
	walk->gpa = (value & PTE_ADDRESS & ~offset) | (req->linear & offset);
	finish(cpu, req, rights, value, shift == 12 ? 0 : shift == 21 ? SOFT_TLB_LARGE : SOFT_TLB_HUGE, walk);
	return WALK_DONE;
}

static enum outcome walk_long(struct soft_cpu *cpu, const struct request *req, struct soft_walk *walk)
{
	return walk64(cpu, req, cpu->cr3 & PTE_ADDRESS & cpu->vm->maxphyaddr_mask, 39, reserved_bits(cpu), walk);
}

static enum outcome walk_pae(struct soft_cpu *cpu, const struct request *req, struct soft_walk *walk)
{
	uint64_t pdpte = cpu->pdpte[req->linear >> 30 & 3];

	if (!(pdpte & PTE_P))
		return fault(cpu, req, 0);
	return walk64(cpu, req, pdpte & PTE_ADDRESS, 21, reserved_bits(cpu) | PTE_IGNORED_PAE, walk);
}

/* Where a 4 MiB page is: bits 13-20 of its entry are address bits 32-39 (PSE-36), bit 21 is reserved. False if the
 * entry is malformed. */
static bool large_address(const struct soft_cpu *cpu, uint32_t entry, uint64_t *address)
{
	*address = (entry & 0xffc00000u) | (uint64_t)(entry >> 13 & 0xff) << 32;
	return !(entry & 1u << 21) && !(*address & ~cpu->vm->maxphyaddr_mask);
}

static enum outcome walk_32(struct soft_cpu *cpu, const struct request *req, struct soft_walk *walk)
{
	uint32_t linear = req->linear, bits = req->access == SOFT_WRITE ? PTE_A | PTE_D : PTE_A;
	struct entry entry = entry_at(cpu->vm, (cpu->cr3 & 0xfffff000u) + (linear >> 22) * 4);
	uint32_t value = entry.at ? __atomic_load_n((uint32_t *)entry.at, __ATOMIC_RELAXED) : ~0u;
	uint32_t rights = value;
	uint64_t large;

	if (!(value & PTE_P))
		return fault(cpu, req, 0);
	if ((value & PTE_PS) && (cpu->cr4 & CR4_PSE)) {
		if (!large_address(cpu, value, &large))
			return fault(cpu, req, PF_P | PF_RSVD);
		if (!permitted(cpu, req, rights, false))
			return fault(cpu, req, PF_P);
		if (!entry_set32(entry, value, bits))
			return WALK_AGAIN;
		walk->gpa = large | (linear & 0x3fffff);
		finish(cpu, req, rights, value, SOFT_TLB_LARGE, walk);
		return WALK_DONE;
	}
	if (!entry_set32(entry, value, PTE_A))
		return WALK_AGAIN;
	entry = entry_at(cpu->vm, (value & 0xfffff000u) + (linear >> 12 & 1023) * 4);
	value = entry.at ? __atomic_load_n((uint32_t *)entry.at, __ATOMIC_RELAXED) : ~0u;
	rights &= value;
	if (!(value & PTE_P))
		return fault(cpu, req, 0);
	if (!permitted(cpu, req, rights, false))
		return fault(cpu, req, PF_P);
	if (!entry_set32(entry, value, bits))
		return WALK_AGAIN;
	walk->gpa = (value & 0xfffff000u) | (linear & SOFT_PAGE_MASK);
	finish(cpu, req, rights, value, 0, walk);
	return WALK_DONE;
}

static bool not_canonical(struct soft_cpu *cpu)
{
	cpu->exc.vector = EXC_GP;
	cpu->exc.has_error = true;
	cpu->exc.error = 0;
	return false;
}

/* The modes that are not the common one. */
static __attribute__((noinline)) bool walk_legacy(struct soft_cpu *cpu, struct request *req, struct soft_walk *walk)
{
	enum outcome outcome;

	req->linear = (uint32_t)req->linear;
	if (!(cpu->cr0 & CR0_PG)) {
		walk->gpa = req->linear;
		walk->flags = SOFT_TLB_WRITE;
		return true;
	}
	do
		outcome = cpu->cr4 & CR4_PAE ? walk_pae(cpu, req, walk) : walk_32(cpu, req, walk);
	while (outcome == WALK_AGAIN);
	return outcome == WALK_DONE;
}

bool soft_walk(struct soft_cpu *cpu, uint64_t linear, enum soft_access access, bool user, bool ac,
	       struct soft_walk *walk)
{
	struct request req = { linear, access, user, ac };
	enum outcome outcome;

	if (!(cpu->efer & EFER_LMA))
		return walk_legacy(cpu, &req, walk);
	if (!soft_is_canonical(linear))
		return not_canonical(cpu);
	do
		outcome = walk_long(cpu, &req, walk);
	while (outcome == WALK_AGAIN);
	return outcome == WALK_DONE;
}

bool soft_translate(struct soft_cpu *cpu, uint64_t linear, enum soft_access access, bool user, bool ac, uint64_t *gpa,
		    unsigned *entry_flags)
{
	struct soft_walk walk;

	if (!soft_walk(cpu, linear, access, user, ac, &walk))
		return false;
	*gpa = walk.gpa;
	*entry_flags = walk.flags;
	return true;
}

/* SDM Vol. 3, 4.4.1. */
bool soft_load_pdptes(struct soft_cpu *cpu)
{
	uint64_t reserved = (~cpu->vm->maxphyaddr_mask & ~0xfffull) | 0x1e6, value[4];

	for (unsigned i = 0; i < 4; i++) {
		struct entry entry = entry_at(cpu->vm, (cpu->cr3 & 0xffffffe0u) + i * 8);
		value[i] = entry.at ? __atomic_load_n((uint64_t *)entry.at, __ATOMIC_RELAXED) : ~0ull;
		if ((value[i] & PTE_P) && (value[i] & reserved))
			return false;
	}
	for (unsigned i = 0; i < 4; i++)
		cpu->pdpte[i] = value[i];
	return true;
}

uint8_t *soft_gpa_to_hva(struct soft_vm *vm, uint64_t gpa, uint64_t *avail, bool *readonly)
{
	struct soft_region *region = soft_region_at(vm, gpa);

	if (!region)
		return NULL;
	if (avail)
		*avail = region->size - (gpa - region->gpa);
	if (readonly)
		*readonly = region->readonly;
	return region->hva + (gpa - region->gpa);
}
