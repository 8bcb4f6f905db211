/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fixed hardware of ACPI: ACPI specification 6.4, 4.8.3 (PM1, the timer) and 4.8.4 (general-purpose events).
 *
 * The machine is always in ACPI mode, as its FADT says with an SMI_CMD of 0. The timer's overflow is found from the
 * time whenever somebody looks, and the host's timer runs only while the guest wants an interrupt for it.
 */
#include "chip/board.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/memory.h"
#include "vm/platform.h"
#include "vm/state.h"

#define NS 1000000000u

/* Bits of the PM1 status and enable registers: tables 4.13 and 4.14. */
enum {
	PM1_TIMER = 1 << 0,
	PM1_GLOBAL = 1 << 5,
	PM1_POWER_BUTTON = 1 << 8,
	PM1_RTC = 1 << 10,
	PM1_WAKE = 1 << 15,
	PM1_STATUSES = PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_WAKE,
	/* The RTC's event wakes from a sleep that is not offered, and so never comes; yet Linux complains of a bit that it can't
	 * set. */
	PM1_ENABLES = PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_RTC,
};

/* And of PM1 control: table 4.15. */
enum {
	CONTROL_SCI_ENABLE = 1 << 0,
	CONTROL_SLEEP_TYPE_SHIFT = 10,
	CONTROL_SLEEP_ENABLE = 1 << 13,
	CONTROL_KEPT = 1 << 1 | 7 << CONTROL_SLEEP_TYPE_SHIFT, /* BM_RLD and SLP_TYP */
};

/* Offsets in the block. */
enum {
	AT_STATUS = PLATFORM_PM1_EVENT_PORT - PLATFORM_PM_BASE,
	AT_ENABLE = AT_STATUS + 2,
	AT_CONTROL = PLATFORM_PM1_CONTROL_PORT - PLATFORM_PM_BASE,
	AT_TIMER = PLATFORM_PM_TIMER_PORT - PLATFORM_PM_BASE,
	AT_GPE_STATUS = PLATFORM_GPE0_PORT - PLATFORM_PM_BASE,
	AT_GPE_ENABLE = AT_GPE_STATUS + 2,
};

struct acpi_pm {
	struct device dev;
	struct board board;
	struct timer *timer;

	pthread_mutex_t lock; /* guards what follows */
	uint16_t status, enable, control;
	uint16_t gpe_status, gpe_enable;
	uint64_t base; /* ticks to add to the clock's: not 0 after load */
	uint64_t half; /* of how many half periods (2^31 ticks) `status` knows */
};

static uint64_t ticks_now(const struct acpi_pm *pm)
{
	uint64_t now = clock_now(pm->board.clock);
	return pm->base + now / NS * PLATFORM_PM_TIMER_HZ + now % NS * PLATFORM_PM_TIMER_HZ / NS;
}

/* TMR_STS is set whenever the timer's top bit changes: 4.8.3.3. */
static void look_at_timer(struct acpi_pm *pm)
{
	uint64_t half = ticks_now(pm) >> 31;

	if (half != pm->half)
		pm->status |= PM1_TIMER;
	pm->half = half;
}

static void update(struct acpi_pm *pm)
{
	look_at_timer(pm);
	bool sci = pm->status & pm->enable & PM1_ENABLES || pm->gpe_status & pm->gpe_enable;
	irq_line_set(&pm->board.isa[PLATFORM_IRQ_SCI], sci);

	if (!(pm->enable & PM1_TIMER) || pm->status & PM1_TIMER) {
		timer_cancel(pm->timer);
		return;
	}
	/* The fixed-point way back to nanoseconds may be a tick early: then the callback comes here again. */
	uint64_t ticks = ((pm->half + 1) << 31) - ticks_now(pm);
	timer_arm(pm->timer, clock_now(pm->board.clock) + ticks / PLATFORM_PM_TIMER_HZ * NS +
				 ticks % PLATFORM_PM_TIMER_HZ * NS / PLATFORM_PM_TIMER_HZ + 1);
}

static void on_timer(void *arg)
{
	struct acpi_pm *pm = arg;

	pthread_mutex_lock(&pm->lock);
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_power_button(struct device *dev)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;

	pthread_mutex_lock(&pm->lock);
	pm->status |= PM1_POWER_BUTTON;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_gpe(struct device *dev, unsigned gpe)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;

	assert(gpe < 16);
	pthread_mutex_lock(&pm->lock);
	pm->gpe_status |= 1u << gpe;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* ---- registers ---- */

static void write_control(struct acpi_pm *pm, uint16_t value)
{
	pm->control = (value & CONTROL_KEPT) | CONTROL_SCI_ENABLE;
	/* 4.8.3.2.1: only S5 is offered by the DSDT. */
	if (value & CONTROL_SLEEP_ENABLE && (value >> CONTROL_SLEEP_TYPE_SHIFT & 7) == PLATFORM_SLP_TYP_S5)
		pm->board.event(pm->board.ctx, BOARD_POWER_OFF, 0);
}

/* All registers but the timer are 16 bits; an access is widened to the half words that it touches. */
static uint16_t read16(const struct acpi_pm *pm, unsigned at)
{
	switch (at) {
	case AT_STATUS:
		return pm->status;
	case AT_ENABLE:
		return pm->enable;
	case AT_CONTROL:
		return pm->control;
	case AT_GPE_STATUS:
		return pm->gpe_status;
	case AT_GPE_ENABLE:
		return pm->gpe_enable;
	default:
		return 0;
	}
}

/* `mask` has the bits of the bytes that are written. */
static void write16(struct acpi_pm *pm, unsigned at, uint16_t value, uint16_t mask)
{
	uint16_t merged = (read16(pm, at) & ~mask) | (value & mask);

	switch (at) {
	case AT_STATUS: /* statuses are cleared by writing ones */
		pm->status &= ~(value & mask);
		break;
	case AT_ENABLE:
		pm->enable = merged & PM1_ENABLES;
		break;
	case AT_CONTROL:
		write_control(pm, merged);
		break;
	case AT_GPE_STATUS:
		pm->gpe_status &= ~(value & mask);
		break;
	case AT_GPE_ENABLE:
		pm->gpe_enable = merged;
		break;
	default:
		break;
	}
}

static uint64_t acpi_pm_read(void *dev, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = dev;
	uint64_t value = 0;

	pthread_mutex_lock(&pm->lock);
	look_at_timer(pm);
	uint32_t timer = (uint32_t)ticks_now(pm);
	for (unsigned i = 0; i < size; i++) {
		unsigned at = offset + i;
		uint8_t byte;
		if (at >= AT_TIMER && at < AT_TIMER + 4)
			byte = timer >> (at - AT_TIMER) * 8;
		else
			byte = read16(pm, at & ~1u) >> (at & 1) * 8;
		value |= (uint64_t)byte << i * 8;
	}
	pthread_mutex_unlock(&pm->lock);
	return value;
}

static void acpi_pm_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = dev;
	unsigned at = offset, end = at + size;

	pthread_mutex_lock(&pm->lock);
	look_at_timer(pm);
	while (at < end) {
		bool both = !(at & 1) && at + 1 < end;
		unsigned shift = (at & 1) * 8;
		write16(pm, at & ~1u, (uint16_t)(value << shift), both ? 0xffff : 0xff << shift);
		value >>= both ? 16 : 8;
		at += both ? 2 : 1;
	}
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static const struct io_ops acpi_pm_io = { .read = acpi_pm_read, .write = acpi_pm_write };

/* ---- life ---- */

static void acpi_pm_reset(struct device *dev)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;

	pthread_mutex_lock(&pm->lock);
	pm->status = pm->enable = pm->gpe_status = pm->gpe_enable = 0;
	pm->control = CONTROL_SCI_ENABLE;
	pm->half = ticks_now(pm) >> 31;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void acpi_pm_save(struct device *dev, struct state_writer *w)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;

	pthread_mutex_lock(&pm->lock);
	look_at_timer(pm);
	state_put_u16(w, "status", pm->status);
	state_put_u16(w, "enable", pm->enable);
	state_put_u16(w, "control", pm->control);
	state_put_u16(w, "gpe-status", pm->gpe_status);
	state_put_u16(w, "gpe-enable", pm->gpe_enable);
	state_put_u64(w, "timer", ticks_now(pm));
	pthread_mutex_unlock(&pm->lock);
}

static int acpi_pm_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;
	uint16_t status = 0, enable = 0, control = 0, gpe_status = 0, gpe_enable = 0;
	uint64_t timer = 0;

	state_get_u16(r, "status", &status);
	state_get_u16(r, "enable", &enable);
	state_get_u16(r, "control", &control);
	state_get_u16(r, "gpe-status", &gpe_status);
	state_get_u16(r, "gpe-enable", &gpe_enable);
	state_get_u64(r, "timer", &timer);
	if (state_failed(r, err))
		return -EINVAL;
	if (timer >> 62 || status & ~PM1_STATUSES || enable & ~PM1_ENABLES)
		return error_set(err, -EINVAL, "acpi_pm: saved registers are impossible");
	pthread_mutex_lock(&pm->lock);
	pm->status = status;
	pm->enable = enable;
	pm->control = (control & CONTROL_KEPT) | CONTROL_SCI_ENABLE;
	pm->gpe_status = gpe_status;
	pm->gpe_enable = gpe_enable;
	pm->base = 0;
	pm->base = timer - ticks_now(pm);
	pm->half = timer >> 31;
	update(pm);
	pthread_mutex_unlock(&pm->lock);
	return 0;
}

static void acpi_pm_destroy(struct device *dev)
{
	struct acpi_pm *pm = (struct acpi_pm *)dev;

	bus_remove(pm->board.pio, PLATFORM_PM_BASE);
	timer_free(pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

static const struct device_ops acpi_pm_ops = {
	.name = "acpi_pm",
	.version = 1,
	.reset = acpi_pm_reset,
	.save = acpi_pm_save,
	.load = acpi_pm_load,
	.destroy = acpi_pm_destroy,
};

struct device *acpi_pm_create(const struct board *board)
{
	struct acpi_pm *pm = memory_zalloc(sizeof(*pm));

	pm->dev.ops = &acpi_pm_ops;
	pm->board = *board;
	pthread_mutex_init(&pm->lock, NULL);
	pm->timer = timer_create_on(board->clock, on_timer, pm);
	acpi_pm_reset(&pm->dev);
	bus_add(board->pio, PLATFORM_PM_BASE, PLATFORM_PM_SIZE, &acpi_pm_io, pm, "acpi_pm");
	return &pm->dev;
}
