/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct.c - running guest ring 3 without translating it.
 *
 * Problem: translated code takes twice the time of the program itself on average, and cannot take less than all of it. But ring 3 of a guest
 * needs no translation to be harmless: user mode is what the host's kernel gives to any process.
 *
 * Scheme: the address space of a guest process is built a second time as that of a host process, the *stub*, from the same
 * memory at the same addresses (direct_map.c), and the guest's code runs there as it stands, held by ptrace (direct_stub.c).
 * A system call, a fault, a privileged instruction or a kick stops it; the registers are brought back here, and whatever it
 * was is done by the translator, from that very instruction on: it walks the page tables, raises the guest's
 * exceptions, runs the guest's kernel. So this file decides nothing about what the guest sees. It is an accelerator that may
 * give up at any instruction.
 *
 * The way there and back costs some 13 us, as much as twenty thousand instructions, so only what computes goes there:
 *
 * - A timer interrupt that finds ring 3 looks at how often the kernel was entered since the last one in the same address
 *   space. Less than once in 50 us: on.
 * - When the runs of a stub are short on average, off again, for a time that doubles with each failure.
 *
 * What must be so for ring 3 to mean the same here as there: 64-bit code with the host's selectors, which are Linux's; interrupts on; no
 * alignment checks, no single-stepping and no breakpoints; the host's TSC; vector state of the same components. Pages with instructions that tell ring 3 of the
 * host are not executable in a stub (direct_scan.c).
 *
 * Rules:
 * - While a stub runs, cpu->direct_pid is its process, and its vCPU's thread sleeps. Whoever kicks the CPU signals
 *   that process, having set the bit first; the thread sets direct_pid first, and looks for bits then.
 * - The thread holds no lock and no pointer into the block cache meanwhile.
 * - What others must revoke (soft_direct_protect) they write down before they look whether the stub runs; if it does they
 *   stop it and wait until it has stopped. The thread looks for what is written down after it has set direct_pid.
 */
#include "engine/soft/direct.h"

#include <signal.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/soft/cache.h"
#include "engine/soft/profile.h"
#include "engine/soft/run.h"
#include "engine/soft/system.h"
#include "engine/soft/vm.h"

enum { CALLS_PER_MS = 20, DEFAULT_KHZ = 3000000 };

void soft_direct_tick(struct soft_cpu *cpu)
{
	struct soft_computing *c = soft_computing(cpu);
	uint64_t now = __rdtsc(), since = now - cpu->tick.at;
	uint64_t khz = cpu->vm->tsc_khz ? cpu->vm->tsc_khz : DEFAULT_KHZ;
	if (cpu->vm->no_direct)
		return;
	if (c->cr3 != cpu->cr3)
		*c = (struct soft_computing){ .cr3 = cpu->cr3 };
	if (!c->on && cpu->tick.cr3 == cpu->cr3 && now >= c->off_until)
		c->on = since / (cpu->kernel_entries - cpu->tick.entries + 1) > khz / CALLS_PER_MS;
	cpu->tick.at = now;
	cpu->tick.cr3 = cpu->cr3;
	cpu->tick.entries = cpu->kernel_entries;
}

/* Selectors that have changed are loaded as the instruction that changed them would have done it. */
static void load_segments(struct soft_cpu *cpu, const struct direct_result *result)
{
	uint64_t fs = cpu->seg[ENGINE_FS].base, gs = cpu->seg[ENGINE_GS].base;
	for (unsigned seg = ENGINE_ES; seg <= ENGINE_GS; seg++) {
		if (result->selector[seg] == cpu->seg[seg].selector)
			continue;
		if (seg == ENGINE_CS) {
			struct soft_desc desc;
			soft_desc_read(cpu, result->selector[seg], EXC_GP, &desc);
			soft_enter_code(cpu, &desc, 3, cpu->rip);
		} else {
			soft_load_seg(cpu, seg, result->selector[seg]);
		}
	}
	cpu->seg[ENGINE_FS].base = fs;
	cpu->seg[ENGINE_GS].base = gs;
	soft_update_mode(cpu);
}

void soft_direct_run(struct soft_cpu *cpu)
{
	unsigned state = profile_enter(cpu, PROFILE_HANDOFF);
	cpu->exit_link = NULL;
	cpu->branch.to = 0;
	cpu->direct_stay = ~0ull;
	soft_heavy_begin(cpu);
	soft_fpu_pointers(cpu, cpu->xsave);
	soft_returns_drop(cpu);
	cache_leave(cpu->vm->cache, cpu); /* so that nobody has to stop it to evict translations */
	struct direct_result result = direct_enter(cpu);
	cache_pass(cpu->vm->cache, cpu);
	soft_heavy_end(cpu);
	profile_back(cpu, state);
	cpu->direct_pass = result.rest == DIRECT_TRANSLATE || result.rest == DIRECT_REFUSED;
	if (result.rest != DIRECT_REFUSED)
		soft_update_mode(cpu);
	if (result.segments)
		load_segments(cpu, &result);
	if (result.rest == DIRECT_STEP_TRAP)
		soft_raise_db(cpu, DR6_BS);
}

/* Between two looks at something that takes microseconds; sched_yield may cost a thread its turn. */
static void wait_a_little(void)
{
	enum { US = 20 };
	usleep(US);
}

void soft_direct_protect(struct soft_cpu *cpu, uint64_t gpa)
{
	struct soft_direct *d = __atomic_load_n(&cpu->direct, __ATOMIC_ACQUIRE);
	if (!d)
		return;
	while (atomic_exchange_explicit(&d->lock, 1, memory_order_acquire))
		wait_a_little();
	if (gpa == SOFT_EVERY_PAGE || d->revokeds >= DIRECT_REVOKED)
		d->revokeds = DIRECT_REVOKED + 1;
	else
		d->revoked[d->revokeds++] = gpa & ~4095ull;
	atomic_store(&d->revoke, true);
	atomic_store_explicit(&d->lock, 0, memory_order_release);
	int pid = atomic_load(&cpu->direct_pid);
	if (!pid)
		return;
	kill(pid, SIGUSR1);
	while (atomic_load(&cpu->direct_pid) == pid && atomic_load(&d->revoke))
		wait_a_little();
}

uint32_t soft_kick(struct soft_cpu *cpu, uint32_t what)
{
	uint32_t before = atomic_fetch_or(&cpu->kick, what);
	int pid = atomic_load(&cpu->direct_pid);
	if (pid)
		kill(pid, SIGUSR1);
	return before;
}
