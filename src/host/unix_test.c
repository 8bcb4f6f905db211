/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/unix.h"

struct test {
	char folder[32], path[64];
};

static int set_up(void **state)
{
	struct test *t = calloc(1, sizeof(*t));

	strcpy(t->folder, "/tmp/plures-unix-XXXXXX");
	if (!mkdtemp(t->folder))
		return -1;
	snprintf(t->path, sizeof(t->path), "%s/s", t->folder);
	*state = t;
	return 0;
}

static int tear_down(void **state)
{
	struct test *t = *state;
	int rc = rmdir(t->folder);

	free(t);
	return rc;
}

static void meets(void **state)
{
	const struct test *t = *state;
	struct stat st;
	char byte = 0;
	int listener = unix_listen(t->path, NULL);

	assert_true(listener >= 0);
	assert_int_equal(stat(t->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	int client = unix_connect(t->path, NULL), server = accept(listener, NULL, NULL);
	assert_true(client >= 0 && server >= 0);
	assert_int_equal(write(client, "x", 1), 1);
	assert_true(read(server, &byte, 1) == 1 && byte == 'x');
	assert_true(read(client, &byte, 1) < 0 && errno == EAGAIN);
	close(client);
	close(server);
	close(listener);
	unlink(t->path);
}

static void path_is_taken(void **state)
{
	const struct test *t = *state;
	struct error err;
	int listener = unix_listen(t->path, &err);

	assert_true(listener >= 0);
	assert_int_equal(unix_listen(t->path, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "another process does"));
	/* A socket that a process left behind is replaced. */
	close(listener);
	assert_int_equal(unix_connect(t->path, &err), -ECONNREFUSED);
	listener = unix_listen(t->path, &err);
	assert_true(listener >= 0);
	close(listener);
	unlink(t->path);
	close(open(t->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(unix_listen(t->path, &err), -EEXIST);
	assert_int_equal(access(t->path, F_OK), 0);
	unlink(t->path);
}

static void bad_paths(void **state)
{
	char path[200];
	struct error err;

	(void)state;
	memset(path, 'x', sizeof(path));
	path[UNIX_PATH_MAX_SIZE + 1] = '\0';
	assert_int_equal(unix_listen(path, &err), -ENAMETOOLONG);
	assert_int_equal(unix_connect(path, &err), -ENAMETOOLONG);
	assert_int_equal(unix_listen("/nowhere/at/all", &err), -ENOENT);
	assert_non_null(strstr(err.text, "can't listen at /nowhere/at/all: No such file"));
	assert_int_equal(unix_connect("/nowhere/at/all", &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(meets, set_up, tear_down),
		cmocka_unit_test_setup_teardown(path_is_taken, set_up, tear_down),
		cmocka_unit_test(bad_paths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
