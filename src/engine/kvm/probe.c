/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - is KVM any use here? A /dev/kvm that exists is not one that works: a kernel without the CPU's virtualization
 * (inside some cloud machines) runs guest user mode on the CPU and emulates guest kernel mode, an instruction at a time.
 * So a scratch machine runs a few thousand instructions in ring 0, and the time that they take decides.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/kvm/private.h"

#define DEVICE "/dev/kvm"

/* ---- the device ---- */

static int no_permission(char *text, size_t size)
{
	struct stat st;
	const struct group *group = NULL;

	if (!stat(DEVICE, &st) && st.st_mode & S_IRGRP && st.st_mode & S_IWGRP)
		group = getgrgid(st.st_gid);
	if (group)
		snprintf(text, size,
			 "no permission to open " DEVICE
			 ", which is for the group %s: `usermod -aG %s USER` and a new login",
			 group->gr_name, group->gr_name);
	else
		snprintf(text, size,
			 "no permission to open " DEVICE ", which is for no group: its owner must give it to one");
	return -EACCES;
}

static int cant_open(int error, char *text, size_t size)
{
	switch (error) {
	case ENOENT:
		snprintf(text, size,
			 "there is no " DEVICE
			 ": the CPU's virtualization is off or hidden, or the kernel's module kvm_intel "
			 "or kvm_amd is not loaded");
		break;
	case EACCES:
	case EPERM:
		return no_permission(text, size);
	case ENODEV:
	case ENXIO:
		snprintf(text, size,
			 DEVICE " is there but nothing behind it: load the kernel's module kvm_intel or kvm_amd");
		break;
	default:
		snprintf(text, size, "can't open " DEVICE ": %s", strerror(error));
		break;
	}
	return -error;
}

/* What the engine can't do without, and since which Linux it is there. */
static const struct {
	int number;
	const char *what, *since;
} needed[] = {
	{ KVM_CAP_USER_MEMORY, "guest memory of its user's", "2.6.25" },
	{ KVM_CAP_MP_STATE, "the run state of CPUs", "2.6.28" },
	{ KVM_CAP_VCPU_EVENTS, "pending events as state", "2.6.33" },
	{ KVM_CAP_DEBUGREGS, "debug registers as state", "2.6.35" },
	{ KVM_CAP_XSAVE, "vector registers as state", "2.6.36" },
	{ KVM_CAP_SIGNAL_MSI, "interrupt messages", "3.5" },
	{ KVM_CAP_SPLIT_IRQCHIP, "a split interrupt controller", "4.4" },
	{ KVM_CAP_IMMEDIATE_EXIT, "an immediate exit", "4.13" },
	{ KVM_CAP_X86_USER_SPACE_MSR, "MSRs served by its user", "5.10" },
	{ KVM_CAP_X86_MSR_FILTER, "an MSR filter", "5.10" },
};

static int check_device(int kvm, char *text, size_t size)
{
	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION) {
		if (version < 0)
			snprintf(text, size, DEVICE " does not answer as KVM does: %s", strerror(errno));
		else
			snprintf(text, size,
				 "the kernel's KVM has version %d of its interface, and this is made for version %d",
				 version, KVM_API_VERSION);
		return -ENOTSUP;
	}
	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (ioctl(kvm, KVM_CHECK_EXTENSION, needed[i].number) <= 0) {
			snprintf(text, size, "the kernel's KVM lacks %s: Linux %s and later have it", needed[i].what,
				 needed[i].since);
			return -ENOTSUP;
		}
	return 0;
}

int kvm_open(char *text, size_t size)
{
	int kvm = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return cant_open(errno, text, size);
	int rc = check_device(kvm, text, size);
	if (rc) {
		close(kvm);
		return rc;
	}
	return kvm;
}

/* ---- running something ---- */

/* Guest memory of the scratch machine: three levels of page tables that map the first 2 MiB to themselves, and code. */
enum { PML4 = 0x0000, PDPT = 0x1000, PD = 0x2000, CODE = 0x3000, MEMORY = 0x4000 };

/* Instructions of the loop in a run, and the most that one may take: the CPU needs less than one ns, emulation some
 * hundred, and a CPU that is itself emulated as a whole (where KVM is as good as anything else) about ten. */
enum { LOOPS = 400, PER_LOOP = 2, RUNS = 3, EMPTY_RUNS = 4, NS_MAX = 100 };

/* Where the guest says that it has come to the end of the loop: a port of no meaning, as halting would have to be left to KVM's local APIC. */
enum { DONE_PORT = 0x80 };

struct scratch {
	int vm, cpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_size;
};

static void fill_memory(uint8_t *memory)
{
	/* 1: dec ecx; jnz 1b; out DONE_PORT, al; jmp 1b */
	static const uint8_t code[] = { 0xff, 0xc9, 0x75, 0xfc, 0xe6, DONE_PORT, 0xeb, 0xf8 };
	const uint64_t pml4e = PDPT | 3, pdpte = PD | 3, pde = 0x83;

	memcpy(memory + PML4, &pml4e, sizeof(pml4e));
	memcpy(memory + PDPT, &pdpte, sizeof(pdpte));
	memcpy(memory + PD, &pde, sizeof(pde));
	memcpy(memory + CODE, code, sizeof(code));
}

/* Ring 0 of 64-bit mode: what a kernel runs in. Real mode would tell nothing, which older CPUs need to have emulated. */
static int set_mode(const struct scratch *s)
{
	struct kvm_sregs sregs;

	if (ioctl(s->cpu, KVM_GET_SREGS, &sregs))
		return -errno;
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	struct kvm_segment data = code;
	data.selector = 16;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
	sregs.cr0 = 0x80000011; /* PG, ET, PE */
	sregs.cr4 = 0x20;       /* PAE */
	sregs.cr3 = PML4;
	sregs.efer = 0x500; /* LMA, LME */
	return ioctl(s->cpu, KVM_SET_SREGS, &sregs) ? -errno : 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	/* What this thread ran, the guest's time included: a busy host must not look like one that emulates. */
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Runs the loop so many times and says how long it took, or -errno. */
static int64_t run_loop(const struct scratch *s, uint64_t loops)
{
	struct kvm_regs regs = { .rip = CODE, .rcx = loops, .rflags = 2 };

	if (ioctl(s->cpu, KVM_SET_REGS, &regs))
		return -errno;
	uint64_t start = now_ns();
	while (ioctl(s->cpu, KVM_RUN, 0))
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	uint64_t end = now_ns();
	bool done = s->run->exit_reason == KVM_EXIT_IO && s->run->io.port == DONE_PORT;
	return done ? (int64_t)(end - start) : -EPROTO;
}

/* Picoseconds of an instruction in the best of some runs, less the way in and out in the best of some; or -errno. */
static int64_t measure(const struct scratch *s)
{
	int64_t nothing = INT64_MAX, loop = INT64_MAX;

	for (int i = 0; i < EMPTY_RUNS; i++) {
		int64_t took = run_loop(s, 1);
		if (took < 0)
			return took;
		nothing = took < nothing ? took : nothing;
	}
	for (int i = 0; i < RUNS; i++) {
		int64_t took = run_loop(s, LOOPS);
		if (took < 0)
			return took;
		loop = took < loop ? took : loop;
		if (loop < nothing + (int64_t)NS_MAX * LOOPS * PER_LOOP)
			break;
	}
	return (loop > nothing ? loop - nothing : 0) * 1000 / (LOOPS * PER_LOOP);
}

static int make_scratch(struct scratch *s, int kvm)
{
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	*s = (struct scratch){ .vm = -1, .cpu = -1, .memory = MAP_FAILED, .run = MAP_FAILED };
	if (size < (int)sizeof(struct kvm_run))
		return -EPROTO;
	s->run_size = (size_t)size;
	s->vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (s->vm < 0)
		return -errno;
	/* Without a local APIC of its own, KVM would rewrite itself for the first such CPU and again after the last. */
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { KVM_PINS } };
	if (ioctl(s->vm, KVM_ENABLE_CAP, &split))
		return -errno;
	s->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->memory == MAP_FAILED)
		return -errno;
	fill_memory(s->memory);
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY, .userspace_addr = (uintptr_t)s->memory };
	if (ioctl(s->vm, KVM_SET_USER_MEMORY_REGION, &region))
		return -errno;
	s->cpu = ioctl(s->vm, KVM_CREATE_VCPU, 0);
	if (s->cpu < 0)
		return -errno;
	s->run = mmap(NULL, s->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, s->cpu, 0);
	return s->run == MAP_FAILED ? -errno : set_mode(s);
}

static void drop_scratch(const struct scratch *s)
{
	if (s->run != MAP_FAILED)
		munmap(s->run, s->run_size);
	if (s->cpu >= 0)
		close(s->cpu);
	if (s->vm >= 0)
		close(s->vm);
	if (s->memory != MAP_FAILED)
		munmap(s->memory, MEMORY);
}

int kvm_probe(const char *list, char *text, size_t size)
{
	struct kvm_options options;
	struct scratch scratch;
	struct error err;

	if (kvm_options_parse(list, &options, &err)) {
		snprintf(text, size, "%s", err.text);
		return -EINVAL;
	}
	int kvm = kvm_open(text, size);
	if (kvm < 0)
		return kvm;
	int rc = make_scratch(&scratch, kvm);
	int64_t ps = rc ? rc : measure(&scratch);
	drop_scratch(&scratch);
	close(kvm);
	if (ps < 0) {
		snprintf(text, size, "KVM can't run a small test: %s", strerror((int)-ps));
		return (int)ps;
	}
	bool slow = ps > NS_MAX * 1000;
	snprintf(text, size, "%s guest kernel mode, %lld.%lld ns an instruction%s",
		 slow ? "KVM is there, but this host emulates" : "the CPU runs", (long long)ps / 1000,
		 (long long)ps % 1000 / 100,
		 !slow          ? ""
		 : options.slow ? " (--engine-options slow: used all the same)"
				: ": an ordinary kernel would take hours (--engine-options slow runs it all the same)");
	return slow && !options.slow ? -ENOTSUP : 0;
}
