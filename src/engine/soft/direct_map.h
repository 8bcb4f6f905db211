/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct_map.h - which pages of guest memory a stub has, where, and with what rights (direct_map.c).
 *
 * Heavy code, on the vCPU's thread. Changes are noted as calls that the stub is to make before it runs again.
 */
#ifndef PLURES_ENGINE_SOFT_DIRECT_MAP_H
#define PLURES_ENGINE_SOFT_DIRECT_MAP_H

#include "engine/soft/cpu.h"
#include "engine/soft/direct_stub.h"

enum { DIRECT_WRITE = 1, DIRECT_EXEC = 2, DIRECT_SENSITIVE = 64 };

struct direct_page {
	uint64_t linear; /* 0: a free place of the table, 1: one that was used */
	uint64_t gpa;    /* of the page, with DIRECT_* */
};

struct direct_map {
	struct direct_page *page;             /* a hash table with 1 << bits places */
	unsigned bits, used;                  /* used: places that are not free */
	uint64_t sensitive[DIRECT_SENSITIVE]; /* pages that must not be executed, by a hash: linear address */
	bool large;                           /* some are of large pages of the guest's */
	struct direct_call *call;             /* room for DIRECT_CALLS */
	unsigned calls;
};

int direct_map_init(struct direct_map *map);
void direct_map_fini(struct direct_map *map);

/* Makes the page of `linear`, which faulted in the instruction at rip, accessible as the guest's page tables have it, and some around it. False: not
 * possible, so that what faulted is to be done by translation. */
bool direct_map_fault(struct direct_map *map, struct soft_cpu *cpu, uint64_t linear, uint64_t rip);
/* Maps a page that will be accessed, if the guest's page tables have it. */
void direct_map_ahead(struct direct_map *map, struct soft_cpu *cpu, uint64_t linear);
/* Maps anew, or unmaps, what is no longer as the guest's page tables have it: all, or one page. */
void direct_map_verify(struct direct_map *map, struct soft_cpu *cpu);
void direct_map_drop(struct direct_map *map, struct soft_cpu *cpu, uint64_t linear);
/* Unmaps the physical page wherever it can be written. */
void direct_map_protect(struct direct_map *map, uint64_t gpa);
/* Unmaps all. */
void direct_map_reset(struct direct_map *map);

/* May the guest have anything mapped where the stub's own pages are? */
bool direct_map_in_the_way(const struct soft_cpu *cpu);

#endif
