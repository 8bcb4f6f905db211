/* SPDX-License-Identifier: Apache-2.0 */
/* Lapics and the I/O APIC under several threads: no interrupt may be lost, and no kick. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "chip/chip_test.h"
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "vm/platform.h"

enum { CPUS = 2, ROUNDS = 4000, FIRST = 0x30, VECTORS = 8 };

/* A vCPU as simple as one can be: sleeps until it is kicked, then takes what there is. */
struct cpu {
	struct lapic *lapic;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool kicked;
	_Atomic bool stop;
	_Atomic unsigned got[256];
};

static void kick(void *ctx, unsigned what)
{
	struct cpu *cpu = ctx;

	(void)what;
	pthread_mutex_lock(&cpu->lock);
	cpu->kicked = true;
	pthread_cond_signal(&cpu->wake);
	pthread_mutex_unlock(&cpu->lock);
}

static void ignore(void *ctx)
{
	(void)ctx;
}

static void ignore_sipi(void *ctx, uint8_t vector)
{
	(void)ctx;
	(void)vector;
}

static uint64_t zero(void *ctx)
{
	(void)ctx;
	return 0;
}

static void take_all(struct cpu *cpu)
{
	int vector;

	while ((vector = lapic_ack(cpu->lapic)) >= 0) {
		atomic_fetch_add(&cpu->got[vector], 1);
		assert_true(lapic_msr_write(cpu->lapic, 0x80b, 0));
	}
}

static void *run(void *arg)
{
	struct cpu *cpu = arg;

	while (!atomic_load(&cpu->stop)) {
		pthread_mutex_lock(&cpu->lock);
		while (!cpu->kicked)
			pthread_cond_wait(&cpu->wake, &cpu->lock);
		cpu->kicked = false;
		pthread_mutex_unlock(&cpu->lock);
		take_all(cpu);
	}
	return NULL;
}

struct poster {
	struct cpu *cpu;
	struct lapic_bus *bus;
	struct ioapic *ioapic;
	pthread_t thread;
	unsigned index;
};

/* Posts, and waits until the vCPU has taken it: one that is lost never comes. */
static void *post(void *arg)
{
	struct poster *p = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned vector = FIRST + p->index * 0x10, target = i % CPUS;
		struct cpu *cpu = &p->cpu[target];
		unsigned before = atomic_load(&cpu->got[vector]);
		struct apic_message msg = { .dest = target, .vector = vector };
		if (p->ioapic) { /* level triggered, to CPU 0: again at each end until it is lowered */
			cpu = &p->cpu[0];
			vector = 0x91;
			before = atomic_load(&cpu->got[vector]);
			ioapic_set(p->ioapic, 9, true);
		} else {
			lapic_bus_deliver(p->bus, &msg);
		}
		for (unsigned spins = 0; atomic_load(&cpu->got[vector]) == before; spins++) {
			if (spins > 20000000)
				return (void *)1;
			sched_yield();
		}
		if (p->ioapic)
			ioapic_set(p->ioapic, 9, false);
	}
	return NULL;
}

static void start_cpus(struct cpu *cpu, struct lapic_bus *bus, struct clock *clock)
{
	for (unsigned i = 0; i < CPUS; i++) {
		pthread_mutex_init(&cpu[i].lock, NULL);
		pthread_cond_init(&cpu[i].wake, NULL);
		struct lapic_config config = {
			.bus = bus,
			.clock = clock,
			.id = i,
			.x2apic = true,
			.host = { &cpu[i], kick, ignore, ignore_sipi, zero, zero },
		};
		cpu[i].lapic = lapic_create(&config);
		assert_true(lapic_msr_write(cpu[i].lapic, 0x1b, lapic_base(cpu[i].lapic) | 1 << 10));
		assert_true(lapic_msr_write(cpu[i].lapic, 0x80f, 0x1ff));
	}
	for (unsigned i = 0; i < CPUS; i++)
		pthread_create(&cpu[i].thread, NULL, run, &cpu[i]);
}

static void stop_cpus(struct cpu *cpu)
{
	for (unsigned i = 0; i < CPUS; i++) {
		atomic_store(&cpu[i].stop, true);
		kick(&cpu[i], LAPIC_KICK_INTERRUPT);
		pthread_join(cpu[i].thread, NULL);
		lapic_device(cpu[i].lapic)->ops->destroy(lapic_device(cpu[i].lapic));
		pthread_mutex_destroy(&cpu[i].lock);
		pthread_cond_destroy(&cpu[i].wake);
	}
}

static void test_nothing_is_lost(void **state)
{
	static struct cpu cpu[CPUS];
	struct clock *clock = clock_create_manual();
	struct bus *mmio = bus_create();
	struct lapic_bus *bus = lapic_bus_create();
	struct ioapic_config config = { mmio, PLATFORM_IOAPIC_BASE, 0, lapic_bus_deliver, bus, NULL };
	struct ioapic *ioapic = ioapic_create(&config);
	struct poster poster[3];

	(void)state;
	lapic_bus_set_eoi(bus, ioapic_eoi, ioapic);
	start_cpus(cpu, bus, clock);
	bus_write(mmio, PLATFORM_IOAPIC_BASE, 4, 0x22);
	bus_write(mmio, PLATFORM_IOAPIC_BASE + 0x10, 4, 0x8091);
	for (unsigned i = 0; i < 3; i++) {
		poster[i] = (struct poster){ cpu, bus, i == 2 ? ioapic : NULL, 0, i };
		pthread_create(&poster[i].thread, NULL, post, &poster[i]);
	}
	for (unsigned i = 0; i < 3; i++) {
		void *failed;
		pthread_join(poster[i].thread, &failed);
		assert_null(failed);
	}
	stop_cpus(cpu);
	ioapic_device(ioapic)->ops->destroy(ioapic_device(ioapic));
	lapic_bus_destroy(bus);
	bus_destroy(mmio);
	clock_destroy(clock);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_nothing_is_lost) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
