/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet entered, and whether it may come from there.
 */
#pragma once

#include "fast.h"

/*
 * The far end of the tunnel that an overlay packet came through, or 0. The device takes
 * every VNI, as it has none of its own.
 */
CUBELET_INLINE __be32 cubelet_tunnel_remote(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, 8, 0) || key.tunnel_id != CUBELET_TUNNEL_ID)
		return 0;
	return bpf_htonl(key.remote_ipv4);
}

/*
 * By the uplink: the next hop (0 if there is none) and the MTU towards an address. IPv6's next hop
 * does not fit into a record: there the kernel looks the route up once more for each packet.
 */
CUBELET_INLINE void cubelet_uplink_back(struct __sk_buff *skb, struct cubelet_hop *hop,
					const struct cubelet_addr *to)
{
	struct bpf_fib_lookup fib = {};
	long found;

	hop->remote = 0;
	fib.family = CUBELET_AF;
	fib.ifindex = hop->ifindex;
#if CUBELET_FAMILY == 4
	fib.ipv4_dst = to->w[0];
#else
	__builtin_memcpy(fib.ipv6_dst, to->w, sizeof(fib.ipv6_dst));
#endif
	fib.tot_len = 1; /* fits everywhere, and asks for the route's MTU */
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return;
#if CUBELET_FAMILY == 4
	hop->remote = fib.ipv4_dst;
#endif
	/* kernels before 5.12 tell none, and leave what was asked */
	if (found == BPF_FIB_LKUP_RET_SUCCESS && fib.mtu_result >= CUBELET_MTU_MIN &&
	    fib.mtu_result < hop->mtu)
		hop->mtu = fib.mtu_result;
}

/* What may change of where replies go that leave by a hop, to who opened the flow there. */
CUBELET_INLINE void cubelet_way_back(struct __sk_buff *skb, struct cubelet_hop *hop,
				     const struct cubelet_addr *opener)
{
	hop->mtu = hop->port_class == CUBELET_OVERLAY ? CUBELET_OVERLAY_MTU : CUBELET_UPLINK_MTU;
	if (hop->port_class == CUBELET_UPLINK)
		cubelet_uplink_back(skb, hop, opener);
}

/* Where the packet in hand entered, and what a reply needs to go back there. */
CUBELET_INLINE void cubelet_track_entry(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct cubelet_hop *in = &pkt->in;
	void *data = (void *)(long)skb->data;
	struct ethhdr *eth = data;

	__builtin_memset(in, 0, sizeof(*in));
	in->port_class = pkt->entered;
	in->ifindex = pkt->ifindex;
	if (data + ETH_HLEN <= (void *)(long)skb->data_end) {
		__builtin_memcpy(in->dst_mac, eth->h_source, ETH_ALEN);
		__builtin_memcpy(in->src_mac, eth->h_dest, ETH_ALEN);
	}
	switch (pkt->entered) {
	case CUBELET_HOST:
		in->ifindex = CUBELET_GATEWAY_IFINDEX;
		__builtin_memcpy(in->dst_mac, (__u8[6])CUBELET_GATEWAY_MAC, ETH_ALEN);
		if (cubelet_addr_loopback(&pkt->hdr.tuple.dst)) { /* see local.bpf.c */
			in->ifindex = CUBELET_LOOPBACK_IFINDEX;
			__builtin_memset(in->dst_mac, 0, ETH_ALEN);
		}
		break;
	case CUBELET_OVERLAY:
		in->remote = cubelet_tunnel_remote(skb);
		break;
	}
	cubelet_way_back(skb, in, &pkt->hdr.tuple.src);
}

/* What comes through a tunnel must come from a known node, and from that node's podCIDR. */
CUBELET_INLINE int cubelet_tunnel_allowed(const struct cubelet_hop *in,
					  const struct cubelet_addr *source)
{
#if CUBELET_CHECK_TUNNEL
	struct cubelet_node_info *node = cubelet_lookup(cubelet_nodes, &in->remote);

	return node && cubelet_addr_within(source, &node->network, node->prefix);
#else
	return 1;
#endif
}

/* Does no packet that was forwarded have this source? */
CUBELET_INLINE int cubelet_never_source(const struct cubelet_addr *source)
{
#if CUBELET_FAMILY == 4
	__u8 first = bpf_ntohl(source->w[0]) >> 24;

	return !first || first == 127 || first >= 224;
#else
	__u32 first = bpf_ntohl(source->w[0]);

	/* groups; links' own (RFC 4291 2.5.6); ::/80: unspecified, loopback, IPv4's mapped ones */
	return first >> 24 == 0xff || first >> 22 == 0x3fa ||
	       !(source->w[0] | source->w[1] | (source->w[2] & bpf_htonl(0xffff0000)));
#endif
}

/*
 * Is the address nobody's beyond the uplink? This host, loopback, groups and what is reserved
 * (RFC 1122 3.2.1.3, RFC 5735; RFC 4291 2.5); the node's own, pods', Services': see the plan of the
 * core.
 */
CUBELET_INLINE int cubelet_is_martian(const struct cubelet_addr *source)
{
	struct cubelet_martian_key key = {};

	if (cubelet_never_source(source))
		return 1;
	key.prefixlen = 8 * sizeof(key.network);
	key.network = *source;
	return !!cubelet_lookup(cubelet_martians, &key);
}

/* May this come from outside the node, from this source? 0, or the reason it may not. */
CUBELET_INLINE __u16 cubelet_foreign_source(const struct cubelet_hop *in,
					    const struct cubelet_addr *source)
{
	if (in->port_class == CUBELET_UPLINK && cubelet_is_martian(source))
		return CUBELET_REASON_MARTIAN;
	if (in->port_class == CUBELET_OVERLAY && !cubelet_tunnel_allowed(in, source))
		return CUBELET_REASON_UNKNOWN_NODE;
	return 0;
}

/* Is the address the gateway's, or one of the node's? */
CUBELET_INLINE int cubelet_is_own(const struct cubelet_addr *address)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS, node = CUBELET_NODE_ADDRESS;
	struct cubelet_exposed_address *exposed;

	if (cubelet_addr_equal(address, &gateway) || cubelet_addr_equal(address, &node))
		return 1;
	exposed = cubelet_lookup(cubelet_exposed, address);
	return exposed && exposed->own;
}

/* Between loopback addresses: none but the node's own stack sends or takes such packets. */
CUBELET_INLINE int cubelet_to_itself(const struct cubelet_tuple *t)
{
	return cubelet_addr_loopback(&t->src) && cubelet_addr_loopback(&t->dst);
}

#if CUBELET_FAMILY == 4
#define CUBELET_OPTION_LSRR 131
#define CUBELET_OPTION_SSRR 137

/*
 * The next of a packet's IP options, at *at, which then goes on behind it. 0, or the reason to
 * drop the packet: whoever is behind us would be led elsewhere than the cubes have judged.
 */
CUBELET_INLINE __u16 cubelet_option(struct __sk_buff *skb, __u32 *at, __u32 end)
{
	struct {
		__u8 type, length;
	} option = {};

	if (bpf_skb_load_bytes(skb, *at, &option.type, 1))
		return CUBELET_REASON_MALFORMED;
	if (option.type == CUBELET_OPTION_LSRR || option.type == CUBELET_OPTION_SSRR)
		return CUBELET_REASON_SOURCE_ROUTE;
	if (option.type <= 1) { /* the list's end, whatever follows it; or a filler */
		*at = option.type ? *at + 1 : end;
		return 0;
	}
	if (*at + 2 > end || bpf_skb_load_bytes(skb, *at + 1, &option.length, 1) ||
	    option.length < 2 || *at + option.length > end)
		return CUBELET_REASON_MALFORMED;
	*at += option.length;
	return 0;
}

/* The IP options of the packet in hand. 0, or the reason to drop it. */
CUBELET_INLINE __u16 cubelet_options_refused(struct __sk_buff *skb, const struct cubelet_pkt *pkt)
{
	__u32 at = ETH_HLEN + sizeof(struct iphdr), end = pkt->hdr.l4;
	__u16 reason;

	for (__u32 i = 0; i < 40 && at < end; i++) { /* fillers are a byte each */
		reason = cubelet_option(skb, &at, end);
		if (reason)
			return reason;
	}
	return 0;
}
#else
/* What parsing has found in the extension headers of the packet in hand; as above. */
CUBELET_INLINE __u16 cubelet_options_refused(struct __sk_buff *skb, const struct cubelet_pkt *pkt)
{
	switch (pkt->hdr.refused) {
	case CUBELET_REFUSED_ROUTE:
		return CUBELET_REASON_SOURCE_ROUTE;
	case CUBELET_REFUSED_EXTENSIONS:
		return CUBELET_REASON_EXTENSIONS;
	case CUBELET_REFUSED_UNCHECKED:
		return CUBELET_REASON_UNCHECKED;
	}
	return 0;
}
#endif

/* The pod's port that the packet in hand entered by, if the packet has the pod's address. */
CUBELET_INLINE struct cubelet_port_info *cubelet_pod_source(const struct cubelet_pkt *pkt)
{
	struct cubelet_port_info *port = cubelet_lookup(cubelet_ports, &pkt->ifindex);

	return port && cubelet_addr_equal(&port->address, &pkt->hdr.tuple.src) ? port : NULL;
}

/* After cubelet_track_entry(): may this port send from this source? 0, or the reason it may not. */
CUBELET_INLINE __u16 cubelet_track_source(struct cubelet_pkt *pkt)
{
	if (pkt->entered == CUBELET_POD) {
		struct cubelet_port_info *port = cubelet_pod_source(pkt);

		if (!port)
			return CUBELET_REASON_SPOOFED;
		pkt->own_mac = cubelet_same_mac(port->mac, pkt->in.dst_mac);
		return 0;
	}
	if (pkt->entered == CUBELET_HOST && !cubelet_is_own(&pkt->hdr.tuple.src) &&
	    !cubelet_to_itself(&pkt->hdr.tuple))
		return CUBELET_REASON_SPOOFED; /* only forwarded by the host, so not the node's */
	return cubelet_foreign_source(&pkt->in, &pkt->hdr.tuple.src);
}
