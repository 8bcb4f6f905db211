/* SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number that text begins with; *end is what follows it. */
static int parse_digits(const char *text, uint64_t *value, const char **end)
{
	/* strtoull takes spaces and signs, and gives 2^64 - 1 for "-1". */
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X') && isxdigit((unsigned char)text[2]);
	char *rest;
	errno = 0;
	unsigned long long v = strtoull(text, &rest, hex ? 16 : 10);
	if (errno)
		return -ERANGE;
	*value = v;
	*end = rest;
	return 0;
}

/* The power of two that a suffix stands for, or -1. */
static int suffix_shift(const char *suffix)
{
	static const char units[] = "KMGT";
	if (!*suffix)
		return 0;
	const char *unit = strchr(units, toupper((unsigned char)*suffix));
	if (!unit || (suffix[1] && strcmp(suffix + 1, "B") != 0 && strcmp(suffix + 1, "iB") != 0))
		return -1;
	return (int)(unit - units + 1) * 10;
}

int size_parse(const char *text, uint64_t *size, struct error *err)
{
	uint64_t value = 0;
	const char *end = "";
	int rc = parse_digits(text, &value, &end);
	int shift = suffix_shift(end);
	if (rc == -EINVAL || shift < 0)
		return error_set(err, -EINVAL, "\"%s\" is not a size: write a number and K, M or G, as in 512M", text);
	if (rc < 0 || value << shift >> shift != value)
		return error_set(err, -ERANGE, "\"%s\" is larger than any size can be", text);
	*size = value << shift;
	return 0;
}

int number_parse(const char *text, const char *what, uint64_t min, uint64_t max, uint64_t *out, struct error *err)
{
	uint64_t value = 0;
	const char *end = "";
	int rc = parse_digits(text, &value, &end);
	if (rc == -EINVAL || *end)
		return error_set(err, -EINVAL, "%s: \"%s\" is not a whole number", what, text);
	if (rc < 0 || value < min || value > max)
		return error_set(err, -ERANGE, "%s: %s is not between %" PRIu64 " and %" PRIu64, what, text, min, max);
	*out = value;
	return 0;
}

const char *size_format(uint64_t size, char *text, size_t room)
{
	unsigned unit = 0;
	while (unit < 4 && size && size % 1024 == 0) {
		size /= 1024;
		unit++;
	}
	snprintf(text, room, "%" PRIu64 "%.1s", size, &"\0KMGT"[unit]);
	return text;
}
