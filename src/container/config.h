/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.h - an OCI bundle's config.json, checked, as plain structs. The names are the specification's (runtime-spec 1.1,
 * config.md and config-linux.md).
 *
 * Everything is checked here, with the field named, before anything on the host changes. What the kernel alone can tell (a
 * file that isn't there, a limit that it refuses) is found when it is applied. All memory is the config's arena's.
 */
#ifndef PLURES_CONTAINER_CONFIG_H
#define PLURES_CONTAINER_CONFIG_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "container/arena.h"
#include "container/reader.h"

/* The newest version of the specification that is known; any 1.x is taken. */
#define OCI_VERSION "1.1.0"

struct oci_map {
	uint32_t container, host, size;
};

struct oci_maps {
	const struct oci_map *maps;
	size_t count;
};

struct oci_rlimit {
	int resource; /* RLIMIT_... */
	const char *name;
	uint64_t soft, hard;
};

struct oci_caps {
	bool given; /* otherwise they stay as they are */
	uint64_t bounding, effective, inheritable, permitted, ambient;
};

struct oci_scheduler {
	bool given;
	uint32_t policy, priority;
	int32_t nice;
	uint64_t flags, runtime, deadline, period;
};

struct oci_user {
	uint32_t uid, gid;
	struct reader_number umask;
	const gid_t *groups;
	size_t group_count;
};

struct oci_process {
	bool given;
	bool terminal, no_new_privileges;
	struct reader_number width, height; /* of the terminal */
	struct oci_user user;
	const char *const *args; /* ended by NULL, at least one */
	const char *const *env;  /* ended by NULL */
	const char *cwd;
	struct oci_caps caps;
	const struct oci_rlimit *rlimits;
	size_t rlimit_count;
	const char *apparmor_profile, *selinux_label; /* or NULL */
	struct reader_number oom_score_adj;
	struct oci_scheduler scheduler;
	struct reader_number io_class, io_priority;
};

enum oci_bind { BIND_NONE, BIND_ONE, BIND_RECURSIVE };
enum oci_idmap { IDMAP_NONE, IDMAP_ONE, IDMAP_RECURSIVE };

/* What mount_setattr(2) takes, for the mount alone and for all below it too. */
struct oci_attributes {
	uint64_t set, clear;
};

struct oci_mount {
	const char *destination, *type, *source;
	enum oci_bind bind;
	enum oci_idmap idmap;
	struct oci_attributes attributes, recursive;
	const uint64_t *propagation; /* MS_SHARED | MS_REC ..., in order */
	size_t propagation_count;
	const char *const *data; /* what the filesystem reads: "size=64k", ended by NULL */
	bool remount, copy_up, read_only_superblock;
	struct oci_maps uids, gids;
	int fd; /* of a bind mount's source, opened on the host; -1 */
};

enum oci_namespace_type {
	NS_USER,
	NS_CGROUP,
	NS_IPC,
	NS_UTS,
	NS_NET,
	NS_PID,
	NS_MOUNT,
	NS_TIME,
	NS_COUNT,
};

struct oci_namespace {
	bool given;
	const char *path; /* joined when there is one, otherwise made */
	int fd;           /* of path, once opened; -1 */
};

/* The name in the specification and in /proc/PID/ns, and the CLONE_NEW flag. */
const char *oci_namespace_name(enum oci_namespace_type type);
const char *oci_namespace_file(enum oci_namespace_type type);
int oci_namespace_flag(enum oci_namespace_type type);

struct oci_device {
	const char *path;
	mode_t type; /* S_IFCHR, S_IFBLK or S_IFIFO */
	uint32_t major, minor;
	mode_t mode;
	uint32_t uid, gid;
};

struct oci_device_rule {
	bool allow;
	char type;            /* a, b or c */
	int64_t major, minor; /* -1 is any */
	bool read, write, mknod;
};

struct oci_memory {
	struct reader_number limit, reservation, swap, kernel, kernel_tcp, swappiness;
	bool disable_oom_killer, has_oom_killer, check_before_update;
};

struct oci_cpu {
	struct reader_number shares, quota, burst, period, rt_runtime, rt_period, idle;
	const char *cpus, *mems;
};

struct oci_block_rate {
	uint32_t major, minor;
	struct reader_number weight, leaf_weight;
	uint64_t rate;
};

enum oci_throttle { READ_BPS, WRITE_BPS, READ_IOPS, WRITE_IOPS, THROTTLE_COUNT };

struct oci_block_rates {
	const struct oci_block_rate *list;
	size_t count;
};

struct oci_block_io {
	struct reader_number weight, leaf_weight;
	struct oci_block_rates weights, throttle[THROTTLE_COUNT];
};

struct oci_hugepage {
	const char *size;
	uint64_t limit;
};

struct oci_net_priority {
	const char *name;
	uint32_t priority;
};

struct oci_rdma {
	const char *device;
	struct reader_number handles, objects;
};

struct oci_resources {
	const struct oci_device_rule *devices;
	size_t device_count;
	struct oci_memory memory;
	struct oci_cpu cpu;
	struct reader_number pids;
	struct oci_block_io block_io;
	const struct oci_hugepage *hugepages;
	size_t hugepage_count;
	struct reader_number net_class;
	const struct oci_net_priority *net_priorities;
	size_t net_priority_count;
	const struct oci_rdma *rdma;
	size_t rdma_count;
	const char *const *unified; /* name, value, ..., NULL */
};

struct oci_hook {
	const char *path;
	const char *const *args, *const *env; /* may be NULL */
	struct reader_number timeout;         /* seconds */
};

enum oci_hook_kind {
	HOOK_PRESTART,
	HOOK_CREATE_RUNTIME,
	HOOK_CREATE_CONTAINER,
	HOOK_START_CONTAINER,
	HOOK_POSTSTART,
	HOOK_POSTSTOP,
	HOOK_KINDS,
};

struct oci_hooks {
	const struct oci_hook *list;
	size_t count;
};

const char *oci_hook_name(enum oci_hook_kind kind);

struct oci_seccomp_arg {
	unsigned index, op; /* op: enum scmp_compare */
	uint64_t value, value_two;
};

struct oci_seccomp_rule {
	const char *const *names;
	uint32_t action; /* SCMP_ACT_... with its errno */
	const struct oci_seccomp_arg *args;
	size_t arg_count;
};

struct oci_seccomp {
	bool given;
	uint32_t default_action;
	const uint32_t *architectures; /* SCMP_ARCH_... */
	size_t architecture_count;
	uint64_t flags; /* SECCOMP_FILTER_FLAG_... */
	const char *listener_path, *listener_metadata;
	const struct oci_seccomp_rule *rules;
	size_t rule_count;
};

struct oci_config {
	struct arena arena;
	const char *version;
	struct oci_process process;
	const char *root_path;
	bool root_readonly;
	const char *hostname, *domainname;
	struct oci_mount *mounts;
	size_t mount_count;
	struct oci_hooks hooks[HOOK_KINDS];
	const char *const *annotations; /* name, value, ..., NULL; or NULL */
	/* linux */
	struct oci_namespace namespaces[NS_COUNT];
	struct oci_maps uids, gids;
	const char *const *time_offsets; /* lines for timens_offsets, ended by NULL */
	const struct oci_device *devices;
	size_t device_count;
	const char *cgroups_path;
	struct oci_resources resources;
	uint64_t propagation; /* of the root: MS_SHARED | MS_REC ..., or 0 */
	const char *const *masked_paths, *const *readonly_paths, *const *sysctl;
	struct oci_seccomp seccomp;
	const char *mount_label;
	struct reader_number personality;
};

/* Parses and checks a document. -EINVAL and the field; warnings (things that the specification wants logged and passed over)
 * go to log_warn. On an error the config is empty again. */
int oci_config_parse(struct oci_config *config, const char *text, size_t size, struct error *err);

/* Reads BUNDLE/config.json, or any file, whole: *text is from malloc. */
int oci_file_read(int dir, const char *path, char **text, size_t *size, struct error *err);

/* A process by itself, as `exec --process` takes one, and resources by themselves, as `update` does. */
int oci_process_parse(struct oci_process *process, struct arena *arena, const char *text, size_t size,
		      struct error *err);
int oci_resources_parse(struct oci_resources *resources, struct arena *arena, const char *text, size_t size,
			struct error *err);

void oci_config_fini(struct oci_config *config);

/* ---- the parts, each in a file ---- */

void oci_read_process(struct reader *r, const struct field *process, struct oci_process *to);
void oci_read_mounts(struct reader *r, const struct field *config, struct oci_config *to);
void oci_read_linux(struct reader *r, const struct field *config, struct oci_config *to);
void oci_read_resources(struct reader *r, const struct field *resources, struct oci_resources *to);
void oci_read_seccomp(struct reader *r, const struct field *linux_field, struct oci_seccomp *to);
void oci_read_maps(struct reader *r, const struct field *in, const char *name, struct oci_maps *to);

/* The mount options that are known, for `features`; NULL past the last. */
const char *oci_mount_option_name(size_t index);
/* "rshared" and so on as MS_ flags; 0 when it is none. */
uint64_t oci_propagation(const char *text);

#endif
