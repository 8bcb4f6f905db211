/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes decode, in any mode, to the same thing however many of the bytes behind them can be read; and to what Zydis
 * makes of them, but for the differences that insn_zydis_testlib.c explains.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/disasm.h"
#include "engine/soft/insn_zydis_testlib.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Noreturn void differs(const char *what, const uint8_t *bytes, enum insn_mode mode)
{
	fprintf(stderr, "%u-bit: %s\n", 16u << mode, what);
	soft_disasm(stderr, bytes, INSN_MAX_LEN, 0, mode);
	abort();
}

static void check(const uint8_t *bytes, enum insn_mode mode)
{
	struct insn insn, again;
	char why[200];
	if (insn_zydis_compare(mode, bytes, INSN_MAX_LEN, why, sizeof(why)) == INSN_ZYDIS_DIFFERENT)
		differs(why, bytes, mode);
	if (insn_decode(&insn, bytes, INSN_MAX_LEN, mode) || insn.op == OP_UD)
		return;
	if (insn_decode(&again, bytes, insn.len, mode) != 0 || again.op != insn.op || again.len != insn.len ||
	    again.row != insn.row || again.disp != insn.disp || again.imm != insn.imm)
		differs("depends on what follows", bytes, mode);
	for (unsigned avail = 1; avail < insn.len; avail++)
		if (insn_decode(&again, bytes, avail, mode) != INSN_TOO_SHORT)
			differs("decodes a part", bytes, mode);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t bytes[INSN_MAX_LEN] = { 0 };
	memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
	check(bytes, INSN_MODE_16);
	check(bytes, INSN_MODE_32);
	check(bytes, INSN_MODE_64);
	return 0;
}
