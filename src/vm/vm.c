/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/memory.h"
#include "base/writer.h"
#include "chip/i8250.h"
#include "vm/clock.h"
#include "vm/cpu_model.h"
#include "vm/machine.h"
#include "vm/profile.h"
#include "vm/saved.h"
#include "vm/state.h"

#define NS_PER_S 1000000000ull

/* ---- requests ---- */

/* Keeps all vCPUs out of the guest from now on, and has the event thread look at the request. */
static void hold(struct vm *vm)
{
	atomic_store(&vm->hold, true);
	for (unsigned i = 0; i < vm->vcpus; i++)
		vcpu_kick(&vm->vcpu[i], ENGINE_KICK_EXIT);
	event_queue(vm->loop, &vm->request_work);
}

void vm_request_end(struct vm *vm, enum vm_end end, unsigned code, const char *reason)
{
	pthread_mutex_lock(&vm->lock);
	bool first = vm->request != REQUEST_END;
	/* What a guest does before it stands still is not lost by its being stopped. */
	if (first || (vm->result.end == VM_STOPPED && end != VM_STOPPED)) {
		vm->request = REQUEST_END;
		vm->result.end = end;
		vm->result.code = code;
		snprintf(vm->result.reason, sizeof(vm->result.reason), "%s", reason);
	}
	pthread_mutex_unlock(&vm->lock);
	if (first)
		hold(vm);
}

void vm_request_reset(struct vm *vm)
{
	if (vm->config.no_reboot) {
		vm_request_end(vm, VM_RESET, 0, "the guest reset the machine");
		return;
	}
	pthread_mutex_lock(&vm->lock);
	bool first = vm->request == REQUEST_NONE;
	if (first)
		vm->request = REQUEST_RESET;
	else if (vm->request == REQUEST_END && vm->result.end == VM_STOPPED)
		vm->reset_too = true;
	pthread_mutex_unlock(&vm->lock);
	if (first)
		hold(vm);
}

void vm_kill(struct vm *vm, const char *reason)
{
	console_give_up(vm->console);
	vm_request_end(vm, VM_KILLED, 0, reason);
}

/* ---- power-up and reset, with no vCPU running ---- */

static void clear_memory(struct vm *vm)
{
	for (unsigned i = 0; i < vm->memory.regions; i++) {
		const struct boot_region *r = &vm->memory.region[i];
		if (madvise(r->hva, r->size, MADV_REMOVE)) /* gives the pages back; they read as zeros */
			memset(r->hva, 0, r->size);
	}
}

static uint64_t wall_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static int load(struct vm *vm, struct engine_cpu_state *entry, struct error *err)
{
	struct boot_config config = {
		.kernel = vm->config.kernel,
		.initrd = vm->config.initrd,
		.cmdline = vm->config.append,
		.vcpus = vm->config.cpus,
	};

	engine_cpu_state_reset(entry);
	int rc = boot_load(&config, &vm->memory, entry, err);
	for (unsigned i = 0; !rc && i < vm->memory.regions; i++)
		vm->ops->vm_written(vm->engine, vm->memory.region[i].gpa, vm->memory.region[i].size);
	return rc;
}

static void power_up(struct vm *vm, const struct engine_cpu_state *entry)
{
	kvmclock_set_wall(&vm->kvmclock, vm->ops->vm_tsc(vm->engine), wall_clock());
	for (unsigned i = 0; i < vm->vcpus; i++)
		vcpu_reset(&vm->vcpu[i], entry);
}

static int restart(struct vm *vm, struct error *err)
{
	struct engine_cpu_state *entry = memory_zalloc(sizeof(*entry));

	i8250_flush(vm->uart);
	wiring_reset(vm);
	clear_memory(vm);
	int rc = load(vm, entry, err);
	if (!rc)
		power_up(vm, entry);
	free(entry);
	return rc;
}

static void release(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->request == REQUEST_RESET) {
		vm->request = REQUEST_NONE;
		atomic_store(&vm->hold, false);
		pthread_cond_broadcast(&vm->released);
	}
	pthread_mutex_unlock(&vm->lock);
}

static void wait_until_parked(struct vm *vm)
{
	unsigned threads = 0;

	for (unsigned i = 0; i < vm->vcpus; i++)
		threads += vm->vcpu[i].has_thread;
	pthread_mutex_lock(&vm->lock);
	while (vm->parked < threads)
		pthread_cond_wait(&vm->parked_changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
}

/* On the event thread. */
static void on_request(void *arg)
{
	struct vm *vm = arg;
	struct error err;

	wait_until_parked(vm);
	pthread_mutex_lock(&vm->lock);
	enum vm_request request = vm->request;
	bool reset_too = vm->reset_too && vm->result.end == VM_STOPPED;
	vm->reset_too = false;
	pthread_mutex_unlock(&vm->lock);

	if (request == REQUEST_END) {
		if (reset_too && restart(vm, &err))
			vm_request_end(vm, VM_ERROR, 0, err.text);
		event_loop_stop(vm->loop, 0);
	} else if (request == REQUEST_RESET) {
		if (restart(vm, &err))
			vm_request_end(vm, VM_ERROR, 0, err.text);
		else
			release(vm);
	}
}

/* ---- tracing ---- */

/* Writes out what was printed: 0, or -errno and what to tell. */
static int flush_trace(struct vm *vm, char *reason, size_t size)
{
	int rc = writer_flush(vm->trace);

	if (rc)
		snprintf(reason, size, "can't write the trace to %.200s: %s",
			 vm->config.trace_file ? vm->config.trace_file : "standard error", strerror(-rc));
	return rc;
}

/* So that a trace can be followed, and that a full disk shows. */
static void on_trace_timer(void *arg)
{
	struct vm *vm = arg;
	char reason[320];

	if (flush_trace(vm, reason, sizeof(reason)))
		vm_request_end(vm, VM_ERROR, 0, reason);
	else
		timer_arm(vm->trace_timer, clock_now(vm->clock) + NS_PER_S / 4);
}

static int open_trace(struct vm *vm, struct error *err)
{
	if (!vm->config.trace)
		return 0;
	vm->trace = writer_open(vm->config.trace_file);
	if (!vm->trace)
		return error_errno(err, -errno, "can't open the trace file %s",
				   vm->config.trace_file ? vm->config.trace_file : "standard error");
	vm->trace_timer = timer_create_on(vm->clock, on_trace_timer, vm);
	return 0;
}

/* What went wrong with the trace counts more than how the guest ended. */
static void close_trace(struct vm *vm)
{
	char reason[sizeof(vm->result.reason)];

	if (vm->trace_timer)
		timer_free(vm->trace_timer);
	vm->trace_timer = NULL;
	if (!vm->trace)
		return;
	if (flush_trace(vm, reason, sizeof(reason)) && vm->result.end != VM_ERROR) {
		vm->result.end = VM_ERROR;
		memcpy(vm->result.reason, reason, sizeof(reason));
	}
	writer_close(vm->trace);
	vm->trace = NULL;
}

static void write_profile(struct vm *vm)
{
	struct error err;

	if (!vm->profile || !profile_file_write(vm->profile, vm->engine, &err) || vm->result.end == VM_ERROR)
		return;
	vm->result.end = VM_ERROR;
	snprintf(vm->result.reason, sizeof(vm->result.reason), "%.*s", (int)sizeof(vm->result.reason) - 1, err.text);
}

void vm_profile_anew(struct vm *vm)
{
	if (vm->profile)
		vm->ops->vm_profile_anew(vm->engine);
}

/* ---- making ---- */

/* The settings that are for an engine: those with its name and a colon in front, which go, and those without any. */
static void set_engine_options(struct vm *vm, const char *engine)
{
	const char *list = vm->config.engine_options;
	size_t used = 0, name = strlen(engine);

	free(vm->engine_options);
	vm->engine_options = list ? memory_zalloc(strlen(list) + 2) : NULL;
	while (list && *list) {
		size_t size = strcspn(list, ","), next = size + (list[size] == ',');
		const char *colon = memchr(list, ':', size);
		bool ours = colon && (size_t)(colon - list) == name && !memcmp(list, engine, name);
		size_t skip = ours ? name + 1 : 0;
		if (ours || !colon) {
			if (used)
				vm->engine_options[used++] = ',';
			memcpy(vm->engine_options + used, list + skip, size - skip);
			used += size - skip;
		}
		list += next;
	}
}

static int pick_engine(struct vm *vm, struct error *err)
{
	char why[256] = "this build has none", others[512] = "";

	if (vm->config.ops) {
		vm->ops = vm->config.ops;
		set_engine_options(vm, vm->ops->name);
		return 0;
	}
	if (strcmp(vm->config.engine, "auto") != 0) {
		vm->ops = engine_find(vm->config.engine);
		if (!vm->ops)
			return error_set(err, -EINVAL, "no engine is called '%s'", vm->config.engine);
		set_engine_options(vm, vm->ops->name);
		int rc = vm->ops->probe(vm->engine_options, why, sizeof(why));
		snprintf(vm->why, sizeof(vm->why), "%s", why);
		return rc ? error_set(err, rc, "engine %s does not work here: %s", vm->ops->name, why) : 0;
	}
	for (unsigned i = 0; engines[i]; i++) {
		set_engine_options(vm, engines[i]->name);
		if (!engines[i]->probe(vm->engine_options, why, sizeof(why))) {
			vm->ops = engines[i];
			snprintf(vm->why, sizeof(vm->why), "%s%s", others, why);
			return 0;
		}
		size_t used = strlen(others);
		snprintf(others + used, sizeof(others) - used, "not %s: %s; ", engines[i]->name, why);
	}
	return error_set(err, -ENODEV, "no engine works here: %s", why);
}

static void on_device_wrote(void *ctx, uint64_t gpa, uint64_t size)
{
	const struct vm *vm = ctx;

	if (vm->engine) /* else one that could not be changed, on its way out */
		vm->ops->vm_written(vm->engine, gpa, size);
}

static int take_memory(struct vm *vm, unsigned i, uint64_t size, struct error *err)
{
	if (vm->from->ram[i].size != size)
		return error_set(err, -EINVAL, "the saved machine has another size of memory");
	vm->ram[i] = vm->from->ram[i];
	vm->from->ram[i] = (struct host_memory){ .fd = -1 };
	return 0;
}

static int make_memory(struct vm *vm, struct error *err)
{
	vm->guest_memory = (struct guest_memory){ .written = on_device_wrote, .ctx = vm };
	boot_memory_layout(&vm->memory, vm->config.memory);
	for (unsigned i = 0; i < vm->memory.regions; i++) {
		struct boot_region *r = &vm->memory.region[i];
		int rc = vm->from ? take_memory(vm, i, r->size, err)
				  : host_memory_init(&vm->ram[i], i ? "plures-ram-high" : "plures-ram", r->size, err);
		if (rc)
			return rc;
		r->hva = vm->ram[i].base;
		guest_memory_add(&vm->guest_memory, r->gpa, r->size, r->hva, vm->ram[i].fd);
	}
	return 0;
}

static int map_memory(struct vm *vm, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < vm->memory.regions; i++) {
		const struct boot_region *r = &vm->memory.region[i];
		rc = vm->ops->vm_map(vm->engine, r->gpa, r->hva, vm->ram[i].fd, r->size, 0, err);
	}
	return rc;
}

static int make_engine(struct vm *vm, struct error *err)
{
	struct engine_config config = {
		.vcpus = vm->config.cpus,
		.trace = vm->config.trace & VM_TRACE_ENGINE,
		.trace_file = vm->trace ? writer_file(vm->trace) : NULL,
		.options = vm->engine_options,
		.profile = vm->profile,
	};
	int rc = vm->ops->vm_create(&vm->engine, &config, err);

	return rc ? error_prefix(err, rc, "engine %s", vm->ops->name) : 0;
}

static int make_cpuid(struct vm *vm, uint64_t khz, struct error *err)
{
	struct cpu_model model;
	char engine[64];
	int rc = cpu_model_parse(vm->config.cpu ? vm->config.cpu : "host", &model, err);

	if (rc)
		return rc;
	vm->cpuid = vm->config.movable[0] ? cpuid_create_common(vm->config.movable, vm->config.cpus, khz, &model)
					  : cpuid_create_for(vm->ops, vm->config.cpus, khz, &model);
	if (vm->config.movable[0])
		snprintf(engine, sizeof(engine), "one of its engines");
	else
		snprintf(engine, sizeof(engine), "engine %s", vm->ops->name);
	return cpu_model_check(&model, vm->cpuid, engine, err);
}

/* The vCPUs as far as chips need them; vcpu_create, which the engine may use the chips in, comes after those. */
static int make_cpus_and_chips(struct vm *vm, struct error *err)
{
	uint64_t khz = vm->ops->vm_tsc_khz(vm->engine);

	if (vm->from) /* what the guest was told; saved_load sees to it that it is near enough */
		khz = vm->from->tsc_khz;
	int rc = make_cpuid(vm, khz, err);
	if (rc)
		return rc;
	kvmclock_init(&vm->kvmclock, vm->ops->vm_tsc(vm->engine), khz, 0, 0);
	vm->vcpu = memory_zalloc(sizeof(*vm->vcpu) * vm->config.cpus);
	vm->vcpus = vm->config.cpus;
	for (unsigned i = 0; i < vm->vcpus; i++) {
		vm->vcpu[i].vm = vm;
		vm->vcpu[i].index = i;
	}
	rc = wiring_create(vm, err);
	for (unsigned i = 0; !rc && i < vm->vcpus; i++)
		rc = vcpu_create(&vm->vcpu[i], err);
	return rc;
}

static void on_stop_timer(void *arg)
{
	vm_request_end(arg, VM_STOPPED, 0, "");
}

static int build(struct vm *vm, struct error *err)
{
	int rc = pick_engine(vm, err);

	if (!rc)
		rc = event_loop_create(&vm->loop, err);
	if (!rc)
		rc = clock_create(&vm->clock, vm->loop, err);
	if (!rc)
		rc = open_trace(vm, err);
	if (!rc)
		rc = profile_file_open(&vm->profile, &vm->config, vm->ops, err);
	if (!rc)
		rc = make_engine(vm, err);
	if (!rc)
		rc = make_memory(vm, err);
	if (!rc)
		rc = map_memory(vm, err);
	if (!rc)
		rc = console_create(&vm->console, vm, err);
	/* The kernel first: that takes long enough to learn the TSC's frequency meanwhile. */
	struct engine_cpu_state *entry = memory_zalloc(sizeof(*entry));
	if (!rc && !vm->from)
		rc = load(vm, entry, err);
	if (!rc)
		rc = make_cpus_and_chips(vm, err);
	if (!rc && vm->from)
		rc = saved_load(vm, vm->from, err);
	else if (!rc)
		power_up(vm, entry);
	if (!rc && vm->config.stop_after)
		vm->stop_timer = timer_create_on(vm->clock, on_stop_timer, vm);
	free(entry);
	return rc;
}

static int create(struct vm **result, const struct vm_config *config, struct vm_saved *from, struct error *err)
{
	struct vm *vm = memory_zalloc(sizeof(*vm));

	vm->from = from;

	vm->config = *config;
	vm->request_work = (struct event_work){ .fn = on_request, .arg = vm };
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->parked_changed, NULL);
	pthread_cond_init(&vm->released, NULL);
	int rc = build(vm, err);
	vm_saved_destroy(from);
	vm->from = NULL;
	if (rc) {
		vm_destroy(vm);
		vm = NULL;
	}
	*result = vm;
	return rc;
}

/* ---- changing the engine ---- */

static int change(struct vm *vm, struct error *err)
{
	int rc = pick_engine(vm, err);

	if (!rc)
		rc = open_trace(vm, err);
	if (!rc)
		rc = make_engine(vm, err);
	if (!rc)
		rc = map_memory(vm, err);
	if (rc)
		return rc;
	wiring_set_engine(vm);
	for (unsigned i = 0; !rc && i < vm->vcpus; i++)
		rc = vcpu_create(&vm->vcpu[i], err);
	return rc;
}

/* What vm_run's end has left. */
static void rearm(struct vm *vm, uint64_t stop_after)
{
	vm->config.stop_after = stop_after;
	if (stop_after && !vm->stop_timer)
		vm->stop_timer = timer_create_on(vm->clock, on_stop_timer, vm);
	vm->request = REQUEST_NONE;
	vm->result = (struct vm_result){ 0 };
	vm->quit = false;
	atomic_store(&vm->hold, false);
}

int vm_change_engine(struct vm *vm, const char *engine, uint64_t stop_after, struct error *err)
{
	struct vm_saved saved = { .writer = state_writer_create() };
	struct device **end = wiring_chips_end(vm), *others = *end;

	if (vm->profile) {
		state_writer_destroy(saved.writer);
		return error_set(err, -ENOTSUP, "a profile is of one engine: leave --profile out");
	}
	wiring_pause(vm, true); /* first, since it may send interrupts */
	*end = NULL;            /* PCI and what is on it knows nothing of engines */
	saved_write(vm, saved.writer);
	int rc = state_writer_finish(saved.writer, &saved.bytes, &saved.size, err);
	wiring_reset(vm); /* what their state does not say goes, as for a machine that goes on elsewhere */
	for (unsigned i = 0; i < vm->vcpus; i++)
		vcpu_destroy(&vm->vcpu[i]);
	vm->ops->vm_destroy(vm->engine);
	vm->engine = NULL;
	vm->config.engine = engine;
	if (!rc)
		rc = change(vm, err);
	if (!rc)
		rc = saved_load(vm, &saved, err);
	*end = others;
	state_writer_destroy(saved.writer);
	if (rc)
		return rc;
	rearm(vm, stop_after);
	wiring_pause(vm, false);
	return 0;
}

int vm_create(struct vm **result, const struct vm_config *config, struct error *err)
{
	return create(result, config, NULL, err);
}

int vm_restore(struct vm **result, const struct vm_config *config, struct vm_saved *saved, struct error *err)
{
	return create(result, config, saved, err);
}

const char *vm_engine_name(const struct vm *vm)
{
	return vm->ops->name;
}

const char *vm_engine_why(const struct vm *vm)
{
	return vm->why;
}

/* ---- running ---- */

static void stop_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->quit = true;
	atomic_store(&vm->hold, true);
	pthread_cond_broadcast(&vm->released);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct vcpu *vcpu = &vm->vcpu[i];
		if (!vcpu->has_thread)
			continue;
		vcpu_kick(vcpu, ENGINE_KICK_EXIT);
		pthread_join(vcpu->thread, NULL);
		vcpu->has_thread = false;
	}
}

void vm_run(struct vm *vm, struct vm_result *result)
{
	struct error err;

	if (vm->trace_timer)
		timer_arm(vm->trace_timer, 0);
	if (vm->config.stop_after)
		timer_arm(vm->stop_timer, clock_now(vm->clock) + vm->config.stop_after);
	for (unsigned i = 0; i < vm->vcpus; i++)
		if (vcpu_start(&vm->vcpu[i], &err)) {
			vm_request_end(vm, VM_ERROR, 0, err.text);
			break;
		}
	if (event_loop_run(vm->loop, &err) < 0)
		vm_request_end(vm, VM_ERROR, 0, err.text);
	stop_vcpus(vm);
	i8250_flush(vm->uart);
	close_trace(vm);
	write_profile(vm);
	*result = vm->result;
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	wiring_destroy(vm);
	for (unsigned i = 0; i < vm->vcpus; i++)
		vcpu_destroy(&vm->vcpu[i]);
	free(vm->vcpu);
	cpuid_destroy(vm->cpuid);
	console_destroy(vm->console);
	if (vm->engine)
		vm->ops->vm_destroy(vm->engine);
	for (unsigned i = 0; i < BOOT_MAX_REGIONS; i++)
		host_memory_fini(&vm->ram[i]);
	close_trace(vm);
	profile_file_close(vm->profile);
	if (vm->stop_timer)
		timer_free(vm->stop_timer);
	clock_destroy(vm->clock);
	event_loop_destroy(vm->loop);
	pthread_cond_destroy(&vm->parked_changed);
	pthread_cond_destroy(&vm->released);
	pthread_mutex_destroy(&vm->lock);
	free(vm->engine_options);
	free(vm);
}
