/* SPDX-License-Identifier: Apache-2.0 */
/*
 * evex.c - AVX-512 instructions that access memory lane by lane: gathers and scatters (SDM Vol. 2, "VPGATHERDD" and
 * "VPSCATTERDD" with EVEX), and whatever is masked and has a memory operand.
 *
 * Only the lanes that the mask enables are accessed, so only they may fault (SDM Vol. 2, 2.7.5). Where the whole operand is
 * ordinary memory, generated code runs a copy of the instruction and the CPU sees to the mask. Elsewhere it comes here:
 * the enabled lanes are read into a buffer, generated code runs the copy on that, and if it writes, the enabled lanes of
 * the buffer are stored afterwards (soft_lanes_commit). So the instruction itself may be any.
 *
 * This is light code, see vector.c.
 */
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"
#include "engine/soft/unaligned.h"

union zmm {
	uint64_t q[8];
	uint8_t b[64];
};

#define TEN_TO_THIRTYONE(m)                                                                                         \
	m(10) m(11) m(12) m(13) m(14) m(15) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) \
	    m(28) m(29) m(30) m(31)
#define ALL_REGISTERS(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) TEN_TO_THIRTYONE(m)

static void read_zmm(unsigned n, union zmm *v)
{
#define READ(k)                                                           \
	case k:                                                           \
		__asm__ volatile("vmovdqu64 %%zmm" #k ", %0" : "=m"(*v)); \
		break;
	switch (n) {
		ALL_REGISTERS(READ)
	default:
		break;
	}
#undef READ
}

static void write_zmm(unsigned n, const union zmm *v)
{
#define WRITE(k)                                                     \
	case k:                                                      \
		__asm__ volatile("vmovdqu64 %0, %%zmm" #k::"m"(*v)); \
		break;
	switch (n) {
		ALL_REGISTERS(WRITE)
	default:
		break;
	}
#undef WRITE
}

#define ALL_MASKS(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)

static uint64_t read_mask(unsigned n)
{
	uint64_t mask = 0;
#define READ(k)                                                       \
	case k:                                                       \
		__asm__ volatile("kmovq %%k" #k ", %0" : "=r"(mask)); \
		break;
	switch (n) {
		ALL_MASKS(READ)
	default:
		break;
	}
#undef READ
	return mask;
}

static void write_mask(unsigned n, uint64_t mask)
{
#define WRITE(k)                                                  \
	case k:                                                   \
		__asm__ volatile("kmovq %0, %%k" #k ::"r"(mask)); \
		break;
	switch (n) {
		ALL_MASKS(WRITE)
	default:
		break;
	}
#undef WRITE
}

static uint64_t low_bits(unsigned n)
{
	return n >= 64 ? ~0ull : (1ull << n) - 1;
}

/* ---- gathers and scatters ---- */

struct elements {
	uint64_t offset, offset_mask, mask;
	unsigned size, index_size, lanes;
	union zmm index;
};

static void elements_begin(const struct soft_cpu *cpu, const struct insn *insn, struct elements *e)
{
	e->offset = (uint64_t)insn->disp + (insn->base == INSN_NO_REG ? 0 : cpu->gpr[insn->base & 15]);
	e->offset_mask = insn->addrsize == 8 ? ~0ull : UINT32_MAX;
	e->size = insn->w ? 8 : 4;
	e->index_size = insn->opcode & 1 ? 8 : 4;
	e->lanes = (16u << insn->vl) / (e->size > e->index_size ? e->size : e->index_size);
	e->mask = read_mask(insn->mask) & low_bits(e->lanes);
	read_zmm(insn->index, &e->index);
}

static uint64_t element_linear(struct soft_cpu *cpu, const struct insn *insn, const struct elements *e, unsigned lane,
			       enum soft_access access)
{
	uint64_t at = unaligned_load(e->index.b + lane * e->index_size, e->index_size);
	uint64_t index = e->index_size == 4 ? (uint64_t)(int32_t)at : at;

	return soft_linear(cpu, insn->seg, (e->offset + index * insn->scale) & e->offset_mask, e->size, access);
}

/* Elements go lowest first, and each that is done clears its bit: what is interrupted by a fault goes on where it stopped. */
void soft_help_evex_gather(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct elements e;
	union zmm dst;

	(void)ea;
	elements_begin(cpu, insn, &e);
	read_zmm(insn->reg, &dst);
	for (unsigned i = 0; i < e.lanes; i++) {
		if (!(e.mask >> i & 1))
			continue;
		/* Before anything that may fault. */
		write_zmm(insn->reg, &dst);
		write_mask(insn->mask, e.mask);
		uint64_t value = soft_load(cpu, element_linear(cpu, insn, &e, i, SOFT_READ), e.size);
		unaligned_store(dst.b + i * e.size, e.size, value);
		e.mask &= ~(1ull << i);
	}
	for (unsigned i = e.lanes * e.size; i < sizeof(dst); i += 8)
		unaligned_store(dst.b + i, 8, 0);
	write_zmm(insn->reg, &dst);
	write_mask(insn->mask, 0);
}

void soft_help_evex_scatter(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct elements e;
	union zmm src;

	(void)ea;
	elements_begin(cpu, insn, &e);
	read_zmm(insn->reg, &src);
	for (unsigned i = 0; i < e.lanes; i++) {
		if (!(e.mask >> i & 1))
			continue;
		uint64_t linear = element_linear(cpu, insn, &e, i, SOFT_WRITE);
		soft_store(cpu, linear, e.size, unaligned_load(src.b + i * e.size, e.size));
		e.mask &= ~(1ull << i);
		write_mask(insn->mask, e.mask);
	}
	write_mask(insn->mask, 0);
}

/* ---- masked operands ---- */

/* The compiler's own would be a call of its library. */
static unsigned count_bits(uint64_t v)
{
	unsigned n = 0;
	for (; v; v &= v - 1)
		n++;
	return n;
}

/* The elements of memory that are accessed, a bit each. */
static uint64_t enabled_lanes(const struct insn *insn)
{
	uint64_t mask = read_mask(insn->mask) & low_bits(insn->lanes);
	unsigned there = insn->mem_size / insn->mask_size;

	if (insn->row->evex & EVEX_PACKED)
		return low_bits(count_bits(mask));
	if (there >= insn->lanes)
		return mask;
	/* A broadcast: each element serves several lanes. */
	uint64_t lanes = 0;
	for (; mask; mask >>= there)
		lanes |= mask & low_bits(there);
	return lanes;
}

struct lanes {
	uint64_t offset, enabled;
	unsigned seg, size, step;
};

/* An access to a lane is one, or, where the guest wants to hear of misaligned ones, which this is none of, by bytes. */
static void lanes_begin(const struct soft_cpu *cpu, struct lanes *l, unsigned seg, uint64_t offset, unsigned size)
{
	*l = (struct lanes){ .offset = offset, .seg = seg, .size = size, .step = cpu->checks_alignment ? 1 : size };
}

/* The linear address of what is `at` bytes into the operand. */
static uint64_t lane_linear(struct soft_cpu *cpu, const struct lanes *l, unsigned at, enum soft_access access)
{
	return soft_linear(cpu, l->seg, l->offset + at, l->step, access);
}

static bool lane_at(const struct lanes *l, unsigned at)
{
	return l->enabled >> at / l->size & 1;
}

/* The buffer lies as the operand does, for instructions that want it aligned. */
static uint8_t *lanes_buffer(struct soft_cpu *cpu, const struct lanes *l)
{
	uint64_t linear = l->offset;

	if (!soft_code64(cpu) || l->seg == ENGINE_FS || l->seg == ENGINE_GS)
		linear += cpu->seg[l->seg].base;
	return cpu->bounce_buf + (linear & 63);
}

/* Raises what storing the enabled lanes would. They lie in the pages of the first and the last of them. */
static void lanes_probe(struct soft_cpu *cpu, const struct lanes *l, unsigned size)
{
	unsigned last = size;

	for (unsigned at = 0; at < size; at += l->step) {
		if (!lane_at(l, at))
			continue;
		uint64_t linear = lane_linear(cpu, l, at, SOFT_WRITE);
		if (last == size || cpu->watch.data)
			soft_probe_write(cpu, linear, l->step, false);
		last = at;
	}
	if (last < size)
		soft_probe_write(cpu, lane_linear(cpu, l, last, SOFT_WRITE), l->step, false);
}

/* Accesses of single lanes may use cpu->bounce and its buffer themselves, so both are for the end. */
void soft_help_evex_masked(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint8_t values[64];
	struct lanes l;

	(void)ea;
	lanes_begin(cpu, &l, insn->seg, soft_vector_offset(cpu, insn), insn->mask_size);
	l.enabled = enabled_lanes(insn);
	bool write = insn->mem_acc & ACC_W;
	if (write)
		lanes_probe(cpu, &l, insn->mem_size);
	for (unsigned at = 0; at < insn->mem_size; at += l.step) {
		uint64_t value = 0;
		if (lane_at(&l, at) && !write)
			value = soft_load(cpu, lane_linear(cpu, &l, at, SOFT_READ), l.step);
		unaligned_store(values + at, l.step, value);
	}
	uint8_t *buffer = lanes_buffer(cpu, &l);
	for (unsigned at = 0; at < insn->mem_size; at += l.step)
		unaligned_store(buffer + at, l.step, unaligned_load(values + at, l.step));
	cpu->scratch[SOFT_SCRATCH_BUFFER] = (uintptr_t)buffer;
	cpu->bounce.kind = write ? SOFT_BOUNCE_LANES : SOFT_BOUNCE_NONE;
	cpu->bounce.gva = l.offset;
	cpu->bounce.size = insn->mem_size;
	cpu->bounce.lanes = l.enabled;
	cpu->bounce.lane = insn->mask_size;
	cpu->bounce.seg = insn->seg;
}

bool soft_lanes_commit(struct soft_cpu *cpu)
{
	unsigned size = cpu->bounce.size;
	uint8_t values[64];
	struct lanes l;
	bool changed = false;

	lanes_begin(cpu, &l, cpu->bounce.seg, cpu->bounce.gva, cpu->bounce.lane);
	l.enabled = cpu->bounce.lanes;
	const uint8_t *buffer = lanes_buffer(cpu, &l);
	for (unsigned at = 0; at < size; at += l.step)
		unaligned_store(values + at, l.step, unaligned_load(buffer + at, l.step));
	for (unsigned at = 0; at < size; at += l.step) {
		if (lane_at(&l, at))
			changed |= soft_store_noting(cpu, lane_linear(cpu, &l, at, SOFT_WRITE), l.step,
						     unaligned_load(values + at, l.step));
	}
	return changed;
}
