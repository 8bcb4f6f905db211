/* SPDX-License-Identifier: Apache-2.0 */
#include "stress.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 3, LINE = 20, MAX_JOBS = 1 << 20 };

static const struct {
	const char *name;
	job_fn *run;
} kinds[] = {
	{ "compile", job_compile }, { "jit", job_jit },       { "cow", job_cow },       { "patch", job_patch },
	{ "maps", job_maps },       { "faults", job_faults }, { "steps", job_steps },   { "alarms", job_alarms },
	{ "threads", job_threads }, { "exec", job_exec },     { "engine", job_engine },
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

uint64_t rnd(struct job *j)
{
	j->random ^= j->random >> 12;
	j->random ^= j->random << 25;
	j->random ^= j->random >> 27;
	return j->random * 0x2545f4914f6cdd1d;
}

unsigned pick(struct job *j, unsigned below)
{
	return (unsigned)(rnd(j) >> 33) % below;
}

void mix(struct job *j, uint64_t value)
{
	j->hash = (j->hash ^ value) * 0x100000001b3;
	j->hash ^= j->hash >> 29;
}

void mix_bytes(struct job *j, const void *data, size_t size)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < size; i++)
		mix(j, p[i]);
}

/* What the parent and the workers share. */
static struct {
	unsigned next, stop; /* the next job; no more */
	unsigned current[WORKERS];
	char what[WORKERS][64];
	uint64_t result[MAX_JOBS]; /* 0: not there yet */
} * shared;
static unsigned worker;

_Noreturn void wrong(const char *what)
{
	snprintf(shared->what[worker], sizeof(shared->what[worker]), "%s", what);
	_exit(100);
}

void must(bool condition, const char *what)
{
	if (!condition)
		wrong(what);
}

void *map(size_t size, int protection)
{
	void *p = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(p != MAP_FAILED, "mmap");
	return p;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static unsigned only = KINDS; /* the kind of all jobs; KINDS: of each in turn */

static unsigned kind_of(unsigned number)
{
	return only < KINDS ? only : number % KINDS;
}

static bool choose_kind(const char *name)
{
	for (only = 0; only < KINDS && strcmp(name, kinds[only].name) != 0;)
		only++;
	return only < KINDS;
}

/* In a process of its own. */
static void run_job(uint64_t seed, unsigned number)
{
	struct job j = { .random = (seed << 32 ^ number) * 0x9e3779b97f4a7c15 | 1, .hash = number };
	for (int i = 0; i < 4; i++)
		rnd(&j);
	kinds[kind_of(number)].run(&j);
	__atomic_store_n(&shared->result[number], j.hash | 1, __ATOMIC_RELEASE);
	_exit(0);
}

static void work(uint64_t seed, unsigned jobs)
{
	unsigned number;
	while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE) &&
	       (number = __atomic_fetch_add(&shared->next, 1, __ATOMIC_ACQ_REL)) < jobs) {
		int status;
		shared->current[worker] = number;
		pid_t child = fork();
		if (child == 0)
			run_job(seed, number);
		if (child < 0 || waitpid(child, &status, 0) != child || status) {
			shared->current[worker] = number;
			_exit(1);
		}
	}
	_exit(0);
}

/* Prints the results in order as far as they are there; the last line only when it is whole. */
static unsigned print(unsigned from, unsigned to)
{
	for (; from + LINE <= to; from += LINE) {
		struct job line = { 0 };
		for (unsigned i = 0; i < LINE; i++) {
			uint64_t result = __atomic_load_n(&shared->result[from + i], __ATOMIC_ACQUIRE);
			if (!result)
				return from;
			mix(&line, result);
		}
		printf("jobs %u to %u: %016lx\n", from, from + LINE - 1, line.hash);
		fflush(stdout);
	}
	return from;
}

/* Waits for a worker's end; tells of one that went wrong. */
static bool reap(const pid_t *workers, int options, unsigned *left)
{
	int status;
	pid_t pid = waitpid(-1, &status, options);
	if (pid <= 0)
		return true;
	--*left;
	if (!status)
		return true;
	for (unsigned i = 0; i < WORKERS; i++)
		if (workers[i] == pid)
			printf("WRONG: job %u (%s): %s\n", shared->current[i], kinds[kind_of(shared->current[i])].name,
			       shared->what[i][0] ? shared->what[i] : "died");
	return false;
}

/* usage: stress SEED (seconds N | jobs N | job N) [KIND] */
int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "--child") == 0)
		return exec_child(argv[2]);
	if (argc < 4 || argc > 5 || (argc == 5 && !choose_kind(argv[4])))
		return 2;
	uint64_t seed = strtoull(argv[1], NULL, 0);
	bool timed = strcmp(argv[2], "seconds") == 0;
	double end = now() + (timed ? atof(argv[3]) : 1e9);
	unsigned jobs = timed ? MAX_JOBS : (unsigned)atoi(argv[3]), left = WORKERS, printed = 0;
	pid_t workers[WORKERS];
	bool well = true;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shared == MAP_FAILED)
		return 3;
	if (strcmp(argv[2], "job") == 0)
		run_job(seed, jobs);
	for (worker = 0; worker < WORKERS; worker++) {
		workers[worker] = fork();
		if (workers[worker] == 0)
			work(seed, jobs);
	}
	while (left && well) {
		well = reap(workers, WNOHANG, &left);
		if (now() >= end)
			__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
		printed = print(printed, jobs);
		usleep(50000);
	}
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	while (left && waitpid(-1, NULL, 0) > 0)
		left--;
	printed = print(printed, jobs);
	printf("%s\n", well ? "== end" : "== wrong");
	return well ? 0 : 1;
}
