/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet from the uplink before anything is known of it: what a cube's
 * KIND_early sees. The same function runs in XDP, where there is no sk_buff yet,
 * and at the head of the uplink's program where the driver has no XDP.
 */
#pragma once

#if CUBELET_FAMILY == 6
#include "cubelet/extensions.h"
#endif
#include "cubelet/packet.h"

/* Ports are zero where there are none: later fragments, ICMP and others, truncated headers. */
struct cubelet_early {
	struct cubelet_addr src, dst;
	__be16 sport, dport;
	__u32 length; /* of the frame, bytes */
	__u8 protocol;
	__u8 fragment; /* enum cubelet_fragment */
	__u8 tcp_flags;
};

CUBELET_INLINE void cubelet_early_ports(void *l4, void *end, struct cubelet_early *e)
{
	struct udphdr *ports = l4; /* TCP's and SCTP's stand at the same place */
	struct tcphdr *tcp = l4;

	if (e->fragment == CUBELET_LATER ||
	    (e->protocol != IPPROTO_TCP && e->protocol != IPPROTO_UDP &&
	     e->protocol != IPPROTO_SCTP) ||
	    (void *)(ports + 1) > end)
		return;
	e->sport = ports->source;
	e->dport = ports->dest;
	if (e->protocol == IPPROTO_TCP && (void *)(tcp + 1) <= end)
		e->tcp_flags = ((__u8 *)tcp)[13];
}

/* Reads the IP header. Where the transport header stands in the frame; 0 if it is malformed. */
#if CUBELET_FAMILY == 4
CUBELET_INLINE __u32 cubelet_early_ip(void *data, void *end, struct cubelet_early *e)
{
	struct iphdr *ip = data + ETH_HLEN;
	__u16 fragment = bpf_ntohs(ip->frag_off);

	if (ip->version != 4 || ip->ihl < 5)
		return 0;
	e->src.w[0] = ip->saddr;
	e->dst.w[0] = ip->daddr;
	e->protocol = ip->protocol;
	if (fragment & 0x1fff)
		e->fragment = CUBELET_LATER;
	else if (fragment & 0x2000)
		e->fragment = CUBELET_FIRST;
	return ETH_HLEN + ip->ihl * 4;
}
#else
/* Of a chain that is not walked, or that is broken, the protocol is that of the header there. */
CUBELET_INLINE __u32 cubelet_early_ip(void *data, void *end, struct cubelet_early *e)
{
	struct cubelet_walk w = { .at = ETH_HLEN + CUBELET_IP_BYTES };
	struct ipv6hdr *ip = data + ETH_HLEN;

	if (*(__u8 *)ip >> 4 != 6)
		return 0;
	__builtin_memcpy(&e->src, &ip->saddr, sizeof(e->src));
	__builtin_memcpy(&e->dst, &ip->daddr, sizeof(e->dst));
	w.next = ip->nexthdr;
	cubelet_walk(data, end, &w);
	e->protocol = w.next;
	if (w.part & CUBELET_IP6_OFFSET)
		e->fragment = CUBELET_LATER;
	else if (w.part)
		e->fragment = CUBELET_FIRST;
	return w.at & CUBELET_L4_MASK;
}
#endif

/* 1 if the frame holds an IP packet of our family, which `e` then tells of. */
CUBELET_INLINE int cubelet_early_parse(void *data, void *end, __u32 length, struct cubelet_early *e)
{
	struct ethhdr *eth = data;
	__u32 l4;

	if (data + ETH_HLEN + CUBELET_IP_BYTES > end ||
	    eth->h_proto != bpf_htons(CUBELET_ETHERTYPE))
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	l4 = cubelet_early_ip(data, end, e);
	if (!l4)
		return 0;
	e->length = length;
	cubelet_early_ports(data + l4, end, e);
	return 1;
}
