/* SPDX-License-Identifier: Apache-2.0 */
/* io.c - IN and OUT, and who may use which port (SDM Vol. 1, 19.5). */
#include "engine/soft/system.h"

/* The port's bits in the TSS's map: two bytes are always read, as a port's bits may straddle them. */
static bool permitted(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	enum { IO_MAP_BASE = 0x66 };
	const struct engine_segment *tr = &cpu->seg[ENGINE_TR];
	uint32_t offset, bits;

	if ((tr->attr & ATTR_NULL) || !(tr->attr & 8) || tr->limit < IO_MAP_BASE + 1)
		return false;
	offset = soft_load_system(cpu, tr->base + IO_MAP_BASE, 2) + port / 8;
	if (offset + 1 > tr->limit)
		return false;
	bits = soft_load_system(cpu, tr->base + offset, 2);
	return !(bits >> (port % 8) & ((1u << size) - 1));
}

void soft_check_io(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	if (cpu->watch.io)
		soft_watch_port(cpu, port, size);
	if (!(cpu->cr0 & CR0_PE))
		return;
	if ((soft_v8086(cpu) || soft_cpl(cpu) > soft_iopl(cpu)) && !permitted(cpu, port, size))
		soft_raise(cpu, EXC_GP, 0);
}

/* E4-E7 name the port, EC-EF take it from DX. */
static uint16_t port_of(const struct soft_cpu *cpu, const struct insn *insn)
{
	return insn->opcode & 8 ? cpu->gpr[GPR_DX] : insn->imm & 0xff;
}

static void pio(struct soft_cpu *cpu, const struct insn *insn, uint32_t *data, bool write)
{
	unsigned size = insn->opsize > 4 ? 4 : insn->opsize;
	uint16_t port = port_of(cpu, insn);

	soft_check_io(cpu, port, size);
	soft_heavy_begin(cpu);
	cpu->cb->pio(cpu->cb_ctx, port, data, size, write);
	soft_heavy_end(cpu);
	if (!write)
		soft_set_reg(cpu, GPR_AX, size, *data);
	cpu->rip = soft_next_rip(cpu, insn);
}

void soft_help_in(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint32_t data = 0;

	(void)ea;
	pio(cpu, insn, &data, false);
}

void soft_help_out(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint32_t data = cpu->gpr[GPR_AX];

	(void)ea;
	pio(cpu, insn, &data, true);
}
