/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "container/cgroup_devices.h"

/* An interpreter of the instructions that the program uses, so that rules are tested without a cgroup and the right to load. */
static bool run(const struct bpf_insn *code, size_t count, uint32_t type, uint32_t access, uint32_t major,
		uint32_t minor)
{
	const uint32_t context[] = { access << 16 | type, major, minor };
	uint64_t r[11] = { 0 };

	for (size_t at = 0; at < count; at++) {
		const struct bpf_insn *i = &code[at];
		bool taken = false;

		switch (i->code) {
		case BPF_LDX | BPF_MEM | BPF_W:
			r[i->dst_reg] = context[i->off / 4];
			break;
		case BPF_ALU64 | BPF_MOV | BPF_X:
			r[i->dst_reg] = r[i->src_reg];
			break;
		case BPF_ALU64 | BPF_MOV | BPF_K:
			r[i->dst_reg] = (uint64_t)(int64_t)i->imm;
			break;
		case BPF_ALU64 | BPF_AND | BPF_K:
			r[i->dst_reg] &= (uint64_t)(int64_t)i->imm;
			break;
		case BPF_ALU64 | BPF_RSH | BPF_K:
			r[i->dst_reg] >>= i->imm;
			break;
		case BPF_JMP | BPF_JNE | BPF_K:
			taken = r[i->dst_reg] != (uint64_t)(int64_t)i->imm;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			taken = r[i->dst_reg] == (uint64_t)(int64_t)i->imm;
			break;
		case BPF_JMP32 | BPF_JNE | BPF_K:
			taken = (uint32_t)r[i->dst_reg] != (uint32_t)i->imm;
			break;
		case BPF_JMP | BPF_EXIT:
			return r[0];
		default:
			fail_msg("instruction %zu has an unknown code %#x", at, i->code);
		}
		if (taken)
			at += (size_t)i->off;
	}
	fail_msg("the program ran off its end");
	return false;
}

enum {
	READ = BPF_DEVCG_ACC_READ,
	WRITE = BPF_DEVCG_ACC_WRITE,
	MKNOD = BPF_DEVCG_ACC_MKNOD,
	CHAR = BPF_DEVCG_DEV_CHAR,
	BLOCK = BPF_DEVCG_DEV_BLOCK
};

static const struct oci_device_rule rules[] = {
	{ false, 'a', -1, -1, true, true, true },       { true, 'c', 10, 229, true, true, false },
	{ true, 'b', 8, -1, true, false, false },       { false, 'b', 8, 3, true, false, false },
	{ true, 'c', 4000000000, 7, true, true, true },
};

static void rules_decide(void **state)
{
	static const struct {
		uint32_t type, access, major, minor;
		bool allowed;
	} rows[] = {
		{ CHAR, READ, 10, 229, true },        { CHAR, READ | WRITE, 10, 229, true },
		{ CHAR, READ, 10, 228, false },       { CHAR, MKNOD, 10, 228, true },
		{ BLOCK, MKNOD, 8, 0, true },         { BLOCK, READ, 8, 1, true },
		{ BLOCK, WRITE, 8, 1, false },        { BLOCK, READ | WRITE, 8, 1, false },
		{ BLOCK, READ, 8, 3, false },         { CHAR, READ, 8, 1, false },
		{ CHAR, READ | WRITE, 1, 3, true },   { CHAR, READ | WRITE, 136, 77, true },
		{ CHAR, WRITE, 1, 1, false },         { CHAR, READ, 4000000000, 7, true },
		{ CHAR, READ, 4000000000, 8, false }, { CHAR, READ | MKNOD, 10, 229, false },
	};
	struct bpf_insn code[CGROUP_DEVICE_CODE];
	size_t count = cgroup_device_program(rules, sizeof(rules) / sizeof(*rules), code);

	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		if (run(code, count, rows[i].type, rows[i].access, rows[i].major, rows[i].minor) != rows[i].allowed)
			fail_msg("row %u", i);
}

static void without_rules_all_is_allowed(void **state)
{
	struct bpf_insn code[CGROUP_DEVICE_CODE];
	size_t count = cgroup_device_program(NULL, 0, code);

	(void)state;
	assert_true(run(code, count, BLOCK, READ | WRITE, 8, 0));
}

static void the_kernel_takes_it(void **state)
{
	static struct oci_device_rule many[CGROUP_DEVICE_RULES];
	struct bpf_insn code[CGROUP_DEVICE_CODE];

	(void)state;
	for (unsigned i = 0; i < CGROUP_DEVICE_RULES; i++)
		many[i] = (struct oci_device_rule){
			i % 2, "bc"[i % 2], i % 5 ? (int64_t)i : -1, i % 3 ? (int64_t)i : -1, i % 7, true, i % 4
		};
	size_t count = cgroup_device_program(many, CGROUP_DEVICE_RULES, code);

	assert_true(count <= CGROUP_DEVICE_CODE);
	int fd = cgroup_device_load(code, count);

	if (fd == -EPERM || fd == -ENOSYS)
		skip(); /* needs CAP_BPF */
	assert_true(fd >= 0);
	close(fd);
	fd = cgroup_device_load(code, cgroup_device_program(rules, sizeof(rules) / sizeof(*rules), code));
	assert_true(fd >= 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules_decide),
		cmocka_unit_test(without_rules_all_is_allowed),
		cmocka_unit_test(the_kernel_takes_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
