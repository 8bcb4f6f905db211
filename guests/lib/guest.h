/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h - the little that a tiny guest stands on: a serial console, traps that are caught, page-table access, exits.
 *
 * A guest is one C file with a main() that prints what it finds, line by line, and returns 0 when all went as it
 * should. It runs in ring 0, 64-bit, on identity-mapped memory, with interrupts off and the 8259s masked.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

/* Exit status of the machine: (v << 1) | 1. */
enum { GUEST_OK = 0x10, GUEST_FAILED = 0x11 };

int main(void);
_Noreturn void guest_exit(int failed);

/* %s %c %d %u %x and l, with widths and zeros. */
__attribute__((format(printf, 1, 2))) void print(const char *format, ...);
/* Prints "ok: WHAT" or "FAILED: WHAT" and remembers the latter for guest_exit. */
void check(bool right, const char *what);

/* What a trap left on the stack, as trap_entry pushes it. */
struct trap {
	uint64_t rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

/* Runs fn(arg); returns the vector of the trap that ended it, with *caught filled in, or -1 when it returned. */
int try(void (*fn)(void *arg), void *arg, struct trap *caught);
/* The same in ring 3, on a stack of its own; fn must end in a trap (INT3 when all is well). */
int try_user(void (*fn)(void), struct trap *caught);
/* Called for a vector instead of unwinding a try; returns into the trapped code. NULL takes it away. */
void on_trap(unsigned vector, void (*fn)(struct trap *t));
/* QEMU's TCG, the guests' other machine, is laxer than the manual; what it is known not to do is not asked of it. Where
 * another hypervisor stands between, the command line says "tcg". */
bool guest_on_tcg(void);
/* A name such as "#PF". */
const char *trap_name(int vector);

struct guest_context {
	uint64_t registers[8];
};
int guest_save(struct guest_context *context) __attribute__((returns_twice));
_Noreturn void guest_restore(struct guest_context *context, int value);
_Noreturn void guest_user(void (*fn)(void), void *stack);

extern uint32_t start_info, start_magic;
extern uint64_t gdt[], gdt_free[];
extern uint8_t tss[104];
extern uint64_t page_root[512], page_pointers[512], page_directories[4 * 512];
extern uint8_t guest_end[];
struct gate {
	uint16_t offset0, selector;
	uint8_t ist, type;
	uint16_t offset1;
	uint32_t offset2, zero;
};
extern struct gate idt[256];

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);

/* A page table of 4 KiB pages in place of the 2 MiB page at `address` (below 4 GiB); returns its 512 entries. */
uint64_t *split_page(uint64_t address);
/* A zeroed page after the guest's image. */
void *new_page(void);

/* Masks both 8259s and moves them to vectors 0x20 and 0x28. */
void pic_init(void);

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t value;
	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t rdmsr(uint32_t index)
{
	uint32_t low, high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r;
	__asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
	return r;
}

#define READ_CR(n)                                                                    \
	({                                                                            \
		uint64_t cr_value;                                                    \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(cr_value) : : "memory"); \
		cr_value;                                                             \
	})
#define WRITE_CR(n, value) __asm__ volatile("mov %0, %%cr" #n : : "r"((uint64_t)(value)) : "memory")

static inline void invlpg(uint64_t address)
{
	__asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

static inline void sti(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static inline void cli(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/* Takes one interrupt, which must come after STI's shadow and wake the HLT. */
static inline void wait_interrupt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

#endif
