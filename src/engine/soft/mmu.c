/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mmu.c - accesses to guest memory that generated code can't make by itself, and those of C helpers.
 *
 * Problem: an access that misses in the soft TLB is usually an ordinary one to memory, and this is the most frequent
 * helper of all; but it may also fault, cross a page, touch a device, a read-only page or a page of translated code.
 *
 * Scheme: soft_mem_slow returns where to make the access. For ordinary memory that is the memory, and the TLB entry is
 * filled. Otherwise it is a bounce buffer that holds what a read must find, and soft_mem_commit carries out the write
 * afterwards; cpu->bounce says what is under way. The buffer has the same offset within 64 bytes as the guest's
 * address, so that the alignment checks of the host's instructions find what the guest's would. A store to a watched page
 * goes to the page directly (so that LOCK works), and the commit only reports it. A page is watched because it holds
 * translated code, or because the dirty log waits for its first store; to the latter every miss of a store does justice.
 *
 * Rules:
 * - Both pages of a crossing access are translated and checked before anything is read or written.
 * - An entry gets a write tag only if its page may be written, is dirty in its PTE already, is not read-only memory and
 *   is not watched. Against another thread that begins to watch it at the same time: we write the tag, fence,
 *   look at the page's flags and take the tag back if one is set; the other side sets the flag, fences, and takes the
 * tags out of all TLBs (soft_tlb_protect). One of the two sees the other. flags, which names the page to
 * soft_tlb_protect, is written before the tag. Writes through a bounce do the same: write, fence, look, report.
 * - A fault drops the TLB entry of its page, as SDM Vol. 3, 4.10.4.1 has it: a guest may allow more without INVLPG.
 */
#include "engine/soft/profile.h"
#include "engine/soft/tlb.h"
#include "engine/soft/unaligned.h"

/* Copies with the largest accesses that fit, so that what is aligned does not tear. */
static void copy(uint8_t *to, const uint8_t *from, unsigned size)
{
	while (size) {
		unsigned n = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
		unaligned_store(to, n, unaligned_load(from, n));
		to += n;
		from += n;
		size -= n;
	}
}

/* An access outside of memory, in naturally aligned pieces of at most 8 bytes. */
static void mmio(struct soft_cpu *cpu, uint64_t gpa, uint8_t *data, unsigned size, bool write)
{
	unsigned state = profile_enter(cpu, PROFILE_MMIO);

	soft_heavy_begin(cpu);
	while (size) {
		unsigned n = 8;
		uint64_t piece = 0;

		while (n > size || (gpa & (n - 1)))
			n /= 2;
		if (write)
			piece = unaligned_load(data, n);
		cpu->cb->mmio(cpu->cb_ctx, gpa, &piece, n, write);
		if (!write)
			unaligned_store(data, n, piece);
		gpa += n;
		data += n;
		size -= n;
	}
	soft_heavy_end(cpu);
	profile_back(cpu, state);
}

/* Raises what a walk put into cpu->exc. */
static _Noreturn __attribute__((cold, noinline)) void mem_fault(struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	unsigned mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT, index = soft_tlb_index(linear);

	if (cpu->tlb[mmu][index].tag_read >> 12 == linear >> 12)
		soft_tlb_clear(&cpu->tlb[mmu][index], index);
	if (cpu->exc.vector == EXC_PF)
		soft_raise_pf(cpu, cpu->exc.cr2, cpu->exc.error);
	soft_raise(cpu, how & SOFT_HOW_STACK ? EXC_SS : cpu->exc.vector, 0);
}

static bool checks_alignment(const struct soft_cpu *cpu, uint32_t how)
{
	return (cpu->sysflags & RF_AC) && (cpu->cr0 & CR0_AM) && soft_cpl(cpu) == 3 &&
	       (how & SOFT_HOW_MMU) == SOFT_MMU_USER << SOFT_HOW_MMU_SHIFT;
}

/* An application that asks for #AC gets it on every misaligned access, so none of its pages may stay in the TLB.
 * Whoever sets AC at CPL 3 flushes what was entered before. */
static __attribute__((cold, noinline)) void alignment_check(struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	unsigned size = how & SOFT_HOW_SIZE, align = size == 10 ? 8 : size == 6 ? 4 : size;
	uint64_t last = linear + size - 1;

	soft_tlb_clear(&cpu->tlb[SOFT_MMU_USER][soft_tlb_index(linear)], soft_tlb_index(linear));
	soft_tlb_clear(&cpu->tlb[SOFT_MMU_USER][soft_tlb_index(last)], soft_tlb_index(last));
	if ((align == 2 || align == 4 || align == 8) && (linear & (align - 1)))
		soft_raise(cpu, EXC_AC, 0);
}

static inline bool walk_for(struct soft_cpu *cpu, uint64_t linear, uint32_t how, struct soft_walk *walk)
{
	unsigned mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT;

	return soft_walk(cpu, linear, how & SOFT_HOW_WRITE ? SOFT_WRITE : SOFT_READ, mmu == SOFT_MMU_USER,
			 mmu == SOFT_MMU_KERNEL_AC, walk);
}

/* Enters a page of memory into the TLB. Returns whether it can be written in place. */
static inline bool tlb_fill(struct soft_cpu *cpu, uint64_t linear, unsigned mmu, struct soft_region *region,
			    const struct soft_walk *walk, bool write)
{
	uint64_t page = linear & ~(uint64_t)SOFT_PAGE_MASK, gpa = walk->gpa & ~(uint64_t)SOFT_PAGE_MASK;
	unsigned index = soft_tlb_index(linear);
	struct soft_tlb_entry *entry = &cpu->tlb[mmu][index];

	if (write)
		soft_region_dirty(region, gpa);
	if (__builtin_expect(cpu->watch.data, 0) && soft_watches_page(cpu, linear))
		return false;
	cpu->tlb_used[mmu][walk->flags & SOFT_TLB_GLOBAL][index / 64] |= 1ull << index % 64;
	if (walk->flags & (SOFT_TLB_LARGE | SOFT_TLB_HUGE))
		soft_tlb_note_large(cpu, linear, walk->flags);
	__atomic_store_n(&cpu->tlb_flags[mmu][index], gpa | (walk->flags & ~SOFT_TLB_WRITE), __ATOMIC_RELAXED);
	entry->host = (uint64_t)(uintptr_t)(region->hva + (gpa - region->gpa));
	entry->addend = entry->host - page;
	__atomic_store_n(&entry->tag_read, page, __ATOMIC_RELAXED);
	if (!(walk->flags & SOFT_TLB_WRITE) || region->readonly || soft_region_is_watched(region, gpa)) {
		__atomic_store_n(&entry->tag_write, soft_tlb_no_tag(index), __ATOMIC_RELAXED);
		return false;
	}
	__atomic_store_n(&entry->tag_write, page, __ATOMIC_RELEASE);
	atomic_thread_fence(memory_order_seq_cst);
	if (!soft_region_is_watched(region, gpa))
		return true;
	__atomic_store_n(&entry->tag_write, soft_tlb_no_tag(index), __ATOMIC_RELAXED);
	return false;
}

static void bounce_begin(struct soft_cpu *cpu, enum soft_bounce_kind kind, uint64_t linear, uint32_t how, uint64_t gpa)
{
	cpu->bounce.kind = kind;
	cpu->bounce.write = how & SOFT_HOW_WRITE;
	cpu->bounce.size = cpu->bounce.size1 = how & SOFT_HOW_SIZE;
	cpu->bounce.gva = linear;
	cpu->bounce.gpa[0] = gpa;
}

/* An access within one page that can't be made in place, or not without a commit. */
static __attribute__((noinline)) uint8_t *bounce_page(struct soft_cpu *cpu, uint64_t linear, uint32_t how,
						      struct soft_region *region, uint64_t gpa)
{
	uint8_t *buffer = cpu->bounce_buf + (linear & 63), *host;
	unsigned size = how & SOFT_HOW_SIZE;

	if (!region) {
		bounce_begin(cpu, SOFT_BOUNCE_MMIO, linear, how, gpa);
		if (!(how & SOFT_HOW_WRITE) || (how & SOFT_HOW_READ))
			mmio(cpu, gpa, buffer, size, false);
		if (!(how & SOFT_HOW_WRITE))
			cpu->bounce.kind = SOFT_BOUNCE_NONE;
		return buffer;
	}
	host = region->hva + (gpa - region->gpa);
	if (region->readonly) {
		bounce_begin(cpu, SOFT_BOUNCE_DISCARD, linear, how, gpa);
		copy(buffer, host, size);
		return buffer;
	}
	bounce_begin(cpu, SOFT_BOUNCE_CODE, linear, how, gpa);
	return host;
}

/* The page after linear's, at the end of the address space the first. */
static uint64_t next_page(const struct soft_cpu *cpu, uint64_t linear)
{
	uint64_t next = (linear | SOFT_PAGE_MASK) + 1;

	return cpu->mode & SOFT_MODE_CODE64 || next != 1ull << 32 ? next : 0;
}

/* Translates one page's part of a crossing access; the host address, or NULL with *gpa for what is not memory. A store
 * to memory that is read-only also gives NULL. */
static uint8_t *split_page(struct soft_cpu *cpu, uint64_t linear, uint32_t how, uint64_t *gpa)
{
	unsigned mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT, index = soft_tlb_index(linear);
	struct soft_tlb_entry *entry = &cpu->tlb[mmu][index];
	uint64_t tag = __atomic_load_n(how & SOFT_HOW_WRITE ? &entry->tag_write : &entry->tag_read, __ATOMIC_RELAXED);
	struct soft_region *region;
	struct soft_walk walk;

	if (tag == (linear & ~(uint64_t)SOFT_PAGE_MASK)) {
		*gpa = (cpu->tlb_flags[mmu][index] & ~(uint64_t)SOFT_PAGE_MASK) | (linear & SOFT_PAGE_MASK);
		return (uint8_t *)(uintptr_t)(entry->host + (linear & SOFT_PAGE_MASK));
	}
	if (!walk_for(cpu, linear, how, &walk))
		mem_fault(cpu, linear, how);
	*gpa = walk.gpa;
	region = soft_region_at(cpu->vm, walk.gpa);
	if (!region)
		return NULL;
	tlb_fill(cpu, linear, mmu, region, &walk, how & SOFT_HOW_WRITE);
	if (region->readonly && (how & SOFT_HOW_WRITE))
		return NULL;
	return region->hva + (walk.gpa - region->gpa);
}

/* Fills a part of the buffer with what is at gpa: `host` is NULL for a device or for read-only memory. */
static void split_read(struct soft_cpu *cpu, uint8_t *to, const uint8_t *host, uint64_t gpa, unsigned size)
{
	if (!host)
		host = soft_gpa_to_hva(cpu->vm, gpa, NULL, NULL);
	if (host)
		copy(to, host, size);
	else
		mmio(cpu, gpa, to, size, false);
}

/* May generated code make the access to the page of `linear`, which is in the TLB? Where both pages of one that crosses
 * follow each other on the host too, it is made as it stands. */
static bool in_place(const struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	const struct soft_tlb_entry *entry =
	    &cpu->tlb[(how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT][soft_tlb_index(linear)];
	uint64_t tag = __atomic_load_n(how & SOFT_HOW_WRITE ? &entry->tag_write : &entry->tag_read, __ATOMIC_RELAXED);

	return !(how & SOFT_HOW_LOCK) && tag == (linear & ~(uint64_t)SOFT_PAGE_MASK);
}

static __attribute__((noinline)) uint8_t *bounce_split(struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	unsigned size = how & SOFT_HOW_SIZE, size1 = SOFT_PAGE_SIZE - (linear & SOFT_PAGE_MASK);
	uint8_t *buffer = cpu->bounce_buf + (linear & 63), *host[2];
	uint64_t second = next_page(cpu, linear), gpa[2];

	if ((cpu->efer & EFER_LMA) && (!soft_is_canonical(linear) || !soft_is_canonical(second)))
		soft_raise(cpu, how & SOFT_HOW_STACK ? EXC_SS : EXC_GP, 0);
	/* The only LOCKed access of 16 bytes is CMPXCHG16B, which must be aligned. */
	if ((how & SOFT_HOW_LOCK) && size == 16)
		soft_raise(cpu, EXC_GP, 0);
	host[0] = split_page(cpu, linear, how, &gpa[0]);
	host[1] = split_page(cpu, second, how, &gpa[1]);
	if (checks_alignment(cpu, how))
		alignment_check(cpu, linear, how);
	if (host[0] && host[1] == host[0] + size1 && in_place(cpu, linear, how) && in_place(cpu, second, how))
		return host[0];
	bounce_begin(cpu, SOFT_BOUNCE_SPLIT, linear, how, gpa[0]);
	cpu->bounce.size1 = size1;
	cpu->bounce.gpa[1] = gpa[1];
	cpu->bounce.host[0] = host[0];
	cpu->bounce.host[1] = host[1];
	cpu->bounce.locked = how & SOFT_HOW_LOCK;
	if (how & SOFT_HOW_LOCK) {
		soft_heavy_begin(cpu);
		pthread_mutex_lock(&cpu->vm->split_lock);
		soft_heavy_end(cpu);
	}
	/* What is stored may leave bytes alone: FXSAVE, and x87 stores that meet an unmasked exception. */
	bool reads = !(how & SOFT_HOW_WRITE) || (how & SOFT_HOW_READ);
	if (reads || host[0])
		split_read(cpu, buffer, host[0], gpa[0], size1);
	if (reads || host[1])
		split_read(cpu, buffer + size1, host[1], gpa[1], size - size1);
	if (!(how & SOFT_HOW_WRITE))
		cpu->bounce.kind = SOFT_BOUNCE_NONE;
	return buffer;
}

uint8_t *soft_mem_slow(struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	unsigned size = how & SOFT_HOW_SIZE, mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT;
	struct soft_region *region;
	struct soft_walk walk;
	bool writable;

	cpu->bounce.kind = SOFT_BOUNCE_NONE;
	if (__builtin_expect(cpu->watch.data, 0))
		soft_watch_access(cpu, linear, how);
	if (__builtin_expect((linear & SOFT_PAGE_MASK) + size > SOFT_PAGE_SIZE, 0))
		return bounce_split(cpu, linear, how);
	if (__builtin_expect(!walk_for(cpu, linear, how, &walk), 0))
		mem_fault(cpu, linear, how);
	region = soft_region_at(cpu->vm, walk.gpa);
	if (__builtin_expect(!region, 0))
		return bounce_page(cpu, linear, how, NULL, walk.gpa);
	writable = tlb_fill(cpu, linear, mmu, region, &walk, how & SOFT_HOW_WRITE);
	if (__builtin_expect(checks_alignment(cpu, how), 0))
		alignment_check(cpu, linear, how);
	if ((how & SOFT_HOW_WRITE) && !writable)
		return bounce_page(cpu, linear, how, region, walk.gpa);
	return region->hva + (walk.gpa - region->gpa);
}

uint8_t *soft_mem_group(struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	unsigned size = how & SOFT_HOW_SIZE, mmu = (how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT;
	struct soft_region *region;
	struct soft_walk walk;
	bool writable;

	if ((linear & SOFT_PAGE_MASK) + size > SOFT_PAGE_SIZE || checks_alignment(cpu, how) ||
	    !walk_for(cpu, linear, how, &walk))
		return NULL;
	region = soft_region_at(cpu->vm, walk.gpa);
	if (!region)
		return NULL;
	writable = tlb_fill(cpu, linear, mmu, region, &walk, how & SOFT_HOW_WRITE);
	if ((how & SOFT_HOW_WRITE) && !writable)
		return NULL;
	return region->hva + (walk.gpa - region->gpa);
}

/* Writes a part of the buffer to where split_read's came from. Returns whether it changed code. */
static bool split_write(struct soft_cpu *cpu, const uint8_t *from, uint8_t *host, uint64_t gpa, unsigned size)
{
	struct soft_region *region = soft_region_at(cpu->vm, gpa);

	if (!region)
		mmio(cpu, gpa, (uint8_t *)(uintptr_t)from, size, true);
	if (!region || !host)
		return false;
	copy(host, from, size);
	atomic_thread_fence(memory_order_seq_cst);
	return soft_region_is_watched(region, gpa) && soft_code_written(cpu->vm, gpa, size);
}

static bool commit_split(struct soft_cpu *cpu)
{
	const uint8_t *buffer = cpu->bounce_buf + (cpu->bounce.gva & 63);
	unsigned size1 = cpu->bounce.size1;
	bool changed;

	changed = split_write(cpu, buffer, cpu->bounce.host[0], cpu->bounce.gpa[0], size1);
	changed |= split_write(cpu, buffer + size1, cpu->bounce.host[1], cpu->bounce.gpa[1], cpu->bounce.size - size1);
	if (cpu->bounce.locked) {
		soft_heavy_begin(cpu);
		pthread_mutex_unlock(&cpu->vm->split_lock);
		soft_heavy_end(cpu);
	}
	return changed;
}

static bool mem_commit(struct soft_cpu *cpu)
{
	enum soft_bounce_kind kind = cpu->bounce.kind;

	cpu->bounce.kind = SOFT_BOUNCE_NONE;
	switch (kind) {
	case SOFT_BOUNCE_MMIO:
		mmio(cpu, cpu->bounce.gpa[0], cpu->bounce_buf + (cpu->bounce.gva & 63), cpu->bounce.size, true);
		return false;
	case SOFT_BOUNCE_SPLIT:
		return commit_split(cpu);
	case SOFT_BOUNCE_CODE:
		atomic_thread_fence(memory_order_seq_cst); /* it may be of data and of code again since we looked */
		return soft_code_written(cpu->vm, cpu->bounce.gpa[0], cpu->bounce.size);
	case SOFT_BOUNCE_LANES:
		return soft_lanes_commit(cpu);
	case SOFT_BOUNCE_NONE:
	case SOFT_BOUNCE_DISCARD:
		break;
	}
	return false;
}

bool soft_mem_commit(struct soft_cpu *cpu)
{
	unsigned state = profile_enter(cpu, PROFILE_COMMIT);
	bool changed = mem_commit(cpu);

	if (changed)
		profile_count(cpu, PROFILE_CODE_DROPPED);
	profile_back(cpu, state);
	return changed;
}

static inline unsigned mmu_system(const struct soft_cpu *cpu)
{
	return cpu->cr4 & CR4_SMAP ? SOFT_MMU_KERNEL : SOFT_MMU_KERNEL_AC;
}

static inline uint64_t load(struct soft_cpu *cpu, uint64_t linear, unsigned size, unsigned mmu)
{
	struct soft_tlb_entry *entry = &cpu->tlb[mmu][soft_tlb_index(linear)];
	uint64_t offset = linear ^ entry->tag_read;

	if (offset <= SOFT_PAGE_SIZE - size)
		return unaligned_load((uint8_t *)(uintptr_t)(offset + entry->host), size);
	return unaligned_load(soft_mem_slow(cpu, linear, size | SOFT_HOW_READ | mmu << SOFT_HOW_MMU_SHIFT), size);
}

static inline bool store(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value, unsigned mmu)
{
	struct soft_tlb_entry *entry = &cpu->tlb[mmu][soft_tlb_index(linear)];
	uint64_t offset = linear ^ __atomic_load_n(&entry->tag_write, __ATOMIC_RELAXED);

	if (offset <= SOFT_PAGE_SIZE - size) {
		unaligned_store((uint8_t *)(uintptr_t)(offset + entry->host), size, value);
		return false;
	}
	unaligned_store(soft_mem_slow(cpu, linear, size | SOFT_HOW_WRITE | mmu << SOFT_HOW_MMU_SHIFT), size, value);
	return cpu->bounce.kind != SOFT_BOUNCE_NONE && soft_mem_commit(cpu);
}

uint64_t soft_load(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	return load(cpu, linear, size, soft_mmu_current(cpu));
}

uint64_t soft_load_system(struct soft_cpu *cpu, uint64_t linear, unsigned size)
{
	return load(cpu, linear, size, mmu_system(cpu));
}

bool soft_store_noting(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value)
{
	return store(cpu, linear, size, value, soft_mmu_current(cpu));
}

void soft_store(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value)
{
	if (store(cpu, linear, size, value, soft_mmu_current(cpu)))
		cpu->code_changed = true;
}

void soft_store_system(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value)
{
	store(cpu, linear, size, value, mmu_system(cpu));
}

void soft_probe_write(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool system)
{
	unsigned mmu = system ? mmu_system(cpu) : soft_mmu_current(cpu);
	uint32_t how = size | SOFT_HOW_WRITE | mmu << SOFT_HOW_MMU_SHIFT;
	struct soft_walk walk;

	if (cpu->watch.data)
		soft_watch_access(cpu, linear, how);
	if (!walk_for(cpu, linear, how, &walk))
		mem_fault(cpu, linear, how);
	if ((linear & SOFT_PAGE_MASK) + size > SOFT_PAGE_SIZE) {
		linear = next_page(cpu, linear);
		if (!walk_for(cpu, linear, how, &walk))
			mem_fault(cpu, linear, how);
	}
}

uint8_t *soft_page_slow(struct soft_cpu *cpu, uint64_t linear, enum soft_access access, uint64_t *code)
{
	unsigned mmu = soft_mmu_current(cpu);
	uint32_t how = (access == SOFT_WRITE ? SOFT_HOW_WRITE : SOFT_HOW_READ) | mmu << SOFT_HOW_MMU_SHIFT;
	struct soft_region *region;
	struct soft_walk walk;
	bool writable;

	if (checks_alignment(cpu, how) || (cpu->watch.data && soft_watches_page(cpu, linear)))
		return NULL;
	if (!walk_for(cpu, linear, how, &walk))
		mem_fault(cpu, linear, how);
	region = soft_region_at(cpu->vm, walk.gpa);
	if (!region)
		return NULL;
	writable = tlb_fill(cpu, linear, mmu, region, &walk, how & SOFT_HOW_WRITE);
	if (access == SOFT_WRITE && !writable) {
		if (region->readonly)
			return NULL;
		*code = walk.gpa;
	}
	return region->hva + (walk.gpa - region->gpa);
}
