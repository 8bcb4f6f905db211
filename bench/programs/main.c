/* SPDX-License-Identifier: Apache-2.0 */
#include "speed.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_UNITS 100000

extern const struct program __start_speed_programs[], __stop_speed_programs[];

static char folder[PATH_MAX];

uint64_t mix_bytes(uint64_t sum, const void *data, size_t size)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < size; i++)
		sum = mix(sum, p[i]);
	return sum;
}

void fill_text(char *to, size_t size)
{
	static const char *const words[] = { "the", "machine", "of",      "a",          "page",  "fault",
					     "and", "returns", "with",    "each",       "entry", "virtual",
					     "in",  "memory",  "address", "translation" };
	uint64_t state = RND_START;
	size_t at = 0;
	while (at < size) {
		const char *word = words[rnd(&state) % 16];
		while (*word && at < size)
			to[at++] = *word++;
		if (at < size)
			to[at++] = rnd(&state) % 11 ? ' ' : '\n';
	}
}

const char *beside(const char *name)
{
	static char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
		die("path");
	return path;
}

_Noreturn void die(const char *what)
{
	printf("failed: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

void *space(size_t size)
{
	void *p = malloc(size);
	if (!p)
		die("malloc");
	return p;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

/* Processes that run the same program at the same time wait here for each other. */
static void meet(uint32_t *others)
{
	__atomic_sub_fetch(others, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(others, __ATOMIC_SEQ_CST))
		sched_yield();
}

/* CPU time of this process and its children, by the kernel below it: of use only natively. */
static double cpu_time(void)
{
	double sum = 0;
	for (int who = RUSAGE_CHILDREN; who <= RUSAGE_SELF; who++) {
		struct rusage u;
		getrusage(who, &u);
		sum += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
		       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
	}
	return sum;
}

/* Waits for a line from whoever measures how much CPU time we take, which is his to see when we are a guest. */
static void wait_at(int gate)
{
	char c = 0;
	while (gate >= 0 && c != '\n' && read(gate, &c, 1) == 1)
		;
}

struct run {
	double budget;
	unsigned processes;
	int gate;         /* or -1 */
	uint32_t *others; /* shared: those that are not ready */
};

/* Runs units until the budget is spent, after a first one, which finds nothing warm and is told apart. Who reads along can
 * compare our clock with his own: a line comes when the budget starts, another when it is spent. */
static void measure(const struct program *p, const struct run *run)
{
	static double times[MAX_UNITS];
	size_t count = 0;
	if (p->set_up)
		p->set_up();
	double first = now();
	uint64_t sum = p->unit();
	first = now() - first;
	printf("start %s\n", p->name);
	fflush(stdout);
	wait_at(run->gate);
	meet(run->others);
	double cpu = cpu_time(), start = now(), last = start;
	do {
		uint64_t result = p->unit();
		double end = now();
		if (result != p->expected)
			sum = result;
		times[count++] = end - last;
		last = end;
	} while (last - start < run->budget && count < MAX_UNITS);
	cpu = cpu_time() - cpu;
	qsort(times, count, sizeof(times[0]), by_value);
	printf("%s %s units %zu best %.9f median %.9f first %.9f total %.6f cpu %.6f sum %#lx %s\n", p->group, p->name,
	       count, times[0], times[count / 2], first, last - start, cpu, sum, sum == p->expected ? "ok" : "WRONG");
	fflush(stdout);
	wait_at(run->gate);
	_exit(sum != p->expected);
}

/* Each in a process of its own: none finds the other's memory, and one that crashes is alone. */
static bool run(const struct program *p, struct run run)
{
	run.others = mmap(NULL, sizeof(*run.others), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool well = true;
	if (run.others == MAP_FAILED)
		die("mmap");
	*run.others = run.processes;
	if (p->present && !p->present()) {
		printf("%s %s absent\n", p->group, p->name);
		return true;
	}
	fflush(stdout);
	for (unsigned i = 0; i < run.processes; i++) {
		pid_t child = fork();
		if (child < 0)
			die("fork");
		if (child == 0)
			measure(p, &run);
	}
	for (unsigned i = 0; i < run.processes; i++) {
		int status;
		if (wait(&status) < 0)
			die("wait");
		if (WIFSIGNALED(status))
			printf("%s %s DIED of signal %d\n", p->group, p->name, WTERMSIG(status));
		well &= status == 0;
	}
	munmap(run.others, sizeof(*run.others));
	return well;
}

static bool wanted(const struct program *p, char **names)
{
	bool all = !*names;
	for (; *names; names++)
		all |= strcmp(*names, p->name) == 0 || strcmp(*names, p->group) == 0;
	return all;
}

/* usage: speed [--list] [--time SECONDS] [--processes N] [--gate FILE] [GROUP|NAME...] */
int main(int argc, char **argv)
{
	struct run how = { .budget = 0.2, .processes = 1, .gate = -1 };
	bool list = false, well = true;
	ssize_t length = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
	if (length < 0)
		die("/proc/self/exe");
	dirname(folder);
	setenv("OPENSSL_CONF", "/dev/null", 1);
	argv += argc > 0;
	for (; *argv && **argv == '-'; argv++) {
		if (strcmp(*argv, "--list") == 0) {
			list = true;
		} else if (strcmp(*argv, "--time") == 0 && argv[1]) {
			how.budget = atof(*++argv);
		} else if (strcmp(*argv, "--processes") == 0 && argv[1]) {
			how.processes = (unsigned)atoi(*++argv);
		} else if (strcmp(*argv, "--gate") == 0 && argv[1]) {
			how.gate = open(*++argv, O_RDONLY);
			if (how.gate < 0)
				die(*argv);
		} else {
			printf("failed: no option %s\n", *argv);
			return 2;
		}
	}
	for (const struct program *p = __start_speed_programs; p < __stop_speed_programs; p++) {
		if (!wanted(p, argv))
			continue;
		if (list)
			printf("%s %s\n", p->group, p->name);
		else
			well &= run(p, how);
	}
	puts("== end");
	return well ? 0 : 1;
}
