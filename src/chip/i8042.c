/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The i8042 keyboard controller with nothing connected, for what else it does in a PC: reset and the A20 gate, and to
 * answer a driver that looks for it without making that wait. The IBM AT and PS/2 technical references.
 *
 * A byte for the keyboard is answered as the controller does when nobody acknowledges it: 0xfe with the time-out bit.
 * There is no second (mouse) port.
 */
#include "chip/board.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "vm/platform.h"
#include "vm/state.h"

enum {
	STATUS_FULL = 0x01,
	STATUS_SYSTEM = 0x04,
	STATUS_COMMAND = 0x08, /* the last byte written was a command */
	STATUS_UNLOCKED = 0x10,
	STATUS_TIMEOUT = 0x40,
	CONFIG_IRQ = 0x01,
	CONFIG_SYSTEM = 0x04,
	CONFIG_NO_KEYBOARD = 0x10,
	CONFIG_NO_MOUSE = 0x20,
	CONFIG_TRANSLATE = 0x40,
	OUTPUT_NOT_RESET = 0x01,
	OUTPUT_A20 = 0x02,
	KEYBOARD_RESEND = 0xfe,
	RAM = 32, /* byte 0 is the configuration */
};

struct i8042 {
	struct device dev;
	struct board board;

	pthread_mutex_t lock; /* guards what follows */
	uint8_t ram[RAM];
	uint8_t output_port;
	uint8_t status;  /* STATUS_FULL, _COMMAND and _TIMEOUT */
	uint8_t out;     /* the output buffer: what port 0x60 reads */
	uint8_t pending; /* the command whose data byte comes next, or 0 */
};

static void update(struct i8042 *kbc)
{
	irq_line_set(&kbc->board.isa[PLATFORM_IRQ_KEYBOARD], kbc->status & STATUS_FULL && kbc->ram[0] & CONFIG_IRQ);
}

static void answer(struct i8042 *kbc, uint8_t byte, bool timeout)
{
	kbc->out = byte;
	kbc->status = (kbc->status & STATUS_COMMAND) | STATUS_FULL | (timeout ? STATUS_TIMEOUT : 0);
}

static void write_output_port(struct i8042 *kbc, uint8_t value)
{
	kbc->output_port = value | OUTPUT_NOT_RESET;
	if (!(value & OUTPUT_NOT_RESET))
		kbc->board.event(kbc->board.ctx, BOARD_RESET, 0);
}

static void command(struct i8042 *kbc, uint8_t value)
{
	kbc->pending = 0;
	if (value >= 0x20 && value < 0x40) { /* read a byte of its memory */
		answer(kbc, kbc->ram[value & 0x1f], false);
		return;
	}
	if (value >= 0x60 && value < 0x80) {
		kbc->pending = value;
		return;
	}
	switch (value) {
	case 0xa7:
		kbc->ram[0] |= CONFIG_NO_MOUSE;
		break;
	case 0xa8:
		kbc->ram[0] &= ~CONFIG_NO_MOUSE;
		break;
	case 0xa9: /* test the mouse's port: its clock is stuck low */
		answer(kbc, 0x01, false);
		break;
	case 0xaa: /* self test */
		kbc->ram[0] |= CONFIG_SYSTEM;
		answer(kbc, 0x55, false);
		break;
	case 0xab: /* test the keyboard's port */
		answer(kbc, 0x00, false);
		break;
	case 0xad:
		kbc->ram[0] |= CONFIG_NO_KEYBOARD;
		break;
	case 0xae:
		kbc->ram[0] &= ~CONFIG_NO_KEYBOARD;
		break;
	case 0xc0: /* input port: not locked, no manufacturing jumper */
		answer(kbc, 0xa0, false);
		break;
	case 0xd0:
		answer(kbc, kbc->output_port, false);
		break;
	case 0xd1:
	case 0xd2:
	case 0xd3:
	case 0xd4:
		kbc->pending = value;
		break;
	case 0xdd:
		kbc->output_port &= ~OUTPUT_A20;
		break;
	case 0xdf:
		kbc->output_port |= OUTPUT_A20;
		break;
	default:
		/* 0xf0 to 0xff pulse low the lines of the output port whose bits are 0. */
		if (value >= 0xf0 && !(value & OUTPUT_NOT_RESET))
			kbc->board.event(kbc->board.ctx, BOARD_RESET, 0);
		break;
	}
}

static void data(struct i8042 *kbc, uint8_t value)
{
	uint8_t pending = kbc->pending;

	kbc->pending = 0;
	if (pending >= 0x60 && pending < 0x80) {
		kbc->ram[pending & 0x1f] = value;
		return;
	}
	switch (pending) {
	case 0xd1:
		write_output_port(kbc, value);
		break;
	case 0xd2: /* as if the keyboard had sent it */
	case 0xd3: /* as if the mouse had; but it comes without the mouse's bit, as there is no such port */
		answer(kbc, value, false);
		break;
	default: /* to the keyboard, or with 0xd4 to the mouse */
		answer(kbc, KEYBOARD_RESEND, true);
		break;
	}
}

/* ---- ports ---- */

static uint64_t data_read(void *dev, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&kbc->lock);
	kbc->status &= ~(STATUS_FULL | STATUS_TIMEOUT);
	uint8_t value = kbc->out; /* an empty buffer shows the last byte */
	update(kbc);
	pthread_mutex_unlock(&kbc->lock);
	return value;
}

static void data_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *kbc = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&kbc->lock);
	kbc->status &= ~STATUS_COMMAND;
	data(kbc, value);
	update(kbc);
	pthread_mutex_unlock(&kbc->lock);
}

static uint64_t status_read(void *dev, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&kbc->lock);
	uint8_t value = kbc->status | STATUS_UNLOCKED | (kbc->ram[0] & CONFIG_SYSTEM ? STATUS_SYSTEM : 0);
	pthread_mutex_unlock(&kbc->lock);
	return value;
}

static void command_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *kbc = dev;

	(void)offset;
	(void)size;
	pthread_mutex_lock(&kbc->lock);
	kbc->status |= STATUS_COMMAND;
	command(kbc, value);
	update(kbc);
	pthread_mutex_unlock(&kbc->lock);
}

static const struct io_ops data_io = { .read = data_read, .write = data_write };
static const struct io_ops command_io = { .read = status_read, .write = command_write };

/* ---- life ---- */

static void i8042_reset(struct device *dev)
{
	struct i8042 *kbc = (struct i8042 *)dev;

	pthread_mutex_lock(&kbc->lock);
	memset(kbc->ram, 0, sizeof(kbc->ram));
	kbc->ram[0] = CONFIG_SYSTEM | CONFIG_NO_KEYBOARD | CONFIG_NO_MOUSE | CONFIG_TRANSLATE;
	kbc->output_port = OUTPUT_NOT_RESET | OUTPUT_A20;
	kbc->status = kbc->out = kbc->pending = 0;
	update(kbc);
	pthread_mutex_unlock(&kbc->lock);
}

static void i8042_save(struct device *dev, struct state_writer *w)
{
	struct i8042 *kbc = (struct i8042 *)dev;

	pthread_mutex_lock(&kbc->lock);
	state_put_bytes(w, "ram", kbc->ram, RAM);
	state_put_u8(w, "output-port", kbc->output_port);
	state_put_u8(w, "status", kbc->status);
	state_put_u8(w, "out", kbc->out);
	state_put_u8(w, "pending", kbc->pending);
	pthread_mutex_unlock(&kbc->lock);
}

static int i8042_load(struct device *dev, struct state_reader *r, struct error *err)
{
	struct i8042 *kbc = (struct i8042 *)dev;
	uint8_t ram[RAM], output_port = 0, status = 0, out = 0, pending = 0;

	state_get_bytes(r, "ram", ram, RAM);
	state_get_u8(r, "output-port", &output_port);
	state_get_u8(r, "status", &status);
	state_get_u8(r, "out", &out);
	state_get_u8(r, "pending", &pending);
	if (state_failed(r, err))
		return -EINVAL;
	pthread_mutex_lock(&kbc->lock);
	memcpy(kbc->ram, ram, RAM);
	kbc->output_port = output_port | OUTPUT_NOT_RESET;
	kbc->status = status & (STATUS_FULL | STATUS_COMMAND | STATUS_TIMEOUT);
	kbc->out = out;
	kbc->pending = pending;
	update(kbc);
	pthread_mutex_unlock(&kbc->lock);
	return 0;
}

static void i8042_destroy(struct device *dev)
{
	struct i8042 *kbc = (struct i8042 *)dev;

	bus_remove(kbc->board.pio, PLATFORM_I8042_DATA);
	bus_remove(kbc->board.pio, PLATFORM_I8042_COMMAND);
	pthread_mutex_destroy(&kbc->lock);
	free(kbc);
}

static const struct device_ops i8042_ops = {
	.name = "i8042",
	.version = 1,
	.reset = i8042_reset,
	.save = i8042_save,
	.load = i8042_load,
	.destroy = i8042_destroy,
};

struct device *i8042_create(const struct board *board)
{
	struct i8042 *kbc = memory_zalloc(sizeof(*kbc));

	kbc->dev.ops = &i8042_ops;
	kbc->board = *board;
	pthread_mutex_init(&kbc->lock, NULL);
	i8042_reset(&kbc->dev);
	bus_add(board->pio, PLATFORM_I8042_DATA, 1, &data_io, kbc, "i8042");
	bus_add(board->pio, PLATFORM_I8042_COMMAND, 1, &command_io, kbc, "i8042");
	return &kbc->dev;
}
