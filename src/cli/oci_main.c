/* SPDX-License-Identifier: Apache-2.0 */
/* oci_main.c - plures-oci, the program that engines start. */
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/oci.h"

extern const struct cli_verb verb_container;

int main(int argc, char **argv)
{
	/* A standard descriptor that is closed would be given to the first file that we open; see cli/command.c. */
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/", O_PATH) != fd)
			return CLI_ERROR;
	signal(SIGPIPE, SIG_IGN);
	/* `plures container` hands over to this program, which is there sooner. */
	if (argc > 1 && !strcmp(argv[1], verb_container.name))
		return verb_container.run(argc - 1, argv + 1);
	return oci_main(argc, argv, argv);
}
