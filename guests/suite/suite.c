/* SPDX-License-Identifier: Apache-2.0 */
#include "suite.h"

#include <errno.h>

extern const struct section __start_suite_sections[], __stop_suite_sections[];

static uint64_t random_state, sum;

uint64_t rnd(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1d;
}

void mix(const void *data, size_t size)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < size; i++)
		sum = (sum ^ p[i]) * 0x100000001b3;
}

uint64_t mixed(void)
{
	uint64_t result = sum;
	sum = 0xcbf29ce484222325;
	return result;
}

_Noreturn void die(const char *what)
{
	printf("failed: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* usage: suite [SECTION...]; without a name all run, in the order of their names. */
static int by_name(const void *a, const void *b)
{
	const struct section *const *x = a, *const *y = b;
	return strcmp((*x)->name, (*y)->name);
}

int main(int argc, char **argv)
{
	size_t count = (size_t)(__stop_suite_sections - __start_suite_sections);
	const struct section *sorted[64];
	if (argc == 3 && strcmp(argv[1], "--child") == 0) {
		printf("child of exec says %s\n", argv[2]);
		return 42;
	}
	for (size_t i = 0; i < count; i++)
		sorted[i] = &__start_suite_sections[i];
	qsort(sorted, count, sizeof(sorted[0]), by_name);
	for (size_t i = 0; i < count; i++) {
		bool wanted = argc == 1;
		for (int j = 1; j < argc; j++)
			wanted |= strcmp(argv[j], sorted[i]->name) == 0;
		if (!wanted)
			continue;
		random_state = 88172645463325252;
		mixed();
		printf("== %s\n", sorted[i]->name);
		fflush(stdout);
		sorted[i]->run();
		fflush(stdout);
	}
	puts("== end");
	return 0;
}
