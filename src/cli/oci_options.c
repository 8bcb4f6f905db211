/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/oci.h"

static const struct oci_option *find(const struct oci_option *table, const char *name, size_t size)
{
	for (; table->name; table++)
		if (strlen(table->name) == size && !memcmp(table->name, name, size))
			return table;
	return NULL;
}

static const struct oci_option *find_letter(const struct oci_option *table, char letter)
{
	for (; table->name; table++)
		if (table->letter == letter && letter)
			return table;
	return NULL;
}

static int add(const char ***list, unsigned *count, const char *value)
{
	const char **more = realloc(*list, (*count + 2) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	more[(*count)++] = value;
	more[*count] = NULL;
	*list = more;
	return 0;
}

static int set(const struct oci_option *o, const char *value, struct oci_options *options, struct error *err)
{
	char *variable = (char *)options + o->offset, *end;
	unsigned long number;

	switch (o->kind) {
	case OCI_FLAG:
		if (value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
			return error_set(err, -EINVAL, "--%s: \"%.40s\" is neither true nor false", o->name, value);
		*(bool *)variable = !value || value[0] == 't';
		return 0;
	case OCI_TEXT:
		*(const char **)variable = value;
		return 0;
	case OCI_COUNT:
		number = strtoul(value, &end, 10);
		if (end == value || *end || number > 1000000 || value[0] == '-')
			return error_set(err, -EINVAL, "--%s: \"%.40s\" is no number", o->name, value);
		*(unsigned *)variable = (unsigned)number;
		return 0;
	case OCI_LIST:
		if (o->letter == 'e')
			return add(&options->env, &options->env_count, value);
		return o->letter == 'c' ? add(&options->caps, &options->cap_count, value)
					: add(&options->groups, &options->group_count, value);
	case OCI_LIMIT:
		options->limits[o->offset] = value;
		return 0;
	}
	return -EINVAL;
}

int oci_options_read(const struct oci_option *table, int argc, char **argv, int *at, struct oci_options *options,
		     struct error *err)
{
	while (*at < argc) {
		char *text = argv[*at];

		/* "-" is a word: update reads from it. */
		if (text[0] != '-' || !text[1])
			return 0;
		(*at)++;
		if (!strcmp(text, "--"))
			return 0;
		/* Go's flag package, which runc's is made from, takes one dash for two. */
		const char *name = text + 1 + (text[1] == '-');
		size_t size = strcspn(name, "=");
		const char *value = name[size] ? name + size + 1 : NULL;
		const struct oci_option *o = size == 1 ? find_letter(table, name[0]) : find(table, name, size);

		if (!o)
			return error_set(err, -EINVAL, "unknown option %.80s", text);
		if (!value && o->kind != OCI_FLAG) {
			if (*at >= argc)
				return error_set(err, -EINVAL, "--%s needs a value: --%s %s", o->name, o->name,
						 o->value);
			value = argv[(*at)++];
		}
		int rc = set(o, value, options, err);

		if (rc)
			return rc;
	}
	return 0;
}

void oci_options_help(const struct oci_option *table)
{
	for (; table->name; table++) {
		fputs("       ", stdout);
		if (table->letter)
			printf("-%c, ", table->letter);
		printf("--%s%s%s\n              %s\n", table->name, table->kind == OCI_FLAG ? "" : " ",
		       table->kind == OCI_FLAG ? "" : table->value, table->help);
	}
}
