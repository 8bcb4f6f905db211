/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/guest_memory.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void guest_memory_add(struct guest_memory *memory, uint64_t gpa, uint64_t size, void *hva, int fd)
{
	unsigned n = memory->regions;

	assert(n < GUEST_MEMORY_REGIONS && size && gpa + size > gpa);
	assert(!n || memory->region[n - 1].gpa + memory->region[n - 1].size < gpa);
	memory->region[n] = (struct guest_region){ .gpa = gpa, .size = size, .hva = hva, .fd = fd };
	memory->regions = n + 1;
}

static const struct guest_region *find(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < memory->regions; i++) {
		const struct guest_region *r = &memory->region[i];
		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return size <= r->size - (gpa - r->gpa) ? r : NULL;
	}
	return NULL;
}

void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
	const struct guest_region *r = size ? find(memory, gpa, size) : NULL;

	return r ? r->hva + (gpa - r->gpa) : NULL;
}

bool guest_memory_read(const struct guest_memory *memory, uint64_t gpa, void *to, size_t size)
{
	const void *from = guest_memory_at(memory, gpa, size);

	if (from)
		memcpy(to, from, size);
	return from || !size;
}

bool guest_memory_write(const struct guest_memory *memory, uint64_t gpa, const void *from, size_t size)
{
	void *to = guest_memory_at(memory, gpa, size);

	if (!to)
		return !size;
	memcpy(to, from, size);
	guest_memory_written(memory, gpa, size);
	return true;
}

void guest_memory_written(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
	if (memory->written && size)
		memory->written(memory->ctx, gpa, size);
}

uint64_t guest_memory_gpa(const struct guest_memory *memory, const void *hva)
{
	const uint8_t *at = hva;

	for (unsigned i = 0; i < memory->regions; i++) {
		const struct guest_region *r = &memory->region[i];
		if (at >= r->hva && at < r->hva + r->size)
			return r->gpa + (uint64_t)(at - r->hva);
	}
	assert(!"a pointer into guest memory");
	return 0;
}

void guest_memory_written_at(const struct guest_memory *memory, const void *hva, uint64_t size)
{
	if (size)
		guest_memory_written(memory, guest_memory_gpa(memory, hva), size);
}

bool guest_memory_discard(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint8_t *at = guest_memory_at(memory, gpa, size);

	if (!at)
		return false;
	uint64_t skip = (page - gpa % page) % page;
	if (skip >= size)
		return true;
	uint64_t whole = (size - skip) / page * page;
	if (!whole)
		return true;
	/* Punches a hole into the memfd: the page is gone for every mapping of it. */
	if (madvise(at + skip, whole, MADV_REMOVE))
		return false;
	guest_memory_written(memory, gpa + skip, whole);
	return true;
}
