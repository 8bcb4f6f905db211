/* SPDX-License-Identifier: Apache-2.0 */
/* oci_verbs.c - the operations, each with its options. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/oci.h"
#include "container/container.h"

#define AT(field) offsetof(struct oci_options, field)

/* What a launch takes of the options. */
static struct container_launch launch_of(const struct oci_options *o, const char *id)
{
	return (struct container_launch){
		.root = o->root,
		.id = id,
		.bundle = o->bundle,
		.console_socket = o->console_socket,
		.pid_file = o->pid_file,
		.no_pivot = o->no_pivot,
		.no_new_keyring = o->no_new_keyring,
		.systemd = o->systemd_cgroup,
		.preserve = o->preserve,
		.detach = o->detach,
		.keep = o->keep,
		.process_file = o->process,
		.cwd = o->cwd,
		.user = o->user,
		.env = o->env,
		.caps = o->caps,
		.groups = o->groups,
		.terminal = o->tty,
		.no_new_privileges = o->no_new_privs,
		.apparmor = o->apparmor,
		.selinux = o->label,
	};
}

/* ---- create, run, exec ---- */

#define LAUNCH_OPTIONS                                                                                                 \
	{ "bundle", 'b', OCI_TEXT, AT(bundle), "DIR", "Where config.json is. Default: the current folder." },          \
	    { "console-socket",   0,      OCI_TEXT,                                                                    \
	      AT(console_socket), "PATH", "A Unix socket, to which the master of the container's terminal is sent." }, \
	    { "pid-file", 0, OCI_TEXT, AT(pid_file), "FILE", "Gets the number of the container's process." },          \
	    { "no-pivot",   0,    OCI_FLAG,                                                                            \
	      AT(no_pivot), NULL, "Moves the root instead of pivot_root, for a root on a ramfs." },                    \
	    { "no-new-keyring", 0, OCI_FLAG, AT(no_new_keyring), NULL, "Keeps the caller's session keyring." },        \
	{                                                                                                              \
		"preserve-fds", 0, OCI_COUNT, AT(preserve), "N", "Hands on N descriptors after 2."                     \
	}

static const struct oci_option create_options[] = {
	LAUNCH_OPTIONS,
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option run_options[] = {
	LAUNCH_OPTIONS,
	{ "detach", 'd', OCI_FLAG, AT(detach), NULL, "Does not wait for the container to end, nor deletes it." },
	{ "keep", 0, OCI_FLAG, AT(keep), NULL, "Does not delete the container when it has ended." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option exec_options[] = {
	{ "process", 'p', OCI_TEXT, AT(process), "FILE", "A process as config.json has one." },
	{ "console-socket", 0, OCI_TEXT, AT(console_socket), "PATH",
	  "A Unix socket, to which the master of the process's terminal is sent." },
	{ "pid-file", 0, OCI_TEXT, AT(pid_file), "FILE", "Gets the number of the process." },
	{ "detach", 'd', OCI_FLAG, AT(detach), NULL, "Does not wait for the process." },
	{ "cwd", 0, OCI_TEXT, AT(cwd), "DIR", "The process's folder." },
	{ "env", 'e', OCI_LIST, 0, "NAME=VALUE", "One more variable. May be repeated." },
	{ "tty", 't', OCI_FLAG, AT(tty), NULL, "Gives the process a terminal." },
	{ "user", 'u', OCI_TEXT, AT(user), "UID[:GID]", "Who runs it." },
	{ "additional-gids", 'g', OCI_LIST, 0, "GID", "One more group. May be repeated." },
	{ "cap", 'c', OCI_LIST, 0, "CAP_NAME", "One more capability. May be repeated." },
	{ "no-new-privs", 0, OCI_FLAG, AT(no_new_privs), NULL, "Sets no_new_privs." },
	{ "apparmor", 0, OCI_TEXT, AT(apparmor), "PROFILE", "The process's AppArmor profile." },
	{ "process-label", 0, OCI_TEXT, AT(label), "LABEL", "The process's SELinux label." },
	{ "preserve-fds", 0, OCI_COUNT, AT(preserve), "N", "Hands on N descriptors after 2." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static int do_create(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	const struct container_launch launch = launch_of(o, argv[0]);

	(void)argc;
	return container_create(&launch, err);
}

static int do_run(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	const struct container_launch launch = launch_of(o, argv[0]);
	int status = 0, rc = container_run(&launch, &status, err);

	(void)argc;
	return rc ? rc : status;
}

static int do_exec(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	struct container_launch launch = launch_of(o, argv[0]);
	int status = 0;

	(void)argc;
	/* "exec ID -- CMD" as well as "exec ID CMD". */
	launch.args = (const char *const *)(argv + 1 + (argv[1] && !strcmp(argv[1], "--")));
	int rc = container_exec(&launch, &status, err);

	return rc ? rc : status;
}

/* ---- kill, delete, and the rest ---- */

static const struct oci_option kill_options[] = {
	{ "all", 'a', OCI_FLAG, AT(all), NULL, "To all processes of the container." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option delete_options[] = {
	{ "force", 'f', OCI_FLAG, AT(force), NULL, "Kills one that runs; one that is not there is no error." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option list_options[] = {
	{ "format", 'f', OCI_TEXT, AT(format), "table|json", "How it is printed." },
	{ "quiet", 'q', OCI_FLAG, AT(quiet), NULL, "Only IDs." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option ps_options[] = {
	{ "format", 'f', OCI_TEXT, AT(format), "table|json", "How it is printed: ps(1)'s table, or numbers." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option events_options[] = {
	{ "stats", 0, OCI_FLAG, AT(stats), NULL, "Prints statistics once." },
	{ "interval", 0, OCI_TEXT, AT(interval), "TIME", "Between statistics: 5s, the default, or 1m." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option spec_options[] = {
	{ "bundle", 'b', OCI_TEXT, AT(bundle), "DIR", "Where it is written. Default: the current folder." },
	{ "rootless", 0, OCI_FLAG, AT(keyring), NULL, "For an unprivileged user." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static const struct oci_option no_options[] = { { NULL, 0, OCI_FLAG, 0, NULL, NULL } };

static int do_start(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)argc;
	return container_start(o->root, argv[0], err);
}

int oci_signal(const char *text, struct error *err)
{
	char *end;
	long number = strtol(text, &end, 10);
	const char *name = !strncasecmp(text, "SIG", 3) ? text + 3 : text;

	if (end != text && !*end && number >= 0 && number <= SIGRTMAX)
		return (int)number;
	for (int i = 1; i < SIGRTMIN; i++)
		if (sigabbrev_np(i) && !strcasecmp(sigabbrev_np(i), name))
			return i;
	if (!strncasecmp(name, "RTMIN", 5) || !strncasecmp(name, "RTMAX", 5)) {
		number =
		    (strncasecmp(name, "RTMIN", 5) ? SIGRTMAX : SIGRTMIN) + (name[5] ? strtol(name + 5, &end, 10) : 0);
		if ((!name[5] || !*end) && number >= SIGRTMIN && number <= SIGRTMAX)
			return (int)number;
	}
	return error_set(err, -EINVAL, "\"%.40s\" is no signal", text);
}

static int do_kill(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	int number = argc > 1 ? oci_signal(argv[1], err) : SIGTERM;

	return number < 0 ? number : container_kill(o->root, argv[0], number, o->all, err);
}

static int do_delete(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)argc;
	return container_delete(o->root, argv[0], o->force, err);
}

static int do_pause(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)argc;
	return container_pause(o->root, argv[0], true, err);
}

static int do_resume(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)argc;
	return container_pause(o->root, argv[0], false, err);
}

static int do_state(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)argc;
	return container_state(o->root, argv[0], stdout, err);
}

/* True for json, false for table or nothing. */
static int wants_json(const struct oci_options *o, struct error *err)
{
	if (!o->format || !strcmp(o->format, "table"))
		return 0;
	return strcmp(o->format, "json")
		   ? error_set(err, -EINVAL, "--format: \"%.40s\" is neither table nor json", o->format)
		   : 1;
}

static int do_list(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	int json = wants_json(o, err);

	(void)argc;
	(void)argv;
	return json < 0 ? json
			: container_list(o->root,
					 o->quiet ? LIST_QUIET
					 : json   ? LIST_JSON
						  : LIST_TABLE,
					 stdout, err);
}

static int do_ps(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	int json = wants_json(o, err);

	(void)argc;
	return json < 0 ? json : container_ps(o->root, argv[0], json, (const char *const *)(argv + 1), stdout, err);
}

static int do_events(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	char *end = NULL;
	unsigned long seconds = o->interval ? strtoul(o->interval, &end, 10) : 5;

	(void)argc;
	if (end && *end == 'm' && !end[1] && seconds <= 1440)
		seconds *= 60;
	else if (end && (end == o->interval || (*end && strcmp(end, "s") != 0)))
		seconds = 0;
	if (!seconds || seconds > 86400)
		return error_set(err, -EINVAL, "--interval: \"%.40s\" is no time like 5s or 1m", o->interval);
	return container_events(o->root, argv[0], o->stats, (unsigned)seconds, stdout, err);
}

static int do_features(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)o;
	(void)argc;
	(void)argv;
	return container_features(stdout, err);
}

static int do_spec(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)argc;
	(void)argv;
	if (o->bundle && chdir(o->bundle))
		return error_errno(err, -errno, "--bundle: can't enter %s", o->bundle);
	FILE *file = fopen("config.json", "wxe");

	if (!file)
		return error_errno(err, -errno, "can't make config.json");
	int rc = container_spec(file, o->keyring, err);

	if (fclose(file) && !rc)
		rc = error_errno(err, -errno, "can't write config.json");
	if (rc)
		unlink("config.json");
	return rc;
}

static int do_unsupported(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	(void)o;
	(void)argc;
	(void)argv;
	return error_set(err, -ENOTSUP, "checkpoint and restore are not supported");
}

const struct oci_verb oci_verbs[] = {
	{ "create", "[OPTION]... ID", "makes a container whose process waits for start", create_options, 1, 1,
	  do_create },
	{ "start", "ID", "lets a container's process go on", no_options, 1, 1, do_start },
	{ "run", "[OPTION]... ID", "makes a container, waits for it to end, and deletes it", run_options, 1, 1,
	  do_run },
	{ "exec", "[OPTION]... ID [CMD [ARG]...]", "runs one more process in a container", exec_options, 1, -1,
	  do_exec },
	{ "kill", "[--all] ID [SIGNAL]", "sends a signal; default: TERM", kill_options, 1, 2, do_kill },
	{ "delete", "[--force] ID", "removes what is left of a container", delete_options, 1, 1, do_delete },
	{ "state", "ID", "prints a container's state as JSON", no_options, 1, 1, do_state },
	{ "list", "[OPTION]...", "lists containers", list_options, 0, 0, do_list },
	{ "ps", "[OPTION] ID [PS-OPTION]...", "lists a container's processes", ps_options, 1, -1, do_ps },
	{ "pause", "ID", "stops all processes of a container", no_options, 1, 1, do_pause },
	{ "resume", "ID", "lets them go on", no_options, 1, 1, do_resume },
	{ "update", "[OPTION]... ID", "changes a container's limits", oci_update_options, 1, 1, oci_update },
	{ "events", "[OPTION]... ID", "prints statistics and events as JSON", events_options, 1, 1, do_events },
	{ "spec", "[OPTION]...", "writes a config.json to begin with", spec_options, 0, 0, do_spec },
	{ "features", "", "prints what this runtime can do, as JSON", no_options, 0, 0, do_features },
	{ "checkpoint", "ID", "is not supported", no_options, 0, -1, do_unsupported },
	{ "restore", "ID", "is not supported", no_options, 0, -1, do_unsupported },
	{ NULL, NULL, NULL, NULL, 0, 0, NULL },
};
