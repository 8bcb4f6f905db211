/* SPDX-License-Identifier: Apache-2.0 */
/* loop_test.c - loops of one block, as trans_loop.c lays them out, and traces, as other blocks are: both must leave the same. Each
 * runs from several places, so that it meets the ends of pages, devices and pages that are not there at every copy of its body. */
#include "engine/soft/test_machine.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { SPACE = 0x8000, COUNT = 150, PAGE_TABLE = TEST_TABLES + 0x3000 /* of TEST_DATA */ };
#define ARITHMETIC 0x8d5

/* RSI and RDI walk or stand, RCX counts down, R8 up; R9 is a mask. */
#define LOOP(name, body) CODE64(name, "1: " body "; jnz 1b")
LOOP(copies, "mov rax, [rsi]; mov [rdi], rax; add rsi, 8; add rdi, 8; dec rcx");
LOOP(backwards, "mov rax, [rsi + 24]; add [rdi], rax; sub rsi, 8; lea rdi, [rdi - 16]; dec rcx");
LOOP(indexed, "movzx eax, byte ptr [rsi + r8]; add rdx, rax; mov [rdi + r8 * 4], edx; inc r8; dec rcx");
LOOP(vectors,
     "vmovdqu ymm0, [rsi]; vpaddd ymm1, ymm1, ymm0; vmovdqu [rdi + 64], ymm1; add rsi, 32; add rdi, 32; dec rcx");
LOOP(strided, "mov al, [rsi]; xor [rsi + 1], al; mov dl, [rsi + 70]; add rsi, 100; dec rcx");
LOOP(table,
     "movzx eax, byte ptr [rsi]; xor rax, rdx; and rax, r9; mov rdx, [rdi + rax * 8]; mov [rsi], dl; inc rsi; dec rcx");
LOOP(in_memory, "mov r10, [rsi]; add r11, r10; mov [rsi + 8], r11; adc r15, r11; add rsi, 8; dec rcx");
LOOP(high, "mov ah, [rsi]; add al, ah; mov [rdi], ah; inc rsi; inc rdi; dec rcx");
LOOP(same_place, "add [rdi], rcx; mov rdx, [rdi]; add rsi, 4; mov [rsi], edx; dec rcx");
LOOP(aligned, "movaps xmm0, [rsi]; addps xmm1, xmm0; add rsi, 24; dec rcx");
LOOP(divides, "mov eax, [rsi]; xor edx, edx; div dword ptr [rdi]; mov [rdi + 8], edx; add rsi, 4; add rdi, 4; dec rcx");
LOOP(flags, "mov rax, [rsi]; sbb rdx, rax; mov [rsi], rdx; setc [rdi]; inc rdi; lea rsi, [rsi + 8]; dec rcx");
LOOP(carries, "mov rax, [rsi]; adc [rdi], rax; lea rsi, [rsi + 8]; lea rdi, [rdi + 8]; dec rcx");
LOOP(many,
     "mov eax, [rsi]; add eax, [rdi]; add eax, [rbx]; add eax, [rbp]; mov [r12], eax; mov [r13], eax; add rsi, 4; "
     "add rdi, 4; add rbx, 4; add rbp, 4; add r12, 4; add r13, 4; dec rcx");
LOOP(chain, "movzx eax, word ptr [rbx + rax]; and eax, 0x1fff; mov [rdi], al; inc rdi; dec rcx");
LOOP(own_code, "mov eax, [rsi]; mov [rdi + 0x1000], eax; add rsi, 4; add rdi, 4; dec rcx");

/* Addresses that are sums: of what was moved, added and multiplied; with a step that is no power of two, or by a register in memory,
 * which no other goes with; of registers that stand still and that nothing else mentions. */
LOOP(derived,
     "mov rax, rsi; sub rax, rdi; mov rdx, [rax + rdi + 8]; lea r14, [rdi + r8 * 4]; add [r14], edx; mov [r14 + "
     "r8 * 2 - 6], dx; add rsi, 24; dec rcx");
LOOP(columns, "mov rax, [rsi]; add rax, [rsi + rbx + 8]; mov [rdi], rax; add rsi, 0x300; add rdi, 40; dec rcx; jz 2f; "
	      "cmp rsi, rbp; 2:");
LOOP(downwards,
     "movups xmm0, [rsi + rcx * 8]; movups [rdi + rcx * 8 + 3], xmm0; sub rax, 0x154; mov edx, [rbp + rax]; dec rcx");
CODE64(pointer,
       "mov r11, rsi; xor r10d, r10d; 1: mov rax, [r11]; add rax, [rbp]; xor [rdi + r10 + 4], rax; add r11, 40; "
       "lea r10, [r10 - 24]; dec rcx; jnz 1b");
CODE64(
    shifted,
    "xor eax, eax; 1: mov rdx, rax; shl rdx, 3; mov r14, [rsi + rdx]; add r14, [rbx]; add r14, [r12]; mov [rdi + rdx], "
    "r14; add rax, 3; cmp rax, 150; jne 1b");

/* A jump by way of memory, which goes to one place mostly. */
CODE64(by_memory,
       "mov rax, [0x407000]; 1: lea rax, [rip + 3f]; lea rdx, [rip + 4f]; test cl, 7; cmovz rax, rdx; mov [0x407000], "
       "rax; cmp rcx, r8; jmp qword ptr [0x407000]; 3: adc r11, 1; 4: adc r10, 0; dec rcx; jnz 1b");

/* r10, r11 and r15 in the places of others, where something is stored, faults, leaves or calls C; LOCK and PUSH make that no loop as
 * above. */
LOOP(places, "mov r10, [rsi]; add r11, r10; xor r15, r11; lea r10, [r10 + r15 * 2 + 5]; add [rdi], r10; mov r11b, "
	     "r10b; adc r15, "
	     "r11; lock xadd [rdi + 8], r15; push r10; setc r10b; pop r11; mov [rdi + 16], r15w; add rsi, 8; add rdi, "
	     "12; dec rcx");
LOOP(places_left,
     "mov r10, [rsi]; mov r11, r10; test r10b, 3; jz 2f; add r15, r11; imul r15, r10; cmp r15, r11; jb 2f; lock add "
     "[rdi], r15; adc r11, 0; 2: push r11; add rsi, 8; pop rax; dec rcx");
LOOP(places_addressed,
     "lea r10, [rsi - 8]; mov r11, [r10]; mov r15, [r10 + 8]; add r11, r15; mov [r10 + 16], r11; lock inc dword ptr "
     "[r10 + 24]; and r11, 0x7f; movzx eax, byte ptr [r10 + r11]; add [rdi + r11 * 4], rax; add rsi, 8; dec rcx");
LOOP(places_divide,
     "mov r10, [rsi]; mov eax, r10d; xor edx, edx; mov r11, r10; lea r15, [r11 + r10]; and r10d, 31; lock add [rdi], "
     "r15; div r10d; add r15, r11; add rsi, 8; dec rcx");
LOOP(places_aligned,
     "mov r10, rsi; mov r11, [r10 + 4]; add r15, r11; and r15d, 0x3f0; lock or [rdi], r15; movaps xmm0, [r10 + r15]; "
     "xor r11, r10; add rsi, 16; dec rcx");
LOOP(places_all,
     "mov r10, [rsi]; add r11, r10; add r15, r11; xor rax, r10; add rbx, rax; add rdx, rbx; add rbp, rdx; add r8, rbp; "
     "add r9, r8; add r12, r9; add r13, r12; add r14, r13; lock add [rdi], r15; and r11, 0xff8; add r14, [rsi + r11]; "
     "mov [rdi + r11], r10; ror r15, 3; add rsi, 8; dec rcx");

/* Traces: branches forward that are sometimes taken, with and without anyone who needs their flags. */
LOOP(sides, "mov rax, [rsi]; test al, 1; jz 2f; add [rsi + 8], rax; test al, 2; jz 2f; mov [rsi + 16], rax; cmp rax, "
	    "[rsi + 24]; "
	    "jb 2f; inc rdx; 2: add rsi, 24; dec rcx");
LOOP(side_flags, "mov eax, [rsi]; add eax, [rsi + 4]; jc 2f; mov [rdi], eax; js 2f; adc edx, [rsi + 8]; jo 2f; nop; "
		 "2: adc r8d, 0; sets [rdi + 4]; lea rsi, [rsi + 12]; lea rdi, [rdi + 8]; dec rcx");
LOOP(side_stack, "push rax; mov rdx, [rsi]; test dl, 4; jnz 2f; push rdx; pop rbx; test dl, 8; jz 2f; mov [rsp], rdx; "
		 "2: pop rax; add rsi, 8; add rax, rdx; dec rcx");
LOOP(side_writes, "mov rax, [rsi]; test al, 64; jnz 2f; mov [rsi + 504], rax; 2: add rsi, 40; dec rcx");
LOOP(side_memory,
     "mov r10, [rsi]; cmp r10b, r11b; ja 2f; mov r15, [r10 * 1 + 0]; 2: mov r11, r10; mov rax, [rdi]; add rdi, 8; "
     "test al, 3; jz 3f; add [rdi], r11; 3: add rsi, 8; dec rcx");

/* Groups of accesses by several registers that take turns; PUSH keeps them from being loops. */
LOOP(
    turns,
    "push rax; mov rax, [rsi]; mov rdx, [rdi]; add rax, [rsi + 8]; mov [rbx], rax; add rdx, [rdi + 16]; mov [rbx + 8], "
    "rdx; mov eax, [rsi + 24]; mov [rbx + 24], eax; pop rax; add rsi, 8; add rdi, 8; add rbx, 12; dec rcx");
LOOP(turns_moved,
     "mov rax, [rsi]; push qword ptr [rdi]; mov rax, [rsi + 8]; pop rdx; add rsi, 24; mov [rbx], rax; lea r8d, [rax + "
     "rdx]; mov rdx, [rsi - 8]; mov [rbx + 8], r8; add rbx, 16; cmp rdx, [rsi]; sbb [rbx - 8], rax; dec rcx");
LOOP(turns_in_memory,
     "mov r15, rsi; mov r11, rdi; push r15; mov rax, [r15]; mov r10, [r11]; add r15, 8; add rax, [r15 + 8]; "
     "mov [r11 + 8], rax; mov edx, [rbx]; add [r15 - 8], r10; add rbx, 4; mov [r11 + 16], rdx; pop r15; "
     "lea rsi, [r15 + 12]; lea rdi, [rdi + 8]; dec rcx");
LOOP(turns_through,
     "push rcx; mov rax, [rsi]; mov edx, [rsi + 8]; and edx, 0x1ff8; mov rcx, [rdi]; mov rdx, [rbx + rdx]; mov "
     "[rdi + 8], rdx; test al, 1; jz 2f; mov rax, [rsi + 16]; xor [rdi + 8], rax; mov r8, [rbp]; mov [rdi + 24], "
     "r8; 2: pop rcx; mov [rsi + 8], eax; add rsi, 16; add rdi, 12; dec rcx");
LOOP(turns_stack,
     "push rax; push rdx; mov rax, [rsi]; mov [rsp + 8], rax; mov rdx, [rdi]; mov [rsp - 200], rdx; add rax, [rsp + "
     "8]; mov [rsi + 8], rax; add rdx, [rsp - 200]; pop rax; mov [rdi + 8], rdx; pop rdx; add rsi, 8; add rdi, 8; "
     "dec rcx");

/* All registers are used, so three live in memory, and what was stored of them is used at once. */
LOOP(all_registers, "push r15; lea r11, [rsi + 8]; mov r10, [r11]; lea r15d, [r10 + r11 * 2]; mov [rdi], r15; add "
		    "r15b, 3; mov ah, [rsi]; mov "
		    "[r11 + 8], r15w; xchg r10, r11; pop r15; cmp r10, r11; cmovb r11, r15; mov [rdi + 8], r11; movzx "
		    "r10d, r11b; lea r15, [r15 "
		    "+ 12]; setc r10b; push r10; pop r11; mov [rbx], r11; mov r10b, [r10 + rsi]; xor r15, r10; movsx "
		    "eax, r15b; add r8, r9; "
		    "lea r11, [r15 + r10 + 4]; mov r12, r13; adc r14, r11; mov [rbp], r15d; lea r10, [r10 + 2]; imul "
		    "rdx, r10; lea rsi, [rsi + "
		    "8]; lea rdi, [rdi + 16]; dec rcx");

struct pair {
	void *hot, *plain;
};

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));
	*state = p;
	return test_setup_with(&p->hot, "all-hot") < 0 ||
		       test_setup_with(&p->plain, "no-loops,no-traces,no-interleave") < 0
		   ? -1
		   : 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;
	test_teardown(&p->hot);
	test_teardown(&p->plain);
	free(p);
	return 0;
}

/* What is mapped where the loops reach. The flushing device takes all that is in the TLB away, and with it another page. */
enum layout { ALL, A_PAGE_ABSENT, A_PAGE_READONLY, A_DEVICE, A_FLUSHING_DEVICE, LAYOUTS };

static void flush(struct test_machine *m)
{
	test_put(m, PAGE_TABLE + 4 * 8, (TEST_DATA + 0x9000 + (m->mmio_count & 1) * 0x1000) | 7, 8);
	soft_tlb_flush((struct soft_cpu *)m->vcpu, true);
}

static void prepare(struct test_machine *m, unsigned at, enum layout layout)
{
	static const unsigned access[LAYOUTS] = { TEST_WRITABLE, TEST_ABSENT, TEST_READONLY, TEST_WRITABLE,
						  TEST_WRITABLE };
	test_state(m);
	for (unsigned n = 0; n < 16; n++)
		test_page(m, n, TEST_WRITABLE);
	test_page(m, 5, access[layout]);
	m->touched = layout == A_FLUSHING_DEVICE ? flush : NULL;
	if (layout == A_DEVICE)
		test_put(m, PAGE_TABLE + 5 * 8, TEST_DEVICE | 3, 8);
	if (layout == A_FLUSHING_DEVICE)
		test_put(m, PAGE_TABLE + 6 * 8, TEST_DEVICE | 3, 8);
	for (unsigned i = 0; i < 2 * SPACE; i++)
		m->ram[TEST_DATA + i] = (uint8_t)(i * 37 + (i >> 8) * 11 + 1);
	for (unsigned r = 0; r < 16; r++)
		m->state.gpr[r] = r == RSP ? TEST_STACK : 0x1111 * r;
	m->state.gpr[RSI] = TEST_DATA + 0x4000 + at;
	m->state.gpr[RDI] = TEST_DATA + 0x4400 + at * 3;
	m->state.gpr[RBX] = TEST_DATA + 0x5800 + at;
	m->state.gpr[RBP] = TEST_DATA + 0x6000 + at;
	m->state.gpr[R12] = TEST_DATA + 0x4e00 + at;
	m->state.gpr[R13] = TEST_DATA + 0x7000 + at;
	m->state.gpr[R8] = at % 7;
	m->state.gpr[R9] = 0xff;
	m->state.gpr[RCX] = COUNT;
	m->state.cr0 |= 1 << 16;
}

static void compare(const struct test_machine *a, const struct test_machine *b, uint64_t flags)
{
	assert_memory_equal(a->state.gpr, b->state.gpr, sizeof(a->state.gpr));
	assert_int_equal(a->state.rflags & flags, b->state.rflags & flags);
	assert_memory_equal(a->ram + TEST_DATA, b->ram + TEST_DATA, 2 * SPACE);
	assert_memory_equal(a->ram + PAGE_TABLE, b->ram + PAGE_TABLE, 16 * 8); /* what was accessed and what is dirty */
	for (unsigned n = 0; n < 2; n++) {
		uint8_t x[32], y[32];
		test_get_ymm(a, n, x);
		test_get_ymm(b, n, y);
		assert_memory_equal(x, y, 32);
	}
	assert_int_equal(a->mmio_count, b->mmio_count);
}

static void run_both(struct pair *p, const uint8_t *code, const uint8_t *end)
{
	struct test_machine *hot = p->hot, *plain = p->plain;
	for (enum layout layout = ALL; layout < LAYOUTS; layout++) {
		for (unsigned at = 0; at < 0xc00; at += 0x57) {
			prepare(hot, at, layout);
			prepare(plain, at, layout);
			engine_soft.vcpu_set_state(hot->vcpu, &hot->state);
			int vector = test_run_at(hot, code, end);
			assert_int_equal(vector, test_run_at(plain, code, end));
			if (vector != TEST_NO_VECTOR) {
				/* Flags that nobody will read may be old in it. */
				hot->frame.rflags |= ARITHMETIC, plain->frame.rflags |= ARITHMETIC;
				assert_memory_equal(&hot->frame, &plain->frame, sizeof(hot->frame));
			}
			compare(hot, plain, vector == TEST_NO_VECTOR ? ~UINT64_C(0) : ~(uint64_t)ARITHMETIC);
		}
	}
}

#define TEST(name)                                  \
	static void test_##name(void **state)       \
	{                                           \
		run_both(*state, name, name##_end); \
	}
TEST(copies)
TEST(backwards)
TEST(indexed)
TEST(vectors)
TEST(strided)
TEST(table)
TEST(in_memory)
TEST(high)
TEST(same_place)
TEST(aligned)
TEST(divides)
TEST(flags)
TEST(carries)
TEST(many)
TEST(chain)
TEST(places)
TEST(places_left)
TEST(places_addressed)
TEST(places_divide)
TEST(places_aligned)
TEST(places_all)
TEST(by_memory)
TEST(derived)
TEST(columns)
TEST(downwards)
TEST(pointer)
TEST(shifted)
TEST(sides)
TEST(side_flags)
TEST(side_stack)
TEST(side_writes)
TEST(side_memory)
TEST(turns)
TEST(turns_moved)
TEST(turns_in_memory)
TEST(turns_through)
TEST(turns_stack)
TEST(all_registers)

/* A loop that writes over itself, upwards: the copies that were laid out must not outlive the bytes. */
static void test_own_code(void **state)
{
	struct pair *p = *state;
	for (unsigned back = 0; back < 0x80; back += 4) {
		struct test_machine *m[2] = { p->hot, p->plain };
		for (unsigned k = 0; k < 2; k++) {
			prepare(m[k], 0, ALL);
			memset(m[k]->ram + TEST_DATA + 0x4000, 0x90, 0x400);
			m[k]->state.gpr[RDI] = TEST_CODE - 0x1000 - back;
			m[k]->state.gpr[RCX] = 8 + back / 4;
			m[k]->state.gpr[RSI] = TEST_DATA + 0x4000;
		}
		int vector = test_run(m[0], own_code);
		assert_int_equal(vector, test_run(m[1], own_code));
		compare(m[0], m[1], ~UINT64_C(0));
	}
}

int main(void)
{
#define ROW(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		ROW(copies),
		ROW(backwards),
		ROW(indexed),
		ROW(vectors),
		ROW(strided),
		ROW(table),
		ROW(in_memory),
		ROW(high),
		ROW(same_place),
		ROW(aligned),
		ROW(divides),
		ROW(flags),
		ROW(carries),
		ROW(many),
		ROW(own_code),
		ROW(chain),
		ROW(sides),
		ROW(side_flags),
		ROW(side_stack),
		ROW(side_writes),
		ROW(side_memory),
		ROW(derived),
		ROW(columns),
		ROW(downwards),
		ROW(pointer),
		ROW(shifted),
		ROW(turns),
		ROW(turns_moved),
		ROW(turns_in_memory),
		ROW(turns_through),
		ROW(turns_stack),
		ROW(all_registers),
		ROW(places),
		ROW(places_left),
		ROW(places_addressed),
		ROW(places_divide),
		ROW(places_aligned),
		ROW(places_all),
		ROW(by_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
