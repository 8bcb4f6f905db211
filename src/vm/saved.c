/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/saved.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "chip/lapic.h"
#include "vm/cpu_state.h"
#include "vm/state.h"

enum { MACHINE_VERSION = 1, CPU_VERSION = 1, MSR_VERSION = 1 };

/* ---- saving ---- */

static uint64_t clock_ns(const struct vm *vm)
{
	return vm->ops->vm_clock ? vm->ops->vm_clock(vm->engine)
				 : kvmclock_ns(&vm->kvmclock, vm->ops->vm_tsc(vm->engine));
}

static void save_machine(const struct vm *vm, struct state_writer *w)
{
	uint32_t words[CPUID_WORDS];

	cpuid_words(vm->cpuid, words);
	state_begin(w, "machine", 0, MACHINE_VERSION);
	state_put_u64(w, "clock", clock_ns(vm));
	state_put_u64(w, "tsc-khz", vm->ops->vm_tsc_khz(vm->engine));
	state_put_u32(w, "cpus", vm->vcpus);
	state_put_u32s(w, "cpuid", words, CPUID_WORDS);
}

static void save_vcpu(struct vcpu *vcpu, struct state_writer *w)
{
	const struct engine_ops *ops = vcpu->vm->ops;

	/* What waits to be put into the engine is newer than what is in it. */
	if (!vcpu->new_state) {
		ops->vcpu_get_state(vcpu->engine, &vcpu->state);
		if (ops->in_kernel_lapic)
			lapic_import(vcpu->lapic, vcpu->state.lapic.base, vcpu->state.lapic.tsc_deadline,
				     vcpu->state.lapic.reg);
		else
			vcpu->state.wait_sipi = vcpu->wait_sipi;
	}
	state_begin(w, "cpu", vcpu->index, CPU_VERSION);
	cpu_state_save(&vcpu->state, w);
	state_put_u32(w, "startup", atomic_load(&vcpu->events));
	state_begin(w, "msr", vcpu->index, MSR_VERSION);
	msrs_save(vcpu->msrs, w);
}

/* Devices with a thread or a peer of their own do not stand still because the event loop does. */
static int check_devices(const struct vm *vm, struct error *err)
{
	static const char *const still[] = { "rng", "balloon" };

	for (unsigned i = 0; i < vm->config.devices; i++) {
		bool ok = false;
		for (unsigned n = 0; n < sizeof(still) / sizeof(still[0]); n++)
			ok |= !strcmp(vm->config.device[i].kind, still[n]);
		if (!ok)
			return error_set(err, -ENOTSUP, "a machine with a device of the kind '%s' can't be moved",
					 vm->config.device[i].kind);
	}
	return 0;
}

void saved_write(struct vm *vm, struct state_writer *w)
{
	save_machine(vm, w);
	for (unsigned i = 0; i < vm->vcpus; i++)
		save_vcpu(&vm->vcpu[i], w);
	state_save_devices(w, vm->devices);
}

int vm_save(struct vm *vm, struct vm_saved **result, struct error *err)
{
	struct vm_saved *saved = memory_zalloc(sizeof(*saved));

	*result = NULL;
	saved->writer = state_writer_create();
	saved->tsc_khz = vm->ops->vm_tsc_khz(vm->engine);
	int rc = check_devices(vm, err);
	if (!rc) {
		saved_write(vm, saved->writer);
		rc = state_writer_finish(saved->writer, &saved->bytes, &saved->size, err);
	}
	if (rc) {
		vm_saved_destroy(saved);
		return rc;
	}
	for (unsigned i = 0; i < BOOT_MAX_REGIONS; i++) {
		saved->ram[i] = vm->ram[i];
		vm->ram[i] = (struct host_memory){ .fd = -1 };
	}
	*result = saved;
	return 0;
}

void vm_saved_destroy(struct vm_saved *saved)
{
	if (!saved)
		return;
	for (unsigned i = 0; i < BOOT_MAX_REGIONS; i++)
		host_memory_fini(&saved->ram[i]);
	state_writer_destroy(saved->writer);
	free(saved);
}

/* ---- loading ---- */

static void set_clock(struct vm *vm, uint64_t ns)
{
	struct timespec ts;

	if (vm->ops->vm_set_clock) {
		vm->ops->vm_set_clock(vm->engine, ns);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &ts);
	kvmclock_init(&vm->kvmclock, vm->ops->vm_tsc(vm->engine), vm->ops->vm_tsc_khz(vm->engine), ns,
		      (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
}

static int load_machine(struct vm *vm, struct state_reader *r, struct error *err)
{
	uint32_t cpus = 0, saved[CPUID_WORDS] = { 0 }, here[CPUID_WORDS];
	uint64_t ns = 0, khz = 0;
	int rc = state_enter(r, "machine", 0, MACHINE_VERSION, NULL, err);

	if (rc)
		return rc;
	state_get_u64(r, "clock", &ns);
	state_get_u64(r, "tsc-khz", &khz);
	state_get_u32(r, "cpus", &cpus);
	state_get_u32s(r, "cpuid", saved, CPUID_WORDS);
	if (state_failed(r, err))
		return -EINVAL;
	if (cpus != vm->vcpus)
		return error_set(err, -EINVAL, "the saved machine has %u CPUs, and this one %u", cpus, vm->vcpus);
	/* Measured on a busy host, the same frequency may come out this different. */
	uint64_t now = vm->ops->vm_tsc_khz(vm->engine), margin = now / 50;
	if (khz > now + margin || khz < now - margin)
		return error_set(err, -ENOTSUP, "the saved machine's TSC runs at %llu kHz, and this host's at %llu",
				 (unsigned long long)khz, (unsigned long long)now);
	cpuid_words(vm->cpuid, here);
	for (unsigned i = 0; i < CPUID_WORDS; i++)
		if (saved[i] != here[i])
			return error_set(err, -ENOTSUP,
					 "the saved machine's CPU has other features than engine %s gives here "
					 "(word %u of CPUID: 0x%x and 0x%x)",
					 vm->ops->name, i, saved[i], here[i]);
	set_clock(vm, ns);
	return 0;
}

static int load_vcpu(struct vcpu *vcpu, struct state_reader *r, struct error *err)
{
	uint32_t events = 0;
	int rc = state_enter(r, "cpu", vcpu->index, CPU_VERSION, NULL, err);

	if (!rc)
		rc = cpu_state_load(&vcpu->state, r, err);
	if (rc)
		return rc;
	state_get_u32(r, "startup", &events);
	if (state_failed(r, err))
		return -EINVAL;
	vcpu->wait_sipi = vcpu->state.wait_sipi && !vcpu->vm->ops->in_kernel_lapic;
	vcpu->new_state = true;
	atomic_store(&vcpu->events, events);
	rc = state_enter(r, "msr", vcpu->index, MSR_VERSION, NULL, err);
	return rc ? rc : msrs_load(vcpu->msrs, r, err);
}

int saved_load(struct vm *vm, const struct vm_saved *saved, struct error *err)
{
	struct state_reader *r = NULL;
	int rc = state_reader_create(&r, saved->bytes, saved->size, err);

	if (!rc)
		rc = load_machine(vm, r, err);
	for (unsigned i = 0; !rc && i < vm->vcpus; i++)
		rc = load_vcpu(&vm->vcpu[i], r, err);
	if (!rc)
		rc = state_load_devices(r, vm->devices, err);
	state_reader_destroy(r);
	return rc ? error_prefix(err, rc, "can't go on with a saved machine") : 0;
}
