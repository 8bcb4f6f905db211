/* SPDX-License-Identifier: Apache-2.0 */
/* unaligned.h - reads and writes of 1, 2, 4 or 8 bytes at any host address, and copies of few, for light code, which must
 * not call memcpy. */
#ifndef PLURES_ENGINE_SOFT_UNALIGNED_H
#define PLURES_ENGINE_SOFT_UNALIGNED_H

#include <stdint.h>

struct unaligned16 {
	uint16_t v;
} __attribute__((packed, may_alias));
struct unaligned32 {
	uint32_t v;
} __attribute__((packed, may_alias));
struct unaligned64 {
	uint64_t v;
} __attribute__((packed, may_alias));

static inline uint64_t unaligned_load(const uint8_t *at, unsigned size)
{
	switch (size) {
	case 1:
		return *at;
	case 2:
		return ((const struct unaligned16 *)at)->v;
	case 4:
		return ((const struct unaligned32 *)at)->v;
	default:
		return ((const struct unaligned64 *)at)->v;
	}
}

static inline void unaligned_store(uint8_t *at, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		*at = (uint8_t)value;
		break;
	case 2:
		((struct unaligned16 *)at)->v = (uint16_t)value;
		break;
	case 4:
		((struct unaligned32 *)at)->v = (uint32_t)value;
		break;
	default:
		((struct unaligned64 *)at)->v = value;
	}
}

/* 1 to 16 bytes, which do not overlap. */
static inline void unaligned_copy(uint8_t *to, const uint8_t *from, unsigned size)
{
	unsigned n = size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
	uint64_t head = unaligned_load(from, n), tail = unaligned_load(from + size - n, n);
	unaligned_store(to, n, head);
	unaligned_store(to + size - n, n, tail);
}

#endif
