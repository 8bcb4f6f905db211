/* SPDX-License-Identifier: Apache-2.0 */
/* Mappings that change, by this process, by another one and by another thread. */
#include "suite.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static uint64_t *map_at(uint64_t at, size_t size, int rights, int flags, int fd)
{
	void *p = mmap((void *)at, size, rights, flags | (at ? MAP_FIXED : 0), fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

enum { PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS, BOTH = PROT_READ | PROT_WRITE };

/* Memory is memory, wherever: also where a host might have something of its own. */
SECTION(places)
{
	static const uint64_t places[] = { 0x10000,	   0x6a0000000000, 0x6a0000001000, 0x6a000000f000, 0x6a0000010000, 0x69fffffff000,
					   0x123456789000 };
	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		uint64_t *p = map_at(places[i], PAGE, BOTH | PROT_EXEC, PRIVATE, -1), sum = 0;
		memset(p, 0, PAGE); /* docs/design/direct.md says what reading first may give */
		for (unsigned k = 0; k < 100000; k++)
			sum += p[k % 512] += k;
		memcpy(p, (const uint8_t[]){ 0xb8, 1, 2, 3, 4, 0xc3 }, 6);
		printf("%#lx: %#lx %#x\n", places[i], sum, ((uint32_t(*)(void))(uintptr_t)p)());
		munmap(p, PAGE);
	}
}

SECTION(mappings)
{
	unsigned bad = 0;
	int fd = memfd_create("file", 0);
	if (fd < 0 || ftruncate(fd, 16 * PAGE))
		die("memfd_create");
	volatile uint64_t *p = map_at(0, 16 * PAGE, BOTH, MAP_SHARED, fd), *q = p;
	for (uint64_t i = 0; i < 500; i++) {
		uint64_t page = i % 16, value = i * 0x9e3779b97f4a7c15u;
		bad += pwrite(fd, &value, 8, (off_t)(page * PAGE + 8)) != 8 || p[page * 512 + 1] != value;
		p[page * 512 + 2] = ~value;
		bad += pread(fd, &value, 8, (off_t)(page * PAGE + 16)) != 8 || value != p[page * 512 + 2];
	}
	/* Over what is there; pages that go away; pages that move. */
	for (uint64_t i = 0; i < 200; i++) {
		q = map_at((uint64_t)p, PAGE, BOTH, i % 2 ? PRIVATE : MAP_SHARED, i % 2 ? -1 : fd);
		if (i % 2)
			bad += q[1] != 0;
		q[1] = i;
	}
	munmap((void *)p, 16 * PAGE);
	uint64_t *a = map_at(0, 8 * PAGE, BOTH, PRIVATE, -1);
	for (uint64_t i = 0; i < 100; i++) {
		a[0] = i;
		a[512] = i + 1;
		madvise(a, PAGE, MADV_DONTNEED);
		bad += a[0] != 0 || a[512] != i + 1;
		uint64_t *b = mremap(a, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)a + (i % 2 ? 32 : -32) * PAGE);
		if (b == MAP_FAILED)
			die("mremap");
		bad += b[512] != i + 1 || b[0] != 0;
		a = b;
	}
	munmap(a, 8 * PAGE);
	printf("wrong: %u\n", bad);
	close(fd);
}

SECTION(forks)
{
	enum { PAGES = 64 };
	volatile uint64_t *shared = map_at(0, PAGE, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1), *mine = map_at(0, PAGES * PAGE, BOTH, PRIVATE, -1);
	unsigned bad = 0;
	fflush(stdout);
	for (uint64_t round = 0; round < 20; round++) {
		int status;
		for (unsigned i = 0; i < PAGES; i++)
			mine[i * 512] = round + i;
		pid_t child = fork();
		if (child < 0)
			die("fork");
		for (unsigned i = 0; i < PAGES; i++) {
			uint64_t *at = (uint64_t *)&mine[i * 512];
			bad += *at != round + i;
			*at = child ? ~round : round * 3;
		}
		for (unsigned i = 0; i < PAGES; i++)
			bad += mine[i * 512] != (child ? ~round : round * 3);
		__atomic_fetch_add(&shared[1 + bad], child ? 1 : 0x10000, __ATOMIC_SEQ_CST);
		if (child == 0)
			_exit(bad != 0);
		bad += waitpid(child, &status, 0) != child || status;
	}
	printf("%#lx, wrong: %u\n", shared[1], bad);
}

/* A store by a thread after mprotect or munmap has returned is one too many. */
static struct {
	volatile uint64_t *page;
	atomic_bool end;
	atomic_uint faults;
	sigjmp_buf back;
} down;

static void fault(int signal, siginfo_t *info, void *context)
{
	atomic_fetch_add(&down.faults, 1);
	siglongjmp(down.back, 1);
}

static void *writer(void *unused)
{
	sigsetjmp(down.back, 1);
	while (!atomic_load_explicit(&down.end, memory_order_relaxed))
		for (unsigned i = 0; i < 64; i++)
			down.page[i % 8 * 64]++;
	return unused;
}

static uint64_t total(const volatile uint64_t *page)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < 512; i++)
		sum += page[i];
	return sum;
}

SECTION(shootdowns)
{
	pthread_t thread;
	unsigned bad = 0;
	struct sigaction action = { .sa_sigaction = fault, .sa_flags = SA_SIGINFO };
	int fd = memfd_create("page", 0);
	if (fd < 0 || ftruncate(fd, PAGE) || sigaction(SIGSEGV, &action, NULL))
		die("memfd_create");
	volatile uint64_t *other = map_at(0, PAGE, BOTH, MAP_SHARED, fd);
	down.page = map_at(0, PAGE, BOTH, MAP_SHARED, fd);
	if (pthread_create(&thread, NULL, writer, NULL))
		die("pthread_create");
	for (unsigned i = 0; i < 150; i++) {
		uint64_t before = total(other), pause = 0;
		while (total(other) == before && pause++ < 1000000)
			sched_yield();
		bad += total(other) == before; /* it lives */
		if (i % 3 == 0)
			mprotect((void *)down.page, PAGE, PROT_READ);
		else if (i % 3 == 1)
			mprotect((void *)down.page, PAGE, PROT_NONE);
		else
			map_at((uint64_t)down.page, PAGE, BOTH, PRIVATE, -1);
		before = total(other);
		for (unsigned k = 0; k < 30; k++) {
			bad += total(other) != before;
			if (k % 10 == 0)
				sched_yield();
		}
		map_at((uint64_t)down.page, PAGE, BOTH, MAP_SHARED, fd);
	}
	atomic_store(&down.end, true);
	pthread_join(thread, NULL);
	signal(SIGSEGV, SIG_DFL);
	printf("wrong: %u\n", bad);
	munmap((void *)down.page, PAGE);
	munmap((void *)other, PAGE);
	close(fd);
}

/* More pages, in no order, than a process may have mappings. */
SECTION(scattered)
{
	enum { PAGES = 70000, STEP = 44483 };
	uint64_t *p = map_at(0, (size_t)PAGES * PAGE, BOTH, PRIVATE | MAP_NORESERVE, -1), sum = 0;
	madvise(p, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE);
	for (uint64_t round = 0; round < 2; round++)
		for (uint64_t i = 0, at = 0; i < PAGES; i++, at = (at + STEP) % PAGES)
			sum += p[at * 512 + i % 512 * (1 - round)] = i ^ round;
	for (uint64_t i = 0; i < PAGES; i++)
		sum = sum * 31 + p[i * 512];
	printf("%#lx\n", sum);
	munmap(p, (size_t)PAGES * PAGE);
}
