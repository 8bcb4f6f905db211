/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot_fuzz.c - a libFuzzer target over every kernel format. The input's first byte chooses what the rest is: a kernel file,
 * a bzImage's compressed payload, the vmlinux in it, or changes to a kernel that loads, so that no layer hides the ones
 * below. A guest of 32 MiB bounds what one run may unpack and place. What is wrong shows as a sanitizer's report or as a
 * broken promise below.
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

/* Each three bytes of input are an offset and the byte to put there. */
static void change(uint8_t *image, size_t image_size, const uint8_t *data, size_t size)
{
	for (; size >= 3; data += 3, size -= 3)
		image[(data[0] | data[1] << 8) % image_size] = data[2];
}

static void load_changed_elf(const uint8_t *data, size_t size, bool packed)
{
	struct test_elf elf = test_elf(0x1000000, packed ? 0 : 0x1000000);

	change((uint8_t *)&elf, offsetof(struct test_elf, code), data, size);
	if (packed)
		load_vmlinux((uint8_t *)&elf, sizeof(elf));
	else
		load((uint8_t *)&elf, sizeof(elf));
}

static void load_changed_bzimage(const uint8_t *data, size_t size)
{
	size_t image_size;
	uint8_t *image = test_bzimage("BZh9", 4, 1 << 20, &image_size);

	change(image, image_size, data, size);
	load(image, image_size);
	free(image);
}

static void load_changed_multiboot(const uint8_t *data, size_t size)
{
	const uint32_t flags = 1 << 16, checksum = -(0x1badb002u + flags);
	uint32_t image[64] = { 0x1badb002, flags, checksum, 0x200000, 0x200000, 0, 0x208000, 0x200030 };

	/* Behind magic, flags and checksum, which would only have to be found again. */
	change((uint8_t *)(image + 3), sizeof(image) - 12, data, size);
	load((uint8_t *)image, sizeof(image));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	const uint8_t *rest = data + 1;

	size--;
	switch (data[0] % 7) {
	case 0:
		load(rest, size);
		break;
	case 1:
		load_payload(rest, size, 1 << 20);
		break;
	case 2:
		load_vmlinux(rest, size);
		break;
	case 3:
		load_changed_elf(rest, size, false);
		break;
	case 4:
		load_changed_elf(rest, size, true);
		break;
	case 5:
		load_changed_bzimage(rest, size);
		break;
	case 6:
		load_changed_multiboot(rest, size);
		break;
	}
	return 0;
}
