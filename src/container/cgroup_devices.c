/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup_devices.c - which devices a container may make, read and write: rules written to v1's controller, or a BPF program
 * on v2, which has none.
 *
 * Rules apply in order, the last that fits decides. The program tests them from the last to the first. What every container
 * must have is allowed after the configuration's rules (config-linux.md, "Default Devices").
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/cgroup.h"
#include "container/cgroup_devices.h"
#include "container/idmap.h"
#include "container/log.h"

static const struct oci_device_rule always[] = {
	{ true, 'c', -1, -1, false, false, true }, /* mknod harms nobody: what the node stands for is checked on use */
	{ true, 'b', -1, -1, false, false, true }, { true, 'c', 1, 3, true, true, true }, /* null */
	{ true, 'c', 1, 5, true, true, true },                                            /* zero */
	{ true, 'c', 1, 7, true, true, true },                                            /* full */
	{ true, 'c', 1, 8, true, true, true },                                            /* random */
	{ true, 'c', 1, 9, true, true, true },                                            /* urandom */
	{ true, 'c', 5, 0, true, true, true },                                            /* tty */
	{ true, 'c', 5, 2, true, true, true },                                            /* ptmx */
	{ true, 'c', 136, -1, true, true, true },                                         /* pts */
};

enum { ALWAYS = sizeof(always) / sizeof(*always) };

/* ---- v1 ---- */

static int write_rule(const struct cgroup_place *place, const struct oci_device_rule *rule, struct error *err)
{
	char major[24] = "*", minor[24] = "*";

	if (rule->type == 'a')
		return cgroup_write(place, rule->allow ? "devices.allow" : "devices.deny", "linux.resources.devices",
				    err, "a");
	if (!rule->read && !rule->write && !rule->mknod)
		return 0;
	if (rule->major >= 0)
		snprintf(major, sizeof(major), "%lld", (long long)rule->major);
	if (rule->minor >= 0)
		snprintf(minor, sizeof(minor), "%lld", (long long)rule->minor);
	return cgroup_write(place, rule->allow ? "devices.allow" : "devices.deny", "linux.resources.devices", err,
			    "%c %s:%s %s%s%s", rule->type, major, minor, rule->read ? "r" : "", rule->write ? "w" : "",
			    rule->mknod ? "m" : "");
}

static int limit_v1(const struct cgroup_place *place, const struct oci_resources *r, struct error *err)
{
	int rc = 0;

	for (size_t i = 0; i < r->device_count && !rc; i++)
		rc = write_rule(place, &r->devices[i], err);
	for (size_t i = 0; i < ALWAYS && !rc; i++)
		rc = write_rule(place, &always[i], err);
	return rc;
}

/* ---- v2 ---- */

enum { R0, R1, R2, R3, R4, R5 };

static struct bpf_insn *emit(struct bpf_insn *at, int code, int dst, int src, int off, int imm)
{
	*at = (struct bpf_insn){
		.code = (__u8)code, .dst_reg = dst & 15, .src_reg = src & 15, .off = (__s16)off, .imm = imm
	};
	return at + 1;
}

/* R2: type, R3: access asked for, R4: major, R5: minor. */
static struct bpf_insn *emit_rule(struct bpf_insn *at, const struct oci_device_rule *rule)
{
	struct bpf_insn *jumps[4];
	unsigned count = 0;
	int access = (rule->mknod ? BPF_DEVCG_ACC_MKNOD : 0) | (rule->read ? BPF_DEVCG_ACC_READ : 0) |
		     (rule->write ? BPF_DEVCG_ACC_WRITE : 0);
	const int all = BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE;

	if (rule->type != 'a') {
		jumps[count++] = at;
		at = emit(at, BPF_JMP | BPF_JNE | BPF_K, R2, 0, 0,
			  rule->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
		if (access != all) {
			/* Allows only what it names all of; denies where it names any. */
			at = emit(at, BPF_ALU64 | BPF_MOV | BPF_X, R1, R3, 0, 0);
			at = emit(at, BPF_ALU64 | BPF_AND | BPF_K, R1, 0, 0, rule->allow ? ~access & all : access);
			jumps[count++] = at;
			at = emit(at, BPF_JMP | (rule->allow ? BPF_JNE : BPF_JEQ) | BPF_K, R1, 0, 0, 0);
		}
		if (rule->major >= 0) {
			jumps[count++] = at;
			at = emit(at, BPF_JMP32 | BPF_JNE | BPF_K, R4, 0, 0, (int)rule->major);
		}
		if (rule->minor >= 0) {
			jumps[count++] = at;
			at = emit(at, BPF_JMP32 | BPF_JNE | BPF_K, R5, 0, 0, (int)rule->minor);
		}
	}
	at = emit(at, BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, rule->allow);
	at = emit(at, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	while (count--)
		jumps[count]->off = (__s16)(at - jumps[count] - 1);
	return at;
}

size_t cgroup_device_program(const struct oci_device_rule *rules, size_t count, struct bpf_insn *code)
{
	struct bpf_insn *at = code;

	at = emit(at, BPF_LDX | BPF_MEM | BPF_W, R2, R1, 0, 0);
	at = emit(at, BPF_ALU64 | BPF_MOV | BPF_X, R3, R2, 0, 0);
	at = emit(at, BPF_ALU64 | BPF_AND | BPF_K, R2, 0, 0, 0xffff);
	at = emit(at, BPF_ALU64 | BPF_RSH | BPF_K, R3, 0, 0, 16);
	at = emit(at, BPF_LDX | BPF_MEM | BPF_W, R4, R1, 4, 0);
	at = emit(at, BPF_LDX | BPF_MEM | BPF_W, R5, R1, 8, 0);
	for (size_t i = ALWAYS; i-- > 0;)
		at = emit_rule(at, &always[i]);
	for (size_t i = count; i-- > 0;) {
		at = emit_rule(at, &rules[i]);
		if (rules[i].type ==
		    'a') /* whatever stands before it has no say; the verifier refuses code that is not reached */
			return (size_t)(at - code);
	}
	/* As on v1, where a new cgroup allows everything. */
	at = emit(at, BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 1);
	at = emit(at, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	return (size_t)(at - code);
}

int cgroup_device_load(const struct bpf_insn *code, size_t count)
{
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
				.insns = (uintptr_t)code,
				.insn_cnt = (__u32)count,
				.license = (uintptr_t) "Apache-2.0" };
	long fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	return fd < 0 ? -errno : (int)fd;
}

/* The program that an earlier call attached, for an update replaces it; -1 when there is none. */
static int attached_program(int cgroup)
{
	__u32 ids[8] = { 0 };
	union bpf_attr query = { .query = { .target_fd = (__u32)cgroup,
					    .attach_type = BPF_CGROUP_DEVICE,
					    .prog_ids = (uintptr_t)ids,
					    .prog_cnt = 8 } };

	if (syscall(SYS_bpf, BPF_PROG_QUERY, &query, sizeof(query)) || query.query.prog_cnt != 1)
		return -1;
	union bpf_attr get = { .prog_id = ids[0] };

	return (int)syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &get, sizeof(get));
}

static int attach(int program, int cgroup)
{
	int old = attached_program(cgroup);
	union bpf_attr attr = { .target_fd = (__u32)cgroup,
				.attach_bpf_fd = (__u32)program,
				.attach_type = BPF_CGROUP_DEVICE,
				.attach_flags = BPF_F_ALLOW_MULTI | (old >= 0 ? BPF_F_REPLACE : 0),
				.replace_bpf_fd = old >= 0 ? (__u32)old : 0 };
	int rc = syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof(attr)) ? -errno : 0;

	if (old >= 0)
		close(old);
	return rc;
}

static int limit_v2(const struct cgroup_place *place, const struct oci_resources *r, struct error *err)
{
	struct bpf_insn code[CGROUP_DEVICE_CODE];
	char path[CGROUP_PATH + 64];

	if (r->device_count > CGROUP_DEVICE_RULES)
		return error_set(err, -E2BIG, "linux.resources.devices: more than %d rules", CGROUP_DEVICE_RULES);
	int cgroup = open(cgroup_file(place, "", path, sizeof(path)), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (cgroup < 0)
		return error_errno(err, -errno, "can't open the cgroup %s", path);
	int program = cgroup_device_load(code, cgroup_device_program(r->devices, r->device_count, code));
	int rc = program < 0 ? program : attach(program, cgroup);

	if (program >= 0)
		close(program);
	close(cgroup);
	return rc ? error_errno(err, rc, "linux.resources.devices: can't attach a program to %s", path) : 0;
}

int cgroup_limit_devices(const struct cgroup *cgroup, const struct oci_resources *resources, struct error *err)
{
	const struct cgroup_place *place = cgroup_with(cgroup, CG_DEVICES);

	if (!resources->device_count)
		return 0;
	/* Without a cgroup the user is no root of the host, and the kernel lets nobody else make devices. */
	if (!place) {
		log_debug("linux.resources.devices: there is no cgroup to set them in");
		return 0;
	}
	int rc = place->v2 ? limit_v2(place, resources, err) : limit_v1(place, resources, err);

	if (rc == -EPERM && idmap_rootless()) {
		log_debug("%s", err->text);
		return 0;
	}
	return rc;
}
