/* SPDX-License-Identifier: Apache-2.0 */
/* Every exception that 64-bit code can raise by itself: its vector, its error code, and where RIP points (SDM Vol. 3, 6.15).
 * A fault reports the instruction itself, a trap the one after. */
#include "guest.h"

#define LABEL(name) extern uint8_t name[]

static bool tcg;

static void expect_strict(const char *what, void (*fn)(void *), int vector, uint64_t error, const uint8_t *rip);

static void expect(const char *what, void (*fn)(void *), int vector, uint64_t error, const uint8_t *rip)
{
	struct trap t = { 0 };
	int got = try(fn, NULL, &t);
	bool right = got == vector && (vector < 0 || (t.error == error && (!rip || t.rip == (uint64_t)rip)));
	check(right, what);
	if (!right)
		print("  %s instead of %s, error %lx instead of %lx, rip %lx instead of %lx\n", trap_name(got),
		      trap_name(vector), t.error, error, t.rip, (uint64_t)rip);
}

static void expect_strict(const char *what, void (*fn)(void *), int vector, uint64_t error, const uint8_t *rip)
{
	if (!tcg)
		expect(what, fn, vector, error, rip);
}

LABEL(div_at);
static void divide(void *arg)
{
	__asm__ volatile("div_at: divl %0" : : "r"(0), "a"(1), "d"(0));
}

static void divide_overflow(void *arg)
{
	__asm__ volatile("idivq %0" : : "r"(-1l), "a"(1ul << 63), "d"(-1l));
}

LABEL(int3_after);
static void breakpoint(void *arg)
{
	__asm__ volatile("int3; int3_after:");
}

LABEL(int1_after);
static void icebp(void *arg)
{
	__asm__ volatile(".byte 0xf1; int1_after:");
}

LABEL(step_after);
static void single_step(void *arg)
{
	__asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; step_after: nop; nop" : : : "memory");
}

LABEL(ud_at);
static void undefined(void *arg)
{
	__asm__ volatile("ud_at: ud2");
}

static void undefined_in_long_mode(void *arg)
{
	__asm__ volatile(".byte 0x27"); /* DAA */
}

static void lock_register(void *arg)
{
	__asm__ volatile(".byte 0xf0, 0x01, 0xc0"); /* LOCK ADD EAX, EAX */
}

static void fpu_off(void *arg)
{
	WRITE_CR(0, READ_CR(0) | 8);
	__asm__ volatile("fld1");
}

static void sse_off(void *arg)
{
	WRITE_CR(0, READ_CR(0) | 8);
	__asm__ volatile("xorps %xmm0, %xmm0");
}

static void sse_emulated(void *arg)
{
	WRITE_CR(0, READ_CR(0) | 4);
	__asm__ volatile("xorps %xmm0, %xmm0");
}

static void no_osfxsr(void *arg)
{
	WRITE_CR(4, READ_CR(4) & ~0x200ull);
	__asm__ volatile("xorps %xmm0, %xmm0");
}

static void null_selector(void *arg)
{
	__asm__ volatile("mov %w0, %%ss" : : "r"(3)); /* null with CPL 0 and RPL 3 */
}

static void selector_beyond(void *arg)
{
	__asm__ volatile("mov %w0, %%ds" : : "r"(0x7f8));
}

static void selector_not_present(void *arg)
{
	gdt_free[0] = 0x00cf13000000ffff;
	__asm__ volatile("mov %w0, %%ds" : : "r"(FREE_SELECTOR));
}

static void stack_not_present(void *arg)
{
	gdt_free[0] = 0x00cf13000000ffff;
	__asm__ volatile("mov %w0, %%ss" : : "r"(FREE_SELECTOR));
}

static void selector_code_as_data(void *arg)
{
	gdt_free[0] = 0x00cf99000000ffff; /* execute-only */
	__asm__ volatile("mov %w0, %%es" : : "r"(FREE_SELECTOR));
}

static void data_as_code(void *arg)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) far = { 0, KERNEL_DS };
	__asm__ volatile("ljmpl *%0" : : "m"(far));
}

static void idt_gate_missing(void *arg)
{
	idt[0x99].type &= 0x7f;
	__asm__ volatile("int $0x99");
}

static void idt_beyond(void *arg)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = { 64 * 16 - 1, (uint64_t)idt };
	__asm__ volatile("lidt %0; int $0x80" : : "m"(idtr));
}

LABEL(noncanonical_at);
static void noncanonical(void *arg)
{
	__asm__ volatile("noncanonical_at: movb (%0), %%al" : : "r"(1ull << 47) : "rax");
}

static void noncanonical_stack(void *arg)
{
	__asm__ volatile("movq %%rsp, %%rbx; movq %0, %%rbp; movb (%%rbp), %%al; movq %%rbx, %%rsp"
			 :
			 : "r"(1ull << 47)
			 : "rax", "rbx", "memory");
}

static void noncanonical_jump(void *arg)
{
	__asm__ volatile("jmp *%0" : : "r"(1ull << 47));
}

static void unaligned_sse(void *arg)
{
	__asm__ volatile("movaps 1(%0), %%xmm0" : : "r"(page_root));
}

static void bad_msr(void *arg)
{
	rdmsr(0x12345678);
}

static void bad_efer(void *arg)
{
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1ull << 40);
}

static void bad_cr4(void *arg)
{
	WRITE_CR(4, READ_CR(4) | 1ull << 40);
}

static void bad_cr0(void *arg)
{
	WRITE_CR(0, 1ull << 31); /* PG without PE */
}

static void pae_off_in_long_mode(void *arg)
{
	WRITE_CR(4, READ_CR(4) & ~0x20ull);
}

static void x87_fault(void *arg)
{
	uint16_t control = 0x37b; /* zero divide unmasked */
	__asm__ volatile("fninit; fldcw %0; fldz; fld1; fdivp; fwait" : : "m"(control));
}

static void simd_fault(void *arg)
{
	uint32_t mxcsr = 0x1d80; /* zero divide unmasked */
	uint32_t one = 0x3f800000;
	__asm__ volatile("ldmxcsr %0; movss %1, %%xmm1; xorps %%xmm0, %%xmm0; divss %%xmm0, %%xmm1"
			 :
			 : "m"(mxcsr), "m"(one));
}

static void page_fault(void *arg)
{
	*(volatile uint8_t *)(5ull << 30) = 1;
}

static void iret_bad_cs(void *arg)
{
	__asm__ volatile("movq %%rsp, %%rax; pushq $0x10; pushq %%rax; pushfq; pushq $0x7f8; pushq $0; iretq"
			 :
			 :
			 : "rax", "memory");
}

static void xsetbv_bad(void *arg)
{
	WRITE_CR(4, READ_CR(4) | 1 << 18);
	__asm__ volatile("xsetbv" : : "c"(0), "a"(2), "d"(0)); /* SSE without x87 */
}

/* #DF: the page fault's gate is not present, so its delivery raises #NP: contributory after a page fault. */
static void double_fault(void *arg)
{
	idt[14].type &= 0x7f;
	page_fault(arg);
}

static void kernel(void)
{
	expect("#DE by zero", divide, 0, 0, div_at);
	expect("#DE by overflow", divide_overflow, 0, 0, NULL);
	expect("#BP is a trap", breakpoint, 3, 0, int3_after);
	expect_strict("#DB by INT1", icebp, 1, 0, int1_after);
	expect("#DB by TF comes after one instruction", single_step, 1, 0, step_after);
	expect("#UD by UD2", undefined, 6, 0, ud_at);
	expect("#UD by DAA", undefined_in_long_mode, 6, 0, NULL);
	expect("#UD by LOCK on a register", lock_register, 6, 0, NULL);
	expect("#NM by x87 with TS", fpu_off, 7, 0, NULL);
	expect("#NM by SSE with TS", sse_off, 7, 0, NULL);
	WRITE_CR(0, CR0_START);
	expect("#UD by SSE with EM", sse_emulated, 6, 0, NULL);
	WRITE_CR(0, CR0_START);
	expect("#UD by SSE without OSFXSR", no_osfxsr, 6, 0, NULL);
	WRITE_CR(4, CR4_START);
	expect_strict("#GP by null SS", null_selector, 13, 0, NULL);
	expect("#GP by selector beyond the GDT", selector_beyond, 13, 0x7f8, NULL);
	expect("#NP by DS", selector_not_present, 11, FREE_SELECTOR, NULL);
	expect("#SS by SS not present", stack_not_present, 12, FREE_SELECTOR, NULL);
	expect("#GP by execute-only ES", selector_code_as_data, 13, FREE_SELECTOR, NULL);
	expect("#GP by far jump to data", data_as_code, 13, KERNEL_DS, NULL);
	expect_strict("#NP by gate", idt_gate_missing, 11, 0x99 * 8 + 2, NULL);
	expect_strict("#GP beyond the IDT", idt_beyond, 13, 0x80 * 8 + 2, NULL);
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = { 256 * 16 - 1, (uint64_t)idt };
	__asm__ volatile("lidt %0" : : "m"(idtr));
	expect("#GP by non-canonical address", noncanonical, 13, 0, noncanonical_at);
	expect_strict("#SS by non-canonical address on RBP", noncanonical_stack, 12, 0, NULL);
	expect("#GP by non-canonical jump", noncanonical_jump, 13, 0, NULL);
	expect("#GP by unaligned MOVAPS", unaligned_sse, 13, 0, NULL);
	expect_strict("#GP by unknown MSR", bad_msr, 13, 0, NULL);
	expect_strict("#GP by EFER's reserved bit", bad_efer, 13, 0, NULL);
	expect_strict("#GP by CR4's reserved bit", bad_cr4, 13, 0, NULL);
	expect_strict("#GP by CR0 PG without PE", bad_cr0, 13, 0, NULL);
	expect_strict("#GP by clearing PAE in long mode", pae_off_in_long_mode, 13, 0, NULL);
	expect("#MF by x87", x87_fault, 16, 0, NULL);
	__asm__ volatile("fninit");
	expect_strict("#XM by SSE", simd_fault, 19, 0, NULL);
	uint32_t mxcsr = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	expect("#PF by an address that is not mapped", page_fault, 14, 2, NULL);
	check(READ_CR(2) == 5ull << 30, "CR2");
	expect("#GP by IRET beyond the GDT", iret_bad_cs, 13, 0x7f8, NULL);
	if (cpuid(1, 0).ecx & 1 << 26)
		expect("#GP by XSETBV", xsetbv_bad, 13, 0, NULL);
	WRITE_CR(4, CR4_START);
	expect("#DF by a page fault that can't be delivered", double_fault, 8, 0, NULL);
	idt[14].type |= 0x80;
}

static void user_fine(void)
{
	__asm__ volatile("int3");
}

static void user_hlt(void)
{
	__asm__ volatile("hlt");
}

static void user_cli(void)
{
	__asm__ volatile("cli");
}

static void user_out(void)
{
	__asm__ volatile("outb %al, $0x80");
}

static void user_cr(void)
{
	__asm__ volatile("mov %%cr0, %%rax" : : : "rax");
}

static void user_gate(void)
{
	__asm__ volatile("int $0x40");
}

static void user_open_gate(void)
{
	__asm__ volatile("int $0x80");
}

static void user_syscall_off(void)
{
	__asm__ volatile("syscall" : : : "rcx", "r11");
}

static void user_alignment(void)
{
	__asm__ volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl 1(%%rsp), %%eax; int3" : : : "rax", "memory");
}

static void user_rdpmc(void)
{
	__asm__ volatile("rdpmc" : : "c"(0) : "rax", "rdx");
}

static void user_step(void)
{
	__asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; nop" : : : "memory");
}

static void expect_user(const char *what, void (*fn)(void), int vector, uint64_t error)
{
	struct trap t;
	int got = try_user(fn, &t);
	bool right = got == vector && t.error == error && t.cs == USER_CS && t.ss == USER_DS;
	check(right, what);
	if (!right)
		print("  %s, error %lx, cs %lx, ss %lx\n", trap_name(got), t.error, t.cs, t.ss);
}

static void user(void)
{
	expect_user("ring 3 runs", user_fine, 3, 0);
	expect_user("#GP by HLT in ring 3", user_hlt, 13, 0);
	expect_user("#GP by CLI in ring 3", user_cli, 13, 0);
	expect_user("#GP by OUT in ring 3", user_out, 13, 0);
	expect_user("#GP by MOV from CR0 in ring 3", user_cr, 13, 0);
	if (!tcg)
		expect_user("#GP by INT through a gate of ring 0", user_gate, 13, 0x40 * 8 + 2);
	expect_user("INT through a gate of ring 3", user_open_gate, 0x80, 0);
	expect_user("#GP by RDPMC", user_rdpmc, 13, 0);
	expect_user("#DB in ring 3", user_step, 1, 0);
	WRITE_CR(0, READ_CR(0) | 1 << 18);
	if (!tcg)
		expect_user("#AC in ring 3", user_alignment, 17, 0);
	WRITE_CR(0, CR0_START);
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
	expect_user("#UD by SYSCALL that is off", user_syscall_off, 6, 0);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
}

int main(void)
{
	tcg = guest_on_tcg();
	kernel();
	user();
	return 0;
}
