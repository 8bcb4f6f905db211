/* SPDX-License-Identifier: Apache-2.0 */
/* caps.h - capabilities: their names, and the five sets of a process. See capabilities(7). */
#ifndef PLURES_CONTAINER_CAPS_H
#define PLURES_CONTAINER_CAPS_H

#include <stdbool.h>
#include <stdint.h>

#include "container/config.h"

/* "CAP_CHOWN" is 0, and so on; -1 for a name that is unknown. Back, without "CAP_"; NULL for a number that is unknown. */
int caps_number(const char *name);
const char *caps_name(int number);

/* The first part drops what is not in the bounding set; it must come while the process is still privileged, and before its
 * user changes. The second sets the other four and comes after. With `filter` the process may still install a system call filter
 * (CAP_SYS_ADMIN, seccomp(2)), until the third, which is one system call. -errno and a reason. */
struct caps_last {
	bool set;
	struct {
		uint32_t effective, permitted, inheritable;
	} words[2];
};

int caps_bound(const struct oci_caps *caps, struct error *err);
int caps_apply(const struct oci_caps *caps, bool filter, struct caps_last *last, struct error *err);
int caps_finish(const struct caps_last *last, struct error *err);

#endif
