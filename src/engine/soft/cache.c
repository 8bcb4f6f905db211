/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - the block cache. cache.h says what it promises.
 *
 * Self-modifying code. A physical page from which a block was made is *watched*: its SOFT_PAGE_CODE flag is set, and
 * no soft TLB holds a write tag for it, so every store to it comes through soft_mem_commit and cache.c's
 * soft_code_written, which drops the blocks that depend on the bytes. The page stays watched until a store finds that its
 * last block is gone. The flag is set before the bytes are read (cache_watch_page): a store that comes later is seen, one that came
 * earlier is read. A store of another vCPU that passed its check before the flag was set and lands after the read is
 * what an unsynchronised store into running code is on real hardware; the guest must serialise by an interrupt, which
 * orders it before the next look-up but not before this read, so the window is a few host instructions wide. (For that
 * reason eviction leaves pages watched: a store to a page of which something will be made again soon takes the slow path.)
 *
 * Eviction. The problem: generated code runs without asking anybody, so nobody may write to a dropped block's memory while a vCPU
 * may still be in it, have a return to it on its return stack or hold a pointer to it; and a world that is stopped to be
 * sure of that waits for its slowest vCPU.
 *
 * The scheme: nobody waits, since it is done in advance. The cache is a ring of regions. While one is filled, the next two,
 * which are the oldest, are evicted, with each block that is made a few blocks of them:
 *
 *   REGION_FULL      its blocks become unreachable one by one (block_kill): out of the hash and all jump caches, links undone;
 *   REGION_LEAVING   all are; the vCPUs are asked to let go (SOFT_KICK_EVICT), which each does in the dispatcher, where it holds
 *                    no pointers: its return stack is emptied, and it notes the epoch (cache_pass). When all have, or
 *                    were outside of vcpu_run or in ring 3 that runs directly, the blocks are taken off their
 *                    pages' lists, a few at a time again;
 *   REGION_EMPTY     it can be filled.
 *
 * So blocks are evicted in the order in which they were made, and what is still in use is soon made again.
 * A vCPU only has to wait if it has filled a region and more, and another one has not come to its dispatcher meanwhile, as a
 * rule because the host runs something else. It waits in the dispatcher, having let go itself.
 *
 * Blocks laid aside. Data and code in one page, or code that is made again and again as it was (a compiler's output, a JIT's stubs):
 * what a store has dropped is often wanted again with the same bytes. So where that happens, what is translated is translated from a
 * copy of the page, of which the block keeps the bytes that it depends on; when a store drops it, it is laid aside, and it
 * is revived instead of being translated again if memory holds those bytes once more. (From a copy, since
 * another vCPU may write while we translate: that store drops the block as soon as we are done, whatever we have seen of
 * it, and the kept bytes must be those that were translated.)
 *
 * A block dropped for another reason (a store, a lesson) lies in its region, unreachable, until that is evicted. It
 * stays on its pages' lists, so that whoever runs it and writes to its bytes is told.
 */
#include "engine/soft/cache.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/soft/cpu.h"
#include "engine/soft/direct.h"
#include "engine/soft/emit.h"
#include "engine/soft/slots.h"
#include "engine/soft/unaligned.h"

enum {
	CODE_SIZE = 32 << 20,
	COLD_AT = CODE_SIZE / 2, /* where what lies out of line begins */
	CODE_SLACK = 64 << 10,   /* what one block can take at most */
	REGIONS = 16,
	REGION_CODE = COLD_AT / REGIONS, /* of either part */
	REGION_META = 9 << 18,
	REGION_BLOCKS = 1 << 13,
	SMALL_REGION_CODE = 128 << 10, /* with small_cache; half of it is CODE_SLACK */
	EVICT_AHEAD = 2,               /* regions */
	EVICT_AT_ONCE = 4,             /* blocks, with each that is made */
	HASH_BITS = 17,
	LESSON_BITS = 13,
	ASIDE_BITS = 14,
	WRITTEN_BITS = 15,
	KEPT_BYTES = 1024, /* of what a block depends on, at most */
};
enum { LOCK_FREE, LOCK_HELD, LOCK_WAITED_FOR, LOCK_SPINS = 500 };

/* One of those that are filled in turn. What of it is used stays said until it is empty. */
struct region {
	enum { REGION_EMPTY, REGION_FULL, REGION_LEAVING } state;
	unsigned done;  /* blocks that the state's work has been done for */
	uint64_t epoch; /* REGION_LEAVING: who passed since then is not in it */
	size_t code_used, cold_used, meta_used;
	_Atomic unsigned blocks;
	struct soft_block **order; /* by address of code: for cache_find_pc */
};

/* What was learned of a block for its next translation. */
struct lesson {
	uint64_t gpa, rip;
	uint32_t mode;
	struct cache_lessons lessons;
};

struct soft_cache {
	struct soft_vm *vm;
	_Atomic uint32_t lock;   /* LOCK_* */
	_Atomic uint32_t passes; /* of CPUs, for who waits for room */
	uint32_t waiting;        /* how many do */
	uint8_t *write_view, *exec_view;
	uint8_t *meta;
	struct soft_block **order; /* the regions', one after the other */
	struct region region[REGIONS];
	unsigned current;        /* the one being filled */
	size_t region_code;      /* bytes of code, of either part, in each */
	uint64_t epoch, evicted; /* go up whenever CPUs are asked to let go, and when all of them have */
	_Atomic unsigned inserts;
	_Atomic(struct soft_block *) hash[1 << HASH_BITS];
	unsigned next_slot;
	struct lesson lesson[1 << LESSON_BITS];
	struct soft_block *aside[1 << ASIDE_BITS]; /* by hash_of */
	uint64_t
	    pages_written[1 << (WRITTEN_BITS - 6)]; /* whose blocks a store has dropped: a bit each, by page number */
};

enum { META_SIZE = REGIONS * REGION_META, ORDER_SIZE = REGIONS * REGION_BLOCKS * sizeof(struct soft_block *) };

static void futex(_Atomic uint32_t *at, int what, uint32_t value, const struct timespec *timeout)
{
	syscall(SYS_futex, at, what | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

/* It is held for some microseconds as a rule, so spinning for that long comes first; but not with sched_yield, which costs a
 * thread its whole turn, and that is long when the host has much to do. */
void cache_lock(struct soft_cache *cache)
{
	for (unsigned spins = 0; spins < LOCK_SPINS; spins++) {
		uint32_t expected = LOCK_FREE;
		if (atomic_compare_exchange_weak_explicit(&cache->lock, &expected, LOCK_HELD, memory_order_acquire,
							  memory_order_relaxed))
			return;
		__builtin_ia32_pause();
	}
	while (atomic_exchange_explicit(&cache->lock, LOCK_WAITED_FOR, memory_order_acquire) != LOCK_FREE)
		futex(&cache->lock, FUTEX_WAIT, LOCK_WAITED_FOR, NULL);
}

void cache_unlock(struct soft_cache *cache)
{
	if (atomic_exchange_explicit(&cache->lock, LOCK_FREE, memory_order_release) == LOCK_WAITED_FOR)
		futex(&cache->lock, FUTEX_WAKE, 1, NULL);
}

int cache_create(struct soft_cache **out, struct soft_vm *vm, struct error *err)
{
	struct soft_cache *cache = calloc(1, sizeof(*cache));
	int fd = memfd_create("plures-code", MFD_CLOEXEC);
	int rc = -ENOMEM;
	if (!cache || fd < 0 || ftruncate(fd, CODE_SIZE) < 0)
		goto fail;
	cache->vm = vm;
	cache->epoch = 1;
	cache->region_code = vm->small_cache ? SMALL_REGION_CODE : REGION_CODE;
	cache->write_view = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	/* Below 4 GiB, so that the jump cache has room for its addresses. */
	cache->exec_view = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_32BIT, fd, 0);
	cache->meta = mmap(NULL, META_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cache->order =
	    mmap(NULL, ORDER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	close(fd);
	if (cache->write_view == MAP_FAILED || cache->exec_view == MAP_FAILED || cache->meta == MAP_FAILED ||
	    cache->order == MAP_FAILED) {
		rc = error_errno(err, -errno, "can't map %u MB for translated code", CODE_SIZE >> 20);
		cache_destroy(cache);
		return rc;
	}
	for (unsigned i = 0; i < REGIONS; i++)
		cache->region[i].order = cache->order + (size_t)i * REGION_BLOCKS;
	*out = cache;
	return 0;
fail:
	rc = error_errno(err, errno ? -errno : rc, "can't make the memory for translated code");
	if (fd >= 0)
		close(fd);
	free(cache);
	return rc;
}

static void unmap(void *p, size_t size)
{
	if (p && p != MAP_FAILED)
		munmap(p, size);
}

void cache_destroy(struct soft_cache *cache)
{
	if (!cache)
		return;
	unmap(cache->write_view, CODE_SIZE);
	unmap(cache->exec_view, CODE_SIZE);
	unmap(cache->meta, META_SIZE);
	unmap(cache->order, ORDER_SIZE);
	free(cache);
}

void cache_stay(struct soft_cache *cache)
{
	madvise(cache->meta, META_SIZE, MADV_DONTFORK);
	madvise(cache->order, ORDER_SIZE, MADV_DONTFORK);
}

static unsigned hash_of(uint64_t gpa, uint64_t rip, uint32_t mode)
{
	uint64_t h = (gpa ^ (uint64_t)mode << 40 ^ (rip >> 12) << 20) * 0x9e3779b97f4a7c15u;
	return (unsigned)(h >> (64 - HASH_BITS));
}

struct soft_block *cache_find(struct soft_cache *cache, uint64_t gpa, uint64_t rip, uint32_t mode)
{
	struct soft_block *b = atomic_load_explicit(&cache->hash[hash_of(gpa, rip, mode)], memory_order_acquire);
	for (; b; b = atomic_load_explicit(&b->hash_next, memory_order_acquire)) {
		if (b->gpa == gpa && b->rip == rip && b->mode == mode && !b->dead)
			return b;
	}
	return NULL;
}

struct soft_block *cache_find_pc(struct soft_cache *cache, const uint8_t *pc)
{
	size_t offset = (size_t)(pc - cache->exec_view);
	unsigned part = offset >= COLD_AT, i = (unsigned)((part ? offset - COLD_AT : offset) / cache->region_code);
	if (offset >= CODE_SIZE || i >= REGIONS)
		return NULL;
	const struct region *r = &cache->region[i];
	unsigned lo = 0, blocks = atomic_load(&r->blocks), hi = blocks;
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		if (r->order[mid]->part[part].end <= pc)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < blocks && r->order[lo]->part[part].start <= pc ? r->order[lo] : NULL;
}

const struct soft_map *cache_find_map(const struct soft_block *block, const uint8_t *pc)
{
	uint32_t at = (uint32_t)(pc - block->part[0].start);
	const struct soft_map *best = NULL;
	for (unsigned i = 0; i < block->maps && block->map[i].host <= at; i++)
		best = &block->map[i];
	return best;
}

bool soft_code_rip(struct soft_vm *vm, uint64_t pc, uint64_t mask, uint64_t *rip)
{
	uint64_t offset = (pc - (uintptr_t)vm->cache->exec_view) & mask;
	if (offset >= CODE_SIZE)
		return false;
	const struct soft_block *b = cache_find_pc(vm->cache, vm->cache->exec_view + offset);
	const struct soft_map *m = b ? cache_find_map(b, vm->cache->exec_view + offset) : NULL;
	*rip = m ? b->rip + m->guest : 0;
	return true;
}

unsigned cache_next_slot(struct soft_cache *cache)
{
	return cache->next_slot++;
}

void *cache_alloc(struct soft_cache *cache, size_t size)
{
	struct region *r = &cache->region[cache->current];
	size = (size + 15) & ~(size_t)15;
	if (r->meta_used + size > REGION_META)
		return NULL;
	void *p = cache->meta + (size_t)cache->current * REGION_META + r->meta_used;
	r->meta_used += size;
	return p;
}

static bool region_has_room(const struct soft_cache *cache, const struct region *r)
{
	return r->code_used + CODE_SLACK <= cache->region_code && r->cold_used + CODE_SLACK <= cache->region_code &&
	       r->meta_used + CODE_SLACK <= REGION_META && r->blocks < REGION_BLOCKS;
}

/* The region to be filled n regions from now. */
static struct region *region_ahead(struct soft_cache *cache, unsigned n)
{
	return &cache->region[(cache->current + n) % REGIONS];
}

bool cache_room(struct soft_cache *cache, struct soft_room *room)
{
	struct region *r = &cache->region[cache->current];
	if (!region_has_room(cache, r)) {
		struct region *next = region_ahead(cache, 1);
		if (next->state != REGION_EMPTY)
			return false;
		r->state = REGION_FULL;
		cache->current = (cache->current + 1) % REGIONS;
		r = next;
	}
	size_t at = cache->current * cache->region_code;
	r->meta_used = (r->meta_used + 63) & ~(size_t)63;
	room->block = cache_alloc(cache, sizeof(*room->block));
	*room->block = (struct soft_block){ 0 };
	room->code = cache->write_view + at + r->code_used;
	room->cold = cache->write_view + COLD_AT + at + r->cold_used;
	room->to_exec = cache->exec_view - cache->write_view;
	return true;
}

static struct soft_region *memory_of(struct soft_vm *vm, uint64_t gpa)
{
	for (unsigned i = 0; i < vm->regions; i++)
		if (gpa - vm->region[i].gpa < vm->region[i].size)
			return &vm->region[i];
	return NULL;
}

static _Atomic uint8_t *page_flags(struct soft_vm *vm, uint64_t gpa)
{
	struct soft_region *r = memory_of(vm, gpa);
	return r ? &r->page_flags[(gpa - r->gpa) >> 12] : NULL;
}

static struct soft_page_code *page_code(struct soft_vm *vm, uint64_t gpa)
{
	struct soft_region *r = memory_of(vm, gpa);
	return &r->page_code[(gpa - r->gpa) >> 12];
}

/* The bits of soft_page_code.lines for bytes [lo, hi). */
static uint64_t lines_of(unsigned lo, unsigned hi)
{
	return lo < hi ? ~UINT64_C(0) << (lo >> 6) & ~UINT64_C(0) >> (63 - ((hi - 1) >> 6)) : 0;
}

void cache_watch_page(struct soft_cache *cache, uint64_t gpa)
{
	gpa &= ~0xfffULL;
	_Atomic uint8_t *flags = page_flags(cache->vm, gpa);
	assert(flags);
	if (atomic_load(flags) & SOFT_PAGE_CODE)
		return;
	atomic_fetch_or(flags, SOFT_PAGE_CODE);
	atomic_thread_fence(memory_order_seq_cst);
	const uint8_t *page = soft_gpa_to_hva(cache->vm, gpa, NULL, NULL);
	for (unsigned i = 0; i < cache->vm->cpus; i++) {
		soft_tlb_protect(cache->vm->cpu[i], gpa);
		soft_slots_protect(cache->vm->cpu[i], page);
	}
	if (!(atomic_load(flags) & SOFT_PAGE_DIRECT))
		return;
	atomic_fetch_and(flags, (uint8_t)~SOFT_PAGE_DIRECT);
	for (unsigned i = 0; i < cache->vm->cpus; i++)
		soft_direct_protect(cache->vm->cpu[i], gpa);
}

/* Whether a block is on the list of a page as its first or its second. */
static unsigned which_page(const struct soft_block *block, uint64_t page_gpa)
{
	return (block->gpa & ~0xfffULL) == page_gpa ? 0 : 1;
}

static void page_add(struct soft_cache *cache, uint64_t gpa, struct soft_block *block, unsigned which)
{
	gpa &= ~0xfffULL;
	struct soft_page_code *code = page_code(cache->vm, gpa);
	struct soft_block **head = &code->blocks;
	if (!*head)
		code->lines = 0;
	if ((block->gpa & ~0xfffULL) == gpa)
		code->lines |= lines_of(block->lo, block->hi);
	if (block->gpa2 == gpa)
		code->lines |= lines_of(0, block->hi2);
	block->page_next[which] = *head;
	block->page_prev[which] = head;
	if (*head)
		(*head)->page_prev[which_page(*head, gpa)] = &block->page_next[which];
	*head = block;
}

/* Off the list of one of its pages, if it is on it. */
static void page_remove(struct soft_block *block, unsigned which)
{
	struct soft_block *next = block->page_next[which];
	uint64_t gpa = which ? block->gpa2 : block->gpa & ~0xfffULL;
	if (!block->page_prev[which])
		return;
	*block->page_prev[which] = next;
	if (next)
		next->page_prev[which_page(next, gpa)] = block->page_prev[which];
	block->page_prev[which] = NULL;
}

static void hash_add(struct soft_cache *cache, struct soft_block *block)
{
	_Atomic(struct soft_block *) *head = &cache->hash[hash_of(block->gpa, block->rip, block->mode)];
	atomic_store_explicit(&block->hash_next, atomic_load_explicit(head, memory_order_relaxed),
			      memory_order_relaxed);
	atomic_store_explicit(head, block, memory_order_release);
	atomic_store_explicit(&cache->inserts, cache->inserts + 1, memory_order_release);
}

void cache_insert(struct soft_cache *cache, struct soft_block *block, const uint8_t *code_end, const uint8_t *cold_end)
{
	struct region *r = &cache->region[cache->current];
	size_t at = cache->current * cache->region_code;
	r->code_used = (size_t)(code_end - cache->write_view) - at;
	r->cold_used = (size_t)(cold_end - cache->write_view) - COLD_AT - at;
	page_add(cache, block->gpa, block, 0);
	if (block->gpa2 && block->gpa2 != (block->gpa & ~0xfffULL))
		page_add(cache, block->gpa2, block, 1);
	r->order[r->blocks] = block;
	/* They have no other writer, and a locked operation would wait for all of the block's stores. */
	atomic_store_explicit(&r->blocks, r->blocks + 1, memory_order_release);
	hash_add(cache, block);
}

static void unlink_one(struct soft_link *link)
{
	if (!link->to)
		return;
	emit_patch(link->patch, link->stub);
	*link->prev = link->next;
	if (link->next)
		link->next->prev = link->prev;
	link->to = NULL;
}

void cache_link(struct soft_cache *cache, struct soft_link *link, struct soft_block *to)
{
	if (link->from->dead || to->dead || link->to)
		return;
	const uint8_t *target = (link->flags_mem ? to->code_mem : to->code) - (cache->exec_view - cache->write_view);
	emit_patch(link->patch, target);
	if (link->key) {
		uint64_t key = SOFT_ITLB_KEY(to->rip, to->gpa);
		__atomic_store_n((uint64_t *)(void *)link->key, key, __ATOMIC_RELEASE);
	}
	link->to = to;
	link->next = to->in;
	link->prev = &to->in;
	if (to->in)
		to->in->prev = &link->next;
	to->in = link;
}

static void hash_remove(struct soft_cache *cache, struct soft_block *block)
{
	_Atomic(struct soft_block *) *p = &cache->hash[hash_of(block->gpa, block->rip, block->mode)];
	while (atomic_load(p) && atomic_load(p) != block)
		p = &atomic_load(p)->hash_next;
	if (atomic_load(p))
		atomic_store_explicit(p, atomic_load(&block->hash_next), memory_order_release);
}

/* Takes the block out of everything that leads to it. It stays on its pages' lists. */
static void block_kill(struct soft_cache *cache, struct soft_block *block)
{
	if (block->dead)
		return;
	block->dead = true;
	/* Against fill_jump_cache of another vCPU, which writes its entry and then looks here: one of the two sees the other. */
	atomic_thread_fence(memory_order_seq_cst);
	hash_remove(cache, block);
	while (block->in)
		unlink_one(block->in);
	for (unsigned i = 0; i < SOFT_BLOCK_LINKS; i++)
		unlink_one(&block->link[i]);
	for (struct soft_link *other = block->others; other; other = other->sibling)
		unlink_one(other);
	for (unsigned i = 0; i < cache->vm->cpus; i++) {
		struct soft_jc_entry *e = &cache->vm->cpu[i]->jc[soft_jc_index(block->rip)];
		if (__atomic_load_n(&e->code, __ATOMIC_RELAXED) == (uint32_t)(uintptr_t)block->code_mem)
			__atomic_store_n(&e->mode, SOFT_JC_EMPTY, __ATOMIC_RELEASE);
	}
}

static struct lesson *lesson_of(struct soft_cache *cache, const struct soft_block *block)
{
	return &cache->lesson[hash_of(block->gpa, block->rip, block->mode) >> (HASH_BITS - LESSON_BITS)];
}

struct cache_lessons cache_lessons(struct soft_cache *cache, const struct soft_block *block)
{
	const struct lesson *l = lesson_of(cache, block);
	if (l->gpa == block->gpa && l->rip == block->rip && l->mode == block->mode)
		return l->lessons;
	return (struct cache_lessons){ 0 };
}

/* Drops a block, with something learned. */
static void learn(struct soft_cache *cache, struct soft_block *block, struct cache_lessons more)
{
	struct cache_lessons lessons = cache_lessons(cache, block);
	lessons.hot |= more.hot;
	lessons.demoted |= more.demoted;
	*lesson_of(cache, block) = (struct lesson){ block->gpa, block->rip, block->mode, lessons };
	block_kill(cache, block);
}

static void learn_at(struct soft_cache *cache, const uint8_t *pc, struct cache_lessons more)
{
	struct soft_block *block = cache_find_pc(cache, pc);
	cache_lock(cache);
	if (block && !block->dead)
		learn(cache, block, more);
	cache_unlock(cache);
}

void cache_demote(struct soft_cache *cache, const uint8_t *pc, unsigned insn)
{
	learn_at(cache, pc, (struct cache_lessons){ .demoted = UINT64_C(1) << insn });
}

/* What a hot block goes on to is hot, if it can't tell. */
static void heat(struct soft_cache *cache, const struct soft_block *block, const struct soft_link *link)
{
	if (link->to && link->to != block && !link->to->heated)
		learn(cache, link->to, (struct cache_lessons){ .hot = true });
}

void cache_promote(struct soft_cache *cache, const uint8_t *pc)
{
	struct soft_block *block = cache_find_pc(cache, pc);
	cache_lock(cache);
	if (block && !block->dead) {
		for (unsigned i = 0; i < SOFT_BLOCK_LINKS; i++)
			heat(cache, block, &block->link[i]);
		for (const struct soft_link *other = block->others; other; other = other->sibling)
			heat(cache, block, other);
		learn(cache, block, (struct cache_lessons){ .hot = true });
	}
	cache_unlock(cache);
}

static bool block_overlaps(const struct soft_block *b, uint64_t page_gpa, unsigned lo, unsigned hi)
{
	if ((b->gpa & ~0xfffULL) == page_gpa && b->lo < hi && lo < b->hi)
		return true;
	return b->gpa2 == page_gpa && b->gpa2 && lo < b->hi2;
}

/* ---- Blocks laid aside ---- */

static struct soft_block **aside_of(struct soft_cache *cache, uint64_t gpa, uint64_t rip, uint32_t mode)
{
	return &cache->aside[hash_of(gpa, rip, mode) >> (HASH_BITS - ASIDE_BITS)];
}

static uint64_t *written_word(struct soft_cache *cache, uint64_t gpa)
{
	return &cache->pages_written[gpa >> 18 & ((1 << (WRITTEN_BITS - 6)) - 1)];
}

bool cache_keeps_bytes(struct soft_cache *cache, uint64_t gpa)
{
	return !cache->vm->no_revive && *written_word(cache, gpa) >> (gpa >> 12 & 63) & 1;
}

void cache_keep_bytes(struct soft_cache *cache, struct soft_block *block, const uint8_t *page)
{
	unsigned size = block->hi - block->lo;
	uint8_t *bytes = size <= KEPT_BYTES && !block->gpa2 ? cache_alloc(cache, size) : NULL;
	for (unsigned i = 0; bytes && i < size; i++)
		bytes[i] = page[block->lo + i];
	block->bytes = bytes;
}

static bool bytes_are_back(const struct soft_block *b, const uint8_t *page)
{
	unsigned size = b->hi - b->lo, i = 0;
	for (; i + 8 <= size; i += 8)
		if (unaligned_load(b->bytes + i, 8) != unaligned_load(page + b->lo + i, 8))
			return false;
	for (; i < size; i++)
		if (b->bytes[i] != page[b->lo + i])
			return false;
	return true;
}

struct soft_block *cache_revive(struct soft_cache *cache, uint64_t gpa, uint64_t rip, uint32_t mode)
{
	struct soft_block **aside = aside_of(cache, gpa, rip, mode), *b = *aside;
	if (!b || b->gpa != gpa || b->rip != rip || b->mode != mode ||
	    !bytes_are_back(b, soft_gpa_to_hva(cache->vm, gpa & ~0xfffULL, NULL, NULL)))
		return NULL;
	*aside = NULL;
	b->dead = false;
	page_add(cache, gpa, b, 0);
	hash_add(cache, b);
	return b;
}

/* What was translated from bytes that have been written to. */
static void drop_written(struct soft_cache *cache, struct soft_block *b)
{
	bool was_dead = b->dead;
	block_kill(cache, b);
	*written_word(cache, b->gpa) |= UINT64_C(1) << (b->gpa >> 12 & 63);
	if (!was_dead && b->bytes)
		*aside_of(cache, b->gpa, b->rip, b->mode) = b;
}

static bool page_written(struct soft_cache *cache, uint64_t page_gpa, unsigned lo, unsigned hi)
{
	struct soft_page_code *code = page_code(cache->vm, page_gpa);
	struct soft_block *next;
	bool any = false;
	/* Most stores are to data beside the code. */
	if (code->blocks && !(code->lines & lines_of(lo, hi)))
		return false;
	for (struct soft_block *b = code->blocks; b; b = next) {
		unsigned which = which_page(b, page_gpa);
		next = b->page_next[which];
		if (!block_overlaps(b, page_gpa, lo, hi))
			continue;
		drop_written(cache, b);
		page_remove(b, which);
		any = true; /* of a dead block, too: the store may be its own */
	}
	if (!code->blocks)
		atomic_fetch_and(page_flags(cache->vm, page_gpa), (uint8_t)~SOFT_PAGE_CODE);
	return any;
}

bool soft_code_written(struct soft_vm *vm, uint64_t gpa, uint64_t size)
{
	bool any = false;
	while (size) {
		unsigned lo = gpa & 0xfff;
		unsigned n = size < 0x1000 - lo ? (unsigned)size : 0x1000 - lo;
		_Atomic uint8_t *flags = page_flags(vm, gpa);
		uint8_t watched = flags ? atomic_load_explicit(flags, memory_order_relaxed) : 0;
		if (watched & SOFT_PAGE_CLEAN)
			atomic_fetch_and(flags, (uint8_t)~SOFT_PAGE_CLEAN);
		if (watched & SOFT_PAGE_CODE) {
			cache_lock(vm->cache);
			any |= page_written(vm->cache, gpa & ~0xfffULL, lo, lo + n);
			cache_unlock(vm->cache);
		}
		gpa += n;
		size -= n;
	}
	return any;
}

/* ---- Eviction ---- */

/* Asks the CPUs to let go of a region to which nothing leads any more. */
static void ask_to_leave(struct soft_cache *cache, struct region *r)
{
	r->state = REGION_LEAVING;
	r->done = 0;
	r->epoch = ++cache->epoch;
	for (unsigned i = 0; i < cache->vm->cpus; i++)
		if (cache->vm->cpu[i]->cache_epoch)
			soft_kick(cache->vm->cpu[i], SOFT_KICK_EVICT);
}

static bool all_left(const struct soft_cache *cache, const struct region *r)
{
	for (unsigned i = 0; i < cache->vm->cpus; i++) {
		uint64_t epoch = cache->vm->cpu[i]->cache_epoch;
		if (epoch && epoch < r->epoch)
			return false;
	}
	return true;
}

static void make_empty(struct soft_cache *cache, struct region *r)
{
	cache->evicted++;
	r->code_used = r->cold_used = r->meta_used = 0;
	r->done = 0;
	atomic_store(&r->blocks, 0);
	r->state = REGION_EMPTY;
	for (unsigned i = 0; i < 1 << (WRITTEN_BITS - 6); i++)
		cache->pages_written[i] = 0;
}

/* Goes on with the eviction of a region, by up to n blocks. */
static void evict(struct soft_cache *cache, struct region *r, unsigned n)
{
	if (r->state == REGION_FULL) {
		for (; n && r->done < r->blocks; n--) {
			struct soft_block *b = r->order[r->done++], **aside = aside_of(cache, b->gpa, b->rip, b->mode);
			block_kill(cache, b);
			if (*aside == b)
				*aside = NULL;
		}
		if (r->done == r->blocks)
			ask_to_leave(cache, r);
	}
	if (r->state == REGION_LEAVING && all_left(cache, r)) {
		for (; n && r->done < r->blocks; n--, r->done++) {
			page_remove(r->order[r->done], 0);
			page_remove(r->order[r->done], 1);
		}
		if (r->done == r->blocks)
			make_empty(cache, r);
	}
}

bool cache_evict(struct soft_cache *cache)
{
	bool room = region_has_room(cache, region_ahead(cache, 0));
	for (unsigned n = 1; n <= EVICT_AHEAD; n++)
		evict(cache, region_ahead(cache, n), room || n > 1 ? EVICT_AT_ONCE : UINT_MAX);
	return room || region_ahead(cache, 1)->state == REGION_EMPTY;
}

uint64_t cache_evicted(const struct soft_cache *cache)
{
	return cache->evicted;
}

static void pass(struct soft_cache *cache, struct soft_cpu *cpu, bool leaves)
{
	cache_lock(cache);
	cpu->cache_epoch = leaves ? 0 : cache->epoch;
	atomic_store(&cache->passes, cache->passes + 1);
	bool wake = cache->waiting;
	cache_unlock(cache);
	if (wake)
		futex(&cache->passes, FUTEX_WAKE, INT_MAX, NULL);
}

void cache_pass(struct soft_cache *cache, struct soft_cpu *cpu)
{
	pass(cache, cpu, false);
}

void cache_leave(struct soft_cache *cache, struct soft_cpu *cpu)
{
	pass(cache, cpu, true);
}

bool cache_wait(struct soft_cache *cache)
{
	static const struct timespec no_longer = { .tv_nsec = 1000000 }; /* than until this CPU's kicks are looked at */
	cache_lock(cache);
	bool room = cache_evict(cache);
	uint32_t passes = cache->passes;
	cache->waiting += !room;
	cache_unlock(cache);
	if (room)
		return true;
	futex(&cache->passes, FUTEX_WAIT, passes, &no_longer);
	cache_lock(cache);
	cache->waiting--;
	cache_unlock(cache);
	return false;
}

unsigned cache_inserts(const struct soft_cache *cache)
{
	return atomic_load_explicit(&cache->inserts, memory_order_acquire);
}
