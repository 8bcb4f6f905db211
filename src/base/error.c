/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int rc, const char *fmt, ...)
{
	if (err) {
		va_list ap;
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
	}
	return rc;
}

int error_errno(struct error *err, int rc, const char *fmt, ...)
{
	if (err) {
		va_list ap;
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
		size_t used = strlen(err->text);
		snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(-rc));
	}
	return rc;
}

int error_prefix(struct error *err, int rc, const char *fmt, ...)
{
	if (err) {
		char old[sizeof(err->text)];
		memcpy(old, err->text, sizeof(old));
		va_list ap;
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
		size_t used = strlen(err->text);
		snprintf(err->text + used, sizeof(err->text) - used, ": %s", old);
	}
	return rc;
}
