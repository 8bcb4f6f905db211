/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine_fuzz.c - a libFuzzer target over everything that a guest reaches without executing an instruction: ports,
 * memory-mapped I/O, MSRs, CPUID, CR8, interrupts, at every chip of a machine, with time that moves and with state saved and loaded
 * in between. The input is a list of operations of 12 bytes. What is wrong shows as a sanitizer's report, an assert or a
 * hang.
 */
#include <stdlib.h>
#include <string.h>

#include "chip/i8250.h"
#include "chip/lapic.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/machine.h"
#include "vm/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VCPUS = 3, RAM = 1 << 16, OP_SIZE = 12 };

struct engine_vcpu {
	const struct engine_callbacks *cb;
	void *ctx;
};

struct engine_vm {
	struct clock *clock;
};

static int stub_vcpu_create(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned index,
			    const struct engine_callbacks *cb, void *ctx, struct error *err)
{
	(void)vm, (void)index, (void)err;
	*vcpu = malloc(sizeof(**vcpu));
	if (!*vcpu)
		abort();
	**vcpu = (struct engine_vcpu){ cb, ctx };
	return 0;
}

static void stub_vcpu_destroy(struct engine_vcpu *vcpu)
{
	free(vcpu);
}

static void stub_written(struct engine_vm *vm, uint64_t gpa, uint64_t size)
{
	(void)vm;
	if (gpa > RAM || size > RAM - gpa)
		abort();
}

static void stub_kick(struct engine_vcpu *vcpu, unsigned what)
{
	(void)vcpu, (void)what;
}

static uint64_t stub_tsc(struct engine_vm *vm)
{
	return 3 * clock_now(vm->clock);
}

static uint64_t stub_tsc_khz(struct engine_vm *vm)
{
	(void)vm;
	return 3000000;
}

static const struct engine_ops stub = {
	.name = "stub",
	.vcpu_create = stub_vcpu_create,
	.vcpu_destroy = stub_vcpu_destroy,
	.vm_written = stub_written,
	.vcpu_kick = stub_kick,
	.vm_tsc = stub_tsc,
	.vm_tsc_khz = stub_tsc_khz,
};

static void set_up(struct vm *vm, struct engine_vm *engine, uint8_t *ram)
{
	struct cpuid_config cpuid = { .vcpus = VCPUS, .tsc_khz = 3000000 };
	struct error err;

	vm_config_init(&vm->config);
	vm->config.debug_exit = true;
	vm->ops = &stub;
	vm->engine = engine;
	vm->clock = engine->clock = clock_create_manual();
	vm->memory.regions = 1;
	vm->memory.region[0] = (struct boot_region){ 0, RAM, ram };
	pthread_mutex_init(&vm->lock, NULL);
	vm->cpuid = cpuid_create(&cpuid);
	kvmclock_init(&vm->kvmclock, 0, 3000000, 0, 0);
	vm->vcpus = VCPUS;
	for (unsigned i = 0; i < VCPUS; i++) {
		vm->vcpu[i].vm = vm;
		vm->vcpu[i].index = i;
	}
	if (event_loop_create(&vm->loop, &err) || console_create(&vm->console, vm, &err) || wiring_create(vm, &err))
		abort();
	for (unsigned i = 0; i < VCPUS; i++)
		if (vcpu_create(&vm->vcpu[i], &err))
			abort();
}

static void tear_down(struct vm *vm)
{
	wiring_destroy(vm);
	for (unsigned i = 0; i < VCPUS; i++)
		vcpu_destroy(&vm->vcpu[i]);
	console_destroy(vm->console);
	event_loop_destroy(vm->loop);
	clock_destroy(vm->clock);
	cpuid_destroy(vm->cpuid);
	pthread_mutex_destroy(&vm->lock);
}

/* What was saved can be loaded, whatever the guest did before. */
static void save_and_load(struct vm *vm)
{
	struct state_writer *w = state_writer_create();
	struct state_reader *r;
	const void *bytes;
	struct error err;
	size_t size;

	state_save_devices(w, vm->devices);
	if (state_writer_finish(w, &bytes, &size, &err) || state_reader_create(&r, bytes, size, &err) ||
	    state_load_devices(r, vm->devices, &err))
		abort();
	state_reader_destroy(r);
	state_writer_destroy(w);
}

/* Half of the operations aim at what is known to be there. */
static uint16_t port_of(uint8_t choice, uint16_t raw)
{
	static const uint16_t known[] = { 0x20, 0x40,  0x60,  0x61,  0x70,  0x80,  0x92,  0xa0,
					  0xf4, 0x3f8, 0x4d0, 0x600, 0x608, 0x60c, 0xcf8, 0xcfc };

	return choice & 1 ? raw : known[choice >> 1 & 15] + (raw & 7);
}

static uint64_t gpa_of(uint8_t choice, uint64_t raw)
{
	static const uint64_t known[] = { 0xfec00000, 0xfee00000, 0xfed00000, 0xc0000000 };

	return choice & 1 ? raw : known[choice >> 1 & 3] + (raw & 0xfff);
}

static uint32_t msr_of(uint8_t choice, uint32_t raw)
{
	static const uint32_t known[] = { 0x800, 0x200, 0x400, 0x10, 0x4b564d00, 0xc0010000, 0x6e0, 0x1b };

	return choice & 1 ? raw : known[choice >> 1 & 7] + (raw & 0x3f);
}

static void operate(struct vm *vm, const uint8_t *op)
{
	struct vcpu *vcpu = &vm->vcpu[op[0] >> 4 & 1 ? 1 + (op[0] >> 5) % (VCPUS - 1) : 0];
	const struct engine_callbacks *cb = vcpu->engine->cb;
	uint64_t value, raw, size = 1u << (op[1] >> 6);
	struct engine_cpuid regs;

	memcpy(&value, op + 4, sizeof(value));
	raw = op[2] | (uint64_t)op[3] << 8;
	switch (op[0] & 15) {
	case 0:
	case 1:
	case 2:
		cb->pio(vcpu, port_of(op[1], (uint16_t)raw), &value, size > 4 ? 4 : (unsigned)size, op[0] & 3);
		break;
	case 3:
	case 4:
	case 5: {
		uint64_t gpa = gpa_of(op[1], raw << 16 | raw) & ~(size - 1);
		cb->mmio(vcpu, gpa, &value, (unsigned)size, (op[0] & 15) != 3);
		break;
	}
	case 6:
	case 7:
	case 8:
		cb->msr_write(vcpu, msr_of(op[1], (uint32_t)raw), value);
		break;
	case 9:
		cb->msr_read(vcpu, msr_of(op[1], (uint32_t)raw), &value);
		break;
	case 10:
		cb->interrupt_ack(vcpu);
		break;
	case 11:
		cb->cr8_write(vcpu, value & 15);
		if (cb->cr8_read(vcpu) != (value & 15))
			abort();
		break;
	case 12:
		clock_advance(vm->clock, value & 0xffffff);
		break;
	case 13:
		i8250_receive(vm->uart, op + 4, 8);
		break;
	case 14:
		cb->cpuid(vcpu, (uint32_t)value, (uint32_t)raw, &regs);
		break;
	case 15:
		if (op[1] & 1)
			save_and_load(vm);
		else if (op[1] & 2)
			wiring_reset(vm);
		else
			lapic_init(vcpu->lapic);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct vcpu *vcpus = aligned_alloc(64, VCPUS * sizeof(*vcpus));
	uint8_t *ram = calloc(1, RAM);
	struct engine_vm engine;

	if (!vm || !vcpus || !ram)
		abort();
	memset(vcpus, 0, VCPUS * sizeof(*vcpus));
	vm->vcpu = vcpus;
	set_up(vm, &engine, ram);
	for (size_t at = 0; at + OP_SIZE <= size; at += OP_SIZE)
		operate(vm, data + at);
	save_and_load(vm);
	tear_down(vm);
	free(ram);
	free(vcpus);
	free(vm);
	return 0;
}
