/* SPDX-License-Identifier: Apache-2.0 */
/* lapic_private.h - what lapic.c, lapic_regs.c, lapic_timer.c, lapic_bus.c and lapic_state.c share. */
#ifndef PLURES_CHIP_LAPIC_PRIVATE_H
#define PLURES_CHIP_LAPIC_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "chip/lapic.h"

/* Registers, by number: an xAPIC offset is the number << 4, an x2APIC MSR 0x800 + the number. */
enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT = 0x32, /* to 0x37, by enum lapic_lvt */
	REG_INITIAL_COUNT = 0x38,
	REG_CURRENT_COUNT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

enum {
	LVT_DELIVERY_SHIFT = 8,
	LVT_REMOTE_IRR = 1 << 14,
	LVT_LEVEL = 1 << 15,
	LVT_MASKED = 1 << 16,
	LVT_TIMER_MODE = 3 << 17,
	LVT_TIMER_PERIODIC = 1 << 17,
	LVT_TIMER_DEADLINE = 2 << 17,
	SVR_ENABLED = 1 << 8,
	SVR_WRITABLE = 0x13ff,
	ESR_SEND_VECTOR = 1 << 5,
	ESR_RECEIVE_VECTOR = 1 << 6,
	ESR_REGISTER = 1 << 7,
	BASE_BSP = 1 << 8,
	BASE_X2APIC = 1 << 10,
	BASE_ENABLED = 1 << 11,
};

/* What `deliverable` holds besides a vector. */
enum { DELIVERABLE_NONE = -1, DELIVERABLE_EXTINT = 256 };

struct lapic {
	struct device dev;
	struct lapic_bus *bus;
	struct lapic_host host;
	struct clock *clock;
	struct timer *timer;
	uint8_t id;
	bool can_x2apic, can_deadline, passive;
	uint64_t address_mask; /* of the base MSR */

	/* Read by any thread without the lock (routing, lapic_has_interrupt), written with it. */
	_Atomic uint64_t base; /* IA32_APIC_BASE */
	_Atomic uint32_t ldr;  /* as the xAPIC has it; x2APIC mode derives its own from the id */
	_Atomic uint32_t dfr;
	_Atomic uint32_t svr;
	_Atomic uint8_t ppr;
	_Atomic int deliverable; /* what lapic_ack would give: a vector or DELIVERABLE_* */

	pthread_mutex_t lock; /* guards what follows */
	uint32_t irr[8], isr[8], tmr[8];
	uint8_t tpr;
	uint32_t esr, esr_pending;
	uint64_t icr;
	uint32_t lvt[LVT_COUNT];
	uint32_t divide;
	uint32_t initial_count;
	bool timer_running;    /* counting down to timer_when */
	uint64_t timer_when;   /* machine time of the next expiry */
	uint64_t timer_period; /* of a periodic timer */
	uint64_t tsc_deadline; /* 0: none */
	bool lint[2];          /* levels of the pins */
	bool extint_message;   /* an ExtINT that came as a message, not on LINT0 */
};

struct lapic_bus {
	pthread_mutex_t lock; /* guards registration */
	struct lapic *lapic[LAPIC_MAX];
	_Atomic unsigned count;
	_Atomic unsigned turn; /* breaks ties of lowest-priority delivery */
	void (*eoi)(void *ctx, uint8_t vector);
	void *eoi_ctx;
	int (*extint)(void *ctx);
	void *extint_ctx;
};

static inline bool lapic_is_enabled(const struct lapic *lapic)
{
	return atomic_load_explicit(&lapic->base, memory_order_relaxed) & BASE_ENABLED;
}

static inline bool lapic_is_x2apic(const struct lapic *lapic)
{
	return atomic_load_explicit(&lapic->base, memory_order_relaxed) & BASE_X2APIC;
}

static inline uint32_t lapic_x2apic_ldr(const struct lapic *lapic)
{
	return (uint32_t)(lapic->id >> 4) << 16 | 1u << (lapic->id & 15);
}

/* ---- lapic.c; "locked" wants the lock held ---- */

void lapic_lock(struct lapic *lapic);
void lapic_unlock(struct lapic *lapic);
/* Recomputes PPR and what is deliverable, and kicks when something has become so. */
void lapic_update_locked(struct lapic *lapic);
/* Sets IRR, or records an error for a vector below 16. */
void lapic_post_locked(struct lapic *lapic, uint8_t vector, bool level);
void lapic_error_locked(struct lapic *lapic, uint32_t bit);
/* An event of a local source: does what its LVT says. */
void lapic_local_locked(struct lapic *lapic, enum lapic_lvt source);
/* Takes a message that was routed here. Without the lock. */
void lapic_accept(struct lapic *lapic, const struct apic_message *msg);
void lapic_eoi(struct lapic *lapic); /* without the lock */
/* All registers as after power-up, but for the base and the levels of the pins. */
void lapic_reset_locked(struct lapic *lapic);

/* ---- lapic_regs.c ---- */

void lapic_set_tpr_locked(struct lapic *lapic, uint8_t tpr);
/* The bits of an LVT that can be written. */
uint32_t lapic_lvt_mask(const struct lapic *lapic, unsigned i);

/* ---- lapic_timer.c ---- */

void lapic_timer_expired(void *lapic);
uint32_t lapic_timer_count_locked(const struct lapic *lapic);
void lapic_timer_set_count_locked(struct lapic *lapic, uint32_t count);
void lapic_timer_set_divide_locked(struct lapic *lapic, uint32_t divide);
/* The timer's LVT changes from `old`. */
void lapic_timer_set_mode_locked(struct lapic *lapic, uint32_t old);
void lapic_timer_set_deadline_locked(struct lapic *lapic, uint64_t deadline);
void lapic_timer_stop_locked(struct lapic *lapic);
/* Lets it count down from there, with initial_count and divide set already. */
void lapic_timer_set_left_locked(struct lapic *lapic, uint32_t count);
/* Arms for what the registers say, after load. */
void lapic_timer_resume_locked(struct lapic *lapic);

/* ---- lapic_bus.c ---- */

void lapic_bus_add(struct lapic_bus *bus, struct lapic *lapic);
void lapic_bus_remove(struct lapic_bus *bus, struct lapic *lapic);
/* Executes a write to the interrupt command register, whose upper half is a 32-bit destination. */
void lapic_bus_command(struct lapic *from, uint64_t icr);

/* ---- lapic_state.c ---- */

void lapic_save(struct device *dev, struct state_writer *w);
int lapic_load(struct device *dev, struct state_reader *r, struct error *err);

#endif
