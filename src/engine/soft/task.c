/* SPDX-License-Identifier: Apache-2.0 */
/* task.c - hardware task switches. */
#include "engine/soft/system.h"

void soft_task_switch(struct soft_cpu *cpu, struct soft_desc *d, enum soft_task_kind kind, uint64_t next,
		      const struct soft_event *ev)
{
	(void)kind;
	(void)next;
	(void)ev;
	soft_stop(cpu, ENGINE_EXIT_ERROR, "a task switch to TSS %04x at cs:rip %04x:%016llx is not implemented",
		  d->selector, cpu->seg[ENGINE_CS].selector, (unsigned long long)cpu->rip);
}
