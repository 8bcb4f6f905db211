/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.h - typed reading of a JSON document, with errors that name the field: "linux.namespaces[2].type: ...".
 *
 * A field knows the one that it stands in, so that its path is put together only when something is wrong. The first error
 * sticks: later calls do nothing and say "not there", so that a parser reads straight down and looks at rc at the end. null
 * counts as absent, since Go programs write it for empty lists. Fields that nobody asks for are ignored, as the OCI
 * runtime specification demands (config.md, "Extensibility").
 */
#ifndef PLURES_CONTAINER_READER_H
#define PLURES_CONTAINER_READER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "container/arena.h"

struct reader {
	struct arena *arena; /* where strings and vectors go */
	struct error *err;
	int rc; /* 0, or the first error */
};

struct field {
	const struct field *up; /* NULL for the document */
	const char *name;       /* NULL for an element of a list */
	size_t index;
	const json_t *value;
};

enum field_need { OPTIONAL, REQUIRED };

/* A number that may be absent. */
struct reader_number {
	bool set;
	int64_t value;
};

/* Parses a document, which must be an object, or returns NULL and says at which line it is wrong. Members twice in an object
 * are refused. jansson has no integers above INT64_MAX; reader_u64 gets them all the same. */
json_t *reader_parse(const char *text, size_t size, struct error *err);

/* Sets the error, "PATH: what is wrong", unless there is one already. */
void reader_fail(struct reader *r, const struct field *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The member `name` of an object, of the type named; false when it is absent or wrong. */
bool reader_object(struct reader *r, const struct field *in, const char *name, enum field_need need, struct field *out);
bool reader_list(struct reader *r, const struct field *in, const char *name, enum field_need need, struct field *out);

/* How many elements a list (or members an object) has, and its elements: objects only. */
size_t reader_count(const struct field *list);
bool reader_element(struct reader *r, const struct field *list, size_t index, struct field *out);
/* Zeroed room for an array of as many; NULL for none, or when there is no memory, which is an error. */
void *reader_room(struct reader *r, const struct field *list, size_t size);

/* Leave *to alone when the field is absent. */
bool reader_text(struct reader *r, const struct field *in, const char *name, enum field_need need, const char **to);
bool reader_flag(struct reader *r, const struct field *in, const char *name, bool *to);
bool reader_int(struct reader *r, const struct field *in, const char *name, enum field_need need, int64_t min,
		int64_t max, int64_t *to);
bool reader_number(struct reader *r, const struct field *in, const char *name, int64_t min, int64_t max,
		   struct reader_number *to);
/* All of 64 bits, and -1, which is how limits are unset. */
bool reader_u64(struct reader *r, const struct field *in, const char *name, enum field_need need, uint64_t *to);
/* A list of strings as a vector ended by NULL. */
bool reader_texts(struct reader *r, const struct field *in, const char *name, enum field_need need,
		  const char *const **to);
/* An object of strings as a vector of name, value, name, value ..., NULL. */
bool reader_pairs(struct reader *r, const struct field *in, const char *name, const char *const **to);

#endif
