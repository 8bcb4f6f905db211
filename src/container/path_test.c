/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/path.h"

struct tree {
	char top[64];
	int root; /* TOP/root; beside it is TOP/out, which nothing may reach */
};

static int set_up(void **state)
{
	struct tree *t = malloc(sizeof(*t));

	strcpy(t->top, "/tmp/plures-path-XXXXXX");
	if (!mkdtemp(t->top))
		return -1;
	int top = open(t->top, O_PATH | O_DIRECTORY);

	if (mkdirat(top, "root", 0755) || mkdirat(top, "out", 0755) || mkdirat(top, "root/a", 0755))
		return -1;
	t->root = openat(top, "root", O_PATH | O_DIRECTORY);
	close(top);
	*state = t;
	return 0;
}

static int tear_down(void **state)
{
	struct tree *t = *state;
	char command[128];

	close(t->root);
	snprintf(command, sizeof(command), "rm -rf %s", t->top);
	int rc = system(command);

	free(t);
	return rc;
}

static bool is_there(const struct tree *t, const char *path, mode_t type)
{
	struct stat st;

	return !fstatat(t->root, path, &st, AT_SYMLINK_NOFOLLOW) && (st.st_mode & S_IFMT) == type;
}

static void make(const struct tree *t, const char *path, bool folder)
{
	struct error err = { "" };
	int fd = path_make(t->root, path, folder, &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	close(fd);
}

static void makes_what_is_missing(void **state)
{
	const struct tree *t = *state;

	make(t, "/a/b//c/./d", true);
	assert_true(is_there(t, "a/b/c/d", S_IFDIR));
	make(t, "/a/x/file", false);
	assert_true(is_there(t, "a/x/file", S_IFREG));
	make(t, "/a/x/file", false);
	make(t, "/", true);
}

static void links_and_dots_stay_inside(void **state)
{
	const struct tree *t = *state;
	char target[128];

	snprintf(target, sizeof(target), "%s/out", t->top);
	assert_int_equal(symlinkat(target, t->root, "absolute"), 0);
	assert_int_equal(symlinkat("../../../../../../../../../tmp/x", t->root, "a/up"), 0);
	make(t, "/absolute/made", true);
	make(t, "/a/up/made", false);
	make(t, "/../../../y", true);
	assert_true(is_there(t, "tmp/x/made", S_IFREG));
	assert_true(is_there(t, "y", S_IFDIR));
	snprintf(target, sizeof(target), "%s/out/made", t->top);
	assert_int_equal(access(target, F_OK), -1);
	assert_true(is_there(t, target + 1, S_IFDIR));
}

static void links_that_lead_nowhere(void **state)
{
	const struct tree *t = *state;
	struct error err = { "" };

	assert_int_equal(symlinkat("b/c", t->root, "a/dangling"), 0);
	make(t, "/a/dangling", false);
	assert_true(is_there(t, "a/b/c", S_IFREG));
	assert_int_equal(symlinkat("loop", t->root, "loop"), 0);
	assert_int_equal(path_make(t->root, "/loop", false, &err), -ELOOP);
	assert_int_equal(symlinkat("two", t->root, "one"), 0);
	assert_int_equal(symlinkat("one", t->root, "two"), 0);
	assert_int_equal(path_make(t->root, "/one/x", true, &err), -ELOOP);
	make(t, "/a/file", false);
	assert_int_equal(path_make(t->root, "/a/file/x", true, &err), -ENOTDIR);
}

static void strict_takes_no_link(void **state)
{
	const struct tree *t = *state;

	assert_int_equal(symlinkat("a", t->root, "l"), 0);
	assert_int_equal(path_open(t->root, "/l", true), -ELOOP);
	int fd = path_open(t->root, "/l", false);

	assert_true(fd >= 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(makes_what_is_missing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(links_and_dots_stay_inside, set_up, tear_down),
		cmocka_unit_test_setup_teardown(links_that_lead_nowhere, set_up, tear_down),
		cmocka_unit_test_setup_teardown(strict_takes_no_link, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
