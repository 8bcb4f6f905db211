/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - what a chip is to a machine, and what a machine is to a chip.
 *
 * A chip embeds struct device first in its own struct, registers its I/O ranges in its create function through
 * struct bus, raises interrupts through struct irq_line and asks for time through struct clock. It knows nothing of
 * engines, vCPU threads or other chips. What several threads reach is guarded by a lock of the chip's own; a chip
 * calls out (irq_line_set, timer_*) with its lock held, and irq sinks must therefore never call back into sources.
 */
#ifndef PLURES_VM_DEVICE_H
#define PLURES_VM_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct device;
struct state_writer;
struct state_reader;

struct device_ops {
	const char *name; /* the part number, and the section's name in saved state */
	unsigned version; /* of the saved state */
	void (*reset)(struct device *dev);
	void (*save)(struct device *dev, struct state_writer *w);
	int (*load)(struct device *dev, struct state_reader *r, struct error *err);
	/* Ends what threads of its own have begun and begins nothing; `on` false: goes on. On the event thread or while its loop
	 * does not run, with no vCPU running. NULL for one that stands still with the loop. */
	void (*pause)(struct device *dev, bool on);
	void (*destroy)(struct device *dev);
};

struct device {
	const struct device_ops *ops;
	struct device *next; /* the machine's list, in order of creation */
};

/* An interrupt wire: `set` of the sink, called with the level. A zeroed line goes nowhere. */
struct irq_line {
	void (*set)(void *sink, unsigned pin, bool level);
	void *sink;
	unsigned pin;
};

static inline void irq_line_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->sink, line->pin, level);
}

/* I/O. A handler reads into or writes from *value, of size 1, 2, 4 (or 8, mmio only); `offset` counts from the start
 * of the range. Called on any vCPU thread. A range with a smaller access width splits larger accesses itself. */
struct io_ops {
	uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
	void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
};

struct bus; /* one for ports, one for guest-physical addresses */

/* Claims [start, start + size). An overlap is our own bug (assert). */
void bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct io_ops *ops, void *dev, const char *name);
void bus_remove(struct bus *bus, uint64_t start);
/* Returns false when nothing is there; a read then gives all ones. */
bool bus_read(struct bus *bus, uint64_t addr, unsigned size, uint64_t *value);
bool bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value);

/* Time. All in nanoseconds of the machine's own clock, which starts at 0 when the machine is created. A timer calls
 * back once on the event thread (or the test's), with no lock of the clock held. */
struct clock;
struct timer;
uint64_t clock_now(struct clock *clock);
struct timer *timer_create_on(struct clock *clock, void (*fn)(void *arg), void *arg);
/* Arms for an absolute time, replacing what was armed; a time in the past fires at once. Any thread. */
void timer_arm(struct timer *timer, uint64_t when);
void timer_cancel(struct timer *timer);
void timer_free(struct timer *timer); /* never from its own callback */

/* Saved state: named, versioned fields (vm/state.h has the readers' and writers' functions). */

#endif
