/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "container/config.h"
#include "container/config_testlib.h"

static void parse(struct oci_config *config, const char *text)
{
	struct error err = { "" };

	if (oci_config_parse(config, text, strlen(text), &err))
		fail_msg("%s", err.text);
}

static void every_field_of_the_process(void **state)
{
	struct oci_config c;

	(void)state;
	parse(&c, config_full);
	const struct oci_process *p = &c.process;

	assert_string_equal(c.version, "1.1.0-rc.1");
	assert_true(p->terminal && p->no_new_privileges && p->caps.given);
	assert_int_equal(p->width.value, 80);
	assert_int_equal(p->height.value, 24);
	assert_int_equal(p->user.uid, 1);
	assert_int_equal(p->user.gid, 2);
	assert_int_equal(p->user.umask.value, 022);
	assert_int_equal(p->user.group_count, 2);
	assert_int_equal(p->user.groups[1], 4);
	assert_string_equal(p->args[1], "b");
	assert_null(p->args[2]);
	assert_string_equal(p->env[0], "A=b");
	assert_int_equal(p->caps.bounding, 1);
	assert_int_equal(p->caps.effective, 1 << 5);
	assert_true(p->caps.permitted == (1ull << 39 | 1ull << 5));
	assert_int_equal(p->rlimit_count, 2);
	assert_int_equal(p->rlimits[0].resource, RLIMIT_NOFILE);
	assert_true(p->rlimits[0].hard == RLIM_INFINITY && p->rlimits[0].soft == 1);
	assert_int_equal(p->oom_score_adj.value, -5);
	assert_int_equal(p->scheduler.policy, 2);
	assert_int_equal(p->scheduler.flags, 1);
	assert_int_equal(p->io_class.value, 2);
	assert_int_equal(p->io_priority.value, 3);
	oci_config_fini(&c);
}

static void every_field_of_mounts_and_hooks(void **state)
{
	struct oci_config c;

	(void)state;
	parse(&c, config_full);
	assert_int_equal(c.mount_count, 3);
	const struct oci_mount *m = &c.mounts[1];

	assert_true(m->attributes.set == (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME));
	assert_true(m->attributes.clear == (MOUNT_ATTR_RDONLY | MOUNT_ATTR__ATIME));
	assert_string_equal(m->data[0], "size=1k");
	assert_string_equal(m->data[1], "sync");
	assert_null(m->data[2]);
	assert_true(m->copy_up);
	m = &c.mounts[2];
	assert_int_equal(m->bind, BIND_RECURSIVE);
	assert_int_equal(m->idmap, IDMAP_RECURSIVE);
	assert_true(m->recursive.set == MOUNT_ATTR_RDONLY);
	assert_int_equal(m->propagation_count, 1);
	assert_true(m->propagation[0] == (MS_SLAVE | MS_REC));
	assert_int_equal(m->uids.maps[0].size, 2);
	assert_int_equal(c.hooks[HOOK_PRESTART].count, 1);
	assert_int_equal(c.hooks[HOOK_PRESTART].list[0].timeout.value, 5);
	assert_int_equal(c.hooks[HOOK_CREATE_CONTAINER].count, 0);
	assert_string_equal(c.hooks[HOOK_POSTSTOP].list[0].path, "/l");
	oci_config_fini(&c);
}

static void every_field_of_linux(void **state)
{
	struct oci_config c;

	(void)state;
	parse(&c, config_full);
	for (unsigned i = 0; i < NS_COUNT; i++)
		assert_true(c.namespaces[i].given);
	assert_string_equal(c.namespaces[NS_PID].path, "/proc/1/ns/pid");
	assert_string_equal(c.time_offsets[0], "monotonic -1 2");
	assert_string_equal(c.time_offsets[1], "boottime 3 0");
	assert_int_equal(c.devices[0].mode, 0666);
	assert_int_equal(c.devices[1].type, S_IFIFO);
	const struct oci_resources *r = &c.resources;

	assert_false(r->devices[0].allow);
	assert_int_equal(r->devices[0].type, 'a');
	assert_true(r->devices[1].read && r->devices[1].write && !r->devices[1].mknod);
	assert_int_equal(r->memory.limit.value, 1 << 20);
	assert_true(r->memory.check_before_update);
	assert_int_equal(r->cpu.period.value, 10000);
	assert_int_equal(r->block_io.throttle[WRITE_IOPS].list[0].rate, 300);
	assert_int_equal(r->block_io.weights.list[0].leaf_weight.value, 300);
	assert_string_equal(r->hugepages[0].size, "2MB");
	assert_int_equal(r->net_class.value, 1048577);
	assert_int_equal(r->rdma[0].objects.value, 10);
	assert_string_equal(r->unified[1], "1");
	assert_int_equal(c.seccomp.default_action, SCMP_ACT_ERRNO(1));
	assert_int_equal(c.seccomp.flags, SECCOMP_FILTER_FLAG_LOG);
	/* No real number would hold it. */
	assert_true(c.seccomp.rules[0].args[0].value == 18446744073709551614ull);
	assert_int_equal(c.seccomp.rules[0].args[0].op, SCMP_CMP_MASKED_EQ);
	assert_true(c.propagation == (MS_SLAVE | MS_REC));
	oci_config_fini(&c);
}

/* What whole-program tests do not reach: numbers at the edge of what JSON and 64 bits hold. */
static void numbers_at_the_edge(void **state)
{
	static const struct {
		const char *text;
		int rc;
		uint64_t value;
	} rows[] = {
		{ "0", 0, 0 },
		{ "-1", 0, UINT64_MAX },
		{ "-2", -EINVAL, 0 },
		{ "9223372036854775807", 0, INT64_MAX },
		{ "9223372036854775808", 0, 9223372036854775808ull },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -EINVAL, 0 },
		{ "99999999999999999999", -EINVAL, 0 },
		{ "1.5", -EINVAL, 0 },
		{ "\"1\"", -EINVAL, 0 },
		{ "\"\\\"18446744073709551615\"", -EINVAL, 0 },
	};
	char text[256];

	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct oci_resources r;
		struct arena arena = { 0 };
		struct error err = { "" };

		snprintf(text, sizeof(text),
			 "{\"unified\":{\"a.\\\"\":\"9999999999999999999\"},\"hugepageLimits\":[{\"pageSize\":\"2MB\","
			 "\"limit\":%s}]}",
			 rows[i].text);
		assert_int_equal(oci_resources_parse(&r, &arena, text, strlen(text), &err), rows[i].rc);
		if (!rows[i].rc)
			assert_true(r.hugepages[0].limit == rows[i].value);
		else
			assert_true(err.text[0]);
		arena_fini(&arena);
	}
}

static void errors_name_the_field(void **state)
{
	static const char *const rows[][2] = {
		{ "{\"memory\":{\"limit\":true}}", "memory.limit: must be a number, not a boolean" },
		{ "{\"devices\":[{},{\"allow\":1}]}", "devices[1].allow: must be a boolean, not a number" },
		{ "{\"blockIO\":{\"weightDevice\":[{\"major\":1,\"minor\":2,\"weight\":1001}]}}",
		  "blockIO.weightDevice[0].weight: 1001 is not within 0 and 1000" },
		{ "{\"hugepageLimits\":[{\"pageSize\":\"../x\",\"limit\":1}]}",
		  "hugepageLimits[0].pageSize: \"../x\" is no size like 2MB" },
		{ "{\"unified\":{\"../x.y\":\"1\"}}", "unified.../x.y: is no file of a cgroup, like memory.high" },
		{ "[]", "must be an object, not a list" },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct oci_resources r;
		struct arena arena = { 0 };
		struct error err = { "" };

		assert_int_equal(oci_resources_parse(&r, &arena, rows[i][0], strlen(rows[i][0]), &err), -EINVAL);
		assert_string_equal(err.text, rows[i][1]);
		arena_fini(&arena);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_field_of_the_process), cmocka_unit_test(every_field_of_mounts_and_hooks),
		cmocka_unit_test(every_field_of_linux),       cmocka_unit_test(numbers_at_the_edge),
		cmocka_unit_test(errors_name_the_field),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
