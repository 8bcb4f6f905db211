/* SPDX-License-Identifier: Apache-2.0 */
/* container.c - `plures container`: a private environment from a root folder, without an engine above it. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/container.h"
#include "container/log.h"
#include "container/shield.h"

extern const struct cli_verb verb_container;

static const struct cli_verb *const verbs[] = {
	&container_run_verb,  &container_ps_verb, &container_exec_verb,  &container_state_verb,  &container_kill_verb,
	&container_stop_verb, &container_rm_verb, &container_pause_verb, &container_resume_verb, NULL
};

static int help(void)
{
	puts("NAME\n       plures container - private environments on this host's own kernel\n\n"
	     "SYNOPSIS\n       plures container VERB [OPTION]... [ARGUMENT]...\n\nVERBS");
	for (unsigned i = 0; verbs[i]; i++)
		printf("       %-8s %s\n", verbs[i]->name + strlen("container "), verbs[i]->summary);
	puts("\n       plures container VERB --help says more about one.\n\nSEE ALSO\n       plures(1), plures-oci(8)");
	return cli_flush();
}

/* A small static program that stands beside this one can do the same, sooner and in less memory, and is started as one that goes into
 * containers has to be. If it isn't there, this one does it. */
static void hand_over(char **argv)
{
	char path[PATH_MAX];
	ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - sizeof("plures-oci"));
	char *slash = size > 0 ? memrchr(path, '/', (size_t)size) : NULL;

	if (!slash)
		return;
	strcpy(slash + 1, "plures");
	if (size == (ssize_t)strlen(path)) { /* this is "plures", not the other one already */
		strcpy(slash + 1, "plures-oci");
		shield_start(path, argv);
	}
}

static int run(int argc, char **argv)
{
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		if (argc >= 2)
			return help();
		return cli_fail(CLI_USAGE, "container: a verb is missing (plures container --help lists them)");
	}
	for (unsigned i = 0; verbs[i]; i++) {
		if (strcmp(verbs[i]->name + strlen("container "), argv[1]) != 0)
			continue;
		hand_over(argv - 1);
		log_program("plures");
		return verbs[i]->run(argc - 1, argv + 1);
	}
	return cli_fail(CLI_USAGE, "container: '%.60s' is not a verb (plures container --help lists them)", argv[1]);
}

int container_shield(char **argv, struct error *err)
{
	/* argv[0] is the verb's second word. */
	return shield_program(argv - 2, err);
}

static const struct cli_option options[] = { { .name = NULL } };

const struct cli_verb verb_container = {
	.name = "container",
	.summary = "private environments on this host's own kernel",
	.synopsis = "VERB [OPTION]... [ARGUMENT]...",
	.description = "Containers without an engine.",
	.options = options,
	.run = run,
};
