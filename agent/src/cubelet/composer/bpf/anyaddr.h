/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers of the node's UDP sockets that are bound to INADDR_ANY. Their source is the
 * one that the kernel's route to the client prefers, whichever of the node's addresses
 * was asked (only a server that sends by IP_PKTINFO does better): no record is found by it.
 * Such an answer is put under the address that its flow expects it from.
 */
#pragma once

#include "entry.h"
#include "fragment.h"
#include "life.h"

/* The flow whose replies come from this address of the node's, else as the packet in hand does. */
CUBELET_INLINE struct cubelet_flow *cubelet_anyaddr_flow(struct cubelet_scratch *s,
							 const struct cubelet_addr *own)
{
	struct cubelet_flow *f;

	s->key = s->pkt.hdr.tuple;
	s->key.src = *own;
	f = cubelet_find(&s->key);
	return f && f->flags & CUBELET_FLOW_REPLY ? f : NULL;
}

#if CUBELET_FAMILY == 4
#define CUBELET_SOURCE_AT (ETH_HLEN + __builtin_offsetof(struct iphdr, saddr))
#else
#define CUBELET_SOURCE_AT (ETH_HLEN + __builtin_offsetof(struct ipv6hdr, saddr))
#endif

/* Makes `own` the packet's source. 0, or -1 if a helper refused. */
CUBELET_INLINE int cubelet_anyaddr_source(struct __sk_buff *skb, struct cubelet_headers *h,
					  const struct cubelet_addr *own)
{
	const __u32 check = (h->l4 & CUBELET_L4_MASK) + __builtin_offsetof(struct udphdr, check);
	const __u32 delta = cubelet_csum_delta(&h->tuple.src, own);

	if (h->fragment == CUBELET_FIRST) /* the others come from where it came */
		cubelet_fragment_remember(h, 0, CUBELET_KEEPER(CUBELET_HOST));
	if (h->fragment != CUBELET_LATER &&
	    bpf_l4_csum_replace(skb, check, 0, delta, CUBELET_PSEUDO | BPF_F_MARK_MANGLED_0))
		return -1;
#if CUBELET_FAMILY == 4
	if (bpf_l3_csum_replace(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, check), 0, delta,
				0))
		return -1;
#endif
	if (bpf_skb_store_bytes(skb, CUBELET_SOURCE_AT, own, sizeof(*own), 0))
		return -1;
	h->tuple.src = *own;
	return 0;
}

/* The flow that an answer of this tuple belongs to, under some address of the node's: *own. */
CUBELET_INLINE struct cubelet_flow *cubelet_anyaddr_find(struct cubelet_scratch *s,
							 struct cubelet_addr *own)
{
	struct cubelet_flow *f;

#pragma unroll
	for (__u32 i = 1; i <= CUBELET_OWN_ADDRESSES; i++) {
		if (!cubelet_own_address(i, own))
			return NULL;
		f = cubelet_anyaddr_flow(s, own);
		if (f)
			return f;
	}
	return NULL;
}

/* No flow knows a packet of the host's: is it such an answer? Then its source has been changed. */
CUBELET_INLINE struct cubelet_flow *cubelet_anyaddr(struct __sk_buff *skb,
						    struct cubelet_scratch *s)
{
	struct cubelet_headers *h = &s->pkt.hdr;
	struct cubelet_flow *f;
	struct cubelet_addr own;

	if (s->pkt.entered != CUBELET_HOST || h->tuple.protocol != IPPROTO_UDP ||
	    !cubelet_is_own(&h->tuple.src))
		return NULL;
	f = cubelet_anyaddr_find(s, &own);
	if (!f || !cubelet_enters(skb, f, CUBELET_HOST) || cubelet_anyaddr_source(skb, h, &own))
		return NULL;
	return f;
}
