/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest_memory.h - a guest's memory as devices see it: every address and length that comes from a guest goes through here.
 *
 * Another vCPU may change guest memory at any moment, so what is checked must be a copy (guest_memory_read), never the
 * guest's own bytes read twice. Whoever writes through a pointer from guest_memory_at says so afterwards with
 * guest_memory_written, or the engine would go on running code that it translated from what was there before.
 *
 * Threads: any. Regions are added before the machine runs and stay.
 */
#ifndef PLURES_VM_GUEST_MEMORY_H
#define PLURES_VM_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GUEST_MEMORY_REGIONS = 4 };

struct guest_region {
	uint64_t gpa, size;
	uint8_t *hva;
	int fd; /* the memfd that is mapped there from its beginning, or -1 */
};

struct guest_memory {
	struct guest_region region[GUEST_MEMORY_REGIONS]; /* sorted by gpa, no two adjacent or overlapping */
	unsigned regions;
	/* A device wrote there: engine_ops.vm_written. May be NULL. */
	void (*written)(void *ctx, uint64_t gpa, uint64_t size);
	void *ctx;
};

void guest_memory_add(struct guest_memory *memory, uint64_t gpa, uint64_t size, void *hva, int fd);

/* The host address of [gpa, gpa + size), or NULL unless all of it is memory. A size of 0 gives NULL. */
void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t size);

/* The guest-physical address of a host address that guest_memory_at gave, or that lies behind one. */
uint64_t guest_memory_gpa(const struct guest_memory *memory, const void *hva);

/* Copy, and return false, having done nothing, unless all of [gpa, gpa + size) is memory. write notifies. */
bool guest_memory_read(const struct guest_memory *memory, uint64_t gpa, void *to, size_t size);
bool guest_memory_write(const struct guest_memory *memory, uint64_t gpa, const void *from, size_t size);

/* [gpa, gpa + size), all of which is memory, was written through a pointer. */
void guest_memory_written(const struct guest_memory *memory, uint64_t gpa, uint64_t size);
/* The same by the host address of a part of guest memory. */
void guest_memory_written_at(const struct guest_memory *memory, const void *hva, uint64_t size);

/* Gives the whole host pages within [gpa, gpa + size) back to the host; they read as zeros until someone writes to them.
 * False when that is no memory, or the host can't. Several processes may share the memory: it goes for all. */
bool guest_memory_discard(const struct guest_memory *memory, uint64_t gpa, uint64_t size);

#endif
