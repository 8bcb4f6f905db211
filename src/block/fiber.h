/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fiber.h - sequential code that waits without blocking its thread.
 *
 * A fiber is a function with a stack of its own. It runs on the event loop's thread until it waits; whoever has what it waits for
 * wakes it, and it goes on where it was. Only one fiber of a set runs at a time and none is ever interrupted, so what happens between two
 * waits needs no lock. All calls come on one thread; code outside of any fiber may call everything but what waits.
 */
#ifndef PLURES_BLOCK_FIBER_H
#define PLURES_BLOCK_FIBER_H

#include <stdbool.h>
#include <ucontext.h>

struct fiber;

struct fiber_queue {
	struct fiber *first, *last;
};

/* The fibers of one user. Embedded and zeroed by its owner; fibers_init, then at the end fibers_fini, when none is running. */
struct fibers {
	struct fiber *running; /* NULL: the thread's own stack */
	struct fiber_queue ready, idle;
	unsigned busy; /* fibers that have not ended */
	ucontext_t outside;
};

/* Held across waits. Embedded, zeroed. Granted in the order of asking. */
struct fiber_lock {
	bool held;
	struct fiber_queue waiters;
};

void fibers_init(struct fibers *fibers);
void fibers_fini(struct fibers *fibers);

/* Runs fn(arg) in a fiber: at once up to its first wait or, called from within a fiber, when that one waits or ends. */
void fiber_start(struct fibers *fibers, void (*fn)(void *arg), void *arg);

/* Waits until fiber_wake is called for this one. Within a fiber only. */
void fiber_wait(struct fibers *fibers);
/* Lets a waiting fiber go on, as fiber_start starts one. */
void fiber_wake(struct fibers *fibers, struct fiber *fiber);

/* Waits in a queue, at its end; wakes all that wait in it. */
void fiber_queue_wait(struct fibers *fibers, struct fiber_queue *queue);
void fiber_queue_wake(struct fibers *fibers, struct fiber_queue *queue);

/* Outside of a fiber the lock must be free. */
void fiber_lock(struct fibers *fibers, struct fiber_lock *lock);
void fiber_unlock(struct fibers *fibers, struct fiber_lock *lock);

#endif
