/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - the contract between a machine and what executes its instructions.
 *
 * An engine makes a VM, is given guest-physical memory, makes vCPUs and runs one until something happens that the
 * machine must decide. Everything a device does reaches it through struct engine_callbacks, on the vCPU's own thread,
 * while engine_ops.vcpu_run is on the stack: an in-process engine pays no exit for it, one that exits calls from its
 * loop. An engine knows no device; a device knows no engine.
 *
 * Threads: vm_* calls come from one thread before any vCPU runs, except where said. vcpu_* calls come from the vCPU's
 * own thread, except vcpu_kick, which anyone may call at any time. get_state and set_state need the vCPU not running.
 */
#ifndef PLURES_ENGINE_ENGINE_H
#define PLURES_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct engine_vm;   /* the engine's own */
struct engine_vcpu; /* the engine's own */

/* A segment register as SDM Vol. 3, 3.4.3 describes its hidden part. `attr` holds descriptor bits 40-47 in its bits
 * 0-7 (type, S, DPL, P) and bits 52-55 in its bits 12-15 (AVL, L, D/B, G), as in the VMX and SVM access-rights fields;
 * bit 16 set means unusable (null). `limit` is in bytes, already scaled by G. */
struct engine_segment {
	uint64_t base;
	uint32_t limit;
	uint32_t attr;
	uint16_t selector;
};

enum { ENGINE_ES, ENGINE_CS, ENGINE_SS, ENGINE_DS, ENGINE_FS, ENGINE_GS, ENGINE_LDTR, ENGINE_TR, ENGINE_SEGMENTS };

#define ENGINE_XSAVE_SIZE 4096

/* A local APIC, for engines that bring their own: SDM Vol. 3, 11.4.1. Registers are in the xAPIC's format by their
 * number, offset >> 4, whatever mode the APIC is in. */
struct engine_lapic {
	uint64_t base; /* IA32_APIC_BASE */
	uint64_t tsc_deadline;
	uint32_t reg[64];
};

/* All guest-visible state of one CPU. General registers are in the order of their encoding (rax, rcx, rdx, rbx, rsp,
 * rbp, rsi, rdi, r8-r15). `xsave` is in the standard (non-compacted) format of SDM Vol. 1, 13.4. */
struct engine_cpu_state {
	uint64_t gpr[16];
	uint64_t rip;
	uint64_t rflags;
	struct engine_segment seg[ENGINE_SEGMENTS];
	struct {
		uint64_t base;
		uint16_t limit;
	} gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, cr8;
	uint64_t dr[8]; /* 4 and 5 unused */
	uint64_t xcr0;
	/* MSRs that the engine carries itself; the machine's own (APIC, MTRR, KVM) are not here. */
	uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux;
	/* IA32_TSC_ADJUST: this CPU's TSC is vm_tsc plus this. The engine carries MSRs 0x10 and 0x3b: a write to either
	 * changes it. 0 on every CPU, which INIT leaves alone, is what keeps their TSCs the same. */
	uint64_t tsc_adjust;
	/* Events in flight. */
	bool nmi_masked; /* between an NMI and its IRET */
	bool nmi_pending;
	bool interrupt_shadow; /* after STI or MOV SS */
	bool halted;
	/* An event whose delivery has begun and is not done: it comes before the next instruction, whatever RFLAGS and the
	 * shadow say. What belongs to it in CR2 and DR6 is there already. */
	struct {
		bool valid, has_error;
		bool external; /* an interrupt that was acknowledged; else an exception */
		uint8_t vector;
		uint32_t error;
	} event;
	/* Only of engines with in_kernel_lapic, and ignored by the others. */
	bool wait_sipi; /* INIT or power-up came, and no start-up message yet */
	struct engine_lapic lapic;
	_Alignas(64) uint8_t xsave[ENGINE_XSAVE_SIZE];
};

/* Puts *s into the state after INIT or power-up, SDM Vol. 3, table 9-1 (RIP 0xfff0, CS base 0xffff0000). */
void engine_cpu_state_reset(struct engine_cpu_state *s);

struct engine_cpuid {
	uint32_t eax, ebx, ecx, edx;
};

struct engine_cpuid_leaf {
	uint32_t leaf, subleaf;
	struct engine_cpuid regs;
};

/* A message signalled interrupt: SDM Vol. 3, 11.11. */
struct engine_msi {
	uint64_t addr;
	uint32_t data;
};

/* Why vcpu_run returned. */
enum engine_exit {
	ENGINE_EXIT_KICKED,   /* vcpu_kick with ENGINE_KICK_EXIT */
	ENGINE_EXIT_HALTED,   /* HLT with nothing to deliver; run again when something may be pending */
	ENGINE_EXIT_SHUTDOWN, /* triple fault: `reason` says what happened, with RIP and the fault */
	ENGINE_EXIT_ERROR,    /* the engine can't go on: `reason` says why */
};

struct engine_run {
	enum engine_exit exit;
	char reason[256];
};

/* What the machine does for a vCPU. `ctx` is what vcpu_create was given. All are called on the vCPU's thread. */
struct engine_callbacks {
	/* Port I/O of size 1, 2 or 4. Reads fill *data. Unclaimed ports read as ones. */
	void (*pio)(void *ctx, uint16_t port, void *data, unsigned size, bool write);
	/* An access to guest-physical addresses outside the memory regions, 1 to 8 bytes, never crossing 8-byte alignment. */
	void (*mmio)(void *ctx, uint64_t gpa, void *data, unsigned size, bool write);
	/* The guest can take an external interrupt now. Returns the vector and acknowledges it, or -1. */
	int (*interrupt_ack)(void *ctx);
	/* MSRs that the engine does not carry. Return false for #GP. */
	bool (*msr_read)(void *ctx, uint32_t index, uint64_t *value);
	bool (*msr_write)(void *ctx, uint32_t index, uint64_t value);
	/* CPUID as the machine shows it; the engine patches in what depends on its own state (OSXSAVE, XCR0 sizes). */
	void (*cpuid)(void *ctx, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out);
	/* The task priority: MOV to and from CR8. */
	uint64_t (*cr8_read)(void *ctx);
	void (*cr8_write)(void *ctx, uint64_t value);
	/* Only called by engines with in_kernel_lapic: the guest ended an interrupt that vm_eoi_route asked to hear of; an
	 * INIT came to the boot CPU. Their interrupt_ack is for the 8259 only. */
	void (*eoi)(void *ctx, uint8_t vector);
	void (*init)(void *ctx);
};

/* What vcpu_kick asks for; several may be or-ed. */
enum {
	ENGINE_KICK_INTERRUPT = 1, /* interrupt_ack may have something */
	ENGINE_KICK_NMI = 2,       /* inject an NMI */
	ENGINE_KICK_EXIT = 4,      /* return ENGINE_EXIT_KICKED as soon as possible */
};

/* What to trace, with vm_create's `trace`; a line each to `trace_file`. */
enum {
	ENGINE_TRACE_ASM = 1,  /* each block when it is translated, disassembled */
	ENGINE_TRACE_INT = 2,  /* each exception and interrupt delivered, with registers */
	ENGINE_TRACE_EXEC = 4, /* each block entered (slow: blocks are not linked) */
};

struct engine_config {
	unsigned vcpus;
	unsigned trace;
	void *trace_file;    /* a FILE *, used under its own lock */
	const char *options; /* the engine's own, "no-links,no-cache,...", or NULL */
	bool profile;        /* gather what vm_profile tells */
};

/* How to tell where a guest's time went. */
struct engine_profile {
	void *file; /* a FILE * */
	bool json;
	/* The name of what holds a guest address, and how far into it that is; NULL when not known. */
	const char *(*symbol)(void *ctx, uint64_t address, uint64_t *offset);
	void *ctx;
};

/* Memory flags. */
enum { ENGINE_MEM_READONLY = 1 };

struct engine_ops {
	const char *name;
	const char *summary; /* one line for `plures info` and --help */
	/* It has local APICs of its own, with INIT and start-up messages. interrupt_ack then gives the 8259's interrupts, and
	 * messages go to vm_msi. */
	bool in_kernel_lapic;
	/* Guest code runs on the host's CPU as it stands: what protects the host's kernel from speculation is for the
	 * guest's kernel to use as well. */
	bool direct;

	/* Whether it works here, by running something: 0 and a line about how in `text`, or -errno and why not. `options`
	 * are the engine's, or NULL. A few milliseconds at most. */
	int (*probe)(const char *options, char *text, size_t size);

	/* What CPUID the engine can carry. Either a filter of the host's, called for each leaf, which clears what it can't;
	 * or a list, made once: fills in at most `max` leaves and returns their number, or -errno. The other is NULL. */
	void (*cpuid_filter)(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *regs);
	int (*cpuid_leaves)(struct engine_cpuid_leaf *leaves, unsigned max);

	int (*vm_create)(struct engine_vm **vm, const struct engine_config *config, struct error *err);
	void (*vm_destroy)(struct engine_vm *vm);
	/* Maps size bytes (page aligned) at hva to gpa. hva stays valid until vm_destroy; it maps fd from its beginning, which
	 * stays open as long, or fd is -1. */
	int (*vm_map)(struct engine_vm *vm, uint64_t gpa, void *hva, int fd, uint64_t size, unsigned flags,
		      struct error *err);
	/* A device wrote guest memory [gpa, gpa + size): drop what was derived from it. Any thread. */
	void (*vm_written)(struct engine_vm *vm, uint64_t gpa, uint64_t size);

	int (*vcpu_create)(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned index,
			   const struct engine_callbacks *cb, void *ctx, struct error *err);
	void (*vcpu_destroy)(struct engine_vcpu *vcpu);
	void (*vcpu_get_state)(struct engine_vcpu *vcpu, struct engine_cpu_state *state);
	void (*vcpu_set_state)(struct engine_vcpu *vcpu, const struct engine_cpu_state *state);
	/* Runs guest instructions until one of enum engine_exit. */
	void (*vcpu_run)(struct engine_vcpu *vcpu, struct engine_run *run);
	/* Any thread, any time, async-signal-safe; never lost. */
	void (*vcpu_kick)(struct engine_vcpu *vcpu, unsigned what);
	/* The guest's TSC now, and its frequency in kHz, which is constant. Any thread, but first asked for before a vCPU
	 * exists, and late: an engine may measure it since vm_create. */
	uint64_t (*vm_tsc)(struct engine_vm *vm);
	uint64_t (*vm_tsc_khz)(struct engine_vm *vm);

	/* What follows may be NULL; the first two are not where in_kernel_lapic is set. */

	/* Sends an interrupt message to the local APICs. Any thread, with any lock of a chip held. */
	void (*vm_msi)(struct engine_vm *vm, const struct engine_msi *msi);
	/* From now on that pin of the I/O APIC sends the message level-triggered, and callbacks.eoi is to be called when its
	 * vector is ended; NULL: no longer. Any thread. */
	void (*vm_eoi_route)(struct engine_vm *vm, unsigned pin, const struct engine_msi *msi);
	/* Paravirtual clock: what it reads in ns, and setting it, with no vCPU running. Where NULL the machine has its own. */
	uint64_t (*vm_clock)(struct engine_vm *vm);
	void (*vm_set_clock)(struct engine_vm *vm, uint64_t ns);
	/* Dirty log of all memory: starts or stops it, and takes the pages of a region that was given to vm_map at gpa which
	 * its CPUs wrote since the last time, a bit each, lowest first; what they wrote until then is in memory on return. A
	 * page more may be told, never one less; what devices write is the machine's to know. -errno, -ENOENT for no such
	 * region or no log. Any thread but a vCPU's within vcpu_run; waits for callbacks that are under way. */
	int (*vm_dirty_log)(struct engine_vm *vm, bool on);
	int (*vm_dirty_take)(struct engine_vm *vm, uint64_t gpa, uint64_t *bitmap);
	/* From now on (on), or no longer, a guest's write to gpa, of any size, adds 1 to the eventfd in place of a call of mmio.
	 * -errno when the engine has no more room: mmio is called then. Any thread. */
	int (*vm_doorbell)(struct engine_vm *vm, uint64_t gpa, int fd, bool on);
	/* A write to a paravirtual MSR that the engine serves. False: #GP. The vCPU's thread, or not running. */
	bool (*vcpu_paravirt)(struct engine_vcpu *vcpu, uint32_t index, uint64_t value);
	/* Writes what engine_config.profile asked for; no vCPU runs. And: what was so far does not count; any thread. */
	void (*vm_profile)(struct engine_vm *vm, const struct engine_profile *how);
	void (*vm_profile_anew)(struct engine_vm *vm);
};

/* All engines, from engines.def, ended by NULL; and one by name or NULL. */
extern const struct engine_ops *const engines[];
const struct engine_ops *engine_find(const char *name);

#endif
