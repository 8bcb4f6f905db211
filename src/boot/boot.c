/* SPDX-License-Identifier: Apache-2.0 */
/* boot.c - reads the kernel file, finds out what it is, and hands it to that format's loader. */
#include "boot/boot.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/acpi.h"
#include "boot/image.h"
#include "boot/mptable.h"
#include "boot/smbios.h"

/* An unstripped vmlinux with debugging information is about half of this. */
#define KERNEL_FILE_MAX (2ull << 30)

static const struct boot_format *const formats[] = { &bzimage_format, &elf_format, &multiboot_format };

static bool has_bytes(const struct boot_image *image, uint64_t offset, const char *bytes, size_t size)
{
	return image_has(image, offset, size) && memcmp(image->data + offset, bytes, size) == 0;
}

static bool is_text(const struct boot_image *image)
{
	size_t size = image->size < 512 ? image->size : 512;

	for (size_t i = 0; i < size; i++)
		if (!isprint(image->data[i]) && !isspace(image->data[i]) && image->data[i] < 0x80)
			return false;
	return true;
}

/* Says what the user may have given instead of a kernel. */
static int not_a_kernel(const struct boot_image *image, struct error *err)
{
	static const struct {
		uint16_t offset, size;
		const char *bytes, *what;
	} known[] = {
		{ 0x38, 4, "ARM\x64", "is a kernel for arm64: use one for x86-64 (amd64)" },
		{ 0x38, 4, "RSC\x05", "is a kernel for RISC-V: use one for x86-64 (amd64)" },
		{ 0x24, 4, "\x18\x28\x6f\x01", "is a kernel for 32-bit ARM: use one for x86-64 (amd64)" },
		{ 0, 2, "\x1f\x8b", "is a gzip file: unpack it with gunzip, or use the kernel's bzImage" },
		{ 0, 6,
		  "\xfd"
		  "7zXZ\0",
		  "is an xz file: unpack it with unxz, or use the kernel's bzImage" },
		{ 0, 4, "\x28\xb5\x2f\xfd", "is a zstd file: unpack it with unzstd, or use the kernel's bzImage" },
		{ 0, 6, "070701",
		  "is a cpio archive, as initrds are: give the kernel with --kernel, this with --initrd" },
		{ 0, 8, "!<arch>\n", "is an archive or package: unpack it and give the vmlinuz in it" },
		{ 0, 4, "QFI\xfb", "is a disk image, not a kernel" },
	};

	for (unsigned i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (has_bytes(image, known[i].offset, known[i].bytes, known[i].size))
			return error_set(err, -ENOEXEC, "kernel %s: %s", image->path, known[i].what);
	if (is_text(image))
		return error_set(err, -ENOEXEC, "kernel %s: is a text file, not a kernel: give a bzImage (vmlinuz)",
				 image->path);
	if (has_bytes(image, 0, "MZ", 2) && image->size < 0x1000)
		return error_set(err, -ENOEXEC, "kernel %s: is a cut short kernel of %zu bytes: get a fresh copy",
				 image->path, image->size);
	return error_set(
	    err, -ENOEXEC,
	    "kernel %s: is no kernel that can be started: give a bzImage (vmlinuz), an ELF kernel with a PVH note, or "
	    "a multiboot kernel",
	    image->path);
}

static int check_config(const struct boot_config *config, const struct boot_memory *memory, struct error *err)
{
	uint64_t size = boot_memory_size(memory);

	if (size < BOOT_MEMORY_MIN || boot_low_end(memory) < BOOT_MEMORY_MIN)
		return error_set(err, -EINVAL, "memory of %lluK is too small: use at least %lluM",
				 (unsigned long long)size >> 10, BOOT_MEMORY_MIN >> 20);
	if (config->vcpus == 0)
		return error_set(err, -EINVAL, "a machine needs at least one CPU");
	return 0;
}

int boot_load_image(const struct boot_image *image, const struct boot_config *config, const struct boot_memory *memory,
		    struct engine_cpu_state *bsp, struct error *err)
{
	struct boot boot = { .config = config, .memory = memory, .image = image, .bsp = bsp };
	int rc = check_config(config, memory, err);

	if (rc)
		return rc;
	if (image->size == 0)
		return error_set(err, -ENOEXEC, "kernel %s: is an empty file: give a kernel, as vmlinuz", image->path);
	for (unsigned i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
		if (!formats[i]->match(image))
			continue;
		rc = acpi_build(memory, config->vcpus, &boot.rsdp, err);
		if (!rc)
			rc = smbios_build(memory, config->vcpus, err);
		if (!rc)
			rc = mptable_build(memory, config->vcpus, err);
		if (rc)
			return rc;
		boot_place_bda(&boot);
		return formats[i]->load(&boot, err);
	}
	return not_a_kernel(image, err);
}

static int read_file(int fd, const char *path, uint8_t *data, size_t size, struct error *err)
{
	for (size_t done = 0; done < size;) {
		ssize_t r = read(fd, data + done, size - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return error_errno(err, -errno, "kernel %s: can't read", path);
		if (r == 0)
			return error_set(err, -EIO, "kernel %s: became shorter while it was read", path);
		done += (size_t)r;
	}
	return 0;
}

static int open_kernel(const char *path, size_t *size, struct error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return error_errno(err, -errno, "kernel %s: can't open", path);
	if (fstat(fd, &st))
		rc = error_errno(err, -errno, "kernel %s: can't stat", path);
	else if (!S_ISREG(st.st_mode))
		rc = error_set(err, -EINVAL, "kernel %s: is not a regular file", path);
	else if ((uint64_t)st.st_size > KERNEL_FILE_MAX)
		rc = error_set(err, -EFBIG, "kernel %s: is larger than %lluM, which no kernel is", path,
			       KERNEL_FILE_MAX >> 20);
	if (rc) {
		close(fd);
		return rc;
	}
	*size = (size_t)st.st_size;
	return fd;
}

/* The file is copied, not mapped: one that changes or shrinks under us must not hurt. */
int boot_load(const struct boot_config *config, const struct boot_memory *memory, struct engine_cpu_state *bsp,
	      struct error *err)
{
	size_t size = 0;
	int fd = open_kernel(config->kernel, &size, err);

	if (fd < 0)
		return fd;
	size_t room = size ? size : 1;
	uint8_t *data = boot_buffer_create(room);
	int rc;

	if (!data) {
		rc = error_errno(err, -errno, "kernel %s: can't allocate %zu bytes", config->kernel, size);
		close(fd);
		return rc;
	}
	rc = read_file(fd, config->kernel, data, size, err);
	close(fd);
	if (!rc)
		rc = boot_load_image(&(struct boot_image){ .path = config->kernel, .data = data, .size = size }, config,
				     memory, bsp, err);
	boot_buffer_destroy(data, room);
	return rc;
}
