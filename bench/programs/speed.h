/* SPDX-License-Identifier: Apache-2.0 */
/*
 * speed.h - programs whose speed is measured, natively and in guests.
 *
 * Each program is a unit of work that takes a few milliseconds natively and always gives the same checksum. main.c runs
 * units until a budget of time is spent and tells the time of one, so that a slow machine does fewer of them and none is
 * measured by less than a whole one. A wrong checksum is a failure of the machine.
 */
#ifndef SPEED_H
#define SPEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct program {
	const char *group, *name;
	void (*set_up)(void);   /* once, outside the time; NULL for nothing */
	uint64_t (*unit)(void); /* what is timed */
	bool (*present)(void);  /* whether this CPU can run it; NULL for always */
	uint64_t expected;      /* what each unit returns */
};

/* PROGRAM(group, name, expected checksum, .set_up = ..., .present = ...) { the body of unit() } */
#define PROGRAM(in, id, sum, ...)                                                                \
	static uint64_t id##_unit(void);                                                         \
	static const struct program id##_program                                                 \
	    __attribute__((used, section("speed_programs"), aligned(sizeof(void *)))) = {        \
		    .group = #in, .name = #id, .unit = id##_unit, .expected = (sum), __VA_ARGS__ \
	    };                                                                                   \
	static uint64_t id##_unit(void)

/* Pseudo-random numbers (xorshift64*), the same in each run. */
static inline uint64_t rnd(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1d;
}

#define RND_START 88172645463325252u

/* Folds a number, or bytes, into a sum. */
static inline uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 0x100000001b3;
}

uint64_t mix_bytes(uint64_t sum, const void *data, size_t size);

/* Fills memory with text that has the statistics of one: words of a small vocabulary. */
void fill_text(char *to, size_t size);

/* The file of this name beside the program. */
const char *beside(const char *name);

/* Ends the program: something failed that has nothing to do with what is measured. */
_Noreturn void die(const char *what);

/* malloc or die. */
void *space(size_t size);

#endif
