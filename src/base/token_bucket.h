/* SPDX-License-Identifier: Apache-2.0 */
/*
 * token_bucket.h - a limit to so much a second, with bursts.
 *
 * Who wants to do something of `size` asks whether the bucket is open, does it, and takes the size out of it. What is
 * taken may be more than there is: the bucket is then shut until the debt is paid, so something larger than a burst
 * passes as well, and the mean rate holds. Times are in nanoseconds of any clock that does not go back. One thread.
 */
#ifndef PLURES_BASE_TOKEN_BUCKET_H
#define PLURES_BASE_TOKEN_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct token_bucket {
	uint64_t rate; /* a second; 0: no limit */
	int64_t burst, tokens;
	uint64_t then; /* when `tokens` was right */
};

/* Full, with a burst of a tenth of a second but at least `least`. */
void token_bucket_init(struct token_bucket *bucket, uint64_t rate, uint64_t least, uint64_t now);
bool token_bucket_open(struct token_bucket *bucket, uint64_t now);
void token_bucket_take(struct token_bucket *bucket, uint64_t size);
/* Nanoseconds from `now` until it is open: 0 if it is. */
uint64_t token_bucket_wait(struct token_bucket *bucket, uint64_t now);

#endif
