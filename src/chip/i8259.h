/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8259.h - the two 8259A interrupt controllers of a PC at 0x20 and 0xa0, with the edge/level registers at 0x4d0.
 *
 * The pair is one device: inputs 0 to 15 (2 is the cascade and goes nowhere). Reached by any thread; one lock, held
 * while the output line is set.
 */
#ifndef PLURES_CHIP_I8259_H
#define PLURES_CHIP_I8259_H

#include <stdbool.h>

#include "vm/device.h"

struct i8259;

/* `output` is the master's INT: LINT0 of the boot CPU's lapic. Never NULL. */
struct i8259 *i8259_create(struct bus *pio, struct irq_line output);
struct device *i8259_device(struct i8259 *pic);

/* The level of an input. Type of irq_line.set. */
void i8259_set(void *pic, unsigned irq, bool level);

/* The CPU's interrupt acknowledge: always a vector (that of IRQ 7 when there is nothing). For lapic_bus_set_extint. */
int i8259_ack(void *pic);

#endif
