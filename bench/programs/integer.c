/* SPDX-License-Identifier: Apache-2.0 */
/* Plain C over integers: sorting, tables, lists, text. */
#include "speed.h"

/* --- list processing, matrices, a state machine and a CRC, in the proportions of embedded benchmarks --- */

struct item {
	struct item *next;
	int16_t key, value;
};

static struct item items[200];
static int16_t left[24][24], right[24][24];
static int32_t product[24][24];
static char numbers[2048];

static uint16_t crc16(uint16_t crc, uint16_t value)
{
	for (int i = 0; i < 16; i++, value >>= 1) {
		bool carry = (crc ^ value) & 1;
		crc >>= 1;
		if (carry)
			crc ^= 0xa001;
	}
	return crc;
}

static struct item *list_reverse(struct item *list)
{
	struct item *back = NULL;
	while (list) {
		struct item *next = list->next;
		list->next = back;
		back = list;
		list = next;
	}
	return back;
}

static struct item *list_merge(struct item *a, struct item *b)
{
	struct item head, *tail = &head;
	while (a && b) {
		struct item **from = a->key <= b->key ? &a : &b;
		tail->next = *from;
		tail = *from;
		*from = (*from)->next;
	}
	tail->next = a ? a : b;
	return head.next;
}

static struct item *list_sort(struct item *list)
{
	if (!list || !list->next)
		return list;
	struct item *slow = list, *fast = list->next;
	while (fast && fast->next) {
		slow = slow->next;
		fast = fast->next->next;
	}
	struct item *second = slow->next;
	slow->next = NULL;
	return list_merge(list_sort(list), list_sort(second));
}

static uint16_t lists(uint16_t crc, uint64_t *state)
{
	for (size_t i = 0; i < 200; i++)
		items[i] = (struct item){ i + 1 < 200 ? &items[i + 1] : NULL, (int16_t)rnd(state), (int16_t)i };
	struct item *list = list_sort(list_reverse(items));
	for (int key = -30000; key < 30000; key += 3000) {
		const struct item *at = list;
		while (at && at->key < key)
			at = at->next;
		crc = crc16(crc, at ? (uint16_t)at->value : 0);
	}
	return crc;
}

static uint16_t matrices(uint16_t crc, uint64_t *state)
{
	for (int i = 0; i < 24; i++)
		for (int j = 0; j < 24; j++) {
			left[i][j] = (int16_t)(rnd(state) % 100);
			right[i][j] = (int16_t)(rnd(state) % 100);
		}
	for (int i = 0; i < 24; i++)
		for (int j = 0; j < 24; j++) {
			int32_t sum = 0;
			for (int k = 0; k < 24; k++)
				sum += left[i][k] * right[k][j];
			product[i][j] = sum;
		}
	for (int i = 0; i < 24; i++)
		crc = crc16(crc, (uint16_t)product[i][23 - i]);
	return crc;
}

enum number { START, SIGN, INTEGER, POINT, FRACTION, EXPONENT, BAD, STATES };

static enum number next_state(enum number state, char c)
{
	bool digit = c >= '0' && c <= '9';
	switch (state) {
	case START:
		return digit ? INTEGER : c == '-' || c == '+' ? SIGN : c == '.' ? POINT : BAD;
	case SIGN:
		return digit ? INTEGER : c == '.' ? POINT : BAD;
	case INTEGER:
		return digit ? INTEGER : c == '.' ? FRACTION : c == 'e' ? EXPONENT : BAD;
	case POINT:
		return digit ? FRACTION : BAD;
	case FRACTION:
		return digit ? FRACTION : c == 'e' ? EXPONENT : BAD;
	case EXPONENT:
		return digit ? EXPONENT : BAD;
	default:
		return BAD;
	}
}

static uint16_t states(uint16_t crc, uint64_t *random)
{
	unsigned ends[STATES] = { 0 };
	for (size_t i = 0; i < sizeof(numbers); i++)
		numbers[i] = "0123456789.,e-,12"[rnd(random) % 17];
	enum number state = START;
	for (size_t i = 0; i < sizeof(numbers); i++) {
		if (numbers[i] == ',') {
			ends[state]++;
			state = START;
		} else {
			state = next_state(state, numbers[i]);
		}
	}
	for (int i = 0; i < STATES; i++)
		crc = crc16(crc, (uint16_t)ends[i]);
	return crc;
}

PROGRAM(integer, core, 0xc922)
{
	uint64_t state = RND_START;
	uint16_t crc = 0xffff;
	for (int i = 0; i < 40; i++)
		crc = states(matrices(lists(crc, &state), &state), &state);
	return crc;
}

/* --- sort --- */

#define SORTED 20000

static uint32_t *unsorted, *sorted;

static void sort_up(void)
{
	uint64_t state = RND_START;
	unsorted = space(SORTED * 4);
	sorted = space(SORTED * 4);
	for (size_t i = 0; i < SORTED; i++)
		unsorted[i] = (uint32_t)rnd(&state);
}

static int by_number(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static void quick(uint32_t *from, uint32_t *to)
{
	while (to - from > 1) {
		uint32_t pivot = from[(to - from) / 2], *i = from, *j = to - 1;
		while (i <= j) {
			while (*i < pivot)
				i++;
			while (*j > pivot)
				j--;
			if (i <= j) {
				uint32_t t = *i;
				*i++ = *j;
				*j-- = t;
			}
		}
		quick(from, j + 1);
		from = i;
	}
}

/* One sort with inlined comparisons, one by the library through a pointer. */
PROGRAM(integer, sort, 0x92f73bca4d81b3a8, .set_up = sort_up)
{
	uint64_t sum = 0;
	memcpy(sorted, unsorted, SORTED * 4);
	quick(sorted, sorted + SORTED);
	for (size_t i = 0; i < SORTED; i += 100)
		sum = mix(sum, sorted[i]);
	memcpy(sorted, unsorted, SORTED * 4);
	qsort(sorted, SORTED / 4, 4, by_number);
	for (size_t i = 0; i < SORTED / 4; i += 100)
		sum = mix(sum, sorted[i]);
	return sum;
}

/* --- hash table with chains, keys are strings --- */

struct entry {
	struct entry *next;
	uint32_t hash, count;
	char key[16];
};

static struct entry *buckets[4096], *entries;

static void hash_up(void)
{
	entries = space(8192 * sizeof(*entries));
}

PROGRAM(integer, hash, 0x8cb6a902a21a612b, .set_up = hash_up)
{
	uint64_t state = RND_START, sum = 0;
	size_t used = 0;
	memset(buckets, 0, sizeof(buckets));
	for (int i = 0; i < 50000; i++) {
		char key[16] = "k";
		uint32_t value = (uint32_t)(rnd(&state) % 8192), hash = 2166136261;
		for (int j = 1; j < 9; j++, value = value * 7 + 3)
			key[j] = (char)('a' + value % 26);
		for (const char *c = key; *c; c++)
			hash = (hash ^ (uint8_t)*c) * 16777619;
		struct entry **at = &buckets[hash % 4096];
		while (*at && ((*at)->hash != hash || strcmp((*at)->key, key) != 0))
			at = &(*at)->next;
		if (!*at) {
			*at = &entries[used++];
			**at = (struct entry){ .hash = hash };
			memcpy((*at)->key, key, sizeof(key));
		}
		sum += ++(*at)->count;
	}
	return mix(sum, used);
}

/* --- sieve of Eratosthenes --- */

#define SIEVED 1000000

static bool *composite;

static void sieve_up(void)
{
	composite = space(SIEVED);
}

PROGRAM(integer, sieve, 78498, .set_up = sieve_up)
{
	uint64_t primes = 0;
	memset(composite, 0, SIEVED);
	for (size_t i = 2; i < SIEVED; i++) {
		if (composite[i])
			continue;
		primes++;
		for (size_t j = i * i; j < SIEVED; j += i)
			composite[j] = true;
	}
	return primes;
}

/* --- a chain of pointers through 4 MB in random order --- */

#define CHASED 65536

static struct link {
	struct link *next;
	uint64_t value[7];
} * chain;

static void chase_up(void)
{
	uint64_t state = RND_START;
	uint32_t *order = space(CHASED * 4);
	chain = space(CHASED * sizeof(*chain));
	for (uint32_t i = 0; i < CHASED; i++)
		order[i] = i;
	for (uint32_t i = CHASED - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(rnd(&state) % (i + 1)), t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < CHASED; i++)
		chain[order[i]] = (struct link){ &chain[order[(i + 1) % CHASED]], { i } };
	free(order);
}

PROGRAM(integer, chase, 0x6c0cdaba16cb0000, .set_up = chase_up)
{
	uint64_t sum = 0;
	const struct link *at = chain;
	for (int i = 0; i < 2 * CHASED; i++, at = at->next)
		sum = sum * 3 + at->value[0];
	return sum;
}

/* --- scanning text, by own loops and by the library's --- */

#define TEXT 300000

static char *text;

static void strings_up(void)
{
	text = space(TEXT + 1);
	fill_text(text, TEXT);
	text[TEXT] = 0;
}

PROGRAM(integer, strings, 0xe0a61b88f14346d, .set_up = strings_up)
{
	uint64_t words = 0, lines = 0, found = 0, longest = 0, length = 0;
	for (const char *p = text; *p; p++) {
		if (*p == ' ' || *p == '\n') {
			words += length > 0;
			length = 0;
		} else if (++length > longest) {
			longest = length;
		}
	}
	for (const char *p = text; (p = memchr(p, '\n', (size_t)(text + TEXT - p))); p++)
		lines++;
	for (const char *p = text; (p = strstr(p, "fault")); p++)
		found++;
	return mix(mix(mix(mix(strlen(text), words), lines), found), longest);
}
