/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_state.h - a CPU's registers as fields of the current section of saved state. */
#ifndef PLURES_VM_CPU_STATE_H
#define PLURES_VM_CPU_STATE_H

#include "engine/engine.h"

struct state_writer;
struct state_reader;

/* All but the local APIC, which is a device's. */
void cpu_state_save(const struct engine_cpu_state *s, struct state_writer *w);
/* Fills in *s, with engine_cpu_state_reset's values where an older version had no field. -EINVAL for what no CPU can be in;
 * *s is then anything. */
int cpu_state_load(struct engine_cpu_state *s, struct state_reader *r, struct error *err);

#endif
