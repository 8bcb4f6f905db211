/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct_scan.c - looking for the few instructions that tell ring 3 something of the host.
 *
 * Problem: most of what a guest must not do by itself faults in ring 3. CPUID, RDTSCP, RDPID, XGETBV, LSL and their like do
 * not: they would answer for the host's CPU (the x86's old hole, Popek and Goldberg's sensitive instructions).
 *
 * Scheme: a page that has one of them is never executable in a stub, so it is run by translation. All of them begin with
 * the bytes 0F 00 to 0F 03, 0F A2 or 0F C7. Such bytes are also parts of other instructions (an immediate of 15), and
 * nobody says where instructions begin. But decoding finds the boundaries by itself: from wherever it starts, after some
 * instructions it is in step with those that are run. So a suspect is decoded from sixteen starts before it, and is
 * guilty if most of them come to such an instruction there, with what looks like code behind it: tables of constants between
 * functions look like anything.
 *
 * This is for fidelity, not for safety: what is missed runs with the rights of the guest's ring 3 and learns which CPU
 * the host has. Bytes that are written after the page was looked at are looked at again before they are run, since no page of a stub
 * is writable and executable at a time.
 */
#include "engine/soft/direct_scan.h"

#include <string.h>

#include "engine/soft/insn.h"

enum { PAGE = 4096, STARTS = 16, BEFORE = 160, BEHIND = 12, PREFIXES = 3 };

static bool sensitive(const struct insn *insn)
{
	switch (insn->op) {
	case OP_CPUID:
	case OP_RDTSCP:
	case OP_RDPID:
	case OP_XGETBV:
	case OP_LAR:
	case OP_LSL:
	case OP_VERR:
	case OP_VERW:
	case OP_SGDT:
	case OP_SIDT:
	case OP_SLDT:
	case OP_STR:
	case OP_SMSW:
	case OP_SYSENTER:
	case OP_VMCALL:
		return true;
	default:
		return false;
	}
}

/* What our table does not know: CLZERO, RDPRU, RDPKRU, WRPKRU, MONITORX and MWAITX would be #UD, and are not. */
static bool unknown(const uint8_t *opcode)
{
	return opcode[1] == 0x01 && opcode[2] >= 0xc0 && opcode[2] != 0xd5 && opcode[2] != 0xd6;
}

/* What no program has in the midst of its code. */
static bool odd(const struct insn *insn)
{
	return insn->op == OP_UD || insn->op == OP_IN || insn->op == OP_OUT || (insn->row->flags & ROW_CPL0);
}

static bool ends(const struct insn *insn)
{
	return insn->op == OP_RET || insn->op == OP_JMP || insn->op == OP_JMP_IND;
}

static bool decode(struct insn *insn, const uint8_t *bytes, unsigned size, unsigned at)
{
	unsigned left = size - at;
	return left && !insn_decode(insn, bytes + at, left > INSN_MAX_LEN ? INSN_MAX_LEN : left, INSN_MODE_64) &&
	       insn->len;
}

/* Is there code from `at` on? As far as can be seen. */
static bool looks_like_code(const uint8_t *bytes, unsigned size, unsigned at)
{
	struct insn insn;
	for (unsigned i = 0; i < BEHIND && decode(&insn, bytes, size, at); i++) {
		if (odd(&insn))
			return false;
		if (ends(&insn))
			break;
		at += insn.len;
	}
	return true;
}

/* Is the instruction at `start` the sensitive one whose opcode is at `at`? */
static bool is_it(const uint8_t *bytes, unsigned size, unsigned start, unsigned at)
{
	struct insn insn;
	return at - start <= PREFIXES && decode(&insn, bytes, size, start) && start + insn.len > at &&
	       (sensitive(&insn) || (insn.op == OP_UD && unknown(bytes + at))) &&
	       looks_like_code(bytes, size, start + insn.len);
}

/* What is known of the places before a suspect: do the instructions from there on come to it? */
enum verdict { UNKNOWN, NO, YES };

/* Follows the instructions from `start` on, and notes what became of it at each of them. `known` begins at `first`. */
static enum verdict follow(const uint8_t *bytes, unsigned size, unsigned start, unsigned at, unsigned first,
			   uint8_t *known)
{
	uint8_t path[BEFORE + 1] = { 0 };
	unsigned n = 0;
	struct insn insn;
	enum verdict verdict = UNKNOWN;
	while (verdict == UNKNOWN) {
		unsigned place = start - first;
		if (start > at) {
			verdict = NO;
		} else if (known[place]) {
			verdict = (enum verdict)known[place];
		} else {
			path[n++] = (uint8_t)place;
			if (is_it(bytes, size, start, at))
				verdict = YES;
			else if (!decode(&insn, bytes, size, start))
				verdict = NO;
			else
				start += insn.len;
		}
	}
	while (n)
		known[path[--n]] = (uint8_t)verdict;
	return verdict;
}

/* Most of the starts must come to it; `first` is where the known bytes begin. */
static bool guilty(const uint8_t *bytes, unsigned size, unsigned first, unsigned at)
{
	uint8_t known[BEFORE + 1] = { UNKNOWN };
	first = at - first > BEFORE ? at - BEFORE : first;
	if (!is_it(bytes, size, at, at) && (at == first || !is_it(bytes, size, at - 1, at)))
		return false; /* it would be none, if it were an instruction at all */
	unsigned starts = at - first + 1 < STARTS ? at - first + 1 : STARTS, hits = 0;
	for (unsigned i = 0; i < starts; i++)
		hits += follow(bytes, size, first + i, at, first, known) == YES;
	return hits * 4 >= starts * 3;
}

static bool suspect(const uint8_t *opcode)
{
	return opcode[0] == 0x0f && (opcode[1] <= 0x03 || opcode[1] == 0xa2 || opcode[1] == 0xc7 || opcode[1] == 0x34);
}

bool direct_scan_sensitive(const uint8_t *page, const uint8_t *before, const uint8_t *next)
{
	uint8_t bytes[BEFORE + PAGE + INSN_MAX_LEN] = { 0 };
	unsigned first = before ? 0 : BEFORE;
	if (before)
		memcpy(bytes, before + PAGE - BEFORE, BEFORE);
	memcpy(bytes + BEFORE, page, PAGE);
	if (next)
		memcpy(bytes + BEFORE + PAGE, next, INSN_MAX_LEN);
	const uint8_t *p = bytes + BEFORE, *end = p + PAGE;
	for (; (p = memchr(p, 0x0f, (size_t)(end - p))); p++)
		if (suspect(p) && guilty(bytes, sizeof(bytes), first, (unsigned)(p - bytes)))
			return true;
	return false;
}
