/* SPDX-License-Identifier: Apache-2.0 */
/* config_process.c - "process" (runtime-spec, config.md, "Process"). */
#include <linux/ioprio.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/resource.h>

#include "container/caps.h"
#include "container/config.h"
#include "container/log.h"

/* "NAME" as one of a table of names; -1 after saying what is wrong. */
static int find(struct reader *r, const struct field *field, const char *text, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (names[i] && !strcmp(names[i], text))
			return i;
	reader_fail(r, field, "\"%.60s\" is unknown", text);
	return -1;
}

static void read_user(struct reader *r, const struct field *process, struct oci_user *to)
{
	struct field user, list;
	int64_t uid = 0, gid = 0;

	if (!reader_object(r, process, "user", OPTIONAL, &user))
		return;
	reader_int(r, &user, "uid", OPTIONAL, 0, UINT32_MAX - 1, &uid);
	reader_int(r, &user, "gid", OPTIONAL, 0, UINT32_MAX - 1, &gid);
	reader_number(r, &user, "umask", 0, 0777, &to->umask);
	to->uid = (uint32_t)uid;
	to->gid = (uint32_t)gid;
	if (!reader_list(r, &user, "additionalGids", OPTIONAL, &list))
		return;
	gid_t *groups = reader_room(r, &list, sizeof(*groups));

	for (size_t i = 0; i < reader_count(&list) && !r->rc; i++) {
		struct field item = { .up = &list, .index = i, .value = json_array_get(list.value, i) };
		json_int_t id = json_integer_value(item.value);

		if (!json_is_integer(item.value) || id < 0 || id >= UINT32_MAX)
			reader_fail(r, &item, "must be a group's number");
		else
			groups[i] = (gid_t)id;
	}
	to->groups = groups;
	to->group_count = reader_count(&list);
}

/* Capabilities that this program or this kernel does not know are logged and passed over: "Any value which cannot be mapped
 * to a relevant kernel interface [...] MUST be logged as a warning". */
static void read_caps(struct reader *r, const struct field *process, struct oci_caps *to)
{
	struct field caps;
	const struct {
		const char *name;
		uint64_t *set;
	} sets[] = { { "bounding", &to->bounding },
		     { "effective", &to->effective },
		     { "inheritable", &to->inheritable },
		     { "permitted", &to->permitted },
		     { "ambient", &to->ambient } };

	if (!reader_object(r, process, "capabilities", OPTIONAL, &caps))
		return;
	to->given = true;
	for (unsigned i = 0; i < 5; i++) {
		const char *const *names = NULL;

		if (!reader_texts(r, &caps, sets[i].name, OPTIONAL, &names))
			continue;
		for (; *names; names++) {
			int number = caps_number(*names);

			if (number < 0)
				log_warn("process.capabilities.%s: unknown capability \"%.60s\" is passed over",
					 sets[i].name, *names);
			else
				*sets[i].set |= 1ull << number;
		}
	}
}

static const char *const rlimit_names[] = {
	[RLIMIT_CPU] = "RLIMIT_CPU",           [RLIMIT_FSIZE] = "RLIMIT_FSIZE",
	[RLIMIT_DATA] = "RLIMIT_DATA",         [RLIMIT_STACK] = "RLIMIT_STACK",
	[RLIMIT_CORE] = "RLIMIT_CORE",         [RLIMIT_RSS] = "RLIMIT_RSS",
	[RLIMIT_NPROC] = "RLIMIT_NPROC",       [RLIMIT_NOFILE] = "RLIMIT_NOFILE",
	[RLIMIT_MEMLOCK] = "RLIMIT_MEMLOCK",   [RLIMIT_AS] = "RLIMIT_AS",
	[RLIMIT_LOCKS] = "RLIMIT_LOCKS",       [RLIMIT_SIGPENDING] = "RLIMIT_SIGPENDING",
	[RLIMIT_MSGQUEUE] = "RLIMIT_MSGQUEUE", [RLIMIT_NICE] = "RLIMIT_NICE",
	[RLIMIT_RTPRIO] = "RLIMIT_RTPRIO",     [RLIMIT_RTTIME] = "RLIMIT_RTTIME",
};

static void read_rlimits(struct reader *r, const struct field *process, struct oci_process *to)
{
	struct field list, item;
	unsigned seen = 0;

	if (!reader_list(r, process, "rlimits", OPTIONAL, &list))
		return;
	struct oci_rlimit *array = reader_room(r, &list, sizeof(*array));

	for (size_t i = 0; reader_element(r, &list, i, &item); i++) {
		struct field type = { .up = &item, .name = "type" };

		if (!reader_text(r, &item, "type", REQUIRED, &array[i].name))
			break;
		array[i].resource =
		    find(r, &type, array[i].name, rlimit_names, sizeof(rlimit_names) / sizeof(*rlimit_names));
		reader_u64(r, &item, "soft", REQUIRED, &array[i].soft);
		reader_u64(r, &item, "hard", REQUIRED, &array[i].hard);
		if (r->rc)
			break;
		/* "If rlimits contains duplicated entries with same type, the runtime MUST generate an error." */
		if (seen & (1u << array[i].resource))
			reader_fail(r, &type, "%s is there twice", array[i].name);
		if (array[i].soft > array[i].hard)
			reader_fail(r, &item, "soft is above hard");
		seen |= 1u << array[i].resource;
	}
	to->rlimits = array;
	to->rlimit_count = reader_count(&list);
}

static void read_scheduler(struct reader *r, const struct field *process, struct oci_scheduler *to)
{
	static const char *const policies[] = { "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR",      "SCHED_BATCH",
						"SCHED_ISO",   "SCHED_IDLE", "SCHED_DEADLINE" };
	static const char *const flags[] = {
		"SCHED_FLAG_RESET_ON_FORK",  "SCHED_FLAG_RECLAIM",     "SCHED_FLAG_DL_OVERRUN",
		"SCHED_FLAG_KEEP_POLICY",    "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN",
		"SCHED_FLAG_UTIL_CLAMP_MAX",
	};
	struct field scheduler, policy = { .up = &scheduler, .name = "policy" },
				flag = { .up = &scheduler, .name = "flags" };
	const char *name = NULL, *const *names = NULL;
	int64_t nice = 0, priority = 0;

	if (!reader_object(r, process, "scheduler", OPTIONAL, &scheduler))
		return;
	to->given = true;
	if (reader_text(r, &scheduler, "policy", REQUIRED, &name))
		to->policy = (uint32_t)find(r, &policy, name, policies, 7);
	reader_int(r, &scheduler, "nice", OPTIONAL, -20, 19, &nice);
	reader_int(r, &scheduler, "priority", OPTIONAL, 0, 99, &priority);
	reader_u64(r, &scheduler, "runtime", OPTIONAL, &to->runtime);
	reader_u64(r, &scheduler, "deadline", OPTIONAL, &to->deadline);
	reader_u64(r, &scheduler, "period", OPTIONAL, &to->period);
	to->nice = (int32_t)nice;
	to->priority = (uint32_t)priority;
	if (reader_texts(r, &scheduler, "flags", OPTIONAL, &names))
		for (; *names && !r->rc; names++)
			to->flags |= 1ull << (unsigned)find(r, &flag, *names, flags, 7) % 64;
}

static void read_io_priority(struct reader *r, const struct field *process, struct oci_process *to)
{
	static const char *const classes[] = { NULL, "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE" };
	struct field io, class = { .up = &io, .name = "class" };
	const char *name = NULL;

	if (!reader_object(r, process, "ioPriority", OPTIONAL, &io))
		return;
	if (reader_text(r, &io, "class", REQUIRED, &name))
		to->io_class = (struct reader_number){ true, find(r, &class, name, classes, 4) };
	reader_number(r, &io, "priority", 0, IOPRIO_NR_LEVELS - 1, &to->io_priority);
}

static void read_size(struct reader *r, const struct field *process, struct oci_process *to)
{
	struct field size;

	if (!reader_object(r, process, "consoleSize", OPTIONAL, &size))
		return;
	reader_number(r, &size, "width", 0, UINT16_MAX, &to->width);
	reader_number(r, &size, "height", 0, UINT16_MAX, &to->height);
}

static void read_args(struct reader *r, const struct field *process, struct oci_process *to)
{
	static const char *const none[] = { NULL };
	struct field args = { .up = process, .name = "args" }, cwd = { .up = process, .name = "cwd" };

	to->env = none;
	reader_texts(r, process, "args", REQUIRED, &to->args);
	if (!r->rc && !to->args[0])
		reader_fail(r, &args, "must have at least one entry");
	reader_texts(r, process, "env", OPTIONAL, &to->env);
	reader_text(r, process, "cwd", REQUIRED, &to->cwd);
	if (!r->rc && to->cwd[0] != '/')
		reader_fail(r, &cwd, "\"%.80s\" must be absolute", to->cwd);
}

void oci_read_process(struct reader *r, const struct field *process, struct oci_process *to)
{
	to->given = true;
	reader_flag(r, process, "terminal", &to->terminal);
	reader_flag(r, process, "noNewPrivileges", &to->no_new_privileges);
	read_size(r, process, to);
	read_user(r, process, &to->user);
	read_args(r, process, to);
	read_caps(r, process, &to->caps);
	read_rlimits(r, process, to);
	reader_text(r, process, "apparmorProfile", OPTIONAL, &to->apparmor_profile);
	reader_text(r, process, "selinuxLabel", OPTIONAL, &to->selinux_label);
	reader_number(r, process, "oomScoreAdj", -1000, 1000, &to->oom_score_adj);
	read_scheduler(r, process, &to->scheduler);
	read_io_priority(r, process, to);
}
