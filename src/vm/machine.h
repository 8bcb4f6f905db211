/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h - what the files of this folder share about a machine; nobody else includes it.
 *
 * vm.c holds the life of a machine, wiring.c its chips, vcpu.c a vCPU's thread and what the engine calls back,
 * console.c the first serial port's other end.
 *
 * Holding: anyone may want all vCPUs out of the guest (to reset or to end). vm_request sets `hold` and kicks every vCPU;
 * a vCPU thread passes vcpu_checkpoint before each entry to the guest and parks there. The event thread waits until all
 * are parked, does its work, and lets them go. A kick is never lost, so none can slip in.
 */
#ifndef PLURES_VM_MACHINE_H
#define PLURES_VM_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "boot/boot.h"
#include "host/event.h"
#include "host/memory.h"
#include "vm/cpuid.h"
#include "vm/guest_memory.h"
#include "vm/kvmclock.h"
#include "vm/msr.h"
#include "vm/vm.h"

struct console;
struct i8250;
struct i8259;
struct ioapic;
struct lapic;
struct lapic_bus;
struct pci;
struct virtio;

enum vm_request { REQUEST_NONE, REQUEST_RESET, REQUEST_END };

struct vcpu {
	struct vm *vm;
	unsigned index;
	struct engine_vcpu *engine;
	struct lapic *lapic;
	struct msrs *msrs;
	pthread_t thread;
	bool has_thread;
	bool wait_sipi;          /* its own thread's, or while parked */
	bool new_state;          /* `state` is to be put into the engine before the next run; likewise */
	_Atomic uint32_t events; /* INIT and SIPI, see vcpu.c */
	_Atomic uint32_t wake;   /* a futex, see vcpu.c */
	struct engine_cpu_state state;
};

struct vm {
	struct vm_config config;
	const struct engine_ops *ops;
	char why[768];        /* vm_engine_why */
	char *engine_options; /* those of config.engine_options that are this engine's, or NULL */
	struct engine_vm *engine;
	struct host_memory ram[BOOT_MAX_REGIONS];
	struct boot_memory memory;
	struct guest_memory guest_memory; /* the same, as devices see it */
	struct event_loop *loop;
	struct clock *clock;
	struct bus *pio, *mmio;
	struct bus *reset_bus; /* port 0xcf9, behind PCI's address register */
	struct pci *pci;
	bool pirq[4];           /* PCI's interrupt lines, changed with its lock held */
	struct device *devices; /* in order of creation */
	struct virtio *balloon; /* one of them, or NULL */
	struct lapic_bus *lapics;
	struct i8259 *pic;
	atomic_bool extint; /* the level of its output, for an engine with local APICs of its own */
	struct ioapic *ioapic;
	struct i8250 *uart;
	struct console *console;
	struct cpuid *cpuid;
	struct kvmclock kvmclock; /* unused where the engine has its own */
	struct vcpu *vcpu;
	unsigned vcpus;
	struct writer *trace;  /* or NULL */
	struct vm_saved *from; /* while it is made: what it goes on from, or NULL */
	struct timer *stop_timer;
	struct timer *trace_timer;
	struct profile_file *profile; /* or NULL */

	struct event_work request_work;
	atomic_bool hold;     /* written under lock */
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t parked_changed, released;
	unsigned parked;
	bool quit; /* parked vCPU threads end */
	enum vm_request request;
	struct vm_result result; /* of REQUEST_END */
	bool reset_too;          /* and before it ends, the guest's reset, which came when it was to stop already */
};

/* ---- vm.c ---- */

/* Asks for a reset, or for the machine's end; the first that asks wins. Any thread, with any chip's lock held. */
void vm_request_reset(struct vm *vm);
void vm_request_end(struct vm *vm, enum vm_end end, unsigned code, const char *reason);

/* ---- wiring.c ---- */

/* Makes the buses, the interrupt controllers and all chips; vm->vcpu[] must have their indices. */
int wiring_create(struct vm *vm, struct error *err);
void wiring_reset(struct vm *vm);
/* Has the devices stand still, those with threads of their own too; or go on. No vCPU runs. */
void wiring_pause(struct vm *vm, bool on);
/* Where the list of devices ends for those that an engine has to do with: behind it are PCI and what is on it. */
struct device **wiring_chips_end(struct vm *vm);
/* vm->ops has become another: after a reset of the chips. */
void wiring_set_engine(struct vm *vm);
void wiring_destroy(struct vm *vm); /* after the vCPUs' threads */

/* ---- vcpu.c ---- */

/* Makes the engine's half; vm, index and lapic are there. */
int vcpu_create(struct vcpu *vcpu, struct error *err);
void vcpu_destroy(struct vcpu *vcpu);
/* The power-up state: vCPU 0 will enter with *entry, the others wait for a start-up message. While parked. */
void vcpu_reset(struct vcpu *vcpu, const struct engine_cpu_state *entry);
int vcpu_start(struct vcpu *vcpu, struct error *err);
/* Makes it look at what has changed, in the guest or asleep: ENGINE_KICK_*. Any thread. */
void vcpu_kick(struct vcpu *vcpu, unsigned what);
/* From another thread: an INIT or start-up message (struct lapic_host's). */
void vcpu_post_init(void *vcpu);
void vcpu_post_sipi(void *vcpu, uint8_t vector);

/* ---- console.c ---- */

/* Joins the machine's UART, made with console_write and console_room as its back end, to the configured descriptors. */
int console_create(struct console **console, struct vm *vm, struct error *err);
void console_destroy(struct console *console);
size_t console_write(void *console, const void *bytes, size_t size, bool wait);
void console_room(void *console);
/* Lets go of a writer that waits, and throws away what is written from now on. Any thread. */
void console_give_up(struct console *console);

#endif
