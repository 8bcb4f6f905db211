/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct.h - guest ring 3 run by the host's CPU as it stands (direct.c).
 *
 * Light code, but for direct_enter and soft_direct_destroy. Where not said otherwise: on the vCPU's own thread.
 */
#ifndef PLURES_ENGINE_SOFT_DIRECT_H
#define PLURES_ENGINE_SOFT_DIRECT_H

#include "engine/soft/cpu.h"

/* What is known of an address space: does its program compute, so that it is worth the way into a stub and back? */
static inline struct soft_computing *soft_computing(struct soft_cpu *cpu)
{
	return &cpu->computing[cpu->cr3 >> 12 & (SOFT_COMPUTING - 1)];
}

/* Is the code that is to run next to be run directly? */
static inline bool soft_direct_wanted(struct soft_cpu *cpu)
{
	const struct soft_computing *c = soft_computing(cpu);
	return (cpu->mode & (SOFT_MODE_CPL | SOFT_MODE_CODE)) == (3 | SOFT_MODE_CODE64) &&
	       ((c->on && c->cr3 == cpu->cr3) || cpu->all_direct);
}

/* An interrupt finds the CPU in ring 3: a time to look at what it does there. */
void soft_direct_tick(struct soft_cpu *cpu);
/* Runs ring 3 directly until something is to be done, if it can: else cpu->direct_pass says that translation goes on. */
void soft_direct_run(struct soft_cpu *cpu);

/* That CPU's stubs can no longer write to that physical page (SOFT_EVERY_PAGE: to any), and none is doing so, on return.
 * Any thread. */
void soft_direct_protect(struct soft_cpu *cpu, uint64_t gpa);

/* Sets bits of that CPU's `kick`, brings it to the dispatcher, and returns those that were set before. Any thread;
 * async-signal-safe. */
uint32_t soft_kick(struct soft_cpu *cpu, uint32_t what);

/* ---- direct_run.c: heavy ---- */

/* What is left to do when a run has ended. */
enum direct_rest {
	DIRECT_NOTHING,   /* the dispatcher looks */
	DIRECT_TRANSLATE, /* what is at RIP is to be translated */
	DIRECT_STEP_TRAP, /* #DB of RFLAGS.TF */
	DIRECT_REFUSED,   /* it can't be run directly now */
};
struct direct_result {
	enum direct_rest rest;
	bool segments;        /* selectors have changed: */
	uint16_t selector[6]; /* in the order of ENGINE_ES ... */
};
struct direct_result direct_enter(struct soft_cpu *cpu);
void soft_direct_destroy(struct soft_cpu *cpu);

/* ---- What the two files share. ---- */

enum { DIRECT_GONE = 64, DIRECT_REVOKED = 16 };
struct direct_spaces;
struct soft_direct {
	struct direct_spaces *spaces;
	uint64_t faulted; /* what the guest's kernel was asked to map last, or 0 */
	uint64_t flushes; /* of all */
	struct {
		uint64_t cr3, linear;
	} gone[DIRECT_GONE]; /* pages that the guest has invalidated */
	unsigned gones;
	/* Pages that must no longer be written; the lock is for these. */
	atomic_int lock;
	atomic_bool revoke;
	uint64_t revoked[DIRECT_REVOKED];
	unsigned revokeds; /* DIRECT_REVOKED + 1: all */
};

/* The TLB's flushes, of all and of a page. */
static inline void soft_direct_flush(struct soft_cpu *cpu)
{
	if (cpu->direct)
		cpu->direct->flushes++;
}

static inline void soft_direct_flush_page(struct soft_cpu *cpu, uint64_t linear)
{
	struct soft_direct *d = cpu->direct;
	if (!d)
		return;
	if (d->gones == DIRECT_GONE) {
		d->flushes++;
		return;
	}
	d->gone[d->gones].cr3 = cpu->cr3;
	d->gone[d->gones++].linear = linear;
}

#endif
