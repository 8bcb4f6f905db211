/* SPDX-License-Identifier: Apache-2.0 */
#include "suite.h"

#include <cpuid.h>

/* Arithmetic of each width, with results and carries; division; rotates; the kind of work that compilers emit. */
static void arithmetic(void)
{
	for (int i = 0; i < 20000; i++) {
		uint64_t a = rnd(), b = rnd() >> (rnd() & 63);
		uint64_t r[16] = { a + b,         a - b,         a * b,         b ? a / b : 0,
				   b ? a % b : 0, a << (b & 63), a >> (b & 63), (uint64_t)((int64_t)a >> (b & 63)) };
		int64_t sa = (int64_t)a, sb = (int64_t)(b | 1);
		if (sa != INT64_MIN || sb != -1) {
			r[8] = (uint64_t)(sa / sb);
			r[9] = (uint64_t)(sa % sb);
		}
		r[10] = (uint64_t)(uint8_t)((uint8_t)a * (uint8_t)b) << 16 | (uint16_t)((uint16_t)a - (uint16_t)b);
		r[11] = (uint32_t)a * (uint32_t)b;
		r[12] = a << (b & 63) | a >> (-b & 63);
		r[13] = (uint64_t)__builtin_bswap64(a) ^ __builtin_bswap32((uint32_t)b);
		r[14] =
		    (uint64_t)__builtin_popcountll(a) + (uint64_t)(b ? __builtin_clzll(b) + __builtin_ctzll(b) : 99);
		int64_t over;
		r[15] = (uint64_t)__builtin_mul_overflow(sa, sb, &over) ^ (uint64_t)over;
		mix(r, sizeof(r));
	}
	printf("arithmetic %016llx\n", (unsigned long long)mixed());
}

#ifdef __x86_64__
#define FLAGS 0x8d5 /* OF SF ZF AF PF CF */

#define FLAGGED(name, op, inputs...)                                                                               \
	static uint64_t name(uint64_t a, uint64_t b, uint64_t *flags)                                              \
	{                                                                                                          \
		__asm__("bt $0, %q2; " op "; pushfq; popq %1" : "+a"(a), "=&r"(*flags) : "r"(b), ##inputs : "cc"); \
		return a;                                                                                          \
	}

FLAGGED(add8, "addb %b2, %b0")
FLAGGED(adc16, "adcw %w2, %w0")
FLAGGED(adc64, "adcq %2, %0")
FLAGGED(sbb32, "sbbl %k2, %k0")
FLAGGED(sub64, "subq %2, %0")
FLAGGED(cmp8, "cmpb %b2, %b0")
FLAGGED(neg32, "negl %k0")
FLAGGED(inc16, "incw %w0")
FLAGGED(dec64, "decq %0")
FLAGGED(xadd, "xaddq %2, %0")

/* The flags of each instruction, those that the manual defines. */
static void flags(void)
{
	static uint64_t (*const fn[])(uint64_t, uint64_t, uint64_t *) = { add8, adc16, adc64, sbb32, sub64,
									  cmp8, neg32, inc16, dec64, xadd };
	for (int i = 0; i < 40000; i++) {
		uint64_t f, a = rnd(), b = rnd();
		if (i % 3 == 0)
			b = a;
		uint64_t r = fn[i % 10](a, b, &f);
		f &= FLAGS;
		mix(&r, sizeof(r));
		mix(&f, sizeof(f));
	}
	printf("flags %016llx\n", (unsigned long long)mixed());
}

static void wide(void)
{
	unsigned __int128 x = 1;
	for (int i = 0; i < 3000; i++) {
		x = x * ((unsigned __int128)rnd() << 64 | rnd()) + rnd();
		unsigned __int128 q = x / (rnd() | 1), r = x % (((unsigned __int128)(rnd() >> 40) << 64) + 12345);
		mix(&q, sizeof(q));
		mix(&r, sizeof(r));
	}
	printf("128 bits %016llx\n", (unsigned long long)mixed());
}

/* Instructions that compilers rarely choose. */
static void rare(void)
{
	for (int i = 0; i < 5000; i++) {
		uint64_t a = rnd(), b = rnd(), c = rnd() & 63, r[10] = { 0 };
		uint8_t set;
		__asm__("shldq %%cl, %2, %0" : "=r"(r[0]) : "0"(a), "r"(b), "c"(c) : "cc");
		__asm__("shrdq %%cl, %2, %0" : "=r"(r[1]) : "0"(a), "r"(b), "c"(c) : "cc");
		__asm__("btsq %2, %0; setc %1" : "=r"(r[2]), "=q"(set) : "r"(b & 63), "0"(a) : "cc");
		r[3] = set;
		__asm__("bsfq %1, %0" : "=r"(r[4]) : "r"(a | 1ull << c) : "cc");
		__asm__("clc; rclq $3, %0" : "=r"(r[5]) : "0"(a) : "cc");
		__asm__("stc; rcrw $5, %w0" : "=r"(r[6]) : "0"(a) : "cc");
		__asm__("cbtw; cwtl; cltq; cqto; xorq %%rdx, %%rax" : "=a"(r[7]) : "0"(a) : "rdx", "cc");
		uint8_t table[256];
		for (int j = 0; j < 256; j++)
			table[j] = (uint8_t)(j * 37);
		__asm__("xlatb" : "=a"(r[8]) : "b"(table), "0"(a & 0xff), "m"(table));
		__asm__("movq %1, %0; xchgb %b0, %h0" : "=Q"(r[9]) : "r"(a));
		mix(r, sizeof(r));
	}
	printf("rare %016llx\n", (unsigned long long)mixed());
}
#else
static void flags(void)
{
	uint32_t sum = 0;
	for (int i = 0; i < 20000; i++) {
		uint32_t a = (uint32_t)rnd(), b = (uint32_t)rnd(), f;
		uint8_t al = (uint8_t)a;
		__asm__("addb %b2, %%al; daa; pushfl; popl %1" : "+a"(al), "=r"(f) : "q"(b) : "cc");
		sum = sum * 31 + al + (f & 0xd5);
		__asm__("pushl %%ebx; movl %1, %%ebx; addl %%ebx, %0; aaa; popl %%ebx; pushal; popal"
			: "+a"(a)
			: "r"(b)
			: "cc");
		sum = sum * 31 + a;
	}
	printf("decimal %08x\n", sum);
}

static void wide(void)
{
	uint64_t x = 1;
	for (int i = 0; i < 5000; i++) {
		x = x * rnd() + rnd();
		uint64_t q = x / (rnd() >> 20 | 1);
		mix(&q, sizeof(q));
	}
	printf("64 bits %016llx\n", (unsigned long long)mixed());
}

static void rare(void)
{
	uint32_t frame = 0;
	/* ENTER with nesting, LEAVE, BOUND that is within, ARPL, segment pushes. */
	int bounds[2] = { 0, 100 };
	__asm__("movl $50, %%eax; bound %%eax, %0" : : "m"(bounds) : "eax");
	__asm__("pushl %%ebp; enter $16, $0; leave; popl %%ebp; pushl %%ds; popl %%eax; larl %%eax, %0"
		: "=r"(frame)
		:
		: "eax", "memory");
	printf("access rights of DS %06x\n", frame & 0xf0ff00); /* the limit in it is undefined */
}
#endif

/* Programs in small: sorting, a sieve, a hash table, recursion, a state machine. */
static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static unsigned ackermann(unsigned m, unsigned n)
{
	return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static void programs(void)
{
	static uint32_t numbers[50000];
	static uint8_t composite[200000];
	for (size_t i = 0; i < 50000; i++)
		numbers[i] = (uint32_t)rnd();
	qsort(numbers, 50000, sizeof(numbers[0]), compare);
	mix(numbers, sizeof(numbers));
	unsigned primes = 0;
	for (unsigned i = 2; i < sizeof(composite); i++) {
		if (composite[i])
			continue;
		primes++;
		for (unsigned j = 2 * i; j < sizeof(composite); j += i)
			composite[j] = 1;
	}
	uint32_t crc = ~0u;
	for (size_t i = 0; i < sizeof(composite); i++) {
		crc ^= composite[i];
		for (int b = 0; b < 8; b++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	printf("sorted %016llx primes %u crc %08x ackermann %u\n", (unsigned long long)mixed(), primes, ~crc,
	       ackermann(2, 300));
	uint64_t taken = 0;
	for (int i = 0; i < 100000; i++) {
		switch (rnd() % 11) {
		case 0:
			taken += 3;
			break;
		case 1:
			taken ^= 0x55;
			break;
		case 2:
			taken = taken << 1 | taken >> 63;
			break;
		case 3:
			taken -= 77;
			break;
		case 4:
			taken *= 5;
			break;
		case 5:
			taken = ~taken;
			break;
		case 6:
			taken += taken >> 7;
			break;
		case 7:
			taken ^= taken << 9;
			break;
		case 8:
			taken += 1000003;
			break;
		default:
			taken++;
		}
	}
	printf("jump table %016llx\n", (unsigned long long)taken);
}

SECTION(integer)
{
	arithmetic();
	flags();
	wide();
	rare();
	programs();
}

#ifdef __x86_64__
__attribute__((target("bmi,bmi2,lzcnt,popcnt,adx"))) static void bmi_work(void)
{
	for (int i = 0; i < 20000; i++) {
		uint64_t a = rnd(), b = rnd(), c = rnd(), r[12];
		r[0] = __builtin_ia32_pdep_di(a, b);
		r[1] = __builtin_ia32_pext_di(a, b);
		r[2] = __builtin_ia32_bzhi_di(a, b & 127);
		__asm__("mulxq %2, %0, %1" : "=r"(r[3]), "=r"(r[4]) : "r"(a), "d"(b));
		__asm__("rorxq $17, %1, %0" : "=r"(r[5]) : "r"(a));
		__asm__("shlxq %2, %1, %0" : "=r"(r[6]) : "r"(a), "r"(b));
		__asm__("sarxq %2, %1, %0" : "=r"(r[7]) : "r"(a), "r"(b));
		__asm__("andnq %2, %1, %0" : "=r"(r[8]) : "r"(a), "r"(b) : "cc");
		__asm__("bextrq %2, %1, %0" : "=r"(r[9]) : "r"(a), "r"(b & 0x3f3f) : "cc");
		__asm__("blsrq %1, %0" : "=r"(r[10]) : "r"(a) : "cc");
		__asm__("tzcntq %1, %0; lzcntq %2, %%rcx; addq %%rcx, %0"
			: "=&r"(r[11])
			: "r"(b << (c & 63)), "r"(c >> (a & 63))
			: "rcx", "cc");
		__asm__("xorl %%ecx, %%ecx; adcxq %1, %0; adoxq %2, %0; adcxq %%rcx, %0"
			: "+r"(r[11])
			: "r"(a), "r"(b)
			: "rcx", "cc");
		mix(r, sizeof(r));
	}
	printf("bmi %016llx\n", (unsigned long long)mixed());
}

__attribute__((target("sse4.2"))) static uint32_t crc32c(uint32_t crc, uint64_t v)
{
	return (uint32_t)__builtin_ia32_crc32di(crc, v);
}

SECTION(bmi)
{
	if (__builtin_cpu_supports("bmi2"))
		bmi_work();
	else
		puts("bmi absent");
	unsigned a, b, c, d;
	__cpuid(1, a, b, c, d);
	if (c & bit_MOVBE) {
		uint64_t v = rnd(), r;
		__asm__("movbe %1, %0" : "=r"(r) : "m"(v));
		printf("movbe %016llx\n", (unsigned long long)r);
	}
	uint32_t crc = 0;
	for (int i = 0; i < 1000; i++)
		crc = crc32c(crc, rnd());
	printf("crc32c %08x\n", crc);
}
#endif
