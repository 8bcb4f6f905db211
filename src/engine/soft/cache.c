/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c - the block cache. cache.h says what it promises.
 *
 * Self-modifying code. A physical page from which a block was made is *watched*: its SOFT_PAGE_CODE flag is set, and
 * no soft TLB holds a write tag for it, so every store to it comes through soft_mem_commit and cache.c's
 * soft_code_written, which drops the blocks that depend on the bytes. The page stays watched until its last block is
 * gone. The flag is set before the bytes are read (cache_watch_page): a store that comes later is seen, one that came
 * earlier is read. A store of another vCPU that passed its check before the flag was set and lands after the read is
 * what an unsynchronised store into running code is on real hardware; the guest must serialise by an interrupt, which
 * orders it before the next look-up but not before this read, so the window is a few host instructions wide.
 *
 * A dropped block's code stays in place until the next flush, since another vCPU may be running it. It is found no
 * more: out of the hash, out of every jump cache, and every link into it goes to its stub again.
 */
#include "engine/soft/cache.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/soft/cpu.h"
#include "engine/soft/emit.h"
#include "engine/soft/slots.h"

enum {
	CODE_SIZE = 32 << 20,
	COLD_AT = CODE_SIZE / 2, /* where what lies out of line begins */
	CODE_SLACK = 64 << 10,   /* what one block can take at most */
	SMALL_CODE_SIZE = 512 << 10,
	META_SIZE = 24 << 20,
	HASH_BITS = 16,
	MAX_BLOCKS = 1 << 18,
	PAGE_HASH_BITS = 12,
	LESSON_BITS = 13,
};

/* A watched page. */
struct code_page {
	uint64_t gpa;
	struct soft_block *blocks;
	struct code_page *next;
};

/* What was learned of a block for its next translation. */
struct lesson {
	uint64_t gpa, rip;
	uint32_t mode;
	struct cache_lessons lessons;
};

struct soft_cache {
	struct soft_vm *vm;
	atomic_int lock;
	uint8_t *write_view, *exec_view;
	size_t code_used, cold_used;
	uint8_t *meta;
	size_t meta_used;
	struct soft_block **order; /* by address of code: for cache_find_pc */
	_Atomic unsigned blocks, inserts;
	_Atomic(struct soft_block *) hash[1 << HASH_BITS];
	struct code_page *pages[1 << PAGE_HASH_BITS];
	unsigned next_slot;
	struct lesson lesson[1 << LESSON_BITS];
	/* The meeting: how many CPUs are in vcpu_run, how many of them are parked for it, and how many there were. */
	atomic_bool flush_wanted;
	unsigned running, parked, generation;
};

void cache_lock(struct soft_cache *cache)
{
	unsigned spins = 0;
	while (atomic_exchange_explicit(&cache->lock, 1, memory_order_acquire)) {
		do {
			if (++spins % 256 == 0)
				sched_yield();
			__builtin_ia32_pause();
		} while (atomic_load_explicit(&cache->lock, memory_order_relaxed));
	}
}

void cache_unlock(struct soft_cache *cache)
{
	atomic_store_explicit(&cache->lock, 0, memory_order_release);
}

int cache_create(struct soft_cache **out, struct soft_vm *vm, struct error *err)
{
	struct soft_cache *cache = calloc(1, sizeof(*cache));
	int fd = memfd_create("plures-code", MFD_CLOEXEC);
	int rc = -ENOMEM;
	if (!cache || fd < 0 || ftruncate(fd, CODE_SIZE) < 0)
		goto fail;
	cache->vm = vm;
	cache->write_view = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	/* Below 4 GiB, so that the jump cache has room for its addresses. */
	cache->exec_view = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_32BIT, fd, 0);
	cache->meta = mmap(NULL, META_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cache->order = mmap(NULL, MAX_BLOCKS * sizeof(*cache->order), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	close(fd);
	if (cache->write_view == MAP_FAILED || cache->exec_view == MAP_FAILED || cache->meta == MAP_FAILED ||
	    cache->order == MAP_FAILED) {
		rc = error_errno(err, -errno, "can't map %u MB for translated code", CODE_SIZE >> 20);
		cache_destroy(cache);
		return rc;
	}
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
	unmap(cache->order, MAX_BLOCKS * sizeof(*cache->order));
	free(cache);
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
	unsigned lo = 0, hi = atomic_load(&cache->blocks), part = pc >= cache->exec_view + COLD_AT;
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		if (cache->order[mid]->part[part].end <= pc)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < atomic_load(&cache->blocks) && cache->order[lo]->part[part].start <= pc)
		return cache->order[lo];
	return NULL;
}

const struct soft_map *cache_find_map(const struct soft_block *block, const uint8_t *pc)
{
	uint32_t at = (uint32_t)(pc - block->start);
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
	size = (size + 15) & ~(size_t)15;
	if (cache->meta_used + size > META_SIZE)
		return NULL;
	void *p = cache->meta + cache->meta_used;
	cache->meta_used += size;
	return p;
}

bool cache_room(struct soft_cache *cache, struct soft_room *room)
{
	if (cache->code_used + CODE_SLACK > (cache->vm->small_cache ? SMALL_CODE_SIZE : COLD_AT) ||
	    cache->cold_used + CODE_SLACK > CODE_SIZE - COLD_AT || cache->meta_used + CODE_SLACK > META_SIZE ||
	    cache->blocks >= MAX_BLOCKS)
		return false;
	cache->meta_used = (cache->meta_used + 63) & ~(size_t)63;
	room->block = cache_alloc(cache, sizeof(*room->block));
	*room->block = (struct soft_block){ 0 };
	room->code = cache->write_view + cache->code_used;
	room->cold = cache->write_view + COLD_AT + cache->cold_used;
	room->to_exec = cache->exec_view - cache->write_view;
	return true;
}

static struct code_page *page_find(struct soft_cache *cache, uint64_t gpa)
{
	struct code_page *page = cache->pages[gpa >> 12 & ((1 << PAGE_HASH_BITS) - 1)];
	while (page && page->gpa != gpa)
		page = page->next;
	return page;
}

static _Atomic uint8_t *page_flags(struct soft_vm *vm, uint64_t gpa)
{
	for (unsigned i = 0; i < vm->regions; i++) {
		struct soft_region *r = &vm->region[i];
		if (gpa - r->gpa < r->size)
			return &r->page_flags[(gpa - r->gpa) >> 12];
	}
	return NULL;
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
}

static void page_add(struct soft_cache *cache, uint64_t gpa, struct soft_block *block, unsigned which)
{
	gpa &= ~0xfffULL;
	struct code_page *page = page_find(cache, gpa);
	if (!page) {
		page = cache_alloc(cache, sizeof(*page));
		struct code_page **head = &cache->pages[gpa >> 12 & ((1 << PAGE_HASH_BITS) - 1)];
		*page = (struct code_page){ .gpa = gpa, .next = *head };
		*head = page;
	}
	block->page_next[which] = page->blocks;
	page->blocks = block;
}

void cache_insert(struct soft_cache *cache, struct soft_block *block, const uint8_t *code_end, const uint8_t *cold_end)
{
	cache->code_used = (size_t)(code_end - cache->write_view);
	cache->cold_used = (size_t)(cold_end - cache->write_view) - COLD_AT;
	page_add(cache, block->gpa, block, 0);
	if (block->gpa2 && block->gpa2 != (block->gpa & ~0xfffULL))
		page_add(cache, block->gpa2, block, 1);
	cache->order[cache->blocks] = block;
	/* They have no other writer, and a locked operation would wait for all of the block's stores. */
	atomic_store_explicit(&cache->blocks, cache->blocks + 1, memory_order_release);
	_Atomic(struct soft_block *) *head = &cache->hash[hash_of(block->gpa, block->rip, block->mode)];
	atomic_store_explicit(&block->hash_next, atomic_load_explicit(head, memory_order_relaxed),
			      memory_order_relaxed);
	atomic_store_explicit(head, block, memory_order_release);
	atomic_store_explicit(&cache->inserts, cache->inserts + 1, memory_order_release);
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

/* Takes the block out of everything that leads to it. Its page lists are the caller's. */
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

static bool page_written(struct soft_cache *cache, uint64_t page_gpa, unsigned lo, unsigned hi)
{
	struct code_page *page = page_find(cache, page_gpa);
	if (!page)
		return false;
	bool any = false;
	struct soft_block **p = &page->blocks;
	while (*p) {
		struct soft_block *b = *p;
		unsigned which = (b->gpa & ~0xfffULL) == page_gpa ? 0 : 1;
		bool hit = !b->dead && block_overlaps(b, page_gpa, lo, hi);
		if (hit) {
			block_kill(cache, b);
			any = true;
		}
		if (b->dead)
			*p = b->page_next[which];
		else
			p = &b->page_next[which];
	}
	if (!page->blocks)
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

/* ---- The meeting ---- */

static void flush_all(struct soft_cache *cache)
{
	struct soft_vm *vm = cache->vm;
	for (unsigned i = 0; i < 1 << PAGE_HASH_BITS; i++) {
		for (struct code_page *page = cache->pages[i]; page; page = page->next)
			atomic_fetch_and(page_flags(vm, page->gpa), (uint8_t)~SOFT_PAGE_CODE);
		cache->pages[i] = NULL;
	}
	for (unsigned i = 0; i < 1 << HASH_BITS; i++)
		atomic_store_explicit(&cache->hash[i], NULL, memory_order_relaxed);
	for (unsigned i = 0; i < vm->cpus; i++) {
		for (unsigned j = 0; j < SOFT_JC_SIZE; j++)
			vm->cpu[i]->jc[j].mode = SOFT_JC_EMPTY;
		vm->cpu[i]->exit_link = NULL;
	}
	cache->code_used = cache->cold_used = cache->meta_used = 0;
	atomic_store(&cache->blocks, 0);
}

void cache_want_flush(struct soft_cache *cache)
{
	atomic_store(&cache->flush_wanted, true);
	for (unsigned i = 0; i < cache->vm->cpus; i++)
		atomic_fetch_or(&cache->vm->cpu[i]->kick, SOFT_KICK_STOP);
}

/* A CPU is counted as parked from here until the flush, and not until it has woken up from it: it may have overslept while the
 * next meeting was called, and would leave in the midst of that. */
void cache_park(struct soft_cache *cache)
{
	cache_lock(cache);
	unsigned generation = cache->generation;
	bool wanted = atomic_load(&cache->flush_wanted);
	cache->parked += wanted;
	while (wanted && cache->generation == generation) {
		if (cache->parked == cache->running) {
			flush_all(cache);
			cache->generation++;
			cache->parked = 0;
			atomic_store(&cache->flush_wanted, false);
		} else {
			cache_unlock(cache);
			sched_yield();
			cache_lock(cache);
		}
	}
	cache_unlock(cache);
}

void cache_enter(struct soft_cache *cache)
{
	cache_lock(cache);
	cache->running++;
	cache_unlock(cache);
	if (atomic_load(&cache->flush_wanted))
		cache_park(cache);
}

void cache_leave(struct soft_cache *cache)
{
	cache_lock(cache);
	cache->running--;
	cache_unlock(cache);
}

unsigned cache_inserts(const struct soft_cache *cache)
{
	return atomic_load_explicit(&cache->inserts, memory_order_acquire);
}

size_t cache_used(const struct soft_cache *cache)
{
	return cache->code_used + cache->cold_used;
}
