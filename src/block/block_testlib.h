/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block_testlib.h - for tests of disks and of their users: a disk in memory whose requests end when the test says so and with what
 * it says, files to play with, and requests that are waited for with the loop turning.
 */
#ifndef PLURES_BLOCK_BLOCK_TESTLIB_H
#define PLURES_BLOCK_BLOCK_TESTLIB_H

#include <stdbool.h>
#include <stdint.h>

#include "block/driver.h"

/* ---- a disk in memory ---- */

struct test_disk {
	struct block block;
	uint8_t *bytes;
	bool hold;                               /* requests wait for test_disk_release, or for who waits for them */
	int fail;                                /* -errno that requests end with */
	struct block_request *held;              /* the last one that came first */
	unsigned counts[BLOCK_WRITE_ZEROES + 1]; /* requests by kind */
	unsigned kicks;
};

struct test_disk *test_disk_create(struct event_loop *loop, uint64_t size);
void test_disk_release(struct test_disk *disk);

/* ---- files ---- */

/* Makes a file of `size` bytes, each of which is that of its offset in test_byte, and leaves its path in `path`. */
enum { TEST_PATH = 64 };
void test_file(char path[TEST_PATH], uint64_t size);
uint8_t test_byte(uint64_t offset);

/* ---- requests ---- */

/* Does one request, with the loop turning: its result. */
int test_request(struct block *block, enum block_op op, uint64_t offset, void *bytes, uint64_t size);
int test_request_iov(struct block *block, enum block_op op, uint64_t offset, const struct iovec *iov, unsigned iovs,
		     uint64_t size);

#endif
