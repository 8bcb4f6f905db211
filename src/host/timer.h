/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.h - a timer of the host's own time (CLOCK_MONOTONIC) on an event loop: for back ends, whose time goes on while a machine
 * is held. Devices use the machine's clock instead (vm/clock.h). On the loop's thread, or while the loop does not run.
 */
#ifndef PLURES_HOST_TIMER_H
#define PLURES_HOST_TIMER_H

#include <stdint.h>

#include "host/event.h"

struct host_timer {
	int fd;
	struct event_source *source;
	void (*fn)(void *arg);
	void *arg;
};

/* Nanoseconds. */
uint64_t host_now(void);

/* How often the calling thread has gone to sleep until now: tells waiting from being preempted. */
uint64_t host_sleeps(void);

/* Calls fn(arg) from the loop each time it goes off; not armed yet. */
int host_timer_init(struct host_timer *timer, struct event_loop *loop, void (*fn)(void *arg), void *arg,
		    struct error *err);
/* In `delay` nanoseconds, and from then on each `period` if that is not 0. Replaces what was armed. */
void host_timer_arm(struct host_timer *timer, uint64_t delay, uint64_t period);
void host_timer_cancel(struct host_timer *timer);
/* *timer may be zeroed or not have been initialized successfully. */
void host_timer_fini(struct host_timer *timer);

#endif
