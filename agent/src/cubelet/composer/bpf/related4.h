/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors of others (RFC 792): what of them depends on the family. See related.h. */
#pragma once

#include "commit.h"

/* Replaces bytes inside the ICMP message, whose checksum (at `check`) covers them. */
CUBELET_INLINE int cubelet_edit(struct __sk_buff *skb, __u32 check, __u32 at, __u32 from, __u32 to,
				const __u32 size)
{
	if (bpf_l4_csum_replace(skb, check, from, to, size))
		return -1;
	if (size == 2) {
		__u16 narrow = to;

		return bpf_skb_store_bytes(skb, at, &narrow, 2, 0);
	}
	return bpf_skb_store_bytes(skb, at, &to, 4, 0);
}

/*
 * Reads the quoted packet's tuple into s->quoted; its headers' offsets in the frame too; and
 * whether it has ports or an identifier: in all else translation changes addresses alone.
 */
CUBELET_INLINE int cubelet_related_parse(struct __sk_buff *skb, struct cubelet_scratch *s,
					 __u32 *ip_at)
{
	struct cubelet_headers *q = &s->quoted;
	struct iphdr ip;
	struct {
		__be16 a, b, c, d;
	} l4;

	__builtin_memset(q, 0, sizeof(*q));
	*ip_at = (s->pkt.hdr.l4 & CUBELET_L4_MASK) + sizeof(struct icmphdr);
	if (bpf_skb_load_bytes(skb, *ip_at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	q->l4 = *ip_at + ip.ihl * 4;
	q->tuple.src.w[0] = ip.saddr;
	q->tuple.dst.w[0] = ip.daddr;
	q->tuple.protocol = ip.protocol;
	if (ip.frag_off & bpf_htons(CUBELET_IP_OFFSET) ||
	    q->l4 + sizeof(l4) > ETH_HLEN + s->pkt.hdr.size ||
	    bpf_skb_load_bytes(skb, q->l4, &l4, sizeof(l4)))
		return -1;
	if (ip.protocol == IPPROTO_TCP || ip.protocol == IPPROTO_UDP ||
	    ip.protocol == IPPROTO_SCTP) {
		q->tuple.sport = l4.a;
		q->tuple.dport = l4.b;
		q->ports = 1;
	} else if (ip.protocol == IPPROTO_ICMP) {
		cubelet_icmp_identify(&q->tuple, l4.a & 0xff, l4.c);
		q->ports = q->tuple.sport != CUBELET_NO_IDENTIFIER ||
			   q->tuple.dport != CUBELET_NO_IDENTIFIER;
	}
	return 0;
}

/* The quoted IP header: addresses and its own checksum. */
CUBELET_INLINE int cubelet_related_ip(struct __sk_buff *skb, struct cubelet_scratch *s,
				      const struct cubelet_flow *f, __u32 check, __u32 ip_at)
{
	const struct cubelet_headers *q = &s->quoted;
	__u32 sum_at = ip_at + __builtin_offsetof(struct iphdr, check);
	__u16 old;

	if (bpf_skb_load_bytes(skb, sum_at, &old, 2))
		return -1;
	return cubelet_edit(skb, check, sum_at, old,
			    (__u16)~cubelet_csum_fold((__u16)~old + cubelet_csum_fold(f->l4_delta)),
			    2) ||
	       cubelet_edit(skb, check, ip_at + __builtin_offsetof(struct iphdr, saddr),
			    q->tuple.src.w[0], f->to.dst.w[0], 4) ||
	       cubelet_edit(skb, check, ip_at + __builtin_offsetof(struct iphdr, daddr),
			    q->tuple.dst.w[0], f->to.src.w[0], 4);
}

/* The error's own header: to the flow's sender; from the far end itself, under its known name. */
CUBELET_INLINE int cubelet_related_outer(struct __sk_buff *skb, struct cubelet_scratch *s,
					 const struct cubelet_flow *f)
{
	const struct cubelet_headers *h = &s->pkt.hdr;
	const __u32 check = ETH_HLEN + __builtin_offsetof(struct iphdr, check);
	__be32 dst = f->to.dst.w[0], src = h->tuple.src.w[0];

	if (cubelet_addr_equal(&h->tuple.src, &s->quoted.tuple.dst))
		src = f->to.src.w[0];
	if (bpf_l3_csum_replace(skb, check, h->tuple.dst.w[0], dst, 4) ||
	    bpf_l3_csum_replace(skb, check, h->tuple.src.w[0], src, 4))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, saddr), &src, 4,
				   0) ||
	       bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, daddr), &dst, 4,
				   0);
}

/* The frame's MACs, and the TTL where the flow is routed. */
CUBELET_INLINE int cubelet_related_frame(struct __sk_buff *skb, const struct cubelet_flow *f)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return -1;
	__builtin_memcpy(eth->h_dest, f->leaves.dst_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, f->leaves.src_mac, ETH_ALEN);
	if (f->flags & CUBELET_FLOW_ROUTED) {
		if (ip->ttl <= 1)
			return -1;
		ip->check = ~cubelet_csum_fold((__u16)~ip->check + 0xfffeU);
		ip->ttl--;
	}
	return 0;
}
