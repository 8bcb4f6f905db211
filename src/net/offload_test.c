/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/net_testlib.h"
#include "net/offload.h"

/* As RFC 1071 writes it down, a word at a time. */
static uint16_t slow_sum(uint32_t sum, const uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void test_sum(void **state)
{
	uint8_t bytes[200];
	(void)state;
	srand(1);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)rand();
	for (unsigned from = 0; from < 20; from++)
		for (unsigned size = 0; size <= sizeof(bytes) - from; size++)
			assert_int_equal(net_checksum_fold(net_checksum_add(77, bytes + from, size)),
					 slow_sum(77, bytes + from, size));
	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(net_checksum_fold(net_checksum_add(0, bytes, 199)), slow_sum(0, bytes, 199));
}

static struct net_packet packet_of(const struct iovec *iov, struct net_header header)
{
	return (struct net_packet){ .header = header, .iov = iov, .iovs = 1, .size = iov->iov_len };
}

static void test_check(void **state)
{
	uint8_t frame[100] = { 0 };
	struct iovec iov = { frame, sizeof(frame) };
	const struct net_header good[] = {
		{ 0 },
		{ .flags = NET_CHECKSUM_GOOD },
		{ .flags = NET_NEEDS_CHECKSUM, .checksum_start = 34, .checksum_offset = 64 },
		{ .flags = NET_NEEDS_CHECKSUM,
		  .gso = NET_GSO_TCP4 | NET_GSO_ECN,
		  .segment_size = 1,
		  .checksum_start = 34,
		  .checksum_offset = 16 },
	};
	const struct net_header bad[] = {
		{ .flags = NET_NEEDS_CHECKSUM, .checksum_start = 34, .checksum_offset = 65 },
		{ .flags = NET_NEEDS_CHECKSUM, .checksum_start = 0xffff, .checksum_offset = 0xffff },
		{ .gso = NET_GSO_ECN },
		{ .gso = 3, .flags = NET_NEEDS_CHECKSUM, .segment_size = 1, .checksum_offset = 16 },
		{ .gso = NET_GSO_TCP4, .segment_size = 1, .checksum_start = 34, .checksum_offset = 16 },
		{ .gso = NET_GSO_TCP6, .flags = NET_NEEDS_CHECKSUM, .checksum_start = 34, .checksum_offset = 16 },
		{ .gso = NET_GSO_TCP6, .flags = NET_NEEDS_CHECKSUM, .segment_size = 1, .checksum_start = 34 },
	};
	(void)state;
	for (unsigned i = 0; i < sizeof(good) / sizeof(*good); i++) {
		struct net_packet packet = packet_of(&iov, good[i]);
		assert_true(net_packet_check(&packet));
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct net_packet packet = packet_of(&iov, bad[i]);
		assert_false(net_packet_check(&packet));
	}
	struct net_packet packet = packet_of(&iov, good[0]);
	packet.size = 13;
	assert_false(net_packet_check(&packet));
	packet.size = NET_FRAME_MAX + 1;
	assert_false(net_packet_check(&packet));
}

static void test_complete(void **state)
{
	struct test_tcp t = { .payload = 333 };
	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		t.ip6 = i & 1;
		t.tag = i & 2;
		t.options = i & 4 ? 12 : 0;
		size_t size = test_tcp_make(&t);
		assert_false(test_tcp_right(&t, t.frame, size));
		net_checksum_complete(&t.header, t.frame, size);
		assert_int_equal(t.header.flags, NET_CHECKSUM_GOOD);
		assert_true(test_tcp_right(&t, t.frame, size));
		net_checksum_complete(&t.header, t.frame, size); /* nothing to do */
		assert_true(test_tcp_right(&t, t.frame, size));
	}
}

/* The pieces of a segment are right in every field, and their payloads together are the whole's. */
static void cut(struct test_tcp *t, unsigned segment_size)
{
	static uint8_t piece[NET_FRAME_MAX];
	struct net_segments s;
	size_t size = test_tcp_make(t), n, done = 0;
	unsigned index = 0;

	t->header.segment_size = (uint16_t)segment_size;
	assert_true(net_segments_begin(&s, &t->header, t->frame, size));
	while ((n = net_segments_next(&s, piece))) {
		struct net_tcp tcp;
		assert_true(test_tcp_right(t, piece, n));
		assert_true(net_tcp_find(&tcp, piece, n));
		size_t part = n - tcp.payload;
		bool last = done + part == t->payload;
		assert_true(last ? part <= segment_size : part == segment_size);
		assert_memory_equal(piece + tcp.payload, t->frame + tcp.payload + done, part);
		assert_int_equal(test_be32(piece + tcp.tcp + 4), TEST_TCP_SEQUENCE + done);
		assert_int_equal(piece[tcp.tcp + 13] & 0x89, (last ? 0x09 : 0) | (index ? 0 : 0x80));
		if (!t->ip6)
			assert_int_equal(test_be16(piece + tcp.ip + 4), (TEST_IP_ID + index) & 0xffff);
		done += part;
		index++;
	}
	assert_int_equal(done, t->payload);
	assert_int_equal(net_segments_next(&s, piece), 0);
}

static void test_segments(void **state)
{
	struct test_tcp t = { .flags = 0x99 };
	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		t.ip6 = i & 1;
		t.tag = i & 2;
		t.options = i & 4 ? 12 : 0;
		static const unsigned payloads[] = { 0, 1, 1459, 1460, 1461, 2920, 10001, 65000 };
		for (unsigned j = 0; j < sizeof(payloads) / sizeof(*payloads); j++) {
			t.payload = payloads[j];
			cut(&t, 1460);
			cut(&t, 65535);
			if (payloads[j] < 3000)
				cut(&t, 7);
		}
	}
}

/* A header that lies about the frame cuts nothing. */
static void test_wrong_segments(void **state)
{
	struct test_tcp t = { .payload = 3000 };
	struct net_segments s;
	(void)state;
	size_t size = test_tcp_make(&t);
	struct net_header h = t.header;
	assert_true(net_segments_begin(&s, &h, t.frame, size));
	h.gso = NET_GSO_TCP6;
	assert_false(net_segments_begin(&s, &h, t.frame, size));
	h = t.header;
	h.checksum_start++;
	assert_false(net_segments_begin(&s, &h, t.frame, size));
	static const struct {
		unsigned at;
		uint8_t value;
	} lies[] = { { 12, 9 },    { 14, 0x65 }, { 14, 0x44 }, { 14, 0x4f },
		     { 20, 0x20 }, { 23, 17 },   { 46, 0x40 }, { 12, 0x81 } };
	for (unsigned i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		test_tcp_make(&t);
		t.frame[lies[i].at] = lies[i].value;
		assert_false(net_segments_begin(&s, &t.header, t.frame, size));
	}
	test_tcp_make(&t);
	for (size_t n = 0; n < 54; n++)
		assert_false(net_segments_begin(&s, &t.header, t.frame, n));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sum),      cmocka_unit_test(test_check),          cmocka_unit_test(test_complete),
		cmocka_unit_test(test_segments), cmocka_unit_test(test_wrong_segments),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
