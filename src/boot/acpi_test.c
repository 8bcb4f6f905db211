/* SPDX-License-Identifier: Apache-2.0 */
/* Walks the tables from the RSDP as an operating system does, and has iasl take them apart where it is installed. */
#include "boot/acpi.h"

#include <stdio.h>

#include "base/bytes.h"
#include "boot/test_image.h"

static uint8_t sum(const uint8_t *data, size_t size)
{
	uint8_t total = 0;

	while (size--)
		total = (uint8_t)(total + *data++);
	return total;
}

/* The table at gpa, of a valid length and checksum. */
static const uint8_t *table_at(struct guest *g, uint64_t gpa, const char *signature)
{
	const uint8_t *t = guest_at(g, gpa, 36);
	uint32_t length = bytes_le32(t + 4);

	assert_memory_equal(t, signature, 4);
	assert_in_range(gpa, PLATFORM_ACPI_BASE, PLATFORM_ACPI_BASE + PLATFORM_ACPI_SIZE - length);
	if (memcmp(signature, "FACS", 4) != 0)
		assert_int_equal(sum(t, length), 0);
	return t;
}

/* Finds a table through the XSDT, and checks that the RSDT has the same. */
static const uint8_t *find_table(struct guest *g, uint64_t rsdp, const char *signature)
{
	const uint8_t *r = guest_at(g, rsdp, 36);

	assert_memory_equal(r, "RSD PTR ", 8);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(sum(r, 36), 0);
	assert_int_equal(r[15], 2);
	const uint8_t *rsdt = table_at(g, bytes_le32(r + 16), "RSDT"), *xsdt = table_at(g, bytes_le64(r + 24), "XSDT");
	unsigned n = (bytes_le32(xsdt + 4) - 36) / 8;
	const uint8_t *found = NULL;

	assert_int_equal(n, (bytes_le32(rsdt + 4) - 36) / 4);
	for (unsigned i = 0; i < n; i++) {
		uint64_t gpa = bytes_le64(xsdt + 36 + 8 * i);

		assert_int_equal(gpa, bytes_le32(rsdt + 36 + 4 * i));
		if (memcmp(guest_at(g, gpa, 4), signature, 4) == 0)
			found = table_at(g, gpa, signature);
	}
	assert_non_null(found);
	return found;
}

static uint64_t build(struct guest *g, unsigned vcpus)
{
	uint64_t rsdp = 0;

	guest_init(g, 64 * MIB);
	if (acpi_build(&g->memory, vcpus, &rsdp, &g->err))
		fail_msg("%s", g->err.text);
	return rsdp;
}

static void test_fadt(void **state)
{
	(void)state;
	struct guest g;
	const uint8_t *f = find_table(&g, build(&g, 1), "FACP");

	assert_int_equal(bytes_le32(f + 4), 276);
	assert_int_equal(f[8], 6);
	assert_int_equal(bytes_le16(f + 46), PLATFORM_IRQ_SCI);
	assert_int_equal(bytes_le32(f + 48), 0); /* SMI_CMD: always in ACPI mode */
	assert_int_equal(bytes_le32(f + 56), PLATFORM_PM1_EVENT_PORT);
	assert_int_equal(bytes_le32(f + 64), PLATFORM_PM1_CONTROL_PORT);
	assert_int_equal(bytes_le32(f + 76), PLATFORM_PM_TIMER_PORT);
	assert_int_equal(bytes_le32(f + 80), PLATFORM_GPE0_PORT);
	assert_int_equal(f[92], 4);
	assert_int_equal(bytes_le16(f + 109) & 2, 0); /* no 8042 */
	uint32_t flags = bytes_le32(f + 112);

	assert_true(flags & 1 << 10);  /* reset register */
	assert_true(flags & 1 << 8);   /* 32-bit timer */
	assert_false(flags & 1 << 20); /* not hardware-reduced */
	assert_false(flags & 1 << 4);  /* a fixed power button */
	assert_int_equal(f[116], 1);   /* I/O space */
	assert_int_equal(bytes_le64(f + 120), 0xcf9);
	assert_int_equal(f[128], 6);
	uint64_t dsdt = bytes_le64(f + 140);

	assert_int_equal(dsdt, bytes_le32(f + 40));
	table_at(&g, dsdt, "DSDT");
	uint64_t facs = bytes_le32(f + 36);

	assert_int_equal(facs % 64, 0);
	table_at(&g, facs, "FACS");
	assert_int_equal(bytes_le64(f + 148 + 4), PLATFORM_PM1_EVENT_PORT);
	assert_int_equal(bytes_le64(f + 172 + 4), PLATFORM_PM1_CONTROL_PORT);
	assert_int_equal(bytes_le64(f + 208 + 4), PLATFORM_PM_TIMER_PORT);
	assert_int_equal(bytes_le64(f + 220 + 4), PLATFORM_GPE0_PORT);
	guest_fini(&g);
}

struct madt_count {
	unsigned lapics, x2apics, ioapics, overrides, nmis;
};

static struct madt_count walk_madt(const uint8_t *madt)
{
	struct madt_count n = { 0 };
	const uint8_t *end = madt + bytes_le32(madt + 4), *e = madt + 44;

	for (; e < end; e += e[1]) {
		assert_true(e[1] >= 2 && e + e[1] <= end);
		switch (e[0]) {
		case 0:
			assert_int_equal(e[3], n.lapics++);
			assert_int_equal(bytes_le32(e + 4), 1);
			break;
		case 1:
			n.ioapics++;
			assert_int_equal(bytes_le32(e + 4), PLATFORM_IOAPIC_BASE);
			break;
		case 2:
			n.overrides++;
			assert_int_equal(bytes_le32(e + 4), e[3] == 0 ? PLATFORM_GSI_TIMER : e[3]);
			assert_int_equal(bytes_le16(e + 8), e[3] == PLATFORM_IRQ_SCI ? 0xd : 0);
			break;
		case 4:
		case 10:
			n.nmis++;
			break;
		case 9:
			assert_int_equal(bytes_le32(e + 4), n.lapics + n.x2apics++);
			break;
		default:
			fail_msg("MADT entry of type %u", e[0]);
		}
	}
	assert_ptr_equal(e, end);
	return n;
}

static void test_madt(void **state)
{
	(void)state;
	const unsigned cpus[] = { 1, 2, 64, 255, 256, 1000 };

	for (unsigned i = 0; i < sizeof(cpus) / sizeof(*cpus); i++) {
		struct guest g;
		const uint8_t *madt = find_table(&g, build(&g, cpus[i]), "APIC");
		struct madt_count n = walk_madt(madt);

		assert_int_equal(bytes_le32(madt + 36), PLATFORM_LAPIC_BASE);
		assert_int_equal(n.lapics, cpus[i] < 255 ? cpus[i] : 255);
		assert_int_equal(n.lapics + n.x2apics, cpus[i]);
		assert_int_equal(n.ioapics, 1);
		assert_int_equal(n.overrides, 2);
		assert_int_equal(n.nmis, cpus[i] > 255 ? 2 : 1);
		guest_fini(&g);
	}
}

static void test_too_many_cpus(void **state)
{
	(void)state;
	struct guest g;
	uint64_t rsdp;

	guest_init(&g, 64 * MIB);
	assert_true(acpi_build(&g.memory, 100000, &rsdp, &g.err) < 0);
	assert_non_null(strstr(g.err.text, "100000 CPUs"));
	/* Nothing was written beyond the area. */
	assert_int_equal(*(uint8_t *)guest_at(&g, PLATFORM_SMBIOS_BASE, 1), 0);
	guest_fini(&g);
}

/* iasl reads every table without a complaint. */
static void test_iasl(void **state)
{
	(void)state;
	static const char *const names[] = { "FACP", "APIC", "MCFG" };
	struct guest g;
	char dir[] = "/tmp/plures-acpi-XXXXXX", path[64], command[256], line[256];

	if (system("command -v iasl >/dev/null 2>&1") != 0) {
		print_message("no iasl: skipped\n");
		skip();
	}
	uint64_t rsdp = build(&g, 300);

	assert_non_null(mkdtemp(dir));
	for (unsigned i = 0; i < 2; i++) {
		const uint8_t *t = find_table(&g, rsdp, names[i]);

		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		FILE *f = fopen(path, "wb");

		assert_non_null(f);
		assert_int_equal(fwrite(t, 1, bytes_le32(t + 4), f), bytes_le32(t + 4));
		fclose(f);
		snprintf(command, sizeof(command), "iasl -d %s 2>&1 && cat %s.dsl", path, path);
		f = popen(command, "r");
		assert_non_null(f);
		while (fgets(line, sizeof(line), f))
			if (strstr(line, "Error") || strstr(line, "Warning") || strstr(line, "nvalid") ||
			    strstr(line, "Unknown") || strstr(line, "hould be"))
				fail_msg("iasl on %s: %s", names[i], line);
		assert_int_equal(pclose(f), 0);
	}
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
	guest_fini(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt),
		cmocka_unit_test(test_too_many_cpus),
		cmocka_unit_test(test_iasl),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
