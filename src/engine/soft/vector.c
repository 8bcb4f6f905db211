/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vector.c - vector instructions that access memory lane by lane: gathers (SDM Vol. 2, "VPGATHERDD" and its kin) and
 * masked moves (VMASKMOV, VPMASKMOV, MASKMOVQ, MASKMOVDQU).
 *
 * Only the lanes that the mask enables are accessed, so only they may fault. Generated code makes a masked move by itself
 * where the whole operand is ordinary memory; what comes here is the rest of them, and all gathers.
 *
 * This is light code, so the guest's vector registers are the host's. They are read and written one at a time, in
 * assembly: a vector register's number is part of the instruction, hence the switches.
 */
#include "engine/soft/system.h"
#include "engine/soft/tlb.h"
#include "engine/soft/unaligned.h"

union vector {
	uint64_t q[4];
	uint8_t b[32];
};

#define ALL_REGISTERS(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)

static void read_vector(unsigned n, union vector *v)
{
#define READ(k)                                                         \
	case k:                                                         \
		__asm__ volatile("vmovdqu %%ymm" #k ", %0" : "=m"(*v)); \
		break;
	switch (n) {
		ALL_REGISTERS(READ)
	default:
		break;
	}
#undef READ
}

/* All 256 bits. */
static void write_vector(unsigned n, const union vector *v)
{
#define WRITE(k)                                                   \
	case k:                                                    \
		__asm__ volatile("vmovdqu %0, %%ymm" #k::"m"(*v)); \
		break;
	switch (n) {
		ALL_REGISTERS(WRITE)
	default:
		break;
	}
#undef WRITE
}

static uint64_t lane_get(const union vector *v, unsigned lane, unsigned size)
{
	return unaligned_load(v->b + lane * size, size);
}

static void lane_set(union vector *v, unsigned lane, unsigned size, uint64_t value)
{
	unaligned_store(v->b + lane * size, size, value);
}

static bool lane_enabled(const union vector *mask, unsigned lane, unsigned size)
{
	return mask->b[lane * size + size - 1] & 0x80;
}

/* Zeroes the bytes from `from` on. */
static void zero_above(union vector *v, unsigned from)
{
	for (unsigned i = from / 8; i < 4; i++)
		v->q[i] = 0;
}

/* ---- gathers ---- */

/* How the addresses of a gather's elements come about. */
struct gather {
	const struct soft_tlb_entry *tlb; /* or NULL where a segment is to be checked */
	uint64_t offset, offset_mask, segment;
	unsigned scale, size, index_size;
};

static void gather_begin(const struct soft_cpu *cpu, const struct insn *insn, struct gather *g)
{
	g->tlb = soft_code64(cpu) ? cpu->tlb[soft_mmu_current(cpu)] : NULL;
	g->segment = insn->seg == ENGINE_FS || insn->seg == ENGINE_GS ? cpu->seg[insn->seg].base : 0;
	g->offset = (uint64_t)insn->disp + (insn->base == INSN_NO_REG ? 0 : cpu->gpr[insn->base & 15]);
	g->offset_mask = insn->addrsize == 8 ? ~0ull : UINT32_MAX;
	g->scale = insn->scale;
	g->size = insn->w ? 8 : 4;
	g->index_size = insn->opcode & 1 ? 8 : 4;
}

/* The offset of an element in its segment. */
static inline uint64_t element_offset(const struct gather *g, const union vector *index, unsigned lane)
{
	uint64_t at = lane_get(index, lane, g->index_size);
	return (g->offset + (g->index_size == 4 ? (uint64_t)(int32_t)at : at) * g->scale) & g->offset_mask;
}

/* Where an element is on the host, if the TLB has it. */
static inline const uint8_t *element_hit(const struct gather *g, uint64_t offset)
{
	if (!g->tlb)
		return NULL;
	uint64_t linear = offset + g->segment;
	const struct soft_tlb_entry *entry = &g->tlb[soft_tlb_index(linear)];
	uint64_t mixed = linear ^ entry->tag_read;
	return mixed <= SOFT_PAGE_SIZE - g->size ? (const uint8_t *)(uintptr_t)(mixed + entry->host) : NULL;
}

/* Elements are loaded lowest first; each one that is done clears its mask, in the registers before anything that may
 * fault: what is interrupted so goes on where it stopped. */
void soft_help_gather(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	union vector dst, index, mask;
	struct gather g;

	(void)ea;
	gather_begin(cpu, insn, &g);
	unsigned size = g.size, lanes = (16u << insn->vl) / (size > g.index_size ? size : g.index_size);
	read_vector(insn->reg, &dst);
	read_vector(insn->index, &index);
	read_vector(insn->vvvv, &mask);
	for (unsigned i = 0; i < lanes; i++) {
		if (!lane_enabled(&mask, i, size))
			continue;
		uint64_t offset = element_offset(&g, &index, i), value;
		const uint8_t *host = element_hit(&g, offset);
		if (host) {
			value = unaligned_load(host, size);
		} else {
			write_vector(insn->reg, &dst);
			write_vector(insn->vvvv, &mask);
			value = soft_load(cpu, soft_linear(cpu, insn->seg, offset, size, SOFT_READ), size);
		}
		lane_set(&dst, i, size, value);
		lane_set(&mask, i, size, 0);
	}
	zero_above(&dst, lanes * size);
	zero_above(&mask, 0);
	write_vector(insn->reg, &dst);
	write_vector(insn->vvvv, &mask);
}

/* ---- masked moves ---- */

/* A masked move: `step` is the size of an access, that of a lane or, so that no #AC arises, a byte. */
struct masked {
	const struct insn *insn;
	uint64_t offset;
	unsigned lane, bytes, step;
	union vector mask;
};

uint64_t soft_vector_offset(const struct soft_cpu *cpu, const struct insn *insn)
{
	uint64_t offset = (uint64_t)insn->disp;

	if (insn->base == INSN_RIP)
		offset += cpu->rip + insn->len;
	else if (insn->base != INSN_NO_REG)
		offset += cpu->gpr[insn->base & 15];
	if (insn->index != INSN_NO_REG)
		offset += cpu->gpr[insn->index & 15] * insn->scale;
	if (insn->addrsize == 8)
		return offset;
	return insn->addrsize == 4 ? (uint32_t)offset : offset & 0xffff;
}

static void masked_begin(struct soft_cpu *cpu, const struct insn *insn, struct masked *m, unsigned lane, unsigned bytes)
{
	m->insn = insn;
	m->offset = soft_vector_offset(cpu, insn);
	m->lane = lane;
	m->bytes = bytes;
	m->step = cpu->checks_alignment ? 1 : lane;
}

static bool masked_at(const struct masked *m, unsigned byte)
{
	return lane_enabled(&m->mask, byte / m->lane, m->lane);
}

static uint64_t masked_linear(struct soft_cpu *cpu, const struct masked *m, unsigned byte, enum soft_access access)
{
	return soft_linear(cpu, m->insn->seg, m->offset + byte, m->step, access);
}

void soft_help_masked_load(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	union vector value;
	struct masked m;

	(void)ea;
	masked_begin(cpu, insn, &m, insn->opcode == 0x2d || insn->w ? 8 : 4, 16u << insn->vl);
	read_vector(insn->vvvv, &m.mask);
	zero_above(&value, 0);
	for (unsigned at = 0; at < m.bytes; at += m.step) {
		if (masked_at(&m, at))
			unaligned_store(value.b + at, m.step,
					soft_load(cpu, masked_linear(cpu, &m, at, SOFT_READ), m.step));
	}
	write_vector(insn->reg, &value);
}

/* All that may fault comes before the first byte is written. */
static void masked_store(struct soft_cpu *cpu, const struct masked *m, const union vector *value)
{
	bool changed = false;

	for (unsigned at = 0; at < m->bytes; at += m->step) {
		if (masked_at(m, at))
			soft_probe_write(cpu, masked_linear(cpu, m, at, SOFT_WRITE), m->step, false);
	}
	for (unsigned at = 0; at < m->bytes; at += m->step) {
		if (masked_at(m, at))
			changed |= soft_store_noting(cpu, masked_linear(cpu, m, at, SOFT_WRITE), m->step,
						     unaligned_load(value->b + at, m->step));
	}
	if (changed) {
		cpu->rip = soft_next_rip(cpu, m->insn);
		soft_unwind(cpu);
	}
}

/* MMX registers are the x87's. Reading them from an image leaves the x87 as it is, should the store fault; a copied
 * instruction afterwards makes the change to MMX that this one makes. */
static void maskmovq(struct soft_cpu *cpu, struct masked *m)
{
	enum { FSW = 2, FSW_ES = 0x80, REGISTERS = 32 };
	union vector value;

	soft_heavy_begin(cpu);
	soft_heavy_end(cpu);
	unsigned fsw = (unsigned)unaligned_load(cpu->xsave + FSW, 2), top = fsw >> 11 & 7;
	if (fsw & FSW_ES)
		soft_raise(cpu, EXC_MF, 0);
	zero_above(&value, 0);
	zero_above(&m->mask, 0);
	value.q[0] = unaligned_load(cpu->xsave + REGISTERS + 16 * ((m->insn->reg - top) & 7), 8);
	m->mask.q[0] = unaligned_load(cpu->xsave + REGISTERS + 16 * ((m->insn->rm - top) & 7), 8);
	for (unsigned at = 0; at < m->bytes; at++) {
		if (masked_at(m, at))
			soft_probe_write(cpu, masked_linear(cpu, m, at, SOFT_WRITE), 1, false);
	}
	uint64_t ignored;
	__asm__ volatile("movq %%mm0, %0" : "=r"(ignored));
	masked_store(cpu, m, &value);
}

void soft_help_masked_store(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	union vector value;
	struct masked m;

	(void)ea;
	if (insn->opcode != 0xf7) { /* VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ */
		masked_begin(cpu, insn, &m, insn->opcode == 0x2f || insn->w ? 8 : 4, 16u << insn->vl);
		read_vector(insn->vvvv, &m.mask);
	} else if (insn->row->rm_kind == REG_MMX) {
		masked_begin(cpu, insn, &m, 1, 8);
		maskmovq(cpu, &m);
		return;
	} else {
		masked_begin(cpu, insn, &m, 1, 16);
		read_vector(insn->rm, &m.mask);
	}
	read_vector(insn->reg, &value);
	masked_store(cpu, &m, &value);
}
