/* SPDX-License-Identifier: Apache-2.0 */
#include "base/token_bucket.h"

__extension__ typedef unsigned __int128 u128;

#define NS_PER_S 1000000000ull
#define LARGEST ((uint64_t)INT64_MAX / 4)

void token_bucket_init(struct token_bucket *bucket, uint64_t rate, uint64_t least, uint64_t now)
{
	uint64_t burst = rate / 10 > least ? rate / 10 : least;

	*bucket = (struct token_bucket){ .rate = rate, .then = now };
	bucket->burst = bucket->tokens = (int64_t)(burst < LARGEST ? burst : LARGEST);
}

static void fill(struct token_bucket *bucket, uint64_t now)
{
	u128 more = (u128)(now - bucket->then) * bucket->rate / NS_PER_S;

	if (more >= (uint64_t)(bucket->burst - bucket->tokens)) {
		bucket->tokens = bucket->burst;
		bucket->then = now;
	} else if (more) {
		bucket->tokens += (int64_t)more;
		/* Not to `now`: a token of which a part has come must not be lost. */
		bucket->then += (uint64_t)((more * NS_PER_S + bucket->rate - 1) / bucket->rate);
	}
}

bool token_bucket_open(struct token_bucket *bucket, uint64_t now)
{
	if (!bucket->rate)
		return true;
	if (bucket->tokens <= 0)
		fill(bucket, now);
	return bucket->tokens > 0;
}

void token_bucket_take(struct token_bucket *bucket, uint64_t size)
{
	if (bucket->rate)
		bucket->tokens -= (int64_t)(size < LARGEST ? size : LARGEST);
}

uint64_t token_bucket_wait(struct token_bucket *bucket, uint64_t now)
{
	if (token_bucket_open(bucket, now))
		return 0;
	u128 debt = (uint64_t)(1 - bucket->tokens);
	uint64_t wait = (uint64_t)((debt * NS_PER_S + bucket->rate - 1) / bucket->rate), past = now - bucket->then;

	return wait > past ? wait - past : 1;
}
