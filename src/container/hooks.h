/* SPDX-License-Identifier: Apache-2.0 */
/* hooks.h - programs of the engine's that run at points of a container's life (runtime-spec, config.md, "POSIX-platform Hooks"). */
#ifndef PLURES_CONTAINER_HOOKS_H
#define PLURES_CONTAINER_HOOKS_H

#include "container/config.h"

/* Runs all of a kind in order, in the caller's namespaces, with `state` (JSON) on their standard input. Stops at the first that
 * fails or takes longer than its timeout, with the error saying which; of poststart and poststop hooks all are run, and those that
 * fail are warned of. */
int hooks_run(const struct oci_hooks *hooks, enum oci_hook_kind kind, const char *state, struct error *err);

#endif
