/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_machine.h - for unit tests of light code: a vCPU with a little memory and no translator.
 *
 * Included by exactly one source of a test program. It defines in place of the real ones what light code needs of
 * run.c, run.S, fault.c, cache.c and system.c, so that the linker takes none of them from the library; soft_raise and
 * soft_unwind jump back to where FAKE_EXPECT set out.
 */
#ifndef PLURES_ENGINE_SOFT_FAKE_MACHINE_H
#define PLURES_ENGINE_SOFT_FAKE_MACHINE_H

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/cpu.h"
#include "engine/soft/vm.h"

#define FAKE_RAM_SIZE 0xf0000u /* from 0 */
#define FAKE_ROM_GPA 0xf0000u
#define FAKE_ROM_SIZE 0x10000u

struct fake_machine {
	struct soft_vm vm;
	struct soft_cpu *cpu;
	uint8_t *ram, *rom;
	_Atomic uint8_t ram_flags[FAKE_RAM_SIZE / 4096], rom_flags[FAKE_ROM_SIZE / 4096];
	struct engine_callbacks cb;
	int heavy;
	/* The accesses that reached the machine, and what reads give. */
	struct {
		uint64_t gpa, data;
		unsigned size;
		bool write;
	} mmio[16], pio[16];
	unsigned mmio_count, pio_count;
	uint64_t mmio_next, pio_next;
	bool io_denied;
	/* The last soft_code_written. */
	uint64_t code_gpa, code_size;
	unsigned code_writes;
	jmp_buf back;
	bool raised, unwound;
};

static struct fake_machine *fake_machine_current;

static inline void fake_mmio(void *ctx, uint64_t gpa, void *data, unsigned size, bool write)
{
	struct fake_machine *m = ctx;
	uint64_t value = 0;

	if (!m->heavy || m->mmio_count == 16)
		abort();
	memcpy(&value, data, size);
	m->mmio[m->mmio_count].gpa = gpa;
	m->mmio[m->mmio_count].size = size;
	m->mmio[m->mmio_count].write = write;
	m->mmio[m->mmio_count++].data = value;
	if (!write)
		memcpy(data, &m->mmio_next, size);
}

static inline void fake_pio(void *ctx, uint16_t port, void *data, unsigned size, bool write)
{
	struct fake_machine *m = ctx;
	uint64_t value = 0;

	if (!m->heavy || m->pio_count == 16)
		abort();
	memcpy(&value, data, size);
	m->pio[m->pio_count].gpa = port;
	m->pio[m->pio_count].size = size;
	m->pio[m->pio_count].write = write;
	m->pio[m->pio_count++].data = value;
	if (!write)
		memcpy(data, &m->pio_next, size);
	m->pio_next++;
}

static inline struct fake_machine *fake_machine_create(void)
{
	struct fake_machine *m = calloc(1, sizeof(*m));

	m->cpu = aligned_alloc(64, (sizeof(*m->cpu) + 63) / 64 * 64);
	memset(m->cpu, 0, sizeof(*m->cpu));
	m->ram = aligned_alloc(4096, FAKE_RAM_SIZE);
	m->rom = aligned_alloc(4096, FAKE_ROM_SIZE);
	memset(m->ram, 0, FAKE_RAM_SIZE);
	memset(m->rom, 0, FAKE_ROM_SIZE);
	m->vm.region[0] =
	    (struct soft_region){ .size = FAKE_RAM_SIZE, .hva = m->ram, .page_flags = m->ram_flags, .fd = -1 };
	m->vm.region[1] = (struct soft_region){ .gpa = FAKE_ROM_GPA,
						.size = FAKE_ROM_SIZE,
						.hva = m->rom,
						.page_flags = m->rom_flags,
						.fd = -1,
						.readonly = true };
	m->vm.regions = 2;
	m->vm.maxphyaddr_mask = (1ull << 40) - 1;
	m->vm.cpu[0] = m->cpu;
	m->vm.cpus = 1;
	pthread_mutex_init(&m->vm.split_lock, NULL);
	m->cb.mmio = fake_mmio;
	m->cb.pio = fake_pio;
	m->cpu->vm = &m->vm;
	m->cpu->cb = &m->cb;
	m->cpu->cb_ctx = m;
	soft_tlb_init(m->cpu);
	fake_machine_current = m;
	return m;
}

static inline void fake_machine_destroy(struct fake_machine *m)
{
	free(m->ram);
	free(m->rom);
	free(m->cpu);
	free(m);
}

static inline void fake_machine_set_code(struct fake_machine *m, uint64_t gpa, bool code)
{
	m->ram_flags[gpa / 4096] = code ? SOFT_PAGE_CODE : 0;
	soft_tlb_protect(m->cpu, gpa);
}

/* Runs the expression, which must raise that. */
#define FAKE_EXPECT(m, vec, err, expression)                 \
	do {                                                 \
		(m)->raised = (m)->unwound = false;          \
		if (!setjmp((m)->back))                      \
			(void)(expression);                  \
		assert_true((m)->raised);                    \
		assert_int_equal((m)->cpu->exc.vector, vec); \
		assert_int_equal((m)->cpu->exc.error, err);  \
	} while (0)

#define FAKE_EXPECT_NONE(m, expression)             \
	do {                                        \
		(m)->raised = (m)->unwound = false; \
		if (!setjmp((m)->back))             \
			(void)(expression);         \
		assert_false((m)->raised);          \
		assert_false((m)->unwound);         \
	} while (0)

/* ... which must leave by soft_unwind without a fault. */
#define FAKE_EXPECT_UNWIND(m, expression)           \
	do {                                        \
		(m)->raised = (m)->unwound = false; \
		if (!setjmp((m)->back))             \
			(void)(expression);         \
		assert_false((m)->raised);          \
		assert_true((m)->unwound);          \
	} while (0)

/* ---- the doubles ---- */

_Noreturn void soft_unwind(struct soft_cpu *cpu)
{
	(void)cpu;
	fake_machine_current->unwound = true;
	longjmp(fake_machine_current->back, 1);
}

_Noreturn void soft_raise(struct soft_cpu *cpu, unsigned vector, uint32_t error)
{
	cpu->exc.vector = (uint8_t)vector;
	cpu->exc.error = error;
	fake_machine_current->raised = true;
	longjmp(fake_machine_current->back, 1);
}

_Noreturn void soft_raise_pf(struct soft_cpu *cpu, uint64_t linear, uint32_t error)
{
	cpu->exc.cr2 = linear;
	soft_raise(cpu, EXC_PF, error);
}

void soft_heavy_begin(struct soft_cpu *cpu)
{
	(void)cpu;
	if (fake_machine_current->heavy++)
		abort();
}

void soft_heavy_end(struct soft_cpu *cpu)
{
	(void)cpu;
	fake_machine_current->heavy--;
}

bool soft_code_written(struct soft_vm *vm, uint64_t gpa, uint64_t size)
{
	(void)vm;
	fake_machine_current->code_gpa = gpa;
	fake_machine_current->code_size = size;
	fake_machine_current->code_writes++;
	return true;
}

void soft_check_io(struct soft_cpu *cpu, uint16_t port, unsigned size)
{
	(void)port;
	(void)size;
	if (fake_machine_current->io_denied)
		soft_raise(cpu, EXC_GP, 0);
}

#endif
