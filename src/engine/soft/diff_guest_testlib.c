/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff_guest_testlib.c - runs a case in a guest of the soft engine, in user mode.
 *
 * The guest's kernel is tables and, for each vector, a handler that halts: the vector is known by where it halted, the
 * rest by what delivery pushed on the kernel stack. The code and scratch areas are mapped where the native half has them.
 */
#include "engine/soft/diff_testlib.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/engine.h"
#include "engine/soft/soft.h"

/* Guest-physical layout; the kernel sees it at KERNEL. */
enum {
	RAM = 4 << 20,
	PML4 = 0x1000,
	PDPT_LOW = 0x2000,
	PDPT_HIGH = 0x3000,
	PD_LOW = 0x4000,
	PD_HIGH = 0x5000,
	PT_SCRATCH = 0x6000,
	PT_CODE = 0x7000,
	GDT = 0x10000,
	TSS = 0x11000,
	IDT = 0x12000,
	HANDLERS = 0x13000,
	STACK_TOP = 0x18000,
	LDT = 0x19000,
	SCRATCH = 0x100000,
	CODE = 0x200000,
};
#define KERNEL 0xffffffff80000000ull
#define PTE_NX (1ull << 63)
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80 };

struct diff_guest {
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	uint8_t *ram;
	struct engine_cpu_state state;
	struct engine_run run;
};

/* ---- a machine without devices ---- */

static void on_pio(void *ctx, uint16_t port, void *data, unsigned size, bool write)
{
	(void)ctx;
	(void)port;
	if (!write)
		memset(data, 0xff, size);
}

static void on_mmio(void *ctx, uint64_t gpa, void *data, unsigned size, bool write)
{
	on_pio(ctx, gpa, data, size, write);
}

static int on_interrupt_ack(void *ctx)
{
	(void)ctx;
	return -1;
}

static bool on_msr_read(void *ctx, uint32_t index, uint64_t *value)
{
	(void)ctx;
	(void)index;
	(void)value;
	return false;
}

static bool on_msr_write(void *ctx, uint32_t index, uint64_t value)
{
	(void)ctx;
	(void)index;
	(void)value;
	return false;
}

static void on_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	(void)ctx;
	__cpuid_count(leaf, subleaf, out->eax, out->ebx, out->ecx, out->edx);
	engine_soft.cpuid_filter(leaf, subleaf, out);
}

static uint64_t on_cr8_read(void *ctx)
{
	(void)ctx;
	return 0;
}

static void on_cr8_write(void *ctx, uint64_t value)
{
	(void)ctx;
	(void)value;
}

static const struct engine_callbacks callbacks = {
	.pio = on_pio,
	.mmio = on_mmio,
	.interrupt_ack = on_interrupt_ack,
	.msr_read = on_msr_read,
	.msr_write = on_msr_write,
	.cpuid = on_cpuid,
	.cr8_read = on_cr8_read,
	.cr8_write = on_cr8_write,
};

/* ---- its tables ---- */

static void put64(struct diff_guest *g, uint64_t gpa, uint64_t value)
{
	memcpy(g->ram + gpa, &value, sizeof(value));
}

static uint64_t get64(const struct diff_guest *g, uint64_t gpa)
{
	uint64_t value;
	memcpy(&value, g->ram + gpa, sizeof(value));
	return value;
}

static void make_paging(struct diff_guest *g)
{
	const uint64_t dir = PTE_P | PTE_W | PTE_U | PTE_A, page = PTE_P | PTE_U | PTE_A | PTE_D;
	put64(g, PML4, PDPT_LOW | dir);
	put64(g, PML4 + 511 * 8, PDPT_HIGH | dir);
	put64(g, PDPT_LOW, PD_LOW | dir);
	put64(g, PDPT_HIGH + 510 * 8, PD_HIGH | dir);
	put64(g, PD_HIGH, PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS);
	put64(g, PD_LOW + (DIFF_RW >> 21) * 8, PT_SCRATCH | dir);
	put64(g, PD_LOW + (DIFF_CODE >> 21) * 8, PT_CODE | dir);
	for (unsigned i = 0; i < DIFF_RW_SIZE >> 12; i++)
		put64(g, PT_SCRATCH + (((DIFF_RW >> 12) + i) & 511) * 8, (SCRATCH + i * 4096) | page | PTE_W | PTE_NX);
	put64(g, PT_SCRATCH + ((DIFF_RO >> 12) & 511) * 8, (SCRATCH + DIFF_RW_SIZE) | page | PTE_NX);
	for (unsigned i = 0; i < DIFF_CODE_SIZE >> 12; i++)
		put64(g, PT_CODE + i * 8, (CODE + i * 4096) | page | PTE_W);
}

/* As modify_ldt makes them. */
enum { ATTR_CODE16 = 0xfb, ATTR_DATA16 = 0xf3 };

static uint64_t descriptor16(uint64_t base, uint64_t attr)
{
	return 0xffff | (base & 0xffffff) << 16 | (attr & 0xff) << 40 | attr >> 12 << 52 | base >> 24 << 56;
}

static void make_descriptors(struct diff_guest *g)
{
	put64(g, GDT + 0x10, 0x00af9b000000ffff); /* kernel code */
	put64(g, GDT + 0x18, 0x00cf93000000ffff);
	put64(g, GDT + 0x20, 0x00cffb000000ffff); /* user 32-bit code */
	put64(g, GDT + 0x28, 0x00cff3000000ffff);
	put64(g, GDT + 0x30, 0x00affb000000ffff); /* user 64-bit code */
	/* What modify_ldt makes of the native half's requests. */
	for (unsigned i = 0; i < DIFF_CODE_SIZE >> 16; i++)
		put64(g, LDT + i * 8, descriptor16(DIFF_CODE + (i << 16), ATTR_CODE16));
	put64(g, LDT + (DIFF_DATA16_SELECTOR & ~7), descriptor16(DIFF_SEG16, ATTR_DATA16));
	put64(g, TSS + 4, KERNEL + STACK_TOP);
	g->ram[TSS + 0x66] = 0x68;
	for (unsigned v = 0; v < 256; v++) {
		uint64_t handler = KERNEL + HANDLERS + v * 16;
		unsigned dpl = v == 3 || v == 4 ? 3 : 0;
		put64(g, IDT + v * 16,
		      (handler & 0xffff) | 0x10 << 16 | (0x8e00ull | dpl << 13) << 32 | (handler >> 16 & 0xffff) << 48);
		put64(g, IDT + v * 16 + 8, handler >> 32);
		g->ram[HANDLERS + v * 16] = 0xf4;
	}
}

static void make_state(struct diff_guest *g)
{
	struct engine_cpu_state *s = &g->state;
	engine_cpu_state_reset(s);
	s->cr0 = 0x80050033;
	s->cr3 = PML4;
	s->cr4 =
	    1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 18; /* PAE PGE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE */
	s->xcr0 = diff_parts().size ? 0xe7 : 7;
	s->efer = 0xd01;
	s->gdtr.base = KERNEL + GDT;
	s->gdtr.limit = 0x3f;
	s->idtr.base = KERNEL + IDT;
	s->idtr.limit = 0xfff;
	s->seg[ENGINE_FS] =
	    (struct engine_segment){ .limit = 0xffffffff, .attr = 0xc0f3 }; /* as in a process of the host */
	s->seg[ENGINE_GS] = s->seg[ENGINE_FS];
	s->seg[ENGINE_LDTR] = (struct engine_segment){
		.base = KERNEL + LDT, .limit = (DIFF_DATA16_SELECTOR & ~7) + 7, .attr = 0x82, .selector = 0x48
	};
	s->seg[ENGINE_TR] =
	    (struct engine_segment){ .base = KERNEL + TSS, .limit = 0x67, .attr = 0x8b, .selector = 0x38 };
}

void diff_guest_destroy(struct diff_guest *g)
{
	engine_soft.vcpu_destroy(g->vcpu);
	engine_soft.vm_destroy(g->vm);
	munmap(g->ram, RAM);
	free(g);
}

struct diff_guest *diff_guest_create(const char *options, const char **why)
{
	static struct error err;
	struct engine_config config = { .vcpus = 1, .options = options };
	struct diff_guest *g = calloc(1, sizeof(*g));
	g->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (engine_soft.vm_create(&g->vm, &config, &err) < 0 ||
	    engine_soft.vm_map(g->vm, 0, g->ram, -1, RAM, 0, &err) < 0 ||
	    engine_soft.vcpu_create(&g->vcpu, g->vm, 0, &callbacks, g, &err) < 0) {
		*why = err.text;
		diff_guest_destroy(g);
		return NULL;
	}
	make_paging(g);
	make_descriptors(g);
	make_state(g);
	return g;
}

uint8_t *diff_guest_code(struct diff_guest *g)
{
	return g->ram + CODE;
}

void diff_guest_code_written(struct diff_guest *g, size_t offset, size_t size)
{
	engine_soft.vm_written(g->vm, CODE + offset, size);
}

/* ---- a run ---- */

/* Takes the exception from where the handler halted and what is on its stack. */
static bool take_exception(const struct diff_guest *g, const struct engine_cpu_state *s, struct diff_state *out)
{
	uint64_t at = s->rip - 1 - (KERNEL + HANDLERS);
	if (at >= 256 * 16 || at & 15)
		return false;
	out->vector = at / 16;
	bool has_error = out->vector < 32 && (0x00227d00u >> out->vector & 1);
	uint64_t frame = STACK_TOP - (has_error ? 48 : 40);
	if (s->gpr[4] != KERNEL + frame)
		return false;
	out->error = has_error ? get64(g, frame) : 0;
	frame += has_error ? 8 : 0;
	out->rip = get64(g, frame);
	out->selector[ENGINE_CS] = get64(g, frame + 8);
	out->selector[ENGINE_SS] = get64(g, frame + 32);
	out->rflags = get64(g, frame + 16);
	out->gpr[4] = get64(g, frame + 24);
	out->cr2 = out->vector == 14 ? s->cr2 : 0;
	return true;
}

static void set_segments(struct engine_cpu_state *s, enum insn_mode mode, uint64_t code_base)
{
	struct engine_segment code = { .limit = 0xffffffff, .attr = 0xa0fb, .selector = 0x33 };
	struct engine_segment data = { .limit = 0xffffffff, .attr = 0xc0f3, .selector = 0x2b };
	if (mode == INSN_MODE_32)
		code = (struct engine_segment){ .limit = 0xffffffff, .attr = 0xc0fb, .selector = 0x23 };
	if (mode == INSN_MODE_16) {
		uint16_t selector = DIFF_CODE16_SELECTOR + ((code_base - DIFF_CODE) >> 16 << 3);
		code = (struct engine_segment){
			.base = code_base, .limit = 0xffff, .attr = ATTR_CODE16, .selector = selector
		};
		data = (struct engine_segment){
			.base = DIFF_SEG16, .limit = 0xffff, .attr = ATTR_DATA16, .selector = DIFF_DATA16_SELECTOR
		};
	}
	s->seg[ENGINE_CS] = code;
	s->seg[ENGINE_DS] = s->seg[ENGINE_ES] = s->seg[ENGINE_SS] = data;
}

bool diff_guest_run(struct diff_guest *g, enum insn_mode mode, const struct diff_state *in, struct diff_memory *memory,
		    struct diff_state *out, const char **why)
{
	struct engine_cpu_state *s = &g->state;
	memcpy(s->gpr, in->gpr, sizeof(s->gpr));
	s->rip = in->rip;
	s->rflags = in->rflags | 2;
	s->seg[ENGINE_FS].base = in->fs_base;
	s->seg[ENGINE_GS].base = in->gs_base;
	set_segments(s, mode, in->code_base);
	memcpy(s->xsave, in->xsave, sizeof(in->xsave));
	memcpy(g->ram + SCRATCH, memory->rw, DIFF_RW_SIZE);
	memcpy(g->ram + SCRATCH + DIFF_RW_SIZE, memory->ro, DIFF_RO_SIZE);
	engine_soft.vcpu_set_state(g->vcpu, s);
	engine_soft.vcpu_run(g->vcpu, &g->run);
	if (g->run.exit != ENGINE_EXIT_HALTED) {
		*why = g->run.reason;
		return false;
	}
	struct engine_cpu_state after;
	engine_soft.vcpu_get_state(g->vcpu, &after);
	memcpy(out->gpr, after.gpr, sizeof(out->gpr));
	for (unsigned i = ENGINE_ES; i <= ENGINE_GS; i++)
		out->selector[i] = after.seg[i].selector; /* those of CS and SS are on the stack */
	out->fs_base = after.seg[ENGINE_FS].base;
	out->gs_base = after.seg[ENGINE_GS].base;
	memcpy(out->xsave, after.xsave, sizeof(out->xsave));
	memcpy(memory->rw, g->ram + SCRATCH, DIFF_RW_SIZE);
	if (memcmp(memory->ro, g->ram + SCRATCH + DIFF_RW_SIZE, DIFF_RO_SIZE) != 0) {
		*why = "wrote to a read-only page";
		return false;
	}
	if (take_exception(g, &after, out))
		return true;
	*why = "halted outside of the handlers, or with a wrong stack";
	return false;
}
