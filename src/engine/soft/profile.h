/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile.h - where a vCPU's time goes, when asked for (docs/design/profiling.md).
 *
 * A vCPU thread is always in one of some states: in translated code, in one of the dispatcher's or the memory system's
 * C functions, in an instruction's helper, or outside of vcpu_run. Who changes the state calls profile_enter, which adds
 * the TSC's ticks since the last change to the state left; so the states' times add up to all of the time. Translated
 * code is looked at by a timer: its signal says which block, and which guest instruction in it, was running.
 *
 * Without a profile, cpu->profile is NULL and each hook is one branch in a C function that is slow anyway; generated
 * code is the same with a profile and without.
 *
 * Threads: a vCPU's profile belongs to its thread. profile_report comes when no vCPU runs.
 */
#ifndef PLURES_ENGINE_SOFT_PROFILE_H
#define PLURES_ENGINE_SOFT_PROFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/soft/cpu.h"

struct soft_block;
struct soft_cache;

/* The states; helpers have further ones, by instruction, from PROFILE_STATES on. */
enum {
	PROFILE_CODE,       /* translated code, and the few instructions between it and C */
	PROFILE_DISPATCH,   /* finding the next block; events */
	PROFILE_TRANSLATE,  /* making a block */
	PROFILE_MISS,       /* an access that generated code could not make */
	PROFILE_GROUP_MISS, /* the same for a group's check */
	PROFILE_COMMIT,     /* finishing one that was made on a buffer */
	PROFILE_DELIVER,    /* an exception or interrupt through the IDT */
	PROFILE_MMIO,       /* a device, by memory */
	PROFILE_DIRECT,     /* ring 3, run directly, and the change of processes */
	PROFILE_HANDOFF,    /* what it takes to get there and back */
	PROFILE_EVICT,      /* evicting translations in advance, with the cache's lock (cache.c) */
	PROFILE_PASS,       /* letting go of those */
	PROFILE_WAIT,       /* waiting for others to let go */
	PROFILE_OUTSIDE,    /* not in vcpu_run: halted, or the machine's own work */
	PROFILE_STATES
};

/* What is counted besides the states. */
enum {
	/* Why the dispatcher was entered: */
	PROFILE_NEXT_EVENT,    /* a kick, an exception or an interrupt */
	PROFILE_NEXT_LINK,     /* an exit that is not linked */
	PROFILE_NEXT_UNLINKED, /* ... and of these, what still was not linked afterwards */
	PROFILE_NEXT_PAGE,     /* the second page of a block was not in the instruction TLB */
	PROFILE_NEXT_HELPER,   /* a helper that ends its block */
	PROFILE_NEXT_INDIRECT, /* else: an indirect branch that the jump cache did not know */
	/* What generated code's check of an access met: */
	PROFILE_MISS_EMPTY,    /* no page in the TLB's entry */
	PROFILE_MISS_CONFLICT, /* another page */
	PROFILE_MISS_READONLY, /* the page without a write tag: clean, read-only, code */
	PROFILE_MISS_CROSSING, /* an access that goes on in the next page */
	PROFILE_MISS_HIT,      /* nothing wrong: filled meanwhile */
	PROFILE_GROUP_APART,   /* a group whose accesses had to be made one by one */
	PROFILE_CODE_DROPPED,  /* a store that dropped translations */
	PROFILE_FLUSH_PAGE,    /* the TLB entries of one page were dropped */
	PROFILE_HOST_FAULT,    /* a copied instruction raised a signal */
	/* Why ring 3 stopped to be run directly: */
	PROFILE_DIRECT_MAPPED,  /* pages to map, whereupon it went on */
	PROFILE_DIRECT_SYSCALL, /* a system call */
	PROFILE_DIRECT_FAULT,   /* a fault, or what is to be translated */
	PROFILE_DIRECT_KICK,    /* an interrupt, or somebody else wants this CPU */
	PROFILE_COUNTS
};

enum {
	PROFILE_SLOTS = 1024, /* of helpers and details, per vCPU */
	PROFILE_BLOCKS = 8192,
	PROFILE_STAYS = 40,       /* powers of 2 of ticks */
	PROFILE_BLOCK_BYTES = 192 /* of a block's code that are kept and told apart */
};

enum profile_kind { PROFILE_FREE, PROFILE_HELPER, PROFILE_FLUSH, PROFILE_EXCEPTION, PROFILE_INTERRUPT, PROFILE_REST };

/* What there are many of, each with a count and helpers with a cost. The last slot takes what found none. */
struct profile_slot {
	enum profile_kind kind;
	uint64_t
	    value; /* of a helper: MSR, port, leaf, control register; vector | error << 8; 1 for global entries too */
	const char *name; /* of the instruction that did it, or NULL */
	uint64_t count, ticks;
};

/* A block that the timer met. */
struct profile_block {
	uint64_t rip, gpa;
	uint32_t mode;
	uint32_t samples;
	bool used;
	uint16_t bytes; /* of `code` that are known */
	uint8_t code[PROFILE_BLOCK_BYTES];
	uint16_t at[PROFILE_BLOCK_BYTES]; /* samples by guest offset */
};

struct soft_profile {
	unsigned state; /* below PROFILE_STATES, or that plus an index into slot */
	uint64_t since; /* TSC */
	bool anew;      /* set by another thread: forget what was so far */
	uint64_t entered[PROFILE_STATES], ticks[PROFILE_STATES];
	/* How long it was in a state without a change: the longest, and how often less than 2^n ticks and not less than half of that. */
	uint64_t longest[PROFILE_STATES], stays[PROFILE_STATES][PROFILE_STAYS];
	uint64_t
	    evict_cpu; /* the longest eviction in nanoseconds of CPU time, which what else the host does is not in */
	uint64_t count[PROFILE_COUNTS];
	uint64_t bounce[SOFT_BOUNCE_DISCARD + 1]; /* how accesses ended that missed, by enum soft_bounce_kind */
	bool after_helper;
	struct profile_slot slot[PROFILE_SLOTS];
	/* The timer's. */
	timer_t timer;
	bool has_timer, running;
	uint64_t samples, in_code, lost; /* all; in translated code; of blocks for which there was no room */
	struct profile_block block[PROFILE_BLOCKS];
};

/* ---- profile.c: light ---- */

void profile_change(struct soft_profile *p, unsigned state);
/* Helpers and events have states and slots by what they are. */
void profile_helper(struct soft_cpu *cpu, const struct insn *insn);
void profile_event(struct soft_cpu *cpu, bool exception, unsigned vector, uint32_t error);
void profile_flush(struct soft_cpu *cpu, bool global_too);
/* soft_next, soft_mem_slow and soft_mem_group, observed. */
const void *profile_next(struct soft_cpu *cpu, const void *(*next)(struct soft_cpu *cpu));
/* cache_evict, observed. */
bool profile_evict(struct soft_cpu *cpu, bool (*evict)(struct soft_cache *cache));
typedef uint8_t *profile_access(struct soft_cpu *cpu, uint64_t linear, uint32_t how);
uint8_t *profile_mem_miss(struct soft_cpu *cpu, uint64_t linear, uint32_t how, profile_access *slow);
uint8_t *profile_group_miss(struct soft_cpu *cpu, uint64_t linear, uint32_t how, profile_access *slow);

static inline bool profiled(const struct soft_cpu *cpu)
{
	return __builtin_expect(cpu->profile != NULL, 0);
}

/* Around what is to be a state of its own: gives the state to go back to. What unwinds need not come back. */
static inline unsigned profile_enter(struct soft_cpu *cpu, unsigned state)
{
	if (!profiled(cpu))
		return 0;
	unsigned before = cpu->profile->state;
	profile_change(cpu->profile, state);
	cpu->profile->entered[state]++;
	return before;
}

static inline void profile_back(struct soft_cpu *cpu, unsigned state)
{
	if (profiled(cpu))
		profile_change(cpu->profile, state);
}

static inline void profile_count(struct soft_cpu *cpu, unsigned what)
{
	if (profiled(cpu))
		cpu->profile->count[what]++;
}

/* ---- profile_run.c: heavy ---- */

int profile_create(struct soft_cpu *cpu, struct error *err);
void profile_destroy(struct soft_cpu *cpu);
/* At vcpu_run's start and end, on its thread: the timer runs between the two. */
void profile_start(struct soft_cpu *cpu);
void profile_stop(struct soft_cpu *cpu);

/* perf's map of translated code (tools/perf/Documentation/jit-interface.txt), /tmp/perf-PID.map. */
int profile_perf_open(struct soft_vm *vm, struct error *err);
/* Adds a block's line. With the cache's lock. */
void profile_perf_add(const struct soft_vm *vm, const struct soft_block *block);

/* ---- profile_report.c: heavy ---- */

/* What all vCPUs of the VM found; none runs. */
void profile_report(struct soft_vm *vm, const struct engine_profile *how);

#endif
