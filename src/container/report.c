/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what containers and this runtime are like: ps, features, spec. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/caps.h"
#include "container/container.h"
#include "container/seccomp.h"
#include "container/state.h"

/* ---- ps ---- */

struct pids {
	pid_t *list;
	size_t count, room;
};

static void add_pid(void *arg, pid_t pid)
{
	struct pids *p = arg;

	if (p->count == p->room) {
		size_t room = p->room ? 2 * p->room : 64;
		pid_t *more = realloc(p->list, room * sizeof(*more));

		if (!more)
			return;
		p->list = more;
		p->room = room;
	}
	p->list[p->count++] = pid;
}

static bool has_pid(const struct pids *p, pid_t pid)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->list[i] == pid)
			return true;
	return false;
}

/* The lines of ps(1) whose PID column has one of ours, and the head. */
static void filter_lines(FILE *in, const struct pids *pids, FILE *out)
{
	char *line = NULL, *rest;
	size_t room = 0;
	int column = -1;

	while (getline(&line, &room, in) > 0) {
		char *copy = strdup(line), *word = copy ? strtok_r(copy, " \t\n", &rest) : NULL;
		bool head = column < 0, ours = head;

		for (int i = 0; word; i++, word = strtok_r(NULL, " \t\n", &rest)) {
			if (head && !strcmp(word, "PID"))
				column = i;
			else if (!head && i == column)
				ours = has_pid(pids, (pid_t)strtol(word, NULL, 10));
		}
		free(copy);
		if (ours)
			fputs(line, out);
		if (column < 0)
			break;
	}
	free(line);
}

static int run_ps(const struct pids *pids, const char *const *args, FILE *out, struct error *err)
{
	const char *argv[64] = { "ps", "-ef" };
	int fds[2], status;
	size_t count = 0;

	while (args && args[count] && count < 60) {
		argv[1 + count] = args[count];
		count++;
	}
	fflush(out);
	if (pipe2(fds, O_CLOEXEC))
		return error_errno(err, -errno, "pipe");
	pid_t pid = fork();

	if (!pid) {
		dup2(fds[1], STDOUT_FILENO);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(fds[1]);
	FILE *in = pid < 0 ? NULL : fdopen(fds[0], "re");

	if (in) {
		filter_lines(in, pids, out);
		fclose(in);
	} else {
		close(fds[0]);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return error_errno(err, -errno, "ps");
	return WIFEXITED(status) && WEXITSTATUS(status) == 127
		   ? error_set(err, -ENOENT, "ps is not installed: use --format json")
		   : 0;
}

int container_ps(const char *root, const char *id, bool json, const char *const *ps_args, FILE *out, struct error *err)
{
	struct pids pids = { 0 };
	struct state state;
	int rc = state_load(&state, root, id, NULL, err);

	if (rc)
		return rc;
	rc = cgroup_each_process(&state.cgroup, add_pid, &pids, err);
	/* Without a cgroup there is one process that is known. */
	if (rc == 0 && !state.cgroup.count && state_status(&state) != STATE_STOPPED)
		add_pid(&pids, state.pid);
	if (rc >= 0 && json) {
		fputs("[", out);
		for (size_t i = 0; i < pids.count; i++)
			fprintf(out, "%s%d", i ? "," : "", pids.list[i]);
		fputs("]\n", out);
	} else if (rc >= 0) {
		rc = run_ps(&pids, ps_args, out, err);
	}
	free(pids.list);
	state_fini(&state);
	return rc < 0 ? rc : 0;
}

/* ---- features (runtime-spec, features.md) ---- */

static json_t *words(const struct oci_seccomp_word *word)
{
	json_t *list = json_array();

	for (; word->name; word++)
		json_array_append_new(list, json_string(word->name));
	return list;
}

static json_t *seccomp_features(void)
{
	return json_pack("{s:b, s:o, s:o, s:o, s:o, s:o}", "enabled", true, "actions", words(oci_seccomp_actions),
			 "operators", words(oci_seccomp_operators), "archs", words(oci_seccomp_architectures),
			 "knownFlags", words(oci_seccomp_flags), "supportedFlags", words(oci_seccomp_flags));
}

static json_t *linux_features(void)
{
	json_t *namespaces = json_array(), *caps = json_array();
	char name[40];

	for (int type = 0; type < NS_COUNT; type++)
		json_array_append_new(namespaces, json_string(oci_namespace_name((enum oci_namespace_type)type)));
	for (int i = 0; caps_name(i); i++) {
		snprintf(name, sizeof(name), "CAP_%s", caps_name(i));
		json_array_append_new(caps, json_string(name));
	}
	return json_pack("{s:o, s:o, s:{s:b,s:b,s:b,s:b,s:b}, s:o, s:{s:b}, s:{s:b}, s:{s:b}, s:{s:{s:b}}}",
			 "namespaces", namespaces, "capabilities", caps, "cgroup", "v1", true, "v2", true, "systemd",
			 true, "systemdUser", false, "rdma", true, "seccomp", seccomp_features(), "apparmor", "enabled",
			 true, "selinux", "enabled", true, "intelRdt", "enabled", false, "mountExtensions", "idmap",
			 "enabled", true);
}

int container_features(FILE *out, struct error *err)
{
	json_t *hooks = json_array(), *options = json_array();

	for (int kind = 0; kind < HOOK_KINDS; kind++)
		json_array_append_new(hooks, json_string(oci_hook_name((enum oci_hook_kind)kind)));
	for (size_t i = 0; oci_mount_option_name(i); i++)
		json_array_append_new(options, json_string(oci_mount_option_name(i)));
	json_t *root = json_pack("{s:s, s:s, s:o, s:o, s:o, s:[]}", "ociVersionMin", "1.0.0", "ociVersionMax",
				 OCI_VERSION, "hooks", hooks, "mountOptions", options, "linux", linux_features(),
				 "potentiallyUnsafeConfigAnnotations");
	char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;

	if (text)
		fprintf(out, "%s\n", text);
	free(text);
	json_decref(root);
	return text ? 0 : error_errno(err, -ENOMEM, "features");
}

/* ---- spec ---- */

static json_t *mount_json(const char *destination, const char *type, const char *source, const char *options)
{
	json_t *list = json_array();
	char *copy = strdup(options), *rest = NULL;

	for (char *word = copy ? strtok_r(copy, ",", &rest) : NULL; word; word = strtok_r(NULL, ",", &rest))
		json_array_append_new(list, json_string(word));
	free(copy);
	return json_pack("{s:s, s:s, s:s, s:o}", "destination", destination, "type", type, "source", source, "options",
			 list);
}

static json_t *spec_mounts(bool rootless)
{
	return json_pack("[o,o,o,o,o,o,o]", mount_json("/proc", "proc", "proc", "nosuid,noexec,nodev"),
			 mount_json("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
			 mount_json("/dev/pts", "devpts", "devpts",
				    rootless ? "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620"
					     : "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
			 mount_json("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
			 mount_json("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
			 rootless ? mount_json("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro")
				  : mount_json("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
			 mount_json("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"));
}

static json_t *spec_process(void)
{
	static const char *const sets[] = { "bounding", "effective", "permitted" };
	json_t *caps = json_object();

	for (unsigned i = 0; i < 3; i++)
		json_object_set_new(caps, sets[i],
				    json_pack("[s,s,s]", "CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"));
	return json_pack("{s:b, s:{s:i,s:i}, s:[s], s:[s,s], s:s, s:o, s:[{s:s,s:i,s:i}], s:b}", "terminal", true,
			 "user", "uid", 0, "gid", 0, "args", "sh", "env",
			 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", "cwd", "/",
			 "capabilities", caps, "rlimits", "type", "RLIMIT_NOFILE", "hard", 1024, "soft", 1024,
			 "noNewPrivileges", true);
}

static json_t *spec_linux(bool rootless)
{
	json_t *namespaces = json_pack("[{s:s},{s:s},{s:s},{s:s},{s:s}]", "type", "pid", "type", "ipc", "type", "uts",
				       "type", "mount", "type", "cgroup");
	json_t *root =
	    json_pack("{s:o, s:[s,s,s,s,s,s,s,s,s,s], s:[s,s,s,s,s]}", "namespaces", namespaces, "maskedPaths",
		      "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		      "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		      "readonlyPaths", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger");

	json_array_append_new(namespaces, json_pack("{s:s}", "type", rootless ? "user" : "network"));
	if (rootless) {
		json_object_set_new(
		    root, "uidMappings",
		    json_pack("[{s:i,s:i,s:i}]", "containerID", 0, "hostID", (int)geteuid(), "size", 1));
		json_object_set_new(
		    root, "gidMappings",
		    json_pack("[{s:i,s:i,s:i}]", "containerID", 0, "hostID", (int)getegid(), "size", 1));
	} else {
		json_object_set_new(root, "resources",
				    json_pack("{s:[{s:b,s:s}]}", "devices", "allow", false, "access", "rwm"));
	}
	return root;
}

int container_spec(FILE *out, bool rootless, struct error *err)
{
	json_t *root = json_pack("{s:s, s:o, s:{s:s,s:b}, s:s, s:o, s:o}", "ociVersion", OCI_VERSION, "process",
				 spec_process(), "root", "path", "rootfs", "readonly", true, "hostname", "plures",
				 "mounts", spec_mounts(rootless), "linux", spec_linux(rootless));
	char *text = root ? json_dumps(root, JSON_INDENT(4)) : NULL;

	if (text)
		fprintf(out, "%s\n", text);
	free(text);
	json_decref(root);
	return text ? 0 : error_errno(err, -ENOMEM, "spec");
}
