/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu_model.h - what a user asks of the guest's CPU (--cpu): a model's features, some more and some less. What the host, the engine and
 * the machine have is cpuid.c's to know; a model only takes away from that, and says what must be there.
 */
#ifndef PLURES_VM_CPU_MODEL_H
#define PLURES_VM_CPU_MODEL_H

#include "base/error.h"
#include "vm/cpuid.h"

struct cpu_model {
	uint32_t may[CPUID_WORDS];  /* what the guest sees if it is there */
	uint32_t must[CPUID_WORDS]; /* what was asked for by name */
};

/* Reads "MODEL", "MODEL,+FEATURE,-FEATURE" or only the latter: MODEL is host or max (all that there is, also if none is named) or
 * one of cpu_models.def. From left to right: + brings what the feature rests on, - takes what rests on it. Features have
 * Linux's names or QEMU's; "." and "-" in them are as good as "_". -EINVAL for what there is none of. */
int cpu_model_parse(const char *text, struct cpu_model *model, struct error *err);

/* -ENOTSUP, with the names, when there is something that the model must have and `cpuid` does not; `whose` can't give it. */
int cpu_model_check(const struct cpu_model *model, const struct cpuid *cpuid, const char *whose, struct error *err);

#endif
