/* SPDX-License-Identifier: Apache-2.0 */
#include "container/caps.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "container/log.h"

static const char *const names[] = {
	"CHOWN",
	"DAC_OVERRIDE",
	"DAC_READ_SEARCH",
	"FOWNER",
	"FSETID",
	"KILL",
	"SETGID",
	"SETUID",
	"SETPCAP",
	"LINUX_IMMUTABLE",
	"NET_BIND_SERVICE",
	"NET_BROADCAST",
	"NET_ADMIN",
	"NET_RAW",
	"IPC_LOCK",
	"IPC_OWNER",
	"SYS_MODULE",
	"SYS_RAWIO",
	"SYS_CHROOT",
	"SYS_PTRACE",
	"SYS_PACCT",
	"SYS_ADMIN",
	"SYS_BOOT",
	"SYS_NICE",
	"SYS_RESOURCE",
	"SYS_TIME",
	"SYS_TTY_CONFIG",
	"MKNOD",
	"LEASE",
	"AUDIT_WRITE",
	"AUDIT_CONTROL",
	"SETFCAP",
	"MAC_OVERRIDE",
	"MAC_ADMIN",
	"SYSLOG",
	"WAKE_ALARM",
	"BLOCK_SUSPEND",
	"AUDIT_READ",
	"PERFMON",
	"BPF",
	"CHECKPOINT_RESTORE",
};

enum { COUNT = sizeof(names) / sizeof(*names) };

int caps_number(const char *name)
{
	if (strncmp(name, "CAP_", 4) != 0)
		return -1;
	for (int i = 0; i < COUNT; i++)
		if (!strcmp(names[i], name + 4))
			return i;
	return -1;
}

const char *caps_name(int number)
{
	return number >= 0 && number < COUNT ? names[number] : NULL;
}

int caps_bound(const struct oci_caps *caps, struct error *err)
{
	if (!caps->given)
		return 0;
	for (int i = 0; i < 64; i++) {
		if (caps->bounding & (1ull << i))
			continue;
		if (prctl(PR_CAPBSET_DROP, i, 0, 0, 0) == 0)
			continue;
		if (errno == EINVAL) /* the kernel's last one was the one before */
			return 0;
		/* What is not there need not be dropped. */
		if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
			return error_errno(err, -errno, "process.capabilities.bounding: can't drop CAP_%s",
					   i < COUNT ? names[i] : "?");
	}
	return 0;
}

static int get(struct __user_cap_data_struct *data)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return syscall(SYS_capget, &header, data) ? -errno : 0;
}

/* What can't be granted is logged and left out, as the specification wants it. */
static uint64_t grantable(const char *set, uint64_t wanted, uint64_t possible)
{
	for (int i = 0; i < COUNT && (wanted & ~possible); i++)
		if (wanted & ~possible & (1ull << i))
			log_warn("process.capabilities.%s: CAP_%s can't be granted here", set, names[i]);
	return wanted & possible;
}

/* The kernel's form of three sets. */
static void fill(struct caps_last *last, uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	for (unsigned i = 0; i < 2; i++) {
		last->words[i].effective = (uint32_t)(effective >> 32 * i);
		last->words[i].permitted = (uint32_t)(permitted >> 32 * i);
		last->words[i].inheritable = (uint32_t)(inheritable >> 32 * i);
	}
}

static int put(const struct caps_last *sets, struct error *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	for (unsigned i = 0; i < 2; i++)
		data[i] = (struct __user_cap_data_struct){ .effective = sets->words[i].effective,
							   .permitted = sets->words[i].permitted,
							   .inheritable = sets->words[i].inheritable };
	return syscall(SYS_capset, &header, data) ? error_errno(err, -errno, "process.capabilities: capset") : 0;
}

int caps_apply(const struct oci_caps *caps, bool filter, struct caps_last *last, struct error *err)
{
	struct __user_cap_data_struct data[2] = { { 0 } };
	int rc = get(data);

	last->set = false;
	if (!caps->given && !filter)
		return 0;
	if (rc)
		return error_errno(err, rc, "capget");
	uint64_t have = data[0].permitted | (uint64_t)data[1].permitted << 32;
	uint64_t effective = data[0].effective | (uint64_t)data[1].effective << 32, permitted = have;
	uint64_t inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;

	if (caps->given) {
		permitted = grantable("permitted", caps->permitted, have);
		effective = grantable("effective", caps->effective, permitted);
		inheritable = grantable("inheritable", caps->inheritable, have);
	}
	uint64_t more = filter ? have & (1ull << CAP_SYS_ADMIN) & ~effective : 0;
	struct caps_last now;

	fill(&now, effective | more, permitted | more, inheritable);
	rc = put(&now, err);
	if (rc)
		return rc;
	fill(last, effective, permitted, inheritable);
	last->set = more != 0;
	if (!caps->given)
		return 0;
	/* A process's own ambient set is empty unless its parent gave it one. */
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) && errno != EINVAL)
		return error_errno(err, -errno, "process.capabilities.ambient: can't clear the set");
	/* Engines ask for ambient capabilities without the inheritable ones that these depend on, for no container in particular. */
	uint64_t ambient = caps->ambient & permitted & inheritable;

	for (int i = 0; i < COUNT; i++)
		if ((ambient & (1ull << i)) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0))
			return error_errno(err, -errno, "process.capabilities.ambient: CAP_%s", names[i]);
	return 0;
}

int caps_finish(const struct caps_last *last, struct error *err)
{
	return last->set ? put(last, err) : 0;
}
