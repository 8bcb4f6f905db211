/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct_run.c - into a stub and back: the heavy half of direct.c.
 *
 * A vCPU has a few stubs, each for one address space, by CR3; the one that was used least recently is given to the next
 * that comes. A fault whose page the guest's tables have is mended here, and the stub goes on.
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/soft/cache.h"
#include "engine/soft/direct.h"
#include "engine/soft/direct_map.h"
#include "engine/soft/direct_stub.h"
#include "engine/soft/paging.h"
#include "engine/soft/profile.h"
#include "engine/soft/system.h"

enum { SPACES = 4, USER_CS = 0x33, USER_DS = 0x2b, NEEDED_RFLAGS = RF_IF, XSAVE_HEADER = 512, XSAVE_SOFTWARE = 464 };
/* Policy: a round is so many runs, of so long on average at least; how long it is off after that; and mending faults. */
enum { ROUND = 16, SHORTEST_US = 25, OFF_FIRST_MS = 10, OFF_MOST_MS = 1000, MENDS = 2048, FAILURES = 8 };
enum { SECCOMP_STOP = 1 }; /* SYS_SECCOMP of asm-generic/siginfo.h: libc has no name for it */
#define RFLAGS_MINE (FLAG_ARITH | RF_TF | RF_DF | RF_NT | RF_AC | RF_ID)

struct direct_space {
	uint64_t cr3;
	struct direct_stub stub;
	struct direct_map map;
	uint64_t used;    /* when, by direct_spaces.runs */
	uint64_t flushes; /* soft_direct.flushes, as far as it has heeded them */
};

struct direct_spaces {
	struct direct_trampoline trampoline;
	struct direct_space space[SPACES];
	uint64_t runs;
	unsigned failures; /* of runs, one after the other */
	bool denied;       /* the host does not let us */
};

static int create(struct soft_cpu *cpu)
{
	struct soft_direct *d = calloc(1, sizeof(*d));
	if (d)
		d->spaces = calloc(1, sizeof(*d->spaces));
	if (!d || !d->spaces || direct_trampoline_init(&d->spaces->trampoline) < 0) {
		free(d ? d->spaces : NULL);
		free(d);
		return -ENOMEM;
	}
	/* What a stub would throw away need not be given to it. */
	madvise(cpu, sizeof(*cpu) & ~(size_t)SOFT_PAGE_MASK, MADV_DONTFORK);
	cache_stay(cpu->vm->cache);
	__atomic_store_n(&cpu->direct, d, __ATOMIC_RELEASE);
	return 0;
}

void soft_direct_destroy(struct soft_cpu *cpu)
{
	struct soft_direct *d = cpu->direct;
	if (!d)
		return;
	cpu->direct = NULL;
	for (unsigned i = 0; i < SPACES; i++) {
		direct_stub_end(&d->spaces->space[i].stub);
		direct_map_fini(&d->spaces->space[i].map);
	}
	direct_trampoline_fini(&d->spaces->trampoline);
	free(d->spaces);
	free(d);
}

/* ---- May it be run directly? ---- */

static bool flat_selectors(const struct soft_cpu *cpu)
{
	static const uint8_t data[] = { ENGINE_ES, ENGINE_DS, ENGINE_FS, ENGINE_GS };
	for (unsigned i = 0; i < sizeof(data); i++) {
		uint16_t selector = cpu->seg[data[i]].selector;
		if (selector != 0 && selector != USER_DS)
			return false;
	}
	return cpu->seg[ENGINE_CS].selector == USER_CS && cpu->seg[ENGINE_SS].selector == USER_DS;
}

static uint64_t host_xcr0(void)
{
	unsigned lo, hi;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

static bool eligible(const struct soft_cpu *cpu)
{
	const uint32_t must_not = SOFT_MODE_STEP | SOFT_MODE_TS | SOFT_MODE_EM | SOFT_MODE_TSD;
	const uint32_t flags = RF_TF | RF_IF | RF_IOPL | RF_NT | RF_AC | RF_VM;
	return !(cpu->mode & must_not) && (cpu->sysflags & flags) == NEEDED_RFLAGS && !cpu->shadow &&
	       (cpu->cr4 & (CR4_FSGSBASE | CR4_OSFXSR | CR4_OSXSAVE)) == (CR4_FSGSBASE | CR4_OSFXSR | CR4_OSXSAVE) &&
	       !(cpu->dr[7] & 0xff) && !cpu->tsc_offset && !(cpu->vm->trace & ENGINE_TRACE_EXEC) &&
	       ((host_xcr0() ^ cpu->xcr0) & 0xff) == 0 && flat_selectors(cpu) && !direct_map_in_the_way(cpu);
}

/* ---- Its stub ---- */

static int start(struct soft_cpu *cpu, struct direct_space *space)
{
	const struct soft_vm *vm = cpu->vm;
	int fd[SOFT_MAX_REGIONS];
	unsigned n = 0;
	if (!space->map.page && direct_map_init(&space->map) < 0)
		return -ENOMEM;
	for (unsigned i = 0; i < vm->regions; i++)
		if (vm->region[i].fd >= 0)
			fd[n++] = vm->region[i].fd;
	direct_map_reset(&space->map);
	space->map.calls = 0;
	return n ? direct_stub_start(&space->stub, &cpu->direct->spaces->trampoline, fd, n) : -ENOTSUP;
}

/* The address space's, made if there is none; NULL when the host does not let us. */
static struct direct_space *space_of(struct soft_cpu *cpu)
{
	struct direct_spaces *s = cpu->direct->spaces;
	struct direct_space *oldest = &s->space[0];
	s->runs++;
	for (unsigned i = 0; i < SPACES; i++) {
		struct direct_space *space = &s->space[i];
		if (space->cr3 == cpu->cr3 && space->stub.pid) {
			space->used = s->runs;
			return space;
		}
		if (space->used < oldest->used)
			oldest = space;
	}
	oldest->cr3 = cpu->cr3;
	oldest->used = s->runs;
	if (oldest->stub.pid) {
		direct_map_reset(&oldest->map);
	} else if (start(cpu, oldest) < 0) {
		s->denied = true;
		return NULL;
	}
	oldest->flushes = cpu->direct->flushes;
	return oldest;
}

/* Heeds what the guest has invalidated. */
static void heed_flushes(struct soft_cpu *cpu, struct direct_space *space)
{
	struct soft_direct *d = cpu->direct;
	/* Those of other spaces' are verified anyway: CR3 was loaded since. */
	for (unsigned i = 0; i < d->gones; i++) {
		if (d->gone[i].cr3 != space->cr3)
			continue;
		if (space->map.large)
			space->flushes = UINT64_MAX;
		else
			direct_map_drop(&space->map, cpu, d->gone[i].linear);
	}
	d->gones = 0;
	if (space->flushes == d->flushes)
		return;
	direct_map_verify(&space->map, cpu);
	space->flushes = d->flushes;
}

/* Heeds what others have revoked, in all spaces. */
static void heed_revokes(struct soft_direct *d)
{
	if (!atomic_load(&d->revoke))
		return;
	while (atomic_exchange_explicit(&d->lock, 1, memory_order_acquire))
		usleep(1);
	for (unsigned i = 0; i < SPACES; i++) {
		struct direct_map *map = &d->spaces->space[i].map;
		if (!map->page)
			continue;
		for (unsigned j = 0; j < d->revokeds && d->revokeds <= DIRECT_REVOKED; j++)
			direct_map_protect(map, d->revoked[j]);
		if (d->revokeds > DIRECT_REVOKED)
			direct_map_protect(map, SOFT_EVERY_PAGE);
	}
	d->revokeds = 0;
	atomic_store(&d->revoke, false);
	atomic_store_explicit(&d->lock, 0, memory_order_release);
}

/* Brings the stub's mappings up to date. 0, or -errno when they can't be. */
static int make_calls(struct soft_cpu *cpu, struct direct_space *space)
{
	const struct direct_trampoline *trampoline = &cpu->direct->spaces->trampoline;
	struct direct_map *map = &space->map;
	int rc = 0;
	for (unsigned tries = 0; tries < 2; tries++) {
		memcpy(trampoline->call, map->call, map->calls * sizeof(*map->call));
		rc = direct_stub_calls(&space->stub, trampoline, map->calls);
		map->calls = 0;
		if (rc == 0 || rc == -ESRCH)
			break;
		direct_map_reset(map); /* too many mappings, most likely */
	}
	return rc;
}

/* ---- Registers ---- */

static const unsigned gpr_at[16] = {
#define AT(name) offsetof(struct user_regs_struct, name) / sizeof(unsigned long long)
	AT(rax), AT(rcx), AT(rdx), AT(rbx), AT(rsp), AT(rbp), AT(rsi), AT(rdi),
	AT(r8),  AT(r9),  AT(r10), AT(r11), AT(r12), AT(r13), AT(r14), AT(r15),
#undef AT
};

static void give_registers(const struct soft_cpu *cpu, struct user_regs_struct *regs)
{
	unsigned long long *words = (unsigned long long *)regs;
	*regs = (struct user_regs_struct){
		.rip = cpu->rip,
		.eflags = soft_get_rflags(cpu),
		.orig_rax = ~0ull,
		.cs = cpu->seg[ENGINE_CS].selector,
		.ss = cpu->seg[ENGINE_SS].selector,
		.ds = cpu->seg[ENGINE_DS].selector,
		.es = cpu->seg[ENGINE_ES].selector,
		.fs = cpu->seg[ENGINE_FS].selector,
		.gs = cpu->seg[ENGINE_GS].selector,
		.fs_base = cpu->seg[ENGINE_FS].base,
		.gs_base = cpu->seg[ENGINE_GS].base,
	};
	for (unsigned i = 0; i < 16; i++)
		words[gpr_at[i]] = cpu->gpr[i];
}

static void take_registers(struct soft_cpu *cpu, const struct user_regs_struct *regs, struct direct_result *result)
{
	const unsigned long long *words = (const unsigned long long *)regs;
	const uint16_t selector[6] = {
		[ENGINE_ES] = (uint16_t)regs->es, [ENGINE_CS] = (uint16_t)regs->cs, [ENGINE_SS] = (uint16_t)regs->ss,
		[ENGINE_DS] = (uint16_t)regs->ds, [ENGINE_FS] = (uint16_t)regs->fs, [ENGINE_GS] = (uint16_t)regs->gs
	};
	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = words[gpr_at[i]];
	cpu->rip = regs->rip;
	soft_set_arith(cpu, (uint32_t)regs->eflags);
	cpu->sysflags = (cpu->sysflags & ~(uint32_t)RFLAGS_MINE) | ((uint32_t)regs->eflags & RFLAGS_MINE & ~FLAG_ARITH);
	cpu->seg[ENGINE_FS].base = regs->fs_base;
	cpu->seg[ENGINE_GS].base = regs->gs_base;
	for (unsigned i = 0; i < 6; i++) {
		result->selector[i] = selector[i];
		result->segments |= selector[i] != cpu->seg[i].selector;
	}
}

/* What the kernel's image has besides the guest's state. */
static void clean_vectors(struct soft_cpu *cpu)
{
	uint64_t components;
	memcpy(&components, cpu->xsave + XSAVE_HEADER, sizeof(components));
	components &= cpu->xsave_mask;
	memcpy(cpu->xsave + XSAVE_HEADER, &components, sizeof(components));
	memset(cpu->xsave + XSAVE_SOFTWARE, 0, XSAVE_HEADER - XSAVE_SOFTWARE);
}

/* ---- Why it has stopped ---- */

/* A byte of the guest's code; 0 where there is none. */
static uint8_t code_byte(struct soft_cpu *cpu, uint64_t linear)
{
	struct soft_walk walk;
	const uint8_t *byte = NULL;
	if (soft_walk(cpu, linear, SOFT_READ, true, false, &walk))
		byte = soft_gpa_to_hva(cpu->vm, walk.gpa, NULL, NULL);
	return byte ? *byte : 0;
}

/* The INT3, in one byte or in two, or INT1 that a SIGTRAP came from. Some hosts that are guests stop at an INT1 in place of
 * behind it. */
static uint64_t breakpoint(struct soft_cpu *cpu, uint64_t rip, int code)
{
	enum { INT3 = 0xcc, INT1 = 0xf1 };
	if (code == TRAP_BRKPT)
		return code_byte(cpu, rip - 1) == INT1 ? rip - 1 : rip;
	return code_byte(cpu, rip - 1) == INT3 ? rip - 1 : rip - 2;
}

/* INT 4 is what ring 3 may say, too, and Linux makes a SIGSEGV of it like of #GP; but only faults set RF. */
static bool is_overflow(struct soft_cpu *cpu, const struct user_regs_struct *regs)
{
	enum { INT = 0xcd, OVERFLOW = 4 };
	return !(regs->eflags & RF_RF) && code_byte(cpu, regs->rip - 1) == OVERFLOW &&
	       code_byte(cpu, regs->rip - 2) == INT;
}

/* A call into the vsyscall page is what the host's kernel does itself, or our filter forbids: it has returned from it then. */
static void undo_vsyscall(struct user_regs_struct *regs, const struct direct_event *event)
{
	regs->rip = event->address;
	regs->rsp -= 8;
}

/* Looks at why a stub has stopped, with its registers in *regs. True: it can go on. */
static bool stopped(struct soft_cpu *cpu, struct direct_space *space, struct user_regs_struct *regs,
		    const struct direct_event *event, struct direct_result *result)
{
	result->rest = DIRECT_TRANSLATE;
	if (event->stop == DIRECT_SYSCALL) {
		regs->rip -= 2;
		regs->rax = regs->orig_rax;
		profile_count(cpu, PROFILE_DIRECT_SYSCALL);
		return false;
	}
	switch (event->code <= 0 ? SIGUSR1 : event->signal) { /* what somebody sent concerns no instruction */
	case SIGSEGV:
		if (event->code == SI_KERNEL && is_overflow(cpu, regs))
			regs->rip -= 2;
		if (event->code == SI_KERNEL)
			break;
		if (direct_map_fault(&space->map, cpu, event->address, regs->rip)) {
			profile_count(cpu, PROFILE_DIRECT_MAPPED);
			return true;
		}
		if (event->address >> 12 == regs->rip >> 12)
			cpu->direct_stay = regs->rip >> 12;
		else
			cpu->direct->faulted = event->address;
		break;
	case SIGTRAP:
		if (event->code == SI_KERNEL || event->code == TRAP_BRKPT)
			regs->rip = breakpoint(cpu, regs->rip, event->code);
		else
			result->rest = DIRECT_STEP_TRAP;
		break;
	case SIGSYS:
		if (event->code == SECCOMP_STOP)
			undo_vsyscall(regs, event);
		break;
	case SIGBUS:
	case SIGFPE:
	case SIGILL:
		break;
	default: /* a kick, or the like */
		result->rest = DIRECT_NOTHING;
		profile_count(cpu, PROFILE_DIRECT_KICK);
		return false;
	}
	profile_count(cpu, PROFILE_DIRECT_FAULT);
	return false;
}

/* ---- Policy ---- */

/* A run that took so long has ended, for something that translation is to do. */
static void judge(struct soft_cpu *cpu, uint64_t took, unsigned mended)
{
	struct soft_computing *c = soft_computing(cpu);
	uint64_t khz = cpu->vm->tsc_khz ? cpu->vm->tsc_khz : 3000000;
	c->took += took;
	c->mended += mended;
	if (++c->runs < ROUND && c->mended < MENDS)
		return;
	bool worth = c->took / (c->runs + c->mended / 16) > khz * SHORTEST_US / 1000;
	c->off_ms = worth ? 0 : c->off_ms ? c->off_ms * 2 : OFF_FIRST_MS;
	if (c->off_ms > OFF_MOST_MS)
		c->off_ms = OFF_MOST_MS;
	c->took = c->runs = c->mended = 0;
	if (worth || cpu->vm->all_direct)
		return;
	c->on = false;
	c->off_until = __rdtsc() + c->off_ms * khz;
}

/* Runs it until translation is needed or the dispatcher. False: with the stub the guest's state was lost. */
static bool run(struct soft_cpu *cpu, struct direct_space *space, struct direct_result *result)
{
	struct soft_direct *d = cpu->direct;
	struct user_regs_struct regs;
	struct direct_event event = { .stop = DIRECT_SIGNAL };
	unsigned mended = 0;
	uint64_t took = 0;
	bool ran = false, broken = false, again = true;
	give_registers(cpu, &regs);
	while (again) {
		heed_revokes(d);
		broken = make_calls(cpu, space) < 0;
		if (broken)
			break;
		atomic_store(&cpu->direct_pid, space->stub.pid);
		if (atomic_load(&cpu->kick) || atomic_load(&d->revoke)) {
			atomic_store(&cpu->direct_pid, 0);
			result->rest = DIRECT_NOTHING;
			again = !atomic_load(&cpu->kick);
			continue;
		}
		regs.orig_rax = ~0ull;
		unsigned state = profile_enter(cpu, PROFILE_DIRECT);
		uint64_t before = __rdtsc();
		broken = !direct_stub_run(&space->stub, &regs, &cpu->direct_pid, &event);
		took += __rdtsc() - before;
		profile_back(cpu, state);
		if (broken)
			break;
		ran = true;
		if (event.stop == DIRECT_DEAD)
			return false;
		again = stopped(cpu, space, &regs, &event, result);
		mended += again;
	}
	if (broken)
		result->rest = ran ? DIRECT_TRANSLATE : DIRECT_REFUSED;
	if (ran) {
		take_registers(cpu, &regs, result);
		if (!direct_stub_get_vectors(&space->stub, cpu->xsave))
			return false;
		clean_vectors(cpu);
	}
	if (broken) {
		direct_stub_end(&space->stub);
		d->spaces->denied = ++d->spaces->failures >= FAILURES;
		return true;
	}
	d->spaces->failures = 0;
	if (result->rest != DIRECT_NOTHING)
		judge(cpu, took, mended);
	return true;
}

static void lost(struct soft_cpu *cpu, struct direct_space *space)
{
	direct_stub_end(&space->stub);
	cpu->run->exit = ENGINE_EXIT_ERROR;
	snprintf(cpu->run->reason, sizeof(cpu->run->reason),
		 "the process that ran the guest's code was killed; --soft-opt no-direct does without one");
	cpu->leave = true;
}

struct direct_result direct_enter(struct soft_cpu *cpu)
{
	struct direct_result result = { .rest = DIRECT_REFUSED };
	struct direct_space *space = NULL;
	if (!eligible(cpu) || (!cpu->direct && create(cpu) < 0))
		return result;
	if (!cpu->direct->spaces->denied)
		space = space_of(cpu);
	if (!space) {
		cpu->all_direct = soft_computing(cpu)->on = false;
		soft_computing(cpu)->off_until = UINT64_MAX;
		return result;
	}
	heed_flushes(cpu, space);
	if (cpu->direct->faulted)
		direct_map_ahead(&space->map, cpu, cpu->direct->faulted);
	cpu->direct->faulted = 0;
	if (!direct_stub_set_vectors(&space->stub, cpu->xsave))
		direct_stub_end(&space->stub);
	else if (!run(cpu, space, &result))
		lost(cpu, space);
	return result;
}
