/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Echo replies that two may have asked for. Translation gives each pod's ping an identifier
 * of its own, but the node's pings have whichever they like, and nothing tells us. So a reply
 * to the node's address that is a pod's by its record may be the node's as well, and both get
 * it: the pod a translated copy, the node the frame as it came. A host ignores replies to what
 * it has not asked.
 */
#pragma once

#include "entry.h"

#define CUBELET_ECHO_IP (ETH_HLEN + CUBELET_IP_BYTES)
#define CUBELET_ECHO_L4 64 /* where the kept transport header stands in s->quote */

/* Can the packet in hand be an answer to the node's own ping, or one of its fragments? */
CUBELET_INLINE int cubelet_echo_of_node(const struct cubelet_pkt *pkt)
{
	return pkt->entered == CUBELET_UPLINK && pkt->hdr.tuple.protocol == CUBELET_ICMP &&
	       !pkt->hdr.ports && cubelet_is_own(&pkt->hdr.tuple.dst);
}

/* Keeps what translation writes over. 0, or a helper's error. */
CUBELET_INLINE long cubelet_echo_keep(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	long failed = bpf_skb_load_bytes(skb, 0, s->quote, CUBELET_ECHO_IP);

	if (s->pkt.hdr.fragment != CUBELET_LATER)
		failed |= bpf_skb_load_bytes(skb, s->pkt.hdr.l4, s->quote + CUBELET_ECHO_L4, 8);
	return failed;
}

/* A copy of the frame, which has been made fit for it, goes to where `to` leads. */
CUBELET_INLINE void cubelet_echo_copy(struct __sk_buff *skb, const struct cubelet_hop *to)
{
	bpf_clone_redirect(skb, to->ifindex, to->port_class == CUBELET_HOST ? BPF_F_INGRESS : 0);
}

/* After the copy: the frame as it came is the node's. */
CUBELET_INLINE int cubelet_echo_share(struct __sk_buff *skb, struct cubelet_scratch *s,
				      const struct cubelet_hop *to)
{
	long failed;

	cubelet_echo_copy(skb, to);
	failed = bpf_skb_store_bytes(skb, 0, s->quote, CUBELET_ECHO_IP, 0);
	if (s->pkt.hdr.fragment != CUBELET_LATER)
		failed |= bpf_skb_store_bytes(skb, s->pkt.hdr.l4, s->quote + CUBELET_ECHO_L4, 8, 0);
	return failed ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
