/* SPDX-License-Identifier: Apache-2.0 */
/* soft.c - the soft engine behind engine.h's contract. Nothing here runs while the guest owns the vector registers. */
#include "engine/soft/soft.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "base/sanitized.h"
#include "engine/soft/cache.h"
#include "engine/soft/cpu.h"
#include "engine/soft/direct.h"
#include "engine/soft/profile.h"
#include "engine/soft/run.h"
#include "engine/soft/vm.h"
#include "host/tsc.h"

enum { HWCAP2_FSGSBASE = 2 };

struct engine_vm {
	struct soft_vm soft;
};

struct engine_vcpu {
	struct soft_cpu cpu;
};

/* What the translator's own code and rules need of the host. */
static int soft_probe(const char *options, char *text, size_t size)
{
	unsigned a, b, c, d;
	(void)options;
	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
		snprintf(text, size,
			 "needs RDGSBASE in user mode, which this kernel does not allow (Linux 5.9 and later do)");
		return -ENOTSUP;
	}
	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE) || !(c & bit_AVX)) {
		snprintf(text, size, "needs a host CPU with XSAVE and AVX");
		return -ENOTSUP;
	}
	__cpuid(0x80000001, a, b, c, d);
	if (!(c & bit_LAHF_LM)) {
		snprintf(text, size, "needs a host CPU with LAHF in 64-bit mode");
		return -ENOTSUP;
	}
	snprintf(text, size, "binary translation in this process; needs no privilege and no device");
	return 0;
}

/* With what evex.c uses (KMOVQ). */
static bool soft_host_avx512(void)
{
	if (SANITIZED) /* light code of such a build calls libc, which uses zmm16 to zmm31 and no other vector registers */
		return false;
	unsigned a, b = 0, c, d, lo, hi;
	__cpuid_count(7, 0, a, b, c, d);
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (b & bit_AVX512F) && (b & bit_AVX512BW) && (lo & SOFT_XSAVE_AVX512) == SOFT_XSAVE_AVX512;
}

static void find_xsave_parts(struct soft_vm *s)
{
	if (!soft_host_avx512())
		return;
	for (unsigned i = 5; i < 8; i++) {
		unsigned size, offset, c, d;
		__cpuid_count(0xd, i, size, offset, c, d);
		s->xsave_part[i].offset = (uint16_t)offset;
		s->xsave_part[i].size = (uint16_t)size;
		if (offset + size > s->xsave_size)
			s->xsave_size = (uint16_t)(offset + size);
	}
}

static void clear_bits(uint32_t *reg, uint32_t bits)
{
	*reg &= ~bits;
}

/* What can't be copied, or is not carried. */
static void soft_cpuid_filter(uint32_t leaf, uint32_t subleaf, struct engine_cpuid *r)
{
	switch (leaf) {
	case 1: /* MONITOR, DS_CPL..TM2, SDBG, PDCM, PCID, DCA */
		clear_bits(&r->ecx, 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 10 |
					1u << 11 | 1u << 14 | 1u << 15 | 1u << 17 | 1u << 18);
		clear_bits(&r->edx, 1u << 7 | 1u << 14 | 1u << 21 | 1u << 22 | 1u << 27 | 1u << 29 | 1u << 31);
		break;
	case 7:
		if (subleaf == 0) {
			/* Keep BMI1, AVX2, SMEP, BMI2, ERMS, FSGSBASE, TSC_ADJUST, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA, FDP */
			r->ebx &= 1u << 0 | 1u << 1 | 1u << 3 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 9 |
				  1u << 13 | 1u << 18 | 1u << 19 | 1u << 20 | 1u << 23 | 1u << 24 | 1u << 29 |
				  SOFT_AVX512_7_EBX;
			/* UMIP, GFNI, VAES, VPCLMULQDQ, RDPID */
			r->ecx &= 1u << 2 | 1u << 8 | 1u << 9 | 1u << 10 | 1u << 22 | SOFT_AVX512_7_ECX;
			r->edx &= 1u << 4 | SOFT_AVX512_7_EDX; /* FSRM */
		} else if (subleaf == 1) {
			r->eax &= 1u << 4 | SOFT_AVX512_7_1_EAX; /* AVX-VNNI */
			r->ebx = r->ecx = r->edx = 0;
		} else {
			*r = (struct engine_cpuid){ 0 };
		}
		break;
	case 0xd: /* x87, SSE, AVX, AVX-512; XSAVEC and XGETBV(1) but no XSAVEOPT (it tracks host addresses) nor XSAVES */
		if (subleaf == 0) {
			r->eax &= SOFT_XSAVE_AVX | SOFT_XSAVE_AVX512;
			r->edx = 0;
		} else if (subleaf == 1) {
			r->eax &= 1u << 1 | 1u << 2;
			r->ecx = r->edx = 0;
		} else if (subleaf != 2 && (subleaf < 5 || subleaf > 7)) {
			*r = (struct engine_cpuid){ 0 };
		}
		break;
	case 0x80000001: /* SVM, EXTAPIC, XOP, LWP, FMA4, TBM, PERFCTR, MWAITX, IBS, SKINIT, WDT, OSVW; 3DNow! */
		clear_bits(&r->ecx, 1u << 2 | 1u << 3 | 1u << 9 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 15 |
					1u << 16 | 1u << 17 | 1u << 19 | 1u << 21 | 1u << 23 | 1u << 24 | 1u << 26 |
					1u << 27 | 1u << 28 | 1u << 29);
		clear_bits(&r->edx, 1u << 25 | 1u << 30 | 1u << 31);
		break;
	case 0x80000008: /* CLZERO, RDPRU, WBNOINVD and what follows; keep XSAVEERPTR */
		r->ebx &= 1u << 2;
		break;
	default:
		break;
	}
	if (!soft_host_avx512())
		soft_cpuid_hide_avx512(leaf, subleaf, r);
}

static void soft_vm_destroy(struct engine_vm *vm)
{
	if (!vm)
		return;
	for (unsigned i = 0; i < vm->soft.regions; i++) {
		free((void *)vm->soft.region[i].page_flags);
		free(vm->soft.region[i].page_code);
	}
	cache_destroy(vm->soft.cache);
	if (vm->soft.perf_map)
		fclose(vm->soft.perf_map);
	pthread_mutex_destroy(&vm->soft.split_lock);
	pthread_mutex_destroy(&vm->soft.dirty_lock);
	free(vm);
}

static bool has_option(const char *options, const char *name)
{
	size_t n = strlen(name);
	for (const char *p = options; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		if (!strncmp(p, name, n) && (p[n] == 0 || p[n] == ','))
			return true;
	}
	return false;
}

/* What can be switched off, to find what is wrong or what it buys. */
static const char *const option_names[] = { "one-insn",  "all-direct",    "all-hot",   "no-avx512",   "no-direct",
					    "no-groups", "no-interleave", "no-loops",  "no-revive",   "no-slots",
					    "no-traces", "no-guesses",    "no-rename", "small-cache", "perf-map" };

static int check_options(const char *options, struct error *err)
{
	const char *p = options;
	while (p && *p) {
		size_t n = strcspn(p, ",");
		bool known = false;
		for (unsigned i = 0; i < sizeof(option_names) / sizeof(*option_names); i++)
			known |= n == strlen(option_names[i]) && !strncmp(p, option_names[i], n);
		if (!known)
			return error_set(
			    err, -EINVAL,
			    "unknown option '%.*s' of the soft engine (it has one-insn, all-direct, all-hot, "
			    "no-avx512, no-direct, no-groups, no-interleave, no-loops, no-revive, no-slots, "
			    "no-traces, no-guesses, no-rename, "
			    "small-cache, perf-map)",
			    (int)n, p);
		p += n + (p[n] == ',');
	}
	return 0;
}

static int soft_vm_create(struct engine_vm **out, const struct engine_config *config, struct error *err)
{
	char text[256];
	int rc = soft_probe(NULL, text, sizeof(text));
	if (rc < 0)
		return error_set(err, rc, "the soft engine %s", text);
	if (config->vcpus > SOFT_MAX_VCPUS)
		return error_set(err, -EINVAL, "the soft engine has at most %d CPUs", SOFT_MAX_VCPUS);
	rc = check_options(config->options, err);
	if (rc < 0)
		return rc;
	rc = soft_signals_init(err);
	if (rc < 0)
		return rc;
	struct engine_vm *vm = calloc(1, sizeof(*vm));
	if (!vm)
		return error_set(err, -ENOMEM, "out of memory");
	struct soft_vm *s = &vm->soft;
	s->trace = config->trace;
	s->trace_file = config->trace_file;
	s->max_block = has_option(config->options, "one-insn") ? 1 : SOFT_BLOCK_INSNS;
	s->small_cache = has_option(config->options, "small-cache");
	s->all_hot = has_option(config->options, "all-hot");
	s->no_loops = has_option(config->options, "no-loops");
	s->no_slots = has_option(config->options, "no-slots");
	s->no_interleave = has_option(config->options, "no-interleave");
	s->no_rename = has_option(config->options, "no-rename");
	s->no_guesses = has_option(config->options, "no-guesses");
	s->no_revive = has_option(config->options, "no-revive");
	s->no_traces = has_option(config->options, "no-traces");
	s->no_groups = has_option(config->options, "no-groups");
	s->no_avx512 = has_option(config->options, "no-avx512");
	s->no_direct = has_option(config->options, "no-direct");
	s->all_direct = has_option(config->options, "all-direct") && !s->no_direct;
	s->tsc_start = host_tsc_sample();
	find_xsave_parts(s);
	unsigned a, b, c, d;
	__cpuid(0x80000008, a, b, c, d);
	s->maxphyaddr_mask = (1ULL << ((a & 0xff) > 46 ? 46 : a & 0xff)) - 1;
	pthread_mutex_init(&s->split_lock, NULL);
	pthread_mutex_init(&s->dirty_lock, NULL);
	s->profile = config->profile;
	rc = cache_create(&s->cache, s, err);
	if (!rc && has_option(config->options, "perf-map"))
		rc = profile_perf_open(s, err);
	if (rc < 0) {
		soft_vm_destroy(vm);
		return rc;
	}
	*out = vm;
	return 0;
}

static int soft_vm_map(struct engine_vm *vm, uint64_t gpa, void *hva, int fd, uint64_t size, unsigned flags,
		       struct error *err)
{
	struct soft_vm *s = &vm->soft;
	if (s->regions == SOFT_MAX_REGIONS)
		return error_set(err, -ENOSPC, "more than %d memory regions", SOFT_MAX_REGIONS);
	struct soft_region *r = &s->region[s->regions];
	r->page_flags = calloc(size >> 12, 1);
	r->page_code = calloc(size >> 12, sizeof(*r->page_code)); /* touched only for pages with code */
	if (!r->page_flags || !r->page_code) {
		free((void *)r->page_flags);
		free(r->page_code);
		return error_set(err, -ENOMEM, "out of memory");
	}
	r->gpa = gpa;
	r->size = size;
	r->hva = hva;
	r->fd = fd;
	r->readonly = flags & ENGINE_MEM_READONLY;
	s->regions++;
	return 0;
}

static void soft_vm_written(struct engine_vm *vm, uint64_t gpa, uint64_t size)
{
	soft_code_written(&vm->soft, gpa, size);
}

static int soft_vcpu_create(struct engine_vcpu **out, struct engine_vm *vm, unsigned index,
			    const struct engine_callbacks *cb, void *ctx, struct error *err)
{
	size_t size = (sizeof(struct engine_vcpu) + 4095) & ~(size_t)4095;
	struct engine_vcpu *vcpu = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vcpu == MAP_FAILED)
		return error_errno(err, -errno, "can't make CPU %u", index);
	struct soft_cpu *cpu = &vcpu->cpu;
	cpu->self = cpu;
	cpu->vm = &vm->soft;
	cpu->all_direct = vm->soft.all_direct;
	cpu->index = index;
	cpu->cb = cb;
	cpu->cb_ctx = ctx;
	size_t stack = SOFT_RETURN_GUARD + SOFT_RETURNS * 16;
	uint8_t *returns = mmap(NULL, stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (returns == MAP_FAILED || mprotect(returns, SOFT_RETURN_GUARD, PROT_NONE) < 0) {
		int rc = error_errno(err, -errno, "can't make CPU %u", index);
		if (returns != MAP_FAILED)
			munmap(returns, stack);
		munmap(vcpu, size);
		return rc;
	}
	soft_thunks_init(cpu, returns);
	soft_tlb_init(cpu);
	if (vm->soft.profile && profile_create(cpu, err) < 0) {
		munmap(returns, stack);
		munmap(vcpu, size);
		return -ENOMEM;
	}
	vm->soft.cpu[vm->soft.cpus++] = cpu;
	struct engine_cpu_state state;
	engine_cpu_state_reset(&state);
	engine_soft.vcpu_set_state(vcpu, &state);
	*out = vcpu;
	return 0;
}

static void soft_vcpu_destroy(struct engine_vcpu *vcpu)
{
	if (!vcpu)
		return;
	struct soft_vm *vm = vcpu->cpu.vm;
	for (unsigned i = 0; i < vm->cpus; i++) {
		if (vm->cpu[i] == &vcpu->cpu) {
			vm->cpu[i] = vm->cpu[--vm->cpus];
			break;
		}
	}
	soft_direct_destroy(&vcpu->cpu);
	profile_destroy(&vcpu->cpu);
	munmap(vcpu->cpu.return_guard, SOFT_RETURN_GUARD + SOFT_RETURNS * 16);
	munmap(vcpu, (sizeof(*vcpu) + 4095) & ~(size_t)4095);
}

static void soft_vcpu_get_state(struct engine_vcpu *vcpu, struct engine_cpu_state *s)
{
	const struct soft_cpu *cpu = &vcpu->cpu;
	memset(s, 0, sizeof(*s));
	memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
	s->rip = cpu->rip;
	s->rflags = soft_get_rflags(cpu);
	memcpy(s->seg, cpu->seg, sizeof(s->seg));
	s->gdtr.base = cpu->gdtr.base;
	s->gdtr.limit = cpu->gdtr.limit;
	s->idtr.base = cpu->idtr.base;
	s->idtr.limit = cpu->idtr.limit;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->cr8 = cpu->cb->cr8_read ? cpu->cb->cr8_read(cpu->cb_ctx) : 0;
	memcpy(s->dr, cpu->dr, sizeof(s->dr));
	s->xcr0 = cpu->xcr0;
	s->efer = cpu->efer;
	s->star = cpu->star;
	s->lstar = cpu->lstar;
	s->cstar = cpu->cstar;
	s->sfmask = cpu->sfmask;
	s->kernel_gs_base = cpu->kernel_gs_base;
	s->sysenter_cs = cpu->sysenter_cs;
	s->sysenter_esp = cpu->sysenter_esp;
	s->sysenter_eip = cpu->sysenter_eip;
	s->pat = cpu->pat;
	s->tsc_aux = cpu->tsc_aux;
	s->tsc_adjust = cpu->tsc_offset;
	s->nmi_masked = cpu->nmi_masked;
	s->nmi_pending = cpu->nmi_held || (atomic_load(&cpu->kick) & SOFT_KICK_NMI);
	s->interrupt_shadow = cpu->shadow;
	s->halted = cpu->halted;
	if (cpu->exc.pending) {
		s->event.valid = true;
		s->event.vector = cpu->exc.vector;
		s->event.has_error = cpu->exc.has_error;
		s->event.error = cpu->exc.error;
	} else if (cpu->interrupt_held) {
		s->event.valid = s->event.external = true;
		s->event.vector = cpu->held_vector;
	}
	memcpy(s->xsave, cpu->xsave, sizeof(s->xsave));
}

/* XRSTOR must not fault, whatever the state says: SDM Vol. 1, 13.8.1. */
static void sanitize_xsave(uint8_t *area, uint32_t mask)
{
	uint32_t mxcsr;
	memcpy(&mxcsr, area + 24, sizeof(mxcsr));
	mxcsr &= 0xffff;
	memcpy(area + 24, &mxcsr, sizeof(mxcsr));
	area[512] &= (uint8_t)mask;
	memset(area + 513, 0, 63);
}

static void soft_vcpu_set_state(struct engine_vcpu *vcpu, const struct engine_cpu_state *s)
{
	struct soft_cpu *cpu = &vcpu->cpu;
	memcpy(cpu->gpr, s->gpr, sizeof(s->gpr));
	cpu->rip = s->rip;
	memcpy(cpu->seg, s->seg, sizeof(s->seg));
	cpu->gdtr.base = s->gdtr.base;
	cpu->gdtr.limit = s->gdtr.limit;
	cpu->idtr.base = s->idtr.base;
	cpu->idtr.limit = s->idtr.limit;
	cpu->cr0 = s->cr0;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	if (cpu->cb->cr8_write)
		cpu->cb->cr8_write(cpu->cb_ctx, s->cr8);
	memcpy(cpu->dr, s->dr, sizeof(s->dr));
	cpu->xcr0 = s->xcr0;
	cpu->efer = s->efer;
	cpu->star = s->star;
	cpu->lstar = s->lstar;
	cpu->cstar = s->cstar;
	cpu->sfmask = s->sfmask;
	cpu->kernel_gs_base = s->kernel_gs_base;
	cpu->sysenter_cs = s->sysenter_cs;
	cpu->sysenter_esp = s->sysenter_esp;
	cpu->sysenter_eip = s->sysenter_eip;
	cpu->pat = s->pat;
	cpu->tsc_aux = s->tsc_aux;
	cpu->tsc_offset = s->tsc_adjust;
	cpu->nmi_masked = s->nmi_masked;
	cpu->nmi_held = s->nmi_pending;
	cpu->shadow = s->interrupt_shadow;
	cpu->halted = s->halted;
	memcpy(cpu->xsave, s->xsave, sizeof(s->xsave));
	cpu->xsave_mask = SOFT_XSAVE_AVX;
	if ((s->xcr0 & SOFT_XSAVE_AVX512) == SOFT_XSAVE_AVX512 && soft_host_avx512())
		cpu->xsave_mask |= SOFT_XSAVE_AVX512;
	sanitize_xsave(cpu->xsave, cpu->xsave_mask);
	cpu->exc.pending = s->event.valid && !s->event.external;
	cpu->exc.vector = s->event.vector & 31;
	cpu->exc.has_error = s->event.has_error;
	cpu->exc.error = s->event.error;
	cpu->exc.cr2 = s->cr2;
	cpu->exc.dr6 = s->dr[6];
	cpu->interrupt_held = s->event.valid && s->event.external;
	cpu->held_vector = s->event.vector;
	cpu->delivery.active = false;
	cpu->exit_link = NULL;
	cpu->stepped = false;
	soft_tlb_flush(cpu, true);
	soft_set_rflags(cpu, s->rflags);
	soft_update_mode(cpu);
	soft_load_pdptes(cpu);
	cpu->irq_pending = 1; /* look once: what was pending is the machine's to say */
}

static void soft_vcpu_run(struct engine_vcpu *vcpu, struct engine_run *run)
{
	soft_run(&vcpu->cpu, run);
}

static void soft_vcpu_kick(struct engine_vcpu *vcpu, unsigned what)
{
	if (soft_kick(&vcpu->cpu, what) & what & SOFT_KICK_NMI)
		atomic_fetch_or(&vcpu->cpu.kick, SOFT_KICK_NMI2);
}

static uint64_t soft_vm_tsc(struct engine_vm *vm)
{
	(void)vm;
	return __rdtsc();
}

static uint64_t soft_vm_tsc_khz(struct engine_vm *vm)
{
	if (!vm->soft.tsc_khz) /* as late as it can be: the kernel has been loaded meanwhile */
		vm->soft.tsc_khz = host_tsc_khz(&vm->soft.tsc_start);
	return vm->soft.tsc_khz;
}

static int soft_vm_dirty_log(struct engine_vm *vm, bool on)
{
	return soft_dirty_log(&vm->soft, on);
}

static int soft_vm_dirty_take(struct engine_vm *vm, uint64_t gpa, uint64_t *bitmap)
{
	return soft_dirty_take(&vm->soft, gpa, bitmap);
}

static void soft_vm_profile(struct engine_vm *vm, const struct engine_profile *how)
{
	profile_report(&vm->soft, how);
}

static void soft_vm_profile_anew(struct engine_vm *vm)
{
	for (unsigned i = 0; i < vm->soft.cpus; i++)
		__atomic_store_n(&vm->soft.cpu[i]->profile->anew, true, __ATOMIC_RELAXED);
}

const struct engine_ops engine_soft = {
	.name = "soft",
	.summary = "full virtualization by binary translation; needs nothing of the host",
	.probe = soft_probe,
	.cpuid_filter = soft_cpuid_filter,
	.vm_create = soft_vm_create,
	.vm_destroy = soft_vm_destroy,
	.vm_map = soft_vm_map,
	.vm_written = soft_vm_written,
	.vcpu_create = soft_vcpu_create,
	.vcpu_destroy = soft_vcpu_destroy,
	.vcpu_get_state = soft_vcpu_get_state,
	.vcpu_set_state = soft_vcpu_set_state,
	.vcpu_run = soft_vcpu_run,
	.vcpu_kick = soft_vcpu_kick,
	.vm_tsc = soft_vm_tsc,
	.vm_tsc_khz = soft_vm_tsc_khz,
	.vm_dirty_log = soft_vm_dirty_log,
	.vm_dirty_take = soft_vm_dirty_take,
	.vm_profile = soft_vm_profile,
	.vm_profile_anew = soft_vm_profile_anew,
};
