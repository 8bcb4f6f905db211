/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c - the dispatcher: what happens between blocks, and the faults that copied instructions raise.
 *
 * soft_next is light code. It takes what is pending (exceptions before kicks before interrupts), finds the block for
 * RIP - by the jump cache, then by physical address - and has it made if there is none. The caller's
 * link is patched on the way, so that the next time generated code goes there by itself.
 */
#include "engine/soft/run.h"

#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/soft/cache.h"
#include "engine/soft/direct.h"
#include "engine/soft/disasm.h"
#include "engine/soft/profile.h"
#include "engine/soft/slots.h"
#include "engine/soft/system.h"
#include "engine/soft/translate.h"

/* So many PAUSEs take some microseconds. */
enum { SOFT_PAUSES = 200 };

/* AVX-512 state is large and seldom in use, which XSAVEOPT knows; what writes to cpu->xsave between the two, but for what
 * loads it again, only changes what XSAVE has written. */
void soft_heavy_begin(struct soft_cpu *cpu)
{
	unsigned mxcsr = 0x1f80;
	__asm__ volatile("xsave64 %0" : "=m"(cpu->xsave) : "a"(SOFT_XSAVE_AVX), "d"(0) : "memory");
	if (cpu->xsave_mask & SOFT_XSAVE_AVX512)
		__asm__ volatile("xsaveopt64 %0" : "=m"(cpu->xsave) : "a"(SOFT_XSAVE_AVX512), "d"(0) : "memory");
	__asm__ volatile("fninit\n ldmxcsr %0" ::"m"(mxcsr));
}

void soft_heavy_end(struct soft_cpu *cpu)
{
	__asm__ volatile("xrstor64 %0" ::"m"(cpu->xsave), "a"(cpu->xsave_mask), "d"(0) : "memory");
}

void soft_vectors_grow(struct soft_cpu *cpu)
{
	if ((cpu->xcr0 & SOFT_XSAVE_AVX512) != SOFT_XSAVE_AVX512 || (cpu->xsave_mask & SOFT_XSAVE_AVX512))
		return;
	cpu->xsave_mask |= SOFT_XSAVE_AVX512;
	/* So far they were C's. The last image has them in their initial state. */
	__asm__ volatile("xrstor64 %0" ::"m"(cpu->xsave), "a"(SOFT_XSAVE_AVX512), "d"(0) : "memory");
}

static void call_helper(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	if (!insn)
		soft_raise(cpu, (unsigned)ea, 0);
	switch (insn->op) {
	case OP_COPY: /* a PAUSE whose turn it is */
		cpu->pause_left = SOFT_PAUSES;
		sched_yield();
		return;
	case OP_CLD:
	case OP_STD:
		cpu->sysflags ^= RF_DF; /* translated only where it changes */
		break;
	case OP_CLAC:
		cpu->sysflags &= ~(uint32_t)RF_AC;
		break;
	case OP_STAC:
		cpu->sysflags |= RF_AC;
		break;
	default:
		cpu->code_changed = false;
		soft_helper[insn->op](cpu, insn, ea);
		if (__builtin_expect(cpu->code_changed, 0) && insn->op >= OP_FIRST_PLAIN_HELPER) {
			cpu->rip = soft_next_rip(cpu, insn); /* it may have been this block's */
			soft_unwind(cpu);
		}
		return;
	}
	soft_update_mode(cpu);
	cpu->rip += insn->len;
}

void soft_call_helper(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea)
{
	if (profiled(cpu))
		profile_helper(cpu, insn);
	call_helper(cpu, insn, ea);
	profile_back(cpu, PROFILE_CODE);
}

static uint64_t missed_address(const struct soft_cpu *cpu, uint64_t mixed, uint32_t how)
{
	unsigned index = (unsigned)(cpu->scratch[7] / sizeof(struct soft_tlb_entry));
	const struct soft_tlb_entry *e = &cpu->tlb[how >> SOFT_HOW_MMU_SHIFT & 3][index];
	/* The write tag that was used is either the page's, the same as the read tag, or none, of another index. */
	if ((how & SOFT_HOW_WRITE) && (mixed >> 12 & (SOFT_TLB_SIZE - 1)))
		return mixed ^ soft_tlb_no_tag(index);
	return mixed ^ e->tag_read;
}

uint8_t *soft_mem_miss(struct soft_cpu *cpu, uint64_t mixed, uint32_t how)
{
	uint64_t linear = missed_address(cpu, mixed, how);
	if (how & SOFT_HOW_XSAVE)
		how = soft_xsave_how(cpu, how);
	return profiled(cpu) ? profile_mem_miss(cpu, linear, how, soft_mem_slow) : soft_mem_slow(cpu, linear, how);
}

uint8_t *soft_group_miss(struct soft_cpu *cpu, uint64_t mixed, uint32_t how)
{
	uint64_t linear = missed_address(cpu, mixed, how);
	uint8_t *host =
	    profiled(cpu) ? profile_group_miss(cpu, linear, how, soft_mem_group) : soft_mem_group(cpu, linear, how);
	cpu->single = !host;
	return host;
}

uint64_t soft_linear_of(struct soft_cpu *cpu, uint64_t offset, uint32_t how)
{
	enum soft_access access = how & SOFT_HOW_WRITE ? SOFT_WRITE : SOFT_READ;
	return soft_linear(cpu, how >> 24 & 7, offset, how & 0xffff, access);
}

static void trace_exec(struct soft_cpu *cpu)
{
	soft_heavy_begin(cpu);
	FILE *f = cpu->vm->trace_file;
	fprintf(f,
		"exec %u: rip %016lx mode %05x rax %lx rcx %lx rdx %lx rbx %lx rsp %lx rbp %lx rsi %lx rdi %lx r8 %lx"
		" r9 %lx r10 %lx r11 %lx r12 %lx r13 %lx r14 %lx r15 %lx fl %04x\n",
		cpu->index, cpu->rip, cpu->mode, cpu->gpr[0], cpu->gpr[1], cpu->gpr[2], cpu->gpr[3], cpu->gpr[4],
		cpu->gpr[5], cpu->gpr[6], cpu->gpr[7], cpu->gpr[8], cpu->gpr[9], cpu->gpr[10], cpu->gpr[11],
		cpu->gpr[12], cpu->gpr[13], cpu->gpr[14], cpu->gpr[15], cpu->flags & 0xffff);
	soft_heavy_end(cpu);
}

/* Lets go of all translations: some are going to be evicted. */
static void let_go(struct soft_cpu *cpu)
{
	atomic_fetch_and(&cpu->kick, ~(uint32_t)SOFT_KICK_EVICT);
	cpu->exit_link = NULL;
	soft_heavy_begin(cpu);
	soft_fpu_pointers(cpu, cpu->xsave); /* what is evicted can't be looked up later */
	soft_heavy_end(cpu);
	soft_returns_drop(cpu);
	cache_pass(cpu->vm->cache, cpu);
}

static void take_nmis(struct soft_cpu *cpu)
{
	const uint32_t both = SOFT_KICK_NMI | SOFT_KICK_NMI2;
	uint32_t taken = atomic_fetch_and(&cpu->kick, ~both) & both;

	if (taken == both && !cpu->nmi_masked && !cpu->shadow) {
		cpu->exit_link = NULL;
		soft_interrupt(cpu, EXC_NMI);
	}
	cpu->nmi_held = true;
}

/* External events. Returns false when vcpu_run must be left. */
static bool take_events(struct soft_cpu *cpu)
{
	uint32_t kick = atomic_load_explicit(&cpu->kick, memory_order_acquire);
	if (kick) {
		if (kick & SOFT_KICK_PASS)
			atomic_fetch_and(&cpu->kick, ~(uint32_t)SOFT_KICK_PASS);
		if (kick & SOFT_KICK_EVICT) {
			unsigned state = profile_enter(cpu, PROFILE_PASS);
			let_go(cpu);
			profile_back(cpu, state);
		}
		if (kick & SOFT_KICK_EXIT) {
			atomic_fetch_and(&cpu->kick, ~(uint32_t)SOFT_KICK_EXIT);
			cpu->run->exit = ENGINE_EXIT_KICKED;
			cpu->leave = true;
			return false;
		}
		if (kick & (SOFT_KICK_NMI | SOFT_KICK_NMI2))
			take_nmis(cpu);
		if (kick & SOFT_KICK_INTERRUPT) {
			atomic_fetch_and(&cpu->kick, ~(uint32_t)SOFT_KICK_INTERRUPT);
			cpu->irq_pending = 1;
		}
	}
	if (cpu->interrupt_held) { /* acknowledged already, so whatever IF says */
		cpu->interrupt_held = false;
		cpu->exit_link = NULL;
		soft_interrupt(cpu, cpu->held_vector);
	}
	if (cpu->nmi_held && !cpu->nmi_masked && !cpu->shadow) {
		cpu->nmi_held = false;
		cpu->exit_link = NULL;
		soft_interrupt(cpu, EXC_NMI);
	}
	if (cpu->irq_pending && (cpu->sysflags & RF_IF) && !cpu->shadow) {
		soft_heavy_begin(cpu);
		int vector = cpu->cb->interrupt_ack(cpu->cb_ctx);
		soft_heavy_end(cpu);
		if (vector < 0) {
			cpu->irq_pending = 0;
		} else {
			cpu->exit_link = NULL;
			if (soft_cpl(cpu) == 3)
				soft_direct_tick(cpu);
			soft_interrupt(cpu, (unsigned)vector);
		}
	}
	if (cpu->shadow) {
		/* Come back as soon as the next block is done. */
		cpu->shadow = 0;
		if (cpu->irq_pending)
			atomic_fetch_or(&cpu->kick, SOFT_KICK_INTERRUPT);
	}
	return true;
}

static void trace_block(struct soft_cpu *cpu, const struct soft_block *b)
{
	const uint8_t *bytes = soft_gpa_to_hva(cpu->vm, b->gpa, NULL, NULL);
	FILE *f = cpu->vm->trace_file;
	fprintf(f, "block %016lx gpa %lx mode %05x code %p-%p\n", b->rip, b->gpa, b->mode,
		(void *)(uintptr_t)b->part[0].start, (void *)(uintptr_t)b->part[0].end);
	unsigned total = b->hi - (unsigned)(b->gpa & 0xfff), at = 0;
	while (at < total) {
		struct insn insn;
		if (insn_decode(&insn, bytes + at, total - at > 15 ? 15 : total - at, soft_mode_code(b->mode)))
			break;
		soft_disasm(f, bytes + at, insn.len, b->rip + at, soft_mode_code(b->mode));
		at += insn.len;
	}
}

/* For whoever wants to see what was translated. */
static void tell_block(struct soft_cpu *cpu, const struct soft_block *block)
{
	soft_heavy_begin(cpu);
	if (cpu->vm->trace & ENGINE_TRACE_ASM)
		trace_block(cpu, block);
	if (cpu->vm->perf_map)
		profile_perf_add(cpu->vm, block);
	soft_heavy_end(cpu);
}

/* The mode that the block to look for has in its key. */
static uint32_t key_mode(const struct soft_cpu *cpu)
{
	return cpu->mode | (cpu->single ? SOFT_MODE_SINGLE : 0);
}

/* Until there may be room for a block, others having let go. False when this CPU is wanted elsewhere. */
static bool wait_for_room(struct soft_cpu *cpu)
{
	unsigned state = profile_enter(cpu, PROFILE_WAIT);
	bool room = false;
	while (!room && !(atomic_load(&cpu->kick) & SOFT_KICK_EXIT)) {
		if (atomic_load(&cpu->kick) & SOFT_KICK_EVICT)
			let_go(cpu);
		room = cache_wait(cpu->vm->cache);
	}
	profile_back(cpu, state);
	return room;
}

/* With the lock. */
static struct soft_block *new_block(struct soft_cpu *cpu, uint64_t gpa, uint64_t gpa2, enum translate_why *why)
{
	*why = TRANSLATE_FULL;
	bool room = profiled(cpu) ? profile_evict(cpu, cache_evict) : cache_evict(cpu->vm->cache);
	struct soft_block *block = room ? translate_block(cpu, gpa, gpa2, why) : NULL;
	if (block && ((cpu->vm->trace & ENGINE_TRACE_ASM) || cpu->vm->perf_map))
		tell_block(cpu, block);
	return block;
}

/* Makes the block for the current RIP, which was not there when `inserts` were. NULL: exception set; or with the reason. */
static struct soft_block *make_block(struct soft_cpu *cpu, uint64_t gpa, unsigned inserts, enum translate_why *why)
{
	struct soft_cache *cache = cpu->vm->cache;
	uint64_t linear = cpu->rip + ((cpu->mode & SOFT_MODE_FLAT) ? 0 : cpu->seg[ENGINE_CS].base);
	uint64_t gpa2 = ~0ULL;
	struct soft_block *block = NULL;
	for (int tries = 0; tries < 2; tries++) {
		cache_lock(cache);
		block = cache_inserts(cache) == inserts ? NULL : cache_find(cache, gpa, cpu->rip, key_mode(cpu));
		if (!block) {
			cache_watch_page(cache, gpa);
			if (gpa2 != ~0ULL)
				cache_watch_page(cache, gpa2);
			block = cache_revive(cache, gpa, cpu->rip, key_mode(cpu));
		}
		if (!block)
			block = new_block(cpu, gpa, gpa2, why);
		cache_unlock(cache);
		if (block || *why != TRANSLATE_NEED_PAGE)
			break;
		if (!soft_translate_exec(cpu, (linear | 0xfff) + 1, &gpa2)) {
			cpu->exc.pending = true;
			return NULL;
		}
		if (!soft_gpa_to_hva(cpu->vm, gpa2, NULL, NULL)) {
			cpu->exc.pending = false;
			gpa2 = ~0ULL;
			break;
		}
	}
	return block;
}

/* A block that crosses into another page checks that page's mapping itself; it must be in the itlb to pass. */
static bool second_page_ok(struct soft_cpu *cpu, struct soft_block *block)
{
	uint64_t linear = block->rip + ((cpu->mode & SOFT_MODE_FLAT) ? 0 : cpu->seg[ENGINE_CS].base);
	uint64_t gpa2;
	if (!soft_translate_exec(cpu, (linear | 0xfff) + 1, &gpa2)) {
		cpu->exc.pending = true;
		return false;
	}
	if (gpa2 == block->gpa2)
		return true;
	/* Mapped elsewhere now: this translation is of no use any more. */
	soft_code_written(cpu->vm, block->gpa, 1);
	return false;
}

static void fill_jump_cache(struct soft_cpu *cpu, struct soft_block *block)
{
	struct soft_jc_entry *e = &cpu->jc[soft_jc_index(block->rip)];
	unsigned bit = soft_jc_page_bit(block->rip), user = (cpu->mode & SOFT_MODE_CPL) == 3;
	bool local = !(cpu->itlb_flags[user][soft_itlb_index(block->rip)] & SOFT_TLB_GLOBAL);
	for (unsigned list = 0; list <= local; list++) {
		if (cpu->jc_listed[list] < SOFT_JC_LISTED)
			cpu->jc_list[list][cpu->jc_listed[list]] = (uint16_t)soft_jc_index(block->rip);
		if (cpu->jc_listed[list] <= SOFT_JC_LISTED)
			cpu->jc_listed[list]++;
	}
	e->rip = block->rip;
	e->code = (uint32_t)(uintptr_t)block->code_mem;
	__atomic_store_n(&e->mode, block->mode, __ATOMIC_SEQ_CST);
	cpu->jc_pages[bit / 64] |= 1ULL << (bit % 64);
	if (block->dead)
		e->mode = SOFT_JC_EMPTY;
}

static void kill_vm(struct soft_cpu *cpu, const char *what)
{
	soft_heavy_begin(cpu);
	cpu->run->exit = ENGINE_EXIT_ERROR;
	snprintf(cpu->run->reason, sizeof(cpu->run->reason), "%s at RIP 0x%lx", what, cpu->rip);
	cpu->leave = true;
	soft_heavy_end(cpu);
}

/* RIP is not canonical: the branch that brought it there faults, and has done nothing. */
static void blame_branch(struct soft_cpu *cpu)
{
	cpu->rip = cpu->branch.rip;
	cpu->gpr[4] += (uint64_t)(int64_t)cpu->branch.undo;
}

/* The block for RIP, or NULL with an exception pending, `leave` set, or nothing (try again). */
static struct soft_block *find_block(struct soft_cpu *cpu)
{
	uint64_t linear = cpu->rip + ((cpu->mode & SOFT_MODE_FLAT) ? 0 : cpu->seg[ENGINE_CS].base);
	uint64_t gpa;
	if ((cpu->mode & SOFT_MODE_CODE) != SOFT_MODE_CODE64)
		linear = (uint32_t)linear;
	if (!soft_translate_exec(cpu, linear, &gpa)) {
		if (cpu->exc.vector == EXC_GP && cpu->branch.to == cpu->rip)
			blame_branch(cpu);
		cpu->exc.pending = true;
		return NULL;
	}
	if (!soft_gpa_to_hva(cpu->vm, gpa, NULL, NULL)) {
		kill_vm(cpu, "the guest runs code outside of its memory");
		return NULL;
	}
	unsigned inserts = cache_inserts(cpu->vm->cache);
	struct soft_block *block = cache_find(cpu->vm->cache, gpa, cpu->rip, key_mode(cpu));
	if (!block) {
		unsigned state = profile_enter(cpu, PROFILE_TRANSLATE);
		enum translate_why why;
		do {
			block = make_block(cpu, gpa, inserts, &why);
		} while (!block && why == TRANSLATE_FULL && wait_for_room(cpu));
		profile_back(cpu, state);
	}
	if (block && block->gpa2 && !second_page_ok(cpu, block))
		return NULL;
	return block;
}

/* Links to the block that the exit led to, if that is of the mode that it should be. */
static void link_to(struct soft_cpu *cpu, struct soft_link *link, struct soft_block *block, uint32_t mode)
{
	if (link->rip != block->rip || block->mode != mode)
		return;
	cache_lock(cpu->vm->cache);
	cache_link(cpu->vm->cache, link, block);
	cache_unlock(cpu->vm->cache);
}

static const void *next_code(struct soft_cpu *cpu)
{
	__atomic_store_n(&cpu->stale, 0, __ATOMIC_RELAXED); /* no group is under way */
	for (;;) {
		if (cpu->leave)
			return NULL;
		if (cpu->exc.pending) {
			cpu->exit_link = NULL;
			cpu->stepped = false;
			soft_deliver(cpu);
			continue;
		}
		if (cpu->stepped) {
			cpu->stepped = false;
			cpu->exit_link = NULL;
			soft_single_step(cpu);
			continue;
		}
		if (cpu->shadow || cpu->irq_pending || cpu->nmi_held ||
		    atomic_load_explicit(&cpu->kick, memory_order_relaxed)) {
			if (!take_events(cpu))
				return NULL;
		}
		if (cpu->halted) { /* woken for nothing that ends a HLT */
			cpu->run->exit = ENGINE_EXIT_HALTED;
			cpu->leave = true;
			return NULL;
		}
		if (cpu->watch.code || cpu->watch.again)
			soft_before_insn(cpu);
		if (soft_direct_wanted(cpu)) {
			if (!cpu->direct_pass && cpu->rip >> 12 != cpu->direct_stay && !cpu->single && !cpu->recheck) {
				soft_direct_run(cpu);
				continue;
			}
			cpu->direct_pass = false; /* translation goes on, and comes back soon */
			atomic_fetch_or(&cpu->kick, SOFT_KICK_PASS);
		}
		struct soft_jc_entry *e = &cpu->jc[soft_jc_index(cpu->rip)];
		if (e->rip == cpu->rip && e->mode == cpu->mode && !cpu->exit_link && !cpu->recheck && !cpu->single)
			return (const void *)(uintptr_t)e->code; /* only flat modes are ever entered */
		cpu->recheck = 0;
		struct soft_block *block = find_block(cpu);
		if (!block)
			continue;
		struct soft_link *link = cpu->exit_link;
		cpu->exit_link = NULL;
		if (cpu->single) {
			cpu->single = 0;
			if (link)
				link_to(cpu, link, block, link->from->mode | SOFT_MODE_SINGLE);
			return block->code_mem;
		}
		if (cpu->mode & SOFT_MODE_STEP) {
			cpu->stepped = true;
			cpu->step_trap = cpu->sysflags & RF_TF;
			return block->code_mem;
		}
		if (cpu->vm->trace & ENGINE_TRACE_EXEC) {
			trace_exec(cpu);
			return block->code_mem;
		}
		if (cpu->mode & SOFT_MODE_FLAT)
			fill_jump_cache(cpu, block);
		if (link)
			link_to(cpu, link, block, link->from->mode & ~(uint32_t)SOFT_MODE_SINGLE);
		return block->code_mem;
	}
}

const void *soft_next(struct soft_cpu *cpu)
{
	return profiled(cpu) ? profile_next(cpu, next_code) : next_code(cpu);
}

/* ---- Faults of copied instructions ---- */

static void take_registers(struct soft_cpu *cpu, const greg_t *g, const struct soft_block *b, const struct soft_map *m)
{
	static const uint8_t in_memory[] = { 10, 11, 15 };
	unsigned but = (m->special & SOFT_MAP_KIND) == SOFT_MAP_LOOP ? b->borrowed : 0;
	enum { NOT_HELD = -1 }; /* and not 0, which is REG_R8 */
	static const int8_t reg[16] = { REG_RAX, REG_RCX, REG_RDX,  REG_RBX,  REG_R15, REG_RBP, REG_RSI, REG_RDI,
					REG_R8,  REG_R9,  NOT_HELD, NOT_HELD, REG_R12, REG_R13, REG_R14, NOT_HELD };
	for (unsigned k = 0; k < 3 && (m->special & SOFT_MAP_RENAMED); k++) {
		if (b->renamed[k] != INSN_NO_REG) {
			cpu->gpr[in_memory[k]] = (uint64_t)g[reg[b->renamed[k]]];
			but |= 1u << b->renamed[k];
		}
	}
	for (unsigned i = 0; i < 16; i++) {
		if (reg[i] != NOT_HELD && !(but >> i & 1))
			cpu->gpr[i] = (uint64_t)g[reg[i]];
	}
}

static int vector_of(int signal, const greg_t *g)
{
	switch (g[REG_TRAPNO]) {
	case EXC_DE:
	case EXC_UD:
	case EXC_NM:
	case EXC_MF:
	case EXC_AC:
	case EXC_XM:
		return (int)g[REG_TRAPNO];
	case EXC_GP:
	case EXC_SS:
		return signal == SIGSEGV || signal == SIGBUS ? EXC_GP : -1;
	default:
		return -1;
	}
}

static struct soft_cpu *current_cpu(void)
{
	uint64_t base;
	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return (struct soft_cpu *)base; /* NOLINT(performance-no-int-to-ptr): that is what GS base is */
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct soft_cpu *cpu = current_cpu();
	if (cpu && signal == SIGSEGV && (uintptr_t)info->si_addr - (uintptr_t)cpu->return_guard < SOFT_RETURN_GUARD) {
		g[REG_RSP] = (greg_t)cpu->return_bottom; /* deep recursion; the push begins again */
		return;
	}
	const uint8_t *pc = (const uint8_t *)g[REG_RIP]; /* NOLINT(performance-no-int-to-ptr) */
	struct soft_block *b = cpu ? cache_find_pc(cpu->vm->cache, pc) : NULL;
	const struct soft_map *m = b ? cache_find_map(b, pc) : NULL;
	int vector = vector_of(signal, g);
	if (!m || vector < 0) {
		/* Not ours: let it happen again, undisturbed; what was sent does not by itself. */
		struct sigaction dfl = { .sa_handler = SIG_DFL };
		sigaction(signal, &dfl, NULL);
		if (info->si_code <= 0)
			raise(signal);
		return;
	}
	profile_count(cpu, PROFILE_HOST_FAULT);
	take_registers(cpu, g, b, m);
	if ((m->special & SOFT_MAP_KIND) == SOFT_MAP_XSAVE) {
		cpu->gpr[0] = cpu->scratch[0];
		cpu->gpr[2] = cpu->scratch[1];
	}
	if ((m->special & SOFT_MAP_KIND) == SOFT_MAP_STACK && vector == EXC_GP)
		vector = EXC_SS;
	if (m->flags_host)
		cpu->flags = (uint32_t)((g[REG_EFL] & 0xff) << 8 | (g[REG_EFL] >> 11 & 1));
	if (vector == EXC_XM && !(cpu->cr4 & CR4_OSXMMEXCPT))
		vector = EXC_UD;
	cpu->rip = b->rip + m->guest;
	cpu->exc.pending = true;
	cpu->exc.vector = (uint8_t)vector;
	cpu->exc.has_error = vector == EXC_GP || vector == EXC_SS || vector == EXC_AC;
	cpu->exc.error = 0;
	cpu->return_rsp = (uint64_t *)g[REG_RSP]; /* NOLINT(performance-no-int-to-ptr) */
	g[REG_RIP] = (greg_t)soft_dispatch;
}

int soft_signals_init(struct error *err)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	sigemptyset(&sa.sa_mask);
	static const int signals[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS };
	for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++) {
		if (sigaction(signals[i], &sa, NULL) < 0)
			return error_errno(err, -errno, "can't install the handler of signal %d", signals[i]);
	}
	return 0;
}

/* ---- vcpu_run ---- */

void soft_run(struct soft_cpu *cpu, struct engine_run *run)
{
	char alt[16 << 10];
	stack_t stack = { .ss_sp = alt, .ss_size = sizeof(alt) }, old;
	uint64_t old_gs;
	unsigned mxcsr, fpucw = 0;

	sigaltstack(&stack, &old);
	__asm__ volatile("stmxcsr %0\n fnstcw %1" : "=m"(mxcsr), "=m"(fpucw));
	__asm__ volatile("rdgsbase %0" : "=r"(old_gs));
	__asm__ volatile("wrgsbase %0" ::"r"(cpu));
	run->reason[0] = 0;
	cpu->run = run;
	cpu->leave = false;
	atomic_store(&cpu->inside, true);
	cpu->exit_link = NULL;
	soft_returns_drop(cpu);
	cache_pass(cpu->vm->cache, cpu);
	if (cpu->profile)
		profile_start(cpu);
	soft_heavy_end(cpu);
	soft_enter(cpu);
	soft_heavy_begin(cpu);
	if (cpu->profile)
		profile_stop(cpu);
	soft_fpu_pointers(cpu, cpu->xsave);
	cache_leave(cpu->vm->cache, cpu);
	atomic_store(&cpu->inside, false);
	__asm__ volatile("wrgsbase %0" ::"r"(old_gs));
	__asm__ volatile("fldcw %1\n ldmxcsr %0" ::"m"(mxcsr), "m"(fpucw));
	sigaltstack(&old, NULL);
}
