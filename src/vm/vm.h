/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.h - a virtual machine, from its configuration to its end.
 *
 * vm_create builds it (engine, memory, chips, kernel), vm_run runs it: vCPUs each on a thread of its own, everything
 * else on the calling thread, which is where chips' timers and the console are served. A guest's reset happens inside
 * vm_run. Nothing is kept at file scope, so a process can hold several.
 */
#ifndef PLURES_VM_VM_H
#define PLURES_VM_VM_H

#include "base/error.h"
#include "vm/config.h"

struct vm;
struct vm_saved; /* a machine that stands still: its state and its memory */

/* Why a machine ended. */
enum vm_end {
	VM_POWER_OFF,
	VM_RESET,      /* with no_reboot */
	VM_DEBUG_EXIT, /* `code` is the exit status that the guest asked for */
	VM_KILLED,     /* a triple fault, or from outside: `reason` */
	VM_LEFT,       /* Ctrl-] */
	VM_STOPPED,    /* config.stop_after has passed: vm_save can take it from there */
	VM_ERROR,      /* the host or the engine failed: `reason` */
};

struct vm_result {
	enum vm_end end;
	unsigned code;
	char reason[320];
};

/* Builds a machine that config describes, checked with vm_config_check. On failure *vm is NULL. */
int vm_create(struct vm **vm, const struct vm_config *config, struct error *err);

/* Runs it to its end, once. */
void vm_run(struct vm *vm, struct vm_result *result);

/* Ends it with VM_KILLED and the reason, also while it waits for a console that takes no output. Any thread, also before
 * vm_run; not for signal handlers. */
void vm_kill(struct vm *vm, const char *reason);

/* What took the guest's time so far does not count in the profile, if there is one. Any thread. */
void vm_profile_anew(struct vm *vm);

/* After vm_run has ended with VM_STOPPED: takes state and memory out of the machine, which can only be destroyed then.
 * -ENOTSUP when it has devices that can't be saved. */
int vm_save(struct vm *vm, struct vm_saved **saved, struct error *err);
void vm_saved_destroy(struct vm_saved *saved);
/* After vm_run has ended with VM_STOPPED: the machine goes on, on another engine, when vm_run is called again; the devices
 * stay as they are, with what they are connected to. stop_after is as in the configuration. When it fails, the machine
 * can only be destroyed. */
int vm_change_engine(struct vm *vm, const char *engine, uint64_t stop_after, struct error *err);
/* As vm_create, but the machine goes on from there instead of booting; config differs in the engine at most. Takes
 * `saved`, also when it fails. */
int vm_restore(struct vm **vm, const struct vm_config *config, struct vm_saved *saved, struct error *err);

/* The name of the engine that runs it. */
const char *vm_engine_name(const struct vm *vm);
/* What its probe said, and, where auto chose it, why not those that it prefers. */
const char *vm_engine_why(const struct vm *vm);

/* ---- for the API; on the event loop's thread, or while it does not run ---- */

struct event_loop *vm_event_loop(struct vm *vm);

struct vm_info {
	const char *engine;
	uint64_t memory;
	unsigned cpus;
};

void vm_get_info(const struct vm *vm, struct vm_info *info);

enum { VM_BALLOON_STATISTICS = 10 };
extern const char *const vm_balloon_statistics[VM_BALLOON_STATISTICS];

struct vm_balloon {
	uint64_t target, actual;                   /* bytes */
	uint64_t statistic[VM_BALLOON_STATISTICS]; /* bytes or counts; UINT64_MAX: the guest has not said */
};

/* -ENODEV when the machine has none; -EINVAL when the target is more than its memory. */
int vm_get_balloon(struct vm *vm, struct vm_balloon *balloon, struct error *err);
int vm_set_balloon(struct vm *vm, uint64_t target, struct error *err);

/* vm may be NULL. */
void vm_destroy(struct vm *vm);

#endif
