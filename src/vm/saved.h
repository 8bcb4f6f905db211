/* SPDX-License-Identifier: Apache-2.0 */
/*
 * saved.h - a machine that stands still: the state of its CPUs, clocks and chips, and its memory. vm.c's and saved.c's.
 *
 * What a section holds: "machine" the clock, the TSC's frequency and the feature words that the guest has seen; "cpu" a
 * vCPU's registers; "msr" its MSRs; and each chip its own.
 */
#ifndef PLURES_VM_SAVED_H
#define PLURES_VM_SAVED_H

#include "boot/boot.h"
#include "host/memory.h"
#include "vm/machine.h"

struct state_writer;

struct vm_saved {
	struct state_writer *writer;
	const void *bytes; /* the writer's */
	size_t size;
	uint64_t tsc_khz;
	struct host_memory ram[BOOT_MAX_REGIONS];
};

/* Everything but the memory, with no vCPU's thread. */
void saved_write(struct vm *vm, struct state_writer *w);
/* With all chips made and no vCPU's thread: puts everything but the memory into vm. */
int saved_load(struct vm *vm, const struct vm_saved *saved, struct error *err);

#endif
