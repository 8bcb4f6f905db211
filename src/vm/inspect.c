/* SPDX-License-Identifier: Apache-2.0 */
/* inspect.c - what can be asked of a running machine, and changed. */
#include <errno.h>

#include "base/size.h"
#include "virtio/virtio_balloon.h"
#include "vm/machine.h"

const char *const vm_balloon_statistics[VM_BALLOON_STATISTICS] = {
	[BALLOON_SWAP_IN] = "swap_in",
	[BALLOON_SWAP_OUT] = "swap_out",
	[BALLOON_MAJOR_FAULTS] = "major_faults",
	[BALLOON_MINOR_FAULTS] = "minor_faults",
	[BALLOON_FREE] = "free",
	[BALLOON_TOTAL] = "total",
	[BALLOON_AVAILABLE] = "available",
	[BALLOON_DISK_CACHES] = "disk_caches",
	[BALLOON_HUGETLB_ALLOCATIONS] = "hugetlb_allocations",
	[BALLOON_HUGETLB_FAILURES] = "hugetlb_failures",
};
_Static_assert(BALLOON_STATS == (int)VM_BALLOON_STATISTICS, "each has its name");

struct event_loop *vm_event_loop(struct vm *vm)
{
	return vm->loop;
}

void vm_get_info(const struct vm *vm, struct vm_info *info)
{
	*info = (struct vm_info){
		.engine = vm->ops->name,
		.memory = vm->config.memory,
		.cpus = vm->config.cpus,
	};
}

static int need_balloon(const struct vm *vm, struct error *err)
{
	return vm->balloon ? 0 : error_set(err, -ENODEV, "it has no balloon: start it with --balloon 0");
}

int vm_get_balloon(struct vm *vm, struct vm_balloon *balloon, struct error *err)
{
	int rc = need_balloon(vm, err);

	if (rc)
		return rc;
	balloon->target = virtio_balloon_target(vm->balloon);
	balloon->actual = virtio_balloon_actual(vm->balloon);
	virtio_balloon_stats(vm->balloon, balloon->statistic);
	return 0;
}

int vm_set_balloon(struct vm *vm, uint64_t target, struct error *err)
{
	char wanted[SIZE_TEXT], most[SIZE_TEXT];
	int rc = need_balloon(vm, err);

	if (rc)
		return rc;
	if (target > vm->config.memory)
		return error_set(err, -EINVAL, "%s is more than its memory, which is %s",
				 size_format(target, wanted, sizeof(wanted)),
				 size_format(vm->config.memory, most, sizeof(most)));
	virtio_balloon_set_target(vm->balloon, target);
	return 0;
}
