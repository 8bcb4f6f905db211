/* SPDX-License-Identifier: Apache-2.0 */
/* The paravirtual interfaces of CPUID leaf 0x40000001 (Linux, Documentation/virt/kvm/x86): what is offered does what it says, and
 * the registers of what is not are not there. The clock has a guest of its own. */
#include "apic.h"

enum {
	ASYNC_PF = 4,
	STEAL_TIME = 5,
	EOI = 6,
	UNHALT = 7,
	TLB_FLUSH = 9,
	SEND_IPI = 11,
	POLL_CONTROL = 12,
	YIELD = 13,
	ASYNC_PF_INT = 14
};
enum { MSR_ASYNC_PF = 0x4b564d02, MSR_STEAL_TIME, MSR_EOI, MSR_POLL_CONTROL, MSR_ASYNC_PF_INT, MSR_ASYNC_PF_ACK };
enum { CALL_KICK_CPU = 5, CALL_SEND_IPI = 10, CALL_YIELD = 11 };
enum { VECTOR = 0x91 };

static uint32_t offered;
static volatile uint32_t *eoi_word;
static volatile unsigned interrupts, eois_saved;

static bool has(unsigned bit)
{
	return offered >> bit & 1;
}

static void on_interrupt(struct trap *t)
{
	interrupts++;
	if (eoi_word && *eoi_word & 1) {
		*eoi_word = 0;
		eois_saved++;
	} else {
		lapic_write(LAPIC_EOI, 0);
	}
}

struct access {
	uint32_t index;
	uint64_t value;
};

static void read(void *arg)
{
	struct access *a = arg;
	a->value = rdmsr(a->index);
}

static void write(void *arg)
{
	const struct access *a = arg;
	wrmsr(a->index, a->value);
}

static bool refused(uint32_t index, uint64_t value)
{
	struct access a = { index, value };
	struct trap t;
	return try(write, &a, &t) == 13;
}

static bool absent(uint32_t index)
{
	struct access a = { index, 0 };
	struct trap t;
	return try(read, &a, &t) == 13 && refused(index, 0);
}

static uint64_t call(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	bool amd = cpuid(0, 0).ecx == 0x444d4163;
	uint64_t result;

	if (amd)
		__asm__ volatile("vmmcall" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
	else
		__asm__ volatile("vmcall" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
	return result;
}

static void eoi(uint8_t *page)
{
	if (!has(EOI)) {
		check(absent(MSR_EOI), "no paravirtual EOI, and no register of it");
		return;
	}
	eoi_word = (uint32_t *)page;
	wrmsr(MSR_EOI, (uint64_t)page | 1);
	interrupts = eois_saved = 0;
	for (unsigned i = 0; i < 10; i++) {
		lapic_write(LAPIC_ICR, 0x40000 | VECTOR);
		__asm__ volatile("sti; nop; nop; cli");
	}
	check(interrupts == 10, "interrupts come with the paravirtual EOI");
	check(eois_saved > 0, "and end without a register");
	wrmsr(MSR_EOI, 0);
	eoi_word = NULL;
	lapic_write(LAPIC_ICR, 0x40000 | VECTOR);
	__asm__ volatile("sti; nop; nop; cli");
	check(interrupts == 11, "and without it");
}

static void steal_time(uint8_t *page)
{
	volatile uint32_t *version = (uint32_t *)(page + 64 + 8);

	if (!has(STEAL_TIME)) {
		check(absent(MSR_STEAL_TIME), "no steal time, and no register of it");
		check(!has(TLB_FLUSH), "nor the TLB flush that needs it");
		return;
	}
	wrmsr(MSR_STEAL_TIME, (uint64_t)(page + 64) | 1);
	pit_wait(10000);
	check(*version && !(*version & 1), "steal time is told");
	check(page[64 + 16] == 0, "and that this CPU runs"); /* `preempted`, which the TLB flush goes by */
	wrmsr(MSR_STEAL_TIME, 0);
}

static void async_pf(uint8_t *page)
{
	if (!has(ASYNC_PF) || !has(ASYNC_PF_INT)) {
		check(has(ASYNC_PF) || absent(MSR_ASYNC_PF), "no asynchronous page faults, and no register of them");
		check(absent(MSR_ASYNC_PF_INT) && absent(MSR_ASYNC_PF_ACK), "nor of their interrupt");
		return;
	}
	wrmsr(MSR_ASYNC_PF_INT, VECTOR);
	wrmsr(MSR_ASYNC_PF, (uint64_t)(page + 128) | 1 << 3 | 1);
	check(rdmsr(MSR_ASYNC_PF) == ((uint64_t)(page + 128) | 9) && rdmsr(MSR_ASYNC_PF_INT) == VECTOR,
	      "asynchronous page faults");
	wrmsr(MSR_ASYNC_PF_ACK, 1);
	wrmsr(MSR_ASYNC_PF, 0);
}

static void poll_control(void)
{
	if (!has(POLL_CONTROL)) {
		check(absent(MSR_POLL_CONTROL), "no control of polling, and no register of it");
		return;
	}
	check(rdmsr(MSR_POLL_CONTROL) == 1, "the host polls");
	wrmsr(MSR_POLL_CONTROL, 0);
	check(rdmsr(MSR_POLL_CONTROL) == 0, "or not");
	wrmsr(MSR_POLL_CONTROL, 1);
	check(refused(MSR_POLL_CONTROL, 2), "and that is all");
}

static void calls(void)
{
	const uint64_t none = (uint64_t)-1000; /* KVM_ENOSYS */

	check(call(0x7fffffff, 0, 0, 0, 0) == none, "a call that there is not");
	interrupts = 0;
	uint64_t sent = call(CALL_SEND_IPI, 1, 0, 0, VECTOR);
	__asm__ volatile("sti; nop; nop; cli");
	check(has(SEND_IPI) ? sent == 1 && interrupts == 1 : sent == none && !interrupts,
	      "IPIs by a call, where offered");
	check(call(CALL_YIELD, 0, 0, 0, 0) == (has(YIELD) ? 0 : none), "yielding to a CPU, where offered");
	check(call(CALL_KICK_CPU, 0, 0, 0, 0) == (has(UNHALT) ? 0 : none), "waking a CPU, where offered");
}

int main(void)
{
	if (cpuid(0x40000000, 0).ebx != 0x4b4d564b) {
		print("no KVM here\n");
		return guest_on_tcg() ? 0 : 1;
	}
	offered = cpuid(0x40000001, 0).eax;
	print("offered: %x\n", offered);
	lapic_on();
	on_trap(VECTOR, on_interrupt);
	uint8_t *page = new_page();
	eoi(page);
	steal_time(page);
	async_pf(page);
	poll_control();
	calls();
	return 0;
}
