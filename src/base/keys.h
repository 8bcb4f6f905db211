/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.h - option strings as people write them: "disk.img,format=qcow2,readonly". A table says which keys there are.
 *
 * Items stand between commas; a comma inside a value is written twice. The first item may lack its key, if the table
 * says for which it stands. A flag is set by "readonly" or "readonly=on", cleared by "readonly=off". A list is a key that
 * may come several times.
 */
#ifndef PLURES_BASE_KEYS_H
#define PLURES_BASE_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum keys_kind {
	KEYS_FLAG,   /* bool */
	KEYS_STRING, /* char *, from the heap; keys_free frees it */
	KEYS_SIZE,   /* uint64_t: 512M */
	KEYS_NUMBER, /* uint64_t within [min, max] */
	KEYS_LIST,   /* struct keys_list; keys_free empties it */
};

struct keys_list {
	unsigned count;
	char **value; /* in the order in which they were given */
};

struct keys_item {
	const char *name;
	enum keys_kind kind;
	size_t offset; /* of the variable in the struct that is filled in */
	bool first;    /* what an item without a key means at the beginning */
	uint64_t min, max;
};

/* Fills in *to, which holds the defaults (strings: NULL or from the heap). `items` ends with a NULL name. -EINVAL and what is
 * wrong: unknown keys, a key twice, no value where one is needed. Strings that were set before stay to be freed. */
int keys_parse(const char *text, const struct keys_item *items, void *to, struct error *err);
/* Frees the strings and lists. */
void keys_free(const struct keys_item *items, void *to);

#endif
