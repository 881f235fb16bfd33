/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet from the uplink before anything is known of it: what a cube's
 * KIND_early sees. The same function runs in XDP, where there is no sk_buff yet,
 * and at the head of the uplink's program where the driver has no XDP.
 */
#pragma once

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

/* 1 if the frame holds an IP packet of our family, which `e` then tells of. */
CUBELET_INLINE int cubelet_early_parse(void *data, void *end, __u32 length, struct cubelet_early *e)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;
	__u16 fragment;

	if ((void *)(ip + 1) > end)
		return 0;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->version != 4 || ip->ihl < 5)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->src.w[0] = ip->saddr;
	e->dst.w[0] = ip->daddr;
	e->protocol = ip->protocol;
	e->length = length;
	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & 0x1fff)
		e->fragment = CUBELET_LATER;
	else if (fragment & 0x2000)
		e->fragment = CUBELET_FIRST;
	cubelet_early_ports((void *)ip + ip->ihl * 4, end, e);
	return 1;
}
