/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ucontext does the switching: two system calls a switch for the signal mask, which is little beside the I/O that a fiber waits
 * for, and nothing here knows the processor. Stacks stay mapped for the next fiber; only touched pages take memory.
 */
#include "block/fiber.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/memory.h"

enum { FIBER_STACK = 256 << 10, FIBER_GUARD = 4096, FIBERS_KEPT = 16 };

struct fiber {
	struct fiber *next; /* in one queue */
	struct fibers *fibers;
	void (*fn)(void *arg);
	void *arg;
	void *stack;
	ucontext_t context;
};

static void queue_push(struct fiber_queue *queue, struct fiber *fiber)
{
	fiber->next = NULL;
	if (queue->first)
		queue->last->next = fiber;
	else
		queue->first = fiber;
	queue->last = fiber;
}

static struct fiber *queue_pop(struct fiber_queue *queue)
{
	struct fiber *fiber = queue->first;
	if (fiber)
		queue->first = fiber->next;
	return fiber;
}

/* makecontext passes ints. */
static void fiber_main(unsigned high, unsigned low)
{
	struct fiber *fiber = (struct fiber *)((uintptr_t)high << 32 | low); // NOLINT(performance-no-int-to-ptr)
	for (;;) {
		assert(fiber->fn);
		fiber->fn(fiber->arg);
		fiber->fn = NULL;
		fiber_wait(fiber->fibers);
	}
}

static struct fiber *fiber_create(struct fibers *fibers)
{
	struct fiber *fiber = memory_zalloc(sizeof(*fiber));
	fiber->fibers = fibers;
	fiber->stack =
	    mmap(NULL, FIBER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (fiber->stack == MAP_FAILED || mprotect(fiber->stack, FIBER_GUARD, PROT_NONE) < 0) {
		/* As memory_zalloc does. */
		fprintf(stderr, "plures: no memory for a stack of %d bytes\n", FIBER_STACK);
		abort();
	}
	int r = getcontext(&fiber->context);
	assert(r == 0);
	(void)r;
	fiber->context.uc_stack.ss_sp = (char *)fiber->stack + FIBER_GUARD;
	fiber->context.uc_stack.ss_size = FIBER_STACK - FIBER_GUARD;
	uintptr_t address = (uintptr_t)fiber;
	makecontext(&fiber->context, (void (*)(void))fiber_main, 2, (unsigned)(address >> 32), (unsigned)address);
	return fiber;
}

static void fiber_destroy(struct fiber *fiber)
{
	munmap(fiber->stack, FIBER_STACK);
	free(fiber);
}

static void fiber_ended(struct fibers *fibers, struct fiber *fiber)
{
	unsigned kept = 0;
	fibers->busy--;
	for (struct fiber *idle = fibers->idle.first; idle; idle = idle->next)
		kept++;
	if (kept < FIBERS_KEPT)
		queue_push(&fibers->idle, fiber);
	else
		fiber_destroy(fiber);
}

/* Runs what is ready until nothing is. A fiber that wakes another only makes it ready: the stack never nests. */
static void fibers_run(struct fibers *fibers)
{
	struct fiber *fiber;
	while (!fibers->running && (fiber = queue_pop(&fibers->ready))) {
		fibers->running = fiber;
		swapcontext(&fibers->outside, &fiber->context);
		fibers->running = NULL;
		if (!fiber->fn)
			fiber_ended(fibers, fiber);
	}
}

void fibers_init(struct fibers *fibers)
{
	*fibers = (struct fibers){ .running = NULL };
}

void fibers_fini(struct fibers *fibers)
{
	struct fiber *fiber;
	assert(!fibers->busy);
	while ((fiber = queue_pop(&fibers->idle)))
		fiber_destroy(fiber);
}

void fiber_start(struct fibers *fibers, void (*fn)(void *arg), void *arg)
{
	struct fiber *fiber = queue_pop(&fibers->idle);
	if (!fiber)
		fiber = fiber_create(fibers);
	fiber->fn = fn;
	fiber->arg = arg;
	fibers->busy++;
	fiber_wake(fibers, fiber);
}

void fiber_wait(struct fibers *fibers)
{
	struct fiber *self = fibers->running;
	assert(self);
	swapcontext(&self->context, &fibers->outside);
}

void fiber_wake(struct fibers *fibers, struct fiber *fiber)
{
	queue_push(&fibers->ready, fiber);
	fibers_run(fibers);
}

void fiber_queue_wait(struct fibers *fibers, struct fiber_queue *queue)
{
	queue_push(queue, fibers->running);
	fiber_wait(fibers);
}

void fiber_queue_wake(struct fibers *fibers, struct fiber_queue *queue)
{
	struct fiber *fiber;
	/* All before any runs, which may queue itself again. */
	while ((fiber = queue_pop(queue)))
		queue_push(&fibers->ready, fiber);
	fibers_run(fibers);
}

void fiber_lock(struct fibers *fibers, struct fiber_lock *lock)
{
	if (!lock->held) {
		lock->held = true;
		return;
	}
	assert(fibers->running);
	fiber_queue_wait(fibers, &lock->waiters); /* fiber_unlock hands it over */
}

void fiber_unlock(struct fibers *fibers, struct fiber_lock *lock)
{
	struct fiber *next = queue_pop(&lock->waiters);
	assert(lock->held);
	if (next)
		fiber_wake(fibers, next);
	else
		lock->held = false;
}
