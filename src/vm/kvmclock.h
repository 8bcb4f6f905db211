/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmclock.h - the clock that KVM gives its guests: a formula from the TSC to nanoseconds, in the guest's memory.
 *
 * Linux, Documentation/virt/kvm/x86/msr.rst (MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW). All vCPUs get the same
 * formula, which never changes while the machine runs, so the time is monotonic across them and says so
 * (PVCLOCK_TSC_STABLE_BIT): a guest may read it without a system call.
 */
#ifndef PLURES_VM_KVMCLOCK_H
#define PLURES_VM_KVMCLOCK_H

#include <stdint.h>

/* Time in ns = base_ns + (((tsc - base_tsc) shifted left by shift) * mul) >> 32. */
struct kvmclock {
	uint64_t base_tsc;
	uint64_t base_ns;
	uint32_t mul;
	int8_t shift;     /* negative: to the right */
	uint64_t wall_ns; /* UTC in ns since 1970 when this clock read 0, which kvmclock_set_wall may correct */
};

enum { KVMCLOCK_TIME_SIZE = 32, KVMCLOCK_WALL_SIZE = 12 };

/* The clock reads `ns` when the TSC reads `tsc`; wall_ns is the time of day at that moment. */
void kvmclock_init(struct kvmclock *clock, uint64_t tsc, uint64_t tsc_khz, uint64_t ns, uint64_t wall_ns);

/* The time of day is wall_ns when the TSC reads `tsc`: for a guest that starts again after the host's clock was set. */
void kvmclock_set_wall(struct kvmclock *clock, uint64_t tsc, uint64_t wall_ns);

/* The formula, as a guest computes it. */
uint64_t kvmclock_ns(const struct kvmclock *clock, uint64_t tsc);

/* Write struct pvclock_vcpu_time_info (KVMCLOCK_TIME_SIZE bytes) or struct pvclock_wall_clock (KVMCLOCK_WALL_SIZE) at
 * an address in guest memory, of any alignment. A reader on another CPU sees the version odd meanwhile. */
void kvmclock_write_time(const struct kvmclock *clock, void *guest);
void kvmclock_write_wall(const struct kvmclock *clock, void *guest);

#endif
