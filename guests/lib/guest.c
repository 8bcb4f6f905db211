/* SPDX-License-Identifier: Apache-2.0 */
#include "guest.h"

enum { SERIAL = 0x3f8, DEBUG_EXIT = 0xf4 };

struct gate idt[256] __attribute__((aligned(16)));
static void (*handlers[256])(struct trap *t);
static struct guest_context *trying;
static struct trap *trap_into;
static bool failed;
static uint8_t *pages;
static uint8_t user_stack[8192] __attribute__((aligned(16)));
static uint8_t kernel_stack[8192] __attribute__((aligned(16)));

void *memset(void *to, int byte, size_t size)
{
	void *start = to;
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
	return start;
}

void *memcpy(void *to, const void *from, size_t size)
{
	void *start = to;
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	return start;
}

int memcmp(const void *a, const void *b, size_t size)
{
	const uint8_t *x = a, *y = b;
	for (; size; size--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

static void put(char c)
{
	while (!(inb(SERIAL + 5) & 0x20))
		;
	outb(SERIAL, (uint8_t)c);
}

static void put_number(uint64_t value, unsigned base, bool negative, int width, char fill)
{
	char digits[24];
	int n = 0;
	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	if (negative)
		digits[n++] = '-';
	for (int i = n; i < width; i++)
		put(fill);
	while (n)
		put(digits[--n]);
}

static void put_string(const char *s)
{
	while (*s)
		put(*s++);
}

static const char *put_argument(const char *f, va_list *args)
{
	char fill = ' ';
	int width = 0;
	bool wide = false;
	if (*f == '0') {
		fill = '0';
		f++;
	}
	for (; *f >= '0' && *f <= '9'; f++)
		width = width * 10 + *f - '0';
	for (; *f == 'l'; f++)
		wide = true;
	if (*f == 's') {
		put_string(va_arg(*args, const char *));
	} else if (*f == 'c') {
		put((char)va_arg(*args, int));
	} else if (*f == 'd') {
		int64_t v = wide ? va_arg(*args, int64_t) : va_arg(*args, int);
		put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0, width, fill);
	} else if (*f == 'u' || *f == 'x') {
		uint64_t v = wide ? va_arg(*args, uint64_t) : va_arg(*args, unsigned);
		put_number(v, *f == 'x' ? 16 : 10, false, width, fill);
	} else {
		put(*f);
	}
	return f + 1;
}

void print(const char *f, ...)
{
	va_list args;
	va_start(args, f);
	while (*f) {
		if (*f == '%')
			f = put_argument(f + 1, &args);
		else
			put(*f++);
	}
	va_end(args);
}

void check(bool right, const char *what)
{
	print("%s: %s\n", right ? "ok" : "FAILED", what);
	failed |= !right;
}

void guest_exit(int wrong)
{
	/* A real UART may still be sending. */
	while (!(inb(SERIAL + 5) & 0x40))
		;
	outb(DEBUG_EXIT, wrong || failed ? GUEST_FAILED : GUEST_OK);
	/* There was no such port: stop anyway. */
	for (;;)
		__asm__ volatile("cli; hlt");
}

const char *trap_name(int vector)
{
	static const char names[][4] = { "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#09", "#TS",
					 "#NP", "#SS", "#GP", "#PF", "#15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP" };
	if (vector < 0)
		return "none";
	return vector < 22 ? names[vector] : "interrupt";
}

/* Called by trap_entry. */
void trap(struct trap *t);
void trap(struct trap *t)
{
	if (handlers[t->vector]) {
		handlers[t->vector](t);
		return;
	}
	if (trying) {
		struct guest_context *context = trying;
		trying = NULL;
		if (trap_into)
			*trap_into = *t;
		guest_restore(context, (int)t->vector + 1);
	}
	print("unexpected %s (vector %u) error %lx rip %lx cr2 %lx\n", trap_name((int)t->vector), (unsigned)t->vector,
	      t->error, t->rip, READ_CR(2));
	guest_exit(1);
}

bool guest_on_tcg(void)
{
	const uint32_t *info = (const uint32_t *)(uint64_t)start_info;

	if (info[0] == 0x336ec578 && info[6] && memcmp((const void *)(uint64_t)info[6], "tcg", 4) == 0) /* PVH: cmdline_paddr */
		return true;
	return cpuid(0x40000000, 0).ebx == 0x54474354; /* "TCGT" */
}

void on_trap(unsigned vector, void (*fn)(struct trap *t))
{
	handlers[vector] = fn;
}

int try(void (*fn)(void *arg), void *arg, struct trap *caught)
{
	struct guest_context context;
	trap_into = caught;
	int vector = guest_save(&context);
	if (!vector) {
		trying = &context;
		fn(arg);
	}
	trying = NULL;
	__asm__ volatile("cld");
	return vector - 1;
}

int try_user(void (*fn)(void), struct trap *caught)
{
	struct guest_context context;
	trap_into = caught;
	int vector = guest_save(&context);
	if (!vector) {
		trying = &context;
		guest_user(fn, user_stack + sizeof(user_stack) - 8);
	}
	trying = NULL;
	return vector - 1;
}

uint64_t *split_page(uint64_t address)
{
	uint64_t *entry = &page_directories[address >> 21];
	uint64_t *table = new_page();
	for (unsigned i = 0; i < 512; i++)
		table[i] = (*entry & ~0x1fffffull) + i * 4096ull + 7;
	*entry = (uint64_t)table | 7;
	WRITE_CR(3, READ_CR(3));
	return table;
}

void *new_page(void)
{
	if (!pages)
		pages = (uint8_t *)(((uint64_t)guest_end + 4095) & ~4095ull);
	pages += 4096;
	return memset(pages - 4096, 0, 4096);
}

void pic_init(void)
{
	static const uint8_t commands[][2] = { { 0x20, 0x11 }, { 0xa0, 0x11 }, { 0x21, 0x20 }, { 0xa1, 0x28 },
					       { 0x21, 4 },    { 0xa1, 2 },    { 0x21, 1 },    { 0xa1, 1 },
					       { 0x21, 0xff }, { 0xa1, 0xff } };
	for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		outb(commands[i][0], commands[i][1]);
}

static void serial_init(void)
{
	static const uint8_t registers[][2] = {
		{ 1, 0 }, { 3, 0x80 }, { 0, 1 }, { 1, 0 }, { 3, 3 }, { 2, 7 }, { 4, 3 }
	};
	for (unsigned i = 0; i < sizeof(registers) / sizeof(registers[0]); i++)
		outb(SERIAL + registers[i][0], registers[i][1]);
}

void guest_init(void);
void guest_init(void)
{
	extern uint8_t trap_stubs[];
	uint64_t stack = (uint64_t)kernel_stack + sizeof(kernel_stack);
	for (unsigned i = 0; i < 256; i++) {
		/* The stubs are 16 bytes apart. INT3 and 0x80 may be raised by ring 3. */
		uint64_t to = (uint64_t)trap_stubs + i * 16;
		idt[i] = (struct gate){ (uint16_t)to,         KERNEL_CS, 0, i == 3 || i == 0x80 ? 0xee : 0x8e,
					(uint16_t)(to >> 16), 0,         0 };
	}
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint64_t)idt };
	__asm__ volatile("lidt %0" : : "m"(idtr));
	memcpy(tss + 4, &stack, sizeof(stack)); /* RSP0 */
	tss[102] = sizeof(tss);                 /* no I/O permission map */
	uint64_t base = (uint64_t)tss;
	gdt[TSS_SELECTOR / 8] = 0x0000890000000067 | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
	gdt[TSS_SELECTOR / 8 + 1] = base >> 32;
	__asm__ volatile("ltr %w0" : : "r"(TSS_SELECTOR));
	serial_init();
	pic_init();
}
