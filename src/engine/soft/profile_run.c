/* SPDX-License-Identifier: Apache-2.0 */
/* profile_run.c - making profiles, their timers and what their signal finds, and perf's map of translated code. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/soft/cache.h"
#include "engine/soft/profile.h"
#include "engine/soft/vm.h"

enum { SAMPLE_NS = 997 * 1000 }; /* not in step with a guest's timer */

/* The record of a block, made with the code that it has now; NULL when there is no room. */
static struct profile_block *find_block(struct soft_profile *p, struct soft_vm *vm, const struct soft_block *b)
{
	uint64_t hash = (b->rip ^ b->gpa << 17 ^ b->mode) * 0x9e3779b97f4a7c15u >> 32;
	for (unsigned tries = 0; tries < 64; tries++, hash++) {
		struct profile_block *r = &p->block[hash % PROFILE_BLOCKS];
		if (r->used && r->rip == b->rip && r->gpa == b->gpa && r->mode == b->mode)
			return r;
		if (r->used)
			continue;
		unsigned bytes = b->hi - (unsigned)(b->gpa & 0xfff);
		const uint8_t *code = soft_gpa_to_hva(vm, b->gpa, NULL, NULL);
		r->used = true;
		r->rip = b->rip;
		r->gpa = b->gpa;
		r->mode = b->mode;
		r->bytes = (uint16_t)(!code ? 0 : bytes < PROFILE_BLOCK_BYTES ? bytes : PROFILE_BLOCK_BYTES);
		for (unsigned i = 0; i < r->bytes; i++)
			r->code[i] = code[i];
		return r;
	}
	return NULL;
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	struct soft_cpu *cpu = info->si_value.sival_ptr;
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	const uint8_t *pc = (const uint8_t *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	struct soft_profile *p = cpu->profile;
	(void)signal;
	if (info->si_code != SI_TIMER || !p || !p->running)
		return;
	p->samples++;
	uint64_t rip;
	if (!soft_code_rip(cpu->vm, (uintptr_t)pc, ~0ULL, &rip))
		return;
	p->in_code++;
	const struct soft_block *b = cache_find_pc(cpu->vm->cache, pc);
	struct profile_block *r = b ? find_block(p, cpu->vm, b) : NULL;
	if (!r) {
		p->lost++;
		return;
	}
	const struct soft_map *map = cache_find_map(b, pc);
	r->samples++;
	if (map && map->guest < PROFILE_BLOCK_BYTES)
		r->at[map->guest]++;
}

static int install_handler(struct error *err)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGPROF, &sa, NULL) < 0)
		return error_errno(err, -errno, "can't install the profile's signal handler");
	return 0;
}

int profile_create(struct soft_cpu *cpu, struct error *err)
{
	struct soft_profile *p =
	    mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return error_errno(err, -errno, "can't make the profile of CPU %u", cpu->index);
	p->state = PROFILE_OUTSIDE;
	p->since = __rdtsc();
	cpu->profile = p;
	return install_handler(err);
}

void profile_destroy(struct soft_cpu *cpu)
{
	if (!cpu->profile)
		return;
	if (cpu->profile->has_timer)
		timer_delete(cpu->profile->timer);
	munmap(cpu->profile, sizeof(*cpu->profile));
	cpu->profile = NULL;
}

static void set_timer(struct soft_profile *p, long ns)
{
	struct itimerspec t = { .it_interval.tv_nsec = ns, .it_value.tv_nsec = ns };
	if (p->has_timer)
		timer_settime(p->timer, 0, &t, NULL);
}

/* Without a timer there are no samples, which the report shows. */
static void make_timer(struct soft_cpu *cpu)
{
	struct soft_profile *p = cpu->profile;
	struct sigevent e = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF, .sigev_value.sival_ptr = cpu };
	e._sigev_un._tid = gettid();
	p->has_timer = timer_create(CLOCK_MONOTONIC, &e, &p->timer) == 0;
}

void profile_start(struct soft_cpu *cpu)
{
	struct soft_profile *p = cpu->profile;
	if (!p->has_timer)
		make_timer(cpu);
	profile_enter(cpu, PROFILE_DISPATCH);
	p->running = true;
	set_timer(p, SAMPLE_NS);
}

void profile_stop(struct soft_cpu *cpu)
{
	set_timer(cpu->profile, 0);
	cpu->profile->running = false;
	profile_enter(cpu, PROFILE_OUTSIDE);
}

/* ---- perf ---- */

int profile_perf_open(struct soft_vm *vm, struct error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	/* An old process's goes; somebody else's stays, and is not written to: /tmp is everybody's. */
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	vm->perf_map = fd < 0 ? NULL : fdopen(fd, "w");
	return vm->perf_map ? 0 : error_errno(err, -errno, "can't make %s, perf's map of translated code", path);
}

void profile_perf_add(const struct soft_vm *vm, const struct soft_block *block)
{
	for (unsigned i = 0; i < 2; i++) {
		const uint8_t *start = block->part[i].start;
		if (start == block->part[i].end)
			continue;
		fprintf(vm->perf_map, "%lx %lx guest%s:%lx\n", (unsigned long)(uintptr_t)start,
			(unsigned long)(block->part[i].end - start),
			(block->mode & SOFT_MODE_CPL) == 3 ? "" : "-kernel", (unsigned long)block->rip);
	}
}
