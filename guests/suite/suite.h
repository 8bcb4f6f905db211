/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suite.h - a program that prints the same on every machine, or the machine is wrong.
 *
 * Each section exercises one part of a CPU or kernel through ordinary user-space C and prints what it computed; no time,
 * address, process number or speed is printed. A test runs it on the host and in a guest and compares byte for byte.
 * What the CPU may lack is asked of CPUID and printed as absent, so a feature that a guest does not see is a difference.
 */
#ifndef SUITE_H
#define SUITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A section is named by this in its file; suite.c collects them from the linker's section of that name. */
struct section {
	const char *name;
	void (*run)(void);
};
#define SECTION(id)                                                                                            \
	static void id##_section(void);                                                                        \
	static const struct section id##_entry                                                                 \
	    __attribute__((used, section("suite_sections"), aligned(sizeof(void *)))) = { #id, id##_section }; \
	static void id##_section(void)

/* A fixed sequence of pseudo-random numbers (xorshift64*), restarted for each section. */
uint64_t rnd(void);
/* Folds bytes into a running sum, and starts it again. */
void mix(const void *data, size_t size);
uint64_t mixed(void);

/* Prints the reason and ends the program: something the section needs failed that has nothing to do with the CPU. */
_Noreturn void die(const char *what);

#endif
