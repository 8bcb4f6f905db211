/* SPDX-License-Identifier: Apache-2.0 */
/* The words of CPUID that have feature bits, and those that tell how large the state of vectors is. */
#include "guest.h"

static void leaf(uint32_t number, uint32_t sub)
{
	uint32_t a = number, b, c = sub, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	/* APIC id, OSXSAVE and the sizes for what is enabled now are no features. */
	if (number == 1)
		b = 0, c &= ~(1u << 27);
	if (number == 0xd && sub < 2)
		b = 0;
	print("%08x.%u: %08x %08x %08x %08x\n", number, sub, a, b, c, d);
}

int main(void)
{
	leaf(1, 0);
	leaf(7, 0);
	leaf(7, 1);
	leaf(0xd, 0);
	leaf(0xd, 1);
	leaf(0x80000001, 0);
	return 0;
}
