/* SPDX-License-Identifier: Apache-2.0 */
#include "host/tsc.h"

#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

enum { TRIES = 8, SPAN_MIN_NS = 10000000 };

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Of several tries the one that took the shortest was interrupted by nothing. */
struct host_tsc_sample host_tsc_sample(void)
{
	struct host_tsc_sample best = { 0, 0 };
	uint64_t best_took = UINT64_MAX;

	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t before = __rdtsc();
		uint64_t ns = now_ns();
		uint64_t took = __rdtsc() - before;
		if (took < best_took) {
			best_took = took;
			best = (struct host_tsc_sample){ before + took / 2, ns };
		}
	}
	return best;
}

/* SDM Vol. 2, CPUID leaf 0x15: crystal frequency times ebx / eax. */
static uint64_t khz_of_cpuid(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid_max(0, NULL) < 0x15)
		return 0;
	__cpuid(0x15, a, b, c, d);
	return a && b && c ? (uint64_t)c * b / a / 1000 : 0;
}

uint64_t host_tsc_khz(const struct host_tsc_sample *start)
{
	__extension__ typedef unsigned __int128 u128;
	uint64_t khz = khz_of_cpuid();

	if (khz)
		return khz;
	uint64_t spent = now_ns() - start->ns;
	if (spent < SPAN_MIN_NS) {
		struct timespec rest = { .tv_nsec = (long)(SPAN_MIN_NS - spent) };
		nanosleep(&rest, NULL);
	}
	struct host_tsc_sample end = host_tsc_sample();
	return (uint64_t)((u128)(end.tsc - start->tsc) * 1000000 / (end.ns - start->ns));
}
