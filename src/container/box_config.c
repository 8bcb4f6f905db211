/* SPDX-License-Identifier: Apache-2.0 */
/* box_config.c - the configuration (runtime-spec, config.md) that stands for a command line. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/box_private.h"
#include "container/caps.h"

#define PATH_INSIDE "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* ---- the process ---- */

/* What Podman gives. */
static const char *const default_caps[] = { "CHOWN",   "DAC_OVERRIDE",     "FOWNER",    "FSETID",
					    "KILL",    "NET_BIND_SERVICE", "SETFCAP",   "SETGID",
					    "SETPCAP", "SETUID",           "SYS_CHROOT" };

static int cap_bits(const char *option, const char *name, uint64_t *bits, struct error *err)
{
	char full[64];

	if (!strcasecmp(name, "all")) {
		*bits = 0;
		for (int i = 0; caps_name(i); i++)
			*bits |= 1ull << i;
		return 0;
	}
	snprintf(full, sizeof(full), "%s%s", strncasecmp(name, "CAP_", 4) ? "CAP_" : "", name);
	for (char *p = full; *p; p++)
		*p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
	int number = caps_number(full);

	if (number < 0)
		return error_set(err, -EINVAL, "--%s: \"%.60s\" is no capability", option, name);
	*bits = 1ull << number;
	return 0;
}

static int choose_caps(const struct box *box, uint64_t *caps, struct error *err)
{
	uint64_t bits;
	int rc = 0;

	*caps = 0;
	for (unsigned i = 0; i < sizeof(default_caps) / sizeof(*default_caps) && !rc; i++) {
		rc = cap_bits("cap-add", default_caps[i], &bits, err);
		*caps |= bits;
	}
	/* "--cap-drop all --cap-add CHOWN" leaves that one, in whatever order. */
	for (size_t i = 0; i < box->cap_drop.count && !rc; i++) {
		rc = cap_bits("cap-drop", box->cap_drop.words[i], &bits, err);
		*caps &= rc ? *caps : ~bits;
	}
	for (size_t i = 0; i < box->cap_add.count && !rc; i++) {
		rc = cap_bits("cap-add", box->cap_add.words[i], &bits, err);
		*caps |= rc ? 0 : bits;
	}
	return rc;
}

static json_t *caps_json(uint64_t caps)
{
	json_t *list = json_array();
	char name[64];

	for (int i = 0; caps_name(i); i++)
		if (caps >> i & 1) {
			snprintf(name, sizeof(name), "CAP_%s", caps_name(i));
			json_array_append_new(list, json_string(name));
		}
	return json_pack("{s:O, s:O, s:o}", "bounding", list, "permitted", list, "effective", list);
}

/* NAME=VALUE, or NAME for the value that it has here. */
static int add_env(json_t *list, const char *word, struct error *err)
{
	const char *equals = strchr(word, '='), *value = equals ? equals + 1 : getenv(word);
	char text[8192];

	if (equals == word || !word[0])
		return error_set(err, -EINVAL, "--env: \"%.60s\" is no NAME=VALUE", word);
	if (!value)
		return 0;
	if (snprintf(text, sizeof(text), "%.*s=%s", (int)(equals ? equals - word : (long)strlen(word)), word, value) >=
	    (int)sizeof(text))
		return error_set(err, -E2BIG, "--env: %.40s... is too long", word);
	json_t *string = json_string(text);

	if (!string)
		return error_set(err, -EILSEQ, "--env: the value of %.60s is no UTF-8", word);
	json_array_append_new(list, string);
	return 0;
}

static int make_env(const struct box_plan *plan, json_t *list, struct error *err)
{
	const char *term = getenv("TERM"), *home = plan->identity->home;
	char text[300];
	int rc = 0;

	json_array_append_new(list, json_string(PATH_INSIDE));
	json_array_append_new(list, json_string("container=plures"));
	if (plan->terminal && term) {
		snprintf(text, sizeof(text), "TERM=%.100s", term);
		json_array_append_new(list, json_string(text));
	}
	if (home[0]) {
		snprintf(text, sizeof(text), "HOME=%s", home);
		json_array_append_new(list, json_string(text));
	}
	for (size_t i = 0; i < plan->box->env.count && !rc; i++)
		rc = add_env(list, plan->box->env.words[i], err);
	return rc;
}

static int add_process(const struct box_plan *plan, json_t *root, uint64_t caps, struct error *err)
{
	const struct box *box = plan->box;
	json_t *args = json_array(), *env = json_array(), *groups = json_array();
	int rc = make_env(plan, env, err);

	for (size_t i = 0; box->args[i]; i++)
		if (json_array_append_new(args, json_string(box->args[i])) && !rc)
			rc = error_set(err, -EILSEQ, "the command's word %zu is no UTF-8", i);
	for (size_t i = 0; i < plan->identity->group_count; i++)
		json_array_append_new(groups, json_integer(plan->identity->groups[i]));
	json_object_set_new(root, "process",
			    json_pack("{s:b, s:{s:I,s:I,s:o}, s:o, s:o, s:s, s:o, s:b}", "terminal", plan->terminal,
				      "user", "uid", (json_int_t)plan->identity->uid, "gid",
				      (json_int_t)plan->identity->gid, "additionalGids", groups, "args", args, "env",
				      env, "cwd", box->workdir ? box->workdir : "/", "capabilities", caps_json(caps),
				      "noNewPrivileges", box->no_new_privileges));
	return rc;
}

/* ---- mounts ---- */

static void add_mount(json_t *mounts, const char *destination, const char *type, const char *source,
		      const char *options)
{
	json_t *list = json_array();
	char copy[256], *rest = NULL;

	snprintf(copy, sizeof(copy), "%s", options);
	for (char *word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
		json_array_append_new(list, json_string(word));
	json_array_append_new(mounts, json_pack("{s:s, s:s, s:s, s:o}", "destination", destination, "type", type,
						"source", source, "options", list));
}

static void add_kernel_mounts(const struct box_plan *plan, json_t *mounts)
{
	const struct box_ids *ids = plan->ids;
	bool tty_group = !ids->given || box_has_id(ids->gids, ids->gid_count, 5);

	add_mount(mounts, "/proc", "proc", "proc", "nosuid,noexec,nodev");
	add_mount(mounts, "/dev", "tmpfs", "tmpfs", "nosuid,noexec,strictatime,mode=755,size=65536k");
	add_mount(mounts, "/dev/pts", "devpts", "devpts",
		  tty_group ? "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"
			    : "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620");
	add_mount(mounts, "/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777");
	add_mount(mounts, "/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev");
	/* A sysfs shows a network namespace, and only that one's owner may have it. */
	if (plan->box->net == BOX_NET_HOST && ids->given) {
		add_mount(mounts, "/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,rro");
		return;
	}
	add_mount(mounts, "/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro");
	add_mount(mounts, "/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro");
}

int box_parse_bind(const char *text, struct box_bind *bind, struct error *err)
{
	const char *colon = strchr(text, ':'), *end = colon ? strchr(colon + 1, ':') : NULL;
	size_t source = colon ? (size_t)(colon - text) : strlen(text);
	const char *to = colon ? colon + 1 : text;
	size_t size = end ? (size_t)(end - to) : strlen(to);

	if (!source || source >= sizeof(bind->source) || !size || size >= sizeof(bind->destination))
		return error_set(err, -EINVAL, "--bind: \"%.80s\" is no SRC:DST or SRC:DST:ro", text);
	if (end && strcmp(end, ":ro") != 0 && strcmp(end, ":rw") != 0)
		return error_set(err, -EINVAL, "--bind: \"%.80s\" ends with neither :ro nor :rw", text);
	memcpy(bind->source, text, source);
	bind->source[source] = 0;
	memcpy(bind->destination, to, size);
	bind->destination[size] = 0;
	bind->read_only = end && end[2] == 'o';
	if (bind->destination[0] != '/')
		return error_set(err, -EINVAL, "--bind: %.80s is no absolute path in the container", bind->destination);
	return 0;
}

static int add_bind(const struct box_plan *plan, json_t *mounts, const char *word, struct error *err)
{
	struct box_bind bind;
	char path[4096], options[64];
	int rc = box_parse_bind(word, &bind, err);

	if (rc)
		return rc;
	if (!realpath(bind.source, path))
		return error_errno(err, -errno, "--bind: %.200s", bind.source);
	/* Mounts below the source come with it, which only a mount by itself can do without when identities are mapped. */
	snprintf(options, sizeof(options), "%s%s%s", plan->ids->idmap ? "bind,idmap" : "rbind",
		 bind.read_only ? plan->ids->idmap ? ",ro" : ",rro" : "", ",nodev");
	json_t *check = json_string(path);

	if (!check)
		return error_set(err, -EILSEQ, "--bind: the path %.80s is no UTF-8", path);
	json_decref(check);
	add_mount(mounts, bind.destination, "none", path, options);
	return 0;
}

static int add_mounts(const struct box_plan *plan, json_t *root, struct error *err)
{
	const struct box *box = plan->box;
	json_t *mounts = json_array();
	int rc = 0;

	json_object_set_new(root, "mounts", mounts);
	add_kernel_mounts(plan, mounts);
	for (size_t i = 0; i < box->tmpfs.count && !rc; i++) {
		if (box->tmpfs.words[i][0] != '/')
			rc = error_set(err, -EINVAL, "--tmpfs: %.80s is no absolute path in the container",
				       box->tmpfs.words[i]);
		else
			add_mount(mounts, box->tmpfs.words[i], "tmpfs", "tmpfs", "nosuid,nodev,mode=1777");
	}
	for (size_t i = 0; i < box->binds.count && !rc; i++)
		rc = add_bind(plan, mounts, box->binds.words[i], err);
	return rc;
}

/* ---- linux ---- */

static json_t *map_json(const struct oci_map *maps, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list,
				      json_pack("{s:I, s:I, s:I}", "containerID", (json_int_t)maps[i].container,
						"hostID", (json_int_t)maps[i].host, "size", (json_int_t)maps[i].size));
	return list;
}

static json_t *namespaces_json(const struct box_plan *plan)
{
	static const char *const always[] = { "mount", "pid", "ipc", "uts", "cgroup" };
	json_t *list = json_array();

	for (unsigned i = 0; i < sizeof(always) / sizeof(*always); i++)
		json_array_append_new(list, json_pack("{s:s}", "type", always[i]));
	if (plan->box->net != BOX_NET_HOST)
		json_array_append_new(list, json_pack("{s:s}", "type", "network"));
	if (plan->ids->given)
		json_array_append_new(list, json_pack("{s:s}", "type", "user"));
	return list;
}

static json_t *resources_json(const struct box_plan *plan)
{
	const struct box *box = plan->box;
	json_t *r = json_object();

	if (plan->cgroups)
		json_object_set_new(r, "devices", json_pack("[{s:b,s:s}]", "allow", false, "access", "rwm"));
	if (box->memory)
		json_object_set_new(r, "memory", json_pack("{s:I}", "limit", (json_int_t)box->memory));
	if (box->cpu_quota)
		json_object_set_new(r, "cpu",
				    json_pack("{s:I, s:i}", "quota", (json_int_t)box->cpu_quota, "period", 100000));
	if (box->pids)
		json_object_set_new(r, "pids", json_pack("{s:I}", "limit", (json_int_t)box->pids));
	return r;
}

static void add_linux(const struct box_plan *plan, json_t *root, uint64_t caps)
{
	int sys_admin = caps_number("CAP_SYS_ADMIN");
	json_t *l = json_pack("{s:o, s:o, s:[s,s,s,s,s,s,s,s,s,s], s:[s,s,s,s,s]}", "namespaces", namespaces_json(plan),
			      "resources", resources_json(plan), "maskedPaths", "/proc/acpi", "/proc/asound",
			      "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			      "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/dev/block", "readonlyPaths",
			      "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger");

	json_object_set_new(root, "linux", l);
	if (plan->ids->given) {
		json_object_set_new(l, "uidMappings", map_json(plan->ids->uids, plan->ids->uid_count));
		json_object_set_new(l, "gidMappings", map_json(plan->ids->gids, plan->ids->gid_count));
	}
	/* So that ping needs no privilege. */
	if (plan->box->net != BOX_NET_HOST)
		json_object_set_new(l, "sysctl", json_pack("{s:s}", "net.ipv4.ping_group_range", "0 0"));
	if (!plan->box->no_seccomp)
		json_object_set_new(l, "seccomp", box_seccomp(caps >> sys_admin & 1));
}

char *box_config(const struct box_plan *plan, struct error *err)
{
	uint64_t caps;
	json_t *root = json_pack("{s:s, s:{s:s,s:b}, s:s}", "ociVersion", OCI_VERSION, "root", "path", plan->rootfs,
				 "readonly", plan->box->read_only, "hostname", plan->hostname);
	char *text = NULL;

	if (!root) {
		error_set(err, -EILSEQ, "the path of ROOTFS or the host name is no UTF-8");
		return NULL;
	}
	int rc = choose_caps(plan->box, &caps, err);

	if (!rc)
		rc = add_process(plan, root, caps, err);
	if (!rc)
		rc = add_mounts(plan, root, err);
	if (!rc) {
		add_linux(plan, root, caps);
		text = json_dumps(root, JSON_COMPACT);
		if (!text)
			error_errno(err, -ENOMEM, "the configuration");
	}
	json_decref(root);
	return text;
}
