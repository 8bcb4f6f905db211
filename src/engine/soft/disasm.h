/* SPDX-License-Identifier: Apache-2.0 */
/* disasm.h - instructions as text, for traces and tests; never in the translator's path. Calls libraries: heavy. */
#ifndef PLURES_ENGINE_SOFT_DISASM_H
#define PLURES_ENGINE_SOFT_DISASM_H

#include <stdint.h>
#include <stdio.h>

#include "engine/soft/insn.h"

/* Writes one line, "  rip: bytes  text" in Intel syntax, for the instruction in the first of at most `len` bytes. */
void soft_disasm(FILE *f, const uint8_t *bytes, unsigned len, uint64_t rip, enum insn_mode mode);

#endif
