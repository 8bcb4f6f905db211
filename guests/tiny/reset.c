/* SPDX-License-Identifier: Apache-2.0 */
/* Resets the machine in three ways, one a boot: by the keyboard controller, by port 0xcf9, by the port 0x92 of old. What
 * boot this is, CMOS memory remembers, as it does over a reset; the fourth boot ends well. */
#include "apic.h"

enum { CELL = 0x40 };

static uint8_t cmos(void)
{
	outb(0x70, CELL);
	return inb(0x71);
}

static void set_cmos(uint8_t value)
{
	outb(0x70, CELL);
	outb(0x71, value);
}

int main(void)
{
	uint8_t boot = cmos();
	if (boot < 0xa1 || boot > 0xa3)
		boot = 0xa0;
	print("boot %u\n", boot - 0xa0);
	set_cmos((uint8_t)(boot + 1));
	if (boot == 0xa3) {
		set_cmos(0);
		return 0;
	}
	while (!(inb(0x3fd) & 0x40))
		;
	if (boot == 0xa0)
		outb(0x64, 0xfe);
	else if (boot == 0xa1)
		outb(0xcf9, 6);
	else
		outb(0x92, inb(0x92) | 1);
	/* The CPU may run on until the machine has noticed. */
	for (unsigned i = 0; i < 20; i++)
		pit_wait(60000);
	print("FAILED: still here\n");
	return 1;
}
