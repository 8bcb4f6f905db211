/* SPDX-License-Identifier: Apache-2.0 */
/*
 * box_seccomp.c - the filter that a container has by default: a list of what is refused.
 *
 * Refused is what no program in a container needs and what has been the way into the kernel again and again: parts of it that few use,
 * what loads code into it, what looks at other processes or at time. What capabilities guard already is refused here too, since in a
 * user namespace they are easily had. A list of what is allowed would be stricter, and would break programs with every new kernel.
 */
#include <jansson.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "container/box_private.h"

static const char *const refused[] = {
	/* Code in the kernel, and other kernels. */
	"bpf",
	"create_module",
	"delete_module",
	"finit_module",
	"init_module",
	"kexec_file_load",
	"kexec_load",
	"query_module",
	"get_kernel_syms",
	/* Keys have no namespaces. */
	"add_key",
	"keyctl",
	"request_key",
	/* Watching, and delaying the kernel at a page fault. */
	"perf_event_open",
	"userfaultfd",
	"lookup_dcookie",
	"kcmp",
	"fanotify_init",
	/* Asynchronous calls go past every filter. */
	"io_uring_enter",
	"io_uring_register",
	"io_uring_setup",
	/* Files by their numbers, out of any root. */
	"open_by_handle_at",
	/* The host's clock, power and accounting. */
	"settimeofday",
	"clock_settime",
	"clock_settime64",
	"clock_adjtime",
	"clock_adjtime64",
	"adjtimex",
	"stime",
	"reboot",
	"acct",
	"syslog",
	"vhangup",
	"_sysctl",
	/* Hardware, memory nodes, old modes of the CPU. */
	"iopl",
	"ioperm",
	"mbind",
	"migrate_pages",
	"move_pages",
	"set_mempolicy",
	"vm86",
	"vm86old",
	"uselib",
	"ustat",
	"sysfs",
	"swapon",
	"swapoff",
	"quotactl",
	"quotactl_fd",
	"nfsservctl",
};

/* Mounts and namespaces, unless the container was given the capability for them. */
static const char *const administrative[] = {
	"mount",    "umount2", "umount", "pivot_root",    "move_mount",     "open_tree", "fsopen",
	"fsconfig", "fsmount", "fspick", "mount_setattr", "open_tree_attr", "setns",
};

static json_t *argument(unsigned index, uint64_t mask, uint64_t value)
{
	return json_pack("{s:i, s:I, s:I, s:s}", "index", (int)index, "value", (json_int_t)mask, "valueTwo",
			 (json_int_t)value, "op", "SCMP_CMP_MASKED_EQ");
}

static json_t *rule(json_t *names, int number, json_t *args)
{
	json_t *r = json_pack("{s:o, s:s, s:i}", "names", names, "action", "SCMP_ACT_ERRNO", "errnoRet", number);

	if (args)
		json_object_set_new(r, "args", args);
	return r;
}

/* New user namespaces are what most of the kernel's holes are reached through. The kernel looks at 32 bits of each argument. */
static void refuse_with_arguments(json_t *rules, bool administrator)
{
	static const char *const makers[] = { "clone", "unshare" };
	static const unsigned long requests[] = { TIOCSTI, TIOCLINUX };

	for (unsigned i = 0; i < 2 && !administrator; i++)
		json_array_append_new(rules, rule(json_pack("[s]", makers[i]), 1,
						  json_pack("[o]", argument(0, CLONE_NEWUSER, CLONE_NEWUSER))));
	/* clone3 has its flags in memory, where a filter can't look; without it, programs use clone. */
	if (!administrator)
		json_array_append_new(rules, rule(json_pack("[s]", "clone3"), 38, NULL));
	/* Typing on the caller's terminal. */
	for (unsigned i = 0; i < 2; i++)
		json_array_append_new(
		    rules, rule(json_pack("[s]", "ioctl"), 1, json_pack("[o]", argument(1, UINT32_MAX, requests[i]))));
}

json_t *box_seccomp(bool administrator)
{
	json_t *names = json_array(), *rules = json_array();

	for (unsigned i = 0; i < sizeof(refused) / sizeof(*refused); i++)
		json_array_append_new(names, json_string(refused[i]));
	for (unsigned i = 0; i < sizeof(administrative) / sizeof(*administrative) && !administrator; i++)
		json_array_append_new(names, json_string(administrative[i]));
	json_array_append_new(rules, rule(names, 1, NULL));
	refuse_with_arguments(rules, administrator);
	return json_pack("{s:s, s:[s,s], s:o}", "defaultAction", "SCMP_ACT_ALLOW", "architectures", "SCMP_ARCH_X86_64",
			 "SCMP_ARCH_X86", "syscalls", rules);
}
