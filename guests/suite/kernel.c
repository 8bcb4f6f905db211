/* SPDX-License-Identifier: Apache-2.0 */
/* What a program asks a kernel for: processes, pipes, memory, files, sockets. */
#include "suite.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int ended(pid_t pid)
{
	int status;
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void forks(void)
{
	/* Copy on write, in both directions. */
	char *memory = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(memory, 'p', 64 * 4096);
	unsigned codes = 0;
	for (int i = 0; i < 40; i++) {
		fflush(stdout);
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			unsigned char sum = 0;
			for (int page = 0; page < 64; page++) {
				sum = (unsigned char)(sum + memory[page * 4096 + i]);
				memory[page * 4096 + i] = 'c';
			}
			__atomic_fetch_add(shared, sum == (unsigned char)(64 * 'p'), __ATOMIC_SEQ_CST);
			_exit(i);
		}
		codes = codes * 3 + (unsigned)ended(pid);
	}
	mix(memory, 64 * 4096);
	printf("forks %d codes %08x memory %016llx\n", *shared, codes, (unsigned long long)mixed());
	/* Ends by a signal, and by one that a child sends. */
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		signal(SIGSEGV, SIG_DFL);
		volatile int *volatile nowhere = (volatile int *)8;
		*nowhere = 1;
	}
	int first = ended(pid);
	pid = fork();
	if (pid == 0)
		for (;;)
			pause();
	kill(pid, SIGKILL);
	printf("ended by %d and %d\n", first, ended(pid));
	munmap(memory, 64 * 4096);
	munmap(shared, 4096);
}

static void execs(void)
{
	int pipes[2];
	if (pipe(pipes))
		die("pipe");
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(pipes[1], 1);
		close(pipes[0]);
		execl("/proc/self/exe", "suite", "--child", "hello", (char *)NULL);
		_exit(127);
	}
	close(pipes[1]);
	char text[200] = { 0 };
	size_t have = 0;
	ssize_t n;
	while ((n = read(pipes[0], text + have, sizeof(text) - 1 - have)) > 0)
		have += (size_t)n;
	close(pipes[0]);
	printf("exec: %sstatus %d\n", text, ended(pid));
}

static void pipes(void)
{
	int there[2], back[2];
	if (pipe(there) || pipe(back))
		die("pipe");
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		close(there[1]);
		uint64_t v;
		while (read(there[0], &v, 8) == 8) {
			v = v * 3 + 1;
			if (write(back[1], &v, 8) != 8)
				_exit(1);
		}
		_exit(0);
	}
	close(there[0]);
	uint64_t v = 1;
	for (int i = 0; i < 500; i++)
		if (write(there[1], &v, 8) != 8 || read(back[0], &v, 8) != 8)
			die("pipe");
	close(there[1]);
	printf("ping pong %016llx status %d\n", (unsigned long long)v, ended(pid));
	close(back[0]);
	close(back[1]);
	/* A big transfer through a socket, by poll. */
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		die("socketpair");
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		static char block[10000];
		for (int i = 0; i < 100; i++) {
			memset(block, i, sizeof(block));
			for (size_t done = 0; done < sizeof(block);) {
				ssize_t n = write(pair[1], block + done, sizeof(block) - done);
				if (n < 0)
					_exit(1);
				done += (size_t)n;
			}
		}
		_exit(0);
	}
	close(pair[1]);
	static char block[65536];
	size_t total = 0;
	for (;;) {
		struct pollfd p = { .fd = pair[0], .events = POLLIN };
		if (poll(&p, 1, -1) < 0)
			die("poll");
		ssize_t n = read(pair[0], block, sizeof(block));
		if (n <= 0)
			break;
		mix(block, (size_t)n);
		total += (size_t)n;
	}
	close(pair[0]);
	printf("socket %zu %016llx status %d\n", total, (unsigned long long)mixed(), ended(pid));
}

static void memory(void)
{
	size_t size = 256 * 4096;
	char *m = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		die("mmap");
	for (int i = 0; i < 300; i++) {
		size_t page = rnd() % 256, count = rnd() % (256 - page) + 1;
		switch (rnd() % 4) {
		case 0:
			if (mprotect(m + page * 4096, count * 4096, PROT_READ) ||
			    mprotect(m + page * 4096, count * 4096, PROT_READ | PROT_WRITE))
				die("mprotect");
			break;
		case 1:
			madvise(m + page * 4096, count * 4096, MADV_DONTNEED);
			break;
		case 2:
			munmap(m + page * 4096, count * 4096);
			if (mmap(m + page * 4096, count * 4096, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
				die("mmap fixed");
			break;
		default:
			memset(m + page * 4096, i, count * 4096);
		}
	}
	mix(m, size);
	char *moved = mremap(m, size, 4 * size, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED)
		die("mremap");
	moved[4 * size - 1] = 1;
	mix(moved, 4 * size);
	munmap(moved, 4 * size);
	char *heap[200] = { 0 };
	for (int i = 0; i < 3000; i++) {
		size_t at = rnd() % 200, n = rnd() % 20000;
		heap[at] = realloc(heap[at], n + 1);
		memset(heap[at], i, n + 1);
	}
	for (int i = 0; i < 200; i++)
		free(heap[i]);
	printf("memory %016llx\n", (unsigned long long)mixed());
	/* A file by two mappings. */
	int fd = memfd_create("suite", 0);
	if (fd < 0 || ftruncate(fd, 8192))
		die("memfd");
	char *a = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
	     *b = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	strcpy(a + 4090, "across pages");
	char text[20] = { 0 };
	if (pread(fd, text, 12, 4090) != 12)
		die("pread");
	printf("two mappings: %s, %s\n", b + 4090, text);
	munmap(a, 8192);
	munmap(b, 8192);
	close(fd);
}

static int cloned(void *arg)
{
	*(int *)arg = 77;
	return 5;
}

static void others(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	int value = 0;
	fflush(stdout);
	pid_t pid = clone(cloned, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &value);
	int status = ended(pid);
	printf("clone %d %d\n", value, status);
	struct timespec a, b, nap = { 0, 5000000 };
	clock_gettime(CLOCK_MONOTONIC, &a);
	nanosleep(&nap, NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	int64_t slept = (b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec;
	printf("slept %s\n", slept >= 5000000 && slept < 2000000000 ? "well" : "badly");
	bool forward = true;
	for (int i = 0; i < 20000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &b);
		forward &= b.tv_sec > a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec >= a.tv_nsec);
		a = b;
	}
	printf("time runs %s\n", forward ? "forwards" : "backwards");
	char name[] = "/tmp/suite-XXXXXX", text[6] = { 0 };
	int fd = mkstemp(name);
	if (fd < 0 || write(fd, "12345", 5) != 5 || lseek(fd, 1, SEEK_SET) != 1 || read(fd, text, 3) != 3)
		die("file");
	struct stat st;
	fstat(fd, &st);
	unlink(name);
	close(fd);
	printf("file %s %d\n", text, (int)st.st_size);
	errno = 0;
	long r = syscall(100000);
	printf("no such call %ld %d\n", r, errno);
	const void *volatile nowhere = (const void *)8;
	r = write(1, nowhere, 1);
	printf("bad address %ld %d\n", r, errno);
}

SECTION(kernel)
{
	forks();
	execs();
	pipes();
	memory();
	others();
}
