/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.h - one line that a person can act on.
 *
 * The host's and the user's errors travel as 0 or -errno in the return value and, beside it, a struct error that
 * gathers context on the way up: the function that fails sets the reason, callers put what they were doing in front.
 * A guest's mistake is never a struct error, and our own bug is an assert.
 */
#ifndef PLURES_BASE_ERROR_H
#define PLURES_BASE_ERROR_H

#include <stddef.h>

struct error {
	char text[512]; /* always terminated; "" when nothing was set */
};

/* Sets err's text from fmt and returns rc (a negative errno), so that `return error_set(err, -EINVAL, ...)` reads well.
 * err may be NULL. */
int error_set(struct error *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As error_set, with ": " and strerror(-rc) at the end. */
int error_errno(struct error *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts fmt and ": " in front of what err says and returns rc. */
int error_prefix(struct error *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
