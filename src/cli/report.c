/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

int cli_fail(int status, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("plures: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	return status;
}

int cli_usage(const struct cli_verb *verb, const struct error *err)
{
	return cli_fail(CLI_USAGE, "%s: %s (plures %s --help lists the options)", verb->name, err->text, verb->name);
}

int cli_flush(void)
{
	errno = 0;
	if (!fflush(stdout) && !ferror(stdout))
		return CLI_OK;
	return cli_fail(CLI_ERROR, "can't write to standard output: %s", strerror(errno ? errno : EIO));
}
