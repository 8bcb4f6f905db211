/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.h - memory that guests own: one memfd per region, mapped shared, so that the engine, device threads, other
 * processes, snapshots and clones all see the same pages. The host gives a page when it is first touched.
 */
#ifndef PLURES_HOST_MEMORY_H
#define PLURES_HOST_MEMORY_H

#include <stdint.h>

#include "base/error.h"

struct host_memory {
	void *base; /* page aligned, zeroed, readable and writable, never executable */
	uint64_t size;
	int fd;
};

/* Can this host back a guest with that much memory? Compares with physical memory, swap and the limits of our control
 * groups and says in err what would fit. -ENOMEM if not. */
int host_memory_check(uint64_t size, struct error *err);

/* Makes a region of size bytes (a multiple of the page size, not 0), whose size is sealed. `name` shows in
 * /proc/PID/maps. */
int host_memory_init(struct host_memory *m, const char *name, uint64_t size, struct error *err);
void host_memory_fini(struct host_memory *m);

/* The most a guest can have here, in bytes: what host_memory_check compares with. */
uint64_t host_memory_limit(void);

#endif
