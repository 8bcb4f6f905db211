/* SPDX-License-Identifier: Apache-2.0 */
/*
 * board.h - what a PC's plain chips are soldered to, and the table of those chips.
 *
 * A chip of devices.def is made by `struct device *NAME_create(const struct board *board)`, which registers its own
 * ports and copies what it wants out of the board. The machine makes them all, in the table's order. Chips that a
 * machine has several of or that others call (lapic, ioapic, i8259, i8250) have their own headers.
 */
#ifndef PLURES_CHIP_BOARD_H
#define PLURES_CHIP_BOARD_H

#include <stdint.h>

#include "vm/device.h"

/* What a chip can ask of the whole machine. */
enum board_event {
	BOARD_POWER_OFF,
	BOARD_RESET,
	BOARD_DEBUG_EXIT, /* `code` is the exit status */
};

struct board {
	struct bus *pio;
	struct bus *mmio;
	/* Where the reset control at 0xcf9 goes. It lies within PCI's address register, whose owner passes on to this bus the
	 * accesses that mean it; without PCI it is pio. */
	struct bus *reset_bus;
	struct clock *clock;
	/* ISA interrupts: each goes to the 8259s' input and the I/O APIC's pin. */
	struct irq_line isa[16];
	/* Nanoseconds since 1970 in UTC; NULL: the host's clock. */
	uint64_t (*wall_clock)(void *ctx);
	/* On a vCPU's thread, with the chip's lock held: take note and make the vCPUs leave. */
	void (*event)(void *ctx, enum board_event event, unsigned code);
	void *ctx; /* of both */
	/* Bytes of memory below 4 GiB, and above: for the CMOS. */
	uint64_t ram_low, ram_high;
};

struct board_device {
	const char *name;
	struct device *(*create)(const struct board *board);
	bool optional; /* made only when the user asked for it */
};

/* All of devices.def, ended by a NULL name. */
extern const struct board_device board_devices[];

/* One declaration for each line of the table. */
#define DEVICE(name, optional) struct device *name##_create(const struct board *board);
#include "chip/devices.def"
#undef DEVICE

/* ---- what the machine asks of single chips; dev is what their create gave ---- */

/* The user pressed the power button: an SCI, if the guest listens. */
void acpi_pm_power_button(struct device *dev);
/* Something happened on general-purpose event `gpe`, 0 to 15: an SCI, if the guest listens. */
void acpi_pm_gpe(struct device *dev, unsigned gpe);

#endif
