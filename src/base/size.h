/* SPDX-License-Identifier: Apache-2.0 */
/* size.h - sizes as people write them: 512M, 6G, 4096. */
#ifndef PLURES_BASE_SIZE_H
#define PLURES_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Parses a whole decimal or 0x number with an optional K, M, G or T (powers of 1024, either case; an iB or B after
 * the letter is allowed). -EINVAL for what is no size, -ERANGE above 2^64 - 1. */
int size_parse(const char *text, uint64_t *size, struct error *err);

/* Parses a whole decimal or 0x number within [min, max]; `what` names it in the error. */
int number_parse(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *value, struct error *err);

enum { SIZE_TEXT = 24 }; /* room for what size_format writes */

/* Writes size the way size_parse reads it, in the largest unit that divides it ("512M", "4097"). */
const char *size_format(uint64_t size, char *text, size_t room);

#endif
