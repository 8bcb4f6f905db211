/* SPDX-License-Identifier: Apache-2.0 */
#include <lz4.h>
#include <lzma.h>
#include <stdio.h>
#include <zlib.h>
#include <zstd.h>

#include "boot/test_image.h"

#define KERNEL 0x1000000ull

/* Packers, each into a buffer that is large enough; they return the size. */
static size_t pack_gzip(const void *data, size_t size, uint8_t *out, size_t room)
{
	z_stream z = { .next_in = (Bytef *)data, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)room };

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

static size_t pack_xz(const void *data, size_t size, uint8_t *out, size_t room)
{
	lzma_options_lzma options;
	size_t used = 0;

	lzma_lzma_preset(&options, 6);
	lzma_filter filters[] = { { LZMA_FILTER_X86, NULL },
				  { LZMA_FILTER_LZMA2, &options },
				  { LZMA_VLI_UNKNOWN, NULL } };

	assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, data, size, out, &used, room),
			 LZMA_OK);
	return used;
}

static size_t pack_lzma(const void *data, size_t size, uint8_t *out, size_t room)
{
	lzma_options_lzma options;
	lzma_stream s = LZMA_STREAM_INIT;

	lzma_lzma_preset(&options, 6);
	assert_int_equal(lzma_alone_encoder(&s, &options), LZMA_OK);
	s.next_in = data;
	s.avail_in = size;
	s.next_out = out;
	s.avail_out = room;
	assert_int_equal(lzma_code(&s, LZMA_FINISH), LZMA_STREAM_END);
	lzma_end(&s);
	return room - s.avail_out;
}

static size_t pack_zstd(const void *data, size_t size, uint8_t *out, size_t room)
{
	return ZSTD_compress(out, room, data, size, 19);
}

static size_t pack_lz4(const void *data, size_t size, uint8_t *out, size_t room)
{
	const uint32_t magic = 0x184c2102;
	size_t used = 4;

	memcpy(out, &magic, 4);
	for (size_t at = 0; at < size;) {
		int part = size - at > 500 ? 500 : (int)(size - at);
		int block =
		    LZ4_compress_default((const char *)data + at, (char *)out + used + 4, part, (int)(room - used - 4));

		assert_true(block > 0);
		memcpy(out + used, &block, 4);
		used += 4 + (size_t)block;
		at += (size_t)part;
	}
	return used;
}

typedef size_t packer(const void *data, size_t size, uint8_t *out, size_t room);
static packer *const packers[] = { pack_gzip, pack_xz, pack_lzma, pack_zstd, pack_lz4 };
enum { PACKERS = sizeof(packers) / sizeof(*packers) };

static uint8_t *packed_elf(packer *pack, const struct test_elf *elf, size_t *size)
{
	static const size_t room = 1 << 16;
	uint8_t *out = malloc(room);
	size_t packed = pack(elf, sizeof(*elf), out, room);
	uint8_t *image = test_bzimage(out, packed, sizeof(*elf), size);

	free(out);
	return image;
}

static void test_unpacks_each_format(void **state)
{
	(void)state;
	for (unsigned i = 0; i < PACKERS; i++) {
		struct guest g;
		struct test_elf elf = test_elf(KERNEL, 0);
		size_t size;
		uint8_t *image = packed_elf(packers[i], &elf, &size);

		guest_init(&g, 64 * MIB);
		memset(guest_at(&g, KERNEL, 0x10000), 0xee, 0x10000);
		if (guest_load(&g, image, size))
			fail_msg("format %u: %s", i, g.err.text);
		assert_int_equal(g.bsp.rip, KERNEL + 0x40);
		assert_memory_equal(guest_at(&g, KERNEL, sizeof(elf.code)), elf.code, sizeof(elf.code));
		assert_int_equal(*(uint8_t *)guest_at(&g, KERNEL + 0xffff, 1), 0); /* BSS */
		guest_fini(&g);
		free(image);
	}
}

static void test_entry64_state(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(KERNEL, 0);
	size_t size;
	uint8_t *image = packed_elf(pack_lz4, &elf, &size);

	guest_init(&g, 64 * MIB);
	assert_int_equal(guest_load(&g, image, size), 0);
	const struct engine_cpu_state *s = &g.bsp;

	assert_int_equal(s->gpr[6], BOOT_PARAMS_GPA);
	assert_int_equal(s->cr0 & 0x80000001, 0x80000001);
	assert_int_equal(s->cr4 & 0x20, 0x20);
	assert_int_equal(s->efer & 0x500, 0x500);
	assert_int_equal(s->rflags, 2);
	assert_int_equal(s->seg[ENGINE_CS].selector, 0x10);
	assert_int_equal(s->seg[ENGINE_CS].attr & 0x2000, 0x2000); /* L */
	assert_int_equal(s->seg[ENGINE_SS].selector, 0x18);
	/* The descriptors in memory say what the hidden parts say. */
	const uint64_t *gdt = guest_at(&g, s->gdtr.base, s->gdtr.limit + 1u);

	assert_int_equal(gdt[2], 0x00af9b000000ffffull);
	assert_int_equal(gdt[3], 0x00cf93000000ffffull);
	/* Walk the page tables for a few addresses. */
	for (uint64_t va = 0; va < 4ull << 30; va += 0x3ff12345) {
		const uint64_t *pml4 = guest_at(&g, s->cr3, 4096);
		const uint64_t *pdpt = guest_at(&g, pml4[va >> 39] & ~0xfffull, 4096);
		const uint64_t *pd = guest_at(&g, pdpt[va >> 30 & 511] & ~0xfffull, 4096);
		uint64_t pde = pd[va >> 21 & 511];

		assert_int_equal(pde & 0x83, 0x83);
		assert_int_equal((pde & ~0x1fffffull) + (va & 0x1fffff), va);
	}
	guest_fini(&g);
	free(image);
}

static void test_boot_params(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(KERNEL, 0);
	size_t size;
	uint8_t *image = packed_elf(pack_gzip, &elf, &size);
	char initrd[] = "/tmp/plures-initrd-XXXXXX";
	int fd = mkstemp(initrd);

	assert_int_equal(write(fd, "cpio!", 5), 5);
	close(fd);
	guest_init(&g, 64 * MIB);
	g.config.initrd = initrd;
	if (guest_load(&g, image, size))
		fail_msg("%s", g.err.text);
	const struct boot_params *p = guest_at(&g, BOOT_PARAMS_GPA, sizeof(*p));

	assert_int_equal(p->sentinel, 0);
	assert_int_equal(p->hdr.header, 0x53726448);
	assert_int_equal(p->hdr.type_of_loader, 0xff);
	assert_string_equal(guest_at(&g, p->hdr.cmd_line_ptr, 64), "console=ttyS0");
	assert_int_equal(p->hdr.ramdisk_size, 5);
	assert_int_equal(p->hdr.ramdisk_image, 64 * MIB - 0x1000);
	assert_memory_equal(guest_at(&g, p->hdr.ramdisk_image, 5), "cpio!", 5);
	assert_int_equal(p->acpi_rsdp_addr, PLATFORM_ACPI_BASE);
	assert_memory_equal(guest_at(&g, p->acpi_rsdp_addr, 8), "RSD PTR ", 8);
	assert_true(p->e820_entries >= 4);
	/* The same with 6 GiB: the initrd stays below the kernel's limit, not at the top of low memory. */
	guest_fini(&g);
	guest_init(&g, 6144 * MIB);
	g.config.initrd = initrd;
	assert_int_equal(guest_load(&g, image, size), 0);
	p = guest_at(&g, BOOT_PARAMS_GPA, sizeof(*p));
	assert_int_equal(p->hdr.ramdisk_image, 0x7ffff000);
	guest_fini(&g);
	unlink(initrd);
	free(image);
}

static void test_unknown_format_goes_to_the_guest(void **state)
{
	(void)state;
	struct guest g;
	size_t size;
	uint8_t *image = test_bzimage("BZh9 is not unpacked here", 25, 1 << 20, &size);

	guest_init(&g, 64 * MIB);
	if (guest_load(&g, image, size))
		fail_msg("%s", g.err.text);
	assert_int_equal(g.bsp.rip, 0x1000200);
	assert_int_equal(g.bsp.efer & 0x400, 0x400);
	assert_memory_equal(guest_at(&g, 0x1000400, 4), "BZh9", 4);

	/* No 64-bit entry: the 32-bit protocol, at the start. */
	test_header(image)->xloadflags = 0;
	assert_int_equal(guest_load(&g, image, size), 0);
	assert_int_equal(g.bsp.rip, 0x1000000);
	assert_int_equal(g.bsp.cr0 & 0x80000001, 1);
	assert_int_equal(g.bsp.efer, 0);
	assert_int_equal(g.bsp.gpr[6], BOOT_PARAMS_GPA);
	assert_int_equal(g.bsp.seg[ENGINE_CS].attr & 0x6000, 0x4000); /* D, not L */
	const struct boot_params *p = guest_at(&g, BOOT_PARAMS_GPA, sizeof(*p));

	assert_int_equal(p->hdr.code32_start, 0x1000000);

	/* Not relocatable: where bzImages were always loaded. */
	test_header(image)->relocatable_kernel = 0;
	assert_int_equal(guest_load(&g, image, size), 0);
	assert_int_equal(g.bsp.rip, 0x100000);
	guest_fini(&g);
	free(image);
}

/* A 32-bit vmlinux, linked high, is entered at its physical address with flat segments. */
static void test_unpacks_32_bits(void **state)
{
	(void)state;
	struct guest g;
	struct {
		Elf32_Ehdr ehdr;
		Elf32_Phdr load;
		uint32_t code[64];
	} elf = {
		.ehdr = { .e_ident = ELFMAG "\x01\x01\x01",
			  .e_type = ET_EXEC,
			  .e_machine = EM_386,
			  .e_entry = KERNEL,
			  .e_phoff = sizeof(Elf32_Ehdr),
			  .e_phentsize = sizeof(Elf32_Phdr),
			  .e_phnum = 1 },
		.load = { .p_type = PT_LOAD,
			  .p_offset = sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
			  .p_vaddr = 0xc0000000 + KERNEL,
			  .p_paddr = KERNEL,
			  .p_filesz = sizeof(elf.code),
			  .p_memsz = 0x10000 },
		.code = { 0x12345678 },
	};
	uint8_t packed[4096];
	size_t n = pack_xz(&elf, sizeof(elf), packed, sizeof(packed)), size;
	uint8_t *image = test_bzimage(packed, n, sizeof(elf), &size);

	test_header(image)->xloadflags = 0;
	guest_init(&g, 64 * MIB);
	if (guest_load(&g, image, size))
		fail_msg("%s", g.err.text);
	assert_int_equal(g.bsp.rip, KERNEL);
	assert_int_equal(g.bsp.cr0 & 0x80000001, 1);
	assert_int_equal(g.bsp.efer, 0);
	assert_int_equal(g.bsp.gpr[6], BOOT_PARAMS_GPA);
	assert_int_equal(*(uint32_t *)guest_at(&g, KERNEL, 4), 0x12345678);
	guest_fini(&g);
	free(image);
}

static void test_refuses(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(KERNEL, 0);
	size_t size;
	uint8_t *image = packed_elf(pack_zstd, &elf, &size);

	guest_init(&g, 64 * MIB);
	guest_refuses(&g, image, size - 100, "cut short");
	guest_refuses(&g, image, 0x210, "cut short");
	struct setup_header good = *test_header(image), *hdr = test_header(image);

	hdr->version = 0x205;
	guest_refuses(&g, image, size, "2.05");
	*hdr = good;
	hdr->loadflags = 0;
	guest_refuses(&g, image, size, "zImage");
	*hdr = good;
	hdr->payload_length = 0x7fffffff;
	guest_refuses(&g, image, size, "damaged");
	*hdr = good;
	hdr->payload_offset = 0xfffffff0;
	guest_refuses(&g, image, size, "damaged");
	*hdr = good;
	hdr->syssize = 0;
	guest_refuses(&g, image, size, "no kernel");
	*hdr = good;
	image[5 * 512 + 0x400 + 20] ^= 0xff;
	image[5 * 512 + 0x400 + 21] ^= 0xff;
	guest_refuses(&g, image, size, "damaged");
	guest_fini(&g);
	free(image);
}

static void test_refuses_bombs(void **state)
{
	(void)state;
	struct guest g;
	size_t size, room = 24 * MIB;
	uint8_t *zeros = calloc(1, room), *packed = malloc(room);

	guest_init(&g, 16 * MIB);
	for (unsigned i = 0; i < PACKERS; i++) {
		size_t n = packers[i] == pack_lz4 ? 4 : packers[i](zeros, room, packed, room);

		if (packers[i] == pack_lz4) { /* one block, as large as the format allows */
			int block =
			    LZ4_compress_default((const char *)zeros, (char *)packed + 8, (int)room, (int)room - 8);

			memcpy(packed, "\x02\x21\x4c\x18", 4);
			memcpy(packed + 4, &block, 4);
			n = 8 + (size_t)block;
		}
		/* It lies about its size, then it tells the truth. */
		uint8_t *image = test_bzimage(packed, n, 1 << 20, &size);

		guest_refuses(&g, image, size, "damaged");
		free(image);
		image = test_bzimage(packed, n, (uint32_t)room, &size);
		guest_refuses(&g, image, size, "unpacks to 24M, and the machine has 16M");
		free(image);
	}
	guest_fini(&g);
	free(packed);
	free(zeros);
}

static void test_says_how_much_memory(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(KERNEL, 0);
	size_t size;
	uint8_t *image = packed_elf(pack_xz, &elf, &size);

	guest_init(&g, 8 * MIB);
	guest_refuses(&g, image, size, "needs at least 17M of memory, this machine has 8M");
	guest_fini(&g);
	/* A guest that gets what it was told it needs loads. */
	guest_init(&g, 17 * MIB);
	assert_int_equal(guest_load(&g, image, size), 0);
	guest_fini(&g);
	free(image);
}

static void test_initrd_larger_than_memory(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(KERNEL, 0);
	size_t size;
	uint8_t *image = packed_elf(pack_xz, &elf, &size);
	char initrd[] = "/tmp/plures-initrd-XXXXXX";
	int fd = mkstemp(initrd);

	assert_int_equal(ftruncate(fd, 30 * MIB), 0);
	guest_init(&g, 32 * MIB);
	g.config.initrd = initrd;
	guest_refuses(&g, image, size, "at least 47M");
	guest_fini(&g);
	guest_init(&g, 47 * MIB);
	g.config.initrd = initrd;
	assert_int_equal(guest_load(&g, image, size), 0);
	/* More than can ever be below the kernel's limit. */
	assert_int_equal(ftruncate(fd, 3000 * MIB), 0);
	guest_refuses(&g, image, size, "too large");
	assert_int_equal(ftruncate(fd, 0), 0);
	guest_refuses(&g, image, size, "is empty");
	g.config.initrd = "/nonexistent/initrd";
	guest_refuses(&g, image, size, "No such file");
	g.config.initrd = "/tmp";
	guest_refuses(&g, image, size, "not a regular file");
	guest_fini(&g);
	close(fd);
	unlink(initrd);
	free(image);
}

static void test_command_line_too_long(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(KERNEL, 0);
	size_t size;
	uint8_t *image = packed_elf(pack_lz4, &elf, &size);
	char *line = malloc(70001);

	memset(line, 'x', 70000);
	line[70000] = 0;
	guest_init(&g, 64 * MIB);
	g.config.cmdline = line + 70000 - 2048;
	guest_refuses(&g, image, size, "2048 bytes long, and kernel test takes at most 2047");
	g.config.cmdline = line + 70000 - 2047;
	assert_int_equal(guest_load(&g, image, size), 0);
	/* A kernel that takes any length still gets only what there is room for. */
	test_header(image)->cmdline_size = 0xffffffff;
	g.config.cmdline = line;
	guest_refuses(&g, image, size, "70000 bytes long");
	guest_fini(&g);
	free(line);
	free(image);
}

static void test_wild_inner_elf(void **state)
{
	(void)state;
	struct guest g;
	const uint64_t wild[] = { 0, 0xa0000, 0xfffffff000ull, ~0ull - 0x1000, 0x4000000 - 0x1000 };

	guest_init(&g, 64 * MIB);
	for (unsigned i = 0; i < sizeof(wild) / sizeof(*wild); i++) {
		struct test_elf elf = test_elf(KERNEL, 0);
		size_t size;

		elf.load.p_paddr = wild[i];
		uint8_t *image = packed_elf(pack_zstd, &elf, &size);

		guest_refuses(&g, image, size, "kernel test:");
		free(image);
	}
	guest_fini(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unpacks_each_format),
		cmocka_unit_test(test_entry64_state),
		cmocka_unit_test(test_boot_params),
		cmocka_unit_test(test_unknown_format_goes_to_the_guest),
		cmocka_unit_test(test_unpacks_32_bits),
		cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_refuses_bombs),
		cmocka_unit_test(test_says_how_much_memory),
		cmocka_unit_test(test_initrd_larger_than_memory),
		cmocka_unit_test(test_command_line_too_long),
		cmocka_unit_test(test_wild_inner_elf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
