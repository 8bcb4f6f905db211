/* SPDX-License-Identifier: Apache-2.0 */
/* Moving and filling memory: by the library, which chooses its way by the CPU's features, and by REP. */
#include "speed.h"

#define BLOCK (1 << 20)

static char *from, *to;

static void blocks_up(void)
{
	from = space(BLOCK);
	to = space(BLOCK);
	fill_text(from, BLOCK);
	memset(to, 0, BLOCK);
}

/* Many small ones, some middling, few large. */
static const struct {
	size_t size, count;
} sizes[] = { { 24, 40000 }, { 200, 20000 }, { 2000, 5000 }, { 40000, 300 }, { BLOCK, 16 } };

static uint64_t each_size(void (*work)(char *to, const char *from, size_t size))
{
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (size_t j = 0, at = 0; j < sizes[i].count; j++, at += sizes[i].size + 3) {
			if (at + sizes[i].size > BLOCK)
				at = 0;
			work(to + at, from + BLOCK - sizes[i].size - at, sizes[i].size);
		}
	return mix_bytes(0, to, 1000);
}

static void copy(char *d, const char *s, size_t size)
{
	memcpy(d, s, size);
}

static void fill(char *d, const char *s, size_t size)
{
	memset(d, *s, size);
}

static void move(char *d, const char *s, size_t size)
{
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(size) : : "memory");
}

PROGRAM(vectors, memcpy, 0x884ed4e8bedd1ca, .set_up = blocks_up)
{
	return each_size(copy);
}

PROGRAM(vectors, memset, 0x2e945e9ca7d0e130, .set_up = blocks_up)
{
	return each_size(fill);
}

PROGRAM(vectors, rep_movsb, 0x884ed4e8bedd1ca, .set_up = blocks_up)
{
	return each_size(move);
}
