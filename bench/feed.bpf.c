/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a timed run goes through before the program under test. A trial run with
 * `repeat` hands each run the packet as the run before left it; this puts the
 * frame's headers back first, and moves the source port on by feed->step.
 */
#include "state.h"

#define BENCH_WORDS 8
#define BENCH_JUMP_TARGET 255 /* slot of the jump table that holds the program under test */
#define BENCH_SOURCE_PORT (ETH_HLEN + sizeof(struct iphdr))

struct bench_feed {
	__u64 headers[BENCH_WORDS];
	__u16 port; /* of the next run, host byte order */
	__u16 step;
};

int bench_feed(struct __sk_buff *skb)
{
	struct bench_feed *feed = (void *)bench_feed_value;
	void *data = (void *)(long)skb->data;
	__u64 *words = data;

	if (data + sizeof(feed->headers) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
#pragma unroll
	for (int i = 0; i < BENCH_WORDS; i++)
		words[i] = feed->headers[i];
	*(__be16 *)(data + BENCH_SOURCE_PORT) = bpf_htons(feed->port);
	feed->port += feed->step;
	cubelet_jump(skb, BENCH_JUMP_TARGET);
	return TC_ACT_SHOT;
}
