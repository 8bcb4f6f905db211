/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine without a translator: an engine whose guests are C functions, called again each time the vCPU runs, which
 * reach the chips as a guest does, through the callbacks.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm/vm.h"

/* ---- the engine ---- */

struct engine_vcpu {
	unsigned index;
	const struct engine_callbacks *cb;
	void *ctx;
	_Atomic unsigned kicks;
	struct engine_cpu_state state;
	unsigned runs, resets; /* of vcpu_run, of vcpu_set_state */
};

/* A guest: returns why the vCPU stops; ENGINE_EXIT_KICKED makes it run on until it is kicked. */
typedef enum engine_exit guest_fn(struct engine_vcpu *cpu, struct engine_run *run);

struct engine_vm {
	guest_fn *guest;
};

static guest_fn *const *guest_of_test; /* what vm_create of the stub takes; set before each */

static int stub_vm_create(struct engine_vm **vm, const struct engine_config *config, struct error *err)
{
	(void)config;
	(void)err;
	*vm = calloc(1, sizeof(**vm));
	(*vm)->guest = *guest_of_test;
	return 0;
}

static void stub_vm_destroy(struct engine_vm *vm)
{
	free(vm);
}

static int stub_vm_map(struct engine_vm *vm, uint64_t gpa, void *hva, int fd, uint64_t size, unsigned flags,
		       struct error *err)
{
	(void)vm, (void)gpa, (void)hva, (void)fd, (void)size, (void)flags, (void)err;
	return 0;
}

static void stub_vm_written(struct engine_vm *vm, uint64_t gpa, uint64_t size)
{
	(void)vm, (void)gpa, (void)size;
}

struct stub_vcpu {
	struct engine_vcpu cpu;
	struct engine_vm *vm;
};

static int stub_vcpu_create(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned index,
			    const struct engine_callbacks *cb, void *ctx, struct error *err)
{
	struct stub_vcpu *stub = aligned_alloc(64, (sizeof(*stub) + 63) & ~(size_t)63);

	(void)err;
	memset(stub, 0, sizeof(*stub));
	stub->vm = vm;
	stub->cpu.index = index;
	stub->cpu.cb = cb;
	stub->cpu.ctx = ctx;
	*vcpu = &stub->cpu;
	return 0;
}

static void stub_vcpu_destroy(struct engine_vcpu *vcpu)
{
	free(vcpu);
}

static void stub_get_state(struct engine_vcpu *vcpu, struct engine_cpu_state *state)
{
	*state = vcpu->state;
}

static void stub_set_state(struct engine_vcpu *vcpu, const struct engine_cpu_state *state)
{
	vcpu->state = *state;
	vcpu->resets++;
}

static bool kicked(struct engine_vcpu *vcpu)
{
	return atomic_exchange(&vcpu->kicks, 0) & ENGINE_KICK_EXIT;
}

static void stub_run(struct engine_vcpu *vcpu, struct engine_run *run)
{
	struct stub_vcpu *stub = (struct stub_vcpu *)vcpu;

	run->exit = ENGINE_EXIT_KICKED;
	if (kicked(vcpu))
		return;
	vcpu->runs++;
	run->exit = stub->vm->guest(vcpu, run);
	while (run->exit == ENGINE_EXIT_KICKED && !kicked(vcpu))
		usleep(100);
}

static void stub_kick(struct engine_vcpu *vcpu, unsigned what)
{
	atomic_fetch_or(&vcpu->kicks, what);
}

static uint64_t stub_tsc(struct engine_vm *vm)
{
	struct timespec ts;

	(void)vm;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t stub_tsc_khz(struct engine_vm *vm)
{
	(void)vm;
	return 1000000;
}

static const struct engine_ops stub = {
	.name = "stub",
	.vm_create = stub_vm_create,
	.vm_destroy = stub_vm_destroy,
	.vm_map = stub_vm_map,
	.vm_written = stub_vm_written,
	.vcpu_create = stub_vcpu_create,
	.vcpu_destroy = stub_vcpu_destroy,
	.vcpu_get_state = stub_get_state,
	.vcpu_set_state = stub_set_state,
	.vcpu_run = stub_run,
	.vcpu_kick = stub_kick,
	.vm_tsc = stub_tsc,
	.vm_tsc_khz = stub_tsc_khz,
};

/* ---- what guests do ---- */

static void out(struct engine_vcpu *cpu, uint16_t port, unsigned size, uint32_t value)
{
	cpu->cb->pio(cpu->ctx, port, &value, size, true);
}

static uint8_t in(struct engine_vcpu *cpu, uint16_t port)
{
	uint8_t value;

	cpu->cb->pio(cpu->ctx, port, &value, 1, false);
	return value;
}

static void wrmsr(struct engine_vcpu *cpu, uint32_t index, uint64_t value)
{
	if (!cpu->cb->msr_write(cpu->ctx, index, value))
		abort();
}

static void power_off(struct engine_vcpu *cpu)
{
	out(cpu, 0x604, 2, 1 << 13 | 5 << 10);
}

enum { X2APIC_ICR = 0x830, X2APIC_SVR = 0x80f, X2APIC_LVT_TIMER = 0x832, X2APIC_EOI = 0x80b };

static void enable_x2apic(struct engine_vcpu *cpu)
{
	wrmsr(cpu, 0x1b, 0xfee00c00 | (cpu->index ? 0 : 0x100));
	wrmsr(cpu, X2APIC_SVR, 0x1ff);
}

/* ---- the tests' machine ---- */

struct machine {
	struct vm_config config;
	char kernel[32];
};

/* The smallest kernel that boot_load takes: multiboot 1 in a 32-bit ELF of one segment. */
static void write_kernel(int fd)
{
	uint32_t image[256] = {
		0x464c457f, 0x00010101, 0, 0, 0x00030002, 1, 0x100000, 52, 0, 0, 0x00200034, 0x00280001
	};

	image[13] = 1;        /* PT_LOAD from offset 0 */
	image[15] = 0x100000; /* virtual */
	image[16] = 0x100000; /* physical */
	image[17] = sizeof(image);
	image[18] = sizeof(image);
	image[19] = 7;
	image[20] = 0x1000;
	image[32] = 0x1badb002;
	image[34] = -0x1badb002u;
	assert_int_equal(write(fd, image, sizeof(image)), sizeof(image));
}

static int set_up(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));

	strcpy(m->kernel, "/tmp/vm-test-XXXXXX");
	int fd = mkstemp(m->kernel);
	write_kernel(fd);
	close(fd);
	vm_config_init(&m->config);
	m->config.ops = &stub;
	m->config.kernel = m->kernel;
	m->config.memory = 16 << 20;
	*state = m;
	alarm(60); /* what is lost must not hang the build */
	return 0;
}

static int tear_down(void **state)
{
	struct machine *m = *state;

	alarm(0);
	unlink(m->kernel);
	free(m);
	return 0;
}

static struct vm *make(struct machine *m, guest_fn *guest)
{
	guest_fn *const here = guest;
	struct error err = { "" };
	struct vm *vm;

	guest_of_test = &here;
	int rc = vm_create(&vm, &m->config, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(rc, 0);
	return vm;
}

static struct vm_result run(struct machine *m, guest_fn *guest)
{
	struct vm_result result = { 0 };
	struct vm *vm = make(m, guest);

	vm_run(vm, &result);
	vm_destroy(vm);
	return result;
}

/* ---- ends ---- */

static enum engine_exit guest_powers_off(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	power_off(cpu);
	return ENGINE_EXIT_KICKED;
}

static enum engine_exit guest_triple_faults(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)cpu;
	snprintf(run->reason, sizeof(run->reason), "triple fault at RIP 0x1234");
	return ENGINE_EXIT_SHUTDOWN;
}

static enum engine_exit guest_breaks_the_engine(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)cpu;
	snprintf(run->reason, sizeof(run->reason), "out of memory");
	return ENGINE_EXIT_ERROR;
}

static enum engine_exit guest_debug_exits(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	out(cpu, 0xf4, 1, 21);
	return ENGINE_EXIT_KICKED;
}

static enum engine_exit guest_resets(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	out(cpu, 0xcf9, 1, 6);
	return ENGINE_EXIT_KICKED;
}

static void test_every_end(void **state)
{
	struct machine *m = *state;

	assert_int_equal(run(m, guest_powers_off).end, VM_POWER_OFF);
	struct vm_result r = run(m, guest_triple_faults);
	assert_int_equal(r.end, VM_KILLED);
	assert_string_equal(r.reason, "triple fault at RIP 0x1234");
	r = run(m, guest_breaks_the_engine);
	assert_int_equal(r.end, VM_ERROR);
	assert_string_equal(r.reason, "out of memory");
	m->config.debug_exit = true;
	r = run(m, guest_debug_exits);
	assert_int_equal(r.end, VM_DEBUG_EXIT);
	assert_int_equal(r.code, 43);
	m->config.no_reboot = true;
	assert_int_equal(run(m, guest_resets).end, VM_RESET);
}

static enum engine_exit guest_resets_twice(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	if (cpu->index)
		abort();                                 /* nobody woke it */
	assert_int_equal(cpu->state.gpr[0], 0x2badb002); /* the kernel is entered anew */
	assert_int_equal(cpu->state.rip, 0x100000);
	assert_int_equal(in(cpu, 0x3ff), 0);
	out(cpu, 0x3ff, 1, 0x55); /* the UART's scratch register, which reset clears */
	assert_int_equal(in(cpu, 0x3ff), 0x55);
	if (cpu->resets < 3)
		out(cpu, 0xcf9, 1, 6);
	else
		power_off(cpu);
	return ENGINE_EXIT_KICKED;
}

static void test_reset_starts_again(void **state)
{
	struct machine *m = *state;

	m->config.cpus = 4;
	assert_int_equal(run(m, guest_resets_twice).end, VM_POWER_OFF);
}

/* ---- sleeping and waking ---- */

/* Sets its APIC's timer and halts until that has gone off three times. */
static enum engine_exit guest_sleeps(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	if (cpu->runs == 1) {
		enable_x2apic(cpu);
		wrmsr(cpu, 0x83e, 0xb);                     /* divide by 1 */
		wrmsr(cpu, X2APIC_LVT_TIMER, 0x20000 | 77); /* periodic */
		wrmsr(cpu, 0x838, 100000000);
	}
	int vector = cpu->cb->interrupt_ack(cpu->ctx);
	if (vector >= 0) {
		assert_int_equal(vector, 77);
		wrmsr(cpu, X2APIC_EOI, 0);
		if (++cpu->state.gpr[1] == 3) {
			power_off(cpu);
			return ENGINE_EXIT_KICKED;
		}
	}
	return ENGINE_EXIT_HALTED;
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void test_a_halted_cpu_sleeps(void **state)
{
	struct machine *m = *state;
	struct vm_result result;

	m->config.cpus = 3; /* two of them wait to be started */
	struct vm *vm = make(m, guest_sleeps);
	uint64_t before = cpu_ns();
	vm_run(vm, &result);
	uint64_t spent = cpu_ns() - before;
	vm_destroy(vm);
	assert_int_equal(result.end, VM_POWER_OFF);
	assert_in_range(spent, 0, 50000000); /* of at least 300 ms */
}

/* CPU 0 starts the others by INIT and SIPI; each says where it starts. */
static enum engine_exit guest_starts_others(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	if (cpu->index) {
		assert_int_equal(cpu->state.seg[ENGINE_CS].base, 0x99000);
		assert_int_equal(cpu->state.seg[ENGINE_CS].selector, 0x9900);
		assert_int_equal(cpu->state.rip, 0);
		assert_int_equal(cpu->state.cr0 & 1, 0);
		out(cpu, 0x3ff, 1, in(cpu, 0x3ff) + 1); /* one after the other, so this needs no lock */
		return ENGINE_EXIT_HALTED;
	}
	enable_x2apic(cpu);
	for (unsigned i = 1; i < 4; i++) {
		wrmsr(cpu, X2APIC_ICR, (uint64_t)i << 32 | 0x4500); /* INIT */
		wrmsr(cpu, X2APIC_ICR, (uint64_t)i << 32 | 0x4699); /* SIPI */
		wrmsr(cpu, X2APIC_ICR,
		      (uint64_t)i << 32 | 0x4698); /* once more: too late, or it is where we went wrong */
		while (in(cpu, 0x3ff) != i)
			usleep(100);
	}
	power_off(cpu);
	return ENGINE_EXIT_KICKED;
}

static enum engine_exit guest_starts_others_once(struct engine_vcpu *cpu, struct engine_run *run)
{
	enum engine_exit exit = ENGINE_EXIT_HALTED;

	if (cpu->runs == 1)
		exit = guest_starts_others(cpu, run);
	return exit;
}

static void test_init_and_sipi_start_a_cpu(void **state)
{
	struct machine *m = *state;

	m->config.cpus = 4;
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(run(m, guest_starts_others_once).end, VM_POWER_OFF);
}

/* Two CPUs play ball with interrupts and halt in between: one that is lost ends the game. */
static enum engine_exit guest_plays_ball(struct engine_vcpu *cpu, struct engine_run *run)
{
	enum { ROUNDS = 20000 };
	uint64_t *rounds = &cpu->state.gpr[1];

	(void)run;
	if (cpu->runs == 1) {
		enable_x2apic(cpu);
		*rounds = 0;
		if (cpu->index == 0) {
			wrmsr(cpu, X2APIC_ICR, 1ull << 32 | 0x4500);
			wrmsr(cpu, X2APIC_ICR, 1ull << 32 | 0x4610);
		} else {
			wrmsr(cpu, X2APIC_ICR, 0x4050); /* ready: the first ball */
		}
	}
	while (cpu->cb->interrupt_ack(cpu->ctx) >= 0) {
		wrmsr(cpu, X2APIC_EOI, 0);
		if (++*rounds == ROUNDS && cpu->index == 0) {
			power_off(cpu);
			return ENGINE_EXIT_KICKED;
		}
		wrmsr(cpu, X2APIC_ICR, (uint64_t)!cpu->index << 32 | 0x4050);
	}
	return ENGINE_EXIT_HALTED;
}

static void test_no_wakeup_is_lost(void **state)
{
	struct machine *m = *state;

	m->config.cpus = 2;
	assert_int_equal(run(m, guest_plays_ball).end, VM_POWER_OFF);
}

/* ---- the console ---- */

/* Echoes what comes in, by polling, until an 'q'. */
static enum engine_exit guest_echoes(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	out(cpu, 0x3fa, 1, 1); /* FIFO */
	out(cpu, 0x3fc, 1, 3); /* DTR, RTS */
	while (!(atomic_load(&cpu->kicks) & ENGINE_KICK_EXIT)) {
		if (!(in(cpu, 0x3fd) & 1)) {
			usleep(50);
			continue;
		}
		uint8_t byte = in(cpu, 0x3f8);
		out(cpu, 0x3f8, 1, byte);
		if (byte == 'q')
			power_off(cpu);
	}
	return ENGINE_EXIT_KICKED;
}

struct pipes {
	int to[2], from[2];
	size_t size;
	struct vm *vm;
};

static void *feed(void *arg)
{
	struct pipes *p = arg;

	for (size_t i = 0; i < p->size; i++) {
		char byte = i == p->size - 1 ? 'q' : (char)('A' + i % 26);
		if (write(p->to[1], &byte, 1) != 1)
			abort();
	}
	close(p->to[1]);
	return NULL;
}

static void test_a_pipe_is_fed_without_loss(void **state)
{
	struct machine *m = *state;
	struct pipes p = { .size = 20000 };
	struct vm_result result;
	pthread_t thread;
	char *got = calloc(1, p.size + 1);

	assert_int_equal(pipe(p.to) | pipe(p.from), 0);
	m->config.console_in = p.to[0];
	m->config.console_out = p.from[1];
	struct vm *vm = make(m, guest_echoes);
	pthread_create(&thread, NULL, feed, &p);
	vm_run(vm, &result);
	vm_destroy(vm);
	pthread_join(thread, NULL);
	close(p.from[1]);
	assert_int_equal(result.end, VM_POWER_OFF);
	assert_int_equal(read(p.from[0], got, p.size + 1), p.size);
	for (size_t i = 0; i < p.size - 1; i++)
		assert_int_equal(got[i], 'A' + i % 26);
	free(got);
	close(p.to[0]);
	close(p.from[0]);
}

static void test_a_file_is_fed_and_its_end_is_not_the_machines(void **state)
{
	struct machine *m = *state;
	FILE *f = tmpfile();

	fputs("from a file q", f);
	rewind(f);
	m->config.console_in = fileno(f);
	assert_int_equal(run(m, guest_echoes).end, VM_POWER_OFF);
	fclose(f);
}

static void test_escape_leaves(void **state)
{
	struct machine *m = *state;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "abc\x1d", 4), 4);
	m->config.console_in = fds[0];
	m->config.console_escape = true;
	assert_int_equal(run(m, guest_echoes).end, VM_LEFT);
	close(fds[0]);
	close(fds[1]);
}

static enum engine_exit guest_talks(struct engine_vcpu *cpu, struct engine_run *run)
{
	(void)run;
	while (!(atomic_load(&cpu->kicks) & ENGINE_KICK_EXIT))
		out(cpu, 0x3f8, 1, 'x');
	return ENGINE_EXIT_KICKED;
}

static void *kill_later(void *arg)
{
	usleep(200000);
	vm_kill(arg, "enough");
	return NULL;
}

/* Nobody reads: the guest is held up, and can still be ended. */
static void test_a_reader_that_does_not_read(void **state)
{
	struct machine *m = *state;
	struct vm_result result;
	pthread_t thread;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	m->config.console_out = fds[1];
	struct vm *vm = make(m, guest_talks);
	pthread_create(&thread, NULL, kill_later, vm);
	vm_run(vm, &result);
	pthread_join(thread, NULL);
	vm_destroy(vm);
	assert_int_equal(result.end, VM_KILLED);
	assert_string_equal(result.reason, "enough");
	close(fds[0]);
	close(fds[1]);
}

static void test_a_reader_that_is_gone(void **state)
{
	struct machine *m = *state;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	close(fds[0]);
	m->config.console_out = fds[1];
	struct vm_result r = run(m, guest_talks);
	assert_int_equal(r.end, VM_ERROR);
	assert_non_null(strstr(r.reason, strerror(EPIPE)));
	close(fds[1]);
}

/* ---- traces ---- */

static void test_trace_names_the_chip(void **state)
{
	struct machine *m = *state;
	char path[] = "/tmp/vm-trace-XXXXXX", text[4096] = "";
	int fd = mkstemp(path);

	m->config.trace = VM_TRACE_PIO;
	m->config.trace_file = path;
	assert_int_equal(run(m, guest_powers_off).end, VM_POWER_OFF);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "pio cpu0 write 0x604/2 <- 0x3400"));
	close(fd);
	unlink(path);
}

static void test_a_full_disk_is_said(void **state)
{
	struct machine *m = *state;

	m->config.trace = VM_TRACE_PIO;
	m->config.trace_file = "/dev/full";
	struct vm_result r = run(m, guest_powers_off);
	assert_int_equal(r.end, VM_ERROR);
	assert_non_null(strstr(r.reason, "/dev/full"));
	assert_non_null(strstr(r.reason, strerror(ENOSPC)));
	/* Also while it runs: the guest would go on for ever. */
	m->config.console_out = open("/dev/null", O_WRONLY);
	r = run(m, guest_talks);
	assert_int_equal(r.end, VM_ERROR);
	close(m->config.console_out);
}

/* ---- profiles ---- */

static void stub_vm_profile(struct engine_vm *vm, const struct engine_profile *how)
{
	static const uint64_t addresses[] = { 0xfff, 0x1000, 0x1fff, 0x2000, 0x102000 };

	(void)vm;
	fprintf(how->file, "%s", how->json ? "json" : "text");
	for (unsigned i = 0; i < sizeof(addresses) / sizeof(*addresses); i++) {
		uint64_t offset = 0;
		const char *name = how->symbol(how->ctx, addresses[i], &offset);
		fprintf(how->file, " %s+%lx", name ? name : "none", offset);
	}
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void test_profile_is_written_with_symbols(void **state)
{
	struct machine *m = *state;
	struct engine_ops ops = *m->config.ops;
	char folder[] = "/tmp/vm-profile-XXXXXX", path[64], symbols[64], text[256] = "";

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/out.json", folder);
	snprintf(symbols, sizeof(symbols), "%s/symbols", folder);
	write_file(symbols, "2000 T second\nnonsense\n0 T never\n1800 D data\n1000 t first\n");
	ops.vm_profile = stub_vm_profile;
	m->config.ops = &ops;
	m->config.profile = path;
	m->config.profile_symbols = symbols;
	assert_int_equal(run(m, guest_powers_off).end, VM_POWER_OFF);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_string_equal(text, "json none+0 first+0 first+fff second+0 none+0");
	m->config.profile = "/dev/full";
	struct vm_result r = run(m, guest_powers_off);
	assert_int_equal(r.end, VM_ERROR);
	assert_non_null(strstr(r.reason, "/dev/full"));
	unlink(path);
	unlink(symbols);
	rmdir(folder);
}

static void test_an_engine_without_profile_is_refused(void **state)
{
	struct machine *m = *state;
	struct error err = { "" };
	struct vm *vm;

	m->config.profile = "/dev/null";
	assert_int_equal(vm_create(&vm, &m->config, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "stub can't tell where time goes"));
}

static void test_config_check_says_what_to_do(void **state)
{
	static const struct {
		const char *engine;
		uint64_t memory;
		unsigned cpus;
		int rc;
		const char *word;
	} cases[] = {
		{ "auto", 0, 1, -EINVAL, "--memory" },         { "auto", 1 << 20, 1, -EINVAL, "--memory" },
		{ "auto", (512 << 20) + 1, 1, -EINVAL, "4K" }, { "auto", 1ull << 60, 1, -ENOMEM, "" },
		{ "auto", 512 << 20, 0, -EINVAL, "--cpus" },   { "auto", 512 << 20, 1000, -EINVAL, "--cpus" },
		{ "warp", 512 << 20, 1, -EINVAL, "auto" },     { "auto", 512 << 20, 64, 0, "" },
	};
	struct machine *m = *state;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct error err = { "" };
		m->config.engine = cases[i].engine;
		m->config.memory = cases[i].memory;
		m->config.cpus = cases[i].cpus;
		assert_int_equal(vm_config_check(&m->config, &err), cases[i].rc);
		assert_non_null(strstr(err.text, cases[i].word));
	}
}

/* Does things when it is to stop already: a reset, nothing, a power-off; and sees that its state was reset, and kept. */
static enum engine_exit guest_is_late(struct engine_vcpu *cpu, struct engine_run *run)
{
	static unsigned runs;
	uint64_t *seen = &cpu->state.gpr[15];

	(void)run;
	while (!atomic_load(&cpu->kicks))
		usleep(100);
	switch (runs++) {
	case 0:
		out(cpu, 0xcf9, 1, 6);
		*seen = 1;
		break;
	case 1:
		*seen = *seen ? 2 : 7;
		break;
	default:
		if (*seen == 7)
			power_off(cpu);
	}
	return ENGINE_EXIT_KICKED;
}

static void test_what_comes_late_is_not_lost(void **state)
{
	struct machine *m = *state;
	struct vm_result result;
	struct error err;

	m->config.stop_after = 1000000;
	struct vm *vm = make(m, guest_is_late);
	guest_of_test = &(guest_fn *const){ guest_is_late };
	for (;;) {
		vm_run(vm, &result);
		if (result.end != VM_STOPPED)
			break;
		assert_int_equal(vm_change_engine(vm, "stub", 1000000, &err), 0);
	}
	assert_int_equal(result.end, VM_POWER_OFF);
	vm_destroy(vm);
}

static void test_trace_lists(void **state)
{
	struct error err;
	unsigned trace = 0;

	(void)state;
	assert_int_equal(vm_trace_parse("in_asm,int", &trace, &err), 0);
	assert_int_equal(trace, ENGINE_TRACE_ASM | ENGINE_TRACE_INT);
	assert_int_equal(vm_trace_parse("pio,mmio,exec", &trace, &err), 0);
	assert_int_equal(trace, ENGINE_TRACE_ASM | ENGINE_TRACE_INT | ENGINE_TRACE_EXEC | VM_TRACE_PIO | VM_TRACE_MMIO);
	assert_int_equal(vm_trace_parse("", &trace, &err), -EINVAL);
	assert_int_equal(vm_trace_parse("pio,", &trace, &err), -EINVAL);
	assert_int_equal(vm_trace_parse("everything", &trace, &err), -EINVAL);
	assert_non_null(strstr(err.text, "everything"));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_every_end),
		TEST(test_reset_starts_again),
		TEST(test_a_halted_cpu_sleeps),
		TEST(test_init_and_sipi_start_a_cpu),
		TEST(test_no_wakeup_is_lost),
		TEST(test_a_pipe_is_fed_without_loss),
		TEST(test_a_file_is_fed_and_its_end_is_not_the_machines),
		TEST(test_escape_leaves),
		TEST(test_a_reader_that_does_not_read),
		TEST(test_a_reader_that_is_gone),
		TEST(test_trace_names_the_chip),
		TEST(test_a_full_disk_is_said),
		TEST(test_profile_is_written_with_symbols),
		TEST(test_an_engine_without_profile_is_refused),
		TEST(test_config_check_says_what_to_do),
		TEST(test_what_comes_late_is_not_lost),
		TEST(test_trace_lists),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
