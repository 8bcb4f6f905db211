/* SPDX-License-Identifier: Apache-2.0 */
/* The dirty log of each engine: which pages, and that nothing written is missed. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/contract_testlib.h"

static void dirty(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0xa2, 0x00, 0x00, 0x01, 0x00, /* mov [0x10000], al */
		0xa0, 0x00, 0x00, 0x02, 0x00, /* mov al, [0x20000]: a load */
		0xa3, 0xfe, 0x3f, 0x03, 0x00, /* mov [0x33ffe], eax: two pages */
		0xeb, 0xfe,
	};
	uint64_t bitmap[MEMORY / 4096 / 64], want[MEMORY / 4096 / 64] = { 0 };
	struct box *box = calloc(1, sizeof(*box));

	contract_start(box, ops, code, sizeof(code), 0);
	assert_int_equal(ops->vm_dirty_log(box->vm, true), 0);
	for (unsigned round = 0; round < 2; round++) {
		box->state.rip = CODE;
		ops->vcpu_set_state(box->vcpu, &box->state);
		assert_int_equal(contract_run_for(box, 50000), ENGINE_EXIT_KICKED);
		assert_int_equal(ops->vm_dirty_take(box->vm, 0, bitmap), 0);
		want[0] = 1ull << 0x10 | 1ull << 0x33 | 1ull << 0x34;
		assert_memory_equal(bitmap, want, sizeof(want));
		assert_int_equal(ops->vm_dirty_take(box->vm, 0, bitmap), 0);
		want[0] = 0;
		assert_memory_equal(bitmap, want, sizeof(want));
	}
	assert_int_equal(ops->vm_dirty_take(box->vm, 0x123000, bitmap), -ENOENT);
	assert_int_equal(ops->vm_dirty_log(box->vm, false), 0);
	contract_end(box);
	free(box);
}

static void *run_until_kicked(void *arg)
{
	struct box *box = arg;

	box->ops->vcpu_run(box->vcpu, &box->run);
	return NULL;
}

static unsigned copy_dirty(const struct box *box, uint8_t *replica)
{
	uint64_t bitmap[MEMORY / 4096 / 64];
	unsigned pages = 0;

	assert_int_equal(box->ops->vm_dirty_take(box->vm, 0, bitmap), 0);
	for (size_t page = 0; page < MEMORY / 4096; page++)
		if (bitmap[page / 64] >> page % 64 & 1) {
			memcpy(replica + page * 4096, box->memory + page * 4096, 4096);
			pages++;
		}
	return pages;
}

/* Pages that are copied when the log names them are in the end what the guest's memory is, though it wrote all the time. */
static void replica(const struct engine_ops *ops)
{
	static const uint8_t code[] = {
		0x41, 0x89, 0xc8,                   /* 1: inc ecx; mov eax, ecx */
		0x69, 0xc0, 0xb1, 0x79, 0x37, 0x9e, /* imul eax, eax, 0x9e3779b1 */
		0x25, 0xfc, 0xff, 0x03, 0x00,       /* and eax, 0x3fffc */
		0x89, 0x88, 0x00, 0x00, 0x04, 0x00, /* mov [eax + 0x40000], ecx */
		0xeb, 0xea,                         /* jmp 1b */
	};
	enum { ROUNDS = 100 };
	struct box *box = calloc(1, sizeof(*box));
	uint8_t *copy = malloc(MEMORY);
	pthread_t thread;
	unsigned pages = 0;

	contract_start(box, ops, code, sizeof(code), 0);
	pthread_create(&thread, NULL, run_until_kicked, box);
	usleep(5000);
	assert_int_equal(ops->vm_dirty_log(box->vm, true), 0);
	memcpy(copy, box->memory, MEMORY);
	for (unsigned i = 0; i < ROUNDS; i++) {
		usleep(300 * (i % 4));
		pages += copy_dirty(box, copy);
	}
	ops->vcpu_kick(box->vcpu, ENGINE_KICK_EXIT);
	pthread_join(thread, NULL);
	assert_int_equal(box->run.exit, ENGINE_EXIT_KICKED);
	pages += copy_dirty(box, copy);
	assert_true(pages > 0);
	assert_memory_equal(copy, box->memory, MEMORY);
	assert_int_equal(copy_dirty(box, copy), 0);
	/* Without a log, none. */
	assert_int_equal(ops->vm_dirty_log(box->vm, false), 0);
	assert_int_equal(ops->vm_dirty_take(box->vm, 0, (uint64_t[MEMORY / 4096 / 64]){ 0 }), -ENOENT);
	free(copy);
	contract_end(box);
	free(box);
}

ON_EACH(dirty)
ON_EACH(replica)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_replica),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
