/* SPDX-License-Identifier: Apache-2.0 */
/*
 * string.c - MOVS, CMPS, STOS, LODS, SCAS, INS and OUTS, with and without REP.
 *
 * Scheme: as many elements as lie in one page of the source and of the destination, fit below the wrap-around of the
 * index registers and lie inside of the segments are a chunk. A chunk of ordinary memory is done by the host's own
 * instruction of the same element size and direction, whose semantics for overlapping operands are the guest's. What
 * can't be a chunk (devices, read-only memory, an element across pages) is done an element at a time.
 *
 * Rules:
 * - The registers are brought up to date after each chunk, before anything of the next is touched. So a fault, which
 * may come up only before a chunk, finds them as the processor would leave them.
 * - Between chunks an instruction that is not done lets a kick through: it leaves for the dispatcher with RIP on
 * itself.
 * - A store that changed translated code leaves for the dispatcher too, since that may be the block that runs.
 * - The host's direction flag is clear whenever other code runs.
 */
#include "engine/soft/tlb.h"
#include "engine/soft/unaligned.h"

enum { RAX, RCX, RDX, RSI = 6, RDI = 7 };
enum { FLAGS_ZF = 1 << 14 }; /* in cpu->flags */

struct string {
	const struct insn *insn;
	uint64_t mask; /* of the address size */
	unsigned size; /* of an element */
	bool down;     /* DF */
	bool changed;  /* a store changed translated code */
};

/* One operand of a chunk. */
struct operand {
	uint64_t offset, linear;
	uint64_t code; /* SOFT_NOT_CODE, or where a store goes to in a page of code */
	uint8_t *host; /* NULL: an element at a time */
};

static bool is_flat(const struct soft_cpu *cpu, unsigned seg)
{
	return (cpu->mode & SOFT_MODE_FLAT) && seg != ENGINE_FS && seg != ENGINE_GS;
}

/* Brings n down to the elements from operand on that have no wrap-around, end of page or end of segment in them; 0 if
 * the first one has. */
static uint64_t room(const struct soft_cpu *cpu, const struct string *s, const struct operand *operand, unsigned seg,
		     enum soft_access access, uint64_t n)
{
	uint64_t in_page = operand->linear & SOFT_PAGE_MASK, limit;

	if (in_page + s->size > SOFT_PAGE_SIZE)
		return 0;
	limit = s->down ? in_page / s->size + 1 : (SOFT_PAGE_SIZE - in_page) / s->size;
	if (n > limit)
		n = limit;
	limit = (s->down ? operand->offset : s->mask - operand->offset) / s->size;
	if (n > limit)
		n = limit;
	if (!is_flat(cpu, seg) && n) {
		uint64_t bytes = n * s->size;
		uint64_t low = s->down ? operand->offset - (bytes - s->size) : operand->offset;
		if (!soft_segment_allows(cpu, seg, low, bytes, access))
			return 0;
	}
	return n;
}

static void locate(struct soft_cpu *cpu, const struct string *s, struct operand *operand, unsigned reg, unsigned seg,
		   enum soft_access access)
{
	operand->offset = cpu->gpr[reg] & s->mask;
	operand->linear = operand->offset;
	operand->code = SOFT_NOT_CODE;
	operand->host = NULL;
	if (!is_flat(cpu, seg))
		operand->linear = soft_linear(cpu, seg, operand->offset, s->size, access);
}

static void advance(struct soft_cpu *cpu, const struct string *s, unsigned reg, uint64_t delta)
{
	uint64_t value = cpu->gpr[reg] + delta;

	cpu->gpr[reg] = s->mask == 0xffff ? (cpu->gpr[reg] & ~0xffffull) | (value & 0xffff) : value & s->mask;
}

static void advance_index(struct soft_cpu *cpu, const struct string *s, unsigned reg, uint64_t n)
{
	advance(cpu, s, reg, s->down ? -(n * s->size) : n * s->size);
}

/* Reports a chunk that was stored to a page of code. */
static void report(struct soft_cpu *cpu, struct string *s, const struct operand *to, uint64_t n)
{
	uint64_t bytes = n * s->size;

	if (to->code == SOFT_NOT_CODE)
		return;
	atomic_thread_fence(memory_order_seq_cst);
	s->changed |= soft_code_written(cpu->vm, s->down ? to->code - (bytes - s->size) : to->code, bytes);
}

/* ---- the host's own instructions ---- */

#define BY_SIZE(size, DO) \
	switch (size) {   \
	case 1:           \
		DO("b");  \
		break;    \
	case 2:           \
		DO("w");  \
		break;    \
	case 4:           \
		DO("l");  \
		break;    \
	default:          \
		DO("q");  \
	}
/* An assembly statement, with the direction flag set around it if s->down. */
#define BY_DIRECTION(text, ...)                                             \
	do {                                                                \
		if (s->down)                                                \
			__asm__ volatile("std; " text "; cld" __VA_ARGS__); \
		else                                                        \
			__asm__ volatile(text __VA_ARGS__);                 \
	} while (0)

static void host_movs(const struct string *s, uint8_t *to, const uint8_t *from, uint64_t n)
{
#define MOVS(suffix) BY_DIRECTION("rep movs" suffix, : "+D"(to), "+S"(from), "+c"(n) : : "memory")
	BY_SIZE(s->size, MOVS)
#undef MOVS
}

static void host_stos(const struct string *s, uint8_t *to, uint64_t value, uint64_t n)
{
#define STOS(suffix) BY_DIRECTION("rep stos" suffix, : "+D"(to), "+c"(n) : "a"(value) : "memory")
	BY_SIZE(s->size, STOS)
#undef STOS
}

/* Both return how many of n elements are left and put the flags of the last comparison, as in cpu->flags, into *flags.
 */
static uint64_t host_cmps(const struct string *s, const uint8_t *left, const uint8_t *right, uint64_t n,
			  bool while_equal, uint64_t *flags)
{
	uint64_t rax = 0;

#define CMPS(suffix)                                                       \
	if (while_equal)                                                   \
		BY_DIRECTION("repe cmps" suffix "; lahf; seto %%al",       \
			     : "+S"(left), "+D"(right), "+c"(n), "+a"(rax) \
			     :                                             \
			     : "cc", "memory");                            \
	else                                                               \
		BY_DIRECTION("repne cmps" suffix "; lahf; seto %%al",      \
			     : "+S"(left), "+D"(right), "+c"(n), "+a"(rax) \
			     :                                             \
			     : "cc", "memory")
	BY_SIZE(s->size, CMPS)
#undef CMPS
	*flags = rax & 0xffff;
	return n;
}

static uint64_t host_scas(const struct string *s, const uint8_t *at, uint64_t value, uint64_t n, bool while_equal,
			  uint64_t *flags)
{
	uint64_t rax = value;

#define SCAS(suffix)                                                  \
	if (while_equal)                                              \
		BY_DIRECTION("repe scas" suffix "; lahf; seto %%al",  \
			     : "+D"(at), "+c"(n), "+a"(rax)           \
			     :                                        \
			     : "cc", "memory");                       \
	else                                                          \
		BY_DIRECTION("repne scas" suffix "; lahf; seto %%al", \
			     : "+D"(at), "+c"(n), "+a"(rax)           \
			     :                                        \
			     : "cc", "memor"                          \
				     "y")
	BY_SIZE(s->size, SCAS)
#undef SCAS
	*flags = rax & 0xffff;
	return n;
}

/* ---- one chunk of each instruction; they return how many elements they did ---- */

static uint64_t movs(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	struct operand from, to;

	locate(cpu, s, &from, RSI, s->insn->seg, SOFT_READ);
	locate(cpu, s, &to, RDI, ENGINE_ES, SOFT_WRITE);
	n = room(cpu, s, &from, s->insn->seg, SOFT_READ, n);
	n = room(cpu, s, &to, ENGINE_ES, SOFT_WRITE, n);
	if (n) {
		from.host = soft_page_host(cpu, from.linear, SOFT_READ, &from.code);
		to.host = soft_page_host(cpu, to.linear, SOFT_WRITE, &to.code);
	}
	if (from.host && to.host) {
		if (n == 1)
			unaligned_store(to.host, s->size, unaligned_load(from.host, s->size));
		else
			host_movs(s, to.host, from.host, n);
		report(cpu, s, &to, n);
	} else {
		n = 1;
		s->changed |= soft_store_noting(cpu, to.linear, s->size, soft_load(cpu, from.linear, s->size));
	}
	advance_index(cpu, s, RSI, n);
	advance_index(cpu, s, RDI, n);
	return n;
}

/* Where ES:rDI points, for a store, and how many of n elements fit there at once. */
static uint64_t locate_target(struct soft_cpu *cpu, struct string *s, struct operand *to, uint64_t n)
{
	locate(cpu, s, to, RDI, ENGINE_ES, SOFT_WRITE);
	n = room(cpu, s, to, ENGINE_ES, SOFT_WRITE, n);
	if (n)
		to->host = soft_page_host(cpu, to->linear, SOFT_WRITE, &to->code);
	return n;
}

static uint64_t stos(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	struct operand to;

	n = locate_target(cpu, s, &to, n);
	if (to.host) {
		if (n == 1)
			unaligned_store(to.host, s->size, cpu->gpr[RAX]);
		else
			host_stos(s, to.host, cpu->gpr[RAX], n);
		report(cpu, s, &to, n);
	} else {
		n = 1;
		s->changed |= soft_store_noting(cpu, to.linear, s->size, cpu->gpr[RAX]);
	}
	advance_index(cpu, s, RDI, n);
	return n;
}

static uint64_t lods(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	struct operand from;
	uint64_t value;

	locate(cpu, s, &from, RSI, s->insn->seg, SOFT_READ);
	n = room(cpu, s, &from, s->insn->seg, SOFT_READ, n);
	if (n)
		from.host = soft_page_host(cpu, from.linear, SOFT_READ, &from.code);
	if (from.host) {
		uint64_t last = (n - 1) * s->size;
		value = unaligned_load(s->down ? from.host - last : from.host + last, s->size);
	} else {
		n = 1;
		value = soft_load(cpu, from.linear, s->size);
	}
	if (s->size == 8 || s->size == 4)
		cpu->gpr[RAX] = value;
	else if (s->size == 2)
		cpu->gpr[RAX] = (cpu->gpr[RAX] & ~0xffffull) | value;
	else
		cpu->gpr[RAX] = (cpu->gpr[RAX] & ~0xffull) | value;
	advance_index(cpu, s, RSI, n);
	return n;
}

static uint64_t cmps(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	bool while_equal = s->insn->rep != 0xf2;
	struct operand left, right;
	uint64_t flags, a, b;

	locate(cpu, s, &left, RSI, s->insn->seg, SOFT_READ);
	locate(cpu, s, &right, RDI, ENGINE_ES, SOFT_READ);
	n = room(cpu, s, &left, s->insn->seg, SOFT_READ, n);
	n = room(cpu, s, &right, ENGINE_ES, SOFT_READ, n);
	if (n) {
		left.host = soft_page_host(cpu, left.linear, SOFT_READ, &left.code);
		right.host = soft_page_host(cpu, right.linear, SOFT_READ, &right.code);
	}
	if (left.host && right.host) {
		n -= host_cmps(s, left.host, right.host, n, while_equal, &flags);
	} else {
		n = 1;
		a = soft_load(cpu, left.linear, s->size);
		b = soft_load(cpu, right.linear, s->size);
		host_cmps(&(struct string){ .size = s->size }, (uint8_t *)&a, (uint8_t *)&b, 1, true, &flags);
	}
	cpu->flags = (uint32_t)flags;
	advance_index(cpu, s, RSI, n);
	advance_index(cpu, s, RDI, n);
	return n;
}

static uint64_t scas(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	bool while_equal = s->insn->rep != 0xf2;
	struct operand at;
	uint64_t flags, value;

	locate(cpu, s, &at, RDI, ENGINE_ES, SOFT_READ);
	n = room(cpu, s, &at, ENGINE_ES, SOFT_READ, n);
	if (n)
		at.host = soft_page_host(cpu, at.linear, SOFT_READ, &at.code);
	if (at.host) {
		n -= host_scas(s, at.host, cpu->gpr[RAX], n, while_equal, &flags);
	} else {
		n = 1;
		value = soft_load(cpu, at.linear, s->size);
		host_scas(&(struct string){ .size = s->size }, (uint8_t *)&value, cpu->gpr[RAX], 1, true, &flags);
	}
	cpu->flags = (uint32_t)flags;
	advance_index(cpu, s, RDI, n);
	return n;
}

static bool kicked(struct soft_cpu *cpu)
{
	return atomic_load_explicit(&cpu->kick, memory_order_relaxed);
}

/* n elements between a port and the memory at `host`, or fewer if there is a kick. */
static uint64_t port_chunk(struct soft_cpu *cpu, const struct string *s, uint8_t *host, uint64_t n, bool out)
{
	uint64_t done = 0, data;

	soft_heavy_begin(cpu);
	do {
		data = out ? unaligned_load(host, s->size) : 0;
		cpu->cb->pio(cpu->cb_ctx, (uint16_t)cpu->gpr[RDX], &data, s->size, out);
		if (!out)
			unaligned_store(host, s->size, data);
		host = s->down ? host - s->size : host + s->size;
	} while (++done < n && !kicked(cpu));
	soft_heavy_end(cpu);
	return done;
}

static uint64_t ins(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	struct operand to;

	n = locate_target(cpu, s, &to, n);
	if (to.host) {
		n = port_chunk(cpu, s, to.host, n, false);
		report(cpu, s, &to, n);
	} else {
		uint64_t data = 0;
		soft_probe_write(cpu, to.linear, s->size, false);
		n = port_chunk(cpu, s, (uint8_t *)&data, 1, false);
		s->changed |= soft_store_noting(cpu, to.linear, s->size, data);
	}
	advance_index(cpu, s, RDI, n);
	return n;
}

static uint64_t outs(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	struct operand from;

	locate(cpu, s, &from, RSI, s->insn->seg, SOFT_READ);
	n = room(cpu, s, &from, s->insn->seg, SOFT_READ, n);
	if (n)
		from.host = soft_page_host(cpu, from.linear, SOFT_READ, &from.code);
	if (from.host) {
		n = port_chunk(cpu, s, from.host, n, true);
	} else {
		uint64_t data = soft_load(cpu, from.linear, s->size);
		n = port_chunk(cpu, s, (uint8_t *)&data, 1, true);
	}
	advance_index(cpu, s, RSI, n);
	return n;
}

/* ---- */

static uint64_t chunk(struct soft_cpu *cpu, struct string *s, uint64_t n)
{
	switch (s->insn->opcode & ~1) {
	case 0xa4:
		return movs(cpu, s, n);
	case 0xa6:
		return cmps(cpu, s, n);
	case 0xaa:
		return stos(cpu, s, n);
	case 0xac:
		return lods(cpu, s, n);
	case 0xae:
		return scas(cpu, s, n);
	case 0x6c:
		return ins(cpu, s, n);
	default:
		return outs(cpu, s, n);
	}
}

static _Noreturn void leave_behind(struct soft_cpu *cpu, const struct insn *insn)
{
	static const uint64_t mask[] = { [INSN_MODE_16] = 0xffff, [INSN_MODE_32] = 0xffffffff, [INSN_MODE_64] = ~0ull };

	cpu->rip = (cpu->rip + insn->len) & mask[soft_mode_code(cpu->mode)];
	soft_unwind(cpu);
}

void soft_help_string(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	bool port = (insn->opcode & ~3) == 0x6c, compares = (insn->opcode & ~9) == 0xa6;
	struct string s = {
		.insn = insn,
		.mask = insn->addrsize == 8   ? ~0ull
			: insn->addrsize == 4 ? 0xffffffff
					      : 0xffff,
		.size = port && insn->opsize == 8 ? 4 : insn->opsize,
		.down = cpu->sysflags & RF_DF,
	};
	bool done = false;

	(void)ea;
	if (port)
		soft_check_io(cpu, (uint16_t)cpu->gpr[RDX], s.size);
	while (!done) {
		uint64_t left = insn->rep ? cpu->gpr[RCX] & s.mask : 1, n;

		if (!left)
			return;
		n = chunk(cpu, &s, cpu->mode & SOFT_MODE_STEP ? 1 : left);
		if (insn->rep)
			advance(cpu, &s, RCX, -n);
		done = n == left || (compares && !(cpu->flags & FLAGS_ZF) == (insn->rep == 0xf3));
		if (s.changed && done)
			leave_behind(cpu, insn);
		if (!done && (s.changed || kicked(cpu) || (cpu->mode & SOFT_MODE_STEP)))
			soft_unwind(cpu);
	}
}
