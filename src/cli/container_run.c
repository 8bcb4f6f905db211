/* SPDX-License-Identifier: Apache-2.0 */
/* container_run.c - `plures container run` and `exec`. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "cli/container.h"
#include "container/box.h"

struct run_options {
	struct box box;
	const char *root;
	bool init, seccomp, new_privileges, rm;
};

/* ---- options that are more than a word ---- */

static int set_net(void *options, const char *value, struct error *err)
{
	static const char *const names[] = { "none", "host", "user" };
	struct run_options *o = options;

	for (unsigned i = 0; i < 3; i++)
		if (!strcmp(value, names[i])) {
			o->box.net = (enum box_net)i;
			return 0;
		}
	return error_set(err, -EINVAL, "\"%.40s\" is none of none, host, user", value);
}

static int set_users(void *options, const char *value, struct error *err)
{
	static const char *const names[] = { "auto", "single", "host" };
	struct run_options *o = options;

	for (unsigned i = 0; i < 3; i++)
		if (!strcmp(value, names[i])) {
			o->box.users = (enum box_users)i;
			return 0;
		}
	return error_set(err, -EINVAL, "\"%.40s\" is none of auto, single, host", value);
}

static int set_memory(void *options, const char *value, struct error *err)
{
	struct run_options *o = options;
	int rc = size_parse(value, &o->box.memory, err);

	if (!rc && (o->box.memory < 4096 || o->box.memory > INT64_MAX))
		return error_set(err, -EINVAL, "\"%.40s\" is no size of memory: 512M, 2G", value);
	return rc;
}

/* 1.5 CPUs are 150000 microseconds in each tenth of a second. */
static int set_cpus(void *options, const char *value, struct error *err)
{
	struct run_options *o = options;
	char *end;
	double cpus = strtod(value, &end);

	if (end == value || *end || !(cpus >= 0.01 && cpus <= 10000))
		return error_set(err, -EINVAL, "\"%.40s\" is no number of CPUs from 0.01 on: 2, 0.5", value);
	o->box.cpu_quota = (uint64_t)(cpus * 100000 + 0.5);
	return 0;
}

static int set_pids(void *options, const char *value, struct error *err)
{
	struct run_options *o = options;
	uint64_t number;
	int rc = number_parse(value, "N", 1, 4194304, &number, err);

	if (!rc)
		o->box.pids = (unsigned)number;
	return rc;
}

#define LIST(name)                                                                      \
	static int add_##name(void *options, const char *value, struct error *err)      \
	{                                                                               \
		return box_add(&((struct run_options *)options)->box.name, value, err); \
	}
LIST(binds)
LIST(tmpfs)
LIST(env)
LIST(cap_add)
LIST(cap_drop)
#undef LIST

#define AT(field) offsetof(struct run_options, field)

static const struct cli_option run_table[] = {
	{ "name", 0, CLI_STRING, false, AT(box.name), "NAME", "What the other verbs call it. Default: made of ROOTFS.",
	  NULL },
	{ "detach", 'd', CLI_FLAG, false, AT(box.detach), NULL,
	  "Prints the name and returns when CMD runs, which goes on in the background.", NULL },
	{ "log", 0, CLI_STRING, false, AT(box.log), "FILE",
	  "With --detach, where what CMD writes is added. Without it, that goes nowhere.", NULL },
	{ "rm", 0, CLI_FLAG, false, AT(rm), NULL, "Removes the container when it has ended, as happens always.", NULL },
	{ "memory", 'm', CLI_CALL, false, 0, "SIZE", "Limit of memory, such as 512M.", set_memory },
	{ "cpus", 0, CLI_CALL, false, 0, "N", "Limit of CPU time, in CPUs: 0.5, 2.", set_cpus },
	{ "pids", 0, CLI_CALL, false, 0, "N", "How many processes and threads there may be.", set_pids },
	{ "net", 0, CLI_CALL, false, 0, "none|host|user",
	  "none, the default: only a loopback interface. host: this host's network. user: its own, with a way out "
	  "through "
	  "this user's sockets, by pasta or slirp4netns.",
	  set_net },
	{ "bind", 'v', CLI_CALL, false, 0, "SRC:DST[:ro]",
	  "Shows the host's file or folder SRC as DST in the container. May be repeated.", add_binds },
	{ "tmpfs", 0, CLI_CALL, false, 0, "DST", "An empty folder in memory. May be repeated.", add_tmpfs },
	{ "read-only", 0, CLI_FLAG, false, AT(box.read_only), NULL, "Nothing in the root can be changed.", NULL },
	{ "keep", 0, CLI_STRING, false, AT(box.keep), "DIR",
	  "Keeps what the container changes in its root in DIR, and begins with what is there. Without it, changes are "
	  "in "
	  "memory and end with the container.",
	  NULL },
	{ "in-place", 0, CLI_FLAG, false, AT(box.in_place), NULL, "Changes go to ROOTFS itself.", NULL },
	{ "user", 'u', CLI_STRING, false, AT(box.user), "USER[:GROUP]",
	  "Who runs CMD, by name or number, as ROOTFS's /etc/passwd has it. Default: root.", NULL },
	{ "userns", 0, CLI_CALL, false, 0, "auto|single|host",
	  "auto, the default: a user namespace with a range of users; for root one of the host's unused ones, for "
	  "others what "
	  "/etc/subuid gives them, or else only themselves. single: only this user, as root. host: none, for root "
	  "only.",
	  set_users },
	{ "env", 'e', CLI_CALL, false, 0, "NAME[=VALUE]",
	  "A variable; without a value, with the one that it has here. May be repeated.", add_env },
	{ "workdir", 'w', CLI_STRING, false, AT(box.workdir), "DIR", "Where CMD starts. Default: /.", NULL },
	{ "hostname", 0, CLI_STRING, false, AT(box.hostname), "NAME", "Default: the container's name.", NULL },
	{ "tty", 't', CLI_FLAG, false, AT(box.terminal), NULL,
	  "A terminal of its own. That is the default where standard input and output are terminals.", NULL },
	{ "cap-add", 0, CLI_CALL, false, 0, "CAP", "One more capability, or all. May be repeated.", add_cap_add },
	{ "cap-drop", 0, CLI_CALL, false, 0, "CAP", "One capability less, or all. May be repeated.", add_cap_drop },
	{ "new-privileges", 0, CLI_FLAG, true, AT(new_privileges), NULL,
	  "Programs gain nothing by setuid bits and file capabilities.", NULL },
	{ "seccomp", 0, CLI_FLAG, true, AT(seccomp), NULL, "Allows all system calls.", NULL },
	{ "init", 0, CLI_FLAG, true, AT(init), NULL,
	  "CMD is process 1 itself, as an init system wants it; signals that it has no handler for do nothing then.",
	  NULL },
	{ "root", 0, CLI_STRING, false, AT(root), "DIR", "Where the state of containers is.", NULL },
	{ .name = NULL },
};

static int run(int argc, char **argv)
{
	bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	struct run_options o = { .init = true, .seccomp = true, .new_privileges = true, .box.terminal = terminal };
	struct error err = { "" };
	char root[4096];
	int at = 1, status;
	int rc = cli_parse_some(&container_run_verb, argc, argv, &at, &o, &err);

	if (rc == CLI_HELP) {
		cli_verb_help(&container_run_verb, stdout);
		return cli_flush();
	}
	if (!rc && at < argc) {
		o.box.rootfs = argv[at++];
		at += at < argc && !strcmp(argv[at], "--");
	}
	if (!rc && !o.box.rootfs)
		rc = error_set(&err, -EINVAL, "ROOTFS is missing: plures container run [OPTION]... ROOTFS -- CMD");
	if (!rc && at >= argc)
		rc = error_set(&err, -EINVAL, "CMD is missing: plures container run [OPTION]... ROOTFS -- CMD");
	if (rc)
		return cli_usage(&container_run_verb, &err);
	o.box.args = (const char *const *)(argv + at);
	o.box.no_init = !o.init;
	o.box.no_seccomp = !o.seccomp;
	o.box.no_new_privileges = !o.new_privileges;
	if (container_shield(argv, &err))
		return cli_fail(CLI_ERROR, "container run: %s", err.text);
	rc = box_run(&o.box, o.root ? o.root : box_default_root(root, sizeof(root)), stdout, &status, &err);
	if (rc)
		return cli_fail(status, "container run: %s", err.text);
	int flushed = cli_flush();

	return flushed ? flushed : status;
}

const struct cli_verb container_run_verb = {
	.name = "container run",
	.summary = "run a command in a root folder of its own",
	.synopsis = "[OPTION]... ROOTFS -- CMD [ARG]...",
	.description = "Runs CMD with the folder ROOTFS as its root, in namespaces of its own, until it ends. Nothing "
		       "in ROOTFS is changed. "
		       "Signals are handed on to CMD.",
	.notes = "\nEXIT STATUS\n"
		 "       CMD's own, or 128 and the signal that ended it.\n"
		 "       2    Wrong usage.\n"
		 "       125  The container could not be made.\n"
		 "       126  CMD can't be executed.\n"
		 "       127  CMD was not found.\n",
	.options = run_table,
	.run = run,
};

/* ---- exec ---- */

struct exec_options {
	struct box_exec exec;
	const char *root;
};

static int add_exec_env(void *options, const char *value, struct error *err)
{
	if (!strchr(value, '=') || value[0] == '=')
		return error_set(err, -EINVAL, "\"%.60s\" is no NAME=VALUE", value);
	return box_add(&((struct exec_options *)options)->exec.env, value, err);
}

static const struct cli_option exec_table[] = {
	{ "user", 'u', CLI_STRING, false, offsetof(struct exec_options, exec.user), "USER[:GROUP]",
	  "Who runs CMD. Default: who runs the container's.", NULL },
	{ "env", 'e', CLI_CALL, false, 0, "NAME=VALUE", "One more variable. May be repeated.", add_exec_env },
	{ "workdir", 'w', CLI_STRING, false, offsetof(struct exec_options, exec.workdir), "DIR", "Where CMD starts.",
	  NULL },
	{ "tty", 't', CLI_FLAG, false, offsetof(struct exec_options, exec.terminal), NULL,
	  "A terminal of its own. That is the default where standard input and output are terminals.", NULL },
	{ "root", 0, CLI_STRING, false, offsetof(struct exec_options, root), "DIR", "Where the state of containers is.",
	  NULL },
	{ .name = NULL },
};

static int exec(int argc, char **argv)
{
	struct exec_options o = { .exec.terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) };
	struct error err = { "" };
	char root[4096];
	int at = 1, status;
	int rc = cli_parse_some(&container_exec_verb, argc, argv, &at, &o, &err);

	if (rc == CLI_HELP) {
		cli_verb_help(&container_exec_verb, stdout);
		return cli_flush();
	}
	if (!rc && at < argc) {
		o.exec.name = argv[at++];
		at += at < argc && !strcmp(argv[at], "--");
	}
	if (!rc && at >= argc)
		rc = error_set(&err, -EINVAL, "NAME or CMD is missing: plures container exec [OPTION]... NAME -- CMD");
	if (rc)
		return cli_usage(&container_exec_verb, &err);
	o.exec.args = (const char *const *)(argv + at);
	if (container_shield(argv, &err))
		return cli_fail(CLI_ERROR, "container exec: %s", err.text);
	rc = box_exec(&o.exec, o.root ? o.root : box_default_root(root, sizeof(root)), &status, &err);
	return rc ? cli_fail(status, "container exec: %s", err.text) : status;
}

const struct cli_verb container_exec_verb = {
	.name = "container exec",
	.summary = "run one more command in a container",
	.synopsis = "[OPTION]... NAME -- CMD [ARG]...",
	.description = "Runs CMD in a container that runs, with the environment and the rights of the container's own "
		       "command. The exit status is "
		       "as that of run.",
	.options = exec_table,
	.run = exec,
};
