/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's timer: SDM Vol. 3, 11.5.4.
 *
 * The host's timer is armed for the next expiry whether or not the LVT is masked; the current count is computed from
 * the time when it is read. A callback that comes early or late (one that was already on its way when the guest set
 * the timer anew) finds that by looking at timer_when.
 */
#include "chip/lapic_private.h"

/* A periodic timer may not go faster than this, or a guest could keep the event thread busy. */
#define MIN_PERIOD_NS 100000u

/* A deadline further off is looked at again then: a hundred years. */
#define FOREVER_MS UINT64_C(3155760000000)

#define NS_PER_TICK (1000000000u / LAPIC_TIMER_HZ)

static unsigned divide_shift(const struct lapic *lapic)
{
	unsigned code = (lapic->divide & 3) | (lapic->divide >> 1 & 4);
	return (code + 1) & 7;
}

static uint64_t count_to_ns(const struct lapic *lapic, uint32_t count)
{
	return ((uint64_t)count << divide_shift(lapic)) * NS_PER_TICK;
}

static bool is_mode(const struct lapic *lapic, uint32_t mode)
{
	return (lapic->lvt[LVT_TIMER] & LVT_TIMER_MODE) == mode;
}

void lapic_timer_stop_locked(struct lapic *lapic)
{
	lapic->tsc_deadline = 0;
	if (lapic->timer_running)
		timer_cancel(lapic->timer);
	lapic->timer_running = false;
}

static void start_locked(struct lapic *lapic, uint64_t when)
{
	lapic->timer_running = true;
	lapic->timer_when = when;
	if (!lapic->passive)
		timer_arm(lapic->timer, when);
}

/* ---- TSC deadline ---- */

/* Fires if the deadline has passed, or arms for it. */
static void check_deadline_locked(struct lapic *lapic)
{
	if (lapic->passive)
		return;
	uint64_t tsc = lapic->host.tsc(lapic->host.ctx);

	if (lapic->tsc_deadline <= tsc) {
		lapic_timer_stop_locked(lapic);
		lapic_local_locked(lapic, LVT_TIMER);
		return;
	}
	uint64_t khz = lapic->host.tsc_khz(lapic->host.ctx);
	uint64_t delta = lapic->tsc_deadline - tsc, ms = delta / khz;
	if (ms > FOREVER_MS)
		ms = FOREVER_MS;
	start_locked(lapic, clock_now(lapic->clock) + ms * 1000000u + delta % khz * 1000000u / khz + 1);
}

void lapic_timer_set_deadline_locked(struct lapic *lapic, uint64_t deadline)
{
	if (!is_mode(lapic, LVT_TIMER_DEADLINE))
		return;
	if (!deadline) {
		lapic_timer_stop_locked(lapic);
		return;
	}
	lapic->tsc_deadline = deadline;
	check_deadline_locked(lapic);
}

/* ---- counting ---- */

void lapic_timer_expired(void *arg)
{
	struct lapic *lapic = arg;

	lapic_lock(lapic);
	uint64_t now = clock_now(lapic->clock);
	if (!lapic->timer_running || now < lapic->timer_when) {
		lapic_unlock(lapic);
		return;
	}
	if (is_mode(lapic, LVT_TIMER_DEADLINE)) {
		check_deadline_locked(lapic);
	} else {
		lapic->timer_running = false;
		/* Periods that the host slept through are one interrupt; the phase stays. */
		if (is_mode(lapic, LVT_TIMER_PERIODIC) && lapic->timer_period) {
			uint64_t missed = (now - lapic->timer_when) / lapic->timer_period;
			start_locked(lapic, lapic->timer_when + (missed + 1) * lapic->timer_period);
		}
		lapic_local_locked(lapic, LVT_TIMER);
	}
	lapic_unlock(lapic);
}

uint32_t lapic_timer_count_locked(const struct lapic *lapic)
{
	if (!lapic->timer_running || is_mode(lapic, LVT_TIMER_DEADLINE))
		return 0;
	uint64_t now = clock_now(lapic->clock), when = lapic->timer_when;
	if (now >= when) {
		/* Expired, but the event thread has not come to it. */
		if (!is_mode(lapic, LVT_TIMER_PERIODIC) || !lapic->timer_period)
			return 0;
		when += ((now - when) / lapic->timer_period + 1) * lapic->timer_period;
	}
	uint64_t count = ((when - now) / NS_PER_TICK) >> divide_shift(lapic);
	return count < lapic->initial_count ? (uint32_t)count : lapic->initial_count;
}

static void set_period_locked(struct lapic *lapic)
{
	uint64_t period = count_to_ns(lapic, lapic->initial_count);
	lapic->timer_period = period && period < MIN_PERIOD_NS ? MIN_PERIOD_NS : period;
}

void lapic_timer_set_count_locked(struct lapic *lapic, uint32_t count)
{
	if (is_mode(lapic, LVT_TIMER_DEADLINE))
		return;
	lapic->initial_count = count;
	set_period_locked(lapic);
	if (!count) {
		lapic_timer_stop_locked(lapic);
		return;
	}
	bool periodic = is_mode(lapic, LVT_TIMER_PERIODIC);
	start_locked(lapic, clock_now(lapic->clock) + (periodic ? lapic->timer_period : count_to_ns(lapic, count)));
}

void lapic_timer_set_divide_locked(struct lapic *lapic, uint32_t divide)
{
	uint32_t left = lapic_timer_count_locked(lapic);
	bool running = lapic->timer_running && !is_mode(lapic, LVT_TIMER_DEADLINE);

	lapic->divide = divide & 0xb;
	set_period_locked(lapic);
	if (running)
		start_locked(lapic, clock_now(lapic->clock) + count_to_ns(lapic, left));
}

void lapic_timer_set_mode_locked(struct lapic *lapic, uint32_t old)
{
	uint32_t changed = old ^ lapic->lvt[LVT_TIMER];

	if (changed & LVT_TIMER_DEADLINE)
		lapic_timer_stop_locked(lapic);
}

void lapic_timer_set_left_locked(struct lapic *lapic, uint32_t count)
{
	lapic->timer_running = count || (is_mode(lapic, LVT_TIMER_PERIODIC) && lapic->initial_count);
	lapic->timer_when = clock_now(lapic->clock) + count_to_ns(lapic, count);
	lapic_timer_resume_locked(lapic);
}

void lapic_timer_resume_locked(struct lapic *lapic)
{
	set_period_locked(lapic);
	if (is_mode(lapic, LVT_TIMER_DEADLINE) && lapic->tsc_deadline)
		check_deadline_locked(lapic);
	else if (lapic->timer_running)
		start_locked(lapic, lapic->timer_when);
}
