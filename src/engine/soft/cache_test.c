/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction, by threads that do with the cache what vCPUs do. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/cache.h"
#include "engine/soft/cpu.h"

enum { THREADS = 8, PAGES = 64, ROUNDS = 4000, BLOCK_SIZE = 32 << 10 };

struct thread {
	struct soft_vm *vm;
	struct soft_cpu *cpu;
	unsigned seed, lost, waited;
};

static unsigned choose(struct thread *t, unsigned n)
{
	t->seed = t->seed * 1664525 + 1013904223;
	return (t->seed >> 16) % n;
}

/* The block of a page, made if there is none; NULL when there is no room. */
static struct soft_block *look_up(struct soft_cache *cache, uint64_t gpa)
{
	struct soft_block *block = cache_find(cache, gpa, gpa, 0);
	struct soft_room room;

	if (block)
		return block;
	cache_lock(cache);
	block = cache_find(cache, gpa, gpa, 0);
	if (!block && cache_evict(cache) && cache_room(cache, &room)) {
		block = room.block;
		block->gpa = block->rip = gpa;
		block->hi = 1;
		block->code = block->code_mem = room.code + room.to_exec;
		block->link[0] = (struct soft_link){ .from = block, .patch = room.code + 8, .stub = room.code + 16 };
		*(uint64_t *)(void *)room.code = gpa;
		cache_watch_page(cache, gpa);
		cache_insert(cache, block, room.code + BLOCK_SIZE, room.cold);
	}
	cache_unlock(cache);
	return block;
}

static void pass(struct thread *t)
{
	if (atomic_fetch_and(&t->cpu->kick, ~(uint32_t)SOFT_KICK_EVICT) & SOFT_KICK_EVICT)
		cache_pass(t->vm->cache, t->cpu);
}

/* Is a block what it was when it was found, and what it goes on to alive? */
static bool holds(struct soft_cache *cache, const struct soft_block *block, uint64_t gpa)
{
	cache_lock(cache);
	const struct soft_block *to = block->link[0].to;
	bool good = block->gpa == gpa && *(const uint64_t *)(const void *)block->code_mem == gpa && !(to && to->dead);
	cache_unlock(cache);
	return good;
}

static void link_some(struct thread *t, struct soft_block *from)
{
	uint64_t gpa = (choose(t, PAGES) + 1) * 0x1000;
	struct soft_block *to = cache_find(t->vm->cache, gpa, gpa, 0);

	cache_lock(t->vm->cache);
	if (to)
		cache_link(t->vm->cache, &from->link[0], to);
	cache_unlock(t->vm->cache);
}

static void *run(void *arg)
{
	struct thread *t = arg;
	struct soft_cache *cache = t->vm->cache;

	cache_pass(cache, t->cpu);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t gpa = (choose(t, PAGES) + 1) * 0x1000;
		pass(t);
		struct soft_block *block = look_up(cache, gpa);
		if (!block) {
			t->waited++;
			sched_yield();
			continue;
		}
		for (unsigned turns = choose(t, 3); turns; turns--)
			sched_yield();
		link_some(t, block);
		/* Whatever the others make: it is there until this thread passes. */
		t->lost += !holds(cache, block, gpa);
		if (!choose(t, 10)) /* a store */
			soft_code_written(t->vm, gpa, 1);
		if (!choose(t, 50)) { /* a HLT */
			cache_leave(cache, t->cpu);
			sched_yield();
			cache_pass(cache, t->cpu);
		}
	}
	cache_leave(cache, t->cpu);
	return NULL;
}

static void test_eviction(void **state)
{
	struct soft_vm vm = { .small_cache = true };
	struct thread threads[THREADS];
	pthread_t id[THREADS];
	uint64_t size = (PAGES + 1) * 0x1000;
	uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct error err;
	(void)state;

	assert_ptr_not_equal(ram, MAP_FAILED);
	vm.region[vm.regions++] = (struct soft_region){ .size = size, .hva = ram, .page_flags = calloc(PAGES + 1, 1) };
	vm.region[0].page_code = calloc(PAGES + 1, sizeof(*vm.region[0].page_code));
	assert_int_equal(cache_create(&vm.cache, &vm, &err), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		vm.cpu[i] = calloc(1, sizeof(*vm.cpu[i]));
		assert_non_null(vm.cpu[i]);
		threads[i] = (struct thread){ .vm = &vm, .cpu = vm.cpu[i], .seed = i };
	}
	vm.cpus = THREADS;
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&id[i], NULL, run, &threads[i]), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(id[i], NULL);
		assert_int_equal(threads[i].lost, 0);
	}
	/* A page is watched for as long as something was made of it; others may be, until they are written to. */
	for (unsigned i = 0; i <= PAGES; i++) {
		bool found = cache_find(vm.cache, i * 0x1000, i * 0x1000, 0);
		assert_false(found && !(vm.region[0].page_flags[i] & SOFT_PAGE_CODE));
		soft_code_written(&vm, i * 0x1000, 1);
		assert_null(cache_find(vm.cache, i * 0x1000, i * 0x1000, 0));
		assert_int_equal(vm.region[0].page_flags[i], 0);
		assert_null(vm.region[0].page_code[i].blocks);
	}
	for (unsigned i = 0; i < THREADS; i++)
		free(vm.cpu[i]);
	cache_destroy(vm.cache);
	free((void *)vm.region[0].page_flags);
	free(vm.region[0].page_code);
	munmap(ram, size);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_eviction) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
