/* SPDX-License-Identifier: Apache-2.0 */
#include "suite.h"

#include <errno.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

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

/* For the tests: the other ends of exec, and a write to a port. */
static void helper(char **argv)
{
	if (strcmp(argv[1], "--child") == 0) {
		printf("child of exec says %s\n", argv[2]);
		exit(42);
	}
	if (strcmp(argv[1], "--out") == 0) {
		if (ioperm((unsigned long)atol(argv[2]), 1, 1))
			die("ioperm");
		outb((unsigned char)atoi(argv[3]), (unsigned short)atoi(argv[2]));
		exit(0);
	}
}

static int by_name(const void *a, const void *b)
{
	const struct section *const *x = a, *const *y = b;
	return strcmp((*x)->name, (*y)->name);
}

/* usage: suite [SECTION...]; without a name all run, in the order of their names. As init of a guest it runs all and
 * powers off. */
int main(int argc, char **argv)
{
	size_t count = (size_t)(__stop_suite_sections - __start_suite_sections);
	const struct section *sorted[64];
	bool init = getpid() == 1;
	if (argc > 2)
		helper(argv);
	if (init && mount("proc", "/proc", "proc", 0, NULL))
		die("mount");
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
	fflush(stdout);
	if (init)
		reboot(RB_POWER_OFF);
	return 0;
}
