/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu.c - a vCPU's thread, and what the engine calls back on it.
 *
 * Sleeping. `wake` is a futex word: AWAKE, POSTED (something happened since it was last cleared) or ASLEEP. Who wants
 * the vCPU's attention first records why (in the lapic, in `events`, in vm->hold), then posts; the vCPU first clears,
 * then looks at the reasons. So whatever is posted before it sleeps keeps it from sleeping, and a post costs a system
 * call only when somebody sleeps.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/writer.h"
#include "chip/i8259.h"
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "vm/bus.h"
#include "vm/machine.h"

enum { AWAKE, POSTED, ASLEEP };

/* `events`: a start-up message's vector is in bits 8-15. */
enum { EVENT_INIT = 1, EVENT_SIPI = 2, SIPI_VECTOR_SHIFT = 8 };

/* ---- sleeping and waking ---- */

static void post(struct vcpu *vcpu)
{
	if (atomic_exchange(&vcpu->wake, POSTED) == ASLEEP)
		syscall(SYS_futex, &vcpu->wake, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void sleep_until_posted(struct vcpu *vcpu)
{
	uint32_t awake = AWAKE;

	if (atomic_compare_exchange_strong(&vcpu->wake, &awake, ASLEEP))
		while (atomic_load(&vcpu->wake) == ASLEEP)
			syscall(SYS_futex, &vcpu->wake, FUTEX_WAIT_PRIVATE, ASLEEP, NULL, NULL, 0);
	atomic_store(&vcpu->wake, AWAKE);
}

void vcpu_kick(struct vcpu *vcpu, unsigned what)
{
	if (vcpu->engine)
		vcpu->vm->ops->vcpu_kick(vcpu->engine, what);
	post(vcpu);
}

void vcpu_post_init(void *ctx)
{
	struct vcpu *vcpu = ctx;

	atomic_store(&vcpu->events, EVENT_INIT); /* an earlier start-up message is void */
	vcpu_kick(vcpu, ENGINE_KICK_EXIT);
}

void vcpu_post_sipi(void *ctx, uint8_t vector)
{
	struct vcpu *vcpu = ctx;
	uint32_t old = atomic_load(&vcpu->events);
	uint32_t new;

	do {
		if (old & EVENT_SIPI) /* it is the first one that starts a CPU */
			return;
		new = old | EVENT_SIPI | (uint32_t)vector << SIPI_VECTOR_SHIFT;
	} while (!atomic_compare_exchange_weak(&vcpu->events, &old, new));
	vcpu_kick(vcpu, ENGINE_KICK_EXIT);
}

/* ---- INIT and SIPI: SDM Vol. 3, 9.4. Engines with local APICs of their own do it themselves. ---- */

/* What is to go into such an engine with the rest of the state. */
static void export_lapic(struct vcpu *vcpu)
{
	struct engine_lapic *lapic = &vcpu->state.lapic;

	if (vcpu->vm->ops->in_kernel_lapic)
		lapic_export(vcpu->lapic, &lapic->base, &lapic->tsc_deadline, lapic->reg);
}

static void power_up_state(struct vcpu *vcpu)
{
	struct engine_cpuid regs;

	engine_cpu_state_reset(&vcpu->state);
	cpuid_get(vcpu->vm->cpuid, vcpu->index, 1, 0, &regs);
	vcpu->state.gpr[2] = regs.eax; /* RDX: the CPU's signature */
}

/* Table 9-1: INIT leaves the x87 and vector registers, the TSC, and the cache bits of CR0 alone. */
static void take_init(struct vcpu *vcpu)
{
	const struct engine_ops *ops = vcpu->vm->ops;
	uint8_t xsave[ENGINE_XSAVE_SIZE];

	lapic_init(vcpu->lapic);
	ops->vcpu_get_state(vcpu->engine, &vcpu->state);
	memcpy(xsave, vcpu->state.xsave, sizeof(xsave));
	uint64_t cache_bits = vcpu->state.cr0 & 0x60000000;
	uint64_t tsc_adjust = vcpu->state.tsc_adjust, tsc_aux = vcpu->state.tsc_aux, pat = vcpu->state.pat;
	power_up_state(vcpu);
	memcpy(vcpu->state.xsave, xsave, sizeof(xsave));
	vcpu->state.cr0 = (vcpu->state.cr0 & ~0x60000000ull) | cache_bits;
	vcpu->state.tsc_adjust = tsc_adjust;
	vcpu->state.tsc_aux = tsc_aux;
	vcpu->state.pat = pat;
	vcpu->new_state = true;
	vcpu->wait_sipi = true;
	if (vcpu->index == 0) /* the boot CPU runs firmware now, and ours would begin anew */
		vm_request_reset(vcpu->vm);
}

static void take_sipi(struct vcpu *vcpu, uint8_t vector)
{
	if (!vcpu->wait_sipi)
		return;
	vcpu->wait_sipi = false;
	vcpu->new_state = true; /* `state` is still what INIT or power-up made */
	vcpu->state.seg[ENGINE_CS].selector = (uint16_t)(vector << 8);
	vcpu->state.seg[ENGINE_CS].base = (uint64_t)vector << 12;
	vcpu->state.rip = 0;
}

static void take_events(struct vcpu *vcpu)
{
	uint32_t events = atomic_exchange(&vcpu->events, 0);

	if (events & EVENT_INIT)
		take_init(vcpu);
	if (events & EVENT_SIPI)
		take_sipi(vcpu, (uint8_t)(events >> SIPI_VECTOR_SHIFT));
	if (vcpu->new_state) {
		export_lapic(vcpu);
		vcpu->vm->ops->vcpu_set_state(vcpu->engine, &vcpu->state);
		msrs_tell_engine(vcpu->msrs);
		vcpu->new_state = false;
	}
}

void vcpu_reset(struct vcpu *vcpu, const struct engine_cpu_state *entry)
{
	atomic_store(&vcpu->events, 0);
	msrs_reset(vcpu->msrs);
	vcpu->new_state = true;
	if (vcpu->index == 0) {
		vcpu->state = *entry;
		lapic_virtual_wire(vcpu->lapic); /* there is no firmware to do it */
	} else {
		power_up_state(vcpu);
	}
	bool waits = vcpu->index > 0;
	vcpu->wait_sipi = waits && !vcpu->vm->ops->in_kernel_lapic;
	vcpu->state.wait_sipi = waits;
}

/* ---- the thread ---- */

/* Parks while the machine is held. Returns false when it has ended. */
static bool checkpoint(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;

	if (!atomic_load(&vm->hold))
		return true;
	pthread_mutex_lock(&vm->lock);
	while (vm->hold && !vm->quit) {
		vm->parked++;
		pthread_cond_signal(&vm->parked_changed);
		pthread_cond_wait(&vm->released, &vm->lock);
		vm->parked--;
	}
	bool quit = vm->quit;
	pthread_mutex_unlock(&vm->lock);
	return !quit;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	struct engine_run run;

	while (checkpoint(vcpu)) {
		take_events(vcpu);
		if (vcpu->wait_sipi) {
			sleep_until_posted(vcpu);
			continue;
		}
		run.reason[0] = '\0';
		vcpu->vm->ops->vcpu_run(vcpu->engine, &run);
		switch (run.exit) {
		case ENGINE_EXIT_KICKED:
			break;
		case ENGINE_EXIT_HALTED:
			sleep_until_posted(vcpu);
			break;
		case ENGINE_EXIT_SHUTDOWN:
			vm_request_end(vcpu->vm, VM_KILLED, 0, run.reason);
			break;
		case ENGINE_EXIT_ERROR:
			vm_request_end(vcpu->vm, VM_ERROR, 0, run.reason);
			break;
		}
	}
	return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
	char name[16];
	int r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);

	if (r)
		return error_errno(err, -r, "can't start the thread of vCPU %u", vcpu->index);
	vcpu->has_thread = true;
	snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
	pthread_setname_np(vcpu->thread, name);
	return 0;
}

/* ---- what the engine calls ---- */

static void trace_access(const struct vcpu *vcpu, struct bus *bus, const char *kind, uint64_t addr, unsigned size,
			 bool write, uint64_t value, bool claimed)
{
	const char *name = claimed ? bus_name(bus, addr) : NULL;

	fprintf(writer_file(vcpu->vm->trace), "%s cpu%u %s %#llx/%u %s %#llx (%s)\n", kind, vcpu->index,
		write ? "write" : "read", (unsigned long long)addr, size, write ? "<-" : "->",
		(unsigned long long)value,
		name      ? name
		: claimed ? "local APIC"
			  : "nothing");
}

static void on_pio(void *ctx, uint16_t port, void *data, unsigned size, bool write)
{
	struct vcpu *vcpu = ctx;
	struct vm *vm = vcpu->vm;
	uint64_t value = 0;
	bool claimed;

	if (write) {
		memcpy(&value, data, size);
		claimed = bus_write(vm->pio, port, size, value);
	} else {
		claimed = bus_read(vm->pio, port, size, &value);
		if (!claimed)
			value = ~0ull >> (64 - 8 * size);
		memcpy(data, &value, size);
	}
	if (vm->config.trace & VM_TRACE_PIO)
		trace_access(vcpu, vm->pio, "pio", port, size, write, value, claimed);
}

static void on_mmio(void *ctx, uint64_t gpa, void *data, unsigned size, bool write)
{
	struct vcpu *vcpu = ctx;
	struct vm *vm = vcpu->vm;
	uint64_t value = 0;
	bool claimed = !vm->ops->in_kernel_lapic && lapic_mmio(vcpu->lapic, gpa, data, size, write);

	if (claimed) {
		memcpy(&value, data, size);
	} else if (write) {
		memcpy(&value, data, size);
		claimed = bus_write(vm->mmio, gpa, size, value);
	} else {
		claimed = bus_read(vm->mmio, gpa, size, &value);
		if (!claimed)
			value = ~0ull >> (64 - 8 * size);
		memcpy(data, &value, size);
	}
	if (vm->config.trace & VM_TRACE_MMIO)
		trace_access(vcpu, vm->mmio, "mmio", gpa, size, write, value, claimed);
}

static int on_interrupt_ack(void *ctx)
{
	const struct vcpu *vcpu = ctx;
	const struct vm *vm = vcpu->vm;

	if (vm->ops->in_kernel_lapic)
		return vcpu->index == 0 && atomic_load(&vm->extint) ? i8259_ack(vm->pic) : -1;
	return lapic_ack(vcpu->lapic);
}

static bool on_msr_read(void *ctx, uint32_t index, uint64_t *value)
{
	const struct vcpu *vcpu = ctx;

	if (lapic_owns_msr(index) && !vcpu->vm->ops->in_kernel_lapic)
		return lapic_msr_read(vcpu->lapic, index, value);
	return msrs_read(vcpu->msrs, index, value);
}

static bool on_msr_write(void *ctx, uint32_t index, uint64_t value)
{
	const struct vcpu *vcpu = ctx;

	if (lapic_owns_msr(index) && !vcpu->vm->ops->in_kernel_lapic)
		return lapic_msr_write(vcpu->lapic, index, value);
	return msrs_write(vcpu->msrs, index, value);
}

static void on_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	enum { APIC_BIT = 1 << 9, APIC_BASE_ENABLED = 1 << 11 };
	const struct vcpu *vcpu = ctx;

	cpuid_get(vcpu->vm->cpuid, vcpu->index, leaf, subleaf, out);
	if ((leaf == 1 || (leaf == 0x80000001 && cpuid_is_amd(vcpu->vm->cpuid))) &&
	    !(lapic_base(vcpu->lapic) & APIC_BASE_ENABLED))
		out->edx &= ~(uint32_t)APIC_BIT;
}

static uint64_t on_cr8_read(void *ctx)
{
	const struct vcpu *vcpu = ctx;

	return lapic_cr8(vcpu->lapic);
}

static void on_cr8_write(void *ctx, uint64_t value)
{
	const struct vcpu *vcpu = ctx;

	lapic_set_cr8(vcpu->lapic, value);
}

static void on_eoi(void *ctx, uint8_t vector)
{
	const struct vcpu *vcpu = ctx;

	ioapic_eoi(vcpu->vm->ioapic, vector);
}

static void on_init(void *ctx)
{
	const struct vcpu *vcpu = ctx;

	vm_request_reset(vcpu->vm);
}

static const struct engine_callbacks callbacks = {
	.pio = on_pio,
	.mmio = on_mmio,
	.interrupt_ack = on_interrupt_ack,
	.msr_read = on_msr_read,
	.msr_write = on_msr_write,
	.cpuid = on_cpuid,
	.cr8_read = on_cr8_read,
	.cr8_write = on_cr8_write,
	.eoi = on_eoi,
	.init = on_init,
};

/* ---- making ---- */

static void *on_guest_memory(void *ctx, uint64_t gpa, uint64_t size)
{
	const struct vm *vm = ctx;

	return boot_memory_at(&vm->memory, gpa, size);
}

static void on_memory_written(void *ctx, uint64_t gpa, uint64_t size)
{
	const struct vm *vm = ctx;

	vm->ops->vm_written(vm->engine, gpa, size);
}

static bool on_paravirt(void *ctx, uint32_t index, uint64_t value)
{
	const struct vcpu *vcpu = ctx;

	return vcpu->vm->ops->vcpu_paravirt(vcpu->engine, index, value);
}

int vcpu_create(struct vcpu *vcpu, struct error *err)
{
	struct vm *vm = vcpu->vm;
	uint32_t words[CPUID_WORDS];
	cpuid_words(vm->cpuid, words);
	struct msr_config config = {
		.amd = cpuid_is_amd(vm->cpuid),
		.phys_bits = cpuid_phys_bits(vm->cpuid),
		.clock = &vm->kvmclock,
		.memory = on_guest_memory,
		.written = on_memory_written,
		.ctx = vm,
		.engine = vm->ops->vcpu_paravirt ? on_paravirt : NULL,
		.engine_ctx = vcpu,
		.paravirt = words[CPUID_KVM_EAX],
	};

	vcpu->msrs = msrs_create(&config);
	int rc = vm->ops->vcpu_create(&vcpu->engine, vm->engine, vcpu->index, &callbacks, vcpu, err);
	return rc ? error_prefix(err, rc, "vCPU %u", vcpu->index) : 0;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	if (vcpu->engine)
		vcpu->vm->ops->vcpu_destroy(vcpu->engine);
	vcpu->engine = NULL;
	msrs_destroy(vcpu->msrs);
	vcpu->msrs = NULL;
}
