/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Errors of our own over IPv4: ICMP (RFC 792, RFC 1812 4.3.2). See error.h. */
#pragma once

#include "quote.h"

/* Are these a sender that can be answered, and no group's address? */
CUBELET_INLINE int cubelet_error_ends(const struct cubelet_addr *src,
				      const struct cubelet_addr *dst)
{
	__u8 first = dst->w[0] & 0xff, source = src->w[0] & 0xff;

	return first < 224 && source < 224 && (source != 127 || first == 127) && source;
}

/* IP header without options from `from` to the packet's sender. */
CUBELET_INLINE void cubelet_error_ip(struct iphdr *ip, const struct cubelet_pkt *pkt,
				     const struct cubelet_addr *from, __u8 protocol, __u16 total)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(total);
	ip->frag_off = bpf_htons(CUBELET_IP_DF);
	ip->ttl = 64;
	ip->protocol = protocol;
	ip->saddr = from->w[0];
	ip->daddr = pkt->hdr.tuple.src.w[0];
	ip->check = ~cubelet_csum_fold(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

CUBELET_INLINE int cubelet_error_reset(struct __sk_buff *skb, const struct cubelet_pkt *pkt)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} out;
	__u32 sum;

	if (cubelet_error_segment(skb, pkt, &out.tcp))
		return -1;
	cubelet_error_ip(&out.ip, pkt, &pkt->hdr.tuple.dst, IPPROTO_TCP, sizeof(out));
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.ip.saddr, 8,
			    bpf_htons(sizeof(out.tcp)) + bpf_htons(IPPROTO_TCP));
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.tcp, sizeof(out.tcp), sum);
	out.tcp.check = ~cubelet_csum_fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(out), 0))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &out, sizeof(out), 0);
}

CUBELET_INLINE int cubelet_error_icmp(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	struct cubelet_pkt *pkt = &s->pkt;
	struct cubelet_addr from = cubelet_error_source(pkt);
	__u64 length;
	__u32 sum;
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
	} out;

	if (cubelet_error_quote(skb, s, &length))
		return -1;
	cubelet_error_ip(&out.ip, pkt, &from, IPPROTO_ICMP, sizeof(out) + length);
	__builtin_memset(&out.icmp, 0, sizeof(out.icmp));
	out.icmp.type = pkt->error_type;
	out.icmp.code = pkt->error_code;
	out.icmp.un.frag.mtu = bpf_htons(pkt->error_mtu);
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.icmp, sizeof(out.icmp), 0);
	sum = bpf_csum_diff(0, 0, (__be32 *)s->quote, CUBELET_QUOTE, sum);
	out.icmp.checksum = ~cubelet_csum_fold(sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(out) + length, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &out, sizeof(out), 0))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(out), s->quote, length, 0);
}
