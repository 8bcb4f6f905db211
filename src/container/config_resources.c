/* SPDX-License-Identifier: Apache-2.0 */
/* config_resources.c - "linux.resources" (runtime-spec, config-linux.md, "Control groups"). */
#include <string.h>

#include "container/config.h"

static void read_rule(struct reader *r, const struct field *item, struct oci_device_rule *to)
{
	struct field type_field = { .up = item, .name = "type" }, access_field = { .up = item, .name = "access" };
	const char *type = "a", *access = "rwm";

	to->major = to->minor = -1;
	reader_flag(r, item, "allow", &to->allow);
	reader_text(r, item, "type", OPTIONAL, &type);
	reader_text(r, item, "access", OPTIONAL, &access);
	reader_int(r, item, "major", OPTIONAL, -1, UINT32_MAX, &to->major);
	reader_int(r, item, "minor", OPTIONAL, -1, UINT32_MAX, &to->minor);
	if (r->rc)
		return;
	if (strlen(type) > 1 || !strchr("abc", type[0]))
		reader_fail(r, &type_field, "\"%.40s\" is none of a, b and c", type);
	to->type = type[0] ? type[0] : 'a';
	if (access[strspn(access, "rwm")])
		reader_fail(r, &access_field, "\"%.40s\" must consist of r, w and m", access);
	to->read = strchr(access, 'r') != NULL;
	to->write = strchr(access, 'w') != NULL;
	to->mknod = strchr(access, 'm') != NULL;
	/* The kernel takes 'a' for everything, whatever stands behind it. */
	if (to->type == 'a' && (to->major >= 0 || to->minor >= 0))
		reader_fail(r, &type_field, "\"a\" takes no major and minor number");
}

static void read_rules(struct reader *r, const struct field *resources, struct oci_resources *to)
{
	struct field list, item;

	if (!reader_list(r, resources, "devices", OPTIONAL, &list))
		return;
	struct oci_device_rule *rules = reader_room(r, &list, sizeof(*rules));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++)
		read_rule(r, &item, &rules[i]);
	to->devices = rules;
	to->device_count = reader_count(&list);
}

static void read_memory(struct reader *r, const struct field *resources, struct oci_memory *to)
{
	struct field memory;

	if (!reader_object(r, resources, "memory", OPTIONAL, &memory))
		return;
	reader_number(r, &memory, "limit", -1, INT64_MAX, &to->limit);
	reader_number(r, &memory, "reservation", -1, INT64_MAX, &to->reservation);
	reader_number(r, &memory, "swap", -1, INT64_MAX, &to->swap);
	reader_number(r, &memory, "kernel", -1, INT64_MAX, &to->kernel);
	reader_number(r, &memory, "kernelTCP", -1, INT64_MAX, &to->kernel_tcp);
	reader_number(r, &memory, "swappiness", 0, 100, &to->swappiness);
	to->has_oom_killer = reader_flag(r, &memory, "disableOOMKiller", &to->disable_oom_killer);
	reader_flag(r, &memory, "checkBeforeUpdate", &to->check_before_update);
	if (!r->rc && to->swap.set && to->limit.set && to->swap.value > 0 && to->limit.value > 0 &&
	    to->swap.value < to->limit.value)
		reader_fail(r, &memory, "swap (memory and swap together) is below limit");
}

static void read_cpu(struct reader *r, const struct field *resources, struct oci_cpu *to)
{
	struct field cpu;

	if (!reader_object(r, resources, "cpu", OPTIONAL, &cpu))
		return;
	reader_number(r, &cpu, "shares", 0, INT64_MAX, &to->shares);
	reader_number(r, &cpu, "quota", -1, INT64_MAX, &to->quota);
	reader_number(r, &cpu, "burst", 0, INT64_MAX, &to->burst);
	reader_number(r, &cpu, "period", 0, INT64_MAX, &to->period);
	reader_number(r, &cpu, "realtimeRuntime", -1, INT64_MAX, &to->rt_runtime);
	reader_number(r, &cpu, "realtimePeriod", 0, INT64_MAX, &to->rt_period);
	reader_number(r, &cpu, "idle", 0, 1, &to->idle);
	reader_text(r, &cpu, "cpus", OPTIONAL, &to->cpus);
	reader_text(r, &cpu, "mems", OPTIONAL, &to->mems);
}

/* A list of devices with their weight, or with their rate. */
static void read_rates(struct reader *r, const struct field *io, const char *name, bool weights,
		       struct oci_block_rates *to)
{
	struct field list, item;

	if (!reader_list(r, io, name, OPTIONAL, &list))
		return;
	struct oci_block_rate *rates = reader_room(r, &list, sizeof(*rates));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		int64_t major = 0, minor = 0;

		reader_int(r, &item, "major", REQUIRED, 0, UINT32_MAX, &major);
		reader_int(r, &item, "minor", REQUIRED, 0, UINT32_MAX, &minor);
		rates[i].major = (uint32_t)major;
		rates[i].minor = (uint32_t)minor;
		if (weights) {
			reader_number(r, &item, "weight", 0, 1000, &rates[i].weight);
			reader_number(r, &item, "leafWeight", 0, 1000, &rates[i].leaf_weight);
		} else {
			reader_u64(r, &item, "rate", REQUIRED, &rates[i].rate);
		}
	}
	*to = (struct oci_block_rates){ rates, reader_count(&list) };
}

static void read_block_io(struct reader *r, const struct field *resources, struct oci_block_io *to)
{
	static const char *const names[THROTTLE_COUNT] = { "throttleReadBpsDevice", "throttleWriteBpsDevice",
							   "throttleReadIOPSDevice", "throttleWriteIOPSDevice" };
	struct field io;

	if (!reader_object(r, resources, "blockIO", OPTIONAL, &io))
		return;
	reader_number(r, &io, "weight", 0, 1000, &to->weight);
	reader_number(r, &io, "leafWeight", 0, 1000, &to->leaf_weight);
	read_rates(r, &io, "weightDevice", true, &to->weights);
	for (unsigned i = 0; i < THROTTLE_COUNT; i++)
		read_rates(r, &io, names[i], false, &to->throttle[i]);
}

static void read_hugepages(struct reader *r, const struct field *resources, struct oci_resources *to)
{
	struct field list, item;

	if (!reader_list(r, resources, "hugepageLimits", OPTIONAL, &list))
		return;
	struct oci_hugepage *pages = reader_room(r, &list, sizeof(*pages));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		struct field field = { .up = &item, .name = "pageSize" };

		reader_text(r, &item, "pageSize", REQUIRED, &pages[i].size);
		reader_u64(r, &item, "limit", REQUIRED, &pages[i].limit);
		if (r->rc)
			return;
		/* "<size><unit-prefix>B"; it becomes part of a file's name. */
		size_t digits = strspn(pages[i].size, "0123456789");

		if (!digits || digits > 9 ||
		    (strcmp(pages[i].size + digits, "KB") != 0 && strcmp(pages[i].size + digits, "MB") != 0 &&
		     strcmp(pages[i].size + digits, "GB") != 0))
			reader_fail(r, &field, "\"%.40s\" is no size like 2MB", pages[i].size);
	}
	to->hugepages = pages;
	to->hugepage_count = reader_count(&list);
}

static void read_network(struct reader *r, const struct field *resources, struct oci_resources *to)
{
	struct field network, list, item;

	if (!reader_object(r, resources, "network", OPTIONAL, &network))
		return;
	reader_number(r, &network, "classID", 0, UINT32_MAX, &to->net_class);
	if (!reader_list(r, &network, "priorities", OPTIONAL, &list))
		return;
	struct oci_net_priority *priorities = reader_room(r, &list, sizeof(*priorities));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		int64_t priority = 0;

		reader_text(r, &item, "name", REQUIRED, &priorities[i].name);
		reader_int(r, &item, "priority", REQUIRED, 0, UINT32_MAX, &priority);
		priorities[i].priority = (uint32_t)priority;
	}
	to->net_priorities = priorities;
	to->net_priority_count = reader_count(&list);
}

static void read_rdma(struct reader *r, const struct field *resources, struct oci_resources *to)
{
	struct field object;
	size_t at = 0;
	const char *key;
	json_t *value;

	if (!reader_object(r, resources, "rdma", OPTIONAL, &object))
		return;
	struct oci_rdma *rdma = reader_room(r, &object, sizeof(*rdma));

	json_object_foreach((json_t *)(uintptr_t)object.value, key, value)
	{
		struct field item;

		if (!rdma || !reader_object(r, &object, key, REQUIRED, &item))
			return;
		rdma[at].device = arena_text(r->arena, key, strlen(key));
		reader_number(r, &item, "hcaHandles", 0, UINT32_MAX, &rdma[at].handles);
		reader_number(r, &item, "hcaObjects", 0, UINT32_MAX, &rdma[at].objects);
		at++;
	}
	to->rdma = rdma;
	to->rdma_count = at;
}

/* Names become files of the cgroup's folder, "MUST be a single path element". */
static void read_unified(struct reader *r, const struct field *resources, struct oci_resources *to)
{
	struct field object = { .up = resources, .name = "unified" };

	if (!reader_pairs(r, resources, "unified", &to->unified))
		return;
	for (const char *const *pair = to->unified; *pair; pair += 2) {
		struct field item = { .up = &object, .name = pair[0] };

		if (strchr(pair[0], '/') || !strchr(pair[0], '.') || pair[0][0] == '.')
			reader_fail(r, &item, "is no file of a cgroup, like memory.high");
	}
}

void oci_read_resources(struct reader *r, const struct field *resources, struct oci_resources *to)
{
	struct field pids;

	read_rules(r, resources, to);
	read_memory(r, resources, &to->memory);
	read_cpu(r, resources, &to->cpu);
	if (reader_object(r, resources, "pids", OPTIONAL, &pids))
		reader_number(r, &pids, "limit", -1, INT64_MAX, &to->pids);
	read_block_io(r, resources, &to->block_io);
	read_hugepages(r, resources, to);
	read_network(r, resources, to);
	read_rdma(r, resources, to);
	read_unified(r, resources, to);
}
