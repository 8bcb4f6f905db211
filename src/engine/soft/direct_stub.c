/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct_stub.c - the process that guest code runs in, untranslated, and what keeps it there.
 *
 * Problem: guest code must meet the host's CPU with nothing of ours within its reach: not our memory, not our files, not the
 * host's kernel.
 *
 * Scheme: a fork of ours throws away all that it has but two things: one page of code and the list of calls. What is in
 * the rest of its address space is what direct_map.c asks for. We hold it by ptrace and let it go on in two ways only:
 *
 * - With PTRACE_SYSEMU, as a guest. No system call reaches the host's kernel: it stops before, and is skipped. Every
 *   signal (a page fault, a privileged instruction) stops it too, and is suppressed.
 * - With PTRACE_CONT, at the start of the page of code, which makes the calls of the list and ends with INT3. Guest code
 *   can jump there, too, and gets no further than to the first SYSCALL.
 *
 * Should ptrace ever fail us, a seccomp filter permits the three calls that change mappings and nothing else. The files
 * that are open are guest memory and the two things' own. The stub dies with the thread that made it.
 *
 * The thread sleeps while its stub runs. Both belong on the same CPU: waking a thread on another one costs five times what
 * the change on one CPU does. So the stub is bound to where its thread was last, and moves with it.
 */
#include "engine/soft/direct_stub.h"

#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CODE_PAGE = 4096, KERNEL_STOP = SIGTRAP | 0x80, USER_CS = 0x33, USER_SS = 0x2b, FLAGS = 0x202 };
enum { IMAGE_ROOM = 4096 };
#define TASK_END 0x7ffffffff000u
#define NO_CALL (~0ull)

/* What a stub runs of ours: rbx is the next call of the list. Ends with rax the last one's result, or NO_CALL. */
__asm__(".pushsection .rodata\n"
	"direct_code:\n"
	"1: mov (%rbx), %rax\n cmp $-1, %rax\n je 2f\n"
	"mov 8(%rbx), %rdi\n mov 16(%rbx), %rsi\n mov 24(%rbx), %rdx\n"
	"mov 32(%rbx), %r10\n mov 40(%rbx), %r8\n mov 48(%rbx), %r9\n"
	"syscall\n cmp $-4095, %rax\n jae 2f\n add $56, %rbx\n jmp 1b\n"
	"2: int3\n"
	".balign 8\n"
	"direct_code_size: .quad . - direct_code\n"
	".popsection\n");
extern const uint8_t direct_code[];
extern const uint64_t direct_code_size;

int direct_trampoline_init(struct direct_trampoline *trampoline)
{
	int rc;
	uint8_t *pages;
	trampoline->fd = memfd_create("plures-direct", MFD_CLOEXEC);
	if (trampoline->fd < 0)
		return -errno;
	if (ftruncate(trampoline->fd, DIRECT_STUB_SIZE) < 0)
		goto fail;
	pages = mmap(NULL, DIRECT_STUB_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, trampoline->fd, 0);
	if (pages == MAP_FAILED)
		goto fail;
	memcpy(pages, direct_code, direct_code_size);
	trampoline->call = (struct direct_call *)(void *)(pages + CODE_PAGE);
	return 0;
fail:
	rc = -errno;
	close(trampoline->fd);
	return rc;
}

void direct_trampoline_fini(struct direct_trampoline *trampoline)
{
	munmap((uint8_t *)trampoline->call - CODE_PAGE, DIRECT_STUB_SIZE);
	close(trampoline->fd);
}

/* ---- The stub's own side. It shares nothing with us but what it inherited, and must not call into libc's state. ---- */

#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void confine(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(mmap),
		ALLOW(munmap),
		ALLOW(mprotect),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		_exit(1);
}

/* Closes all files but those. */
static void close_others(const int *keep, unsigned n)
{
	unsigned from = 0;
	for (;;) {
		unsigned next = ~0u;
		for (unsigned i = 0; i < n; i++)
			if ((unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = (unsigned)keep[i];
		if (next > from && syscall(SYS_close_range, from, next - 1, 0) < 0)
			_exit(1);
		if (next == ~0u)
			return;
		from = next + 1;
	}
}

static void default_signals(void)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
	struct sigaction sa = { .sa_handler = SIG_DFL };
	sigset_t none;
	sigemptyset(&none);
	for (unsigned i = 0; i < sizeof(faults) / sizeof(*faults); i++)
		sigaction(faults[i], &sa, NULL);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The kernel must write no rseq area in what will be a guest's memory. */
static void drop_rseq(void)
{
	enum { UNREGISTER = 1, AREA = 32 };
	if (__rseq_size) {
		uint8_t *self;
		__asm__("mov %%fs:0, %0" : "=r"(self));
		syscall(SYS_rseq, self + __rseq_offset, AREA, UNREGISTER, RSEQ_SIG);
	}
}

static _Noreturn void child(const struct direct_trampoline *trampoline, const int *keep, unsigned n)
{
	void *base = (void *)DIRECT_STUB_BASE; /* NOLINT(performance-no-int-to-ptr) */
	uint8_t *lists = (uint8_t *)base + CODE_PAGE;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "plures-direct");
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		_exit(1);
	drop_rseq();
	default_signals();
	close_others(keep, n);
	if (mmap(base, CODE_PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, trampoline->fd, 0) != base ||
	    mmap(lists, DIRECT_STUB_SIZE - CODE_PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, trampoline->fd,
		 CODE_PAGE) != lists)
		_exit(1);
	confine();
	__asm__ volatile("mov %0, %%rbx\n jmp *%1\n" ::"r"(lists), "r"(base) : "rbx", "memory");
	__builtin_unreachable();
}

/* ---- Ours ---- */

/* Waits for it to stop; the status as waitpid gives it, or -1 when it is no more. */
static int wait_stop(struct direct_stub *stub)
{
	int status;
	for (;;) {
		if (waitpid(stub->pid, &status, __WALL) == stub->pid)
			break;
		if (errno != EINTR)
			return -1;
	}
	if (WIFSTOPPED(status))
		return status;
	stub->pid = 0;
	return -1;
}

static void call_at(struct direct_call *call, long number, uint64_t a, uint64_t b)
{
	*call = (struct direct_call){ .number = (uint64_t)number, .argument = { a, b } };
}

int direct_stub_start(struct direct_stub *stub, const struct direct_trampoline *trampoline, const int *fd, unsigned n)
{
	enum { MOST = 32 };
	int keep[MOST + 1];
	if (n > MOST)
		return -E2BIG;
	memcpy(keep, fd, n * sizeof(*fd));
	keep[n] = trampoline->fd;
	call_at(&trampoline->call[0], SYS_munmap, 0, DIRECT_STUB_BASE);
	call_at(&trampoline->call[1], SYS_munmap, DIRECT_STUB_END, TASK_END - DIRECT_STUB_END);
	call_at(&trampoline->call[2], -1, 0, 0);
	/* No signal when it ends: nobody but us waits for it. */
	*stub = (struct direct_stub){ .pid = (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL), .host_cpu = -1 };
	if (stub->pid == 0)
		child(trampoline, keep, n + 1);
	if (stub->pid < 0) {
		stub->pid = 0;
		return -errno;
	}
	/* It stops for the first time at the INT3 that ends the two calls. */
	int status;
	while ((status = wait_stop(stub)) != -1 && WSTOPSIG(status) != SIGTRAP) {
		if (WSTOPSIG(status) == SIGSEGV || WSTOPSIG(status) == SIGSYS ||
		    ptrace(PTRACE_CONT, stub->pid, NULL, NULL) < 0)
			break;
	}
	struct iovec image = { (uint8_t[IMAGE_ROOM]){ 0 }, IMAGE_ROOM };
	if (status == -1 || WSTOPSIG(status) != SIGTRAP ||
	    ptrace(PTRACE_SETOPTIONS, stub->pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) < 0 ||
	    ptrace(PTRACE_GETREGSET, stub->pid, NT_X86_XSTATE, &image) < 0 || image.iov_len >= IMAGE_ROOM) {
		direct_stub_end(stub);
		return -EPERM;
	}
	stub->xsave_size = (unsigned)image.iov_len;
	return 0;
}

void direct_stub_end(struct direct_stub *stub)
{
	if (stub->pid) {
		kill(stub->pid, SIGKILL);
		while (waitpid(stub->pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	stub->pid = 0;
}

static void stay_near(struct direct_stub *stub)
{
	int cpu = sched_getcpu();
	cpu_set_t set;
	if (cpu == stub->host_cpu || cpu < 0 || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(stub->pid, sizeof(set), &set);
	stub->host_cpu = cpu;
}

int direct_stub_calls(struct direct_stub *stub, const struct direct_trampoline *trampoline, unsigned n)
{
	struct user_regs_struct regs = {
		.rip = DIRECT_STUB_BASE,
		.rbx = DIRECT_STUB_BASE + CODE_PAGE,
		.cs = USER_CS,
		.ss = USER_SS,
		.eflags = FLAGS,
		.orig_rax = NO_CALL,
	};
	if (!n)
		return 0;
	call_at(&trampoline->call[n], -1, 0, 0);
	stay_near(stub);
	if (ptrace(PTRACE_SETREGS, stub->pid, NULL, &regs) < 0)
		return -ESRCH;
	int status;
	do {
		if (ptrace(PTRACE_CONT, stub->pid, NULL, NULL) < 0)
			return -ESRCH;
		status = wait_stop(stub);
	} while (status != -1 && WSTOPSIG(status) != SIGTRAP); /* else a kick that came late */
	if (status == -1 || ptrace(PTRACE_GETREGS, stub->pid, NULL, &regs) < 0)
		return -ESRCH;
	return regs.rax == NO_CALL ? 0 : (int)regs.rax;
}

bool direct_stub_set_vectors(struct direct_stub *stub, const uint8_t *image)
{
	struct iovec io = { (void *)(uintptr_t)image, stub->xsave_size };
	return ptrace(PTRACE_SETREGSET, stub->pid, NT_X86_XSTATE, &io) == 0;
}

bool direct_stub_get_vectors(struct direct_stub *stub, uint8_t *image)
{
	struct iovec io = { image, IMAGE_ROOM };
	return ptrace(PTRACE_GETREGSET, stub->pid, NT_X86_XSTATE, &io) == 0;
}

bool direct_stub_run(struct direct_stub *stub, struct user_regs_struct *regs, atomic_int *running,
		     struct direct_event *event)
{
	siginfo_t info;
	*event = (struct direct_event){ .stop = DIRECT_DEAD };
	stay_near(stub);
	if (ptrace(PTRACE_SETREGS, stub->pid, NULL, regs) < 0 || ptrace(PTRACE_SYSEMU, stub->pid, NULL, NULL) < 0) {
		atomic_store(running, 0);
		return false;
	}
	int status = wait_stop(stub);
	atomic_store(running, 0);
	if (status == -1 || ptrace(PTRACE_GETREGS, stub->pid, NULL, regs) < 0)
		return true;
	if (WSTOPSIG(status) == KERNEL_STOP) {
		event->stop = DIRECT_SYSCALL;
		return true;
	}
	if (ptrace(PTRACE_GETSIGINFO, stub->pid, NULL, &info) < 0)
		return true;
	event->stop = DIRECT_SIGNAL;
	event->signal = WSTOPSIG(status);
	event->code = info.si_code;
	event->address = (uintptr_t)info.si_addr;
	return true;
}
