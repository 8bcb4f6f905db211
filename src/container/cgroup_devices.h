/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup_devices.h - the BPF program that stands for device rules on cgroup v2, for its test. */
#ifndef PLURES_CONTAINER_CGROUP_DEVICES_H
#define PLURES_CONTAINER_CGROUP_DEVICES_H

#include <linux/bpf.h>

#include "container/config.h"

enum { CGROUP_DEVICE_RULES = 300, CGROUP_DEVICE_CODE = 6 + 8 * (CGROUP_DEVICE_RULES + 10) + 2 };

/* Writes the program for some rules and those that every container has; returns how many instructions. */
size_t cgroup_device_program(const struct oci_device_rule *rules, size_t count, struct bpf_insn *code);

/* Loads it; a descriptor or -errno. */
int cgroup_device_load(const struct bpf_insn *code, size_t count);

#endif
