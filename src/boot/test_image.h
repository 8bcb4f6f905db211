/* SPDX-License-Identifier: Apache-2.0 */
/* test_image.h - guest memory for the boot tests. Everything aborts the test when it fails. */
#ifndef PLURES_BOOT_TEST_IMAGE_H
#define PLURES_BOOT_TEST_IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "boot/image.h"
#include "boot/test_kernel.h"
#include "engine/engine.h"

#define MIB (1ull << 20)

struct guest {
	struct boot_memory memory;
	struct boot_config config;
	struct engine_cpu_state bsp;
	struct error err;
};

static inline void guest_init(struct guest *g, uint64_t size)
{
	memset(g, 0, sizeof(*g));
	boot_memory_layout(&g->memory, size);
	for (unsigned i = 0; i < g->memory.regions; i++) {
		struct boot_region *r = &g->memory.region[i];

		r->hva =
		    mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		assert_ptr_not_equal(r->hva, MAP_FAILED);
	}
	g->config = (struct boot_config){ .kernel = "test", .cmdline = "console=ttyS0", .vcpus = 2 };
}

static inline void guest_fini(struct guest *g)
{
	for (unsigned i = 0; i < g->memory.regions; i++)
		munmap(g->memory.region[i].hva, g->memory.region[i].size);
}

static inline int guest_load(struct guest *g, const void *data, size_t size)
{
	/* A copy of the exact size, so that a sanitizer sees a read beyond it. */
	uint8_t *copy = malloc(size ? size : 1);

	memcpy(copy, data, size);
	g->err.text[0] = 0;
	int rc = boot_load_image(&(struct boot_image){ .path = "test", .data = copy, .size = size }, &g->config,
				 &g->memory, &g->bsp, &g->err);

	free(copy);
	return rc;
}

/* Loads and checks that it is refused with a message that has `text` in it, in one line. */
static inline void guest_refuses(struct guest *g, const void *data, size_t size, const char *text)
{
	int rc = guest_load(g, data, size);

	assert_true(rc < 0);
	if (!strstr(g->err.text, text))
		fail_msg("expected \"%s\" in: %s", text, g->err.text);
	assert_null(strchr(g->err.text, '\n'));
}

static inline void *guest_at(struct guest *g, uint64_t gpa, uint64_t size)
{
	void *at = boot_memory_at(&g->memory, gpa, size);

	assert_non_null(at);
	return at;
}

#endif
