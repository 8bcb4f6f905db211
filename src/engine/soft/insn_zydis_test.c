/* SPDX-License-Identifier: Apache-2.0 */
/* insn_zydis_test.c - sweeps over opcodes and random bytes: the decoder agrees with Zydis, or has its reason. */
#include "engine/soft/insn_zydis_testlib.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/disasm.h"

enum { MAX_SHOWN = 100 };

struct tally {
	unsigned long same, undefined, excused, different;
};

static void check(struct tally *t, enum insn_mode mode, const uint8_t *bytes)
{
	char why[200];
	switch (insn_zydis_compare(mode, bytes, INSN_MAX_LEN, why, sizeof(why))) {
	case INSN_ZYDIS_SAME:
		t->same++;
		break;
	case INSN_ZYDIS_UNDEFINED:
		t->undefined++;
		break;
	case INSN_ZYDIS_EXCUSED:
		t->excused++;
		break;
	case INSN_ZYDIS_DIFFERENT:
		if (t->different++ < MAX_SHOWN) {
			printf("%u-bit: %s\n", 16u << mode, why);
			soft_disasm(stdout, bytes, INSN_MAX_LEN, 0, mode);
		}
		break;
	}
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void random_tail(uint8_t *bytes, unsigned from, uint64_t *seed)
{
	for (unsigned i = from; i < INSN_MAX_LEN; i++)
		bytes[i] = next_random(seed) >> 24;
}

static void report(const struct tally *t)
{
	printf("%lu same, %lu undefined, %lu excused, %lu different\n", t->same, t->undefined, t->excused,
	       t->different);
	assert_int_equal(t->different, 0);
}

/* Every prefix combination that selects something, every opcode of every map, every ModRM. */
static void sweep(struct tally *t, enum insn_mode mode, const uint8_t *prefix, unsigned prefixes, uint64_t *seed)
{
	static const uint8_t map[4][2] = { { 0 }, { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a } };
	static const uint8_t map_len[4] = { 0, 1, 2, 2 };
	for (unsigned m = 0; m < 4; m++) {
		for (unsigned op = 0; op < 0x10000; op++) {
			uint8_t bytes[INSN_MAX_LEN];
			memcpy(bytes, prefix, prefixes);
			memcpy(bytes + prefixes, map[m], map_len[m]);
			unsigned n = prefixes + map_len[m];
			bytes[n] = op >> 8;
			bytes[n + 1] = op;
			random_tail(bytes, n + 2, seed);
			check(t, mode, bytes);
		}
	}
}

static void test_legacy(void **state)
{
	(void)state;
	struct tally t = { 0 };
	uint64_t seed = 0x9e3779b97f4a7c15;
	static const char *const prefix[] = { "",         "\x66",     "\xf2",     "\xf3",     "\x48",
					      "\x41",     "\x66\x48", "\xf3\x4c", "\xf2\x4d", "\xf0",
					      "\x66\xf3", "\x64\x67", "\x45",     "\x67\x41" };
	for (enum insn_mode mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++)
		for (size_t i = 0; i < sizeof(prefix) / sizeof(prefix[0]); i++)
			sweep(&t, mode, (const uint8_t *)prefix[i], strlen(prefix[i]), &seed);
	report(&t);
}

static void test_vex(void **state)
{
	(void)state;
	struct tally t = { 0 };
	uint64_t seed = 0xd1b54a32d192ed03;
	for (enum insn_mode mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++) {
		for (unsigned i = 0; i < 1u << 20; i++) {
			/* Map 1-3, opcode, W, L, pp in turn; the rest by chance, vvvv often 1111. */
			uint64_t r = next_random(&seed);
			uint8_t bytes[INSN_MAX_LEN] = { 0xc4, (r & 0xe0) | ((i >> 16) % 3 + 1) };
			bytes[2] = (i & 1) << 7 | ((r >> 8) & 1 ? 0x78 : (r >> 9) & 0x78) | ((i >> 1) & 7);
			bytes[3] = i >> 4;
			random_tail(bytes, 4, &seed);
			if (i >> 19)
				bytes[0] = 0xc5;
			check(&t, mode, bytes);
		}
	}
	report(&t);
}

static void test_evex(void **state)
{
	(void)state;
	struct tally t = { 0 };
	uint64_t seed = 0x94d049bb133111eb;
	for (enum insn_mode mode = INSN_MODE_16; mode <= INSN_MODE_64; mode++) {
		for (unsigned i = 0; i < 1u << 20; i++) {
			/* Map 1-3, opcode, pp and W in turn; the rest by chance, vvvv often 11111. */
			uint64_t r = next_random(&seed);
			uint8_t bytes[INSN_MAX_LEN] = { 0x62, (r & 0xf0) | ((i >> 16) % 3 + 1) };
			bytes[2] = (i & 4) << 5 | ((r >> 8) & 1 ? 0x78 : (r >> 9) & 0x78) | 4 | (i & 3);
			bytes[3] = (r >> 16 & 0x6f) | ((r >> 24) & 3 ? 0 : 0x80) | ((r >> 8) & 1 ? 8 : 0);
			bytes[4] = i >> 4;
			random_tail(bytes, 5, &seed);
			check(&t, mode, bytes);
		}
	}
	report(&t);
}

static void test_random(void **state)
{
	(void)state;
	struct tally t = { 0 };
	uint64_t seed = 0x2545f4914f6cdd1d;
	for (unsigned i = 0; i < 3000000; i++) {
		uint8_t bytes[INSN_MAX_LEN];
		random_tail(bytes, 0, &seed);
		if (i & 1)
			bytes[0] = 0x0f;
		check(&t, i % 3, bytes);
	}
	report(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_legacy),
		cmocka_unit_test(test_vex),
		cmocka_unit_test(test_evex),
		cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
