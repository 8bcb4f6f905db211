/* SPDX-License-Identifier: Apache-2.0 */
#include "host/tsc.h"

#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

enum {
	TRIES = 32,
	/* How much longer than the doubt about the moment of a sample a measurement lasts. That bounds its error to a part in ten
	 * thousand, a fifth of what makes Linux give a TSC up; what is seen is some millionths. */
	SPAN_PER_DOUBT = 10000,
	SPAN_MAX_NS = 10000000,
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Of several tries the one that took the shortest was interrupted by nothing. */
struct host_tsc_sample host_tsc_sample(void)
{
	struct host_tsc_sample best = { .doubt = UINT64_MAX };

	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t before = __rdtsc();
		uint64_t ns = now_ns();
		uint64_t took = __rdtsc() - before;
		if (took < best.doubt)
			best = (struct host_tsc_sample){ before + took / 2, ns, took };
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

static uint64_t khz_between(const struct host_tsc_sample *start, const struct host_tsc_sample *end)
{
	__extension__ typedef unsigned __int128 u128;

	return (uint64_t)((u128)(end->tsc - start->tsc) * 1000000 / (end->ns - start->ns));
}

/* The nanoseconds that a measurement from `start` to `end` should last. */
static uint64_t wanted_span(const struct host_tsc_sample *start, const struct host_tsc_sample *end)
{
	uint64_t doubt = start->doubt > end->doubt ? start->doubt : end->doubt;
	uint64_t khz = end->ns > start->ns ? khz_between(start, end) : 0;

	if (!khz || doubt > UINT64_MAX / 1000000)
		return SPAN_MAX_NS;
	uint64_t span = doubt * 1000000 / khz * SPAN_PER_DOUBT;
	return span < SPAN_MAX_NS ? span : SPAN_MAX_NS;
}

uint64_t host_tsc_khz(const struct host_tsc_sample *start)
{
	uint64_t khz = khz_of_cpuid();

	if (khz)
		return khz;
	struct host_tsc_sample end = host_tsc_sample();
	uint64_t span = wanted_span(start, &end);
	while (end.ns - start->ns < span) {
		struct timespec rest = { .tv_nsec = (long)(span - (end.ns - start->ns)) };
		nanosleep(&rest, NULL);
		end = host_tsc_sample();
	}
	return khz_between(start, &end);
}
