/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/virtiofsd.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/memory.h"

enum { SOCKET_FD = 3, ARGUMENTS = 12 };

struct virtiofsd {
	pid_t pid;
	int complaints; /* a pipe's end */
};

/* All that the new process needs, made before fork: after it, only system calls may follow. */
struct plan {
	const char *program, *folder;
	char *argv[ARGUMENTS];
	char source[4200];
	char uid_map[40], gid_map[40];
	bool readonly, userns;
	int listener, complaints;
};

/* Where distributions have it: QEMU's own, then its successor. */
static const char *find_program(void)
{
	static const char *const places[] = { "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd",
					      "/usr/lib/virtiofsd" };

	for (unsigned i = 0; i < sizeof(places) / sizeof(*places); i++)
		if (!access(places[i], X_OK))
			return places[i];
	return NULL;
}

/* ---- in the new process ---- */

static void give_up(const char *what)
{
	const char *why = strerrordesc_np(errno);

	/* There is nobody to tell when these fail. */
	if (write(STDERR_FILENO, what, strlen(what)) > 0 && write(STDERR_FILENO, ": ", 2) > 0 &&
	    write(STDERR_FILENO, why, strlen(why)) > 0)
		_exit(1);
	_exit(1);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		give_up(path);
	close(fd);
}

/* A user namespace in which we are root, with our own rights and no others. */
static void become_root(const struct plan *plan)
{
	if (unshare(CLONE_NEWUSER))
		give_up("can't make a user namespace, without which only root can share a folder");
	put("/proc/self/setgroups", "deny");
	put("/proc/self/uid_map", plan->uid_map);
	put("/proc/self/gid_map", plan->gid_map);
}

static void make_readonly(const struct plan *plan)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(plan->folder, plan->folder, NULL, MS_BIND | MS_REC, NULL) ||
	    mount_setattr(AT_FDCWD, plan->folder, AT_RECURSIVE, &attr, sizeof(attr)))
		give_up("can't make the folder read-only");
}

static _Noreturn void run(const struct plan *plan)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (null < 0 || dup2(plan->complaints, STDERR_FILENO) < 0 || dup2(null, STDIN_FILENO) < 0 ||
	    dup2(null, STDOUT_FILENO) < 0)
		_exit(1);
	/* dup2 leaves CLOEXEC behind, except where it has nothing to do. */
	if (plan->listener == SOCKET_FD ? fcntl(SOCKET_FD, F_SETFD, 0) : dup2(plan->listener, SOCKET_FD) < 0)
		give_up("dup2");
	setpgid(0, 0); /* a key that interrupts us is not for it */
	if (plan->userns)
		become_root(plan);
	if (plan->readonly)
		make_readonly(plan);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execv(plan->program, plan->argv);
	give_up(plan->program);
	_exit(1);
}

/* ---- in ours ---- */

/* A listener that nobody else can reach, and a connection to it: the name is gone when this returns. */
static int make_sockets(int *listener, int *fd, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char folder[80];
	int rc = 0;

	*listener = *fd = -1;
	if (!runtime || strlen(runtime) > 50 || access(runtime, W_OK))
		runtime = "/tmp";
	snprintf(folder, sizeof(folder), "%s/plures-XXXXXX", runtime);
	if (!mkdtemp(folder)) /* which nobody else may enter */
		return error_errno(err, -errno, "can't make a folder in %s", runtime);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/fs", folder);
	*listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (*listener < 0 || *fd < 0 || bind(*listener, (const struct sockaddr *)&address, sizeof(address)) ||
	    listen(*listener, 1) || connect(*fd, (const struct sockaddr *)&address, sizeof(address)))
		rc = error_errno(err, -errno, "can't make a socket in %s", folder);
	unlink(address.sun_path);
	rmdir(folder);
	return rc;
}

static int make_plan(struct plan *plan, const char *folder, bool readonly, struct error *err)
{
	struct stat st;

	if (stat(folder, &st))
		return error_errno(err, -errno, "can't share %s", folder);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, -ENOTDIR, "can't share %s: it is not a folder", folder);
	plan->program = find_program();
	if (!plan->program)
		return error_set(err, -ENOENT,
				 "can't share %s: virtiofsd is not installed (Debian: qemu-system-common)", folder);
	if (snprintf(plan->source, sizeof(plan->source), "source=%s", folder) >= (int)sizeof(plan->source))
		return error_set(err, -ENAMETOOLONG, "can't share %s: the path is too long", folder);
	/* Its options stand between commas and colons are nothing special. */
	if (strchr(folder, ','))
		return error_set(err, -EINVAL, "can't share %s: virtiofsd takes no path with a comma", folder);
	plan->folder = folder;
	plan->readonly = readonly;
	plan->userns = geteuid() != 0;
	snprintf(plan->uid_map, sizeof(plan->uid_map), "0 %u 1", geteuid());
	snprintf(plan->gid_map, sizeof(plan->gid_map), "0 %u 1", getegid());
	char *argv[] = { "virtiofsd",         "-f", "--fd=3", "-o", plan->source, "-o", "log_level=err", "-o",
			 "sandbox=namespace", NULL };
	_Static_assert(sizeof(argv) <= sizeof(plan->argv), "they fit");
	memcpy(plan->argv, argv, sizeof(argv));
	return 0;
}

static int launch(struct virtiofsd *daemon, struct plan *plan, struct error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK)) /* a full one holds it up no more than us */
		return error_errno(err, -errno, "can't make a pipe");
	daemon->complaints = ends[0];
	plan->complaints = ends[1];
	daemon->pid = fork();
	if (!daemon->pid)
		run(plan);
	int rc = daemon->pid < 0 ? error_errno(err, -errno, "can't start a process") : 0;
	close(ends[1]);
	return rc;
}

int virtiofsd_start(struct virtiofsd **out, const char *folder, bool readonly, int *fd, struct error *err)
{
	struct virtiofsd *daemon = memory_zalloc(sizeof(*daemon));
	struct plan plan = { .listener = -1, .program = "", .folder = "" };

	*fd = -1;
	*out = NULL;
	daemon->complaints = -1;
	int rc = make_plan(&plan, folder, readonly, err);
	if (!rc)
		rc = make_sockets(&plan.listener, fd, err);
	if (!rc)
		rc = launch(daemon, &plan, err);
	if (plan.listener >= 0)
		close(plan.listener);
	if (rc) {
		if (*fd >= 0)
			close(*fd);
		virtiofsd_stop(daemon, NULL);
	} else {
		*out = daemon;
	}
	return rc;
}

/* Its last line, in parentheses. */
static void add_complaint(const struct virtiofsd *daemon, struct error *err)
{
	char text[1024];
	ssize_t n, size = 0;

	while ((n = read(daemon->complaints, text, sizeof(text) - 1)) > 0)
		size = n;
	while (size && (text[size - 1] == '\n' || text[size - 1] == ' '))
		size--;
	if (!size)
		return;
	text[size] = '\0';
	const char *line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	size_t used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, " (virtiofsd: %s)", line);
}

void virtiofsd_stop(struct virtiofsd *daemon, struct error *err)
{
	if (!daemon)
		return;
	if (daemon->pid > 0) {
		kill(daemon->pid, SIGKILL);
		while (waitpid(daemon->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (daemon->complaints >= 0) {
		if (err)
			add_complaint(daemon, err);
		close(daemon->complaints);
	}
	free(daemon);
}
