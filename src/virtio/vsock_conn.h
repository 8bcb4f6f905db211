/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock_conn.h - one stream between a socket in the guest and a Unix socket on the host: state, credit, and the host's end.
 * virtio_vsock.c has the guest's end, the packets.
 *
 * Credit (virtio 1.2, 5.10.6.3) goes both ways: the guest may have VSOCK_BUFFER bytes under way that the client has not
 * taken, which is what we keep for it at most; we read from the client only what the guest has said that it has room for.
 *
 * The client's socket is watched edge-triggered: `readable` and `writable` say what was true when last tried.
 * Threads: the device's event loop.
 */
#ifndef PLURES_VIRTIO_VSOCK_CONN_H
#define PLURES_VIRTIO_VSOCK_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "host/event.h"

enum { VSOCK_BUFFER = 128 << 10 };

enum vsock_state {
	VSOCK_GREETING,  /* the client has not said which port it wants */
	VSOCK_REQUESTED, /* the guest has not answered */
	VSOCK_OPEN,
	VSOCK_DEAD,      /* but the guest does not know yet */
	VSOCK_LINGERING, /* for the guest it is gone, but the client has not taken all */
};

/* What the guest is to be told. Data is not among it: see vsock_conn_credit. */
enum {
	VSOCK_TELL_REQUEST = 1,
	VSOCK_TELL_RESPONSE = 2,
	VSOCK_TELL_SHUTDOWN = 4,
	VSOCK_TELL_CREDIT = 8,
};

/* Flags of SHUTDOWN, 5.10.6.7: the sender will not ... any more. */
enum { VSOCK_NO_RECEIVE = 1, VSOCK_NO_SEND = 2, VSOCK_NO_MORE = 3 };

struct vsock_conn {
	void *vsock; /* the device's */
	struct vsock_conn *next, *next_ready;
	bool ready; /* stands in the list of those that have something to say */
	enum vsock_state state;
	uint32_t host_port, guest_port;
	unsigned tell;
	uint8_t guest_shutdown, host_shutdown; /* what was said */

	/* What we send to the guest: how much we have sent, and what it said it has. */
	uint32_t sent, guest_buffer, guest_forwarded;
	/* What it sends: how much has come, has gone to the client, and was said to have. */
	uint32_t received, forwarded, told_forwarded;

	int fd; /* -1: the client is gone, or its port not known */
	struct event_source *source;
	bool readable, writable, ended, hung_up;
	uint8_t *buffer; /* VSOCK_BUFFER bytes, when the client was slow once; or NULL */
	size_t start, used;
};

/* Takes fd; on_ready is called with the connection when the client's end has changed. */
int vsock_conn_open(struct vsock_conn *conn, struct event_loop *loop, int fd,
		    void (*on_ready)(void *conn, uint32_t ready), struct error *err);
/* Lets the client go. May be called twice. */
void vsock_conn_close(struct vsock_conn *conn);

/* Notes what on_ready was told. */
void vsock_conn_note(struct vsock_conn *conn, uint32_t ready);

/* The line "CONNECT port\n" with which a client begins: 1 when it is there, 0 when it is not whole yet, -1 when the client
 * says something else, or leaves. */
int vsock_conn_greeting(struct vsock_conn *conn, uint32_t *port);

/* How many bytes the guest has room for, if there may be some for it; else 0. */
uint32_t vsock_conn_credit(const struct vsock_conn *conn);
/* Reads for the guest: 0 when there is nothing now; `ended` is set at the client's end. */
size_t vsock_conn_read(struct vsock_conn *conn, const struct iovec *iov, unsigned n);

/* Takes what the guest sends: false when that is more than it may. What the client does not take at once is kept. */
bool vsock_conn_write(struct vsock_conn *conn, const struct iovec *iov, unsigned n);
/* Writes on. */
void vsock_conn_flush(struct vsock_conn *conn);
/* Says a line to the client, which has been told nothing yet. */
bool vsock_conn_say(struct vsock_conn *conn, const char *line);

#endif
