/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tsc.h - how fast this host's time stamp counter runs, which the kernel tells no one: from CPUID where that says it,
 * else measured against the kernel's clock from a moment in the past, so that the longer ago that was the better it gets
 * and nobody waits.
 */
#ifndef PLURES_HOST_TSC_H
#define PLURES_HOST_TSC_H

#include <stdint.h>

struct host_tsc_sample {
	uint64_t tsc, ns; /* at the same moment; ns of CLOCK_MONOTONIC_RAW */
	uint64_t doubt;   /* how long that moment was, in ticks of the counter */
};

/* Takes some microseconds. */
struct host_tsc_sample host_tsc_sample(void);

/* The frequency in kHz, measured since `start`; sleeps if that is too short ago: mostly less than 1 ms, and never more than
 * 10 ms. */
uint64_t host_tsc_khz(const struct host_tsc_sample *start);

#endif
