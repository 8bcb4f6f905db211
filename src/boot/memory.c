/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/boot.h"

#include <sys/mman.h>

#include "boot/image.h"

void boot_memory_layout(struct boot_memory *memory, uint64_t size)
{
	uint64_t low = size < PLATFORM_RAM_LOW_END ? size : PLATFORM_RAM_LOW_END;

	*memory = (struct boot_memory){ .regions = 1, .region = { { .gpa = 0, .size = low } } };
	if (size > low)
		memory->region[memory->regions++] =
		    (struct boot_region){ .gpa = PLATFORM_RAM_HIGH_BASE, .size = size - low };
}

void *boot_memory_at(const struct boot_memory *memory, uint64_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < memory->regions; i++) {
		const struct boot_region *r = &memory->region[i];

		if (gpa >= r->gpa && gpa - r->gpa <= r->size && size <= r->size - (gpa - r->gpa))
			return r->hva + (gpa - r->gpa);
	}
	return NULL;
}

uint64_t boot_low_end(const struct boot_memory *memory)
{
	return memory->region[0].gpa + memory->region[0].size;
}

uint64_t boot_memory_size(const struct boot_memory *memory)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < memory->regions; i++)
		size += memory->region[i].size;
	return size;
}

uint8_t *boot_buffer_create(size_t size)
{
	uint8_t *buffer = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buffer == MAP_FAILED)
		return NULL;
	madvise(buffer, size, MADV_HUGEPAGE); /* only an offer */
	return buffer;
}

void boot_buffer_destroy(uint8_t *buffer, size_t size)
{
	munmap(buffer, size);
}
