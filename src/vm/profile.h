/* SPDX-License-Identifier: Apache-2.0 */
/* profile.h - the file that tells where a guest's time went, and the symbols it is told with. */
#ifndef PLURES_VM_PROFILE_H
#define PLURES_VM_PROFILE_H

#include "engine/engine.h"
#include "vm/config.h"

struct profile_file;

/* Opens what the configuration asks for, before the machine is made; *result is NULL when it asks for none. */
int profile_file_open(struct profile_file **result, const struct vm_config *config, const struct engine_ops *ops,
		      struct error *err);
/* With no vCPU running: has the engine write it. */
int profile_file_write(struct profile_file *file, struct engine_vm *engine, struct error *err);
void profile_file_close(struct profile_file *file);

#endif
