/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 8254 interval timer and port 0x61: Intel's data sheet (231164) and PIIX's for the port.
 *
 * Nothing counts: a channel knows the tick at which its count was loaded, and what it shows is computed from the time.
 * Only channel 0 needs the host's timer, at each rise of its output, which is interrupt 0. The fall is not timed: the
 * line is lowered just before it rises, as nobody can tell.
 *
 * A count written while a channel counts is used at once, not at the end of the period, in modes 2 and 3.
 */
#include "chip/board.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/memory.h"
#include "chip/io8.h"
#include "vm/platform.h"
#include "vm/state.h"

#define HZ 1193182u
#define NS 1000000000u

/* Interrupts may not come faster than this, or a guest could keep the event thread busy. */
#define MIN_PERIOD_NS 100000u

/* Port 0x61 toggles bit 4 at each refresh of the memory. */
#define REFRESH_NS 15085u

enum { RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH };

struct channel {
	uint8_t mode; /* 0 to 5 */
	uint8_t rw;
	bool bcd;
	bool gate;
	bool loaded;     /* a count was written since the control word */
	bool running;    /* the count goes down; start counts from where it began */
	uint16_t reload; /* as written; 0 is the largest count */
	uint8_t low;     /* the first byte of two, written */
	bool write_high; /* the next byte written is the second */
	bool read_high;  /* the next byte read is the second */
	uint16_t latch;
	bool latched;
	uint8_t status;
	bool status_latched;
	uint64_t start;   /* running: the tick at which the count was `reload` */
	uint64_t elapsed; /* not running: ticks counted before it stopped */
};

struct i8254 {
	struct device dev;
	struct bus *pio;
	struct clock *clock;
	struct irq_line irq;
	struct timer *timer;

	pthread_mutex_t lock; /* guards what follows */
	struct channel channel[3];
	uint8_t port61; /* bits 0 to 3 */
	uint64_t rise;  /* machine time of channel 0's next interrupt, or UINT64_MAX */
};

/* ---- time ---- */

static uint64_t ticks_now(const struct i8254 *pit)
{
	uint64_t now = clock_now(pit->clock);
	return now / NS * HZ + now % NS * HZ / NS;
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks / HZ * NS + (ticks % HZ * NS + HZ - 1) / HZ;
}

static uint64_t elapsed(const struct channel *ch, uint64_t now)
{
	return ch->running ? now - ch->start : ch->elapsed;
}

/* ---- what a channel shows ---- */

static uint32_t period(const struct channel *ch)
{
	if (!ch->bcd)
		return ch->reload ? ch->reload : 0x10000;
	uint32_t value = 0;
	for (int shift = 12; shift >= 0; shift -= 4)
		value = value * 10 + (ch->reload >> shift & 15);
	return value ? value : 10000;
}

static bool output(const struct channel *ch, uint64_t now)
{
	uint64_t done = elapsed(ch, now), count = period(ch);

	if (!ch->loaded)
		return ch->mode != 0;
	switch (ch->mode) {
	case 0:
		return done >= count;
	case 1:
		return !ch->running || done >= count;
	case 2:
		return !ch->gate || done % count != count - 1;
	case 3:
		return !ch->gate || done % count < (count + 1) / 2;
	default:
		return done != count;
	}
}

static uint16_t counter(const struct channel *ch, uint64_t now)
{
	uint64_t done = elapsed(ch, now), count = period(ch), modulus = ch->bcd ? 10000 : 0x10000, value;

	switch (ch->mode) {
	case 2:
		value = count - done % count;
		break;
	case 3:
		value = count - 2 * done % count;
		break;
	default: /* wraps around and goes on */
		value = count + modulus - done % modulus;
		break;
	}
	value %= modulus;
	if (!ch->bcd)
		return value;
	return value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 << 12;
}

/* ---- channel 0's interrupt ---- */

/* After how many ticks from the start the output rises next, or 0. */
static uint64_t next_rise(const struct channel *ch, uint64_t done)
{
	uint64_t count = period(ch);

	if (!ch->loaded || !ch->running)
		return 0;
	switch (ch->mode) {
	case 0:
		return done < count ? count : 0;
	case 2:
	case 3:
		return (done / count + 1) * count;
	case 4:
		return done <= count ? count + 1 : 0;
	default: /* need a gate that rises, which channel 0 has not */
		return 0;
	}
}

static void schedule(struct i8254 *pit, uint64_t not_before)
{
	struct channel *ch = &pit->channel[0];
	uint64_t rise = next_rise(ch, ticks_now(pit) - ch->start);

	pit->rise = UINT64_MAX;
	if (!rise) {
		timer_cancel(pit->timer);
		return;
	}
	uint64_t when = ticks_to_ns(ch->start + rise);
	pit->rise = when < not_before ? not_before : when;
	timer_arm(pit->timer, pit->rise);
}

static void on_rise(void *arg)
{
	struct i8254 *pit = arg;

	pthread_mutex_lock(&pit->lock);
	uint64_t now = clock_now(pit->clock);
	if (now >= pit->rise) {
		irq_line_set(&pit->irq, false);
		irq_line_set(&pit->irq, true);
		schedule(pit, now + MIN_PERIOD_NS);
	}
	pthread_mutex_unlock(&pit->lock);
}

/* ---- counting ---- */

static void start(struct i8254 *pit, struct channel *ch)
{
	ch->running = true;
	ch->start = ticks_now(pit);
	ch->elapsed = 0;
}

static void stop(struct i8254 *pit, struct channel *ch)
{
	ch->elapsed = elapsed(ch, ticks_now(pit));
	ch->running = false;
}

static void load(struct i8254 *pit, struct channel *ch, uint16_t reload)
{
	bool first = !ch->loaded;

	ch->reload = reload;
	ch->loaded = true;
	if (ch->mode == 1 || ch->mode == 5) { /* the gate starts it */
		if (first)
			ch->running = false, ch->elapsed = 0;
	} else {
		start(pit, ch);
		if (!ch->gate)
			stop(pit, ch);
	}
	if (ch == &pit->channel[0]) {
		if (ch->mode == 0)
			irq_line_set(&pit->irq, false);
		schedule(pit, 0);
	}
}

static void set_gate(struct i8254 *pit, struct channel *ch, bool gate)
{
	bool rises = gate && !ch->gate, falls = !gate && ch->gate;

	ch->gate = gate;
	if (!ch->loaded)
		return;
	switch (ch->mode) {
	case 0:
	case 4: /* low holds the count */
		if (falls)
			stop(pit, ch);
		if (rises) {
			ch->running = true;
			ch->start = ticks_now(pit) - ch->elapsed;
		}
		break;
	case 2:
	case 3: /* low holds it and the output high */
		if (falls)
			stop(pit, ch);
		if (rises)
			start(pit, ch);
		break;
	default:
		if (rises)
			start(pit, ch);
		break;
	}
}

/* ---- ports 0x40 to 0x43 ---- */

static void latch_count(struct i8254 *pit, struct channel *ch)
{
	if (ch->latched)
		return;
	ch->latch = counter(ch, ticks_now(pit));
	ch->latched = true;
}

static void latch_status(struct i8254 *pit, struct channel *ch)
{
	if (ch->status_latched)
		return;
	ch->status = output(ch, ticks_now(pit)) << 7 | !ch->loaded << 6 | ch->rw << 4 | ch->mode << 1 | ch->bcd;
	ch->status_latched = true;
}

static void read_back(struct i8254 *pit, uint8_t value)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(value >> (i + 1) & 1))
			continue;
		if (!(value & 0x20))
			latch_count(pit, &pit->channel[i]);
		if (!(value & 0x10))
			latch_status(pit, &pit->channel[i]);
	}
}

static void write_control(struct i8254 *pit, uint8_t value)
{
	if (value >> 6 == 3) {
		read_back(pit, value);
		return;
	}
	struct channel *ch = &pit->channel[value >> 6];
	unsigned mode = value >> 1 & 7;
	if ((value >> 4 & 3) == RW_LATCH) {
		latch_count(pit, ch);
		return;
	}
	ch->rw = value >> 4 & 3;
	ch->mode = mode > 5 ? mode - 4 : mode;
	ch->bcd = value & 1;
	ch->loaded = ch->running = ch->write_high = ch->read_high = ch->latched = ch->status_latched = false;
	ch->elapsed = 0;
	if (ch == &pit->channel[0]) {
		if (ch->mode == 0)
			irq_line_set(&pit->irq, false);
		schedule(pit, 0);
	}
}

static void write_count(struct i8254 *pit, struct channel *ch, uint8_t value)
{
	switch (ch->rw) {
	case RW_LOW:
		load(pit, ch, value);
		return;
	case RW_HIGH:
		load(pit, ch, value << 8);
		return;
	default:
		break;
	}
	if (ch->write_high) {
		load(pit, ch, ch->low | value << 8);
	} else {
		ch->low = value;
		/* In mode 0 the first byte stops the count. */
		if (ch->mode == 0 && ch->running) {
			stop(pit, ch);
			if (ch == &pit->channel[0])
				schedule(pit, 0);
		}
	}
	ch->write_high = !ch->write_high;
}

static uint8_t read_count(struct i8254 *pit, struct channel *ch)
{
	if (ch->status_latched) {
		ch->status_latched = false;
		return ch->status;
	}
	uint16_t value = ch->latched ? ch->latch : counter(ch, ticks_now(pit));
	bool high = ch->rw == RW_HIGH || (ch->rw == RW_BOTH && ch->read_high);
	if (ch->rw == RW_BOTH)
		ch->read_high = !ch->read_high;
	if (ch->rw != RW_BOTH || high)
		ch->latched = false;
	return high ? value >> 8 : value & 0xff;
}

static uint8_t pit_read8(void *dev, unsigned offset)
{
	struct i8254 *pit = dev;
	uint8_t value = 0xff; /* the control word can't be read */

	pthread_mutex_lock(&pit->lock);
	if (offset < 3)
		value = read_count(pit, &pit->channel[offset]);
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static void pit_write8(void *dev, unsigned offset, uint8_t value)
{
	struct i8254 *pit = dev;

	pthread_mutex_lock(&pit->lock);
	if (offset < 3)
		write_count(pit, &pit->channel[offset], value);
	else
		write_control(pit, value);
	pthread_mutex_unlock(&pit->lock);
}

static uint64_t pit_read(void *dev, uint64_t offset, unsigned size)
{
	return io8_read(pit_read8, dev, offset, size);
}

static void pit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	io8_write(pit_write8, dev, offset, size, value);
}

static const struct io_ops pit_io = { .read = pit_read, .write = pit_write };

/* ---- port 0x61 ---- */

static uint64_t port61_read(void *dev, uint64_t offset, unsigned size)
{
	struct i8254 *pit = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&pit->lock);
	uint8_t value = pit->port61;
	value |= (clock_now(pit->clock) / REFRESH_NS & 1) << 4;
	value |= output(&pit->channel[2], ticks_now(pit)) << 5;
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static void port61_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8254 *pit = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&pit->lock);
	pit->port61 = value & 0x0f;
	set_gate(pit, &pit->channel[2], value & 1);
	pthread_mutex_unlock(&pit->lock);
}

static const struct io_ops port61_io = { .read = port61_read, .write = port61_write };

/* ---- life ---- */

static void i8254_reset(struct device *dev)
{
	struct i8254 *pit = (struct i8254 *)dev;

	pthread_mutex_lock(&pit->lock);
	for (unsigned i = 0; i < 3; i++)
		pit->channel[i] = (struct channel){ .mode = 3, .rw = RW_BOTH, .gate = i != 2 };
	pit->port61 = 0;
	schedule(pit, 0);
	irq_line_set(&pit->irq, false);
	pthread_mutex_unlock(&pit->lock);
}

/* What is saved of each channel but its count, with the largest value that it can have. All are bytes or bools. */
static const struct {
	const char *name[3];
	size_t offset;
	uint8_t max;
} fields[] = {
#define FIELD(field, max)                                                                       \
	{                                                                                       \
		{ "0-" #field, "1-" #field, "2-" #field }, offsetof(struct channel, field), max \
	}
	FIELD(mode, 5),      FIELD(rw, RW_BOTH), FIELD(bcd, 1),       FIELD(gate, 1),
	FIELD(loaded, 1),    FIELD(running, 1),  FIELD(low, 0xff),    FIELD(write_high, 1),
	FIELD(read_high, 1), FIELD(latched, 1),  FIELD(status, 0xff), FIELD(status_latched, 1),
#undef FIELD
};
enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };

static const char *const reload_name[] = { "0-reload", "1-reload", "2-reload" };
static const char *const latch_name[] = { "0-latch", "1-latch", "2-latch" };
static const char *const elapsed_name[] = { "0-elapsed", "1-elapsed", "2-elapsed" };

static void i8254_save(struct device *dev, struct state_writer *w)
{
	struct i8254 *pit = (struct i8254 *)dev;

	pthread_mutex_lock(&pit->lock);
	uint64_t now = ticks_now(pit);
	for (unsigned i = 0; i < 3; i++) {
		const struct channel *ch = &pit->channel[i];
		for (unsigned j = 0; j < FIELDS; j++)
			state_put_u8(w, fields[j].name[i], ((const uint8_t *)ch)[fields[j].offset]);
		state_put_u16(w, reload_name[i], ch->reload);
		state_put_u16(w, latch_name[i], ch->latch);
		state_put_u64(w, elapsed_name[i], elapsed(ch, now));
	}
	state_put_u8(w, "port61", pit->port61);
	pthread_mutex_unlock(&pit->lock);
}

static int load_channel(struct state_reader *r, struct channel *ch, unsigned i, struct error *err)
{
	for (unsigned j = 0; j < FIELDS; j++) {
		uint8_t value = 0;
		state_get_u8(r, fields[j].name[i], &value);
		if (value > fields[j].max)
			return error_set(err, -EINVAL, "i8254: saved %s is impossible", fields[j].name[i]);
		((uint8_t *)ch)[fields[j].offset] = value;
	}
	state_get_u16(r, reload_name[i], &ch->reload);
	state_get_u16(r, latch_name[i], &ch->latch);
	state_get_u64(r, elapsed_name[i], &ch->elapsed);
	/* Enough for the age of the universe. */
	if (ch->elapsed > UINT64_MAX / 4)
		return error_set(err, -EINVAL, "i8254: saved %s is impossible", elapsed_name[i]);
	return 0;
}

static int i8254_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct i8254 *pit = (struct i8254 *)dev;
	struct channel channel[3] = { 0 };
	uint8_t port61 = 0;

	for (unsigned i = 0; i < 3; i++) {
		int rc = load_channel(r, &channel[i], i, err);
		if (rc)
			return rc;
	}
	state_get_u8(r, "port61", &port61);
	if (state_failed(r, err))
		return -EINVAL;
	pthread_mutex_lock(&pit->lock);
	for (unsigned i = 0; i < 3; i++) {
		pit->channel[i] = channel[i];
		if (channel[i].running)
			pit->channel[i].start = ticks_now(pit) - channel[i].elapsed;
	}
	pit->port61 = port61 & 0x0f;
	schedule(pit, 0);
	pthread_mutex_unlock(&pit->lock);
	return 0;
}

static void i8254_destroy(struct device *dev)
{
	struct i8254 *pit = (struct i8254 *)dev;

	bus_remove(pit->pio, PLATFORM_PIT_PORT);
	bus_remove(pit->pio, PLATFORM_PORT61);
	timer_free(pit->timer);
	pthread_mutex_destroy(&pit->lock);
	free(pit);
}

static const struct device_ops i8254_ops = {
	.name = "i8254",
	.version = 1,
	.reset = i8254_reset,
	.save = i8254_save,
	.load = i8254_load,
	.destroy = i8254_destroy,
};

struct device *i8254_create(const struct board *board)
{
	struct i8254 *pit = memory_zalloc(sizeof(*pit));

	pit->dev.ops = &i8254_ops;
	pit->pio = board->pio;
	pit->clock = board->clock;
	pit->irq = board->isa[PLATFORM_IRQ_TIMER];
	pthread_mutex_init(&pit->lock, NULL);
	pit->timer = timer_create_on(board->clock, on_rise, pit);
	i8254_reset(&pit->dev);
	bus_add(board->pio, PLATFORM_PIT_PORT, 4, &pit_io, pit, "i8254");
	bus_add(board->pio, PLATFORM_PORT61, 1, &port61_io, pit, "i8254");
	return &pit->dev;
}
