/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bcd_test.c - decimal arithmetic against the host's own, in all states: the host runs it in compatibility mode, where
 * 64-bit code gets to by a far call into the kernel's 32-bit code segment.
 */
#include <sys/mman.h>

#include "engine/soft/fake_system.h"

enum { HOST_CODE32 = 0x23, DEFINED = FLAG_ARITH & ~FLAG_OF };

/* A page below 4 GiB: 32-bit code at its start, 64-bit code in the middle, a stack that ends with it. */
static uint8_t *low;
enum { LOW_CODE64 = 0x800 };

struct result {
	uint16_t ax;
	uint32_t flags;
};

/* The flags come and go on the stack, above the frames of a far and a near call. */
static void set_code(const uint8_t *insn, unsigned size)
{
	/* push [esp + 16]; popf; ...; pushf; pop [esp + 16]; retf */
	static const uint8_t head[] = { 0xff, 0x74, 0x24, 0x10, 0x9d }, tail[] = { 0x9c, 0x8f, 0x44, 0x24, 0x10, 0xcb };
	/* callf [rbx]; ret: the far call's return address has 32 bits */
	static const uint8_t code64[] = { 0xff, 0x1b, 0xc3 };

	memcpy(low, head, sizeof(head));
	memcpy(low + sizeof(head), insn, size);
	memcpy(low + sizeof(head) + size, tail, sizeof(tail));
	memcpy(low + LOW_CODE64, code64, sizeof(code64));
}

static struct result run_on_host(uint16_t ax, uint32_t flags)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} target = { (uint32_t)(uintptr_t)low, HOST_CODE32 };
	uint64_t rax = ax, *top = (uint64_t *)(low + 4096) - 1;

	*top = flags | 0x202;
	__asm__ volatile("movq %%rsp, %%r12\n\t"
			 "movq %[top], %%rsp\n\t"
			 "call *%[code]\n\t"
			 "movq %%r12, %%rsp"
			 : "+a"(rax)
			 : [top] "r"(top), [code] "r"(low + LOW_CODE64), "b"(&target)
			 : "r12", "memory", "cc");
	return (struct result){ (uint16_t)rax, (uint32_t)*top & FLAG_ARITH };
}

static void compare(struct sys *m, const uint8_t *insn, unsigned size, uint16_t ax, uint32_t flags, uint32_t mask)
{
	struct result host = run_on_host(ax, flags);

	m->cpu->gpr[GPR_AX] = 0x12340000 | ax;
	soft_set_arith(m->cpu, flags);
	sys_exec_bytes(m, insn, size);
	if (m->cpu->gpr[GPR_AX] == (0x12340000u | host.ax) && !((soft_get_arith(m->cpu) ^ host.flags) & mask))
		return;
	fail_msg("%02x with ax %04x flags %03x: ax %04x flags %03x, on the host %04x %03x", insn[0], ax, flags,
		 (unsigned)m->cpu->gpr[GPR_AX] & 0xffff, soft_get_arith(m->cpu), host.ax, host.flags);
}

static void test_adjust(void **state)
{
	static const struct {
		uint8_t opcode;
		uint32_t mask;
	} rows[] = { { 0x27, DEFINED }, { 0x2f, DEFINED }, { 0x37, FLAG_CF | FLAG_AF }, { 0x3f, FLAG_CF | FLAG_AF } };
	struct sys *m = sys_create_protected();

	(void)state;
	for (unsigned row = 0; row < 4; row++) {
		set_code(&rows[row].opcode, 1);
		for (unsigned flags = 0; flags < 4; flags++)
			for (unsigned ax = 0; ax < 0x10000; ax++)
				compare(m, &rows[row].opcode, 1, ax,
					(flags & 1 ? FLAG_CF : 0) | (flags & 2 ? FLAG_AF : 0), rows[row].mask);
	}
	sys_destroy(m);
}

static void test_aam_aad(void **state)
{
	static const uint8_t bases[] = { 1, 2, 7, 10, 16, 128, 255 };
	struct sys *m = sys_create_protected();

	(void)state;
	for (unsigned i = 0; i < 2 * sizeof(bases); i++) {
		const uint8_t insn[] = { i & 1 ? 0xd5 : 0xd4, bases[i / 2] };

		set_code(insn, 2);
		for (unsigned ax = 0; ax < 0x10000; ax += i & 1 ? 1 : 3)
			compare(m, insn, 2, ax, FLAG_CF, FLAG_SF | FLAG_ZF | FLAG_PF);
	}
	sys_destroy(m);
}

static void test_salc(void **state)
{
	static const uint8_t insn[] = { 0xd6 };
	struct sys *m = sys_create_protected();

	(void)state;
	set_code(insn, 1);
	compare(m, insn, 1, 0x1234, FLAG_CF | FLAG_ZF, FLAG_ARITH);
	compare(m, insn, 1, 0x1234, FLAG_OF, FLAG_ARITH);
	sys_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_adjust),
		cmocka_unit_test(test_aam_aad),
		cmocka_unit_test(test_salc),
	};

	low = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED) {
		print_message("no page below 4 GiB that can be written and run: skipped\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
