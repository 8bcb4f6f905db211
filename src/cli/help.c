/* SPDX-License-Identifier: Apache-2.0 */
/* help.c - --help, laid out as a manual page is, from the verbs' tables. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

enum { WIDTH = 80 };

/* Prints a paragraph filled to WIDTH with an indent. */
static void fill(FILE *out, unsigned indent, const char *text)
{
	while (*text) {
		size_t size = strlen(text), room = WIDTH - indent;
		if (size > room) {
			size = room;
			while (size && text[size] != ' ')
				size--;
			if (!size)
				size = strcspn(text, " ");
		}
		fprintf(out, "%*s%.*s\n", (int)indent, "", (int)size, text);
		text += size;
		text += strspn(text, " ");
	}
}

static void option_help(FILE *out, const struct cli_option *o)
{
	fputs("       ", out);
	if (o->letter)
		fprintf(out, "-%c, ", o->letter);
	if (o->kind == CLI_FLAG)
		fprintf(out, "--%s%s", o->default_on ? "no-" : "", o->name);
	else
		fprintf(out, "--%s %s", o->name, o->value);
	fputc('\n', out);
	fill(out, 14, o->help);
}

void cli_verb_help(const struct cli_verb *verb, FILE *out)
{
	fprintf(out, "NAME\n       plures %s - %s\n", verb->name, verb->summary);
	fprintf(out, "\nSYNOPSIS\n       plures %s %s\n", verb->name, verb->synopsis);
	fputs("\nDESCRIPTION\n", out);
	fill(out, 7, verb->description);
	fputs("\nOPTIONS\n", out);
	for (const struct cli_option *o = verb->options; o->name; o++)
		option_help(out, o);
	fputs("       -h, --help\n              Prints this page.\n", out);
	if (verb->notes)
		fputs(verb->notes, out);
}
