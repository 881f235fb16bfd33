/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * policer: a token bucket for each limited direction of a pod's traffic.
 *
 * policer_rates has the limits in bits: {interface 7, egress} -> 10 Mbit/s, 500 ms deep.
 * policer_buckets has how much of them is used up, see cubelet/bucket.h. All CPUs share a
 * bucket, and never take the same twice.
 */
#include "cubelet.h"

#define POLICER_LARGEST (524288ULL * 8) /* bits of a packet, with BIG TCP */

/* How much of the wire a packet takes. */
struct policer_load {
	__u64 bytes; /* Ethernet headers included */
	__u32 packets;
};

/* A GSO packet is cut into segments that repeat its headers: counted as the kernel's qdiscs do. */
CUBELET_INLINE void policer_measure(struct __sk_buff *skb, const struct cubelet_headers *h,
				    struct policer_load *load)
{
	__u32 size = skb->gso_size, headers;

	load->bytes = skb->len;
	load->packets = 1;
	if (!size)
		return;
	headers = ETH_HLEN + h->size - size;
	if (skb->len <= headers + size)
		return;
	load->packets = (skb->len - headers + size - 1) / size;
	load->bytes += (__u64)(load->packets - 1) * headers;
}

/* A pod's first packet finds none: a new bucket is full. The agent removes it with the rate. */
CUBELET_INLINE struct policer_bucket *policer_bucket_of(const struct policer_limit_key *key)
{
	struct policer_bucket *bucket = cubelet_lookup(policer_buckets, key), full = {};

	if (bucket)
		return bucket;
	cubelet_update(policer_buckets, key, &full, BPF_NOEXIST);
	return cubelet_lookup(policer_buckets, key);
}

/* Does the limit of one direction of a pod, if there is one, let the packet pass? */
CUBELET_INLINE int policer_allows(struct __sk_buff *skb, const struct cubelet_headers *h,
				  __u32 ifindex, __u8 direction)
{
	struct policer_limit_key key = {};
	struct policer_bucket *bucket;
	struct policer_rate *rate;
	struct policer_load load;

	key.ifindex = ifindex;
	key.direction = direction;
	rate = cubelet_lookup(policer_rates, &key);
	if (!rate)
		return 1;
	policer_measure(skb, h, &load);
	bucket = policer_bucket_of(&key);
	if (!bucket ||
	    cubelet_tokens_take(&bucket->bits, &rate->bits, load.bytes * 8, POLICER_LARGEST))
		return 1;
	__sync_fetch_and_add(&bucket->dropped_packets, load.packets);
	__sync_fetch_and_add(&bucket->dropped_bytes, load.bytes);
	return 0;
}

/* Between two pods of a node both have their say; what the receiver drops, the sender has sent. */
static __always_inline __u16 policer_packet(struct __sk_buff *skb, const struct cubelet_headers *h,
					    struct cubelet_flow *flow)
{
	if (flow->enters.port_class == CUBELET_POD &&
	    !policer_allows(skb, h, flow->enters.ifindex, POLICER_EGRESS))
		return POLICER_REASON_EGRESS_RATE;
	if (flow->leaves.port_class == CUBELET_POD &&
	    !policer_allows(skb, h, flow->leaves.ifindex, POLICER_INGRESS))
		return POLICER_REASON_INGRESS_RATE;
	return 0;
}
