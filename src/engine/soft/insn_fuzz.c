/* SPDX-License-Identifier: Apache-2.0 */
<<<<<<< HEAD
/*
 * Any bytes decode, in any mode, to the same thing however many of the bytes behind them can be read; and what our table
 * takes for an instruction Zydis takes for one too, of the same length.
 */
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/insn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Noreturn void differs(const char *what, const uint8_t *bytes, enum insn_mode mode, const struct insn *insn,
			      unsigned theirs)
{
	fprintf(stderr, "%s: mode %d, %s, length %u, Zydis %u:", what, (int)mode, insn->row ? insn->row->name : "-",
		insn->len, theirs);
	for (unsigned i = 0; i < INSN_MAX_LEN; i++)
		fprintf(stderr, " %02x", bytes[i]);
	fputc('\n', stderr);
	abort();
}

/* Their length of the instruction, 0 when they know none. */
static unsigned zydis_length(const uint8_t *bytes, enum insn_mode mode)
{
	static const struct {
		ZydisMachineMode machine;
		ZydisStackWidth stack;
	} modes[] = {
		[INSN_MODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[INSN_MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[INSN_MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};
	ZydisDecoder decoder;
	ZydisDecodedInstruction out;

	ZydisDecoderInit(&decoder, modes[mode].machine, modes[mode].stack);
	ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, INSN_MAX_LEN, &out)))
		return 0;
	return out.length;
}

static void check(const uint8_t *bytes, enum insn_mode mode)
{
	struct insn insn = { 0 }, again = { 0 };
	int rc = insn_decode(&insn, bytes, INSN_MAX_LEN, mode);
	if (rc == INSN_TOO_LONG)
		return;
	if (rc != 0 || insn.len == 0 || insn.len > INSN_MAX_LEN)
		differs("no length", bytes, mode, &insn, 0);
	if (insn.op == OP_UD)
		return;
	if (insn_decode(&again, bytes, insn.len, mode) != 0 || memcmp(&insn, &again, sizeof(insn)) != 0)
		differs("depends on what follows", bytes, mode, &insn, 0);
	for (unsigned avail = 1; avail < insn.len; avail++)
		if (insn_decode(&again, bytes, avail, mode) != INSN_TOO_SHORT)
			differs("decodes a part", bytes, mode, &insn, avail);
	unsigned theirs = zydis_length(bytes, mode);
	/* Outside 64-bit mode the CPU ignores the highest bit of VEX.vvvv; Zydis wants it set. It also knows MPX, which for
	 * us is no operation. */
	if (!theirs && ((insn.enc == ENC_VEX && mode != INSN_MODE_64) || insn.op == OP_NOP))
		return;
	if (theirs != insn.len)
		differs("not what Zydis says", bytes, mode, &insn, theirs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t bytes[INSN_MAX_LEN] = { 0 };
	memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
	check(bytes, INSN_MODE_16);
	check(bytes, INSN_MODE_32);
	check(bytes, INSN_MODE_64);
=======
/* insn_fuzz.c - libFuzzer: a byte for the mode, then an instruction; any disagreement with Zydis is a finding. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/soft/disasm.h"
#include "engine/soft/insn_zydis_testlib.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2 || size > 1 + INSN_MAX_LEN)
		return -1;
	enum insn_mode mode = data[0] % 3;
	char why[200];
	if (insn_zydis_compare(mode, data + 1, size - 1, why, sizeof(why)) == INSN_ZYDIS_DIFFERENT) {
		fprintf(stderr, "%u-bit: %s\n", 16u << mode, why);
		soft_disasm(stderr, data + 1, size - 1, 0, mode);
		abort();
	}
>>>>>>> 481f800 (soft: the decoder compared with Zydis, and corrected by the host CPU)
	return 0;
}
