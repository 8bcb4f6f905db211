/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A local APIC's saved state. Times are saved as what is left of them, and a TSC deadline as itself: so the engine's
 * TSC is to be restored first.
 */
#include "chip/lapic_private.h"

#include <errno.h>
#include <string.h>

#include "vm/state.h"

void lapic_save(struct device *dev, struct state_writer *w)
{
	struct lapic *lapic = (struct lapic *)dev;

	lapic_lock(lapic);
	uint64_t now = clock_now(lapic->clock);
	state_put_u64(w, "base", atomic_load(&lapic->base));
	state_put_u32(w, "ldr", atomic_load(&lapic->ldr));
	state_put_u32(w, "dfr", atomic_load(&lapic->dfr));
	state_put_u32(w, "svr", atomic_load(&lapic->svr));
	state_put_u32s(w, "irr", lapic->irr, 8);
	state_put_u32s(w, "isr", lapic->isr, 8);
	state_put_u32s(w, "tmr", lapic->tmr, 8);
	state_put_u8(w, "tpr", lapic->tpr);
	state_put_u32(w, "esr", lapic->esr);
	state_put_u32(w, "esr-pending", lapic->esr_pending);
	state_put_u64(w, "icr", lapic->icr);
	state_put_u32s(w, "lvt", lapic->lvt, LVT_COUNT);
	state_put_u32(w, "divide", lapic->divide);
	state_put_u32(w, "initial-count", lapic->initial_count);
	state_put_bool(w, "timer-running", lapic->timer_running);
	state_put_u64(w, "timer-left", lapic->timer_when > now ? lapic->timer_when - now : 0);
	state_put_u64(w, "tsc-deadline", lapic->tsc_deadline);
	state_put_bool(w, "lint0", lapic->lint[0]);
	state_put_bool(w, "lint1", lapic->lint[1]);
	state_put_bool(w, "extint", lapic->extint_message);
	lapic_unlock(lapic);
}

struct loaded {
	uint64_t base, icr, timer_left, tsc_deadline;
	uint32_t ldr, dfr, svr, irr[8], isr[8], tmr[8], esr, esr_pending, lvt[LVT_COUNT], divide, initial_count;
	uint8_t tpr;
	bool timer_running, lint[2], extint;
};

static void get(struct state_reader *r, struct loaded *in)
{
	memset(in, 0, sizeof(*in));
	state_get_u64(r, "base", &in->base);
	state_get_u32(r, "ldr", &in->ldr);
	state_get_u32(r, "dfr", &in->dfr);
	state_get_u32(r, "svr", &in->svr);
	state_get_u32s(r, "irr", in->irr, 8);
	state_get_u32s(r, "isr", in->isr, 8);
	state_get_u32s(r, "tmr", in->tmr, 8);
	state_get_u8(r, "tpr", &in->tpr);
	state_get_u32(r, "esr", &in->esr);
	state_get_u32(r, "esr-pending", &in->esr_pending);
	state_get_u64(r, "icr", &in->icr);
	state_get_u32s(r, "lvt", in->lvt, LVT_COUNT);
	state_get_u32(r, "divide", &in->divide);
	state_get_u32(r, "initial-count", &in->initial_count);
	state_get_bool(r, "timer-running", &in->timer_running);
	state_get_u64(r, "timer-left", &in->timer_left);
	state_get_u64(r, "tsc-deadline", &in->tsc_deadline);
	state_get_bool(r, "lint0", &in->lint[0]);
	state_get_bool(r, "lint1", &in->lint[1]);
	state_get_bool(r, "extint", &in->extint);
}

static int check(const struct lapic *lapic, const struct loaded *in, struct error *err)
{
	bool enabled = in->base & BASE_ENABLED, x2apic = in->base & BASE_X2APIC;

	if (x2apic && (!enabled || !lapic->can_x2apic))
		return error_set(err, -EINVAL, "lapic %u: saved in an x2APIC mode that it can't have here", lapic->id);
	for (unsigned i = 0; i < LVT_COUNT; i++) {
		if (in->lvt[i] & ~(lapic_lvt_mask(lapic, i) | LVT_REMOTE_IRR))
			return error_set(err, -EINVAL, "lapic %u: saved LVT entry %u is impossible", lapic->id, i);
	}
	/* The longest count there is lasts 550 s, the longest deadline is cut at half of time. */
	if (in->timer_left > UINT64_MAX / 2)
		return error_set(err, -EINVAL, "lapic %u: saved timer is impossible", lapic->id);
	if (in->irr[0] & 0xffff || in->isr[0] & 0xffff)
		return error_set(err, -EINVAL, "lapic %u: saved with an interrupt below vector 16", lapic->id);
	return 0;
}

static void apply_locked(struct lapic *lapic, const struct loaded *in)
{
	lapic_timer_stop_locked(lapic);
	atomic_store(&lapic->base, in->base);
	atomic_store(&lapic->ldr, in->ldr);
	atomic_store(&lapic->dfr, in->dfr);
	atomic_store(&lapic->svr, in->svr);
	memcpy(lapic->irr, in->irr, sizeof(in->irr));
	memcpy(lapic->isr, in->isr, sizeof(in->isr));
	memcpy(lapic->tmr, in->tmr, sizeof(in->tmr));
	lapic->tpr = in->tpr;
	lapic->esr = in->esr;
	lapic->esr_pending = in->esr_pending;
	lapic->icr = in->icr;
	memcpy(lapic->lvt, in->lvt, sizeof(in->lvt));
	lapic->divide = in->divide & 0xb;
	lapic->initial_count = in->initial_count;
	lapic->timer_running = in->timer_running;
	lapic->timer_when = clock_now(lapic->clock) + in->timer_left;
	lapic->tsc_deadline = in->tsc_deadline;
	lapic->lint[0] = in->lint[0];
	lapic->lint[1] = in->lint[1];
	lapic->extint_message = in->extint;
	lapic_update_locked(lapic);
	lapic_timer_resume_locked(lapic);
}

int lapic_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct lapic *lapic = (struct lapic *)dev;
	struct loaded in;

	get(r, &in);
	if (state_failed(r, err))
		return -EINVAL;
	int rc = check(lapic, &in, err);
	if (rc)
		return rc;
	lapic_lock(lapic);
	apply_locked(lapic, &in);
	lapic_unlock(lapic);
	return 0;
}

/* ---- another's registers ---- */

void lapic_set_passive(struct lapic *lapic, bool passive)
{
	lapic_lock(lapic);
	lapic->passive = passive;
	lapic_unlock(lapic);
}

void lapic_import(struct lapic *lapic, uint64_t base, uint64_t tsc_deadline, const uint32_t reg[64])
{
	enum { DELIVERY_STATUS = 1 << 12 };

	lapic_lock(lapic);
	lapic_reset_locked(lapic);
	if (!(base & BASE_ENABLED) || !lapic->can_x2apic)
		base &= ~(uint64_t)BASE_X2APIC;
	atomic_store(&lapic->base, base);
	atomic_store(&lapic->ldr, base & BASE_X2APIC ? 0 : reg[REG_LDR] & 0xff000000);
	atomic_store(&lapic->dfr, reg[REG_DFR] | 0x0fffffff);
	atomic_store(&lapic->svr, reg[REG_SVR] & SVR_WRITABLE);
	for (unsigned i = 0; i < 8; i++) {
		uint32_t legal = i ? ~0u : ~0xffffu; /* no vector below 16 */
		lapic->isr[i] = reg[REG_ISR + i] & legal;
		lapic->tmr[i] = reg[REG_TMR + i] & legal;
		lapic->irr[i] = reg[REG_IRR + i] & legal;
	}
	lapic->tpr = (uint8_t)reg[REG_TPR];
	lapic->esr = reg[REG_ESR];
	lapic->icr = (uint64_t)reg[REG_ICR_HIGH] << 32 | (reg[REG_ICR] & ~(uint32_t)DELIVERY_STATUS);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		lapic->lvt[i] = reg[REG_LVT + i] & (lapic_lvt_mask(lapic, i) | LVT_REMOTE_IRR);
	lapic->divide = reg[REG_DIVIDE] & 0xb;
	lapic->initial_count = reg[REG_INITIAL_COUNT];
	lapic->tsc_deadline = tsc_deadline;
	lapic_timer_set_left_locked(lapic, reg[REG_CURRENT_COUNT]);
	lapic_update_locked(lapic);
	lapic_unlock(lapic);
}

void lapic_export(struct lapic *lapic, uint64_t *base, uint64_t *tsc_deadline, uint32_t reg[64])
{
	lapic_lock(lapic);
	memset(reg, 0, 64 * sizeof(reg[0]));
	*base = atomic_load(&lapic->base);
	*tsc_deadline = lapic->tsc_deadline;
	reg[REG_ID] = (uint32_t)lapic->id << 24;
	reg[REG_LDR] = lapic_is_x2apic(lapic) ? lapic_x2apic_ldr(lapic) : atomic_load(&lapic->ldr);
	reg[REG_DFR] = atomic_load(&lapic->dfr);
	reg[REG_SVR] = atomic_load(&lapic->svr);
	memcpy(&reg[REG_ISR], lapic->isr, sizeof(lapic->isr));
	memcpy(&reg[REG_TMR], lapic->tmr, sizeof(lapic->tmr));
	memcpy(&reg[REG_IRR], lapic->irr, sizeof(lapic->irr));
	reg[REG_TPR] = lapic->tpr;
	reg[REG_PPR] = atomic_load(&lapic->ppr);
	reg[REG_ESR] = lapic->esr;
	reg[REG_ICR] = (uint32_t)lapic->icr;
	reg[REG_ICR_HIGH] = lapic->icr >> 32;
	memcpy(&reg[REG_LVT], lapic->lvt, sizeof(lapic->lvt));
	reg[REG_DIVIDE] = lapic->divide;
	reg[REG_INITIAL_COUNT] = lapic->initial_count;
	reg[REG_CURRENT_COUNT] = lapic_timer_count_locked(lapic);
	if (lapic->timer_running && !reg[REG_CURRENT_COUNT]) /* nothing left, and its interrupt is still to come */
		reg[REG_CURRENT_COUNT] = 1;
	lapic_unlock(lapic);
}
