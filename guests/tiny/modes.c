/* SPDX-License-Identifier: Apache-2.0 */
/* From long mode to compatibility, protected, 16-bit protected and real mode and back; far calls and returns; ring 3 by
 * IRET, SYSCALL and SYSENTER, 64-bit and 32-bit. What each part computes would come out differently in another mode. */
#include "guest.h"

/* In mode.S's stead: the parts are short, and what they test stands beside them. All in one piece of memory below
 * 64 KiB, where real mode reaches it. */
enum { LOW = 0x9000 };

extern uint8_t low_start[], low_end[];
extern uint8_t low_compat[], low_real[], low_results[];

__asm__(
    ".text\n"
    ".globl low_start, low_end, low_compat, low_real, low_results\n"
    ".set BASE, 0x9000\n"
    "low_start:\n"
    /* Compatibility mode: 0x40 is INC EAX here and a REX prefix in 64-bit mode. Returns by a far return to 64-bit. */
    "low_compat: .code32\n"
    "	xorl %eax, %eax\n"
    "	.byte 0x40\n"
    "	.byte 0x40\n"
    "	movl %eax, BASE + low_results - low_start\n"
    /* Sixteen-bit addressing in 32-bit code: [bx + si + 2]. */
    "	movl $0xffff0000 + BASE + low_results - low_start, %ebx\n"
    "	movl $0x00550002, %esi\n"
    "	addr16 movw $0x1234, 2(%bx,%si)\n"
    "	pushl %ss\n"
    "	popl BASE + low_results - low_start + 8\n"
    "	lret\n"
    /* Down to real mode and up again; esp holds, rsp's upper half is zero. Entered by a far call in 64-bit mode. */
    "low_real: .code32\n"
    "	movl %cr0, %eax\n"
    "	movl %eax, %ebp\n"
    "	andl $0x7fffffff, %eax\n"
    "	movl %eax, %cr0\n" /* paging off: protected mode */
    "	movl $0xc0000080, %ecx\n"
    "	rdmsr\n"
    "	btrl $8, %eax\n"
    "	movl %eax, BASE + low_results - low_start + 48\n"
    "	wrmsr\n" /* LME off */
    "	movl $0x11111111, BASE + low_results - low_start + 12\n"
    "	sidt BASE + low_results - low_start + 40\n"
    "	ljmp $0x38, $BASE + 1f - low_start\n" /* CODE16 */
    "1: .code16\n"
    "	movw $0x40, %ax\n" /* DATA16 */
    "	movw %ax, %ds\n"
    "	movw %ax, %es\n"
    "	movw %ax, %ss\n"
    "	movl %cr0, %eax\n"
    "	andb $0xfe, %al\n"
    "	movl %eax, %cr0\n"
    "	ljmp $BASE >> 4, $2f - low_start\n" /* real mode */
    "2:	movw $BASE >> 4, %ax\n"
    "	movw %ax, %ds\n"
    "	movw %ax, %ss\n"
    "	movl %esp, %ebx\n"
    "	movl $0xfff0, %esp\n"
    "	movw %cs, low_results - low_start + 16\n"
    /* Segments count by 16: the same byte by two names. */
    "	movw $(BASE >> 4) + 1, %ax\n"
    "	movw %ax, %es\n"
    "	movb $0x77, %es:low_results - low_start + 18 - 16\n"
    /* The stack pointer is 16 bits wide; INT goes through the vector table at 0. */
    "	lidtl %cs:real_idt - low_start\n"
    "	xorw %ax, %ax\n"
    "	movw %ax, %es\n"
    "	movw $handler - low_start, %es:0x60 * 4\n"
    "	movw $BASE >> 4, %es:0x60 * 4 + 2\n"
    "	int $0x60\n"
    "	movw %sp, low_results - low_start + 22\n"
    /* Offsets wrap at 64 KiB for the stack, string instructions walk by segment. */
    "	movw $BASE >> 4, %ax\n"
    "	movw %ax, %es\n"
    "	movw $source - low_start, %si\n"
    "	movw $low_results - low_start + 24, %di\n"
    "	movw $4, %cx\n"
    "	cld\n"
    "	rep movsb\n"
    "	movl $0x12345678, %eax\n"
    "	movl %eax, low_results - low_start + 28\n"
    "	pushw $0x1234\n"
    "	popw low_results - low_start + 32\n"
    /* Decimal instructions exist here. */
    "	movb $0x19, %al\n"
    "	addb $0x28, %al\n"
    "	daa\n"
    "	movb %al, low_results - low_start + 34\n"
    "	loop 3f\n"
    "3:	movw %cx, low_results - low_start + 36\n"
    /* And back: protected, then long mode again. */
    "	lidtl low_results - low_start + 40\n"
    "	lgdtl %cs:low_gdt - low_start\n"
    "	movl %ebp, %eax\n"
    "	andl $0x7fffffff, %eax\n"
    "	movl %eax, %cr0\n"
    "	ljmpl $0x18, $BASE + 4f - low_start\n"
    "4: .code32\n"
    "	movw $0x10, %ax\n"
    "	movw %ax, %ds\n"
    "	movw %ax, %es\n"
    "	movw %ax, %ss\n"
    "	movl %ebx, %esp\n"
    "	movl BASE + low_results - low_start + 48, %eax\n"
    "	btsl $8, %eax\n"
    "	movl $0xc0000080, %ecx\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
    "	movl %ebp, %cr0\n"
    "	lret\n"
    "	.code16\n"
    "handler:\n"
    "	movw $0x6060, %ds:low_results - low_start + 20\n"
    "	iret\n"
    "source: .byte 1, 2, 3, 4\n"
    "	.balign 4\n"
    "real_idt: .word 0x3ff\n"
    "	.long 0\n"
    "low_gdt: .word 27 * 8 - 1\n"
    "	.long gdt\n"
    "	.balign 16\n"
    "low_results: .skip 64\n"
    "low_end:\n"
    ".code64\n");

static uint8_t *at(const uint8_t *label)
{
	return (uint8_t *)(uint64_t)LOW + (label - low_start);
}

static uint32_t result(unsigned offset, unsigned size)
{
	uint32_t value = 0;
	memcpy(&value, at(low_results) + offset, size);
	return value;
}

/* A far call to 32-bit code by an m16:32 pointer. It pushes 32-bit return words, and LRET in 32-bit code takes them. */
static void call_low(const uint8_t *label)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) far = { (uint32_t)(uint64_t)at(label), KERNEL_CS32 };
	void *pointer = &far;
	__asm__ volatile("pushq %%rbx; pushq %%rbp; lcall *(%0); popq %%rbp; popq %%rbx"
			 : "+D"(pointer)
			 :
			 : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
	wrmsr(0xc0000080, rdmsr(0xc0000080));
}

static void lower(void)
{
	memcpy((void *)(uint64_t)LOW, low_start, (size_t)(low_end - low_start));
	call_low(low_compat);
	check(result(0, 2) == 2, "compatibility mode: INC EAX");
	check(result(4, 2) == 0x1234, "16-bit addressing");
	check(result(8, 4) == KERNEL_DS, "PUSH and POP of 32 bits");
	call_low(low_real);
	/* The TSS is busy still, and the GDT is at a 32-bit address as before. */
	check(result(12, 4) == 0x11111111, "protected mode without paging");
	check(result(16, 2) == LOW >> 4, "real mode: CS");
	check(result(18, 1) == 0x77, "segments count by 16");
	check(result(20, 2) == 0x6060, "INT through the vector table");
	check(result(22, 2) == 0xfff0, "and its IRET");
	check(result(24, 4) == 0x04030201, "REP MOVSB with 16-bit registers");
	check(result(28, 4) == 0x12345678, "32-bit operands");
	check(result(32, 2) == 0x1234, "a 16-bit stack");
	check(result(34, 1) == 0x47, "DAA");
	check(result(36, 2) == 0xffff, "LOOP on CX");
	check((rdmsr(0xc0000080) & 0x500) == 0x500, "back in long mode");
}

static volatile uint64_t seen[4];

/* Ring 3 calls these by SYSCALL; they go back by SYSRET until rdi says enough. */
extern uint8_t syscall_entry[], syscall_entry32[], sysenter_entry[];
__asm__(".text\n"
	"syscall_entry:\n"
	"	movq %rcx, seen\n"
	"	movq %r11, seen + 8\n"
	"	pushfq\n"
	"	popq seen + 16\n"
	"	incq seen + 24\n"
	"	sysretq\n"
	"syscall_entry32:\n"
	"	movq %rcx, seen\n"
	"	incq seen + 24\n"
	"	sysretl\n"
	"sysenter_entry:\n"
	"	movq %rsp, seen\n"
	"	pushfq\n"
	"	popq seen + 16\n"
	"	incq seen + 24\n"
	"	sysexitq\n");

static void user_syscall(void)
{
	__asm__ volatile("movl $7, %%ebx; stc; syscall; syscall; adcl $0, %%ebx; int3"
			 :
			 :
			 : "rax", "rbx", "rcx", "r11", "memory");
}

static void user_sysenter(void)
{
	__asm__ volatile("movq %%rsp, %%rcx; leaq 1f(%%rip), %%rdx; sysenter; ud2; 1: int3"
			 :
			 :
			 : "rcx", "rdx", "memory");
}

/* 32-bit ring 3: far return from 64-bit ring 3 to USER_CS32, SYSCALL in there, INC by 0x40. */
static void user_compat(void)
{
	__asm__ volatile("movq %%rsp, %%rbp\n"
			 "pushq %0\n"
			 "leaq 1f(%%rip), %%rax\n"
			 "pushq %%rax\n"
			 "lretq\n"
			 ".code32\n"
			 "1: xorl %%eax, %%eax\n"
			 ".byte 0x40, 0x40, 0x40\n"
			 "pushl %%eax\n"
			 "popl %%ebx\n"
			 "int3\n"
			 ".code64\n"
			 :
			 : "i"(USER_CS32)
			 : "rax", "rbx", "rbp", "memory");
}

static void user_compat_syscall(void)
{
	__asm__ volatile("pushq %0\n"
			 "leaq 1f(%%rip), %%rax\n"
			 "pushq %%rax\n"
			 "lretq\n"
			 ".code32\n"
			 "1: syscall\n"
			 "movl $0x77, %%ebx\n"
			 "int3\n"
			 ".code64\n"
			 :
			 : "i"(USER_CS32)
			 : "rax", "rbx", "rcx", "r11", "memory");
}

static void user(void)
{
	struct trap t;
	seen[3] = 0;
	/* STAR: SYSRET's base such that CS is base + 16 for 64-bit, base for 32-bit; SS base + 8. USER_DS, USER_CS lie so
	 * for a base of KERNEL_CS32 | 3: 0x1b + 8 is 0x23, + 16 is 0x2b. */
	wrmsr(0xc0000081, (uint64_t)(KERNEL_CS32 | 3) << 48 | (uint64_t)KERNEL_CS << 32);
	wrmsr(0xc0000082, (uint64_t)syscall_entry);
	wrmsr(0xc0000083, (uint64_t)syscall_entry32);
	wrmsr(0xc0000084, 0x201); /* masks CF and IF */
	int got = try_user(user_syscall, &t);
	check(got == 3, "SYSCALL and SYSRET");
	if (got != 3)
		print("  %s, error %lx, rip %lx, cs %lx, cr2 %lx\n", trap_name(got), t.error, t.rip, t.cs, READ_CR(2));
	check(seen[3] == 2 && (seen[2] & 0x201) == 0, "twice, with the flags masked");
	check((seen[1] & 1) == 1 && (t.rbx & 0xffffffff) == 8, "and CF given back");
	check(t.cs == USER_CS && t.ss == USER_DS, "in ring 3");
	/* 32-bit: CS = base, which must be ring 3's 32-bit code. */
	gdt_free[0] = gdt[USER_CS32 / 8];
	gdt_free[1] = gdt[USER_DS / 8];
	wrmsr(0xc0000081, (uint64_t)(FREE_SELECTOR | 3) << 48 | (uint64_t)KERNEL_CS << 32);
	check(try_user(user_compat, &t) == 3 && t.cs == USER_CS32, "32-bit code in ring 3");
	check((t.rbx & 0xffffffff) == 3, "that counts by 0x40");
	/* SYSCALL from compatibility mode is AMD's alone. */
	if (cpuid(0, 0).ebx == 0x68747541) { /* "Auth" */
		seen[3] = 0;
		got = try_user(user_compat_syscall, &t);
		check(got == 3 && t.rbx == 0x77 && seen[3] == 1, "SYSCALL from 32-bit code, by CSTAR");
		check(t.cs == (FREE_SELECTOR | 3), "and SYSRET to it");
	}
	/* SYSENTER in long mode is Intel's alone; SYSEXIT's selectors follow from the MSR: + 32 and + 40. */
	if (cpuid(0, 0).ebx == 0x756e6547) { /* "Genu" */
		static uint8_t stack[512] __attribute__((aligned(16)));
		gdt_free[0] = gdt[KERNEL_CS / 8];
		gdt_free[1] = gdt[KERNEL_DS / 8];
		gdt_free[4] = gdt[USER_CS / 8];
		gdt_free[5] = gdt[USER_DS / 8];
		wrmsr(0x174, FREE_SELECTOR);
		wrmsr(0x175, (uint64_t)(stack + 512));
		wrmsr(0x176, (uint64_t)sysenter_entry);
		seen[3] = 0;
		check(try_user(user_sysenter, &t) == 3 && seen[3] == 1, "SYSENTER and SYSEXIT");
		check(seen[0] == (uint64_t)stack + 512 && t.cs == ((FREE_SELECTOR + 32) | 3),
		      "with its stack and selectors");
	}
	wrmsr(0xc0000100, 0x1122334455667788 >> 17);
	wrmsr(0xc0000101, 0x1000);
	wrmsr(0xc0000102, 0x2000);
	__asm__ volatile("swapgs");
	check(rdmsr(0xc0000101) == 0x2000 && rdmsr(0xc0000102) == 0x1000, "SWAPGS");
	uint8_t *byte = (uint8_t *)(24ul << 20);
	byte[5] = 0x42;
	wrmsr(0xc0000100, (uint64_t)byte);
	uint8_t value;
	__asm__ volatile("movb %%fs:5, %0" : "=r"(value));
	check(value == 0x42, "FS base above 4 KiB");
	wrmsr(0xc0000101, (uint64_t)byte - 0x100000000);
	__asm__ volatile("movl $-1, %%eax; movb %%gs:6(%%rax), %0" : "=r"(value) : : "rax");
	(void)value;
	check(true, "GS base with a 64-bit sum");
}

static void gates(void)
{
	/* A 64-bit call gate to a function that ends in a far return. */
	extern uint8_t gate_target[];
	__asm__ goto("jmp %l0\n"
		     ".globl gate_target\n"
		     "gate_target: movl $0x99, %%eax\n"
		     "lretq\n"
		     :
		     :
		     :
		     : over);
over:;
	uint64_t to = (uint64_t)gate_target;
	gdt_free[6] = (to & 0xffff) | (uint64_t)KERNEL_CS << 16 | 0x8c00ull << 32 | (to & 0xffff0000) << 32;
	gdt_free[7] = to >> 32;
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) far = { 0xdeadbeef, FREE_SELECTOR + 6 * 8 };
	uint64_t rax = 0;
	__asm__ volatile("lcall *%1" : "=a"(rax) : "m"(far) : "memory");
	check(rax == 0x99, "a call gate");
	/* IST: a gate that names a stack of its own. */
	static uint8_t ist[1024] __attribute__((aligned(16)));
	uint64_t top = (uint64_t)ist + sizeof(ist);
	memcpy(tss + 36, &top, 8);
	idt[3].ist = 1;
	struct trap t;
	uint64_t user_code = (uint64_t)user_sysenter;
	(void)user_code;
	extern uint8_t one_int3[];
	__asm__ goto("jmp %l0\none_int3: int3\n" : : : : past);
past:;
	int got = try_user((void (*)(void))(uint64_t)one_int3, &t);
	check(got == 3, "a trap on an interrupt stack");
	memset(ist, 0, sizeof(ist));
	try_user((void (*)(void))(uint64_t)one_int3, &t);
	uint64_t ss;
	memcpy(&ss, ist + sizeof(ist) - 8, 8);
	check(ss == USER_DS, "which holds the frame");
	idt[3].ist = 0;
}

int main(void)
{
	lower();
	user();
	gates();
	return 0;
}
