/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_machine.h - for unit tests of the whole engine: a machine of one vCPU that runs a few instructions, through the
 * engine contract.
 *
 * It starts in 64-bit mode at CPL 0. Memory is mapped to itself; DATA and the 2 MiB after it by 4 KiB pages, so that a
 * test can take one away. After the RAM's end the host has a page that may not be touched. Every exception ends the run:
 * test_run returns its vector, and the frame that was pushed is in m->frame. Device memory is at DEVICE and after; what
 * reaches it is in m->mmio. Included by one source of a test.
 */
#ifndef PLURES_ENGINE_SOFT_TEST_MACHINE_H
#define PLURES_ENGINE_SOFT_TEST_MACHINE_H

#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/run.h"
#include "engine/soft/soft.h"

enum {
	TEST_RAM = 8 << 20,
	TEST_TABLES = 0x1000, /* PML4, PDPT, PD and the page table of DATA */
	TEST_GDT = 0x8000,
	TEST_IDT = 0x9000,
	TEST_HANDLERS = 0xa000, /* 16 bytes each */
	TEST_TSS = 0xb000,
	TEST_CODE = 0x100800,
	TEST_STACK = 0x300000,
	TEST_DATA = 0x400000,
	TEST_DEVICE = 0x3f000000,
	TEST_NO_VECTOR = -1,
};

/* Names a piece of guest code, in Intel syntax; `bits` is 16, 32 or 64. */
#define TEST_CODE_IN(name, bits, text)                                                                                 \
	extern const uint8_t name[], name##_end[];                                                                     \
	__asm__(".pushsection .rodata\n.code" #bits "\n.intel_syntax noprefix\n" #name ":\n" text "\n" #name "_end:\n" \
		".att_syntax prefix\n.code64\n.popsection\n")
#define CODE64(name, text) TEST_CODE_IN(name, 64, text)
#define CODE32(name, text) TEST_CODE_IN(name, 32, text)
#define CODE16(name, text) TEST_CODE_IN(name, 16, text)

/* What the processor pushes, from the error code (0 for exceptions without) on. */
struct test_frame {
	uint64_t error, rip, cs, rflags, rsp, ss;
};

struct test_machine {
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	uint8_t *ram;
	struct engine_cpu_state state;
	struct engine_run run;
	struct test_frame frame;
	struct {
		uint64_t gpa, data;
		unsigned size;
		bool write;
	} mmio[64];
	unsigned mmio_count;
	uint8_t *device;                         /* 4 KiB that the device remembers, or NULL */
	void (*touched)(struct test_machine *m); /* called at each access to the device, or NULL */
};

static inline void test_pio(void *ctx, uint16_t port, void *data, unsigned size, bool write)
{
	struct test_machine *m = ctx;
	if (port == 0xf4)
		engine_soft.vcpu_kick(m->vcpu, ENGINE_KICK_EXIT);
	if (!write)
		memset(data, 0xff, size);
}

/* Without memory of its own a read gives the address's low byte, and each next one more. */
static inline void test_mmio(void *ctx, uint64_t gpa, void *data, unsigned size, bool write)
{
	struct test_machine *m = ctx;
	uint64_t value = 0;
	if (m->touched)
		m->touched(m);
	if (m->device) {
		uint8_t *at = m->device + (gpa & 0xfff);
		memcpy(write ? (void *)at : data, write ? data : (void *)at, size);
		memcpy(&value, at, size);
	} else if (write) {
		memcpy(&value, data, size);
	} else {
		for (unsigned i = 0; i < size; i++)
			value |= ((gpa + i) & 0xff) << (8 * i);
		memcpy(data, &value, size);
	}
	if (m->mmio_count < sizeof(m->mmio) / sizeof(*m->mmio)) {
		m->mmio[m->mmio_count].gpa = gpa;
		m->mmio[m->mmio_count].data = value;
		m->mmio[m->mmio_count].size = size;
		m->mmio[m->mmio_count].write = write;
	}
	m->mmio_count++;
}

/* The host's, as far as the engine has it. */
static inline void test_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	(void)ctx;
	__cpuid_count(leaf, subleaf, out->eax, out->ebx, out->ecx, out->edx);
	engine_soft.cpuid_filter(leaf, subleaf, out);
}

static inline int test_ack(void *ctx)
{
	(void)ctx;
	return -1;
}

static inline void test_put(struct test_machine *m, uint64_t at, uint64_t value, unsigned size)
{
	memcpy(m->ram + at, &value, size);
}

static inline uint64_t test_get(const struct test_machine *m, uint64_t at, unsigned size)
{
	uint64_t value = 0;
	memcpy(&value, m->ram + at, size);
	return value;
}

/* The page of DATA number n: present and writable, or neither, or present alone (1). */
enum { TEST_ABSENT = 0, TEST_READONLY = 1, TEST_WRITABLE = 3 };
static inline void test_page(struct test_machine *m, unsigned n, unsigned access)
{
	test_put(m, TEST_TABLES + 0x3000 + n * 8, (TEST_DATA + n * 0x1000) | (access ? access | 4 : 0), 8);
}

/* vmovdqu's view of a vector register in m->state. */
static inline void test_set_ymm(struct test_machine *m, unsigned n, const void *value)
{
	memcpy(m->state.xsave + 160 + 16 * n, value, 16);
	memcpy(m->state.xsave + 576 + 16 * n, (const uint8_t *)value + 16, 16);
	m->state.xsave[512] |= 7;
}

static inline void test_get_ymm(const struct test_machine *m, unsigned n, void *value)
{
	memcpy(value, m->state.xsave + 160 + 16 * n, 16);
	memcpy((uint8_t *)value + 16, m->state.xsave + 576 + 16 * n, 16);
}

static inline void test_tables(struct test_machine *m)
{
	/* Identity, 2 MiB pages, 1 GiB; writable, user. */
	test_put(m, TEST_TABLES, TEST_TABLES + 0x1007, 8);
	test_put(m, TEST_TABLES + 0x1000, TEST_TABLES + 0x2007, 8);
	for (uint64_t i = 0; i < 512; i++) {
		test_put(m, TEST_TABLES + 0x2000 + i * 8, i << 21 | 0x87, 8);
		test_page(m, (unsigned)i, TEST_WRITABLE);
	}
	test_put(m, TEST_TABLES + 0x2000 + (TEST_DATA >> 21) * 8, TEST_TABLES + 0x3007, 8);
	/* 08: 64-bit code; 10: data; 18: 32-bit code; 20: 16-bit code; 28: 16-bit data */
	static const uint64_t gdt[] = {
		0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x008f9b000000ffff, 0x000093000000ffff
	};
	memcpy(m->ram + TEST_GDT, gdt, sizeof(gdt));
	for (uint64_t v = 0; v < 32; v++) {
		uint64_t handler = TEST_HANDLERS + 16 * v;
		test_put(m, TEST_IDT + 16 * v, (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (handler >> 16) << 48,
			 8);
		test_put(m, handler, 0xf4e6, 2); /* out 0xf4, al */
	}
}

static inline struct engine_segment test_segment(uint16_t selector, uint32_t attr)
{
	return (struct engine_segment){ .limit = 0xffffffff, .attr = attr, .selector = selector };
}

/* Which mode the code runs in. 32 and 16 are compatibility mode, with flat segments. */
static inline void test_bits(struct test_machine *m, unsigned bits)
{
	m->state.seg[ENGINE_CS] = bits == 64   ? test_segment(8, 0xa09b)
				  : bits == 32 ? test_segment(0x18, 0xc09b)
					       : test_segment(0x20, 0x809b);
}

static inline void test_state(struct test_machine *m)
{
	struct engine_cpu_state *s = &m->state;
	engine_cpu_state_reset(s);
	s->xsave[512] = 0; /* as FNINIT leaves the x87 */
	s->cr0 = 0x80050033;
	s->cr3 = TEST_TABLES;
	s->cr4 = 0x620 | 1 << 18;
	s->xcr0 = 7;
	s->efer = 0x500;
	for (unsigned i = 0; i < 6; i++)
		s->seg[i] = test_segment(0x10, 0xc093);
	test_bits(m, 64);
	s->gdtr.base = TEST_GDT;
	s->gdtr.limit = 0x2f;
	s->idtr.base = TEST_IDT;
	s->idtr.limit = 0x1ff;
	s->rip = TEST_CODE;
	s->gpr[4] = TEST_STACK;
	s->gpr[6] = TEST_DATA;
}

/* 64-bit code at CPL 3, with access to ports. Exceptions go to TEST_STACK. */
static inline void test_user(struct test_machine *m)
{
	for (unsigned i = 0; i < 6; i++)
		m->state.seg[i] = test_segment(0x13, 0xc0f3);
	m->state.seg[ENGINE_CS] = test_segment(0xb, 0xa0fb);
	m->state.seg[ENGINE_TR] =
	    (struct engine_segment){ .base = TEST_TSS, .limit = 0x67, .attr = 0x8b, .selector = 0x40 };
	test_put(m, TEST_TSS + 4, TEST_STACK, 8);
	m->state.gpr[4] = TEST_STACK - 0x1000;
	m->state.rflags |= 3 << 12;
}

/* With options of the engine's, or NULL. */
static inline int test_setup_with(void **state, const char *options)
{
	static const struct engine_callbacks callbacks = {
		.pio = test_pio, .mmio = test_mmio, .interrupt_ack = test_ack, .cpuid = test_cpuid
	};
	struct test_machine *m = aligned_alloc(64, (sizeof(*m) + 63) & ~(size_t)63);
	struct engine_config config = { .vcpus = 1, .options = options };
	struct error err;
	memset(m, 0, sizeof(*m));
	m->ram = mmap(NULL, TEST_RAM + 0x1000, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	mprotect(m->ram, TEST_RAM, PROT_READ | PROT_WRITE);
	if (engine_soft.vm_create(&m->vm, &config, &err) < 0 ||
	    engine_soft.vm_map(m->vm, 0, m->ram, -1, TEST_RAM, 0, &err) < 0 ||
	    engine_soft.vcpu_create(&m->vcpu, m->vm, 0, &callbacks, m, &err) < 0) {
		print_error("%s\n", err.text);
		free(m);
		return -1;
	}
	test_tables(m);
	test_state(m);
	*state = m;
	return 0;
}

static inline int test_setup(void **state)
{
	return test_setup_with(state, NULL);
}

static inline int test_teardown(void **state)
{
	struct test_machine *m = *state;
	engine_soft.vcpu_destroy(m->vcpu);
	engine_soft.vm_destroy(m->vm);
	munmap(m->ram, TEST_RAM + 0x1000);
	free(m);
	return 0;
}

static inline void test_take_frame(struct test_machine *m, unsigned vector)
{
	bool error = (1u << vector & 0x27d00) != 0;
	uint64_t at = m->state.gpr[4];
	m->frame.error = error ? test_get(m, at, 8) : 0;
	memcpy(&m->frame.rip, m->ram + at + (error ? 8 : 0), sizeof(m->frame) - sizeof(m->frame.error));
}

/* Runs code from CS:TEST_CODE until its end or an exception, from m->state and into it. Returns the vector. */
static inline int test_run_at(struct test_machine *m, const uint8_t *code, const uint8_t *end)
{
	size_t size = (size_t)(end - code);
	memcpy(m->ram + TEST_CODE, code, size);
	test_put(m, TEST_CODE + size, 0xf4e6, 2); /* out 0xf4, al */
	engine_soft.vm_written(m->vm, TEST_CODE, size + 2);
	m->mmio_count = 0;
	m->state.rip = TEST_CODE;
	struct error err;
	assert_int_equal(soft_signals_init(&err), 0); /* cmocka has taken them */
	engine_soft.vcpu_set_state(m->vcpu, &m->state);
	engine_soft.vcpu_run(m->vcpu, &m->run);
	if (m->run.exit != ENGINE_EXIT_KICKED)
		print_error("%s\n", m->run.reason);
	assert_int_equal(m->run.exit, ENGINE_EXIT_KICKED);
	engine_soft.vcpu_get_state(m->vcpu, &m->state);
	if (m->state.rip < TEST_HANDLERS || m->state.rip >= TEST_HANDLERS + 16 * 32)
		return TEST_NO_VECTOR;
	unsigned vector = (unsigned)(m->state.rip - TEST_HANDLERS) / 16;
	test_take_frame(m, vector);
	return (int)vector;
}
#define test_run(m, name) test_run_at(m, name, name##_end)
#define test_run_ok(m, name) assert_int_equal(test_run(m, name), TEST_NO_VECTOR)

#endif
