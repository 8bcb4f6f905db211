/* SPDX-License-Identifier: Apache-2.0 */
/* Page walks, TLBs and accesses (paging.c, tlb.c, mmu.c, linear.c) against a machine made of tables in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/soft/fake_machine.h"
#include "engine/soft/unaligned.h"

#define PT_P 1ull
#define PT_W 2ull
#define PT_U 4ull
#define PT_A 0x20ull
#define PT_D 0x40ull
#define PT_PS 0x80ull
#define PT_G 0x100ull
#define PT_NX (1ull << 63)

enum { RAM = 0x100000, PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, PT = 0x4000, DATA = 0x10000, ROM = 0xf0000 };
#define LINEAR 0x0000123456789000ull
#define KERNEL_LINEAR 0xffff888000000000ull

static uint64_t *entry(struct fake_machine *m, uint64_t table, unsigned index)
{
	return (uint64_t *)(m->ram + table) + index;
}

/* The four entries that lead to LINEAR's page. */
struct path {
	uint64_t *e4, *e3, *e2, *e1;
};

static struct path map_long(struct fake_machine *m, uint64_t linear, uint64_t leaf)
{
	struct path p = {
		entry(m, PML4, linear >> 39 & 511),
		entry(m, PDPT, linear >> 30 & 511),
		entry(m, PD, linear >> 21 & 511),
		entry(m, PT, linear >> 12 & 511),
	};
	*p.e4 = PDPT | PT_P | PT_W | PT_U;
	*p.e3 = PD | PT_P | PT_W | PT_U;
	*p.e2 = PT | PT_P | PT_W | PT_U;
	*p.e1 = leaf;
	return p;
}

static int setup(void **state)
{
	struct fake_machine *m = fake_machine_create();

	m->cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
	m->cpu->cr4 = CR4_PAE | CR4_PGE;
	m->cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
	m->cpu->cr3 = PML4;
	m->cpu->mode = SOFT_MODE_PE | SOFT_MODE_LMA | SOFT_MODE_CODE64 | SOFT_MODE_FLAT | SOFT_MODE_AC;
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	fake_machine_destroy(*state);
	return 0;
}

/* Translates and returns the error code of the page fault, or -1 and *gpa. */
static int walk(struct fake_machine *m, uint64_t linear, enum soft_access access, bool user, uint64_t *gpa,
		unsigned *flags)
{
	uint64_t g;
	unsigned f;

	if (soft_translate(m->cpu, linear, access, user, false, gpa ? gpa : &g, flags ? flags : &f))
		return -1;
	if (m->cpu->exc.vector == EXC_GP)
		return -2;
	assert_int_equal(m->cpu->exc.vector, EXC_PF);
	assert_int_equal(m->cpu->exc.cr2, linear);
	return (int)m->cpu->exc.error;
}

static void test_long_sets_accessed_and_dirty(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);
	uint64_t gpa;
	unsigned flags;

	assert_int_equal(walk(m, LINEAR + 0x123, SOFT_READ, false, &gpa, &flags), -1);
	assert_int_equal(gpa, DATA + 0x123);
	assert_int_equal(flags, 0);
	assert_int_equal(*p.e4 & (PT_A | PT_D), PT_A);
	assert_int_equal(*p.e3 & (PT_A | PT_D), PT_A);
	assert_int_equal(*p.e2 & (PT_A | PT_D), PT_A);
	assert_int_equal(*p.e1 & (PT_A | PT_D), PT_A);
	assert_int_equal(walk(m, LINEAR, SOFT_WRITE, false, &gpa, &flags), -1);
	assert_int_equal(flags, SOFT_TLB_WRITE);
	assert_int_equal(*p.e1, DATA | PT_P | PT_W | PT_U | PT_A | PT_D);
	assert_int_equal(*p.e2 & PT_D, 0);
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, &gpa, &flags), -1);
	assert_int_equal(flags, SOFT_TLB_WRITE);
}

static void test_long_large_pages(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR, 0);
	uint64_t gpa;
	unsigned flags;

	*p.e2 = 0x40000000 | PT_P | PT_W | PT_PS | PT_G;
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, &gpa, &flags), -1);
	assert_int_equal(gpa, 0x40000000 | (LINEAR & 0x1fffff));
	assert_int_equal(flags, SOFT_TLB_LARGE | SOFT_TLB_GLOBAL);
	*p.e2 |= 1 << 13;
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, &gpa, &flags), 9);
	*p.e2 ^= 1 << 13 | 1 << 12; /* PAT */
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, &gpa, &flags), -1);
	*p.e3 = 0x80000000 | PT_P | PT_W | PT_PS | PT_D;
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, &gpa, &flags), -1);
	assert_int_equal(gpa, 0x80000000 | (LINEAR & 0x3fffffff));
	assert_int_equal(flags, SOFT_TLB_HUGE | SOFT_TLB_WRITE);
	*p.e3 |= 1 << 21;
	assert_int_equal(walk(m, LINEAR, SOFT_WRITE, false, &gpa, &flags), 11);
	*p.e4 |= PT_PS;
	assert_int_equal(walk(m, LINEAR, SOFT_READ, true, &gpa, &flags), 13);
}

/* What SDM Vol. 3, 4.6 says of one access, from the bits of all levels together. */
static int expected(struct soft_cpu *cpu, uint64_t rights, bool nx, enum soft_access access, bool user, bool ac)
{
	bool ok = true;

	if (user && !(rights & PT_U))
		ok = false;
	if (access == SOFT_WRITE && !(rights & PT_W) && (user || cpu->cr0 & CR0_WP))
		ok = false;
	if (access == SOFT_EXEC && (nx || (!user && (rights & PT_U) && (cpu->cr4 & CR4_SMEP))))
		ok = false;
	if (access != SOFT_EXEC && !user && (rights & PT_U) && (cpu->cr4 & CR4_SMAP) && !ac)
		ok = false;
	if (ok)
		return -1;
	return 1 | (access == SOFT_WRITE ? 2 : 0) | (user ? 4 : 0) |
	       (access == SOFT_EXEC && ((cpu->efer & EFER_NXE) || (cpu->cr4 & CR4_SMEP)) ? 16 : 0);
}

static void test_long_permissions(void **state)
{
	static const enum soft_access kinds[] = { SOFT_READ, SOFT_WRITE, SOFT_EXEC };
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;

	for (unsigned bits = 0; bits < 1u << 11; bits++) {
		struct path p = map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);
		uint64_t rights = PT_W | PT_U, *upper = bits & 256 ? p.e3 : p.e4;
		bool nx = bits & 16 && bits & 1024, user = bits & 32, ac = bits & 64;

		if (bits & 1)
			*p.e1 &= ~PT_W, rights &= ~PT_W;
		if (bits & 2)
			*p.e1 &= ~PT_U, rights &= ~PT_U;
		if (bits & 4)
			*upper &= ~PT_W, rights &= ~PT_W;
		if (bits & 8)
			*p.e2 &= ~PT_U, rights &= ~PT_U;
		if (bits & 16 && bits & 1024)
			*upper |= PT_NX;
		cpu->cr0 = CR0_PE | CR0_PG | (bits & 128 ? CR0_WP : 0);
		cpu->cr4 = CR4_PAE | (bits & 512 ? CR4_SMAP | CR4_SMEP : 0);
		cpu->efer = EFER_LME | EFER_LMA | (bits & 1024 ? EFER_NXE : 0);
		for (unsigned i = 0; i < 3; i++) {
			uint64_t gpa;
			unsigned flags;
			bool ok = soft_translate(cpu, LINEAR, kinds[i], user, ac, &gpa, &flags);
			int error = ok ? -1 : (int)cpu->exc.error;
			assert_int_equal(error, expected(cpu, rights, nx, kinds[i], user, ac));
			if (ok && kinds[i] != SOFT_EXEC && (*p.e1 & PT_D))
				assert_int_equal(!!(flags & SOFT_TLB_WRITE),
						 expected(cpu, rights, nx, SOFT_WRITE, user, ac) == -1);
			if (!ok && kinds[i] == SOFT_WRITE)
				assert_int_equal(*p.e1 & PT_D, 0);
		}
	}
}

static void test_long_malformed(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);

	*p.e1 &= ~PT_P;
	assert_int_equal(walk(m, LINEAR, SOFT_WRITE, true, NULL, NULL), 6);
	*p.e1 |= PT_P | 1ull << 45; /* beyond the fake machine's physical addresses */
	assert_int_equal(walk(m, LINEAR, SOFT_READ, true, NULL, NULL), 13);
	*p.e1 = DATA | PT_P | PT_NX;
	m->cpu->efer &= ~(uint64_t)EFER_NXE;
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, NULL, NULL), 9);
	*p.e1 = DATA | PT_P | 0x7ff0000000000000; /* ignored bits */
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, NULL, NULL), -1);
	*p.e2 = 0x70000000 | PT_P; /* a table in no memory */
	assert_int_equal(walk(m, LINEAR, SOFT_READ, false, NULL, NULL), 9);
	assert_int_equal(walk(m, 0x0000800000000000, SOFT_READ, false, NULL, NULL), -2);
	assert_int_equal(walk(m, 0xffff7fffffffffff, SOFT_READ, false, NULL, NULL), -2);
	*p.e2 = ROM | PT_P | PT_W; /* a table in ROM is used, and not written */
	memcpy(m->rom + (LINEAR >> 12 & 511) * 8, &(uint64_t){ DATA | PT_P | PT_W }, 8);
	assert_int_equal(walk(m, LINEAR, SOFT_WRITE, false, NULL, NULL), -1);
	assert_int_equal(m->rom[(LINEAR >> 12 & 511) * 8] & PT_A, 0);
}

static void test_pae(void **state)
{
	struct fake_machine *m = *state;
	uint32_t linear = 0xc0601000;
	uint64_t gpa;
	unsigned flags;

	m->cpu->efer = EFER_NXE;
	m->cpu->mode = SOFT_MODE_PE | SOFT_MODE_CODE32;
	m->cpu->cr3 = PDPT + 0x20;
	*entry(m, PDPT + 0x20, 3) = PD | PT_P;
	assert_true(soft_load_pdptes(m->cpu));
	*entry(m, PD, 3) = PT | PT_P | PT_W | PT_U;
	*entry(m, PT, 1) = DATA | PT_P | PT_W | PT_NX;
	assert_int_equal(walk(m, linear + 5, SOFT_WRITE, false, &gpa, &flags), -1);
	assert_int_equal(gpa, DATA + 5);
	assert_int_equal(walk(m, linear, SOFT_EXEC, false, NULL, NULL), 17);
	assert_int_equal(walk(m, 0x1000, SOFT_READ, true, NULL, NULL), 4);
	*entry(m, PT, 1) |= 1ull << 52;
	assert_int_equal(walk(m, linear, SOFT_READ, false, NULL, NULL), 9);
	*entry(m, PDPT + 0x20, 0) = PD | PT_P | PT_W; /* reserved in a PDPTE */
	assert_false(soft_load_pdptes(m->cpu));
	assert_int_equal(m->cpu->pdpte[0], 0);
}

static void test_32bit(void **state)
{
	struct fake_machine *m = *state;
	uint32_t *pd = (uint32_t *)(m->ram + PD), *pt = (uint32_t *)(m->ram + PT);
	uint64_t gpa;
	unsigned flags;

	m->cpu->efer = 0;
	m->cpu->cr4 = CR4_PSE;
	m->cpu->mode = SOFT_MODE_PE | SOFT_MODE_CODE32;
	m->cpu->cr3 = PD;
	pd[0x300] = PT | PT_P | PT_W | PT_U;
	pt[5] = DATA | PT_P | PT_W;
	assert_int_equal(walk(m, 0xc0005678, SOFT_WRITE, false, &gpa, &flags), -1);
	assert_int_equal(gpa, DATA + 0x678);
	assert_int_equal(flags, SOFT_TLB_WRITE);
	assert_int_equal(pt[5], DATA | PT_P | PT_W | PT_A | PT_D);
	assert_int_equal(pd[0x300] & PT_A, PT_A);
	assert_int_equal(walk(m, 0xc0005678, SOFT_EXEC, true, NULL, NULL), 5); /* no I without NX and SMEP */
	pd[1] = 0x00400000 | PT_P | PT_W | PT_PS | 3 << 13;                    /* PSE-36: above 8 GiB */
	assert_int_equal(walk(m, 0x00512345, SOFT_READ, false, &gpa, &flags), -1);
	assert_int_equal(gpa, 0x300512345);
	assert_int_equal(flags, SOFT_TLB_LARGE);
	pd[1] |= 1 << 21;
	assert_int_equal(walk(m, 0x00512345, SOFT_READ, false, NULL, NULL), 9);
	m->cpu->cr0 = CR0_PE;
	assert_int_equal(walk(m, 0x1234, SOFT_WRITE, true, &gpa, &flags), -1);
	assert_int_equal(gpa, 0x1234);
}

static void test_miss_fills_and_hits(void **state)
{
	struct fake_machine *m = *state;
	struct soft_tlb_entry *e = &m->cpu->tlb[SOFT_MMU_USER][LINEAR >> 12 & (SOFT_TLB_SIZE - 1)];
	struct path p = map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);
	uint32_t how = 4 | SOFT_HOW_READ;

	assert_ptr_equal(soft_mem_slow(m->cpu, LINEAR + 8, how), m->ram + DATA + 8);
	assert_int_equal(m->cpu->bounce.kind, SOFT_BOUNCE_NONE);
	assert_int_equal(e->tag_read, LINEAR);
	assert_int_not_equal(e->tag_write, LINEAR);
	assert_ptr_equal(e->host, m->ram + DATA);
	assert_ptr_equal(soft_mem_slow(m->cpu, LINEAR + 8, 4 | SOFT_HOW_WRITE), m->ram + DATA + 8);
	assert_int_equal(e->tag_write, LINEAR);
	assert_int_equal(*p.e1 & PT_D, PT_D);
	soft_tlb_protect(m->cpu, DATA + 0xfff);
	assert_int_equal(e->tag_read, LINEAR);
	assert_int_not_equal(e->tag_write, LINEAR);
	soft_tlb_flush(m->cpu, false);
	assert_int_not_equal(e->tag_read, LINEAR);
}

static void test_classes_are_apart(void **state)
{
	struct fake_machine *m = *state;

	map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);
	m->cpu->cr4 |= CR4_SMAP;
	m->cpu->mode &= ~(uint32_t)SOFT_MODE_AC;
	FAKE_EXPECT(m, EXC_PF, 1, soft_load(m->cpu, LINEAR, 4));
	m->cpu->mode |= SOFT_MODE_AC;
	FAKE_EXPECT_NONE(m, soft_load(m->cpu, LINEAR, 4));
	FAKE_EXPECT(m, EXC_PF, 1, soft_load_system(m->cpu, LINEAR, 4));
	FAKE_EXPECT(m, EXC_PF, 3, soft_store_system(m->cpu, LINEAR, 4, 0));
	m->cpu->mode |= 3;
	FAKE_EXPECT_NONE(m, soft_store(m->cpu, LINEAR, 4, 0));
	FAKE_EXPECT(m, EXC_PF, 3, soft_probe_write(m->cpu, LINEAR, 4, true));
	FAKE_EXPECT_NONE(m, soft_probe_write(m->cpu, LINEAR, 4, false));
}

static void test_flushes(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	struct path p = map_long(m, KERNEL_LINEAR, DATA | PT_P | PT_W | PT_G);
	struct soft_tlb_entry *e = &cpu->tlb[SOFT_MMU_KERNEL_AC][0];
	uint64_t gpa;

	soft_load(cpu, KERNEL_LINEAR, 1);
	assert_true(soft_translate_exec(cpu, KERNEL_LINEAR, &gpa));
	soft_tlb_flush(cpu, false);
	assert_int_equal(e->tag_read, KERNEL_LINEAR);
	assert_int_equal(cpu->itlb_of[0][0], SOFT_ITLB_KEY(KERNEL_LINEAR, DATA));
	soft_tlb_flush(cpu, true);
	assert_int_not_equal(e->tag_read, KERNEL_LINEAR);
	assert_int_equal(cpu->itlb_of[0][0], ~0ull);

	soft_load(cpu, KERNEL_LINEAR, 1);
	assert_true(soft_translate_exec(cpu, KERNEL_LINEAR, &gpa));
	soft_tlb_flush_page(cpu, KERNEL_LINEAR + 0x1000);
	assert_int_equal(e->tag_read, KERNEL_LINEAR);
	soft_tlb_flush_page(cpu, KERNEL_LINEAR + 0x234);
	assert_int_not_equal(e->tag_read, KERNEL_LINEAR);
	assert_int_equal(cpu->itlb_of[0][0], ~0ull);

	*p.e2 = PT_P | PT_W | PT_PS;
	soft_load(cpu, KERNEL_LINEAR + 0x5000, 1);
	assert_true(soft_translate_exec(cpu, KERNEL_LINEAR + 0x6000, &gpa));
	assert_int_equal(gpa, 0x6000);
	assert_int_equal(cpu->tlb[SOFT_MMU_KERNEL_AC][5].tag_read, KERNEL_LINEAR + 0x5000);
	soft_tlb_flush_page(cpu, KERNEL_LINEAR + 0x17f000);
	assert_int_not_equal(cpu->tlb[SOFT_MMU_KERNEL_AC][5].tag_read, KERNEL_LINEAR + 0x5000);
	assert_int_equal(cpu->itlb_of[0][6], ~0ull);

	*p.e3 = PT_P | PT_W | PT_PS;
	soft_load(cpu, KERNEL_LINEAR + 0x7000, 1);
	soft_tlb_flush_page(cpu, KERNEL_LINEAR + 0x40000000);
	assert_int_equal(cpu->tlb[SOFT_MMU_KERNEL_AC][7].tag_read, KERNEL_LINEAR + 0x7000);
	soft_tlb_flush_page(cpu, KERNEL_LINEAR + 0x3ffff000);
	assert_int_not_equal(cpu->tlb[SOFT_MMU_KERNEL_AC][7].tag_read, KERNEL_LINEAR + 0x7000);
}

static void test_jump_cache_flush(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;
	unsigned bit = soft_jc_page_bit(LINEAR);

	cpu->jc_pages[bit / 64] |= 1ull << bit % 64;
	cpu->jc[7].mode = 1;
	cpu->jc_list[0][0] = 7;
	cpu->jc_listed[0] = 1;
	soft_tlb_flush_page(cpu, LINEAR + 0x1000);
	assert_int_equal(cpu->jc[7].mode, 1);
	soft_tlb_flush_page(cpu, LINEAR);
	assert_int_equal(cpu->jc[7].mode, SOFT_JC_EMPTY);
	assert_int_equal(cpu->jc_pages[bit / 64], 0);
}

static void test_exec_by_privilege(void **state)
{
	struct fake_machine *m = *state;
	uint64_t gpa;

	map_long(m, LINEAR, DATA | PT_P);
	assert_true(soft_translate_exec(m->cpu, LINEAR + 3, &gpa));
	assert_int_equal(gpa, DATA + 3);
	assert_true(soft_translate_exec(m->cpu, LINEAR + 4, &gpa));
	assert_int_equal(gpa, DATA + 4);
	m->cpu->mode |= 3;
	assert_false(soft_translate_exec(m->cpu, LINEAR + 3, &gpa));
	assert_int_equal(m->cpu->exc.error, 21);
	m->cpu->mode &= ~3u;
	assert_false(soft_translate_exec(m->cpu, LINEAR | 1ull << 60, &gpa));
	assert_int_equal(m->cpu->exc.vector, EXC_GP);
}

static void test_mmio(void **state)
{
	struct fake_machine *m = *state;
	uint8_t *at;

	map_long(m, LINEAR, 0xfee00000 | PT_P | PT_W | PT_U);
	m->mmio_next = 0x1122334455667788;
	assert_int_equal(soft_load(m->cpu, LINEAR + 0x20, 4), 0x55667788);
	assert_int_equal(m->mmio_count, 1);
	assert_int_equal(m->mmio[0].gpa, 0xfee00020);
	assert_int_equal(m->mmio[0].size, 4);
	soft_store(m->cpu, LINEAR + 0x31, 4, 0xaabbccdd); /* misaligned: 1, 2, 1 */
	assert_int_equal(m->mmio_count, 4);
	assert_true(m->mmio[1].write && m->mmio[1].size == 1 && m->mmio[1].data == 0xdd);
	assert_true(m->mmio[2].write && m->mmio[2].size == 2 && m->mmio[2].data == 0xbbcc);
	assert_true(m->mmio[3].write && m->mmio[3].size == 1 && m->mmio[3].data == 0xaa);
	m->mmio_count = 0;
	at = soft_mem_slow(m->cpu, LINEAR + 0x18, 4 | SOFT_HOW_READ | SOFT_HOW_WRITE | SOFT_HOW_LOCK);
	assert_int_equal((uintptr_t)at & 63, 0x18);
	assert_int_equal(m->mmio_count, 1);
	*(uint32_t *)at += 1;
	assert_false(soft_mem_commit(m->cpu));
	assert_int_equal(m->mmio_count, 2);
	assert_int_equal(m->mmio[1].data, 0x55667789);
	assert_int_equal(m->heavy, 0);
}

static void test_crossing(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);

	p.e1[1] = (DATA + 0x5000) | PT_P | PT_W | PT_U;
	soft_store(m->cpu, LINEAR + 0xffd, 8, 0x8877665544332211);
	assert_memory_equal(m->ram + DATA + 0xffd, "\x11\x22\x33", 3);
	assert_memory_equal(m->ram + DATA + 0x5000, "\x44\x55\x66\x77\x88", 5);
	assert_int_equal(soft_load(m->cpu, LINEAR + 0xffd, 8), 0x8877665544332211);
	assert_int_equal(soft_load(m->cpu, LINEAR + 0xfff, 2), 0x4433);

	/* A fault in the second page changes nothing in the first. */
	p.e1[1] &= ~PT_W;
	soft_tlb_flush(m->cpu, true);
	FAKE_EXPECT(m, EXC_PF, 3, soft_store(m->cpu, LINEAR + 0xffd, 8, 0));
	assert_int_equal(m->cpu->exc.cr2, LINEAR + 0x1000);
	assert_memory_equal(m->ram + DATA + 0xffd, "\x11\x22\x33", 3);
	FAKE_EXPECT(m, EXC_GP, 0, soft_load(m->cpu, 0x00007ffffffffffe, 4));

	/* Into a device, and into read-only memory. */
	p.e1[1] = 0xfee00000 | PT_P | PT_W | PT_U;
	soft_tlb_flush(m->cpu, true);
	soft_store(m->cpu, LINEAR + 0xffe, 4, 0x99aabbcc);
	assert_memory_equal(m->ram + DATA + 0xffe, "\xcc\xbb", 2);
	assert_int_equal(m->mmio_count, 1);
	assert_true(m->mmio[0].write && m->mmio[0].size == 2 && m->mmio[0].data == 0x99aa);
	p.e1[1] = ROM | PT_P | PT_W | PT_U;
	memset(m->rom, 0x5a, 8);
	soft_tlb_flush(m->cpu, true);
	soft_store(m->cpu, LINEAR + 0xffe, 4, 0);
	assert_int_equal(m->rom[0], 0x5a);
	assert_int_equal(soft_load(m->cpu, LINEAR + 0xffe, 4), 0x5a5a0000);
}

static void test_locked_crossing(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);
	uint32_t how = 4 | SOFT_HOW_READ | SOFT_HOW_WRITE | SOFT_HOW_LOCK;
	uint8_t *at;

	p.e1[1] = (DATA + 0x1000) | PT_P | PT_W | PT_U;
	m->ram[DATA + 0xfff] = 0xff;
	at = soft_mem_slow(m->cpu, LINEAR + 0xfff, how);
	assert_int_not_equal(pthread_mutex_trylock(&m->vm.split_lock), 0);
	unaligned_store(at, 4, unaligned_load(at, 4) + 1);
	soft_mem_commit(m->cpu);
	assert_int_equal(pthread_mutex_trylock(&m->vm.split_lock), 0);
	pthread_mutex_unlock(&m->vm.split_lock);
	assert_memory_equal(m->ram + DATA + 0xfff, "\x00\x01", 2);
	FAKE_EXPECT(m, EXC_GP, 0, soft_mem_slow(m->cpu, LINEAR + 0xff8, (how & ~0xffffu) | 16));
}

static void test_rom_and_code(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR, ROM | PT_P | PT_W | PT_U);
	uint8_t *at;

	m->rom[4] = 7;
	soft_store(m->cpu, LINEAR + 4, 1, 9);
	assert_int_equal(m->rom[4], 7);
	at = soft_mem_slow(m->cpu, LINEAR + 4, 1 | SOFT_HOW_READ | SOFT_HOW_WRITE);
	assert_int_equal(*at, 7);
	*at = 8;
	assert_false(soft_mem_commit(m->cpu));
	assert_int_equal(soft_load(m->cpu, LINEAR + 4, 1), 7);

	*p.e1 = DATA | PT_P | PT_W | PT_U;
	soft_tlb_flush(m->cpu, true);
	fake_machine_set_code(m, DATA, true);
	at = soft_mem_slow(m->cpu, LINEAR + 8, 2 | SOFT_HOW_WRITE);
	assert_ptr_equal(at, m->ram + DATA + 8);
	assert_int_equal(m->cpu->bounce.kind, SOFT_BOUNCE_CODE);
	assert_true(soft_mem_commit(m->cpu));
	assert_int_equal(m->code_gpa, DATA + 8);
	assert_int_equal(m->code_size, 2);
	p.e1[1] = (DATA + 0x1000) | PT_P | PT_W | PT_U;
	soft_store(m->cpu, LINEAR + 0xffe, 8, 0);
	assert_int_equal(m->code_gpa, DATA + 0xffe);
	assert_int_equal(m->code_size, 2);
}

static void test_stack_faults_and_alignment(void **state)
{
	struct fake_machine *m = *state;

	map_long(m, LINEAR, DATA | PT_P | PT_W | PT_U);
	FAKE_EXPECT(m, EXC_SS, 0, soft_mem_slow(m->cpu, 1ull << 60, 8 | SOFT_HOW_WRITE | SOFT_HOW_STACK));
	FAKE_EXPECT(m, EXC_GP, 0, soft_mem_slow(m->cpu, 1ull << 60, 8 | SOFT_HOW_WRITE));
	m->cpu->mode |= 3;
	m->cpu->cr0 |= CR0_AM;
	m->cpu->sysflags |= RF_AC;
	FAKE_EXPECT_NONE(m, soft_load(m->cpu, LINEAR + 4, 4));
	FAKE_EXPECT(m, EXC_AC, 0, soft_load(m->cpu, LINEAR + 6, 4));
	FAKE_EXPECT(m, EXC_AC, 0, soft_store(m->cpu, LINEAR + 1, 2, 0));
}

static void test_fault_drops_entry(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR, DATA | PT_P | PT_U);
	uint64_t index = LINEAR >> 12 & (SOFT_TLB_SIZE - 1);

	m->cpu->mode |= 3;
	soft_load(m->cpu, LINEAR, 8);
	assert_int_equal(m->cpu->tlb[SOFT_MMU_USER][index].tag_read, LINEAR);
	FAKE_EXPECT(m, EXC_PF, 7, soft_store(m->cpu, LINEAR, 8, 1));
	assert_int_not_equal(m->cpu->tlb[SOFT_MMU_USER][index].tag_read, LINEAR);
	*p.e1 |= PT_W;
	FAKE_EXPECT_NONE(m, soft_store(m->cpu, LINEAR, 8, 1));
}

static void test_segments(void **state)
{
	struct fake_machine *m = *state;
	struct soft_cpu *cpu = m->cpu;

	cpu->seg[ENGINE_GS].base = 0xffff888000000000;
	cpu->seg[ENGINE_DS].base = 0x1000;
	assert_int_equal(soft_linear(cpu, ENGINE_DS, 0x10, 8, SOFT_READ), 0x10);
	assert_int_equal(soft_linear(cpu, ENGINE_GS, 0x10, 8, SOFT_READ), 0xffff888000000010);
	FAKE_EXPECT(m, EXC_GP, 0, soft_linear(cpu, ENGINE_DS, 0x7ffffffffffe, 8, SOFT_READ));
	FAKE_EXPECT(m, EXC_SS, 0, soft_linear(cpu, ENGINE_SS, 1ull << 50, 8, SOFT_READ));

	cpu->mode = SOFT_MODE_PE | SOFT_MODE_CODE32;
	cpu->seg[ENGINE_DS] = (struct engine_segment){ .base = 0xfffff000, .limit = 0x2fff, .attr = 0x4093 };
	assert_int_equal(soft_linear(cpu, ENGINE_DS, 0x1ffc, 4, SOFT_WRITE), 0xffc);
	FAKE_EXPECT(m, EXC_GP, 0, soft_linear(cpu, ENGINE_DS, 0x2ffd, 4, SOFT_WRITE));
	cpu->seg[ENGINE_DS].attr = 0x4091; /* read-only */
	FAKE_EXPECT(m, EXC_GP, 0, soft_linear(cpu, ENGINE_DS, 0, 4, SOFT_WRITE));
	FAKE_EXPECT_NONE(m, soft_linear(cpu, ENGINE_DS, 0, 4, SOFT_READ));
	FAKE_EXPECT(m, EXC_GP, 0, soft_linear(cpu, ENGINE_DS, 0, 1, SOFT_EXEC));
	cpu->seg[ENGINE_DS].attr = 0x4099; /* execute-only */
	FAKE_EXPECT(m, EXC_GP, 0, soft_linear(cpu, ENGINE_DS, 0, 4, SOFT_READ));
	FAKE_EXPECT_NONE(m, soft_linear(cpu, ENGINE_DS, 0, 1, SOFT_EXEC));
	cpu->seg[ENGINE_SS] = (struct engine_segment){ .limit = 0xfff, .attr = 0x0097 }; /* expand-down, 16 bits */
	FAKE_EXPECT(m, EXC_SS, 0, soft_linear(cpu, ENGINE_SS, 0xfff, 2, SOFT_WRITE));
	FAKE_EXPECT_NONE(m, soft_linear(cpu, ENGINE_SS, 0x1000, 2, SOFT_WRITE));
	FAKE_EXPECT(m, EXC_SS, 0, soft_linear(cpu, ENGINE_SS, 0xffff, 2, SOFT_WRITE));
	cpu->seg[ENGINE_SS].attr |= 0x4000;
	FAKE_EXPECT_NONE(m, soft_linear(cpu, ENGINE_SS, 0xffff, 2, SOFT_WRITE));
	cpu->seg[ENGINE_ES].attr = 1 << 16;
	FAKE_EXPECT(m, EXC_GP, 0, soft_linear(cpu, ENGINE_ES, 0, 2, SOFT_READ));
	cpu->mode = SOFT_MODE_CODE16;
	cpu->seg[ENGINE_CS] = (struct engine_segment){ .base = 0xf0000, .limit = 0xffff, .attr = 0x9b };
	assert_int_equal(soft_linear(cpu, ENGINE_CS, 0xfffe, 2, SOFT_WRITE), 0xffffe);
	FAKE_EXPECT(m, EXC_GP, 0, soft_linear(cpu, ENGINE_CS, 0xffff, 2, SOFT_WRITE));
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Not a promise about time, which a busy machine would break; prints what a miss costs. */
static void test_miss_price(void **state)
{
	struct fake_machine *m = *state;
	struct path p = map_long(m, LINEAR & ~0x1fffffull, 0);
	unsigned n = 1000000;
	double start;

	for (unsigned i = 0; i < 128; i++)
		p.e1[i] = (DATA + i * 0x1000) | PT_P | PT_W | PT_U;
	for (unsigned write = 0; write < 2; write++) {
		start = seconds();
		for (unsigned i = 0; i < n; i++)
			soft_mem_slow(m->cpu, (LINEAR & ~0x1fffffull) + (i & 127) * 0x1000,
				      8 | (write ? SOFT_HOW_WRITE : SOFT_HOW_READ));
		print_message("a %s miss: %.1f ns\n", write ? "write" : "read", (seconds() - start) * 1e9 / n);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_long_sets_accessed_and_dirty),
		T(test_long_large_pages),
		T(test_long_permissions),
		T(test_long_malformed),
		T(test_pae),
		T(test_32bit),
		T(test_miss_fills_and_hits),
		T(test_classes_are_apart),
		T(test_flushes),
		T(test_jump_cache_flush),
		T(test_exec_by_privilege),
		T(test_mmio),
		T(test_crossing),
		T(test_locked_crossing),
		T(test_rom_and_code),
		T(test_stack_faults_and_alignment),
		T(test_fault_drops_entry),
		T(test_segments),
		T(test_miss_price),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
