/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_fuzz.c - a libFuzzer target over every kernel format. The input's first byte says what the rest is: the kernel file,
 * a bzImage's compressed payload, or the vmlinux in it, so that no layer hides the ones below. A guest of 32 MiB bounds
 * what one run may unpack and place. What is wrong shows as a sanitizer's report or as a broken promise below.
 */
#include <lz4.h>
#include <sys/mman.h>

#include "boot/image.h"
#include "boot/test_kernel.h"
#include "engine/engine.h"

#define GUEST_SIZE (32ull << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void load(const uint8_t *data, size_t size)
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
		return;
	mprotect(area + 4096, GUEST_SIZE, PROT_READ | PROT_WRITE);
	memory.region[0].hva = area + 4096;

	const struct boot_image image = { .path = "fuzz", .data = data, .size = size };
	int rc = boot_load_image(&image, &config, &memory, &bsp, &err);

	if (rc > 0 || (rc < 0 && (!err.text[0] || strchr(err.text, '\n'))))
		abort();
	munmap(area, GUEST_SIZE + 8192);
}

static void load_payload(const uint8_t *payload, size_t size, size_t unpacked)
{
	size_t image_size;
	uint8_t *image = test_bzimage(payload, size, (uint32_t)unpacked, &image_size);

	load(image, image_size);
	free(image);
}

static void load_vmlinux(const uint8_t *data, size_t size)
{
	int room = LZ4_compressBound((int)size);
	uint8_t *packed = malloc((size_t)room + 8);
	int block = LZ4_compress_default((const char *)data, (char *)packed + 8, (int)size, room);

	memcpy(packed, "\x02\x21\x4c\x18", 4);
	memcpy(packed + 4, &block, 4);
	load_payload(packed, (size_t)block + 8, size);
	free(packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0]) {
	case 'P':
		load_payload(data + 1, size - 1, 1 << 20);
		break;
	case 'V':
		load_vmlinux(data + 1, size - 1);
		break;
	default:
		load(data + 1, size - 1);
		break;
	}
	return 0;
}
