/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linear.c - logical to linear: the segment checks of SDM Vol. 3, 5.3 to 5.5.
 */
#include "engine/soft/paging.h"

/* Access rights, as in struct engine_segment. */
enum {
	ATTR_WRITABLE = 1 << 1,    /* data */
	ATTR_READABLE = 1 << 1,    /* code */
	ATTR_EXPAND_DOWN = 1 << 2, /* data */
	ATTR_CODE = 1 << 3,
	ATTR_BIG = 1 << 14,
	ATTR_UNUSABLE = 1 << 16,
};

static bool type_allows(uint32_t attr, enum soft_access access)
{
	switch (access) {
	case SOFT_READ:
		return !(attr & ATTR_CODE) || (attr & ATTR_READABLE);
	case SOFT_WRITE:
		return !(attr & ATTR_CODE) && (attr & ATTR_WRITABLE);
	default:
		return attr & ATTR_CODE;
	}
}

/* Are all of the bytes from first to last inside of the segment? */
static bool inside(const struct engine_segment *segment, uint64_t first, uint64_t last, bool protected)
{
	bool down = protected && (segment->attr & (ATTR_CODE | ATTR_EXPAND_DOWN)) == ATTR_EXPAND_DOWN;

	if (down)
		return first > segment->limit && last <= (segment->attr & ATTR_BIG ? 0xffffffffu : 0xffffu);
	return last <= segment->limit;
}

bool soft_segment_allows(const struct soft_cpu *cpu, unsigned seg, uint64_t offset, uint64_t size,
			 enum soft_access access)
{
	const struct engine_segment *segment = &cpu->seg[seg];
	bool protected = (cpu->mode & SOFT_MODE_PE) && !(cpu->mode & SOFT_MODE_VM);

	if ((cpu->mode & SOFT_MODE_CODE) == SOFT_MODE_CODE64) {
		uint64_t linear = offset;
		if (seg == ENGINE_FS || seg == ENGINE_GS)
			linear += segment->base;
		return soft_is_canonical(linear) && soft_is_canonical(linear + size - 1);
	}
	if (protected && ((segment->attr & ATTR_UNUSABLE) || !type_allows(segment->attr, access)))
		return false;
	return inside(segment, offset, offset + size - 1, protected);
}

uint64_t soft_linear(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, enum soft_access access)
{
	bool mode64 = (cpu->mode & SOFT_MODE_CODE) == SOFT_MODE_CODE64;

	if (!mode64)
		offset = (uint32_t)offset;
	if (!soft_segment_allows(cpu, seg, offset, size, access))
		soft_raise(cpu, seg == ENGINE_SS ? EXC_SS : EXC_GP, 0);
	if (!mode64)
		return (uint32_t)(cpu->seg[seg].base + offset);
	return seg == ENGINE_FS || seg == ENGINE_GS ? cpu->seg[seg].base + offset : offset;
}
