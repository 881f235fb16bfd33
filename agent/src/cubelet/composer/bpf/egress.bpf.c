/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the uplink, outward. A flow from there that kept its client's address on its way to
 * one of the host's sockets is answered by the host's own routing, past the datapath:
 * what belongs to such a flow goes into the datapath by the host's port after all, and
 * leaves from there, translated. Only looks up; flows are the other programs' business.
 */

/* Does a packet with this tuple answer a flow from the uplink? */
CUBELET_INLINE int cubelet_answers(const struct cubelet_tuple *t)
{
	const struct cubelet_flow *f = cubelet_find(t);

	return f && f->flags & CUBELET_FLOW_REPLY && f->enters.port_class == CUBELET_HOST &&
	       f->leaves.port_class == CUBELET_UPLINK;
}

/* An ICMP error of the host's is about a packet that such a flow delivered. */
CUBELET_INLINE int cubelet_egress_related(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	__u32 ip_at;

	if (cubelet_related_parse(skb, s, &ip_at))
		return 0;
	cubelet_tuple_invert(&s->key, &s->quoted.tuple);
	return cubelet_answers(&s->key);
}

CUBELET_INLINE int cubelet_egress_ours(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS;
	struct cubelet_headers *h = &s->pkt.hdr;

	if (!h->ip || (h->fragment == CUBELET_LATER && cubelet_fragment_follow(skb, h, 0)))
		return 0;
	if (h->icmp_error)
		return cubelet_egress_related(skb, s);
	if (cubelet_answers(&h->tuple))
		return 1;
	/* one from a socket that is bound to any address: see anyaddr.h */
	if (h->tuple.protocol != IPPROTO_UDP || cubelet_addr_equal(&h->tuple.src, &node) ||
	    !cubelet_is_own(&h->tuple.src))
		return 0;
	s->key = h->tuple;
	s->key.src = node;
	return cubelet_answers(&s->key);
}

int cubelet_egress(struct __sk_buff *skb)
{
	const struct {
		__u8 dst[ETH_ALEN], src[ETH_ALEN];
	} addresses = { CUBELET_ROUTER_MAC, CUBELET_GATEWAY_MAC };
	struct cubelet_headers h;
	struct cubelet_scratch *s;

	if (skb->ingress_ifindex) /* of no socket here: from the datapath, or only forwarded */
		return TC_ACT_UNSPEC;
	if (cubelet_parse(skb, &h) == CUBELET_MALFORMED)
		return TC_ACT_UNSPEC;
	s = cubelet_scratch_get();
	if (!s)
		return TC_ACT_UNSPEC;
	s->pkt.hdr = h;
	if (!cubelet_egress_ours(skb, s) ||
	    bpf_skb_store_bytes(skb, 0, &addresses, sizeof(addresses), 0))
		return TC_ACT_UNSPEC;
	if (h.fragment == CUBELET_FIRST) /* its followers may be here before it is tracked */
		cubelet_fragment_remember(&h, 0, CUBELET_KEEPER(CUBELET_HOST));
	return bpf_redirect(CUBELET_DATAPATH_IFINDEX, BPF_F_INGRESS);
}
