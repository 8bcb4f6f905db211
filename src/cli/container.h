/* SPDX-License-Identifier: Apache-2.0 */
/* container.h - the verbs of `plures container`, each of whose names begins with "container ". */
#ifndef PLURES_CLI_CONTAINER_H
#define PLURES_CLI_CONTAINER_H

#include "cli/cli.h"

extern const struct cli_verb container_run_verb, container_exec_verb, container_ps_verb, container_state_verb,
    container_kill_verb, container_stop_verb, container_rm_verb, container_pause_verb, container_resume_verb;

/* Before a process of ours goes into a container: this program starts anew from a file that can't be reached from there. `argv` is
 * what the verb was run with. Returns only in that new program, or with an error. */
int container_shield(char **argv, struct error *err);

#endif
