/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - what a user can ask of a machine: filled in by the command line, checked here, read-only afterwards. */
#ifndef PLURES_VM_CONFIG_H
#define PLURES_VM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/engine.h"

enum { VM_MOVES_MAX = 16 };
enum { VM_CPUS_MAX = 64, VM_DEVICES_MAX = 31 /* as many as PCI has slots */ };

/* What to trace: the engine's bits, and ours above them. */
enum {
	VM_TRACE_PIO = 1 << 8,  /* each access to a port */
	VM_TRACE_MMIO = 1 << 9, /* each access to guest-physical addresses that are no memory */
	VM_TRACE_ENGINE = 0xff,
};

/* A virtio device: the name of its kind (virtio/devices.def) and what it is to be like, in the kind's own words. */
struct vm_device {
	const char *kind, *options;
};

/* Strings are the caller's and must outlive the machine. */
struct vm_config {
	const char *name;             /* what the user calls it, or NULL */
	const char *engine;           /* its name, or "auto": the first that works here */
	const struct engine_ops *ops; /* instead: one that is not in the list (tests), or NULL */
	const char *engine_options;   /* or NULL */
	const char *kernel;
	const char *initrd; /* or NULL */
	const char *append; /* the kernel's command line, "" for none */
	uint64_t memory;    /* bytes */
	unsigned cpus;
	const char *cpu; /* cpu_model.h; or NULL: all that there is */
	/* Ends vm_run with VM_STOPPED after so many ns; 0: never. */
	uint64_t stop_after;
	/* The guest's CPU has only what these engines can all carry, so that it can move between them; ended by NULL. */
	const struct engine_ops *movable[VM_MOVES_MAX + 2];
	bool debug_exit;                         /* port 0xf4 ends the machine */
	bool no_reboot;                          /* a reset ends the machine */
	struct vm_device device[VM_DEVICES_MAX]; /* in the order of their PCI slots */
	unsigned devices;
	unsigned trace;         /* bits above */
	const char *trace_file; /* path; NULL: stderr */
	/* Where to tell what took the guest's time, as JSON if it ends in .json, or NULL. */
	const char *profile;
	const char *profile_symbols; /* a file like System.map, or NULL */
	/* The first serial port: descriptors, which stay the caller's; -1 for none. */
	int console_in, console_out;
	bool console_escape; /* Ctrl-] in the input ends the machine */
	/* Tells the user, while the machine runs, of something that it goes on without: any thread. May be NULL. */
	void (*warn)(void *ctx, const char *what);
	void *warn_ctx;
};

/* 512M, one CPU, engine auto, no console. */
void vm_config_init(struct vm_config *config);

/* Adds a device; "" for no options. -EINVAL when the options are no good, -ENOSPC when there are too many. */
int vm_config_add_device(struct vm_config *config, const char *kind, const char *options, struct error *err);

/* Whether a machine can be like that. -EINVAL, -ENOMEM and what to do. */
int vm_config_check(const struct vm_config *config, struct error *err);

/* Adds what a list like "int,pio" names to *trace. */
int vm_trace_parse(const char *list, unsigned *trace, struct error *err);

/* The names that vm_trace_parse takes and what they mean, for --help; NULL after the last. */
const char *vm_trace_name(unsigned i, const char **summary);

#endif
