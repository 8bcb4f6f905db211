/* SPDX-License-Identifier: Apache-2.0 */
/* oci_update.c - `update`: limits from a file, from standard input, or an option each. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "cli/oci.h"
#include "container/container.h"

/* Where each option goes in the resources: a part, a name, and whether it is text, or a size with a unit. */
static const struct {
	const char *part, *name;
	bool text, size;
} places[] = {
	{ "blockIO", "weight", false, false },
	{ "cpu", "period", false, false },
	{ "cpu", "quota", false, false },
	{ "cpu", "burst", false, false },
	{ "cpu", "shares", false, false },
	{ "cpu", "realtimePeriod", false, false },
	{ "cpu", "realtimeRuntime", false, false },
	{ "cpu", "idle", false, false },
	{ "cpu", "cpus", true, false },
	{ "cpu", "mems", true, false },
	{ "memory", "limit", false, true },
	{ "memory", "reservation", false, true },
	{ "memory", "swap", false, true },
	{ "memory", "kernel", false, true },
	{ "memory", "kernelTCP", false, true },
	{ "pids", "limit", false, false },
};

enum { COUNT = sizeof(places) / sizeof(*places) };

const struct oci_option oci_update_options[] = {
	{ "resources", 'r', OCI_TEXT, offsetof(struct oci_options, resources), "FILE",
	  "Resources as config.json has them; - is standard input." },
	{ "blkio-weight", 0, OCI_LIMIT, 0, "N", "Weight of block I/O, 10 to 1000." },
	{ "cpu-period", 0, OCI_LIMIT, 1, "N", "Period of the CPU quota, in microseconds." },
	{ "cpu-quota", 0, OCI_LIMIT, 2, "N", "CPU time within a period, in microseconds." },
	{ "cpu-burst", 0, OCI_LIMIT, 3, "N", "CPU time that may be saved up, in microseconds." },
	{ "cpu-share", 0, OCI_LIMIT, 4, "N", "Weight of CPU time; 1024 is usual." },
	{ "cpu-rt-period", 0, OCI_LIMIT, 5, "N", "Period of real-time processes, in microseconds." },
	{ "cpu-rt-runtime", 0, OCI_LIMIT, 6, "N", "Their time within it." },
	{ "cpu-idle", 0, OCI_LIMIT, 7, "0|1", "Runs only when nothing else does." },
	{ "cpuset-cpus", 0, OCI_LIMIT, 8, "LIST", "CPUs to run on: 0-2,4." },
	{ "cpuset-mems", 0, OCI_LIMIT, 9, "LIST", "Memory nodes." },
	{ "memory", 0, OCI_LIMIT, 10, "SIZE", "Limit of memory; -1 is none." },
	{ "memory-reservation", 0, OCI_LIMIT, 11, "SIZE", "What it is pushed back to when memory is short." },
	{ "memory-swap", 0, OCI_LIMIT, 12, "SIZE", "Limit of memory and swap together; -1 is none." },
	{ "kernel-memory", 0, OCI_LIMIT, 13, "SIZE", "Has no effect any more." },
	{ "kernel-memory-tcp", 0, OCI_LIMIT, 14, "SIZE", "Limit of TCP's buffers." },
	{ "pids-limit", 0, OCI_LIMIT, 15, "N", "How many processes; -1 is any." },
	{ NULL, 0, OCI_FLAG, 0, NULL, NULL },
};

static int value_of(unsigned i, const char *text, json_t **value, struct error *err)
{
	char *end;
	uint64_t size = 0;
	long long number = strtoll(text, &end, 10);

	if (places[i].text) {
		*value = json_string(text);
		return 0;
	}
	if (end == text || *end) {
		int rc = places[i].size ? size_parse(text, &size, err) : -EINVAL;

		if (rc)
			return error_set(err, rc, "--%s: \"%.40s\" is no %s", oci_update_options[i + 1].name, text,
					 places[i].size ? "size" : "number");
		number = (long long)size;
	}
	*value = json_integer(number);
	return 0;
}

/* Puts the options into the resources, over what a file said. */
static int add_limits(const struct oci_options *o, json_t *root, struct error *err)
{
	for (unsigned i = 0; i < COUNT; i++) {
		json_t *value = NULL, *part = json_object_get(root, places[i].part);

		if (!o->limits[i])
			continue;
		int rc = value_of(i, o->limits[i], &value, err);

		if (rc)
			return rc;
		if (!part) {
			part = json_object();
			json_object_set_new(root, places[i].part, part);
		}
		json_object_set_new(part, places[i].name, value);
	}
	return 0;
}

int oci_update(const struct oci_options *o, int argc, char **argv, struct error *err)
{
	char *text = NULL;
	size_t size = 0;
	json_t *root = NULL;
	int rc = 0;

	(void)argc;
	if (o->resources)
		rc = oci_file_read(AT_FDCWD, strcmp(o->resources, "-") != 0 ? o->resources : "/dev/stdin", &text, &size,
				   err);
	if (rc)
		return error_prefix(err, rc, "--resources");
	root = text ? reader_parse(text, size, err) : json_object();
	rc = root ? add_limits(o, root, err) : -EINVAL;
	free(text);
	text = rc ? NULL : json_dumps(root, JSON_COMPACT);
	if (!rc)
		rc = text ? container_update(o->root, argv[0], text, strlen(text), err)
			  : error_errno(err, -ENOMEM, "update");
	free(text);
	json_decref(root);
	return rc;
}
