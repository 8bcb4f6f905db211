/* SPDX-License-Identifier: Apache-2.0 */
/* NMIs and IPIs to oneself, priorities among interrupts, x2APIC, blocking by an NMI until IRET, edge and level on the
 * I/O APIC, a storm of timer interrupts over string instructions and self-modifying code. */
#include "apic.h"

enum { LOW_VECTOR = 0x51, HIGH_VECTOR = 0x91, TIMER_VECTOR = 0x60, X2 = 0x800 };

static volatile unsigned order[16], count, nmis, depth, deepest;

static void note(struct trap *t)
{
	if (count < 16)
		order[count] = (unsigned)t->vector;
	count++;
	lapic_write(LAPIC_EOI, 0);
}

static void nested(struct trap *t)
{
	depth++;
	if (depth > deepest)
		deepest = depth;
	/* A lower one that is pending must not come in here, a higher one must. */
	sti();
	for (int i = 0; i < 1000; i++)
		__asm__ volatile("pause");
	cli();
	depth--;
	note(t);
}

static void on_nmi(struct trap *t)
{
	nmis++;
	if (nmis == 1) {
		/* A second one is held until this handler's IRET. */
		lapic_write(LAPIC_ICR_HIGH, lapic_read(LAPIC_ID));
		lapic_write(LAPIC_ICR, 0x400);
		for (int i = 0; i < 1000; i++)
			__asm__ volatile("pause");
		order[0] = nmis;
	}
}

static void self(unsigned vector)
{
	lapic_write(LAPIC_ICR, 0x40000 | vector);
}

static void priorities(void)
{
	on_trap(LOW_VECTOR, note);
	on_trap(HIGH_VECTOR, note);
	count = 0;
	self(LOW_VECTOR);
	self(HIGH_VECTOR);
	self(LOW_VECTOR);
	check((lapic_read(0x200 + 0x10 * (LOW_VECTOR / 32)) >> LOW_VECTOR % 32 & 1) == 1, "IRR shows what is pending");
	__asm__ volatile("sti; nop; nop; nop; cli");
	check(count == 2 && order[0] == HIGH_VECTOR && order[1] == LOW_VECTOR, "the higher vector first, each once");
	on_trap(LOW_VECTOR, nested);
	on_trap(HIGH_VECTOR, nested);
	count = depth = deepest = 0;
	self(HIGH_VECTOR);
	__asm__ volatile("sti; nop; nop; cli");
	check(count == 1 && deepest == 1, "a handler with interrupts on");
	check((lapic_read(0x100 + 0x10 * (HIGH_VECTOR / 32)) >> HIGH_VECTOR % 32 & 1) == 0, "ISR is clear after EOI");
}

static void in_service(struct trap *t)
{
	self(LOW_VECTOR);
	self(t->vector == 0x71 ? HIGH_VECTOR : 0x71);
	sti();
	for (int i = 0; i < 100; i++)
		__asm__ volatile("pause");
	cli();
	note(t);
}

static void nesting(void)
{
	on_trap(LOW_VECTOR, note);
	on_trap(HIGH_VECTOR, note);
	on_trap(0x71, in_service);
	count = 0;
	self(0x71);
	__asm__ volatile("sti; nop; nop; nop; nop; cli");
	check(count == 3 && order[0] == HIGH_VECTOR && order[1] == 0x71 && order[2] == LOW_VECTOR,
	      "a higher one interrupts a handler, a lower one waits");
}

static void nmi(void)
{
	on_trap(2, on_nmi);
	nmis = 0;
	lapic_write(LAPIC_ICR_HIGH, lapic_read(LAPIC_ID));
	lapic_write(LAPIC_ICR, 0x400);
	for (int i = 0; i < 1000 && !nmis; i++)
		__asm__ volatile("pause");
	check(nmis >= 1, "an NMI with interrupts off");
	check(order[0] == 1, "and none within its handler");
	for (int i = 0; i < 1000; i++)
		__asm__ volatile("pause");
	check(nmis >= 2, "the second after IRET");
	on_trap(2, NULL);
}

static void x2apic(void)
{
	if (!(cpuid(1, 0).ecx & 1 << 21)) {
		print("no x2APIC here\n");
		return;
	}
	uint32_t id = lapic_read(LAPIC_ID) >> 24;
	wrmsr(0x1b, rdmsr(0x1b) | 1 << 10);
	check(rdmsr(X2 + 2) == id, "x2APIC: the ID");
	check((rdmsr(X2 + 3) & 0xff) >= 0x10, "x2APIC: the version");
	count = 0;
	wrmsr(X2 + 0x3f, LOW_VECTOR);
	on_trap(LOW_VECTOR, NULL);
	struct trap t;
	extern void take_one(void *);
	check(try(take_one, NULL, &t) == LOW_VECTOR, "x2APIC: SELF IPI");
	wrmsr(X2 + 0xb, 0);
	wrmsr(X2 + 0x30, LOW_VECTOR | (uint64_t)id << 32);
	check(try(take_one, NULL, &t) == LOW_VECTOR, "x2APIC: an IPI by one write");
	wrmsr(X2 + 0xb, 0);
	extern void bad_register(void *);
	check(try(bad_register, NULL, &t) == 13, "x2APIC: #GP for a register that is not there");
}

void take_one(void *arg);
void take_one(void *arg)
{
	__asm__ volatile("sti; nop; nop; nop; cli");
}

void bad_register(void *arg);
void bad_register(void *arg)
{
	wrmsr(X2 + 2, 5);
}

/* A periodic timer as fast as the machine can carry, while the CPU does what is hardest to interrupt. */
static volatile unsigned storm;
static void storm_tick(struct trap *t)
{
	storm++;
	lapic_write(LAPIC_EOI, 0);
}

static void storms(void)
{
	uint8_t *from = (uint8_t *)(16ul << 20), *to = (uint8_t *)(20ul << 20), *code = new_page();
	for (int i = 0; i < 100000; i++)
		from[i] = (uint8_t)(i * 13 + (i >> 8));
	on_trap(TIMER_VECTOR, storm_tick);
	lapic_write(LAPIC_DIVIDE, 0xb);
	lapic_write(LAPIC_TIMER, 0x20000 | TIMER_VECTOR);
	lapic_write(LAPIC_COUNT, 100000); /* 100 us and more */
	bool right = true;
	uint64_t sum = 0;
	sti();
	for (int i = 0; storm < 300 && i < 100000; i++) {
		memset(to, 0, 100000);
		memcpy(to, from, 100000);
		right &= memcmp(to, from, 100000) == 0;
		code[0] = 0xb8;
		memcpy(code + 1, &i, 4);
		code[5] = 0xc3;
		right &= ((int (*)(void))code)() == i;
		uint64_t a = (uint64_t)i * 0x9e3779b97f4a7c15, b;
		__asm__("movq %1, %0; addq %1, %0; pushfq; popq %%rcx; adcq %%rcx, %0; bswapq %0"
			: "=&r"(b)
			: "r"(a)
			: "rcx", "cc");
		sum += b;
	}
	lapic_write(LAPIC_COUNT, 0);
	lapic_write(LAPIC_TIMER, 0x10000);
	/* A tick that waits still finds its handler. */
	for (int i = 0; i < 100; i++)
		__asm__ volatile("pause");
	cli();
	check(right && sum, "300 interrupts over copies and new code");
}

int main(void)
{
	lapic_on();
	priorities();
	nesting();
	nmi();
	storms();
	x2apic();
	return 0;
}
