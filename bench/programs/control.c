/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that are mostly branches: an interpreter, deep recursion, calls through pointers. */
#include "speed.h"

/* --- an interpreter of bytecode, by a switch --- */

enum op { PUSH, ADD, SUB, MUL, DUP, SWAP, DROP, LOAD, STORE, JUMPNZ, LESS, END };

/* for (i = 60000; i; i--) { b = a + b * 3; a = b - i; if (a < b) c += i } */
static const int32_t bytecode[] = {
	PUSH,          60000, STORE, 0, PUSH, 1,     STORE, 1,   PUSH,   2,  STORE, 2,     PUSH, 0, STORE, 3,
	/* 16 */ LOAD, 1,     LOAD,  2, PUSH, 3,     MUL,   ADD, STORE,  2,
	/* 26 */ LOAD, 2,     LOAD,  0, SUB,  STORE, 1,
	/* 33 */ LOAD, 1,     LOAD,  2, LESS, LOAD,  0,     MUL, LOAD,   3,  ADD,   STORE, 3,
	/* 46 */ LOAD, 0,     PUSH,  1, SUB,  DUP,   STORE, 0,   JUMPNZ, 16, LOAD,  3,     LOAD, 1, ADD,   END,
};

static uint64_t interpret(const int32_t *code)
{
	uint64_t stack[16], variable[4] = { 0 }, *top = stack, t;
	for (const int32_t *pc = code;;) {
		switch ((enum op) * pc++) {
		case PUSH:
			*++top = (uint64_t)*pc++;
			break;
		case ADD:
			top[-1] += top[0];
			top--;
			break;
		case SUB:
			top[-1] -= top[0];
			top--;
			break;
		case MUL:
			top[-1] *= top[0];
			top--;
			break;
		case DUP:
			top[1] = top[0];
			top++;
			break;
		case SWAP:
			t = top[0];
			top[0] = top[-1];
			top[-1] = t;
			break;
		case DROP:
			top--;
			break;
		case LOAD:
			*++top = variable[*pc++];
			break;
		case STORE:
			variable[*pc++] = *top--;
			break;
		case JUMPNZ:
			t = *top--;
			pc = t ? code + *pc : pc + 1;
			break;
		case LESS:
			top[-1] = top[-1] < top[0];
			top--;
			break;
		case END:
			return *top;
		}
	}
}

PROGRAM(integer, bytecode, 0x1c71c71cdd107941)
{
	const int32_t *volatile code = bytecode;
	return interpret(code);
}

/* --- recursion --- */

static __attribute__((noinline)) uint64_t fibonacci(unsigned n)
{
	return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static __attribute__((noinline)) uint64_t ackermann(uint64_t m, uint64_t n)
{
	if (m == 0)
		return n + 1;
	if (n == 0)
		return ackermann(m - 1, 1);
	return ackermann(m - 1, ackermann(m, n - 1));
}

static __attribute__((noinline)) uint64_t deep(const uint64_t *seed, unsigned depth)
{
	uint64_t here[2] = { *seed * 5 + depth, depth };
	if (depth == 0)
		return here[0];
	uint64_t below = deep(here, depth - 1);
	return below ^ here[1] ^ here[0];
}

PROGRAM(integer, recursion, 0xaa5c7b2190c620e9)
{
	uint64_t seed = 1;
	return mix(mix(fibonacci(26), ackermann(2, 400)), deep(&seed, 40000));
}

/* --- calls through pointers, to targets that vary --- */

#define KINDS 6

struct shape {
	uint64_t (*area)(const struct shape *s);
	uint64_t a, b;
};

static uint64_t area0(const struct shape *s)
{
	return s->a * s->b;
}
static uint64_t area1(const struct shape *s)
{
	return s->a * s->a;
}
static uint64_t area2(const struct shape *s)
{
	return s->a * s->b / 2;
}
static uint64_t area3(const struct shape *s)
{
	return 3 * s->a * s->a + s->b;
}
static uint64_t area4(const struct shape *s)
{
	return s->a + s->b;
}
static uint64_t area5(const struct shape *s)
{
	return s->a ^ s->b;
}

static struct shape *shapes;

static void indirect_up(void)
{
	static uint64_t (*const area[KINDS])(const struct shape *) = { area0, area1, area2, area3, area4, area5 };
	uint64_t state = RND_START;
	shapes = space(1000 * sizeof(*shapes));
	for (int i = 0; i < 1000; i++)
		shapes[i] = (struct shape){ area[rnd(&state) % KINDS], rnd(&state) % 1000, rnd(&state) % 1000 };
}

PROGRAM(integer, indirect, 0x21f499e68c, .set_up = indirect_up)
{
	uint64_t sum = 0;
	for (int round = 0; round < 500; round++)
		for (int i = 0; i < 1000; i++)
			sum += shapes[i].area(&shapes[i]);
	return sum;
}
