/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.h - translated blocks: where their code lies, how they are found, linked and dropped.
 *
 * One cache a VM, shared by its vCPUs: code reaches vCPU state through GS only. A block is keyed by the physical
 * address of its first byte, its RIP (constants derived from it are baked into the code) and the mode. The code
 * memory is mapped twice, writable and executable, so no page is ever both. Each block has two parts, its straight line
 * and what lies out of line and is rarely run, far from each other: so what is run is dense, for the host's caches. The oldest
 * blocks are evicted, in advance, to make room (cache.c says how).
 *
 * Locking: `lock` guards all but the hash chains, which are read without it. What a vCPU found stays in memory until it passes the
 * next time (cache_pass), so a stale read finds a dead block at worst. Light code may take it.
 */
#ifndef PLURES_ENGINE_SOFT_CACHE_H
#define PLURES_ENGINE_SOFT_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/soft/vm.h"

struct soft_block;

/* A direct exit of a block. */
struct soft_link {
	uint64_t rip;   /* where it goes */
	uint8_t *patch; /* the rel32, in the writable view */
	uint8_t *stub;  /* where it points while unlinked */
	uint8_t *key;   /* another page: the imm64 of its instruction-TLB check, else NULL */
	struct soft_block *from;
	struct soft_block *to;          /* NULL while unlinked */
	struct soft_link *next, **prev; /* the list of links into `to` */
	struct soft_link *sibling;      /* the next of its block's `others` */
	bool flags_mem;                 /* arrives with the flags in memory */
};

enum { SOFT_BLOCK_INSNS = 64, SOFT_BLOCK_LINKS = 2 };

/* Where in the host code a guest instruction's copied part begins, for precise faults. */
struct soft_map {
	uint32_t host;      /* offset from the block's code */
	uint16_t guest;     /* offset from the block's rip */
	uint8_t flags_host; /* the arithmetic flags are in the host's here, else in memory */
	uint8_t special;    /* SOFT_MAP_* */
};
enum {
	SOFT_MAP_XSAVE = 1, /* rax and rdx are in scratch[0] and [1] */
	SOFT_MAP_LOOP = 3,  /* the values of registers in `borrowed` are in gpr[] */
	SOFT_MAP_STACK = 2, /* an address that is not canonical is #SS */
	SOFT_MAP_KIND = 3,
	SOFT_MAP_RENAMED =
	    4, /* besides: guest r10, r11 and r15 are where `renamed` says, whose own values are in gpr[] */
};

struct soft_block {
	/* What cache_find looks at, in one cache line. */
	_Alignas(64) uint64_t gpa;
	uint64_t rip;
	_Atomic(struct soft_block *) hash_next;
	uint32_t mode;
	bool dead;
	bool heated; /* it is hot, or counts how often it is entered */

	uint16_t lo, hi;    /* bytes of the first page that it depends on: [lo, hi) */
	uint16_t hi2;       /* bytes of the second page: [0, hi2) */
	uint8_t renamed[3]; /* the guest registers whose places r10, r11 and r15 have, or INSN_NO_REG */
	uint16_t borrowed;  /* guest registers that a loop's fast code uses for itself */
	unsigned maps;
	struct soft_map *map;
	uint64_t gpa2;     /* the second page's address when it crosses, else 0 */
	uint8_t *code;     /* executable view: entry with the flags in the host's */
	uint8_t *code_mem; /* ... with the flags in memory */
	struct {
		const uint8_t *start, *end;
	} part[2]; /* its straight line, and what is out of line; executable view */
	struct soft_link link[SOFT_BLOCK_LINKS];
	struct soft_link
	    *others; /* more exits: side exits of a trace, and groups' to blocks without groups (SOFT_MODE_SINGLE) */
	struct soft_link *in; /* links into this block */
	const uint8_t *bytes; /* of the first page, [lo, hi), if it may be laid aside (cache_revive), else NULL */
	struct soft_block *page_next[2], **page_prev[2]; /* the lists of its pages; prev is NULL when it is not on it */
};

struct soft_cpu;
struct soft_cache;

int cache_create(struct soft_cache **cache, struct soft_vm *vm, struct error *err);
void cache_destroy(struct soft_cache *cache);
/* From now on a child process has nothing of it but the code. */
void cache_stay(struct soft_cache *cache);

void cache_lock(struct soft_cache *cache);
void cache_unlock(struct soft_cache *cache);

/* Any time, without the lock. */
struct soft_block *cache_find(struct soft_cache *cache, uint64_t gpa, uint64_t rip, uint32_t mode);

/* The block whose code holds the executable address pc, or NULL. Async-signal-safe against the calling vCPU. */
struct soft_block *cache_find_pc(struct soft_cache *cache, const uint8_t *pc);
/* The guest instruction whose copy pc is in, or NULL. Async-signal-safe. */
const struct soft_map *cache_find_map(const struct soft_block *block, const uint8_t *pc);

/* How often cache_insert was called: unchanged, a look-up that found nothing still would not. */
unsigned cache_inserts(const struct soft_cache *cache);

/* With the lock, before each block that is made: goes on with evicting what is oldest. False when there is no room for a
 * block until other CPUs have passed. */
bool cache_evict(struct soft_cache *cache);
/* Without the lock: the same, and waits a little for others to pass when there is none. */
bool cache_wait(struct soft_cache *cache);
/* How often a region was evicted. */
uint64_t cache_evicted(const struct soft_cache *cache);
/* With the lock: room for a block being made. Returns false when the cache is full. */
struct soft_room {
	uint8_t *code, *cold; /* writable view */
	intptr_t to_exec;
	struct soft_block *block;
};
bool cache_room(struct soft_cache *cache, struct soft_room *room);
/* With the lock: a number for a memory operand's slot, one after the other. */
unsigned cache_next_slot(struct soft_cache *cache);
/* Memory that lives as long as the blocks; NULL when full. */
void *cache_alloc(struct soft_cache *cache, size_t size);
/* With the lock: enters the block (its fields filled in), which used the room up to these. */
void cache_insert(struct soft_cache *cache, struct soft_block *block, const uint8_t *code_end, const uint8_t *cold_end);
/* With the lock: marks the page as holding code and makes all vCPUs' stores to it take the slow path. To be called
 * before its bytes are read for translation. */
void cache_watch_page(struct soft_cache *cache, uint64_t gpa);

/* With the lock, after cache_watch_page: the block with this key that a store has dropped, entered again; or NULL if there is none
 * or the bytes that it was made from are not back. */
struct soft_block *cache_revive(struct soft_cache *cache, uint64_t gpa, uint64_t rip, uint32_t mode);
/* With the lock: is a block from this page to keep its bytes for that? Then it is to be made from a copy of the page, and this copies
 * what it depends on. */
bool cache_keeps_bytes(struct soft_cache *cache, uint64_t gpa);
void cache_keep_bytes(struct soft_cache *cache, struct soft_block *block, const uint8_t *page);

/* With the lock: makes `link` jump to `to` (whose first page has the number in `gpa`), unless either is dead. */
void cache_link(struct soft_cache *cache, struct soft_link *link, struct soft_block *to);

/* What the next translation of a block should know. */
struct cache_lessons {
	bool hot;         /* it is run often: worth slots */
	uint64_t demoted; /* instructions, a bit each, whose operands are better off with the TLB's check */
};
/* With the lock: what was learned of a block with this one's key. */
struct cache_lessons cache_lessons(struct soft_cache *cache, const struct soft_block *block);
/* Drops the block whose code holds pc, to be translated anew: with the TLB's check for instruction insn, counted from
 * 0; or as hot, with those that it is linked to and that can't tell by themselves. */
void cache_demote(struct soft_cache *cache, const uint8_t *pc, unsigned insn);
void cache_promote(struct soft_cache *cache, const uint8_t *pc);

/* The vCPU holds no pointer into the cache, now: not in its return stack, exit_link or x87 state either. To be called upon
 * SOFT_KICK_EVICT, and when it enters vcpu_run. It may hold some from then on. */
void cache_pass(struct soft_cache *cache, struct soft_cpu *cpu);
/* It has left vcpu_run, or goes to run ring 3 directly, and holds none until it passes. */
void cache_leave(struct soft_cache *cache, struct soft_cpu *cpu);

#endif
