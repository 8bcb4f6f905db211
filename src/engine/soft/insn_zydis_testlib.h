/* SPDX-License-Identifier: Apache-2.0 */
/*
 * insn_zydis_testlib.h - one instruction, decoded by insn_decode and by Zydis, and compared: length, validity, memory
 * operand, general registers read and written, flags. For tests and fuzzing.
 */
#ifndef PLURES_ENGINE_SOFT_INSN_ZYDIS_TESTLIB_H
#define PLURES_ENGINE_SOFT_INSN_ZYDIS_TESTLIB_H

#include <stddef.h>
#include <stdint.h>

#include "engine/soft/insn.h"

enum insn_zydis {
	INSN_ZYDIS_SAME,
	INSN_ZYDIS_UNDEFINED, /* both say so */
	INSN_ZYDIS_EXCUSED,   /* they differ for a reason that insn_zydis_testlib.c gives */
	INSN_ZYDIS_DIFFERENT, /* `why` says in what */
};

/* Compares what the two make of up to 15 bytes. */
enum insn_zydis insn_zydis_compare(enum insn_mode mode, const uint8_t *bytes, size_t avail, char *why, size_t why_size);

#endif
