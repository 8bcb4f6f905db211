/* SPDX-License-Identifier: Apache-2.0 */
/* insn_test.c - the decoder, instruction by instruction. insn_zydis_test.c compares it with another one wholesale. */
#include "engine/soft/insn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"

static struct insn decode(enum insn_mode mode, const char *bytes, size_t len)
{
	struct insn insn;
	assert_int_equal(insn_decode(&insn, (const uint8_t *)bytes, len, mode), 0);
	assert_int_equal(insn.len, len);
	return insn;
}
#define D64(bytes) decode(INSN_MODE_64, bytes, sizeof(bytes) - 1)
#define D32(bytes) decode(INSN_MODE_32, bytes, sizeof(bytes) - 1)
#define D16(bytes) decode(INSN_MODE_16, bytes, sizeof(bytes) - 1)

static void test_operand_sizes(void **state)
{
	(void)state;
	assert_int_equal(D64("\x01\xd8").opsize, 4);
	assert_int_equal(D64("\x66\x01\xd8").opsize, 2);
	assert_int_equal(D64("\x48\x01\xd8").opsize, 8);
	assert_int_equal(D64("\x66\x48\x01\xd8").opsize, 8);
	/* A REX that is not last before the opcode counts for nothing. */
	assert_int_equal(D64("\x48\x66\x01\xd8").opsize, 2);
	assert_int_equal(D16("\x01\xd8").opsize, 2);
	assert_int_equal(D16("\x66\x01\xd8").opsize, 4);
	assert_int_equal(D32("\x50").opsize, 4);
	assert_int_equal(D64("\x50").opsize, 8);
	assert_int_equal(D64("\x66\x50").opsize, 2);
	struct insn insn = D64("\x0f\xb6\xcc"); /* movzx ecx, ah */
	assert_int_equal(insn.reg_size, 4);
	assert_int_equal(insn.rm_size, 1);
	assert_true(insn_high8(&insn, insn.rm_size, insn.rm));
	assert_false(insn_high8(&insn, insn.reg_size, 4));
}

static void test_addresses(void **state)
{
	(void)state;
	struct insn insn = D64("\x48\x8b\x44\x8d\xf8"); /* mov rax, [rbp + rcx * 4 - 8] */
	assert_true(insn.mem);
	assert_int_equal(insn.base, 5);
	assert_int_equal(insn.index, 1);
	assert_int_equal(insn.scale, 4);
	assert_int_equal(insn.disp, -8);
	assert_int_equal(insn.seg, ENGINE_SS);
	assert_int_equal(insn.mem_size, 8);
	assert_int_equal(insn.mem_acc, ACC_R);
	insn = D64("\x8b\x05\x10\x00\x00\x00");
	assert_int_equal(insn.base, INSN_RIP);
	assert_int_equal(insn.disp, 16);
	insn = D32("\x8b\x05\x10\x00\x00\x00");
	assert_int_equal(insn.base, INSN_NO_REG);
	insn = D16("\x8b\x42\x04"); /* mov ax, [bp + si + 4] */
	assert_int_equal(insn.base, 5);
	assert_int_equal(insn.index, 6);
	assert_int_equal(insn.addrsize, 2);
	assert_int_equal(insn.seg, ENGINE_SS);
	insn = D64("\x64\x2e\x8b\x00"); /* the CS prefix is ignored, FS stays */
	assert_int_equal(insn.seg, ENGINE_FS);
	insn = D64("\xa1\x88\x77\x66\x55\x44\x33\x22\x11");
	assert_true(insn.mem);
	assert_int_equal(insn.disp, 0x1122334455667788);
	assert_int_equal(insn.op, OP_MOFFS);
}

static void test_undefined(void **state)
{
	(void)state;
	struct insn insn;
	static const char *const bad[] = { "\xf0\x8b\x00\x90", "\xf0\x01\xc0\x90", "\x66\xc5\xf8\x58\xc0",
					   "\xc5\xf0\x28\xc1", "\x06\x90\x90\x90", "\x8e\xc8\x90\x90",
					   "\x0f\x20\xc8\x90" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(insn_decode(&insn, (const uint8_t *)bad[i], 4, INSN_MODE_64), 0);
		assert_int_equal(insn.op, OP_UD);
	}
	assert_int_not_equal(D64("\xf0\x01\x00").op, OP_UD);
}

static void test_length(void **state)
{
	(void)state;
	struct insn insn;
	static const uint8_t add[] = { 0x81, 0x80, 1, 2, 3, 4, 5, 6, 7, 8 };
	for (size_t n = 1; n < sizeof(add); n++)
		assert_int_equal(insn_decode(&insn, add, n, INSN_MODE_64), INSN_TOO_SHORT);
	assert_int_equal(insn_decode(&insn, add, sizeof(add), INSN_MODE_64), 0);
	uint8_t prefixes[INSN_MAX_LEN];
	memset(prefixes, 0x66, sizeof(prefixes));
	assert_int_equal(insn_decode(&insn, prefixes, sizeof(prefixes), INSN_MODE_64), INSN_TOO_LONG);
	assert_int_equal(insn_decode(&insn, prefixes, 14, INSN_MODE_64), INSN_TOO_SHORT);
	prefixes[14] = 0x90;
	assert_int_equal(insn_decode(&insn, prefixes, 15, INSN_MODE_64), 0);
	prefixes[14] = 0x05;
	assert_int_equal(insn_decode(&insn, prefixes, 15, INSN_MODE_64), INSN_TOO_LONG);
}

static void test_flags(void **state)
{
	(void)state;
	assert_int_equal(D64("\x01\xd8").flags_written, FLAG_ARITH);
	assert_int_equal(D64("\xff\xc0").flags_written, FLAG_ARITH & ~FLAG_CF);
	assert_int_equal(D64("\xc1\xe0\x00").flags_written, 0);
	assert_int_equal(D64("\xc1\xe0\x20").flags_written, 0);
	assert_int_equal(D64("\x48\xc1\xe0\x20").flags_written, FLAG_ARITH);
	assert_int_equal(D64("\xd3\xe0").flags_read, FLAG_ARITH);
	assert_int_equal(D64("\x7c\x00").flags_read, FLAG_SF | FLAG_OF);
	assert_int_equal(D64("\x0f\x47\xc1").flags_read, FLAG_CF | FLAG_ZF);
}

static void test_twins(void **state)
{
	(void)state;
	struct insn insn = D32("\x4b"); /* dec ebx */
	assert_int_equal(insn.opcode, 0xff);
	assert_int_equal(insn.modrm, 0xcb);
	insn = D32("\x82\xc0\x01");
	assert_int_equal(insn.opcode, 0x80);
	insn = D64("\x41\x90");
	assert_string_equal(insn.row->name, "xchg");
	assert_int_equal(insn.reg, 8);
	assert_string_equal(D64("\xf3\x90").row->name, "pause");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_operand_sizes), cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_undefined),     cmocka_unit_test(test_length),
		cmocka_unit_test(test_flags),         cmocka_unit_test(test_twins),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
