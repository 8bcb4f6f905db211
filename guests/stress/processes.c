/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that meet in memory, and programs behind pipes. */
#include "stress.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 3, ROUNDS = 400 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint64_t atomic_sum, locked_sum;
static unsigned __int128 wide;
static unsigned turn;

static void add_wide(uint64_t value)
{
	uint64_t low = 0, high = 0;
	bool done;
	do {
		unsigned __int128 next = ((unsigned __int128)high << 64 | low) + value;
		__asm__ volatile("lock cmpxchg16b %1\n sete %0"
				 : "=r"(done), "+m"(wide), "+a"(low), "+d"(high)
				 : "b"((uint64_t)next), "c"((uint64_t)(next >> 64))
				 : "memory", "cc");
	} while (!done);
}

static void *thread(void *arg)
{
	struct job *j = arg;
	uint64_t seed = j->hash;
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t value = rnd(j) >> 8;
		__atomic_fetch_add(&atomic_sum, value, __ATOMIC_SEQ_CST);
		pthread_mutex_lock(&lock);
		locked_sum += value * seed;
		pthread_mutex_unlock(&lock);
		add_wide(value);
		if (i % 40 == 0) { /* in turn */
			pthread_mutex_lock(&lock);
			while (turn % THREADS != seed)
				pthread_cond_wait(&changed, &lock);
			turn++;
			pthread_cond_broadcast(&changed);
			pthread_mutex_unlock(&lock);
		}
	}
	return NULL;
}

void job_threads(struct job *j)
{
	pthread_t id[THREADS];
	struct job mine[THREADS];
	atomic_sum = locked_sum = 0;
	wide = 0;
	turn = 0;
	for (unsigned i = 0; i < THREADS; i++) {
		mine[i] = (struct job){ .random = rnd(j) | 1, .hash = i };
		must(!pthread_create(&id[i], NULL, thread, &mine[i]), "pthread_create");
	}
	for (unsigned i = 0; i < THREADS; i++)
		must(!pthread_join(id[i], NULL), "pthread_join");
	must(atomic_sum == (uint64_t)wide, "threads: two sums differ");
	mix(j, atomic_sum);
	mix(j, (uint64_t)(wide >> 64));
	mix(j, locked_sum);
	mix(j, turn);
}

/* --- exec --- */

int exec_child(const char *argument)
{
	struct job j = { .random = strtoull(argument, NULL, 16) | 1 };
	char word[64];
	uint64_t sum = 0;
	while (scanf("%63s", word) == 1) {
		for (const char *p = word; *p; p++)
			sum = sum * 31 + (uint8_t)*p;
		sum ^= rnd(&j);
	}
	printf("%lx\n", sum);
	return (int)(sum & 0x7f);
}

static _Noreturn void become_child(const int *in, const int *out, const char *argument)
{
	dup2(in[0], 0);
	dup2(out[1], 1);
	close(in[1]);
	close(out[0]);
	execl("/proc/self/exe", "stress", "--child", argument, (char *)NULL);
	_exit(127);
}

static pid_t start_by_fork(const int *in, const int *out, const char *argument)
{
	pid_t child = fork();
	if (child == 0)
		become_child(in, out, argument);
	return child;
}

static __attribute__((noinline)) pid_t start_by_vfork(const int *in, const int *out, const char *argument)
{
	pid_t child = vfork();
	if (child == 0)
		become_child(in, out, argument);
	return child;
}

void job_exec(struct job *j)
{
	for (int i = 0; i < 4; i++) {
		int in[2], out[2], status;
		char argument[32], text[2000], result[64] = "";
		size_t size = 0;
		snprintf(argument, sizeof(argument), "%lx", rnd(j));
		must(!pipe(in) && !pipe(out), "pipe");
		pid_t child = i % 2 ? start_by_fork(in, out, argument) : start_by_vfork(in, out, argument);
		close(in[0]);
		close(out[1]);
		while (size < sizeof(text) - 32)
			size += (size_t)sprintf(text + size, "%lx ", rnd(j) >> pick(j, 60));
		must(write(in[1], text, size) == (ssize_t)size, "write");
		close(in[1]);
		size = 0;
		for (ssize_t n; (n = read(out[0], result + size, sizeof(result) - 1 - size)) > 0;)
			size += (size_t)n;
		close(out[0]);
		must(waitpid(child, &status, 0) == child && WIFEXITED(status), "exec: the child");
		must((strtoull(result, NULL, 16) & 0x7f) == (uint64_t)WEXITSTATUS(status),
		     "exec: its words and its status differ");
		mix_bytes(j, result, strlen(result));
	}
}
