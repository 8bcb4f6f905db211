/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.h - the event loop: one thread that waits for file descriptors and for work from other threads.
 *
 * Everything that is not a vCPU runs on it: timers, the terminal, back ends, the API. Callbacks run one at a time on
 * the thread that calls event_loop_run and must not block. Time comes in as a timerfd like any descriptor (vm/clock.h).
 */
#ifndef PLURES_HOST_EVENT_H
#define PLURES_HOST_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct event_loop;
struct event_source;

/* Work that any thread hands to the loop. Embedded by its owner, zeroed but for fn and arg; the rest is the loop's. */
struct event_work {
	void (*fn)(void *arg);
	void *arg;
	struct event_work *next;
	bool queued;
};

int event_loop_create(struct event_loop **loop, struct error *err);

/* Calls fn(arg, ready) when fd is ready for any of `events`, EPOLLIN and so on, level-triggered unless EPOLLET; `ready`
 * may also hold EPOLLHUP and EPOLLERR. fd stays the caller's, who removes the source before closing it. A regular file,
 * which epoll refuses, gives -EPERM. Any thread. */
int event_add(struct event_loop *loop, struct event_source **source, int fd, uint32_t events,
	      void (*fn)(void *arg, uint32_t ready), void *arg, struct error *err);

/* Changes what a source waits for; 0 is nothing but EPOLLHUP and EPOLLERR. Any thread. */
void event_set(struct event_source *source, uint32_t events);

/* Takes a source out and frees it; its callback is not called again. Only on the loop's thread or while the loop does
 * not run; from within any callback, its own too. NULL is nothing. */
void event_remove(struct event_source *source);

/* Runs work->fn once on the loop's thread, soon. Does nothing when it is queued already; fn may queue it again. Any
 * thread; never fails. */
void event_queue(struct event_loop *loop, struct event_work *work);

/* Takes work out again, queued or not: fn is not called before it is queued anew. Only on the loop's thread or while the loop
 * does not run; from within any callback. For who frees the work. */
void event_unqueue(struct event_loop *loop, struct event_work *work);

/* Runs until event_loop_stop, then returns the status given to it, or -errno if the loop itself failed. */
int event_loop_run(struct event_loop *loop, struct error *err);

/* One turn: waits up to timeout_ms (-1 for ever) and calls back for what is ready. For tests and nested waits at
 * start-up, not from a callback. */
int event_loop_turn(struct event_loop *loop, int timeout_ms, struct error *err);

/* Lets another thread act as the loop's own for a moment, so that small work needs no wake-up. True only while the loop's thread
 * waits in event_loop_run or event_loop_turn and has nothing to do; what "the loop's thread" may do, the borrower may then, and the loop's
 * thread does nothing until event_loop_return. That runs what was queued meanwhile or (wake) leaves it to the loop's thread. */
bool event_loop_borrow(struct event_loop *loop);
void event_loop_return(struct event_loop *loop, bool wake);

/* Makes event_loop_run return `status` (0 or more). Any thread, async-signal-safe; not lost when it comes before
 * event_loop_run. */
void event_loop_stop(struct event_loop *loop, int status);

/* Frees the loop; sources that are left are dropped, their descriptors stay open. NULL is nothing. */
void event_loop_destroy(struct event_loop *loop);

#endif
