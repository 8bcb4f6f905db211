/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_port.h - the host's end of a virtio-console port: a Unix socket that listens, with one client at a time.
 *
 * Bytes are read from the client only when the port asks for them, so a guest that doesn't take any holds up the client
 * and not us. Event thread.
 */
#ifndef PLURES_VIRTIO_CONSOLE_PORT_H
#define PLURES_VIRTIO_CONSOLE_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "base/error.h"

struct console_port;
struct event_loop;

/* What a port tells its device. */
struct console_port_events {
	void (*connected)(void *ctx, bool connected); /* a client has come or gone */
	void (*readable)(void *ctx);                  /* after console_port_want_read; what it asked for is here */
	void (*writable)(void *ctx);                  /* after a short write */
};

/* Listens at path: -EADDRINUSE when someone else does, -EEXIST when there is a file that is no socket; a socket that nobody
 * listens at any more is replaced. */
int console_port_create(struct console_port **port, struct event_loop *loop, const char *path,
			const struct console_port_events *events, void *ctx, struct error *err);
/* Removes the socket. NULL is nothing. */
void console_port_destroy(struct console_port *port);

bool console_port_connected(const struct console_port *port);
/* Whether the guest has its end open. While it has not, a client that leaves is forgotten with what it sent; while it has,
 * that is kept until it is read. */
void console_port_set_open(struct console_port *port, bool open);
/* Whether `readable` is to be called. */
void console_port_want_read(struct console_port *port, bool want);
/* What there is, or 0: nothing yet, or the client is gone (`connected` was called). */
size_t console_port_read(struct console_port *port, const struct iovec *iov, unsigned n);
/* What the client took at once; less means that `writable` will be called, or that the client is gone. */
size_t console_port_write(struct console_port *port, const struct iovec *iov, unsigned n);

#endif
