/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table: each row is a run of registers with who has them, their value after reset, the bits that may be written
 * and what a write means. Values live in one array, a slot for each register of each row.
 */
#include "vm/msr.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "vm/kvmclock.h"
#include "vm/platform.h"
#include "vm/state.h"

enum who { ANY, AMD, INTEL, ENGINE };

enum how {
	STORE,     /* keeps what is written; a bit outside `writable` that changes is #GP */
	DROP,      /* writes of `writable` bits are accepted and forgotten */
	MTRR_BASE, /* STORE with checks of the memory types */
	MTRR_FIXED,
	MTRR_TYPE,
	ALL_OR_NONE, /* 0 or all ones, as machine check controls are */
	KVM_TIME,
	KVM_WALL,
	PARAVIRTUAL, /* the engine's; only where it serves them */
};

struct row {
	uint32_t first, count;
	enum who who;
	enum how how;
	uint64_t reset, writable;
};

#define ALL (~0ull)
enum { MCE_BANKS = 10, MTRRS = 8, UC = 0, WB = 6 };
#define FIXED_WB 0x0606060606060606ull

/* IA32_ARCH_CAPABILITIES, SDM Vol. 4: immune to what a guest would otherwise spend time on. docs/design/cpuid.md. */
#define ARCH_CAPABILITIES                                                                                           \
	(1ull << 0 /* RDCL_NO */ | 1ull << 1 /* IBRS_ALL */ | 1ull << 3 /* SKIP_L1DFL_VMENTRY */ |                  \
	 1ull << 4 /* SSB_NO */ | 1ull << 5 /* MDS_NO */ | 1ull << 6 /* IF_PSCHANGE_MC_NO */ |                      \
	 1ull << 8 /* TAA_NO */ | 1ull << 13 /* SBDR_SSDP_NO */ | 1ull << 14 /* FBSDP_NO */ |                       \
	 1ull << 15 /* PSDP_NO */ | 1ull << 20 /* BHI_NO */ | 1ull << 24 /* PBRSB_NO */ | 1ull << 26 /* GDS_NO */ | \
	 1ull << 27 /* RFDS_NO */ | 1ull << 62 /* ITS_NO */)

/* The microcode's revision: above all that an erratum was mended in. What is broken here is not shown in CPUID. */
#define MICROCODE 0xffffffffull

static const struct row rows[] = {
	{ 0x000, 2, ANY, DROP, 0, ALL },                        /* P5_MC_ADDR, P5_MC_TYPE */
	{ 0x011, 1, ANY, KVM_WALL, 0, ALL },                    /* KVM_WALL_CLOCK, the old number */
	{ 0x012, 1, ANY, KVM_TIME, 0, ALL },                    /* KVM_SYSTEM_TIME, the old number */
	{ 0x017, 1, INTEL, STORE, 0, 0 },                       /* PLATFORM_ID */
	{ 0x02a, 1, INTEL, STORE, 0, 0 },                       /* EBL_CR_POWERON */
	{ 0x03a, 1, INTEL, STORE, 1, 0 },                       /* FEATURE_CONTROL: locked, no VMX, no SGX */
	{ 0x048, 1, ANY, STORE, 0, 0x407 },                     /* SPEC_CTRL: IBRS, STIBP, SSBD, BHI_DIS_S */
	{ 0x049, 1, ANY, DROP, 0, 1 },                          /* PRED_CMD: IBPB */
	{ 0x08b, 1, INTEL, DROP, MICROCODE << 32, 0xffffffff }, /* BIOS_SIGN_ID: a write asks CPUID 1 to load it */
	{ 0x08b, 1, AMD, STORE, MICROCODE, 0 },                 /* PATCH_LEVEL */
	{ 0x0cd, 1, INTEL, STORE, 0, 0 },                       /* FSB_FREQ */
	{ 0x0ce, 1, INTEL, STORE, 0, 0 },                       /* PLATFORM_INFO */
	{ 0x0fe, 1, ANY, STORE, 0x500 | MTRRS, 0 },             /* MTRRCAP: fixed ranges, WC */
	{ 0x10a, 1, ANY, STORE, ARCH_CAPABILITIES, 0 },
	{ 0x140, 1, INTEL, DROP, 0, 0 },                          /* MISC_FEATURES_ENABLES */
	{ 0x179, 1, ANY, STORE, 0x100 | MCE_BANKS, 0 },           /* MCG_CAP: MCG_CTL is there */
	{ 0x17a, 1, ANY, STORE, 0, 7 },                           /* MCG_STATUS */
	{ 0x17b, 1, ANY, ALL_OR_NONE, 0, ALL },                   /* MCG_CTL */
	{ 0x1a0, 1, INTEL, STORE, 0x1801, 0x400041 },             /* MISC_ENABLE: fast strings, no BTS, no PEBS */
	{ 0x1d9, 1, ANY, STORE, 0, 3 },                           /* DEBUGCTL: LBR, BTF */
	{ 0x1db, 4, ANY, STORE, 0, 0 },                           /* last branch and last exception records */
	{ 0x200, 2 * MTRRS, ANY, MTRR_BASE, 0, ALL },             /* MTRRphysBase and, odd, MTRRphysMask */
	{ 0x250, 1, ANY, MTRR_FIXED, FIXED_WB, ALL },             /* MTRRfix64K_00000 */
	{ 0x258, 1, ANY, MTRR_FIXED, FIXED_WB, ALL },             /* MTRRfix16K_80000 */
	{ 0x259, 1, ANY, MTRR_FIXED, 0, ALL },                    /* MTRRfix16K_A0000: VGA's window, uncached */
	{ 0x268, 8, ANY, MTRR_FIXED, FIXED_WB, ALL },             /* MTRRfix4K_C0000 ... F8000 */
	{ 0x2ff, 1, ANY, MTRR_TYPE, 0xc00 | WB, 0xcff },          /* MTRRdefType: enabled, fixed ranges too */
	{ 0x400, 4 * MCE_BANKS, ANY, ALL_OR_NONE, 0, ALL },       /* MCi_CTL, _STATUS, _ADDR, _MISC */
	{ 0xc0010000, 8, AMD, DROP, 0, ALL },                     /* PERF_CTL and PERF_CTR 0 to 3 */
	{ 0xc0010010, 1, AMD, STORE, 0, 0x7c0000 },               /* SYSCFG: the MTRRs' extensions */
	{ 0xc0010015, 1, AMD, STORE, 1u << 24, 0x49040158 },      /* HWCR: the TSC counts at P0's frequency */
	{ 0xc0010016, 4, AMD, STORE, 0, ALL },                    /* IORRs */
	{ 0xc001001a, 1, AMD, STORE, PLATFORM_RAM_LOW_END, ALL }, /* TOP_MEM */
	{ 0xc001001d, 1, AMD, STORE, 0, ALL },                    /* TOP_MEM2 */
	{ 0xc001001f, 1, AMD, STORE, 0, ALL },                    /* NB_CFG */
	{ 0xc0010055, 1, AMD, STORE, 0, 0 },                      /* INT_PENDING */
	{ 0xc0010058, 1, AMD, STORE, 0, 0 },                      /* MMIO_CONF_BASE: none */
	{ 0xc0010112, 2, AMD, STORE, 0, 0 },                      /* SMM_ADDR, SMM_MASK */
	{ 0xc0010114, 1, AMD, STORE, 0x10, 0 },                   /* VM_CR: SVM disabled */
	{ 0xc0011020, 4, AMD, STORE, 0, ALL },                    /* LS_CFG, IC_CFG, DC_CFG, BU_CFG */
	{ 0xc0011029, 1, AMD, STORE, 2, ALL },                    /* DE_CFG: LFENCE waits */
	{ 0xc001102a, 1, AMD, STORE, 0, ALL },                    /* BU_CFG2 */
	{ 0x4b564d00, 1, ANY, KVM_WALL, 0, ALL },
	{ 0x4b564d01, 1, ANY, KVM_TIME, 0, ALL },
	{ 0x4b564d06, 1, ENGINE, PARAVIRTUAL, 0, ALL }, /* KVM_ASYNC_PF_INT, before the MSR that turns it on */
	{ 0x4b564d02, 1, ENGINE, PARAVIRTUAL, 0, ALL }, /* KVM_ASYNC_PF_EN */
	{ 0x4b564d03, 1, ENGINE, PARAVIRTUAL, 0, ALL }, /* KVM_STEAL_TIME */
	{ 0x4b564d04, 1, ENGINE, PARAVIRTUAL, 0, ALL }, /* KVM_PV_EOI_EN */
	{ 0x4b564d05, 1, ENGINE, PARAVIRTUAL, 1, ALL }, /* KVM_POLL_CONTROL */
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]), SLOTS = 160 };

struct msrs {
	struct msr_config config;
	uint64_t value[SLOTS];
};

/* Whether CPUID offers what a paravirtual register turns on. */
static bool is_offered(const struct msrs *msrs, uint32_t index)
{
	static const struct {
		uint32_t msr;
		uint8_t bit;
	} table[] = {
#define PARAVIRT(bit, name, where, msr, gain) { msr, bit },
#include "vm/paravirt.def"
#undef PARAVIRT
	};

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].msr == index)
			return msrs->config.paravirt >> table[i].bit & 1;
	return false;
}

static bool is_here(const struct msrs *msrs, const struct row *row)
{
	switch (row->who) {
	case ANY:
		return true;
	case ENGINE:
		return msrs->config.engine && is_offered(msrs, row->first);
	default:
		return (row->who == AMD) == msrs->config.amd;
	}
}

/* The row of an index and the slot of its value, or NULL. */
static const struct row *find(const struct msrs *msrs, uint32_t index, unsigned *slot)
{
	*slot = 0;
	for (unsigned i = 0; i < ROWS; i++) {
		const struct row *row = &rows[i];
		if (index - row->first < row->count && is_here(msrs, row)) {
			*slot += index - row->first;
			return row;
		}
		*slot += row->count;
	}
	return NULL;
}

struct msrs *msrs_create(const struct msr_config *config)
{
	struct msrs *msrs = memory_zalloc(sizeof(*msrs));

	msrs->config = *config;
	msrs_reset(msrs);
	return msrs;
}

void msrs_destroy(struct msrs *msrs)
{
	free(msrs);
}

static uint64_t phys_mask(const struct msrs *msrs)
{
	return (1ull << msrs->config.phys_bits) - 1;
}

void msrs_reset(struct msrs *msrs)
{
	unsigned slot = 0;

	for (unsigned i = 0; i < ROWS; i++)
		for (unsigned n = 0; n < rows[i].count; n++) {
			assert(slot < SLOTS);
			msrs->value[slot++] = rows[i].reset;
		}

	/* The hole below 4 GiB is for devices. */
	const struct row *base = find(msrs, 0x200, &slot);
	assert(base);
	msrs->value[slot] = PLATFORM_RAM_LOW_END | UC;
	msrs->value[slot + 1] =
	    (phys_mask(msrs) & ~(uint64_t)(PLATFORM_RAM_HIGH_BASE - PLATFORM_RAM_LOW_END - 1)) | 1 << 11;
}

bool msrs_read(struct msrs *msrs, uint32_t index, uint64_t *value)
{
	unsigned slot;

	if (!find(msrs, index, &slot))
		return false;
	*value = msrs->value[slot];
	return true;
}

/* SDM Vol. 3, table 12-8: uncacheable, write combining, write through, write protected, write back. */
static bool memory_type(uint8_t type)
{
	return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static bool fixed_types(uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		if (!memory_type(value >> (8 * i)))
			return false;
	return true;
}

/* KVM_SYSTEM_TIME: bit 0 enables, the rest is the address. */
static bool kvm_time(struct msrs *msrs, uint64_t value)
{
	uint64_t gpa = value & ~1ull;

	if (!(value & 1))
		return true;
	void *guest = msrs->config.memory(msrs->config.ctx, gpa, KVMCLOCK_TIME_SIZE);
	if (!guest)
		return false;
	kvmclock_write_time(msrs->config.clock, guest);
	msrs->config.written(msrs->config.ctx, gpa, KVMCLOCK_TIME_SIZE);
	return true;
}

static bool kvm_wall(struct msrs *msrs, uint64_t gpa)
{
	void *guest = msrs->config.memory(msrs->config.ctx, gpa, KVMCLOCK_WALL_SIZE);

	if (!guest)
		return false;
	kvmclock_write_wall(msrs->config.clock, guest);
	msrs->config.written(msrs->config.ctx, gpa, KVMCLOCK_WALL_SIZE);
	return true;
}

static bool tell_engine(const struct msrs *msrs, uint32_t index, uint64_t value)
{
	return msrs->config.engine(msrs->config.engine_ctx, index, value);
}

void msrs_tell_engine(struct msrs *msrs)
{
	unsigned slot;

	for (unsigned i = 0; msrs->config.engine && i < ROWS; i++)
		if ((rows[i].how == KVM_TIME || rows[i].how == PARAVIRTUAL) && find(msrs, rows[i].first, &slot)) {
			tell_engine(msrs, rows[i].first, msrs->value[slot]);
		}
}

static bool allowed(struct msrs *msrs, const struct row *row, uint32_t index, uint64_t value)
{
	switch (row->how) {
	case MTRR_BASE:
		if (index & 1)
			return !(value & ~(phys_mask(msrs) & ~0x7ffull));
		return memory_type(value) && !(value & (~phys_mask(msrs) | 0xf00));
	case MTRR_FIXED:
		return fixed_types(value);
	case MTRR_TYPE:
		return memory_type(value);
	case ALL_OR_NONE:
		return value == 0 || value == ALL;
	case KVM_TIME:
		return msrs->config.engine ? tell_engine(msrs, index, value) : kvm_time(msrs, value);
	case KVM_WALL:
		return msrs->config.engine ? tell_engine(msrs, index, value) : kvm_wall(msrs, value);
	case PARAVIRTUAL:
		return tell_engine(msrs, index, value);
	default:
		return true;
	}
}

bool msrs_write(struct msrs *msrs, uint32_t index, uint64_t value)
{
	unsigned slot;
	const struct row *row = find(msrs, index, &slot);

	if (!row)
		return false;
	uint64_t held = msrs->value[slot];
	if (row->how == DROP)
		return !(value & ~row->writable);
	if (!row->writable) /* read-only, also for what it reads as */
		return false;
	if ((value ^ held) & ~row->writable || !allowed(msrs, row, index, value))
		return false;
	msrs->value[slot] = value;
	return true;
}

/* ---- saved state ---- */

static bool belongs(const struct msrs *msrs, const struct row *row)
{
	return row->how != DROP && row->writable && is_here(msrs, row);
}

static void field_name(char name[16], uint32_t index)
{
	snprintf(name, 16, "%08x", index);
}

void msrs_save(const struct msrs *msrs, struct state_writer *w)
{
	unsigned slot = 0;
	char name[16];

	for (unsigned i = 0; i < ROWS; i++)
		for (unsigned n = 0; n < rows[i].count; n++, slot++) {
			if (!belongs(msrs, &rows[i]))
				continue;
			field_name(name, rows[i].first + n);
			state_put_u64(w, name, msrs->value[slot]);
		}
}

int msrs_load(struct msrs *msrs, struct state_reader *r, struct error *err)
{
	uint64_t value;
	char name[16];

	msrs_reset(msrs);
	for (unsigned i = 0; i < ROWS; i++)
		for (unsigned n = 0; n < rows[i].count; n++) {
			uint32_t index = rows[i].first + n;
			field_name(name, index);
			/* One that an older version did not have keeps its reset value. */
			if (!belongs(msrs, &rows[i]) || !state_has(r, name))
				continue;
			state_get_u64(r, name, &value);
			if (state_failed(r, err))
				return -EINVAL;
			/* The wall clock is a command: its value is only what was last written. */
			if (rows[i].how != KVM_WALL && !msrs_write(msrs, index, value))
				return error_set(err, -EINVAL, "MSR %s can't be %#llx", name,
						 (unsigned long long)value);
		}
	return 0;
}
