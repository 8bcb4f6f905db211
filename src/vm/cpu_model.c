/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/cpu_model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 32 };

static const struct {
	const char *name, *of, *features;
} models[] = {
#define MODEL(name, of, features) { name, of, features },
#include "vm/cpu_models.def"
#undef MODEL
};

enum { MODELS = sizeof(models) / sizeof(models[0]) };

/* Names that QEMU and the manuals have for what Linux calls otherwise. */
static const struct {
	const char *name, *linux_name;
} aliases[] = {
	{ "sse3", "pni" },
	{ "lzcnt", "abm" },
	{ "tsc_deadline", "tsc_deadline_timer" },
	{ "pclmul", "pclmulqdq" },
	{ "i64", "lm" },
	{ "xd", "nx" },
	{ "invtsc", "nonstop_tsc" },
	{ "gbpages", "pdpe1gb" },
	{ "avx512_ifma", "avx512ifma" },
	{ "avx512_vbmi", "avx512vbmi" },
};

/* What instructions stand on, as the manuals have one ask for it before the other. A name that ends in * is all that begin so. */
static const struct {
	const char *feature, *needs;
} stands_on[] = {
	{ "sse", "fxsr" },      { "sse2", "sse" },        { "pni", "sse2" },       { "ssse3", "pni" },
	{ "sse4_1", "ssse3" },  { "sse4_2", "sse4_1" },   { "aes", "sse2" },       { "pclmulqdq", "sse2" },
	{ "sha_ni", "sse2" },   { "gfni", "sse2" },       { "xsaveopt", "xsave" }, { "xsavec", "xsave" },
	{ "xgetbv1", "xsave" }, { "avx", "xsave" },       { "avx", "sse4_2" },     { "f16c", "avx" },
	{ "fma", "avx" },       { "avx2", "avx" },        { "vaes", "avx" },       { "vpclmulqdq", "avx" },
	{ "sm3", "avx" },       { "sm4", "avx2" },        { "sha512", "avx2" },    { "avx_*", "avx2" },
	{ "avx512f", "avx2" },  { "avx512*", "avx512f" }, { "x2apic", "apic" },    { "tsc_deadline_timer", "apic" },
	{ "lm", "pae" },        { "pdpe1gb", "lm" },      { "invpcid", "lm" },     { "pcid", "lm" },
};

enum { STANDS_ON = sizeof(stands_on) / sizeof(stands_on[0]) };

/* ---- sets of features ---- */

static void put(uint32_t set[CPUID_WORDS], struct cpuid_bit bit, bool on)
{
	set[bit.word] = (set[bit.word] & ~(1u << bit.bit)) | (uint32_t)on << bit.bit;
}

/* Whether a row of stands_on is about the feature. */
static bool is_about(const char *row, const char *name)
{
	size_t size = strcspn(row, "*");

	return row[size] ? !strncmp(row, name, size) && strcmp(name, "avx512f") != 0 : !strcmp(row, name);
}

/* The feature and what it stands on. */
static void add(struct cpu_model *model, const char *name)
{
	struct cpuid_bit bit;

	if (!cpuid_find_feature(name, &bit))
		return;
	put(model->may, bit, true);
	put(model->must, bit, true);
	for (unsigned i = 0; i < STANDS_ON; i++)
		if (is_about(stands_on[i].feature, name))
			add(model, stands_on[i].needs);
}

/* The feature and what stands on it. */
static void take(struct cpu_model *model, const char *name)
{
	struct cpuid_bit bit;
	const char *other;

	if (!cpuid_find_feature(name, &bit))
		return;
	put(model->may, bit, false);
	put(model->must, bit, false);
	for (unsigned i = 0; i < STANDS_ON; i++)
		for (unsigned n = 0; !strcmp(stands_on[i].needs, name) && (other = cpuid_feature(n)); n++)
			if (is_about(stands_on[i].feature, other))
				take(model, other);
}

static void add_model(struct cpu_model *model, const char *name)
{
	char feature[NAME_SIZE];
	int size;

	for (unsigned i = 0; i < MODELS; i++) {
		if (strcmp(models[i].name, name) != 0)
			continue;
		for (const char *left = models[i].features; sscanf(left, "%31s%n", feature, &size) == 1; left += size)
			add(model, feature);
		add_model(model, models[i].of);
	}
}

/* ---- the user's words ---- */

static bool is_model(const char *name)
{
	for (unsigned i = 0; i < MODELS; i++)
		if (!strcmp(models[i].name, name))
			return true;
	return false;
}

static int no_model(const char *name, struct error *err)
{
	char list[256] = "host, max";

	for (unsigned i = 0; i < MODELS; i++) {
		strncat(list, ", ", sizeof(list) - strlen(list) - 1);
		strncat(list, models[i].name, sizeof(list) - strlen(list) - 1);
	}
	return error_set(err, -EINVAL,
			 "no CPU model is called '%.40s': use one of %s, and +FEATURE or -FEATURE after it", name,
			 list);
}

static int set_model(struct cpu_model *model, const char *name, struct error *err)
{
	memset(model->may, 0xff, sizeof(model->may));
	memset(model->must, 0, sizeof(model->must));
	if (!strcmp(name, "host") || !strcmp(name, "max"))
		return 0;
	if (!is_model(name))
		return no_model(name, err);
	/* What a model is about; the rest is the machine's or tells how the CPU behaves. */
	cpuid_without_extensions(model->may);
	add_model(model, name);
	return 0;
}

/* The name in the table that the user's word stands for. */
static const char *linux_name(char *word)
{
	for (char *c = word; *c; c++)
		if (*c == '-' || *c == '.')
			*c = '_';
	for (unsigned i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++)
		if (!strcmp(aliases[i].name, word))
			return aliases[i].linux_name;
	return word;
}

static int change(struct cpu_model *model, const char *text, struct error *err)
{
	char word[NAME_SIZE];
	struct cpuid_bit bit;
	size_t size = strlen(text + 1);
	const char *name = "";

	if (size < sizeof(word)) {
		memcpy(word, text + 1, size + 1);
		name = linux_name(word);
	}
	if (!cpuid_find_feature(name, &bit))
		return error_set(
		    err, -EINVAL,
		    "no CPU feature that a guest can have is called '%.40s': `plures info` lists those of this host",
		    text + 1);
	if (*text == '+')
		add(model, name);
	else
		take(model, name);
	return 0;
}

int cpu_model_parse(const char *text, struct cpu_model *model, struct error *err)
{
	char item[64];
	bool first = true;
	int rc = set_model(model, "host", err);

	while (!rc) {
		size_t size = strcspn(text, ",");
		snprintf(item, sizeof(item), "%.*s", (int)(size < sizeof(item) ? size : sizeof(item) - 1), text);
		if (*item == '+' || *item == '-')
			rc = change(model, item, err);
		else if (first)
			rc = set_model(model, item, err);
		else
			rc = error_set(err, -EINVAL, "'%.40s' must be +FEATURE or -FEATURE", item);
		first = false;
		if (!text[size])
			break;
		text += size + 1;
	}
	return rc;
}

int cpu_model_check(const struct cpu_model *model, const struct cpuid *cpuid, const char *whose, struct error *err)
{
	uint32_t there[CPUID_WORDS];
	char list[160] = "";
	struct cpuid_bit bit;
	const char *name;

	cpuid_words(cpuid, there);
	for (unsigned n = 0; (name = cpuid_feature(n)); n++) {
		cpuid_find_feature(name, &bit);
		if (!((model->must[bit.word] & ~there[bit.word]) >> bit.bit & 1))
			continue;
		if (strlen(list) + strlen(name) + 8 > sizeof(list)) {
			strcat(list, ", ...");
			break;
		}
		strcat(list, *list ? ", " : "");
		strcat(list, name);
	}
	return *list ? error_set(err, -ENOTSUP, "--cpu asks for %s, which %s on this host does not have", list, whose)
		     : 0;
}
