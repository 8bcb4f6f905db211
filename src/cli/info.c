/* SPDX-License-Identifier: Apache-2.0 */
/* info.c - `plures info`: what this host offers to machines. */
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "cli/cli.h"
#include "engine/engine.h"
#include "host/memory.h"
#include "vm/config.h"
#include "vm/cpuid.h"

extern const struct cli_verb verb_info;

struct options {
	bool json;
};

/* The brand of the host's CPU, without the blanks around it. */
static void cpu_brand(char brand[49])
{
	char text[49] = "";
	struct engine_cpuid r;

	cpuid_host(0x80000000, 0, &r);
	for (uint32_t i = 0; i < 3 && r.eax >= 0x80000004; i++) {
		struct engine_cpuid part;
		cpuid_host(0x80000002 + i, 0, &part);
		memcpy(text + i * sizeof(part), &part, sizeof(part));
	}
	size_t start = strspn(text, " "), size = strlen(text + start);
	while (size && text[start + size - 1] == ' ')
		size--;
	memcpy(brand, text + start, size);
	brand[size] = '\0';
}

/* Everything that goes in is ASCII from us or from the CPU. */
static void json_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

struct list {
	bool json;
	unsigned column, count;
};

static void print_feature(void *ctx, const char *name)
{
	struct list *list = ctx;

	if (list->json) {
		printf("%s", list->count++ ? ", " : "");
		json_string(name);
		return;
	}
	if (list->column + 1 + strlen(name) > 80) {
		printf("\n   ");
		list->column = 3;
	}
	list->column += (unsigned)printf(" %s", name);
}

enum { ENGINES_MAX = 8 };

/* What each engine's probe said: it takes some milliseconds, so once. */
struct verdict {
	const struct engine_ops *ops;
	bool works;
	char text[256];
};

static unsigned probe_all(struct verdict verdict[ENGINES_MAX])
{
	unsigned n = 0;

	for (; n < ENGINES_MAX && engines[n]; n++) {
		verdict[n] = (struct verdict){ .ops = engines[n] };
		verdict[n].works = !engines[n]->probe(NULL, verdict[n].text, sizeof(verdict[n].text));
	}
	return n;
}

/* What a guest of the first engine that works would see: it is the one that auto takes. */
static struct cpuid *guest_cpuid(const struct verdict *verdict, unsigned n)
{
	const struct cpuid_config config = { .vcpus = 1, .tsc_khz = 1 };

	for (unsigned i = 0; i < n; i++)
		if (verdict[i].works)
			return cpuid_create_for(verdict[i].ops, 1, 1, NULL);
	return cpuid_create(&config);
}

static const char *choice(const struct verdict *verdict, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (verdict[i].works)
			return verdict[i].ops->name;
	return "none";
}

static void info_text(const char *brand, const struct cpuid *cpuid, const struct verdict *verdict, unsigned n)
{
	char size[32];
	struct list list = { .column = 3 };

	printf("version: %s\n", PLURES_VERSION);
	printf("host CPU: %s, %ld online\n", brand, sysconf(_SC_NPROCESSORS_ONLN));
	printf("memory: a machine can have up to %s\n",
	       size_format(host_memory_limit() >> 20 << 20, size, sizeof(size)));
	printf("CPUs: a machine can have up to %d\n", VM_CPUS_MAX);
	puts("engines:");
	for (unsigned i = 0; i < n; i++)
		printf("  %-6s %s: %s%s%s\n", verdict[i].ops->name, verdict[i].ops->summary,
		       verdict[i].works ? "works" : "does not work", verdict[i].text[0] ? ", " : "", verdict[i].text);
	printf("  %-6s the first of them that works: %s\n", "auto", choice(verdict, n));
	printf("guest CPU features:\n   ");
	cpuid_each_feature(cpuid, print_feature, &list);
	putchar('\n');
}

static void info_json(const char *brand, const struct cpuid *cpuid, const struct verdict *verdict, unsigned n)
{
	struct list list = { .json = true };

	printf("{\n  \"version\": \"%s\",\n  \"host_cpu\": ", PLURES_VERSION);
	json_string(brand);
	printf(",\n  \"host_cpus\": %ld,\n", sysconf(_SC_NPROCESSORS_ONLN));
	printf("  \"memory_limit\": %llu,\n  \"cpus_limit\": %d,\n  \"engines\": [",
	       (unsigned long long)host_memory_limit(), VM_CPUS_MAX);
	for (unsigned i = 0; i < n; i++) {
		printf("%s\n    {\"name\": ", i ? "," : "");
		json_string(verdict[i].ops->name);
		printf(", \"works\": %s, \"summary\": ", verdict[i].works ? "true" : "false");
		json_string(verdict[i].ops->summary);
		printf(", \"detail\": ");
		json_string(verdict[i].text);
		putchar('}');
	}
	printf("\n  ],\n  \"auto\": ");
	json_string(choice(verdict, n));
	printf(",\n  \"guest_features\": [");
	cpuid_each_feature(cpuid, print_feature, &list);
	printf("]\n}\n");
}

static int info(int argc, char **argv)
{
	struct options o = { 0 };
	struct error err = { "" };
	struct verdict verdict[ENGINES_MAX];
	char brand[49];

	int rc = cli_parse(&verb_info, argc, argv, &o, &err);
	if (rc == CLI_HELP) {
		cli_verb_help(&verb_info, stdout);
		return cli_flush();
	}
	if (rc)
		return cli_usage(&verb_info, &err);
	unsigned n = probe_all(verdict);
	struct cpuid *cpuid = guest_cpuid(verdict, n);
	cpu_brand(brand);
	if (o.json)
		info_json(brand, cpuid, verdict, n);
	else
		info_text(brand, cpuid, verdict, n);
	cpuid_destroy(cpuid);
	return cli_flush();
}

static const struct cli_option options[] = {
	{ .name = "json",
	  .kind = CLI_FLAG,
	  .offset = offsetof(struct options, json),
	  .help = "Prints one JSON object instead of text." },
	{ .name = NULL },
};

const struct cli_verb verb_info = {
	.name = "info",
	.summary = "say what this host offers to machines",
	.synopsis = "[--json]",
	.description = "Says which engines there are and whether each works here, how much memory and how many CPUs a "
		       "machine can have, and the CPU features that a guest would see.",
	.options = options,
	.run = info,
};
