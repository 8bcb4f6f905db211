/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - exceptions and interrupts: raising one, and what a second one during the delivery of a first means.
 *
 * Raising never delivers: it records the exception in cpu->exc and unwinds to the dispatcher, which calls soft_deliver.
 * A fault met by the delivery itself (the IDT is not there, the new stack is not mapped) is raised in the same way;
 * cpu->delivery then says what was being delivered, and soft_raise combines the two by the rules of SDM Vol. 3, table
 * 6-5. As delivery changes nothing before it can no longer fail, the RIP that the second exception's handler sees is
 * the first one's, as the architecture wants.
 */
#include <stdarg.h>
#include <stdio.h>

#include "engine/soft/profile.h"
#include "engine/soft/system.h"
#include "engine/soft/vm.h"

#define VECTORS_WITH_ERROR \
	(1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP | 1u << EXC_PF | 1u << EXC_AC)
#define VECTORS_WITH_SELECTOR (1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS | 1u << EXC_GP)
#define VECTORS_CONTRIBUTORY (1u << EXC_DE | VECTORS_WITH_SELECTOR)
/* Faults: the saved RFLAGS has RF set, so that the instruction is not stopped again by a breakpoint on it. */
#define VECTORS_FAULT                                                                                       \
	(1u << EXC_DE | 1u << EXC_BR | 1u << EXC_UD | 1u << EXC_NM | VECTORS_WITH_SELECTOR | 1u << EXC_PF | \
	 1u << EXC_MF | 1u << EXC_AC | 1u << EXC_XM)

static bool in_set(unsigned vector, uint32_t set)
{
	return vector < 32 && (set >> vector & 1);
}

void soft_stop(struct soft_cpu *cpu, enum engine_exit exit, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	soft_heavy_begin(cpu);
	vsnprintf(cpu->run->reason, sizeof(cpu->run->reason), fmt, ap);
	soft_heavy_end(cpu);
	va_end(ap);
	cpu->run->exit = exit;
	cpu->leave = true;
	cpu->exc.pending = false;
	cpu->delivery.active = false;
	soft_unwind(cpu);
}

static _Noreturn void triple_fault(struct soft_cpu *cpu)
{
	soft_stop(cpu, ENGINE_EXIT_SHUTDOWN,
		  "triple fault: exception %u (error 0x%x) while delivering a double fault; cs:rip %04x:%016llx "
		  "rsp %016llx cr2 %016llx cr3 %016llx",
		  cpu->exc.vector, cpu->exc.error, cpu->seg[ENGINE_CS].selector, (unsigned long long)cpu->rip,
		  (unsigned long long)cpu->gpr[GPR_SP],
		  (unsigned long long)(cpu->exc.vector == EXC_PF ? cpu->exc.cr2 : cpu->cr2),
		  (unsigned long long)cpu->cr3);
}

/* cpu->exc was met while an event was being delivered: makes it what the guest is to see. */
static void combine(struct soft_cpu *cpu)
{
	unsigned first = cpu->delivery.vector;
	unsigned second = cpu->exc.vector;

	if (cpu->delivery.external && in_set(second, VECTORS_WITH_SELECTOR))
		cpu->exc.error |= 1;
	if (!cpu->delivery.exception)
		return;
	if (first == EXC_DF)
		triple_fault(cpu);
	if (in_set(second, VECTORS_CONTRIBUTORY) ? in_set(first, VECTORS_CONTRIBUTORY | 1u << EXC_PF)
						 : second == EXC_PF && first == EXC_PF) {
		cpu->exc.vector = EXC_DF;
		cpu->exc.error = 0;
	}
}

static _Noreturn void raise_exc(struct soft_cpu *cpu, unsigned vector, uint32_t error, uint64_t cr2, uint64_t dr6)
{
	cpu->exc.vector = vector;
	cpu->exc.error = error;
	cpu->exc.cr2 = cr2;
	cpu->exc.dr6 = dr6;
	if (cpu->delivery.active)
		combine(cpu);
	cpu->exc.has_error = in_set(cpu->exc.vector, VECTORS_WITH_ERROR);
	cpu->exc.pending = true;
	cpu->delivery.active = false;
	soft_unwind(cpu);
}

void soft_raise(struct soft_cpu *cpu, unsigned vector, uint32_t error)
{
	raise_exc(cpu, vector, error, 0, 0);
}

void soft_raise_pf(struct soft_cpu *cpu, uint64_t linear, uint32_t error)
{
	raise_exc(cpu, EXC_PF, error, linear, 0);
}

void soft_raise_db(struct soft_cpu *cpu, uint64_t dr6)
{
	raise_exc(cpu, EXC_DB, 0, 0, dr6);
}

void soft_single_step(struct soft_cpu *cpu)
{
	uint64_t dr6 = cpu->watch.hits | (cpu->step_trap ? DR6_BS : 0);

	/* No trap between MOV SS and the instruction that goes with it: a breakpoint's comes after that one. */
	if (cpu->shadow & 2) {
		cpu->watch.again = cpu->watch.hits;
		return;
	}
	cpu->watch.hits = 0;
	soft_update_mode(cpu);
	if (dr6)
		soft_raise_db(cpu, dr6);
}

void soft_before_insn(struct soft_cpu *cpu)
{
	bool resume = cpu->resume;
	uint8_t hits = cpu->watch.code ? soft_watch_code(cpu) : 0;

	cpu->resume = false;
	if (hits && !resume && !cpu->watch.again)
		soft_raise_db(cpu, hits);
	cpu->watch.again = false;
	cpu->mode |= SOFT_MODE_STEP;
}

/* ---- delivery ---- */

static void trace(struct soft_cpu *cpu, const struct soft_event *ev, const char *what)
{
	const uint64_t *r = cpu->gpr;

	if (!cpu->vm || !(cpu->vm->trace & ENGINE_TRACE_INT))
		return;
	soft_heavy_begin(cpu);
	fprintf(cpu->vm->trace_file,
		"int: cpu %u %s %02x error %x cpl %u %04x:%016llx rsp %04x:%016llx cr2 %016llx rflags %08llx "
		"rax %016llx rcx %016llx rdx %016llx rbx %016llx\n",
		cpu->index, what, ev->vector, ev->has_error ? ev->error : 0, soft_cpl(cpu),
		cpu->seg[ENGINE_CS].selector, (unsigned long long)ev->rip, cpu->seg[ENGINE_SS].selector,
		(unsigned long long)r[GPR_SP], (unsigned long long)cpu->cr2, (unsigned long long)ev->rflags,
		(unsigned long long)r[GPR_AX], (unsigned long long)r[GPR_CX], (unsigned long long)r[GPR_DX],
		(unsigned long long)r[GPR_BX]);
	soft_heavy_end(cpu);
}

/* Delivers *ev, with cpu->delivery saying what it is for as long as that takes. */
static void deliver(struct soft_cpu *cpu, const struct soft_event *ev, bool exception, bool external, const char *what)
{
	unsigned state = profiled(cpu) ? cpu->profile->state : 0;

	trace(cpu, ev, what);
	if (profiled(cpu))
		profile_event(cpu, exception || ev->soft, ev->vector, ev->error);
	cpu->kernel_entries += soft_cpl(cpu) == 3;
	cpu->delivery.vector = ev->vector;
	cpu->delivery.exception = exception;
	cpu->delivery.external = external;
	cpu->delivery.active = true;
	soft_deliver_event(cpu, ev);
	cpu->delivery.active = false;
	cpu->resume = false;
	cpu->halted = false;
	cpu->shadow = 0;
	profile_back(cpu, state);
}

void soft_deliver(struct soft_cpu *cpu)
{
	struct soft_event ev;

	ev.vector = cpu->exc.vector;
	ev.has_error = cpu->exc.has_error;
	ev.error = cpu->exc.error;
	ev.soft = false;
	ev.rip = cpu->rip;
	ev.rflags = soft_get_rflags(cpu);
	if (in_set(ev.vector, VECTORS_FAULT))
		ev.rflags |= RF_RF;
	cpu->exc.pending = false;
	cpu->watch.hits = 0;
	if (ev.vector == EXC_PF)
		cpu->cr2 = cpu->exc.cr2;
	if (ev.vector == EXC_DB) {
		cpu->dr[6] = (cpu->dr[6] & ~15ull) | cpu->exc.dr6;
		cpu->dr[7] &= ~(1ull << 13);
	}
	deliver(cpu, &ev, true, true, "exception");
}

void soft_interrupt(struct soft_cpu *cpu, unsigned vector)
{
	struct soft_event ev = { .vector = vector, .rip = cpu->rip, .rflags = soft_get_rflags(cpu) };

	if (cpu->watch.code && cpu->resume)
		ev.rflags |= RF_RF;
	if (vector == EXC_NMI)
		cpu->nmi_masked = true;
	deliver(cpu, &ev, false, true, vector == EXC_NMI ? "nmi" : "interrupt");
}

void soft_software_interrupt(struct soft_cpu *cpu, unsigned vector, uint64_t next)
{
	struct soft_event ev = { .vector = vector, .soft = true, .rip = next, .rflags = soft_get_rflags(cpu) };

	deliver(cpu, &ev, false, false, "int");
	/* It cleared TF, and there is no trap after it. */
	cpu->step_trap = false;
}

void soft_help_int1(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	struct soft_event ev = { .vector = EXC_DB, .rip = soft_next_rip(cpu, insn), .rflags = soft_get_rflags(cpu) };

	(void)ea;
	cpu->dr[7] &= ~(1ull << 13);
	cpu->dr[6] |= cpu->watch.hits;
	cpu->watch.hits = 0;
	deliver(cpu, &ev, true, true, "int1");
	cpu->step_trap = false;
}
