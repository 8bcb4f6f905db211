/* SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Noreturn void memory_out(void)
{
	static const char text[] =
	    "plures: out of memory: this process reached the host's or its control group's limit\n";
	ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
	(void)ignored;
	abort();
}

void *memory_zalloc(size_t size)
{
	void *p = size && size % 64 == 0 ? aligned_alloc(64, size) : malloc(size ? size : 1);
	if (!p)
		memory_out();
	return memset(p, 0, size);
}

void *memory_resize(void *old, size_t count, size_t size)
{
	void *p = reallocarray(old, count ? count : 1, size);
	if (!p)
		memory_out();
	return p;
}

char *memory_strdup(const char *text)
{
	char *copy = strdup(text);
	if (!copy)
		memory_out();
	return copy;
}
