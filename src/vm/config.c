/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "boot/boot.h"
#include "host/memory.h"
#include "virtio/virtio.h"
#include "vm/cpu_model.h"
#include "vm/platform.h"

enum { PAGE = 4096 };

void vm_config_init(struct vm_config *config)
{
	*config = (struct vm_config){
		.engine = "auto",
		.append = "",
		.memory = 512ull << 20,
		.cpus = 1,
		.console_in = -1,
		.console_out = -1,
	};
}

int vm_config_add_device(struct vm_config *config, const char *kind, const char *options, struct error *err)
{
	const struct virtio_kind *k = virtio_kind_find(kind);

	if (!k)
		return error_set(err, -EINVAL, "there are no devices of the kind '%s'", kind);
	int rc = k->check(options, err);
	if (rc)
		return rc;
	if (config->devices == VM_DEVICES_MAX)
		return error_set(err, -ENOSPC, "a machine has room for %d devices: leave some out", VM_DEVICES_MAX);
	config->device[config->devices++] = (struct vm_device){ .kind = kind, .options = options };
	return 0;
}

static int check_engine(const char *name, struct error *err)
{
	char list[128] = "auto";

	if (!strcmp(name, "auto") || engine_find(name))
		return 0;
	for (unsigned i = 0; engines[i]; i++) {
		strncat(list, ", ", sizeof(list) - strlen(list) - 1);
		strncat(list, engines[i]->name, sizeof(list) - strlen(list) - 1);
	}
	return error_set(err, -EINVAL, "no engine is called '%s': use one of %s", name, list);
}

static int check_memory(uint64_t memory, struct error *err)
{
	char size[32], least[32];

	if (memory < BOOT_MEMORY_MIN)
		return error_set(err, -EINVAL, "%s of memory is too little: use --memory %s or more",
				 size_format(memory, size, sizeof(size)),
				 size_format(BOOT_MEMORY_MIN, least, sizeof(least)));
	if (memory % PAGE)
		return error_set(err, -EINVAL, "a memory size of %s is not a multiple of 4K: use --memory %llu",
				 size_format(memory, size, sizeof(size)), (unsigned long long)memory / PAGE * PAGE);
	int rc = host_memory_check(memory, err);
	if (rc)
		return rc;
	/* What is above the hole below 4 GiB must end before PCI's window. */
	if (memory > PLATFORM_PCI_MMIO64_BASE - (PLATFORM_RAM_HIGH_BASE - PLATFORM_RAM_LOW_END))
		return error_set(err, -EINVAL,
				 "%s of memory is more than a machine can have: use --memory 255G or less",
				 size_format(memory, size, sizeof(size)));
	return 0;
}

int vm_config_check(const struct vm_config *config, struct error *err)
{
	int rc = check_engine(config->engine, err);
	struct cpu_model model;

	if (!rc && config->cpu && cpu_model_parse(config->cpu, &model, err))
		rc = error_prefix(err, -EINVAL, "--cpu");
	if (rc)
		return rc;
	if (config->cpus < 1 || config->cpus > VM_CPUS_MAX)
		return error_set(err, -EINVAL, "a machine can't have %u CPUs: use --cpus 1 to %d", config->cpus,
				 VM_CPUS_MAX);
	if (!config->kernel)
		return error_set(err, -EINVAL, "no kernel: use --kernel FILE, such as /boot/vmlinuz-...");
	return check_memory(config->memory, err);
}

static const struct {
	const char *name, *alias;
	unsigned bit;
	const char *summary;
} traces[] = {
	{ "asm", "in_asm", ENGINE_TRACE_ASM, "each block of guest code when it is translated, disassembled" },
	{ "int", NULL, ENGINE_TRACE_INT, "each exception and interrupt that is delivered, with registers" },
	{ "exec", NULL, ENGINE_TRACE_EXEC, "each block that is entered (slow)" },
	{ "pio", "ioport", VM_TRACE_PIO, "each access to an I/O port" },
	{ "mmio", NULL, VM_TRACE_MMIO, "each access to memory-mapped I/O" },
};

enum { TRACES = sizeof(traces) / sizeof(traces[0]) };

const char *vm_trace_name(unsigned i, const char **summary)
{
	if (i >= TRACES)
		return NULL;
	*summary = traces[i].summary;
	return traces[i].name;
}

static bool is(const char *name, const char *text, size_t size)
{
	return name && strlen(name) == size && !memcmp(name, text, size);
}

int vm_trace_parse(const char *list, unsigned *trace, struct error *err)
{
	for (;;) {
		size_t size = strcspn(list, ",");
		unsigned i = 0;
		while (i < TRACES && !is(traces[i].name, list, size) && !is(traces[i].alias, list, size))
			i++;
		if (i == TRACES)
			return error_set(err, -EINVAL, "can't trace '%.*s': use a list of asm, int, exec, pio, mmio",
					 (int)(size < 40 ? size : 40), list);
		*trace |= traces[i].bit;
		if (!list[size])
			return 0;
		list += size + 1;
	}
}
