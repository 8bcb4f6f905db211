/* SPDX-License-Identifier: Apache-2.0 */
/* wiring.c - which chips a machine has, and which pin of which goes where. */
#include <errno.h>
#include <string.h>

#include "chip/board.h"
#include "chip/i8250.h"
#include "chip/i8259.h"
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "virtio/virtio.h"
#include "virtio/virtio_pci.h"
#include "vm/bus.h"
#include "vm/clock.h"
#include "vm/machine.h"
#include "vm/pci.h"
#include "vm/platform.h"

static int no_memory(struct error *err)
{
	return error_errno(err, -ENOMEM, "can't make the machine's chips");
}

static void add_device(struct vm *vm, struct device *dev)
{
	struct device **last = &vm->devices;

	while (*last)
		last = &(*last)->next;
	dev->next = NULL;
	*last = dev;
}

/* ---- what lapics ask of their vCPU ---- */

static void on_kick(void *vcpu, unsigned what)
{
	vcpu_kick(vcpu, what);
}

static uint64_t on_tsc(void *ctx)
{
	const struct vcpu *vcpu = ctx;

	return vcpu->vm->ops->vm_tsc(vcpu->vm->engine);
}

static uint64_t on_tsc_khz(void *ctx)
{
	const struct vcpu *vcpu = ctx;

	return vcpu->vm->ops->vm_tsc_khz(vcpu->vm->engine);
}

/* Of engines that bring their own local APICs: ours only hold their state. */
static bool lapics_are_engines(const struct vm *vm)
{
	return vm->ops->in_kernel_lapic;
}

static int make_lapics(struct vm *vm, struct error *err)
{
	vm->lapics = lapic_bus_create();
	if (!vm->lapics)
		return no_memory(err);
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct lapic_config config = {
		    .bus = vm->lapics,
		    .clock = vm->clock,
		    .id = (uint8_t)i,
		    .x2apic = true,
		    .tsc_deadline = true,
		    .phys_bits = (uint8_t)cpuid_phys_bits(vm->cpuid),
		    .passive = lapics_are_engines(vm),
		    .host =
			{
			    .ctx = &vm->vcpu[i],
			    .kick = on_kick,
			    .init = vcpu_post_init,
			    .sipi = vcpu_post_sipi,
			    .tsc = on_tsc,
			    .tsc_khz = on_tsc_khz,
			},
		};
		vm->vcpu[i].lapic = lapic_create(&config);
		if (!vm->vcpu[i].lapic)
			return no_memory(err);
		add_device(vm, lapic_device(vm->vcpu[i].lapic));
	}
	return 0;
}

/* ---- interrupts ---- */

static struct engine_msi msi_of(const struct apic_message *msg)
{
	uint32_t dest = msg->dest == APIC_DEST_ALL ? 0xff : msg->dest & 0xff;

	return (struct engine_msi){
		.addr = PLATFORM_LAPIC_BASE | dest << 12 | (uint32_t)msg->logical << 2,
		.data = msg->vector | (uint32_t)msg->delivery << 8 | (uint32_t)msg->level << 15,
	};
}

/* A message of the I/O APIC's. */
static void deliver(void *ctx, const struct apic_message *msg)
{
	const struct vm *vm = ctx;

	if (lapics_are_engines(vm)) {
		const struct engine_msi msi = msi_of(msg);
		vm->ops->vm_msi(vm->engine, &msi);
	} else {
		lapic_bus_deliver(vm->lapics, msg);
	}
}

static void on_route(void *ctx, unsigned pin, const struct apic_message *msg)
{
	const struct vm *vm = ctx;

	if (!lapics_are_engines(vm))
		return;
	if (msg) {
		const struct engine_msi msi = msi_of(msg);
		vm->ops->vm_eoi_route(vm->engine, pin, &msi);
	} else {
		vm->ops->vm_eoi_route(vm->engine, pin, NULL);
	}
}

/* The 8259's output, for the boot CPU. */
static void set_lint0(void *ctx, unsigned pin, bool level)
{
	struct vm *vm = ctx;

	lapic_set_lint(vm->vcpu[0].lapic, pin, level);
	if (!lapics_are_engines(vm))
		return;
	atomic_store(&vm->extint, level);
	if (level)
		vcpu_kick(&vm->vcpu[0], ENGINE_KICK_INTERRUPT);
}

static void on_eoi(void *ioapic, uint8_t vector)
{
	ioapic_eoi(ioapic, vector);
}

static int make_interrupt_controllers(struct vm *vm, struct error *err)
{
	struct irq_line lint0 = { .set = set_lint0, .sink = vm, .pin = 0 };
	struct ioapic_config config = {
		.mmio = vm->mmio,
		.base = PLATFORM_IOAPIC_BASE,
		.id = 0, /* as in the MADT */
		.deliver = deliver,
		.route = on_route,
		.ctx = vm,
	};

	vm->pic = i8259_create(vm->pio, lint0);
	if (!vm->pic)
		return no_memory(err);
	add_device(vm, i8259_device(vm->pic));
	vm->ioapic = ioapic_create(&config);
	if (!vm->ioapic)
		return no_memory(err);
	add_device(vm, ioapic_device(vm->ioapic));
	lapic_bus_set_eoi(vm->lapics, on_eoi, vm->ioapic);
	lapic_bus_set_extint(vm->lapics, i8259_ack, vm->pic);
	return 0;
}

/* An ISA interrupt reaches both controllers; guests mask the one that they do not use. */
static void isa_set(void *ctx, unsigned irq, bool level)
{
	struct vm *vm = ctx;

	i8259_set(vm->pic, irq, level);
	ioapic_set(vm->ioapic, irq == PLATFORM_IRQ_TIMER ? PLATFORM_GSI_TIMER : irq, level);
}

static struct irq_line isa_line(struct vm *vm, unsigned irq)
{
	return (struct irq_line){ .set = isa_set, .sink = vm, .pin = irq };
}

/* ---- PCI ---- */

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct vm *vm = ctx;

	/* It would be a write to memory, of no use to anyone; or there is no engine any more. */
	if (addr >> 20 != PLATFORM_LAPIC_BASE >> 20 || !vm->engine)
		return;
	if (lapics_are_engines(vm))
		vm->ops->vm_msi(vm->engine, &(const struct engine_msi){ .addr = addr, .data = data });
	else
		lapic_bus_msi(vm->lapics, addr, data);
}

static int on_doorbell(void *ctx, uint64_t addr, int fd, bool on)
{
	const struct vm *vm = ctx;

	return vm->ops->vm_doorbell(vm->engine, addr, fd, on);
}

/* Four lines, of which two each share an input of the 8259s: dsdt.asl tells guests the same. */
static void pirq_set(void *ctx, unsigned line, bool level)
{
	struct vm *vm = ctx;

	vm->pirq[line] = level;
	ioapic_set(vm->ioapic, PLATFORM_GSI_PCI + line, level);
	i8259_set(vm->pic, PLATFORM_IRQ_PCI + line % 2, vm->pirq[line] || vm->pirq[(line + 2) % 4]);
}

static void make_pci(struct vm *vm)
{
	struct pci_config config = {
		.pio = vm->pio,
		.mmio = vm->mmio,
		.reset_bus = vm->reset_bus,
		.msi = on_msi,
		.msi_ctx = vm,
		/* One that may change its engine does without. */
		.doorbell = vm->ops->vm_doorbell && !vm->config.movable[0] ? on_doorbell : NULL,
	};

	for (unsigned i = 0; i < PCI_PIRQS; i++)
		config.pirq[i] = (struct irq_line){ .set = pirq_set, .sink = vm, .pin = i };
	vm->pci = pci_create(&config);
	add_device(vm, pci_device(vm->pci));
}

/* ---- the board ---- */

static void on_board_event(void *ctx, enum board_event event, unsigned code)
{
	struct vm *vm = ctx;

	switch (event) {
	case BOARD_POWER_OFF:
		vm_request_end(vm, VM_POWER_OFF, 0, "the guest powered off");
		break;
	case BOARD_RESET:
		vm_request_reset(vm);
		break;
	case BOARD_DEBUG_EXIT:
		vm_request_end(vm, VM_DEBUG_EXIT, code, "the guest wrote to the debug exit port");
		break;
	}
}

static bool wanted(const struct vm *vm, const struct board_device *device)
{
	if (!device->optional)
		return true;
	return !strcmp(device->name, "debug_exit") && vm->config.debug_exit;
}

static int make_board(struct vm *vm, struct error *err)
{
	struct board board = {
		.pio = vm->pio,
		.mmio = vm->mmio,
		.reset_bus = vm->reset_bus,
		.clock = vm->clock,
		.event = on_board_event,
		.ctx = vm,
		.ram_low = vm->memory.region[0].size,
		.ram_high = vm->memory.regions > 1 ? vm->memory.region[1].size : 0,
	};

	for (unsigned i = 0; i < 16; i++)
		board.isa[i] = isa_line(vm, i);
	for (const struct board_device *device = board_devices; device->name; device++) {
		if (!wanted(vm, device))
			continue;
		struct device *dev = device->create(&board);
		if (!dev)
			return no_memory(err);
		add_device(vm, dev);
	}
	return 0;
}

static int make_uart(struct vm *vm, struct error *err)
{
	struct i8250_config config = {
		.pio = vm->pio,
		.base = PLATFORM_COM1_PORT,
		.irq = isa_line(vm, PLATFORM_IRQ_COM1),
		.clock = vm->clock,
		.flow_control = true,
		.back = { .ctx = vm->console, .write = console_write, .room = console_room },
	};

	vm->uart = i8250_create(&config);
	if (!vm->uart)
		return no_memory(err);
	add_device(vm, i8250_device(vm->uart));
	return 0;
}

/* ---- what the user asked for ---- */

static void on_device_failed(void *ctx, const char *reason)
{
	vm_request_end(ctx, VM_ERROR, 0, reason);
}

static void on_device_warned(void *ctx, const char *what)
{
	const struct vm *vm = ctx;

	if (vm->config.warn)
		vm->config.warn(vm->config.warn_ctx, what);
}

/* What a machine is recognised by when it starts again: its name, or what it boots. */
static const char *identity(const struct vm *vm)
{
	if (vm->config.name)
		return vm->config.name;
	for (unsigned i = 0; i < vm->config.devices; i++)
		if (!strcmp(vm->config.device[i].kind, "blk"))
			return vm->config.device[i].options;
	return vm->config.kernel;
}

static unsigned same_kind_before(const struct vm *vm, unsigned device)
{
	unsigned n = 0;

	for (unsigned i = 0; i < device; i++)
		n += !strcmp(vm->config.device[i].kind, vm->config.device[device].kind);
	return n;
}

static int make_devices(struct vm *vm, struct error *err)
{
	struct virtio_env env = {
		.memory = &vm->guest_memory,
		.loop = vm->loop,
		.clock = vm->clock,
		.cpus = vm->vcpus,
		.fail = on_device_failed,
		.warn = on_device_warned,
		.ctx = vm,
		.machine = identity(vm),
	};
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->config.devices; i++) {
		const struct vm_device *wanted = &vm->config.device[i];
		const struct virtio_kind *kind = virtio_kind_find(wanted->kind);
		struct virtio *v;
		struct device *dev;

		env.index = same_kind_before(vm, i);
		rc = kind->create(&v, &env, wanted->options, err);
		if (!rc && !strcmp(wanted->kind, "balloon"))
			vm->balloon = v;
		if (!rc)
			rc = virtio_pci_create(&dev, vm->pci, v, err);
		if (!rc)
			add_device(vm, dev);
	}
	if (!rc) /* places the BARs of what is there now */
		pci_device(vm->pci)->ops->reset(pci_device(vm->pci));
	return rc;
}

int wiring_create(struct vm *vm, struct error *err)
{
	vm->pio = bus_create();
	vm->mmio = bus_create();
	vm->reset_bus = bus_create();
	int rc = make_lapics(vm, err);
	if (!rc)
		rc = make_interrupt_controllers(vm, err);
	if (!rc)
		rc = make_board(vm, err);
	if (!rc)
		rc = make_uart(vm, err);
	if (!rc)
		make_pci(vm);
	if (!rc)
		rc = make_devices(vm, err);
	return rc;
}

void wiring_pause(struct vm *vm, bool on)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		if (dev->ops->pause)
			dev->ops->pause(dev, on);
}

struct device **wiring_chips_end(struct vm *vm)
{
	return &i8250_device(vm->uart)->next;
}

void wiring_set_engine(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpus; i++)
		lapic_set_passive(vm->vcpu[i].lapic, lapics_are_engines(vm));
}

void wiring_reset(struct vm *vm)
{
	for (struct device *dev = vm->devices; dev; dev = dev->next)
		dev->ops->reset(dev);
}

/* The last made goes first: a chip may use those made before it. */
static void destroy_from(struct device *dev)
{
	if (!dev)
		return;
	destroy_from(dev->next);
	dev->ops->destroy(dev);
}

void wiring_destroy(struct vm *vm)
{
	destroy_from(vm->devices);
	vm->devices = NULL;
	if (vm->lapics)
		lapic_bus_destroy(vm->lapics);
	vm->lapics = NULL;
	bus_destroy(vm->pio);
	bus_destroy(vm->mmio);
	bus_destroy(vm->reset_bus);
	vm->pio = vm->mmio = vm->reset_bus = NULL;
}
