/* SPDX-License-Identifier: Apache-2.0 */
/* system.c - control and debug registers, HLT, TLB and other small privileged instructions. */
#include "engine/soft/system.h"
#include "engine/soft/vm.h"

#define CR0_MASK \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | (uint64_t)CR0_PG)
/* What CR4 may hold: what is carried, and no more. */
#define CR4_MASK                                                                                               \
	(CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | \
	 CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_OSXSAVE | CR4_SMEP | (uint64_t)CR4_SMAP)
/* Changing one of these makes cached translations wrong. */
#define CR0_FLUSH (CR0_PE | CR0_WP | (uint64_t)CR0_PG)
#define CR4_FLUSH (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | (uint64_t)CR4_SMAP)

static _Noreturn void gp0(struct soft_cpu *cpu)
{
	soft_raise(cpu, EXC_GP, 0);
}

static void check_cpl0(struct soft_cpu *cpu)
{
	if (soft_cpl(cpu) != 0)
		gp0(cpu);
}

/* ---- control registers ---- */

/* Are the PAE page directory pointers in use, under these values? They are long mode's page tables otherwise. */
static bool uses_pdptes(const struct soft_cpu *cpu, uint64_t cr0, uint64_t cr4)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(cpu->efer & EFER_LME);
}

/* May long mode be entered by setting CR0.PG? SDM Vol. 3, 9.8.5. */
static bool can_activate_long(const struct soft_cpu *cpu)
{
	return (cpu->cr4 & CR4_PAE) && !(cpu->seg[ENGINE_CS].attr & ATTR_L) &&
	       !soft_is_system(cpu->seg[ENGINE_TR].attr, DESC_TSS16_BUSY);
}

static void write_cr0(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed;

	if (value >> 32 || ((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
		gp0(cpu);
	value = (value & CR0_MASK) | CR0_ET;
	changed = value ^ cpu->cr0;
	if (changed & CR0_PG) {
		if (!(value & CR0_PG) ? soft_code64(cpu) : (cpu->efer & EFER_LME) && !can_activate_long(cpu))
			gp0(cpu);
	}
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && uses_pdptes(cpu, value, cpu->cr4) && !soft_load_pdptes(cpu))
		gp0(cpu);

	cpu->cr0 = value;
	if ((value & CR0_PG) && (cpu->efer & EFER_LME))
		cpu->efer |= EFER_LMA;
	else
		cpu->efer &= ~(uint64_t)EFER_LMA;
	if (changed & CR0_FLUSH)
		soft_tlb_flush(cpu, true);
	soft_update_mode(cpu);
}

static void write_cr3(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t old = cpu->cr3;

	if (soft_lma(cpu) && (value & ~cpu->vm->maxphyaddr_mask))
		gp0(cpu);
	cpu->cr3 = value;
	if (uses_pdptes(cpu, cpu->cr0, cpu->cr4) && !soft_load_pdptes(cpu)) {
		cpu->cr3 = old;
		gp0(cpu);
	}
	soft_tlb_flush(cpu, false);
}

static void write_cr4(struct soft_cpu *cpu, uint64_t value)
{
	uint64_t changed = value ^ cpu->cr4;

	if ((value & ~CR4_MASK) || (soft_lma(cpu) && !(value & CR4_PAE)))
		gp0(cpu);
	if ((changed & CR4_FLUSH) && uses_pdptes(cpu, cpu->cr0, value) && !soft_load_pdptes(cpu))
		gp0(cpu);
	cpu->cr4 = value;
	if (changed & CR4_FLUSH)
		soft_tlb_flush(cpu, true);
	soft_update_mode(cpu);
}

static void write_cr8(struct soft_cpu *cpu, uint64_t value)
{
	if (value > 15)
		gp0(cpu);
	soft_heavy_begin(cpu);
	cpu->cb->cr8_write(cpu->cb_ctx, value);
	soft_heavy_end(cpu);
}

void soft_help_mov_to_cr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t value = soft_trunc(cpu->gpr[insn->rm & 15], soft_code64(cpu) ? 8 : 4);
	uint64_t next = soft_next_rip(cpu, insn);

	(void)ea;
	check_cpl0(cpu);
	switch (insn->reg) {
	case 0:
		write_cr0(cpu, value);
		break;
	case 2:
		cpu->cr2 = value;
		break;
	case 3:
		write_cr3(cpu, value);
		break;
	case 4:
		write_cr4(cpu, value);
		break;
	case 8:
		write_cr8(cpu, value);
		break;
	default:
		soft_raise(cpu, EXC_UD, 0);
	}
	cpu->rip = next;
}

void soft_help_mov_from_cr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t value;

	(void)ea;
	check_cpl0(cpu);
	switch (insn->reg) {
	case 0:
		value = cpu->cr0;
		break;
	case 2:
		value = cpu->cr2;
		break;
	case 3:
		value = cpu->cr3;
		break;
	case 4:
		value = cpu->cr4;
		break;
	case 8:
		soft_heavy_begin(cpu);
		value = cpu->cb->cr8_read(cpu->cb_ctx);
		soft_heavy_end(cpu);
		break;
	default:
		soft_raise(cpu, EXC_UD, 0);
	}
	soft_set_reg(cpu, insn->rm, soft_code64(cpu) ? 8 : 4, value);
}

void soft_help_lmsw(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t low = CR0_PE | CR0_MP | CR0_EM | CR0_TS, next = soft_next_rip(cpu, insn);
	uint16_t value;

	check_cpl0(cpu);
	value = soft_read_rm(cpu, insn, ea, 2);
	/* It can set PE, not clear it. */
	write_cr0(cpu, (cpu->cr0 & ~(low & ~(uint64_t)CR0_PE)) | (value & low));
	cpu->rip = next;
}

void soft_help_smsw(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	if ((cpu->cr4 & CR4_UMIP) && soft_cpl(cpu) != 0)
		gp0(cpu);
	soft_write_rm(cpu, insn, ea, insn->mem ? 2 : insn->opsize, cpu->cr0);
}

void soft_help_clts(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	check_cpl0(cpu);
	cpu->cr0 &= ~(uint64_t)CR0_TS;
	cpu->rip = soft_next_rip(cpu, insn);
	soft_update_mode(cpu);
}

/* ---- debug registers (what they do is in watch.c) ---- */

enum { DR6_BD = 1 << 13, DR7_GD = 1 << 13 };
#define DR6_WRITABLE 0xe00full
#define DR6_ONES 0xffff0ff0ull
#define DR7_ZEROS 0xd800ull
#define DR7_ONES 0x400ull

/* The register's number with the aliases resolved. Raises #UD, #GP(0) and, with DR7.GD, #DB. */
static unsigned debug_register(struct soft_cpu *cpu, unsigned n)
{
	if (n > 7 || ((n == 4 || n == 5) && (cpu->cr4 & CR4_DE)))
		soft_raise(cpu, EXC_UD, 0);
	check_cpl0(cpu);
	if (cpu->dr[7] & DR7_GD)
		soft_raise_db(cpu, DR6_BD);
	return n == 4 || n == 5 ? n + 2 : n;
}

void soft_help_mov_to_dr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t value = soft_trunc(cpu->gpr[insn->rm & 15], soft_code64(cpu) ? 8 : 4);
	unsigned n = debug_register(cpu, insn->reg);
	bool watched;

	(void)ea;
	if (n >= 6 && value >> 32)
		gp0(cpu);
	if (n == 6)
		value = (value & DR6_WRITABLE) | DR6_ONES;
	else if (n == 7)
		value = (value & ~DR7_ZEROS) | DR7_ONES;
	watched = (cpu->dr[7] & 0xff) || (n == 7 && (value & 0xff));
	cpu->dr[n] = value;
	cpu->rip = soft_next_rip(cpu, insn);
	if (watched && n != 6) {
		cpu->resume = false;
		soft_tlb_flush(cpu, true);
		soft_update_mode(cpu);
	}
}

void soft_help_mov_from_dr(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	unsigned n = debug_register(cpu, insn->reg);

	(void)ea;
	soft_set_reg(cpu, insn->rm, soft_code64(cpu) ? 8 : 4, cpu->dr[n]);
}

/* ---- TLB ---- */

void soft_help_invlpg(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	check_cpl0(cpu);
	if (soft_canonical(ea))
		soft_tlb_flush_page(cpu, ea);
	cpu->rip = soft_next_rip(cpu, insn);
}

/* Without PCIDs there is one context, 0, which is where the four kinds of INVPCID apply. */
void soft_help_invpcid(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t type = soft_trunc(cpu->gpr[insn->reg & 15], soft_code64(cpu) ? 8 : 4), pcid, linear;

	if (!soft_cpuid_has_invpcid(cpu))
		soft_raise(cpu, EXC_UD, 0);
	check_cpl0(cpu);
	pcid = soft_load(cpu, soft_operand(cpu, insn, ea, 0, 16, SOFT_READ), 8);
	linear = soft_load(cpu, soft_operand(cpu, insn, ea, 8, 8, SOFT_READ), 8);
	if (type > 3 || pcid >> 12 || (type < 2 && pcid) || (type == 0 && !soft_canonical(linear)))
		gp0(cpu);
	if (type == 0)
		soft_tlb_flush_page(cpu, linear);
	else
		soft_tlb_flush(cpu, type == 2);
	cpu->rip = soft_next_rip(cpu, insn);
}

/* WBINVD, INVD: caches are coherent and stay so. */
void soft_help_nop_ends(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)ea;
	check_cpl0(cpu);
	cpu->rip = soft_next_rip(cpu, insn);
}

/* ---- the rest ---- */

void soft_help_ud(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	(void)insn;
	(void)ea;
	soft_raise(cpu, EXC_UD, 0);
}

void soft_help_hlt(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint32_t wakes = SOFT_KICK_NMI | (cpu->sysflags & RF_IF ? SOFT_KICK_INTERRUPT : 0);

	(void)ea;
	check_cpl0(cpu);
	cpu->rip = soft_next_rip(cpu, insn);
	/* The instruction that STI's shadow was for is this one. */
	cpu->shadow = 0;
	cpu->halted = true;
	soft_irq_enabled(cpu);
	if (atomic_load(&cpu->kick) & wakes)
		return;
	cpu->run->exit = ENGINE_EXIT_HALTED;
	cpu->leave = true;
}

/* A hypercall of the KVM interface. None is offered, and the guest is told so as KVM does. */
void soft_help_vmcall(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	enum { KVM_EPERM = 1, KVM_ENOSYS = 1000 };

	(void)ea;
	soft_set_reg(cpu, GPR_AX, soft_code64(cpu) ? 8 : 4, (uint64_t) - (soft_cpl(cpu) ? KVM_EPERM : KVM_ENOSYS));
	cpu->rip = soft_next_rip(cpu, insn);
}

void soft_help_swapgs(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	uint64_t base = cpu->seg[ENGINE_GS].base;

	(void)ea;
	if (!soft_code64(cpu))
		soft_raise(cpu, EXC_UD, 0);
	check_cpl0(cpu);
	cpu->seg[ENGINE_GS].base = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
	cpu->rip = soft_next_rip(cpu, insn);
}

/* The segment of RD/WRFSBASE and RD/WRGSBASE. Raises #UD. */
static struct engine_segment *fsgs(struct soft_cpu *cpu, bool fs)
{
	if (!soft_code64(cpu) || !(cpu->cr4 & CR4_FSGSBASE))
		soft_raise(cpu, EXC_UD, 0);
	return &cpu->seg[fs ? ENGINE_FS : ENGINE_GS];
}

void soft_help_rdfsgsbase(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	const struct engine_segment *seg = fsgs(cpu, insn->op == OP_RDFSBASE);

	(void)ea;
	soft_set_reg(cpu, insn->rm, insn->opsize, seg->base);
}

void soft_help_wrfsgsbase(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct engine_segment *seg = fsgs(cpu, insn->op == OP_WRFSBASE);
	uint64_t base = soft_trunc(cpu->gpr[insn->rm & 15], insn->opsize);

	(void)ea;
	if (!soft_canonical(base))
		gp0(cpu);
	seg->base = base;
	cpu->rip = soft_next_rip(cpu, insn);
}
