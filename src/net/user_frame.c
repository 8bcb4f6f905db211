/* SPDX-License-Identifier: Apache-2.0 */
/*
 * user_frame.c - between a guest with an ordinary MTU and libslirp with a very large one.
 *
 * What a TCP connection costs in libslirp is counted in segments, so it is given large ones: it believes that its link
 * carries 64 KiB, and, where the guest takes TCP segments of any length, that the guest's largest segment is larger than
 * it is. What comes of that is cut to the guest's size by the guest's own driver, for which it is free.
 */
#include <arpa/inet.h>
#include <string.h>

#include "net/user.h"

enum { ETHERNET = 14, IP4_SIZE = 20 };
enum { TCP_FLAGS = 13, TCP_CHECKSUM = 16, TCP_OPTIONS = 20, TCP_SYN = 2 };
enum { OPTION_END = 0, OPTION_NOP = 1, OPTION_MSS = 2, OPTION_MSS_SIZE = 4 };
enum { IP4_DONT_FRAGMENT = 0x4000, IP4_MORE = 0x2000, IP4_OFFSET = 0x1fff };

static unsigned get16(const uint8_t *p)
{
	return (unsigned)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* The value of the option in [at, end) that announces the largest segment, or NULL. */
static uint8_t *find_mss(uint8_t *at, const uint8_t *end)
{
	while (at < end && *at != OPTION_END) {
		if (*at == OPTION_NOP) {
			at++;
			continue;
		}
		if (end - at < 2 || at[1] < 2 || at[1] > end - at)
			return NULL;
		if (*at == OPTION_MSS && at[1] == OPTION_MSS_SIZE)
			return at + 2;
		at += at[1];
	}
	return NULL;
}

void user_raise_segment_size(uint8_t *frame, size_t size)
{
	struct net_tcp tcp;

	if (!net_tcp_find(&tcp, frame, size) || !(frame[tcp.tcp + TCP_FLAGS] & TCP_SYN))
		return;
	uint8_t *mss = find_mss(frame + tcp.tcp + TCP_OPTIONS, frame + tcp.payload);
	if (!mss || get16(mss) >= USER_SEGMENT)
		return;
	/* RFC 1624, equation 3; a word at an odd address counts with its bytes swapped. */
	uint8_t *checksum = frame + tcp.tcp + TCP_CHECKSUM;
	unsigned old = get16(mss), new = USER_SEGMENT;
	put16(mss, new);
	if ((mss - (frame + tcp.tcp)) & 1) {
		old = (old >> 8 | old << 8) & 0xffff;
		new = (new >> 8 | new << 8) & 0xffff;
	}
	uint64_t sum = (~get16(checksum) & 0xffff) + (uint64_t)(~old & 0xffff) + new;
	put16(checksum, (uint16_t)~net_checksum_fold(sum));
}

/* The headers as they are, the checksum as a sender leaves it who wants it to be filled in. */
static bool send_tcp(const struct net_tcp *tcp, const uint8_t *frame, size_t size, unsigned mtu,
		     bool (*send)(void *ctx, const struct net_packet *packet), void *ctx)
{
	uint8_t checksum[2];
	unsigned at = tcp->tcp + TCP_CHECKSUM;
	struct iovec iov[] = {
		{ .iov_base = (void *)(uintptr_t)frame, .iov_len = at },
		{ .iov_base = checksum, .iov_len = 2 },
		{ .iov_base = (void *)(uintptr_t)(frame + at + 2), .iov_len = size - at - 2 },
	};
	struct net_packet packet = { .iov = iov, .iovs = 3, .size = size };

	put16(checksum, net_checksum_fold(net_tcp_pseudo(tcp, frame, size - tcp->tcp)));
	packet.header = (struct net_header){
		.flags = NET_NEEDS_CHECKSUM,
		.gso = tcp->ip6 ? NET_GSO_TCP6 : NET_GSO_TCP4,
		.header_size = (uint16_t)tcp->payload,
		.segment_size = (uint16_t)(mtu - (tcp->payload - tcp->ip)),
		.checksum_start = (uint16_t)tcp->tcp,
		.checksum_offset = TCP_CHECKSUM,
	};
	return send(ctx, &packet);
}

static bool send_whole(const uint8_t *frame, size_t size, bool (*send)(void *ctx, const struct net_packet *packet),
		       void *ctx)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)frame, .iov_len = size };
	struct net_packet packet = { .header.flags = NET_CHECKSUM_GOOD, .iov = &iov, .iovs = 1, .size = size };

	return send(ctx, &packet);
}

/* RFC 791, 3.2. What can't be sent once the first fragment was, is lost. */
static bool send_fragments(const uint8_t *frame, size_t size, unsigned mtu,
			   bool (*send)(void *ctx, const struct net_packet *packet), void *ctx)
{
	const uint8_t *ip = frame + ETHERNET;
	unsigned header = (ip[0] & 15u) * 4, field = get16(ip + 6);
	size_t payload = size - ETHERNET - header, part = (mtu - header) & ~7u;
	uint8_t copy[ETHERNET + 60];

	for (size_t done = 0; done < payload; done += part) {
		bool last = payload - done <= part;
		size_t n = last ? payload - done : part;
		struct iovec iov[] = {
			{ .iov_base = copy, .iov_len = ETHERNET + header },
			{ .iov_base = (void *)(uintptr_t)(ip + header + done), .iov_len = n },
		};
		struct net_packet packet = { .iov = iov, .iovs = 2, .size = ETHERNET + header + n };
		memcpy(copy, frame, ETHERNET + header);
		put16(copy + ETHERNET + 2, (unsigned)(header + n));
		put16(copy + ETHERNET + 6, (field & IP4_MORE) | (last ? 0 : IP4_MORE) |
					       (((field & IP4_OFFSET) + (unsigned)(done / 8)) & IP4_OFFSET));
		put16(copy + ETHERNET + 10, 0);
		put16(copy + ETHERNET + 10, (uint16_t)~net_checksum_fold(net_checksum_add(0, copy + ETHERNET, header)));
		if (!send(ctx, &packet) && !done)
			return false;
	}
	return true;
}

bool user_fit(const uint8_t *frame, size_t size, unsigned mtu, bool (*send)(void *ctx, const struct net_packet *packet),
	      void *ctx)
{
	struct net_tcp tcp;

	if (size <= ETHERNET + mtu)
		return send_whole(frame, size, send, ctx);
	if (net_tcp_find(&tcp, frame, size) && tcp.payload - tcp.ip < mtu)
		return send_tcp(&tcp, frame, size, mtu, send, ctx);
	const uint8_t *ip = frame + ETHERNET;
	if (get16(frame + 12) == 0x0800 && size > ETHERNET + IP4_SIZE && (ip[0] & 15) * 4 >= IP4_SIZE &&
	    (ip[0] & 15u) * 4 + 8 <= mtu && !(get16(ip + 6) & IP4_DONT_FRAGMENT))
		return send_fragments(frame, size, mtu, send, ctx);
	return send_whole(frame, size, send, ctx);
}
