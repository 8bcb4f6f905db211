/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - breakpoints: what DR0 to DR3 and DR7 ask for (SDM Vol. 3, 17.2).
 *
 * Problem: generated code runs many instructions between two looks at anything, and most of its accesses call nobody; a
 * data breakpoint traps after the very instruction that made the access.
 *
 * Scheme: a page with a data breakpoint on it never enters the TLB, so each access to it comes to soft_mem_slow, which
 * asks here. An access that hits is not made: it unwinds, and the dispatcher runs that instruction again in a block of
 * its own, as in single-stepping. Then the hit is noted, and soft_single_step raises #DB. Ports are the same, by way of
 * soft_check_io. As long as an instruction breakpoint is enabled all blocks are of one instruction, and the dispatcher
 * asks before each (soft_before_insn).
 */
#include "engine/soft/system.h"

enum { DR7_ENABLES = 0xff };
enum watch_type { WATCH_EXEC, WATCH_WRITE, WATCH_IO, WATCH_ACCESS };

static enum watch_type type_of(const struct soft_cpu *cpu, unsigned n)
{
	return (enum watch_type)(cpu->dr[7] >> (16 + 4 * n) & 3);
}

static unsigned length_of(const struct soft_cpu *cpu, unsigned n)
{
	static const uint8_t length[] = { 1, 2, 8, 4 };

	return length[cpu->dr[7] >> (18 + 4 * n) & 3];
}

void soft_watch_update(struct soft_cpu *cpu)
{
	cpu->watch.data = cpu->watch.io = cpu->watch.code = 0;
	if (!(cpu->dr[7] & DR7_ENABLES))
		return;
	for (unsigned n = 0; n < 4; n++) {
		if (!(cpu->dr[7] >> 2 * n & 3))
			continue;
		switch (type_of(cpu, n)) {
		case WATCH_EXEC:
			cpu->watch.code |= 1u << n;
			break;
		case WATCH_IO:
			if (cpu->cr4 & CR4_DE)
				cpu->watch.io |= 1u << n;
			break;
		case WATCH_WRITE:
		case WATCH_ACCESS:
			cpu->watch.data |= 1u << n;
			break;
		}
	}
}

/* Does breakpoint n cover any of [at, at + size)? */
static bool covers(const struct soft_cpu *cpu, unsigned n, uint64_t at, unsigned size)
{
	unsigned length = length_of(cpu, n);
	uint64_t first = cpu->dr[n] & ~(uint64_t)(length - 1);

	return at < first + length && first < at + size;
}

static void hit(struct soft_cpu *cpu, uint8_t hits)
{
	if (!hits)
		return;
	if (!cpu->stepped) {
		cpu->watch.again = true;
		soft_unwind(cpu);
	}
	cpu->watch.hits |= hits;
}

bool soft_watches_page(const struct soft_cpu *cpu, uint64_t linear)
{
	for (unsigned n = 0; n < 4; n++)
		if ((cpu->watch.data >> n & 1) && covers(cpu, n, linear & ~0xfffull, 4096))
			return true;
	return false;
}

void soft_watch_access(struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	uint8_t hits = 0;

	/* What delivering an event pushes is not looked at. */
	if (cpu->delivery.active)
		return;
	for (unsigned n = 0; n < 4; n++)
		if ((cpu->watch.data >> n & 1) && covers(cpu, n, linear, how & SOFT_HOW_SIZE) &&
		    ((how & SOFT_HOW_WRITE) || type_of(cpu, n) == WATCH_ACCESS))
			hits |= 1u << n;
	hit(cpu, hits);
}

void soft_watch_port(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	uint8_t hits = 0;

	for (unsigned n = 0; n < 4; n++)
		if ((cpu->watch.io >> n & 1) && covers(cpu, n, port, size))
			hits |= 1u << n;
	hit(cpu, hits);
}

uint8_t soft_watch_code(const struct soft_cpu *cpu)
{
	uint64_t linear = cpu->rip;
	uint8_t hits = 0;

	if (!soft_code64(cpu))
		linear = (uint32_t)(linear + cpu->seg[ENGINE_CS].base);
	for (unsigned n = 0; n < 4; n++)
		if ((cpu->watch.code >> n & 1) && cpu->dr[n] == linear)
			hits |= 1u << n;
	return hits;
}
