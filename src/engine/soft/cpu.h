/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.h - a virtual CPU of the soft engine, as generated code and C helpers see it.
 *
 * While generated code runs, GS base points at struct soft_cpu, and the guest's state is in the host's registers:
 *
 *   guest rax rcx rdx rbx rbp rsi rdi r8 r9 r12 r13 r14   the same host register
 *   guest rsp                                             host r15
 *   guest r10 r11 r15                                     gpr[10], gpr[11], gpr[15] in memory
 *   host r10, r11                                         scratch (T0, T1)
 *   host rsp                                              the return stack: soft_return_stack below
 *   guest vector and x87 state                            the host's, all of the time that vcpu_run is on the stack
 *   arithmetic flags                                      the host's, or saved in `flags` (see translate.c)
 *
 * C code runs in one of two ways. *Light*: a helper in this folder, compiled with -mgeneral-regs-only, entered with all
 * general registers in gpr[] and the arithmetic flags in `flags`; it must not call anything that may touch a vector
 * register: libc's memcpy does (scripts/check_light.py looks). *Heavy*: anything else (the machine's callbacks,
 * libc), between soft_heavy_begin and soft_heavy_end, which save and restore the guest's vector state.
 *
 * A light helper that finds a guest exception calls soft_raise, which never returns: it unwinds to the dispatcher.
 * cpu->rip then holds the faulting instruction, and nothing of that instruction may have been committed.
 */
#ifndef PLURES_ENGINE_SOFT_CPU_H
#define PLURES_ENGINE_SOFT_CPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/soft/insn.h"

struct soft_vm;
struct soft_link;
struct soft_profile;
struct soft_direct;

/* The soft TLB: per vCPU, one direct-mapped array per privilege class. An access of `size` bytes at guest-linear `a`
 * hits in entry e = tlb[mmu][(a >> 12) & (SOFT_TLB_SIZE - 1)] when (a ^ e.tag) <= 4096 - size, with e.tag_write for
 * stores; the host address is then (a ^ e.tag) + e.host, or a + e.addend. An invalid tag is one whose page belongs to another index
 * (soft_tlb_no_tag), so no address whatever matches it, and needs no flag. Only ordinary memory is ever entered, and a
 * page that holds translated code (or is read-only, or not yet dirty in its PTE) has no tag_write. */
#define SOFT_TLB_BITS 12
#define SOFT_TLB_SIZE (1u << SOFT_TLB_BITS)

struct soft_tlb_entry {
	uint64_t tag_read;
	uint64_t tag_write;
	uint64_t host;   /* host address of the page's first byte */
	uint64_t addend; /* host - page */
};
enum {
	SOFT_TLB_GLOBAL = 1,
	SOFT_TLB_LARGE = 2, /* of a 2 or 4 MiB page */
	SOFT_TLB_HUGE = 4,  /* of a 1 GiB page */
	SOFT_TLB_WRITE = 8, /* from soft_translate only: a store is allowed, and D is set already */
};

static inline uint64_t soft_tlb_no_tag(unsigned index)
{
	return index ? 0 : 1u << 12;
}

/* Privilege classes of data accesses. */
enum { SOFT_MMU_USER, SOFT_MMU_KERNEL, SOFT_MMU_KERNEL_AC /* SMAP open, or no SMAP */, SOFT_MMU_COUNT };

/* The slots of memory operands (slots.c), by privilege class and kind of access (1: stores): an access hits when
 * (a ^ tag) <= 4096 - size, at a + addend. A slot's number among all of them is its id. */
#define SOFT_SLOTS 1024u
#define SOFT_SLOT_STACK 0u /* all sites' that address by RSP alone */
#define SOFT_SLOT_IDS (SOFT_MMU_COUNT * 2 * SOFT_SLOTS)
#define SOFT_HEATS 4096u
#define SOFT_HOT 1000
#define SOFT_COMPUTING 64u
struct soft_slot {
	uint64_t tag, addend;
};

/* The instruction TLB: one 64-bit word an entry so that a cross-page link verifies with one compare.
 * (linear page number, 36 bits << 28) | physical page number; ~0 when empty. It has two halves, for CPL < 3 and for
 * CPL 3, since what one may run the other may not: cpu->itlb_of[cpl == 3][soft_itlb_index(lin)]. */
#define SOFT_ITLB_SIZE 4096u
#define SOFT_ITLB_KEY(lin, gpa) ((((lin) >> 12) << 28) | ((gpa) >> 12))
static inline unsigned soft_itlb_index(uint64_t linear)
{
	return (linear >> 12) & (SOFT_ITLB_SIZE - 1);
}

/* The jump cache: guest-linear RIP and mode to host code (its entry with flags in memory). It is large, so that its
 * index is the address' low bits, two instructions, and is emptied by a list of what is in use. */
#define SOFT_JC_BITS 15
#define SOFT_JC_LISTED 1024u
#define SOFT_JC_SIZE (1u << SOFT_JC_BITS)
struct soft_jc_entry {
	uint64_t rip;
	uint32_t mode; /* SOFT_JC_EMPTY when empty */
	uint32_t code; /* the executable view lies below 4 GiB */
};
#define SOFT_JC_EMPTY 0 /* no mode that is ever entered: those are flat */
static inline unsigned soft_jc_index(uint64_t rip)
{
	return (unsigned)rip & (SOFT_JC_SIZE - 1);
}
/* The bit of cpu->jc_pages (64 words) to set for each page that an entry is made for; a flush of that page looks there. */
static inline unsigned soft_jc_page_bit(uint64_t rip)
{
	return ((rip >> 12) ^ (rip >> 24)) & 4095;
}

/* The return stack, which host RSP points to while generated code runs: for each guest CALL the guest's return address
 * and, pushed by the host's own CALL, where the caller's code goes on. A guest RET whose target is the one on top is the
 * host's RET, so the host predicts it. What a return address was worth ends with a change of mode, of mappings or of
 * the block cache: soft_returns_drop. Its bottom holds an address that is not canonical and soft_return_bottom, for
 * whoever returns there nevertheless; below its end is a page that faults, upon which everything on it is forgotten. */
enum { SOFT_RETURNS = 65536, SOFT_RETURN_GUARD = 4096 };
#define SOFT_RETURN_NONE 0x8000c0de00000000u

/* The mode: everything that the meaning of the same bytes at the same address depends on; part of a block's key. */
enum {
	SOFT_MODE_CPL = 3,         /* bits 0-1 */
	SOFT_MODE_CODE16 = 0 << 2, /* bits 2-3: enum insn_mode */
	SOFT_MODE_CODE32 = 1 << 2,
	SOFT_MODE_CODE64 = 2 << 2,
	SOFT_MODE_CODE = 3 << 2,
	SOFT_MODE_STACK32 = 1 << 4, /* SS.B; ignored in 64-bit code */
	SOFT_MODE_FLAT = 1 << 5, /* CS, DS, ES, SS: base 0, limit 4 GiB, usable, writable data; always in 64-bit code */
	SOFT_MODE_PE = 1 << 6,
	SOFT_MODE_VM = 1 << 7, /* v8086 */
	SOFT_MODE_LMA = 1 << 8,
	SOFT_MODE_DF = 1 << 9,    /* RFLAGS.DF */
	SOFT_MODE_AC = 1 << 10,   /* CPL < 3 and user pages may be touched: RFLAGS.AC, or CR4.SMAP clear */
	SOFT_MODE_STEP = 1 << 11, /* one instruction a block, for RFLAGS.TF and breakpoints */
	SOFT_MODE_TS = 1 << 12,   /* CR0.TS */
	SOFT_MODE_EM = 1 << 13,   /* CR0.EM */
	SOFT_MODE_MP = 1 << 14,   /* CR0.MP */
	SOFT_MODE_FXSR = 1 << 15, /* CR4.OSFXSR */
	SOFT_MODE_AVX = 1 << 16,  /* CR4.OSXSAVE and XCR0[2:1] */
	SOFT_MODE_AVX512 = 1 << 17,
	SOFT_MODE_IOPL = 1 << 18,    /* CPL <= IOPL: CLI and STI act (not v8086) */
	SOFT_MODE_SINGLE = 1 << 22,  /* in a block's key only: translated without groups (trans_group.c) */
	SOFT_MODE_TSD = 1 << 21,     /* CPL 3 and CR4.TSD: RDTSC is privileged */
	SOFT_MODE_OSXSAVE = 1 << 20, /* CR4.OSXSAVE */
	SOFT_MODE_WIDE = 1 << 19,    /* FS or GS has a limit below 4 GiB or is odd: check it (never in 64-bit code) */
};
static inline enum insn_mode soft_mode_code(uint32_t mode)
{
	return (enum insn_mode)((mode & SOFT_MODE_CODE) >> 2);
}

/* clang-format off */
/* Exceptions, SDM Vol. 3, table 6-1. */
enum {
	EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4, EXC_BR = 5, EXC_UD = 6, EXC_NM = 7, EXC_DF = 8,
	EXC_TS = 10, EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16, EXC_AC = 17, EXC_MC = 18,
	EXC_XM = 19,
};

/* Bits of RFLAGS that are not arithmetic. */
enum {
	RF_TF = 1 << 8, RF_IF = 1 << 9, RF_DF = 1 << 10, RF_IOPL = 3 << 12, RF_NT = 1 << 14, RF_RF = 1 << 16,
	RF_VM = 1 << 17, RF_AC = 1 << 18, RF_VIF = 1 << 19, RF_VIP = 1 << 20, RF_ID = 1 << 21,
};

enum {
	CR0_PE = 1u << 0, CR0_MP = 1u << 1, CR0_EM = 1u << 2, CR0_TS = 1u << 3, CR0_ET = 1u << 4, CR0_NE = 1u << 5,
	CR0_WP = 1u << 16, CR0_AM = 1u << 18, CR0_NW = 1u << 29, CR0_CD = 1u << 30,
	CR4_VME = 1u << 0, CR4_PVI = 1u << 1, CR4_TSD = 1u << 2, CR4_DE = 1u << 3, CR4_PSE = 1u << 4, CR4_PAE = 1u << 5,
	CR4_MCE = 1u << 6, CR4_PGE = 1u << 7, CR4_PCE = 1u << 8, CR4_OSFXSR = 1u << 9, CR4_OSXMMEXCPT = 1u << 10,
	CR4_UMIP = 1u << 11, CR4_LA57 = 1u << 12, CR4_FSGSBASE = 1u << 16, CR4_PCIDE = 1u << 17,
	CR4_OSXSAVE = 1u << 18, CR4_SMEP = 1u << 20, CR4_SMAP = 1u << 21, CR4_PKE = 1u << 22,
};
/* clang-format on */
#define CR0_PG (1u << 31)
enum { EFER_SCE = 1 << 0, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };

/* A bit for each thing that should make generated code come back to the dispatcher. */
enum {
	SOFT_KICK_INTERRUPT = ENGINE_KICK_INTERRUPT,
	SOFT_KICK_NMI = ENGINE_KICK_NMI,
	SOFT_KICK_EXIT = ENGINE_KICK_EXIT,
	SOFT_KICK_EVICT = 8, /* the engine's own: it is to let go of dropped translations (cache.c) */
	SOFT_KICK_NMI2 = 16, /* and: another NMI came before the first was taken; one is served, one is held */
	SOFT_KICK_PASS = 32, /* and: another thread waits until the stores so far are done (dirty.c) */
};

/* A bounced access (mmu.c): one that can't be made in place, done on a buffer and finished by soft_mem_commit. */
enum soft_bounce_kind {
	SOFT_BOUNCE_NONE,
	SOFT_BOUNCE_MMIO,
	SOFT_BOUNCE_SPLIT,
	SOFT_BOUNCE_CODE,
	SOFT_BOUNCE_DISCARD,
	SOFT_BOUNCE_LANES, /* the enabled lanes of a masked store (evex.c) */
};

#define SOFT_BOUNCE_SIZE 4096
/* State components: what is always the guest's (x87, SSE, AVX), and what is once XCR0 has it (masks, all of ZMM). */
enum { SOFT_XSAVE_AVX = 7, SOFT_XSAVE_AVX512 = 0xe0 };

enum { SOFT_SCRATCH_BUFFER = 2 }; /* of cpu->scratch: where the helper of a masked access has prepared it */

/* What generated code calls (thunk.c). */
enum {
	SOFT_THUNK_MEM,    /* T0 = linear ^ tag, T1 = how, scratch[7] = TLB offset: soft_mem_miss; T0 = host address */
	SOFT_THUNK_COMMIT, /* soft_mem_commit; leaves for the dispatcher at cpu->rip when code changed */
	SOFT_THUNK_COMMIT_MEM, /* ... where the flags are in memory already */
	SOFT_THUNK_HELPER,     /* T0 = ea, T1 = insn: a plain helper */
	SOFT_THUNK_HELPER_END, /* ... one that ends the block; does not return */
	SOFT_THUNK_LINK,       /* an unlinked exit; the struct soft_link * stands after the call */
	SOFT_THUNK_LINK_MEM,   /* ... where the flags are in memory */
	SOFT_THUNK_GROUP, /* as MEM, for a group: soft_group_miss; to the dispatcher when each access must go by itself */
	SOFT_THUNK_SLOT,        /* T0 = linear ^ tag, T1 = SOFT_SITE: soft_slot_miss; T0 = host address */
	SOFT_THUNK_HOT,         /* called at a block's start: it is to be translated anew */
	SOFT_THUNK_SLOT_GROUP,  /* ... for a group */
	SOFT_THUNK_SLOT_MASKED, /* ... of a masked operand: T0 = 0 when its lanes are to be accessed one by one */
	SOFT_THUNK_LINEAR,      /* T0 = offset, T1 = how | segment << 24: soft_linear; T0 = linear */
	SOFT_THUNKS,
};

struct soft_cpu {
	/* Reached by generated code; order matters only for short displacements in C. */
	uint64_t gpr[16];
	uint64_t rip;   /* linear-less: the instruction pointer, not CS base + IP */
	uint32_t flags; /* saved arithmetic flags: AL = OF (0 or 1), AH = SF:ZF:0:AF:0:PF:1:CF, as SETO AL; LAHF */
	uint32_t mode;  /* SOFT_MODE_* of what is running; soft_update_mode computes it */
	_Atomic uint32_t kick; /* SOFT_KICK_*; polled by generated code */
	uint32_t sysflags;     /* RFLAGS without the arithmetic flags (so bit 1, IF, DF, IOPL, AC, ID ...) */
	struct engine_segment seg[ENGINE_SEGMENTS];
	uint64_t scratch[8];         /* generated code's own spills */
	uint64_t held[16];           /* by base register: what a group's check found (trans_group.c) */
	const void *host_rsp;        /* the dispatcher's stack frame */
	uint64_t *return_rsp;        /* of the return stack, while C runs */
	uint64_t *return_bottom;     /* what it is when the stack is empty */
	uint8_t *return_guard;       /* the page below its end */
	struct soft_link *exit_link; /* the link to patch when an unlinked exit was taken, else NULL */
	struct soft_cpu *self;
	void (*exit_regs)(void);          /* where generated code leaves to with rip set (run.h) */
	void (*thunk[SOFT_THUNKS])(void); /* SOFT_THUNK_*: what generated code calls (run.S) */
	uint32_t irq_pending;             /* an interrupt may be waiting for IF */
	uint32_t pause_left;              /* PAUSEs until the host's CPU is offered to another thread */
	uint32_t single;                  /* go on in a block without groups, once */
	uint32_t recheck; /* a block that crosses pages found its second one out of the instruction TLB */
	uint32_t stale;   /* something was taken out of the TLB since the dispatcher last chose a block */
	uint32_t shadow;  /* not 0: interrupts are held off until one instruction has run (1 STI, 3 MOV SS) */
	struct {
		uint64_t to,
		    rip;      /* the indirect branch that left generated code last: its target, and where it stands */
		int32_t undo; /* to be added to RSP to undo it */
	} branch;
	uint64_t xcr0;
	uint32_t xsave_mask; /* components that are the guest's while it runs: SOFT_XSAVE_* */
	uint64_t tsc_offset; /* guest TSC = host TSC + offset: IA32_TSC_ADJUST */
	_Alignas(64) struct soft_tlb_entry
	    tlb[SOFT_MMU_COUNT][SOFT_TLB_SIZE]; /* an entry is in one line of the host's caches */
	uint64_t itlb_of[2][SOFT_ITLB_SIZE];
	uint32_t heat[SOFT_HEATS]; /* counters of blocks that are entered, by a hash: SOFT_HOT down to 0 */
	_Alignas(64) struct soft_slot slot[SOFT_MMU_COUNT][2][SOFT_SLOTS];
	_Alignas(64) struct soft_jc_entry jc[SOFT_JC_SIZE];

	/* C only. */
	struct soft_vm *vm;
	struct soft_profile *profile; /* or NULL (profile.h) */
	/* direct.c's: NULL until ring 3 is first run directly; the process that is running it, or 0; translation is to go on
	 * once, or; what is known of address spaces, by a hash; how often ring 3 has entered the kernel, and what that was at
	 * the last interrupt that found ring 3. */
	struct soft_direct *direct;
	_Atomic int direct_pid;
	bool direct_pass, all_direct;
	uint64_t direct_stay; /* ... as long as RIP is in that page */
	struct soft_computing {
		uint64_t cr3, off_until; /* TSC */
		uint64_t took, runs, mended, off_ms;
		bool on;
	} computing[SOFT_COMPUTING];
	uint32_t kernel_entries;
	struct {
		uint64_t at, cr3;
		uint32_t entries;
	} tick;
	unsigned index;
	atomic_bool inside;   /* vcpu_run is on the stack */
	uint64_t cache_epoch; /* when it last held no pointers into the block cache; 0: it holds none (cache.c) */
	const struct engine_callbacks *cb;
	void *cb_ctx;
	struct {
		uint64_t base;
		uint16_t limit;
	} gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4;
	uint64_t dr[8];
	uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux;
	uint64_t pdpte[4];                 /* PAE paging's, loaded by MOV CR3 */
	bool nmi_masked, nmi_held, halted; /* held: an NMI that came while masked */
	bool interrupt_held;               /* held_vector was acknowledged and comes before the next instruction */
	uint8_t held_vector;
	bool checks_alignment; /* CPL 3, RFLAGS.AC and CR0.AM (soft_update_mode's own) */
	/* tlb.c's own: which TLB entries may be in use, by SOFT_TLB_GLOBAL, so that a flush need not visit all, and
	 * filters of the 2 MiB and 1 GiB areas that entries were made in from large and huge pages, by the address' top bit. */
	uint64_t tlb_used[SOFT_MMU_COUNT][2][SOFT_TLB_SIZE / 64];
	uint64_t tlb_flags[SOFT_MMU_COUNT]
			  [SOFT_TLB_SIZE]; /* gpa of the page | SOFT_TLB_GLOBAL ... in the low 12 bits */
	uint64_t itlb_used[2][2][SOFT_ITLB_SIZE / 64];
	uint8_t itlb_flags[2][SOFT_ITLB_SIZE];
	uint64_t large_areas[2][64], huge_areas[2];
	uint64_t jc_pages[64]; /* filter: bit hash of linear pages that have jump-cache entries */
	/* The entries in use; [1]: those of pages that are not global, which a change of address space drops. More than
	 * there is room for: it looks at all. */
	uint16_t jc_list[2][SOFT_JC_LISTED];
	unsigned jc_listed[2];
	/* slots.c's: the page that each holds or held, and where, how misses follow each other, and lists as jc_list, with room for all. */
	struct {
		uint64_t page, host;
		uint32_t when;
		uint16_t quick;
		uint8_t listed; /* in which of the two: a bit each */
	} slot_note[SOFT_SLOT_IDS];
	unsigned slot_misses;
	uint16_t slots_list[2][SOFT_SLOT_IDS];
	unsigned slots_listed[2];
	uint64_t slot_pages[64]; /* filter, as jc_pages */
	struct {
		bool pending; /* an exception to deliver before the next instruction */
		bool has_error;
		uint8_t vector;
		uint32_t error;
		uint64_t cr2;
		uint64_t dr6; /* for EXC_DB: bits to set in DR6 */
	} exc;
	struct {
		bool active;   /* an event is being delivered: a fault met now combines with it (fault.c) */
		bool external; /* it is no INT n: error codes of faults met in its delivery have EXT set */
		bool exception;
		uint8_t vector;
	} delivery;
	struct {
		enum soft_bounce_kind kind;
		bool write, locked;   /* locked: vm->split_lock is held */
		unsigned size, size1; /* bytes in all, and in the first page */
		uint64_t gva;
		uint64_t gpa[2];
		uint8_t *host[2]; /* or NULL */
		uint64_t lanes;   /* SOFT_BOUNCE_LANES: a bit for each that is enabled, their size and segment */
		uint8_t lane, seg;
	} bounce;
	struct engine_run *run; /* of the vcpu_run under way */
	bool code_changed;      /* soft_store has changed translated code */
	bool leave;             /* the dispatcher must leave vcpu_run; run->exit is set */
	bool stepped;           /* the block just entered was of SOFT_MODE_STEP: soft_single_step when it is done */
	bool step_trap;         /* ... and RFLAGS.TF was set at its start */
	bool resume;            /* RFLAGS.RF: no instruction breakpoint on the next instruction */
	struct {
		uint8_t data, io, code; /* the breakpoints that are enabled, a bit each (soft_watch_update) */
		uint8_t hits;           /* those that the instruction has met */
		bool again;             /* the instruction is to be run again, in a block of its own */
	} watch;
	_Alignas(64) uint8_t bounce_buf[SOFT_BOUNCE_SIZE + 128];
	_Alignas(64) uint8_t xsave[ENGINE_XSAVE_SIZE]; /* guest vector state outside of vcpu_run and in heavy calls */
	_Alignas(64) uint8_t host_fxsave[512];         /* the host's own control words */
};

/* Forgets all returns: from a helper that ends its block. */
static inline void soft_returns_drop(struct soft_cpu *cpu)
{
	cpu->return_rsp = cpu->return_bottom;
}

/* ---- run.S, run.c ---- */

/* Leaves the current light helper (and whatever it was called from) for the dispatcher. */
_Noreturn void soft_unwind(struct soft_cpu *cpu);

/* Saves the guest's vector state and gives C its own; and back. Nest not. */
void soft_heavy_begin(struct soft_cpu *cpu);
void soft_heavy_end(struct soft_cpu *cpu);
/* XCR0 has changed: from when AVX-512 is enabled in it on, that state is saved and restored too. Of a helper. */
void soft_vectors_grow(struct soft_cpu *cpu);

/* ---- mmu.c: addresses. "linear" is after segmentation. ---- */

enum soft_access { SOFT_READ = 1, SOFT_WRITE = 2, SOFT_EXEC = 4 };

/* Translates linear to physical under the current paging mode, setting A (and D for SOFT_WRITE) bits. `user` is the
 * privilege of the access, not of the CPU. Returns true, *gpa (of the byte) and *entry_flags (SOFT_TLB_*); or false with
 * cpu->exc filled in (#PF, or #GP for a non-canonical address) but not pending. */
bool soft_translate(struct soft_cpu *cpu, uint64_t linear, enum soft_access access, bool user, bool ac, uint64_t *gpa,
		    unsigned *entry_flags);
/* As soft_translate for SOFT_EXEC at the current CPL, through the itlb, which it fills. */
bool soft_translate_exec(struct soft_cpu *cpu, uint64_t linear, uint64_t *gpa);
/* Loads cpu->pdpte for PAE paging from where CR3 points. False, and nothing loaded, if one has reserved bits set. */
bool soft_load_pdptes(struct soft_cpu *cpu);

/* The slow path of generated code's memory accesses. `how`: size in bits 0-15, SOFT_HOW_*. cpu->rip is the
 * instruction's. Returns where to make the access; raises #PF, #GP, #SS, #AC. When it returns with cpu->bounce.kind
 * other than NONE and the access writes, soft_mem_commit must follow the access. */
enum {
	SOFT_HOW_SIZE = 0xffff,
	SOFT_HOW_READ = 1 << 16,
	SOFT_HOW_WRITE = 1 << 17,
	SOFT_HOW_LOCK = 1 << 18,
	SOFT_HOW_STACK = 1 << 19 /* faults are #SS instead of #GP */,
	SOFT_HOW_MMU = 3 << 20 /* SOFT_MMU_* in bits 20-21 */,
	SOFT_HOW_MMU_SHIFT = 20,
	SOFT_HOW_XSAVE = 1 << 22,   /* the size is to be worked out (soft_xsave_how); */
	SOFT_HOW_COMPACT = 1 << 23, /* ... of XSAVEC's format */
};
uint8_t *soft_mem_slow(struct soft_cpu *cpu, uint64_t linear, uint32_t how);
/* With the size of what XSAVE or XRSTOR accesses of the components that XCR0 has and EAX asks for. */
uint32_t soft_xsave_how(const struct soft_cpu *cpu, uint32_t how);
/* The same for a group of accesses that one check covers (trans_group.c): the host address if all of it can be reached
 * in place as `how` asks, else NULL, with nothing raised and nothing bounced. */
uint8_t *soft_mem_group(struct soft_cpu *cpu, uint64_t linear, uint32_t how);
/* Finishes a bounced store. Returns true when it changed the block being executed (or any code: be conservative), in
 * which case the caller must leave for the dispatcher at the next instruction. */
bool soft_mem_commit(struct soft_cpu *cpu);

/* Accesses by C helpers at the current privilege (or as supervisor, for descriptor tables and the like): 1, 2, 4, 8
 * bytes, page-crossing allowed; raise on a fault before anything is changed. */
uint64_t soft_load(struct soft_cpu *cpu, uint64_t linear, unsigned size);
void soft_store(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value);
uint64_t soft_load_system(struct soft_cpu *cpu, uint64_t linear, unsigned size);
void soft_store_system(struct soft_cpu *cpu, uint64_t linear, unsigned size, uint64_t value);
/* Raises the fault that a write of size bytes would meet, without writing. */
void soft_probe_write(struct soft_cpu *cpu, uint64_t linear, unsigned size, bool system);

/* Effective segment address: adds the base and checks limit, type and (64-bit) canonicality for an access of `size`
 * bytes; raises #GP or #SS(0). */
uint64_t soft_linear(struct soft_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, enum soft_access access);

/* Physical: host address of a byte of guest memory and how many bytes follow it in the same region, or NULL (MMIO). */
uint8_t *soft_gpa_to_hva(struct soft_vm *vm, uint64_t gpa, uint64_t *avail, bool *readonly);

void soft_tlb_init(struct soft_cpu *cpu);                   /* of a CPU that is zeroed */
void soft_tlb_flush(struct soft_cpu *cpu, bool global_too); /* data, instruction TLB and jump cache */
void soft_tlb_flush_page(struct soft_cpu *cpu, uint64_t linear);
/* Takes the write tags of a physical page, or of every one, out of this vCPU's TLB; called for each vCPU when a page begins
 * to be watched. Any thread. */
#define SOFT_EVERY_PAGE (~(uint64_t)4095)
void soft_tlb_protect(struct soft_cpu *cpu, uint64_t gpa);

/* ---- fault.c ---- */

_Noreturn void soft_raise(struct soft_cpu *cpu, unsigned vector, uint32_t error); /* error ignored if it has none */
_Noreturn void soft_raise_pf(struct soft_cpu *cpu, uint64_t linear, uint32_t error);
/* Delivers cpu->exc (pending) through the IDT and returns with rip, mode and so on at the handler. Light. A fault met on
 * the way unwinds to the dispatcher like any other, with what it combines to (the fault, #DF) pending in cpu->exc, so
 * the dispatcher's loop comes back here; or, after a failed #DF, with run->exit and `leave` set. */
void soft_deliver(struct soft_cpu *cpu);
/* Delivers an external interrupt (vector 2: the NMI, masked until IRET); may unwind as soft_deliver does. */
void soft_interrupt(struct soft_cpu *cpu, unsigned vector);
/* Called after each instruction of SOFT_MODE_STEP, with rip at the next: raises the #DB of TF and of data breakpoints. */
void soft_single_step(struct soft_cpu *cpu);
/* Called before each block when watch.code or watch.again is set: raises an instruction breakpoint's #DB, or has the
 * next block be of one instruction. */
void soft_before_insn(struct soft_cpu *cpu);

/* ---- watch.c: breakpoints ---- */

/* Works out cpu->watch from DR7 and CR4. Whoever changes what is watched flushes the TLB. */
void soft_watch_update(struct soft_cpu *cpu);
/* Is there a data breakpoint on the page of `linear`? */
bool soft_watches_page(const struct soft_cpu *cpu, uint64_t linear);
/* Notes an access that is about to be made (`how` as for soft_mem_slow), or unwinds so that it comes again alone. */
void soft_watch_access(struct soft_cpu *cpu, uint64_t linear, uint32_t how);
void soft_watch_port(struct soft_cpu *cpu, uint16_t port, unsigned size);
/* The instruction breakpoints on rip. */
uint8_t soft_watch_code(const struct soft_cpu *cpu);

/* ---- helpers.c (the table), string.c, system.h's files: the helpers ---- */

typedef void soft_helper_fn(struct soft_cpu *cpu, const struct insn *insn, uint64_t ea);
/* By op, from OP_FIRST_HELPER on. Entered with cpu->rip at the instruction. `ea` is the linear address of the memory
 * operand if there is one (segment base added, limit not checked: use it with soft_load/soft_store after
 * soft_linear-style checks where the mode is not flat). A helper of an OP_ that ends the block sets cpu->rip. */
extern soft_helper_fn *const soft_helper[OP_COUNT];
soft_helper_fn soft_help_string; /* OP_STRING */

/* Raises #GP(0) unless the current program may reach the ports [port, port + size): IOPL, TSS bitmap. */
void soft_check_io(struct soft_cpu *cpu, uint16_t port, unsigned size);
/* RFLAGS whole: from sysflags and `flags`; and back (any bits; mode is updated). */
uint64_t soft_get_rflags(const struct soft_cpu *cpu);
void soft_set_rflags(struct soft_cpu *cpu, uint64_t rflags);
/* Recomputes cpu->mode from everything that it depends on. */
void soft_update_mode(struct soft_cpu *cpu);
static inline unsigned soft_cpl(const struct soft_cpu *cpu)
{
	return cpu->mode & SOFT_MODE_CPL;
}

/* ---- cache.c ---- */

/* Bytes of a watched page were changed: drops what was translated from them, and the dirty log hears of it. Light. Returns
 * true if anything was dropped. */
bool soft_code_written(struct soft_vm *vm, uint64_t gpa, uint64_t size);
/* Does `pc`, of which the bits of mask are known, lie in translated code? If so *rip is that of the guest's instruction
 * (above the low 32 bits meaningless where code is not 64-bit), or 0. */
bool soft_code_rip(struct soft_vm *vm, uint64_t pc, uint64_t mask, uint64_t *rip);

#endif
