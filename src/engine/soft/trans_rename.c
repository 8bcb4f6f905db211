/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trans_rename.c - guest r10, r11 and r15 in registers for the length of a block.
 *
 * These live in memory between blocks (cpu.h). In code that computes with them, one result to the next, each step would
 * wait for a store and a load. But few blocks name all registers: in a hot block, the value of one that it does not mention
 * waits in gpr[], as that of a loop's borrowed registers does, and the block's instructions name it where they named r10.
 * So nothing else that translates them knows of it.
 *
 * The last instruction, if it is a branch, comes after the registers are back, and so does whatever leaves the block or
 * calls C: trans_rename_out before, trans_rename_in after. A fault of a copied instruction is told by SOFT_MAP_RENAMED, and
 * block->renamed, where the values are. Guest RSP is named TRANS_RSP when it is another's place: its own number says
 * in an operand that there is no index, and that the stack is meant.
 */
#include "engine/soft/trans.h"

enum { MENTIONS = 4 }; /* that a register must have, to be worth two loads and two stores */

static const uint8_t in_memory[TRANS_RENAMES] = { 10, 11, 15 };

/* Can the instruction be one whose registers have other names? */
static bool simple(const struct trans *t, unsigned i)
{
	const struct insn *in = &t->insn[i];
	if (trans_fault_of(t, in) >= 0)
		return false;
	switch (trans_op_of(t, in)) {
	case OP_COPY:
	case OP_SETCC:
	case OP_LEA:
	case OP_NOP:
		return true;
	case OP_JCC:
		return i + 1 < t->n;
	case OP_PUSH:
	case OP_POP:
		return !in->mem;
	default:
		return false;
	}
}

/* The instruction's fields that name general registers. */
static unsigned fields_of(struct insn *in, uint8_t *field[5])
{
	const struct insn_row *row = in->row;
	unsigned n = 0;
	if (in->mem && in->base != INSN_NO_REG && in->base != INSN_RIP)
		field[n++] = &in->base;
	if (in->mem && in->index != INSN_NO_REG)
		field[n++] = &in->index;
	if ((in->has_modrm || row->reg_in_opcode) && row->reg_kind == REG_GPR)
		field[n++] = &in->reg;
	if (in->has_modrm && !in->mem && row->rm_kind == REG_GPR)
		field[n++] = &in->rm;
	if (in->enc != ENC_LEGACY && row->vvvv_kind == REG_GPR)
		field[n++] = &in->vvvv;
	return n;
}

/* How often each of those in memory is named; returns the registers that nobody mentions. */
static uint16_t count(struct trans *t, unsigned mentions[16])
{
	uint16_t used = 0;
	for (unsigned i = 0; i < t->rename_end; i++) {
		struct insn *in = &t->insn[i];
		uint8_t *field[5];
		used |= in->row->implicit_read | in->row->implicit_written;
		unsigned op = trans_op_of(t, in), n = fields_of(in, field);
		for (unsigned k = 0; k < n; k++) {
			used |= (uint16_t)(1u << (*field[k] & 15));
			mentions[*field[k] & 15]++;
		}
		if (op == OP_PUSH || op == OP_POP)
			used |= 1u << 4;
		if (in->opsize == 1 || in->reg_size == 1 || in->rm_size == 1) /* AH belongs to RAX */
			used |= 0xf;
	}
	return (uint16_t) ~(used | 1u << 10 | 1u << 11 | 1u << 15);
}

static void name_anew(struct trans *t, unsigned from, unsigned to)
{
	for (unsigned i = 0; i < t->rename_end; i++) {
		uint8_t *field[5];
		unsigned n = fields_of(&t->insn[i], field);
		for (unsigned k = 0; k < n; k++) {
			if (*field[k] == from)
				*field[k] = (uint8_t)to;
		}
	}
}

void trans_rename(struct trans *t)
{
	unsigned mentions[16] = { 0 };
	t->renames = 0;
	for (unsigned k = 0; k < TRANS_RENAMES; k++)
		t->b->renamed[k] = INSN_NO_REG;
	if (!t->lessons.hot || !t->is64 || t->cpu->vm->no_rename || t->b->gpa2 || (t->mode & SOFT_MODE_STEP))
		return;
	for (t->rename_end = 0; t->rename_end < t->n && simple(t, t->rename_end); t->rename_end++)
		;
	if (t->rename_end + 1 < t->n)
		return;
	uint16_t spare = count(t, mentions);
	for (unsigned n = 0; n < TRANS_RENAMES && spare; n++) {
		unsigned most = 0;
		for (unsigned k = 1; k < TRANS_RENAMES; k++)
			most = mentions[in_memory[k]] > mentions[in_memory[most]] ? k : most;
		unsigned guest = in_memory[most], place = 31 - (unsigned)__builtin_clz(spare);
		if (mentions[guest] < MENTIONS)
			break;
		mentions[guest] = 0;
		spare &= (uint16_t) ~(1u << place);
		t->b->renamed[most] = (uint8_t)place;
		t->renames++;
		name_anew(t, guest, place == 4 ? TRANS_RSP : place);
	}
	if (t->renames)
		trans_find_groups(t);
}

/* Stores each place's value where `to` says, and loads it with what is at the other. */
static void exchange(struct trans *t, bool in)
{
	for (unsigned k = 0; k < TRANS_RENAMES && t->renames; k++) {
		unsigned place = t->b->renamed[k];
		if (place == INSN_NO_REG)
			continue;
		emit_gs(&t->e, EMIT_MOV_STORE, 8, host_of(place), gpr_off(in ? place : in_memory[k]));
		emit_gs(&t->e, EMIT_MOV_LOAD, 8, host_of(place), gpr_off(in ? in_memory[k] : place));
	}
}

void trans_rename_in(struct trans *t)
{
	exchange(t, true);
}

void trans_rename_out(struct trans *t)
{
	exchange(t, false);
}
