/* SPDX-License-Identifier: Apache-2.0 */
/* kvm.c - a virtual machine of KVM's behind engine.h's contract: memory, interrupt messages, time. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "base/memory.h"
#include "engine/kvm/private.h"

/* ---- making ---- */

static void on_kick_signal(int number)
{
	(void)number; /* that KVM_RUN was interrupted is all */
}

static int init_signal(struct error *err)
{
	struct sigaction sa = { .sa_handler = on_kick_signal, .sa_flags = SA_RESTART };

	sigemptyset(&sa.sa_mask);
	if (sigaction(KVM_KICK_SIGNAL, &sa, NULL))
		return error_errno(err, -errno, "can't install the handler of signal %d", KVM_KICK_SIGNAL);
	return 0;
}

static bool has(const struct engine_vm *vm, int capability)
{
	return ioctl(vm->fd, KVM_CHECK_EXTENSION, capability) > 0;
}

static int enable(const struct engine_vm *vm, uint32_t capability, uint64_t value)
{
	struct kvm_enable_cap cap = { .cap = capability, .args = { value } };

	return ioctl(vm->fd, KVM_ENABLE_CAP, &cap) ? -errno : 0;
}

static int check_cpus(const struct engine_vm *vm, unsigned cpus, struct error *err)
{
	int max = ioctl(vm->kvm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

	if (max > 0 && cpus > (unsigned)max)
		return error_set(err, -EINVAL, "this host's KVM allows %d CPUs: use --cpus %d or less", max, max);
	return 0;
}

static int make_vm(struct engine_vm *vm, const struct engine_config *config, struct error *err)
{
	char text[256];

	vm->kvm = kvm_open(text, sizeof(text));
	if (vm->kvm < 0)
		return error_set(err, vm->kvm, "%s", text);
	int size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < 0)
		return error_errno(err, -errno, "KVM_GET_VCPU_MMAP_SIZE");
	vm->run_size = (size_t)size;
	int rc = check_cpus(vm, config->vcpus, err);
	if (rc)
		return rc;
	while ((vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0)) < 0)
		if (errno != EINTR)
			return error_errno(err, -errno, "KVM can't make a machine");
	rc = enable(vm, KVM_CAP_SPLIT_IRQCHIP, KVM_PINS);
	if (rc)
		return error_errno(err, rc, "KVM can't split the interrupt controller");
	if (vm->options.halt_poll_ns != UINT64_MAX) {
		rc = enable(vm, KVM_CAP_HALT_POLL, vm->options.halt_poll_ns);
		if (rc)
			return error_errno(err, rc, "KVM can't set halt-poll");
	}
	vm->tsc_offsets = has(vm, KVM_CAP_VCPU_ATTRIBUTES);
	return 0;
}

static void kvm_vm_destroy(struct engine_vm *vm)
{
	if (!vm)
		return;
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm >= 0)
		close(vm->kvm);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

static int kvm_vm_create(struct engine_vm **result, const struct engine_config *config, struct error *err)
{
	struct engine_vm *vm = memory_zalloc(sizeof(*vm));

	vm->kvm = vm->fd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	int rc = kvm_options_parse(config->options, &vm->options, err);
	if (!rc)
		rc = init_signal(err);
	if (!rc)
		rc = make_vm(vm, config, err);
	if (rc) {
		kvm_vm_destroy(vm);
		return rc;
	}
	vm->tsc_start = host_tsc_sample();
	*result = vm;
	return 0;
}

/* ---- memory ---- */

static int set_slot(const struct engine_vm *vm, unsigned i, bool log)
{
	const struct kvm_slot *slot = &vm->slot[i];
	struct kvm_userspace_memory_region region = {
		.slot = i,
		.flags = (log ? KVM_MEM_LOG_DIRTY_PAGES : 0) | (slot->readonly ? KVM_MEM_READONLY : 0),
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->size,
		.userspace_addr = (uintptr_t)slot->hva,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

static int kvm_vm_map(struct engine_vm *vm, uint64_t gpa, void *hva, int fd, uint64_t size, unsigned flags,
		      struct error *err)
{
	(void)fd;
	if (vm->slots == KVM_SLOTS_MAX)
		return error_set(err, -ENOSPC, "more than %d memory regions", KVM_SLOTS_MAX);
	vm->slot[vm->slots] =
	    (struct kvm_slot){ .gpa = gpa, .size = size, .hva = hva, .readonly = flags & ENGINE_MEM_READONLY };
	int rc = set_slot(vm, vm->slots, false);
	if (rc)
		return error_errno(err, rc, "KVM can't take %llu MiB of memory at 0x%llx: use less --memory",
				   (unsigned long long)size >> 20, (unsigned long long)gpa);
	vm->slots++;
	/* A huge page is one entry of the nested page tables; where the host gives none this changes nothing. */
	madvise(hva, size, MADV_HUGEPAGE);
	return 0;
}

static void kvm_vm_written(struct engine_vm *vm, uint64_t gpa, uint64_t size)
{
	(void)vm, (void)gpa, (void)size; /* the guest's pages are the machine's */
}

static int kvm_vm_dirty_log(struct engine_vm *vm, bool on)
{
	int rc = 0;

	pthread_mutex_lock(&vm->lock);
	vm->dirty_log = on;
	for (unsigned i = 0; !rc && i < vm->slots; i++)
		if (!vm->slot[i].readonly)
			rc = set_slot(vm, i, on);
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

static int kvm_vm_dirty_take(struct engine_vm *vm, uint64_t gpa, uint64_t *bitmap)
{
	for (unsigned i = 0; i < vm->slots; i++)
		if (vm->slot[i].gpa == gpa) {
			struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = bitmap };
			return ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) ? -errno : 0;
		}
	return -ENOENT;
}

/* ---- interrupts ---- */

static void kvm_vm_msi(struct engine_vm *vm, const struct engine_msi *msi)
{
	struct kvm_msi m = { .address_lo = (uint32_t)msi->addr, .address_hi = msi->addr >> 32, .data = msi->data };

	/* It fails when no APIC takes the message, which is the guest's business. */
	ioctl(vm->fd, KVM_SIGNAL_MSI, &m);
}

/* KVM looks in its routing table, at the entries of the I/O APIC's pins, for vectors whose end it must tell. */
static void set_routes(const struct engine_vm *vm)
{
	struct kvm_irq_routing *table = memory_zalloc(sizeof(*table) + KVM_PINS * sizeof(table->entries[0]));

	for (unsigned i = 0; i < KVM_PINS; i++) {
		const struct engine_msi *msi = &vm->pin[i];
		if (!msi->addr)
			continue;
		table->entries[table->nr++] = (struct kvm_irq_routing_entry){
			.gsi = i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = (uint32_t)msi->addr,
				   .address_hi = msi->addr >> 32,
				   .data = msi->data },
		};
	}
	ioctl(vm->fd, KVM_SET_GSI_ROUTING, table);
	free(table);
}

static void kvm_vm_eoi_route(struct engine_vm *vm, unsigned pin, const struct engine_msi *msi)
{
	const struct engine_msi none = { 0 };

	if (pin >= KVM_PINS)
		return;
	if (!msi)
		msi = &none;
	pthread_mutex_lock(&vm->lock);
	if (vm->pin[pin].addr != msi->addr || vm->pin[pin].data != msi->data) {
		vm->pin[pin] = *msi;
		set_routes(vm);
	}
	pthread_mutex_unlock(&vm->lock);
}

/* ---- doorbells ---- */

static int kvm_vm_doorbell(struct engine_vm *vm, uint64_t gpa, int fd, bool on)
{
	/* A length of 0 is any, and KVM need not decode the instruction to serve it. */
	struct kvm_ioeventfd bell = { .addr = gpa, .fd = fd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN };

	return ioctl(vm->fd, KVM_IOEVENTFD, &bell) ? -errno : 0;
}

/* ---- time ---- */

static uint64_t kvm_vm_tsc(struct engine_vm *vm)
{
	(void)vm;
	return __rdtsc();
}

static uint64_t kvm_vm_tsc_khz(struct engine_vm *vm)
{
	if (!vm->tsc_khz) {
		int khz = ioctl(vm->fd, KVM_GET_TSC_KHZ, 0); /* of a VM since Linux 5.18 */
		vm->tsc_khz = khz > 0 ? (uint64_t)khz : host_tsc_khz(&vm->tsc_start);
	}
	return vm->tsc_khz;
}

static uint64_t kvm_vm_clock(struct engine_vm *vm)
{
	struct kvm_clock_data data = { 0 };

	ioctl(vm->fd, KVM_GET_CLOCK, &data);
	return data.clock;
}

static void kvm_vm_set_clock(struct engine_vm *vm, uint64_t ns)
{
	struct kvm_clock_data data = { .clock = ns };

	ioctl(vm->fd, KVM_SET_CLOCK, &data);
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.summary = "the Linux kernel runs the guest on the CPU; needs /dev/kvm",
	.in_kernel_lapic = true,
	.direct = true,
	.probe = kvm_probe,
	.cpuid_leaves = kvm_cpuid_leaves,
	.vm_create = kvm_vm_create,
	.vm_destroy = kvm_vm_destroy,
	.vm_map = kvm_vm_map,
	.vm_written = kvm_vm_written,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.vcpu_get_state = kvm_vcpu_get_state,
	.vcpu_set_state = kvm_vcpu_set_state,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vm_tsc = kvm_vm_tsc,
	.vm_tsc_khz = kvm_vm_tsc_khz,
	.vm_msi = kvm_vm_msi,
	.vm_eoi_route = kvm_vm_eoi_route,
	.vm_clock = kvm_vm_clock,
	.vm_set_clock = kvm_vm_set_clock,
	.vm_dirty_log = kvm_vm_dirty_log,
	.vm_dirty_take = kvm_vm_dirty_take,
	.vm_doorbell = kvm_vm_doorbell,
	.vcpu_paravirt = kvm_vcpu_paravirt,
};
