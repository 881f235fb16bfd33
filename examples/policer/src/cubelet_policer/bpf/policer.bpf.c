/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * policer: a token bucket for each limited direction of a pod's traffic.
 *
 * policer_rates has the limits: {interface 7, egress} -> 10 Mbit/s, 500 ms deep.
 * A bucket is one moment on the clock, up to which the allowance is used up:
 *
 *        used_ns      now           what is free: at most the depth
 *   --------|----------|------>     10 ms before now, 12,500 bytes may pass;
 *           |<- free ->|            a packet of 1,250 moves used_ns on by 1 ms
 *
 * So time fills it, and one word holds it all (ITU-T I.371 calls this the virtual
 * scheduling algorithm). That word moves by compare-and-swap: CPUs that take at
 * once never take the same time twice.
 */
#include "cubelet.h"

#define POLICER_TRIES 4
#define POLICER_SECOND 1000000000ULL
#define POLICER_LARGEST 524288ULL /* bytes of a packet, with BIG TCP */

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

/* How long so many bytes take at a rate, in ns. */
CUBELET_INLINE __u64 policer_time(__u64 bytes, const struct policer_rate *rate)
{
	return bytes * 8 * POLICER_SECOND / rate->bits_per_second;
}

/* A debt that no packet makes at today's rate is one of a slower rate of before: cut it. */
CUBELET_INLINE void policer_cut_debt(struct policer_bucket *bucket, const struct policer_rate *rate,
				     __u64 used, __u64 now)
{
	__u64 most = now + policer_time(POLICER_LARGEST, rate);

	if (used > most)
		__sync_val_compare_and_swap(&bucket->used_ns, used, most);
}

/* Is there room for the packet? Then it is taken. */
CUBELET_INLINE int policer_take(struct policer_bucket *bucket, const struct policer_rate *rate,
				__u64 bytes)
{
	__u64 cost = policer_time(bytes, rate);
	__u64 depth = rate->depth_ns, need = cost, now = bpf_ktime_get_ns();

	/* what is larger than the bucket passes when that is full, and is paid for after */
	if (need > depth)
		need = depth;
#pragma unroll
	for (int i = 0; i < POLICER_TRIES; i++) {
		__u64 used = *(volatile __u64 *)&bucket->used_ns, from = used;

		if (from + depth < now)
			from = now - depth;
		if (from + need > now) {
			policer_cut_debt(bucket, rate, used, now);
			return 0;
		}
		if (__sync_val_compare_and_swap(&bucket->used_ns, used, from + cost) == used)
			return 1;
	}
	/* others took each time: pass in debt, by a packet for each CPU at the most */
	__sync_fetch_and_add(&bucket->used_ns, cost);
	return 1;
}

/* A pod's first packet finds none: a new bucket is full. The agent is told, to remove old ones. */
CUBELET_INLINE struct policer_bucket *policer_bucket_of(const struct policer_limit_key *key)
{
	struct policer_bucket *bucket = cubelet_lookup(policer_buckets, key), full = {};
	struct policer_event event = {};

	if (bucket)
		return bucket;
	cubelet_update(policer_buckets, key, &full, BPF_NOEXIST);
	event.ifindex = key->ifindex;
	event.direction = key->direction;
	policer_emit(&event);
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
	if (!bucket || policer_take(bucket, rate, load.bytes))
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
