/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the loopback device, outward. What the node sends to its own address never
 * leaves its stack by itself: to a port that Services or pods have there it goes
 * into the datapath, as all does that the node sends to Services.
 */
CUBELET_INLINE int cubelet_served_here(struct __sk_buff *skb, struct cubelet_headers *h)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS;
	struct cubelet_exposed_address *exposed;
	__u16 port;

	if (!h->ip || h->tuple.protocol == IPPROTO_ICMP)
		return 0;
	if (h->fragment == CUBELET_LATER ? cubelet_fragment_follow(h) : !h->ports)
		return 0;
	port = bpf_ntohs(h->tuple.dport);
	if ((port < CUBELET_NODE_PORT_FIRST || port > CUBELET_NODE_PORT_LAST) &&
	    !cubelet_host_port(h->tuple.protocol, port))
		return 0;
	if (!cubelet_addr_equal(&h->tuple.dst, &node)) {
		exposed = cubelet_lookup(cubelet_exposed, &h->tuple.dst);
		if (!exposed || !exposed->own)
			return 0;
	}
	/* only the node's own addresses may enter there: policy trusts the host's port */
	if (!cubelet_is_own(&h->tuple.src))
		return 0;
	/* a client of the node's may have been given the number */
	return !cubelet_node_connected(skb, &h->tuple);
}

int cubelet_local(struct __sk_buff *skb)
{
	const struct {
		__u8 dst[ETH_ALEN], src[ETH_ALEN];
	} addresses = { CUBELET_ROUTER_MAC, CUBELET_GATEWAY_MAC };
	struct cubelet_headers h;

	if (cubelet_parse(skb, &h) == CUBELET_MALFORMED || !cubelet_served_here(skb, &h) ||
	    bpf_skb_store_bytes(skb, 0, &addresses, sizeof(addresses), 0))
		return TC_ACT_UNSPEC;
	if (h.fragment == CUBELET_FIRST) /* its followers may be here before it is tracked */
		cubelet_fragment_remember(&h);
	/* not by the gateway's other end, which drops what is too big without a word */
	return bpf_redirect(CUBELET_DATAPATH_IFINDEX, BPF_F_INGRESS);
}
