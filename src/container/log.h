/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - what the runtime says, in the form that its callers read: `--log FILE --log-format text|json`.
 *
 * containerd takes the last JSON line of level "error" for the reason of a failure, so a line is one write. Where a log goes
 * is a property of the process, set once from the command line before anything else; hence the one place at file scope.
 */
#ifndef PLURES_CONTAINER_LOG_H
#define PLURES_CONTAINER_LOG_H

#include <stdbool.h>

#include "base/error.h"

enum log_level { LOG_ERRORS, LOG_WARNINGS, LOG_DEBUG };

/* Opens the log, to be appended to. `path` NULL is stderr. */
int log_open(const char *path, bool json, bool debug, struct error *err);

/* What lines on stderr begin with; plures-oci unless told. */
void log_program(const char *name);

/* Error lines also go to stderr when the log is a file, since that is what Podman reads. */
void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
