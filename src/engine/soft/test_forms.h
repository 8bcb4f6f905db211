/* SPDX-License-Identifier: Apache-2.0 */
/* test_forms.h - for unit tests: every form of every instruction with a memory operand that is copied: each row, prefix, W
 * and L, with the operand [rbx] (EBX in 16- and 32-bit code) and, where it has one, RCX or another register number 1. */
#ifndef PLURES_ENGINE_SOFT_TEST_FORMS_H
#define PLURES_ENGINE_SOFT_TEST_FORMS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/insn.h"

enum { MAX_FORMS = 1 << 15 };

struct test_form {
	uint8_t bytes[INSN_MAX_LEN];
	struct insn insn;
};

static inline void forms_add(struct test_form *forms, unsigned *n, enum insn_mode mode, const uint8_t *bytes,
			     unsigned size)
{
	struct test_form *c = &forms[*n];
	uint8_t padded[INSN_MAX_LEN] = { 0 };
	memcpy(padded, bytes, size);
	if (insn_decode(&c->insn, padded, INSN_MAX_LEN, mode) ||
	    (c->insn.op != OP_COPY && c->insn.op != OP_SETCC && c->insn.op != OP_FPU_SAVE) || !c->insn.mem ||
	    !c->insn.mem_acc || c->insn.base != 3)
		return;
	if (c->insn.row->reg_kind != REG_NONE && (c->insn.modrm >> 3 & 7) != 1)
		return;
	memcpy(c->bytes, padded, INSN_MAX_LEN);
	if (*n < MAX_FORMS - 1)
		(*n)++;
}

static inline void forms_add_legacy(struct test_form *forms, unsigned *n, enum insn_mode mode, unsigned map,
				    unsigned opcode)
{
	static const uint8_t prefix[6][2] = { { 0 }, { 0x66 }, { 0xf3 }, { 0xf2 }, { 0x66, 0xf3 }, { 0x66, 0xf2 } };
	for (unsigned k = 0; k < 6 * 2 * 8; k++) {
		const uint8_t *p = prefix[k / 16];
		uint8_t bytes[INSN_MAX_LEN];
		unsigned size = 0;
		if ((k >> 3 & 1) && mode != INSN_MODE_64)
			continue;
		if (mode == INSN_MODE_16)
			bytes[size++] = 0x67;
		for (unsigned i = 0; i < 2 && p[i]; i++)
			bytes[size++] = p[i];
		if (k >> 3 & 1)
			bytes[size++] = 0x48;
		if (map != MAP_ONE)
			bytes[size++] = 0x0f;
		if (map >= MAP_0F38)
			bytes[size++] = map == MAP_0F38 ? 0x38 : 0x3a;
		bytes[size++] = (uint8_t)opcode;
		bytes[size++] = (uint8_t)((k & 7) << 3 | 3);
		forms_add(forms, n, mode, bytes, size);
	}
}

static inline void forms_add_vex(struct test_form *forms, unsigned *n, enum insn_mode mode, unsigned map,
				 unsigned opcode)
{
	for (unsigned k = 0; k < 2 * 2 * 4 * 8 * 2; k++) {
		/* vvvv is 0 or, as an instruction without that operand wants it, 15. */
		uint8_t vvvv = k >> 7 ? 0x78 : 0x68;
		uint8_t bytes[] = { 0x67,
				    0xc4,
				    (uint8_t)(0xe0 | map),
				    (uint8_t)((k >> 6 & 1) << 7 | vvvv | (k >> 3 & 7)),
				    (uint8_t)opcode,
				    (uint8_t)((k & 7) << 3 | 3) };
		unsigned skip = mode == INSN_MODE_16 ? 0 : 1;
		forms_add(forms, n, mode, bytes + skip, sizeof(bytes) - skip);
	}
}

/* All of them, to be freed by the caller. */
static inline struct test_form *forms_make(enum insn_mode mode, unsigned *n)
{
	struct test_form *forms = calloc(MAX_FORMS, sizeof(*forms));
	*n = 0;
	for (unsigned map = MAP_ONE; map <= MAP_0F3A; map++) {
		for (unsigned opcode = 0; opcode < 256; opcode++) {
			if (insn_first_row(ENC_LEGACY, map, (uint8_t)opcode))
				forms_add_legacy(forms, n, mode, map, opcode);
			if (map != MAP_ONE && insn_first_row(ENC_VEX, map, (uint8_t)opcode))
				forms_add_vex(forms, n, mode, map, opcode);
		}
	}
	assert_in_range(*n, 1000, MAX_FORMS - 2);
	return forms;
}

static inline void forms_describe(char *text, size_t size, const struct test_form *c)
{
	int at = snprintf(text, size, "%s (%u bytes):", c->insn.row->name, c->insn.mem_size);
	for (unsigned i = 0; i < c->insn.len; i++)
		at += snprintf(text + at, size - (size_t)at, " %02x", c->bytes[i]);
}

#endif
