/* SPDX-License-Identifier: Apache-2.0 */
/* A vhost-user device between the test as its driver and the test as its back end, which lives in the same process: so the
 * addresses of rings that it is told are good as they are. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "virtio/vhost_device.h"
#include "virtio/vhost_kind.h"
#include "virtio/vhost_ring.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_testlib.h"

enum { OUT = TEST_BUFFERS, IN = TEST_BUFFERS + 0x10000, QUEUES = 2, MAX_RING = 1024 };
enum { FEATURES = 1, SET_FEATURES = 2, MEMORY = 5, ADDRESSES = 9, STOP = 11, KICK = 12, CALL = 13, PROTOCOL = 15 };
enum { QUEUE_NUM = 17, ENABLE = 18, BACK_CHANNEL = 21, CONFIG = 24 };

struct test {
	struct test_guest g;
	int peer, spare; /* the back end's end, and ours of the next connection */
	int back;        /* where it asks */
	unsigned destroyed;
	char warning[1024];
	/* What it was told. */
	uint64_t features;
	unsigned regions;
	uint8_t *desc[QUEUES], *used[QUEUES], *avail[QUEUES];
	int kick[QUEUES], call[QUEUES];
	bool enabled[QUEUES];
	uint16_t next_used[QUEUES];
};

static void on_warn(void *ctx, const char *what)
{
	struct test *t = ctx;

	snprintf(t->warning, sizeof(t->warning), "%s", what);
}

static int on_connect(void *ctx, int *fd, struct error *err)
{
	struct test *t = ctx;

	if (t->spare < 0)
		return error_set(err, -2, "nobody listens");
	*fd = t->spare;
	t->spare = -1;
	return 0;
}

static void on_destroy(void *ctx)
{
	((struct test *)ctx)->destroyed++;
}

/* ---- the back end ---- */

static void answer(struct test *t, uint32_t request, const void *payload, uint32_t size)
{
	uint8_t m[512];

	bytes_put_le32(m, request);
	bytes_put_le32(m + 4, 5);
	bytes_put_le32(m + 8, size);
	memcpy(m + 12, payload, size);
	assert_int_equal(write(t->peer, m, 12 + size), 12 + size);
}

static void answer_u64(struct test *t, uint32_t request, uint64_t value)
{
	uint8_t bytes[8];

	bytes_put_le64(bytes, value);
	answer(t, request, bytes, 8);
}

static void answer_config(struct test *t, uint64_t sectors)
{
	uint8_t payload[72] = { 0 };

	bytes_put_le32(payload + 4, 60);
	bytes_put_le64(payload + 12, sectors);
	bytes_put_le16(payload + 12 + 34, 7); /* which is corrected */
	answer(t, CONFIG, payload, sizeof(payload));
}

/* All that a disk's connection asks before the device runs. */
static void answer_beginning(struct test *t, uint64_t features, uint64_t sectors)
{
	answer_u64(t, FEATURES, features | VIRTIO_BIT(30) | VIRTIO_BIT(32));
	answer_u64(t, PROTOCOL, 0x22b | UINT64_C(1) << 60);
	answer_u64(t, QUEUE_NUM, QUEUES);
	answer_u64(t, BACK_CHANNEL, 0);
	answer_u64(t, MEMORY, 0);
	answer_config(t, sectors);
}

static void new_connection(struct test *t)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	t->peer = pair[0];
	t->spare = pair[1];
}

static void take(struct test *t, uint32_t request, const uint8_t *p, int fd)
{
	unsigned i = p[0] % QUEUES;

	if (request == SET_FEATURES) {
		t->features = bytes_le64(p);
	} else if (request == MEMORY) {
		t->regions = bytes_le32(p);
	} else if (request == ADDRESSES) {
		t->desc[i] = (uint8_t *)(uintptr_t)bytes_le64(p + 8);
		t->used[i] = (uint8_t *)(uintptr_t)bytes_le64(p + 16);
		t->avail[i] = (uint8_t *)(uintptr_t)bytes_le64(p + 24);
		t->next_used[i] = 0;
	} else if (request == ENABLE) {
		t->enabled[i] = p[4];
	} else if (request == KICK || request == CALL || request == BACK_CHANNEL) {
		int *at = request == KICK ? &t->kick[i] : request == CALL ? &t->call[i] : &t->back;
		assert_true(fd >= 0);
		if (*at >= 0)
			close(*at);
		*at = fd;
		fd = -1;
	}
	if (fd >= 0)
		close(fd);
}

/* Reads what the front end has said. */
static void listen_to(struct test *t)
{
	uint8_t header[12], payload[512];
	char control[CMSG_SPACE(8 * sizeof(int))];
	struct iovec iov = { .iov_base = header, .iov_len = sizeof(header) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control };

	for (;;) {
		msg.msg_controllen = sizeof(control);
		if (recvmsg(t->peer, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof(header))
			return;
		uint32_t size = bytes_le32(header + 8);
		assert_true(size <= sizeof(payload));
		memset(payload, 0, sizeof(payload));
		if (size) /* reading nothing would take the descriptors of what comes next */
			assert_int_equal(recv(t->peer, payload, size, 0), size);
		struct cmsghdr *c = msg.msg_controllen ? CMSG_FIRSTHDR(&msg) : NULL;
		unsigned fds = c ? (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
		int fd[8];
		if (fds)
			memcpy(fd, CMSG_DATA(c), fds * sizeof(int));
		for (unsigned i = 1; i < fds; i++)
			close(fd[i]);
		take(t, bytes_le32(header), payload, fds ? fd[0] : -1);
	}
}

/* Completes a request, as its ring says: the chain that begins at `head`. */
static void put_used(struct test *t, unsigned queue, uint32_t head, uint32_t size)
{
	uint8_t *entry = t->used[queue] + 4 + t->next_used[queue] % MAX_RING * 8;

	bytes_put_le32(entry, head);
	bytes_put_le32(entry + 4, size);
	bytes_put_le16(t->used[queue] + 2, ++t->next_used[queue]);
	assert_int_equal(write(t->call[queue], "\1\0\0\0\0\0\0\0", 8), 8);
	test_guest_settle(&t->g);
}

static uint16_t available(const struct test *t, unsigned queue)
{
	return bytes_le16(t->avail[queue] + 2);
}

static uint32_t head_at(const struct test *t, unsigned queue, unsigned i)
{
	return bytes_le16(t->avail[queue] + 4 + i % MAX_RING * 2);
}

/* ---- the test ---- */

static struct virtio *make(struct test *t, struct vhost_device_config *config, struct error *err)
{
	struct virtio *v;

	test_guest_init(&t->g);
	t->g.env.warn = on_warn;
	t->g.env.ctx = t;
	config->connect = on_connect;
	config->destroy = on_destroy;
	config->ctx = t;
	strcpy(config->name, "the disk");
	int rc = vhost_device_create(&v, &t->g.env, config, err);
	assert_true(!rc == !!v);
	return v;
}

static void init(struct test *t)
{
	*t = (struct test){ .peer = -1, .spare = -1, .back = -1, .kick = { -1, -1 }, .call = { -1, -1 } };
	new_connection(t);
}

static void begin(struct test *t)
{
	struct vhost_device_config config = { .type = VHOST_BLK, .queues = 4 };
	struct error err = { "" };

	init(t);
	answer_beginning(t, 0xffffff, 1000);
	struct virtio *v = make(t, &config, &err);
	if (!v)
		fail_msg("%s", err.text);
	test_guest_plug(&t->g, v);
	assert_int_equal(v->queues, QUEUES);
	test_driver_start(&t->g, virtio_offered(v));
	listen_to(t);
}

static void close_all(struct test *t)
{
	int fds[] = { t->peer, t->spare, t->back, t->kick[0], t->kick[1], t->call[0], t->call[1] };

	for (unsigned i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void end(struct test *t)
{
	if (t->peer >= 0)
		shutdown(t->peer, SHUT_RDWR); /* a reset gets no answers */
	test_guest_fini(&t->g);
	assert_int_equal(t->destroyed, 1);
	close_all(t);
}

static void begins(void **state)
{
	struct test t;
	uint8_t config[60];

	(void)state;
	begin(&t);
	assert_int_equal(t.regions, 2); /* memory, and our rings */
	assert_true(t.features & VIRTIO_BIT(32) && !(t.features & (VIRTIO_BIT(28) | VIRTIO_BIT(29) | VIRTIO_BIT(11))));
	virtio_config_get(t.g.v, 0, config, sizeof(config));
	assert_int_equal(bytes_le64(config), 1000);
	assert_int_equal(bytes_le16(config + 34), QUEUES);
	assert_true(t.enabled[0] && t.enabled[1] && t.kick[1] >= 0 && t.call[1] >= 0);
	end(&t);
}

static void relays(void **state)
{
	struct test t;
	uint32_t id, len;
	uint64_t count;

	(void)state;
	begin(&t);
	uint16_t first = test_send(&t.g, 1, OUT, 16, IN, 512);
	uint16_t second = test_send(&t.g, 1, OUT + 16, 16, IN + 512, 512);
	test_guest_settle(&t.g);
	assert_int_equal(available(&t, 1), 2);
	assert_int_equal(read(t.kick[1], &count, 8), 8);
	/* The chain, with the guest's addresses. */
	const uint8_t *d = t.desc[1] + head_at(&t, 1, 1) * 16;
	assert_int_equal(bytes_le64(d), OUT + 16);
	assert_int_equal(bytes_le32(d + 8), 16);
	assert_int_equal(bytes_le16(d + 12), TEST_DESC_NEXT);
	d = t.desc[1] + bytes_le16(d + 14) * 16;
	assert_int_equal(bytes_le64(d), IN + 512);
	assert_int_equal(bytes_le16(d + 12), TEST_DESC_WRITE);
	/* The second is done first, and writes more than it says. */
	unsigned writes = t.g.writes;
	put_used(&t, 1, head_at(&t, 1, 1), 0);
	assert_true(t.g.writes > writes);
	assert_true(test_used(&t.g, 1, &id, &len) && id == second && len == 0);
	put_used(&t, 1, head_at(&t, 1, 0), 100000);
	assert_true(test_used(&t.g, 1, &id, &len) && id == first && len == 512);
	assert_int_equal(t.g.interrupts[2], 1); /* the driver's event index is never moved */
	end(&t);
}

/* More chains than the ring has descriptors: the rest waits, in order, and all come. */
static void waits_for_room(void **state)
{
	struct test t;
	struct vhost_ring *ring = NULL;
	uint8_t *memory = NULL;
	struct error err;
	const char *why;
	size_t written;
	static uint8_t ram[4096];
	struct guest_memory guest = { 0 };
	static struct iovec iov[600];
	struct virtqueue_chain chain = { .outs = 300, .ins = 300, .iov = iov, .in = iov + 300, .out = iov };

	(void)state;
	(void)t;
	guest_memory_add(&guest, 0x1000, sizeof(ram), ram, -1);
	for (unsigned i = 0; i < 600; i++)
		iov[i] = (struct iovec){ .iov_base = ram + i, .iov_len = 1 };
	chain.in_size = chain.out_size = 300;
	ring = calloc(1, sizeof(*ring));
	memory = aligned_alloc(4096, VHOST_RING_BYTES);
	assert_true(ring && memory);
	assert_int_equal(vhost_ring_init(ring, &guest, memory, &err), 0);
	for (unsigned turn = 0; turn < 10; turn++) {
		assert_true(vhost_ring_put(ring, &chain));
		assert_false(vhost_ring_put(ring, &chain));
		vhost_ring_kick(ring);
		assert_null(vhost_ring_take(ring, &written, &why));
		uint8_t *used = ring->shared.used, *avail = ring->shared.avail;
		bytes_put_le32(used + 4 + turn * 8, bytes_le16(avail + 4 + turn * 2));
		bytes_put_le32(used + 8 + turn * 8, 17);
		bytes_put_le16(used + 2, (uint16_t)(turn + 1));
		assert_ptr_equal(vhost_ring_take(ring, &written, &why), &chain);
		assert_int_equal(written, 17);
		assert_null(vhost_ring_take(ring, &written, &why));
		assert_null(why);
	}
	vhost_ring_fini(ring);
	free(memory);
	free(ring);
}

static void expect_lost(struct test *t, const char *why)
{
	assert_non_null(strstr(t->warning, why));
	assert_non_null(strstr(t->warning, "the disk: "));
	assert_true(virtio_status(t->g.v) & VIRTIO_NEEDS_RESET);
	assert_int_equal(t->g.interrupts[0], 1);
}

/* A disk's last byte says how it went. */
static void expect_failed(struct test *t, unsigned queue, uint64_t status)
{
	uint32_t id, len;

	assert_true(test_used(&t->g, queue, &id, &len));
	assert_int_equal(t->g.ram[status], 1);
}

static void back_end_dies(void **state)
{
	struct test t;

	(void)state;
	begin(&t);
	test_send(&t.g, 0, OUT, 16, IN, 512);
	test_guest_settle(&t.g);
	close(t.peer);
	t.peer = -1;
	test_guest_settle(&t.g);
	expect_lost(&t, "it hung up");
	expect_failed(&t, 0, IN + 511);
	test_send(&t.g, 1, OUT, 16, IN, 256);
	test_guest_settle(&t.g);
	expect_failed(&t, 1, IN + 255);
	/* A driver that begins anew while there is none has a device that fails. */
	t.g.interrupts[0] = 0;
	test_driver_start(&t.g, virtio_offered(t.g.v));
	assert_non_null(strstr(t.warning, "nobody listens"));
	/* And with another, one that works. */
	new_connection(&t);
	answer_beginning(&t, 0xffffff, 2000);
	test_driver_start(&t.g, virtio_offered(t.g.v));
	listen_to(&t);
	test_send(&t.g, 0, OUT, 16, IN, 512);
	test_guest_settle(&t.g);
	put_used(&t, 0, head_at(&t, 0, 0), 512);
	assert_true(test_used(&t.g, 0, NULL, NULL));
	assert_int_equal(virtio_status(t.g.v), 0xf);
	end(&t);
}

static void another_back_end_lacks_something(void **state)
{
	struct test t;

	(void)state;
	begin(&t);
	close(t.peer);
	test_guest_settle(&t.g);
	new_connection(&t);
	answer_beginning(&t, 0xfff0ff, 1000);
	test_driver_start(&t.g, virtio_offered(t.g.v));
	assert_non_null(strstr(t.warning, "it lacks features"));
	end(&t);
}

static void nonsense_in_the_ring(void **state)
{
	static const uint32_t heads[] = { 5, 1023, 1024, UINT32_MAX };
	struct test t;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		begin(&t);
		test_send(&t.g, 0, OUT, 16, IN, 512);
		test_guest_settle(&t.g);
		put_used(&t, 0, heads[i], 0);
		expect_lost(&t, "it completed a request that it was not given");
		expect_failed(&t, 0, IN + 511);
		end(&t);
	}
	begin(&t); /* twice the same */
	test_send(&t.g, 0, OUT, 16, IN, 512);
	test_guest_settle(&t.g);
	put_used(&t, 0, head_at(&t, 0, 0), 0);
	put_used(&t, 0, head_at(&t, 0, 0), 0);
	expect_lost(&t, "it completed a request that it was not given");
	end(&t);
}

static void speaks_unasked(void **state)
{
	struct test t;

	(void)state;
	begin(&t);
	answer_u64(&t, FEATURES, 0);
	test_guest_settle(&t.g);
	expect_lost(&t, "without being asked");
	end(&t);
}

/* A back end that is asked for its configuration. */
static void *answer_one(void *arg)
{
	struct test *t = arg;
	uint8_t question[84];

	assert_int_equal(recv(t->peer, question, sizeof(question), MSG_WAITALL), sizeof(question));
	answer_config(t, 3000);
	return NULL;
}

static void grows(void **state)
{
	pthread_t thread;
	struct test t;
	uint8_t size[8];
	const uint8_t changed[12] = { 2, 0, 0, 0, 9 }, other[12] = { 3, 0, 0, 0, 9 };
	uint8_t reply[20];

	(void)state;
	begin(&t);
	assert_true(t.back >= 0);
	assert_int_equal(write(t.back, other, 12), 12);
	test_guest_settle(&t.g);
	assert_int_equal(read(t.back, reply, 20), 20);
	assert_true(bytes_le32(reply) == 3 && bytes_le32(reply + 4) == 5 && bytes_le64(reply + 12) != 0);
	virtio_config_get(t.g.v, 0, size, 8);
	assert_int_equal(bytes_le64(size), 1000);
	assert_int_equal(pthread_create(&thread, NULL, answer_one, &t), 0);
	assert_int_equal(write(t.back, changed, 12), 12);
	test_guest_settle(&t.g);
	pthread_join(thread, NULL);
	assert_string_equal(t.warning, "");
	virtio_config_get(t.g.v, 0, size, 8);
	assert_int_equal(bytes_le64(size), 3000);
	assert_int_equal(t.g.interrupts[0], 1);
	end(&t);
}

static void resets(void **state)
{
	struct test t;
	const uint8_t base[2][8] = { { 0 }, { 1 } };

	(void)state;
	begin(&t);
	test_send(&t.g, 0, OUT, 16, IN, 512);
	test_guest_settle(&t.g);
	uint32_t head = head_at(&t, 0, 0);
	uint8_t *entry = t.used[0] + 4;
	bytes_put_le32(entry, head); /* done, but nobody knows yet */
	bytes_put_le16(t.used[0] + 2, 1);
	for (unsigned i = 0; i < 2; i++)
		answer(&t, STOP, base[i], 8);
	t.g.dev->ops->reset(t.g.dev);
	assert_string_equal(t.warning, "");
	listen_to(&t);
	assert_true(!t.enabled[0] && !t.enabled[1]);
	assert_int_equal(virtio_status(t.g.v), 0);
	pci_device(t.g.pci)->ops->reset(pci_device(t.g.pci));
	test_driver_start(&t.g, virtio_offered(t.g.v));
	listen_to(&t);
	test_send(&t.g, 0, OUT, 16, IN, 512);
	test_guest_settle(&t.g);
	put_used(&t, 0, head_at(&t, 0, 0), 512);
	assert_true(test_used(&t.g, 0, NULL, NULL));
	end(&t);
}

static void bad_beginnings(void **state)
{
	static const struct {
		uint64_t features, protocol, queues;
		uint32_t request; /* of the first answer */
		const char *says;
	} bad[] = {
		{ 0, 0x20b, 2, FEATURES, "too old" },
		{ VIRTIO_BIT(30), 0x20b, 0, FEATURES, "0 queues" },
		{ VIRTIO_BIT(30), 0x20b, UINT64_MAX, FEATURES, "queues" },
		{ VIRTIO_BIT(30), 0x00b, 2, FEATURES, "no configuration space" },
		{ VIRTIO_BIT(30), 0x20b, 2, CONFIG, "makes no sense" },
	};
	struct vhost_device_config config = { .type = VHOST_BLK, .queues = 1 };
	struct test t;
	struct error err = { "" };

	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		init(&t);
		answer_u64(&t, bad[i].request, bad[i].features);
		answer_u64(&t, PROTOCOL, bad[i].protocol);
		answer_u64(&t, QUEUE_NUM, bad[i].queues);
		answer_u64(&t, MEMORY, 0);
		assert_null(make(&t, &config, &err));
		assert_non_null(strstr(err.text, bad[i].says));
		end(&t);
	}
	init(&t);
	close(t.peer);
	t.peer = -1;
	assert_null(make(&t, &config, &err));
	end(&t);
}

/* What each kind says when there is nobody. */
static void kinds_fail(void **state)
{
	uint8_t in[64] = { 0 }, out[64] = { [8] = 0x77 };
	struct iovec iov[2] = { { out, sizeof(out) }, { in, sizeof(in) } };
	struct virtqueue_chain chain = {
		.out = iov, .outs = 1, .in = iov + 1, .ins = 1, .out_size = 64, .in_size = 64
	};
	struct virtqueue_chain none = { .out = iov, .outs = 1, .out_size = 64 };
	size_t written = 0;

	(void)state;
	assert_true(vhost_kinds[VHOST_FS].refuse(1, &chain, &written));
	assert_int_equal(written, 16);
	assert_int_equal(bytes_le32(in), 16);
	assert_int_equal((int32_t)bytes_le32(in + 4), -107);
	assert_int_equal(in[8], 0x77);
	assert_true(vhost_kinds[VHOST_FS].refuse(1, &none, &written) && !written);
	assert_true(vhost_kinds[VHOST_BLK].refuse(0, &none, &written) && !written);
	assert_true(vhost_kinds[VHOST_NET].refuse(1, &none, &written) && !written);
	assert_false(vhost_kinds[VHOST_NET].refuse(0, &chain, &written));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(begins),
		cmocka_unit_test(relays),
		cmocka_unit_test(waits_for_room),
		cmocka_unit_test(back_end_dies),
		cmocka_unit_test(another_back_end_lacks_something),
		cmocka_unit_test(nonsense_in_the_ring),
		cmocka_unit_test(speaks_unasked),
		cmocka_unit_test(grows),
		cmocka_unit_test(resets),
		cmocka_unit_test(bad_beginnings),
		cmocka_unit_test(kinds_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
