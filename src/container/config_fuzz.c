/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_fuzz.c - a libFuzzer target over config.json: the document, a process and resources by themselves, and what is made of them
 * without touching the host (filters, device programs). A document that is refused must say so in one line. The first byte chooses
 * which of these the rest is, or that it tells what to change in a configuration that has every field.
 */
#include <stdlib.h>
#include <string.h>

#include "container/cgroup_devices.h"
#include "container/config.h"
#include "container/config_testlib.h"
#include "container/seccomp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int rc, const struct error *err)
{
	if (rc > 0 || (rc < 0 && (!err->text[0] || strlen(err->text) >= sizeof(err->text))))
		abort();
}

static void use(const struct oci_config *config)
{
	static struct bpf_insn code[CGROUP_DEVICE_CODE];
	struct oci_filter filter;
	struct error err = { "" };

	/* What a parser has let through can be relied on. */
	if (!config->root_path || !config->process.args[0] || config->process.cwd[0] != '/' ||
	    !config->namespaces[NS_MOUNT].given)
		abort();
	for (size_t i = 0; i < config->mount_count; i++)
		if (!config->mounts[i].destination[0] || (config->mounts[i].bind && !config->mounts[i].source))
			abort();
	if (config->resources.device_count <= CGROUP_DEVICE_RULES) {
		size_t count = cgroup_device_program(config->resources.devices, config->resources.device_count, code);

		if (count > CGROUP_DEVICE_CODE)
			abort();
	}
	/* libseccomp takes its time over long lists. */
	if (config->seccomp.given && config->seccomp.rule_count < 8) {
		check(oci_filter_compile(&config->seccomp, &filter, &err), &err);
		oci_filter_fini(&filter);
	}
}

static json_t *odd_value(unsigned which)
{
	switch (which % 12) {
	case 0:
		return json_null();
	case 1:
		return json_integer(-1);
	case 2:
		return json_integer(INT64_MAX);
	case 3:
		return json_string("");
	case 4:
		return json_string("/a/../b:c=d,e");
	case 5:
		return json_array();
	case 6:
		return json_object();
	case 7:
		return json_real(1.5);
	case 8:
		return json_true();
	case 9:
		return json_pack("[s,i]", "x", 1);
	case 10:
		return json_pack("{s:s}", "type", "x");
	default:
		return json_integer((json_int_t)which);
	}
}

/* Replaces the value that is number *left in document order. */
static void change(json_t *value, unsigned *left, unsigned which)
{
	const char *key;
	void *next;
	json_t *inner;
	size_t i;

	json_object_foreach_safe(value, next, key, inner)
	{
		if (!(*left)--) {
			json_object_set_new(value, key, odd_value(which));
			return;
		}
		change(inner, left, which);
		if ((int)*left < 0)
			return;
	}
	json_array_foreach(value, i, inner)
	{
		if (!(*left)--) {
			json_array_set_new(value, i, odd_value(which));
			return;
		}
		change(inner, left, which);
		if ((int)*left < 0)
			return;
	}
}

static void parse_changed(const uint8_t *data, size_t size)
{
	struct oci_config config;
	struct error err = { "" };
	json_t *root = reader_parse(config_full, strlen(config_full), &err);

	if (!root)
		abort();
	for (size_t i = 0; i + 2 < size && i < 30; i += 3) {
		unsigned left = data[i] | (data[i + 1] & 1u) << 8;

		change(root, &left, data[i + 2]);
	}
	char *text = json_dumps(root, 0);
	int rc = text ? oci_config_parse(&config, text, strlen(text), &err) : -1;

	if (text)
		check(rc, &err);
	if (!rc) {
		use(&config);
		oci_config_fini(&config);
	}
	free(text);
	json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct oci_config config;
	struct oci_process process;
	struct oci_resources resources;
	struct arena arena = { 0 };
	struct error err = { "" };
	char *text;

	if (size < 1)
		return 0;
	if (data[0] % 4 == 3) {
		parse_changed(data + 1, size - 1);
		return 0;
	}
	text = malloc(size); /* of the exact size, so that reading past its end is seen */
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	if (data[0] % 4 == 0) {
		int rc = oci_config_parse(&config, text, size - 1, &err);

		check(rc, &err);
		if (!rc) {
			use(&config);
			oci_config_fini(&config);
		}
	} else if (data[0] % 4 == 1) {
		check(oci_process_parse(&process, &arena, text, size - 1, &err), &err);
	} else {
		check(oci_resources_parse(&resources, &arena, text, size - 1, &err), &err);
	}
	arena_fini(&arena);
	free(text);
	return 0;
}
