/* SPDX-License-Identifier: Apache-2.0 */
#include "net/net_testlib.h"

#include <string.h>

enum { ETHERNET = 14, TAG = 4, TCP = 20 };

uint16_t test_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

uint32_t test_be32(const uint8_t *p)
{
	return (uint32_t)test_be16(p) << 16 | test_be16(p + 2);
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint16_t sum(uint32_t sum, const uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static unsigned ip_at(const struct test_tcp *t)
{
	return ETHERNET + (t->tag ? TAG : 0);
}

static unsigned tcp_at(const struct test_tcp *t)
{
	return ip_at(t) + (t->ip6 ? 40 : 20);
}

static uint16_t pseudo(const struct test_tcp *t, const uint8_t *ip, size_t size)
{
	uint16_t addresses = t->ip6 ? sum(0, ip + 8, 32) : sum(0, ip + 12, 8);

	return sum((uint32_t)(addresses + 6 + size), NULL, 0);
}

size_t test_tcp_make(struct test_tcp *t)
{
	unsigned ip = ip_at(t), tcp = tcp_at(t), head = TCP + t->options;
	size_t size = tcp + head + t->payload;
	uint8_t *f = t->frame;

	for (unsigned i = 0; i < size; i++)
		f[i] = (uint8_t)(i * 7 + i / 256);
	f[0] = 0x02;
	put16(f + 12, t->tag ? 0x8100 : t->ip6 ? 0x86dd : 0x0800);
	if (t->tag)
		put16(f + 16, t->ip6 ? 0x86dd : 0x0800);
	if (t->ip6) {
		put16(f + ip, 0x6000);
		put16(f + ip + 4, (unsigned)(size - tcp) & 0xffff);
		f[ip + 6] = 6;
	} else {
		put16(f + ip, 0x4500);
		put16(f + ip + 2, (unsigned)(size - ip) & 0xffff);
		put16(f + ip + 4, TEST_IP_ID);
		put16(f + ip + 6, 0x4000);
		f[ip + 9] = 6;
		put16(f + ip + 10, 0);
		put16(f + ip + 10, (uint16_t)~sum(0, f + ip, 20));
	}
	put16(f + tcp + 4, TEST_TCP_SEQUENCE >> 16);
	put16(f + tcp + 6, TEST_TCP_SEQUENCE & 0xffff);
	f[tcp + 12] = (uint8_t)(head / 4 << 4);
	f[tcp + 13] = t->flags;
	put16(f + tcp + 16, pseudo(t, f + ip, size - tcp));
	t->header = (struct net_header){
		.flags = NET_NEEDS_CHECKSUM,
		.gso = t->ip6 ? NET_GSO_TCP6 : NET_GSO_TCP4,
		.header_size = (uint16_t)(tcp + head),
		.segment_size = 1460,
		.checksum_start = (uint16_t)tcp,
		.checksum_offset = 16,
	};
	return size;
}

bool test_tcp_right(const struct test_tcp *t, const uint8_t *f, size_t size)
{
	unsigned ip = ip_at(t), tcp = tcp_at(t);

	if (size < tcp + TCP + t->options)
		return false;
	if (t->ip6 && test_be16(f + ip + 4) != size - tcp)
		return false;
	if (!t->ip6 && (test_be16(f + ip + 2) != size - ip || sum(0, f + ip, 20) != 0xffff))
		return false;
	return sum(pseudo(t, f + ip, size - tcp), f + tcp, size - tcp) == 0xffff;
}
