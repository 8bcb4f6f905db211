/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio_console.c - ports between programs in the guest and sockets on the host: virtio 1.2, 5.3, with several ports.
 *
 * What is to be told to the driver about a port is a set of bits, sent when the driver has given a buffer to put it in: so
 * a driver that asks and asks but takes no answer costs nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/keys.h"
#include "base/memory.h"
#include "virtio/console_port.h"
#include "virtio/virtio.h"
#include "vm/state.h"

enum { F_MULTIPORT = 1 };
enum { CONFIG_MAX_PORTS = 4, CONFIG_SIZE = 12 };
enum { QUEUE_CONTROL_IN = 2, QUEUE_CONTROL_OUT = 3, QUEUE_SIZE = 128 };
enum { PORTS_MAX = 31, NAME_MAX_SIZE = 64, IOV_AT_ONCE = 64, CONTROL_SIZE = 8 };

enum { /* 5.3.6.2 */
       CONTROL_DEVICE_READY = 0,
       CONTROL_PORT_ADD = 1,
       CONTROL_PORT_READY = 3,
       CONTROL_CONSOLE_PORT = 4,
       CONTROL_PORT_OPEN = 6,
       CONTROL_PORT_NAME = 7,
};

/* What is to be told, in this order. */
enum { TELL_ADD = 1, TELL_CONSOLE = 2, TELL_NAME = 4, TELL_OPEN = 8, TELL_ALL = 15 };

struct port_options {
	char *socket, *name;
	bool console;
};

struct port {
	struct console *console;
	unsigned id;
	struct port_options options;
	struct console_port *back;
	bool ready, open; /* the driver knows it; a program in the guest has it open */
	unsigned tell;
	struct virtqueue_chain *out; /* not yet taken by the client, or NULL */
	uint64_t out_done;           /* bytes of the chain to come next that the client has taken */
};

struct console {
	struct virtio v;
	unsigned ports;
	struct port port[PORTS_MAX];
};

static struct console *of(struct virtio *v)
{
	return (struct console *)v;
}

/* ---- queues: 5.3.2 ---- */

static unsigned in_queue(const struct port *port)
{
	return port->id ? port->id * 2 + 2 : 0;
}

static struct virtqueue *in_of(struct port *port)
{
	return &port->console->v.queue[in_queue(port)].vq;
}

static struct virtqueue *out_of(struct port *port)
{
	return &port->console->v.queue[in_queue(port) + 1].vq;
}

/* The port that a queue belongs to; not for the control queues. */
static struct port *port_of(struct console *console, unsigned queue)
{
	return &console->port[queue < QUEUE_CONTROL_IN ? 0 : queue / 2 - 1];
}

/* ---- to the guest ---- */

/* Has the client's bytes come, if the guest has a program that waits for them and a buffer to put them in. */
static void pump_in(struct port *port)
{
	struct virtqueue *vq = in_of(port);

	console_port_want_read(port->back, port->open && (virtqueue_has_more(vq) || !virtqueue_kicks_on(vq)));
}

static void on_readable(void *ctx)
{
	struct port *port = ctx;
	struct virtqueue *vq = in_of(port);
	struct virtqueue_chain *chain = virtqueue_pop(vq);

	if (chain && !chain->ins) {
		virtqueue_push(vq, chain, 0);
	} else if (chain) {
		size_t n = console_port_read(port->back, chain->in, chain->ins);
		if (n)
			virtqueue_push(vq, chain, n);
		else
			virtqueue_unpop(vq, chain);
	}
	virtqueue_interrupt(vq);
	pump_in(port);
}

/* ---- from the guest ---- */

/* Writes the chain from out_done on: false when the client takes no more now. */
static bool write_out(struct port *port, struct virtqueue_chain *chain)
{
	while (port->out_done < chain->out_size && console_port_connected(port->back)) {
		struct iovec iov[IOV_AT_ONCE];
		uint64_t skip = port->out_done;
		unsigned n = 0;
		size_t size = 0;
		for (unsigned i = 0; i < chain->outs && n < IOV_AT_ONCE; i++) {
			if (skip >= chain->out[i].iov_len) {
				skip -= chain->out[i].iov_len;
				continue;
			}
			iov[n].iov_base = (uint8_t *)chain->out[i].iov_base + skip;
			iov[n].iov_len = chain->out[i].iov_len - skip;
			size += iov[n++].iov_len;
			skip = 0;
		}
		size_t done = console_port_write(port->back, iov, n);
		port->out_done += done;
		if (done < size && console_port_connected(port->back))
			return false;
	}
	return true; /* without a client, what the guest says is lost */
}

static void finish_out(struct port *port, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	port->out_done = 0;
	virtqueue_push(vq, chain, 0);
}

static bool take_out(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	struct virtio_queue *queue = (struct virtio_queue *)(void *)((char *)vq - offsetof(struct virtio_queue, vq));
	struct port *port = port_of(of(v), queue->index);

	if (!write_out(port, chain)) {
		port->out = chain;
		return false;
	}
	finish_out(port, vq, chain);
	return true;
}

/* The client takes more, or is gone. */
static void on_writable(void *ctx)
{
	struct port *port = ctx;
	struct virtqueue_chain *chain = port->out;

	if (!chain)
		return;
	port->out = NULL; /* writing may find the client gone, and lead here again */
	if (!write_out(port, chain)) {
		port->out = chain;
		return;
	}
	finish_out(port, out_of(port), chain);
	virtqueue_interrupt(out_of(port));
	virtio_kick(&port->console->v, in_queue(port) + 1);
}

static void drop_out(struct port *port)
{
	if (port->out)
		virtqueue_drop(out_of(port), port->out);
	port->out = NULL;
	port->out_done = 0;
}

/* ---- control ---- */

/* Writes one message to the driver. */
static void put_control(struct port *port, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	unsigned what = port->tell & -port->tell;
	const char *name = what == TELL_NAME ? port->options.name : "";
	uint16_t event = what == TELL_ADD       ? CONTROL_PORT_ADD
			 : what == TELL_CONSOLE ? CONTROL_CONSOLE_PORT
			 : what == TELL_NAME    ? CONTROL_PORT_NAME
						: CONTROL_PORT_OPEN;
	uint8_t message[CONTROL_SIZE];

	bytes_put_le32(message, port->id);
	bytes_put_le16(message + 4, event);
	bytes_put_le16(message + 6, what == TELL_OPEN ? console_port_connected(port->back) : 1);
	size_t size = virtqueue_chain_write(chain, 0, message, sizeof(message));
	size += virtqueue_chain_write(chain, size, name, strlen(name));
	port->tell &= ~what;
	virtqueue_push(vq, chain, size);
}

static void send_control(struct console *console)
{
	struct virtqueue *vq = &console->v.queue[QUEUE_CONTROL_IN].vq;

	for (unsigned i = 0; i < console->ports; i++)
		while (console->port[i].tell) {
			struct virtqueue_chain *chain = virtqueue_pop(vq);
			if (!chain && virtqueue_kicks_on(vq)) {
				virtqueue_interrupt(vq);
				return;
			}
			if (chain)
				put_control(&console->port[i], vq, chain);
		}
	virtqueue_interrupt(vq);
}

static void tell(struct port *port, unsigned what)
{
	port->tell |= what & (TELL_ADD | TELL_OPEN | (port->options.console ? TELL_CONSOLE : 0) |
			      (port->options.name ? TELL_NAME : 0));
}

static void set_open(struct port *port, bool open)
{
	port->open = open;
	console_port_set_open(port->back, open);
	pump_in(port);
}

static bool take_control(struct virtio *v, struct virtqueue *vq, struct virtqueue_chain *chain)
{
	struct console *console = of(v);
	uint8_t message[CONTROL_SIZE] = { 0 };
	bool whole = virtqueue_chain_read(chain, 0, message, sizeof(message)) == sizeof(message);
	uint32_t id = bytes_le32(message);
	uint16_t event = bytes_le16(message + 4), value = bytes_le16(message + 6);
	struct port *port = id < console->ports ? &console->port[id] : NULL;

	virtqueue_push(vq, chain, 0);
	if (!whole)
		return true;
	if (event == CONTROL_DEVICE_READY && value) {
		for (unsigned i = 0; i < console->ports; i++)
			tell(&console->port[i], TELL_ADD);
	} else if (event == CONTROL_PORT_READY && port && value) {
		port->ready = true;
		tell(port, TELL_ALL & ~TELL_ADD);
	} else if (event == CONTROL_PORT_OPEN && port) {
		set_open(port, value);
	}
	return true;
}

static void on_connected(void *ctx, bool connected)
{
	struct port *port = ctx;

	if (!connected)
		on_writable(port);
	if (port->ready) {
		tell(port, TELL_OPEN);
		send_control(port->console);
	}
	if (connected)
		pump_in(port);
}

static const struct console_port_events port_events = {
	.connected = on_connected,
	.readable = on_readable,
	.writable = on_writable,
};

/* ---- the device ---- */

static void console_start(struct virtio *v)
{
	/* A driver that knows one port has it open always. */
	if (!virtio_has(v, F_MULTIPORT))
		set_open(&of(v)->port[0], true);
}

static void console_reset(struct virtio *v)
{
	struct console *console = of(v);

	for (unsigned i = 0; i < console->ports; i++) {
		struct port *port = &console->port[i];
		drop_out(port);
		port->ready = false;
		port->tell = 0;
		if (port->open)
			set_open(port, false);
	}
}

static void console_notify(struct virtio *v, unsigned queue)
{
	struct console *console = of(v);

	if (queue == QUEUE_CONTROL_OUT)
		virtio_serve(v, queue, take_control);
	if (queue == QUEUE_CONTROL_OUT || queue == QUEUE_CONTROL_IN)
		send_control(console);
	else if (queue & 1 && !port_of(console, queue)->out)
		virtio_serve(v, queue, take_out);
	else if (!(queue & 1))
		pump_in(port_of(console, queue));
}

static void console_queue_reset(struct virtio *v, unsigned queue)
{
	if (queue & 1 && queue != QUEUE_CONTROL_OUT)
		drop_out(port_of(of(v), queue));
}

enum { SAVED_READY = 1, SAVED_OPEN = 2, SAVED_TELL_SHIFT = 8 };

static void console_save(struct virtio *v, struct state_writer *w)
{
	const struct console *console = of(v);
	uint32_t flags[PORTS_MAX] = { 0 };
	uint64_t out_done[PORTS_MAX] = { 0 };

	for (unsigned i = 0; i < console->ports; i++) {
		const struct port *port = &console->port[i];
		flags[i] =
		    (port->ready ? SAVED_READY : 0) | (port->open ? SAVED_OPEN : 0) | port->tell << SAVED_TELL_SHIFT;
		out_done[i] = port->out_done;
	}
	state_put_u32s(w, "ports", flags, console->ports);
	state_put_u64s(w, "out_done", out_done, console->ports);
}

static int console_load(struct virtio *v, struct state_reader *r, struct error *err)
{
	struct console *console = of(v);
	uint32_t flags[PORTS_MAX] = { 0 };
	uint64_t out_done[PORTS_MAX] = { 0 };

	state_get_u32s(r, "ports", flags, console->ports);
	state_get_u64s(r, "out_done", out_done, console->ports);
	if (state_failed(r, err))
		return -EINVAL;
	for (unsigned i = 0; i < console->ports; i++) {
		struct port *port = &console->port[i];
		port->ready = flags[i] & SAVED_READY;
		port->open = flags[i] & SAVED_OPEN;
		console_port_set_open(port->back, port->open);
		tell(port, flags[i] >> SAVED_TELL_SHIFT & TELL_ALL);
		if (port->ready) /* another client than before, or none */
			tell(port, TELL_OPEN);
		port->out_done = out_done[i];
	}
	return 0;
}

static const struct keys_item keys[] = {
	{ .name = "socket", .kind = KEYS_STRING, .offset = offsetof(struct port_options, socket), .first = true },
	{ .name = "name", .kind = KEYS_STRING, .offset = offsetof(struct port_options, name) },
	{ .name = "console", .kind = KEYS_FLAG, .offset = offsetof(struct port_options, console) },
	{ .name = NULL },
};

static void console_destroy(struct virtio *v)
{
	struct console *console = of(v);

	for (unsigned i = 0; i < console->ports; i++) {
		struct port *port = &console->port[i];
		drop_out(port);
		console_port_destroy(port->back);
		keys_free(keys, &port->options);
	}
	virtio_fini(v);
	free(console);
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.version = 1,
	.type = VIRTIO_TYPE_CONSOLE,
	.class_code = 0x078000,
	.start = console_start,
	.reset = console_reset,
	.notify = console_notify,
	.queue_reset = console_queue_reset,
	.save = console_save,
	.load = console_load,
	.destroy = console_destroy,
};

/* ---- making ---- */

static int parse_port(struct port_options *options, const char *text, struct error *err)
{
	int rc = keys_parse(text, keys, options, err);

	if (rc)
		return rc;
	if (!options->socket)
		return error_set(err, -EINVAL, "a port needs a socket: socket=PATH");
	if (options->name && strlen(options->name) > NAME_MAX_SIZE)
		return error_set(err, -EINVAL, "a port's name has at most %d bytes", NAME_MAX_SIZE);
	return 0;
}

/* Ports stand one a line. */
static int parse(struct console *console, const char *text, struct error *err)
{
	while (*text) {
		size_t size = strcspn(text, "\n");
		if (console->ports == PORTS_MAX)
			return error_set(err, -EINVAL, "a machine has at most %d console ports", PORTS_MAX);
		char *line = strndup(text, size);
		int rc = parse_port(&console->port[console->ports++].options, line, err);
		free(line);
		if (rc)
			return rc;
		text += size + (text[size] == '\n');
	}
	return console->ports ? 0 : error_set(err, -EINVAL, "a port needs a socket: socket=PATH");
}

static void free_parsed(struct console *console)
{
	for (unsigned i = 0; i < console->ports; i++)
		keys_free(keys, &console->port[i].options);
	free(console);
}

int virtio_console_check(const char *text, struct error *err)
{
	struct console *console = memory_zalloc(sizeof(*console));
	int rc = parse(console, text, err);

	free_parsed(console);
	return rc;
}

int virtio_console_create(struct virtio **v, const struct virtio_env *env, const char *text, struct error *err)
{
	struct console *console = memory_zalloc(sizeof(*console));
	int rc = parse(console, text, err);

	*v = NULL;
	if (rc) {
		free_parsed(console);
		return rc;
	}
	virtio_init(&console->v, &console_ops, env, VIRTIO_BIT(F_MULTIPORT), console->ports * 2 + 2, QUEUE_SIZE,
		    CONFIG_SIZE);
	bytes_put_le32(console->v.config + CONFIG_MAX_PORTS, console->ports);
	for (unsigned i = 0; !rc && i < console->ports; i++) {
		struct port *port = &console->port[i];
		port->console = console;
		port->id = i;
		rc = console_port_create(&port->back, env->loop, port->options.socket, &port_events, port, err);
	}
	if (rc)
		console_destroy(&console->v);
	else
		*v = &console->v;
	return rc;
}
