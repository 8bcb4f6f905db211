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

/* Do the instructions from `start` on come to one whose opcode is at `at`, and is that sensitive? */
static bool met(const uint8_t *bytes, unsigned size, unsigned start, unsigned at)
{
	struct insn insn;
	while (start <= at && decode(&insn, bytes, size, start)) {
		if (start + insn.len > at)
			return at - start <= PREFIXES &&
			       (sensitive(&insn) || (insn.op == OP_UD && unknown(bytes + at))) &&
			       looks_like_code(bytes, size, start + insn.len);
		start += insn.len;
	}
	return false;
}

/* Most of the starts must come to it; `first` is where the known bytes begin. */
static bool guilty(const uint8_t *bytes, unsigned size, unsigned first, unsigned at)
{
	unsigned starts = 0, hits = 0;
	first = at - first > BEFORE ? at - BEFORE : first;
	for (unsigned start = first; start <= at && starts < STARTS; start++, starts++)
		hits += met(bytes, size, start, at);
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
