/* SPDX-License-Identifier: Apache-2.0 */
/* events.c - statistics, in the JSON that runc's `events` has made customary and containerd reads. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "container/container.h"
#include "container/state.h"

enum { TEXT = 8192 };

/* A file with one number; 0 when there is none. "max" is the largest. */
static json_int_t number(const struct cgroup_place *place, const char *file)
{
	char text[64];

	if (!place || cgroup_read(place, file, text, sizeof(text)) <= 0)
		return 0;
	unsigned long long value = !strncmp(text, "max", 3) ? INT64_MAX : strtoull(text, NULL, 10);

	return value > INT64_MAX ? INT64_MAX : (json_int_t)value;
}

/* "name value" lines as an object. */
static json_t *table(const struct cgroup_place *place, const char *file)
{
	char text[TEXT], *rest = NULL;
	json_t *object = json_object();

	if (!place || cgroup_read(place, file, text, sizeof(text)) <= 0)
		return object;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *space = strchr(line, ' ');

		if (!space)
			continue;
		*space = 0;
		unsigned long long value = strtoull(space + 1, NULL, 10);

		json_object_set_new(object, line, json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value));
	}
	return object;
}

static json_int_t entry(const json_t *table, const char *name)
{
	return json_integer_value(json_object_get(table, name));
}

/* ---- cpu ---- */

static json_t *percpu(const struct cgroup_place *place)
{
	char text[TEXT], *rest = NULL;
	json_t *list = json_array();

	if (cgroup_read(place, "cpuacct.usage_percpu", text, sizeof(text)) > 0)
		for (char *word = strtok_r(text, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
			json_array_append_new(list, json_integer((json_int_t)strtoull(word, NULL, 10)));
	return list;
}

static json_t *cpu_stats(const struct cgroup *cgroup)
{
	const struct cgroup_place *acct = cgroup_with(cgroup, CG_CPUACCT), *cpu = cgroup_with(cgroup, CG_CPU);
	json_int_t total = 0, user = 0, system = 0;
	json_t *throttling = table(cpu ? cpu : acct, "cpu.stat"), *each = NULL;
	/* v2 counts in microseconds, v1 in nanoseconds. */
	json_int_t throttled = entry(throttling, "throttled_time") + 1000 * entry(throttling, "throttled_usec");

	if (acct && acct->v2) {
		total = 1000 * entry(throttling, "usage_usec");
		user = 1000 * entry(throttling, "user_usec");
		system = 1000 * entry(throttling, "system_usec");
	} else if (acct) {
		total = number(acct, "cpuacct.usage");
		user = number(acct, "cpuacct.usage_user");
		system = number(acct, "cpuacct.usage_sys");
		each = percpu(acct);
	}
	json_t *root =
	    json_pack("{s:{s:I,s:I,s:I,s:o}, s:{s:I,s:I,s:I}}", "usage", "total", total, "user", user, "kernel", system,
		      "percpu", each ? each : json_array(), "throttling", "periods", entry(throttling, "nr_periods"),
		      "throttledPeriods", entry(throttling, "nr_throttled"), "throttledTime", throttled);

	json_decref(throttling);
	return root;
}

/* ---- memory ---- */

static json_t *memory_part(const struct cgroup_place *place, const char *name)
{
	char usage[64], limit[64], max[64], failures[64];

	snprintf(usage, sizeof(usage), "memory.%susage_in_bytes", name);
	snprintf(limit, sizeof(limit), "memory.%slimit_in_bytes", name);
	snprintf(max, sizeof(max), "memory.%smax_usage_in_bytes", name);
	snprintf(failures, sizeof(failures), "memory.%sfailcnt", name);
	return json_pack("{s:I,s:I,s:I,s:I}", "usage", number(place, usage), "limit", number(place, limit), "max",
			 number(place, max), "failcnt", number(place, failures));
}

static json_t *memory_stats(const struct cgroup *cgroup)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_MEMORY);
	json_t *raw = table(place, "memory.stat");

	if (!place || !place->v2)
		return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "cache", entry(raw, "cache"), "usage",
				 memory_part(place, ""), "swap", memory_part(place, "memsw."), "kernel",
				 memory_part(place, "kmem."), "kernelTCP", memory_part(place, "kmem.tcp."), "raw", raw);
	json_t *events = table(place, "memory.events");
	json_t *root =
	    json_pack("{s:I, s:{s:I,s:I,s:I,s:I}, s:{s:I,s:I}, s:o}", "cache", entry(raw, "file"), "usage", "usage",
		      number(place, "memory.current"), "limit", number(place, "memory.max"), "max",
		      number(place, "memory.peak"), "failcnt", entry(events, "max"), "swap", "usage",
		      number(place, "memory.swap.current"), "limit", number(place, "memory.swap.max"), "raw", raw);

	json_decref(events);
	return root;
}

/* ---- block I/O ---- */

/* v1: "MAJOR:MINOR Operation value" lines. */
static json_t *io_v1(const struct cgroup_place *place, const char *file)
{
	char text[TEXT], *rest = NULL, op[32];
	json_t *list = json_array();
	unsigned major, minor;
	unsigned long long value;

	if (cgroup_read(place, file, text, sizeof(text)) <= 0)
		return list;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (sscanf(line, "%u:%u %31s %llu", &major, &minor, op, &value) == 4)
			json_array_append_new(list, json_pack("{s:i,s:i,s:s,s:I}", "major", (int)major, "minor",
							      (int)minor, "op", op, "value", (json_int_t)value));
	return list;
}

/* v2: "MAJOR:MINOR rbytes=1 wbytes=2 rios=3 ..." lines; keys are picked by where they lead. */
static void io_v2(const struct cgroup_place *place, json_t *bytes, json_t *requests)
{
	static const struct {
		const char *key, *op;
		bool request;
	} keys[] = { { " rbytes=", "Read", false },
		     { " wbytes=", "Write", false },
		     { " rios=", "Read", true },
		     { " wios=", "Write", true } };
	char text[TEXT], *rest = NULL;

	if (cgroup_read(place, "io.stat", text, sizeof(text)) <= 0)
		return;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned major, minor;

		if (sscanf(line, "%u:%u", &major, &minor) != 2)
			continue;
		for (unsigned i = 0; i < 4; i++) {
			const char *at = strstr(line, keys[i].key);

			if (at)
				json_array_append_new(
				    keys[i].request ? requests : bytes,
				    json_pack("{s:i,s:i,s:s,s:I}", "major", (int)major, "minor", (int)minor, "op",
					      keys[i].op, "value",
					      (json_int_t)strtoull(at + strlen(keys[i].key), NULL, 10)));
		}
	}
}

static json_t *io_stats(const struct cgroup *cgroup)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_BLKIO);
	json_t *bytes = NULL, *requests = NULL;

	if (place && !place->v2) {
		bytes = io_v1(place, "blkio.throttle.io_service_bytes_recursive");
		requests = io_v1(place, "blkio.throttle.io_serviced_recursive");
	} else {
		bytes = json_array();
		requests = json_array();
		if (place)
			io_v2(place, bytes, requests);
	}
	return json_pack("{s:o, s:o}", "ioServiceBytesRecursive", bytes, "ioServicedRecursive", requests);
}

/* ---- all ---- */

static int print_stats(const struct state *state, FILE *out, struct error *err)
{
	const struct cgroup_place *pids = cgroup_with(&state->cgroup, CG_PIDS);
	json_int_t limit = number(pids, "pids.max");
	json_t *root = json_pack("{s:s, s:s, s:{s:o, s:o, s:{s:I,s:I}, s:o}}", "type", "stats", "id", state->id, "data",
				 "cpu", cpu_stats(&state->cgroup), "memory", memory_stats(&state->cgroup), "pids",
				 "current", number(pids, "pids.current"), "limit", limit == INT64_MAX ? 0 : limit,
				 "blkio", io_stats(&state->cgroup));
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;

	if (text)
		fprintf(out, "%s\n", text);
	free(text);
	json_decref(root);
	return !text || fflush(out) ? error_errno(err, text ? -errno : -ENOMEM, "can't print statistics") : 0;
}

/* How many times the kernel has killed for want of memory. */
static json_int_t oom_kills(const struct cgroup *cgroup)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_MEMORY);
	json_t *events = place ? table(place, place->v2 ? "memory.events" : "memory.oom_control") : json_object();
	json_int_t kills = entry(events, "oom_kill");

	json_decref(events);
	return kills;
}

static int follow(const struct state *state, unsigned interval, FILE *out, struct error *err)
{
	int fd = state_open_process(state), rc = 0;
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	json_int_t kills = oom_kills(&state->cgroup);

	while (!rc && fd >= 0) {
		rc = print_stats(state, out, err);
		if (poll(&wait, 1, (int)interval * 1000) != 0)
			break;
		if (oom_kills(&state->cgroup) > kills) {
			kills = oom_kills(&state->cgroup);
			fprintf(out, "{\"type\":\"oom\",\"id\":\"%s\"}\n", state->id);
		}
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

int container_events(const char *root, const char *id, bool once, unsigned interval, FILE *out, struct error *err)
{
	struct state state;
	int rc = state_load(&state, root, id, NULL, err);

	if (rc)
		return rc;
	if (state_status(&state) == STATE_STOPPED)
		rc = error_set(err, -ESRCH, "container with id \"%s\" is not running", id);
	else
		rc = once ? print_stats(&state, out, err) : follow(&state, interval, out, err);
	state_fini(&state);
	return rc;
}
