/* SPDX-License-Identifier: Apache-2.0 */
/* lifecycle.c - operations on a container that is there. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "container/container.h"
#include "container/hooks.h"
#include "container/log.h"
#include "container/network.h"
#include "container/state.h"

/* The configuration as it was when the container was made. */
static int load_config(const struct state *state, struct oci_config *config, struct error *err)
{
	char *text;
	size_t size;
	int rc = oci_file_read(state->dir, "config.json", &text, &size, err);

	if (rc)
		return rc;
	rc = oci_config_parse(config, text, size, err);
	free(text);
	return rc;
}

static void run_hooks(const struct state *state, const struct oci_config *config, enum oci_hook_kind kind,
		      const char *status)
{
	struct error err = { "" };

	if (!config->hooks[kind].count)
		return;
	char *json = state_json(state, status, config->annotations, &err);

	if (!json || hooks_run(config->hooks, kind, json, &err))
		log_warn("%s", err.text);
	free(json);
}

/* ---- start ---- */

/* The process closes its end by becoming the program, or by ending. */
static int release(const struct state *state, struct error *err)
{
	int fd = openat(state->dir, "start", O_WRONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return error_set(err, -EINVAL, "cannot start container \"%s\": it has been started already", state->id);
	struct pollfd wait = { .fd = fd };
	int rc = write(fd, "", 1) == 1 ? 0 : error_errno(err, -errno, "can't write to the container's FIFO");

	while (!rc && poll(&wait, 1, -1) < 0 && errno == EINTR)
		;
	close(fd);
	return rc;
}

int container_start(const char *root, const char *id, struct error *err)
{
	struct oci_config config;
	struct state state;
	int rc = state_load(&state, root, id, NULL, err);

	if (rc)
		return rc;
	enum state_status status = state_status(&state);

	if (status == STATE_STOPPED)
		rc = error_set(err, -ESRCH, "cannot start container \"%s\": container has stopped", id);
	else if (status != STATE_CREATED)
		rc = error_set(err, -EINVAL, "cannot start container \"%s\" in the %s state", id,
			       state_status_name(status));
	else
		rc = load_config(&state, &config, err);
	if (!rc) {
		rc = release(&state, err);
		if (!rc)
			run_hooks(&state, &config, HOOK_POSTSTART, "running");
		oci_config_fini(&config);
	}
	state_fini(&state);
	return rc;
}

/* ---- kill ---- */

int container_kill(const char *root, const char *id, int signal, bool all, struct error *err)
{
	struct state state;
	int rc = state_load(&state, root, id, NULL, err);

	if (rc)
		return rc;
	int fd = state_open_process(&state);

	/* Processes may outlive the first one, where they share its PID namespace with others. */
	if (all)
		rc = cgroup_kill(&state.cgroup, signal, err);
	if (!rc && fd < 0 && !all)
		rc = error_set(err, -ESRCH, "container not running");
	if (!rc && fd >= 0 && syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) && errno != ESRCH)
		rc = error_errno(err, -errno, "can't send signal %d", signal);
	else if (!rc && fd >= 0 && signal == SIGKILL && cgroup_frozen(&state.cgroup))
		rc = cgroup_freeze(&state.cgroup, false, err); /* what is frozen on v1 can't even die */
	if (fd >= 0)
		close(fd);
	state_fini(&state);
	return rc;
}

/* ---- delete ---- */

/* Kills the first process and waits until it is gone. It is nobody's child here. */
static int end_process(const struct state *state, struct error *err)
{
	int fd = state_open_process(state);
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	if (fd < 0)
		return 0;
	int rc = syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) && errno != ESRCH ? -errno : 0;

	if (!rc && cgroup_frozen(&state->cgroup))
		cgroup_freeze(&state->cgroup, false, NULL);
	if (!rc && poll(&wait, 1, 10000) == 0)
		rc = -ETIMEDOUT;
	close(fd);
	return rc ? error_errno(err, rc, "can't kill the container's process %d", state->pid) : 0;
}

static int destroy(struct state *state, const char *root, bool damaged, struct error *err)
{
	struct oci_config config;
	struct error ignored;
	network_stop(state);
	int rc = cgroup_kill(&state->cgroup, SIGKILL, err);

	if (!rc && state->cgroup.scope[0])
		rc = cgroup_systemd_stop(&state->cgroup, err);
	if (!rc)
		rc = cgroup_remove(&state->cgroup, err);
	if (!rc && !damaged && state->pid && !load_config(state, &config, &ignored)) {
		run_hooks(state, &config, HOOK_POSTSTOP, "stopped");
		oci_config_fini(&config);
	}
	return rc ? rc : state_remove(state, root, err);
}

int container_delete(const char *root, const char *id, bool force, struct error *err)
{
	bool damaged = false;
	struct state state;
	int rc = state_load(&state, root, id, force ? &damaged : NULL, err);

	if (rc)
		return rc == -ENOENT && force && state.dir < 0 ? 0 : rc;
	enum state_status status = state_status(&state);

	if (force)
		rc = end_process(&state, err);
	else if (status == STATE_CREATED) /* its process does nothing but wait, and runc deletes those as well */
		rc = end_process(&state, err);
	else if (status != STATE_STOPPED)
		rc = error_set(err, -EBUSY, "cannot delete container \"%s\" that is not stopped: %s", id,
			       state_status_name(status));
	if (!rc)
		rc = destroy(&state, root, damaged, err);
	state_fini(&state);
	return rc;
}

/* ---- pause ---- */

int container_pause(const char *root, const char *id, bool pause, struct error *err)
{
	struct state state;
	int rc = state_load(&state, root, id, NULL, err);

	if (rc)
		return rc;
	enum state_status status = state_status(&state);

	if (pause && status != STATE_RUNNING && status != STATE_CREATED)
		rc = error_set(err, -EINVAL, "container \"%s\" is not running: %s", id, state_status_name(status));
	else if (!pause && status != STATE_PAUSED && !cgroup_frozen(&state.cgroup))
		rc = error_set(err, -EINVAL, "container \"%s\" is not paused: %s", id, state_status_name(status));
	else
		rc = cgroup_freeze(&state.cgroup, pause, err);
	state_fini(&state);
	return rc;
}

/* ---- update ---- */

int container_update(const char *root, const char *id, const char *resources, size_t size, struct error *err)
{
	struct oci_resources parsed;
	struct arena arena = { 0 };
	struct state state;
	int rc = state_load(&state, root, id, NULL, err);

	if (rc)
		return rc;
	enum state_status status = state_status(&state);

	if (status == STATE_STOPPED || status == STATE_CREATING)
		rc = error_set(err, -ESRCH, "container not running");
	else
		rc = oci_resources_parse(&parsed, &arena, resources, size, err);
	if (!rc && state.cgroup.scope[0])
		rc = cgroup_systemd_update(&state.cgroup, &parsed, err);
	if (!rc)
		rc = cgroup_limit(&state.cgroup, &parsed, true, err);
	arena_fini(&arena);
	state_fini(&state);
	return rc;
}

/* ---- state and list ---- */

int container_state(const char *root, const char *id, FILE *out, struct error *err)
{
	struct oci_config config;
	struct state state;
	int rc = state_load(&state, root, id, NULL, err);

	if (rc)
		return rc;
	rc = load_config(&state, &config, err);
	if (!rc) {
		char *json = state_json(&state, state_status_name(state_status(&state)), config.annotations, err);

		rc = json ? 0 : -ENOMEM;
		if (json)
			fprintf(out, "%s\n", json);
		free(json);
		oci_config_fini(&config);
	}
	state_fini(&state);
	return rc;
}

static void list_one(const struct state *state, enum container_list how, bool first, FILE *out)
{
	const char *status = state_status_name(state_status(state));
	struct oci_config config = { 0 };
	struct error ignored;

	if (how == LIST_QUIET) {
		fprintf(out, "%s\n", state->id);
	} else if (how == LIST_TABLE) {
		fprintf(out, "%-27s %-11d %-11s %-39s %-27s %u\n", state->id,
			strcmp(status, "stopped") ? state->pid : 0, status, state->bundle, state->created,
			state->owner);
	} else {
		char *json = load_config(state, &config, &ignored)
				 ? NULL
				 : state_json(state, status, config.annotations, &ignored);

		if (json)
			fprintf(out, "%s%s", first ? "" : ",", json);
		free(json);
		oci_config_fini(&config);
	}
}

int container_list(const char *root, enum container_list how, FILE *out, struct error *err)
{
	DIR *dir = opendir(root);
	const struct dirent *entry;
	bool first = true;

	if (!dir && errno != ENOENT)
		return error_errno(err, -errno, "can't open %s", root);
	if (how == LIST_TABLE)
		fprintf(out, "%-27s %-11s %-11s %-39s %-27s %s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER");
	if (how == LIST_JSON)
		fputs("[", out);
	while (dir && (entry = readdir(dir))) {
		struct state state;

		if (entry->d_name[0] == '.' || state_load(&state, root, entry->d_name, NULL, NULL))
			continue;
		list_one(&state, how, first, out);
		first = false;
		state_fini(&state);
	}
	if (how == LIST_JSON)
		fputs("]\n", out);
	if (dir)
		closedir(dir);
	return 0;
}
