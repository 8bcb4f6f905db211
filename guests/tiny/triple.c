/* SPDX-License-Identifier: Apache-2.0 */
/* A triple fault: no IDT at all, then UD2. The machine must end (or be reset) and say where. */
#include "guest.h"

int main(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = { 0, 0 };
	print("about to fault\n");
	__asm__ volatile("lidt %0; ud2" : : "m"(idtr));
	print("FAILED: still here\n");
	return 1;
}
