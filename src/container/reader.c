/* SPDX-License-Identifier: Apache-2.0 */
#include "container/reader.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READER_BIG = 1 }; /* what a string begins with that stands for a number above INT64_MAX */

/* Writes the path of a field and returns its length. */
static size_t path_of(const struct field *field, char *text, size_t room)
{
	size_t used = field->up ? path_of(field->up, text, room) : 0;
	int more;

	if (used >= room)
		return used;
	if (field->name)
		more = snprintf(text + used, room - used, "%s%s", used ? "." : "", field->name);
	else if (field->up)
		more = snprintf(text + used, room - used, "[%zu]", field->index);
	else
		more = snprintf(text, room, "%s", "");
	return used + (more > 0 ? (size_t)more : 0);
}

void reader_fail(struct reader *r, const struct field *field, const char *fmt, ...)
{
	char path[256], text[256];
	va_list args;

	if (r->rc)
		return;
	path[0] = 0;
	path_of(field, path, sizeof(path));
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	r->rc = error_set(r->err, -EINVAL, "%s%s%s", path, path[0] ? ": " : "", text);
}

static const char *type_name(const json_t *value)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",       [JSON_STRING] = "a string",
		[JSON_INTEGER] = "a number", [JSON_REAL] = "a real number", [JSON_TRUE] = "a boolean",
		[JSON_FALSE] = "a boolean",  [JSON_NULL] = "null",
	};

	return names[json_typeof(value)];
}

/* The member, if it is there and of the type. */
static bool member(struct reader *r, const struct field *in, const char *name, enum field_need need, json_type type,
		   const char *what, struct field *out)
{
	if (r->rc)
		return false;
	*out = (struct field){ .up = in, .name = name, .value = json_object_get(in->value, name) };
	if (!out->value || json_is_null(out->value)) {
		if (need == REQUIRED)
			reader_fail(r, out, "is missing: it must be %s", what);
		return false;
	}
	bool same = json_typeof(out->value) == type || (type == JSON_TRUE && json_is_boolean(out->value));
	if (!same)
		reader_fail(r, out, "must be %s, not %s", what, type_name(out->value));
	return same;
}

bool reader_object(struct reader *r, const struct field *in, const char *name, enum field_need need, struct field *out)
{
	return member(r, in, name, need, JSON_OBJECT, "an object", out);
}

bool reader_list(struct reader *r, const struct field *in, const char *name, enum field_need need, struct field *out)
{
	return member(r, in, name, need, JSON_ARRAY, "a list", out);
}

size_t reader_count(const struct field *list)
{
	return json_is_array(list->value) ? json_array_size(list->value) : json_object_size(list->value);
}

bool reader_element(struct reader *r, const struct field *list, size_t index, struct field *out)
{
	if (r->rc || index >= json_array_size(list->value))
		return false;
	*out = (struct field){ .up = list, .index = index, .value = json_array_get(list->value, index) };
	if (!json_is_object(out->value))
		reader_fail(r, out, "must be an object, not %s", type_name(out->value));
	return !r->rc;
}

static void *room_for(struct reader *r, const struct field *field, size_t count, size_t size)
{
	void *room = arena_alloc(r->arena, count, size);

	if (!room)
		reader_fail(r, field, "no memory for %zu entries", count);
	return room;
}

void *reader_room(struct reader *r, const struct field *list, size_t size)
{
	size_t count = reader_count(list);

	return r->rc || !count ? NULL : room_for(r, list, count, size);
}

static const char *text_of(struct reader *r, const struct field *field)
{
	const char *text = arena_text(r->arena, json_string_value(field->value), json_string_length(field->value));

	if (!text)
		reader_fail(r, field, "no memory for it");
	return text;
}

bool reader_text(struct reader *r, const struct field *in, const char *name, enum field_need need, const char **to)
{
	struct field field;

	if (!member(r, in, name, need, JSON_STRING, "a string", &field))
		return false;
	*to = text_of(r, &field);
	return !r->rc;
}

bool reader_flag(struct reader *r, const struct field *in, const char *name, bool *to)
{
	struct field field;

	if (!member(r, in, name, OPTIONAL, JSON_TRUE, "a boolean", &field))
		return false;
	*to = json_is_true(field.value);
	return true;
}

bool reader_int(struct reader *r, const struct field *in, const char *name, enum field_need need, int64_t min,
		int64_t max, int64_t *to)
{
	struct field field;

	if (!member(r, in, name, need, JSON_INTEGER, "a number", &field))
		return false;
	int64_t value = json_integer_value(field.value);
	if (value < min || value > max) {
		reader_fail(r, &field, "%lld is not within %lld and %lld", (long long)value, (long long)min,
			    (long long)max);
		return false;
	}
	*to = value;
	return true;
}

bool reader_number(struct reader *r, const struct field *in, const char *name, int64_t min, int64_t max,
		   struct reader_number *to)
{
	if (!reader_int(r, in, name, OPTIONAL, min, max, &to->value))
		return false;
	to->set = true;
	return true;
}

bool reader_u64(struct reader *r, const struct field *in, const char *name, enum field_need need, uint64_t *to)
{
	const json_t *value = r->rc ? NULL : json_object_get(in->value, name);
	int64_t number = 0;

	if (json_is_string(value) && json_string_value(value)[0] == READER_BIG) {
		*to = strtoull(json_string_value(value) + 1, NULL, 10);
		return true;
	}
	/* -1 is how limits are unset; it is 2^64 - 1 in the kernel's interfaces as well. */
	if (!reader_int(r, in, name, need, -1, INT64_MAX, &number))
		return false;
	*to = (uint64_t)number;
	return true;
}

/* Whether the digits are a number above INT64_MAX that 64 bits hold. */
static bool is_big(const char *digits, size_t count)
{
	static const char min[] = "9223372036854775808", max[] = "18446744073709551615";

	return (count == 19 && memcmp(digits, min, 19) >= 0) || (count == 20 && memcmp(digits, max, 20) <= 0);
}

/* Copies a document with its big numbers as strings; `to` has room for twice the size. Returns the size of the copy. */
static size_t quote_big(const char *text, size_t size, char *to)
{
	size_t out = 0;

	for (size_t i = 0; i < size;) {
		size_t count = 0;

		if (text[i] == '"') {
			do
				count += text[i + count] == '\\' && i + count + 1 < size ? 2 : 1;
			while (i + count < size && text[i + count] != '"');
			count += i + count < size;
		} else {
			while (i + count < size && strchr("+-.eE0123456789", text[i + count]) && text[i + count])
				count++;
			if (is_big(text + i, count)) {
				out += (size_t)sprintf(to + out, "\"\\u%04x%.*s\"", READER_BIG, (int)count, text + i);
				i += count;
				continue;
			}
			count += !count;
		}
		memcpy(to + out, text + i, count);
		out += count;
		i += count;
	}
	return out;
}

json_t *reader_parse(const char *text, size_t size, struct error *err)
{
	json_error_t where;
	json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);

	if (!root && json_error_code(&where) == json_error_numeric_overflow) {
		char *quoted = malloc(2 * size + 64);

		if (quoted) {
			root = json_loadb(quoted, quote_big(text, size, quoted), JSON_REJECT_DUPLICATES, &where);
			free(quoted);
		}
	}
	if (!root)
		error_set(err, -EINVAL, "line %d, column %d: %s", where.line, where.column, where.text);
	else if (!json_is_object(root)) {
		error_set(err, -EINVAL, "must be an object, not %s", type_name(root));
		json_decref(root);
		root = NULL;
	}
	return root;
}

bool reader_texts(struct reader *r, const struct field *in, const char *name, enum field_need need,
		  const char *const **to)
{
	struct field list;

	if (!reader_list(r, in, name, need, &list))
		return false;
	size_t count = reader_count(&list);
	const char **texts = room_for(r, &list, count + 1, sizeof(*texts));

	for (size_t i = 0; i < count && !r->rc; i++) {
		struct field item = { .up = &list, .index = i, .value = json_array_get(list.value, i) };

		if (!json_is_string(item.value))
			reader_fail(r, &item, "must be a string, not %s", type_name(item.value));
		else
			texts[i] = text_of(r, &item);
	}
	if (!r->rc)
		*to = texts;
	return !r->rc;
}

bool reader_pairs(struct reader *r, const struct field *in, const char *name, const char *const **to)
{
	struct field object;
	size_t at = 0;
	const char *key;
	json_t *value;

	if (!reader_object(r, in, name, OPTIONAL, &object))
		return false;
	const char **texts = room_for(r, &object, 2 * reader_count(&object) + 1, sizeof(*texts));
	/* jansson's walk wants a pointer that is not const, and changes nothing. */
	json_object_foreach((json_t *)(uintptr_t)object.value, key, value)
	{
		struct field item = { .up = &object, .name = key, .value = value };

		if (r->rc)
			break;
		if (!json_is_string(value)) {
			reader_fail(r, &item, "must be a string, not %s", type_name(value));
			break;
		}
		texts[at] = arena_text(r->arena, key, strlen(key));
		texts[at + 1] = text_of(r, &item);
		if (!texts[at])
			reader_fail(r, &item, "no memory for it");
		at += 2;
	}
	if (!r->rc)
		*to = texts;
	return !r->rc;
}
