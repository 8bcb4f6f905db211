/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least that a monitor does until a guest of KVM's has run an instruction: a machine, its memory, a CPU in 64-bit mode
 * whose first instructions write '!' to a serial port. What this takes no monitor can avoid on this host.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 128 << 20, PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, CODE = 0x4000 };

static int run(int kvm, uint8_t *memory)
{
	/* mov dx, 0x3f8; mov al, '!'; out dx, al */
	static const uint8_t code[] = { 0x66, 0xba, 0xf8, 0x03, 0xb0, '!', 0xee };
	const uint64_t pml4e = PDPT | 3, pdpte = PD | 3, pde = 0x83;
	struct kvm_userspace_memory_region region = { .memory_size = SIZE, .userspace_addr = (uintptr_t)memory };
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		return 1;
	memcpy(memory + PML4, &pml4e, sizeof(pml4e));
	memcpy(memory + PDPT, &pdpte, sizeof(pdpte));
	memcpy(memory + PD, &pde, sizeof(pde));
	memcpy(memory + CODE, code, sizeof(code));
	int cpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *state = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	if (cpu < 0 || state == MAP_FAILED || ioctl(cpu, KVM_GET_SREGS, &sregs))
		return 1;
	struct kvm_segment flat = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	sregs.cs = flat;
	flat.selector = 16;
	flat.type = 3;
	flat.l = 0;
	flat.db = 1;
	sregs.ds = sregs.es = sregs.ss = flat;
	sregs.cr0 = 0x80000011;
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	if (ioctl(cpu, KVM_SET_SREGS, &sregs) || ioctl(cpu, KVM_SET_REGS, &regs) || ioctl(cpu, KVM_RUN, 0))
		return 1;
	if (state->exit_reason != KVM_EXIT_IO || state->io.port != 0x3f8)
		return 1;
	return write(1, (uint8_t *)state + state->io.data_offset, 1) != 1;
}

int main(void)
{
	uint8_t *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED || run(open("/dev/kvm", O_RDWR | O_CLOEXEC), memory))
		return 1;
	pause();
	return 0;
}
