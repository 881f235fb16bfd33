/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Errors of our own: ICMP (RFC 792, RFC 1812 4.3.2) and TCP resets (RFC 9293
 * 3.5.2). They quote the packet as its sender sent it, go straight back to where
 * it came from, and have a budget per port of origin: whoever uses up their own
 * silences nobody else.
 */
#pragma once

#include "commit.h"
#if CUBELET_FAMILY == 4
#include "error4.h"
#else
#include "error6.h"
#endif

/* What an error is about: never an error, a later fragment, or a group (RFC 1122 3.2.2). */
CUBELET_INLINE int cubelet_error_allowed(const struct cubelet_pkt *pkt)
{
	const struct cubelet_headers *h = &pkt->hdr;

	if (h->icmp_error || h->fragment == CUBELET_LATER ||
	    !cubelet_error_ends(&h->tuple.src, &h->tuple.dst))
		return 0;
	return pkt->error_type || !(h->tcp_flags & CUBELET_TCP_RST);
}

/* One of `limit` in a second. CPUs share the bucket, and may overdraw it by one each. */
CUBELET_INLINE int cubelet_bucket_take(struct cubelet_bucket *bucket, __u32 limit)
{
	__u32 now = bpf_jiffies64();

	if (now - bucket->since >= CUBELET_HZ) {
		bucket->since = now;
		bucket->used = 0;
	}
	if (bucket->used >= limit)
		return 0;
	__sync_fetch_and_add(&bucket->used, 1);
	return 1;
}

/*
 * Is there an error left for the port that the packet entered by? A pod has a budget of its
 * own, the host, the overlay and the uplink one each. Without those that tell the path's MTU
 * connections hang, so no refusal uses these up; nor do all ports together the node's CPUs.
 */
CUBELET_INLINE int cubelet_error_within_rate(const struct cubelet_pkt *pkt)
{
	struct cubelet_bucket fresh = {}, *bucket;
	struct cubelet_error_origin origin = {};
	struct cubelet_index kind = {};
	__u32 limit = CUBELET_ERRORS_PER_SECOND;

	if (pkt->error_type == ICMP_DEST_UNREACH && pkt->error_code == ICMP_FRAG_NEEDED) {
		limit = CUBELET_PATH_MTU_ERRORS_PER_SECOND;
		kind.index = 1;
	}
	origin.ifindex = pkt->ifindex;
	origin.path_mtu = kind.index;
	bucket = cubelet_lookup(cubelet_error_rates, &origin);
	if (!bucket) {
		cubelet_update(cubelet_error_rates, &origin, &fresh, BPF_NOEXIST);
		bucket = cubelet_lookup(cubelet_error_rates, &origin);
	}
	if (!bucket || !cubelet_bucket_take(bucket, limit))
		return 0;
	bucket = cubelet_lookup(cubelet_error_ceilings, &kind);
	return bucket && cubelet_bucket_take(bucket, CUBELET_NODE_ERRORS_PER_SECOND);
}

CUBELET_INLINE int cubelet_error_swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12], swapped[12];

	if (bpf_skb_load_bytes(skb, 0, macs, 12))
		return -1;
	__builtin_memcpy(swapped, macs + 6, 6);
	__builtin_memcpy(swapped + 6, macs, 6);
	if (swapped[6] & 1) /* the sender addressed a group: answer as the router */
		__builtin_memcpy(swapped + 6, (__u8[6])CUBELET_ROUTER_MAC, 6);
	return bpf_skb_store_bytes(skb, 0, swapped, 12, 0);
}

/* The program behind CUBELET_JUMP_ERROR: drops the packet and tells its sender. */
CUBELET_INLINE int cubelet_send_error(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	int failed;

	if (!s)
		return TC_ACT_SHOT;
	cubelet_dropped(skb, &s->pkt, s->pkt.reason);
	if (!cubelet_error_allowed(&s->pkt))
		return TC_ACT_SHOT;
	if (!cubelet_error_within_rate(&s->pkt))
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_RATE_LIMITED);
	failed = s->pkt.error_type ? cubelet_error_icmp(skb, s) : cubelet_error_reset(skb, &s->pkt);
	if (failed || cubelet_error_swap_macs(skb))
		return TC_ACT_SHOT;
	return cubelet_send_back(skb, &s->pkt);
}
