/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msr.h - the model-specific registers that the machine carries, for every engine: what firmware would have set up
 * (MTRRs, machine check banks), what tells a guest which mitigations it needs, KVM's clock, and the vendor's registers
 * that Linux touches without being prepared for a fault.
 *
 * Not here: the engine's own (EFER, STAR, PAT, TSC ...) and the local APIC's (lapic_owns_msr). An index that nobody
 * knows is #GP, as on a CPU. SDM Vol. 4; AMD APM Vol. 2, appendix A. One struct msrs a vCPU, used on its thread only.
 */
#ifndef PLURES_VM_MSR_H
#define PLURES_VM_MSR_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct kvmclock;
struct msrs;
struct state_reader;
struct state_writer;

struct msr_config {
	bool amd;
	unsigned phys_bits;
	const struct kvmclock *clock; /* must outlive the msrs */
	/* Guest memory [gpa, gpa + size) for writing, or NULL; and what to call after writing there. */
	void *(*memory)(void *ctx, uint64_t gpa, uint64_t size);
	void (*written)(void *ctx, uint64_t gpa, uint64_t size);
	/* The engine serves the paravirtual MSRs and takes what is written to them, false for #GP; or NULL: the clock is
	 * served here, and there are no others. */
	bool (*engine)(void *engine_ctx, uint32_t index, uint64_t value);
	uint32_t paravirt; /* CPUID leaf 0x40000001 EAX: those that this offers are there */
	void *engine_ctx;
	void *ctx;
};

struct msrs *msrs_create(const struct msr_config *config); /* never NULL; reset */
void msrs_destroy(struct msrs *msrs);

/* Power-up values, and MTRRs as firmware leaves them. */
void msrs_reset(struct msrs *msrs);

/* Tells the engine the paravirtual MSRs' values, if it serves them: after a reset. */
void msrs_tell_engine(struct msrs *msrs);

/* Fields of the current section: one for each register that can be written, by its index. Loading puts KVM's clock back
 * into guest memory, which must have been loaded before; -EINVAL for values that a guest could not have written. */
void msrs_save(const struct msrs *msrs, struct state_writer *w);
int msrs_load(struct msrs *msrs, struct state_reader *r, struct error *err);

/* false: #GP(0). */
bool msrs_read(struct msrs *msrs, uint32_t index, uint64_t *value);
bool msrs_write(struct msrs *msrs, uint32_t index, uint64_t value);

#endif
