/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Layer 3. One map, routes, is a trie from prefixes to where they lead:
 *
 *   0.0.0.0/0      -> UPLINK        what the kernel's routing table says
 *   10.96.0.0/12   -> UNREACHABLE   Services that do not exist
 *   10.0.1.0/24    -> SEGMENT       pods of this node: the bridge finds them
 *   10.0.1.1/32    -> HOST          the gateway, the node's addresses
 *   10.0.2.0/24    -> OVERLAY, remote 192.0.2.2
 *
 * Errors are sent by RFC 1812, section 5.2.7.1.
 */
#include "cubelet.h"

#define ROUTER_FULL_LENGTH (CUBELET_ADDR_WORDS * 32)
#define ROUTER_TTL 64 /* of what the router itself sends */

/* RouteKind in Python. */
enum router_route_kind {
	ROUTER_SEGMENT = 0,
	ROUTER_HOST = 1,
	ROUTER_OVERLAY = 2,
	ROUTER_UPLINK = 3,
	ROUTER_UNREACHABLE = 4,
	ROUTER_BROADCAST = 5,
};

/* Is the address one that nothing is ever routed to? 0, or the reason to drop the packet. */
static __always_inline __u16 router_refused(const struct cubelet_addr *dst)
{
	__u32 first = bpf_ntohl(dst->w[0]);

#if CUBELET_FAMILY == 4
	/* 0.0.0.0/8, 127.0.0.0/8; 224.0.0.0/3: multicast, reserved and the limited broadcast */
	if (first >> 24 == 0 || first >> 24 == 127 || first >= 0xe0000000)
		return ROUTER_REASON_MARTIAN;
		/* 169.254.0.0/16 is routed: hosts and clouds serve DNS and metadata to pods there
		 */
#else
	/* ff00::/8; ::/96, with unspecified and loopback */
	if (first >> 24 == 0xff || !(dst->w[0] | dst->w[1] | dst->w[2]))
		return ROUTER_REASON_MARTIAN;
	if (first >> 22 == 0x3fa) /* fe80::/10 */
		return ROUTER_REASON_LINK_LOCAL;
#endif
	return 0;
}

static __always_inline int router_unreachable(struct cubelet_pkt *pkt, __u16 reason, __u8 code)
{
	return cubelet_reject(pkt, reason, ICMP_DEST_UNREACH, code, 0);
}

/* Nothing has changed where the packet goes. */
static __always_inline int router_untranslated(const struct cubelet_pkt *pkt)
{
	return cubelet_addr_equal(&pkt->orig.dst, &pkt->cur.dst);
}

static __always_inline int router_to_segment(struct cubelet_pkt *pkt)
{
	pkt->next_hop = pkt->cur.dst;
	pkt->flags |= CUBELET_TO_SEGMENT;
	return cubelet_forward(pkt, CUBELET_POD, 0);
}

static __always_inline int router_to_overlay(struct cubelet_pkt *pkt, __be32 remote)
{
	if (pkt->in.port_class == CUBELET_OVERLAY)
		return cubelet_drop(pkt, ROUTER_REASON_OVERLAY_LOOP);
	__builtin_memcpy(pkt->out.dst_mac, (__u8[ETH_ALEN])CUBELET_ROUTER_MAC, ETH_ALEN);
	__builtin_memcpy(pkt->out.src_mac, (__u8[ETH_ALEN])CUBELET_ROUTER_MAC, ETH_ALEN);
	pkt->out.remote = remote;
	pkt->out.mtu = CUBELET_OVERLAY_MTU;
	return cubelet_forward(pkt, CUBELET_OVERLAY, CUBELET_OVERLAY_IFINDEX);
}

/*
 * Fits everywhere, and asks for the route's MTU. Kernels before 5.12 leave this in its place: then
 * the uplink's counts.
 */
#define ROUTER_ASKED_BYTES 1

/* Fills the question: how would the kernel forward this packet of the gateway's? */
static __always_inline void router_fib_ask(const struct cubelet_pkt *pkt,
					   struct bpf_fib_lookup *fib)
{
	fib->l4_protocol = pkt->cur.protocol;
	fib->sport = pkt->cur.sport;
	fib->dport = pkt->cur.dport;
	fib->tot_len = ROUTER_ASKED_BYTES;
	fib->ifindex = CUBELET_GATEWAY_IFINDEX;
	fib->family = CUBELET_AF;
#if CUBELET_FAMILY == 4
	fib->ipv4_src = pkt->cur.src.w[0];
	fib->ipv4_dst = pkt->cur.dst.w[0];
#else
	__builtin_memcpy(fib->ipv6_src, pkt->cur.src.w, sizeof(fib->ipv6_src));
	__builtin_memcpy(fib->ipv6_dst, pkt->cur.dst.w, sizeof(fib->ipv6_dst));
#endif
}

/*
 * The route's MTU while its next hop's MAC address is not known: then the kernel tells it only to
 * who asks for a packet that does not fit. 0 if it does not tell.
 */
static __always_inline __u16 router_fib_mtu(struct __sk_buff *skb, const struct cubelet_pkt *pkt)
{
	struct bpf_fib_lookup fib = {};

	router_fib_ask(pkt, &fib);
	fib.tot_len = 0xffff;
	if (bpf_fib_lookup(skb, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	return fib.mtu_result;
}

/*
 * Out by an uplink. The next hop's MAC address is the kernel's business: the core
 * transmits through its neighbour table.
 */
static __always_inline int router_transmit(struct cubelet_pkt *pkt,
					   const struct bpf_fib_lookup *fib,
					   const struct cubelet_uplink *uplink)
{
	__u16 mtu = CUBELET_UPLINK_MTU;

	if (fib->mtu_result > ROUTER_ASKED_BYTES && fib->mtu_result < mtu)
		mtu = fib->mtu_result;
	__builtin_memset(pkt->out.dst_mac, 0, ETH_ALEN);
	__builtin_memcpy(pkt->out.src_mac, uplink->mac, ETH_ALEN);
	pkt->out.mtu = mtu;
#if CUBELET_FAMILY == 4
	pkt->out.remote = fib->ipv4_dst;
#endif
	return cubelet_forward(pkt, CUBELET_UPLINK, fib->ifindex);
}

/*
 * By the kernel's routing table. What that leads to a device that is no uplink,
 * or keeps for the node itself, the node's stack gets; unless it was the stack that
 * sent the packet here, or would send it back, when there is no route to speak of.
 */
static __always_inline int router_by_kernel(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	const struct cubelet_uplink *uplink;
	struct bpf_fib_lookup fib = {};
	long found;

	router_fib_ask(pkt, &fib);
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		fib.mtu_result = router_fib_mtu(skb, pkt);
	switch (found) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		if (fib.ifindex == CUBELET_GATEWAY_IFINDEX)
			return router_unreachable(pkt, ROUTER_REASON_NO_ROUTE, ICMP_NET_UNREACH);
		uplink = cubelet_uplink_at(fib.ifindex);
		if (uplink && fib.family == CUBELET_AF)
			return router_transmit(pkt, &fib, uplink);
		break;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
		return cubelet_drop(pkt, ROUTER_REASON_BLACKHOLE);
	case BPF_FIB_LKUP_RET_UNREACHABLE:
		return router_unreachable(pkt, ROUTER_REASON_HOST_UNREACHABLE, ICMP_HOST_UNREACH);
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return router_unreachable(pkt, ROUTER_REASON_PROHIBITED, ICMP_PKT_FILTERED);
	}
	if (pkt->in.port_class == CUBELET_HOST && router_untranslated(pkt))
		return router_unreachable(pkt, ROUTER_REASON_NO_ROUTE, ICMP_NET_UNREACH);
	return cubelet_to_stack(pkt);
}

/* A checksum after one 16-bit word under it has changed (RFC 1624, equation 3). */
static __always_inline __u16 router_csum(__u16 check, __u16 from, __u16 to)
{
	__u32 sum = (__u16)~check + (__u16)~from + to;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Is the packet in hand a ping to the gateway, from where the router itself answers? */
static __always_inline int router_is_ping(const struct cubelet_pkt *pkt)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS;
	__u8 from = pkt->in.port_class;

	return (from == CUBELET_POD || from == CUBELET_OVERLAY) && pkt->mode == CUBELET_NEW &&
	       pkt->cur.protocol == CUBELET_ICMP && pkt->hdr.fragment == CUBELET_WHOLE &&
	       router_untranslated(pkt) && cubelet_addr_equal(&pkt->cur.dst, &gateway);
}

/* Turns the IP header round: back to the sender, with all its hops before it. 0, or an error. */
static __always_inline long router_turn(struct __sk_buff *skb)
{
#if CUBELET_FAMILY == 4
	struct iphdr ip;
	__be32 asked;
	__u16 word;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -1;
	asked = ip.daddr;
	ip.daddr = ip.saddr;
	ip.saddr = asked;
	word = bpf_htons(ip.ttl << 8 | ip.protocol);
	ip.ttl = ROUTER_TTL;
	ip.check = router_csum(ip.check, word, bpf_htons(ROUTER_TTL << 8 | ip.protocol));
#else
	struct in6_addr asked;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return -1;
	asked = ip.daddr;
	ip.daddr = ip.saddr;
	ip.saddr = asked;
	ip.hop_limit = ROUTER_TTL;
#endif
	return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0);
}

/* Turns an echo request into its reply, in place. 0 if it was one, and if that could be done. */
static __always_inline int router_echo(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct icmphdr icmp;
	struct ethhdr eth;

	if (bpf_skb_load_bytes(skb, pkt->hdr.l4, &icmp, sizeof(icmp)) ||
	    icmp.type != CUBELET_ICMP_ECHO || icmp.code)
		return -1;
	icmp.type = CUBELET_ICMP_ECHO_REPLY;
	icmp.checksum = router_csum(icmp.checksum, bpf_htons(CUBELET_ICMP_ECHO << 8),
				    bpf_htons(CUBELET_ICMP_ECHO_REPLY << 8));
	__builtin_memcpy(eth.h_dest, pkt->in.dst_mac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, pkt->in.src_mac, ETH_ALEN);
	eth.h_proto = pkt->hdr.ethertype;
	return router_turn(skb) || bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	       bpf_skb_store_bytes(skb, pkt->hdr.l4, &icmp, sizeof(icmp), 0);
}

static __always_inline int router_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct router_prefix key = {};
	struct router_route *route;
	__u16 refused;
	int foreign;

	pkt->flags |= CUBELET_ROUTED;
	key.length = ROUTER_FULL_LENGTH;
	key.address = pkt->cur.dst;
	route = cubelet_lookup(router_routes, &key);
	/* what came by the uplink and is not for our pods is for the node, whatever it is */
	foreign = pkt->in.port_class == CUBELET_UPLINK && router_untranslated(pkt);
	if (foreign && (!route || route->kind != ROUTER_SEGMENT))
		return cubelet_to_stack(pkt);
	/* to a port of the node's own after all; none but the node's stack can have asked it */
	if (pkt->in.port_class == CUBELET_HOST && router_untranslated(pkt) &&
	    cubelet_addr_loopback(&pkt->cur.dst))
		return cubelet_to_stack(pkt);
	refused = router_refused(&pkt->cur.dst);
	if (refused)
		return cubelet_drop(pkt, refused);
	if (!route)
		return router_unreachable(pkt, ROUTER_REASON_NO_ROUTE, ICMP_NET_UNREACH);
	switch (route->kind) {
	case ROUTER_SEGMENT:
		return router_to_segment(pkt);
	case ROUTER_HOST:
		if (router_is_ping(pkt) && !router_echo(skb, pkt))
			return cubelet_answer(pkt);
		return cubelet_to_stack(pkt);
	case ROUTER_OVERLAY:
		return router_to_overlay(pkt, route->remote);
	case ROUTER_UPLINK:
		return router_by_kernel(skb, pkt);
	case ROUTER_UNREACHABLE:
		return router_unreachable(pkt, ROUTER_REASON_UNREACHABLE, ICMP_HOST_UNREACH);
	}
	return cubelet_drop(pkt, ROUTER_REASON_MARTIAN);
}
