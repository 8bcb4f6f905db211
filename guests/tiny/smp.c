/* SPDX-License-Identifier: Apache-2.0 */
/* Several processors: start-up by INIT and SIPI through real mode, locked instructions, memory order as x86 promises it,
 * IPIs both ways, code that one writes and another runs, and TLB shoot-down. */
#include "apic.h"

enum { ROUNDS = 20000, IPI_VECTOR = 0x70, STOP_VECTOR = 0x71 };

extern uint8_t ap_start[], ap_end[];
extern volatile uint32_t ap_count;
void ap_main(unsigned number);

static volatile unsigned phase, arrived, ipis, cpus;
static volatile uint64_t plain, locked, xadded, swapped;
static volatile uint8_t bits[128];
static volatile uint32_t lock_word;
static uint64_t wide[2] __attribute__((aligned(16)));

static void pause(void)
{
	__asm__ volatile("pause");
}

/* All processors meet. The boot processor opens the next phase. */
static void meet(unsigned number, unsigned at)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	if (number == 0) {
		while (arrived != cpus)
			pause();
		arrived = 0;
		phase = at;
	} else {
		while (phase != at)
			pause();
	}
}

static void contend(unsigned number)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock incq %0" : "+m"(locked));
		uint64_t add = 2;
		__asm__ volatile("lock xaddq %0, %1" : "+r"(add), "+m"(xadded));
		uint64_t old = swapped;
		while (!__atomic_compare_exchange_n(&swapped, &old, old + 3, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
		while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
			pause();
		plain++;
		__atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
		uint64_t low = wide[0], high = wide[1];
		uint8_t done;
		do {
			__asm__ volatile("lock cmpxchg16b %1; setz %0"
					 : "=q"(done), "+m"(wide), "+a"(low), "+d"(high)
					 : "b"(low + 1), "c"(high + 2));
		} while (!done);
	}
	__asm__ volatile("lock btsl %1, %0" : "+m"(bits) : "r"(number) : "memory");
}

/* Message passing: the data must be seen when the flag is. Two processors, many rounds. */
static volatile uint64_t message, flag;
static unsigned passing(unsigned number)
{
	unsigned wrong = 0;
	for (uint64_t i = 1; i <= ROUNDS; i++) {
		if (number == 0) {
			message = i * 3;
			flag = i;
			while (flag != ~i)
				pause();
		} else {
			while (flag != i)
				pause();
			wrong += message != i * 3;
			flag = ~i;
		}
	}
	return wrong;
}

static volatile unsigned wrong_messages, wrong_code, wrong_pages;

/* The boot processor rewrites a function; the other calls it after it was told. */
static uint8_t *code;
static volatile uint64_t version, seen;
static void code_writer(unsigned number)
{
	for (uint64_t i = 1; i <= 2000; i++) {
		if (number == 0) {
			uint32_t value = (uint32_t)i;
			memcpy(code + 1, &value, 4);
			version = i;
			while (seen != i)
				pause();
		} else {
			while (version != i)
				pause();
			cpuid(0, 0); /* serialize, as the manual asks of cross-modified code */
			if (((uint32_t(*)(void))code)() != i)
				wrong_code++;
			seen = i;
		}
	}
}

static void flush_here(struct trap *t)
{
	WRITE_CR(3, READ_CR(3));
	__atomic_fetch_add(&ipis, 1, __ATOMIC_SEQ_CST);
	lapic_write(LAPIC_EOI, 0);
}

static void send(unsigned apic_id, uint32_t command)
{
	lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
	lapic_write(LAPIC_ICR, command);
	while (lapic_read(LAPIC_ICR) & 0x1000)
		pause();
}

/* The boot processor changes a mapping and sends an IPI; the other polls through it with interrupts on. */
static uint8_t *window;
static uint64_t *window_entry;
static volatile uint64_t shown;
static void shoot_down(unsigned number)
{
	static uint8_t *frames[2];
	if (number == 0) {
		frames[0] = new_page();
		frames[1] = new_page();
		frames[0][0] = 0;
		frames[1][0] = 1;
		ipis = 0;
		meet(0, 50);
		for (unsigned i = 1; i <= 500; i++) {
			*window_entry = (uint64_t)frames[i & 1] | 7;
			invlpg((uint64_t)window);
			send(0, 0xc0000 | IPI_VECTOR); /* all but me */
			while (ipis != i * (cpus - 1))
				pause();
			shown = i;
			while (seen != i)
				pause();
		}
		return;
	}
	meet(number, 50);
	sti();
	for (unsigned i = 1; i <= 500; i++) {
		while (shown != i)
			(void)*(volatile uint8_t *)window;
		if (number == 1) {
			if (*(volatile uint8_t *)window != (i & 1))
				wrong_pages++;
			seen = i;
		}
	}
	cli();
}

static void stop_here(struct trap *t)
{
	lapic_write(LAPIC_EOI, 0);
	__atomic_fetch_add(&ipis, 1, __ATOMIC_SEQ_CST);
}

static void all(unsigned number)
{
	meet(number, 1);
	contend(number);
	meet(number, 2);
	if (number == 0) {
		check(locked == (uint64_t)ROUNDS * cpus, "LOCK INC");
		check(xadded == 2ull * ROUNDS * cpus, "LOCK XADD");
		check(swapped == 3ull * ROUNDS * cpus, "LOCK CMPXCHG");
		check(plain == (uint64_t)ROUNDS * cpus, "a spin lock by XCHG");
		check(wide[0] == (uint64_t)ROUNDS * cpus && wide[1] == 2 * wide[0], "LOCK CMPXCHG16B");
	}
	if (number < 2)
		wrong_messages += passing(number);
	meet(number, 3);
	if (number == 0) {
		check(wrong_messages == 0, "stores are seen in order");
		seen = 0;
	}
	meet(number, 4);
	if (number < 2)
		code_writer(number);
	meet(number, 5);
	if (number == 0) {
		check(wrong_code == 0, "code that another processor wrote");
		seen = 0;
	}
	meet(number, 6);
	shoot_down(number);
	meet(number, 7);
	if (number == 0) {
		check(wrong_pages == 0, "a mapping that another processor changed");
		ipis = 0;
	}
	meet(number, 8);
	if (number == 0) {
		/* The others wait in HLT. */
		for (unsigned i = 1; i <= 200; i++) {
			send(0, 0xc0000 | STOP_VECTOR);
			while (ipis != i * (cpus - 1))
				pause();
		}
		check(true, "IPIs that end a HLT");
	} else {
		for (unsigned i = 0; i < 200; i++)
			wait_interrupt();
	}
}

void ap_main(unsigned number)
{
	lapic_on();
	while (!phase)
		pause();
	all(number);
}

int main(void)
{
	on_trap(IPI_VECTOR, flush_here);
	on_trap(STOP_VECTOR, stop_here);
	code = new_page();
	code[0] = 0xb8;
	code[5] = 0xc3;
	window = (uint8_t *)(32ul << 20);
	window_entry = split_page(32 << 20);
	lapic_on();
	memcpy((void *)AP_PAGE, ap_start, (size_t)(ap_end - ap_start));
	send(0, 0xc4500); /* INIT, all but me */
	pit_wait(12000);
	send(0, 0xc4600 | AP_PAGE >> 12);
	pit_wait(300);
	send(0, 0xc4600 | AP_PAGE >> 12);
	/* Those that come at all come soon; on a busy host, within a second. */
	for (unsigned i = 0, before = 0; i < 20; i++) {
		pit_wait(60000);
		if (ap_count && ap_count == before)
			break;
		before = ap_count;
	}
	cpus = ap_count + 1;
	print("cpus %u\n", cpus);
	if (cpus == 1)
		return 0;
	/* meet() of phase 1 needs them to wait for it: opened by themselves once phase is not 0. */
	phase = 100;
	all(0);
	return 0;
}
