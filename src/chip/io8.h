/* SPDX-License-Identifier: Apache-2.0 */
/* io8.h - wider accesses to a range whose registers are bytes: as many byte accesses, lowest address first. */
#ifndef PLURES_CHIP_IO8_H
#define PLURES_CHIP_IO8_H

#include <stdint.h>

static inline uint64_t io8_read(uint8_t (*read)(void *dev, unsigned offset), void *dev, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read(dev, (unsigned)offset + i) << i * 8;
	return value;
}

static inline void io8_write(void (*write)(void *dev, unsigned offset, uint8_t value), void *dev, uint64_t offset,
			     unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < size; i++)
		write(dev, (unsigned)offset + i, (uint8_t)(value >> i * 8));
}

#endif
