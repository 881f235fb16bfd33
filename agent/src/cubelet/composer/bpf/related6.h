/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMPv6 errors of others (RFC 4443): what of them depends on the family. See related.h. */
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
 * whether it has ports or an identifier: in all else translation changes addresses alone. Of
 * extension headers it may have a fragment's: a fragment can be too big for a narrower link.
 */
CUBELET_INLINE int cubelet_related_parse(struct __sk_buff *skb, struct cubelet_scratch *s,
					 __u32 *ip_at)
{
	struct cubelet_headers *q = &s->quoted;
	struct cubelet_extension part;
	struct ipv6hdr ip;
	struct {
		__be16 a, b, c, d;
	} l4;

	__builtin_memset(q, 0, sizeof(*q));
	*ip_at = (s->pkt.hdr.l4 & CUBELET_L4_MASK) + sizeof(struct icmp6hdr);
	if (bpf_skb_load_bytes(skb, *ip_at, &ip, sizeof(ip)) || *(__u8 *)&ip >> 4 != 6)
		return -1;
	q->l4 = *ip_at + sizeof(ip);
	__builtin_memcpy(&q->tuple.src, &ip.saddr, sizeof(q->tuple.src));
	__builtin_memcpy(&q->tuple.dst, &ip.daddr, sizeof(q->tuple.dst));
	q->tuple.protocol = ip.nexthdr;
	if (ip.nexthdr == IPPROTO_FRAGMENT) {
		if (bpf_skb_load_bytes(skb, q->l4, &part, sizeof(part)) ||
		    part.part & bpf_htons(CUBELET_IP6_OFFSET))
			return -1;
		q->l4 += sizeof(part);
		q->tuple.protocol = part.next;
	}
	if (q->l4 + sizeof(l4) > ETH_HLEN + s->pkt.hdr.size ||
	    bpf_skb_load_bytes(skb, q->l4, &l4, sizeof(l4)))
		return -1;
	if (q->tuple.protocol == IPPROTO_TCP || q->tuple.protocol == IPPROTO_UDP ||
	    q->tuple.protocol == IPPROTO_SCTP) {
		q->tuple.sport = l4.a;
		q->tuple.dport = l4.b;
		q->ports = 1;
	} else if (q->tuple.protocol == IPPROTO_ICMPV6) {
		cubelet_icmp_identify(&q->tuple, l4.a & 0xff, l4.c);
		q->ports = q->tuple.sport != CUBELET_NO_IDENTIFIER ||
			   q->tuple.dport != CUBELET_NO_IDENTIFIER;
	}
	return 0;
}

/* Writes another address inside the ICMPv6 message, whose checksum (at `check`) covers it. */
CUBELET_INLINE int cubelet_related_address(struct __sk_buff *skb, __u32 check, __u32 at,
					   const struct cubelet_addr *from,
					   const struct cubelet_addr *to)
{
	return bpf_l4_csum_replace(skb, check, 0, cubelet_csum_delta(from, to), 0) ||
	       bpf_skb_store_bytes(skb, at, to, sizeof(*to), 0);
}

/* The quoted IP header's addresses. */
CUBELET_INLINE int cubelet_related_ip(struct __sk_buff *skb, struct cubelet_scratch *s,
				      const struct cubelet_flow *f, __u32 check, __u32 ip_at)
{
	const struct cubelet_headers *q = &s->quoted;

	return cubelet_related_address(skb, check,
				       ip_at + __builtin_offsetof(struct ipv6hdr, saddr),
				       &q->tuple.src, &f->to.dst) ||
	       cubelet_related_address(skb, check,
				       ip_at + __builtin_offsetof(struct ipv6hdr, daddr),
				       &q->tuple.dst, &f->to.src);
}

/*
 * The error's own header: to the flow's sender; from the far end itself, under its known name.
 * Its addresses are in the message's checksum as well.
 */
CUBELET_INLINE int cubelet_related_outer(struct __sk_buff *skb, struct cubelet_scratch *s,
					 const struct cubelet_flow *f)
{
	const __u32 at = ETH_HLEN + __builtin_offsetof(struct ipv6hdr, saddr);
	const struct cubelet_headers *h = &s->pkt.hdr;
	const __u32 check =
		(h->l4 & CUBELET_L4_MASK) + __builtin_offsetof(struct icmp6hdr, icmp6_cksum);
	struct {
		struct cubelet_addr src, dst;
	} both = { h->tuple.src, f->to.dst };
	__u64 sum;

	if (cubelet_addr_equal(&h->tuple.src, &s->quoted.tuple.dst))
		both.src = f->to.src;
	sum = (__u64)cubelet_csum_delta(&h->tuple.src, &both.src) +
	      cubelet_csum_delta(&h->tuple.dst, &both.dst);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return bpf_l4_csum_replace(skb, check, 0, sum, CUBELET_PSEUDO) ||
	       bpf_skb_store_bytes(skb, at, &both, sizeof(both), 0);
}

/* The frame's MACs, and the hop limit where the flow is routed. */
CUBELET_INLINE int cubelet_related_frame(struct __sk_buff *skb, const struct cubelet_flow *f)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct ipv6hdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) > end)
		return -1;
	__builtin_memcpy(eth->h_dest, f->leaves.dst_mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, f->leaves.src_mac, ETH_ALEN);
	if (f->flags & CUBELET_FLOW_ROUTED) {
		if (ip->hop_limit <= 1)
			return -1;
		ip->hop_limit--;
	}
	return 0;
}
