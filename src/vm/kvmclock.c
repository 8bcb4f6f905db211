/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/kvmclock.h"

#include <stdatomic.h>
#include <string.h>

__extension__ typedef unsigned __int128 u128;

#define NS_PER_S 1000000000ull

/* The guest's structures. */
struct time_info {
	uint32_t version; /* odd while the rest changes */
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};
enum { TSC_STABLE = 1 };

struct wall_clock {
	uint32_t version;
	uint32_t sec;
	uint32_t nsec;
};

_Static_assert(sizeof(struct time_info) == KVMCLOCK_TIME_SIZE, "guest ABI");
_Static_assert(sizeof(struct wall_clock) == KVMCLOCK_WALL_SIZE, "guest ABI");

void kvmclock_init(struct kvmclock *clock, uint64_t tsc, uint64_t tsc_khz, uint64_t ns, uint64_t wall_ns)
{
	/* The largest multiplier below 2^32 loses the least: mul = 10^6 / khz * 2^(32 - shift). */
	int shift = 31;
	u128 mul;

	for (;; shift--) {
		mul = ((u128)1000000 << (32 - shift)) / tsc_khz;
		if (mul >> 31 || shift == -31)
			break;
	}
	*clock = (struct kvmclock){
		.base_tsc = tsc, .base_ns = ns, .mul = (uint32_t)mul, .shift = (int8_t)shift, .wall_ns = wall_ns - ns
	};
}

uint64_t kvmclock_ns(const struct kvmclock *clock, uint64_t tsc)
{
	uint64_t delta = tsc - clock->base_tsc;

	delta = clock->shift < 0 ? delta >> -clock->shift : delta << clock->shift;
	return clock->base_ns + (uint64_t)((u128)delta * clock->mul >> 32);
}

void kvmclock_set_wall(struct kvmclock *clock, uint64_t tsc, uint64_t wall_ns)
{
	clock->wall_ns = wall_ns - kvmclock_ns(clock, tsc);
}

/* Both structures begin with their version. x86 stores are seen in order, so only the compiler needs the fences. */
static void publish(void *guest, void *info, size_t size)
{
	uint32_t version;

	memcpy(&version, guest, sizeof(version));
	version = (version | 1) + 2;
	memcpy(guest, &version, sizeof(version));
	atomic_thread_fence(memory_order_release);
	memcpy((char *)guest + sizeof(version), (char *)info + sizeof(version), size - sizeof(version));
	atomic_thread_fence(memory_order_release);
	version++;
	memcpy(guest, &version, sizeof(version));
}

void kvmclock_write_time(const struct kvmclock *clock, void *guest)
{
	struct time_info info = {
		.tsc_timestamp = clock->base_tsc,
		.system_time = clock->base_ns,
		.tsc_to_system_mul = clock->mul,
		.tsc_shift = clock->shift,
		.flags = TSC_STABLE,
	};

	publish(guest, &info, sizeof(info));
}

void kvmclock_write_wall(const struct kvmclock *clock, void *guest)
{
	struct wall_clock wall = {
		.sec = (uint32_t)(clock->wall_ns / NS_PER_S),
		.nsec = (uint32_t)(clock->wall_ns % NS_PER_S),
	};

	publish(guest, &wall, sizeof(wall));
}
