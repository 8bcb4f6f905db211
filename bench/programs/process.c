/* SPDX-License-Identifier: Apache-2.0 */
/* The guest kernel's work for processes and threads. */
#include "speed.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

PROGRAM(kernel, syscall, 20000)
{
	uint64_t calls = 0;
	for (int i = 0; i < 20000; i++)
		calls += syscall(SYS_getppid) > 0;
	return calls;
}

static int ended(pid_t child)
{
	int status;
	if (child < 0 || waitpid(child, &status, 0) != child)
		die("child");
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A byte there and back between two processes. */
PROGRAM(kernel, pipe, 500)
{
	int there[2], back[2];
	char byte = 0;
	if (pipe(there) || pipe(back))
		die("pipe");
	pid_t child = fork();
	if (child == 0) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1) {
			byte++;
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	uint64_t turns = 0;
	for (int i = 0; i < 500; i++) {
		byte = (char)i;
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			die("pipe");
		turns += byte == (char)(i + 1);
	}
	close(there[0]);
	close(there[1]);
	close(back[0]);
	close(back[1]);
	return ended(child) == 0 ? turns : 0;
}

/* A token goes round a ring of processes. */
#define RING 8
#define ROUNDS 60

PROGRAM(kernel, switches, RING *ROUNDS)
{
	int fd[RING][2];
	pid_t child[RING];
	uint32_t token = 0;
	for (int i = 0; i < RING; i++)
		if (pipe(fd[i]))
			die("pipe");
	for (int i = 1; i < RING; i++) {
		child[i] = fork();
		if (child[i] != 0)
			continue;
		for (int turn = 0; turn < ROUNDS; turn++) {
			if (read(fd[i][0], &token, 4) != 4)
				_exit(1);
			token++;
			if (write(fd[(i + 1) % RING][1], &token, 4) != 4)
				_exit(1);
		}
		_exit(0);
	}
	for (int turn = 0; turn < ROUNDS; turn++) {
		token++;
		if (write(fd[1][1], &token, 4) != 4 || read(fd[0][0], &token, 4) != 4)
			die("ring");
	}
	for (int i = 0; i < RING; i++) {
		close(fd[i][0]);
		close(fd[i][1]);
		if (i > 0 && ended(child[i]) != 0)
			token = 0;
	}
	return token;
}

/* Two threads that wake each other. */
static uint32_t turn;

static void wait_for(uint32_t value)
{
	for (;;) {
		uint32_t is = __atomic_load_n(&turn, __ATOMIC_ACQUIRE);
		if (is == value)
			return;
		syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, is, NULL, NULL, 0);
	}
}

static void give(uint32_t value)
{
	__atomic_store_n(&turn, value, __ATOMIC_RELEASE);
	syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *other_thread(void *arg)
{
	for (uint32_t i = 0; i < 500; i++) {
		wait_for(2 * i + 1);
		give(2 * i + 2);
	}
	return arg;
}

PROGRAM(kernel, futex, 1000)
{
	pthread_t thread;
	turn = 0;
	if (pthread_create(&thread, NULL, other_thread, NULL))
		die("pthread_create");
	for (uint32_t i = 0; i < 500; i++) {
		give(2 * i + 1);
		wait_for(2 * i + 2);
	}
	pthread_join(thread, NULL);
	return turn;
}

static void *nothing(void *arg)
{
	return arg;
}

PROGRAM(kernel, threads, 100)
{
	uint64_t count = 0;
	for (int i = 0; i < 100; i++) {
		pthread_t thread;
		void *result = NULL;
		if (pthread_create(&thread, NULL, nothing, &count) || pthread_join(thread, &result))
			die("pthread_create");
		count += result == &count;
	}
	return count;
}

PROGRAM(kernel, fork, 20 * 3)
{
	uint64_t sum = 0;
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit(3);
		sum += (uint64_t)ended(child);
	}
	return sum;
}

static _Noreturn void execute(const char *path, char *const argv[])
{
	execv(path, argv);
	_exit(127);
}

static __attribute__((noinline)) pid_t vfork_and_execute(const char *path, char *const argv[])
{
	pid_t child = vfork();
	if (child == 0)
		execute(path, argv);
	return child;
}

PROGRAM(kernel, fork_exec, 10 * 7)
{
	char path[4096], *argv[] = { path, NULL };
	uint64_t sum = 0;
	snprintf(path, sizeof(path), "%s", beside("child"));
	for (int i = 0; i < 10; i++) {
		pid_t child = fork();
		if (child == 0)
			execute(path, argv);
		sum += (uint64_t)ended(child);
	}
	return sum;
}

PROGRAM(kernel, vfork_exec, 10 * 7)
{
	char path[4096], *argv[] = { path, NULL };
	uint64_t sum = 0;
	snprintf(path, sizeof(path), "%s", beside("child"));
	for (int i = 0; i < 10; i++) {
		sum += (uint64_t)ended(vfork_and_execute(path, argv));
	}
	return sum;
}

/* A shell that starts programs and pipes one into another. */
PROGRAM(kernel, shell, 5)
{
	char path[4096],
	    script[] = "i=0; while [ $i -lt 4 ]; do $0 true; i=$((i + $(echo $i | $0 wc -l))); done; exit $((i + 1))";
	char sh[] = "sh", option[] = "-c", *argv[] = { sh, option, script, path, NULL };
	snprintf(path, sizeof(path), "%s", beside("busybox"));
	pid_t child = fork();
	if (child == 0)
		execute(path, argv);
	return (uint64_t)ended(child);
}
