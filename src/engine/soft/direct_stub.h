/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct_stub.h - a host process that has an address space of a guest's in place of its own (direct_stub.c).
 *
 * Heavy code (cpu.h). A stub belongs to the thread that made it: all but direct_stub_end must be called there.
 */
#ifndef PLURES_ENGINE_SOFT_DIRECT_STUB_H
#define PLURES_ENGINE_SOFT_DIRECT_STUB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* Where a stub's own pages are: 20 TiB away from anything that Linux gives a program. */
#define DIRECT_STUB_BASE 0x6a0000000000u
#define DIRECT_STUB_END (DIRECT_STUB_BASE + DIRECT_STUB_SIZE)
enum { DIRECT_STUB_SIZE = 64 << 10 };
/* The addresses that a stub can map. */
#define DIRECT_LOWEST 0x10000u
#define DIRECT_HIGHEST 0x7fffffffe000u

/* A change of a stub's mappings: a system call that it makes on our behalf. */
struct direct_call {
	uint64_t number;
	uint64_t argument[6];
};
enum { DIRECT_CALLS = (DIRECT_STUB_SIZE - 4096) / sizeof(struct direct_call) - 1 };

/* What stubs of one thread share: the page that they run and the list of calls, which only we can write. */
struct direct_trampoline {
	int fd;
	struct direct_call *call; /* DIRECT_CALLS, and one that ends them */
};

struct direct_stub {
	pid_t pid; /* 0: none */
	int host_cpu;
	unsigned xsave_size; /* of the host kernel's image */
};

enum direct_stop {
	DIRECT_SYSCALL, /* SYSCALL or INT 0x80, and rip after it */
	DIRECT_SIGNAL,  /* `signal`, with its `code` and `address` */
	DIRECT_DEAD,
};
struct direct_event {
	enum direct_stop stop;
	int signal, code;
	uint64_t address;
};

/* 0 or -errno. */
int direct_trampoline_init(struct direct_trampoline *trampoline);
void direct_trampoline_fini(struct direct_trampoline *trampoline);

/* Starts a stub with nothing mapped; `fd`, n of them, stay open in it. 0 or -errno: the host does not let us. */
int direct_stub_start(struct direct_stub *stub, const struct direct_trampoline *trampoline, const int *fd, unsigned n);
/* Any thread. */
void direct_stub_end(struct direct_stub *stub);

/* Makes the first n calls of the list, in order. 0 or the first one's -errno; -ESRCH when the stub is no more. */
int direct_stub_calls(struct direct_stub *stub, const struct direct_trampoline *trampoline, unsigned n);

/* The vector state, an XSAVE image in standard format of which there is room for 4096 bytes. False: refused. */
bool direct_stub_set_vectors(struct direct_stub *stub, const uint8_t *image);
bool direct_stub_get_vectors(struct direct_stub *stub, uint8_t *image);

/* Runs from *regs until something happens; *running is the stub's process meanwhile, 0 again as soon as it has stopped. A
 * signal sent to it ends the run. False, and nothing has run: regs are refused. */
bool direct_stub_run(struct direct_stub *stub, struct user_regs_struct *regs, atomic_int *running,
		     struct direct_event *event);

#endif
