/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli.h - the verbs of the `plures` command, and how they take their options.
 *
 * A verb is a file with a struct cli_verb and a line in verbs.def. Its table of options is what the parser reads and
 * what --help prints, so neither can forget one. Only this folder prints to the user and decides exit statuses.
 */
#ifndef PLURES_CLI_CLI_H
#define PLURES_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/error.h"

#define PLURES_VERSION "0.1.0"

/* Exit statuses. A guest's own (debug exit) may be any. */
enum {
	CLI_OK = 0,
	CLI_ERROR = 1,  /* the host's, or of a file */
	CLI_USAGE = 2,  /* of the command line */
	CLI_KILLED = 3, /* the guest was stopped */
};

enum cli_kind {
	CLI_FLAG,   /* bool; --NAME sets it, --no-NAME clears it */
	CLI_STRING, /* const char * */
	CLI_SIZE,   /* uint64_t: 512M */
	CLI_NUMBER, /* unsigned */
	CLI_CALL,   /* `call` with the verb's options struct and the value */
};

struct cli_option {
	const char *name; /* without dashes */
	char letter;      /* a short form, or 0 */
	enum cli_kind kind;
	bool default_on;   /* of a flag: --help lists it as --no-NAME */
	size_t offset;     /* of the variable in the verb's options struct */
	const char *value; /* what --help calls the value */
	const char *help;  /* sentences */
	int (*call)(void *options, const char *value, struct error *err);
};

struct cli_verb {
	const char *name;
	const char *summary;               /* a line for the list of verbs */
	const char *synopsis;              /* after "plures NAME" */
	const char *description;           /* a paragraph */
	const char *notes;                 /* after the options, laid out already; or NULL */
	const struct cli_option *options;  /* ended by a NULL name */
	int (*run)(int argc, char **argv); /* argv[0] is the verb; returns an exit status */
};

/* All of verbs.def, ended by NULL. */
extern const struct cli_verb *const cli_verbs[];

/* Runs the command. argv is main's; returns the exit status. */
int cli_main(int argc, char **argv);
void cli_help(FILE *out);

/* ---- options.c ---- */

enum { CLI_HELP = 1 }; /* of cli_parse: --help or -h was met */

/* Reads argv[1..] into the verb's options struct, which holds the defaults. 0, CLI_HELP, or -EINVAL and what is wrong. */
int cli_parse(const struct cli_verb *verb, int argc, char **argv, void *options, struct error *err);

/* The same for a verb that takes words too: begins at argv[*at] and stops at the first word that is no option, or behind "--". */
int cli_parse_some(const struct cli_verb *verb, int argc, char **argv, int *at, void *options, struct error *err);

/* ---- help.c ---- */

void cli_verb_help(const struct cli_verb *verb, FILE *out);

/* ---- report.c ---- */

/* Print "plures: ..." to stderr and return the status; cli_usage says where the options are listed. */
int cli_fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_usage(const struct cli_verb *verb, const struct error *err);

/* Makes sure that what was printed to stdout has arrived: CLI_OK, or CLI_ERROR after saying why not. */
int cli_flush(void);

#endif
