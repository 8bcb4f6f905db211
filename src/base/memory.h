/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h - heap memory whose size is ours to choose: small, fixed, never a guest's or a file's wish. When the host has
 * none left there is nothing sensible to go on with, so these end the process with a line that says so. Sizes that come
 * from outside use malloc and a struct error.
 */
#ifndef PLURES_BASE_MEMORY_H
#define PLURES_BASE_MEMORY_H

#include <stddef.h>

/* Zeroed; aligned to 64 bytes when the size is a multiple of it. Freed by free(). */
void *memory_zalloc(size_t size) __attribute__((malloc, returns_nonnull, warn_unused_result));
/* realloc for count elements of size bytes; what is new is not zeroed. */
void *memory_resize(void *old, size_t count, size_t size) __attribute__((returns_nonnull, warn_unused_result));
char *memory_strdup(const char *text) __attribute__((malloc, returns_nonnull, warn_unused_result));

#endif
