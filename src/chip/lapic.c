/* SPDX-License-Identifier: Apache-2.0 */
/* What a local APIC does with an interrupt, from its arrival to its end: SDM Vol. 3, 11.8. */
#include "chip/lapic_private.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define LAPIC_DEFAULT_BASE 0xfee00000u

void lapic_lock(struct lapic *lapic)
{
	pthread_mutex_lock(&lapic->lock);
}

void lapic_unlock(struct lapic *lapic)
{
	pthread_mutex_unlock(&lapic->lock);
}

/* ---- 256-bit registers ---- */

static bool bit_test(const uint32_t *reg, uint8_t vector)
{
	return reg[vector / 32] >> vector % 32 & 1;
}

static void bit_assign(uint32_t *reg, uint8_t vector, bool value)
{
	uint32_t bit = 1u << vector % 32;
	reg[vector / 32] = value ? reg[vector / 32] | bit : reg[vector / 32] & ~bit;
}

static int highest(const uint32_t *reg)
{
	for (int i = 7; i >= 0; i--) {
		if (reg[i])
			return i * 32 + 31 - __builtin_clz(reg[i]);
	}
	return -1;
}

/* ---- priorities: SDM Vol. 3, 11.8.3.1 ---- */

/* Whether the 8259 is asking through this lapic. With the APIC disabled, LINT0 is the CPU's INTR pin. */
static bool extint_waits(const struct lapic *lapic)
{
	uint32_t lvt = lapic->lvt[LVT_LINT0];

	if (!lapic_is_enabled(lapic))
		return lapic->lint[0];
	if (lapic->extint_message)
		return true;
	return lapic->lint[0] && !(lvt & LVT_MASKED) && (lvt >> LVT_DELIVERY_SHIFT & 7) == APIC_EXTINT;
}

static uint8_t compute_ppr(const struct lapic *lapic)
{
	int isr = highest(lapic->isr);

	if (isr >= 0 && isr >> 4 > lapic->tpr >> 4)
		return isr & 0xf0;
	return lapic->tpr;
}

static int compute_deliverable(const struct lapic *lapic)
{
	if (extint_waits(lapic))
		return DELIVERABLE_EXTINT;
	if (!lapic_is_enabled(lapic))
		return DELIVERABLE_NONE;
	int irr = highest(lapic->irr);
	if (irr >= 0 && irr >> 4 > atomic_load_explicit(&lapic->ppr, memory_order_relaxed) >> 4)
		return irr;
	return DELIVERABLE_NONE;
}

void lapic_update_locked(struct lapic *lapic)
{
	int old = atomic_load_explicit(&lapic->deliverable, memory_order_relaxed);

	atomic_store_explicit(&lapic->ppr, compute_ppr(lapic), memory_order_relaxed);
	int new = compute_deliverable(lapic);
	if (new == old)
		return;
	/* seq_cst: a vCPU that goes to sleep announces that first and then looks here; the kick looks for it there. */
	atomic_store(&lapic->deliverable, new);
	if (old == DELIVERABLE_NONE && !lapic->passive)
		lapic->host.kick(lapic->host.ctx, LAPIC_KICK_INTERRUPT);
}

/* ---- arrival ---- */

void lapic_error_locked(struct lapic *lapic, uint32_t bit)
{
	uint32_t lvt = lapic->lvt[LVT_ERROR];

	lapic->esr_pending |= bit;
	/* An error entry with an illegal vector would be an error again. */
	if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= 16) {
		bit_assign(lapic->irr, lvt & 0xff, true);
		bit_assign(lapic->tmr, lvt & 0xff, false);
		lapic_update_locked(lapic);
	}
}

void lapic_post_locked(struct lapic *lapic, uint8_t vector, bool level)
{
	if (!lapic_is_enabled(lapic) || !(atomic_load_explicit(&lapic->svr, memory_order_relaxed) & SVR_ENABLED))
		return;
	if (vector < 16) {
		lapic_error_locked(lapic, ESR_RECEIVE_VECTOR);
		return;
	}
	bit_assign(lapic->irr, vector, true);
	bit_assign(lapic->tmr, vector, level);
	lapic_update_locked(lapic);
}

void lapic_local_locked(struct lapic *lapic, enum lapic_lvt source)
{
	uint32_t *lvt = &lapic->lvt[source];
	unsigned delivery = source == LVT_TIMER || source == LVT_ERROR ? APIC_FIXED : *lvt >> LVT_DELIVERY_SHIFT & 7;
	bool level = (source == LVT_LINT0 || source == LVT_LINT1) && *lvt & LVT_LEVEL;

	if (*lvt & LVT_MASKED || !lapic_is_enabled(lapic))
		return;
	switch (delivery) {
	case APIC_FIXED:
		if (level && *lvt & LVT_REMOTE_IRR)
			return;
		if (level)
			*lvt |= LVT_REMOTE_IRR;
		lapic_post_locked(lapic, *lvt & 0xff, level);
		break;
	case APIC_NMI:
		lapic->host.kick(lapic->host.ctx, LAPIC_KICK_NMI);
		break;
	case APIC_EXTINT: /* a level, which extint_waits looks at */
		lapic_update_locked(lapic);
		break;
	default: /* INIT and SMI from a pin: nothing of ours is wired to ask for them */
		break;
	}
}

void lapic_accept(struct lapic *lapic, const struct apic_message *msg)
{
	switch (msg->delivery) {
	case APIC_INIT:
		lapic->host.init(lapic->host.ctx);
		return;
	case APIC_SIPI:
		lapic->host.sipi(lapic->host.ctx, msg->vector);
		return;
	default:
		break;
	}
	lapic_lock(lapic);
	switch (msg->delivery) {
	case APIC_FIXED:
	case APIC_LOWEST:
		lapic_post_locked(lapic, msg->vector, msg->level);
		break;
	case APIC_NMI:
		lapic->host.kick(lapic->host.ctx, LAPIC_KICK_NMI);
		break;
	case APIC_EXTINT:
		lapic->extint_message = true;
		lapic_update_locked(lapic);
		break;
	default: /* SMI and what is reserved */
		break;
	}
	lapic_unlock(lapic);
}

void lapic_set_lint(void *arg, unsigned pin, bool level)
{
	struct lapic *lapic = arg;

	assert(pin < 2);
	lapic_lock(lapic);
	bool rises = level && !lapic->lint[pin];
	lapic->lint[pin] = level;
	if (rises)
		lapic_local_locked(lapic, pin ? LVT_LINT1 : LVT_LINT0);
	lapic_update_locked(lapic);
	lapic_unlock(lapic);
}

/* ---- service and end ---- */

bool lapic_has_interrupt(const struct lapic *lapic)
{
	return atomic_load(&lapic->deliverable) != DELIVERABLE_NONE;
}

static int ack_fixed_locked(struct lapic *lapic, uint8_t vector)
{
	bit_assign(lapic->irr, vector, false);
	bit_assign(lapic->isr, vector, true);
	lapic_update_locked(lapic);
	return vector;
}

int lapic_ack(struct lapic *lapic)
{
	if (!lapic_has_interrupt(lapic))
		return -1;
	lapic_lock(lapic);
	int vector = atomic_load_explicit(&lapic->deliverable, memory_order_relaxed);
	bool extint = vector == DELIVERABLE_EXTINT;
	if (extint)
		lapic->extint_message = false;
	else if (vector != DELIVERABLE_NONE)
		vector = ack_fixed_locked(lapic, vector);
	lapic_unlock(lapic);

	/* The 8259 lowers LINT0 while it answers, so not under our lock. */
	if (extint)
		vector = lapic->bus->extint ? lapic->bus->extint(lapic->bus->extint_ctx) : -1;
	if (extint) {
		lapic_lock(lapic);
		lapic_update_locked(lapic);
		lapic_unlock(lapic);
	}
	if (vector >= 0 && lapic_has_interrupt(lapic))
		lapic->host.kick(lapic->host.ctx, LAPIC_KICK_INTERRUPT);
	return vector;
}

/* The end of a level-triggered local interrupt: a pin that is still up asks again. SDM Vol. 3, 11.5.1. */
static void end_local_level(struct lapic *lapic, uint8_t vector)
{
	for (unsigned pin = 0; pin < 2; pin++) {
		uint32_t *lvt = &lapic->lvt[LVT_LINT0 + pin];
		if (!(*lvt & LVT_REMOTE_IRR) || (*lvt & 0xff) != vector)
			continue;
		*lvt &= ~LVT_REMOTE_IRR;
		if (lapic->lint[pin])
			lapic_local_locked(lapic, LVT_LINT0 + pin);
	}
}

void lapic_eoi(struct lapic *lapic)
{
	lapic_lock(lapic);
	int vector = highest(lapic->isr);
	bool level = vector >= 0 && bit_test(lapic->tmr, vector);
	if (vector >= 0) {
		bit_assign(lapic->isr, vector, false);
		lapic_update_locked(lapic);
	}
	if (level)
		end_local_level(lapic, vector);
	lapic_unlock(lapic);
	if (level && lapic->bus->eoi)
		lapic->bus->eoi(lapic->bus->eoi_ctx, vector);
}

/* ---- life ---- */

void lapic_reset_locked(struct lapic *lapic)
{
	lapic_timer_stop_locked(lapic);
	memset(lapic->irr, 0, sizeof(lapic->irr));
	memset(lapic->isr, 0, sizeof(lapic->isr));
	memset(lapic->tmr, 0, sizeof(lapic->tmr));
	lapic->tpr = 0;
	lapic->esr = lapic->esr_pending = 0;
	lapic->icr = 0;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		lapic->lvt[i] = LVT_MASKED;
	lapic->divide = 0;
	lapic->initial_count = 0;
	lapic->extint_message = false;
	atomic_store(&lapic->ldr, 0);
	atomic_store(&lapic->dfr, 0xffffffffu);
	atomic_store(&lapic->svr, 0xff);
	lapic_update_locked(lapic);
}

static void lapic_reset(struct device *dev)
{
	struct lapic *lapic = (struct lapic *)dev;

	lapic_lock(lapic);
	atomic_store(&lapic->base, LAPIC_DEFAULT_BASE | BASE_ENABLED | (lapic->id ? 0 : BASE_BSP));
	lapic_reset_locked(lapic);
	lapic_unlock(lapic);
}

void lapic_init(struct lapic *lapic)
{
	lapic_lock(lapic);
	lapic_reset_locked(lapic);
	lapic_unlock(lapic);
}

void lapic_virtual_wire(struct lapic *lapic)
{
	lapic_lock(lapic);
	atomic_store(&lapic->svr, 0xff | SVR_ENABLED);
	lapic->lvt[LVT_LINT0] = LVT_LEVEL | APIC_EXTINT << LVT_DELIVERY_SHIFT;
	lapic->lvt[LVT_LINT1] = APIC_NMI << LVT_DELIVERY_SHIFT;
	lapic_update_locked(lapic);
	lapic_unlock(lapic);
}

static void lapic_destroy(struct device *dev)
{
	struct lapic *lapic = (struct lapic *)dev;

	timer_free(lapic->timer);
	lapic_bus_remove(lapic->bus, lapic);
	pthread_mutex_destroy(&lapic->lock);
	free(lapic);
}

static const struct device_ops lapic_ops = {
	.name = "lapic",
	.version = 1,
	.reset = lapic_reset,
	.save = lapic_save,
	.load = lapic_load,
	.destroy = lapic_destroy,
};

struct lapic *lapic_create(const struct lapic_config *config)
{
	struct lapic *lapic = memory_zalloc(sizeof(*lapic));

	lapic->dev.ops = &lapic_ops;
	lapic->bus = config->bus;
	lapic->host = config->host;
	lapic->clock = config->clock;
	lapic->id = config->id;
	lapic->can_x2apic = config->x2apic;
	lapic->can_deadline = config->tsc_deadline;
	lapic->passive = config->passive;
	lapic->address_mask = (UINT64_C(1) << (config->phys_bits ? config->phys_bits : 52)) - 4096;
	atomic_init(&lapic->deliverable, DELIVERABLE_NONE);
	pthread_mutex_init(&lapic->lock, NULL);
	lapic->timer = timer_create_on(config->clock, lapic_timer_expired, lapic);
	lapic_reset(&lapic->dev);
	lapic_bus_add(config->bus, lapic);
	return lapic;
}

struct device *lapic_device(struct lapic *lapic)
{
	return &lapic->dev;
}
