/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engines' contract, with the same guests and the same expectations on each: port and memory accesses of every size,
 * string port I/O, MSRs, HLT, shutdown, NMIs, kicks, and the state of a CPU that is stopped in the middle and
 * goes on on the other engine. An engine that does not work here is skipped; a KVM that only emulates will do.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/contract_testlib.h"

/* ---- ports and memory ---- */

static void accesses(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0x66, 0xba, 0x34, 0x12,       /* mov dx, 0x1234 */
		0xb8, 0xdd, 0xcc, 0xbb, 0xaa, /* mov eax, 0xaabbccdd */
		0xee, 0x66, 0xef, 0xef,       /* out dx, al; ax; eax */
		0xec, 0x66, 0xed, 0xed,       /* in al; ax; eax */
		0xe6, 0x80,                   /* out 0x80, al */
		0xbe, 0x00, 0x90, 0x00, 0x00, /* mov esi, DATA */
		0xb9, 0x03, 0x00, 0x00, 0x00, /* mov ecx, 3 */
		0xf3, 0x66, 0x6f,             /* rep outsw */
		0xbf, 0x10, 0x90, 0x00, 0x00, /* mov edi, DATA + 16 */
		0xb9, 0x02, 0x00, 0x00, 0x00, /* mov ecx, 2 */
		0xf3, 0x6c,                   /* rep insb */
		0xa2, 0x00, 0x00, 0x20, 0x00, /* mov [MMIO], al */
		0xa3, 0x04, 0x00, 0x20, 0x00, /* mov [MMIO + 4], eax */
		0xa3, 0x0e, 0x00, 0x20, 0x00, /* mov [MMIO + 14], eax: crosses 8 bytes */
		0xa1, 0x08, 0x00, 0x20, 0x00, /* mov eax, [MMIO + 8] */
		0xa3, 0x00, 0x91, 0x00, 0x00, /* mov [DATA + 256], eax */
		0xeb, 0xfe,
	};
	static const char *const lines[] = {
		"out1 1234 dd",       "out2 1234 ccdd",
		"out4 1234 aabbccdd", "in1 1234",
		"in2 1234",           "in4 1234",
		"out1 80 11",         "out2 1234 201",
		"out2 1234 403",      "out2 1234 605",
		"in1 1234",           "in1 1234",
		"store1 200000 11",   "store4 200004 44332211",
		"store2 20000e 2211", "store2 200010 4433",
		"load4 200008",       NULL,
	};
	struct box *box = calloc(1, sizeof(*box));

	contract_start(box, ops, code, sizeof(code), 0);
	for (uint8_t i = 0; i < 6; i++)
		box->memory[DATA + i] = i + 1;
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	contract_expect(box, lines);
	uint32_t loaded;
	memcpy(&loaded, box->memory + DATA + 256, sizeof(loaded));
	assert_int_equal(loaded, 0x44332211);
	assert_int_equal(box->memory[DATA + 16] | box->memory[DATA + 17] << 8, 0x1111);
	ops->vcpu_get_state(box->vcpu, &box->state);
	assert_int_equal(box->state.rip, CODE + sizeof(code) - 2);
	assert_int_equal(box->state.gpr[0], 0x44332211);
	assert_int_equal(box->state.gpr[1], 0);
	contract_end(box);
	free(box);
}

/* ---- MSRs, exceptions, shutdown ---- */

static void msrs(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0xb9,
		0x00,
		0x02,
		0x00,
		0x00,
		0x0f,
		0x32, /* mov ecx, 0x200; rdmsr */
		0xe6,
		0x81, /* out 0x81, al */
		0xb8,
		0x05,
		0x00,
		0x00,
		0x00, /* mov eax, 5 */
		0x31,
		0xd2,
		0x0f,
		0x30, /* xor edx, edx; wrmsr */
		0xb9,
		0x01,
		0x02,
		0x00,
		0x00,
		0x0f,
		0x30, /* mov ecx, 0x201; wrmsr: #GP */
		0xeb,
		0xfe,
		/* the handler */
		0x58,
		0x59, /* pop eax: error code; pop ecx: EIP */
		0xe6,
		0x82,
		0x89,
		0xc8,
		0xe7,
		0x83, /* out 0x82, al; mov eax, ecx; out 0x83, eax */
		0xeb,
		0xfe,
	};
	static const char *const lines[] = { "rdmsr 200", "out1 81 89",   "wrmsr 200 5", "wrmsr 201 5",
					     "out1 82 0", "out4 83 1017", NULL };
	struct box *box = calloc(1, sizeof(*box));

	contract_start(box, ops, code, sizeof(code), CODE + 27);
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	contract_expect(box, lines);
	contract_end(box);
	free(box);
}

static void shutdown_(const struct engine_ops *ops)
{
	static const uint8_t code[] = { 0x90, 0x0f, 0x0b }; /* nop; ud2, without an IDT */
	struct box *box = calloc(1, sizeof(*box));

	contract_start(box, ops, code, sizeof(code), 0);
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_SHUTDOWN);
	assert_non_null(strstr(box->run.reason, "triple fault"));
	contract_end(box);
	free(box);
}

/* ---- HLT, NMI ---- */

static void nmi(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0xb0,
		0x01,
		0xe6,
		0x81,
		0xf4, /* mov al, 1; out 0x81, al; hlt, with IF clear */
		0xb0,
		0x02,
		0xe6,
		0x81,
		0xeb,
		0xfe,
		/* the handler, which does without IRET, as a KVM that emulates knows none: al = 0x4e; out; jmp back */
		0xb0,
		0x4e,
		0xe6,
		0x81,
		0xeb,
		0xf4,
	};
	static const char *const lines[] = { "out1 81 1", "out1 81 4e", "out1 81 2", NULL };
	struct box *box = calloc(1, sizeof(*box));

	contract_start(box, ops, code, sizeof(code), CODE + 11);
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	assert_int_equal(box->logged, 1);
	ops->vcpu_get_state(box->vcpu, &box->state);
	assert_true(box->state.halted);
	ops->vcpu_kick(box->vcpu, ENGINE_KICK_NMI);
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	contract_expect(box, lines);
	ops->vcpu_get_state(box->vcpu, &box->state);
	assert_true(box->state.nmi_masked);
	assert_false(box->state.halted || box->state.nmi_pending);
	contract_end(box);
	free(box);
}

/* ---- kicks ---- */

static void kicks(const struct engine_ops *ops)
{
	static const uint8_t code[] = { 0x40, 0xeb, 0xfd }; /* inc eax; jmp */
	struct box *box = calloc(1, sizeof(*box));
	uint64_t last = 0;
	unsigned moved = 0;

	contract_start(box, ops, code, sizeof(code), 0);
	/* One that comes first is not lost. */
	ops->vcpu_kick(box->vcpu, ENGINE_KICK_EXIT);
	ops->vcpu_run(box->vcpu, &box->run);
	assert_int_equal(box->run.exit, ENGINE_EXIT_KICKED);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(contract_run_for(box, 2000 + 100 * i), ENGINE_EXIT_KICKED);
		ops->vcpu_get_state(box->vcpu, &box->state);
		assert_true(box->state.rip == CODE || box->state.rip == CODE + 1);
		moved += box->state.gpr[0] != last;
		last = box->state.gpr[0];
	}
	assert_true(moved > 1); /* not each time: a busy host may not let it run in between */
	contract_end(box);
	free(box);
}

/* ---- state, between engines ---- */

/* A linear congruence, 60000 rounds of it with a store each, then OUT of the result. */
static const uint8_t work[] = {
	0xb9, 0x60, 0xea, 0x00, 0x00,       /* mov ecx, 60000 */
	0xb8, 0x01, 0x00, 0x00, 0x00,       /* mov eax, 1 */
	0x69, 0xc0, 0x0d, 0x66, 0x19, 0x00, /* 1: imul eax, eax, 1664525 */
	0x05, 0x5f, 0xf3, 0x6e, 0x3c,       /* add eax, 1013904223 */
	0xa3, 0x00, 0x90, 0x00, 0x00,       /* mov [DATA], eax */
	0xe2, 0xee,                         /* loop 1b */
	0xe7, 0x83, 0xeb, 0xfe,             /* out 0x83, eax; jmp */
};

static void test_a_guest_moves_between_engines(void **state)
{
	struct box *box = calloc(1, sizeof(*box));
	uint8_t *memory = contract_new_memory();
	uint32_t x = 1;
	char text[256], line[64];
	const struct engine_ops *works[8];
	unsigned n = 0, turns = 0;

	(void)state;
	for (unsigned i = 0; engines[i] && n < 8; i++)
		if (!engines[i]->probe(contract_options_of(engines[i]), text, sizeof(text)))
			works[n++] = engines[i];
	if (n < 2) {
		munmap(memory, MEMORY);
		free(box);
		skip();
	}
	for (unsigned i = 0; i < 60000; i++)
		x = x * 1664525 + 1013904223;
	snprintf(line, sizeof(line), "out4 83 %x", x);
	memcpy(memory + CODE, work, sizeof(work));
	contract_enter_at(&box->state, memory, 0);
	while (!box->logged && turns < 10000) {
		contract_make(box, works[turns % n], memory);
		box->ops->vcpu_set_state(box->vcpu, &box->state);
		assert_int_equal(contract_run_for(box, 10 + turns * 37 % 700), ENGINE_EXIT_KICKED);
		box->ops->vcpu_get_state(box->vcpu, &box->state);
		contract_drop(box);
		turns++;
	}
	assert_int_equal(box->logged, 1);
	assert_string_equal(box->log[0], line);
	munmap(memory, MEMORY);
	free(box);
}

/* What goes in comes out, whichever engine it was in. */
static void whole_state(const struct engine_ops *ops)
{
	static const uint8_t code[] = { 0xeb, 0xfe };
	struct box *box = calloc(1, sizeof(*box));
	struct engine_cpu_state *in = &box->state, *out = aligned_alloc(64, sizeof(*out));

	contract_start(box, ops, code, sizeof(code), CODE);
	for (unsigned i = 0; i < 16; i++)
		in->gpr[i] = i == 4 ? STACK : 0x1111111100000000 + i;
	in->star = 0x0123456700000000;
	in->lstar = 0xffffffff81000000;
	in->cstar = 0xffffffff82000000;
	in->sfmask = 0x47700;
	in->kernel_gs_base = 0xffff888000000000;
	in->sysenter_cs = 0x10;
	in->sysenter_esp = 0xfffffe0000001000;
	in->sysenter_eip = 0xffffffff81000040;
	in->cr2 = 0xdeadbeef;
	in->dr[0] = 0x1234;
	in->tsc_adjust = (uint64_t)-1000000;
	in->seg[ENGINE_FS].base = 0x123000;
	in->rflags = 0x46;
	in->nmi_masked = true;
	ops->vcpu_set_state(box->vcpu, in);
	ops->vcpu_get_state(box->vcpu, out);
	assert_memory_equal(in->gpr, out->gpr, sizeof(in->gpr));
	for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
		assert_int_equal(in->seg[i].base, out->seg[i].base);
		assert_int_equal(in->seg[i].limit, out->seg[i].limit);
		assert_int_equal(in->seg[i].selector, out->seg[i].selector);
		assert_int_equal(in->seg[i].attr & 0xf0ff, out->seg[i].attr & 0xf0ff);
	}
#define SAME(field) assert_int_equal(in->field, out->field)
	SAME(rip), SAME(rflags), SAME(cr0), SAME(cr2), SAME(cr3), SAME(cr4), SAME(efer), SAME(xcr0), SAME(star),
	    SAME(lstar);
	SAME(cstar), SAME(sfmask), SAME(kernel_gs_base), SAME(sysenter_cs), SAME(sysenter_esp), SAME(sysenter_eip);
	SAME(pat), SAME(tsc_adjust), SAME(nmi_masked), SAME(dr[0]), SAME(gdtr.base), SAME(idtr.limit),
	    SAME(event.valid);
#undef SAME
	/* An interrupt that was acknowledged is not lost. */
	in->event.valid = in->event.external = true;
	in->event.vector = 0x15;
	ops->vcpu_set_state(box->vcpu, in);
	ops->vcpu_get_state(box->vcpu, out);
	assert_true(out->event.valid && out->event.external && out->event.vector == 0x15);
	free(out);
	contract_end(box);
	free(box);
}

/* ---- events in flight ---- */

static void events(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0xb0, 0x02, 0xe6, 0x81, 0xeb, 0xfe,                   /* al = 2; out */
		0xb0, 0x15, 0xe6, 0x81, 0xeb, 0xf4,                   /* an interrupt's handler, which jumps back */
		0x58, 0xe6, 0x82, 0xb0, 0x0e, 0xe6, 0x81, 0xeb, 0xeb, /* an exception's: the error code */
	};
	static const char *const lines[] = { "out1 81 15", "out1 81 2", "out1 82 7", "out1 81 e", "out1 81 2", NULL };
	struct box *box = calloc(1, sizeof(*box));

	/* With IF clear: it was acknowledged before. */
	contract_start(box, ops, code, sizeof(code), CODE + 6);
	box->state.event.valid = box->state.event.external = true;
	box->state.event.vector = 0x15;
	ops->vcpu_set_state(box->vcpu, &box->state);
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	contract_enter_at(&box->state, box->memory, CODE + 12);
	box->state.event.valid = box->state.event.has_error = true;
	box->state.event.external = false;
	box->state.event.vector = 14;
	box->state.event.error = 7;
	ops->vm_written(box->vm, 0, MEMORY);
	ops->vcpu_set_state(box->vcpu, &box->state);
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	contract_expect(box, lines);
	contract_end(box);
	free(box);
}

/* An interrupt that is acknowledged is delivered, though the CPU stops at once and goes on elsewhere. */
static void acknowledged(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0xfb, 0x90, 0xeb, 0xfe, 0xb0, 0x15, 0xe6, 0x81, 0xeb, 0xfe
	}; /* sti; nop; jmp */
	static const char *const lines[] = { "out1 81 15", NULL };
	enum { LINT0 = 0x35, EXTINT = 0x700 };
	struct box *box = calloc(1, sizeof(*box));

	contract_start(box, ops, code, sizeof(code), CODE + 4);
	box->state.lapic.reg[LINT0] = EXTINT;
	ops->vcpu_set_state(box->vcpu, &box->state);
	box->vector = 0x15;
	box->stop_at_ack = true;
	ops->vcpu_kick(box->vcpu, ENGINE_KICK_INTERRUPT);
	while (box->vector)
		assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	ops->vcpu_get_state(box->vcpu, &box->state);
	contract_drop(box);
	contract_make(box, ops, box->memory);
	ops->vcpu_set_state(box->vcpu, &box->state);
	assert_int_equal(contract_run_for(box, 100000), ENGINE_EXIT_KICKED);
	contract_expect(box, lines);
	contract_end(box);
	free(box);
}

/* An interrupt ends a halt; and so does one that was acknowledged, of a CPU that goes on elsewhere. */
static void halted(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0xfb, 0xf4, 0xeb, 0xfe, 0xb0, 0x15, 0xe6, 0x81, 0xeb, 0xfe
	}; /* sti; hlt; jmp */
	static const char *const lines[] = { "out1 81 15", "out1 81 15", NULL };
	enum { LINT0 = 0x35, EXTINT = 0x700 };
	struct box *box = calloc(1, sizeof(*box));

	contract_start(box, ops, code, sizeof(code), CODE + 4);
	box->state.lapic.reg[LINT0] = EXTINT;
	ops->vcpu_set_state(box->vcpu, &box->state);
	do {
		assert_int_equal(contract_run_for(box, 20000), ENGINE_EXIT_KICKED);
		ops->vcpu_get_state(box->vcpu, &box->state);
	} while (!box->state.halted);
	box->vector = 0x15;
	ops->vcpu_kick(box->vcpu, ENGINE_KICK_INTERRUPT);
	while (!box->logged)
		assert_int_equal(contract_run_for(box, 20000), ENGINE_EXIT_KICKED);
	box->state.event.valid = box->state.event.external = true;
	box->state.event.vector = 0x15;
	ops->vcpu_set_state(box->vcpu, &box->state);
	while (box->logged < 2)
		assert_int_equal(contract_run_for(box, 20000), ENGINE_EXIT_KICKED);
	contract_expect(box, lines);
	contract_end(box);
	free(box);
}

/* A one-shot timer that expires while the CPU stands still is in the IRR of its state; and once it has been, a CPU that
 * goes on with that state gets no second one. */
static void timer(const struct engine_ops *ops)
{
	static const uint8_t code[] = { 0xeb, 0xfe };
	enum { IRR = 0x20, LVT_TIMER = 0x32, INITIAL = 0x38, CURRENT, DIVIDE = 0x3e, BY_1 = 0xb, VECTOR = 0x35 };
	struct box *box;
	uint32_t *reg;

	if (!ops->in_kernel_lapic)
		return;
	box = calloc(1, sizeof(*box));
	reg = box->state.lapic.reg;
	contract_start(box, ops, code, sizeof(code), 0);
	box->state.lapic.reg[0x0f] |= 0x100;
	reg[LVT_TIMER] = VECTOR;
	reg[DIVIDE] = BY_1;
	reg[INITIAL] = reg[CURRENT] = 5000000;
	ops->vcpu_set_state(box->vcpu, &box->state);
	assert_int_equal(contract_run_for(box, 1000), ENGINE_EXIT_KICKED);
	usleep(20000);
	ops->vcpu_get_state(box->vcpu, &box->state);
	assert_int_equal(reg[CURRENT], 0);
	assert_int_equal(reg[IRR + VECTOR / 32], 1u << VECTOR % 32);
	reg[IRR + VECTOR / 32] = 0;
	ops->vcpu_set_state(box->vcpu, &box->state);
	assert_int_equal(contract_run_for(box, 20000), ENGINE_EXIT_KICKED);
	ops->vcpu_get_state(box->vcpu, &box->state);
	assert_int_equal(reg[IRR + VECTOR / 32], 0);
	contract_end(box);
	free(box);
}

/* ---- doorbells ---- */

static void doorbells(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0xa2, 0x00, 0x00, 0x20, 0x00, 0xa3, 0x00, 0x00, 0x20, 0x00, /* mov [MMIO], al; mov [MMIO], eax */
		0xa2, 0x08, 0x00, 0x20, 0x00, 0xeb, 0xfe,                   /* mov [MMIO + 8], al */
	};
	static const char *const lines[] = { "store1 200008 0", "store1 200000 0", "store4 200000 0", "store1 200008 0",
					     NULL };
	struct box *box;
	uint64_t count = 0;

	if (!ops->vm_doorbell)
		return;
	box = calloc(1, sizeof(*box));
	contract_start(box, ops, code, sizeof(code), 0);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(ops->vm_doorbell(box->vm, MMIO, fd, true), 0);
	assert_int_equal(contract_run_for(box, 50000), ENGINE_EXIT_KICKED);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 2);
	/* Taken away, the writes are calls again. */
	assert_int_equal(ops->vm_doorbell(box->vm, MMIO, fd, false), 0);
	ops->vcpu_set_state(box->vcpu, &box->state);
	assert_int_equal(contract_run_for(box, 50000), ENGINE_EXIT_KICKED);
	contract_expect(box, lines);
	close(fd);
	contract_end(box);
	free(box);
}

ON_EACH(accesses)
ON_EACH(msrs)
ON_EACH(shutdown_)
ON_EACH(nmi)
ON_EACH(kicks)
ON_EACH(whole_state)
ON_EACH(events)
ON_EACH(acknowledged)
ON_EACH(halted)
ON_EACH(timer)
ON_EACH(doorbells)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accesses),  cmocka_unit_test(test_msrs),
		cmocka_unit_test(test_shutdown_), cmocka_unit_test(test_nmi),
		cmocka_unit_test(test_kicks),     cmocka_unit_test(test_whole_state),
		cmocka_unit_test(test_events),    cmocka_unit_test(test_acknowledged),
		cmocka_unit_test(test_halted),    cmocka_unit_test(test_timer),
		cmocka_unit_test(test_doorbells), cmocka_unit_test(test_a_guest_moves_between_engines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
