/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dbus.h - as much of D-Bus as it takes to ask systemd for a scope: a connection to the system's bus, one call at a time, and
 * the signal that a job is done. See the D-Bus specification. A library would be five times the size of this program.
 */
#ifndef PLURES_CONTAINER_DBUS_H
#define PLURES_CONTAINER_DBUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct dbus;

/* Connects and says Hello: root to $DBUS_SYSTEM_BUS_ADDRESS or the system's bus, others to the bus
 * of their session. */
int dbus_open(struct dbus **bus, struct error *err);
void dbus_close(struct dbus *bus);

/* A message's arguments, little-endian. Zeroed is empty; running out of memory shows at the call. */
struct dbus_writer {
	uint8_t *data;
	size_t size, room;
	int failed;
};

void dbus_put_align(struct dbus_writer *w, size_t to);
void dbus_put_u32(struct dbus_writer *w, uint32_t value);
void dbus_put_u64(struct dbus_writer *w, uint64_t value);
void dbus_put_bytes(struct dbus_writer *w, const void *data, size_t size);
void dbus_put_string(struct dbus_writer *w, const char *text);
void dbus_put_signature(struct dbus_writer *w, const char *text);
/* Returns a mark that dbus_end_array takes. `align` is of the elements. */
size_t dbus_begin_array(struct dbus_writer *w, size_t align);
void dbus_end_array(struct dbus_writer *w, size_t mark);
void dbus_writer_fini(struct dbus_writer *w);

/* Calls a method and waits for its answer, of which only an error is of interest: its name and text become the error, -ENOENT for
 * a unit that is not there. args may be NULL. */
int dbus_call(struct dbus *bus, const char *service, const char *object, const char *interface, const char *method,
	      const char *signature, const struct dbus_writer *args, struct error *err);

/* Waits until systemd says that the job of a unit is done, and whether it went well. */
int dbus_wait_job(struct dbus *bus, const char *unit, struct error *err);

#endif
