/* SPDX-License-Identifier: Apache-2.0 */
/* soft_test.c - programs of a few instructions, run through the engine contract in 64-bit mode with identity paging. */
#include "engine/soft/soft.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/run.h"

enum { RAM = 8 << 20, TABLES = 0x1000, GDT = 0x8000, CODE = 0x100000, STACK = 0x300000, DATA = 0x400000 };

struct machine {
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	uint8_t *ram;
	struct engine_cpu_state state;
	struct engine_run run;
};

static void on_pio(void *ctx, uint16_t port, void *data, unsigned size, bool write)
{
	struct machine *m = ctx;
	(void)size;
	if (port == 0xf4)
		engine_soft.vcpu_kick(m->vcpu, ENGINE_KICK_EXIT);
	if (!write)
		memset(data, 0xff, size);
}

static void on_mmio(void *ctx, uint64_t gpa, void *data, unsigned size, bool write)
{
	struct machine *m = ctx;
	if (write)
		memcpy(m->ram + 0x500000 + (gpa & 0xfff), data, size);
	else
		memset(data, (int)(gpa & 0xff), size);
}

static int on_ack(void *ctx)
{
	(void)ctx;
	return -1;
}

static const struct engine_callbacks callbacks = { .pio = on_pio, .mmio = on_mmio, .interrupt_ack = on_ack };

static void put64(struct machine *m, uint64_t at, uint64_t v)
{
	memcpy(m->ram + at, &v, 8);
}

static int setup(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct engine_config config = { .vcpus = 1 };
	struct error err;
	m->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (engine_soft.vm_create(&m->vm, &config, &err) < 0 ||
	    engine_soft.vm_map(m->vm, 0, m->ram, -1, RAM, 0, &err) < 0 ||
	    engine_soft.vcpu_create(&m->vcpu, m->vm, 0, &callbacks, m, &err) < 0) {
		print_error("%s\n", err.text);
		return -1;
	}
	/* Identity, 2 MiB pages, 1 GiB; writable, user. */
	put64(m, TABLES, TABLES + 0x1007);
	put64(m, TABLES + 0x1000, TABLES + 0x2007);
	for (uint64_t i = 0; i < 512; i++)
		put64(m, TABLES + 0x2000 + i * 8, i << 21 | 0x87);
	engine_cpu_state_reset(&m->state);
	struct engine_cpu_state *s = &m->state;
	s->cr0 = 0x80050033;
	s->cr3 = TABLES;
	s->cr4 = 0x620 | 1 << 18;
	s->xcr0 = 7;
	s->efer = 0x500;
	for (unsigned i = 0; i < 6; i++)
		s->seg[i] = (struct engine_segment){ .limit = 0xffffffff, .attr = 0xc093, .selector = 0x18 };
	s->seg[ENGINE_CS] = (struct engine_segment){ .limit = 0xffffffff, .attr = 0xa09b, .selector = 0x10 };
	s->rip = CODE;
	s->gpr[4] = STACK;
	s->gpr[6] = DATA;
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = *state;
	engine_soft.vcpu_destroy(m->vcpu);
	engine_soft.vm_destroy(m->vm);
	munmap(m->ram, RAM);
	free(m);
	return 0;
}

/* Runs code, followed by an exit. */
static void run(struct machine *m, const void *code, size_t size)
{
	static const uint8_t out[] = { 0xe6, 0xf4 };
	memcpy(m->ram + CODE, code, size);
	memcpy(m->ram + CODE + size, out, sizeof(out));
	engine_soft.vcpu_set_state(m->vcpu, &m->state);
	engine_soft.vcpu_run(m->vcpu, &m->run);
	if (m->run.exit != ENGINE_EXIT_KICKED)
		print_error("%s\n", m->run.reason);
	assert_int_equal(m->run.exit, ENGINE_EXIT_KICKED);
	engine_soft.vcpu_get_state(m->vcpu, &m->state);
}

#define RUN(m, ...)                                             \
	do {                                                    \
		static const uint8_t code_[] = { __VA_ARGS__ }; \
		run(m, code_, sizeof(code_));                   \
	} while (0)

static void test_moves(void **state)
{
	struct machine *m = *state;
	/* mov eax,5; mov r10,rax; lea r11,[r10+r10*4+3]; mov r15,r11; add r15,r10; mov rbx,r15 */
	RUN(m, 0xb8, 5, 0, 0, 0, 0x49, 0x89, 0xc2, 0x4f, 0x8d, 0x5c, 0x92, 0x03, 0x4d, 0x89, 0xdf, 0x4d, 0x01, 0xd7,
	    0x4c, 0x89, 0xfb);
	assert_int_equal(m->state.gpr[10], 5);
	assert_int_equal(m->state.gpr[11], 28);
	assert_int_equal(m->state.gpr[3], 33);
	assert_int_equal(m->state.gpr[15], 33);
}

static void test_memory(void **state)
{
	struct machine *m = *state;
	put64(m, DATA, 0x1122334455667788);
	/* mov rax,[rsi]; add [rsi+8],rax; mov r10,[rsi+8]; inc byte [rsi]; push r10; pop rbx; mov ah,[rsi+1] */
	RUN(m, 0x48, 0x8b, 0x06, 0x48, 0x01, 0x46, 0x08, 0x4c, 0x8b, 0x56, 0x08, 0xfe, 0x06, 0x41, 0x52, 0x5b, 0x8a,
	    0x66, 0x01);
	assert_int_equal(m->state.gpr[0], 0x1122334455667788);
	assert_int_equal(m->state.gpr[10], 0x1122334455667788);
	assert_int_equal(m->state.gpr[3], 0x1122334455667788);
	assert_int_equal(m->ram[DATA], 0x89);
	assert_int_equal(m->state.gpr[4], STACK);
}

static void test_loop_and_flags(void **state)
{
	struct machine *m = *state;
	/* mov ecx,1000; xor eax,eax; 1: add eax,ecx; stc; mov [rsi],eax; adc eax,0; dec ecx; jnz 1b */
	RUN(m, 0xb9, 0xe8, 3, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0xf9, 0x89, 0x06, 0x83, 0xd0, 0x00, 0xff, 0xc9, 0x75, 0xf4);
	assert_int_equal(m->state.gpr[0], 1000 * 1001 / 2 + 1000);
}

static void test_call_and_return(void **state)
{
	struct machine *m = *state;
	/* mov ecx,50; xor eax,eax; 1: call 2f; loop 1b; jmp 3f; 2: add eax,ecx; ret; 3: */
	RUN(m, 0xb9, 50, 0, 0, 0, 0x31, 0xc0, 0xe8, 4, 0, 0, 0, 0xe2, 0xf9, 0xeb, 3, 0x01, 0xc8, 0xc3);
	assert_int_equal(m->state.gpr[0], 50 * 51 / 2);
	assert_int_equal(m->state.gpr[4], STACK);
}

/* Deeper than the return stack, several times over. */
static void test_deep_recursion(void **state)
{
	struct machine *m = *state;
	assert_int_equal(soft_signals_init(&(struct error){ 0 }), 0); /* cmocka has taken the signals since setup */
	/* mov ecx,150000; xor eax,eax; call f; jmp 2f; f: dec ecx; jz 1f; call f; 1: inc eax; ret; 2: */
	RUN(m, 0xb9, 0xf0, 0x49, 2, 0, 0x31, 0xc0, 0xe8, 2, 0, 0, 0, 0xeb, 12, 0xff, 0xc9, 0x74, 5, 0xe8, 0xf7, 0xff,
	    0xff, 0xff, 0xff, 0xc0, 0xc3);
	assert_int_equal(m->state.gpr[0], 150000);
	assert_int_equal(m->state.gpr[4], STACK);
}

/* A function that changes where it returns to. */
static void test_changed_return(void **state)
{
	struct machine *m = *state;
	/* mov ecx,3000; xor eax,eax; xor ebx,ebx; 1: call f; inc eax; inc ebx; dec ecx; jnz 1b; jmp 2f; f: add qword
	 * [rsp],2; ret; 2: */
	RUN(m, 0xb9, 0xb8, 0x0b, 0, 0, 0x31, 0xc0, 0x31, 0xdb, 0xe8, 10, 0, 0, 0, 0xff, 0xc0, 0xff, 0xc3, 0xff, 0xc9,
	    0x75, 0xf3, 0xeb, 6, 0x48, 0x83, 0x04, 0x24, 2, 0xc3);
	assert_int_equal(m->state.gpr[0], 0);
	assert_int_equal(m->state.gpr[3], 3000);
	assert_int_equal(m->state.gpr[4], STACK);
}

static void test_split_access(void **state)
{
	struct machine *m = *state;
	m->state.gpr[6] = DATA + 0xffc;
	/* mov rax,0x1122334455667788; mov [rsi],rax; add qword [rsi],1; mov rbx,[rsi] */
	RUN(m, 0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x48, 0x89, 0x06, 0x48, 0x83, 0x06, 0x01,
	    0x48, 0x8b, 0x1e);
	assert_int_equal(m->state.gpr[3], 0x1122334455667789);
}

static void test_device_memory(void **state)
{
	struct machine *m = *state;
	m->state.gpr[6] = 0x3f000010;
	/* mov eax,[rsi]; mov dword [rsi+4],0x12345678; or dword [rsi+8],0x80000000; sets flags: sets bl */
	RUN(m, 0x8b, 0x06, 0xc7, 0x46, 0x04, 0x78, 0x56, 0x34, 0x12, 0x81, 0x4e, 0x08, 0, 0, 0, 0x80, 0x0f, 0x98, 0xc3);
	assert_int_equal(m->state.gpr[0], 0x10101010);
	assert_int_equal(*(uint32_t *)(void *)(m->ram + 0x500014), 0x12345678);
	assert_int_equal(*(uint32_t *)(void *)(m->ram + 0x500018), 0x98181818);
	assert_int_equal(m->state.gpr[3] & 0xff, 1);
}

static void test_own_code_changed(void **state)
{
	struct machine *m = *state;
	/* lea rdi,[rip+1f]; mov byte [rdi+1],7; 1: mov al,1; (the store comes first, then the changed mov runs) */
	RUN(m, 0x48, 0x8d, 0x3d, 4, 0, 0, 0, 0xc6, 0x47, 0x01, 0x07, 0xb0, 0x01);
	assert_int_equal(m->state.gpr[0] & 0xff, 7);
}

static void test_vectors(void **state)
{
	struct machine *m = *state;
	static const double two[4] = { 1.5, 2.5, 3.5, 4.5 };
	memcpy(m->ram + DATA, two, sizeof(two));
	/* vmovupd ymm1,[rsi]; vaddpd ymm2,ymm1,[rsi]; vmovupd [rsi+32],ymm2; movsd xmm0,[rsi]; cvttsd2si r10,xmm0 */
	RUN(m, 0xc5, 0xfd, 0x10, 0x0e, 0xc5, 0xf5, 0x58, 0x16, 0xc5, 0xfd, 0x11, 0x56, 0x20, 0xf2, 0x0f, 0x10, 0x06,
	    0xf2, 0x4c, 0x0f, 0x2c, 0xd0);
	double sum[4];
	memcpy(sum, m->ram + DATA + 32, sizeof(sum));
	for (unsigned i = 0; i < 4; i++)
		assert_true(sum[i] == 2 * two[i]);
	assert_int_equal(m->state.gpr[10], 1);
}

static void test_flags_survive(void **state)
{
	struct machine *m = *state;
	/* mov al,0x80; add al,0x80 (CF OF ZF); mov [rsi],rbx; jmp 1f; nop; 1: mov rcx,[rsi]; seto dl; setc dh; setz bl */
	RUN(m, 0xb0, 0x80, 0x04, 0x80, 0x48, 0x89, 0x1e, 0xeb, 0x01, 0x90, 0x48, 0x8b, 0x0e, 0x0f, 0x90, 0xc2, 0x0f,
	    0x92, 0xc6, 0x0f, 0x94, 0xc3);
	assert_int_equal(m->state.gpr[2] & 0xffff, 0x0101);
	assert_int_equal(m->state.gpr[3] & 0xff, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_moves, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_and_flags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_call_and_return, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deep_recursion, setup, teardown),
		cmocka_unit_test_setup_teardown(test_changed_return, setup, teardown),
		cmocka_unit_test_setup_teardown(test_split_access, setup, teardown),
		cmocka_unit_test_setup_teardown(test_device_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_own_code_changed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vectors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flags_survive, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
