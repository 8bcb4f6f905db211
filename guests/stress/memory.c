/* SPDX-License-Identifier: Apache-2.0 */
/* Address spaces: copies on write, and mappings that come, move and go, with a model of what must be where. */
#include "stress.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- fork --- */

enum { COW_PAGES = 64 };

static uint64_t sum(const uint64_t *p, size_t words)
{
	uint64_t s = 0;
	for (size_t i = 0; i < words; i++)
		s = s * 31 + p[i];
	return s;
}

static void change(struct job *j, uint64_t *p, unsigned times)
{
	for (unsigned i = 0; i < times; i++)
		p[pick(j, COW_PAGES * PAGE / 8)] = rnd(j);
}

/* Each generation changes its own copy, tells its sum, and finds its memory as it left it. */
void job_cow(struct job *j)
{
	uint64_t *p = map(COW_PAGES * PAGE, PROT_READ | PROT_WRITE), sums[8];
	int fd[2];
	must(!pipe(fd), "pipe");
	change(j, p, 2000);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t before = sum(p, COW_PAGES * PAGE / 8);
		pid_t child = fork();
		if (child == 0) {
			struct job mine = *j;
			rnd(&mine);
			change(&mine, p, 300);
			pid_t grandchild = fork();
			if (grandchild == 0) {
				change(&mine, p, 100);
				_exit(0);
			}
			int status;
			must(waitpid(grandchild, &status, 0) == grandchild && !status, "cow: grandchild");
			sums[0] = sum(p, COW_PAGES * PAGE / 8);
			_exit(write(fd[1], sums, 8) != 8);
		}
		/* Meanwhile the parent writes to the same pages. */
		unsigned at = pick(j, COW_PAGES * PAGE / 8);
		uint64_t old = p[at];
		p[at] = ~old;
		int status;
		must(read(fd[0], &sums[i], 8) == 8 && waitpid(child, &status, 0) == child && !status, "cow: child");
		must(p[at] == ~old, "cow: a write is lost");
		p[at] = old;
		must(sum(p, COW_PAGES * PAGE / 8) == before, "cow: memory of the parent has changed");
		mix(j, sums[i]);
		change(j, p, 100);
	}
	close(fd[0]);
	close(fd[1]);
	munmap(p, COW_PAGES * PAGE);
}

/* --- mappings --- */

enum { ARENA = 96 };

static uint8_t *arena;
static sigjmp_buf back;
static struct {
	bool there, readable, writable;
	uint8_t value;
} model[ARENA];

static void on_fault(int number)
{
	siglongjmp(back, number);
}

/* Whether a page can be read, and written with `value`. */
static bool try_read(unsigned page, uint8_t *value)
{
	if (sigsetjmp(back, 1))
		return false;
	*value = *(volatile uint8_t *)(arena + page * PAGE + 77);
	return true;
}

static bool try_write(unsigned page, uint8_t value)
{
	if (sigsetjmp(back, 1))
		return false;
	*(volatile uint8_t *)(arena + page * PAGE + 77) = value;
	return true;
}

static void look(struct job *j, unsigned page)
{
	uint8_t value = 0;
	bool read = try_read(page, &value);
	must(read == (model[page].there && model[page].readable),
	     "maps: a page that can be read can't, or the reverse");
	must(!read || value == model[page].value, "maps: a page holds something else");
	value = (uint8_t)rnd(j);
	bool written = try_write(page, value);
	must(written == (model[page].there && model[page].writable),
	     "maps: a page that can be written can't, or the reverse");
	if (written)
		model[page].value = value;
	mix(j, read + 2u * written + 4u * value);
}

static void set(unsigned page, unsigned count, bool there, int protection, bool clear)
{
	for (unsigned i = page; i < page + count; i++) {
		model[i].there = there;
		model[i].readable = protection & PROT_READ;
		model[i].writable = protection & PROT_WRITE;
		if (clear)
			model[i].value = 0;
	}
}

static void alter(struct job *j)
{
	static const int protections[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE };
	unsigned page = pick(j, ARENA), count = pick(j, ARENA - page < 16 ? ARENA - page : 16) + 1;
	int protection = protections[pick(j, 4)];
	uint8_t *at = arena + page * PAGE;
	bool whole = true;
	for (unsigned i = page; i < page + count; i++)
		whole &= model[i].there;
	switch (pick(j, 5)) {
	case 0:
		must(!munmap(at, count * PAGE), "munmap");
		set(page, count, false, PROT_NONE, true);
		break;
	case 1:
	case 2:
		must(mmap(at, count * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at, "mmap");
		set(page, count, true, protection, true);
		break;
	case 3:
		if (whole) {
			must(!mprotect(at, count * PAGE, protection), "mprotect");
			set(page, count, true, protection, false);
		}
		break;
	default:
		if (whole) {
			must(!madvise(at, count * PAGE, MADV_DONTNEED), "madvise");
			for (unsigned i = page; i < page + count; i++)
				model[i].value = 0;
		}
	}
}

void job_maps(struct job *j)
{
	struct sigaction action = { .sa_handler = on_fault };
	sigaction(SIGSEGV, &action, NULL);
	arena = map(ARENA * PAGE, PROT_READ | PROT_WRITE);
	memset(model, 0, sizeof(model));
	set(0, ARENA, true, PROT_READ | PROT_WRITE, true);
	for (int i = 0; i < 150; i++) {
		alter(j);
		for (int k = 0; k < 12; k++)
			look(j, pick(j, ARENA));
	}
	for (unsigned i = 0; i < ARENA; i++)
		look(j, i);
	munmap(arena, ARENA * PAGE);
}
