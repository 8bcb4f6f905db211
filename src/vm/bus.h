/* SPDX-License-Identifier: Apache-2.0 */
/* bus.h - making a bus; device.h has what its users do with it. */
#ifndef PLURES_VM_BUS_H
#define PLURES_VM_BUS_H

#include "vm/device.h"

/* An empty bus. Never NULL. */
struct bus *bus_create(void);
/* NULL is nothing. */
void bus_destroy(struct bus *bus);

/* The name of the range that holds addr, or NULL: for traces. */
const char *bus_name(struct bus *bus, uint64_t addr);

#endif
