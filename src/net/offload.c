/* SPDX-License-Identifier: Apache-2.0 */
#include "net/offload.h"

#include <arpa/inet.h>
#include <string.h>

enum { ETHERNET = 14, TAG = 4, TAGS_MAX = 2, ETHERTYPE = 12 };
enum { TYPE_IP4 = 0x0800, TYPE_IP6 = 0x86dd, TYPE_TAG = 0x8100, TYPE_SERVICE_TAG = 0x88a8 };
enum {
	IP4_SIZE = 20,
	IP4_LENGTH = 2,
	IP4_ID = 4,
	IP4_FRAGMENT = 6,
	IP4_PROTOCOL = 9,
	IP4_CHECKSUM = 10,
	IP4_SOURCE = 12
};
enum { IP6_SIZE = 40, IP6_LENGTH = 4, IP6_NEXT = 6, IP6_SOURCE = 8 };
enum { TCP_SIZE = 20, TCP_SEQUENCE = 4, TCP_OFFSET = 12, TCP_FLAGS = 13, TCP_CHECKSUM = 16, PROTOCOL_TCP = 6 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

/* ---- integers in network order ---- */

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

/* ---- packets ---- */

bool net_packet_check(const struct net_packet *packet)
{
	const struct net_header *h = &packet->header;
	unsigned gso = h->gso & ~(unsigned)NET_GSO_ECN;

	if (packet->size < NET_FRAME_MIN || packet->size > NET_FRAME_MAX)
		return false;
	if (h->flags & NET_NEEDS_CHECKSUM && (size_t)h->checksum_start + h->checksum_offset + 2 > packet->size)
		return false;
	if (!gso)
		return h->gso == NET_GSO_NONE;
	return (gso == NET_GSO_TCP4 || gso == NET_GSO_TCP6) && h->segment_size && h->flags & NET_NEEDS_CHECKSUM &&
	       h->checksum_offset == TCP_CHECKSUM;
}

void net_packet_copy(const struct net_packet *packet, void *to)
{
	uint8_t *p = to;

	for (unsigned i = 0; i < packet->iovs; i++) {
		memcpy(p, packet->iov[i].iov_base, packet->iov[i].iov_len);
		p += packet->iov[i].iov_len;
	}
}

/* ---- checksums: RFC 1071 ---- */

/* Sums are of 16-bit words as this host reads them, and turned round at the end: the sum does not mind (RFC 1071, 2 (B)). */
static uint64_t add_words(uint64_t sum, const uint8_t *p, size_t size)
{
	uint64_t other = 0;

	for (; size >= 16; p += 16, size -= 16) {
		uint32_t w[4];
		memcpy(w, p, sizeof(w));
		sum += (uint64_t)w[0] + w[1];
		other += (uint64_t)w[2] + w[3];
	}
	sum += other;
	for (; size >= 2; p += 2, size -= 2) {
		uint16_t w;
		memcpy(&w, p, sizeof(w));
		sum += w;
	}
	if (size)
		sum += *p; /* as if a zero followed */
	return sum;
}

static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

uint64_t net_checksum_add(uint64_t sum, const void *bytes, size_t size)
{
	return sum + ntohs(fold(add_words(0, bytes, size)));
}

uint16_t net_checksum_fold(uint64_t sum)
{
	return fold(sum);
}

/* 0 stands for "no checksum" in UDP, and 0xffff means the same sum. */
static void store_checksum(uint8_t *p, uint64_t sum)
{
	uint16_t value = (uint16_t)~fold(sum);

	put16(p, value ? value : 0xffff);
}

void net_checksum_complete(struct net_header *header, uint8_t *frame, size_t size)
{
	if (!(header->flags & NET_NEEDS_CHECKSUM))
		return;
	store_checksum(frame + header->checksum_start + header->checksum_offset,
		       net_checksum_add(0, frame + header->checksum_start, size - header->checksum_start));
	header->flags = (uint8_t)((header->flags & ~NET_NEEDS_CHECKSUM) | NET_CHECKSUM_GOOD);
	header->checksum_start = header->checksum_offset = 0;
}

/* ---- TCP ---- */

/* The offset of the network header; *type is its ethertype. 0 when the frame is too short. */
static unsigned network_header(const uint8_t *frame, size_t size, uint16_t *type)
{
	unsigned at = ETHERNET;

	*type = 0;
	if (size < ETHERNET)
		return 0;
	*type = get16(frame + ETHERTYPE);
	for (unsigned i = 0; i < TAGS_MAX && (*type == TYPE_TAG || *type == TYPE_SERVICE_TAG); i++) {
		if (size < at + TAG)
			return 0;
		*type = get16(frame + at + TAG - 2);
		at += TAG;
	}
	return at;
}

/* The offset of the TCP header behind an IP header at tcp->ip, or 0. */
static unsigned behind_ip4(const struct net_tcp *tcp, const uint8_t *frame, size_t size)
{
	const uint8_t *ip = frame + tcp->ip;

	if (size - tcp->ip < IP4_SIZE || ip[0] >> 4 != 4 || ip[IP4_PROTOCOL] != PROTOCOL_TCP ||
	    get16(ip + IP4_FRAGMENT) & 0x3fff)
		return 0;
	unsigned header = (ip[0] & 15u) * 4;
	return header < IP4_SIZE ? 0 : tcp->ip + header;
}

static unsigned behind_ip6(const struct net_tcp *tcp, const uint8_t *frame, size_t size)
{
	const uint8_t *ip = frame + tcp->ip;

	if (size - tcp->ip < IP6_SIZE || ip[0] >> 4 != 6 || ip[IP6_NEXT] != PROTOCOL_TCP)
		return 0;
	return tcp->ip + IP6_SIZE;
}

bool net_tcp_find(struct net_tcp *tcp, const uint8_t *frame, size_t size)
{
	uint16_t type;

	tcp->ip = network_header(frame, size, &type);
	if (!tcp->ip || (type != TYPE_IP4 && type != TYPE_IP6))
		return false;
	tcp->ip6 = type == TYPE_IP6;
	tcp->tcp = tcp->ip6 ? behind_ip6(tcp, frame, size) : behind_ip4(tcp, frame, size);
	if (!tcp->tcp || size < tcp->tcp + TCP_SIZE)
		return false;
	unsigned header = (frame[tcp->tcp + TCP_OFFSET] >> 4) * 4u;
	tcp->payload = tcp->tcp + header;
	return header >= TCP_SIZE && tcp->payload <= size;
}

uint64_t net_tcp_pseudo(const struct net_tcp *tcp, const uint8_t *frame, size_t size)
{
	const uint8_t *ip = frame + tcp->ip;
	uint64_t sum = PROTOCOL_TCP + size;

	return tcp->ip6 ? net_checksum_add(sum, ip + IP6_SOURCE, 32) : net_checksum_add(sum, ip + IP4_SOURCE, 8);
}

/* ---- segments ---- */

bool net_segments_begin(struct net_segments *s, const struct net_header *header, const uint8_t *frame, size_t size)
{
	*s = (struct net_segments){ .frame = frame, .size = size, .segment_size = header->segment_size };
	if (!net_tcp_find(&s->tcp, frame, size) || !s->segment_size)
		return false;
	unsigned gso = header->gso & ~(unsigned)NET_GSO_ECN;
	s->next = s->tcp.payload;
	return gso == (s->tcp.ip6 ? NET_GSO_TCP6 : NET_GSO_TCP4) && header->checksum_start == s->tcp.tcp;
}

static void fix_ip(const struct net_segments *s, uint8_t *ip, size_t size)
{
	if (s->tcp.ip6) {
		put16(ip + IP6_LENGTH, (unsigned)(size - s->tcp.ip - IP6_SIZE));
		return;
	}
	put16(ip + IP4_LENGTH, (unsigned)(size - s->tcp.ip));
	put16(ip + IP4_ID, get16(ip + IP4_ID) + s->index);
	put16(ip + IP4_CHECKSUM, 0);
	put16(ip + IP4_CHECKSUM, (uint16_t)~fold(net_checksum_add(0, ip, s->tcp.tcp - s->tcp.ip)));
}

static void fix_tcp(const struct net_segments *s, uint8_t *frame, size_t size, bool last)
{
	uint8_t *tcp = frame + s->tcp.tcp;

	put32(tcp + TCP_SEQUENCE, get32(tcp + TCP_SEQUENCE) + (uint32_t)(s->next - s->tcp.payload));
	if (!last)
		tcp[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	if (s->index)
		tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
	put16(tcp + TCP_CHECKSUM, 0);
	uint64_t sum = net_tcp_pseudo(&s->tcp, frame, size - s->tcp.tcp);
	store_checksum(tcp + TCP_CHECKSUM, net_checksum_add(sum, tcp, size - s->tcp.tcp));
}

size_t net_segments_next(struct net_segments *s, uint8_t *frame)
{
	if (s->done)
		return 0;
	size_t left = s->size - s->next, part = left < s->segment_size ? left : s->segment_size;
	size_t size = s->tcp.payload + part;

	memcpy(frame, s->frame, s->tcp.payload);
	memcpy(frame + s->tcp.payload, s->frame + s->next, part);
	s->done = part == left;
	fix_ip(s, frame + s->tcp.ip, size);
	fix_tcp(s, frame, size, s->done);
	s->next += part;
	s->index++;
	return size;
}
