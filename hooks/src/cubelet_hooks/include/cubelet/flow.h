/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows: two records, one life. See cubelet_hooks/flows.py for the layouts.
 *
 * A reply's record is its forward record inverted, so either one can be made
 * from the other: key and `to` are the two ends of the same translation.
 */
#pragma once

#include "cubelet/epoch.h"

enum cubelet_flow_state {
	CUBELET_FLOW_PENDING = 0, /* in the small LRU table */
	CUBELET_FLOW_ESTABLISHED = 1,
	CUBELET_FLOW_CLOSING = 2,
};

enum cubelet_flow_flag {
	CUBELET_FLOW_REPLY = 1,
	CUBELET_FLOW_ROUTED = 2,
	CUBELET_FLOW_TRANSLATED = 4,
	CUBELET_FLOW_FIN_FORWARD = 8,
	CUBELET_FLOW_FIN_REPLY = 16,
	CUBELET_FLOW_REPLIED = 32, /* the other side has been heard */
	CUBELET_FLOW_ALIVE_FORWARD = 64, /* data since the connection was said to end */
	CUBELET_FLOW_ALIVE_REPLY = 128,
	CUBELET_FLOW_RANGE = 256, /* its source port is one of a range that many share */
};

CUBELET_INLINE void cubelet_tuple_invert(struct cubelet_tuple *to, const struct cubelet_tuple *from)
{
	struct cubelet_tuple inverted = *from;

	inverted.src = from->dst;
	inverted.dst = from->src;
	inverted.sport = from->dport;
	inverted.dport = from->sport;
	*to = inverted;
}

/* Without branches, of which the verifier would follow each. */
CUBELET_INLINE int cubelet_tuple_equal(const struct cubelet_tuple *a, const struct cubelet_tuple *b)
{
	__u32 differ = (a->sport ^ b->sport) | (a->dport ^ b->dport) | (a->protocol ^ b->protocol);

#pragma unroll
	for (int i = 0; i < CUBELET_ADDR_WORDS; i++)
		differ |= (a->src.w[i] ^ b->src.w[i]) | (a->dst.w[i] ^ b->dst.w[i]);
	return !differ;
}

/* A well-mixed hash of a tuple (multiply-xorshift), the same for the same tuple everywhere. */
CUBELET_INLINE __u32 cubelet_tuple_hash(const struct cubelet_tuple *t)
{
	__u64 hash = cubelet_addr_fold(&t->src) * 0x9E3779B97F4A7C15ULL;

	hash = (hash ^ (hash >> 29) ^ cubelet_addr_fold(&t->dst)) * 0xBF58476D1CE4E5B9ULL;
	hash = (hash ^ (hash >> 32) ^ ((__u32)t->sport << 16 | t->dport) ^ t->protocol) *
	       0x94D049BB133111EBULL;
	return hash ^ (hash >> 32);
}

/* Seconds that a flow may be idle, by protocol and state. */
CUBELET_INLINE __u32 cubelet_flow_timeout(__u8 protocol, __u8 state)
{
	if (state == CUBELET_FLOW_CLOSING)
		return CUBELET_TIMEOUT_CLOSING;
	if (state == CUBELET_FLOW_PENDING)
		return protocol == IPPROTO_TCP ? CUBELET_TIMEOUT_SYN : CUBELET_TIMEOUT_PENDING;
	if (protocol == IPPROTO_TCP)
		return CUBELET_TIMEOUT_TCP;
	if (protocol == IPPROTO_UDP)
		return CUBELET_TIMEOUT_UDP;
	if (protocol == CUBELET_ICMP)
		return CUBELET_TIMEOUT_ICMP;
	return CUBELET_TIMEOUT_OTHER;
}

/*
 * Cubes' fields of a flow. While cubes judge, they are in the packet's metadata: zero for
 * a new flow. All of it is compiled out where no cube has any.
 */
CUBELET_INLINE void cubelet_area_clear(struct cubelet_pkt *pkt)
{
#if CUBELET_AREA_USED
	__builtin_memset(pkt->area, 0, sizeof(pkt->area));
#endif
}

CUBELET_INLINE void cubelet_area_load(struct cubelet_pkt *pkt, const struct cubelet_flow *f)
{
#if CUBELET_AREA_USED
	__builtin_memcpy(pkt->area, f->area, sizeof(pkt->area));
#endif
}

CUBELET_INLINE void cubelet_area_store(struct cubelet_flow *f, const struct cubelet_pkt *pkt)
{
#if CUBELET_AREA_USED
	__builtin_memcpy(f->area, pkt->area, sizeof(pkt->area));
#endif
}

/* Is a cached verdict still the one that today's configuration gives? */
CUBELET_INLINE int cubelet_flow_current(const struct cubelet_flow *f)
{
	return f->epoch_sum == cubelet_epoch_sum(f->epoch_src, f->epoch_dst, f->epoch_backend);
}
