/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_system.h - for unit tests of system instructions and event delivery: a vCPU with memory, descriptor tables and
 * page tables, but no translator.
 *
 * Included by exactly one source of a test program. Exceptions are real (fault.c); what is not is the dispatcher, so
 * soft_unwind comes back to SYS_TRY. sys_exec decodes an instruction and calls its helper.
 */
#ifndef PLURES_ENGINE_SOFT_FAKE_SYSTEM_H
#define PLURES_ENGINE_SOFT_FAKE_SYSTEM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/system.h"
#include "engine/soft/vm.h"

/* Where things are in guest memory, all of which is mapped one to one. */
enum {
	SYS_RAM = 0x40000,
	SYS_GDT = 0x1000,
	SYS_IDT = 0x2000,
	SYS_TSS = 0x3000,
	SYS_LDT = 0x4000,
	SYS_PML4 = 0x10000,
	SYS_PDPT = 0x11000,
	SYS_PD = 0x12000,
	SYS_PT = 0x13000,
	SYS_STACK0 = 0x20000,
	SYS_IST1 = 0x22000,
	SYS_STACK3 = 0x24000,
	SYS_DATA = 0x26000,
	SYS_CODE = 0x28000,
	SYS_HANDLER = 0x30000, /* of vector v: + 16 * v */
};

/* The GDT: selectors. */
enum {
	SEL_CODE64 = 0x10,
	SEL_DATA = 0x18,
	SEL_UCODE32 = 0x23,
	SEL_UDATA = 0x2b,
	SEL_UCODE64 = 0x33,
	SEL_TSS = 0x40,
	SEL_CODE32 = 0x50,
	SEL_CONFORMING = 0x58,
	SEL_NOT_PRESENT = 0x60,
	SEL_CODE16 = 0x68,
	SEL_LDT = 0x70,
	SEL_GATE = 0x80,
	SEL_READONLY = 0x90,
	SEL_DOWN = 0x98,
	SEL_TSS32 = 0xa0,
	SEL_EXEC_ONLY = 0xa8,
	SEL_DATA16 = 0xb0,
	SYS_GDT_SIZE = 0xc0,
};

struct sys {
	struct soft_vm vm;
	struct soft_cpu *cpu;
	struct engine_run run;
	struct engine_callbacks cb;
	uint8_t *ram;
	_Atomic uint8_t flags[SYS_RAM / 4096];
	jmp_buf back;
	bool heavy;
	/* The last port access, MSR and task priority that reached the machine. */
	uint16_t port;
	unsigned port_size;
	uint32_t port_data;
	bool port_write;
	uint32_t msr;
	uint64_t msr_value, tpr;
};

static struct sys *sys_current;

/* Evaluates the expression; true if it came back by itself, false if by soft_unwind. */
#define SYS_TRY(m, expression) (setjmp((m)->back) ? false : ((void)(expression), true))

#define SYS_EXPECT(m, vec, err, expression)                  \
	do {                                                 \
		(m)->cpu->exc.pending = false;               \
		assert_false(SYS_TRY(m, expression));        \
		assert_true((m)->cpu->exc.pending);          \
		assert_int_equal((m)->cpu->exc.vector, vec); \
		assert_int_equal((m)->cpu->exc.error, err);  \
	} while (0)

#define SYS_OK(m, expression) assert_true(SYS_TRY(m, expression))

/* ---- what there is of the rest of the engine ---- */

_Noreturn void soft_unwind(struct soft_cpu *cpu)
{
	(void)cpu;
	longjmp(sys_current->back, 1);
}

void soft_heavy_begin(struct soft_cpu *cpu)
{
	(void)cpu;
	assert_false(sys_current->heavy);
	sys_current->heavy = true;
}

void soft_heavy_end(struct soft_cpu *cpu)
{
	(void)cpu;
	assert_true(sys_current->heavy);
	sys_current->heavy = false;
}

void soft_vectors_grow(struct soft_cpu *cpu)
{
	cpu->xsave_mask |= cpu->xcr0 & SOFT_XSAVE_AVX512;
}

bool soft_code_written(struct soft_vm *vm, uint64_t gpa, uint64_t size)
{
	(void)vm;
	(void)gpa;
	(void)size;
	return false;
}

bool soft_code_rip(struct soft_vm *vm, uint64_t pc, uint64_t mask, uint64_t *rip)
{
	(void)vm;
	(void)pc;
	(void)mask;
	(void)rip;
	return false;
}

/* ---- the machine's callbacks ---- */

static void sys_pio(void *ctx, uint16_t port, void *data, unsigned size, bool write)
{
	struct sys *m = ctx;

	assert_true(m->heavy);
	m->port = port;
	m->port_size = size;
	m->port_write = write;
	if (write)
		memcpy(&m->port_data, data, size);
	else
		memcpy(data, &m->port_data, size);
}

static void sys_mmio(void *ctx, uint64_t gpa, void *data, unsigned size, bool write)
{
	assert_true(((struct sys *)ctx)->heavy);
	assert_true(size <= 8 && gpa / 8 == (gpa + size - 1) / 8);
	if (!write)
		memset(data, 0xff, size);
}

static bool sys_msr_read(void *ctx, uint32_t index, uint64_t *value)
{
	struct sys *m = ctx;

	assert_true(m->heavy);
	*value = m->msr_value;
	return index == m->msr;
}

static bool sys_msr_write(void *ctx, uint32_t index, uint64_t value)
{
	struct sys *m = ctx;

	assert_true(m->heavy);
	m->msr_value = value;
	return index == m->msr;
}

/* x87, SSE, AVX and AVX-512's state at the usual offsets. */
static void sys_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	static const struct engine_cpuid xsave[8] = {
		{ 0xe7, 0, 2696, 0 }, { 7, 0, 0, 0 },      { 256, 576, 0, 0 },   { 0 }, { 0 },
		{ 64, 1088, 0, 0 },   { 512, 1152, 2, 0 }, { 1024, 1664, 2, 0 },
	};

	assert_true(((struct sys *)ctx)->heavy);
	*out = (struct engine_cpuid){ leaf, subleaf, 0, 0 };
	if (leaf == 7)
		out->ebx = 1 << 10;
	if (leaf == 0xd)
		*out = xsave[subleaf & 7];
}

static uint64_t sys_cr8_read(void *ctx)
{
	return ((struct sys *)ctx)->tpr;
}

static void sys_cr8_write(void *ctx, uint64_t value)
{
	((struct sys *)ctx)->tpr = value;
}

/* ---- memory ---- */

static inline void sys_put(struct sys *m, uint64_t at, unsigned size, uint64_t value)
{
	assert_true(at + size <= SYS_RAM);
	memcpy(m->ram + at, &value, size);
}

static inline uint64_t sys_get(struct sys *m, uint64_t at, unsigned size)
{
	uint64_t value = 0;

	assert_true(at + size <= SYS_RAM);
	memcpy(&value, m->ram + at, size);
	return value;
}

static inline void sys_set_desc(struct sys *m, unsigned selector, uint32_t base, uint32_t limit, uint32_t attr)
{
	uint64_t lo = (limit & 0xffff) | (uint64_t)(limit & 0xf0000) << 32 | (uint64_t)(base & 0xffffff) << 16 |
		      (uint64_t)(base >> 24) << 56 | (uint64_t)attr << 40;

	sys_put(m, SYS_GDT + (selector & ~7u), 8, lo);
}

/* A gate of any kind; `extra` is IST or the parameter count. */
static inline void sys_set_gate(struct sys *m, uint64_t at, unsigned selector, uint64_t offset, uint8_t attr,
				uint8_t extra)
{
	sys_put(m, at, 8,
		(offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)extra << 32 | (uint64_t)attr << 40 |
		    (offset & 0xffff0000) << 32);
}

static inline void sys_set_idt64(struct sys *m, unsigned vector, uint8_t attr, uint8_t ist)
{
	sys_set_gate(m, SYS_IDT + vector * 16, SEL_CODE64, SYS_HANDLER + vector * 16, attr, ist);
	sys_put(m, SYS_IDT + vector * 16 + 8, 8, 0);
}

/* Maps or unmaps a page. */
static inline void sys_map(struct sys *m, uint64_t page, uint64_t pte_flags)
{
	sys_put(m, SYS_PT + page / 4096 * 8, 8, page | pte_flags);
	soft_tlb_flush(m->cpu, true);
}

static inline void sys_fill_gdt(struct sys *m)
{
	sys_set_desc(m, SEL_CODE64, 0, 0xfffff, 0xa09b);
	sys_set_desc(m, SEL_DATA, 0, 0xfffff, 0xc093);
	sys_set_desc(m, SEL_UCODE32, 0, 0xfffff, 0xc0fb);
	sys_set_desc(m, SEL_UDATA, 0, 0xfffff, 0xc0f3);
	sys_set_desc(m, SEL_UCODE64, 0, 0xfffff, 0xa0fb);
	sys_set_desc(m, SEL_TSS, SYS_TSS, 0x167, 0x0089);
	sys_set_desc(m, SEL_CODE32, 0, 0xfffff, 0xc09a);
	sys_set_desc(m, SEL_CONFORMING, 0, 0xfffff, 0xa09e);
	sys_set_desc(m, SEL_NOT_PRESENT, 0, 0xfffff, 0xc012);
	sys_set_desc(m, SEL_CODE16, 0, 0xffff, 0x009a);
	sys_set_desc(m, SEL_LDT, SYS_LDT, 0xff, 0x0082);
	sys_set_gate(m, SYS_GDT + SEL_GATE, SEL_CODE64, SYS_CODE, 0xec, 0);
	sys_set_desc(m, SEL_READONLY, 0, 0xfffff, 0xc0f0);
	sys_set_desc(m, SEL_DOWN, 0, 0xf, 0xc096);
	sys_set_desc(m, SEL_TSS32, SYS_TSS + 0x400, 0x67, 0x0089);
	sys_set_desc(m, SEL_EXEC_ONLY, 0, 0xfffff, 0xc098);
	sys_set_desc(m, SEL_DATA16, 0, 0xffff, 0x0092);
}

/* ---- the vCPU ---- */

/* Loads a segment register without any check. */
static inline void sys_load(struct sys *m, unsigned seg, unsigned selector)
{
	struct soft_desc d = { 0 };

	m->cpu->mode |= SOFT_MODE_PE;
	assert_true(soft_desc_try(m->cpu, selector, &d));
	m->cpu->seg[seg] = d.seg;
}

static inline void sys_set_cpl(struct sys *m, unsigned code, unsigned stack)
{
	sys_load(m, ENGINE_CS, code);
	sys_load(m, ENGINE_SS, stack);
	sys_load(m, ENGINE_DS, stack);
	sys_load(m, ENGINE_ES, stack);
	soft_update_mode(m->cpu);
	m->cpu->gpr[GPR_SP] = (code & 3) == 3 ? SYS_STACK3 : SYS_STACK0;
	m->cpu->rip = SYS_CODE;
}

/* A vCPU in real mode with its memory; the tables are there but not in use. */
static inline struct sys *sys_create(void)
{
	struct sys *m = calloc(1, sizeof(*m));

	m->cpu = aligned_alloc(64, (sizeof(*m->cpu) + 63) / 64 * 64);
	memset(m->cpu, 0, sizeof(*m->cpu));
	m->ram = aligned_alloc(4096, SYS_RAM);
	memset(m->ram, 0, SYS_RAM);
	m->vm.region[0] = (struct soft_region){ .size = SYS_RAM, .hva = m->ram, .page_flags = m->flags, .fd = -1 };
	m->vm.regions = 1;
	m->vm.maxphyaddr_mask = (1ull << 40) - 1;
	m->vm.cpu[0] = m->cpu;
	m->vm.cpus = 1;
	m->cb = (struct engine_callbacks){ .pio = sys_pio,
					   .mmio = sys_mmio,
					   .msr_read = sys_msr_read,
					   .msr_write = sys_msr_write,
					   .cpuid = sys_cpuid,
					   .cr8_read = sys_cr8_read,
					   .cr8_write = sys_cr8_write };
	m->cpu->vm = &m->vm;
	m->cpu->cb = &m->cb;
	m->cpu->cb_ctx = m;
	m->cpu->run = &m->run;
	m->cpu->cr0 = CR0_ET;
	m->cpu->sysflags = 2;
	m->cpu->dr[6] = 0xffff0ff0;
	m->cpu->dr[7] = 0x400;
	m->cpu->xcr0 = 1;
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++)
		m->cpu->seg[i] = (struct engine_segment){ 0, 0xffff, i == ENGINE_CS ? 0x9b : 0x93, 0 };
	m->cpu->idtr.limit = 0x3ff;
	soft_tlb_init(m->cpu);
	soft_set_arith(m->cpu, 0);
	soft_update_mode(m->cpu);
	sys_fill_gdt(m);
	sys_current = m;
	return m;
}

/* Into long mode, at CPL 0 in 64-bit code. */
static inline struct sys *sys_create_long(void)
{
	struct sys *m = sys_create();

	sys_put(m, SYS_PML4, 8, SYS_PDPT | 7);
	sys_put(m, SYS_PDPT, 8, SYS_PD | 7);
	sys_put(m, SYS_PD, 8, SYS_PT | 7);
	for (unsigned i = 0; i < SYS_RAM / 4096; i++)
		sys_put(m, SYS_PT + i * 8, 8, i * 4096 | 7);
	for (unsigned v = 0; v < 256; v++)
		sys_set_idt64(m, v, v == 3 || v == 0x80 ? 0xee : 0x8e, v == EXC_DF ? 1 : 0);
	sys_put(m, SYS_TSS + 4, 8, SYS_STACK0);
	sys_put(m, SYS_TSS + 0x24, 8, SYS_IST1);
	sys_put(m, SYS_TSS + 0x66, 2, 0x68);
	memset(m->ram + SYS_TSS + 0x68, 0xff, 0x100);
	m->cpu->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	m->cpu->cr3 = SYS_PML4;
	m->cpu->cr4 = CR4_PAE;
	m->cpu->efer = EFER_LME | EFER_LMA | EFER_SCE;
	m->cpu->gdtr.base = SYS_GDT;
	m->cpu->gdtr.limit = SYS_GDT_SIZE - 1;
	m->cpu->idtr.base = SYS_IDT;
	m->cpu->idtr.limit = 0xfff;
	soft_update_mode(m->cpu);
	sys_load(m, ENGINE_TR, SEL_TSS);
	m->cpu->seg[ENGINE_TR].attr |= 2;
	sys_set_cpl(m, SEL_CODE64, SEL_DATA);
	return m;
}

/* Into 32-bit protected mode without paging, at CPL 0. */
static inline struct sys *sys_create_protected(void)
{
	struct sys *m = sys_create();

	for (unsigned v = 0; v < 256; v++)
		sys_set_gate(m, SYS_IDT + v * 8, SEL_CODE32, SYS_HANDLER + v * 16, v == 3 || v == 0x80 ? 0xee : 0x8e,
			     0);
	sys_put(m, SYS_TSS + 4, 4, SYS_STACK0);
	sys_put(m, SYS_TSS + 8, 4, SEL_DATA);
	m->cpu->cr0 = CR0_PE | CR0_ET | CR0_NE;
	m->cpu->gdtr.base = SYS_GDT;
	m->cpu->gdtr.limit = SYS_GDT_SIZE - 1;
	m->cpu->idtr.base = SYS_IDT;
	m->cpu->idtr.limit = 0x7ff;
	soft_update_mode(m->cpu);
	sys_load(m, ENGINE_TR, SEL_TSS);
	m->cpu->seg[ENGINE_TR].attr |= 2;
	sys_set_cpl(m, SEL_CODE32, SEL_DATA);
	sys_load(m, ENGINE_FS, SEL_DATA);
	sys_load(m, ENGINE_GS, SEL_DATA);
	soft_update_mode(m->cpu);
	return m;
}

static inline void sys_destroy(struct sys *m)
{
	free(m->cpu);
	free(m->ram);
	free(m);
}

/* Delivers what is pending, as the dispatcher would: until nothing is. */
static inline void sys_deliver(struct sys *m)
{
	while (m->cpu->exc.pending && !m->cpu->leave)
		(void)SYS_TRY(m, soft_deliver(m->cpu));
}

static inline uint64_t sys_ea(struct sys *m, const struct insn *insn)
{
	uint64_t ea = (uint64_t)insn->disp;

	if (!insn->mem)
		return 0;
	if (insn->base == INSN_RIP)
		ea += m->cpu->rip + insn->len;
	else if (insn->base != INSN_NO_REG)
		ea += m->cpu->gpr[insn->base];
	if (insn->index != INSN_NO_REG)
		ea += m->cpu->gpr[insn->index] * insn->scale;
	ea = soft_trunc(ea, insn->addrsize);
	if (!soft_code64(m->cpu))
		return (uint32_t)(ea + m->cpu->seg[insn->seg].base);
	return insn->seg >= ENGINE_FS ? ea + m->cpu->seg[insn->seg].base : ea;
}

static inline unsigned sys_slow_op(unsigned op)
{
	switch (op) {
	case OP_PUSH:
		return OP_PUSH_SLOW;
	case OP_POP:
		return OP_POP_SLOW;
	case OP_LEAVE:
		return OP_LEAVE_SLOW;
	case OP_CLI:
		return OP_CLI_SLOW;
	case OP_STI:
		return OP_STI_SLOW;
	default:
		return op < OP_FIRST_HELPER ? OP_NEAR_SLOW : op;
	}
}

/* Decodes one instruction and has it carried out by its helper. Plain ones leave rip to be advanced here. */
static inline void sys_exec_bytes(struct sys *m, const uint8_t *bytes, unsigned count)
{
	struct insn insn;
	unsigned op;

	assert_int_equal(insn_decode(&insn, bytes, count, soft_mode_code(m->cpu->mode)), 0);
	assert_int_equal(insn.len, count);
	assert_int_not_equal(insn.op, OP_UD);
	op = sys_slow_op(insn.op);
	assert_non_null(soft_helper[op]);
	soft_helper[op](m->cpu, &insn, sys_ea(m, &insn));
	if (op >= OP_FIRST_PLAIN_HELPER)
		m->cpu->rip = soft_next_rip(m->cpu, &insn);
}
#define sys_exec(m, ...) sys_exec_bytes(m, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

#endif
