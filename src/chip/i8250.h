/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8250.h - a UART of the 8250 family: the 16550A, with FIFOs (National PC16550D).
 *
 * The line is always connected (CTS, DSR, DCD) and takes output at any speed: a character written is sent at once.
 * Output is gathered and handed to the back end when there is enough of it, or after a millisecond. A back end that takes
 * nothing holds up the vCPU that sends when what is gathered has no room left, and nobody else.
 *
 * Reached by any thread; one lock, not held while the back end is called.
 */
#ifndef PLURES_CHIP_I8250_H
#define PLURES_CHIP_I8250_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vm/device.h"

struct i8250;

/* The host's side. */
struct i8250_back {
	void *ctx;
	/* The guest sent these: returns how many were taken. With `wait`, on a vCPU's thread, takes them all, or gives
	 * up and they are lost; without it, on the event thread, does not wait. By one thread at a time. Must not call
	 * the UART. NULL: nowhere. */
	size_t (*write)(void *ctx, const void *bytes, size_t size, bool wait);
	/* After i8250_receive took less than it was given: there is room now. On a vCPU's thread. May be NULL. May call
	 * i8250_receive. */
	void (*room)(void *ctx);
};

struct i8250_config {
	struct bus *pio;
	uint16_t base; /* first of 8 ports */
	struct irq_line irq;
	struct clock *clock;
	/* Take input only while the guest asserts RTS: a driver that starts up clears the FIFOs, and with them what came
	 * before it was ready. */
	bool flow_control;
	struct i8250_back back;
};

struct i8250 *i8250_create(const struct i8250_config *config); /* never NULL */
struct device *i8250_device(struct i8250 *uart);

/* Bytes for the guest: returns how many were taken. Any thread. */
size_t i8250_receive(struct i8250 *uart, const void *bytes, size_t size);
/* A break condition on the line (a guest's SysRq). */
void i8250_break(struct i8250 *uart);
/* Hands over output that is still gathered, waiting. Destroying does so too. */
void i8250_flush(struct i8250 *uart);

#endif
