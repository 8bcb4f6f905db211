/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - saved state: sections, one a device, of named fields.
 *
 * A field is an integer or a run of bytes, found by its name and never by its place, so that fields can be added and
 * dropped without a new version; a section's version changes only when a field changes its meaning. What is read is
 * hostile: every length is checked when the reader is made, every integer when it is fetched, and what a value means
 * (an index, an enum) is for the device's load function to check before it applies anything.
 *
 *	static void foo_save(struct device *dev, struct state_writer *w)
 *	{
 *		state_put_u8(w, "ier", foo->ier);
 *	}
 *
 *	static int foo_load(struct device *dev, struct state_reader *r, struct error *err)
 *	{
 *		uint8_t ier = 0;
 *		state_get_u8(r, "ier", &ier);
 *		if (state_failed(r, err))
 *			return -EINVAL;
 *		... check ier, then apply ...
 *		return 0;
 *	}
 *
 * The file: 8 bytes of magic, then sections: name length u8, name, instance u32, version u32, length u32, fields; a
 * field: name length u8, name, type u8 (1 integer, 2 bytes), length u32, bytes (an integer has 8). All little-endian.
 * One thread at a time uses a reader or a writer.
 */
#ifndef PLURES_VM_STATE_H
#define PLURES_VM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct device;
struct state_writer;
struct state_reader;

enum { STATE_NAME_MAX = 63 }; /* bytes of a section's or a field's name, at least 1 */

/* ---- writing ---- */

/* Never NULL: running out of memory shows in state_writer_finish. */
struct state_writer *state_writer_create(void);

/* Begins a section; (name, instance) is unique in a file. The one before ends by itself. */
void state_begin(struct state_writer *w, const char *name, uint32_t instance, uint32_t version);

/* A field of the current section. Names are unique in their section (assert). */
void state_put_bool(struct state_writer *w, const char *name, bool value);
void state_put_u8(struct state_writer *w, const char *name, uint8_t value);
void state_put_u16(struct state_writer *w, const char *name, uint16_t value);
void state_put_u32(struct state_writer *w, const char *name, uint32_t value);
void state_put_u64(struct state_writer *w, const char *name, uint64_t value);
void state_put_bytes(struct state_writer *w, const char *name, const void *bytes, size_t size);
void state_put_u32s(struct state_writer *w, const char *name, const uint32_t *values, size_t count);
void state_put_u64s(struct state_writer *w, const char *name, const uint64_t *values, size_t count);

/* Ends the last section and gives the whole: *bytes stays the writer's, valid until it is destroyed. */
int state_writer_finish(struct state_writer *w, const void **bytes, size_t *size, struct error *err);
void state_writer_destroy(struct state_writer *w);

/* ---- reading ---- */

/* Checks the form of the whole file. `bytes` must stay valid and unchanged until the reader is destroyed. */
int state_reader_create(struct state_reader **r, const void *bytes, size_t size, struct error *err);
void state_reader_destroy(struct state_reader *r);

/* Goes to a section and forgets earlier failures. -ENOENT when there is none, -ENOTSUP when its version is above
 * max_version; *version (may be NULL) is what it was written with. */
int state_enter(struct state_reader *r, const char *name, uint32_t instance, uint32_t max_version, uint32_t *version,
		struct error *err);

/* Whether the current section has the field: for one that older versions lack. */
bool state_has(const struct state_reader *r, const char *name);

/* Fetches a field. One that is missing, of the other kind, too large for the type or (bytes, arrays) not of exactly
 * this size leaves the result as it was and makes state_failed true. */
void state_get_bool(struct state_reader *r, const char *name, bool *value);
void state_get_u8(struct state_reader *r, const char *name, uint8_t *value);
void state_get_u16(struct state_reader *r, const char *name, uint16_t *value);
void state_get_u32(struct state_reader *r, const char *name, uint32_t *value);
void state_get_u64(struct state_reader *r, const char *name, uint64_t *value);
void state_get_bytes(struct state_reader *r, const char *name, void *bytes, size_t size);
void state_get_u32s(struct state_reader *r, const char *name, uint32_t *values, size_t count);
void state_get_u64s(struct state_reader *r, const char *name, uint64_t *values, size_t count);
/* Bytes of any size, in place; NULL and 0 when it fails. */
const void *state_get_blob(struct state_reader *r, const char *name, size_t *size);

/* Whether a state_get_* of this section failed; err then says which field of which section and why. */
bool state_failed(const struct state_reader *r, struct error *err);

/* ---- devices ---- */

/* Saves the list of devices in order, each in a section of its ops' name, instances counted from 0. */
void state_save_devices(struct state_writer *w, struct device *devices);

/* Loads each device of the list from its section. On failure some devices have loaded: reset them or give up. */
int state_load_devices(struct state_reader *r, struct device *devices, struct error *err);

#endif
