/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci.h - the command line of an OCI runtime, as engines send it to runc: `plures oci` and `plures-oci`.
 *
 * Options stand before the verb and, others, behind it; what follows the first word that is none is the verb's own. A table per verb
 * is what the parser reads and what --help prints.
 */
#ifndef PLURES_CLI_OCI_H
#define PLURES_CLI_OCI_H

#include <stdbool.h>

#include "base/error.h"

struct oci_options {
	const char *root, *log, *log_format, *rootless;
	bool debug, systemd_cgroup, version, help;
	/* Of verbs. */
	const char *bundle, *console_socket, *pid_file, *process, *cwd, *user, *apparmor, *label, *format, *resources,
	    *interval;
	bool no_pivot, no_new_keyring, detach, keep, tty, no_new_privs, all, force, quiet, stats, keyring;
	unsigned preserve;
	const char **env, **caps, **groups; /* of as many as there are words */
	unsigned env_count, cap_count, group_count;
	const char *limits[24]; /* of update, in the order of its table */
};

enum oci_kind { OCI_FLAG, OCI_TEXT, OCI_LIST, OCI_COUNT, OCI_LIMIT };

struct oci_option {
	const char *name; /* NULL ends a table */
	char letter;
	enum oci_kind kind;
	unsigned offset; /* in struct oci_options; of a limit, its number */
	const char *value, *help;
};

struct oci_verb {
	const char *name, *synopsis, *summary;
	const struct oci_option *options;
	int min, max; /* how many words it takes; max -1 is any */
	int (*run)(const struct oci_options *options, int argc, char **argv, struct error *err);
};

/* Reads options from argv[*at] on. Stops at the first word that is none, or after "--". -EINVAL and what is wrong. */
int oci_options_read(const struct oci_option *table, int argc, char **argv, int *at, struct oci_options *options,
		     struct error *err);
void oci_options_help(const struct oci_option *table);

extern const struct oci_verb oci_verbs[]; /* ended by a NULL name */
extern const struct oci_option oci_update_options[];
int oci_update(const struct oci_options *options, int argc, char **argv, struct error *err);

/* "9", "KILL", "SIGKILL", "RTMIN+3" as a number. -EINVAL. */
int oci_signal(const char *text, struct error *err);

/* The program: argv[0] is not looked at. `command` is all of the process's own, to start it anew with. Returns the exit status. */
int oci_main(int argc, char **argv, char **command);

#endif
