/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/cli.h"

struct options {
	bool flag, on;
	const char *text;
	uint64_t size;
	unsigned number;
	unsigned calls;
};

static int call(void *options, const char *value, struct error *err)
{
	struct options *o = options;

	if (!strcmp(value, "bad"))
		return error_set(err, -EINVAL, "it is bad");
	o->calls++;
	return 0;
}

#define AT(field) .offset = offsetof(struct options, field)

static const struct cli_option table[] = {
	{ .name = "flag", .letter = 'f', .kind = CLI_FLAG, AT(flag), .help = "A flag." },
	{ .name = "on", .kind = CLI_FLAG, .default_on = true, AT(on), .help = "Off with it." },
	{ .name = "text", .letter = 't', .kind = CLI_STRING, AT(text), .value = "TEXT", .help = "A text." },
	{ .name = "size", .kind = CLI_SIZE, AT(size), .value = "SIZE", .help = "A size." },
	{ .name = "number", .kind = CLI_NUMBER, AT(number), .value = "N", .help = "A number." },
	{ .name = "call", .kind = CLI_CALL, .call = call, .value = "WHAT", .help = "A call." },
	{ .name = NULL },
};

static const struct cli_verb verb = { .name = "test",
				      .summary = "be a test",
				      .synopsis = "[OPTION]...",
				      .description = "What it is.",
				      .options = table };

/* Parses words that end with NULL. */
static int parse(struct options *o, struct error *err, char **words)
{
	int argc = 0;

	while (words[argc])
		argc++;
	*o = (struct options){ .on = true };
	err->text[0] = '\0';
	return cli_parse(&verb, argc, words, o, err);
}

#define PARSE(...) parse(&o, &err, (char *[]){ "test", __VA_ARGS__ __VA_OPT__(, ) NULL })

static void test_every_kind_is_taken(void **state)
{
	struct options o;
	struct error err;

	(void)state;
	assert_int_equal(PARSE("--flag", "--no-on", "--text", "--size", "--size=512M", "--number", "7", "--call", "x"),
			 0);
	assert_true(o.flag);
	assert_false(o.on);
	assert_string_equal(o.text, "--size");
	assert_int_equal(o.size, 512 << 20);
	assert_int_equal(o.number, 7);
	assert_int_equal(o.calls, 1);
	assert_int_equal(PARSE("-f", "-t", "a=b", "--no-flag", "--on"), 0);
	assert_false(o.flag);
	assert_true(o.on);
	assert_string_equal(o.text, "a=b");
	assert_int_equal(PARSE("--text=", "--text=a=b"), 0);
	assert_string_equal(o.text, "a=b");
	assert_int_equal(PARSE(), 0);
}

static void test_what_is_wrong_is_named(void **state)
{
	struct options o;
	struct error err;

	(void)state;
	assert_int_equal(PARSE("--colour"), -EINVAL);
	assert_non_null(strstr(err.text, "--colour"));
	assert_int_equal(PARSE("--no-text"), -EINVAL);
	assert_int_equal(PARSE("--no-"), -EINVAL);
	assert_int_equal(PARSE("--fla"), -EINVAL);
	assert_int_equal(PARSE("-x"), -EINVAL);
	assert_int_equal(PARSE("-ft"), -EINVAL);
	assert_int_equal(PARSE("word"), -EINVAL);
	assert_int_equal(PARSE("-"), -EINVAL);
	assert_int_equal(PARSE(""), -EINVAL);
	assert_int_equal(PARSE("--text"), -EINVAL);
	assert_non_null(strstr(err.text, "--text TEXT"));
	assert_int_equal(PARSE("--flag=1"), -EINVAL);
	assert_int_equal(PARSE("--size", "big"), -EINVAL);
	assert_non_null(strstr(err.text, "--size"));
	assert_int_equal(PARSE("--size", "99999999999999999999"), -EINVAL);
	assert_int_equal(PARSE("--number", "-1"), -EINVAL);
	assert_int_equal(PARSE("--number", "4294967296"), -EINVAL);
	assert_int_equal(PARSE("--number", "1x"), -EINVAL);
	assert_int_equal(PARSE("--call", "bad"), -EINVAL);
	assert_string_equal(err.text, "--call: it is bad");
}

static void test_help_is_met_in_order(void **state)
{
	struct options o;
	struct error err;

	(void)state;
	assert_int_equal(PARSE("--flag", "--help", "--colour"), CLI_HELP);
	assert_int_equal(PARSE("-h"), CLI_HELP);
	assert_int_equal(PARSE("--colour", "--help"), -EINVAL);
	assert_int_equal(PARSE("--text", "--help"), 0); /* a value */
}

static void test_help_names_every_option_within_80_columns(void **state)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	cli_help(out);
	for (unsigned i = 0; cli_verbs[i]; i++)
		cli_verb_help(cli_verbs[i], out);
	cli_verb_help(&verb, out);
	fclose(out);
	assert_non_null(strstr(text, "--no-on\n"));
	assert_non_null(strstr(text, "-t, --text TEXT\n"));
	for (unsigned i = 0; cli_verbs[i]; i++) {
		assert_non_null(strstr(text, cli_verbs[i]->summary));
		for (const struct cli_option *o = cli_verbs[i]->options; o->name; o++)
			assert_non_null(strstr(text, o->name));
	}
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_in_range(strlen(line), 1, 80);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_kind_is_taken),
		cmocka_unit_test(test_what_is_wrong_is_named),
		cmocka_unit_test(test_help_is_met_in_order),
		cmocka_unit_test(test_help_names_every_option_within_80_columns),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
