/* SPDX-License-Identifier: Apache-2.0 */
/* child.c - namespaces: made, or joined. */
#include "container/child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a shell says of a program that isn't there, or can't be run. */
static int status_of(int rc)
{
	return rc == -ENOENT ? 127 : rc == -EACCES || rc == -ENOEXEC || rc == -EPERM ? 126 : 1;
}

static _Noreturn void fail(const struct child *c, int rc, const struct error *err)
{
	/* Once the runtime is gone, the container's own standard error is all there is. */
	if (sync_send(c->sync, SYNC_FAILED, rc, err->text, strlen(err->text)) &&
	    dprintf(STDERR_FILENO, "plures-oci: %s\n", err->text) < 0)
		_exit(1);
	_exit(status_of(rc));
}

int child_enter_cgroups(void *child, struct error *err)
{
	struct child *c = child;

	if (c->entered)
		return 0;
	int rc = sync_expect(c->sync, SYNC_CGROUP, c->message, err);

	if (!rc)
		rc = cgroup_enter(c->message->fds, c->message->fd_count, err);
	if (!rc && c->systemd && c->init < 0) {
		rc = cgroup_find(c->cgroup, err);
		for (unsigned i = 0; i < c->cgroup->count; i++)
			memcpy(c->cgroup->places[i].path, c->cgroup->places[i].own, sizeof(c->cgroup->places[i].own));
	}
	/* A namespace's root is where its maker was at that moment. */
	if (!rc && c->init < 0 && c->config->namespaces[NS_CGROUP].given && !c->config->namespaces[NS_CGROUP].path &&
	    unshare(CLONE_NEWCGROUP))
		rc = error_errno(err, -errno, "can't make a cgroup namespace");
	c->entered = true;
	return rc;
}

/* ---- namespaces ---- */

static int join_paths(const struct child *c, struct error *err)
{
	/* The mount namespace last: the descriptors of the others were opened in this one. */
	for (int type = 0; type < NS_COUNT; type++) {
		const struct oci_namespace *ns = &c->config->namespaces[type];

		if (ns->fd < 0 || type == NS_USER || type == NS_PID)
			continue;
		if (setns(ns->fd, oci_namespace_flag((enum oci_namespace_type)type)))
			return error_errno(err, -errno, "linux.namespaces: can't join %s", ns->path);
	}
	return 0;
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int rc = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

/* unshare(2) makes the namespace for children; before Linux 6.3 an execve does not move this process into it. */
static int enter_time(struct error *err)
{
	int fd = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
	int rc = fd < 0 || setns(fd, oci_namespace_flag(NS_TIME)) ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc ? error_errno(err, rc, "can't enter the time namespace") : 0;
}

static int make_time(const struct oci_config *config, struct error *err)
{
	if (!config->namespaces[NS_TIME].given || config->namespaces[NS_TIME].path)
		return 0;
	if (unshare(oci_namespace_flag(NS_TIME)))
		return error_errno(err, -errno, "can't make a time namespace");
	for (const char *const *line = config->time_offsets; line && *line; line++) {
		int rc = write_text("/proc/self/timens_offsets", *line);

		if (rc)
			return error_errno(err, rc, "linux.timeOffsets: \"%s\"", *line);
	}
	return enter_time(err);
}

static int make_namespaces(const struct child *c, struct error *err)
{
	static const enum oci_namespace_type types[] = { NS_MOUNT, NS_IPC, NS_UTS, NS_NET };
	int flags = 0;

	for (unsigned i = 0; i < sizeof(types) / sizeof(*types); i++)
		if (c->config->namespaces[types[i]].given && !c->config->namespaces[types[i]].path)
			flags |= oci_namespace_flag(types[i]);
	if (flags && unshare(flags))
		return error_errno(err, -errno, "linux.namespaces: the kernel refuses to make them");
	return make_time(c->config, err);
}

/* A new network has a loopback device, which is down. */
static void raise_loopback(const struct oci_config *config)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };

	if (!config->namespaces[NS_NET].given || config->namespaces[NS_NET].path)
		return;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return; /* a kernel without IPv4 has nothing to raise */
	ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
}

static int set_names(const struct oci_config *config, struct error *err)
{
	if (config->hostname && config->hostname[0] && sethostname(config->hostname, strlen(config->hostname)))
		return error_errno(err, -errno, "hostname: can't set \"%.64s\"", config->hostname);
	if (config->domainname && config->domainname[0] &&
	    setdomainname(config->domainname, strlen(config->domainname)))
		return error_errno(err, -errno, "domainname: can't set \"%.64s\"", config->domainname);
	return 0;
}

/* Through the host's /proc, which the container has no say in; what it shows is of this process's namespaces. */
static int set_sysctls(const struct oci_config *config, struct error *err)
{
	char path[256];

	for (const char *const *pair = config->sysctl; pair && *pair; pair += 2) {
		bool slashes = strchr(pair[0], '/') != NULL;

		if (snprintf(path, sizeof(path), "/proc/sys/%s", pair[0]) >= (int)sizeof(path))
			return error_errno(err, -ENAMETOOLONG, "linux.sysctl.%.60s", pair[0]);
		for (char *p = path + 10; *p && !slashes; p++)
			*p = *p == '.' ? '/' : *p;
		int rc = write_text(path, pair[1]);

		if (rc)
			return error_errno(err, rc, "linux.sysctl.%s: can't write \"%.60s\" to %s", pair[0], pair[1],
					   path);
	}
	return 0;
}

/* Only now, for nobody can look into this process later. It goes on at once. */
static int send_network(const struct child *c, struct error *err)
{
	int fds[] = { open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC),
		      open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC) };
	int rc = fds[0] < 0 || fds[1] < 0 ? -errno : sync_send_fds(c->sync, SYNC_NETWORK, fds, 2);

	for (unsigned i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return rc ? error_errno(err, rc, "can't hand over the network namespace") : 0;
}

static int make_container(struct child *c, struct error *err)
{
	int rc = 0;

	if (c->mapped)
		rc = sync_expect(c->sync, SYNC_MAPPED, c->message, err);
	if (!rc)
		rc = join_paths(c, err);
	if (!rc)
		rc = make_namespaces(c, err);
	if (!rc && c->box && c->box->network)
		rc = send_network(c, err);
	if (!rc) {
		raise_loopback(c->config);
		rc = set_names(c->config, err);
	}
	if (!rc)
		rc = set_sysctls(c->config, err);
	if (!rc && c->config->personality.set && personality((unsigned long)c->config->personality.value) < 0)
		rc = error_errno(err, -errno, "linux.personality");
	return rc ? rc : child_make_root(c, err);
}

/* ---- the two ways ---- */

/* Nobody in the container may look into this process before it is the user's program: it holds descriptors of the host. */
static void begin(struct child *c, struct sync_message *message)
{
	sigset_t none;

	c->message = message;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&none);
	for (int signal = 1; signal < SIGRTMIN; signal++)
		if (signal == SIGPIPE || signal == SIGCHLD || signal == SIGINT || signal == SIGTERM ||
		    signal == SIGWINCH)
			(void)sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
}

_Noreturn void child_init(struct child *c)
{
	struct sync_message message;
	struct error err = { "" };

	begin(c, &message);
	int rc = make_container(c, &err);

	if (!rc)
		rc = child_become(c, &err);
	fail(c, rc, &err);
}

_Noreturn void child_join(struct child *c)
{
	struct sync_message message;
	struct error err = { "" };

	begin(c, &message);
	c->attr = -1;
	if (c->process->apparmor_profile || c->process->selinux_label)
		c->attr = open("/proc/self/attr/exec", O_WRONLY | O_CLOEXEC);
	int rc = child_enter_cgroups(c, &err);

	/* The user namespace is joined with the rest, in which its rights are then good for it. */
	if (!rc && c->join && setns(c->init, c->join))
		rc = error_errno(&err, -errno, "can't join the container's namespaces");
	if (!rc && (c->join & CLONE_NEWUSER) && (setresgid(0, 0, 0) || setresuid(0, 0, 0)) && errno != EINVAL)
		rc = error_errno(&err, -errno, "can't become the container's root");
	if (!rc)
		rc = child_become(c, &err);
	fail(c, rc, &err);
}
