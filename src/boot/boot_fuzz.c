/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_fuzz.c - a libFuzzer target over every kernel format. The input is the kernel file; a guest of 32 MiB bounds
 * what one run may unpack and place. What is wrong shows as a sanitizer's report or as a broken promise below.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "boot/image.h"
#include "engine/engine.h"

#define GUEST_SIZE (32ull << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct boot_memory memory;
	const struct boot_config config = { .kernel = "fuzz", .cmdline = "console=ttyS0", .vcpus = 2 };
	struct engine_cpu_state bsp;
	struct error err = { "" };

	memset(&bsp, 0, sizeof(bsp));
	boot_memory_layout(&memory, GUEST_SIZE);
	/* Guard pages on both sides catch what the sanitizer does not see in mapped memory. */
	uint8_t *area = mmap(NULL, GUEST_SIZE + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		return 0;
	mprotect(area + 4096, GUEST_SIZE, PROT_READ | PROT_WRITE);
	memory.region[0].hva = area + 4096;

	const struct boot_image image = { .path = "fuzz", .data = data, .size = size };
	int rc = boot_load_image(&image, &config, &memory, &bsp, &err);

	if (rc > 0 || (rc < 0 && (!err.text[0] || strchr(err.text, '\n'))))
		abort();
	munmap(area, GUEST_SIZE + 8192);
	return 0;
}
