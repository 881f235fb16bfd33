/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * nat: gives a new flow the source address that its replies find back to.
 *
 * By an uplink leave packets of the node's address there, by the overlay of the
 * node's podCIDR; what is delivered on the node itself may not seem to come
 * from the receiver. nat_exempt has the networks that are shown pods' own
 * addresses: 10.0.0.0/8 -> present.
 */
#include "cubelet.h"

#define NAT_ICMP (CUBELET_FAMILY == 4 ? 1 : 58)

CUBELET_INLINE int nat_exempted(const struct cubelet_pkt *pkt)
{
	struct nat_exempt_key key = {};

	key.prefixlen = 8 * sizeof(key.network);
	key.network = pkt->cur.dst;
	return !!cubelet_lookup(nat_exempt, &key);
}

/* Many senders share the address: those without a port to tell them apart by keep what they have.
 */
CUBELET_INLINE void nat_masquerade(struct cubelet_pkt *pkt, const struct cubelet_addr *address)
{
	switch (pkt->cur.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case NAT_ICMP:
		cubelet_set_src_range(pkt, address, CUBELET_SNAT_FIRST,
				      CUBELET_SNAT_LAST - CUBELET_SNAT_FIRST + 1);
		break;
	default:
		cubelet_set_src(pkt, address, pkt->cur.sport);
	}
}

/*
 * Does it go by the uplink as it is? Replies to a client on the uplink, or to the
 * node itself, come back here of their own accord only if nothing was translated,
 * and never because an exempt network knows the way to pods. None come to 127.0.0.1.
 */
CUBELET_INLINE int nat_keeps_src(const struct cubelet_pkt *pkt, const struct cubelet_addr *own)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS;

	if (cubelet_addr_loopback(&pkt->cur.src))
		return 0;
	if (pkt->in.port_class == CUBELET_UPLINK || cubelet_addr_equal(&pkt->cur.src, own) ||
	    cubelet_addr_equal(&pkt->cur.src, &node))
		return !cubelet_dst_translated(pkt);
	return nat_exempted(pkt);
}

/*
 * What the node itself sends by the uplink is not seen here. Translated ports are kept
 * out of its hands; without one, replies to a pod and to the node could not be told apart,
 * and a pod that sends GRE, ESP or SCTP to the node's peer would have the node's answers.
 */
CUBELET_INLINE int nat_by_uplink(struct cubelet_pkt *pkt)
{
	struct cubelet_addr own = cubelet_uplink_address(pkt->out.ifindex);

	if (nat_keeps_src(pkt, &own))
		return cubelet_next(pkt);
	if (!pkt->hdr.ports)
		return cubelet_drop(pkt, NAT_REASON_NO_PORTS);
	nat_masquerade(pkt, &own);
	return cubelet_next(pkt);
}

/* The far node takes only sources of this node's podCIDR, of which the host has the gateway's. */
CUBELET_INLINE void nat_by_overlay(struct cubelet_pkt *pkt)
{
	struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS, pods = CUBELET_POD_NETWORK;

	if (pkt->in.port_class == CUBELET_UPLINK ||
	    (pkt->in.port_class == CUBELET_HOST &&
	     !cubelet_addr_within(&pkt->cur.src, &pods, CUBELET_POD_PREFIX)))
		nat_masquerade(pkt, &gateway);
}

/*
 * To a backend of the host network: its reply to another host would leave by
 * the uplink untranslated, its reply to itself would never leave the host. Where
 * the client's address has to be kept, the first is found there on its way out.
 */
CUBELET_INLINE void nat_to_host(struct cubelet_pkt *pkt)
{
	struct cubelet_addr hairpin = CUBELET_HAIRPIN_ADDRESS;

	if (pkt->flags & CUBELET_KEEP_SRC)
		return;
	if ((pkt->in.port_class == CUBELET_HOST || pkt->in.port_class == CUBELET_UPLINK) &&
	    cubelet_dst_translated(pkt))
		nat_masquerade(pkt, &hairpin);
}

/*
 * A pod that is its own backend drops what claims to come from itself, and any
 * what claims to come from 127.0.0.1, by which the node asks its own ports.
 */
CUBELET_INLINE void nat_to_pod(struct cubelet_pkt *pkt)
{
	struct cubelet_addr hairpin = CUBELET_HAIRPIN_ADDRESS, gateway = CUBELET_GATEWAY_ADDRESS;

	if (cubelet_addr_loopback(&pkt->cur.src))
		nat_masquerade(pkt, &gateway);
	if (pkt->in.port_class == CUBELET_POD && pkt->in.ifindex == pkt->out.ifindex)
		cubelet_set_src(pkt, &hairpin, pkt->cur.sport);
}

static __always_inline int nat_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	if (cubelet_rejudging(pkt))
		return cubelet_next(pkt);
	switch (pkt->out.port_class) {
	case CUBELET_UPLINK:
		return nat_by_uplink(pkt);
	case CUBELET_OVERLAY:
		nat_by_overlay(pkt);
		break;
	case CUBELET_HOST:
		nat_to_host(pkt);
		break;
	case CUBELET_POD:
		nat_to_pod(pkt);
		break;
	}
	return cubelet_next(pkt);
}
