/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.c - all guest-visible state of a CPU, between KVM's calls and the contract's struct.
 *
 * Order matters when state goes in: special registers first, since they hold EFER and the APIC's mode; the time stamp
 * counter and the local APIC before the deadline that needs both; events and the run state last, which the others change.
 */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "engine/kvm/private.h"

_Static_assert(sizeof(struct kvm_xsave) == ENGINE_XSAVE_SIZE, "the same area");

enum { MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b, MSR_TSC_DEADLINE = 0x6e0 };
enum { UNUSABLE = 1 << 16, RFLAGS_IF = 1 << 9 };
enum { APIC_ID = 0x02, APIC_LVT_TIMER = 0x32, APIC_INITIAL_COUNT = 0x38, APIC_CURRENT_COUNT = 0x39 };
enum { LVT_TIMER_PERIODIC = 1 << 17, LVT_TIMER_DEADLINE = 1 << 18 };

/* The MSRs that are plain fields. */
static const struct {
	uint32_t index;
	size_t offset;
} fields[] = {
#define FIELD(index, name)                                     \
	{                                                      \
		index, offsetof(struct engine_cpu_state, name) \
	}
	FIELD(0xc0000081, star),           FIELD(0xc0000082, lstar),  FIELD(0xc0000083, cstar),
	FIELD(0xc0000084, sfmask),         FIELD(0x174, sysenter_cs), FIELD(0x175, sysenter_esp),
	FIELD(0x176, sysenter_eip),        FIELD(0x277, pat),         FIELD(0xc0000103, tsc_aux),
	FIELD(0xc0000102, kernel_gs_base),
#undef FIELD
};
enum { FIELDS = sizeof(fields) / sizeof(fields[0]) };

/* ---- segments and tables ---- */

static void put_segment(struct kvm_segment *to, const struct engine_segment *from)
{
	*to = (struct kvm_segment){
		.base = from->base,
		.limit = from->limit,
		.selector = from->selector,
		.type = from->attr & 15,
		.s = from->attr >> 4 & 1,
		.dpl = from->attr >> 5 & 3,
		.present = from->attr >> 7 & 1,
		.avl = from->attr >> 12 & 1,
		.l = from->attr >> 13 & 1,
		.db = from->attr >> 14 & 1,
		.g = from->attr >> 15 & 1,
		.unusable = from->attr >> 16 & 1,
	};
	if (to->unusable)
		to->present = 0;
}

static void get_segment(struct engine_segment *to, const struct kvm_segment *from)
{
	to->base = from->base;
	to->limit = from->limit;
	to->selector = from->selector;
	to->attr = from->type | from->s << 4 | from->dpl << 5 | (uint32_t)from->present << 7 |
		   (uint32_t)from->avl << 12 | (uint32_t)from->l << 13 | (uint32_t)from->db << 14 |
		   (uint32_t)from->g << 15;
	if (from->unusable || !from->present)
		to->attr |= UNUSABLE;
}

static struct kvm_segment *segment_of(struct kvm_sregs *s, unsigned i)
{
	struct kvm_segment *const all[ENGINE_SEGMENTS] = {
		[ENGINE_ES] = &s->es, [ENGINE_CS] = &s->cs, [ENGINE_SS] = &s->ss,    [ENGINE_DS] = &s->ds,
		[ENGINE_FS] = &s->fs, [ENGINE_GS] = &s->gs, [ENGINE_LDTR] = &s->ldt, [ENGINE_TR] = &s->tr,
	};

	return all[i];
}

/* ---- general registers: KVM names them, we count them ---- */

static __u64 *gpr_of(struct kvm_regs *r, unsigned i)
{
	__u64 *const all[16] = { &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
				 &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15 };

	return all[i];
}

/* ---- out ---- */

static void get_registers(struct engine_vcpu *vcpu, struct engine_cpu_state *s)
{
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };

	ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = *gpr_of(&regs, i);
	s->rip = regs.rip;
	s->rflags = regs.rflags;
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++)
		get_segment(&s->seg[i], segment_of(&sregs, i));
	s->gdtr.base = sregs.gdt.base;
	s->gdtr.limit = sregs.gdt.limit;
	s->idtr.base = sregs.idt.base;
	s->idtr.limit = sregs.idt.limit;
	s->cr0 = sregs.cr0;
	s->cr2 = sregs.cr2;
	s->cr3 = sregs.cr3;
	s->cr4 = sregs.cr4;
	s->cr8 = sregs.cr8;
	s->efer = sregs.efer;
	s->lapic.base = sregs.apic_base;
}

static void get_vectors(struct engine_vcpu *vcpu, struct engine_cpu_state *s)
{
	struct kvm_xcrs xcrs = { 0 };

	s->xcr0 = 1;
	if (!ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs) && xcrs.nr_xcrs)
		s->xcr0 = xcrs.xcrs[0].value;
	ioctl(vcpu->fd, KVM_GET_XSAVE, vcpu->xsave);
	memcpy(s->xsave, vcpu->xsave, sizeof(s->xsave));
}

static void get_events(struct engine_vcpu *vcpu, struct engine_cpu_state *s)
{
	struct kvm_vcpu_events events = { 0 };
	struct kvm_mp_state mp = { 0 };
	struct kvm_debugregs debug = { 0 };

	ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp); /* takes in INIT and start-up messages that wait */
	ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events);
	ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug);
	s->halted = mp.mp_state == KVM_MP_STATE_HALTED;
	s->wait_sipi = mp.mp_state == KVM_MP_STATE_UNINITIALIZED || mp.mp_state == KVM_MP_STATE_INIT_RECEIVED;
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = debug.db[i];
	s->dr[6] = debug.dr6;
	s->dr[7] = debug.dr7;
	/* An NMI that KVM has begun to deliver is one that waits: nothing of it is visible yet. */
	s->nmi_pending = events.nmi.pending || events.nmi.injected;
	s->nmi_masked = events.nmi.masked && !events.nmi.injected;
	s->interrupt_shadow = events.interrupt.shadow;
	if (events.exception.injected) {
		s->event.valid = true;
		s->event.vector = events.exception.nr;
		s->event.has_error = events.exception.has_error_code;
		s->event.error = events.exception.error_code;
	} else if (events.interrupt.injected) {
		s->event.valid = s->event.external = true;
		s->event.vector = events.interrupt.nr;
	}
}

static void read_lapic(const struct engine_vcpu *vcpu, struct engine_lapic *to)
{
	struct kvm_lapic_state lapic = { 0 };

	ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic);
	for (unsigned i = 0; i < 64; i++)
		memcpy(&to->reg[i], lapic.regs + 16 * (size_t)i, sizeof(to->reg[i]));
}

/* The timer goes on meanwhile. When it expires, KVM takes note, and makes it an interrupt at the next entry; what is
 * between is seen by nobody, and a one-shot timer would be lost. So KVM is entered, without running the guest, until no
 * expiry can have been since. (A deadline stays to be read until its interrupt is there.) */
static void get_lapic(struct engine_vcpu *vcpu, struct engine_cpu_state *s)
{
	uint32_t *reg = s->lapic.reg, before;
	struct engine_run run;

	read_lapic(vcpu, &s->lapic);
	if (reg[APIC_INITIAL_COUNT] && !(reg[APIC_LVT_TIMER] & LVT_TIMER_DEADLINE)) {
		do {
			before = reg[APIC_CURRENT_COUNT];
			kvm_vcpu_settle(vcpu, &run);
			read_lapic(vcpu, &s->lapic);
		} while (reg[APIC_CURRENT_COUNT] > before || (before && !reg[APIC_CURRENT_COUNT]));
	}
	reg[APIC_ID] = vcpu->index << 24;
	kvm_msr_get(vcpu, MSR_TSC_DEADLINE, &s->lapic.tsc_deadline);
}

void kvm_vcpu_get_state(struct engine_vcpu *vcpu, struct engine_cpu_state *s)
{
	memset(s, 0, sizeof(*s));
	get_lapic(vcpu, s); /* first, since it may enter KVM */
	get_events(vcpu, s);
	get_registers(vcpu, s);
	get_vectors(vcpu, s);
	for (unsigned i = 0; i < FIELDS; i++)
		kvm_msr_get(vcpu, fields[i].index, (uint64_t *)((char *)s + fields[i].offset));
	kvm_msr_get(vcpu, MSR_TSC_ADJUST, &s->tsc_adjust);
}

/* ---- in ---- */

/* Takes note of what KVM refuses: vcpu_run says it. */
static void put(struct engine_vcpu *vcpu, bool done, const char *what)
{
	if (!done && !vcpu->refused[0])
		snprintf(vcpu->refused, sizeof(vcpu->refused), "KVM refuses what a CPU's %s shall be", what);
}

static void put_registers(struct engine_vcpu *vcpu, const struct engine_cpu_state *s)
{
	struct kvm_regs regs = { .rip = s->rip, .rflags = s->rflags };
	struct kvm_sregs sregs = {
		.gdt = { .base = s->gdtr.base, .limit = s->gdtr.limit },
		.idt = { .base = s->idtr.base, .limit = s->idtr.limit },
		.cr0 = s->cr0,
		.cr2 = s->cr2,
		.cr3 = s->cr3,
		.cr4 = s->cr4,
		.cr8 = s->cr8,
		.efer = s->efer,
		.apic_base = s->lapic.base,
	};

	for (unsigned i = 0; i < 16; i++)
		*gpr_of(&regs, i) = s->gpr[i];
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++)
		put_segment(segment_of(&sregs, i), &s->seg[i]);
	/* KVM finds the privilege level in SS, also when that is null. */
	if (sregs.ss.unusable)
		sregs.ss.dpl = s->seg[ENGINE_CS].selector & 3;
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_SREGS, &sregs), "special registers");
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_REGS, &regs), "registers");
}

static void put_vectors(struct engine_vcpu *vcpu, const struct engine_cpu_state *s)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = s->xcr0 } } };

	/* A CPU without XSAVE has no XCR0. */
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs) || s->xcr0 == 1, "XCR0");
	memcpy(vcpu->xsave, s->xsave, sizeof(s->xsave));
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_XSAVE, vcpu->xsave), "vector registers");
}

static void put_events(struct engine_vcpu *vcpu, const struct engine_cpu_state *s)
{
	struct kvm_debugregs debug = { .dr6 = s->dr[6], .dr7 = s->dr[7] };
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_vcpu_events events = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
		.nmi = { .pending = s->nmi_pending, .masked = s->nmi_masked },
	};

	/* STI's shadow can't be where IF is clear. */
	if (s->interrupt_shadow)
		events.interrupt.shadow = s->rflags & RFLAGS_IF ? KVM_X86_SHADOW_INT_STI : KVM_X86_SHADOW_INT_MOV_SS;
	if (s->event.valid && s->event.external) {
		events.interrupt.injected = 1;
		events.interrupt.nr = s->event.vector;
	} else if (s->event.valid) {
		events.exception.injected = 1;
		events.exception.nr = s->event.vector;
		events.exception.has_error_code = s->event.has_error;
		events.exception.error_code = s->event.error;
	}
	for (unsigned i = 0; i < 4; i++)
		debug.db[i] = s->dr[i];
	if (s->wait_sipi)
		mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	else if (s->halted && !s->event.valid) /* the event ends the halt, which KVM would not see */
		mp.mp_state = KVM_MP_STATE_HALTED;
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug), "debug registers");
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events), "pending events");
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp), "run state");
}

/* The TSC is the host's plus tsc_adjust. Written as a value, it is off by the time of a system call. */
static void put_tsc(struct engine_vcpu *vcpu, const struct engine_cpu_state *s)
{
	uint64_t offset = s->tsc_adjust;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset,
	};

	kvm_msr_set(vcpu, MSR_TSC_ADJUST, s->tsc_adjust);
	if (!vcpu->vm->tsc_offsets || ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr))
		put(vcpu, kvm_msr_set(vcpu, MSR_TSC, __rdtsc() + s->tsc_adjust), "time stamp counter");
}

static void put_lapic(struct engine_vcpu *vcpu, const struct engine_cpu_state *s)
{
	struct kvm_lapic_state lapic = { 0 };

	for (unsigned i = 0; i < 64; i++)
		memcpy(lapic.regs + 16 * (size_t)i, &s->lapic.reg[i], sizeof(s->lapic.reg[i]));
	const uint32_t id = vcpu->index << 24, none = 0;
	memcpy(lapic.regs + 16 * (size_t)APIC_ID, &id, sizeof(id));
	/* KVM takes a one-shot timer that has nothing left for one that expires now, and this one has expired. */
	if (!s->lapic.reg[APIC_CURRENT_COUNT] &&
	    !(s->lapic.reg[APIC_LVT_TIMER] & (LVT_TIMER_PERIODIC | LVT_TIMER_DEADLINE)))
		memcpy(lapic.regs + 16 * (size_t)APIC_INITIAL_COUNT, &none, sizeof(none));
	put(vcpu, !ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic), "local APIC");
	put(vcpu, kvm_msr_set(vcpu, MSR_TSC_DEADLINE, s->lapic.tsc_deadline), "timer's deadline");
}

void kvm_vcpu_set_state(struct engine_vcpu *vcpu, const struct engine_cpu_state *s)
{
	vcpu->refused[0] = '\0';
	vcpu->unfinished = false;
	vcpu->run->ready_for_interrupt_injection = 0; /* of the old state */
	put_registers(vcpu, s);
	put_vectors(vcpu, s);
	for (unsigned i = 0; i < FIELDS; i++) {
		uint64_t value;
		memcpy(&value, (const char *)s + fields[i].offset, sizeof(value));
		put(vcpu, kvm_msr_set(vcpu, fields[i].index, value), "MSRs");
	}
	put_tsc(vcpu, s);
	put_lapic(vcpu, s);
	put_events(vcpu, s);
	vcpu->wants_window = true; /* look once */
}
