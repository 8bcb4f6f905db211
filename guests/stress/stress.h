/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stress.h - jobs that are hard for a machine which translates code, done by several processes at once for as long as
 * wanted.
 *
 * A job is a function of its random numbers alone: its result is the same on every machine, or the machine is wrong. A
 * test runs some minutes of jobs in a guest and the same ones on the host, and compares. Each job runs in a process of
 * its own and also checks itself where it knows what must come out.
 */
#ifndef STRESS_H
#define STRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096

struct job {
	uint64_t random; /* xorshift64*'s state */
	uint64_t hash;   /* the result */
};

uint64_t rnd(struct job *j);
/* 0 to below - 1 */
unsigned pick(struct job *j, unsigned below);
/* Folds a number, or bytes, into the result. */
void mix(struct job *j, uint64_t value);
void mix_bytes(struct job *j, const void *data, size_t size);

/* Ends the job: what can't be came out, or something failed that has nothing to do with the machine. */
_Noreturn void wrong(const char *what);
void must(bool condition, const char *what);

/* mmap or the end. */
void *map(size_t size, int protection);

typedef void job_fn(struct job *j);
job_fn job_compile; /* compile.c: a random C program, by tcc */
job_fn job_jit;     /* jit.c: random code, written, run, changed and run again */
job_fn job_engine;  /* much of it, kept and called, in pages that are used again */
job_fn job_patch;   /* the same two threads at a time */
job_fn job_cow;     /* memory.c: pages shared with children */
job_fn job_maps;    /* mappings made, changed and taken away, and every page looked at */
job_fn job_faults;  /* signals.c: synchronous signals, and what handlers do to registers */
job_fn job_steps;   /* single steps, counted */
job_fn job_alarms;  /* computing while signals come from a timer */
job_fn job_threads; /* processes.c: threads, locks, atomics */
job_fn job_exec;    /* this program again, behind a pipe */

/* What the program does when started by job_exec. */
int exec_child(const char *argument);

#endif
