/* SPDX-License-Identifier: Apache-2.0 */
/* profile.c - what happens in light code when there is a profile. */
#include "engine/soft/profile.h"

#include <sys/syscall.h>
#include <x86intrin.h>

#include "engine/soft/cache.h" /* struct soft_link */
#include "engine/soft/tlb.h"

/* All but the state. */
static __attribute__((noinline)) void forget(struct soft_profile *p)
{
	__atomic_store_n(&p->anew, false, __ATOMIC_RELAXED);
	p->samples = p->in_code = p->lost = 0;
	for (unsigned i = 0; i < PROFILE_STATES; i++) {
		p->entered[i] = p->ticks[i] = p->longest[i] = 0;
		for (unsigned j = 0; j < PROFILE_STAYS; j++)
			p->stays[i][j] = 0;
	}
	p->evict_cpu = 0;
	for (unsigned i = 0; i < PROFILE_COUNTS; i++)
		p->count[i] = 0;
	for (unsigned i = 0; i <= SOFT_BOUNCE_DISCARD; i++)
		p->bounce[i] = 0;
	for (unsigned i = 0; i < PROFILE_SLOTS; i++)
		p->slot[i].count = p->slot[i].ticks = 0;
	for (unsigned i = 0; i < PROFILE_BLOCKS; i++) {
		if (!p->block[i].used)
			continue;
		p->block[i].samples = 0;
		for (unsigned j = 0; j < PROFILE_BLOCK_BYTES; j++)
			p->block[i].at[j] = 0;
	}
}

static void add_stay(struct soft_profile *p, uint64_t ticks)
{
	unsigned n = 64 - (unsigned)__builtin_clzll(ticks | 1);
	p->ticks[p->state] += ticks;
	p->stays[p->state][n < PROFILE_STAYS ? n : PROFILE_STAYS - 1]++;
	if (p->longest[p->state] < ticks)
		p->longest[p->state] = ticks;
}

void profile_change(struct soft_profile *p, unsigned state)
{
	uint64_t now = __rdtsc();
	if (__builtin_expect(__atomic_load_n(&p->anew, __ATOMIC_RELAXED), 0))
		forget(p);
	else if (p->state < PROFILE_STATES)
		add_stay(p, now - p->since);
	else
		p->slot[p->state - PROFILE_STATES].ticks += now - p->since;
	p->since = now;
	p->state = state;
}

static unsigned find_slot(struct soft_profile *p, enum profile_kind kind, const char *name, uint64_t value)
{
	uint64_t hash = (value * 31 + (uintptr_t)name + kind) * 0x9e3779b97f4a7c15u >> 54;
	for (unsigned tries = 0; tries < 64; tries++, hash++) {
		unsigned i = (unsigned)hash % (PROFILE_SLOTS - 1);
		struct profile_slot *s = &p->slot[i];
		if (s->kind == kind && s->name == name && s->value == value)
			return i;
		if (s->kind == PROFILE_FREE) {
			*s = (struct profile_slot){ .kind = kind, .name = name, .value = value };
			return i;
		}
	}
	p->slot[PROFILE_SLOTS - 1].kind = PROFILE_REST;
	return PROFILE_SLOTS - 1;
}

/* What tells apart what one instruction is used for. */
static uint64_t detail(const struct soft_cpu *cpu, const struct insn *insn)
{
	switch (insn->op) {
	case OP_RDMSR:
	case OP_WRMSR:
		return (uint32_t)cpu->gpr[1];
	case OP_CPUID:
		return (uint32_t)cpu->gpr[0];
	case OP_IN:
	case OP_OUT:
		return insn->imm_size ? (uint64_t)insn->imm : (uint16_t)cpu->gpr[2];
	case OP_MOV_TO_CR:
	case OP_MOV_FROM_CR:
	case OP_MOV_TO_SEG:
		return insn->reg;
	case OP_INT:
		return (uint8_t)insn->imm;
	case OP_STRING:
		return (uint64_t)insn->opsize | (insn->rep ? 0x10u : 0);
	default:
		return 0;
	}
}

void profile_helper(struct soft_cpu *cpu, const struct insn *insn)
{
	struct soft_profile *p = cpu->profile;
	unsigned i = insn ? find_slot(p, PROFILE_HELPER, insn->row->name, detail(cpu, insn))
			  : find_slot(p, PROFILE_HELPER, NULL, 0);
	p->slot[i].count++;
	p->after_helper = !insn || insn->op < OP_FIRST_PLAIN_HELPER;
	profile_change(p, PROFILE_STATES + i);
}

void profile_event(struct soft_cpu *cpu, bool exception, unsigned vector, uint32_t error)
{
	struct soft_profile *p = cpu->profile;
	uint64_t value = vector | (exception && vector == EXC_PF ? (uint64_t)error << 8 : 0);
	p->slot[find_slot(p, exception ? PROFILE_EXCEPTION : PROFILE_INTERRUPT, NULL, value)].count++;
	profile_enter(cpu, PROFILE_DELIVER);
}

void profile_flush(struct soft_cpu *cpu, bool global_too)
{
	struct soft_profile *p = cpu->profile;
	const struct profile_slot *by = p->state >= PROFILE_STATES ? &p->slot[p->state - PROFILE_STATES] : NULL;
	p->slot[find_slot(p, PROFILE_FLUSH, by ? by->name : NULL, global_too | (by ? by->value << 1 : 0))].count++;
}

const void *profile_next(struct soft_cpu *cpu, const void *(*next)(struct soft_cpu *cpu))
{
	struct soft_profile *p = cpu->profile;
	const struct soft_link *link = cpu->exit_link;
	if (cpu->exc.pending || cpu->irq_pending || atomic_load_explicit(&cpu->kick, memory_order_relaxed))
		p->count[PROFILE_NEXT_EVENT]++;
	else if (link)
		p->count[PROFILE_NEXT_LINK]++;
	else if (cpu->recheck)
		p->count[PROFILE_NEXT_PAGE]++;
	else if (p->after_helper)
		p->count[PROFILE_NEXT_HELPER]++;
	else
		p->count[PROFILE_NEXT_INDIRECT]++;
	p->after_helper = false;
	profile_enter(cpu, PROFILE_DISPATCH);
	const void *code = next(cpu);
	if (link && !link->to)
		p->count[PROFILE_NEXT_UNLINKED]++;
	profile_enter(cpu, PROFILE_CODE);
	return code;
}

/* The calling thread's CPU time in nanoseconds; libc's own might use vector registers. */
static uint64_t thread_time(void)
{
	struct timespec t;
	long result = SYS_clock_gettime;
	__asm__ volatile("syscall" : "+a"(result) : "D"(CLOCK_THREAD_CPUTIME_ID), "S"(&t) : "rcx", "r11", "memory");
	return result ? 0 : (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

bool profile_evict(struct soft_cpu *cpu, bool (*evict)(struct soft_cache *cache))
{
	struct soft_profile *p = cpu->profile;
	uint64_t start = thread_time();
	unsigned state = profile_enter(cpu, PROFILE_EVICT);
	bool room = evict(cpu->vm->cache);
	profile_back(cpu, state);
	uint64_t spent = thread_time() - start;
	if (p->evict_cpu < spent)
		p->evict_cpu = spent;
	return room;
}

static void classify(struct soft_cpu *cpu, uint64_t linear, uint32_t how)
{
	unsigned index = soft_tlb_index(linear);
	const struct soft_tlb_entry *e = &cpu->tlb[(how & SOFT_HOW_MMU) >> SOFT_HOW_MMU_SHIFT][index];
	unsigned what = PROFILE_MISS_HIT;
	if ((linear & 0xfff) + (how & SOFT_HOW_SIZE) > 4096)
		what = PROFILE_MISS_CROSSING;
	else if (soft_tlb_index(e->tag_read) != index)
		what = PROFILE_MISS_EMPTY;
	else if (e->tag_read >> 12 != linear >> 12)
		what = PROFILE_MISS_CONFLICT;
	else if ((how & SOFT_HOW_WRITE) && e->tag_write != e->tag_read)
		what = PROFILE_MISS_READONLY;
	cpu->profile->count[what]++;
}

uint8_t *profile_mem_miss(struct soft_cpu *cpu, uint64_t linear, uint32_t how, profile_access *slow)
{
	unsigned state = profile_enter(cpu, PROFILE_MISS);
	classify(cpu, linear, how);
	uint8_t *host = slow(cpu, linear, how);
	cpu->profile->bounce[cpu->bounce.kind]++;
	profile_change(cpu->profile, state);
	return host;
}

uint8_t *profile_group_miss(struct soft_cpu *cpu, uint64_t linear, uint32_t how, profile_access *slow)
{
	unsigned state = profile_enter(cpu, PROFILE_GROUP_MISS);
	classify(cpu, linear, how);
	uint8_t *host = slow(cpu, linear, how);
	if (!host)
		cpu->profile->count[PROFILE_GROUP_APART]++;
	profile_change(cpu->profile, state);
	return host;
}
