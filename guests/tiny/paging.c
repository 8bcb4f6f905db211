/* SPDX-License-Identifier: Apache-2.0 */
/* Page faults and permissions: error codes, CR2, accessed and dirty bits, WP, NX, SMEP, SMAP, reserved bits, large pages,
 * TLB flushes, PCID, and accesses that cross pages (SDM Vol. 3, chapter 4). */
#include "guest.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX (1ull << 63)

/* Two pages of a test area that new_page has given, and their table. */
static uint64_t *table;
static uint8_t *area;

static uint64_t *entry(const void *address)
{
	return &table[((uint64_t)address >> 12) & 511];
}

static void set(uint64_t *e, uint64_t clear, uint64_t bits)
{
	*e = (*e & ~clear) | bits;
	WRITE_CR(3, READ_CR(3));
}

static void load(void *at)
{
	(void)*(volatile uint8_t *)at;
}

static void store(void *at)
{
	*(volatile uint8_t *)at = 0x5a;
}

static void execute(void *at)
{
	((void (*)(void))at)();
}

static void expect(const char *what, void (*fn)(void *), void *at, int error)
{
	struct trap t = { 0 };
	WRITE_CR(2, 0);
	int got = try(fn, at, &t);
	if (got == 14 && t.error & 8 && guest_on_tcg())
		t.error |= P; /* TCG leaves it out */
	bool right = error < 0 ? got == -1 : got == 14 && t.error == (uint64_t)error && READ_CR(2) == (uint64_t)at;
	check(right, what);
	if (!right)
		print("  %s, error %lx, cr2 %lx\n", trap_name(got), t.error, READ_CR(2));
}

static uint8_t *user_at;
static void user_load(void)
{
	load(user_at);
	__asm__ volatile("int3");
}

static void user_store(void)
{
	store(user_at);
	__asm__ volatile("int3");
}

static void expect_user(const char *what, void (*fn)(void), int error)
{
	struct trap t;
	user_at = area;
	int got = try_user(fn, &t);
	bool right = error < 0 ? got == 3 : got == 14 && t.error == (uint64_t)error && READ_CR(2) == (uint64_t)area;
	check(right, what);
	if (!right)
		print("  %s, error %lx, cr2 %lx\n", trap_name(got), t.error, READ_CR(2));
}

static void permissions(void)
{
	uint64_t *e = entry(area);
	expect("mapped: load", load, area, -1);
	expect("mapped: store", store, area, -1);
	set(e, P, 0);
	expect("not present: load", load, area, 0);
	expect("not present: store", store, area, W);
	expect("not present: fetch", execute, area, 0x10);
	expect_user("not present: load in ring 3", user_load, U);
	set(e, W, P);
	expect("read-only: load", load, area, -1);
	expect("read-only: store with WP", store, area, P | W);
	WRITE_CR(0, READ_CR(0) & ~0x10000ull);
	expect("read-only: store without WP", store, area, -1);
	WRITE_CR(0, CR0_START);
	expect("read-only: store with WP again", store, area, P | W);
	expect_user("read-only: store in ring 3", user_store, P | W | U);
	set(e, U, W);
	expect("supervisor's: load", load, area, -1);
	expect_user("supervisor's: load in ring 3", user_load, P | U);
	expect_user("supervisor's: store in ring 3", user_store, P | W | U);
	set(e, 0, U);
	area[0] = 0xc3;
	expect("executable: fetch", execute, area, -1);
	set(e, 0, NX);
	expect("NX: fetch", execute, area, P | 0x10);
	expect("NX: load", load, area, -1);
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
	WRITE_CR(3, READ_CR(3));
	expect("NX is reserved without NXE: load", load, area, P | 8);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
	set(e, NX, 1ull << 51);
	expect("reserved address bit: store", store, area, P | W | 8);
	set(e, 1ull << 51, 0);
	expect("restored: store", store, area, -1);
}

static void accessed_and_dirty(void)
{
	uint64_t *e = entry(area);
	set(e, A | D, 0);
	check(!(*e & (A | D)), "A and D clear");
	load(area);
	check((*e & (A | D)) == A, "a load sets A alone");
	store(area);
	check((*e & (A | D)) == (A | D), "a store sets D");
	set(e, A | D, 0);
	store(area);
	check((*e & (A | D)) == (A | D), "a store sets both");
	set(e, A | D | W, 0);
	try(store, area, NULL);
	check(!(*e & D), "a store that faults sets no D");
	set(e, 0, W);
	uint64_t *directory = &page_directories[(uint64_t)area >> 21];
	set(directory, A, 0);
	load(area);
	check((*directory & A) != 0, "a walk sets A in the directory");
}

/* Pages 0 and 1 of the area exchange their frames; only INVLPG or a flush may show it. */
static void flushes(void)
{
	uint64_t *e = entry(area), first = *e, second = e[1];
	area[0] = 1;
	area[4096] = 2;
	*e = second | A | D;
	invlpg((uint64_t)area);
	check(area[0] == 2, "INVLPG shows the new frame");
	*e = first;
	WRITE_CR(3, READ_CR(3));
	check(area[0] == 1, "MOV to CR3 shows the old frame again");
	WRITE_CR(4, READ_CR(4) | 1 << 7);
	*e = first | G;
	invlpg((uint64_t)area);
	load(area);
	*e = second | G;
	invlpg((uint64_t)area);
	check(area[0] == 2, "INVLPG takes a global page");
	*e = first;
	WRITE_CR(4, READ_CR(4) & ~0x80ull);
	check(area[0] == 1, "clearing PGE takes all");
	WRITE_CR(4, CR4_START);
}

static void pcid(void)
{
	if (!(cpuid(1, 0).ecx & 1 << 17))
		return;
	uint64_t root = READ_CR(3), first = *entry(area), second = entry(area)[1];
	WRITE_CR(4, READ_CR(4) | 1 << 17);
	area[0] = 1;
	area[4096] = 2;
	WRITE_CR(3, root | 1);
	check(area[0] == 1, "PCID 1");
	*entry(area) = second;
	WRITE_CR(3, root | 2);
	check(area[0] == 2, "PCID 2 sees the new frame");
	WRITE_CR(3, root | 1);
	check(area[0] == 2, "PCID 1 is flushed by MOV to CR3");
	*entry(area) = first;
	WRITE_CR(3, root | 1ull << 63 | 1);
	invlpg((uint64_t)area);
	check(area[0] == 1, "INVLPG in a PCID");
	WRITE_CR(3, root);
	WRITE_CR(4, CR4_START);
	WRITE_CR(3, root);
}

static void smep_smap(void)
{
	struct cpuid features = cpuid(7, 0);
	area[0] = 0xc3;
	/* The guest's own pages are the user's everywhere, so these run with its text made the supervisor's. */
	uint64_t *mine = &page_directories[0];
	uint64_t keep[4] = { mine[0], page_pointers[0], page_root[0] };
	uint64_t *low = split_page(0);
	(void)low;
	for (uint64_t at = 0x100000; at < (uint64_t)guest_end; at += 4096)
		((uint64_t *)(mine[0] & ~0xfffull))[at >> 12] &= ~(uint64_t)U;
	WRITE_CR(3, READ_CR(3));
	if (features.ebx & 1 << 7) {
		WRITE_CR(4, READ_CR(4) | 1 << 20);
		expect("SMEP: fetch from a user page", execute, area, P | 0x10);
		expect("SMEP: load from a user page", load, area, -1);
	}
	if (features.ebx & 1 << 20) {
		WRITE_CR(4, READ_CR(4) | 1 << 21);
		expect("SMAP: load from a user page", load, area, P);
		expect("SMAP: store to a user page", store, area, P | W);
		__asm__ volatile("stac");
		area[1] = 1;
		check(area[1] == 1, "SMAP: STAC opens it");
		__asm__ volatile("clac");
		expect("SMAP: CLAC closes it", load, area, P);
	}
	WRITE_CR(4, CR4_START);
	mine[0] = keep[0];
	WRITE_CR(3, READ_CR(3));
}

static void store_wide(void *at)
{
	__asm__ volatile("movq %1, (%0)" : : "r"(at), "r"(-1l) : "memory");
}

static void crossing(void)
{
	uint64_t *e = entry(area), value;
	memset(area, 0x11, 8192);
	__asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(area + 4093));
	check(value == 0x1111111111111111, "a load across pages");
	set(e + 1, P, 0);
	WRITE_CR(2, 0);
	struct trap t;
	memset(area, 0x22, 4096);
	check(try(store_wide, area + 4093, &t) == 14 && t.error == W, "a store across pages faults on the second");
	check(READ_CR(2) == (uint64_t)area + 4096, "CR2 is the second page's start");
	check(area[4093] == 0x22 && area[4095] == 0x22, "and has written nothing");
	set(e + 1, 0, P);
	/* Frames that are not neighbours. */
	uint64_t second = e[1];
	uint8_t *other = new_page();
	set(e + 1, ~0ull, (uint64_t)other | 7);
	__asm__ volatile("movq %1, (%0)" : : "r"(area + 4092), "r"(0x8877665544332211) : "memory");
	check(area[4095] == 0x44 && other[0] == 0x55 && other[3] == 0x88, "a store across frames");
	__asm__ volatile("lock addq %1, (%0)" : : "r"(area + 4092), "r"(0x0101010101010101) : "memory");
	check(area[4095] == 0x45 && other[3] == 0x89, "LOCK across frames");
	set(e + 1, ~0ull, second);
}

static void large_pages(void)
{
	/* 1 GiB at 4 TiB shows the first GiB; a 2 MiB page there too. */
	if (cpuid(0x80000001, 0).edx & 1 << 26) {
		uint64_t *pointers = new_page();
		pointers[0] = PS | W | U | P;
		page_root[8] = (uint64_t)pointers | 7;
		check(*(uint8_t *)((8ull << 39) + (uint64_t)area) == area[0], "a 1 GiB page");
		check((pointers[0] & A) != 0, "and its A bit");
		*(volatile uint8_t *)((8ull << 39) + (uint64_t)area) = 0x77;
		check(area[0] == 0x77 && (pointers[0] & D), "and its D bit");
		page_root[8] = 0;
		WRITE_CR(3, READ_CR(3));
	}
	uint64_t *directory = &page_directories[(64 << 20) >> 21];
	uint64_t keep = *directory;
	set(directory, ~0ull, PS | U | P | 1 << 13 | (48ull << 20));
	expect("a 2 MiB page with a reserved bit", load, (void *)(64ul << 20), P | 8);
	set(directory, ~0ull, PS | U | P | (uint64_t)(2 << 20));
	expect("a read-only 2 MiB page", store, (void *)(64ul << 20), P | W);
	set(directory, ~0ull, keep);
}

/* The kernel's half: the last page of the address space, and an address with all upper bits set. */
static void high_half(void)
{
	page_root[511] = page_root[0];
	WRITE_CR(3, READ_CR(3));
	area[0] = 0x66;
	check(*(uint8_t *)(0xffffff8000000000 + (uint64_t)area) == 0x66, "the upper half");
	page_root[511] = 0;
	WRITE_CR(3, READ_CR(3));
	expect("the upper half is gone", load, (void *)(0xffffff8000000000 + (uint64_t)area), 0);
}

int main(void)
{
	/* A 2 MiB page away from the image, by 4 KiB pages. */
	area = (uint8_t *)(16ul << 20);
	table = split_page(16 << 20);
	permissions();
	accessed_and_dirty();
	flushes();
	pcid();
	smep_smap();
	crossing();
	large_pages();
	high_half();
	return 0;
}
