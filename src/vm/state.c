/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/state.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/memory.h"
#include "vm/device.h"

enum { FIELD_INTEGER = 1, FIELD_BYTES = 2 };

static const uint8_t state_magic[8] = { 'P', 'L', 'U', 'R', 'E', 'S', 'S', '1' };

/* ---- writing ---- */

struct state_writer {
	uint8_t *bytes;
	size_t size, room;
	size_t length_at; /* of the current section's length, 0 for no section */
	bool out_of_memory;
};

static void writer_append(struct state_writer *w, const void *bytes, size_t size)
{
	if (w->out_of_memory || !size)
		return;
	if (w->room - w->size < size) {
		size_t room = w->room * 2 + size;
		uint8_t *bigger = realloc(w->bytes, room);
		if (!bigger) {
			w->out_of_memory = true;
			return;
		}
		w->bytes = bigger;
		w->room = room;
	}
	memcpy(w->bytes + w->size, bytes, size);
	w->size += size;
}

static void writer_u32(struct state_writer *w, uint32_t value)
{
	uint8_t b[4];
	bytes_put_le32(b, value);
	writer_append(w, b, sizeof(b));
}

static void writer_name(struct state_writer *w, const char *name)
{
	size_t length = strlen(name);
	assert(length > 0 && length <= STATE_NAME_MAX);
	writer_append(w, &(uint8_t){ (uint8_t)length }, 1);
	writer_append(w, name, length);
}

struct state_writer *state_writer_create(void)
{
	struct state_writer *w = memory_zalloc(sizeof(*w));
	writer_append(w, state_magic, sizeof(state_magic));
	return w;
}

static void writer_end_section(struct state_writer *w)
{
	if (w->length_at && !w->out_of_memory)
		bytes_put_le32(w->bytes + w->length_at, (uint32_t)(w->size - w->length_at - 4));
	w->length_at = 0;
}

void state_begin(struct state_writer *w, const char *name, uint32_t instance, uint32_t version)
{
	writer_end_section(w);
	writer_name(w, name);
	writer_u32(w, instance);
	writer_u32(w, version);
	w->length_at = w->size;
	writer_u32(w, 0);
}

static void writer_field(struct state_writer *w, const char *name, uint8_t type, const void *bytes, size_t size)
{
	assert((w->length_at || w->out_of_memory) && size <= UINT32_MAX);
	writer_name(w, name);
	writer_append(w, &type, 1);
	writer_u32(w, (uint32_t)size);
	writer_append(w, bytes, size);
}

void state_put_u64(struct state_writer *w, const char *name, uint64_t value)
{
	uint8_t b[8];
	bytes_put_le64(b, value);
	writer_field(w, name, FIELD_INTEGER, b, sizeof(b));
}

void state_put_bool(struct state_writer *w, const char *name, bool value)
{
	state_put_u64(w, name, value);
}

void state_put_u8(struct state_writer *w, const char *name, uint8_t value)
{
	state_put_u64(w, name, value);
}

void state_put_u16(struct state_writer *w, const char *name, uint16_t value)
{
	state_put_u64(w, name, value);
}

void state_put_u32(struct state_writer *w, const char *name, uint32_t value)
{
	state_put_u64(w, name, value);
}

void state_put_bytes(struct state_writer *w, const char *name, const void *bytes, size_t size)
{
	writer_field(w, name, FIELD_BYTES, bytes, size);
}

void state_put_u32s(struct state_writer *w, const char *name, const uint32_t *values, size_t count)
{
	writer_field(w, name, FIELD_BYTES, NULL, 0);
	size_t length_at = w->size - 4;
	for (size_t i = 0; i < count; i++)
		writer_u32(w, values[i]);
	if (!w->out_of_memory)
		bytes_put_le32(w->bytes + length_at, (uint32_t)(count * 4));
}

void state_put_u64s(struct state_writer *w, const char *name, const uint64_t *values, size_t count)
{
	writer_field(w, name, FIELD_BYTES, NULL, 0);
	size_t length_at = w->size - 4;
	for (size_t i = 0; i < count; i++) {
		uint8_t b[8];
		bytes_put_le64(b, values[i]);
		writer_append(w, b, sizeof(b));
	}
	if (!w->out_of_memory)
		bytes_put_le32(w->bytes + length_at, (uint32_t)(count * 8));
}

int state_writer_finish(struct state_writer *w, const void **bytes, size_t *size, struct error *err)
{
	writer_end_section(w);
	if (w->out_of_memory)
		return error_set(err, -ENOMEM, "out of memory while saving the machine's state");
	*bytes = w->bytes;
	*size = w->size;
	return 0;
}

void state_writer_destroy(struct state_writer *w)
{
	if (!w)
		return;
	free(w->bytes);
	free(w);
}

/* ---- reading ---- */

/* A run of the file that is still to be read. */
struct span {
	const uint8_t *at, *end;
};

struct section {
	const char *name; /* not terminated */
	size_t name_length;
	uint32_t instance, version;
	struct span fields;
};

struct field {
	const char *name; /* not terminated */
	size_t name_length;
	uint8_t type;
	const uint8_t *bytes;
	size_t size;
};

struct state_reader {
	struct span sections;
	struct section current;
	bool failed;
	struct error error; /* the first failure in the current section */
};

static bool span_take(struct span *s, size_t size, const uint8_t **bytes)
{
	if ((size_t)(s->end - s->at) < size)
		return false;
	*bytes = s->at;
	s->at += size;
	return true;
}

static bool span_take_u32(struct span *s, uint32_t *value)
{
	const uint8_t *b;
	if (!span_take(s, 4, &b))
		return false;
	*value = bytes_le32(b);
	return true;
}

static bool span_take_name(struct span *s, const char **name, size_t *length)
{
	const uint8_t *b;
	if (!span_take(s, 1, &b) || *b == 0 || *b > STATE_NAME_MAX)
		return false;
	*length = *b;
	if (!span_take(s, *length, &b))
		return false;
	*name = (const char *)b;
	return true;
}

static bool span_take_section(struct span *s, struct section *section)
{
	uint32_t length;
	const uint8_t *b;
	if (!span_take_name(s, &section->name, &section->name_length) || !span_take_u32(s, &section->instance) ||
	    !span_take_u32(s, &section->version) || !span_take_u32(s, &length) || !span_take(s, length, &b))
		return false;
	section->fields = (struct span){ b, b + length };
	return true;
}

static bool span_take_field(struct span *s, struct field *field)
{
	uint32_t length;
	const uint8_t *type;
	if (!span_take_name(s, &field->name, &field->name_length) || !span_take(s, 1, &type) ||
	    !span_take_u32(s, &length) || !span_take(s, length, &field->bytes))
		return false;
	field->type = *type;
	field->size = length;
	return field->type == FIELD_BYTES || (field->type == FIELD_INTEGER && length == 8);
}

static bool name_is(const char *name, size_t length, const char *wanted)
{
	return strlen(wanted) == length && memcmp(name, wanted, length) == 0;
}

/* Walks the whole file once, so that the walks to come can't fail. */
static bool reader_check(struct span sections)
{
	while (sections.at < sections.end) {
		struct section section;
		if (!span_take_section(&sections, &section))
			return false;
		while (section.fields.at < section.fields.end) {
			struct field field;
			if (!span_take_field(&section.fields, &field))
				return false;
		}
	}
	return true;
}

int state_reader_create(struct state_reader **out, const void *bytes, size_t size, struct error *err)
{
	const uint8_t *magic;
	struct span all = { bytes, (const uint8_t *)bytes + size };
	if (!span_take(&all, sizeof(state_magic), &magic) || memcmp(magic, state_magic, sizeof(state_magic)) != 0)
		return error_set(err, -EINVAL, "not a saved machine of this version of plures");
	if (!reader_check(all))
		return error_set(err, -EINVAL, "the saved machine is damaged: a length in it leads past its end");
	struct state_reader *r = memory_zalloc(sizeof(*r));
	r->sections = all;
	*out = r;
	return 0;
}

void state_reader_destroy(struct state_reader *r)
{
	free(r);
}

int state_enter(struct state_reader *r, const char *name, uint32_t instance, uint32_t max_version, uint32_t *version,
		struct error *err)
{
	struct span sections = r->sections;
	r->failed = false;
	r->current = (struct section){ 0 };
	while (sections.at < sections.end) {
		struct section section;
		if (!span_take_section(&sections, &section))
			break;
		if (section.instance != instance || !name_is(section.name, section.name_length, name))
			continue;
		if (section.version > max_version)
			return error_set(err, -ENOTSUP, "saved state of %s is version %u; this plures reads up to %u",
					 name, section.version, max_version);
		r->current = section;
		if (version)
			*version = section.version;
		return 0;
	}
	return error_set(err, -ENOENT, "the saved machine has no %s (instance %u)", name, instance);
}

static bool reader_find(const struct state_reader *r, const char *name, struct field *field)
{
	struct span fields = r->current.fields;
	while (fields.at < fields.end) {
		if (!span_take_field(&fields, field))
			return false;
		if (name_is(field->name, field->name_length, name))
			return true;
	}
	return false;
}

bool state_has(const struct state_reader *r, const char *name)
{
	struct field field;
	return reader_find(r, name, &field);
}

static void reader_fail(struct state_reader *r, const char *name, const char *why)
{
	if (r->failed)
		return;
	r->failed = true;
	error_set(&r->error, 0, "saved state of %.*s: field %s %s", (int)r->current.name_length,
		  r->current.name ? r->current.name : "", name, why);
}

/* Finds a field of a type, or fails. */
static bool reader_field(struct state_reader *r, const char *name, uint8_t type, struct field *field)
{
	if (!reader_find(r, name, field)) {
		reader_fail(r, name, "is missing");
		return false;
	}
	if (field->type != type) {
		reader_fail(r, name, type == FIELD_INTEGER ? "is not a number" : "is not a run of bytes");
		return false;
	}
	return true;
}

static bool reader_integer(struct state_reader *r, const char *name, uint64_t max, uint64_t *value)
{
	struct field field;
	if (!reader_field(r, name, FIELD_INTEGER, &field))
		return false;
	*value = bytes_le64(field.bytes);
	if (*value > max) {
		reader_fail(r, name, "is out of range");
		return false;
	}
	return true;
}

void state_get_bool(struct state_reader *r, const char *name, bool *value)
{
	uint64_t v;
	if (reader_integer(r, name, 1, &v))
		*value = v != 0;
}

void state_get_u8(struct state_reader *r, const char *name, uint8_t *value)
{
	uint64_t v;
	if (reader_integer(r, name, UINT8_MAX, &v))
		*value = (uint8_t)v;
}

void state_get_u16(struct state_reader *r, const char *name, uint16_t *value)
{
	uint64_t v;
	if (reader_integer(r, name, UINT16_MAX, &v))
		*value = (uint16_t)v;
}

void state_get_u32(struct state_reader *r, const char *name, uint32_t *value)
{
	uint64_t v;
	if (reader_integer(r, name, UINT32_MAX, &v))
		*value = (uint32_t)v;
}

void state_get_u64(struct state_reader *r, const char *name, uint64_t *value)
{
	uint64_t v;
	if (reader_integer(r, name, UINT64_MAX, &v))
		*value = v;
}

/* Finds bytes of exactly `size`, or fails and gives NULL. */
static const uint8_t *reader_exact(struct state_reader *r, const char *name, size_t size)
{
	struct field field;
	if (!reader_field(r, name, FIELD_BYTES, &field))
		return NULL;
	if (field.size != size) {
		reader_fail(r, name, "has the wrong length");
		return NULL;
	}
	return field.bytes;
}

void state_get_bytes(struct state_reader *r, const char *name, void *bytes, size_t size)
{
	const uint8_t *b = reader_exact(r, name, size);
	if (b)
		memcpy(bytes, b, size);
}

void state_get_u32s(struct state_reader *r, const char *name, uint32_t *values, size_t count)
{
	const uint8_t *b = reader_exact(r, name, count * 4);
	for (size_t i = 0; b && i < count; i++)
		values[i] = bytes_le32(b + i * 4);
}

void state_get_u64s(struct state_reader *r, const char *name, uint64_t *values, size_t count)
{
	const uint8_t *b = reader_exact(r, name, count * 8);
	for (size_t i = 0; b && i < count; i++)
		values[i] = bytes_le64(b + i * 8);
}

const void *state_get_blob(struct state_reader *r, const char *name, size_t *size)
{
	struct field field;
	*size = 0;
	if (!reader_field(r, name, FIELD_BYTES, &field))
		return NULL;
	*size = field.size;
	return field.bytes;
}

bool state_failed(const struct state_reader *r, struct error *err)
{
	if (r->failed && err)
		*err = r->error;
	return r->failed;
}

/* ---- devices ---- */

/* How many devices before dev have its name. */
static uint32_t device_instance(const struct device *devices, const struct device *dev)
{
	uint32_t n = 0;
	for (const struct device *d = devices; d != dev; d = d->next)
		n += strcmp(d->ops->name, dev->ops->name) == 0;
	return n;
}

void state_save_devices(struct state_writer *w, struct device *devices)
{
	for (struct device *d = devices; d; d = d->next) {
		state_begin(w, d->ops->name, device_instance(devices, d), d->ops->version);
		d->ops->save(d, w);
	}
}

int state_load_devices(struct state_reader *r, struct device *devices, struct error *err)
{
	for (struct device *d = devices; d; d = d->next) {
		int rc = state_enter(r, d->ops->name, device_instance(devices, d), d->ops->version, NULL, err);
		if (rc < 0)
			return rc;
		rc = d->ops->load(d, r, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}
