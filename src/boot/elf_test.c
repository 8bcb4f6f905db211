/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels given as ELF files, by PVH and by multiboot, and flat multiboot kernels. */
#include "boot/test_image.h"

static uint32_t get32(struct guest *g, uint64_t gpa)
{
	uint32_t value;

	memcpy(&value, guest_at(g, gpa, 4), 4);
	return value;
}

static uint64_t get64(struct guest *g, uint64_t gpa)
{
	uint64_t value;

	memcpy(&value, guest_at(g, gpa, 8), 8);
	return value;
}

static char initrd_path[] = "/tmp/plures-initrd-XXXXXX";

static int make_initrd(void **state)
{
	(void)state;
	int fd = mkstemp(initrd_path);

	assert_int_equal(write(fd, "cpio!", 5), 5);
	return close(fd);
}

static int remove_initrd(void **state)
{
	(void)state;
	return unlink(initrd_path);
}

static void test_pvh(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(0x1000000, 0x1000040);

	guest_init(&g, 6144 * MIB);
	g.config.initrd = initrd_path;
	if (guest_load(&g, &elf, sizeof(elf)))
		fail_msg("%s", g.err.text);
	assert_int_equal(g.bsp.rip, 0x1000040);
	assert_int_equal(g.bsp.cr0 & 0x80000001, 1);
	assert_int_equal(g.bsp.efer, 0);
	assert_int_equal(g.bsp.cr4, 0);
	assert_int_equal(g.bsp.seg[ENGINE_CS].attr & 0x6000, 0x4000);
	assert_int_equal(g.bsp.seg[ENGINE_TR].attr, 0x8b);
	/* start_info.h, field by field. */
	uint64_t info = g.bsp.gpr[3];

	assert_int_equal(get32(&g, info), 0x336ec578);
	assert_int_equal(get32(&g, info + 4), 1);
	assert_int_equal(get32(&g, info + 12), 1);
	uint64_t module = get64(&g, info + 16);

	assert_int_equal(get64(&g, module + 8), 5);
	assert_memory_equal(guest_at(&g, get64(&g, module), 5), "cpio!", 5);
	assert_string_equal(guest_at(&g, get64(&g, info + 24), 64), "console=ttyS0");
	assert_memory_equal(guest_at(&g, get64(&g, info + 32), 8), "RSD PTR ", 8);
	uint64_t map = get64(&g, info + 40), ram = 0;

	for (uint32_t i = 0; i < get32(&g, info + 48); i++)
		if (get32(&g, map + i * 24 + 16) == 1)
			ram += get64(&g, map + i * 24 + 8);
	assert_int_equal(ram, 6144 * MIB - (0x100000 - 0x9fc00));
	guest_fini(&g);
}

static void test_elf_without_a_way_in(void **state)
{
	(void)state;
	struct guest g;
	struct test_elf elf = test_elf(0x1000000, 0);

	guest_init(&g, 64 * MIB);
	guest_refuses(&g, &elf, sizeof(elf), "neither a PVH note nor a multiboot header");
	elf.ehdr.e_machine = EM_AARCH64;
	guest_refuses(&g, &elf, sizeof(elf), "another kind of CPU");
	elf = test_elf(0x1000000, 0x1000000);
	elf.ehdr.e_type = ET_REL;
	guest_refuses(&g, &elf, sizeof(elf), "not a program");
	guest_fini(&g);
}

static void test_damaged_elf(void **state)
{
	(void)state;
	struct guest g;
	const struct test_elf good = test_elf(0x1000000, 0x1000000);
	struct test_elf elf = good;

	guest_init(&g, 64 * MIB);
	assert_int_equal(guest_load(&g, &good, sizeof(good)), 0);
	for (size_t size = 1; size < sizeof(good); size += size < 600 ? 1 : 97)
		assert_true(guest_load(&g, &good, size) < 0);
	elf.ehdr.e_phoff = ~0ull - 10;
	guest_refuses(&g, &elf, sizeof(elf), "damaged");
	elf = good;
	elf.ehdr.e_phnum = 0xffff;
	guest_refuses(&g, &elf, sizeof(elf), "damaged");
	elf = good;
	elf.load.p_filesz = ~0ull;
	elf.load.p_memsz = ~0ull;
	guest_refuses(&g, &elf, sizeof(elf), "damaged");
	elf = good;
	elf.load.p_offset = ~0ull;
	guest_refuses(&g, &elf, sizeof(elf), "cut short");
	elf = good;
	elf.load.p_memsz = 1;
	guest_refuses(&g, &elf, sizeof(elf), "damaged");
	elf = good;
	elf.load.p_type = PT_NULL;
	guest_refuses(&g, &elf, sizeof(elf), "nothing to load");
	/* Notes of absurd sizes are no notes. */
	elf = good;
	elf.pvh.head.n_namesz = 0xffffffff;
	guest_refuses(&g, &elf, sizeof(elf), "neither");
	elf = good;
	elf.pvh.head.n_descsz = 0xfffffff0;
	guest_refuses(&g, &elf, sizeof(elf), "neither");
	elf = good;
	elf.note.p_offset = ~0ull - 4;
	guest_refuses(&g, &elf, sizeof(elf), "neither");
	guest_fini(&g);
}

static void test_segments_outside_ram(void **state)
{
	(void)state;
	struct guest g;
	const struct {
		uint64_t paddr;
		const char *text;
	} wild[] = {
		{ 0x1000, "the boot loader itself needs" },
		{ 0x98000, "where there is no RAM" },
		{ 0xe0000, "where there is no RAM" },
		{ 64 * MIB - 0x8000, "needs at least 65M" },
		{ 0x40000000, "needs at least 1025M" },
		{ 0xbfffc000, "where there is no RAM" },
		{ 0xfee00000, "where there is no RAM" },
		{ 1ull << 40, "where there is no RAM" },
		{ ~0ull - 0xffff, "damaged" },
	};

	guest_init(&g, 64 * MIB);
	for (unsigned i = 0; i < sizeof(wild) / sizeof(*wild); i++) {
		struct test_elf elf = test_elf(wild[i].paddr, 0x1000000);

		guest_refuses(&g, &elf, sizeof(elf), wild[i].text);
	}
	guest_fini(&g);
	/* Above 4 GiB is fine where there is RAM. */
	guest_init(&g, 6144 * MIB);
	struct test_elf elf = test_elf(5ull << 30, 0x1000000);

	assert_int_equal(guest_load(&g, &elf, sizeof(elf)), 0);
	assert_int_equal(get32(&g, 5ull << 30), 0x90909090);
	guest_fini(&g);
}

/* A 32-bit ELF with a multiboot header in its only segment. */
struct multiboot_elf {
	Elf32_Ehdr ehdr;
	Elf32_Phdr load;
	uint32_t header[8];
	uint32_t code[64];
};

static struct multiboot_elf multiboot_elf(uint32_t flags)
{
	struct multiboot_elf e = {
		.ehdr = { .e_type = ET_EXEC,
			  .e_machine = EM_386,
			  .e_version = 1,
			  .e_entry = 0xc0100020,
			  .e_phoff = offsetof(struct multiboot_elf, load),
			  .e_ehsize = sizeof(Elf32_Ehdr),
			  .e_phentsize = sizeof(Elf32_Phdr),
			  .e_phnum = 1 },
		.load = { .p_type = PT_LOAD,
			  .p_offset = offsetof(struct multiboot_elf, header),
			  .p_vaddr = 0xc0100000,
			  .p_paddr = 0x100000,
			  .p_filesz = sizeof(e.header) + sizeof(e.code),
			  .p_memsz = 0x4000 },
		.header = { 0x1badb002, flags, -(0x1badb002u + flags) },
	};

	memcpy(e.ehdr.e_ident, ELFMAG, SELFMAG);
	e.ehdr.e_ident[EI_CLASS] = ELFCLASS32;
	e.ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
	return e;
}

static void test_multiboot_elf(void **state)
{
	(void)state;
	struct guest g;
	struct multiboot_elf elf = multiboot_elf(3);

	guest_init(&g, 32 * MIB);
	g.config.initrd = initrd_path;
	if (guest_load(&g, &elf, sizeof(elf)))
		fail_msg("%s", g.err.text);
	assert_int_equal(g.bsp.rip, 0x100020); /* physical, though linked high */
	assert_int_equal(g.bsp.gpr[0], 0x2badb002);
	uint64_t info = g.bsp.gpr[3];

	assert_int_equal(get32(&g, info) & 0x4d, 0x4d);
	assert_int_equal(get32(&g, info + 4), 639);
	assert_int_equal(get32(&g, info + 8), 31 * 1024);
	assert_string_equal(guest_at(&g, get32(&g, info + 16), 64), "test console=ttyS0");
	assert_int_equal(get32(&g, info + 20), 1);
	uint32_t module = get32(&g, info + 24);

	assert_int_equal(get32(&g, module + 4) - get32(&g, module), 5);
	assert_memory_equal(guest_at(&g, get32(&g, module), 5), "cpio!", 5);
	assert_string_equal(guest_at(&g, get32(&g, module + 8), 64), strrchr(initrd_path, '/') + 1);
	/* The first entry of the map: 20 bytes follow, from 0 to the EBDA, RAM. */
	uint32_t map = get32(&g, info + 48);

	assert_int_equal(get32(&g, map), 20);
	assert_int_equal(get64(&g, map + 12), 0x9fc00);
	assert_int_equal(get32(&g, map + 20), 1);
	elf = multiboot_elf(0x8003);
	guest_refuses(&g, &elf, sizeof(elf), "asks for something unknown");
	guest_fini(&g);
}

static void test_multiboot_flat(void **state)
{
	(void)state;
	struct guest g;
	/* The header at file offset 16 is at 0x200010, so the file's start is at 0x200000. */
	const uint32_t flags = 1 << 16;
	uint32_t good[64] = { 1,        2,        3, 4,        0x1badb002, flags, -(0x1badb002u + flags),
			      0x200010, 0x200000, 0, 0x208000, 0x200030 };
	uint32_t image[64];

	guest_init(&g, 32 * MIB);
	memset(guest_at(&g, 0x200000, 0x8000), 0xee, 0x8000);
	if (guest_load(&g, good, sizeof(good)))
		fail_msg("%s", g.err.text);
	assert_int_equal(g.bsp.rip, 0x200030);
	assert_memory_equal(guest_at(&g, 0x200000, sizeof(good)), good, sizeof(good));
	assert_int_equal(get32(&g, 0x207ffc), 0);

	const struct {
		unsigned field;
		uint32_t value;
	} bad[] = { { 7, 0x1fffff }, { 7, 0x200020 },  { 8, 0xffffffff }, { 9, 0x1000 },
		    { 9, 0x300000 }, { 10, 0x200001 }, { 10, 0x90000000 } };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		memcpy(image, good, sizeof(image));
		image[bad[i].field] = bad[i].value;
		guest_refuses(&g, image, sizeof(image), "kernel test: ");
	}
	/* No load addresses, no ELF. */
	memcpy(image, good, sizeof(image));
	image[5] = 0;
	image[6] = -0x1badb002u;
	guest_refuses(&g, image, sizeof(image), "neither an ELF header nor load addresses");
	guest_fini(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pvh),           cmocka_unit_test(test_elf_without_a_way_in),
		cmocka_unit_test(test_damaged_elf),   cmocka_unit_test(test_segments_outside_ram),
		cmocka_unit_test(test_multiboot_elf), cmocka_unit_test(test_multiboot_flat),
	};

	return cmocka_run_group_tests(tests, make_initrd, remove_initrd);
}
