/* SPDX-License-Identifier: Apache-2.0 */
/* The virtqueue against drivers that are right, and against those that are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "virtio/virtio_testlib.h"

struct test {
	struct test_guest g;
	struct virtqueue vq;
	unsigned interrupts;
	const char *why;
};

static void on_interrupt(void *ctx)
{
	((struct test *)ctx)->interrupts++;
}

static void on_broken(void *ctx, const char *why)
{
	((struct test *)ctx)->why = why;
}

static struct virtqueue_setup setup_of(bool event_index)
{
	return (struct virtqueue_setup){
		.size = TEST_QUEUE_SIZE,
		.desc = test_ring_desc(0),
		.avail = test_ring_avail(0),
		.used = test_ring_used(0),
		.event_index = event_index,
		.indirect = true,
	};
}

static void begin(struct test *t, bool event_index)
{
	struct virtqueue_setup setup = setup_of(event_index);

	test_guest_init(&t->g);
	t->vq = (struct virtqueue){ .memory = &t->g.memory, .interrupt = on_interrupt, .broken = on_broken, .ctx = t };
	t->interrupts = 0;
	t->why = NULL;
	assert_true(virtqueue_start(&t->vq, &setup));
}

static void end(struct test *t)
{
	virtqueue_fini(&t->vq);
	test_guest_fini(&t->g);
}

static void test_requests(void **state)
{
	struct test t;
	char buffer[16];
	uint32_t id, len;
	(void)state;
	begin(&t, false);
	assert_null(virtqueue_pop(&t.vq));
	memcpy(t.g.ram + TEST_BUFFERS, "hello", 5);
	memcpy(t.g.ram + TEST_BUFFERS + 0x100, " world", 6);
	uint64_t table = test_ring_desc(0);
	test_desc(&t.g, table, 3, TEST_BUFFERS, 5, TEST_DESC_NEXT, 9);
	test_desc(&t.g, table, 9, TEST_BUFFERS + 0x100, 6, TEST_DESC_NEXT, 1);
	test_desc(&t.g, table, 1, TEST_BUFFERS + 0x200, 4, TEST_DESC_NEXT | TEST_DESC_WRITE, 0);
	test_desc(&t.g, table, 0, TEST_BUFFERS + 0x300, 8, TEST_DESC_WRITE, 7);
	test_avail(&t.g, 0, 3);
	struct virtqueue_chain *chain = virtqueue_pop(&t.vq);
	assert_non_null(chain);
	assert_int_equal(chain->outs, 2);
	assert_int_equal(chain->ins, 2);
	assert_int_equal(chain->out_size, 11);
	assert_int_equal(chain->in_size, 12);
	assert_int_equal(virtqueue_chain_read(chain, 3, buffer, sizeof(buffer)), 8);
	assert_memory_equal(buffer, "lo world", 8);
	assert_int_equal(virtqueue_chain_write(chain, 2, "abcdef", 6), 6);
	assert_memory_equal(t.g.ram + TEST_BUFFERS + 0x202, "ab", 2);
	assert_memory_equal(t.g.ram + TEST_BUFFERS + 0x300, "cdef", 4);
	assert_int_equal(virtqueue_chain_write(chain, 11, "xy", 2), 1);
	assert_int_equal(virtqueue_chain_read(chain, 11, buffer, 1), 0);
	unsigned writes = t.g.writes;
	virtqueue_push(&t.vq, chain, 8);
	assert_int_equal(t.g.writes - writes, 4); /* two buffers, the element, the index */
	assert_true(test_used(&t.g, 0, &id, &len));
	assert_int_equal(id, 3);
	assert_int_equal(len, 8);
	assert_false(test_used(&t.g, 0, &id, &len));
	virtqueue_interrupt(&t.vq);
	virtqueue_interrupt(&t.vq);
	assert_int_equal(t.interrupts, 1);
	end(&t);
}

static void test_many_out_of_order(void **state)
{
	struct test t;
	uint32_t id;
	(void)state;
	begin(&t, true);
	for (unsigned i = 0; i < TEST_QUEUE_SIZE; i++)
		test_desc(&t.g, test_ring_desc(0), i, TEST_BUFFERS, 16, TEST_DESC_WRITE, 0);
	for (unsigned round = 0; round < 70000 / TEST_QUEUE_SIZE; round++) { /* past the indices' end */
		struct virtqueue_chain *chain[TEST_QUEUE_SIZE];
		for (unsigned i = 0; i < TEST_QUEUE_SIZE; i++)
			test_avail(&t.g, 0, i);
		for (unsigned i = 0; i < TEST_QUEUE_SIZE; i++)
			assert_non_null(chain[i] = virtqueue_pop(&t.vq));
		assert_null(virtqueue_pop(&t.vq));
		for (unsigned i = TEST_QUEUE_SIZE; i--;)
			virtqueue_push(&t.vq, chain[i], 0);
		for (unsigned i = TEST_QUEUE_SIZE; i--;) {
			assert_true(test_used(&t.g, 0, &id, NULL));
			assert_int_equal(id, i);
		}
	}
	assert_null(t.why);
	end(&t);
}

/* A driver that looks at any moment sees none of what is pushed together, or all. */
static void test_push_all(void **state)
{
	struct test t;
	struct virtqueue_chain *chain[TEST_QUEUE_SIZE];
	size_t written[TEST_QUEUE_SIZE];
	uint32_t id, len;
	(void)state;
	begin(&t, false);
	for (unsigned round = 0; round < 5; round++) { /* the ring wraps */
		uint16_t head[7];
		for (unsigned i = 0; i < 7; i++) {
			head[i] = test_send(&t.g, 0, 0, 0, TEST_BUFFERS + i * 16, 16);
			chain[i] = virtqueue_pop(&t.vq);
			assert_non_null(chain[i]);
			written[i] = i + 1;
		}
		virtqueue_push_all(&t.vq, chain, written, 7);
		for (unsigned i = 0; i < 7; i++) {
			assert_true(test_used(&t.g, 0, &id, &len));
			assert_int_equal(id, head[i]);
			assert_int_equal(len, i + 1);
		}
		assert_false(test_used(&t.g, 0, &id, &len));
	}
	virtqueue_push_all(&t.vq, chain, written, 0);
	assert_false(test_used(&t.g, 0, &id, &len));
	end(&t);
}

static void test_unpop(void **state)
{
	struct test t;
	(void)state;
	begin(&t, false);
	test_desc(&t.g, test_ring_desc(0), 0, TEST_BUFFERS, 16, TEST_DESC_WRITE, 0);
	test_avail(&t.g, 0, 0);
	struct virtqueue_chain *chain = virtqueue_pop(&t.vq);
	virtqueue_unpop(&t.vq, chain);
	assert_true(virtqueue_has_more(&t.vq));
	chain = virtqueue_pop(&t.vq);
	assert_non_null(chain);
	assert_int_equal(chain->in_size, 16);
	virtqueue_drop(&t.vq, chain);
	end(&t);
}

static void test_indirect(void **state)
{
	struct test t;
	(void)state;
	begin(&t, false);
	uint64_t table = TEST_BUFFERS + 0x1008; /* no alignment is asked of it */
	for (unsigned i = 0; i < 40; i++)       /* longer than the ring */
		test_desc(&t.g, table, i, TEST_BUFFERS, 10, i < 39 ? TEST_DESC_NEXT : 0, (uint16_t)(i + 1));
	test_desc(&t.g, test_ring_desc(0), 0, TEST_BUFFERS, 3, TEST_DESC_NEXT, 1);
	test_desc(&t.g, test_ring_desc(0), 1, table, 40 * 16, TEST_DESC_INDIRECT, 0);
	test_avail(&t.g, 0, 0);
	struct virtqueue_chain *chain = virtqueue_pop(&t.vq);
	assert_non_null(chain);
	assert_int_equal(chain->outs, 41);
	assert_int_equal(chain->out_size, 403);
	virtqueue_drop(&t.vq, chain);
	end(&t);
}

/* ---- notifications ---- */

static void push_one(struct test *t)
{
	test_desc(&t->g, test_ring_desc(0), 0, TEST_BUFFERS, 16, TEST_DESC_WRITE, 0);
	test_avail(&t->g, 0, 0);
	struct virtqueue_chain *chain = virtqueue_pop(&t->vq);
	assert_non_null(chain);
	virtqueue_push(&t->vq, chain, 0);
}

static void test_interrupt_flag(void **state)
{
	struct test t;
	(void)state;
	begin(&t, false);
	t.g.ram[test_ring_avail(0)] = 1;
	push_one(&t);
	virtqueue_interrupt(&t.vq);
	assert_int_equal(t.interrupts, 0);
	t.g.ram[test_ring_avail(0)] = 0;
	virtqueue_interrupt(&t.vq); /* nothing new */
	assert_int_equal(t.interrupts, 0);
	push_one(&t);
	virtqueue_interrupt(&t.vq);
	assert_int_equal(t.interrupts, 1);
	end(&t);
}

static void test_interrupt_event_index(void **state)
{
	struct test t;
	(void)state;
	begin(&t, true);
	uint8_t *used_event = t.g.ram + test_ring_avail(0) + 4 + TEST_QUEUE_SIZE * 2;
	bytes_put_le16(used_event, 2);
	push_one(&t);
	virtqueue_interrupt(&t.vq);
	push_one(&t);
	virtqueue_interrupt(&t.vq);
	assert_int_equal(t.interrupts, 0);
	push_one(&t); /* the third is number 2 */
	virtqueue_interrupt(&t.vq);
	assert_int_equal(t.interrupts, 1);
	push_one(&t);
	virtqueue_interrupt(&t.vq);
	assert_int_equal(t.interrupts, 1);
	bytes_put_le16(used_event, 5);
	push_one(&t);
	push_one(&t);
	push_one(&t);
	virtqueue_interrupt(&t.vq);
	assert_int_equal(t.interrupts, 2);
	end(&t);
}

static void test_kicks(void **state)
{
	for (unsigned event_index = 0; event_index < 2; event_index++) {
		struct test t;
		(void)state;
		begin(&t, event_index);
		const uint8_t *used = t.g.ram + test_ring_used(0);
		virtqueue_kicks_off(&t.vq);
		assert_int_equal(bytes_le16(used), event_index ? 0 : 1);
		push_one(&t);
		push_one(&t);
		assert_true(virtqueue_kicks_on(&t.vq));
		assert_int_equal(bytes_le16(used), 0);
		assert_int_equal(bytes_le16(used + 4 + TEST_QUEUE_SIZE * 8), event_index ? 2 : 0);
		test_avail(&t.g, 0, 0);
		assert_false(virtqueue_kicks_on(&t.vq));
		end(&t);
	}
}

/* ---- hostile rings ---- */

static void test_wrong_rings(void **state)
{
	static const struct virtqueue_setup wrong[] = {
		{ .size = 0, .desc = 0x1000, .avail = 0x2000, .used = 0x3000 },
		{ .size = 3, .desc = 0x1000, .avail = 0x2000, .used = 0x3000 },
		{ .size = 2048, .desc = 0x10000, .avail = 0x20000, .used = 0x30000 },
		{ .size = 16, .desc = 0x1008, .avail = 0x2000, .used = 0x3000 },
		{ .size = 16, .desc = 0x1000, .avail = 0x2001, .used = 0x3000 },
		{ .size = 16, .desc = 0x1000, .avail = 0x2000, .used = 0x3002 },
		{ .size = 16, .desc = TEST_MEMORY - 0xf0, .avail = 0x2000, .used = 0x3000 },
		{ .size = 16, .desc = 0x1000, .avail = TEST_MEMORY - 36, .used = 0x3000 },
		{ .size = 16, .desc = 0x1000, .avail = 0x2000, .used = TEST_MEMORY - 132 },
		{ .size = 16, .desc = ~0xfull, .avail = 0x2000, .used = 0x3000 },
		{ .size = 16, .desc = 0x1000, .avail = 0x2000, .used = UINT64_MAX - 3 },
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct test t;
		begin(&t, false);
		assert_false(virtqueue_start(&t.vq, &wrong[i]));
		assert_non_null(t.why);
		assert_null(virtqueue_pop(&t.vq));
		virtqueue_interrupt(&t.vq);
		virtqueue_kicks_off(&t.vq);
		assert_true(virtqueue_kicks_on(&t.vq));
		end(&t);
	}
}

struct wrong_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static void test_wrong_descriptors(void **state)
{
	/* Descriptors 0 and 1; a chain begins at 0. */
	static const struct wrong_desc wrong[][2] = {
		{ { TEST_BUFFERS, 16, TEST_DESC_NEXT, 0 } }, /* itself */
		{ { TEST_BUFFERS, 16, TEST_DESC_NEXT, 1 }, { TEST_BUFFERS, 16, TEST_DESC_NEXT, 0 } },
		{ { TEST_BUFFERS, 16, TEST_DESC_NEXT, TEST_QUEUE_SIZE } }, /* out of range */
		{ { TEST_BUFFERS, 16, TEST_DESC_NEXT, 0xffff } },
		{ { TEST_BUFFERS, 0, 0, 0 } }, /* empty */
		{ { TEST_MEMORY, 1, 0, 0 } },  /* no memory */
		{ { TEST_MEMORY - 1, 2, 0, 0 } },
		{ { UINT64_MAX, 1, 0, 0 } },
		{ { UINT64_MAX - 7, 16, 0, 0 } }, /* wraps */
		{ { TEST_BUFFERS, UINT32_MAX, 0, 0 } },
		{ { TEST_BUFFERS, 8, TEST_DESC_NEXT | TEST_DESC_WRITE, 1 }, { TEST_BUFFERS, 8, 0, 0 } },
		{ { TEST_BUFFERS, 16, TEST_DESC_INDIRECT | TEST_DESC_NEXT, 1 } },
		{ { TEST_BUFFERS, 15, TEST_DESC_INDIRECT, 0 } },
		{ { TEST_BUFFERS, 0, TEST_DESC_INDIRECT, 0 } },
		{ { TEST_BUFFERS, 16 * 1025, TEST_DESC_INDIRECT, 0 } },
		{ { TEST_MEMORY - 8, 16, TEST_DESC_INDIRECT, 0 } },
		{ { 0, 32, TEST_DESC_INDIRECT, 0 } }, /* see below */
		{ { 0x100, 32, TEST_DESC_INDIRECT, 0 } },
		{ { 0x200, 32, TEST_DESC_INDIRECT, 0 } },
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct test t;
		begin(&t, false);
		for (unsigned j = 0; j < 2; j++)
			test_desc(&t.g, test_ring_desc(0), j, wrong[i][j].addr, wrong[i][j].len, wrong[i][j].flags,
				  wrong[i][j].next);
		test_desc(&t.g, 0, 0, TEST_BUFFERS, 16, TEST_DESC_INDIRECT, 0); /* indirect in indirect */
		test_desc(&t.g, 0x100, 0, TEST_BUFFERS, 16, TEST_DESC_NEXT, 0); /* a loop in an indirect table */
		test_desc(&t.g, 0x200, 0, TEST_BUFFERS, 16, TEST_DESC_NEXT, 2); /* out of it */
		test_avail(&t.g, 0, 0);
		assert_null(virtqueue_pop(&t.vq));
		assert_non_null(t.why);
		/* Broken for good, until it is started anew. */
		test_desc(&t.g, test_ring_desc(0), 0, TEST_BUFFERS, 16, 0, 0);
		assert_null(virtqueue_pop(&t.vq));
		struct virtqueue_setup setup = setup_of(false);
		assert_true(virtqueue_start(&t.vq, &setup));
		struct virtqueue_chain *chain = virtqueue_pop(&t.vq);
		assert_non_null(chain);
		virtqueue_drop(&t.vq, chain);
		end(&t);
	}
}

static void test_wrong_indices(void **state)
{
	struct test t;
	(void)state;
	begin(&t, false);
	test_avail(&t.g, 0, TEST_QUEUE_SIZE);
	assert_null(virtqueue_pop(&t.vq));
	assert_string_equal(t.why, "a descriptor's index is out of range");
	end(&t);

	begin(&t, false);
	bytes_put_le16(t.g.ram + test_ring_avail(0) + 2, TEST_QUEUE_SIZE + 1);
	assert_null(virtqueue_pop(&t.vq));
	assert_non_null(t.why);
	end(&t);

	/* The same request over and over, none completed. */
	begin(&t, false);
	struct virtqueue_chain *chain[TEST_QUEUE_SIZE];
	test_desc(&t.g, test_ring_desc(0), 0, TEST_BUFFERS, 16, 0, 0);
	for (unsigned i = 0; i < TEST_QUEUE_SIZE; i++) {
		test_avail(&t.g, 0, 0);
		assert_non_null(chain[i] = virtqueue_pop(&t.vq));
	}
	test_avail(&t.g, 0, 0);
	assert_null(virtqueue_pop(&t.vq));
	assert_non_null(t.why);
	for (unsigned i = 0; i < TEST_QUEUE_SIZE; i++)
		virtqueue_push(&t.vq, chain[i], 0); /* of no effect, and no harm */
	assert_int_equal(test_used_index(&t.g, 0), 0);
	end(&t);
}

static void test_indirect_not_negotiated(void **state)
{
	struct test t;
	struct virtqueue_setup setup = setup_of(false);
	(void)state;
	begin(&t, false);
	setup.indirect = false;
	assert_true(virtqueue_start(&t.vq, &setup));
	test_desc(&t.g, TEST_BUFFERS, 0, TEST_BUFFERS, 16, 0, 0);
	test_desc(&t.g, test_ring_desc(0), 0, TEST_BUFFERS, 16, TEST_DESC_INDIRECT, 0);
	test_avail(&t.g, 0, 0);
	assert_null(virtqueue_pop(&t.vq));
	assert_non_null(t.why);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_many_out_of_order),
		cmocka_unit_test(test_unpop),
		cmocka_unit_test(test_push_all),
		cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_interrupt_flag),
		cmocka_unit_test(test_interrupt_event_index),
		cmocka_unit_test(test_kicks),
		cmocka_unit_test(test_wrong_rings),
		cmocka_unit_test(test_wrong_descriptors),
		cmocka_unit_test(test_wrong_indices),
		cmocka_unit_test(test_indirect_not_negotiated),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
