/* SPDX-License-Identifier: Apache-2.0 */
/* container_verbs.c - `plures container`: what concerns a container that is there. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "cli/container.h"
#include "cli/oci.h"
#include "container/box.h"
#include "container/container.h"

struct options {
	const char *root;
	bool json, force;
	unsigned seconds;
	char root_text[4096];
};

#define ROOT_OPTION                                                                  \
	{                                                                            \
		"root", 0, CLI_STRING, false, offsetof(struct options, root), "DIR", \
		    "Where the state of containers is.", NULL                        \
	}

static const struct cli_option root_table[] = { ROOT_OPTION, { .name = NULL } };

static const struct cli_option ps_table[] = {
	{ "json", 0, CLI_FLAG, false, offsetof(struct options, json), NULL, "Prints a list of JSON objects.", NULL },
	ROOT_OPTION,
	{ .name = NULL },
};

static const struct cli_option stop_table[] = {
	{ "time", 0, CLI_NUMBER, false, offsetof(struct options, seconds), "SECONDS",
	  "How long its command has to end by itself. Default: 10.", NULL },
	ROOT_OPTION,
	{ .name = NULL },
};

static const struct cli_option rm_table[] = {
	{ "force", 'f', CLI_FLAG, false, offsetof(struct options, force), NULL,
	  "Also one that runs, which is killed; one that is not there is no error.", NULL },
	ROOT_OPTION,
	{ .name = NULL },
};

/* Reads options and as many words; an exit status, or -1 to go on. */
static int begin(const struct cli_verb *verb, int argc, char **argv, int *at, int min, int max, struct options *o)
{
	struct error err = { "" };

	*at = 1;
	*o = (struct options){ .seconds = 10 };
	int rc = cli_parse_some(verb, argc, argv, at, o, &err);

	if (rc == CLI_HELP) {
		cli_verb_help(verb, stdout);
		return cli_flush();
	}
	if (!rc && (argc - *at < min || argc - *at > max))
		rc =
		    error_set(&err, -EINVAL, "%s", argc - *at < min ? "NAME is missing" : "that is more than it takes");
	if (rc)
		return cli_usage(verb, &err);
	if (!o->root)
		o->root = box_default_root(o->root_text, sizeof(o->root_text));
	return -1;
}

static int end(const struct cli_verb *verb, int rc, const struct error *err)
{
	return rc ? cli_fail(CLI_ERROR, "%s: %s", verb->name, err->text) : cli_flush();
}

static int run_ps(int argc, char **argv)
{
	struct error err = { "" };
	struct options o;
	int at, status = begin(&container_ps_verb, argc, argv, &at, 0, 0, &o);

	return status >= 0 ? status : end(&container_ps_verb, box_list(o.root, o.json, stdout, &err), &err);
}

static int run_state(int argc, char **argv)
{
	struct error err = { "" };
	struct options o;
	int at, status = begin(&container_state_verb, argc, argv, &at, 1, 1, &o);

	return status >= 0 ? status : end(&container_state_verb, container_state(o.root, argv[at], stdout, &err), &err);
}

static int run_kill(int argc, char **argv)
{
	struct error err = { "" };
	struct options o;
	int at, status = begin(&container_kill_verb, argc, argv, &at, 1, 2, &o);

	if (status >= 0)
		return status;
	int number = oci_signal(at + 1 < argc ? argv[at + 1] : "KILL", &err);

	if (number < 0)
		return cli_usage(&container_kill_verb, &err);
	return end(&container_kill_verb, container_kill(o.root, argv[at], number, false, &err), &err);
}

static int run_stop(int argc, char **argv)
{
	struct error err = { "" };
	struct options o;
	int at, status = begin(&container_stop_verb, argc, argv, &at, 1, 1, &o);

	if (status < 0 && o.seconds > 86400) {
		error_set(&err, 0, "--time: %u is more than a day", o.seconds);
		return cli_usage(&container_stop_verb, &err);
	}
	return status >= 0 ? status : end(&container_stop_verb, box_stop(o.root, argv[at], o.seconds, &err), &err);
}

static int run_rm(int argc, char **argv)
{
	struct error err = { "" };
	struct options o;
	int at, status = begin(&container_rm_verb, argc, argv, &at, 1, 1, &o);

	return status >= 0 ? status : end(&container_rm_verb, box_remove(o.root, argv[at], o.force, &err), &err);
}

static int pause_one(const struct cli_verb *verb, int argc, char **argv, bool pause)
{
	struct error err = { "" };
	struct options o;
	int at, status = begin(verb, argc, argv, &at, 1, 1, &o);

	return status >= 0 ? status : end(verb, container_pause(o.root, argv[at], pause, &err), &err);
}

static int run_pause(int argc, char **argv)
{
	return pause_one(&container_pause_verb, argc, argv, true);
}

static int run_resume(int argc, char **argv)
{
	return pause_one(&container_resume_verb, argc, argv, false);
}

const struct cli_verb container_ps_verb = {
	.name = "container ps",
	.summary = "list containers",
	.synopsis = "[OPTION]...",
	.description = "Lists this user's containers. What is left of those whose processes were killed is removed.",
	.options = ps_table,
	.run = run_ps,
};

const struct cli_verb container_state_verb = {
	.name = "container state",
	.summary = "print a container's state as JSON",
	.synopsis = "[OPTION]... NAME",
	.description = "Prints the state as the OCI runtime specification has it.",
	.options = root_table,
	.run = run_state,
};

const struct cli_verb container_kill_verb = {
	.name = "container kill",
	.summary = "send a signal to a container's command",
	.synopsis = "[OPTION]... NAME [SIGNAL]",
	.description = "Sends a signal, by name or number. Default: KILL.",
	.options = root_table,
	.run = run_kill,
};

const struct cli_verb container_stop_verb = {
	.name = "container stop",
	.summary = "end a container",
	.synopsis = "[OPTION]... NAME",
	.description = "Asks the command to end with SIGTERM, and kills it if it does not. Returns when nothing of the "
		       "container is left.",
	.options = stop_table,
	.run = run_stop,
};

const struct cli_verb container_rm_verb = {
	.name = "container rm",
	.summary = "remove what is left of a container",
	.synopsis = "[OPTION]... NAME",
	.description = "Removes a container that has ended and could not be removed then.",
	.options = rm_table,
	.run = run_rm,
};

const struct cli_verb container_pause_verb = {
	.name = "container pause",
	.summary = "stop all processes of a container for a while",
	.synopsis = "[OPTION]... NAME",
	.description =
	    "Stops all processes of a container until resume. That takes a cgroup, which only root has always.",
	.options = root_table,
	.run = run_pause,
};

const struct cli_verb container_resume_verb = {
	.name = "container resume",
	.summary = "let a paused container go on",
	.synopsis = "[OPTION]... NAME",
	.description = "Lets the processes of a paused container go on.",
	.options = root_table,
	.run = run_resume,
};
