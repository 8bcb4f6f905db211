/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu.c - the loop around KVM_RUN.
 *
 * Kicks. A kicker first says what it wants (`kick`), then sets immediate_exit, by which KVM_RUN returns before it enters
 * the guest, then, if the thread may be in KVM_RUN (`inside`), sends it a signal. The thread first says that it is inside,
 * then looks at `kick`: one of the two sees the other, so no kick is lost and most cost no system call.
 *
 * Settling. KVM keeps things for its next entry that no call reads: after an exit for I/O, memory or an MSR the result that
 * goes into the guest's registers; an end of interrupt that the I/O APIC is to hear of; an expiry of the local APIC's
 * timer that is not in the IRR yet. Whoever wants to leave with the state whole enters once more with a signal pending:
 * KVM does all of that, finds the signal last, and runs no instruction. (With immediate_exit it would do the first only.)
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/memory.h"
#include "engine/kvm/private.h"

/* ---- kicks ---- */

void kvm_vcpu_kick(struct engine_vcpu *vcpu, unsigned what)
{
	atomic_fetch_or(&vcpu->kick, what);
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pid_t inside = atomic_load(&vcpu->inside);
	if (inside)
		syscall(SYS_tgkill, getpid(), inside, KVM_KICK_SIGNAL);
}

/* Takes what was asked for. Returns false when vcpu_run must be left. */
static bool take_kicks(struct engine_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	unsigned what = atomic_exchange(&vcpu->kick, 0);

	if (what & ENGINE_KICK_NMI)
		ioctl(vcpu->fd, KVM_NMI);
	if (what & ENGINE_KICK_INTERRUPT)
		vcpu->wants_window = true;
	return !(what & ENGINE_KICK_EXIT);
}

/* ---- exits ---- */

static void on_io(struct engine_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint16_t port = run->io.port;
	uint8_t size = run->io.size;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;

	for (uint32_t i = run->io.count; i; i--, data += size)
		vcpu->cb->pio(vcpu->ctx, port, data, size, write);
}

/* In parts that do not cross an 8-byte boundary, each of a size that a bus knows. */
static void on_mmio(struct engine_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t gpa = run->mmio.phys_addr;
	unsigned left = run->mmio.len <= sizeof(run->mmio.data) ? run->mmio.len : sizeof(run->mmio.data);
	uint8_t *data = run->mmio.data;
	bool write = run->mmio.is_write;

	while (left) {
		unsigned size = 8;
		while (size > left || (gpa & 7) + size > 8)
			size /= 2;
		vcpu->cb->mmio(vcpu->ctx, gpa, data, size, write);
		gpa += size;
		data += size;
		left -= size;
	}
}

static void on_msr(struct engine_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t value = run->msr.data;
	bool done;

	if (run->exit_reason == KVM_EXIT_X86_WRMSR) {
		done = vcpu->cb->msr_write(vcpu->ctx, run->msr.index, value);
	} else {
		value = 0;
		done = vcpu->cb->msr_read(vcpu->ctx, run->msr.index, &value);
		run->msr.data = value;
	}
	run->msr.error = !done;
}

static void where(const struct engine_vcpu *vcpu, char *text, size_t size)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;

	text[0] = '\0';
	if (!ioctl(vcpu->fd, KVM_GET_REGS, &regs) && !ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		snprintf(text, size, "; cs:rip %04x:%016llx rsp %016llx cr2 %016llx cr3 %016llx", sregs.cs.selector,
			 (unsigned long long)regs.rip, (unsigned long long)regs.rsp, (unsigned long long)sregs.cr2,
			 (unsigned long long)sregs.cr3);
}

static bool stop(struct engine_run *run, enum engine_exit exit)
{
	run->exit = exit;
	return false;
}

static bool on_shutdown(const struct engine_vcpu *vcpu, struct engine_run *run)
{
	char text[160];

	where(vcpu, text, sizeof(text));
	/* AMD's CPUs leave the state undefined, and KVM then resets it. */
	if (strstr(text, ":000000000000fff0 "))
		text[0] = '\0';
	snprintf(run->reason, sizeof(run->reason), "triple fault: KVM saw the CPU shut down%s", text);
	return stop(run, ENGINE_EXIT_SHUTDOWN);
}

/* KVM had to emulate an instruction and could not. At the reset vector it is the boot CPU after an INIT. */
static bool on_internal_error(const struct engine_vcpu *vcpu, struct engine_run *run)
{
	const uint64_t reset_base = 0xffff0000, reset_ip = 0xfff0;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	char text[160];

	if (!ioctl(vcpu->fd, KVM_GET_REGS, &regs) && !ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) && regs.rip == reset_ip &&
	    sregs.cs.base == reset_base && vcpu->index == 0) {
		vcpu->cb->init(vcpu->ctx);
		return stop(run, ENGINE_EXIT_KICKED);
	}
	where(vcpu, text, sizeof(text));
	snprintf(run->reason, sizeof(run->reason), "KVM can't emulate an instruction of the guest's (suberror %u)%s",
		 vcpu->run->internal.suberror, text);
	return stop(run, ENGINE_EXIT_ERROR);
}

/* Returns false when vcpu_run must be left. */
static bool handle_exit(struct engine_vcpu *vcpu, struct engine_run *run)
{
	const struct kvm_run *r = vcpu->run;

	switch (r->exit_reason) {
	case KVM_EXIT_IO:
		on_io(vcpu);
		vcpu->unfinished = true;
		return true;
	case KVM_EXIT_MMIO:
		on_mmio(vcpu);
		vcpu->unfinished = true;
		return true;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		on_msr(vcpu);
		vcpu->unfinished = true;
		return true;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		vcpu->cb->eoi(vcpu->ctx, r->eoi.vector);
		return true;
	case KVM_EXIT_HLT:
		return stop(run, ENGINE_EXIT_HALTED);
	case KVM_EXIT_SHUTDOWN:
		return on_shutdown(vcpu, run);
	case KVM_EXIT_INTERNAL_ERROR:
		return on_internal_error(vcpu, run);
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(run->reason, sizeof(run->reason), "the CPU refuses to enter the guest (reason 0x%llx)",
			 (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
		return stop(run, ENGINE_EXIT_ERROR);
	default:
		snprintf(run->reason, sizeof(run->reason),
			 "KVM left the guest for a reason that is not known here (%u)", r->exit_reason);
		return stop(run, ENGINE_EXIT_ERROR);
	}
}

/* ---- the loop ---- */

/* KVM_RUN, with the kicks' half of the bargain. Returns its result, or -errno. */
static int enter(struct engine_vcpu *vcpu, pid_t thread)
{
	atomic_store(&vcpu->inside, thread);
	if (atomic_load(&vcpu->kick))
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	int r = ioctl(vcpu->fd, KVM_RUN, 0) ? -errno : 0;
	atomic_store(&vcpu->inside, 0);
	return r;
}

static void set_run_mask(const struct engine_vcpu *vcpu, const sigset_t *mask)
{
	enum { KERNEL_SIGSET = 8 };
	uint64_t room[(sizeof(struct kvm_signal_mask) + KERNEL_SIGSET + 7) / 8];
	struct kvm_signal_mask *m = (struct kvm_signal_mask *)room;

	m->len = KERNEL_SIGSET;
	if (mask)
		memcpy(m->sigset, mask, KERNEL_SIGSET);
	ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, mask ? m : NULL);
}

/* Has KVM finish the access that the last exit was for; more may come of it (a string instruction). */
static bool finish(struct engine_vcpu *vcpu, struct engine_run *run)
{
	while (vcpu->unfinished) {
		vcpu->unfinished = false;
		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		int r = ioctl(vcpu->fd, KVM_RUN, 0) ? -errno : 0;
		if (!r && !handle_exit(vcpu, run))
			return false;
	}
	return true;
}

/* Enters KVM until it says that a signal is what it left for. A kick may cut an entry short; and a KVM that emulates may
 * look for signals late and run into another exit first, which is why there is an end to it. */
static bool enter_with_signal(struct engine_vcpu *vcpu, struct engine_run *run)
{
	enum { ENTRIES = 8 };
	bool goes_on = true, cut = true;
	int r = 0;

	for (unsigned i = 0; i < ENTRIES && goes_on && (r != -EINTR || cut); i++) {
		vcpu->unfinished = false;
		vcpu->run->request_interrupt_window = 0;
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		r = ioctl(vcpu->fd, KVM_RUN, 0) ? -errno : 0;
		cut = __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST);
		if (!r)
			goes_on = handle_exit(vcpu, run) && finish(vcpu, run);
	}
	return goes_on;
}

bool kvm_vcpu_settle(struct engine_vcpu *vcpu, struct engine_run *run)
{
	const struct timespec at_once = { 0 };
	sigset_t kick, before, inside;

	/* Blocked here and not in KVM_RUN, the signal is pending there from the start. */
	sigemptyset(&kick);
	sigaddset(&kick, KVM_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, &before);
	inside = before;
	sigdelset(&inside, KVM_KICK_SIGNAL);
	set_run_mask(vcpu, &inside);
	pthread_kill(pthread_self(), KVM_KICK_SIGNAL);
	bool goes_on = finish(vcpu, run) && enter_with_signal(vcpu, run);
	set_run_mask(vcpu, NULL);
	while (sigtimedwait(&kick, NULL, &at_once) > 0)
		;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return goes_on;
}

/* An event whose delivery has begun. KVM_INTERRUPT would be shorter, but what it gives waits inside KVM until a later
 * entry, where no call sees it: a CPU that is stopped before that would lose it. */
static void inject(const struct engine_vcpu *vcpu, uint8_t vector)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_vcpu_events events = { 0 };

	/* It could take the interrupt, so it runs or has halted, and KVM does not see that this ends its halt. */
	ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
	ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events);
	events.flags = 0;
	events.interrupt.injected = 1;
	events.interrupt.nr = vector;
	events.interrupt.soft = 0;
	ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
}

/* The 8259's interrupt, when the guest can take one. The local APICs' own are KVM's. Returns false when vcpu_run ends. */
static bool offer_interrupt(struct engine_vcpu *vcpu, struct engine_run *run)
{
	/* What is unfinished may raise an exception, or change whether the guest can take an interrupt. */
	bool ready = vcpu->wants_window && vcpu->run->ready_for_interrupt_injection;
	if (ready && vcpu->unfinished) {
		if (!kvm_vcpu_settle(vcpu, run))
			return false;
		ready = vcpu->run->ready_for_interrupt_injection;
	}
	if (ready) {
		int vector = vcpu->cb->interrupt_ack(vcpu->ctx);
		if (vector >= 0) {
			inject(vcpu, (uint8_t)vector);
			vcpu->run->ready_for_interrupt_injection = 0; /* another one: when KVM says so */
		} else {
			vcpu->wants_window = false;
		}
	}
	vcpu->run->request_interrupt_window = vcpu->wants_window;
	return true;
}

static bool failed(const struct engine_vcpu *vcpu, int error, struct engine_run *run)
{
	char text[160];

	if (error == -EINTR || error == -EAGAIN)
		return false;
	where(vcpu, text, sizeof(text));
	snprintf(run->reason, sizeof(run->reason), "KVM can't run the guest: %s%s", strerror(-error), text);
	run->exit = ENGINE_EXIT_ERROR;
	return true;
}

void kvm_vcpu_run(struct engine_vcpu *vcpu, struct engine_run *run)
{
	pid_t thread = (pid_t)syscall(SYS_gettid);

	run->exit = ENGINE_EXIT_KICKED;
	if (vcpu->refused[0]) {
		snprintf(run->reason, sizeof(run->reason), "%s", vcpu->refused);
		run->exit = ENGINE_EXIT_ERROR;
		return;
	}
	for (;;) {
		if (!take_kicks(vcpu)) {
			kvm_vcpu_settle(vcpu, run);
			return;
		}
		if (!offer_interrupt(vcpu, run))
			return;
		vcpu->unfinished = false;
		int r = enter(vcpu, thread);
		if (r) {
			if (failed(vcpu, r, run))
				return;
		} else if (!handle_exit(vcpu, run)) {
			return;
		}
	}
}

/* ---- making ---- */

int kvm_vcpu_create(struct engine_vcpu **result, struct engine_vm *vm, unsigned index,
		    const struct engine_callbacks *cb, void *ctx, struct error *err)
{
	struct engine_vcpu *vcpu = memory_zalloc(sizeof(*vcpu));
	int rc = 0;

	*result = NULL;
	vcpu->vm = vm;
	vcpu->index = index;
	vcpu->cb = cb;
	vcpu->ctx = ctx;
	vcpu->run = MAP_FAILED;
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0)
		rc = error_errno(err, -errno, "KVM can't make it");
	if (!rc) {
		vcpu->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
		if (vcpu->run == MAP_FAILED)
			rc = error_errno(err, -errno, "can't map what KVM shares");
	}
	if (!rc)
		rc = kvm_cpuid_set(vcpu, err);
	/* Calls that this CPUID does not offer are not there. All kernels that have the MSR filter have this, too. */
	if (!rc && ioctl(vcpu->fd, KVM_ENABLE_CAP,
			 &(struct kvm_enable_cap){ .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } }))
		rc = error_errno(err, -errno, "KVM can't hold a guest to its CPUID");
	if (!rc && !vm->msrs_filtered) {
		rc = kvm_msr_filter(vcpu, err);
		vm->msrs_filtered = !rc;
	}
	if (rc)
		kvm_vcpu_destroy(vcpu);
	else
		*result = vcpu;
	return rc;
}

void kvm_vcpu_destroy(struct engine_vcpu *vcpu)
{
	if (!vcpu)
		return;
	if (vcpu->run != MAP_FAILED)
		munmap(vcpu->run, vcpu->vm->run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	free(vcpu);
}
