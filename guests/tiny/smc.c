/* SPDX-License-Identifier: Apache-2.0 */
/* Code that writes code: before it runs, after it ran, inside the block that runs, through another mapping, with string
 * instructions, with locked ones, across pages, and in a loop that alternates code and data in one page. */
#include "guest.h"

typedef int function(void);

static uint8_t *code; /* three pages of memory, writable and executable as all */

/* mov eax, value; ret */
static void emit(uint8_t *at, int value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static int call(uint8_t *at)
{
	return ((function *)at)();
}

static void rewritten(void)
{
	bool right = true;
	for (int i = 0; i < 1000; i++) {
		emit(code, i);
		right &= call(code) == i;
	}
	check(right, "a function rewritten a thousand times");
	for (int i = 0; i < 1000; i++) {
		code[1] = (uint8_t)i;
		right &= (call(code) & 0xff) == (i & 0xff);
	}
	check(right, "one byte of it rewritten");
	for (int i = 0; i < 100; i++) {
		uint32_t add = 1;
		__asm__ volatile("lock xaddl %0, (%1)" : "+r"(add) : "r"(code + 1) : "memory");
		call(code);
	}
	int before = call(code);
	__asm__ volatile("lock incl (%0)" : : "r"(code + 1) : "memory");
	check(call(code) == before + 1, "by a locked instruction");
}

static void in_block(void)
{
	int result;
	/* The store changes the immediate of the instruction that follows it. */
	__asm__ volatile("leaq 1f(%%rip), %%rcx\n"
			 "movl $0, 1(%%rcx)\n"
			 "movl $0x1234, 1(%%rcx)\n"
			 "1: movl $0x5555, %%eax\n"
			 : "=a"(result)
			 :
			 : "rcx", "memory");
	check(result == 0x1234, "the next instruction of the same block");
	/* A loop whose body counts itself up: 10 rounds of add eax, imm8 with imm = 1, 2, ... */
	__asm__ volatile("xorl %%eax, %%eax\n"
			 "movl $10, %%edx\n"
			 "leaq 1f(%%rip), %%rcx\n"
			 "movb $0, 2(%%rcx)\n"
			 "2: incb 2(%%rcx)\n"
			 "1: addl $0x11, %%eax\n"
			 "decl %%edx\n"
			 "jnz 2b\n"
			 : "=a"(result)
			 :
			 : "rcx", "rdx", "memory");
	check(result == 55, "a loop that rewrites itself");
	/* A jump is rewritten to go elsewhere, by code behind it. */
	__asm__ volatile("leaq 1f(%%rip), %%rcx\n"
			 "movb $0, 1(%%rcx)\n"
			 "xorl %%eax, %%eax\n"
			 "1: jmp 2f\n"
			 "2: incl %%eax\n"
			 "cmpl $5, %%eax\n"
			 "jb 1b\n"
			 "cmpl $100, %%eax\n"
			 "ja 3f\n"
			 "movb $3f - 2b, 1(%%rcx)\n"
			 "movl $200, %%eax\n"
			 "jmp 1b\n"
			 "3: nop\n"
			 : "=a"(result)
			 :
			 : "rcx", "memory");
	check(result == 200, "a jump that is turned");
}

static void aliased(void)
{
	/* 4 TiB shows the first GiB once more. */
	page_root[8] = (uint64_t)page_pointers | 7;
	WRITE_CR(3, READ_CR(3));
	uint8_t *alias = (uint8_t *)(8ull << 39) + (uint64_t)code;
	bool right = true;
	for (int i = 0; i < 100; i++) {
		emit(alias, i);
		right &= call(code) == i;
		emit(code, i + 7);
		right &= call(alias) == i + 7;
	}
	check(right, "written and run through two mappings");
	page_root[8] = 0;
	WRITE_CR(3, READ_CR(3));
}

static void strings(void)
{
	uint8_t template[64];
	bool right = true;
	for (int i = 0; i < 100; i++) {
		memset(template, 0x90, sizeof(template));
		emit(template + 58, i);
		memcpy(code, template, sizeof(template));
		right &= call(code) == i;
	}
	check(right, "by REP MOVSB");
	memset(code, 0x90, 4096 + 100);
	emit(code + 4096 + 100, 77);
	check(call(code) == 77, "by REP STOSB over a page");
	memset(code, 0xc3, 8);
	code[0] = 0xb0;
	check(((uint8_t)call(code)) == 0xc3, "and shortened");
}

static void across(void)
{
	uint8_t *at = code + 4096 - 3;
	bool right = true;
	for (int i = 0; i < 200; i++) {
		int value = (i & 0x7f) * 0x01010101;
		emit(at, value);
		right &= call(at) == value;
		/* Only the second page's half changes. */
		code[4096] ^= 0x80;
		right &= call(at) == (value ^ 0x800000);
	}
	check(right, "an instruction across two pages");
	/* Then the second page is another frame. */
	uint64_t *table = split_page((uint64_t)code & ~0x1fffffull);
	uint64_t *entry = &table[(((uint64_t)code + 4096) >> 12) & 511], keep = *entry;
	uint8_t *other = new_page();
	memcpy(other, code + 4096, 4096);
	emit(at, 0x11223344);
	right = call(at) == 0x11223344;
	*entry = (uint64_t)other | 7;
	invlpg((uint64_t)code + 4096);
	other[0] = 0x99;
	other[1] = 0xaa;
	other[2] = 0xc3;
	right &= call(at) == (int)0xaa993344;
	*entry = keep;
	invlpg((uint64_t)code + 4096);
	right &= call(at) == 0x11223344;
	check(right, "whose second page is remapped");
}

/* The same virtual address shows different frames in turn. */
static void remapped(void)
{
	uint64_t *table = split_page(32 << 20);
	uint8_t *window = (uint8_t *)(32ul << 20), *frames[4];
	for (int i = 0; i < 4; i++) {
		frames[i] = new_page();
		emit(frames[i], 1000 + i);
	}
	bool right = true;
	for (int i = 0; i < 400; i++) {
		table[0] = (uint64_t)frames[i % 4] | 7;
		invlpg((uint64_t)window);
		right &= call(window) == 1000 + i % 4;
	}
	check(right, "one address, four frames");
	for (int i = 0; i < 400; i++) {
		table[0] = (uint64_t)frames[i % 4] | 7;
		WRITE_CR(3, READ_CR(3));
		right &= call(window) == 1000 + i % 4;
	}
	check(right, "and by MOV to CR3");
}

static void mixed(void)
{
	volatile uint64_t *data = (uint64_t *)(code + 2048);
	emit(code, 42);
	*data = 0;
	for (int i = 0; i < 20000; i++)
		*data += (uint64_t)call(code);
	check(*data == 42 * 20000ull, "code and data in one page");
	/* A static key, as Linux has them: a five-byte NOP becomes a jump and back. */
	static const uint8_t body[] = { 0x0f, 0x1f, 0x44, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3, 0xb8, 2, 0, 0, 0, 0xc3 };
	static const uint8_t jump[] = { 0xe9, 6, 0, 0, 0 };
	memcpy(code, body, sizeof(body));
	bool right = true;
	for (int i = 0; i < 100; i++) {
		right &= call(code) == 1;
		code[0] = 0xcc;
		memcpy(code + 1, jump + 1, 4);
		code[0] = jump[0];
		right &= call(code) == 2;
		memcpy(code, body, 5);
	}
	check(right, "a jump label");
}

int main(void)
{
	code = new_page();
	new_page();
	new_page();
	rewritten();
	in_block();
	aliased();
	strings();
	across();
	remapped();
	mixed();
	return 0;
}
