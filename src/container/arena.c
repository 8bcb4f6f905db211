/* SPDX-License-Identifier: Apache-2.0 */
#include "container/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arena_chunk {
	struct arena_chunk *next;
	size_t size;
	_Alignas(16) char data[];
};

enum { CHUNK = 8192 - sizeof(struct arena_chunk) };

void *arena_alloc(struct arena *arena, size_t count, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2)
		return NULL;
	bytes = (bytes + 15) & ~(size_t)15;
	if (!arena->chunks || arena->chunks->size - arena->used < bytes) {
		size_t room = bytes > CHUNK ? bytes : CHUNK;
		struct arena_chunk *chunk = malloc(sizeof(*chunk) + room);

		if (!chunk)
			return NULL;
		chunk->next = arena->chunks;
		chunk->size = room;
		arena->chunks = chunk;
		arena->used = 0;
	}
	void *at = arena->chunks->data + arena->used;

	arena->used += bytes;
	return memset(at, 0, bytes);
}

char *arena_text(struct arena *arena, const char *text, size_t size)
{
	char *copy = arena_alloc(arena, size + 1, 1);

	return copy ? memcpy(copy, text, size) : NULL;
}

char *arena_printf(struct arena *arena, const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	int size = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (size < 0)
		return NULL;
	text = arena_alloc(arena, (size_t)size + 1, 1);
	if (text) {
		va_start(args, fmt);
		vsnprintf(text, (size_t)size + 1, fmt, args);
		va_end(args);
	}
	return text;
}

void arena_fini(struct arena *arena)
{
	while (arena->chunks) {
		struct arena_chunk *next = arena->chunks->next;

		free(arena->chunks);
		arena->chunks = next;
	}
	arena->used = 0;
}
