/* SPDX-License-Identifier: Apache-2.0 */
/* oci.c - the command line of an OCI runtime. */
#include "cli/oci.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "container/container.h"
#include "container/log.h"
#include "container/shield.h"
#include "container/state.h"

#define AT(field) offsetof(struct oci_options, field)

static const struct oci_option global_options[] = {
	{ "root", 0, OCI_TEXT, AT(root), "DIR", "Where containers are kept: /run/plures-oci or in $XDG_RUNTIME_DIR." },
	{ "log", 0, OCI_TEXT, AT(log), "FILE", "Where messages go besides standard error." },
	{ "log-format", 0, OCI_TEXT, AT(log_format), "text|json", "How they are written there." },
	{ "debug", 0, OCI_FLAG, AT(debug), NULL, "Says more." },
	{ "systemd-cgroup", 0, OCI_FLAG, AT(systemd_cgroup), NULL, "Lets systemd make the cgroups." },
	{ "rootless", 0, OCI_TEXT, AT(rootless), "auto|true|false", "Is found out; taken for other runtimes' sake." },
	{ "version", 'v', OCI_FLAG, AT(version), NULL, "Prints the version." },
	{ "help", 'h', OCI_FLAG, AT(help), NULL, "Prints this page." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static int help(void)
{
	puts("NAME\n       plures-oci - a runtime of containers, by the OCI's conventions\n\n"
	     "SYNOPSIS\n       plures-oci [OPTION]... VERB [OPTION]... [ARGUMENT]...\n\nVERBS");
	for (const struct oci_verb *v = oci_verbs; v->name; v++)
		printf("       %-10s %s\n", v->name, v->summary);
	puts("\n       plures-oci VERB --help says more about one.\n\nOPTIONS");
	oci_options_help(global_options);
	puts("\nSEE ALSO\n       plures-oci(8)");
	return cli_flush();
}

static int verb_help(const struct oci_verb *verb)
{
	printf("NAME\n       plures-oci %s - %s\n\nSYNOPSIS\n       plures-oci %s %s\n\nOPTIONS\n", verb->name,
	       verb->summary, verb->name, verb->synopsis);
	oci_options_help(verb->options);
	puts("       -h, --help\n              Prints this page.");
	return cli_flush();
}

/* containerd takes the lines apart at ": ". */
static int version(void)
{
	printf("plures-oci version %s\ncommit: %s\nspec: %s\n", PLURES_VERSION, PLURES_VERSION, OCI_VERSION);
	return cli_flush();
}

static int usage(const struct error *err)
{
	log_error("%s (plures-oci --help lists what there is)", err->text);
	return CLI_USAGE;
}

static bool asks_for_help(int argc, char **argv, int at)
{
	return at < argc && (!strcmp(argv[at], "--help") || !strcmp(argv[at], "-h"));
}

static int call(const struct oci_verb *verb, struct oci_options *o, int argc, char **argv, int at)
{
	struct error err = { "" };
	char root[4096];

	if (asks_for_help(argc, argv, at))
		return verb_help(verb);
	if (oci_options_read(verb->options, argc, argv, &at, o, &err)) {
		error_prefix(&err, 0, "%s", verb->name);
		return usage(&err);
	}
	int words = argc - at;

	if (words < verb->min || (verb->max >= 0 && words > verb->max)) {
		error_set(&err, 0, "%s: takes %s%s", verb->name, verb->synopsis[0] ? verb->synopsis : "no argument",
			  words < verb->min ? "" : " and no more");
		return usage(&err);
	}
	if (!o->root)
		o->root = state_default_root(root, sizeof(root));
	int rc = verb->run(o, words, argv + at, &err);

	if (rc < 0) {
		log_error("%s", err.text);
		return verb->run == oci_verbs[2].run || verb->run == oci_verbs[3].run ? container_exit_status(rc)
										      : CLI_ERROR;
	}
	int flushed = cli_flush();

	return flushed ? flushed : rc;
}

static const struct oci_verb *find_verb(const char *name)
{
	for (const struct oci_verb *v = oci_verbs; v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

static void options_fini(struct oci_options *o)
{
	free(o->env);
	free(o->caps);
	free(o->groups);
}

int oci_main(int argc, char **argv, char **command)
{
	struct oci_options o = { 0 };
	struct error err = { "" };
	int at = 1;

	if (oci_options_read(global_options, argc, argv, &at, &o, &err))
		return usage(&err);
	if (o.version)
		return version();
	if (o.help || (at < argc && !strcmp(argv[at], "help")))
		return help();
	if (o.log_format && strcmp(o.log_format, "text") != 0 && strcmp(o.log_format, "json") != 0) {
		error_set(&err, 0, "--log-format: \"%.40s\" is neither text nor json", o.log_format);
		return usage(&err);
	}
	if (log_open(o.log, o.log_format && o.log_format[0] == 'j', o.debug, &err))
		return usage(&err);
	const struct oci_verb *verb = at < argc ? find_verb(argv[at]) : NULL;

	if (!verb) {
		error_set(&err, 0, at < argc ? "\"%.60s\" is not a verb" : "a verb is missing%s",
			  at < argc ? argv[at] : "");
		return usage(&err);
	}
	/* Those that put a process into a container must not let it reach this program's file. */
	if (!strcmp(verb->name, "create") || !strcmp(verb->name, "run") || !strcmp(verb->name, "exec"))
		if (shield_program(command, &err)) {
			log_error("%s", err.text);
			return CLI_ERROR;
		}
	int status = call(verb, &o, argc, argv, at + 1);

	options_fini(&o);
	return status;
}
