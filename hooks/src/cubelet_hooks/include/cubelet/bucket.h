/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Token buckets that all CPUs share; cubelet_hooks/buckets.py has the records.
 * A bucket is one moment on the clock, up to which the allowance is used up:
 *
 *        used_ns      now           what is free: at most the depth
 *   --------|----------|------>     10 ms before now, 12,500 bytes may pass;
 *           |<- free ->|            a packet of 1,250 moves used_ns on by 1 ms
 *
 * So time fills it, and one word holds it all (ITU-T I.371 calls this the virtual
 * scheduling algorithm). That word moves by compare-and-swap, which BPF has from
 * Linux 5.12 on: CPUs that take at once never take the same time twice. Taking
 * costs some 60 ns, of which the clock is 35.
 */
#pragma once

#include "cubelet/packet.h"

#define CUBELET_BUCKET_TRIES 4
#define CUBELET_BUCKET_SECOND 1000000000ULL

/* How long the rate needs for so many tokens, in ns. */
CUBELET_INLINE __u64 cubelet_tokens_time(const struct cubelet_token_rate *rate, __u64 tokens)
{
	return tokens * CUBELET_BUCKET_SECOND / rate->per_second;
}

/* A debt that `largest` does not make at today's rate is one of a slower rate of before: cut it. */
CUBELET_INLINE void cubelet_tokens_cut(struct cubelet_token_bucket *bucket,
				       const struct cubelet_token_rate *rate, __u64 largest,
				       __u64 used, __u64 now)
{
	__u64 most = now + cubelet_tokens_time(rate, largest);

	if (used > most)
		__sync_val_compare_and_swap(&bucket->used_ns, used, most);
}

/*
 * Takes so many tokens: 1, or 0 if there are not as many. `largest` is the most that is ever taken
 * at once. What is more than a whole bucket passes when that is full, and is paid for after.
 */
CUBELET_INLINE int cubelet_tokens_take(struct cubelet_token_bucket *bucket,
				       const struct cubelet_token_rate *rate, __u64 tokens,
				       __u64 largest)
{
	__u64 cost = cubelet_tokens_time(rate, tokens), depth = rate->depth_ns;
	__u64 now = bpf_ktime_get_ns(), need = cost > depth ? depth : cost;

	if (!rate->per_second)
		return 0;
#pragma unroll
	for (int i = 0; i < CUBELET_BUCKET_TRIES; i++) {
		__u64 used = *(volatile __u64 *)&bucket->used_ns, from = used;

		if (from + depth < now)
			from = now - depth;
		if (from + need > now) {
			cubelet_tokens_cut(bucket, rate, largest, used, now);
			return 0;
		}
		if (__sync_val_compare_and_swap(&bucket->used_ns, used, from + cost) == used)
			return 1;
	}
	/* others took each time: pass in debt, by one taking for each CPU at the most */
	__sync_fetch_and_add(&bucket->used_ns, cost);
	return 1;
}
