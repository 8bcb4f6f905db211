/* SPDX-License-Identifier: Apache-2.0 */
/* box_stop.c - the end of a container, by whoever looks after it or, if nobody does, by us. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "container/box.h"
#include "container/container.h"
#include "container/state.h"

enum { CLEAN_MS = 5000 };

/* Whoever runs it removes it when it has ended; waits for that. */
static bool wait_until_gone(const char *root, const char *name)
{
	for (unsigned waited = 0; waited < CLEAN_MS; waited += 5) {
		struct state state;

		if (state_load(&state, root, name, NULL, NULL))
			return true;
		state_fini(&state);
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	}
	return false;
}

int box_stop(const char *root, const char *name, unsigned seconds, struct error *err)
{
	struct state state;
	int rc = state_load(&state, root, name, NULL, err);

	if (rc)
		return rc;
	int fd = state_open_process(&state);
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	state_fini(&state);
	if (fd >= 0 && seconds) {
		rc = container_kill(root, name, SIGTERM, false, err);
		if (!rc)
			poll(&wait, 1, (int)seconds * 1000);
	}
	if (fd >= 0 && !rc && poll(&wait, 1, 0) == 0)
		rc = container_kill(root, name, SIGKILL, false, err);
	if (fd >= 0)
		close(fd);
	if (rc && rc != -ESRCH && rc != -ENOENT)
		return rc;
	return wait_until_gone(root, name) ? 0 : container_delete(root, name, true, err);
}

int box_remove(const char *root, const char *name, bool force, struct error *err)
{
	struct state state;
	int rc = force ? 0 : state_load(&state, root, name, NULL, err);

	if (rc)
		return rc;
	if (!force)
		state_fini(&state);
	else
		container_kill(root, name, SIGKILL, false, NULL);
	if (force && wait_until_gone(root, name))
		return container_delete(root, name, true, err);
	return container_delete(root, name, force, err);
}
