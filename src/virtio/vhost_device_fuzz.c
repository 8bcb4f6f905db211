/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vhost-user back end that says anything: answers of all kinds to what the front end asks first; then, of a device that
 * runs, completions in its rings, requests of its own, and silence. The first byte chooses how it begins.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "virtio/vhost_device.h"
#include "virtio/vhost_ring.h"
#include "virtio/virtio_testlib.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { QUEUES = 2, HEADER = 12, PAYLOAD = 512 };
enum { GET_FEATURES = 1, MEMORY = 5, ADDRESSES = 9, CALL = 13, PROTOCOL = 15, QUEUE_NUM = 17, BACK = 21, CONFIG = 24 };
enum { SEND, COMPLETE, WRITE_RING, SAY, ASK, TURN, COMMANDS };

struct input {
	const uint8_t *at;
	size_t left;
};

struct world {
	struct test_guest g;
	int peer, other; /* the back end's end, and the front end's */
	int back, call[QUEUES];
	uint8_t *used[QUEUES], *avail[QUEUES];
	uint16_t next_used[QUEUES];
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

static int on_connect(void *ctx, int *fd, struct error *err)
{
	struct world *w = ctx;

	if (w->other < 0)
		return error_set(err, -2, "nobody listens");
	*fd = w->other;
	w->other = -1;
	return 0;
}

/* ---- what the back end says ---- */

static void answer(struct world *w, uint32_t request, uint64_t value, uint32_t size)
{
	uint8_t m[HEADER + PAYLOAD] = { 0 };

	bytes_put_le32(m, request);
	bytes_put_le32(m + 4, 5);
	bytes_put_le32(m + 8, size);
	bytes_put_le64(m + HEADER, value);
	if (send(w->peer, m, HEADER + size, MSG_NOSIGNAL) < 0)
		abort();
}

/* A sound beginning, with features and numbers that the input chooses. */
static void begin_well(struct world *w, struct input *in, enum vhost_type type)
{
	uint64_t protocol = 0x208 | (take(in, 1) & 0x23);

	answer(w, GET_FEATURES, take(in, 4) | VIRTIO_BIT(30) | VIRTIO_BIT(32), 8);
	answer(w, PROTOCOL, protocol, 8);
	if (protocol & 1)
		answer(w, QUEUE_NUM, take(in, 1) % 4 + 1, 8);
	if (protocol & 0x20)
		answer(w, BACK, 0, 8);
	answer(w, MEMORY, 0, 8);
	if (type == VHOST_BLK) /* others have a configuration of their own */
		answer(w, CONFIG, 0, 72);
}

/* Messages whose headers mostly are what is expected, and then nothing any more. */
static void begin_badly(struct world *w, struct input *in)
{
	static const uint32_t expected[] = { GET_FEATURES, PROTOCOL, QUEUE_NUM, BACK, MEMORY, CONFIG };
	uint8_t m[HEADER + PAYLOAD];

	for (unsigned i = 0; i < 6 && in->left; i++) {
		uint32_t shape = take(in, 1), size = shape & 1 ? take(in, 2) : 8;
		bytes_put_le32(m, shape & 2 ? take(in, 4) : expected[i]);
		bytes_put_le32(m + 4, shape & 4 ? take(in, 4) : 5);
		bytes_put_le32(m + 8, size);
		size_t n = size < PAYLOAD ? size : PAYLOAD;
		for (size_t k = 0; k < n; k++)
			m[HEADER + k] = (uint8_t)take(in, 1);
		if (send(w->peer, m, HEADER + n, MSG_NOSIGNAL) < 0)
			abort();
	}
	shutdown(w->peer, SHUT_WR);
}

/* ---- what it hears ---- */

static void keep(int *at, int *fd)
{
	if (*at >= 0)
		close(*at);
	*at = *fd;
	*fd = -1;
}

static void hear(struct world *w)
{
	uint8_t header[HEADER], payload[PAYLOAD];
	char control[CMSG_SPACE(8 * sizeof(int))];
	struct iovec iov = { header, sizeof(header) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control };

	for (;;) {
		msg.msg_controllen = sizeof(control);
		if (recvmsg(w->peer, &msg, MSG_DONTWAIT) != HEADER)
			return;
		uint32_t request = bytes_le32(header), size = bytes_le32(header + 8);
		if (size && recv(w->peer, payload, size, 0) != size)
			abort();
		struct cmsghdr *c = msg.msg_controllen ? CMSG_FIRSTHDR(&msg) : NULL;
		unsigned fds = c ? (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
		int fd[8] = { -1 };
		if (fds)
			memcpy(fd, CMSG_DATA(c), fds * sizeof(int));
		if (request == ADDRESSES && payload[0] < QUEUES) {
			w->used[payload[0]] = (uint8_t *)(uintptr_t)bytes_le64(payload + 16);
			w->avail[payload[0]] = (uint8_t *)(uintptr_t)bytes_le64(payload + 24);
		} else if (request == CALL && payload[0] < QUEUES) {
			keep(&w->call[payload[0]], &fd[0]);
		} else if (request == BACK) {
			keep(&w->back, &fd[0]);
		}
		for (unsigned i = 0; i < fds; i++)
			if (fd[i] >= 0)
				close(fd[i]);
	}
}

/* ---- a device that runs ---- */

static void complete(struct world *w, struct input *in)
{
	uint32_t what = take(in, 1), i = what % QUEUES, head = what & 0x40 ? take(in, 4) : 0;

	if (!w->used[i] || w->call[i] < 0)
		return;
	if (!(what & 0x40)) /* one that it was given, perhaps */
		head = bytes_le16(w->avail[i] + 4 + w->next_used[i] % VHOST_RING_SIZE * 2);
	uint8_t *entry = w->used[i] + 4 + w->next_used[i] % VHOST_RING_SIZE * 8;
	bytes_put_le32(entry, head);
	bytes_put_le32(entry + 4, take(in, 2));
	bytes_put_le16(w->used[i] + 2, ++w->next_used[i]);
	if (what & 0x80 && write(w->call[i], "\1\0\0\0\0\0\0\0", 8) < 0)
		abort();
}

static void write_ring(struct world *w, struct input *in)
{
	uint32_t what = take(in, 1), at = take(in, 2) % VHOST_RING_BYTES;

	if (w->used[what % QUEUES]) /* descriptors stand at the beginning of each */
		w->used[what % QUEUES][(int)at - 0x5000] = (uint8_t)take(in, 1);
}

static void say(int fd, struct input *in)
{
	uint8_t m[HEADER + 8] = { 0 };
	uint32_t shape = take(in, 1);

	if (fd < 0)
		return;
	bytes_put_le32(m, shape & 1 ? 2 : take(in, 1));
	bytes_put_le32(m + 4, shape & 2 ? 9 : take(in, 1));
	bytes_put_le32(m + 8, shape & 4 ? 8 : 0);
	if (send(fd, m, shape & 4 ? sizeof(m) : HEADER, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

static void command(struct world *w, struct input *in)
{
	uint32_t size;

	switch (take(in, 1) % COMMANDS) {
	case SEND:
		size = take(in, 1);
		test_send(&w->g, size % QUEUES, TEST_BUFFERS, size | 1, TEST_BUFFERS + 0x1000,
			  size & 0x80 ? size * 16 : 0);
		break;
	case COMPLETE:
		complete(w, in);
		break;
	case WRITE_RING:
		write_ring(w, in);
		break;
	case SAY:
		if (take(in, 1) < 8)
			say(w->peer, in);
		break;
	case ASK:
		/* It will ask back, which nobody answers here: what is said is the end. */
		shutdown(w->peer, SHUT_WR);
		say(w->back, in);
		break;
	default:
		test_guest_settle(&w->g);
		hear(w);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct world w = { .back = -1, .call = { -1, -1 } };
	struct vhost_device_config config = { .queues = 1, .name = "fuzz", .connect = on_connect, .ctx = &w };
	struct virtio *v;
	int pair[2];

	if (size < 4 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return 0;
	w.peer = pair[0];
	w.other = pair[1];
	uint32_t how = take(&in, 1);
	config.type = how % 3;
	if (how & 0x80)
		begin_badly(&w, &in);
	else
		begin_well(&w, &in, config.type);
	test_guest_init(&w.g);
	if (!vhost_device_create(&v, &w.g.env, &config, NULL)) {
		test_guest_plug(&w.g, v);
		test_driver_start(&w.g, virtio_offered(v));
		hear(&w);
		for (unsigned i = 0; i < 100 && in.left; i++)
			command(&w, &in);
		shutdown(w.peer, SHUT_RDWR); /* a reset waits for no answers */
		test_guest_settle(&w.g);
	}
	test_guest_fini(&w.g);
	int fds[] = { w.peer, w.other, w.back, w.call[0], w.call[1] };
	for (unsigned i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return 0;
}
