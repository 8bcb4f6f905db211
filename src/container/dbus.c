/* SPDX-License-Identifier: Apache-2.0 */
#include "container/dbus.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

enum {
	WAIT_MS = 30000,
	MAX_MESSAGE = 1 << 20,
	/* Types of messages. */
	CALL = 1,
	RETURN = 2,
	FAILURE = 3,
	SIGNAL = 4,
	/* Fields of a header. */
	PATH = 1,
	INTERFACE = 2,
	MEMBER = 3,
	ERROR_NAME = 4,
	REPLY_SERIAL = 5,
	DESTINATION = 6,
	SIGNATURE = 8,
};

struct dbus {
	int fd;
	uint32_t serial;
	char done[256], result[32]; /* the last job's unit that was done while something else was waited for */
};

/* A message that came, as much of it as is looked at. */
struct message {
	int type;
	uint32_t reply;
	char member[64], error[128];
	uint8_t *body;
	size_t size;
	uint8_t *data;
};

/* ---- writing ---- */

static void put(struct dbus_writer *w, const void *data, size_t size)
{
	if (w->failed || !size)
		return;
	if (w->size + size > w->room) {
		size_t room = 2 * (w->size + size) + 256;
		uint8_t *more = realloc(w->data, room);

		if (!more) {
			w->failed = -ENOMEM;
			return;
		}
		w->data = more;
		w->room = room;
	}
	memcpy(w->data + w->size, data, size);
	w->size += size;
}

void dbus_put_align(struct dbus_writer *w, size_t to)
{
	static const uint8_t zeros[8];

	put(w, zeros, (to - w->size % to) % to);
}

void dbus_put_u32(struct dbus_writer *w, uint32_t value)
{
	uint8_t bytes[4];

	dbus_put_align(w, 4);
	bytes_put_le32(bytes, value);
	put(w, bytes, 4);
}

void dbus_put_u64(struct dbus_writer *w, uint64_t value)
{
	uint8_t bytes[8];

	dbus_put_align(w, 8);
	bytes_put_le64(bytes, value);
	put(w, bytes, 8);
}

void dbus_put_bytes(struct dbus_writer *w, const void *data, size_t size)
{
	dbus_put_u32(w, (uint32_t)size);
	put(w, data, size);
}

void dbus_put_string(struct dbus_writer *w, const char *text)
{
	dbus_put_u32(w, (uint32_t)strlen(text));
	put(w, text, strlen(text) + 1);
}

void dbus_put_signature(struct dbus_writer *w, const char *text)
{
	uint8_t size = (uint8_t)strlen(text);

	put(w, &size, 1);
	put(w, text, (size_t)size + 1);
}

/* The mark is the place of the size and, above, where elements begin: the padding before the first is not counted. */
size_t dbus_begin_array(struct dbus_writer *w, size_t align)
{
	dbus_put_u32(w, 0);
	size_t at = w->size - 4;

	dbus_put_align(w, align);
	return at << 8 | (w->size - at);
}

void dbus_end_array(struct dbus_writer *w, size_t mark)
{
	size_t at = mark >> 8;

	if (!w->failed)
		bytes_put_le32(w->data + at, (uint32_t)(w->size - at - (mark & 0xff)));
}

void dbus_writer_fini(struct dbus_writer *w)
{
	free(w->data);
	*w = (struct dbus_writer){ 0 };
}

static void put_field(struct dbus_writer *w, uint8_t code, const char *type, const char *value)
{
	if (!value)
		return;
	dbus_put_align(w, 8);
	put(w, &code, 1);
	dbus_put_signature(w, type);
	if (type[0] == 'g')
		dbus_put_signature(w, value);
	else
		dbus_put_string(w, value);
}

/* ---- the socket ---- */

static int send_all(const struct dbus *bus, const void *data, size_t size, struct error *err)
{
	const char *at = data;

	while (size) {
		ssize_t put = send(bus->fd, at, size, MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return error_errno(err, -errno, "can't write to the bus");
		at += put;
		size -= (size_t)put;
	}
	return 0;
}

static int receive_all(const struct dbus *bus, void *data, size_t size, struct error *err)
{
	struct pollfd wait = { .fd = bus->fd, .events = POLLIN };
	char *at = data;

	while (size) {
		int ready = poll(&wait, 1, WAIT_MS);
		ssize_t got = ready <= 0 ? -1 : recv(bus->fd, at, size, 0);

		if (ready == 0)
			return error_set(err, -ETIMEDOUT, "no answer within %d s", WAIT_MS / 1000);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return error_errno(err, got ? -errno : -EPIPE, "can't read from the bus");
		at += got;
		size -= (size_t)got;
	}
	return 0;
}

/* "unix:path=/run/x,guid=..." */
static int connect_to(const char *address, struct error *err)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	const char *path = strstr(address, "unix:path=");
	size_t size;

	if (!path)
		return error_set(err, -EINVAL, "the bus's address \"%.100s\" is none of unix:path=", address);
	path += 10;
	size = strcspn(path, ",;");
	if (size >= sizeof(un.sun_path))
		return error_errno(err, -ENAMETOOLONG, "the bus's address");
	memcpy(un.sun_path, path, size);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un))) {
		int rc = -errno;

		if (fd >= 0)
			close(fd);
		return error_errno(err, rc, "can't connect to the bus at %s", un.sun_path);
	}
	return fd;
}

/* SASL's EXTERNAL: our identity is what the socket says, in hexadecimal digits of decimal ones. */
static int authenticate(const struct dbus *bus, struct error *err)
{
	char uid[16], line[128] = "\0AUTH EXTERNAL ", answer;
	size_t used = 15;
	bool ok = true;

	snprintf(uid, sizeof(uid), "%u", geteuid());
	for (const char *p = uid; *p; p++)
		used += (size_t)sprintf(line + used, "%02x", (unsigned)*p);
	used += (size_t)sprintf(line + used, "\r\n");
	int rc = send_all(bus, line, used, err);

	for (unsigned i = 0; !rc && (i == 0 || answer != '\n'); i++) {
		rc = receive_all(bus, &answer, 1, err);
		if (i < 2 && answer != "OK"[i])
			ok = false;
	}
	if (!rc && !ok)
		return error_set(err, -EACCES, "the bus refuses us");
	return rc ? rc : send_all(bus, "BEGIN\r\n", 7, err);
}

/* ---- messages that come ---- */

static uint32_t get_u32(const uint8_t *data, size_t size, size_t *at)
{
	*at = (*at + 3) & ~(size_t)3;
	if (*at + 4 > size) {
		*at = size + 1;
		return 0;
	}
	*at += 4;
	return bytes_le32(data + *at - 4);
}

/* A string in [at, size), or "" when it does not fit. */
static const char *get_string(const uint8_t *data, size_t size, size_t *at)
{
	uint32_t length = get_u32(data, size, at);

	if (*at > size || length >= size - *at || data[*at + length]) {
		*at = size + 1;
		return "";
	}
	const char *text = (const char *)data + *at;

	*at += (size_t)length + 1;
	return text;
}

static void read_fields(struct message *m, const uint8_t *data, size_t size)
{
	for (size_t at = 0; at + 4 < size;) {
		at = (at + 7) & ~(size_t)7;
		if (at + 4 > size)
			return;
		uint8_t code = data[at], type = data[at + 2];

		at += 4; /* code, and the signature of one letter */
		if (type == 'u') {
			uint32_t value = get_u32(data, size, &at);

			if (code == REPLY_SERIAL)
				m->reply = value;
		} else if (type == 's' || type == 'o') {
			const char *text = get_string(data, size, &at);

			if (code == MEMBER)
				snprintf(m->member, sizeof(m->member), "%s", text);
			if (code == ERROR_NAME)
				snprintf(m->error, sizeof(m->error), "%s", text);
		} else if (type == 'g') {
			at += at < size ? (size_t)data[at] + 2 : 1;
		} else {
			return;
		}
	}
}

static int receive(const struct dbus *bus, struct message *m, struct error *err)
{
	uint8_t head[16];
	int rc = receive_all(bus, head, sizeof(head), err);

	memset(m, 0, sizeof(*m));
	if (rc)
		return rc;
	uint32_t body = bytes_le32(head + 4), fields = bytes_le32(head + 12);

	if (head[0] != 'l' || body > MAX_MESSAGE || fields > MAX_MESSAGE)
		return error_set(err, -EPROTO, "the bus sent what is no message");
	size_t padded = (fields + 7u) & ~(size_t)7;

	m->type = head[1];
	m->data = malloc(padded + body + 1);
	if (!m->data)
		return error_errno(err, -ENOMEM, "a message of the bus");
	rc = receive_all(bus, m->data, padded + body, err);
	if (rc) {
		free(m->data);
		m->data = NULL;
		return rc;
	}
	read_fields(m, m->data, fields);
	m->body = m->data + padded; /* NOLINT(clang-analyzer-unix.Malloc): who asked for the message frees it */
	m->size = body;
	return 0;
}

/* JobRemoved(u id, o job, s unit, s result) */
static void note_job(struct dbus *bus, const struct message *m)
{
	size_t at = 0;

	if (m->type != SIGNAL || strcmp(m->member, "JobRemoved") != 0)
		return;
	get_u32(m->body, m->size, &at);
	get_string(m->body, m->size, &at);
	snprintf(bus->done, sizeof(bus->done), "%s", get_string(m->body, m->size, &at));
	snprintf(bus->result, sizeof(bus->result), "%s", get_string(m->body, m->size, &at));
}

/* ---- calls ---- */

static int send_call(struct dbus *bus, const char *service, const char *object, const char *interface,
		     const char *method, const char *signature, const struct dbus_writer *args, struct error *err)
{
	static const uint8_t start[] = { 'l', CALL, 0, 1 };
	struct dbus_writer w = { 0 };

	put(&w, start, 4);
	dbus_put_u32(&w, args ? (uint32_t)args->size : 0);
	dbus_put_u32(&w, ++bus->serial);
	size_t fields = dbus_begin_array(&w, 8);

	put_field(&w, PATH, "o", object);
	put_field(&w, INTERFACE, "s", interface);
	put_field(&w, MEMBER, "s", method);
	put_field(&w, DESTINATION, "s", service);
	put_field(&w, SIGNATURE, "g", signature[0] ? signature : NULL);
	dbus_end_array(&w, fields);
	dbus_put_align(&w, 8);
	if (args)
		put(&w, args->data, args->size);
	int rc = w.failed || (args && args->failed) ? error_errno(err, -ENOMEM, "a message to the bus")
						    : send_all(bus, w.data, w.size, err);

	dbus_writer_fini(&w);
	return rc;
}

int dbus_call(struct dbus *bus, const char *service, const char *object, const char *interface, const char *method,
	      const char *signature, const struct dbus_writer *args, struct error *err)
{
	int rc = send_call(bus, service, object, interface, method, signature, args, err);

	while (!rc) {
		struct message m;
		size_t at = 0;

		rc = receive(bus, &m, err);
		if (rc)
			break;
		note_job(bus, &m);
		bool ours = (m.type == RETURN || m.type == FAILURE) && m.reply == bus->serial;

		if (ours && m.type == FAILURE)
			rc = error_set(err, strstr(m.error, "NoSuchUnit") ? -ENOENT : -EIO, "%s: %s: %.300s", method,
				       m.error, get_string(m.body, m.size, &at));
		free(m.data);
		if (ours)
			break;
	}
	return rc;
}

int dbus_wait_job(struct dbus *bus, const char *unit, struct error *err)
{
	while (strcmp(bus->done, unit) != 0) {
		struct message m;
		int rc = receive(bus, &m, err);

		if (rc)
			return rc;
		note_job(bus, &m);
		free(m.data);
	}
	return strcmp(bus->result, "done") != 0 ? error_set(err, -EIO, "its job ended as \"%s\"", bus->result) : 0;
}

/* ---- connections ---- */

static const char *session_address(char *text, size_t room)
{
	const char *address = getenv("DBUS_SESSION_BUS_ADDRESS"), *runtime = getenv("XDG_RUNTIME_DIR");

	if (address && address[0])
		return address;
	snprintf(text, room, "unix:path=%s/bus", runtime && runtime[0] ? runtime : "/run");
	return text;
}

int dbus_open(struct dbus **to, struct error *err)
{
	const char *address = getenv("DBUS_SYSTEM_BUS_ADDRESS");
	struct dbus *bus = calloc(1, sizeof(*bus));
	char text[256];

	if (!bus)
		return error_errno(err, -ENOMEM, "the bus");
	if (geteuid())
		address = session_address(text, sizeof(text));
	else if (!address || !address[0])
		address = "unix:path=/run/dbus/system_bus_socket";
	bus->fd = connect_to(address, err);
	int rc = bus->fd < 0 ? bus->fd : authenticate(bus, err);

	if (!rc)
		rc = dbus_call(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello",
			       "", NULL, err);
	/* systemd's signals are broadcast; a bus forwards those that match. */
	if (!rc) {
		struct dbus_writer rule = { 0 };

		dbus_put_string(&rule,
				"type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
		rc = dbus_call(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch",
			       "s", &rule, err);
		dbus_writer_fini(&rule);
	}
	if (rc) {
		dbus_close(bus);
		bus = NULL;
	}
	*to = bus;
	return rc;
}

void dbus_close(struct dbus *bus)
{
	if (!bus)
		return;
	if (bus->fd >= 0)
		close(bus->fd);
	free(bus);
}
