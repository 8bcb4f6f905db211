/* SPDX-License-Identifier: Apache-2.0 */
/*
 * private.h - what the files of the kvm engine share.
 *
 * kvm.c holds the VM (memory, interrupt messages, time), vcpu.c the loop around KVM_RUN, state.c a CPU's state in and
 * out, cpuid.c and msr.c what the guest sees of the CPU, options.c the user's settings, probe.c whether all this is any use here.
 *
 * The interrupt controller is split (KVM_CAP_SPLIT_IRQCHIP): the local APICs are KVM's, everything else is the machine's.
 * Linux, Documentation/virt/kvm/api.rst.
 */
#ifndef PLURES_ENGINE_KVM_PRIVATE_H
#define PLURES_ENGINE_KVM_PRIVATE_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "engine/kvm/kvm.h"
#include "host/tsc.h"

enum {
	KVM_SLOTS_MAX = 16,
	KVM_PINS = 24,        /* of the I/O APIC */
	KVM_LEAVES_MAX = 128, /* of CPUID */
};

/* Wakes a vCPU's thread out of KVM_RUN; its handler does nothing. */
#define KVM_KICK_SIGNAL (SIGRTMIN + 3)

struct kvm_options {
	bool slow;             /* also on a host that emulates guest kernel mode */
	uint64_t halt_poll_ns; /* UINT64_MAX: the kernel's default */
};

struct kvm_slot {
	uint64_t gpa, size;
	void *hva;
	bool readonly;
};

struct engine_vm {
	int kvm, fd;
	size_t run_size; /* of the mapping that a vCPU shares with the kernel */
	struct kvm_options options;
	struct kvm_slot slot[KVM_SLOTS_MAX];
	unsigned slots;
	uint64_t tsc_khz; /* 0 until somebody asks */
	struct host_tsc_sample tsc_start;
	bool tsc_offsets; /* a vCPU's TSC is set by its offset (Linux 5.16) */
	bool msrs_filtered;

	pthread_mutex_t lock; /* guards what follows */
	bool dirty_log;
	struct engine_msi pin[KVM_PINS]; /* vm_eoi_route; addr 0: none */
};

struct engine_vcpu {
	struct engine_vm *vm;
	unsigned index;
	int fd;
	struct kvm_run *run;
	const struct engine_callbacks *cb;
	void *ctx;
	_Atomic unsigned kick; /* ENGINE_KICK_* */
	_Atomic pid_t inside;  /* the thread that is about to be or is in KVM_RUN, or 0 */
	bool wants_window;     /* interrupt_ack may have something */
	bool unfinished;       /* KVM has an access to finish before the state is whole */
	char refused[128];     /* what KVM said of the last state that was set, or "" */
	/* The state goes through here. */
	_Alignas(64) uint8_t xsave[ENGINE_XSAVE_SIZE];
};

/* ---- options.c ---- */

int kvm_options_parse(const char *list, struct kvm_options *options, struct error *err);

/* ---- probe.c ---- */

/* Opens /dev/kvm and looks whether it has what the engine needs: the descriptor, or -errno and why not in `text`. */
int kvm_open(char *text, size_t size);
int kvm_probe(const char *options, char *text, size_t size);

/* ---- cpuid.c ---- */

int kvm_cpuid_leaves(struct engine_cpuid_leaf *leaves, unsigned max);
/* Gives the vCPU the CPUID that the machine's callback tells. */
int kvm_cpuid_set(struct engine_vcpu *vcpu, struct error *err);

/* ---- msr.c ---- */

/* Which MSRs KVM serves; all others come to the machine. */
int kvm_msr_filter(struct engine_vcpu *vcpu, struct error *err);
bool kvm_msr_set(struct engine_vcpu *vcpu, uint32_t index, uint64_t value);
bool kvm_msr_get(struct engine_vcpu *vcpu, uint32_t index, uint64_t *value);
bool kvm_vcpu_paravirt(struct engine_vcpu *vcpu, uint32_t index, uint64_t value);

/* ---- state.c ---- */

void kvm_vcpu_get_state(struct engine_vcpu *vcpu, struct engine_cpu_state *s);
void kvm_vcpu_set_state(struct engine_vcpu *vcpu, const struct engine_cpu_state *s);

/* ---- vcpu.c ---- */

/* Has KVM do what it kept for its next entry, without running the guest. It may call back, as vcpu_run does. Returns false
 * when the CPU can't go on, with the reason in *run. No other thread is in vcpu_run. */
bool kvm_vcpu_settle(struct engine_vcpu *vcpu, struct engine_run *run);
int kvm_vcpu_create(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned index, const struct engine_callbacks *cb,
		    void *ctx, struct error *err);
void kvm_vcpu_destroy(struct engine_vcpu *vcpu);
void kvm_vcpu_run(struct engine_vcpu *vcpu, struct engine_run *run);
void kvm_vcpu_kick(struct engine_vcpu *vcpu, unsigned what);

#endif
