/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real-time clock and its CMOS memory: Motorola's MC146818A data sheet, with the century byte and the memory sizes
 * where PC firmware keeps them.
 *
 * The guest's time is the host's in UTC and an offset, which is 0 until the guest sets the clock. The flags of register
 * C are found from the time when somebody looks; the host's timer runs only for those that are to interrupt and are not
 * set yet. While the guest holds the clock (SET, or the divider in reset) its ten bytes are plain memory.
 */
#include "chip/board.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "chip/io8.h"
#include "vm/platform.h"
#include "vm/state.h"

#define NS UINT64_C(1000000000)

/* Guest time is in microseconds, because its four digits of year reach further than 64 bits of nanoseconds. */
#define US INT64_C(1000000)

/* More than the difference of any two times that can be set. */
#define OFFSET_MAX (US * 20000 * 366 * 86400)

/* UIP is set this long before the second changes: the data sheet's t_BUC. */
#define UPDATE_US 244

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	CENTURY = PLATFORM_RTC_CENTURY,
	BYTES = 128,
};

enum {
	A_UIP = 0x80,
	A_DIVIDER = 0x70,
	A_RATE = 0x0f,
	B_SET = 0x80,
	B_PERIODIC = 0x40,
	B_ALARM = 0x20,
	B_UPDATE = 0x10,
	B_BINARY = 0x04,
	B_24H = 0x02,
	C_IRQ = 0x80,
	C_PERIODIC = 0x40, /* the flags are where B enables them */
	C_ALARM = 0x20,
	C_UPDATE = 0x10,
	C_FLAGS = 0x70,
	D_VALID = 0x80,
	HOUR_PM = 0x80,
	ALARM_ANY = 0xc0, /* "don't care" */
};

struct mc146818 {
	struct device dev;
	struct board board;
	struct timer *timer;

	pthread_mutex_t lock; /* guards what follows */
	uint8_t index;
	uint8_t cmos[BYTES]; /* the time only while it is held */
	int64_t offset;      /* guest time is host time and this, in microseconds */
	bool divider_reset;  /* during this hold */
	int64_t looked;      /* guest time at which the flags were last brought up to date */
	uint64_t looked_32k; /* and the 32.768 kHz oscillator's tick */
};

/* ---- time ---- */

static int64_t wall_now(const struct mc146818 *rtc)
{
	if (rtc->board.wall_clock)
		return (int64_t)(rtc->board.wall_clock(rtc->board.ctx) / 1000);
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * US + ts.tv_nsec / 1000;
}

static int64_t guest_now(const struct mc146818 *rtc)
{
	return wall_now(rtc) + rtc->offset;
}

static int64_t floor_second(int64_t us)
{
	int64_t s = us / US;
	return s * US > us ? s - 1 : s;
}

static uint64_t ticks_32k(const struct mc146818 *rtc)
{
	uint64_t now = clock_now(rtc->board.clock);
	return now / NS * 32768 + now % NS * 32768 / NS;
}

static bool divider_is_reset(uint8_t a)
{
	return (a & 0x60) == 0x60;
}

static bool is_held(const struct mc146818 *rtc)
{
	return rtc->cmos[REG_B] & B_SET || divider_is_reset(rtc->cmos[REG_A]);
}

/* ---- the form of the ten bytes ---- */

static uint8_t encode(const struct mc146818 *rtc, unsigned value)
{
	if (rtc->cmos[REG_B] & B_BINARY)
		return value;
	return value % 10 | value / 10 << 4;
}

static unsigned decode(const struct mc146818 *rtc, uint8_t value)
{
	if (rtc->cmos[REG_B] & B_BINARY)
		return value;
	return (value & 15) + (value >> 4) * 10;
}

static uint8_t encode_hour(const struct mc146818 *rtc, unsigned hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct mc146818 *rtc, uint8_t value)
{
	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, value);
	return decode(rtc, value & ~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

static void time_to_bytes(struct mc146818 *rtc, int64_t guest)
{
	time_t seconds = floor_second(guest);
	struct tm tm = { 0 };

	gmtime_r(&seconds, &tm);
	unsigned year = tm.tm_year + 1900;
	rtc->cmos[SECONDS] = encode(rtc, tm.tm_sec);
	rtc->cmos[MINUTES] = encode(rtc, tm.tm_min);
	rtc->cmos[HOURS] = encode_hour(rtc, tm.tm_hour);
	rtc->cmos[WEEKDAY] = encode(rtc, tm.tm_wday + 1);
	rtc->cmos[DAY] = encode(rtc, tm.tm_mday);
	rtc->cmos[MONTH] = encode(rtc, tm.tm_mon + 1);
	rtc->cmos[YEAR] = encode(rtc, year % 100);
	rtc->cmos[CENTURY] = year / 100 % 10 | year / 1000 % 10 << 4; /* always BCD */
}

/* Whatever the guest wrote is some time: timegm carries what is too large. */
static int64_t bytes_to_time(const struct mc146818 *rtc)
{
	unsigned century = (rtc->cmos[CENTURY] & 15) + (rtc->cmos[CENTURY] >> 4) * 10;
	struct tm tm = {
		.tm_sec = (int)decode(rtc, rtc->cmos[SECONDS]),
		.tm_min = (int)decode(rtc, rtc->cmos[MINUTES]),
		.tm_hour = (int)decode_hour(rtc, rtc->cmos[HOURS]),
		.tm_mday = (int)decode(rtc, rtc->cmos[DAY]),
		.tm_mon = (int)decode(rtc, rtc->cmos[MONTH]) - 1,
		.tm_year = (int)(century * 100 + decode(rtc, rtc->cmos[YEAR])) - 1900,
	};
	return timegm(&tm) * US;
}

/* ---- flags ---- */

/* The oscillator's ticks in a period of the rate in register A, or 0. */
static uint64_t period_32k(const struct mc146818 *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & A_RATE;

	if (!rate || divider_is_reset(rtc->cmos[REG_A]))
		return 0;
	return UINT64_C(1) << ((rate < 3 ? rate + 7 : rate) - 1);
}

static bool alarm_matches(uint8_t alarm, unsigned decoded, unsigned value)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || decoded == value;
}

/* The first second after `after` at which the alarm goes off, or INT64_MAX. It repeats daily at the latest. */
static int64_t next_alarm(const struct mc146818 *rtc, int64_t after)
{
	const uint8_t *cmos = rtc->cmos;
	unsigned hour = decode_hour(rtc, cmos[HOURS_ALARM]), minute = decode(rtc, cmos[MINUTES_ALARM]);
	unsigned second = decode(rtc, cmos[SECONDS_ALARM]);
	int64_t s = after + 1, end = s + 86400;

	while (s < end) {
		unsigned of_day = (unsigned)(((s % 86400) + 86400) % 86400);
		if (!alarm_matches(cmos[HOURS_ALARM], hour, of_day / 3600))
			s += 3600 - of_day % 3600;
		else if (!alarm_matches(cmos[MINUTES_ALARM], minute, of_day / 60 % 60))
			s += 60 - of_day % 60;
		else if (!alarm_matches(cmos[SECONDS_ALARM], second, of_day % 60))
			s++;
		else
			return s;
	}
	return INT64_MAX;
}

/* Sets the flags of what happened since they were last looked at. */
static void look(struct mc146818 *rtc)
{
	uint64_t ticks = ticks_32k(rtc), period = period_32k(rtc);
	int64_t now = guest_now(rtc);

	if (period && ticks / period != rtc->looked_32k / period)
		rtc->cmos[REG_C] |= C_PERIODIC;
	rtc->looked_32k = ticks;
	if (!is_held(rtc)) {
		int64_t from = floor_second(rtc->looked), to = floor_second(now);
		if (to > from)
			rtc->cmos[REG_C] |= C_UPDATE;
		if (to > from && next_alarm(rtc, from) <= to)
			rtc->cmos[REG_C] |= C_ALARM;
	}
	rtc->looked = now;
}

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Machine time at which the next flag that would interrupt is set, or UINT64_MAX. */
static uint64_t next_event(const struct mc146818 *rtc)
{
	uint8_t wanted = rtc->cmos[REG_B] & ~rtc->cmos[REG_C] & C_FLAGS;
	uint64_t now = clock_now(rtc->board.clock), when = UINT64_MAX, period = period_32k(rtc);

	if (wanted & C_PERIODIC && period) {
		uint64_t tick = (rtc->looked_32k / period + 1) * period;
		when = tick / 32768 * NS + tick % 32768 * NS / 32768 + 1;
	}
	if (is_held(rtc))
		return when;
	int64_t guest = rtc->looked, second = floor_second(guest);
	if (wanted & C_UPDATE)
		when = min(when, now + (uint64_t)((second + 1) * US - guest) * 1000);
	int64_t alarm = wanted & C_ALARM ? next_alarm(rtc, second) : INT64_MAX;
	if (alarm != INT64_MAX)
		when = min(when, now + (uint64_t)(alarm * US - guest) * 1000);
	return when;
}

static void update(struct mc146818 *rtc)
{
	look(rtc);
	bool irq = rtc->cmos[REG_B] & rtc->cmos[REG_C] & C_FLAGS;
	rtc->cmos[REG_C] = (rtc->cmos[REG_C] & C_FLAGS) | (irq ? C_IRQ : 0);
	irq_line_set(&rtc->board.isa[PLATFORM_IRQ_RTC], irq);
	/* Once it interrupts, nothing can be added until register C is read. */
	uint64_t when = irq ? UINT64_MAX : next_event(rtc);
	if (when == UINT64_MAX)
		timer_cancel(rtc->timer);
	else
		timer_arm(rtc->timer, when);
}

static void on_timer(void *arg)
{
	struct mc146818 *rtc = arg;

	pthread_mutex_lock(&rtc->lock);
	update(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* ---- registers ---- */

static void set_time(struct mc146818 *rtc, int64_t guest)
{
	rtc->offset = guest - wall_now(rtc);
	rtc->looked = guest_now(rtc);
}

/* A or B changes. Going on after a divider reset, the first second is half one: "divider control" of the data sheet. */
static void write_control(struct mc146818 *rtc, unsigned reg, uint8_t value)
{
	bool was = is_held(rtc);
	int64_t guest = guest_now(rtc);

	if (!was)
		time_to_bytes(rtc, guest);
	rtc->cmos[reg] = value;
	bool is = is_held(rtc);
	if (divider_is_reset(rtc->cmos[REG_A]))
		rtc->divider_reset = true;
	if (was && !is)
		set_time(rtc, bytes_to_time(rtc) + (rtc->divider_reset ? US / 2 : guest - floor_second(guest) * US));
	if (!is)
		rtc->divider_reset = false;
}

static bool is_time(unsigned reg)
{
	return reg == SECONDS || reg == MINUTES || reg == HOURS || (reg >= WEEKDAY && reg <= YEAR) || reg == CENTURY;
}

static void write_time(struct mc146818 *rtc, unsigned reg, uint8_t value)
{
	if (is_held(rtc)) {
		rtc->cmos[reg] = value;
		return;
	}
	int64_t guest = guest_now(rtc);
	time_to_bytes(rtc, guest);
	rtc->cmos[reg] = value;
	set_time(rtc, bytes_to_time(rtc) + guest - floor_second(guest) * US);
}

static void write_register(struct mc146818 *rtc, unsigned reg, uint8_t value)
{
	look(rtc);
	if (reg == REG_A)
		write_control(rtc, reg, value & ~A_UIP);
	else if (reg == REG_B)
		/* SET also disables the update interrupt. */
		write_control(rtc, reg, value & B_SET ? value & ~B_UPDATE : value);
	else if (is_time(reg))
		write_time(rtc, reg, value);
	else if (reg != REG_C && reg != REG_D)
		rtc->cmos[reg] = value;
	update(rtc);
}

static uint8_t read_register(struct mc146818 *rtc, unsigned reg)
{
	int64_t guest = guest_now(rtc);
	uint8_t value;

	switch (reg) {
	case REG_A:
		value = rtc->cmos[REG_A];
		if (!is_held(rtc) && (floor_second(guest) + 1) * US - guest <= UPDATE_US)
			value |= A_UIP;
		return value;
	case REG_C:
		update(rtc);
		value = rtc->cmos[REG_C];
		rtc->cmos[REG_C] = 0;
		update(rtc);
		return value;
	case REG_D:
		return D_VALID;
	default:
		if (is_time(reg) && !is_held(rtc))
			time_to_bytes(rtc, guest);
		return rtc->cmos[reg];
	}
}

static uint8_t read8(void *dev, unsigned offset)
{
	struct mc146818 *rtc = dev;

	pthread_mutex_lock(&rtc->lock);
	uint8_t value = offset ? read_register(rtc, rtc->index) : 0xff; /* the index can't be read */
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void write8(void *dev, unsigned offset, uint8_t value)
{
	struct mc146818 *rtc = dev;

	pthread_mutex_lock(&rtc->lock);
	if (offset)
		write_register(rtc, rtc->index, value);
	else
		rtc->index = value & 0x7f; /* bit 7 masks NMIs on real boards */
	pthread_mutex_unlock(&rtc->lock);
}

static uint64_t mc146818_read(void *dev, uint64_t offset, unsigned size)
{
	return io8_read(read8, dev, offset, size);
}

static void mc146818_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	io8_write(write8, dev, offset, size, value);
}

static const struct io_ops mc146818_io = { .read = mc146818_read, .write = mc146818_write };

/* ---- life ---- */

static void put16(struct mc146818 *rtc, unsigned at, uint64_t value)
{
	if (value > 0xffff)
		value = 0xffff;
	rtc->cmos[at] = value & 0xff;
	rtc->cmos[at + 1] = value >> 8;
}

/* What PC firmware finds or leaves in the memory. */
static void fill_memory(struct mc146818 *rtc)
{
	uint64_t low = rtc->board.ram_low, high = rtc->board.ram_high >> 16;
	uint64_t extended = low > 1 << 20 ? (low - (1 << 20)) >> 10 : 0;

	put16(rtc, 0x15, 640);
	put16(rtc, 0x17, extended);
	put16(rtc, 0x30, extended);
	put16(rtc, 0x34, low > 16 << 20 ? (low - (16 << 20)) >> 16 : 0);
	rtc->cmos[0x5b] = high & 0xff;
	rtc->cmos[0x5c] = high >> 8 & 0xff;
	rtc->cmos[0x5d] = high >> 16 & 0xff;
	rtc->cmos[0x14] = 0x02; /* equipment: a coprocessor */
}

/* The battery keeps the time and the memory; RESET clears only the enables and the flags. */
static void mc146818_reset(struct device *dev)
{
	struct mc146818 *rtc = (struct mc146818 *)dev;

	pthread_mutex_lock(&rtc->lock);
	write_register(rtc, REG_B, rtc->cmos[REG_B] & (B_BINARY | B_24H));
	rtc->index = 0;
	rtc->cmos[REG_C] = 0;
	update(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static void mc146818_save(struct device *dev, struct state_writer *w)
{
	struct mc146818 *rtc = (struct mc146818 *)dev;

	pthread_mutex_lock(&rtc->lock);
	update(rtc);
	/* The time passes between save and load, but for one that is held. */
	uint8_t cmos[BYTES];
	memcpy(cmos, rtc->cmos, BYTES);
	for (unsigned i = 0; i < BYTES && !is_held(rtc); i++) {
		if (is_time(i))
			cmos[i] = 0;
	}
	state_put_u8(w, "index", rtc->index);
	state_put_bytes(w, "cmos", cmos, BYTES);
	state_put_u64(w, "offset", (uint64_t)rtc->offset);
	state_put_bool(w, "divider-reset", rtc->divider_reset);
	pthread_mutex_unlock(&rtc->lock);
}

static int mc146818_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct mc146818 *rtc = (struct mc146818 *)dev;
	uint8_t index = 0, cmos[BYTES];
	uint64_t offset = 0;
	bool divider_reset = false;

	state_get_u8(r, "index", &index);
	state_get_bytes(r, "cmos", cmos, BYTES);
	state_get_u64(r, "offset", &offset);
	state_get_bool(r, "divider-reset", &divider_reset);
	if (state_failed(r, err))
		return -EINVAL;
	if (index >= BYTES || (int64_t)offset > OFFSET_MAX || (int64_t)offset < -OFFSET_MAX)
		return error_set(err, -EINVAL, "mc146818: saved index or time is impossible");
	pthread_mutex_lock(&rtc->lock);
	rtc->index = index;
	memcpy(rtc->cmos, cmos, BYTES);
	rtc->cmos[REG_A] &= ~A_UIP;
	rtc->offset = (int64_t)offset;
	rtc->divider_reset = divider_reset;
	rtc->looked = guest_now(rtc);
	rtc->looked_32k = ticks_32k(rtc);
	update(rtc);
	pthread_mutex_unlock(&rtc->lock);
	return 0;
}

static void mc146818_destroy(struct device *dev)
{
	struct mc146818 *rtc = (struct mc146818 *)dev;

	bus_remove(rtc->board.pio, PLATFORM_RTC_PORT);
	timer_free(rtc->timer);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

static const struct device_ops mc146818_ops = {
	.name = "mc146818",
	.version = 1,
	.reset = mc146818_reset,
	.save = mc146818_save,
	.load = mc146818_load,
	.destroy = mc146818_destroy,
};

struct device *mc146818_create(const struct board *board)
{
	struct mc146818 *rtc = memory_zalloc(sizeof(*rtc));

	rtc->dev.ops = &mc146818_ops;
	rtc->board = *board;
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->timer = timer_create_on(board->clock, on_timer, rtc);
	rtc->cmos[REG_A] = 0x26; /* 32.768 kHz, 1024 Hz: as PC firmware leaves it */
	rtc->cmos[REG_B] = B_24H;
	fill_memory(rtc);
	rtc->looked = guest_now(rtc);
	rtc->looked_32k = ticks_32k(rtc);
	bus_add(board->pio, PLATFORM_RTC_PORT, 2, &mc146818_io, rtc, "mc146818");
	return &rtc->dev;
}
