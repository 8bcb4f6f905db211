/* SPDX-License-Identifier: Apache-2.0 */
#include "boot/mptable.h"

#include "base/bytes.h"
#include "boot/test_image.h"

enum { ENTRIES = 5 };

static const uint8_t entry_size[ENTRIES] = { 20, 8, 8, 8, 8 };

static unsigned sum(const uint8_t *at, size_t size)
{
	unsigned s = 0;

	while (size--)
		s += *at++;
	return s & 0xff;
}

/* The table, checked as a whole, and how many entries of each type it has. */
static const uint8_t *table(struct guest *g, unsigned vcpus, unsigned count[ENTRIES])
{
	assert_int_equal(mptable_build(&g->memory, vcpus, &g->err), 0);
	const uint8_t *pointer = guest_at(g, PLATFORM_MPTABLE_BASE, 16);
	assert_memory_equal(pointer, "_MP_", 4);
	assert_int_equal(pointer[8], 1);
	assert_int_equal(sum(pointer, 16), 0);
	uint32_t gpa = bytes_le32(pointer + 4);
	const uint8_t *t = guest_at(g, gpa, 44);
	uint16_t length = bytes_le16(t + 4);
	assert_memory_equal(t, "PCMP", 4);
	assert_true(gpa >= PLATFORM_MPTABLE_BASE + 16 && gpa + length <= 0x100000);
	assert_int_equal(sum(guest_at(g, gpa, length), length), 0);
	assert_int_equal(bytes_le32(t + 36), PLATFORM_LAPIC_BASE);
	const uint8_t *at = t + 44;
	memset(count, 0, ENTRIES * sizeof(*count));
	for (unsigned i = 0; i < bytes_le16(t + 34); i++, at += entry_size[*at]) {
		assert_true(at < t + length && *at < ENTRIES);
		count[*at]++;
	}
	assert_ptr_equal(at, t + length);
	return t + 44;
}

static void test_two_cpus(void **state)
{
	struct guest g;
	unsigned count[ENTRIES];
	(void)state;
	guest_init(&g, 512 * MIB);
	const uint8_t *at = table(&g, 2, count);
	assert_int_equal(count[0], 2);
	assert_int_equal(count[1], 2);
	assert_int_equal(count[2], 1);
	assert_int_equal(count[4], 2);
	assert_int_equal(at[1], 0);
	assert_int_equal(at[3], 3); /* enabled, boots the others */
	assert_int_equal(at[20 + 1], 1);
	assert_int_equal(at[20 + 3], 1);
	const uint8_t *ioapic = at + 2 * 20 + 2 * 8;
	assert_int_equal(ioapic[0], 2);
	assert_int_equal(ioapic[1], 2); /* an ID that no CPU has */
	assert_int_equal(bytes_le32(ioapic + 4), PLATFORM_IOAPIC_BASE);
	bool timer = false, pci = false;
	for (const uint8_t *i = ioapic + 8; i[0] == 3; i += 8) {
		assert_int_equal(i[6], 2);
		assert_true(i[7] < PLATFORM_IOAPIC_PINS);
		timer |= i[4] == 1 && i[5] == PLATFORM_IRQ_TIMER && i[7] == PLATFORM_GSI_TIMER;
		pci |= i[4] == 0 && i[5] == 5 << 2 && i[7] == PLATFORM_GSI_PCI + 1;
	}
	assert_true(timer && pci);
	guest_fini(&g);
}

/* IDs have 8 bits, and the last is the broadcast's. */
static void test_more_cpus_than_ids(void **state)
{
	struct guest g;
	unsigned count[ENTRIES];
	(void)state;
	guest_init(&g, 512 * MIB);
	for (unsigned cpus = 250; cpus < 300; cpus++) {
		table(&g, cpus, count);
		assert_int_equal(count[0], cpus < 254 ? cpus : 254);
	}
	guest_fini(&g);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_two_cpus),
		cmocka_unit_test(test_more_cpus_than_ids),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
