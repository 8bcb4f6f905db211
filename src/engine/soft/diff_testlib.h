/* SPDX-License-Identifier: Apache-2.0 */
/*
 * diff_testlib.h - the differential test: the same instructions from the same state, by the host CPU and by the engine.
 *
 * diff_gen makes cases: a few instructions in a slot of the code area, followed by INT3s, with a state in which their
 * memory operands fall into the scratch area. diff_native runs them in this process, in user mode; diff_guest runs them
 * in a guest, in user mode too, at the same addresses. Either way a case ends in an exception (INT3's if nothing else
 * happened), so that faults, their error codes and CR2 are compared like any other result. diff_test compares.
 *
 * The areas are at fixed low addresses, so that absolute and 32-bit addressing reach them; memory between them is unmapped.
 */
#ifndef PLURES_ENGINE_SOFT_DIFF_TESTLIB_H
#define PLURES_ENGINE_SOFT_DIFF_TESTLIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/soft/insn.h"

/* Scratch memory: two pages to write, a hole, one page to read only. */
enum {
	DIFF_RW = 0x10001000,
	DIFF_RW_SIZE = 0x2000,
	DIFF_RO = 0x10004000,
	DIFF_RO_SIZE = 0x1000,
	DIFF_CODE = 0x20000000,
	DIFF_CODE_SIZE = 0x40000,
	DIFF_SLOT = 128,
	DIFF_SLOTS = DIFF_CODE_SIZE / DIFF_SLOT,
	DIFF_MAX_INSNS = 6,
	/* 16-bit code: a segment each 64 KiB of the code area, selectors from the LDT's first on; and one for the rest. */
	DIFF_SEG16 = 0x10000000,
	DIFF_CODE16_SELECTOR = 7,
	DIFF_DATA16_SELECTOR = 0x27,
	DIFF_XSAVE_SIZE =
	    2696, /* x87, SSE, AVX and AVX-512 state, as the standard format lays it out, in the larger of two ways */
};

/* Where AVX-512's components are in an XSAVE area: mask registers, upper halves, registers 16 to 31. 0: there is none. */
struct diff_parts {
	uint16_t mask, upper, high, size; /* size: of all the area */
};
struct diff_parts diff_parts(void);

/* State before a case, and after it with the exception that ended it. */
struct diff_state {
	uint64_t gpr[16];
	uint64_t rip, rflags, fs_base, gs_base;
	uint64_t vector, error, cr2; /* cr2 only for #PF */
	uint64_t code_base;          /* of CS; 0 but for 16-bit code */
	uint16_t selector[6];        /* ES CS SS DS FS GS, after a case */
	struct diff_parts part;
	_Alignas(64) uint8_t xsave[DIFF_XSAVE_SIZE];
};

/* What the two halves run on, beyond the state: contents of the scratch area. */
struct diff_memory {
	uint8_t rw[DIFF_RW_SIZE];
	uint8_t ro[DIFF_RO_SIZE];
};

/* ---- native half ---- */

struct diff_native;

/* NULL, with *why, where it can't work: FSGSBASE is missing, or the addresses are taken. One at a time. */
struct diff_native *diff_native_create(const char **why);
void diff_native_destroy(struct diff_native *native);
/* The code area, to be written to. */
uint8_t *diff_native_code(struct diff_native *native);
/* Whether it can run 16-bit code, which takes a local descriptor table. */
bool diff_native_has16(const struct diff_native *native);
/* Runs from in->rip, with `memory` as the scratch area's contents before and after. */
void diff_native_run(struct diff_native *native, enum insn_mode mode, const struct diff_state *in,
		     struct diff_memory *memory, struct diff_state *out);

/* ---- translated half ---- */

struct diff_guest;

struct diff_guest *diff_guest_create(const char *options, const char **why);
void diff_guest_destroy(struct diff_guest *guest);
/* The code area, to be written to, and what must follow writes to [offset, offset + size) of it. */
uint8_t *diff_guest_code(struct diff_guest *guest);
void diff_guest_code_written(struct diff_guest *guest, size_t offset, size_t size);
/* As diff_native_run. False, with *why, when the guest did not end in an exception. */
bool diff_guest_run(struct diff_guest *guest, enum insn_mode mode, const struct diff_state *in,
		    struct diff_memory *memory, struct diff_state *out, const char **why);

/* ---- cases ---- */

/* One way to encode one row. */
struct diff_target {
	const struct insn_row *row;
	uint8_t enc, map, opcode;
};

/* All of them, into *targets (of which there are at most max); returns how many. */
size_t diff_targets(struct diff_target *targets, size_t max);

/* Why a target is not run in this mode, and what tests it instead; NULL if it is run. */
const char *diff_excuse(const struct diff_target *target, enum insn_mode mode);

struct diff_case {
	enum insn_mode mode;
	unsigned insns, len;
	struct insn insn[DIFF_MAX_INSNS];
	uint8_t bytes[DIFF_SLOT];
	uint64_t rip, code_base;
	uint16_t undefined[DIFF_MAX_INSNS +
			   1];   /* arithmetic flags that are undefined before each instruction, and at the end */
	uint32_t changed, aimed; /* general registers that instructions so far write, and use for addresses */
	bool stack_wild;         /* the stack pointer is no longer where the state put it, give or take pushes */
};

struct diff_random {
	uint64_t s;
};
uint64_t diff_random(struct diff_random *r);

/* Makes the first instruction of a case at that address, by target; or adds one by target to what is there. False if it found none.
 * Every instruction's memory operand can be aimed by setting registers before the first. */
bool diff_gen_case(struct diff_random *r, struct diff_case *c, const struct diff_target *target, enum insn_mode mode,
		   uint64_t address);
bool diff_gen_add(struct diff_random *r, struct diff_case *c, const struct diff_target *target);
/* DIV and IDIV. */
bool diff_is_divide(const struct insn *insn);
/* Gathers and scatters: their index is a vector. */
bool diff_is_gather(const struct insn *insn);
/* Settles where branches go. To be called when the case is whole. */
void diff_gen_finish(struct diff_random *r, struct diff_case *c);
/* The linear address of the memory operand of instruction i, with the registers of `state`. */
uint64_t diff_address(const struct diff_case *c, unsigned i, const struct diff_state *state);
/* Makes a state and memory contents to run it with. */
void diff_gen_state(struct diff_random *r, const struct diff_case *c, struct diff_state *state,
		    struct diff_memory *memory);

#endif
