/* SPDX-License-Identifier: Apache-2.0 */
/* net_testlib.h - frames for tests: TCP over IPv4 or IPv6, and a look at whether one is right by an arithmetic of its own. */
#ifndef PLURES_NET_TESTLIB_H
#define PLURES_NET_TESTLIB_H

#include "net/net.h"

enum { TEST_TCP_SEQUENCE = 0x7ffffff0, TEST_IP_ID = 0xfffe };

struct test_tcp {
	bool ip6, tag;
	unsigned options; /* bytes of TCP options, a multiple of 4 */
	unsigned payload;
	uint8_t flags; /* of TCP */
	uint8_t frame[NET_FRAME_MAX];
	struct net_header header; /* as a sender writes it who leaves checksum and segmentation to be done */
};

/* Fills in frame and header; returns the frame's size. */
size_t test_tcp_make(struct test_tcp *t);
/* Whether lengths and checksums of a frame of that kind are right. */
bool test_tcp_right(const struct test_tcp *t, const uint8_t *frame, size_t size);

uint16_t test_be16(const uint8_t *p);
uint32_t test_be32(const uint8_t *p);

#endif
