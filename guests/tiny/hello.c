/* SPDX-License-Identifier: Apache-2.0 */
/* The least: a PVH entry, long mode, a line on the serial console, an exit status. */
#include "guest.h"

int main(void)
{
	print("hello from ring %u, %u bits\n", 0, (unsigned)sizeof(void *) * 8);
	return 0;
}
