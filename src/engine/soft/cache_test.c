/* SPDX-License-Identifier: Apache-2.0 */
/* The meeting at which the cache is emptied, by threads that do with it what vCPUs do. */
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
	unsigned seed, lost;
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
	if (!block && cache_room(cache, &room)) {
		block = room.block;
		block->gpa = block->rip = gpa;
		cache_watch_page(cache, gpa);
		cache_insert(cache, block, room.code + BLOCK_SIZE, room.cold);
	}
	cache_unlock(cache);
	return block;
}

static void meet(struct thread *t)
{
	if (atomic_fetch_and(&t->cpu->kick, ~(uint32_t)SOFT_KICK_STOP) & SOFT_KICK_STOP)
		cache_park(t->vm->cache);
}

static void *run(void *arg)
{
	struct thread *t = arg;
	struct soft_cache *cache = t->vm->cache;

	cache_enter(cache);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t gpa = (choose(t, PAGES) + 1) * 0x1000;
		meet(t);
		struct soft_block *block = look_up(cache, gpa);
		if (!block) {
			cache_want_flush(cache);
			continue;
		}
		for (unsigned turns = choose(t, 3); turns; turns--)
			sched_yield();
		/* Whatever the others want: it is there until this thread parks. */
		t->lost += cache_find(cache, gpa, gpa, 0) != block;
		if (!choose(t, 50)) { /* a HLT */
			cache_leave(cache);
			sched_yield();
			cache_enter(cache);
		}
	}
	cache_leave(cache);
	return NULL;
}

static void test_meeting(void **state)
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
	for (unsigned i = 0; i < THREADS; i++)
		free(vm.cpu[i]);
	cache_destroy(vm.cache);
	free((void *)vm.region[0].page_flags);
	munmap(ram, size);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_meeting) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
