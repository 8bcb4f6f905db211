/* SPDX-License-Identifier: Apache-2.0 */
#include "container/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/log.h"

/* A file that is in no folder, so that a hook which does not read holds nobody up. */
static int state_file(const char *state)
{
	int fd = memfd_create("state", MFD_CLOEXEC);
	size_t size = strlen(state);

	if (fd >= 0 && (write(fd, state, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void become(const struct oci_hook *hook, int input)
{
	static const char *const none[] = { NULL };
	const char *const alone[] = { hook->path, NULL };
	const char *const *args = hook->args && hook->args[0] ? hook->args : alone;
	sigset_t all;

	/* It goes when the runtime goes, so that nothing is left of a call that was killed. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	dup2(input, STDIN_FILENO);
	execve(hook->path, (char *const *)(uintptr_t)args, (char *const *)(uintptr_t)(hook->env ? hook->env : none));
	_exit(errno == ENOENT ? 127 : 126);
}

static int wait_for(pid_t pid, const struct oci_hook *hook, struct error *err)
{
	int fd = hook->timeout.set ? (int)syscall(SYS_pidfd_open, pid, 0) : -1, status;
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	bool late = false;

	if (fd >= 0) {
		int64_t ms = hook->timeout.value > 2000000 ? 2000000000 : hook->timeout.value * 1000;

		late = poll(&wait, 1, (int)ms) == 0;
		close(fd);
	}
	if (late)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, -errno, "waitpid");
	if (late)
		return error_set(err, -ETIMEDOUT, "did not end within its timeout of %lld s",
				 (long long)hook->timeout.value);
	if (WIFSIGNALED(status))
		return error_set(err, -EIO, "was ended by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status) == 127)
		return error_set(err, -ENOENT, "No such file or directory");
	return WEXITSTATUS(status) ? error_set(err, -EIO, "exit status %d", WEXITSTATUS(status)) : 0;
}

int hooks_run(const struct oci_hooks *hooks, enum oci_hook_kind kind, const char *state, struct error *err)
{
	const struct oci_hooks *list = &hooks[kind];
	int input = list->count ? state_file(state) : -1, rc = 0;

	for (size_t i = 0; i < list->count && !rc; i++) {
		lseek(input, 0, SEEK_SET);
		pid_t pid = fork();

		if (!pid)
			become(&list->list[i], input);
		rc = pid < 0 ? error_errno(err, -errno, "fork") : wait_for(pid, &list->list[i], err);
		if (rc)
			error_prefix(err, rc, "hooks.%s[%zu] (%s)", oci_hook_name(kind), i, list->list[i].path);
		/* "the runtime MUST log a warning, but the remaining hooks and lifecycle continue as if the hook had succeeded" */
		if (rc && (kind == HOOK_POSTSTART || kind == HOOK_POSTSTOP)) {
			log_warn("%s", err->text);
			rc = 0;
		}
	}
	if (input >= 0)
		close(input);
	return rc;
}
