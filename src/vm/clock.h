/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.h - the machine's time: who makes a clock, and who moves it. Chips need only device.h's half of it (clock_now,
 * timer_create_on, timer_arm, timer_cancel, timer_free).
 *
 * A real clock runs with CLOCK_MONOTONIC and calls back on the thread of its event loop. All of its timers share one
 * timerfd, so arming from any thread is at most one system call, needs no wake-up of the loop's thread, and can't fail.
 * A manual clock stands still until a test moves it.
 *
 * A callback that has begun when another thread cancels or re-arms its timer still runs: a chip takes its own lock in
 * the callback and looks whether the deadline has passed.
 */
#ifndef PLURES_VM_CLOCK_H
#define PLURES_VM_CLOCK_H

#include <stdint.h>

#include "base/error.h"
#include "vm/device.h"

struct event_loop;

/* A clock that reads 0 now. The loop must outlive it. */
int clock_create(struct clock **clock, struct event_loop *loop, struct error *err);

/* A clock for tests that reads 0 until it is moved. Never fails. */
struct clock *clock_create_manual(void);

/* Moves a manual clock forward by ns, on the way calling each timer that falls due, in order of their deadlines, with
 * clock_now at the deadline. A timer armed by a callback for a time within the span fires in the same call. */
void clock_advance(struct clock *clock, uint64_t ns);

/* When the next timer of either kind of clock is due, or UINT64_MAX. */
uint64_t clock_next(struct clock *clock);

/* All timers must have been freed. clock may be NULL. */
void clock_destroy(struct clock *clock);

#endif
