/* SPDX-License-Identifier: Apache-2.0 */
/* balloon.c - `plures balloon`: how much of its memory a running machine lends to the host. */
#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/size.h"
#include "cli/cli.h"

extern const struct cli_verb verb_balloon;

struct options {
	bool json;
};

static void print_size(const char *name, json_int_t bytes)
{
	char text[SIZE_TEXT];

	printf("%-16s %s\n", name, size_format((uint64_t)bytes, text, sizeof(text)));
}

static int print(const char *answer)
{
	json_t *balloon = json_loads(answer, 0, NULL), *value;
	const char *name;

	if (!json_is_object(balloon)) {
		json_decref(balloon);
		return cli_fail(CLI_ERROR, "the machine's answer makes no sense");
	}
	print_size("target", json_integer_value(json_object_get(balloon, "target")));
	print_size("actual", json_integer_value(json_object_get(balloon, "actual")));
	json_object_foreach(json_object_get(balloon, "statistics"), name, value)
	    printf("%-16s %lld\n", name, (long long)json_integer_value(value));
	json_decref(balloon);
	return CLI_OK;
}

static int call(const char *machine, const char *size, bool json)
{
	struct error err = { "" };
	char body[64], *answer;
	uint64_t target = 0;

	if (size && size_parse(size, &target, &err))
		return cli_usage(&verb_balloon, &err);
	snprintf(body, sizeof(body), "{\"target\":%llu}", (unsigned long long)target);
	if (api_call(machine, size ? "PUT" : "GET", "/balloon", size ? body : NULL, &answer, &err))
		return cli_fail(CLI_ERROR, "%s", err.text);
	int status = CLI_OK;
	if (json)
		puts(answer);
	else
		status = print(answer);
	free(answer);
	return status ? status : cli_flush();
}

/* Words come before options. */
static int run(int argc, char **argv)
{
	struct options o = { 0 };
	struct error err = { "" };
	int words = 0;

	while (1 + words < argc && argv[1 + words][0] != '-')
		words++;
	int rc = cli_parse(&verb_balloon, argc - words, argv + words, &o, &err);
	if (rc == CLI_HELP) {
		cli_verb_help(&verb_balloon, stdout);
		return cli_flush();
	}
	if (!rc && (words < 1 || words > 2))
		rc = error_set(&err, -EINVAL, words ? "one machine and one size" : "which machine?");
	if (rc)
		return cli_usage(&verb_balloon, &err);
	return call(argv[1], words > 1 ? argv[2] : NULL, o.json);
}

static const struct cli_option options[] = {
	{ .name = "json",
	  .kind = CLI_FLAG,
	  .offset = offsetof(struct options, json),
	  .help = "Prints what the machine says as JSON, sizes in bytes." },
	{ .name = NULL },
};

const struct cli_verb verb_balloon = {
	.name = "balloon",
	.summary = "how much of its memory a running machine gives back",
	.synopsis = "MACHINE [SIZE] [OPTION]...",
	.description =
	    "Asks the guest of a running machine, named by --name or by its process' number, to have SIZE of its "
	    "memory in the balloon, "
	    "from where it goes back to the host; 0 gives all of it back to the guest. Then, or without SIZE, prints "
	    "what was asked for, what is in the balloon so far, and the guest's statistics, if the machine was "
	    "started with stats=N. The machine needs --balloon.",
	.options = options,
	.run = run,
};
