/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/contract_testlib.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((format(printf, 2, 3))) static void note(struct box *box, const char *fmt, ...)
{
	va_list args;

	assert_true(box->logged < LOG_MAX);
	va_start(args, fmt);
	vsnprintf(box->log[box->logged++], sizeof(box->log[0]), fmt, args);
	va_end(args);
}

/* ---- the machine around it ---- */

static void on_pio(void *ctx, uint16_t port, void *data, unsigned size, bool write)
{
	struct box *box = ctx;
	uint32_t value = 0x44332211;

	if (write) {
		value = 0;
		memcpy(&value, data, size);
		note(box, "out%u %x %x", size, port, value);
	} else {
		memcpy(data, &value, size);
		note(box, "in%u %x", size, port);
	}
}

static void on_mmio(void *ctx, uint64_t gpa, void *data, unsigned size, bool write)
{
	struct box *box = ctx;
	uint64_t value = 0x8877665544332211;

	if (write) {
		value = 0;
		memcpy(&value, data, size);
		note(box, "store%u %llx %llx", size, (unsigned long long)gpa, (unsigned long long)value);
	} else {
		memcpy(data, &value, size);
		note(box, "load%u %llx", size, (unsigned long long)gpa);
	}
}

static int on_interrupt(void *ctx)
{
	struct box *box = ctx;
	int vector = box->vector ? box->vector : -1;

	if (vector > 0 && box->stop_at_ack)
		box->ops->vcpu_kick(box->vcpu, ENGINE_KICK_EXIT);
	box->vector = 0;
	return vector;
}

static bool on_msr_read(void *ctx, uint32_t index, uint64_t *value)
{
	note(ctx, "rdmsr %x", index);
	*value = 0x123456789;
	return index == 0x200;
}

static bool on_msr_write(void *ctx, uint32_t index, uint64_t value)
{
	note(ctx, "wrmsr %x %llx", index, (unsigned long long)value);
	return index == 0x200;
}

static void on_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, struct engine_cpuid *out)
{
	(void)ctx, (void)subleaf;
	*out = (struct engine_cpuid){ 0 };
	if (leaf == 0)
		*out = (struct engine_cpuid){ 7, 0x756e6547, 0x6c65746e, 0x49656e69 };
	else if (leaf == 1)
		*out = (struct engine_cpuid){ 0x600, 0, 0,
					      1u | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 9 |
						  1u << 15 | 1u << 24 | 1u << 25 | 1u << 26 };
	else if (leaf == 7)
		out->ebx = 1u << 1; /* TSC_ADJUST */
	else if (leaf == 0x80000000)
		out->eax = 0x80000008;
	else if (leaf == 0x80000001)
		out->edx = 1u << 29 | 1u << 20 | 1u << 11;
	else if (leaf == 0x80000008)
		out->eax = 36 | 48 << 8;
}

static uint64_t on_cr8_read(void *ctx)
{
	(void)ctx;
	return 0;
}

static void on_cr8_write(void *ctx, uint64_t value)
{
	(void)ctx, (void)value;
}

static void on_eoi(void *ctx, uint8_t vector)
{
	note(ctx, "eoi %u", vector);
}

static void on_init(void *ctx)
{
	note(ctx, "init");
}

static const struct engine_callbacks callbacks = {
	.pio = on_pio,
	.mmio = on_mmio,
	.interrupt_ack = on_interrupt,
	.msr_read = on_msr_read,
	.msr_write = on_msr_write,
	.cpuid = on_cpuid,
	.cr8_read = on_cr8_read,
	.cr8_write = on_cr8_write,
	.eoi = on_eoi,
	.init = on_init,
};

/* ---- making one ---- */

const char *contract_options_of(const struct engine_ops *ops)
{
	return strcmp(ops->name, "kvm") ? NULL : "slow";
}

void contract_make(struct box *box, const struct engine_ops *ops, uint8_t *memory)
{
	const struct engine_config config = { .vcpus = 1, .options = contract_options_of(ops) };
	struct error err = { "" };

	box->ops = ops;
	box->memory = memory;
	if (ops->vm_create(&box->vm, &config, &err))
		fail_msg("%s: %s", ops->name, err.text);
	assert_int_equal(ops->vm_map(box->vm, 0, memory, -1, MEMORY, 0, &err), 0);
	if (ops->vcpu_create(&box->vcpu, box->vm, 0, &callbacks, box, &err))
		fail_msg("%s: %s", ops->name, err.text);
}

void contract_drop(struct box *box)
{
	box->ops->vcpu_destroy(box->vcpu);
	box->ops->vm_destroy(box->vm);
	box->vm = NULL;
}

uint8_t *contract_new_memory(void)
{
	int fd = memfd_create("contract", MFD_CLOEXEC);

	assert_true(fd >= 0 && !ftruncate(fd, MEMORY));
	uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	close(fd);
	return memory;
}

/* 32-bit protected mode without paging, flat, with an IDT whose gates all lead to `handler`. */
void contract_enter_at(struct engine_cpu_state *s, uint8_t *memory, uint32_t handler)
{
	engine_cpu_state_reset(s);
	for (unsigned i = 0; i <= ENGINE_GS; i++)
		s->seg[i] = (struct engine_segment){ .limit = 0xffffffff, .attr = 0xc093, .selector = 0x10 };
	s->seg[ENGINE_CS].attr = 0xc09b;
	s->seg[ENGINE_CS].selector = 8;
	s->cr0 = 0x11;
	s->rip = CODE;
	s->gpr[4] = STACK;
	s->lapic.base = 0xfee00900;
	s->lapic.reg[0x0f] = 0xff;
	s->lapic.reg[0x0e] = 0xffffffff;
	for (unsigned i = 0x32; i < 0x38; i++)
		s->lapic.reg[i] = 0x10000;
	s->gdtr.base = IDT + 0x1000;
	s->gdtr.limit = 0x17;
	static const uint64_t gdt[3] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
	memcpy(memory + IDT + 0x1000, gdt, sizeof(gdt));
	s->idtr.base = IDT;
	s->idtr.limit = handler ? 0xff : 0;
	for (unsigned i = 0; i < 32; i++) {
		const uint64_t gate = (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (uint64_t)(handler >> 16) << 48;
		memcpy(memory + IDT + 8 * (size_t)i, &gate, sizeof(gate));
	}
}

/* The end of a guest: OUT to port 0xf5 of AL, then a jump to itself; the machine kicks. */
struct kicker {
	struct box *box;
	pthread_t thread;
	unsigned us, what;
};

static void *kick(void *arg)
{
	struct kicker *k = arg;

	usleep(k->us);
	k->box->ops->vcpu_kick(k->box->vcpu, k->what);
	return NULL;
}

/* Runs until something else than HLT; kicked out after so many us. HLT does not come back from engines with local APICs. */
enum engine_exit contract_run_for(struct box *box, unsigned us)
{
	struct kicker k = { .box = box, .us = us, .what = ENGINE_KICK_EXIT };

	pthread_create(&k.thread, NULL, kick, &k);
	box->run.reason[0] = '\0';
	do {
		box->ops->vcpu_run(box->vcpu, &box->run);
		if (box->run.exit == ENGINE_EXIT_HALTED)
			usleep(1000);
	} while (box->run.exit == ENGINE_EXIT_HALTED);
	pthread_join(k.thread, NULL);
	return box->run.exit;
}

void contract_start(struct box *box, const struct engine_ops *ops, const uint8_t *code, size_t size, uint32_t handler)
{
	memset(box, 0, sizeof(*box));
	contract_make(box, ops, contract_new_memory());
	memcpy(box->memory + CODE, code, size);
	contract_enter_at(&box->state, box->memory, handler);
	ops->vcpu_set_state(box->vcpu, &box->state);
}

void contract_end(struct box *box)
{
	contract_drop(box);
	munmap(box->memory, MEMORY);
}

void contract_expect(const struct box *box, const char *const *lines)
{
	unsigned i = 0;

	for (; lines[i]; i++) {
		assert_true(i < box->logged);
		assert_string_equal(box->log[i], lines[i]);
	}
	assert_int_equal(box->logged, i);
}

void contract_each_engine(void (*test)(const struct engine_ops *ops))
{
	unsigned worked = 0;
	char text[256];

	for (unsigned i = 0; engines[i]; i++) {
		if (engines[i]->probe(contract_options_of(engines[i]), text, sizeof(text))) {
			print_message("%s: %s\n", engines[i]->name, text);
			continue;
		}
		worked++;
		test(engines[i]);
	}
	if (!worked)
		skip();
}
