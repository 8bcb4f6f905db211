/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A local APIC's registers, through its page (SDM Vol. 3, 11.4.1) and through MSRs (11.12).
 *
 * Both use the same numbers and the same read_reg and write_reg; they differ in what is refused: the page ignores and
 * records an error, an MSR gives #GP.
 */
#include "chip/lapic_private.h"

#include <string.h>

/* Version 0x14, six LVT entries, and bit 24: SVR may suppress EOI broadcasts. Linux's KVM says so where the I/O APIC is
 * another's, keeps that bit of SVR and broadcasts all the same; a guest finds no difference. */
#define VERSION (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24)

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC 0x800u

uint64_t lapic_base(const struct lapic *lapic)
{
	return atomic_load(&lapic->base);
}

/* ---- single registers ---- */

void lapic_set_tpr_locked(struct lapic *lapic, uint8_t tpr)
{
	lapic->tpr = tpr;
	lapic_update_locked(lapic);
}

uint32_t lapic_lvt_mask(const struct lapic *lapic, unsigned i)
{
	switch (i) {
	case LVT_TIMER:
		return 0xff | LVT_MASKED | LVT_TIMER_PERIODIC | (lapic->can_deadline ? LVT_TIMER_DEADLINE : 0);
	case LVT_LINT0:
	case LVT_LINT1:
		return 0x7ff | 1 << 13 | LVT_LEVEL | LVT_MASKED;
	case LVT_ERROR:
		return 0xff | LVT_MASKED;
	default:
		return 0x7ff | LVT_MASKED;
	}
}

static void set_lvt_locked(struct lapic *lapic, unsigned i, uint32_t value)
{
	uint32_t old = lapic->lvt[i], writable = lapic_lvt_mask(lapic, i);

	value = (value & writable) | (old & LVT_REMOTE_IRR);
	/* 11.4.7.2: while the APIC is disabled by software all entries are masked. */
	if (!(atomic_load(&lapic->svr) & SVR_ENABLED))
		value |= LVT_MASKED;
	if (i == LVT_TIMER && (value & LVT_TIMER_MODE) == LVT_TIMER_MODE)
		value &= ~LVT_TIMER_MODE; /* reserved: one-shot */
	if (!(value & LVT_LEVEL))
		value &= ~(uint32_t)LVT_REMOTE_IRR;
	lapic->lvt[i] = value;
	if (i == LVT_TIMER)
		lapic_timer_set_mode_locked(lapic, old);
	/* A level that was there before its entry was opened. */
	if ((i == LVT_LINT0 && lapic->lint[0]) || (i == LVT_LINT1 && lapic->lint[1])) {
		if ((value >> LVT_DELIVERY_SHIFT & 7) == APIC_FIXED && value & LVT_LEVEL)
			lapic_local_locked(lapic, i);
	}
	lapic_update_locked(lapic);
}

static void set_svr_locked(struct lapic *lapic, uint32_t value)
{
	value &= SVR_WRITABLE;
	atomic_store(&lapic->svr, value);
	if (value & SVR_ENABLED)
		return;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		lapic->lvt[i] |= LVT_MASKED;
	lapic_update_locked(lapic);
}

static uint32_t id_register(const struct lapic *lapic)
{
	return lapic_is_x2apic(lapic) ? lapic->id : (uint32_t)lapic->id << 24;
}

static uint32_t ldr_register(const struct lapic *lapic)
{
	return lapic_is_x2apic(lapic) ? lapic_x2apic_ldr(lapic) : atomic_load(&lapic->ldr);
}

/* ---- by number ---- */

static bool is_lvt(unsigned reg)
{
	return reg >= REG_LVT && reg < REG_LVT + LVT_COUNT;
}

/* Reads what has the same form in both modes. false: no such register. */
static bool read_reg_locked(struct lapic *lapic, unsigned reg, uint32_t *value)
{
	if (reg >= REG_ISR && reg < REG_IRR + 8) {
		const uint32_t *wide = reg < REG_TMR ? lapic->isr : reg < REG_IRR ? lapic->tmr : lapic->irr;
		*value = wide[reg % 8];
		return true;
	}
	if (is_lvt(reg)) {
		*value = lapic->lvt[reg - REG_LVT];
		return true;
	}
	switch (reg) {
	case REG_ID:
		*value = id_register(lapic);
		return true;
	case REG_VERSION:
		*value = VERSION;
		return true;
	case REG_TPR:
		*value = lapic->tpr;
		return true;
	case REG_PPR:
		*value = atomic_load(&lapic->ppr);
		return true;
	case REG_LDR:
		*value = ldr_register(lapic);
		return true;
	case REG_SVR:
		*value = atomic_load(&lapic->svr);
		return true;
	case REG_ESR:
		*value = lapic->esr;
		return true;
	case REG_ICR:
		*value = (uint32_t)lapic->icr;
		return true;
	case REG_INITIAL_COUNT:
		*value = lapic->initial_count;
		return true;
	case REG_CURRENT_COUNT:
		*value = lapic_timer_count_locked(lapic);
		return true;
	case REG_DIVIDE:
		*value = lapic->divide;
		return true;
	default:
		return false;
	}
}

/* Writes what has the same form in both modes and needs the lock. false: no such register, or read-only. */
static bool write_reg_locked(struct lapic *lapic, unsigned reg, uint32_t value)
{
	if (is_lvt(reg)) {
		set_lvt_locked(lapic, reg - REG_LVT, value);
		return true;
	}
	switch (reg) {
	case REG_TPR:
		lapic_set_tpr_locked(lapic, value & 0xff);
		return true;
	case REG_SVR:
		set_svr_locked(lapic, value);
		return true;
	case REG_ESR: /* 11.5.3: a write shows what has gathered since the last one */
		lapic->esr = lapic->esr_pending;
		lapic->esr_pending = 0;
		return true;
	case REG_INITIAL_COUNT:
		lapic_timer_set_count_locked(lapic, value);
		return true;
	case REG_DIVIDE:
		lapic_timer_set_divide_locked(lapic, value);
		return true;
	default:
		return false;
	}
}

/* ---- the page ---- */

static uint32_t page_read(struct lapic *lapic, unsigned reg)
{
	uint32_t value = 0;

	lapic_lock(lapic);
	switch (reg) {
	case REG_ICR_HIGH:
		value = lapic->icr >> 32;
		break;
	case REG_DFR:
		value = atomic_load(&lapic->dfr);
		break;
	case REG_APR: /* gone since the Pentium 4, but harmless */
	case REG_RRD:
	case REG_EOI:
		break;
	default:
		if (!read_reg_locked(lapic, reg, &value))
			lapic_error_locked(lapic, ESR_REGISTER);
		break;
	}
	lapic_unlock(lapic);
	return value;
}

static void page_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
	uint64_t icr;

	switch (reg) {
	case REG_EOI:
		lapic_eoi(lapic);
		return;
	case REG_ICR:
		lapic_lock(lapic);
		lapic->icr = (lapic->icr & 0xff00000000000000u) | (value & 0x000ccfff);
		icr = lapic->icr;
		lapic_unlock(lapic);
		/* The page has 8 bits of destination, in the top of the register. */
		lapic_bus_command(lapic, (icr >> 56) << 32 | (uint32_t)icr);
		return;
	default:
		break;
	}
	lapic_lock(lapic);
	switch (reg) {
	case REG_ICR_HIGH:
		lapic->icr = (uint64_t)(value & 0xff000000) << 32 | (uint32_t)lapic->icr;
		break;
	case REG_LDR:
		atomic_store(&lapic->ldr, value & 0xff000000);
		break;
	case REG_DFR:
		atomic_store(&lapic->dfr, value | 0x0fffffff);
		break;
	case REG_ID: /* read-only, as on processors with an x2APIC */
		break;
	default:
		if (!write_reg_locked(lapic, reg, value))
			lapic_error_locked(lapic, ESR_REGISTER);
		break;
	}
	lapic_unlock(lapic);
}

bool lapic_mmio(struct lapic *lapic, uint64_t gpa, void *data, unsigned size, bool write)
{
	uint64_t base = atomic_load_explicit(&lapic->base, memory_order_relaxed);
	uint64_t offset = gpa - (base & lapic->address_mask);

	if (offset >= 4096 || (base & (BASE_ENABLED | BASE_X2APIC)) != BASE_ENABLED)
		return false;
	if (write) {
		/* 11.4.1: anything but an aligned 32-bit access is undefined; a store is then lost. */
		uint32_t value;
		if (offset % 16 || size != 4)
			return true;
		memcpy(&value, data, 4);
		page_write(lapic, offset >> 4, value);
		return true;
	}
	uint64_t value = 0;
	if (offset % 16 < 4)
		value = page_read(lapic, offset >> 4) >> offset % 4 * 8;
	memcpy(data, &value, size);
	return true;
}

/* ---- MSRs ---- */

/* The bits that must be zero in a write; 11.12.1.2. */
static uint32_t x2apic_reserved(const struct lapic *lapic, unsigned reg)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return ~0xffu;
	case REG_EOI:
	case REG_ESR:
		return ~0u;
	case REG_SVR:
		return ~(uint32_t)SVR_WRITABLE;
	case REG_DIVIDE:
		return ~0xbu;
	default:
		/* Delivery status and remote IRR are read-only, not reserved. */
		return is_lvt(reg) ? ~(lapic_lvt_mask(lapic, reg - REG_LVT) | 1u << 12 | LVT_REMOTE_IRR) : 0;
	}
}

static bool x2apic_read(struct lapic *lapic, unsigned reg, uint64_t *value)
{
	uint32_t low = 0;

	lapic_lock(lapic);
	bool ok = read_reg_locked(lapic, reg, &low);
	*value = reg == REG_ICR ? lapic->icr : low;
	lapic_unlock(lapic);
	return ok;
}

static bool x2apic_write(struct lapic *lapic, unsigned reg, uint64_t value)
{
	if (reg == REG_ICR) {
		if (value & 0xfff32000)
			return false;
		value &= ~(UINT64_C(1) << 12);
		lapic_lock(lapic);
		lapic->icr = value;
		lapic_unlock(lapic);
		lapic_bus_command(lapic, value);
		return true;
	}
	if (value >> 32 || value & x2apic_reserved(lapic, reg))
		return false;
	if (reg == REG_EOI) {
		lapic_eoi(lapic);
		return true;
	}
	lapic_lock(lapic);
	bool ok = true;
	if (reg != REG_SELF_IPI)
		ok = write_reg_locked(lapic, reg, value);
	else if (value < 16)
		lapic_error_locked(lapic, ESR_SEND_VECTOR);
	else
		lapic_post_locked(lapic, value, false);
	lapic_unlock(lapic);
	return ok;
}

/* 11.12.5: off, xAPIC and x2APIC follow each other only in this order, and both go to off. */
static bool write_base(struct lapic *lapic, uint64_t value)
{
	uint64_t old = atomic_load(&lapic->base);
	bool enabled = value & BASE_ENABLED, x2apic = value & BASE_X2APIC;

	if (value & ~(lapic->address_mask | BASE_BSP | BASE_X2APIC | BASE_ENABLED))
		return false;
	if (x2apic && (!enabled || !lapic->can_x2apic || !(old & BASE_ENABLED)))
		return false;
	if (enabled && !x2apic && old & BASE_X2APIC)
		return false;
	lapic_lock(lapic);
	atomic_store(&lapic->base, (value & ~(uint64_t)BASE_BSP) | (old & BASE_BSP));
	if (x2apic && !(old & BASE_X2APIC))
		lapic->icr = (uint32_t)lapic->icr; /* the destination has another form now */
	if (enabled != !!(old & BASE_ENABLED))
		lapic_reset_locked(lapic);
	lapic_update_locked(lapic);
	lapic_unlock(lapic);
	return true;
}

bool lapic_msr_read(struct lapic *lapic, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_APIC_BASE:
		*value = lapic_base(lapic);
		return true;
	case MSR_TSC_DEADLINE:
		if (!lapic->can_deadline)
			return false;
		lapic_lock(lapic);
		*value = lapic->tsc_deadline;
		lapic_unlock(lapic);
		return true;
	default:
		if (index < MSR_X2APIC || index > MSR_X2APIC + 0x3f || !lapic_is_x2apic(lapic))
			return false;
		return x2apic_read(lapic, index - MSR_X2APIC, value);
	}
}

bool lapic_msr_write(struct lapic *lapic, uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_APIC_BASE:
		return write_base(lapic, value);
	case MSR_TSC_DEADLINE:
		if (!lapic->can_deadline)
			return false;
		lapic_lock(lapic);
		lapic_timer_set_deadline_locked(lapic, value);
		lapic_unlock(lapic);
		return true;
	default:
		if (index < MSR_X2APIC || index > MSR_X2APIC + 0x3f || !lapic_is_x2apic(lapic))
			return false;
		return x2apic_write(lapic, index - MSR_X2APIC, value);
	}
}

uint64_t lapic_cr8(const struct lapic *lapic)
{
	return lapic->tpr >> 4; /* only the owner writes it */
}

void lapic_set_cr8(struct lapic *lapic, uint64_t value)
{
	lapic_lock(lapic);
	lapic_set_tpr_locked(lapic, (value & 15) << 4);
	lapic_unlock(lapic);
}
