/* SPDX-License-Identifier: Apache-2.0 */
/* vm.h - a virtual machine of the soft engine: guest memory and vCPUs. The block cache is cache.h's. */
#ifndef PLURES_ENGINE_SOFT_VM_H
#define PLURES_ENGINE_SOFT_VM_H

#include <pthread.h>
#include <stdio.h>

#include "engine/engine.h"
#include "host/tsc.h"

struct soft_block;
struct soft_cpu;
struct soft_cache;

enum { SOFT_MAX_REGIONS = 16, SOFT_MAX_VCPUS = 64 };

/* cache.c's own, of a page: the blocks that depend on it, and on which 64 bytes of it: a bit each, some maybe stale. */
struct soft_page_code {
	struct soft_block *blocks;
	uint64_t lines;
};

struct soft_region {
	uint64_t gpa, size;
	uint8_t *hva;
	_Atomic uint8_t *page_flags;      /* a byte a page: SOFT_PAGE_* */
	struct soft_page_code *page_code; /* and what was translated from it */
	int fd;                           /* what hva maps, from its beginning; or -1 */
	bool readonly;
};
/* A page with any of them is *watched*: no write tag for it is in a TLB, so that each store comes to soft_code_written. */
enum {
	SOFT_PAGE_CODE = 1,  /* it holds translated code (cache.c) */
	SOFT_PAGE_CLEAN = 2, /* the dirty log is on, and the page was not written since it was taken (dirty.c) */
	/* Not one of them: a stub may be able to write to it (direct_map.c). */
	SOFT_PAGE_DIRECT = 4,
};

struct soft_vm {
	struct soft_region region[SOFT_MAX_REGIONS]; /* written only before vCPUs run */
	unsigned regions;
	struct soft_cpu *cpu[SOFT_MAX_VCPUS];
	unsigned cpus;
	struct soft_cache *cache;
	bool small_cache;   /* little room for translated code: it is evicted soon */
	bool all_hot;       /* each block is translated as if it had been run often */
	bool no_loops;      /* loops are translated as other blocks */
	bool no_slots;      /* all memory operands are checked by the TLB */
	bool no_groups;     /* each access has its own check */
	bool no_interleave; /* a group ends where another register addresses memory */
	bool no_traces;     /* every branch ends a block */
	bool no_rename;     /* guest r10, r11 and r15 stay in memory */
	bool no_guesses;    /* of where jumps by way of memory go */
	bool no_revive;     /* what a store has dropped is translated again */
	bool no_avx512;     /* CPUID does not show it */
	bool no_direct;     /* ring 3 is never run directly; or always, where it can be: */
	bool all_direct;
	unsigned max_block; /* instructions in a block at most */
	unsigned trace;
	FILE *trace_file;
	bool profile;               /* each vCPU has one */
	FILE *perf_map;             /* perf's map of translated code, or NULL */
	pthread_mutex_t split_lock; /* serialises LOCKed accesses that cross a page */
	pthread_mutex_t dirty_lock; /* guards dirty_log; one that takes the log at a time */
	bool dirty_log;
	uint64_t tsc_khz; /* 0 until somebody asks */
	struct host_tsc_sample tsc_start;
	/* Of the host: where AVX-512's components are in an XSAVE area, and the size of one with them; 0 without. */
	struct {
		uint16_t offset, size;
	} xsave_part[8];
	uint16_t xsave_size;
	uint64_t maxphyaddr_mask; /* physical address bits that exist */
};

/* ---- dirty.c; not from a vCPU's thread within vcpu_run ---- */

int soft_dirty_log(struct soft_vm *vm, bool on);
int soft_dirty_take(struct soft_vm *vm, uint64_t gpa, uint64_t *bitmap);

#endif
