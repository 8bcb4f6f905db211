/* SPDX-License-Identifier: Apache-2.0 */
/* direct_scan.h - may a page of guest code be run by the host's CPU as it stands? (direct_scan.c) */
#ifndef PLURES_ENGINE_SOFT_DIRECT_SCAN_H
#define PLURES_ENGINE_SOFT_DIRECT_SCAN_H

#include <stdbool.h>
#include <stdint.h>

/* Does a page of 64-bit code hold an instruction whose result in ring 3 is the host's in place of the guest's, and which
 * does not fault? `before` and `next` are the pages around it in the guest's address space, or NULL when there are none. */
bool direct_scan_sensitive(const uint8_t *page, const uint8_t *before, const uint8_t *next);

#endif
