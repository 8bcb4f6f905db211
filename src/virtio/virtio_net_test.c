/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "net/net_testlib.h"
#include "virtio/virtio_net.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_testlib.h"

enum { RX = 0, TX = 1, CONTROL = 2, OUT = TEST_BUFFERS, IN = TEST_BUFFERS + 0x20000, COMMAND = TEST_BUFFERS + 0x60000 };
enum { BUFFER = 2048 };

#define ALL_OFFLOADS                                                                            \
	(VIRTIO_BIT(NET_F_CSUM) | VIRTIO_BIT(NET_F_GUEST_CSUM) | VIRTIO_BIT(NET_F_GUEST_TSO4) | \
	 VIRTIO_BIT(NET_F_GUEST_TSO6) | VIRTIO_BIT(NET_F_HOST_TSO4) | VIRTIO_BIT(NET_F_HOST_TSO6))
#define CONTROLS                                                                               \
	(VIRTIO_BIT(NET_F_CTRL_VQ) | VIRTIO_BIT(NET_F_CTRL_RX) | VIRTIO_BIT(NET_F_CTRL_VLAN) | \
	 VIRTIO_BIT(NET_F_CTRL_RX_EXTRA) | VIRTIO_BIT(NET_F_CTRL_MAC_ADDR))

struct test {
	struct test_guest g;
	struct nic *nic;
};

static void make(struct test *t, const char *options)
{
	struct virtio *v;
	struct error err;

	test_guest_init(&t->g);
	t->g.env.machine = "test";
	if (virtio_net_create(&v, &t->g.env, options, &err))
		fail_msg("%s", err.text);
	t->nic = nic_of(v);
	test_guest_plug(&t->g, v);
}

static void start(struct test *t, const char *options, uint64_t features)
{
	make(t, options);
	test_driver_start(&t->g, features);
}

static void end(struct test *t)
{
	test_guest_fini(&t->g);
}

/* Gives n buffers to receive into; the i-th ever lies at buffer_at(i). */
static void give(struct test *t, unsigned n, uint32_t size)
{
	for (unsigned i = 0; i < n; i++)
		test_send(&t->g, RX, 0, 0, IN + t->g.next_desc[RX] % TEST_QUEUE_SIZE * BUFFER, size);
	test_guest_settle(&t->g);
}

/* The next received buffer: its bytes and size, or NULL. */
static const uint8_t *got(struct test *t, uint32_t *size)
{
	uint32_t head;

	return test_used(&t->g, RX, &head, size) ? t->g.ram + IN + head * BUFFER : NULL;
}

static void send_frame(struct test *t, const struct net_header *header, const void *frame, uint32_t size)
{
	memcpy(t->g.ram + OUT, header, NET_HEADER_SIZE);
	memcpy(t->g.ram + OUT + NET_HEADER_SIZE, frame, size);
	test_send(&t->g, TX, OUT, NET_HEADER_SIZE + size, 0, 0);
	test_guest_settle(&t->g);
}

/* ---- with libslirp at the other end ---- */

static const uint8_t arp[42] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0,  0, 0, 0,  1, 8, 6, 0, 1, 8, 0,  6, 4, 0,
				 1,    2,    0,    0,    0,    0,    1, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2 };

static void test_arp(void **state)
{
	struct test t;
	struct net_header header = { 0 };
	uint32_t size = 0, head, len;
	(void)state;
	start(&t, "user", VIRTIO_BIT(NET_F_MRG_RXBUF));
	give(&t, 4, BUFFER);
	send_frame(&t, &header, arp, sizeof(arp));
	assert_true(test_used(&t.g, TX, &head, &len));
	assert_int_equal(len, 0);
	const uint8_t *answer = got(&t, &size);
	assert_non_null(answer);
	assert_int_equal(size, NET_HEADER_SIZE + 64);
	assert_int_equal(bytes_le16(answer + 10), 1); /* buffers */
	assert_memory_equal(answer + 12, arp + 6, 6);
	assert_int_equal(test_be16(answer + 12 + 20), 2);
	assert_true(t.g.interrupts[RX + 1] >= 1);
	/* Without a buffer the answer waits, and is not lost. */
	while (got(&t, &size))
		;
	end(&t);
	start(&t, "user", 0);
	for (unsigned i = 0; i < 3; i++)
		send_frame(&t, &header, arp, sizeof(arp));
	assert_null(got(&t, &size));
	give(&t, 8, BUFFER);
	for (unsigned i = 0; i < 3; i++)
		assert_non_null(got(&t, &size));
	assert_null(got(&t, &size));
	end(&t);
}

/* ---- the way in, from a peer that uses every offload ---- */

static bool receive(struct test *t, const uint8_t *frame, size_t size, struct net_header header)
{
	struct iovec iov[2] = { { (void *)(uintptr_t)frame, 20 }, { (void *)(uintptr_t)(frame + 20), size - 20 } };
	struct net_packet packet = { .header = header, .iov = iov, .iovs = 2, .size = size };
	bool taken = nic_receive(t->nic, 0, &packet);

	nic_received(t->nic, 0);
	return taken;
}

static struct test_tcp tcp;

static void test_mergeable(void **state)
{
	struct test t;
	uint32_t size = 0;
	uint8_t whole[NET_HEADER_SIZE + 16000];
	size_t at = 0;
	(void)state;
	tcp = (struct test_tcp){ .payload = 10000 };
	size_t n = test_tcp_make(&tcp);
	start(&t, "user", VIRTIO_BIT(NET_F_MRG_RXBUF) | ALL_OFFLOADS);
	give(&t, 5, 1500); /* too few */
	assert_false(receive(&t, tcp.frame, n, tcp.header));
	assert_null(got(&t, &size));
	unsigned before = t.g.interrupts[RX + 1];
	give(&t, 3, 1500);
	assert_true(receive(&t, tcp.frame, n, tcp.header));
	assert_int_equal(t.g.interrupts[RX + 1], before + 1);
	for (unsigned i = 0; i < 7; i++) {
		const uint8_t *buffer = got(&t, &size);
		assert_non_null(buffer);
		assert_int_equal(size, i < 6 ? 1500 : n + NET_HEADER_SIZE - 6 * 1500);
		memcpy(whole + at, buffer, size);
		at += size;
	}
	assert_null(got(&t, &size));
	tcp.header.buffers = 7;
	assert_memory_equal(whole, &tcp.header, NET_HEADER_SIZE);
	assert_memory_equal(whole + NET_HEADER_SIZE, tcp.frame, n);
	/* What the whole ring can't hold is dropped, and does not stand in the way. */
	give(&t, TEST_QUEUE_SIZE - 1, 500);
	assert_int_equal(test_reg_read(&t.g, 0x14, 1), 15);
	assert_true(receive(&t, tcp.frame, n, tcp.header));
	assert_null(got(&t, &size));
	assert_true(receive(&t, tcp.frame, 100, (struct net_header){ 0 }));
	assert_non_null(got(&t, &size));
	end(&t);
}

/* A driver that takes no offload gets frames that need none, of a size that it knows. */
static void test_software(void **state)
{
	struct test t;
	uint32_t size = 0;
	unsigned pieces = 0, bytes = 0;
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		tcp = (struct test_tcp){ .payload = 30000, .ip6 = i };
		size_t n = test_tcp_make(&tcp);
		start(&t, "user", 0);
		give(&t, 4, BUFFER);
		assert_true(receive(&t, tcp.frame, n, tcp.header));
		assert_false(receive(&t, arp, sizeof(arp), (struct net_header){ 0 })); /* not before the rest */
		for (pieces = bytes = 0; pieces < 21; give(&t, 1, BUFFER)) {
			const uint8_t *buffer = got(&t, &size);
			assert_non_null(buffer);
			assert_int_equal(buffer[0] | buffer[1], 0);
			assert_true(size <= NET_HEADER_SIZE + tcp.header.header_size + 1460u);
			assert_true(test_tcp_right(&tcp, buffer + NET_HEADER_SIZE, size - NET_HEADER_SIZE));
			bytes += size - NET_HEADER_SIZE - tcp.header.header_size;
			pieces++;
		}
		assert_int_equal(bytes, 30000);
		assert_true(receive(&t, arp, sizeof(arp), (struct net_header){ .flags = NET_CHECKSUM_GOOD }));
		const uint8_t *buffer = got(&t, &size);
		assert_non_null(buffer);
		assert_int_equal(buffer[0], 0);
		/* A checksum alone. */
		tcp.payload = 500;
		n = test_tcp_make(&tcp);
		tcp.header.gso = 0;
		assert_true(receive(&t, tcp.frame, n, tcp.header));
		buffer = got(&t, &size);
		assert_non_null(buffer);
		assert_int_equal(buffer[0], 0);
		assert_true(test_tcp_right(&tcp, buffer + NET_HEADER_SIZE, n));
		end(&t);
	}
}

/* A reset in the middle of a cut packet forgets it. */
static void test_reset(void **state)
{
	struct test t;
	uint32_t size = 0;
	(void)state;
	tcp = (struct test_tcp){ .payload = 30000 };
	size_t n = test_tcp_make(&tcp);
	start(&t, "user", 0);
	give(&t, 4, BUFFER);
	assert_true(receive(&t, tcp.frame, n, tcp.header));
	test_reg_write(&t.g, 0x14, 1, 0);
	test_guest_settle(&t.g);
	assert_true(receive(&t, tcp.frame, n, tcp.header)); /* nobody listens */
	test_driver_start(&t.g, 0);
	give(&t, 4, BUFFER);
	assert_null(got(&t, &size));
	assert_true(receive(&t, arp, sizeof(arp), (struct net_header){ 0 }));
	assert_non_null(got(&t, &size));
	end(&t);
}

/* ---- what the driver does wrong ---- */

static void test_hostile(void **state)
{
	struct test t;
	struct net_header header = { .gso = NET_GSO_TCP4 };
	uint32_t head, len;
	(void)state;
	start(&t, "user", VIRTIO_BIT(NET_F_MRG_RXBUF));
	send_frame(&t, &header, arp, sizeof(arp)); /* not negotiated, and wrong */
	assert_true(test_used(&t.g, TX, &head, &len));
	test_send(&t.g, TX, OUT, 5, 0, 0); /* no whole header */
	test_send(&t.g, TX, 0, 0, OUT, 100);
	test_send(&t.g, TX, OUT, 0x20000, 0, 0); /* larger than any frame */
	test_guest_settle(&t.g);
	for (unsigned i = 0; i < 3; i++)
		assert_true(test_used(&t.g, TX, &head, &len));
	/* A header in pieces of which some are a byte. */
	memset(t.g.ram + OUT, 0, 12);
	memcpy(t.g.ram + OUT + 12, arp, sizeof(arp));
	uint64_t table = test_ring_desc(TX);
	test_desc(&t.g, table, 10, OUT, 1, TEST_DESC_NEXT, 11);
	test_desc(&t.g, table, 11, OUT + 1, 11, TEST_DESC_NEXT, 12);
	test_desc(&t.g, table, 12, OUT + 12, 1, TEST_DESC_NEXT, 13);
	test_desc(&t.g, table, 13, OUT + 13, sizeof(arp) - 1, 0, 0);
	test_avail(&t.g, TX, 10);
	give(&t, 2, BUFFER);
	test_notify(&t.g, TX);
	test_guest_settle(&t.g);
	assert_true(test_used(&t.g, TX, &head, &len));
	assert_non_null(got(&t, &len));
	assert_int_equal(test_reg_read(&t.g, 0x14, 1), 15);
	/* A receive buffer smaller than a header. */
	end(&t);
	start(&t, "user", VIRTIO_BIT(NET_F_MRG_RXBUF));
	give(&t, 1, 11);
	assert_true(receive(&t, arp, sizeof(arp), (struct net_header){ 0 }));
	assert_int_equal(test_reg_read(&t.g, 0x14, 1), 15 | VIRTIO_NEEDS_RESET);
	end(&t);
}

/* ---- the control queue ---- */

static unsigned command(struct test *t, unsigned class, unsigned what, const void *data, uint32_t size)
{
	uint32_t head, len;

	t->g.ram[COMMAND] = (uint8_t) class;
	t->g.ram[COMMAND + 1] = (uint8_t)what;
	memcpy(t->g.ram + COMMAND + 2, data, size);
	t->g.ram[COMMAND + 0x1000] = 0xee;
	test_send(&t->g, CONTROL, COMMAND, size + 2, COMMAND + 0x1000, 1);
	test_guest_settle(&t->g);
	assert_true(test_used(&t->g, CONTROL, &head, &len));
	assert_int_equal(len, 1);
	return t->g.ram[COMMAND + 0x1000];
}

/* Whether a frame to that address, tagged if vlan is 0 or more, reaches the driver. */
static bool reaches(struct test *t, const uint8_t mac[6], int vlan)
{
	uint8_t frame[60] = { 0 };
	uint32_t size;

	memcpy(frame, mac, 6);
	if (vlan >= 0) {
		frame[12] = 0x81;
		frame[14] = (uint8_t)(vlan >> 8);
		frame[15] = (uint8_t)vlan;
	}
	give(t, 1, BUFFER);
	assert_true(receive(t, frame, sizeof(frame), (struct net_header){ 0 }));
	bool came = got(t, &size);
	if (!came) { /* takes the buffer back */
		virtqueue_stop(&t->nic->v.queue[RX].vq);
		test_driver_start(&t->g, CONTROLS);
	}
	return came;
}

static void test_filter(void **state)
{
	struct test t;
	static const uint8_t own[] = { 2, 0, 0, 0, 0, 9 }, other[] = { 2, 0, 0, 0, 0, 10 },
			     multi[] = { 1, 0, 0x5e, 0, 0, 1 }, all[] = { 255, 255, 255, 255, 255, 255 };
	uint8_t table[4 + 6 + 4 + 6] = { 1 };
	struct nic *nic;
	(void)state;
	start(&t, "user,mac=02:00:00:00:00:09", CONTROLS);
	nic = t.nic;
	assert_int_equal(test_reg_read(&t.g, VIRTIO_PCI_CONFIG + 5, 1), 9);
	assert_true(nic_wants(nic, other, 6)); /* until told otherwise */
	assert_int_equal(command(&t, 0, 0, "\0", 1), 0);
	assert_false(nic_wants(nic, other, 6));
	assert_true(nic_wants(nic, own, 6));
	assert_true(nic_wants(nic, all, 6));
	assert_false(nic_wants(nic, multi, 6));
	assert_int_equal(command(&t, 0, 1, "\1", 1), 0);
	assert_true(nic_wants(nic, multi, 6));
	assert_int_equal(command(&t, 0, 5, "\1", 1), 0);
	assert_false(nic_wants(nic, all, 6));
	assert_int_equal(command(&t, 0, 1, "\0", 1), 0);
	memcpy(table + 4, other, 6);
	table[10] = 1;
	memcpy(table + 14, multi, 6);
	assert_int_equal(command(&t, 1, 0, table, sizeof(table)), 0);
	assert_true(nic_wants(nic, other, 6));
	assert_true(nic_wants(nic, multi, 6));
	/* Tables that lie about their length change nothing. */
	table[10] = 2;
	assert_int_equal(command(&t, 1, 0, table, sizeof(table)), 1);
	memset(table, 0xff, 4);
	assert_int_equal(command(&t, 1, 0, table, sizeof(table)), 1);
	assert_int_equal(command(&t, 1, 0, table, 3), 1);
	assert_true(nic_wants(nic, multi, 6));
	/* VLANs. */
	uint8_t tagged[18] = { 0 };
	memcpy(tagged, own, 6);
	tagged[12] = 0x81;
	tagged[15] = 5;
	assert_false(nic_wants(nic, tagged, 18));
	assert_int_equal(command(&t, 2, 0, "\5\0", 2), 0);
	assert_true(nic_wants(nic, tagged, 18));
	assert_int_equal(command(&t, 2, 1, "\5\0", 2), 0);
	assert_false(nic_wants(nic, tagged, 18));
	assert_int_equal(command(&t, 2, 0, "\0\x10", 2), 1);
	/* Another address. */
	assert_int_equal(command(&t, 1, 1, other, 6), 0);
	assert_int_equal(test_reg_read(&t.g, VIRTIO_PCI_CONFIG + 5, 1), 10);
	/* Not negotiated, not known, or too short. */
	assert_int_equal(command(&t, 4, 0, "\1\0", 2), 1);
	assert_int_equal(command(&t, 5, 0, "\0\0\0\0\0\0\0\0", 8), 1);
	assert_int_equal(command(&t, 9, 0, "", 0), 1);
	assert_int_equal(command(&t, 0, 6, "\1", 1), 1);
	assert_int_equal(command(&t, 0, 0, "", 0), 1);
	assert_true(reaches(&t, other, -1));
	/* A reset forgets it all. */
	assert_false(reaches(&t, own, 77));
	assert_int_equal(test_reg_read(&t.g, VIRTIO_PCI_CONFIG + 5, 1), 9);
	assert_true(nic_wants(nic, other, 6));
	end(&t);
}

static void test_offloads(void **state)
{
	struct test t;
	uint64_t features = CONTROLS | VIRTIO_BIT(NET_F_CTRL_GUEST_OFFLOADS) | ALL_OFFLOADS;
	(void)state;
	start(&t, "user", features);
	assert_int_equal(t.nic->can, NET_CAN_CHECKSUM | NET_CAN_TCP4 | NET_CAN_TCP6);
	assert_int_equal(command(&t, 5, 0, "\x02\0\0\0\0\0\0\0", 8), 0);
	assert_int_equal(t.nic->can, NET_CAN_CHECKSUM);
	assert_int_equal(command(&t, 5, 0, "\0\x02\0\0\0\0\0\0", 8), 1); /* ECN was not negotiated */
	assert_int_equal(command(&t, 5, 0, "\x80\0\0\0\0\0\0\0", 8), 0); /* segments without checksums: nothing */
	assert_int_equal(t.nic->can, 0);
	end(&t);
}

/* ---- state, options ---- */

static void test_move(void **state)
{
	struct test from, to;
	static const uint8_t other[] = { 2, 0, 0, 0, 0, 10 };
	(void)state;
	start(&from, "user", CONTROLS | VIRTIO_BIT(NET_F_STATUS) | VIRTIO_BIT(NET_F_GUEST_ANNOUNCE));
	assert_int_equal(command(&from, 1, 1, other, 6), 0);
	assert_int_equal(command(&from, 0, 0, "\0", 1), 0);
	make(&to, "user");
	assert_int_equal(test_guest_move(&from.g, &to.g), 0);
	test_guest_settle(&to.g);
	assert_memory_equal(&from.nic->filter, &to.nic->filter, sizeof(struct net_filter));
	assert_int_equal(test_reg_read(&to.g, VIRTIO_PCI_CONFIG + 5, 1), 10);
	assert_int_equal(test_reg_read(&to.g, VIRTIO_PCI_CONFIG + 6, 2), 3); /* up, and please announce */
	assert_int_equal(command(&to, 3, 0, "", 0), 0);
	assert_int_equal(test_reg_read(&to.g, VIRTIO_PCI_CONFIG + 6, 2), 1);
	end(&from);
	end(&to);
}

static void test_options(void **state)
{
	struct test t, same;
	struct error err;
	static const char *const bad[] = {
		"",
		"wire",
		"user,mac=1:2:3:4:5:6",
		"user,mac=01:00:00:00:00:01",
		"user,speed=9",
		"user,mtu=10",
		"user,mtu=70000",
		"user,forward=tcp:0:1",
		"users",
		"user,mac=02:00:00:00:00",
		"user,mac=02:00:00:00:00:0g",
		"user,bps=lots",
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(virtio_net_check(bad[i], &err), -22);
	assert_int_equal(virtio_net_check("type=user,mtu=9000,bps=10M,forward=tcp:1:2,forward=udp:3:4", &err), 0);
	make(&t, "none,mtu=9000");
	assert_int_equal(test_reg_read(&t.g, VIRTIO_PCI_CONFIG + 6, 2), 0); /* no link */
	assert_int_equal(test_reg_read(&t.g, VIRTIO_PCI_CONFIG + 10, 2), 9000);
	make(&same, "user");
	assert_memory_equal(t.nic->own_mac, same.nic->own_mac, 6);
	assert_int_equal(same.nic->own_mac[0], 2);
	end(&same);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arp),      cmocka_unit_test(test_mergeable), cmocka_unit_test(test_software),
		cmocka_unit_test(test_reset),    cmocka_unit_test(test_hostile),   cmocka_unit_test(test_filter),
		cmocka_unit_test(test_offloads), cmocka_unit_test(test_move),      cmocka_unit_test(test_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
