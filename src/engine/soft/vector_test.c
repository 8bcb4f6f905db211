/* SPDX-License-Identifier: Apache-2.0 */
/* vector_test.c - gathers and masked moves: which lanes are accessed, and what a fault leaves behind. */
#include "engine/soft/test_machine.h"

enum { PF = 14, UD = 6, GP = 13, SS = 12, MF = 16, AC = 17 };
#define ON 0x80000000u

union ymm {
	uint32_t d[8];
	uint64_t q[4];
	uint8_t b[32];
};

static const union ymm old = { .d = { 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7 } };

/* An 8-lane mask from the low bits of n; of 32-bit lanes. The bits that do not count differ. */
static union ymm mask32(unsigned n)
{
	union ymm v;
	for (unsigned i = 0; i < 8; i++)
		v.d[i] = (n >> i & 1 ? ON : 0) | i;
	return v;
}

static union ymm mask64(unsigned n)
{
	union ymm v;
	for (unsigned i = 0; i < 4; i++)
		v.q[i] = (uint64_t)(n >> i & 1) << 63 | i;
	return v;
}

static void expect_ymm(struct test_machine *m, unsigned n, const union ymm *want)
{
	union ymm is;
	test_get_ymm(m, n, &is);
	assert_memory_equal(&is, want, sizeof(is));
}

static void fill(struct test_machine *m)
{
	for (unsigned i = 0; i < 0x2000; i += 4)
		test_put(m, TEST_DATA + i, 0x1000 + i, 4);
}

/* ---- gathers: ymm1 the destination, ymm2 the index, ymm3 the mask ---- */

CODE64(gather_dd, "vpgatherdd ymm1, [rsi + ymm2 * 4 + 8], ymm3");
CODE64(gather_dd128, "vpgatherdd xmm1, [rsi + xmm2 * 4], xmm3");
CODE64(gather_dq, "vpgatherdq ymm1, [rsi + xmm2 * 8], ymm3");
CODE64(gather_qd, "vpgatherqd xmm1, [rsi + ymm2 * 4], xmm3");
CODE64(gather_qd128, "vpgatherqd xmm1, [rsi + xmm2 * 4], xmm3");
CODE64(gather_qq, "vpgatherqq ymm1, [rsi + ymm2 * 1], ymm3");
CODE64(gather_dps, "vgatherdps ymm1, [rsi + ymm2 * 4 + 8], ymm3");
CODE64(gather_qpd, "vgatherqpd ymm1, [rsi + ymm2 * 1], ymm3");
CODE64(gather_high, "vpgatherdd ymm9, [r15 + ymm12 * 4], ymm4");
CODE64(gather_fs, "vpgatherdd ymm1, fs:[rsi + ymm2 * 4], ymm3");
CODE64(gather_absolute, "vpgatherdd ymm1, [ymm2 * 1 + 0x400000], ymm3");
CODE64(gather_addr32, "vpgatherdd ymm1, [esi + ymm2 * 4], ymm3");
CODE64(gather_rbp, "vpgatherdd ymm1, [rbp + ymm2 * 4], ymm3");

static void gather_begin(struct test_machine *m, const union ymm *index, const union ymm *mask)
{
	fill(m);
	test_set_ymm(m, 1, &old);
	test_set_ymm(m, 2, index);
	test_set_ymm(m, 3, mask);
	m->state.gpr[6] = TEST_DATA;
}

static void test_gather_all(void **state)
{
	struct test_machine *m = *state;
	union ymm index = { .d = { 7, 6, 5, 4, 0x3fe, 2, 1, (uint32_t)-2 } }, mask = mask32(0xff), zero = { 0 }, want;
	for (unsigned i = 0; i < 8; i++)
		want.d[i] = 0x1008 + index.d[i] * 4;
	gather_begin(m, &index, &mask);
	test_run_ok(m, gather_dd);
	expect_ymm(m, 1, &want);
	expect_ymm(m, 2, &index);
	expect_ymm(m, 3, &zero);
	gather_begin(m, &index, &mask);
	test_run_ok(m, gather_dps);
	expect_ymm(m, 1, &want);
}

static void test_gather_masked(void **state)
{
	struct test_machine *m = *state;
	/* Lanes that are off have addresses that would fault. */
	union ymm index = { .d = { 0, 0x7fffffff, 2, 0x7fffffff, 4, 0x80000000, 0x7fffffff, 7 } };
	union ymm mask = mask32(0x95), zero = { 0 }, want = old;
	want.d[0] = 0x1008, want.d[2] = 0x1010, want.d[4] = 0x1018, want.d[7] = 0x1024;
	gather_begin(m, &index, &mask);
	test_run_ok(m, gather_dd);
	expect_ymm(m, 1, &want);
	expect_ymm(m, 3, &zero);
	mask = mask32(0);
	gather_begin(m, &index, &mask);
	test_run_ok(m, gather_dd);
	expect_ymm(m, 1, &old);
	expect_ymm(m, 3, &zero);
}

static void test_gather_widths(void **state)
{
	struct test_machine *m = *state;
	union ymm all32 = mask32(0xff), all64 = mask64(0xf), zero = { 0 };
	union ymm d = { .d = { 1, 2, 3, 4, 5, 6, 7, 8 } }, q = { .q = { 8, 16, (uint64_t)0, 24 } };

	gather_begin(m, &d, &all32);
	test_run_ok(m, gather_dd128);
	expect_ymm(m, 1, &(union ymm){ .d = { 0x1004, 0x1008, 0x100c, 0x1010 } });
	expect_ymm(m, 3, &zero);
	gather_begin(m, &d, &all64);
	test_run_ok(m, gather_dq);
	expect_ymm(m, 1, &(union ymm){ .d = { 0x1008, 0x100c, 0x1010, 0x1014, 0x1018, 0x101c, 0x1020, 0x1024 } });
	gather_begin(m, &q, &all32);
	test_run_ok(m, gather_qd);
	expect_ymm(m, 1, &(union ymm){ .d = { 0x1020, 0x1040, 0x1000, 0x1060 } });
	expect_ymm(m, 3, &zero);
	gather_begin(m, &q, &all32);
	test_run_ok(m, gather_qd128);
	expect_ymm(m, 1, &(union ymm){ .d = { 0x1020, 0x1040 } });
	expect_ymm(m, 3, &zero);
	union ymm want = { .d = { 0x1008, 0x100c, 0x1010, 0x1014, 0x1000, 0x1004, 0x1018, 0x101c } };
	gather_begin(m, &q, &all64);
	test_run_ok(m, gather_qq);
	expect_ymm(m, 1, &want);
	gather_begin(m, &q, &all64);
	test_run_ok(m, gather_qpd);
	expect_ymm(m, 1, &want);
}

static void test_gather_addresses(void **state)
{
	struct test_machine *m = *state;
	union ymm index = { .d = { 0, 4, 8, 12, 16, 20, 24, 28 } }, mask = mask32(0xff), zero = { 0 }, want;

	for (unsigned i = 0; i < 8; i++)
		want.d[i] = 0x1000 + 4 * index.d[i];
	gather_begin(m, &index, &mask);
	test_set_ymm(m, 9, &old);
	test_set_ymm(m, 12, &index);
	test_set_ymm(m, 4, &mask);
	m->state.gpr[15] = TEST_DATA;
	test_run_ok(m, gather_high);
	expect_ymm(m, 9, &want);
	expect_ymm(m, 4, &zero);
	gather_begin(m, &index, &mask);
	m->state.gpr[6] = 0;
	m->state.seg[ENGINE_FS].base = TEST_DATA;
	test_run_ok(m, gather_fs);
	expect_ymm(m, 1, &want);
	gather_begin(m, &index, &mask);
	m->state.gpr[6] |= 0xffffffff00000000;
	test_run_ok(m, gather_addr32);
	expect_ymm(m, 1, &want);
	for (unsigned i = 0; i < 8; i++)
		want.d[i] = 0x1000 + index.d[i];
	gather_begin(m, &index, &mask);
	test_run_ok(m, gather_absolute);
	expect_ymm(m, 1, &want);
}

/* What is done when an element faults is in the registers, and running it again does the rest. */
static void test_gather_restarts(void **state)
{
	struct test_machine *m = *state;
	union ymm index = { .d = { 0, 1, 2, 0x400, 4, 5, 0x401, 7 } }, mask = mask32(0xfb), want = old, left = mask,
		  zero = { 0 };
	gather_begin(m, &index, &mask);
	test_page(m, 1, TEST_ABSENT);
	assert_int_equal(test_run(m, gather_dd), PF);
	assert_int_equal(m->state.cr2, TEST_DATA + 0x1008);
	assert_int_equal(m->frame.rip, TEST_CODE);
	want.d[0] = 0x1008, want.d[1] = 0x100c;
	left.d[0] = left.d[1] = 0;
	expect_ymm(m, 1, &want);
	/* Of the elements behind the fault nothing is known but what is still to be done. */
	union ymm is;
	test_get_ymm(m, 3, &is);
	assert_memory_equal(&is.d[3], &left.d[3], 5 * 4);
	assert_int_equal(is.d[0] | is.d[1] | (is.d[2] & ON), 0);
	test_page(m, 1, TEST_WRITABLE);
	test_put(m, TEST_DATA + 8, 0x77, 4); /* not looked at again */
	m->state.gpr[4] = TEST_STACK;
	m->state.seg[ENGINE_CS] = test_segment(8, 0xa09b);
	test_run_ok(m, gather_dd);
	for (unsigned i = 3; i < 8; i++)
		want.d[i] = 0x1008 + 4 * index.d[i];
	expect_ymm(m, 1, &want);
	expect_ymm(m, 3, &zero);
}

static void test_gather_bad_addresses(void **state)
{
	struct test_machine *m = *state;
	union ymm index = { 0 }, mask = mask32(1);
	gather_begin(m, &index, &mask);
	m->state.gpr[6] = 0x800000000000;
	assert_int_equal(test_run(m, gather_dd128), GP);
	test_state(m);
	gather_begin(m, &index, &mask);
	m->state.gpr[5] = 0x800000000000;
	assert_int_equal(test_run(m, gather_rbp), SS);
	test_state(m);
	gather_begin(m, &index, &mask);
	m->state.gpr[6] = TEST_DEVICE;
	test_run_ok(m, gather_dd128);
	assert_int_equal(m->mmio_count, 1);
	assert_int_equal(m->mmio[0].size, 4);
}

/* Destination, index and mask must be three registers. */
static void test_gather_same_registers(void **state)
{
	struct test_machine *m = *state;
	static const uint8_t dst_index[] = { 0xc4, 0xe2, 0x65, 0x90, 0x0c, 0x8e };  /* ymm1, [rsi + ymm1 * 4], ymm3 */
	static const uint8_t dst_mask[] = { 0xc4, 0xe2, 0x75, 0x90, 0x0c, 0x96 };   /* ymm1, [rsi + ymm2 * 4], ymm1 */
	static const uint8_t index_mask[] = { 0xc4, 0xe2, 0x6d, 0x90, 0x0c, 0x96 }; /* ymm1, [rsi + ymm2 * 4], ymm2 */
	static const uint8_t no_sib[] = { 0xc4, 0xe2, 0x65, 0x90, 0x0e };           /* ymm1, [rsi], ymm3 */
	assert_int_equal(test_run_at(m, dst_index, dst_index + sizeof(dst_index)), UD);
	test_state(m);
	assert_int_equal(test_run_at(m, dst_mask, dst_mask + sizeof(dst_mask)), UD);
	test_state(m);
	assert_int_equal(test_run_at(m, index_mask, index_mask + sizeof(index_mask)), UD);
	test_state(m);
	assert_int_equal(test_run_at(m, no_sib, no_sib + sizeof(no_sib)), UD);
}

/* ---- masked moves: ymm1 the data, ymm3 the mask ---- */

CODE64(load_ps, "vmaskmovps ymm1, ymm3, [rsi]");
CODE64(load_pd128, "vmaskmovpd xmm1, xmm3, [rsi]");
CODE64(load_d, "vpmaskmovd ymm1, ymm3, [rsi]");
CODE64(load_q, "vpmaskmovq ymm1, ymm3, [rsi]");
CODE64(store_ps, "vmaskmovps [rsi], ymm3, ymm1");
CODE64(store_pd, "vmaskmovpd [rsi], ymm3, ymm1");
CODE64(store_d128, "vpmaskmovd [rsi], xmm3, xmm1");
CODE64(store_q, "vpmaskmovq [r11 + r10 * 2 + 8], ymm3, ymm1");
CODE64(store_twice, "mov rcx, 2; 1: vmaskmovps [rsi], ymm3, ymm1; add rsi, 32; dec rcx; jnz 1b");
CODE64(store_bytes, "maskmovdqu xmm1, xmm3");
CODE64(store_bytes_vex, "vmaskmovdqu xmm1, xmm3");
CODE64(store_bytes_mmx, "movq mm1, [rbx]; movq mm3, [rbx + 8]; maskmovq mm1, mm3");

static void masked_begin(struct test_machine *m, uint64_t at, const union ymm *mask)
{
	test_state(m);
	fill(m);
	test_set_ymm(m, 1, &old);
	test_set_ymm(m, 3, mask);
	m->state.gpr[6] = m->state.gpr[7] = at;
}

static void test_masked_load(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(0x55), want = { 0 };
	for (unsigned i = 0; i < 8; i += 2)
		want.d[i] = 0x1000 + 4 * i;
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, load_ps);
	expect_ymm(m, 1, &want);
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, load_d);
	expect_ymm(m, 1, &want);
	mask = mask64(0xa);
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, load_pd128);
	expect_ymm(m, 1, &(union ymm){ .d = { 0, 0, 0x1008, 0x100c } });
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, load_q);
	expect_ymm(m, 1, &(union ymm){ .d = { 0, 0, 0x1008, 0x100c, 0, 0, 0x1018, 0x101c } });
}

static void test_masked_load_faults(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(0x0f), want = { .d = { 0x1ff0, 0x1ff4, 0x1ff8, 0x1ffc } };
	/* The second half is in a page that is not there. */
	masked_begin(m, TEST_DATA + 0xff0, &mask);
	test_page(m, 1, TEST_ABSENT);
	test_run_ok(m, load_ps);
	expect_ymm(m, 1, &want);
	mask = mask32(0x1f);
	masked_begin(m, TEST_DATA + 0xff0, &mask);
	assert_int_equal(test_run(m, load_ps), PF);
	assert_int_equal(m->state.cr2, TEST_DATA + 0x1000);
	expect_ymm(m, 1, &old);
	/* No lane at all. */
	mask = mask32(0);
	masked_begin(m, 0x800000000000, &mask);
	test_run_ok(m, load_ps);
	expect_ymm(m, 1, &(union ymm){ 0 });
	mask = mask32(2);
	masked_begin(m, 0x800000000000, &mask);
	assert_int_equal(test_run(m, load_ps), GP);
}

static void expect_stored(struct test_machine *m, uint64_t at, unsigned n, unsigned lane, unsigned mask)
{
	for (unsigned i = 0; i < n; i++) {
		for (unsigned k = 0; k < lane; k += 4) {
			uint64_t a = at + i * lane + k;
			uint64_t want = mask >> i & 1 ? old.d[(i * lane + k) / 4] : 0x1000 + a - TEST_DATA;
			assert_int_equal(test_get(m, a, 4), want);
		}
	}
}

static void test_masked_store(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(0x9a);
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, store_ps);
	expect_stored(m, TEST_DATA, 8, 4, 0x9a);
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, store_d128);
	expect_stored(m, TEST_DATA, 8, 4, 0x0a);
	mask = mask64(0x9);
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, store_pd);
	expect_stored(m, TEST_DATA, 4, 8, 0x9);
	masked_begin(m, TEST_DATA, &mask);
	m->state.gpr[10] = 0x100, m->state.gpr[11] = TEST_DATA;
	test_run_ok(m, store_q);
	expect_stored(m, TEST_DATA + 0x208, 4, 8, 0x9);
	mask = mask32(0x81);
	masked_begin(m, TEST_DATA, &mask);
	test_run_ok(m, store_twice);
	expect_stored(m, TEST_DATA, 8, 4, 0x81);
	expect_stored(m, TEST_DATA + 32, 8, 4, 0x81);
}

static void test_masked_store_faults(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(0x0d);
	masked_begin(m, TEST_DATA + 0xff0, &mask);
	test_page(m, 1, TEST_READONLY);
	test_run_ok(m, store_ps);
	expect_stored(m, TEST_DATA + 0xff0, 8, 4, 0x0d);
	/* The fault comes before any lane is written. */
	mask = mask32(0x8d);
	masked_begin(m, TEST_DATA + 0xff0, &mask);
	assert_int_equal(test_run(m, store_ps), PF);
	assert_int_equal(m->frame.error, 3);
	expect_stored(m, TEST_DATA + 0xff0, 8, 4, 0);
	test_page(m, 1, TEST_WRITABLE);
	masked_begin(m, TEST_DATA + 0xff0, &mask);
	test_run_ok(m, store_ps);
	expect_stored(m, TEST_DATA + 0xff0, 8, 4, 0x8d);
}

static void test_masked_device(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(0x14);
	masked_begin(m, TEST_DEVICE + 0x20, &mask);
	test_run_ok(m, store_ps);
	assert_int_equal(m->mmio_count, 2);
	assert_int_equal(m->mmio[0].gpa, TEST_DEVICE + 0x28);
	assert_int_equal(m->mmio[0].data, old.d[2]);
	assert_int_equal(m->mmio[1].gpa, TEST_DEVICE + 0x30);
	assert_true(m->mmio[1].write && m->mmio[1].size == 4);
	masked_begin(m, TEST_DEVICE + 0x20, &mask);
	test_run_ok(m, load_ps);
	assert_int_equal(m->mmio_count, 2);
	expect_ymm(m, 1, &(union ymm){ .d = { 0, 0, 0x2b2a2928, 0, 0x33323130 } });
}

/* A store into the code that follows is seen by it; lanes that are off leave it alone. */
CODE64(store_code, "lea rsi, [rip + 1f - 4]; vmaskmovps [rsi], xmm3, xmm1; .balign 4, 0x90; nop; nop; nop;"
		   "1: mov eax, 5; .balign 8, 0x90");
static void test_masked_store_code(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(2), data = { .d = { 0xcccccccc, 0x000009b8, 0xcccccccc, 0xcccccccc } };
	masked_begin(m, 0, &mask);
	test_set_ymm(m, 1, &data);
	test_run_ok(m, store_code);
	assert_int_equal(m->state.gpr[0], 9);
}

static void byte_masks(struct test_machine *m, uint64_t at)
{
	union ymm data, mask;
	for (unsigned i = 0; i < 32; i++) {
		data.b[i] = (uint8_t)(0xe0 + i);
		mask.b[i] = i & 2 ? 0x80 : 0x7f;
	}
	masked_begin(m, at, &mask);
	test_set_ymm(m, 1, &data);
	memset(m->ram + TEST_DATA, 0, 0x2000);
	memcpy(m->ram + TEST_DATA + 0x800, &data, 8);
	memcpy(m->ram + TEST_DATA + 0x808, &mask, 8);
	m->state.gpr[3] = TEST_DATA + 0x800;
}

static void expect_bytes(struct test_machine *m, uint64_t at, unsigned n)
{
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(m->ram[at + i], i < n && (i & 2) ? 0xe0 + i : 0);
	assert_int_equal(m->state.gpr[7], at);
}

static void test_masked_bytes(void **state)
{
	struct test_machine *m = *state;
	byte_masks(m, TEST_DATA + 5);
	test_run_ok(m, store_bytes);
	expect_bytes(m, TEST_DATA + 5, 16);
	byte_masks(m, TEST_DATA + 5);
	test_run_ok(m, store_bytes_vex);
	expect_bytes(m, TEST_DATA + 5, 16);
	byte_masks(m, TEST_DATA + 5);
	test_run_ok(m, store_bytes_mmx);
	expect_bytes(m, TEST_DATA + 5, 8);
	/* Bytes 0 and 1 end the page that is there. */
	test_page(m, 0, TEST_READONLY);
	byte_masks(m, TEST_DATA + 0xffe);
	test_run_ok(m, store_bytes);
	expect_bytes(m, TEST_DATA + 0xffe, 16);
}

/* MASKMOVQ with an x87 exception waiting raises #MF, in the guest. */
CODE64(mmx_pending, "fninit; mov word ptr [rbx], 0x37b; fldcw [rbx]; fld1; fldz; fdivp; maskmovq mm1, mm3");
static void test_maskmovq_pending(void **state)
{
	struct test_machine *m = *state;
	masked_begin(m, TEST_DATA, &old);
	m->state.gpr[3] = TEST_DATA;
	assert_int_equal(test_run(m, mmx_pending), MF);
}

/* ---- other modes ---- */

CODE32(gather32, "vpgatherdd ymm1, [esi + ymm2 * 4], ymm3");
CODE32(load32, "vpmaskmovd ymm1, ymm3, [esi]");
CODE32(store32, "vmaskmovps [ebp], ymm3, ymm1");
CODE16(load16, "vpmaskmovd ymm1, ymm3, [si]");
CODE16(gather16, ".byte 0x67; vpgatherdd ymm1, [esi + ymm2 * 4], ymm3");

/* Segments with a limit: an element beyond it faults, if its lane is on. */
static void limited(struct test_machine *m, unsigned bits, unsigned seg, const union ymm *mask)
{
	masked_begin(m, TEST_DATA, mask);
	test_bits(m, bits);
	m->state.gpr[6] = m->state.gpr[5] = 0x100;
	m->state.seg[seg].base = TEST_DATA;
	m->state.seg[seg].limit = 0x10f;
	m->state.seg[seg].attr = 0x4093;
}

static void test_limits(void **state)
{
	struct test_machine *m = *state;
	union ymm inside = mask32(0x0f), beyond = mask32(0x10), index = { .d = { 0, 1, 2, 3, 4 } };
	union ymm want = { .d = { 0x1100, 0x1104, 0x1108, 0x110c } };

	limited(m, 32, ENGINE_DS, &inside);
	test_run_ok(m, load32);
	expect_ymm(m, 1, &want);
	limited(m, 32, ENGINE_DS, &beyond);
	assert_int_equal(test_run(m, load32), GP);
	limited(m, 32, ENGINE_SS, &inside);
	test_run_ok(m, store32);
	expect_stored(m, TEST_DATA + 0x100, 8, 4, 0x0f);
	limited(m, 32, ENGINE_SS, &beyond);
	m->state.gpr[4] = 0xf0;
	assert_int_equal(test_run(m, store32), SS);
	expect_stored(m, TEST_DATA + 0x100, 8, 4, 0);
	limited(m, 16, ENGINE_DS, &inside);
	m->state.gpr[6] |= 0x10000;
	test_run_ok(m, load16);
	expect_ymm(m, 1, &want);

	limited(m, 32, ENGINE_DS, &inside);
	test_set_ymm(m, 2, &index);
	test_run_ok(m, gather32);
	memcpy(&want.d[4], &old.d[4], 16);
	expect_ymm(m, 1, &want);
	limited(m, 16, ENGINE_DS, &inside);
	test_set_ymm(m, 2, &index);
	test_run_ok(m, gather16);
	expect_ymm(m, 1, &want);
	inside = mask32(0x1f);
	limited(m, 32, ENGINE_DS, &inside);
	test_set_ymm(m, 2, &index);
	assert_int_equal(test_run(m, gather32), GP);
	expect_ymm(m, 1, &want); /* four are done */
}

/* AVX is undefined in real mode, and without CR4.OSXSAVE, and not there by CR0.TS. */
static void test_availability(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(0);
	masked_begin(m, TEST_DATA, &mask);
	m->state.cr0 |= 8;
	assert_int_equal(test_run(m, load_ps), 7);
	masked_begin(m, TEST_DATA, &mask);
	m->state.cr0 |= 8;
	assert_int_equal(test_run(m, gather_dd), 7);
	masked_begin(m, TEST_DATA, &mask);
	m->state.cr4 &= ~(1ull << 18);
	assert_int_equal(test_run(m, gather_dd), UD);
	masked_begin(m, TEST_DATA, &mask);
	m->state.xcr0 = 3;
	assert_int_equal(test_run(m, load_ps), UD);
}

/* With alignment checks (CPL 3, AC, CR0.AM) masked moves raise none; gathers do, of elements. */
CODE64(aligned_mov, "mov eax, [rsi]");
CODE64(movups, "movups xmm1, [rsi]");

static void checked(struct test_machine *m, uint64_t at, const union ymm *mask)
{
	union ymm index = { 0 };
	masked_begin(m, at, mask);
	test_set_ymm(m, 2, &index);
	test_user(m);
	m->state.rflags |= 1 << 18;
	m->state.cr0 |= 1 << 18;
}

static void test_alignment(void **state)
{
	struct test_machine *m = *state;
	union ymm mask = mask32(0x11);
	checked(m, TEST_DATA + 1, &mask);
	assert_int_equal(test_run(m, aligned_mov), AC);
	checked(m, TEST_DATA + 8, &mask);
	test_run_ok(m, aligned_mov);
	checked(m, TEST_DATA + 1, &mask);
	test_run_ok(m, movups);
	checked(m, TEST_DATA + 1, &mask);
	test_run_ok(m, load_ps);
	expect_ymm(m, 1, &(union ymm){ .d = { 0x04000010, 0, 0, 0, 0x14000010 } });
	checked(m, TEST_DATA + 1, &mask);
	test_run_ok(m, store_ps);
	assert_int_equal(test_get(m, TEST_DATA + 1, 4), old.d[0]);
	assert_int_equal(test_get(m, TEST_DATA + 17, 4), old.d[4]);
	checked(m, TEST_DATA + 3, &mask);
	test_run_ok(m, store_bytes);
	checked(m, TEST_DATA + 1, &mask);
	assert_int_equal(test_run(m, gather_dd128), AC);
	checked(m, TEST_DATA + 4, &mask);
	test_run_ok(m, gather_dd128);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_gather_all, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_gather_masked, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_gather_widths, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_gather_addresses, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_gather_restarts, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_gather_bad_addresses, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_gather_same_registers, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_masked_load, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_masked_load_faults, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_masked_store, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_masked_store_faults, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_masked_device, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_masked_store_code, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_masked_bytes, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_maskmovq_pending, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_limits, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_availability, test_setup, test_teardown),
		cmocka_unit_test_setup_teardown(test_alignment, test_setup, test_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
