/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

#include "base/size.h"
#include "cli/cli.h"

/* An option as it stands on the command line. */
struct given {
	const struct cli_option *option;
	const char *value; /* after '=', or NULL */
	bool negated;
};

static const struct cli_option *find_name(const struct cli_verb *verb, const char *name, size_t size)
{
	for (const struct cli_option *o = verb->options; o->name; o++)
		if (strlen(o->name) == size && !memcmp(o->name, name, size))
			return o;
	return NULL;
}

static const struct cli_option *find_letter(const struct cli_verb *verb, char letter)
{
	for (const struct cli_option *o = verb->options; o->name; o++)
		if (o->letter == letter)
			return o;
	return NULL;
}

/* `text` begins with "--". */
static void find_long(const struct cli_verb *verb, const char *text, struct given *given)
{
	const char *name = text + 2;
	size_t size = strcspn(name, "=");

	given->value = name[size] ? name + size + 1 : NULL;
	given->option = find_name(verb, name, size);
	if (!given->option && size > 3 && !memcmp(name, "no-", 3)) {
		given->option = find_name(verb, name + 3, size - 3);
		given->negated = true;
		if (given->option && given->option->kind != CLI_FLAG)
			given->option = NULL;
	}
}

static int set(const struct given *given, const char *value, void *options, struct error *err)
{
	const struct cli_option *o = given->option;
	void *variable = (char *)options + o->offset;
	uint64_t number;
	int rc = 0;

	switch (o->kind) {
	case CLI_FLAG:
		*(bool *)variable = !given->negated;
		break;
	case CLI_STRING:
		*(const char **)variable = value;
		break;
	case CLI_SIZE:
		rc = size_parse(value, variable, err);
		break;
	case CLI_NUMBER:
		rc = number_parse(value, o->value, 0, UINT_MAX, &number, err);
		if (!rc)
			*(unsigned *)variable = (unsigned)number;
		break;
	case CLI_CALL:
		rc = o->call(options, value, err);
		break;
	}
	return rc ? error_prefix(err, -EINVAL, "--%s", o->name) : 0;
}

/* Takes the option that stands at argv[*at] and moves on. */
static int take(const struct cli_verb *verb, int argc, char **argv, int *at, void *options, struct error *err)
{
	const char *text = argv[(*at)++];
	struct given given = { 0 };

	if (text[0] != '-' || !text[1])
		return error_set(err, -EINVAL, "'%.80s' is not an option: all of them begin with --", text);
	if (text[1] == '-')
		find_long(verb, text, &given);
	else if (!text[2])
		given.option = find_letter(verb, text[1]);
	if (!given.option)
		return error_set(err, -EINVAL, "unknown option %.80s", text);
	if (given.option->kind == CLI_FLAG) {
		if (given.value)
			return error_set(err, -EINVAL, "--%s takes no value", given.option->name);
		return set(&given, NULL, options, err);
	}
	if (!given.value) {
		if (*at >= argc)
			return error_set(err, -EINVAL, "--%s needs a value: --%s %s", given.option->name,
					 given.option->name, given.option->value);
		given.value = argv[(*at)++];
	}
	return set(&given, given.value, options, err);
}

int cli_parse_some(const struct cli_verb *verb, int argc, char **argv, int *at, void *options, struct error *err)
{
	while (*at < argc && argv[*at][0] == '-' && argv[*at][1]) {
		if (!strcmp(argv[*at], "--")) {
			(*at)++;
			return 0;
		}
		if (!strcmp(argv[*at], "--help") || !strcmp(argv[*at], "-h"))
			return CLI_HELP;
		int rc = take(verb, argc, argv, at, options, err);
		if (rc)
			return rc;
	}
	return 0;
}

int cli_parse(const struct cli_verb *verb, int argc, char **argv, void *options, struct error *err)
{
	int at = 1;

	while (at < argc) {
		if (!strcmp(argv[at], "--help") || !strcmp(argv[at], "-h"))
			return CLI_HELP;
		int rc = take(verb, argc, argv, &at, options, err);
		if (rc)
			return rc;
	}
	return 0;
}
