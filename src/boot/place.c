/* SPDX-License-Identifier: Apache-2.0 */
/* place.c - puts the pieces of a boot into guest memory, and says how much memory would have been enough. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/image.h"

#define MIB (1ull << 20)

static unsigned long long mib_up(uint64_t bytes)
{
	return (bytes >> 20) + ((bytes & (MIB - 1)) != 0);
}

int boot_place(struct boot *boot, const char *what, uint64_t gpa, const void *data, uint64_t filled, uint64_t size,
	       struct error *err)
{
	const char *path = boot->image->path;

	if (filled > size || gpa + size < gpa)
		return error_set(err, -ENOEXEC, "kernel %s: damaged: its %s has impossible sizes", path, what);
	if (gpa < BOOT_LOW_END)
		return error_set(
		    err, -ENOEXEC,
		    "kernel %s: its %s wants to be loaded at address %#llx, which the boot loader itself needs", path,
		    what, (unsigned long long)gpa);
	if (!e820_usable(boot->memory, gpa, size)) {
		uint64_t end = gpa + size;
		/* Only where more memory would put RAM there is more memory the answer. */
		bool grows = gpa >= MIB && end <= PLATFORM_RAM_LOW_END;

		if (grows)
			return error_set(err, -ENOSPC,
					 "kernel %s: needs at least %lluM of memory, this machine has %lluM", path,
					 mib_up(end), mib_up(boot_memory_size(boot->memory)));
		return error_set(err, -ENOEXEC,
				 "kernel %s: its %s wants to be loaded at %#llx-%#llx, where there is no RAM", path,
				 what, (unsigned long long)gpa, (unsigned long long)end);
	}
	uint8_t *to = boot_memory_at(boot->memory, gpa, size);

	if (filled)
		memcpy(to, data, filled);
	if (size > filled)
		memset(to + filled, 0, size - filled);
	if (gpa + size <= PLATFORM_RAM_LOW_END && boot->kernel_end < gpa + size)
		boot->kernel_end = gpa + size;
	return 0;
}

static int read_fully(int fd, const char *path, uint8_t *to, uint64_t size, struct error *err)
{
	while (size) {
		ssize_t r = read(fd, to, size);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return error_errno(err, -errno, "initrd %s: can't read", path);
		if (r == 0)
			return error_set(err, -EIO, "initrd %s: became shorter while it was read", path);
		to += r;
		size -= (uint64_t)r;
	}
	return 0;
}

static int place_open_initrd(struct boot *boot, int fd, uint64_t limit, struct error *err)
{
	const char *path = boot->config->initrd;
	uint64_t top = boot_low_end(boot->memory);
	struct stat st;

	if (fstat(fd, &st))
		return error_errno(err, -errno, "initrd %s: can't stat", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "initrd %s: is not a regular file", path);
	if (st.st_size == 0)
		return error_set(err, -EINVAL, "initrd %s: is empty: leave --initrd out to boot without one", path);
	if (top > limit)
		top = limit;
	uint64_t size = (uint64_t)st.st_size;
	uint64_t gpa = size <= top ? (top - size) & ~0xfffull : 0;

	if (gpa < boot->kernel_end || gpa < MIB) {
		uint64_t floor = boot->kernel_end > MIB ? boot->kernel_end : MIB;
		uint64_t need = ((floor + 0xfff) & ~0xfffull) + ((size + 0xfff) & ~0xfffull);

		if (need > limit || need > PLATFORM_RAM_LOW_END)
			return error_set(
			    err, -EFBIG,
			    "initrd %s: is %lluM and too large: below the kernel's limit of %lluM there is room "
			    "for %lluM",
			    path, mib_up(size), (unsigned long long)(limit >> 20),
			    limit > floor ? (unsigned long long)((limit - floor) >> 20) : 0);
		return error_set(
		    err, -ENOSPC,
		    "initrd %s: is %lluM and does not fit beside the kernel: give the machine at least %lluM "
		    "of memory, it has %lluM",
		    path, mib_up(size), mib_up(need), mib_up(boot_memory_size(boot->memory)));
	}
	boot->initrd_gpa = gpa;
	boot->initrd_size = size;
	return read_fully(fd, path, boot_memory_at(boot->memory, gpa, size), size, err);
}

int boot_place_initrd(struct boot *boot, uint64_t limit, struct error *err)
{
	if (!boot->config->initrd)
		return 0;
	int fd = open(boot->config->initrd, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return error_errno(err, -errno, "initrd %s: can't open", boot->config->initrd);
	int rc = place_open_initrd(boot, fd, limit, err);

	close(fd);
	return rc;
}

const char *boot_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

int boot_place_cmdline(struct boot *boot, const char *name, uint64_t max, struct error *err)
{
	const char *cmdline = boot->config->cmdline ? boot->config->cmdline : "";
	char *to = boot_memory_at(boot->memory, BOOT_CMDLINE_GPA, BOOT_CMDLINE_ROOM);
	size_t front = name ? strlen(name) + 1 : 0, size = front + strlen(cmdline);

	if (max > BOOT_CMDLINE_ROOM - 1)
		max = BOOT_CMDLINE_ROOM - 1;
	if (size > max)
		return error_set(err, -E2BIG,
				 "the command line is %zu bytes long, and kernel %s takes at most %llu: shorten it",
				 size, boot->image->path, (unsigned long long)max);
	if (name) {
		memcpy(to, name, front);
		to[front - 1] = ' ';
	}
	memcpy(to + front, cmdline, size - front + 1);
	return 0;
}

void boot_place_bda(struct boot *boot)
{
	uint8_t *bda = boot_memory_at(boot->memory, 0x400, 0x100);
	uint8_t *ebda = boot_memory_at(boot->memory, PLATFORM_EBDA_BASE, 1);
	const uint16_t segment = PLATFORM_EBDA_BASE >> 4, kib = PLATFORM_EBDA_BASE >> 10;

	memcpy(bda + 0x0e, &segment, 2);
	memcpy(bda + 0x13, &kib, 2);
	*ebda = (PLATFORM_VGA_BASE - PLATFORM_EBDA_BASE) >> 10;
}
