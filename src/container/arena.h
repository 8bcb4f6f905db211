/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - memory that is freed all at once: what a parsed configuration consists of.
 *
 * Sizes come from a file, so running out is a value (NULL), not the end of the process. One thread.
 */
#ifndef PLURES_CONTAINER_ARENA_H
#define PLURES_CONTAINER_ARENA_H

#include <stddef.h>

struct arena_chunk;

/* Zeroed is empty. */
struct arena {
	struct arena_chunk *chunks;
	size_t used; /* of the first chunk */
};

/* Zeroed memory for count elements of size bytes, aligned for any type; NULL when there is none. */
void *arena_alloc(struct arena *arena, size_t count, size_t size);
/* A copy of `size` bytes of text and a final 0; NULL when there is no memory. */
char *arena_text(struct arena *arena, const char *text, size_t size);
/* printf into the arena; NULL when there is no memory. */
char *arena_printf(struct arena *arena, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Frees everything; the arena is empty again. */
void arena_fini(struct arena *arena);

#endif
