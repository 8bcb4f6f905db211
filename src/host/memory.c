/* SPDX-License-Identifier: Apache-2.0 */
#include "host/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/size.h"

enum { GUEST_MAX_SHIFT = 46 }; /* more than any host of today; keeps sums of sizes far from overflow */

/* The number in a control group's file: false when there is none, or it is "max". */
static bool read_number(const char *path, uint64_t *value)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	unsigned long long v;
	bool ok = fscanf(f, "%llu", &v) == 1;
	fclose(f);
	if (ok)
		*value = v;
	return ok;
}

/* The path of our group in the unified hierarchy, from the line 0::PATH; "" when there is none. */
static void own_group(char *path, size_t room)
{
	path[0] = '\0';
	FILE *f = fopen("/proc/self/cgroup", "re");
	if (!f)
		return;
	char line[PATH_MAX];
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "0::", 3) != 0)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(path, room, "%s", line + 3);
		break;
	}
	fclose(f);
}

/* The tightest memory.max of our group and those above it, version 2; or version 1's limit. */
static uint64_t group_limit(void)
{
	uint64_t limit = UINT64_MAX, value;
	char group[PATH_MAX], path[PATH_MAX + 64];
	own_group(group, sizeof(group));
	for (;;) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", group);
		if (read_number(path, &value) && value < limit)
			limit = value;
		char *slash = strrchr(group, '/');
		if (!slash)
			break;
		*slash = '\0';
	}
	if (read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", &value) && value < limit)
		limit = value;
	return limit;
}

uint64_t host_memory_limit(void)
{
	uint64_t limit = group_limit();
	struct sysinfo info;
	if (sysinfo(&info) == 0) {
		uint64_t all = ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
		if (all < limit)
			limit = all;
	}
	struct rlimit as;
	if (getrlimit(RLIMIT_AS, &as) == 0 && as.rlim_cur != RLIM_INFINITY && as.rlim_cur < limit)
		limit = as.rlim_cur;
	return limit;
}

int host_memory_check(uint64_t size, struct error *err)
{
	uint64_t limit = host_memory_limit();
	if (size <= limit && size >> GUEST_MAX_SHIFT == 0)
		return 0;
	char wanted[SIZE_TEXT], most[SIZE_TEXT];
	return error_set(err, -ENOMEM, "%s of guest memory is more than this host has to give: ask for at most %s",
			 size_format(size, wanted, sizeof(wanted)), size_format(limit >> 20 << 20, most, sizeof(most)));
}

int host_memory_init(struct host_memory *m, const char *name, uint64_t size, struct error *err)
{
	char text[SIZE_TEXT];
	int rc;
	assert(size && size % (uint64_t)sysconf(_SC_PAGESIZE) == 0);
	*m = (struct host_memory){ .size = size, .fd = -1 };
	m->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (m->fd < 0) {
		rc = error_errno(err, -errno, "guest memory \"%s\": memfd_create", name);
		goto fail;
	}
	if (size > INT64_MAX || ftruncate(m->fd, (off_t)size) < 0) {
		rc = error_errno(err, size > INT64_MAX ? -EFBIG : -errno, "guest memory \"%s\": can't make it %s", name,
				 size_format(size, text, sizeof(text)));
		goto fail;
	}
	/* Whoever gets the descriptor must not be able to cut the pages from under us. */
	if (fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		rc = error_errno(err, -errno, "guest memory \"%s\": can't seal its size", name);
		goto fail;
	}
	void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd, 0);
	if (base == MAP_FAILED) {
		rc = error_errno(err, -errno,
				 "guest memory \"%s\": can't map %s (see `ulimit -v` and vm.overcommit_memory)", name,
				 size_format(size, text, sizeof(text)));
		goto fail;
	}
	m->base = base;
	/* A core dump of ours would otherwise hold all of the guest, secrets and zeros. */
	madvise(base, size, MADV_DONTDUMP);
	return 0;
fail:
	host_memory_fini(m);
	return rc;
}

void host_memory_fini(struct host_memory *m)
{
	if (m->base)
		munmap(m->base, m->size);
	if (m->base || m->fd > 0)
		close(m->fd);
	*m = (struct host_memory){ .fd = -1 };
}
