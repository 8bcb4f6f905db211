/* SPDX-License-Identifier: Apache-2.0 */
/* What time it is: the KVM clock where CPUID offers it (Documentation/virt/kvm/x86/{cpuid,msr}.rst), its wall clock, the
 * real-time clock, and the three agreeing. */
#include "apic.h"

enum { KVM_FEATURES = 0x40000001, CLOCKSOURCE2 = 1 << 3, MSR_WALL = 0x4b564d00, MSR_SYSTEM = 0x4b564d01 };

struct system_time {
	uint32_t version, pad;
	uint64_t tsc, nanoseconds;
	uint32_t multiplier;
	int8_t shift;
	uint8_t flags, pad2[2];
};

static volatile struct system_time *shared;

static uint64_t nanoseconds(void)
{
	uint64_t result;
	uint32_t version;
	do {
		version = shared->version;
		__asm__ volatile("lfence" : : : "memory");
		uint64_t delta = rdtsc() - shared->tsc;
		if (shared->shift < 0)
			delta >>= -shared->shift;
		else
			delta <<= shared->shift;
		result = shared->nanoseconds + (uint64_t)((unsigned __int128)delta * shared->multiplier >> 32);
		__asm__ volatile("lfence" : : : "memory");
	} while (version & 1 || version != shared->version);
	return result;
}

static uint8_t cmos(uint8_t cell)
{
	outb(0x70, cell);
	return inb(0x71);
}

static unsigned from_bcd(uint8_t v)
{
	return (v >> 4) * 10u + (v & 15);
}

/* Seconds since 1970 by the RTC, which runs in UTC here, read twice to be sure of one moment. */
static uint64_t rtc(void)
{
	uint8_t cells[7], again[7];
	static const uint8_t index[7] = { 0, 2, 4, 7, 8, 9, 0x32 };
	bool binary = cmos(0xb) & 4;
	do {
		while (cmos(0xa) & 0x80)
			;
		for (int i = 0; i < 7; i++)
			cells[i] = cmos(index[i]);
		for (int i = 0; i < 7; i++)
			again[i] = cmos(index[i]);
	} while (memcmp(cells, again, 7) != 0);
	unsigned v[7];
	for (int i = 0; i < 7; i++)
		v[i] = binary && i < 6 ? cells[i] : from_bcd(cells[i]);
	/* Days by the civil calendar with March first. */
	unsigned year = v[6] * 100 + v[5], month = v[4];
	if (month <= 2)
		year--;
	unsigned era = year / 400, y = year % 400, d = (153 * ((month + 9) % 12) + 2) / 5 + v[3] - 1;
	uint64_t days = era * 146097ull + y * 365 + y / 4 - y / 100 + d - 719468;
	return ((days * 24 + v[2]) * 60 + v[1]) * 60 + v[0];
}

int main(void)
{
	uint64_t now = rtc();
	check(now > 1700000000 && now < 4000000000, "the RTC's date");
	if (cpuid(0x40000000, 0).ebx != 0x4b4d564b || !(cpuid(KVM_FEATURES, 0).eax & CLOCKSOURCE2)) {
		print("no KVM clock\n");
		return guest_on_tcg() ? 0 : 1;
	}
	uint32_t *wall = new_page();
	shared = (void *)(wall + 512);
	wrmsr(MSR_SYSTEM, (uint64_t)shared | 1);
	wrmsr(MSR_WALL, (uint64_t)wall);
	check(!(shared->version & 1) && shared->multiplier != 0, "the KVM clock is filled in");
	/* A busy host looks at the 8254 late, now and then; a clock of the wrong speed is never right. */
	uint64_t spent = 0, last = 0;
	for (int i = 0; i < 100 && !(spent > 45000000 && spent < 70000000); i++) {
		uint64_t start = nanoseconds();
		pit_wait(PIT_HZ / 20);
		last = nanoseconds();
		spent = last - start;
	}
	check(spent > 45000000 && spent < 70000000, "50 ms by the 8254 are 50 ms by it");
	bool forward = true;
	for (int i = 0; i < 20000; i++) {
		uint64_t t = nanoseconds();
		forward &= t >= last;
		last = t;
	}
	check(forward, "it never goes back");
	/* A hypervisor that knows its host's TSC to be bad does not say it here; on TCG that may be. */
	check((cpuid(KVM_FEATURES, 0).eax >> 24 & 1) == (shared->flags & 1u) || guest_on_tcg(), "stable as CPUID says");
	uint64_t boot = wall[1];
	uint64_t by_wall = boot + nanoseconds() / 1000000000;
	now = rtc();
	check(by_wall + 3 > now && by_wall < now + 3, "wall clock and RTC agree");
	wrmsr(MSR_SYSTEM, 0);
	return 0;
}
