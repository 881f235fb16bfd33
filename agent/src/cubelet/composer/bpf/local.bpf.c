/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the loopback device, outward. What the node sends to its own address or to 127.0.0.1
 * never leaves its stack by itself: to a port that Services or pods have there it goes
 * into the datapath, as all does that the node sends to Services. A flow that asked 127.0.0.1
 * enters and is answered by the loopback device: no other takes packets of such addresses.
 */
CUBELET_INLINE int cubelet_served_here(struct __sk_buff *skb, struct cubelet_headers *h)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS;
	struct cubelet_exposed_address *exposed;
	__u16 port;

	if (!h->ip || h->tuple.protocol == CUBELET_ICMP)
		return 0;
	if (h->fragment == CUBELET_LATER ? cubelet_fragment_follow(skb, h, 0) : !h->ports)
		return 0;
	port = bpf_ntohs(h->tuple.dport);
	if ((port < CUBELET_NODE_PORT_FIRST || port > CUBELET_NODE_PORT_LAST) &&
	    !cubelet_host_port(h->tuple.protocol, port))
		return 0;
	if (!cubelet_addr_equal(&h->tuple.dst, &node) && !cubelet_addr_loopback(&h->tuple.dst)) {
		exposed = cubelet_lookup(cubelet_exposed, &h->tuple.dst);
		if (!exposed || !exposed->own)
			return 0;
	}
	/* only the node's own addresses may enter there: policy trusts the host's port */
	if (!cubelet_is_own(&h->tuple.src) && !cubelet_to_itself(&h->tuple))
		return 0;
	/* a client of the node's may have been given the number */
	return !cubelet_node_connected(skb, &h->tuple);
}

/* A later fragment before its first: a copy waits where the host's do, should that be served. */
CUBELET_INLINE void cubelet_keep_local(struct __sk_buff *skb, const struct cubelet_headers *h)
{
	struct cubelet_scratch *s = cubelet_scratch_get();

	if (!s || !cubelet_to_own(h) || !cubelet_is_own(&h->tuple.src))
		return;
	s->pkt.hdr = *h;
	s->pkt.ifindex = CUBELET_LOOPBACK;
	s->pkt.entered = CUBELET_HOST;
	s->pkt.stage = 0;
	cubelet_jump(skb, CUBELET_JUMP_FRAGMENT);
}

int cubelet_local(struct __sk_buff *skb)
{
	struct cubelet_headers h;

	if (cubelet_parse(skb, &h) == CUBELET_MALFORMED)
		return TC_ACT_UNSPEC;
	if (!cubelet_served_here(skb, &h)) {
		if (h.fragment == CUBELET_LATER && !h.tuple.dport &&
		    h.tuple.protocol != CUBELET_ICMP)
			cubelet_keep_local(skb, &h);
		return TC_ACT_UNSPEC;
	}
	if (h.fragment == CUBELET_FIRST) /* its followers may be here before it is tracked */
		cubelet_fragment_remember(&h, 0, CUBELET_KEEPER(CUBELET_HOST));
	return cubelet_enter_host(skb);
}
