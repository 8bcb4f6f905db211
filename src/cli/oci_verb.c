/* SPDX-License-Identifier: Apache-2.0 */
/* oci_verb.c - `plures oci`: the same as plures-oci, from the one program. */
#include "cli/cli.h"
#include "cli/oci.h"

extern const struct cli_verb verb_oci;

static int run(int argc, char **argv)
{
	return oci_main(argc, argv, argv - 1);
}

static const struct cli_option options[] = { { NULL, 0, CLI_FLAG, false, 0, NULL, NULL, NULL } };

const struct cli_verb verb_oci = {
	.name = "oci",
	.summary = "containers, as OCI runtimes make them",
	.synopsis = "[OPTION]... VERB [OPTION]... [ARGUMENT]...",
	.description = "What plures-oci(8) does. Engines are given that program, which starts faster.",
	.options = options,
	.run = run,
};
