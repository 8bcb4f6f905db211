/* SPDX-License-Identifier: Apache-2.0 */
/* The guest kernel's work for memory and files. */
#include "speed.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096

static char *map(size_t pages, int protection)
{
	char *p = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/* Each page's first touch is a fault. */
PROGRAM(kernel, touch, 2000)
{
	uint64_t sum = 0;
	char *p = map(2000, PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < 2000; i++) {
		p[i * PAGE + i % PAGE] = 1;
		sum += (uint64_t)p[i * PAGE + i % PAGE];
	}
	munmap(p, 2000 * PAGE);
	return sum;
}

PROGRAM(kernel, mmap, 1000)
{
	uint64_t sum = 0;
	for (int i = 0; i < 1000; i++) {
		char *p = map(4, PROT_READ | PROT_WRITE);
		p[PAGE] = 1;
		sum += (uint64_t)p[PAGE];
		munmap(p, 4 * PAGE);
	}
	return sum;
}

PROGRAM(kernel, mprotect, 1000)
{
	uint64_t sum = 0;
	char *p = map(16, PROT_READ | PROT_WRITE);
	for (int i = 0; i < 1000; i++) {
		p[3 * PAGE] = 1;
		if (mprotect(p, 16 * PAGE, PROT_READ))
			die("mprotect");
		sum += (uint64_t)p[3 * PAGE];
		if (mprotect(p, 16 * PAGE, PROT_READ | PROT_WRITE))
			die("mprotect");
	}
	munmap(p, 16 * PAGE);
	return sum;
}

/* --- a signal for each fault; the handler steps over the instruction --- */

static char *forbidden;
static volatile uint64_t faults;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	(void)sig;
	if (info->si_addr != forbidden)
		_exit(3);
	faults++;
	u->uc_mcontext.gregs[REG_RIP] += 2; /* mov %al,(%rdi) is that long */
}

static void fault_up(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	forbidden = map(1, PROT_NONE);
	if (sigaction(SIGSEGV, &action, NULL))
		die("sigaction");
}

PROGRAM(kernel, fault, 1000, .set_up = fault_up)
{
	faults = 0;
	for (int i = 0; i < 1000; i++)
		__asm__ volatile("mov %%al,(%0)" : : "D"(forbidden) : "memory");
	return faults;
}

/* --- files in tmpfs --- */

PROGRAM(kernel, tmpfs, 0xefa46d4c58eeca88)
{
	char path[64], data[6000], back[6000];
	uint64_t sum = 0;
	struct stat st;
	fill_text(data, sizeof(data));
	for (int i = 0; i < 100; i++) {
		snprintf(path, sizeof(path), "/dev/shm/speed-%d-%d", (int)getpid(), i);
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
		if (fd < 0 || write(fd, data, sizeof(data)) != sizeof(data) ||
		    pread(fd, back, sizeof(back), 0) != sizeof(back) || fstat(fd, &st))
			die(path);
		sum = mix(sum, (uint64_t)st.st_size + (uint64_t)back[i * 50]);
		close(fd);
		if (stat(path, &st) || unlink(path))
			die(path);
	}
	return sum;
}
