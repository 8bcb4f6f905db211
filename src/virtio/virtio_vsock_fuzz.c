/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock between a guest and clients that both do anything: packets with fields that nearly make sense, buffers given or
 * not, clients that greet, write, read, half-close and vanish, a listener that takes what the guest begins or does not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "host/unix.h"
#include "virtio/virtio_testlib.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
	PACKET,
	BUFFERS,
	CONNECT,
	CLIENT_WRITE,
	CLIENT_READ,
	CLIENT_SHUTDOWN,
	CLIENT_CLOSE,
	ACCEPT,
	TURN,
	MOVE,
	COMMANDS
};
enum { CLIENTS = 8, HEADER = 44, RX = 0, TX = 1, EVENT = 2, BUFFER = 4096 };

struct input {
	const uint8_t *at;
	size_t left;
};

struct world {
	struct test_guest g;
	char path[64], listener_path[80];
	int listener, client[CLIENTS];
	uint32_t last_port; /* that the device chose */
};

static uint32_t take(struct input *in, unsigned size)
{
	uint8_t bytes[4] = { 0 };
	size_t n = size < in->left ? size : in->left;

	memcpy(bytes, in->at, n);
	in->at += n;
	in->left -= n;
	return bytes_le32(bytes);
}

/* A port: one that someone has, mostly. */
static uint32_t port(struct world *w, struct input *in)
{
	uint32_t choice = take(in, 1);

	return choice < 64    ? choice % 4
	       : choice < 192 ? 0x40000000u + choice % 16
	       : choice < 250 ? w->last_port
			      : UINT32_MAX;
}

static void packet(struct world *w, struct input *in)
{
	uint8_t *p = w->g.ram + TEST_BUFFERS;
	uint32_t shape = take(in, 1), len = take(in, 2) % 0x3000;

	memset(p, 0, HEADER);
	bytes_put_le64(p, shape & 0x80 ? take(in, 4) : 3);
	bytes_put_le64(p + 8, shape & 0x40 ? take(in, 4) : 2);
	bytes_put_le32(p + 16, port(w, in));
	bytes_put_le32(p + 20, port(w, in));
	bytes_put_le32(p + 24, shape & 0x20 ? take(in, 4) : len);
	bytes_put_le16(p + 28, (uint16_t)(shape & 0x10 ? take(in, 2) : 1));
	bytes_put_le16(p + 30, (uint16_t)(shape & 7));
	bytes_put_le32(p + 32, take(in, 1));
	bytes_put_le32(p + 36, take(in, 1) << 10);
	bytes_put_le32(p + 40, shape & 8 ? take(in, 4) : 0);
	test_send(&w->g, TX, TEST_BUFFERS, HEADER + len, 0, 0);
}

static void buffers(struct world *w, struct input *in)
{
	uint32_t n = take(in, 1);

	for (unsigned i = 0; i < n % 12; i++) {
		uint64_t at = TEST_BUFFERS + 0x10000 + (w->g.next_desc[RX] % TEST_QUEUE_SIZE) * BUFFER;
		test_send(&w->g, RX, 0, 0, at, n & 0x80 ? BUFFER : HEADER + 16);
	}
	if (n & 0x40)
		test_send(&w->g, EVENT, 0, 0, TEST_BUFFERS + 0x8000, 4);
	test_guest_settle(&w->g);
	for (unsigned i = 0; i < TEST_QUEUE_SIZE; i++) { /* ports that we have been told */
		const uint8_t *p = w->g.ram + TEST_BUFFERS + 0x10000 + i * BUFFER;
		if (bytes_le16(p + 30) == 1)
			w->last_port = bytes_le32(p + 16);
	}
}

static void client(struct world *w, struct input *in, unsigned what)
{
	static const char greeting[] = "CONNECT 1\nCONNECT 4294967295\nCONNECTX\n";
	uint8_t bytes[4096] = { 0 };
	uint32_t arg = take(in, 2);
	int *fd = &w->client[arg % CLIENTS];

	if (what == CONNECT && *fd < 0) {
		*fd = unix_connect(w->path, NULL);
		if (*fd >= 0 && arg & 0x8000)
			send(*fd, greeting + (arg >> 8 & 0x10 ? 10 : 0), 10, MSG_NOSIGNAL);
	} else if (*fd >= 0 && what == CLIENT_WRITE) {
		send(*fd, arg & 0x8000 ? (const void *)greeting : bytes, (arg >> 4) % (arg & 0x8000 ? 39 : 4096),
		     MSG_NOSIGNAL);
	} else if (*fd >= 0 && what == CLIENT_READ) {
		if (recv(*fd, bytes, arg >> 4, MSG_DONTWAIT) < 0)
			return;
	} else if (*fd >= 0 && what == CLIENT_SHUTDOWN) {
		shutdown(*fd, (int)(arg >> 8) % 3);
	} else if (*fd >= 0 && what == CLIENT_CLOSE) {
		close(*fd);
		*fd = -1;
	}
}

static void take_connection(struct world *w, struct input *in)
{
	int *fd = &w->client[take(in, 1) % CLIENTS];

	if (*fd < 0)
		*fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static struct virtio *make(struct world *w)
{
	char options[96];
	struct virtio *v;

	snprintf(options, sizeof(options), "cid=3,path=%s", w->path);
	if (virtio_vsock_create(&v, &w->g.env, options, NULL))
		abort();
	return v;
}

static void command(struct world *w, struct input *in)
{
	unsigned what = take(in, 1) % COMMANDS;

	switch (what) {
	case PACKET:
		packet(w, in);
		break;
	case BUFFERS:
		buffers(w, in);
		break;
	case ACCEPT:
		take_connection(w, in);
		break;
	case TURN:
		test_guest_settle(&w->g);
		break;
	case MOVE: /* the driver begins anew */
		if (take(in, 1) < 32)
			test_driver_start(&w->g, virtio_offered(w->g.v));
		break;
	default:
		client(w, in, what);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct world w = { .listener = -1 };

	snprintf(w.path, sizeof(w.path), "/tmp/plures-vsock-fuzz-%d", getpid());
	snprintf(w.listener_path, sizeof(w.listener_path), "%s_1", w.path);
	for (unsigned i = 0; i < CLIENTS; i++)
		w.client[i] = -1;
	test_guest_init(&w.g);
	test_guest_plug(&w.g, make(&w));
	w.listener = unix_listen(w.listener_path, NULL);
	test_driver_start(&w.g, virtio_offered(w.g.v));
	for (unsigned i = 0; i < 200 && in.left; i++)
		command(&w, &in);
	test_guest_settle(&w.g);
	test_guest_fini(&w.g);
	for (unsigned i = 0; i < CLIENTS; i++)
		if (w.client[i] >= 0)
			close(w.client[i]);
	close(w.listener);
	unlink(w.listener_path);
	return 0;
}
