/* SPDX-License-Identifier: Apache-2.0 */
/* contract_testlib.h - a machine of one CPU and little else on any engine, for the tests of the contract. */
#ifndef PLURES_ENGINE_CONTRACT_TESTLIB_H
#define PLURES_ENGINE_CONTRACT_TESTLIB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"

enum { MEMORY = 1 << 20, CODE = 0x1000, STACK = 0x8000, DATA = 0x9000, IDT = 0xa000, MMIO = 0x200000 };
enum { LOG_MAX = 64 };

/* What a guest did, in words. */
struct box {
	const struct engine_ops *ops;
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	uint8_t *memory;
	char log[LOG_MAX][64];
	unsigned logged;
	int vector;       /* of an interrupt that waits to be acknowledged, or 0 */
	bool stop_at_ack; /* then, kicks the CPU out */
	struct engine_cpu_state state;
	struct engine_run run;
};

/* The engine's options that make it run here, if it can at all. */
const char *contract_options_of(const struct engine_ops *ops);
/* Calls the test for each engine that works here; skips when none does. */
void contract_each_engine(void (*test)(const struct engine_ops *ops));

/* Memory, which the caller unmaps; 32-bit protected mode without paging, flat, with an IDT whose gates all lead to
 * `handler`, or with none. */
uint8_t *contract_new_memory(void);
void contract_enter_at(struct engine_cpu_state *s, uint8_t *memory, uint32_t handler);

/* A machine around memory, and its end. */
void contract_make(struct box *box, const struct engine_ops *ops, uint8_t *memory);
void contract_drop(struct box *box);
/* The same with memory of its own, that code at CODE, and the state to run it. */
void contract_start(struct box *box, const struct engine_ops *ops, const uint8_t *code, size_t size, uint32_t handler);
void contract_end(struct box *box);

/* Runs until something else than HLT; kicked out after so many us. */
enum engine_exit contract_run_for(struct box *box, unsigned us);
/* The log is these lines, ended by NULL. */
void contract_expect(const struct box *box, const char *const *lines);

#define ON_EACH(name)                         \
	static void test_##name(void **state) \
	{                                     \
		(void)state;                  \
		contract_each_engine(name);   \
	}

#endif
