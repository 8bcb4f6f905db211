/* SPDX-License-Identifier: Apache-2.0 */
/* Users, ranges, binds, and the configuration that a command line becomes. What the root folder's files say is hostile. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "container/box_private.h"

static void test_ranges(void **state)
{
	static const char text[] =
	    "# comment\nother:1:2\nme:100000:65536\n1000:200000:10\n7:x:y\n8:5\n9:4294967295:9\n";
	uint32_t first = 0, count = 0;

	(void)state;
	assert_true(box_find_range(text, "me", 55, &first, &count));
	assert_int_equal(first, 100000);
	assert_int_equal(count, 65536);
	assert_true(box_find_range(text, NULL, 1000, &first, &count));
	assert_int_equal(first, 200000);
	assert_int_equal(count, 10);
	assert_false(box_find_range(text, "nobody", 55, &first, &count));
	assert_false(box_find_range(text, NULL, 7, &first, &count));
	assert_false(box_find_range(text, NULL, 8, &first, &count));
	/* Beyond the last number. */
	assert_false(box_find_range(text, NULL, 9, &first, &count));
	assert_false(box_find_range("", "me", 1, &first, &count));
	assert_false(box_find_range("me:1:2", "m", 3, &first, &count));
}

static void test_ids_have_numbers_outside(void **state)
{
	static const struct oci_map maps[] = { { 0, 1000, 1 }, { 1, 100000, 65536 } };

	(void)state;
	assert_true(box_has_id(maps, 2, 0));
	assert_true(box_has_id(maps, 2, 65536));
	assert_false(box_has_id(maps, 2, 65537));
	assert_false(box_has_id(maps, 1, 1));
	assert_false(box_has_id(maps, 0, 0));
}

static const char passwd[] =
    "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n"
    "bad:x:many:0::/:\nshort:x:5\n12:x:13:14::/twelve:\nnohome:x:20:21:::\nrelative:x:22:23::tmp:\n";
static const char group[] = "root:x:0:\nstaff:x:50:root,user\nusers:x:100:user\nnot:x:101:user2,us\nbad:x::user\n";

static int identify(const char *user, struct box_identity *who, struct error *err)
{
	return box_identify_in(passwd, group, user, who, err);
}

static void test_users(void **state)
{
	struct error err = { "" };
	struct box_identity who;

	(void)state;
	assert_int_equal(identify("user", &who, &err), 0);
	assert_int_equal(who.uid, 1000);
	assert_int_equal(who.gid, 1001);
	assert_string_equal(who.home, "/home/user");
	assert_int_equal(who.group_count, 2);
	assert_int_equal(who.groups[0], 50);
	assert_int_equal(who.groups[1], 100);
	/* By number: with what its line says, or without a line. */
	assert_int_equal(identify("1000", &who, &err), 0);
	assert_int_equal(who.gid, 1001);
	assert_int_equal(identify("4321", &who, &err), 0);
	assert_int_equal(who.uid, 4321);
	assert_int_equal(who.gid, 0);
	assert_int_equal(who.group_count, 0);
	/* A name of digits is a name first. */
	assert_int_equal(identify("12", &who, &err), 0);
	assert_int_equal(who.uid, 13);
	/* A group given is the only one. */
	assert_int_equal(identify("user:staff", &who, &err), 0);
	assert_int_equal(who.gid, 50);
	assert_int_equal(who.group_count, 0);
	assert_int_equal(identify("0:77", &who, &err), 0);
	assert_int_equal(who.gid, 77);
	assert_int_equal(identify("nohome", &who, &err), 0);
	assert_string_equal(who.home, "");
	assert_int_equal(identify("relative", &who, &err), 0);
	assert_string_equal(who.home, "");
}

static void test_users_that_are_none(void **state)
{
	static const char *const wrong[] = { "",   ":",           "nobody", "use",       "bad",
					     "-1", "99999999999", "user:",  "user:none", "0x10" };
	struct error err = { "" };
	struct box_identity who;

	(void)state;
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		err.text[0] = 0;
		if (identify(wrong[i], &who, &err) != -EINVAL)
			fail_msg("\"%s\" is taken", wrong[i]);
		assert_non_null(strstr(err.text, "--user"));
	}
	/* Files that are not there. */
	assert_int_equal(box_identify_in(NULL, NULL, "1000:5", &who, &err), 0);
	assert_int_equal(who.gid, 5);
	assert_int_equal(box_identify_in(NULL, NULL, "user", &who, &err), -EINVAL);
	/* More groups than there is room for, lines without an end. */
	char *many = calloc(200, 16);

	assert_non_null(many);
	for (unsigned i = 0; i < 100; i++)
		strcat(many, "g:x:9:user\n");
	assert_int_equal(box_identify_in("user:x:1:1::/", many, "user", &who, &err), 0);
	assert_int_equal(who.group_count, sizeof(who.groups) / sizeof(*who.groups));
	free(many);
}

static void test_binds(void **state)
{
	static const char *const wrong[] = { "", ":", "a", "a:", ":/b", "a:b", "/a:/b:", "/a:/b:rx", "/a:/b:ro:x" };
	struct error err = { "" };
	struct box_bind bind;

	(void)state;
	assert_int_equal(box_parse_bind("/a b:/c", &bind, &err), 0);
	assert_string_equal(bind.source, "/a b");
	assert_string_equal(bind.destination, "/c");
	assert_false(bind.read_only);
	assert_int_equal(box_parse_bind("a:/c:ro", &bind, &err), 0);
	assert_true(bind.read_only);
	assert_int_equal(box_parse_bind("a:/c:rw", &bind, &err), 0);
	assert_false(bind.read_only);
	/* Without a destination it is the same place. */
	assert_int_equal(box_parse_bind("/a", &bind, &err), 0);
	assert_string_equal(bind.destination, "/a");
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		assert_int_equal(box_parse_bind(wrong[i], &bind, &err), -EINVAL);
}

/* What is made is what the runtime takes, and says what was asked for. */
static void test_the_configuration_is_one(void **state)
{
	static const char *const args[] = { "sh", "-c", "echo \"\\x\"", NULL };
	struct box box = { .rootfs = "/",
			   .args = args,
			   .memory = 64 << 20,
			   .cpu_quota = 50000,
			   .pids = 7,
			   .terminal = true,
			   .cap_drop = { { "all" }, 1 },
			   .cap_add = { { "chown", "CAP_KILL" }, 2 },
			   .env = { { "A=1" }, 1 },
			   .binds = { { "/:/host:ro" }, 1 } };
	struct box_ids ids = { .given = true,
			       .idmap = true,
			       .uids = { { 0, 524288, 65536 } },
			       .gids = { { 0, 524288, 65536 } },
			       .uid_count = 1,
			       .gid_count = 1 };
	struct box_identity who = { .uid = 3, .gid = 4, .groups = { 5 }, .group_count = 1 };
	struct box_plan plan = { .box = &box,
				 .rootfs = "/",
				 .hostname = "name",
				 .ids = &ids,
				 .identity = &who,
				 .terminal = true,
				 .cgroups = true };
	struct error err = { "" };
	struct oci_config config;
	char *text = box_config(&plan, &err);

	(void)state;
	assert_non_null(text);
	assert_int_equal(oci_config_parse(&config, text, strlen(text), &err), 0);
	free(text);
	assert_string_equal(config.process.args[2], "echo \"\\x\"");
	assert_int_equal(config.process.caps.effective, 1 << 0 | 1 << 5);
	assert_int_equal(config.process.user.uid, 3);
	assert_int_equal(config.process.user.group_count, 1);
	assert_true(config.process.terminal);
	assert_int_equal(config.resources.memory.limit.value, 64 << 20);
	assert_int_equal(config.resources.cpu.quota.value, 50000);
	assert_int_equal(config.resources.pids.value, 7);
	assert_true(config.namespaces[NS_NET].given && config.namespaces[NS_USER].given &&
		    config.namespaces[NS_PID].given);
	assert_int_equal(config.uids.maps[0].host, 524288);
	assert_true(config.seccomp.given);
	const struct oci_mount *last = &config.mounts[config.mount_count - 1];

	assert_string_equal(last->destination, "/host");
	assert_int_equal(last->bind, BIND_ONE);
	assert_int_equal(last->idmap, IDMAP_ONE);
	oci_config_fini(&config);

	box.net = BOX_NET_HOST;
	box.no_seccomp = true;
	ids.given = ids.idmap = false;
	text = box_config(&plan, &err);
	assert_non_null(text);
	assert_int_equal(oci_config_parse(&config, text, strlen(text), &err), 0);
	free(text);
	assert_false(config.namespaces[NS_NET].given || config.namespaces[NS_USER].given || config.seccomp.given);
	assert_int_equal(config.mounts[config.mount_count - 1].idmap, IDMAP_NONE);
	oci_config_fini(&config);
}

static void test_what_is_no_text_is_refused(void **state)
{
	static const char *const args[] = { "\xff\xfe", NULL };
	struct box box = { .rootfs = "/", .args = args };
	struct box_ids ids = { 0 };
	struct box_identity who = { 0 };
	struct box_plan plan = { .box = &box, .rootfs = "/", .hostname = "name", .ids = &ids, .identity = &who };
	static const char *const fine[] = { "true", NULL };
	struct error err = { "" };

	(void)state;
	assert_null(box_config(&plan, &err));
	assert_non_null(strstr(err.text, "UTF-8"));
	box.args = fine;
	plan.rootfs = "/\xff";
	assert_null(box_config(&plan, &err));
	plan.rootfs = "/";
	box.env = (struct box_words){ { "A=\xff" }, 1 };
	assert_null(box_config(&plan, &err));
	assert_non_null(strstr(err.text, "--env"));
	box.env.count = 0;
	box.cap_add = (struct box_words){ { "CAP_FLY" }, 1 };
	assert_null(box_config(&plan, &err));
	assert_non_null(strstr(err.text, "--cap-add"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_ids_have_numbers_outside),
		cmocka_unit_test(test_users),
		cmocka_unit_test(test_users_that_are_none),
		cmocka_unit_test(test_binds),
		cmocka_unit_test(test_the_configuration_is_one),
		cmocka_unit_test(test_what_is_no_text_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
