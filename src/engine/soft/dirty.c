/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dirty.c - which pages of guest memory its CPUs have written.
 *
 * A page that was not written since the log was taken is *watched* (SOFT_PAGE_CLEAN), as one that holds translated code
 * is: no TLB has a write tag for it, so its first store comes to soft_code_written, which takes the flag away; from
 * then on its stores are as fast as ever. While there is no log no page has the flag, and none of this costs anything.
 *
 * Whoever takes the log sets the flags again and takes the write tags out of all TLBs. A store that had passed its check
 * by then may still be under way, to a page that was reported; so it waits until each CPU has come to the dispatcher
 * once, where no store is. After that whoever reads a reported page finds all that was written to it until the log was taken.
 */
#include <errno.h>
#include <unistd.h>

#include "engine/soft/direct.h"
#include "engine/soft/paging.h"
#include "engine/soft/slots.h"
#include "engine/soft/system.h"
#include "engine/soft/vm.h"

/* Every CPU's stores come to soft_code_written first, where a flag is set. */
static void protect_all(struct soft_vm *vm)
{
	enum { LOOK_EVERY_US = 20 };

	atomic_thread_fence(memory_order_seq_cst); /* the flags are there before the tags go */
	for (unsigned i = 0; i < vm->cpus; i++) {
		soft_tlb_protect(vm->cpu[i], SOFT_EVERY_PAGE);
		soft_slots_protect(vm->cpu[i], NULL);
		soft_kick(vm->cpu[i], SOFT_KICK_PASS);
		soft_direct_protect(vm->cpu[i], SOFT_EVERY_PAGE);
	}
	for (unsigned i = 0; i < vm->cpus; i++)
		while (atomic_load(&vm->cpu[i]->inside) && (atomic_load(&vm->cpu[i]->kick) & SOFT_KICK_PASS))
			usleep(LOOK_EVERY_US);
}

/* Sets the flag on all pages of a region. Returns whether one did not have it; `bitmap`, or NULL, gets a bit for those. */
static bool watch(const struct soft_region *region, uint64_t *bitmap)
{
	bool any = false;

	for (uint64_t page = 0; page < region->size / SOFT_PAGE_SIZE; page++) {
		_Atomic uint8_t *flags = &region->page_flags[page];
		if (bitmap && page % 64 == 0)
			bitmap[page / 64] = 0;
		if (atomic_load_explicit(flags, memory_order_relaxed) & SOFT_PAGE_CLEAN)
			continue;
		atomic_fetch_or(flags, SOFT_PAGE_CLEAN);
		if (bitmap)
			bitmap[page / 64] |= 1ull << page % 64;
		any = true;
	}
	return any;
}

static void unwatch(const struct soft_region *region)
{
	for (uint64_t page = 0; page < region->size / SOFT_PAGE_SIZE; page++)
		atomic_fetch_and(&region->page_flags[page], (uint8_t)~SOFT_PAGE_CLEAN);
}

int soft_dirty_log(struct soft_vm *vm, bool on)
{
	pthread_mutex_lock(&vm->dirty_lock);
	for (unsigned i = 0; i < vm->regions && on != vm->dirty_log; i++) {
		if (vm->region[i].readonly)
			continue;
		if (on)
			watch(&vm->region[i], NULL);
		else
			unwatch(&vm->region[i]);
	}
	if (on && !vm->dirty_log)
		protect_all(vm);
	vm->dirty_log = on;
	pthread_mutex_unlock(&vm->dirty_lock);
	return 0;
}

int soft_dirty_take(struct soft_vm *vm, uint64_t gpa, uint64_t *bitmap)
{
	const struct soft_region *region = NULL;

	for (unsigned i = 0; i < vm->regions; i++)
		if (vm->region[i].gpa == gpa && !vm->region[i].readonly)
			region = &vm->region[i];
	pthread_mutex_lock(&vm->dirty_lock);
	bool logged = region && vm->dirty_log;
	if (logged && watch(region, bitmap))
		protect_all(vm);
	pthread_mutex_unlock(&vm->dirty_lock);
	return logged ? 0 : -ENOENT;
}
