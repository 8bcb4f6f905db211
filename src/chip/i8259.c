/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two 8259As: Intel's data sheet (231468), and PIIX's for the edge/level registers.
 *
 * The slave's INT is input 2 of the master. An edge, once seen, asks until it is acknowledged, even if its line falls:
 * the chip would answer with a spurious IRQ 7, which helps nobody.
 */
#include "chip/i8259.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "chip/io8.h"
#include "vm/platform.h"
#include "vm/state.h"

enum { CASCADE = PLATFORM_IRQ_CASCADE, SPURIOUS = 7 };

/* Where an initialisation sequence stands: which word port 1 takes next. */
enum { READY, WANT_ICW2, WANT_ICW3, WANT_ICW4 };

struct pic {
	uint8_t lines; /* input levels */
	uint8_t irr, isr, imr;
	uint8_t elcr;
	uint8_t base;   /* vector of input 0 */
	uint8_t lowest; /* the input of lowest priority */
	uint8_t init;
	bool need_icw4, single;
	bool auto_eoi, rotate_on_auto_eoi, special_mask, special_nested;
	bool read_isr, poll;
};

struct i8259 {
	struct device dev;
	struct bus *pio;
	struct irq_line output;
	pthread_mutex_t lock; /* guards pic */
	struct pic pic[2];
};

static const uint8_t elcr_writable[2] = { 0xf8, 0xde };

/* ---- priorities ---- */

/* The input of highest priority in a set, or -1. */
static int first_of(const struct pic *pic, uint8_t set)
{
	for (unsigned i = 1; i <= 8; i++) {
		unsigned irq = (pic->lowest + i) & 7;
		if (set >> irq & 1)
			return (int)irq;
	}
	return -1;
}

static unsigned rank(const struct pic *pic, unsigned irq)
{
	return (irq - pic->lowest - 1) & 7; /* 0 is highest */
}

/* The input that may interrupt now, or -1. */
static int pending(const struct pic *pic, bool master)
{
	int irq = first_of(pic, pic->irr & ~pic->imr);
	uint8_t serving = pic->isr;

	if (irq < 0)
		return -1;
	if (pic->special_mask)
		serving &= ~pic->imr;
	/* Special fully nested mode: the slave may ask again while one of its inputs is served. */
	if (pic->special_nested && master)
		serving &= ~(1u << CASCADE);
	int current = first_of(pic, serving);
	if (current >= 0 && rank(pic, current) <= rank(pic, irq))
		return -1;
	return irq;
}

static void set_input(struct pic *pic, unsigned irq, bool level)
{
	uint8_t bit = 1u << irq;

	if (pic->elcr & bit)
		pic->irr = level ? pic->irr | bit : pic->irr & ~bit;
	else if (level && !(pic->lines & bit))
		pic->irr |= bit;
	pic->lines = level ? pic->lines | bit : pic->lines & ~bit;
}

static void update(struct i8259 *chip)
{
	set_input(&chip->pic[0], CASCADE, pending(&chip->pic[1], false) >= 0);
	irq_line_set(&chip->output, pending(&chip->pic[0], true) >= 0);
}

void i8259_set(void *arg, unsigned irq, bool level)
{
	struct i8259 *chip = arg;

	assert(irq < 16);
	if (irq == CASCADE)
		return;
	pthread_mutex_lock(&chip->lock);
	set_input(&chip->pic[irq / 8], irq % 8, level);
	update(chip);
	pthread_mutex_unlock(&chip->lock);
}

/* ---- acknowledge ---- */

static void take(struct pic *pic, unsigned irq)
{
	uint8_t bit = 1u << irq;

	if (!(pic->elcr & bit))
		pic->irr &= ~bit;
	if (!pic->auto_eoi)
		pic->isr |= bit;
	else if (pic->rotate_on_auto_eoi)
		pic->lowest = irq;
}

/* Acknowledges one of the two: its input, or SPURIOUS. */
static unsigned acknowledge(struct i8259 *chip, unsigned which)
{
	struct pic *pic = &chip->pic[which];
	int irq = pending(pic, which == 0);

	if (irq < 0)
		return SPURIOUS;
	take(pic, irq);
	/* INT falls at each acknowledge, so that what still waits makes another edge at the master. */
	if (which == 1)
		set_input(&chip->pic[0], CASCADE, false);
	return irq;
}

int i8259_ack(void *arg)
{
	struct i8259 *chip = arg;

	pthread_mutex_lock(&chip->lock);
	bool cascade = pending(&chip->pic[0], true) == CASCADE;
	int vector = chip->pic[0].base + acknowledge(chip, 0);
	if (cascade)
		vector = chip->pic[1].base + acknowledge(chip, 1);
	update(chip);
	pthread_mutex_unlock(&chip->lock);
	return vector;
}

/* ---- commands ---- */

static void write_icw1(struct pic *pic, uint8_t value)
{
	pic->irr = pic->lines & pic->elcr; /* edges are forgotten */
	pic->isr = 0;
	pic->imr = 0;
	pic->lowest = 7;
	pic->auto_eoi = pic->rotate_on_auto_eoi = pic->special_mask = pic->special_nested = false;
	pic->read_isr = pic->poll = false;
	pic->need_icw4 = value & 1;
	pic->single = value & 2;
	pic->init = WANT_ICW2;
}

static void end(struct pic *pic, int irq, bool rotate)
{
	if (irq < 0)
		return;
	pic->isr &= ~(1u << irq);
	if (rotate)
		pic->lowest = irq;
}

static void write_ocw2(struct pic *pic, uint8_t value)
{
	unsigned irq = value & 7;
	uint8_t ends = pic->special_mask ? pic->isr & ~pic->imr : pic->isr;

	switch (value >> 5) {
	case 0:
	case 4:
		pic->rotate_on_auto_eoi = value >> 7;
		break;
	case 1:
	case 5:
		end(pic, first_of(pic, ends), value >> 7);
		break;
	case 3:
	case 7:
		end(pic, irq, value >> 7);
		break;
	case 6:
		pic->lowest = irq;
		break;
	default:
		break;
	}
}

static void write_ocw3(struct pic *pic, uint8_t value)
{
	if (value & 4)
		pic->poll = true;
	if (value & 2)
		pic->read_isr = value & 1;
	if (value & 0x40)
		pic->special_mask = value & 0x20;
}

static void write_data(struct pic *pic, uint8_t value)
{
	switch (pic->init) {
	case WANT_ICW2:
		pic->base = value & 0xf8;
		pic->init = !pic->single ? WANT_ICW3 : pic->need_icw4 ? WANT_ICW4 : READY;
		break;
	case WANT_ICW3: /* the wiring, which is fixed */
		pic->init = pic->need_icw4 ? WANT_ICW4 : READY;
		break;
	case WANT_ICW4:
		pic->special_nested = value & 0x10;
		pic->auto_eoi = value & 2;
		pic->init = READY;
		break;
	default:
		pic->imr = value;
		break;
	}
}

static void write_pic(struct pic *pic, unsigned offset, uint8_t value)
{
	if (offset)
		write_data(pic, value);
	else if (value & 0x10)
		write_icw1(pic, value);
	else if (value & 0x08)
		write_ocw3(pic, value);
	else
		write_ocw2(pic, value);
}

static uint8_t poll(struct i8259 *chip, unsigned which)
{
	chip->pic[which].poll = false;
	if (pending(&chip->pic[which], which == 0) < 0)
		return 0;
	return 0x80 | acknowledge(chip, which);
}

static uint8_t read_pic(struct i8259 *chip, unsigned which, unsigned offset)
{
	struct pic *pic = &chip->pic[which];

	if (pic->poll) /* either port: the next read is the poll */
		return poll(chip, which);
	if (offset)
		return pic->imr;
	return pic->read_isr ? pic->isr : pic->irr;
}

static void write_elcr(struct i8259 *chip, unsigned which, uint8_t value)
{
	struct pic *pic = &chip->pic[which];
	uint8_t changed;

	value &= elcr_writable[which];
	changed = pic->elcr ^ value;
	pic->elcr = value;
	pic->irr = (pic->irr & ~changed) | (pic->lines & changed & value);
}

/* ---- ports ---- */

static uint8_t read_port(struct i8259 *chip, unsigned which, unsigned offset)
{
	pthread_mutex_lock(&chip->lock);
	uint8_t value = read_pic(chip, which, offset);
	update(chip);
	pthread_mutex_unlock(&chip->lock);
	return value;
}

static void write_port(struct i8259 *chip, unsigned which, unsigned offset, uint8_t value)
{
	pthread_mutex_lock(&chip->lock);
	write_pic(&chip->pic[which], offset, value);
	update(chip);
	pthread_mutex_unlock(&chip->lock);
}

static uint8_t master_read8(void *dev, unsigned offset)
{
	return read_port(dev, 0, offset);
}

static void master_write8(void *dev, unsigned offset, uint8_t value)
{
	write_port(dev, 0, offset, value);
}

static uint8_t slave_read8(void *dev, unsigned offset)
{
	return read_port(dev, 1, offset);
}

static void slave_write8(void *dev, unsigned offset, uint8_t value)
{
	write_port(dev, 1, offset, value);
}

static uint8_t elcr_read8(void *dev, unsigned offset)
{
	struct i8259 *chip = dev;

	pthread_mutex_lock(&chip->lock);
	uint8_t value = chip->pic[offset].elcr;
	pthread_mutex_unlock(&chip->lock);
	return value;
}

static void elcr_write8(void *dev, unsigned offset, uint8_t value)
{
	struct i8259 *chip = dev;

	pthread_mutex_lock(&chip->lock);
	write_elcr(chip, offset, value);
	update(chip);
	pthread_mutex_unlock(&chip->lock);
}

#define PORT(name)                                                                          \
	static uint64_t name##_read(void *dev, uint64_t offset, unsigned size)              \
	{                                                                                   \
		return io8_read(name##_read8, dev, offset, size);                           \
	}                                                                                   \
	static void name##_write(void *dev, uint64_t offset, unsigned size, uint64_t value) \
	{                                                                                   \
		io8_write(name##_write8, dev, offset, size, value);                         \
	}                                                                                   \
	static const struct io_ops name##_io = { .read = name##_read, .write = name##_write }

PORT(master);
PORT(slave);
PORT(elcr);

/* ---- life ---- */

static void i8259_reset(struct device *dev)
{
	struct i8259 *chip = (struct i8259 *)dev;

	pthread_mutex_lock(&chip->lock);
	for (unsigned i = 0; i < 2; i++) {
		uint8_t lines = chip->pic[i].lines;
		memset(&chip->pic[i], 0, sizeof(chip->pic[i]));
		chip->pic[i].lines = lines;
		chip->pic[i].lowest = 7;
		/* The chip comes up undefined; silent is the kindest value for a guest that is entered without firmware. */
		chip->pic[i].imr = 0xff;
	}
	update(chip);
	pthread_mutex_unlock(&chip->lock);
}

/* What is saved of each of the two, with the largest value that it can have. All are bytes or bools. */
static const struct {
	const char *name[2];
	size_t offset;
	uint8_t max;
} fields[] = {
#define FIELD(field, max)                                                               \
	{                                                                               \
		{ "master-" #field, "slave-" #field }, offsetof(struct pic, field), max \
	}
	FIELD(lines, 0xff),     FIELD(irr, 0xff),         FIELD(isr, 0xff),   FIELD(imr, 0xff),
	FIELD(elcr, 0xff),      FIELD(base, 0xff),        FIELD(lowest, 7),   FIELD(init, WANT_ICW4),
	FIELD(need_icw4, 1),    FIELD(single, 1),         FIELD(auto_eoi, 1), FIELD(rotate_on_auto_eoi, 1),
	FIELD(special_mask, 1), FIELD(special_nested, 1), FIELD(read_isr, 1), FIELD(poll, 1),
#undef FIELD
};
enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };

static void i8259_save(struct device *dev, struct state_writer *w)
{
	struct i8259 *chip = (struct i8259 *)dev;

	pthread_mutex_lock(&chip->lock);
	for (unsigned i = 0; i < 2 * FIELDS; i++) {
		const uint8_t *pic = (const uint8_t *)&chip->pic[i % 2];
		state_put_u8(w, fields[i / 2].name[i % 2], pic[fields[i / 2].offset]);
	}
	pthread_mutex_unlock(&chip->lock);
}

static int i8259_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct i8259 *chip = (struct i8259 *)dev;
	uint8_t value[2 * FIELDS] = { 0 };

	for (unsigned i = 0; i < 2 * FIELDS; i++)
		state_get_u8(r, fields[i / 2].name[i % 2], &value[i]);
	if (state_failed(r, err))
		return -EINVAL;
	for (unsigned i = 0; i < 2 * FIELDS; i++) {
		if (value[i] > fields[i / 2].max)
			return error_set(err, -EINVAL, "i8259: saved %s is impossible", fields[i / 2].name[i % 2]);
	}
	pthread_mutex_lock(&chip->lock);
	for (unsigned i = 0; i < 2 * FIELDS; i++) {
		uint8_t *pic = (uint8_t *)&chip->pic[i % 2];
		pic[fields[i / 2].offset] = value[i];
	}
	chip->pic[0].elcr &= elcr_writable[0];
	chip->pic[1].elcr &= elcr_writable[1];
	update(chip);
	pthread_mutex_unlock(&chip->lock);
	return 0;
}

static void i8259_destroy(struct device *dev)
{
	struct i8259 *chip = (struct i8259 *)dev;

	bus_remove(chip->pio, PLATFORM_PIC1_PORT);
	bus_remove(chip->pio, PLATFORM_PIC2_PORT);
	bus_remove(chip->pio, PLATFORM_ELCR_PORT);
	pthread_mutex_destroy(&chip->lock);
	free(chip);
}

static const struct device_ops i8259_ops = {
	.name = "i8259",
	.version = 1,
	.reset = i8259_reset,
	.save = i8259_save,
	.load = i8259_load,
	.destroy = i8259_destroy,
};

struct i8259 *i8259_create(struct bus *pio, struct irq_line output)
{
	struct i8259 *chip = memory_zalloc(sizeof(*chip));

	chip->dev.ops = &i8259_ops;
	chip->pio = pio;
	chip->output = output;
	pthread_mutex_init(&chip->lock, NULL);
	i8259_reset(&chip->dev);
	bus_add(pio, PLATFORM_PIC1_PORT, 2, &master_io, chip, "i8259");
	bus_add(pio, PLATFORM_PIC2_PORT, 2, &slave_io, chip, "i8259");
	bus_add(pio, PLATFORM_ELCR_PORT, 2, &elcr_io, chip, "i8259");
	return chip;
}

struct device *i8259_device(struct i8259 *pic)
{
	return &pic->dev;
}
