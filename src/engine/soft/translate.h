/* SPDX-License-Identifier: Apache-2.0 */
/* translate.h - guest instructions to host code, a block at a time. translate.c opens with how. */
#ifndef PLURES_ENGINE_SOFT_TRANSLATE_H
#define PLURES_ENGINE_SOFT_TRANSLATE_H

#include "engine/soft/cache.h"
#include "engine/soft/cpu.h"

/*
 * Translates the block at linear address `linear` (CS base + cpu->rip), whose physical address is gpa, in the current
 * mode. Light; called with the cache's lock, after cache_watch_page for gpa's page. `gpa2` is the physical address of
 * the next linear page, or ~0 if it can't be read. Returns the block, inserted; or NULL and *why.
 */
enum translate_why {
	TRANSLATE_FULL,     /* no room in the cache */
	TRANSLATE_NEED_PAGE /* the first instruction goes on in the next page: call again with gpa2, watched */
};
struct soft_block *translate_block(struct soft_cpu *cpu, uint64_t gpa, uint64_t gpa2, enum translate_why *why);

#endif
