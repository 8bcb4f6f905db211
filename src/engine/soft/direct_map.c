/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct_map.c - a stub's address space, after a guest's page tables.
 *
 * Problem: the host's page tables of a stub are a second TLB for ring 3 (the translator's is mmu.c's), one that the host's
 * CPU walks, and each change costs microseconds.
 *
 * Scheme: a page is mapped when it faults, from the memfd that guest memory is, with those around it that the guest has used
 * (their accessed bit says so); neighbours that follow each other in physical memory too take one call. The rules of
 * a TLB hold: what the guest invalidates is dropped before the stub runs again, and a change of CR3 makes all of it
 * suspect, whereupon each page is compared with the page tables (direct_map_verify), which is cheaper than to begin again.
 *
 * Rules:
 * - A page is writable only if its PTE is dirty already, the memory is no ROM and it is not watched (vm.h). Against a vCPU that
 *   begins to watch it at the same time: we set SOFT_PAGE_DIRECT and then look at the flags; the other side sets its flag and then looks
 *   at ours, and if it is set revokes (soft_direct_protect). One of the two sees the other.
 * - A page is executable only if it has no sensitive instruction (direct_scan.c), and never while it is writable: code that
 *   writes code moves it back and forth, by faults.
 * - Whether a first access was a read or a write the host does not say. It is taken for a read; if the page faults again, it is
 *   a write. So accessed and dirty bits are those that a CPU would set.
 */
#include "engine/soft/direct_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "engine/soft/direct_scan.h"
#include "engine/soft/paging.h"

#define PTE_NX (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull
#define TASK_END 0x7ffffffff000u
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80 };
enum { FIRST_BITS = 12, MOST_BITS = 20, AROUND = 64, LARGE = 512, FREE = 0, USED = 1 };

/* What the guest's page tables say of a page. */
struct leaf {
	uint64_t gpa;
	bool write, exec, large;
};

/* Looks at the page tables as they are, without setting bits; remembers the last table of 4 KiB pages. */
struct walker {
	const struct soft_cpu *cpu;
	const uint64_t *table;
	uint64_t area, rights; /* linear >> 21 of that table; the and of W, U and not NX above it */
};

static uint64_t rights_of(uint64_t entry)
{
	return (entry & (PTE_W | PTE_U)) | (~entry & PTE_NX);
}

static const uint64_t *table_at(const struct soft_cpu *cpu, uint64_t gpa)
{
	return (const uint64_t *)(void *)soft_gpa_to_hva(cpu->vm, gpa & PTE_ADDRESS, NULL, NULL);
}

/* Finds the leaf's entry, and the size of its page as a shift; 0 when there is none. */
static unsigned find_entry(struct walker *walker, uint64_t linear, uint64_t *entry)
{
	const uint64_t *table = table_at(walker->cpu, walker->cpu->cr3);
	uint64_t rights = PTE_W | PTE_U | PTE_NX;
	for (unsigned shift = 39; table; shift -= 9) {
		*entry = __atomic_load_n(&table[linear >> shift & 511], __ATOMIC_RELAXED);
		if (!(*entry & PTE_P) || (shift == 39 && (*entry & PTE_PS)))
			return 0;
		if (shift == 12 || (*entry & PTE_PS)) {
			walker->table = shift == 12 ? table : NULL;
			walker->area = linear >> 21;
			walker->rights = rights;
			return shift;
		}
		rights &= rights_of(*entry);
		table = table_at(walker->cpu, *entry);
	}
	return 0;
}

/* False unless ring 3 may read the page, and has. */
static bool peek(struct walker *walker, uint64_t linear, struct leaf *leaf)
{
	unsigned shift = 12;
	uint64_t entry;
	if (walker->table && walker->area == linear >> 21)
		entry = __atomic_load_n(&walker->table[linear >> 12 & 511], __ATOMIC_RELAXED);
	else if (!(shift = find_entry(walker, linear, &entry)))
		return false;
	uint64_t rights = walker->rights & rights_of(entry), offset = (1ull << shift) - 1;
	if (!(entry & PTE_P) || !(entry & PTE_A) || !(rights & PTE_U))
		return false;
	leaf->gpa = (entry & PTE_ADDRESS & ~offset) | (linear & offset & ~(uint64_t)SOFT_PAGE_MASK);
	leaf->write = (rights & PTE_W) && (entry & PTE_D);
	leaf->exec = rights & PTE_NX;
	leaf->large = shift > 12;
	return true;
}

/* ---- The table ---- */

int direct_map_init(struct direct_map *map)
{
	map->bits = FIRST_BITS;
	map->used = map->calls = 0;
	memset(map->sensitive, 0, sizeof(map->sensitive));
	map->large = false;
	map->page = calloc((size_t)1 << map->bits, sizeof(*map->page));
	map->call = malloc(DIRECT_CALLS * sizeof(*map->call));
	if (map->page && map->call)
		return 0;
	direct_map_fini(map);
	return -ENOMEM;
}

void direct_map_fini(struct direct_map *map)
{
	free(map->page);
	free(map->call);
	map->page = NULL;
	map->call = NULL;
}

/* By the low bits, so that neighbours are neighbours: direct_map_verify looks at each table of the guest's once. */
static struct direct_page *find(const struct direct_map *map, uint64_t linear)
{
	uint64_t mask = (1ull << map->bits) - 1, i = linear >> 12 & mask;
	for (; map->page[i].linear != FREE; i = (i + 1) & mask)
		if (map->page[i].linear == linear)
			return &map->page[i];
	return NULL;
}

static void put(struct direct_map *map, uint64_t linear, uint64_t gpa)
{
	uint64_t mask = (1ull << map->bits) - 1, i = linear >> 12 & mask;
	while (map->page[i].linear > USED)
		i = (i + 1) & mask;
	map->used += map->page[i].linear == FREE;
	map->page[i] = (struct direct_page){ linear, gpa };
}

/* Makes room for one more, with a larger table or by throwing away places that were used. */
static bool make_room(struct direct_map *map)
{
	size_t places = (size_t)1 << map->bits;
	if (map->used < places / 2)
		return true;
	struct direct_map larger = *map;
	size_t live = 0;
	for (size_t i = 0; i < places; i++)
		live += map->page[i].linear > USED;
	larger.bits += live > places / 4;
	if (larger.bits > MOST_BITS || !(larger.page = calloc((size_t)1 << larger.bits, sizeof(*larger.page))))
		return false;
	larger.used = 0;
	for (size_t i = 0; i < places; i++)
		if (map->page[i].linear > USED)
			put(&larger, map->page[i].linear, map->page[i].gpa);
	free(map->page);
	*map = larger;
	return true;
}

/* ---- Calls ---- */

void direct_map_reset(struct direct_map *map)
{
	memset(map->page, 0, sizeof(*map->page) << map->bits);
	memset(map->sensitive, 0, sizeof(map->sensitive));
	map->used = 0;
	map->large = false;
	map->call[0] = (struct direct_call){ SYS_munmap, { 0, DIRECT_STUB_BASE } };
	map->call[1] = (struct direct_call){ SYS_munmap, { DIRECT_STUB_END, TASK_END - DIRECT_STUB_END } };
	map->calls = 2;
}

static bool call_unmap(struct direct_map *map, uint64_t linear)
{
	struct direct_call *last = map->calls ? &map->call[map->calls - 1] : NULL;
	if (last && last->number == SYS_munmap && last->argument[0] + last->argument[1] == linear) {
		last->argument[1] += SOFT_PAGE_SIZE;
		return true;
	}
	if (!map->call || map->calls == DIRECT_CALLS)
		return false;
	map->call[map->calls++] = (struct direct_call){ SYS_munmap, { linear, SOFT_PAGE_SIZE } };
	return true;
}

static bool call_map(struct direct_map *map, uint64_t linear, const struct soft_region *region, uint64_t offset,
		     unsigned rights)
{
	struct direct_call *last = map->calls ? &map->call[map->calls - 1] : NULL;
	uint64_t prot = PROT_READ | (rights & DIRECT_WRITE ? PROT_WRITE : 0) | (rights & DIRECT_EXEC ? PROT_EXEC : 0);
	uint64_t fd = (uint64_t)region->fd, flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
	if (last && last->number == SYS_mmap && last->argument[0] + last->argument[1] == linear &&
	    last->argument[2] == prot && last->argument[4] == fd && last->argument[5] + last->argument[1] == offset) {
		last->argument[1] += SOFT_PAGE_SIZE;
		return true;
	}
	if (!map->call || map->calls == DIRECT_CALLS)
		return false;
	map->call[map->calls++] = (struct direct_call){ SYS_mmap, { linear, SOFT_PAGE_SIZE, prot, flags, fd, offset } };
	return true;
}

/* ---- Mapping ---- */

static bool mappable(uint64_t linear)
{
	return linear >= DIRECT_LOWEST && linear < DIRECT_HIGHEST &&
	       (linear >= DIRECT_STUB_END || linear < DIRECT_STUB_BASE);
}

bool direct_map_in_the_way(const struct soft_cpu *cpu)
{
	const uint64_t *table = table_at(cpu, cpu->cr3);
	return !table || (__atomic_load_n(&table[DIRECT_STUB_BASE >> 39 & 511], __ATOMIC_RELAXED) & PTE_P);
}

static const uint8_t *contents(const struct soft_region *region, uint64_t gpa)
{
	return region->hva + (gpa - region->gpa);
}

/* What is mapped at linear, or NULL. */
static const uint8_t *neighbour(const struct walker *walker, uint64_t linear)
{
	struct walker other = *walker;
	struct leaf leaf;
	if (!peek(&other, linear, &leaf))
		return NULL;
	const struct soft_region *region = soft_region_at(walker->cpu->vm, leaf.gpa);
	return region ? contents(region, leaf.gpa) : NULL;
}

static bool may_execute(const struct walker *walker, const struct soft_region *region, const struct leaf *leaf,
			uint64_t linear)
{
	return !direct_scan_sensitive(contents(region, leaf->gpa), neighbour(walker, linear - SOFT_PAGE_SIZE),
				      neighbour(walker, linear + SOFT_PAGE_SIZE));
}

/* With which rights the page can be mapped; executable rather than writable, if asked and possible. */
static unsigned rights_for(const struct walker *walker, struct soft_region *region, const struct leaf *leaf,
			   uint64_t linear, bool exec)
{
	if (exec && leaf->exec && may_execute(walker, region, leaf, linear))
		return DIRECT_EXEC;
	if (!leaf->write || region->readonly)
		return 0;
	_Atomic uint8_t *flags = &region->page_flags[(leaf->gpa - region->gpa) / SOFT_PAGE_SIZE];
	if (!(atomic_load_explicit(flags, memory_order_relaxed) & SOFT_PAGE_DIRECT))
		atomic_fetch_or(flags, SOFT_PAGE_DIRECT);
	atomic_thread_fence(memory_order_seq_cst);
	return soft_region_is_watched(region, leaf->gpa) ? 0 : DIRECT_WRITE;
}

static bool map_page(struct direct_map *map, const struct soft_region *region, const struct leaf *leaf, uint64_t linear,
		     unsigned rights)
{
	if (!make_room(map))
		direct_map_reset(map);
	if (!call_map(map, linear, region, leaf->gpa - region->gpa, rights))
		return false;
	struct direct_page *page = find(map, linear);
	if (page)
		page->gpa = leaf->gpa | rights;
	else
		put(map, linear, leaf->gpa | rights);
	map->large |= leaf->large;
	return true;
}

/* The memory that a page is in, if a stub can have it. */
static struct soft_region *memory_of(const struct walker *walker, const struct leaf *leaf)
{
	struct soft_region *region = soft_region_at(walker->cpu->vm, leaf->gpa);
	return region && region->fd >= 0 ? region : NULL;
}

/* Maps what the guest has used around a page that was mapped. */
static void map_around(struct direct_map *map, struct walker *walker, uint64_t linear, bool large, bool exec)
{
	uint64_t size = (uint64_t)(large && !exec ? LARGE : AROUND) * SOFT_PAGE_SIZE, first = linear & ~(size - 1);
	struct leaf leaf;
	for (uint64_t at = first; at < first + size; at += SOFT_PAGE_SIZE) {
		if (at == linear || !mappable(at) || !peek(walker, at, &leaf))
			continue;
		struct soft_region *region = memory_of(walker, &leaf);
		const struct direct_page *page = find(map, at);
		if (!region || (page && (!exec || !leaf.exec || (page->gpa & (DIRECT_WRITE | DIRECT_EXEC)))))
			continue;
		unsigned rights = rights_for(walker, region, &leaf, at, exec);
		if ((!page || rights) && !map_page(map, region, &leaf, at, rights))
			return;
	}
}

/* Where a page is noted that turned out to be none to execute, so that it need not be looked at each time. */
static uint64_t *sensitive_at(struct direct_map *map, uint64_t linear)
{
	return &map->sensitive[linear >> 12 & (DIRECT_SENSITIVE - 1)];
}

static bool is_page_of(uint64_t page, uint64_t linear)
{
	return page == (linear & ~(uint64_t)SOFT_PAGE_MASK);
}

bool direct_map_fault(struct direct_map *map, struct soft_cpu *cpu, uint64_t linear, uint64_t rip)
{
	bool exec = linear - rip < INSN_MAX_LEN;
	struct walker walker = { .cpu = cpu };
	struct soft_walk walk;
	struct leaf leaf;
	linear &= ~(uint64_t)SOFT_PAGE_MASK;
	if (!mappable(linear) || (exec && *sensitive_at(map, linear) == linear))
		return false;
	const struct direct_page *page = find(map, linear); /* later only: was there one? */
	if (page && (page->gpa & DIRECT_EXEC)) {
		exec = false; /* it can't have been that */
		if (is_page_of(linear, rip) || is_page_of(linear, rip + INSN_MAX_LEN - 1))
			return false; /* the instruction writes where it stands: a page can't be made fit for it */
	}
	if (page && !exec && (page->gpa & DIRECT_WRITE))
		return false;
	if (!soft_walk(cpu, linear,
		       exec   ? SOFT_EXEC
		       : page ? SOFT_WRITE
			      : SOFT_READ,
		       true, false, &walk) ||
	    !peek(&walker, linear, &leaf))
		return false;
	struct soft_region *region = memory_of(&walker, &leaf);
	/* What was translated from a page that ring 3 writes is of no use: it would stop each store. */
	if (region && page && !exec && !region->readonly && soft_region_is_watched(region, leaf.gpa))
		soft_code_written(cpu->vm, leaf.gpa, SOFT_PAGE_SIZE);
	unsigned rights = region ? rights_for(&walker, region, &leaf, linear, exec) : 0;
	if (exec && region && !(rights & DIRECT_EXEC))
		*sensitive_at(map, linear) = linear;
	if (!region || (exec && !(rights & DIRECT_EXEC)) || (page && !exec && !(rights & DIRECT_WRITE)) ||
	    !map_page(map, region, &leaf, linear, rights))
		return false;
	if (!page)
		map_around(map, &walker, linear, leaf.large, exec);
	return true;
}

void direct_map_ahead(struct direct_map *map, struct soft_cpu *cpu, uint64_t linear)
{
	struct walker walker = { .cpu = cpu };
	struct leaf leaf;
	linear &= ~(uint64_t)SOFT_PAGE_MASK;
	if (!mappable(linear) || find(map, linear) || !peek(&walker, linear, &leaf))
		return;
	struct soft_region *region = memory_of(&walker, &leaf);
	if (!region || !map_page(map, region, &leaf, linear, rights_for(&walker, region, &leaf, linear, false)))
		return;
	map_around(map, &walker, linear, leaf.large, false);
}

/* ---- Unmapping ---- */

static void unmap(struct direct_map *map, struct direct_page *page)
{
	uint64_t linear = page->linear;
	page->linear = USED;
	if (*sensitive_at(map, linear) == linear)
		*sensitive_at(map, linear) = 0;
	if (!call_unmap(map, linear))
		direct_map_reset(map);
}

/* Has a page as the guest's tables have it now: it will be accessed again. */
static void refresh(struct direct_map *map, struct walker *walker, struct direct_page *page)
{
	uint64_t linear = page->linear;
	struct leaf leaf;
	struct soft_region *region = peek(walker, linear, &leaf) ? memory_of(walker, &leaf) : NULL;
	if (!region) {
		unmap(map, page);
		return;
	}
	unsigned rights = rights_for(walker, region, &leaf, linear, page->gpa & DIRECT_EXEC);
	if (page->gpa == (leaf.gpa | rights))
		return;
	*sensitive_at(map, linear) = 0;
	map->large |= leaf.large;
	page->gpa = leaf.gpa | rights;
	if (!call_map(map, linear, region, leaf.gpa - region->gpa, rights))
		direct_map_reset(map);
}

void direct_map_verify(struct direct_map *map, struct soft_cpu *cpu)
{
	struct walker walker = { .cpu = cpu };
	struct leaf leaf;
	for (size_t i = 0; i < (size_t)1 << map->bits; i++) {
		struct direct_page *page = &map->page[i];
		if (page->linear <= USED)
			continue;
		if (!peek(&walker, page->linear, &leaf) || leaf.gpa != (page->gpa & ~(uint64_t)SOFT_PAGE_MASK) ||
		    ((page->gpa & DIRECT_WRITE) && !leaf.write) || ((page->gpa & DIRECT_EXEC) && !leaf.exec))
			refresh(map, &walker, page);
		else
			map->large |= leaf.large; /* the guest may have made one of small ones, in place */
	}
}

void direct_map_drop(struct direct_map *map, struct soft_cpu *cpu, uint64_t linear)
{
	struct walker walker = { .cpu = cpu };
	struct direct_page *page = find(map, linear & ~(uint64_t)SOFT_PAGE_MASK);
	if (page)
		refresh(map, &walker, page);
}

void direct_map_protect(struct direct_map *map, uint64_t gpa)
{
	for (size_t i = 0; i < (size_t)1 << map->bits; i++) {
		struct direct_page *page = &map->page[i];
		if (page->linear > USED && (gpa == SOFT_EVERY_PAGE || (page->gpa & ~(uint64_t)SOFT_PAGE_MASK) == gpa) &&
		    (page->gpa & DIRECT_WRITE))
			unmap(map, page);
	}
}
