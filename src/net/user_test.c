/* SPDX-License-Identifier: Apache-2.0 */
/* The user network's own parts: forwards as text, and frames between two ideas of how large one is. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/net_testlib.h"
#include "net/user.h"

static void test_forwards(void **state)
{
	struct user_forward f;
	struct error err;
	(void)state;
	assert_int_equal(user_forward_parse("tcp:2222:22", &f, &err), 0);
	assert_false(f.udp);
	assert_int_equal(f.host.s_addr, htonl(0x7f000001));
	assert_int_equal(f.host_port, 2222);
	assert_int_equal(f.guest_port, 22);
	assert_int_equal(user_forward_parse("udp:0.0.0.0:65535:1", &f, &err), 0);
	assert_true(f.udp);
	assert_int_equal(f.host.s_addr, 0);
	assert_int_equal(f.host_port, 65535);
	static const char *const bad[] = { "",
					   "2222:22",
					   "tcp:22",
					   "tcp:",
					   "tcp:0:22",
					   "tcp:22:0",
					   "tcp:65536:22",
					   "tcp:22:70000",
					   "tcp:x:22",
					   "tcp:22:",
					   "tcp:a.b:1:2",
					   "icmp:1:2",
					   "tcp:1.2.3:1:2",
					   "tcp::1:2",
					   "tcp:-1:22",
					   "tcp:[::1]:1:2" };
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		err.text[0] = '\0';
		assert_int_equal(user_forward_parse(bad[i], &f, &err), -22);
		assert_true(strlen(err.text) > 20);
	}
}

static void test_raise(void **state)
{
	struct test_tcp t = { 0 };
	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		unsigned pad = i >> 2 & 1; /* an option at an odd address */
		t.ip6 = i & 1;
		t.options = 8;
		t.payload = i & 2 ? 1 : 0; /* with data of an odd size */
		t.flags = 2;
		size_t size = test_tcp_make(&t);
		uint8_t *option = t.frame + t.header.checksum_start + 20;
		const uint8_t options[2][8] = { { 2, 4, 0x05, 0xb4, 1, 3, 3, 7 }, { 1, 2, 4, 0x05, 0xb4, 3, 3, 7 } };
		memcpy(option, options[pad], 8);
		net_checksum_complete(&t.header, t.frame, size);
		user_raise_segment_size(t.frame, size);
		assert_int_equal(test_be16(option + pad + 2), USER_SEGMENT);
		assert_true(test_tcp_right(&t, t.frame, size));
		/* Once is enough. */
		uint8_t before[200];
		memcpy(before, t.frame, size);
		user_raise_segment_size(t.frame, size);
		assert_memory_equal(before, t.frame, size);
	}
	t.flags = 0x10;
	t.ip6 = false;
	size_t size = test_tcp_make(&t);
	memcpy(t.frame + 54, (const uint8_t[]){ 2, 4, 5, 0xb4, 0, 0, 0, 0 }, 8);
	user_raise_segment_size(t.frame, size);
	assert_int_equal(test_be16(t.frame + 56), 0x5b4);
}

/* Options that end outside of their header are left alone. */
static void test_raise_hostile(void **state)
{
	struct test_tcp t = { .flags = 2, .options = 8 };
	static const uint8_t options[][8] = {
		{ 1, 1, 1, 1, 1, 1, 1, 2 }, { 3, 0, 2, 4, 0, 9, 1, 1 }, { 3, 1, 2, 4, 0, 9, 1, 1 },
		{ 5, 9, 2, 4, 0, 9, 1, 1 }, { 0, 2, 4, 0, 9, 1, 1, 1 }, { 2, 3, 9, 2, 2, 3, 9, 2 },
		{ 1, 1, 1, 1, 1, 2, 4, 0 },
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(options) / sizeof(*options); i++) {
		size_t size = test_tcp_make(&t);
		memcpy(t.frame + 54, options[i], 8);
		user_raise_segment_size(t.frame, size);
		assert_memory_equal(t.frame + 54, options[i], 8);
	}
}

struct sink {
	unsigned packets, refuse_from;
	size_t bytes;
	uint8_t last[NET_FRAME_MAX];
	struct net_packet packet;
};

static bool take(void *ctx, const struct net_packet *packet)
{
	struct sink *sink = ctx;

	if (sink->packets == sink->refuse_from)
		return false;
	assert_true(net_packet_check(packet));
	net_packet_copy(packet, sink->last);
	sink->packet = *packet;
	sink->bytes += packet->size;
	sink->packets++;
	return true;
}

static void test_fit_tcp(void **state)
{
	static struct test_tcp t = { .payload = 16000, .flags = 0x18 };
	static uint8_t piece[NET_FRAME_MAX];
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct sink sink = { .refuse_from = 99 };
		struct net_segments s;
		t.ip6 = i;
		size_t size = test_tcp_make(&t), n;
		net_checksum_complete(&t.header, t.frame, size);
		assert_true(user_fit(t.frame, size, 1500, take, &sink));
		assert_int_equal(sink.packets, 1);
		assert_int_equal(sink.packet.size, size);
		assert_true(net_segments_begin(&s, &sink.packet.header, sink.last, size));
		while ((n = net_segments_next(&s, piece))) {
			assert_true(n <= 14 + 1500);
			assert_true(test_tcp_right(&t, piece, n));
		}
		struct net_header h = sink.packet.header;
		net_checksum_complete(&h, sink.last, size);
		assert_true(test_tcp_right(&t, sink.last, size));
		/* A small one goes as it is, and a refused one was not taken. */
		sink = (struct sink){ .refuse_from = 1 };
		assert_true(user_fit(t.frame, size, 16100, take, &sink));
		assert_int_equal(sink.packet.header.gso, 0);
		assert_false(user_fit(t.frame, size, 1500, take, &sink));
	}
}

static void test_fit_fragments(void **state)
{
	static struct test_tcp t = { .payload = 5000 };
	struct sink sink = { .refuse_from = 99 };
	(void)state;
	size_t size = test_tcp_make(&t);
	t.frame[23] = 17; /* UDP, */
	t.frame[20] = 0;  /* which may be fragmented */
	assert_true(user_fit(t.frame, size, 1500, take, &sink));
	size_t payload = size - 34, expect = 0;
	unsigned n = 0;
	for (; expect < payload; expect += 1480)
		n++;
	assert_int_equal(sink.packets, n);
	assert_int_equal(sink.bytes, payload + n * 34u);
	assert_int_equal(test_be16(sink.last + 20), (n - 1) * 1480 / 8); /* the last: no more to come */
	assert_memory_equal(sink.last + 34, t.frame + 34 + (n - 1) * 1480u, sink.packet.size - 34);
	sink = (struct sink){ .refuse_from = 0 };
	assert_false(user_fit(t.frame, size, 1500, take, &sink));
	sink = (struct sink){ .refuse_from = 2 };
	assert_true(user_fit(t.frame, size, 1500, take, &sink));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forwards),      cmocka_unit_test(test_raise),
		cmocka_unit_test(test_raise_hostile), cmocka_unit_test(test_fit_tcp),
		cmocka_unit_test(test_fit_fragments),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
