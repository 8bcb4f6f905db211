/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_thread.h - an event loop with a thread of its own, for a device whose work should not wait for others' or hold them up.
 * Signals are left to other threads.
 */
#ifndef PLURES_HOST_IO_THREAD_H
#define PLURES_HOST_IO_THREAD_H

#include <stdbool.h>

#include "host/event.h"

struct io_thread;

/* Makes the loop; the thread comes with io_thread_start, so that sources can be added before. */
int io_thread_create(struct io_thread **thread, struct error *err);
struct event_loop *io_thread_loop(struct io_thread *thread);

int io_thread_start(struct io_thread *thread, const char *name, struct error *err);

/* Runs fn(arg) on the thread, between its callbacks, and waits until it has returned. From other threads; also when it was not
 * started or has stopped, on the caller's then. */
void io_thread_call(struct io_thread *thread, void (*fn)(void *arg), void *arg);

/* Ends the thread, when it is through with what it does, and waits for that. The loop stays, for removing sources. */
void io_thread_stop(struct io_thread *thread);
/* Stops and frees it. NULL is nothing. */
void io_thread_destroy(struct io_thread *thread);

#endif
