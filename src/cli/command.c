/* SPDX-License-Identifier: Apache-2.0 */
/* command.c - from the command line to a verb. */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

#define VERB(name) extern const struct cli_verb verb_##name;
#include "cli/verbs.def"
#undef VERB

const struct cli_verb *const cli_verbs[] = {
#define VERB(name) &verb_##name,
#include "cli/verbs.def"
#undef VERB
	NULL,
};

/* Descriptors 0-2 that are closed would be given to the first files that we open, and the guest's console with them.
 * What stands in is a directory opened with O_PATH: it gives EBADF to everyone, as a closed descriptor does. */
static bool fill_standard_descriptors(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/", O_PATH) != fd)
			return false;
	return true;
}

void cli_help(FILE *out)
{
	fputs("NAME\n       plures - virtual machines, with or without hardware for them\n", out);
	fputs("\nSYNOPSIS\n       plures VERB [OPTION]...\n       plures --help | --version\n", out);
	fputs("\nVERBS\n", out);
	for (unsigned i = 0; cli_verbs[i]; i++)
		fprintf(out, "       %-9s %s\n", cli_verbs[i]->name, cli_verbs[i]->summary);
	fputs("\n       plures VERB --help says more about one.\n"
	      "\nEXIT STATUS\n"
	      "       0    The guest powered off, or was left with Ctrl-].\n"
	      "       1    An error of the host, or in a file.\n"
	      "       2    Wrong usage.\n"
	      "       3    The guest was stopped: a triple fault, or a signal. The reason is\n"
	      "            printed.\n"
	      "       (V << 1) | 1, where the guest wrote V to the debug exit port.\n"
	      "\nSEE ALSO\n       plures(1)\n",
	      out);
}

static const struct cli_verb *find_verb(const char *name)
{
	for (unsigned i = 0; cli_verbs[i]; i++)
		if (!strcmp(cli_verbs[i]->name, name))
			return cli_verbs[i];
	return NULL;
}

static int help(char *about)
{
	const struct cli_verb *verb = about ? find_verb(about) : NULL;

	if (verb && !verb->options->name) { /* it has a page of its own */
		char program[] = "plures", page[] = "--help";
		char *argv[] = { program, about, page, NULL };
		return verb->run(2, argv + 1);
	}
	if (verb)
		cli_verb_help(verb, stdout);
	else
		cli_help(stdout);
	return cli_flush();
}

int cli_main(int argc, char **argv)
{
	if (!fill_standard_descriptors())
		return CLI_ERROR;
	signal(SIGPIPE, SIG_IGN); /* a reader that is gone is an error of write, which says more */
	if (argc < 2) {
		cli_help(stderr);
		return CLI_USAGE;
	}
	const char *word = argv[1];
	if (!strcmp(word, "--version") || !strcmp(word, "version")) {
		puts("plures " PLURES_VERSION);
		return cli_flush();
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help"))
		return help(argc > 2 ? argv[2] : NULL);
	const struct cli_verb *verb = find_verb(word);
	if (!verb)
		return cli_fail(CLI_USAGE, "'%.80s' is not a verb: plures --help lists them", word);
	return verb->run(argc - 1, argv + 1);
}
